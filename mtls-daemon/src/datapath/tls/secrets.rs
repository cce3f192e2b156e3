//! The record keys of one direction, as rustls gives them away.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305, LessSafeKey, UnboundKey};
use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

/// The cipher of these secrets is none of TLS 1.3's that mtlsd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these TLS secrets are of no known cipher")]
pub struct UnsupportedSecrets;

/// What seals or opens records, its nonces' fixed part, and the secrets it was made of, for the kernel to take over.
/// Wiped when dropped, by rustls and AWS-LC.
pub struct RecordCipher {
    /// The key.
    pub key: LessSafeKey,
    secrets: ConnectionTrafficSecrets,
}

impl RecordCipher {
    /// From the secrets of a TLS 1.3 connection.
    ///
    /// # Errors
    /// For an unknown cipher, or a key of the wrong length.
    pub fn new(secrets: ConnectionTrafficSecrets) -> Result<Self, UnsupportedSecrets> {
        let (algorithm, key, _) = parts(&secrets)?;
        let key = UnboundKey::new(algorithm, key.as_ref()).map_err(|_| UnsupportedSecrets)?;
        Ok(Self { key: LessSafeKey::new(key), secrets })
    }

    /// The fixed part of the nonces.
    ///
    /// # Errors
    /// None that [`RecordCipher::new`] lets through.
    pub fn iv(&self) -> Result<&Iv, UnsupportedSecrets> {
        parts(&self.secrets).map(|(.., iv)| iv)
    }

    /// The secrets again.
    #[must_use]
    pub fn into_secrets(self) -> ConnectionTrafficSecrets {
        self.secrets
    }
}

fn parts(
    secrets: &ConnectionTrafficSecrets,
) -> Result<(&'static Algorithm, &AeadKey, &Iv), UnsupportedSecrets> {
    Ok(match secrets {
        ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
        ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
        ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
        _ => return Err(UnsupportedSecrets),
    })
}
