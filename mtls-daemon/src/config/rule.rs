//! Rules: who may connect to whom. The words are those of Istio's AuthorizationPolicy.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use schemars::JsonSchema;
use serde::Deserialize;

/// Who may connect to whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Unique.
    pub name: String,
    /// What it says.
    pub action: Action,
    /// It only records what it would have done.
    pub dry_run: bool,
    /// The local workload and the port.
    pub local: LocalMatch,
    /// The other end: any one match is enough; `None`: anyone, also somebody without identity. Never empty.
    pub peers: Option<Vec<PeerMatch>>,
}

/// What a rule says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// The connection may be, unless a deny rule matches.
    Allow,
    /// The connection may not be.
    Deny,
    /// The connection is recorded with the rule's name; it decides nothing.
    Audit,
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Allow => "allow",
            Self::Deny => "deny",
            Self::Audit => "audit",
        })
    }
}

/// The local end: every part that is set must match, and nothing of what is excluded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LocalMatch {
    /// Names of local workloads; `None`: any. Empty: those that were described are not on this node.
    pub workloads: Option<BTreeSet<String>>,
    /// Not these.
    pub not_workloads: BTreeSet<String>,
    /// Ports: of the workload for inbound connections, of the destination for outbound ones; `None`: any.
    pub ports: Option<BTreeSet<u16>>,
    /// Not these.
    pub not_ports: BTreeSet<u16>,
}

/// One kind of peer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerMatch {
    /// Every kind of trait that is listed must match.
    pub is: PeerTraits,
    /// None of these may match.
    pub not: PeerTraits,
}

/// Traits of a peer. Of one kind, any one match is enough.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PeerTraits {
    /// What its certificate says.
    pub texts: BTreeMap<PeerTrait, BTreeSet<TextPattern>>,
    /// Its address.
    pub networks: BTreeSet<IpNet>,
}

impl PeerTraits {
    /// Nothing is listed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty() && self.networks.is_empty()
    }
}

/// What a certificate says of its holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PeerTrait {
    /// The whole SPIFFE ID.
    SpiffeId,
    /// Its trust domain.
    TrustDomain,
    /// Its Kubernetes namespace, where the path is `/ns/<namespace>/sa/<service account>`.
    Namespace,
    /// `<namespace>/<service account>` of the same path.
    ServiceAccount,
    /// O of the subject.
    Organization,
    /// OU of the subject.
    OrganizationalUnit,
    /// The value of an extension.
    Extension(Oid),
}

impl fmt::Display for PeerTrait {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SpiffeId => f.write_str("SPIFFE ID"),
            Self::TrustDomain => f.write_str("trust domain"),
            Self::Namespace => f.write_str("namespace"),
            Self::ServiceAccount => f.write_str("service account"),
            Self::Organization => f.write_str("organization"),
            Self::OrganizationalUnit => f.write_str("organizational unit"),
            Self::Extension(oid) => write!(f, "extension {oid}"),
        }
    }
}

/// An object identifier in dotted decimal, such as `1.3.6.1.4.1.57264.1.1`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Oid(Box<str>);

/// Longest OID, in bytes of its text.
pub const MAX_OID: usize = 128;

/// Why a text is no [`Oid`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OidError {
    /// Not numbers with dots between them.
    #[error("write numbers with dots between them, such as 1.3.6.1.4.1.57264.1.1, without leading zeros")]
    Form,
    /// Longer than [`MAX_OID`].
    #[error("it is {0} bytes long; at most {MAX_OID} are read")]
    TooLong(usize),
}

impl FromStr for Oid {
    type Err = OidError;

    fn from_str(text: &str) -> Result<Self, OidError> {
        if text.len() > MAX_OID {
            return Err(OidError::TooLong(text.len()));
        }
        let number = |part: &str| {
            let digits = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            digits && (part == "0" || !part.starts_with('0'))
        };
        match text.split('.').all(number) && text.contains('.') {
            true => Ok(Self(text.into())),
            false => Err(OidError::Form),
        }
    }
}

