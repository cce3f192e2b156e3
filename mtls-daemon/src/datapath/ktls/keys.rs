//! Record secrets in the kernel's form (`struct tls12_crypto_info_*` of include/uapi/linux/tls.h).

use nix::libc;
use nix::sys::socket::sockopt::TlsCryptoInfo;
use rustls::crypto::{GetRandomFailed, SecureRandom};
use rustls::{CipherSuite, SupportedCipherSuite};
use zeroize::Zeroize;

use crate::handshake::RecordSecrets;

/// A TLS 1.3 cipher suite that the kernel can do (RFC 8446, section B.4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Suite {
    /// `TLS_AES_128_GCM_SHA256`.
    Aes128Gcm,
    /// `TLS_AES_256_GCM_SHA384`.
    Aes256Gcm,
    /// `TLS_CHACHA20_POLY1305_SHA256`.
    ChaCha20Poly1305,
}

impl Suite {
    /// Every suite.
    pub const ALL: [Self; 3] = [Self::Aes128Gcm, Self::Aes256Gcm, Self::ChaCha20Poly1305];

    /// The suite of a connection; `None` for one of TLS 1.2.
    #[must_use]
    pub fn of(suite: SupportedCipherSuite) -> Option<Self> {
        match suite.suite() {
            CipherSuite::TLS13_AES_128_GCM_SHA256 => Some(Self::Aes128Gcm),
            CipherSuite::TLS13_AES_256_GCM_SHA384 => Some(Self::Aes256Gcm),
            CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => Some(Self::ChaCha20Poly1305),
            _ => None,
        }
    }

    /// IANA name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Aes128Gcm => "TLS_AES_128_GCM_SHA256",
            Self::Aes256Gcm => "TLS_AES_256_GCM_SHA384",
            Self::ChaCha20Poly1305 => "TLS_CHACHA20_POLY1305_SHA256",
        }
    }

    /// Bytes of its key.
    #[must_use]
    pub fn key_length(self) -> usize {
        match self {
            Self::Aes128Gcm => 16,
            Self::Aes256Gcm | Self::ChaCha20Poly1305 => 32,
        }
    }

    /// How many records one key may protect (RFC 8446, section 5.5: 2^24.5 for AES-GCM, rounded down as rustls
    /// does). ChaCha20-Poly1305 has no limit that a connection can reach.
    #[must_use]
    pub fn records_per_key(self) -> Option<u64> {
        match self {
            Self::Aes128Gcm | Self::Aes256Gcm => Some(1 << 24),
            Self::ChaCha20Poly1305 => None,
        }
    }
}

/// The key of one direction with the sequence number of its next record. Wiped when dropped.
pub struct RecordKeys(TlsCryptoInfo);

const SALT: usize = libc::TLS_CIPHER_AES_GCM_128_SALT_SIZE;

impl RecordKeys {
    /// From the secrets of one direction. `sequence`: the number of its next record.
    #[must_use]
    pub fn new(sequence: u64, secrets: &RecordSecrets) -> Self {
        let mut keys = Self::empty(secrets.suite());
        let places = keys.places();
        // The kernel keeps the first four bytes of the nonces of AES-GCM apart, as TLS 1.2 did.
        fill(places.nonce.into_iter().flatten(), secrets.iv());
        fill(places.key, secrets.key());
        *places.sequence = sequence.to_be_bytes();
        keys
    }

    /// Fresh random keys, to try the kernel with.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn random(suite: Suite, random: &dyn SecureRandom) -> Result<Self, GetRandomFailed> {
        let mut keys = Self::empty(suite);
        let places = keys.places();
        let [_, nonce] = places.nonce;
        random.fill(places.key)?;
        random.fill(nonce)?;
        Ok(keys)
    }

    fn empty(suite: Suite) -> Self {
        let head = |cipher_type| libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type };
        Self(match suite {
            Suite::Aes128Gcm => TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                info: head(libc::TLS_CIPHER_AES_GCM_128),
                iv: [0; 8],
                key: [0; 16],
                salt: [0; SALT],
                rec_seq: [0; 8],
            }),
            Suite::Aes256Gcm => TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                info: head(libc::TLS_CIPHER_AES_GCM_256),
                iv: [0; 8],
                key: [0; 32],
                salt: [0; SALT],
                rec_seq: [0; 8],
            }),
            Suite::ChaCha20Poly1305 => {
                TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                    info: head(libc::TLS_CIPHER_CHACHA20_POLY1305),
                    iv: [0; 12],
                    key: [0; 32],
                    salt: [],
                    rec_seq: [0; 8],
                })
            }
        })
    }

    fn places(&mut self) -> Places<'_> {
        match &mut self.0 {
            TlsCryptoInfo::Aes128Gcm(info) => Places {
                key: &mut info.key,
                nonce: [&mut info.salt, &mut info.iv],
                sequence: &mut info.rec_seq,
            },
            TlsCryptoInfo::Aes256Gcm(info) => Places {
                key: &mut info.key,
                nonce: [&mut info.salt, &mut info.iv],
                sequence: &mut info.rec_seq,
            },
            TlsCryptoInfo::Chacha20Poly1305(info) => Places {
                key: &mut info.key,
                nonce: [&mut info.salt, &mut info.iv],
                sequence: &mut info.rec_seq,
            },
        }
    }

    /// As `setsockopt` takes it.
    #[must_use]
    pub fn info(&self) -> &TlsCryptoInfo {
        &self.0
    }
}

