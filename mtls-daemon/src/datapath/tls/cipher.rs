//! What seals or opens the records of one direction.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use rustls::crypto::cipher::{self, Iv};
use rustls::crypto::tls13::OutputLengthError;

use super::error::ChannelError;
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

/// A cipher that can be given back while nobody speaks, and made again of the same secrets: it is ten times their size.
pub struct AtHand(Option<RecordCipher>);

impl AtHand {
    /// From the secrets of one direction.
    ///
    /// # Errors
    /// For a key of the wrong length.
    pub fn new(secrets: &RecordSecrets) -> Result<Self, ChannelError> {
        Ok(Self(Some(RecordCipher::new(secrets)?)))
    }

    /// The cipher, if it is there.
    pub fn get(&self) -> Option<&RecordCipher> {
        self.0.as_ref()
    }

    /// Makes it again if it was given back, of the secrets that it was made of before.
    ///
    /// # Errors
    /// The connection is lost then.
    pub fn fetch(
        &mut self,
        secrets: impl FnOnce() -> Result<RecordSecrets, OutputLengthError>,
    ) -> Result<(), ChannelError> {
        if self.0.is_none() {
            self.0 = Some(RecordCipher::new(&secrets()?)?);
        }
        Ok(())
    }

    /// Gives it back.
    pub fn give_back(&mut self) {
        self.0 = None;
    }
}
