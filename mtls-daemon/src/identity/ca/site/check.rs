//! Is what a PKI elsewhere has signed good to issue with? Each rule has a message of its own; whether the signatures fit
//! is tried afterwards with a leaf.

use std::time::SystemTime;

use rustls::pki_types::CertificateDer;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;

use crate::identity::ca::ImportError;
use crate::identity::leaf::{Leaf, show, shown_name};
use crate::identity::svid::MAX_OWN_CHAIN;
use crate::identity::{TrustDomain, when};

/// A chain that keeps every rule.
#[derive(Debug)]
pub(super) struct Chain<'a> {
    /// The intermediate, then those above it, without the root.
    pub(super) certificates: &'a [CertificateDer<'static>],
    pub(super) root: &'a CertificateDer<'static>,
    name: String,
}

struct One<'a> {
    number: usize,
    parsed: X509Certificate<'a>,
    claims: Leaf,
    name: String,
}

/// Checks the certificates one by one, from the intermediate up to the root.
pub(super) fn chain<'a>(
    certificates: &'a [CertificateDer<'static>],
    root: &'a CertificateDer<'static>,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<Chain<'a>, ImportError> {
    let Some(first) = certificates.first() else {
        return Err(ImportError::Refused("the intermediate is the root itself".to_owned()));
    };
    if certificates.len() >= MAX_OWN_CHAIN {
        let reason = format!("with a leaf it has more than {MAX_OWN_CHAIN} certificates");
        return Err(ImportError::Refused(reason));
    }
    let all: Result<Vec<_>, _> =
        certificates.iter().chain([root]).zip(1..).map(|(der, number)| one(der, number)).collect();
    let all = all?;
    for pair in all.windows(2) {
        if let [below, above] = pair
            && below.parsed.issuer().as_raw() != above.parsed.subject().as_raw()
        {
            return Err(ImportError::Order {
                number: below.number,
                name: below.name.clone(),
                issuer: shown_name(below.parsed.issuer()),
                next: above.name.clone(),
            });
        }
    }
    for certificate in &all {
        certificate.may_sign()?;
        certificate.is_valid(now)?;
        certificate.limits_nothing()?;
    }
    // A root speaks for whom it likes: the bundle says for which trust domain it is believed.
    for certificate in all.iter().take(certificates.len()) {
        certificate.is_for(domain)?;
    }
    if let Some(intermediate) = all.first() {
        super::name::written_again(intermediate.parsed.subject()).map_err(|reason| ImportError::Subject {
            name: show(&intermediate.parsed.subject().to_string()),
            reason,
        })?;
    }
    let claims = Leaf::read(first).map_err(|error| ImportError::Refused(error.0))?;
    let subject = all.first().map(|one| one.name.clone()).unwrap_or_default();
    let name = claims.common_name.ok_or(ImportError::NoName(subject))?;
    Ok(Chain { certificates, root, name })
}

impl Chain<'_> {
    /// The log and the CRLs go by the name of the issuer.
    pub(super) fn has_another_name_than(&self, old: &CertificateDer<'_>) -> Result<(), ImportError> {
        let old = one(old, 1)?;
        match old.claims.common_name {
            Some(name) if name == self.name => Err(ImportError::SameName(name)),
            _ => Ok(()),
        }
    }

    /// Leaves under both have one issuer, and one CRL speaks for both.
    pub(super) fn keeps_the_name_of(&self, old: &CertificateDer<'_>) -> Result<(), ImportError> {
        let (old, new) = match self.certificates.first() {
            Some(new) => (one(old, 1)?, one(new, 1)?),
            None => return Ok(()),
        };
        if old.parsed.subject().as_raw() == new.parsed.subject().as_raw() {
            return Ok(());
        }
        let shown = |one: &One<'_>| show(&one.parsed.subject().to_string());
        Err(ImportError::Renamed { found: shown(&new), wanted: shown(&old) })
    }
}

