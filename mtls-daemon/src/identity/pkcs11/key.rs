//! One key pair in a token: found or made, and proved to be the pair that it should be.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use aws_lc_rs::{digest, rand, signature};
use cryptoki::mechanism::Mechanism;
use cryptoki::object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle};
use cryptoki::session::Session;
use rustls::pki_types::{AlgorithmIdentifier, CertificateDer, SubjectPublicKeyInfoDer, alg_id};
use rustls::sign::public_key_to_spki;
use tokio::runtime::{Handle, RuntimeFlavor};

use super::token::{Failure, Token, one};
use super::{Pkcs11Error, sign};
use crate::identity::leaf::show;

/// Bytes of the CKA_ID of a key that is made here.
const ID_BYTES: usize = 16;
/// What is signed to see whether private and public key are one pair. Nobody who trusts the key signs or takes this.
const PROBE: &[u8] = b"mtlsd looks whether this key is the right one";

/// Two threads that miss the same key must not make it twice.
static MAKING: Mutex<()> = Mutex::new(());

/// The curves that TLS 1.3 certificates use (RFC 8446 section 4.2.3), each with its hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// NIST P-256 with SHA-256.
    P256,
    /// NIST P-384 with SHA-384.
    P384,
}

impl Curve {
    const ALL: [Self; 2] = [Self::P256, Self::P384];

    /// Bytes of a coordinate, and of each half of a signature.
    pub(super) fn bytes(self) -> usize {
        match self {
            Self::P256 => 32,
            Self::P384 => 48,
        }
    }

    /// CKA_EC_PARAMS: the curve's object identifier in DER (RFC 5480 section 2.1.1.1).
    pub(super) fn parameters(self) -> &'static [u8] {
        match self {
            Self::P256 => &[0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07],
            Self::P384 => &[0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x22],
        }
    }

    fn identifier(self) -> AlgorithmIdentifier {
        match self {
            Self::P256 => alg_id::ECDSA_P256,
            Self::P384 => alg_id::ECDSA_P384,
        }
    }

    fn hash(self) -> &'static digest::Algorithm {
        match self {
            Self::P256 => &digest::SHA256,
            Self::P384 => &digest::SHA384,
        }
    }

    fn verification(self) -> &'static signature::EcdsaVerificationAlgorithm {
        match self {
            Self::P256 => &signature::ECDSA_P256_SHA256_ASN1,
            Self::P384 => &signature::ECDSA_P384_SHA384_ASN1,
        }
    }
}

/// An uncompressed point (SEC 1 section 2.3.3) and its curve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PublicKey {
    pub(super) curve: Curve,
    pub(super) point: Vec<u8>,
}

impl PublicKey {
    /// From CKA_EC_POINT, which is an OCTET STRING in DER; some modules leave out its head.
    pub(super) fn from_attribute(curve: Curve, value: &[u8]) -> Option<Self> {
        let length = 2 * curve.bytes() + 1;
        let point = match value.strip_prefix(&[0x04, u8::try_from(length).ok()?]) {
            Some(point) if point.len() == length => point,
            _ => value,
        };
        (point.len() == length && point.first() == Some(&0x04)).then(|| Self { curve, point: point.to_vec() })
    }

    pub(super) fn from_spki(spki: &[u8]) -> Option<Self> {
        Curve::ALL.into_iter().find_map(|curve| {
            let start = spki.len().checked_sub(2 * curve.bytes() + 1)?;
            let key = Self::from_attribute(curve, spki.get(start..)?)?;
            (key.spki().as_ref() == spki).then_some(key)
        })
    }

    pub(super) fn spki(&self) -> SubjectPublicKeyInfoDer<'static> {
        public_key_to_spki(&self.curve.identifier(), &self.point)
    }
}

