//! Tokens and what they are had for. Wiped when dropped; what the HTTP library has written to the socket is beyond reach.

use std::fmt;
use std::path::Path;

use serde::de::{Deserialize, Deserializer, Error, Visitor};
use zeroize::Zeroizing;

use super::error::VaultError;
use crate::identity::files;

/// Largest file with a secret, in bytes. A service account's JWT has about a thousand.
const MAX_SECRET: usize = 16 * 1024;

/// A text that is nobody's business.
#[derive(PartialEq, Eq)]
pub(super) struct Secret(Zeroizing<String>);

impl Secret {
    /// Reads a file that holds nothing else, but for white space around it.
    pub(super) fn read(what: &'static str, path: &Path) -> Result<Self, VaultError> {
        let refused = |reason| VaultError::Secret { what, path: path.to_owned(), reason };
        let content = files::read(what, path, MAX_SECRET)?;
        let text = std::str::from_utf8(&content).map_err(|_| refused("is not text"))?;
        Self::check(text.trim()).map_err(refused)
    }

    /// Takes what can stand in a header.
    fn check(text: &str) -> Result<Self, &'static str> {
        match () {
            () if text.is_empty() => Err("is empty"),
            () if !text.bytes().all(|byte| byte.is_ascii_graphic()) => {
                Err("has white space or a character in it that a token cannot have")
            }
            () => Ok(Self(Zeroizing::new(text.to_owned()))),
        }
    }

    /// The text, for the request.
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SecretVisitor;
        impl Visitor<'_> for SecretVisitor {
            type Value = Secret;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a token as text")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Secret, E> {
                Secret::check(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_str(SecretVisitor)
    }
}
