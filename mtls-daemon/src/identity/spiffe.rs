//! SPIFFE IDs and trust domains, parsed once and then carried as types.
//!
//! The grammar is that of the SPIFFE-ID standard, sections 2.1 to 2.3.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest SPIFFE ID in bytes (SPIFFE-ID, section 2.3).
pub const MAX_SPIFFE_ID_LEN: usize = 2048;
/// Longest trust domain name in bytes (SPIFFE-ID, section 2.1).
pub const MAX_TRUST_DOMAIN_LEN: usize = 255;

/// Why a text is not a SPIFFE ID or a trust domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// The text is empty.
    #[error("it is empty; write spiffe://<trust domain>/<path>")]
    Empty,
    /// Longer than [`MAX_SPIFFE_ID_LEN`].
    #[error("it is {0} bytes long; a SPIFFE ID has at most {MAX_SPIFFE_ID_LEN}")]
    TooLong(usize),
    /// Another scheme, or none.
    #[error("it does not start with spiffe://")]
    Scheme,
    /// No trust domain between `spiffe://` and the path.
    #[error("it has no trust domain; write spiffe://<trust domain>/<path>")]
    NoTrustDomain,
    /// A trust domain name that is too long.
    #[error("its trust domain is {0} bytes long; a trust domain has at most {MAX_TRUST_DOMAIN_LEN}")]
    TrustDomainTooLong(usize),
    /// A character that a trust domain may not have.
    #[error("its trust domain has the character {0:?}; only a-z, 0-9, '.', '-' and '_' are allowed")]
    TrustDomainCharacter(char),
    /// A character that a path may not have (this includes `?`, `#` and `%`).
    #[error("its path has the character {0:?}; only a-z, A-Z, 0-9, '.', '-', '_' and '/' are allowed")]
    PathCharacter(char),
    /// `//`, or a `/` at the end.
    #[error("its path has an empty segment; remove the doubled or trailing '/'")]
    EmptySegment,
    /// `.` or `..` as a segment.
    #[error("its path has a '.' or '..' segment; write the path without it")]
    DotSegment,
}

/// The name of a trust domain, such as `example.org`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TrustDomain(String);

impl TrustDomain {
    /// The bare name, without `spiffe://`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TrustDomain {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::NoTrustDomain);
        }
        if text.len() > MAX_TRUST_DOMAIN_LEN {
            return Err(SpiffeIdError::TrustDomainTooLong(text.len()));
        }
        match text.chars().find(|c| !matches!(c, 'a'..='z' | '0'..='9' | '.' | '-' | '_')) {
            Some(bad) => Err(SpiffeIdError::TrustDomainCharacter(bad)),
            None => Ok(Self(text.to_owned())),
        }
    }
}

impl TryFrom<String> for TrustDomain {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TrustDomain> for String {
    fn from(domain: TrustDomain) -> Self {
        domain.0
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TrustDomain({})", self.0)
    }
}

/// A SPIFFE ID, such as `spiffe://example.org/shop/cart`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SpiffeId {
    text: String,
    domain: TrustDomain,
}

impl SpiffeId {
    const SCHEME: &'static str = "spiffe://";

    /// The ID as written, `spiffe://…`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The trust domain that vouches for this ID.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The path with its leading `/`; empty for the ID of the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        self.text.get(Self::SCHEME.len() + self.domain.0.len()..).unwrap_or_default()
    }

    /// Namespace and service account, of an ID whose path is `/ns/<namespace>/sa/<service account>`, as Istio and SPIRE
    /// give them in Kubernetes.
    #[must_use]
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let (namespace, account) = self.path().strip_prefix("/ns/")?.split_once("/sa/")?;
        let one = |segment: &str| !segment.is_empty() && !segment.contains('/');
        (one(namespace) && one(account)).then_some((namespace, account))
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.is_empty() {
            return Err(SpiffeIdError::Empty);
        }
        if text.len() > MAX_SPIFFE_ID_LEN {
            return Err(SpiffeIdError::TooLong(text.len()));
        }
        let rest = text.strip_prefix(Self::SCHEME).ok_or(SpiffeIdError::Scheme)?;
        let (domain, path) = match rest.split_once('/') {
            Some((domain, path)) => (domain, Some(path)),
            None => (rest, None),
        };
        let domain: TrustDomain = domain.parse()?;
        if let Some(path) = path {
            check_path(path)?;
        }
        Ok(Self { text: text.to_owned(), domain })
    }
}