impl Oid {
    /// The dotted text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Oid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Oid({})", self.0)
    }
}

/// A text, or some of it: `abc`, `abc*`, `*abc`, or `*` for any that there is.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum TextPattern {
    /// This text.
    Exact(Box<str>),
    /// What begins so.
    Prefix(Box<str>),
    /// What ends so.
    Suffix(Box<str>),
    /// Any, but not none.
    Present,
}

/// Longest pattern, in bytes; a SPIFFE ID is no longer.
pub const MAX_PATTERN: usize = 2_048;

/// Why a text is no [`TextPattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TextPatternError {
    /// Nothing in it.
    #[error("it is empty; write a value, or * for any")]
    Empty,
    /// Longer than [`MAX_PATTERN`].
    #[error("it is {0} bytes long; at most {MAX_PATTERN} are read")]
    TooLong(usize),
    /// `*` elsewhere than at one end.
    #[error("`*` may stand once, at its start or at its end")]
    Star,
    /// What no certificate is expected to say.
    #[error("it has a control character in it; write plain text")]
    Control,
}

impl FromStr for TextPattern {
    type Err = TextPatternError;

    fn from_str(text: &str) -> Result<Self, TextPatternError> {
        if text.is_empty() {
            return Err(TextPatternError::Empty);
        }
        if text.len() > MAX_PATTERN {
            return Err(TextPatternError::TooLong(text.len()));
        }
        if text.chars().any(char::is_control) {
            return Err(TextPatternError::Control);
        }
        if text == "*" {
            return Ok(Self::Present);
        }
        let (kind, rest): (fn(Box<str>) -> Self, _) = match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(rest), _) => (Self::Suffix, rest),
            (None, Some(rest)) => (Self::Prefix, rest),
            (None, None) => (Self::Exact, text),
        };
        match rest.contains('*') {
            true => Err(TextPatternError::Star),
            false => Ok(kind(rest.into())),
        }
    }
}

impl TextPattern {
    /// Whether this text is meant.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        match self {
            Self::Exact(want) => **want == *text,
            Self::Prefix(want) => text.starts_with(&**want),
            Self::Suffix(want) => text.ends_with(&**want),
            Self::Present => true,
        }
    }
}

impl fmt::Display for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(text) => f.write_str(text),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
            Self::Present => f.write_str("*"),
        }
    }
}

impl fmt::Debug for TextPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TextPattern({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_has_its_star_at_one_end() {
        for (text, yes, no) in
            [("abc", "abc", "abcd"), ("abc*", "abcd", "xabc"), ("*abc", "xabc", "abcd"), ("*", "", "\u{0}")]
        {
            let pattern: TextPattern = text.parse().unwrap();
            assert_eq!(pattern.to_string(), text);
            assert!(pattern.matches(yes), "{text}");
            assert!(text == "*" || !pattern.matches(no), "{text}");
        }
        for (text, error) in [
            ("", TextPatternError::Empty),
            ("a*b", TextPatternError::Star),
            ("*a*", TextPatternError::Star),
            ("**", TextPatternError::Star),
            ("a\nb", TextPatternError::Control),
            (&"x".repeat(MAX_PATTERN + 1), TextPatternError::TooLong(MAX_PATTERN + 1)),
        ] {
            assert_eq!(text.parse::<TextPattern>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn an_oid_is_numbers_and_dots() {
        for text in ["1.2", "1.3.6.1.4.1.57264.1.1", "2.0.1"] {
            assert_eq!(text.parse::<Oid>().unwrap().as_str(), text);
        }
        let long = format!("1.{}", "1".repeat(MAX_OID));
        for (text, error) in [
            ("", OidError::Form),
            ("1", OidError::Form),
            ("1.", OidError::Form),
            ("1..2", OidError::Form),
            ("1.02", OidError::Form),
            ("a.b", OidError::Form),
            (&long, OidError::TooLong(long.len())),
        ] {
            assert_eq!(text.parse::<Oid>(), Err(error), "{text:?}");
        }
    }
}