fn one<'a>(der: &'a CertificateDer<'_>, number: usize) -> Result<One<'a>, ImportError> {
    let refused = |reason: &str| ImportError::Refused(format!("certificate {number}: {}", show(reason)));
    let claims = Leaf::read(der).map_err(|error| refused(&error.0))?;
    let (_, parsed) =
        x509_parser::parse_x509_certificate(der).map_err(|error| refused(&error.to_string()))?;
    let name = shown_name(parsed.subject());
    Ok(One { number, parsed, claims, name })
}

impl One<'_> {
    fn may_sign(&self) -> Result<(), ImportError> {
        let (number, name) = (self.number, self.name.clone());
        if !self.claims.is_ca {
            return Err(ImportError::NotCa { number, name });
        }
        let lacks = match self.claims.key_usage {
            Some(usage) if !usage.key_cert_sign => Some("keyCertSign"),
            Some(usage) if !usage.crl_sign => Some("cRLSign"),
            Some(_) => None,
            // An old root may be without; RFC 5280 section 4.2.1.3 wants it in everything else.
            None => (number == 1).then_some("keyCertSign, since there is none at all"),
        };
        if let Some(lacks) = lacks {
            return Err(ImportError::KeyUsage { number, name, lacks });
        }
        let lacks = self.claims.extended_usage.and_then(|usage| match (usage.server, usage.client) {
            (false, _) => Some("serverAuth"),
            (_, false) => Some("clientAuth"),
            _ => None,
        });
        if let Some(lacks) = lacks {
            return Err(ImportError::ExtendedUsage { number, name, lacks });
        }
        let basic = self.parsed.basic_constraints().ok().flatten();
        let below = number.saturating_sub(1);
        match basic.and_then(|basic| basic.value.path_len_constraint) {
            Some(allowed) if usize::try_from(allowed).is_ok_and(|allowed| allowed < below) => {
                Err(ImportError::PathLength { number, name, allowed, below })
            }
            _ => Ok(()),
        }
    }

    fn is_valid(&self, now: SystemTime) -> Result<(), ImportError> {
        let (from, until) = (self.claims.not_before, self.claims.not_after);
        let when = match () {
            () if now > until => when::expired(until, now),
            () if now < from => format!("is {}", when::not_yet(from, now)),
            () => return Ok(()),
        };
        Err(ImportError::Validity { number: self.number, name: self.name.clone(), when })
    }

    /// webpki refuses every chain with a constraint of a kind that it does not know.
    fn limits_nothing(&self) -> Result<(), ImportError> {
        let Some(constraints) = self.parsed.name_constraints().ok().flatten() else { return Ok(()) };
        let value = constraints.value;
        let subtrees = value.permitted_subtrees.iter().chain(&value.excluded_subtrees).flatten();
        let kinds = subtrees.filter_map(|subtree| match subtree.base {
            GeneralName::URI(_) => Some("URIs"),
            GeneralName::RFC822Name(_) => Some("mail addresses"),
            GeneralName::OtherName(..) | GeneralName::X400Address(_) | GeneralName::EDIPartyName(_) => {
                Some("other names")
            }
            _ => None,
        });
        match kinds.min() {
            Some(kind) => {
                Err(ImportError::NameConstraint { number: self.number, name: self.name.clone(), kind })
            }
            None => Ok(()),
        }
    }

    /// X509-SVID section 3.2: a signing certificate may name its trust domain.
    fn is_for(&self, domain: &TrustDomain) -> Result<(), ImportError> {
        let wanted = format!("spiffe://{domain}");
        let other = |uri: &Option<String>| uri.as_deref() != Some(wanted.as_str());
        if !self.claims.uris.iter().any(other) {
            return Ok(());
        }
        let shown: Vec<_> = self.claims.uris.iter().map(|uri| show(uri.as_deref().unwrap_or("?"))).collect();
        Err(ImportError::TrustDomain {
            number: self.number,
            name: self.name.clone(),
            found: shown.join(", "),
            wanted: domain.clone(),
        })
    }
}
