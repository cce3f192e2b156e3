//! What a certificate's subject says besides the identity, which is the URI SAN.

use std::fmt;
use std::str::FromStr;

use rcgen::{DistinguishedName, DnType};

use super::TrustDomain;

/// Longest O, OU and CN, in characters (RFC 5280 appendix A.1: ub-organization-name, ub-organizational-unit-name,
/// ub-common-name).
pub const MAX_ATTRIBUTE: usize = 64;

/// Why a text is no attribute of a subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubjectError {
    /// Nothing, or only spaces.
    #[error("it is empty; write a name, or leave it out")]
    Empty,
    /// More than [`MAX_ATTRIBUTE`].
    #[error("it has {0} characters and X.520 allows {MAX_ATTRIBUTE}; shorten it")]
    TooLong(usize),
    /// A character that is not shown.
    #[error("it has a control character in it; write plain text")]
    Control,
}

/// The value of O, OU or CN.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SubjectAttribute(String);

impl FromStr for SubjectAttribute {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        if text.trim().is_empty() {
            return Err(SubjectError::Empty);
        }
        if text.chars().any(char::is_control) {
            return Err(SubjectError::Control);
        }
        match text.chars().count() {
            length if length > MAX_ATTRIBUTE => Err(SubjectError::TooLong(length)),
            _ => Ok(Self(text.to_owned())),
        }
    }
}

impl fmt::Display for SubjectAttribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The subject of a workload's certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Subject {
    /// O; `None`: the trust domain.
    pub organization: Option<SubjectAttribute>,
    /// OU.
    pub organizational_unit: Option<SubjectAttribute>,
    /// CN.
    pub common_name: Option<SubjectAttribute>,
}

impl Subject {
    /// As a certificate or a CSR has it.
    pub(super) fn distinguished_name(&self, domain: &TrustDomain) -> DistinguishedName {
        let mut name = DistinguishedName::new();
        let organization = match &self.organization {
            Some(organization) => organization.to_string(),
            None => domain.as_str().chars().take(MAX_ATTRIBUTE).collect(),
        };
        name.push(DnType::OrganizationName, organization);
        if let Some(unit) = &self.organizational_unit {
            name.push(DnType::OrganizationalUnitName, unit.to_string());
        }
        if let Some(common_name) = &self.common_name {
            name.push(DnType::CommonName, common_name.to_string());
        }
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attribute_has_the_bounds_of_x520() {
        let longest = "é".repeat(MAX_ATTRIBUTE);
        assert_eq!(longest.parse::<SubjectAttribute>().unwrap().to_string(), longest);
        for (text, error) in [
            ("", SubjectError::Empty),
            (" \u{2003}", SubjectError::Empty),
            ("a\nb", SubjectError::Control),
            ("a\u{0}", SubjectError::Control),
            (&"x".repeat(65), SubjectError::TooLong(65)),
        ] {
            assert_eq!(text.parse::<SubjectAttribute>(), Err(error), "{text:?}");
        }
    }

    #[test]
    fn the_organization_is_the_trust_domain_unless_it_is_given() {
        let domain: TrustDomain = "example.org".parse().unwrap();
        let name = Subject::default().distinguished_name(&domain);
        assert_eq!(name.get(&DnType::OrganizationName), Some(&"example.org".into()));
        assert_eq!((name.get(&DnType::CommonName), name.get(&DnType::OrganizationalUnitName)), (None, None));
        let attribute = |text: &str| Some(text.parse().unwrap());
        let subject = Subject {
            organization: attribute("Shop"),
            organizational_unit: attribute("Payments"),
            common_name: attribute("web"),
        };
        let name = subject.distinguished_name(&domain);
        assert_eq!(name.get(&DnType::OrganizationName), Some(&"Shop".into()));
        assert_eq!(name.get(&DnType::OrganizationalUnitName), Some(&"Payments".into()));
        assert_eq!(name.get(&DnType::CommonName), Some(&"web".into()));
    }
}
