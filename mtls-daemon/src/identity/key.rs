//! Keys that are made here.

use rcgen::{KeyPair, PublicKeyData, SignatureAlgorithm, SigningKey};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::Zeroize;

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
