//! Does it speak TLS? And if not, what is it that answered?

use std::time::Duration;

use rustls::Error as TlsError;

use super::report::{Evidence, Stopped, Walk};
use super::step::Question;
use super::talk::{Broken, Talk};
use crate::handshake::Watched;
use crate::identity::leaf::show;
use crate::observe::alert::Alert;
use crate::observe::{Reason, Refusal};

/// Content types of TLS records that a server can begin with (RFC 8446, section 5.1).
const ALERT: u8 = 21;
const HANDSHAKE: u8 = 22;

/// It does if it came as far as its certificate; the rest of the handshake is for the questions that follow.
pub(super) fn speaks(
    walk: &mut Walk,
    talk: &Talk,
    shaken: &Result<(), Broken>,
    watched: &Watched,
    took: Duration,
) -> Result<(), Stopped> {
    let mut evidence = Evidence::after(took);
    let agreed = talk.records().agreed();
    if let Some(agreed) = &agreed {
        evidence.lines.push(format!("{}, {}, {}", agreed.version, agreed.suite, agreed.group));
    }
    let broken = match shaken {
        Err(broken) if watched.shown().is_none() => broken,
        _ => {
            let what = if talk.records().speaks_mtlsd() {
                "it speaks TLS and ALPN mtlsd/1: another mtlsd"
            } else {
                "it speaks TLS without ALPN mtlsd/1: not an mtlsd"
            };
            walk.passed(Question::Tls, what, evidence);
            return Ok(());
        }
    };
    if let Some(alert) = alert_of(broken) {
        return Err(by_alert(walk, Question::Tls, alert, broken, watched, evidence));
    }
    let first = talk.first();
    let refusal = match (first.first(), broken) {
        (None, Broken::Silent(limit)) => {
            let detail = format!("TCP is open, and not a byte came within {limit:?}");
            Refusal::new(Reason::HandshakeTimeout, detail)
        }
        (None, Broken::Closed) => {
            Refusal::new(Reason::HandshakeClosed, "it took our ClientHello and closed without a byte")
        }
        (None, _) | (Some(&(ALERT | HANDSHAKE)), _) => broken.refusal(&watched.verdict),
        (Some(_), _) => {
            evidence.lines.push(format!("it began with {:?}", first_line(first)));
            let detail = format!("it answered our ClientHello with {}", looks_like(first));
            Refusal::new(Reason::MalformedTls, detail)
        }
    };
    let mend = match refusal.reason {
        Reason::MalformedTls if !first.starts_with(&[HANDSHAKE]) && !first.starts_with(&[ALERT]) => {
            "Let the server speak TLS 1.3 on this port, enrol it with mtlsd on its node, or name the port that does; \
             ports.PORT: disabled or `exclude` leaves it plain."
        }
        reason => reason.mend(),
    };
    let detail = format!("{} Seen: {}.", refusal.reason.sentence(), refusal.detail);
    Err(walk.failed(Question::Tls, detail, evidence, Some(refusal.reason), mend))
}

/// The alert that a conversation ended with.
pub(super) fn alert_of(broken: &Broken) -> Option<Alert> {
    match broken {
        Broken::Tls(TlsError::AlertReceived(alert)) => Alert::from_number((*alert).into()),
        _ => None,
    }
}

/// It refuses in the one word that TLS has for it.
pub(super) fn by_alert(
    walk: &mut Walk,
    step: Question,
    alert: Alert,
    broken: &Broken,
    watched: &Watched,
    evidence: Evidence,
) -> Stopped {
    walk.alert = Some(alert.code().to_owned());
    let detail = format!("it says by its alert {}: {}", alert.code(), alert.sentence());
    let reason = broken.refusal(&watched.verdict).reason;
    walk.failed(step, detail, evidence, Some(reason), alert.mend())
}

/// What a person would recognise.
fn looks_like(first: &[u8]) -> &'static str {
    const SPEAKS: [(&[u8], &str); 6] = [
        (b"HTTP/", "an HTTP response: it speaks plain HTTP"),
        (b"SSH-", "an SSH banner"),
        (b"220", "a greeting as of SMTP or FTP in plain text"),
        (b"* OK", "an IMAP greeting in plain text"),
        (b"+OK", "a POP3 greeting in plain text"),
        (b"-ERR", "an error of Redis (or POP3) in plain text"),
    ];
    let known = SPEAKS.iter().find(|(begin, _)| first.starts_with(begin));
    known.map_or("bytes that are not TLS", |(_, what)| *what)
}

/// The first line, safe to show: it is what the server tells everybody who connects.
fn first_line(first: &[u8]) -> String {
    let line = first.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = String::from_utf8_lossy(line.get(..line.len().min(64)).unwrap_or(line));
    show(line.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_tls_is_called_by_its_name_and_cannot_write_to_the_terminal() {
        for (first, what) in [
            (&b"HTTP/1.1 400 Bad Request\r\nServer: nginx\r\n"[..], "plain HTTP"),
            (b"SSH-2.0-OpenSSH_9\r\n", "SSH"),
            (b"220 plain mail\r\n", "SMTP"),
            (b"-ERR unknown command\r\n", "Redis"),
            (&[0xff, 0], "not TLS"),
        ] {
            assert!(looks_like(first).contains(what), "{what}");
        }
        assert_eq!(first_line(b"HTTP/1.1 400 Bad Request\r\nServer: x"), "HTTP/1.1 400 Bad Request");
        assert_eq!(first_line(b"\x1b[31mred"), "\\u{1b}[31mred");
        assert!(first_line(&[b'x'; 128]).len() <= 64);
        assert_eq!(first_line(b""), "");
    }
}