fn check_path(path: &str) -> Result<(), SpiffeIdError> {
    for segment in path.split('/') {
        match segment {
            "" => return Err(SpiffeIdError::EmptySegment),
            "." | ".." => return Err(SpiffeIdError::DotSegment),
            _ => {}
        }
        let bad = |c: &char| !matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '.' | '-' | '_');
        if let Some(bad) = segment.chars().find(bad) {
            return Err(SpiffeIdError::PathCharacter(bad));
        }
    }
    Ok(())
}

impl TryFrom<String> for SpiffeId {
    type Error = SpiffeIdError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<SpiffeId> for String {
    fn from(id: SpiffeId) -> Self {
        id.text
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpiffeId({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_ids_are_taken_apart() {
        let id: SpiffeId = "spiffe://prod.example/ns/shop/sa/Cart_1".parse().unwrap();
        assert_eq!(id.trust_domain().as_str(), "prod.example");
        assert_eq!(id.path(), "/ns/shop/sa/Cart_1");
        let root: SpiffeId = "spiffe://prod.example".parse().unwrap();
        assert_eq!(root.path(), "");
    }

    #[test]
    fn only_an_id_of_kubernetes_form_has_a_service_account() {
        let account = |id: &str| {
            let id: SpiffeId = id.parse().unwrap();
            id.service_account().map(|(namespace, name)| (namespace.to_owned(), name.to_owned()))
        };
        let shop = || ("shop".to_owned(), "cart".to_owned());
        assert_eq!(account("spiffe://a/ns/shop/sa/cart"), Some(shop()));
        assert_eq!(account("spiffe://a/ns/sa/sa/sa"), Some(("sa".to_owned(), "sa".to_owned())));
        for id in [
            "spiffe://a",
            "spiffe://a/ns/shop",
            "spiffe://a/ns/shop/sa",
            "spiffe://a/ns/shop/sa/cart/x",
            "spiffe://a/ns/shop/x/sa/cart",
            "spiffe://a/x/ns/shop/sa/cart",
        ] {
            assert_eq!(account(id), None, "{id}");
        }
    }

    #[test]
    fn each_malformed_id_is_refused_with_its_own_reason() {
        use SpiffeIdError as E;
        let long = format!("spiffe://a/{}", "x".repeat(MAX_SPIFFE_ID_LEN));
        let long_domain = format!("spiffe://{}/x", "a".repeat(MAX_TRUST_DOMAIN_LEN + 1));
        for (text, want) in [
            ("", E::Empty),
            (long.as_str(), E::TooLong(long.len())),
            (long_domain.as_str(), E::TrustDomainTooLong(MAX_TRUST_DOMAIN_LEN + 1)),
            ("https://a/b", E::Scheme),
            ("SPIFFE://a/b", E::Scheme),
            ("spiffe:///b", E::NoTrustDomain),
            ("spiffe://Example.org/b", E::TrustDomainCharacter('E')),
            ("spiffe://a:8080/b", E::TrustDomainCharacter(':')),
            ("spiffe://user@a/b", E::TrustDomainCharacter('@')),
            ("spiffe://a/", E::EmptySegment),
            ("spiffe://a/b//c", E::EmptySegment),
            ("spiffe://a/b/../c", E::DotSegment),
            ("spiffe://a/b?x=1", E::PathCharacter('?')),
            ("spiffe://a/b#x", E::PathCharacter('#')),
            ("spiffe://a/%41", E::PathCharacter('%')),
        ] {
            assert_eq!(text.parse::<SpiffeId>().unwrap_err(), want, "{text}");
        }
    }
}
