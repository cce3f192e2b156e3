//! TLS 1.3 records sealed and opened by hand (RFC 8446, section 5), with keys from a traffic secret (section 7).

use std::io;

use aws_lc_rs::aead::{self, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf;
use rustls::CipherSuite;

/// Content types (RFC 8446, appendix B.1).
pub mod kind {
    #![expect(missing_docs, reason = "the names of the RFC")]
    pub const CHANGE_CIPHER_SPEC: u8 = 20;
    pub const ALERT: u8 = 21;
    pub const HANDSHAKE: u8 = 22;
    pub const APPLICATION_DATA: u8 = 23;
}

/// Most bytes of content in a record.
pub const MAX_CONTENT: usize = 16_384;

/// What a cipher suite decides here.
#[derive(Clone, Copy)]
struct Suite {
    aead: &'static aead::Algorithm,
    hash: hkdf::Algorithm,
}

impl Suite {
    fn of(suite: CipherSuite) -> io::Result<Self> {
        let (aead, hash) = match suite {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => (&aead::AES_128_GCM, hkdf::HKDF_SHA256),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => (&aead::AES_256_GCM, hkdf::HKDF_SHA384),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => (&aead::CHACHA20_POLY1305, hkdf::HKDF_SHA256),
            other => return Err(io::Error::other(format!("{other:?} is no suite of TLS 1.3"))),
        };
        Ok(Self { aead, hash })
    }
}

/// One direction's keys.
pub struct Keys {
    suite: Suite,
    secret: Vec<u8>,
    key: LessSafeKey,
    iv: [u8; aead::NONCE_LEN],
    sequence: u64,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}

/// A record that does not authenticate.
#[derive(Debug)]
pub struct NotAuthentic;

impl Keys {
    /// The first keys of `secret`, such as `client_application_traffic_secret_0`.
    ///
    /// # Errors
    /// If `suite` is not of TLS 1.3.
    pub fn new(suite: CipherSuite, secret: Vec<u8>) -> io::Result<Self> {
        Ok(Self::of(Suite::of(suite)?, secret))
    }

    fn of(suite: Suite, secret: Vec<u8>) -> Self {
        let key = expand_label(suite.hash, &secret, "key", suite.aead.key_len());
        let key = LessSafeKey::new(UnboundKey::new(suite.aead, &key).expect("its own key length"));
        let iv = expand_label(suite.hash, &secret, "iv", aead::NONCE_LEN);
        Self { suite, secret, key, iv: iv.try_into().expect("as long as asked"), sequence: 0 }
    }

    /// The next generation (section 7.2), after a KeyUpdate.
    pub fn update(&mut self) {
        let next = expand_label(self.suite.hash, &self.secret, "traffic upd", self.secret.len());
        *self = Self::of(self.suite, next);
    }

    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    /// A record as it goes on the wire. `content` may be longer than allowed: that is what this is for.
    pub fn seal(&mut self, kind: u8, content: &[u8], padding: usize) -> Vec<u8> {
        let mut inner = [content, &[kind], &vec![0; padding]].concat();
        let header = header(kind::APPLICATION_DATA, inner.len() + self.suite.aead.tag_len());
        let nonce = self.nonce();
        self.key.seal_in_place_append_tag(nonce, Aad::from(header), &mut inner).expect("a record's length");
        [&header[..], &inner].concat()
    }

    /// The content type and the content of a record.
    ///
    /// # Errors
    /// If it does not authenticate.
    pub fn open(&mut self, header: [u8; 5], body: &mut [u8]) -> Result<(u8, Vec<u8>), NotAuthentic> {
        let nonce = self.nonce();
        let inner = self.key.open_in_place(nonce, Aad::from(header), body).map_err(|_| NotAuthentic)?;
        let end = inner.iter().rposition(|byte| *byte != 0).ok_or(NotAuthentic)?;
        Ok((inner[end], inner[..end].to_vec()))
    }
}

/// A record's header.
pub fn header(kind: u8, length: usize) -> [u8; 5] {
    let [high, low] = u16::try_from(length).expect("a record's length has 16 bits").to_be_bytes();
    [kind, 3, 3, high, low]
}

/// A record that is not encrypted.
pub fn plain(kind: u8, content: &[u8]) -> Vec<u8> {
    [&header(kind, content.len())[..], content].concat()
}

/// A handshake message with its header (section 4).
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).expect("short").to_be_bytes();
    [&[kind], &length[1..], body].concat()
}

struct Length(usize);

impl hkdf::KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// HKDF-Expand-Label with an empty context (section 7.1).
fn expand_label(hash: hkdf::Algorithm, secret: &[u8], label: &str, length: usize) -> Vec<u8> {
    let label = format!("tls13 {label}");
    let [high, low] = u16::try_from(length).expect("short").to_be_bytes();
    let size = u8::try_from(label.len()).expect("short");
    let info: [&[u8]; 4] = [&[high, low], &[size], label.as_bytes(), &[0]];
    let mut out = vec![0; length];
    let secret = hkdf::Prk::new_less_safe(hash, secret);
    secret.expand(&info, Length(length)).and_then(|okm| okm.fill(&mut out)).expect("a short output");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hex(text: &str) -> Vec<u8> {
        let digits: Vec<u8> = text.bytes().filter(u8::is_ascii_hexdigit).collect();
        let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(pair).collect()
    }

    /// RFC 8448, section 3: the server's handshake traffic secret and what is derived from it.
    #[test]
    fn keys_are_derived_as_in_the_rfcs_example() {
        let secret = hex("b67b7d690cc16c4e75e54213cb2d37b4e9c912bcded9105d42befd59d391ad38");
        let derive = |label, length| expand_label(hkdf::HKDF_SHA256, &secret, label, length);
        assert_eq!(derive("key", 16), hex("3fce516009c21727d0f2e4e86ee403bc"));
        assert_eq!(derive("iv", 12), hex("5d313eb2671276ee13000b30"));
    }

    #[test]
    fn records_come_back_as_they_went_in_every_suite_and_across_updates() {
        let suites = [
            CipherSuite::TLS13_AES_128_GCM_SHA256,
            CipherSuite::TLS13_AES_256_GCM_SHA384,
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256,
        ];
        for suite in suites {
            let [mut here, mut there] = [0; 2].map(|_| Keys::new(suite, vec![7; 32]).unwrap());
            for (content, padding) in [(&b"hello"[..], 0), (b"", 0), (b"0\0", 300)] {
                let mut record = here.seal(kind::APPLICATION_DATA, content, padding);
                let (header, body) = record.split_first_chunk_mut().unwrap();
                assert_eq!(there.open(*header, body).unwrap(), (kind::APPLICATION_DATA, content.to_vec()));
                here.update();
                there.update();
            }
            let mut record = here.seal(kind::ALERT, b"xy", 0);
            record[7] ^= 1;
            let (header, body) = record.split_first_chunk_mut().unwrap();
            there.open(*header, body).unwrap_err();
        }
        assert!(Keys::new(CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, vec![7; 32]).is_err());
    }
}
