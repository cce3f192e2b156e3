//! Selectors of SPIRE: what an attestor says of a workload, as registration entries write it.

use std::fmt;
use std::str::FromStr;

/// Longest selector that is taken, in bytes.
const MAX_LEN: usize = 1_024;

/// Why a text is not a selector.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// No type, or no value.
    #[error("it is not TYPE:VALUE; write it as in the registration entry, such as systemd:id:nginx.service")]
    Form,
    /// Longer than any that is meant.
    #[error("it is {0} bytes long; a selector has at most {MAX_LEN}")]
    TooLong(usize),
}

/// A selector: `unix:uid:1000` has the type `unix` and the value `uid:1000`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpireSelector {
    text: String,
    colon: usize,
}

impl SpireSelector {
    /// The name of the attestor.
    #[must_use]
    pub fn kind(&self) -> &str {
        self.text.get(..self.colon).unwrap_or_default()
    }

    /// What it found.
    #[must_use]
    pub fn value(&self) -> &str {
        self.text.get(self.colon + 1..).unwrap_or_default()
    }
}

impl FromStr for SpireSelector {
    type Err = SelectorError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_LEN {
            return Err(SelectorError::TooLong(text.len()));
        }
        match text.find(':') {
            Some(colon) if colon > 0 && colon + 1 < text.len() => Ok(Self { text: text.to_owned(), colon }),
            _ => Err(SelectorError::Form),
        }
    }
}

impl fmt::Display for SpireSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for SpireSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SpireSelector({})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_selector_is_a_type_and_a_value_that_may_have_colons() {
        let selector: SpireSelector = "unix:uid:1000".parse().unwrap();
        assert_eq!((selector.kind(), selector.value()), ("unix", "uid:1000"));
        assert_eq!(selector.to_string(), "unix:uid:1000");
        for text in ["", ":", "unix", "unix:", ":uid"] {
            assert_eq!(text.parse::<SpireSelector>(), Err(SelectorError::Form), "{text}");
        }
        let long = format!("unix:{}", "x".repeat(MAX_LEN));
        assert_eq!(long.parse::<SpireSelector>(), Err(SelectorError::TooLong(MAX_LEN + 5)));
    }
}
