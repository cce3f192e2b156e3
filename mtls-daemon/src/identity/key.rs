//! Keys of our own: made here in memory, or in a token.

use std::sync::Arc;
use std::time::SystemTime;

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

use super::pkcs11::TokenKey;
use super::{Pkcs11Error, SvidError, X509Svid};

/// A key pair whose serialised form is wiped when dropped.
pub struct SecretKey(KeyPair);

impl SecretKey {
    /// A fresh ECDSA key on P-256.
    ///
    /// # Errors
    /// Without random numbers or memory.
    pub fn generate() -> Result<Self, rcgen::Error> {
        KeyPair::generate().map(Self)
    }

    /// Takes a key over.
    pub fn new(pair: KeyPair) -> Self {
        Self(pair)
    }

    /// To sign with.
    pub fn pair(&self) -> &KeyPair {
        &self.0
    }

    /// As rustls takes it; borrows, so that there is no second copy to wipe.
    pub fn der(&self) -> PrivateKeyDer<'_> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.0.serialized_der()))
    }
}

impl PublicKeyData for SecretKey {
    fn der_bytes(&self) -> &[u8] {
        self.0.der_bytes()
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        PublicKeyData::algorithm(&self.0)
    }
}

impl SigningKey for SecretKey {
    fn sign(&self, msg: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.0.sign(msg)
    }
}

impl Drop for SecretKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// The key of a certificate that is asked for, or that signs others.
pub enum OwnKey {
    /// In memory.
    Memory(SecretKey),
    /// In a token.
    Token(Arc<TokenKey>),
}

impl OwnKey {
    /// With the chain that was issued for it.
    ///
    /// # Errors
    /// If the chain is not usable, or another key's.
    pub fn svid(&self, chain: Vec<CertificateDer<'static>>, now: SystemTime) -> Result<X509Svid, SvidError> {
        match self {
            Self::Memory(key) => X509Svid::from_der(chain, &key.der(), now),
            Self::Token(key) => X509Svid::with_key(chain, key.for_tls(), now),
        }
    }

    /// What the token said, where rcgen says only that a key elsewhere did not sign.
    pub fn failure(&self, error: &rcgen::Error) -> Option<Pkcs11Error> {
        match (self, error) {
            (Self::Token(key), rcgen::Error::RemoteKeyError) => key.failure(),
            _ => None,
        }
    }
}

impl PublicKeyData for OwnKey {
    fn der_bytes(&self) -> &[u8] {
        match self {
            Self::Memory(key) => key.0.der_bytes(),
            Self::Token(key) => key.der_bytes(),
        }
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        match self {
            Self::Memory(key) => key.0.algorithm(),
            Self::Token(key) => key.algorithm(),
        }
    }
}

impl SigningKey for OwnKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        match self {
            Self::Memory(key) => key.0.sign(message),
            Self::Token(key) => key.sign(message),
        }
    }
}
