//! The keys of an open TLS 1.3 connection, and those that come after them (RFC 8446, section 7).
//!
//! rustls would keep them, but only together with the configuration of the connection, its verifier and the peer's
//! certificates, several KiB for each connection; of all that only two secrets are needed, which it tells to a key log.

use std::sync::{Mutex, PoisonError};

use rustls::crypto::tls13::{Hkdf, HkdfExpander, OkmBlock, OutputLengthError};
use rustls::{ConnectionTrafficSecrets, KeyLog, Tls13CipherSuite};
use zeroize::Zeroize;

use crate::datapath::ktls::Suite;

/// Bytes of a nonce's fixed part, the same for every suite (RFC 8446, section 5.3).
const IV: usize = 12;
/// Bytes of the longest key.
const LONGEST_KEY: usize = 32;

/// The cipher of these secrets is none of TLS 1.3's that mtlsd knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these TLS secrets are of no known cipher")]
pub struct UnsupportedSecrets;

/// Key and fixed part of the nonces of one direction. Wiped when dropped.
pub struct RecordSecrets {
    suite: Suite,
    key: [u8; LONGEST_KEY],
    iv: [u8; IV],
}

impl RecordSecrets {
    /// The cipher suite.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// As long as the suite says.
    #[must_use]
    pub fn key(&self) -> &[u8] {
        self.key.get(..self.suite.key_length()).unwrap_or(&self.key)
    }

    /// The fixed part of the nonces.
    #[must_use]
    pub fn iv(&self) -> &[u8; IV] {
        &self.iv
    }
}

impl Drop for RecordSecrets {
    fn drop(&mut self) {
        self.key.zeroize();
        self.iv.zeroize();
    }
}

impl TryFrom<ConnectionTrafficSecrets> for RecordSecrets {
    type Error = UnsupportedSecrets;

    fn try_from(secrets: ConnectionTrafficSecrets) -> Result<Self, UnsupportedSecrets> {
        let (suite, key, iv) = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (Suite::Aes128Gcm, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (Suite::Aes256Gcm, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (Suite::ChaCha20Poly1305, key, iv),
            _ => return Err(UnsupportedSecrets),
        };
        let mut own = Self { suite, key: [0; LONGEST_KEY], iv: [0; IV] };
        let place = own.key.get_mut(..suite.key_length()).ok_or(UnsupportedSecrets)?;
        if place.len() != key.as_ref().len() || iv.as_ref().len() != IV {
            return Err(UnsupportedSecrets);
        }
        place.copy_from_slice(key.as_ref());
        own.iv.copy_from_slice(iv.as_ref());
        Ok(own)
    }
}

/// Hears the two application traffic secrets of one connection from rustls.
#[derive(Default)]
pub struct Heard {
    client: Mutex<Option<OkmBlock>>,
    server: Mutex<Option<OkmBlock>>,
}

impl std::fmt::Debug for Heard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Heard(..)")
    }
}

impl Heard {
    fn place(&self, label: &str) -> Option<&Mutex<Option<OkmBlock>>> {
        match label {
            "CLIENT_TRAFFIC_SECRET_0" => Some(&self.client),
            "SERVER_TRAFFIC_SECRET_0" => Some(&self.server),
            _ => None,
        }
    }

    /// What was heard: the client's and the server's.
    #[must_use]
    pub fn take(&self) -> Option<(OkmBlock, OkmBlock)> {
        let take =
            |place: &Mutex<Option<OkmBlock>>| place.lock().unwrap_or_else(PoisonError::into_inner).take();
        take(&self.client).zip(take(&self.server))
    }
}

impl KeyLog for Heard {
    fn log(&self, label: &str, _client_random: &[u8], secret: &[u8]) {
        if let Some(place) = self.place(label)
            && secret.len() <= OkmBlock::MAX_LEN
        {
            *place.lock().unwrap_or_else(PoisonError::into_inner) = Some(OkmBlock::new(secret));
        }
    }

    fn will_log(&self, label: &str) -> bool {
        self.place(label).is_some()
    }
}

/// What the keys of both directions are derived from. Wiped when dropped, by rustls.
pub struct KeySchedule {
    suite: Suite,
    hkdf: &'static dyn Hkdf,
    tx: OkmBlock,
    rx: OkmBlock,
}

impl std::fmt::Debug for KeySchedule {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("KeySchedule(..)")
    }
}

impl KeySchedule {
    /// From the traffic secrets of both directions.
    #[must_use]
    pub fn new(suite: Suite, rustls: &'static Tls13CipherSuite, tx: OkmBlock, rx: OkmBlock) -> Self {
        Self { suite, hkdf: rustls.hkdf_provider, tx, rx }
    }

    /// The key for what we send.
    ///
    /// # Errors
    /// None with a suite of TLS 1.3.
    pub fn tx(&self) -> Result<RecordSecrets, OutputLengthError> {
        self.secrets(&self.tx)
    }

    /// The key for what we receive.
    ///
    /// # Errors
    /// None with a suite of TLS 1.3.
    pub fn rx(&self) -> Result<RecordSecrets, OutputLengthError> {
        self.secrets(&self.rx)
    }