impl Drop for RecordKeys {
    fn drop(&mut self) {
        let places = self.places();
        places.key.zeroize();
        places.nonce.into_iter().for_each(|part| part.zeroize());
    }
}

/// Where the parts are.
struct Places<'k> {
    key: &'k mut [u8],
    nonce: [&'k mut [u8]; 2],
    sequence: &'k mut [u8; 8],
}

/// Both have the same length for every suite: a test holds that.
fn fill<'p>(place: impl IntoIterator<Item = &'p mut u8>, bytes: &[u8]) {
    place.into_iter().zip(bytes).for_each(|(place, byte)| *place = *byte);
}

impl std::fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKeys(..)")
    }
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    use rustls::crypto::tls13::OkmBlock;

    use super::*;
    use crate::handshake::KeySchedule;

    #[test]
    fn every_suite_of_tls_1_3_has_its_place_and_none_of_1_2() {
        let found: Vec<Suite> = ALL_CIPHER_SUITES.iter().filter_map(|suite| Suite::of(*suite)).collect();
        assert_eq!(found.len(), 3);
        for suite in Suite::ALL {
            assert!(found.contains(&suite) && suite.name().starts_with("TLS_"), "{suite:?}");
            assert_eq!(suite.records_per_key().is_none(), suite == Suite::ChaCha20Poly1305);
        }
    }

    /// rustls cannot make a key of 16 bytes for others.
    fn secrets(suite: Suite) -> RecordSecrets {
        let rustls = ALL_CIPHER_SUITES.iter().find(|known| Suite::of(**known) == Some(suite)).unwrap();
        let secret = || OkmBlock::new(&[7; 48]);
        KeySchedule::new(suite, rustls.tls13().unwrap(), secret(), secret()).tx().unwrap()
    }

    #[test]
    fn nonce_key_and_sequence_number_go_whole_where_the_kernel_looks_for_them() {
        for suite in Suite::ALL {
            let secrets = secrets(suite);
            let mut keys = RecordKeys::new(258, &secrets);
            let Places { key, nonce, sequence } = keys.places();
            assert_eq!(key, secrets.key(), "{suite:?}");
            assert_eq!(nonce.concat(), secrets.iv());
            assert_eq!(*sequence, [0, 0, 0, 0, 0, 0, 1, 2]);
            assert!(key.len() == suite.key_length() && !key.ends_with(&[0; 8]));
        }
        let keys = RecordKeys::new(0, &secrets(Suite::Aes256Gcm));
        let TlsCryptoInfo::Aes256Gcm(info) = keys.info() else { panic!("another cipher") };
        assert_eq!((info.info.version, info.info.cipher_type), (0x0304, libc::TLS_CIPHER_AES_GCM_256));
        assert_eq!([&info.salt[..], &info.iv].concat(), secrets(Suite::Aes256Gcm).iv());
        let keys = RecordKeys::new(0, &secrets(Suite::ChaCha20Poly1305));
        let TlsCryptoInfo::Chacha20Poly1305(info) = keys.info() else { panic!("another cipher") };
        assert_eq!(info.iv, *secrets(Suite::ChaCha20Poly1305).iv());
        assert_eq!(format!("{keys:?}"), "RecordKeys(..)");
    }

    #[test]
    fn random_keys_are_whole_and_never_the_same() {
        let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
        let keys = |suite| match RecordKeys::random(suite, random).unwrap().info() {
            TlsCryptoInfo::Aes128Gcm(info) => info.key.to_vec(),
            TlsCryptoInfo::Aes256Gcm(info) => info.key.to_vec(),
            TlsCryptoInfo::Chacha20Poly1305(info) => info.key.to_vec(),
        };
        for suite in Suite::ALL {
            let (one, other) = (keys(suite), keys(suite));
            assert!(one.len() >= 16 && one != other && !one.ends_with(&[0; 8]), "{suite:?}");
        }
    }
}
