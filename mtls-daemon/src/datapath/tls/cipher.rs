//! What seals or opens the records of one direction.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{self, Iv};

use crate::datapath::ktls::Suite;
use crate::handshake::{RecordSecrets, UnsupportedSecrets};

/// A key and the fixed part of its nonces. The key is wiped when dropped, by AWS-LC.
pub struct RecordCipher {
    /// The key.
    pub key: LessSafeKey,
    iv: Iv,
}

impl RecordCipher {
    /// From the secrets of one direction.
    ///
    /// # Errors
    /// For a key of the wrong length.
    pub fn new(secrets: &RecordSecrets) -> Result<Self, UnsupportedSecrets> {
        let algorithm = match secrets.suite() {
            Suite::Aes128Gcm => &AES_128_GCM,
            Suite::Aes256Gcm => &AES_256_GCM,
            Suite::ChaCha20Poly1305 => &CHACHA20_POLY1305,
        };
        let key = UnboundKey::new(algorithm, secrets.key()).map_err(|_| UnsupportedSecrets)?;
        Ok(Self { key: LessSafeKey::new(key), iv: Iv::new(*secrets.iv()) })
    }

    /// Of the record with this number (RFC 8446, section 5.3). To be used once for sealing.
    pub fn nonce(&self, sequence: u64) -> Nonce {
        Nonce::assume_unique_for_key(cipher::Nonce::new(&self.iv, sequence).0)
    }
}
