//! Names of objects, parsed once and then carried as types.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest name of a namespace, in bytes (RFC 1123 label).
pub const MAX_NAMESPACE: usize = 63;
/// Longest name of any other object, in bytes (RFC 1123 subdomain).
pub const MAX_NAME: usize = 253;
/// Longest UID, in bytes: a UUID has 36, and the hash of a static pod 32.
pub const MAX_UID: usize = 64;

/// Why a text is not a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing in it.
    #[error("it is empty")]
    Empty,
    /// Longer than such a name can be.
    #[error("it is {0} bytes long, and has at most {1}")]
    TooLong(usize, usize),
    /// A character that such a name does not have.
    #[error("it has the character {0:?}, which such a name does not have")]
    Character(char),
    /// `-` or `.` at an end.
    #[error("it starts or ends with '-' or '.'")]
    Edge,
}

fn check(text: &str, max: usize, allowed: impl Fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > max {
        return Err(NameError::TooLong(text.len(), max));
    }
    if let Some(bad) = text.chars().find(|c| !allowed(*c)) {
        return Err(NameError::Character(bad));
    }
    if text.starts_with(['-', '.']) || text.ends_with(['-', '.']) {
        return Err(NameError::Edge);
    }
    Ok(())
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $max:expr, $allowed:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(Box<str>);

        impl $name {
            /// As it is written.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                check(text, $max, $allowed)?;
                Ok(Self(text.into()))
            }
        }

        impl TryFrom<String> for $name {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> Self {
                name.0.into()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", self.0)
            }
        }
    };
}

name!(
    /// The name of a namespace: `[a-z0-9]([-a-z0-9]*[a-z0-9])?`, at most 63 bytes.
    NamespaceName,
    MAX_NAMESPACE,
    |c| matches!(c, 'a'..='z' | '0'..='9' | '-')
);
name!(
    /// The name of an object: lower-case letters, digits, `-` and `.`, at most 253 bytes.
    Name,
    MAX_NAME,
    |c| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.')
);
name!(
    /// What makes an object another one than an earlier one of the same name.
    Uid,
    MAX_UID,
    |c| c.is_ascii_alphanumeric() || c == '-'
);

/// Which object of a resource.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Key {
    /// `None`: the resource has no namespaces.
    pub namespace: Option<NamespaceName>,
    /// Its name there.
    pub name: Name,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(namespace) = &self.namespace {
            write!(f, "{namespace}/")?;
        }
        write!(f, "{}", self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_have_the_form_that_the_api_server_gives_them() {
        for (text, namespace, name) in [
            ("shop", Ok(()), Ok(())),
            ("web-1.example", Err(NameError::Character('.')), Ok(())),
            ("", Err(NameError::Empty), Err(NameError::Empty)),
            ("-a", Err(NameError::Edge), Err(NameError::Edge)),
            ("Shop", Err(NameError::Character('S')), Err(NameError::Character('S'))),
            ("a/b", Err(NameError::Character('/')), Err(NameError::Character('/'))),
            (&"a".repeat(64), Err(NameError::TooLong(64, 63)), Ok(())),
            (&"a".repeat(254), Err(NameError::TooLong(254, 63)), Err(NameError::TooLong(254, 253))),
        ] {
            assert_eq!(text.parse::<NamespaceName>().map(drop), namespace, "{text}");
            assert_eq!(text.parse::<Name>().map(drop), name, "{text}");
        }
        assert!("0b6f6ffd-0000-4000-8000-00000000abcd".parse::<Uid>().is_ok());
        assert_eq!("a/..".parse::<Uid>(), Err(NameError::Character('/')));
    }
}