/// A key pair whose private half never leaves its token. Signing blocks.
pub struct TokenKey {
    token: Arc<Token>,
    label: String,
    pub(super) public: PublicKey,
    /// Where the public key is from, for messages.
    origin: &'static str,
    /// Why it did not sign, if it did not the last time: rcgen passes no reason on.
    failure: Mutex<Option<Pkcs11Error>>,
}

impl TokenKey {
    /// The pair with this label, both halves from the token.
    ///
    /// # Errors
    /// Without the token, without exactly one such pair, and if the two halves do not belong together.
    pub fn find(token: &Arc<Token>, label: &str) -> Result<Self, Pkcs11Error> {
        let public = token.with("give a public key", |open| {
            let private = open.private_key(token, label)?;
            read_public(&open.session, token, label, private)
        })?;
        Self::proved(token, label, public, "its public key there")
    }

    /// The private key with this label, for this certificate. The token need not hold the public key.
    ///
    /// # Errors
    /// As [`TokenKey::find`], and if the key is not the certificate's.
    pub fn of_certificate(
        token: &Arc<Token>,
        label: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, Pkcs11Error> {
        let key = Self::named(token, label, certificate)?;
        key.prove()?;
        Ok(key)
    }

    /// The same without asking the token: what is wrong with the key shows when it is to sign, or by
    /// [`TokenKey::prove`].
    ///
    /// # Errors
    /// If the certificate's key is of a kind that no token signs with here.
    pub fn named(
        token: &Arc<Token>,
        label: &str,
        certificate: &CertificateDer<'_>,
    ) -> Result<Self, Pkcs11Error> {
        let kind =
            |reason: String| Pkcs11Error::KeyKind { token: token.label(), label: label.to_owned(), reason };
        let parsed = webpki::EndEntityCert::try_from(certificate)
            .map_err(|error| kind(format!("its certificate cannot be parsed ({error:?})")))?;
        let public = PublicKey::from_spki(&parsed.subject_public_key_info())
            .ok_or_else(|| kind("its certificate has a public key of another kind".to_owned()))?;
        Ok(Self::new(token, label, public, "the certificate"))
    }

    /// Does the token have the private half, on the same curve?
    ///
    /// # Errors
    /// If not, and whatever the token says.
    pub fn prove(&self) -> Result<(), Pkcs11Error> {
        let (token, label) = (&self.token, &self.label);
        let curve = token.with("describe a key", |open| {
            let private = open.private_key(token, label)?;
            Ok(describe(&open.session, token, label, private)?.0)
        })?;
        if curve != self.public.curve {
            return Err(self.other_key());
        }
        self.sign_message(PROBE).map(|_| ())
    }

    /// The pair with this label, which is made (on `curve`, never to leave the token) if the token has none.
    ///
    /// # Errors
    /// As [`TokenKey::find`], and if the token makes no such key.
    pub fn find_or_make(token: &Arc<Token>, label: &str, curve: Curve) -> Result<Self, Pkcs11Error> {
        let _alone = MAKING.lock().unwrap_or_else(PoisonError::into_inner);
        match Self::find(token, label) {
            Err(Pkcs11Error::KeyAbsent { what: PRIVATE, .. }) => {}
            other => return other,
        }
        token.with_writer("make a key", |session| make(session, token, label, curve))?;
        tracing::info!(token = %token.label(), label, "a key was made in the token");
        Self::find(token, label)
    }

    fn new(token: &Arc<Token>, label: &str, public: PublicKey, origin: &'static str) -> Self {
        Self { token: Arc::clone(token), label: label.to_owned(), public, origin, failure: Mutex::default() }
    }

    fn proved(
        token: &Arc<Token>,
        label: &str,
        public: PublicKey,
        origin: &'static str,
    ) -> Result<Self, Pkcs11Error> {
        let key = Self::new(token, label, public, origin);
        key.sign_message(PROBE)?;
        Ok(key)
    }

    /// The public key (RFC 5280 section 4.1.2.7).
    #[must_use]
    pub fn spki(&self) -> SubjectPublicKeyInfoDer<'static> {
        self.public.spki()
    }

