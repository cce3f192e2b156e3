//! Values that rules name.

use crate::config::rule::{TextPattern, TextPatternError};

/// Longest label key or value, in bytes (Kubernetes: a prefix of 253, a slash, a name of 63).
pub(in crate::config) const MAX_WORKLOAD_LABEL: usize = 317;

/// Why a text is not the key or the value of a workload's label.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkloadLabelError {
    /// Longer than a label of Kubernetes.
    #[error("it is {0} bytes long; a label has at most {MAX_WORKLOAD_LABEL}")]
    TooLong(usize),
    /// A character that labels do not have.
    #[error("it has the character {0:?}; use letters, digits, '-', '_', '.' and '/'")]
    Character(char),
}

/// The key or the value of a label of a workload.
pub(in crate::config) fn workload_label(text: &str) -> Result<String, WorkloadLabelError> {
    if text.len() > MAX_WORKLOAD_LABEL {
        return Err(WorkloadLabelError::TooLong(text.len()));
    }
    let bad = |c: &char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '.' | '/');
    match text.chars().find(bad) {
        Some(bad) => Err(WorkloadLabelError::Character(bad)),
        None => Ok(text.to_owned()),
    }
}

/// Why a text does not name service accounts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceAccountError {
    /// Not of the form `namespace/name`.
    #[error("write NAMESPACE/NAME, such as shop/cart, shop/* or */cart")]
    Form,
    /// No pattern.
    #[error(transparent)]
    Pattern(#[from] TextPatternError),
}

/// `namespace/name`, with `*` at one end.
pub(in crate::config) fn service_account(text: &str) -> Result<TextPattern, ServiceAccountError> {
    let pattern = text.parse()?;
    // Without the slash `sa` would match nothing, and `not` of it exclude nobody.
    let well = matches!(pattern, TextPattern::Present)
        || text.split_once('/').is_some_and(|(namespace, name)| {
            !namespace.is_empty() && !name.is_empty() && !name.contains('/')
        });
    if well { Ok(pattern) } else { Err(ServiceAccountError::Form) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_service_account_has_its_namespace_with_it() {
        for text in ["shop/cart", "shop/*", "shop/ca*", "*/cart", "*"] {
            assert_eq!(service_account(text).unwrap().to_string(), text);
        }
        for text in ["cart", "/cart", "shop/", "a/b/c", "sh*"] {
            assert_eq!(service_account(text), Err(ServiceAccountError::Form), "{text}");
        }
        assert_eq!(service_account("a*/b"), Err(TextPatternError::Star.into()));
    }

    #[test]
    fn a_label_has_the_letters_of_kubernetes() {
        for text in ["", "app.kubernetes.io/name", "A_b-1"] {
            assert_eq!(workload_label(text).unwrap(), text);
        }
        assert_eq!(workload_label("a b"), Err(WorkloadLabelError::Character(' ')));
        let long = "a".repeat(MAX_WORKLOAD_LABEL + 1);
        assert_eq!(workload_label(&long), Err(WorkloadLabelError::TooLong(long.len())));
    }
}
