//! Does it ask for our certificate, and would ours do?

use super::report::{Evidence, Stopped, Walk};
use super::step::Question;
use crate::handshake::{Watched, WorkloadTls};
use crate::identity::leaf::{show, shown_name};

/// Most authorities that are named.
const MAX_LISTED: usize = 4;

/// A server that asks for none authenticates nobody: mtlsd would carry the connection, and it is not mutual.
pub(super) fn asks(walk: &mut Walk, watched: &Watched, own: &WorkloadTls) -> Result<(), Stopped> {
    let step = Question::ClientCertificate;
    let Some(request) = watched.request() else {
        let detail = "it asks for no certificate, so it does not know who connects: mtlsd would carry the connection, \
                      and only the server would be authenticated";
        let mend =
            "Let the server require a client certificate, or enrol it with mtlsd on its node in mode strict.";
        return Err(walk.failed(step, detail, Evidence::default(), None, mend));
    };
    if !request.can_sign {
        let detail = "it asks for one, but takes no signature that our key can make: TLS would send none";
        let mend = "Give our workload a key of a kind that the server takes, or let it take ours.";
        return Err(walk.failed(step, detail, Evidence::default(), None, mend));
    }
    let mut evidence = Evidence::default();
    let named = request.authorities.iter().take(MAX_LISTED).map(|der| authority(der));
    let named = named.collect::<Vec<_>>().join(", ");
    let more = match request.authorities.len().saturating_sub(MAX_LISTED) {
        0 => String::new(),
        more => format!(" and {more} more"),
    };
    let detail = if request.authorities.is_empty() {
        "it asks for one and names no authorities, so any issuer may do"
    } else if own.is_issued_by_one_of(&request.authorities) {
        evidence.lines.push(format!("it names {named}{more}; one of them has issued ours"));
        "it asks for one, and an issuer of ours is among those that it names"
    } else {
        evidence.lines.push(format!("it names {named}{more}; none of them has issued ours"));
        "it asks for one, and NO issuer of ours is among those that it names; it may refuse ours"
    };
    walk.passed(step, detail, evidence);
    Ok(())
}

/// A distinguished name in DER as a person would call it.
fn authority(der: &[u8]) -> String {
    use x509_parser::prelude::FromDer as _;
    match x509_parser::x509::X509Name::from_der(der) {
        Ok((_, name)) => format!("{:?}", shown_name(&name)),
        Err(error) => format!("(a name that cannot be read: {})", show(&error.to_string())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::testing::TestCa;

    #[test]
    fn authorities_are_called_by_their_common_name_and_garbage_is_no_panic() {
        let ca = TestCa::root("root");
        let (_, parsed) = x509_parser::parse_x509_certificate(&ca.der).unwrap();
        assert_eq!(authority(parsed.subject().as_raw()), "\"root\"");
        for garbage in [&b""[..], b"\x30", b"\xff\xff\xff"] {
            assert!(authority(garbage).contains("cannot be read"));
        }
    }
}