    /// The curve.
    #[must_use]
    pub fn curve(&self) -> Curve {
        self.public.curve
    }

    /// Signs the hash of the message: an ECDSA-Sig-Value (RFC 3279 section 2.2.3), verified before it is given out.
    ///
    /// # Errors
    /// Whatever the token says.
    pub fn sign_message(&self, message: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        let result = blocking(|| self.sign_here(message));
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().cloned();
        result
    }

    fn sign_here(&self, message: &[u8]) -> Result<Vec<u8>, Pkcs11Error> {
        let curve = self.public.curve;
        let hash = digest::digest(curve.hash(), message);
        let raw = self.token.with("sign", |open| {
            let key = open.private_key(&self.token, &self.label)?;
            Ok(open.session.sign(&Mechanism::Ecdsa, key, hash.as_ref())?)
        })?;
        let signature = sign::to_der(&raw, curve.bytes()).ok_or_else(|| Pkcs11Error::Answer {
            token: self.token.label(),
            action: "a request to sign",
            reason: format!("{} bytes instead of {}", raw.len(), 2 * curve.bytes()),
        })?;
        // A key that was replaced, or a fault in the HSM, would show only as a bad signature at every peer.
        signature::UnparsedPublicKey::new(curve.verification(), &self.public.point)
            .verify(message, &signature)
            .map_err(|_| self.other_key())?;
        Ok(signature)
    }

    fn other_key(&self) -> Pkcs11Error {
        Pkcs11Error::OtherKey { token: self.token.label(), label: self.label.clone(), public: self.origin }
    }

    /// Why it did not sign, if it did not the last time.
    pub(crate) fn failure(&self) -> Option<Pkcs11Error> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenKey")
            .field("token", &self.token)
            .field("label", &self.label)
            .finish_non_exhaustive()
    }
}

const PRIVATE: &str = "private key";

/// The private key's curve and CKA_ID.
fn describe(
    session: &Session,
    token: &Token,
    label: &str,
    private: ObjectHandle,
) -> Result<(Curve, Vec<u8>), Failure> {
    let kind =
        |reason: String| Pkcs11Error::KeyKind { token: token.label(), label: label.to_owned(), reason };
    let wanted = [
        AttributeType::KeyType,
        AttributeType::EcParams,
        AttributeType::Id,
        AttributeType::Sensitive,
        AttributeType::Extractable,
    ];
    let (mut key_type, mut parameters, mut id, mut guarded) = (None, Vec::new(), Vec::new(), true);
    for attribute in session.get_attributes(private, &wanted)? {
        match attribute {
            Attribute::KeyType(found) => key_type = Some(found),
            Attribute::EcParams(found) => parameters = found,
            Attribute::Id(found) => id = found,
            Attribute::Sensitive(false) | Attribute::Extractable(true) => guarded = false,
            _ => {}
        }
    }
    if !guarded {
        tracing::warn!(token = %token.label(), label, "this key may leave its token: it is extractable, or not sensitive");
    }
    match key_type {
        Some(KeyType::EC) => {}
        Some(other) => return Err(kind(format!("it is of type {}", show(&other.to_string()))).into()),
        None => return Err(kind("the token does not tell its type".to_owned()).into()),
    }
    let curve = Curve::ALL.into_iter().find(|curve| curve.parameters() == parameters);
    Ok((curve.ok_or_else(|| kind("it is on another curve".to_owned()))?, id))
}

