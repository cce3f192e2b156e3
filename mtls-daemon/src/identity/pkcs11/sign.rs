//! A token's key where rustls and rcgen want one that signs.

use rcgen::{PublicKeyData, SigningKey as CertificateSigner};
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::sign::{Signer, SigningKey};
use rustls::{SignatureAlgorithm, SignatureScheme};
use std::sync::Arc;

use super::{Curve, TokenKey};

/// The two numbers of a signature, as PKCS #11 has them side by side (v2.40 current mechanisms, section 2.3.1), as
/// ECDSA-Sig-Value (RFC 3279 section 2.2.3). `None` if there are not exactly two of `bytes` bytes.
pub(super) fn to_der(raw: &[u8], bytes: usize) -> Option<Vec<u8>> {
    if raw.len() != bytes.checked_mul(2)? {
        return None;
    }
    let (r, s) = raw.split_at_checked(bytes)?;
    Some(yasna::construct_der(|writer| {
        writer.write_sequence(|writer| {
            writer.next().write_bigint_bytes(r, true);
            writer.next().write_bigint_bytes(s, true);
        });
    }))
}

impl Curve {
    fn scheme(self) -> SignatureScheme {
        match self {
            Self::P256 => SignatureScheme::ECDSA_NISTP256_SHA256,
            Self::P384 => SignatureScheme::ECDSA_NISTP384_SHA384,
        }
    }
}

/// A workload's key.
#[derive(Debug, Clone)]
pub struct TlsKey(pub Arc<TokenKey>);

impl SigningKey for TlsKey {
    fn choose_scheme(&self, offered: &[SignatureScheme]) -> Option<Box<dyn Signer>> {
        offered.contains(&self.0.curve().scheme()).then(|| Box::new(self.clone()) as Box<dyn Signer>)
    }

    fn public_key(&self) -> Option<SubjectPublicKeyInfoDer<'_>> {
        Some(self.0.spki())
    }

    fn algorithm(&self) -> SignatureAlgorithm {
        SignatureAlgorithm::ECDSA
    }
}

impl Signer for TlsKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rustls::Error> {
        self.0.sign_message(message).map_err(|error| rustls::Error::General(error.to_string()))
    }

    fn scheme(&self) -> SignatureScheme {
        self.0.curve().scheme()
    }
}

impl PublicKeyData for TokenKey {
    fn der_bytes(&self) -> &[u8] {
        &self.public.point
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        match self.curve() {
            Curve::P256 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Curve::P384 => &rcgen::PKCS_ECDSA_P384_SHA384,
        }
    }
}

impl CertificateSigner for TokenKey {
    // The reason is in `TokenKey::failure`: rcgen has no room for one.
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        self.sign_message(message).map_err(|_| rcgen::Error::RemoteKeyError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_in_der_without_leading_zeros_and_never_as_negative() {
        let raw = [[0, 0, 0x7f, 1], [0x80, 0, 0, 2]].concat();
        assert_eq!(to_der(&raw, 4).unwrap(), [0x30, 11, 2, 2, 0x7f, 1, 2, 5, 0, 0x80, 0, 0, 2]);
        assert_eq!(to_der(&[0; 4], 2).unwrap(), [0x30, 6, 2, 1, 0, 2, 1, 0]);
    }

    #[test]
    fn a_signature_of_another_length_is_none() {
        for length in [0, 1, 32, 63, 65, 96] {
            assert_eq!(to_der(&vec![1; length], 32), None, "{length}");
        }
        assert!(to_der(&[1; 64], 32).is_some());
    }
}