    /// The next key for what we send (RFC 8446, section 7.2).
    ///
    /// # Errors
    /// None with a suite of TLS 1.3.
    pub fn next_tx(&mut self) -> Result<RecordSecrets, OutputLengthError> {
        self.tx = self.next(&self.tx)?;
        self.tx()
    }

    /// The next key for what we receive.
    ///
    /// # Errors
    /// None with a suite of TLS 1.3.
    pub fn next_rx(&mut self) -> Result<RecordSecrets, OutputLengthError> {
        self.rx = self.next(&self.rx)?;
        self.rx()
    }

    fn next(&self, secret: &OkmBlock) -> Result<OkmBlock, OutputLengthError> {
        let mut next = secret.clone();
        let expander = self.hkdf.expander_for_okm(secret);
        let mut bytes = [0; OkmBlock::MAX_LEN];
        let place = bytes.get_mut(..secret.as_ref().len()).ok_or(OutputLengthError)?;
        let expanded = expand_label(&*expander, b"traffic upd", place);
        if expanded.is_ok() {
            next = OkmBlock::new(place);
        }
        bytes.zeroize();
        expanded.map(|()| next)
    }

    /// RFC 8446, section 7.3.
    fn secrets(&self, secret: &OkmBlock) -> Result<RecordSecrets, OutputLengthError> {
        let expander = self.hkdf.expander_for_okm(secret);
        let mut secrets = RecordSecrets { suite: self.suite, key: [0; LONGEST_KEY], iv: [0; IV] };
        let key = secrets.key.get_mut(..self.suite.key_length()).ok_or(OutputLengthError)?;
        expand_label(&*expander, b"key", key)?;
        expand_label(&*expander, b"iv", &mut secrets.iv)?;
        Ok(secrets)
    }
}

/// HKDF-Expand-Label with an empty context (RFC 8446, section 7.1).
fn expand_label(
    expander: &dyn HkdfExpander,
    label: &[u8],
    output: &mut [u8],
) -> Result<(), OutputLengthError> {
    const PREFIX: &[u8] = b"tls13 ";
    let length = u16::try_from(output.len()).map_err(|_| OutputLengthError)?.to_be_bytes();
    let label_length = u8::try_from(PREFIX.len() + label.len()).map_err(|_| OutputLengthError)?;
    expander.expand_slice(&[&length, &[label_length], PREFIX, label, &[0]], output)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        digits.chunks(2).map(|pair| u8::from_str_radix(str::from_utf8(pair).unwrap(), 16).unwrap()).collect()
    }

    /// The example of RFC 8448, section 3: the application traffic secrets and what comes of them.
    #[test]
    fn keys_are_those_of_the_example_in_rfc_8448() {
        let client = hex("9e40646ce79a7f9dc05af8889bce6552875afa0b06df0087f792ebb7c17504a5");
        let server = hex("a11af9f05531f856ad47116b45a950328204b4f44bfb6b3a4b4f1f3fcb631643");
        let rustls = TLS13_AES_128_GCM_SHA256.tls13().unwrap();
        let schedule =
            KeySchedule::new(Suite::Aes128Gcm, rustls, OkmBlock::new(&client), OkmBlock::new(&server));
        let (tx, rx) = (schedule.tx().unwrap(), schedule.rx().unwrap());
        assert_eq!(tx.key(), hex("17422dda596ed5d9acd890e3c63f5051"));
        assert_eq!(tx.iv().as_slice(), hex("5b78923dee08579033e523d9"));
        assert_eq!(rx.key(), hex("9f02283b6c9c07efc26bb9f2ac92e356"));
        assert_eq!(rx.iv().as_slice(), hex("cf782b88dd83549aadf1e984"));
        assert_eq!(format!("{schedule:?}"), "KeySchedule(..)");
    }

    #[test]
    fn only_the_two_secrets_of_the_connection_are_heard_and_given_once() {
        let heard = Heard::default();
        for label in ["CLIENT_HANDSHAKE_TRAFFIC_SECRET", "EXPORTER_SECRET", "CLIENT_RANDOM"] {
            assert!(!heard.will_log(label), "{label}");
            heard.log(label, b"", &[1; 32]);
        }
        assert!(heard.take().is_none());
        heard.log("CLIENT_TRAFFIC_SECRET_0", b"", &[2; 48]);
        heard.log("SERVER_TRAFFIC_SECRET_0", b"", &[3; 48]);
        let (client, server) = heard.take().unwrap();
        assert_eq!((client.as_ref(), server.as_ref()), (&[2; 48][..], &[3; 48][..]));
        assert!(heard.take().is_none());
        heard.log("CLIENT_TRAFFIC_SECRET_0", b"", &[4; 65]);
        assert!(heard.client.lock().unwrap().is_none(), "longer than any hash");
    }

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        let secrets =
            ConnectionTrafficSecrets::Aes128Gcm { key: AeadKey::from([7; 32]), iv: Iv::new([0; 12]) };
        assert_eq!(RecordSecrets::try_from(secrets).err(), Some(UnsupportedSecrets));
    }
}
