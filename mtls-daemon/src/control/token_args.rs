//! Options of commands that name a key in a token.

use std::path::PathBuf;

use clap::Args;

use crate::identity::ca::NewKey;
use crate::identity::pkcs11::{TokenKeySettings, TokenSettings};

/// A key in a PKCS #11 token: all four, or none.
#[derive(Debug, Default, Clone, Args)]
pub struct TokenArgs {
    /// Keep the key in a PKCS #11 token: its module, the shared library of the HSM's maker, an absolute path
    #[arg(long, value_name = "FILE", requires_all = ["token", "pin_file", "label"], value_parser = absolute)]
    pkcs11_module: Option<PathBuf>,
    /// The token's label
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    token: Option<String>,
    /// The file that holds the token's PIN, an absolute path, mode 0600
    #[arg(long, value_name = "FILE", requires = "pkcs11_module", value_parser = absolute)]
    pin_file: Option<PathBuf>,
    /// The key's label; the key is made if the token has none with it
    #[arg(long, value_name = "LABEL", requires = "pkcs11_module")]
    label: Option<String>,
}

impl TokenArgs {
    /// The key, if one was named.
    #[must_use]
    pub fn key(&self) -> Option<TokenKeySettings> {
        let Self { pkcs11_module, token, pin_file, label } = self.clone();
        let token = TokenSettings { module: pkcs11_module?, token: token?, pin_file: pin_file? };
        Some(TokenKeySettings { token, label: label? })
    }
}

/// Where the key of a second CA is made.
#[derive(Debug, Default, Clone, Args)]
pub struct NewKeyArgs {
    /// In this token.
    #[command(flatten)]
    pub token: TokenArgs,
    /// Keep the new key in a file although the one in force is in a token
    #[arg(long, conflicts_with = "pkcs11_module")]
    key_in_file: bool,
}

impl NewKeyArgs {
    /// What was said.
    #[must_use]
    pub fn new_key(&self) -> NewKey {
        match (self.token.key(), self.key_in_file) {
            (Some(key), _) => NewKey::Token(key),
            (None, true) => NewKey::File,
            (None, false) => NewKey::AsBefore,
        }
    }
}

/// The daemon reads the same path from another working directory.
fn absolute(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    if path.is_absolute() { Ok(path) } else { Err("write an absolute path".to_owned()) }
}
