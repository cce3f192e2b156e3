//! rustls' secrets in the kernel's form (`struct tls12_crypto_info_*` of include/uapi/linux/tls.h).

use nix::libc;
use nix::sys::socket::sockopt::TlsCryptoInfo;
use rustls::crypto::{GetRandomFailed, SecureRandom};
use rustls::{CipherSuite, ConnectionTrafficSecrets, SupportedCipherSuite};
use zeroize::Zeroize;

use crate::datapath::tls::secrets::UnsupportedSecrets;

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
    /// From the secrets of a TLS 1.3 connection.
    ///
    /// # Errors
    /// For a cipher that is not a [`Suite`].
    pub fn new((sequence, secrets): (u64, ConnectionTrafficSecrets)) -> Result<Self, UnsupportedSecrets> {
        let head = |cipher_type| libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type };
        let rec_seq = sequence.to_be_bytes();
        let info = match &secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => {
                let (salt, iv) = split(iv.as_ref())?;
                TlsCryptoInfo::Aes128Gcm(libc::tls12_crypto_info_aes_gcm_128 {
                    info: head(libc::TLS_CIPHER_AES_GCM_128),
                    iv,
                    key: array(key.as_ref())?,
                    salt,
                    rec_seq,
                })
            }
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => {
                let (salt, iv) = split(iv.as_ref())?;
                TlsCryptoInfo::Aes256Gcm(libc::tls12_crypto_info_aes_gcm_256 {
                    info: head(libc::TLS_CIPHER_AES_GCM_256),
                    iv,
                    key: array(key.as_ref())?,
                    salt,
                    rec_seq,
                })
            }
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => {
                TlsCryptoInfo::Chacha20Poly1305(libc::tls12_crypto_info_chacha20_poly1305 {
                    info: head(libc::TLS_CIPHER_CHACHA20_POLY1305),
                    iv: array(iv.as_ref())?,
                    key: array(key.as_ref())?,
                    salt: [],
                    rec_seq,
                })
            }
            _ => return Err(UnsupportedSecrets),
        };
        Ok(Self(info))
    }

    /// Fresh random keys, to try the kernel with.
    ///
    /// # Errors
    /// When there is no randomness.
    pub fn random(suite: Suite, random: &dyn SecureRandom) -> Result<Self, GetRandomFailed> {
        let head = |cipher_type| libc::tls_crypto_info { version: libc::TLS_1_3_VERSION, cipher_type };
        let mut keys = Self(match suite {
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
        });
        let (key, nonce): (&mut [u8], &mut [u8]) = match &mut keys.0 {
            TlsCryptoInfo::Aes128Gcm(info) => (&mut info.key, &mut info.iv),
            TlsCryptoInfo::Aes256Gcm(info) => (&mut info.key, &mut info.iv),
            TlsCryptoInfo::Chacha20Poly1305(info) => (&mut info.key, &mut info.iv),
        };
        random.fill(key)?;
        random.fill(nonce)?;
        Ok(keys)
    }

    /// As `setsockopt` takes it.
    #[must_use]
    pub fn info(&self) -> &TlsCryptoInfo {
        &self.0
    }
}

impl Drop for RecordKeys {
    fn drop(&mut self) {
        match &mut self.0 {
            TlsCryptoInfo::Aes128Gcm(info) => {
                info.key.zeroize();
                info.salt.zeroize();
                info.iv.zeroize();
            }
            TlsCryptoInfo::Aes256Gcm(info) => {
                info.key.zeroize();
                info.salt.zeroize();
                info.iv.zeroize();
            }
            TlsCryptoInfo::Chacha20Poly1305(info) => {
                info.key.zeroize();
                info.iv.zeroize();
            }
        }
    }
}

impl std::fmt::Debug for RecordKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RecordKeys(..)")
    }
}

/// The kernel keeps the first four bytes of the nonce apart, as TLS 1.2 did.
fn split(nonce: &[u8]) -> Result<([u8; SALT], [u8; 8]), UnsupportedSecrets> {
    let (salt, iv) = nonce.split_at_checked(SALT).ok_or(UnsupportedSecrets)?;
    Ok((array(salt)?, array(iv)?))
}

fn array<const N: usize>(bytes: &[u8]) -> Result<[u8; N], UnsupportedSecrets> {
    bytes.try_into().map_err(|_| UnsupportedSecrets)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    use rustls::crypto::cipher::{AeadKey, Iv};

    use super::*;

    #[test]
    fn every_suite_of_tls_1_3_has_its_place_and_none_of_1_2() {
        let found: Vec<Suite> = ALL_CIPHER_SUITES.iter().filter_map(|suite| Suite::of(*suite)).collect();
        assert_eq!(found.len(), 3);
        for suite in Suite::ALL {
            assert!(found.contains(&suite) && suite.name().starts_with("TLS_"), "{suite:?}");
            assert_eq!(suite.records_per_key().is_none(), suite == Suite::ChaCha20Poly1305);
        }
    }

    #[test]
    fn nonce_key_and_sequence_number_go_where_the_kernel_looks_for_them() {
        let key = || AeadKey::from([7; 32]);
        let iv = || Iv::new([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
        let keys = RecordKeys::new((258, ConnectionTrafficSecrets::Aes256Gcm { key: key(), iv: iv() }));
        let keys = keys.unwrap();
        let TlsCryptoInfo::Aes256Gcm(info) = keys.info() else { panic!("another cipher") };
        assert_eq!((info.salt, info.iv), ([1, 2, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12]));
        assert_eq!((info.key, info.rec_seq), ([7; 32], [0, 0, 0, 0, 0, 0, 1, 2]));
        assert_eq!(info.info.version, 0x0304);

        let keys = RecordKeys::new((0, ConnectionTrafficSecrets::Chacha20Poly1305 { key: key(), iv: iv() }));
        let keys = keys.unwrap();
        let TlsCryptoInfo::Chacha20Poly1305(info) = keys.info() else { panic!("another cipher") };
        assert_eq!(info.iv, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);
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

    #[test]
    fn a_key_of_the_wrong_length_is_refused() {
        let secrets =
            ConnectionTrafficSecrets::Aes128Gcm { key: AeadKey::from([7; 32]), iv: Iv::new([0; 12]) };
        assert_eq!(RecordKeys::new((0, secrets)).unwrap_err(), UnsupportedSecrets);
    }
}
