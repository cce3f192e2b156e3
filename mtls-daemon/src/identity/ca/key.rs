//! Where the key of an intermediate is: in a file beside its certificate, or in a token that a file there names.
//!
//! The directory remembers the token, so that no command has to be told of it and a rotation may change it. A token is
//! asked only when its key is made or is to sign: whoever looks at a CA never waits for one.

use std::path::PathBuf;
use std::sync::Arc;

use rcgen::PublicKeyData;
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use super::directory::{Directory, INTERMEDIATE_CRT, INTERMEDIATE_KEY};
use super::{CaError, crypto};
use crate::identity::key::{OwnKey, SecretKey};
use crate::identity::pkcs11::{Curve, Token, TokenKey, TokenKeySettings, TokenSettings};

/// Names the token and the key in it.
pub(super) const TOKEN: &str = "intermediate.pkcs11";
/// Hexadecimal digits that tell the label of a rotation's key from the one before.
const TAG: usize = 8;
/// Bytes of a label that the configuration takes too.
const MAX_LABEL: usize = 64;

/// Where the key of a second CA is made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewKey {
    /// Where the key in force is: in a file, or in its token under a label with a number of its own.
    AsBefore,
    /// In a file.
    File,
    /// In a token, unless it is there already.
    Token(TokenKeySettings),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Reference {
    module: PathBuf,
    token: String,
    pin_file: PathBuf,
    label: String,
}

/// The key in a token that this directory names, if it does.
pub(super) fn in_token(directory: &Directory) -> Result<Option<TokenKeySettings>, CaError> {
    let Some(content) = directory.read_unshared(TOKEN)? else { return Ok(None) };
    let Reference { module, token, pin_file, label } = serde_json::from_slice(&content).map_err(|error| {
        CaError::Unreadable { path: directory.path(TOKEN), reason: format!("it names no key ({error})") }
    })?;
    Ok(Some(TokenKeySettings { token: TokenSettings { module, token, pin_file }, label }))
}

/// Makes the key of an intermediate, or finds the one that has the label in the token, and notes where it is.
pub(super) fn make(directory: &Directory, token: Option<&TokenKeySettings>) -> Result<OwnKey, CaError> {
    let Some(settings) = token else {
        let key = SecretKey::generate().map_err(crypto("generate a key"))?;
        directory.write_key(INTERMEDIATE_KEY, key.pair())?;
        return Ok(OwnKey::Memory(key));
    };
    let key = find_or_make(settings)?;
    let TokenSettings { module, token, pin_file } = settings.token.clone();
    let reference = Reference { module, token, pin_file, label: settings.label.clone() };
    let content = serde_json::to_vec_pretty(&reference).map_err(|error| CaError::Io {
        action: "encode",
        path: directory.path(TOKEN),
        source: error.into(),
    })?;
    directory.write_private(TOKEN, &content)?;
    Ok(OwnKey::Token(key))
}

/// Asks the token for the key, which it makes if it has none.
pub(super) fn find_or_make(settings: &TokenKeySettings) -> Result<Arc<TokenKey>, CaError> {
    let token = Token::new(settings.token.clone());
    Ok(Arc::new(TokenKey::find_or_make(&token, &settings.label, Curve::P256)?))
}

/// The key of the intermediate in this directory. A token is not asked.
pub(super) fn of(directory: &Directory, certificate: &CertificateDer<'_>) -> Result<OwnKey, CaError> {
    match in_token(directory)? {
        Some(settings) => {
            let token = Token::new(settings.token);
            Ok(OwnKey::Token(Arc::new(TokenKey::named(&token, &settings.label, certificate)?)))
        }
        None => directory.key(INTERMEDIATE_KEY, INTERMEDIATE_CRT, certificate),
    }
}

/// The key of a directory that has no certificate yet.
pub(super) fn without_certificate(directory: &Directory) -> Result<OwnKey, CaError> {
    match in_token(directory)? {
        Some(settings) => {
            let token = Token::new(settings.token);
            Ok(OwnKey::Token(Arc::new(TokenKey::find(&token, &settings.label)?)))
        }
        None => Ok(OwnKey::Memory(directory.any_key(INTERMEDIATE_KEY)?)),
    }
}

/// Is it the key of this certificate?
pub(super) fn fits(key: &OwnKey, certificate: &CertificateDer<'_>) -> bool {
    webpki::EndEntityCert::try_from(certificate)
        .is_ok_and(|parsed| parsed.subject_public_key_info().as_ref() == key.subject_public_key_info())
}

/// What a token said, where the library knows only that something did not sign.
pub(super) fn explained(key: &OwnKey, error: CaError) -> CaError {
    match (key, error) {
        (OwnKey::Token(key), CaError::Crypto { action, reason }) => {
            key.failure().map_or(CaError::Crypto { action, reason }, CaError::Pkcs11)
        }
        (_, error) => error,
    }
}

/// Where the key of a second CA is to be made, beside the one in `directory`.
pub(super) fn resolve(new: &NewKey, directory: &Directory) -> Result<Option<TokenKeySettings>, CaError> {
    match new {
        NewKey::File => Ok(None),
        NewKey::Token(settings) => {
            if in_token(directory)?.as_ref() == Some(settings) {
                return Err(CaError::KeyInForce(settings.to_string()));
            }
            Ok(Some(settings.clone()))
        }
        NewKey::AsBefore => Ok(match in_token(directory)? {
            Some(old) => {
                let label = next_label(&old.label, &super::sign::tag()?);
                Some(TokenKeySettings { label, ..old })
            }
            None => None,
        }),
    }
}

/// `ca-key`, then `ca-key-0a1b2c3d`, then `ca-key-4e5f6a7b`.
fn next_label(old: &str, tag: &str) -> String {
    let base = match old.rsplit_once('-') {
        Some((base, end)) if end.len() == TAG && end.bytes().all(|byte| byte.is_ascii_hexdigit()) => base,
        _ => old,
    };
    let room = MAX_LABEL.saturating_sub(tag.len() + 1);
    let end = (0..=room.min(base.len())).rev().find(|end| base.is_char_boundary(*end)).unwrap_or(0);
    format!("{}-{tag}", base.get(..end).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_label_of_a_second_key_is_another_one_and_does_not_grow() {
        assert_eq!(next_label("ca-key", "0a1b2c3d"), "ca-key-0a1b2c3d");
        assert_eq!(next_label("ca-key-0a1b2c3d", "4e5f6a7b"), "ca-key-4e5f6a7b");
        assert_eq!(next_label("ca-key-of-site", "4e5f6a7b"), "ca-key-of-site-4e5f6a7b");
        let long = next_label(&"é".repeat(32), "4e5f6a7b");
        assert!(long.len() <= MAX_LABEL && long.ends_with("é-4e5f6a7b"), "{long}");
    }
}