fn read_public(
    session: &Session,
    token: &Token,
    label: &str,
    private: ObjectHandle,
) -> Result<PublicKey, Failure> {
    let (curve, id) = describe(session, token, label, private)?;
    // CKA_ID is what pairs two halves (v2.40 section 4.9); a label may be that of several public keys.
    let same = match id.is_empty() {
        true => Attribute::Label(label.as_bytes().to_vec()),
        false => Attribute::Id(id),
    };
    let public =
        one(session, token, label, &[Attribute::Class(ObjectClass::PUBLIC_KEY), same], "public key")?;
    let attributes = session.get_attributes(public, &[AttributeType::EcPoint])?;
    let point = attributes.iter().find_map(|attribute| match attribute {
        Attribute::EcPoint(value) => PublicKey::from_attribute(curve, value),
        _ => None,
    });
    Ok(point.ok_or_else(|| Pkcs11Error::Answer {
        token: token.label(),
        action: "a request for a public key",
        reason: "no point of its curve".to_owned(),
    })?)
}

fn make(session: &Session, token: &Token, label: &str, curve: Curve) -> Result<(), Failure> {
    let mut id = vec![0; ID_BYTES];
    rand::fill(&mut id).map_err(|_| Pkcs11Error::Call {
        token: token.label(),
        action: "make a key",
        reason: "this machine gives no random numbers".to_owned(),
    })?;
    let named = |own: &[Attribute]| {
        let names =
            [Attribute::Token(true), Attribute::Label(label.as_bytes().to_vec()), Attribute::Id(id.clone())];
        [&names, own].concat()
    };
    let public = named(&[
        Attribute::Private(false),
        Attribute::Verify(true),
        Attribute::EcParams(curve.parameters().to_vec()),
    ]);
    let private = named(&[
        Attribute::Private(true),
        Attribute::Sensitive(true),
        Attribute::Extractable(false),
        Attribute::Sign(true),
    ]);
    session.generate_key_pair(&Mechanism::EccKeyPairGen, &public, &private)?;
    Ok(())
}

/// Lets the other tasks of this thread go on elsewhere: an HSM takes milliseconds.
fn blocking<T>(run: impl FnOnce() -> T) -> T {
    match Handle::try_current() {
        Ok(handle) if handle.runtime_flavor() == RuntimeFlavor::MultiThread => {
            tokio::task::block_in_place(run)
        }
        _ => run(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(curve: Curve) -> Vec<u8> {
        std::iter::once(4).chain(std::iter::repeat_n(7, 2 * curve.bytes())).collect()
    }

    #[test]
    fn a_point_is_taken_with_and_without_its_der_head_and_only_in_full() {
        for curve in Curve::ALL {
            let point = point(curve);
            let head = [4, u8::try_from(point.len()).unwrap()];
            let key = PublicKey { curve, point: point.clone() };
            assert_eq!(PublicKey::from_attribute(curve, &point), Some(key.clone()));
            assert_eq!(PublicKey::from_attribute(curve, &[&head[..], &point].concat()), Some(key));
            for bad in
                [&point[1..], &[], &[4], &[&head[..], &point[1..]].concat(), &[&point[..], &[0]].concat()]
            {
                assert_eq!(PublicKey::from_attribute(curve, bad), None, "{bad:?}");
            }
            let mut compressed = point;
            compressed[0] = 2;
            assert_eq!(PublicKey::from_attribute(curve, &compressed), None);
        }
    }

    #[test]
    fn a_public_key_of_a_certificate_is_taken_if_it_is_one_of_ours() {
        for curve in Curve::ALL {
            let key = PublicKey { curve, point: point(curve) };
            assert_eq!(PublicKey::from_spki(&key.spki()), Some(key));
        }
        let ours = rcgen::KeyPair::generate().unwrap();
        let spki = rcgen::PublicKeyData::subject_public_key_info(&ours);
        assert_eq!(PublicKey::from_spki(&spki).unwrap().curve, Curve::P256);
        assert_eq!(PublicKey::from_spki(&spki[..spki.len() - 1]), None);
        let ed25519 = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        assert_eq!(PublicKey::from_spki(&rcgen::PublicKeyData::subject_public_key_info(&ed25519)), None);
    }
}
