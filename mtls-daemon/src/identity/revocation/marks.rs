//! By what a certificate can be revoked: its serial and issuer, its key, its SPIFFE ID.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use rustls::pki_types::CertificateDer;
use serde::{Deserialize, Serialize};

use crate::identity::SpiffeId;
use crate::identity::leaf::{Unreadable, show, shown_name};
use crate::identity::ocsp::Question;
use crate::identity::verified::Fingerprint;

/// Longest serial that somebody may write down, in bytes. RFC 5280 section 4.1.2.2 allows 20; some CAs make more.
const MAX_WRITTEN_SERIAL: usize = 64;

/// A text that is neither a serial nor a SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkError {
    /// Not hex, or too long.
    #[error("{0:?} is not a serial number; write it in hex, as `openssl x509 -serial` shows it")]
    Serial(String),
    /// Not 64 hex digits.
    #[error(
        "{0:?} is not a SHA-256; write 64 hex digits: openssl x509 -in FILE -noout -pubkey | \
         openssl pkey -pubin -outform DER | sha256sum"
    )]
    Sha256(String),
}

/// A certificate's serial number: its bytes without leading zeros.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Serial(Box<[u8]>);

impl Serial {
    /// Of the content of the DER integer.
    pub(crate) fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.iter().copied().skip_while(|byte| *byte == 0).collect())
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("00");
        }
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl FromStr for Serial {
    type Err = MarkError;

    /// Hex in either case; colons between the bytes are allowed.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bad = || MarkError::Serial(show(text));
        let mut digits: String = text.chars().filter(|c| *c != ':').collect();
        if digits.len() % 2 == 1 {
            digits.insert(0, '0');
        }
        let bytes = bytes_of(&digits).ok_or_else(bad)?;
        if bytes.is_empty() || bytes.len() > MAX_WRITTEN_SERIAL {
            return Err(bad());
        }
        Ok(Self::from_bytes(&bytes))
    }
}

impl TryFrom<String> for Serial {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Serial> for String {
    fn from(serial: Serial) -> Self {
        serial.to_string()
    }
}

/// A SHA-256, of a SubjectPublicKeyInfo or of a distinguished name, both in DER.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Sha256([u8; 32]);

impl Sha256 {
    /// The hash of `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        let mut hash = [0; 32];
        hash.iter_mut().zip(digest(&SHA256, bytes).as_ref()).for_each(|(place, byte)| *place = *byte);
        Self(hash)
    }
}

impl fmt::Display for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Sha256 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Sha256({self})")
    }
}

impl FromStr for Sha256 {
    type Err = MarkError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = bytes_of(text).and_then(|bytes| bytes.try_into().ok());
        bytes.map(Self).ok_or_else(|| MarkError::Sha256(show(text)))
    }
}

impl TryFrom<String> for Sha256 {
    type Error = MarkError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Sha256> for String {
    fn from(hash: Sha256) -> Self {
        hash.to_string()
    }
}

fn bytes_of(hex: &str) -> Option<Vec<u8>> {
    if !hex.bytes().all(|byte| byte.is_ascii_hexdigit()) || hex.len() % 2 == 1 {
        return None;
    }
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(hex.get(at..at + 2)?, 16).ok()).collect()
}

/// A distinguished name: the hash of its DER is what is compared, the text is for people.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DistinguishedName {
    /// Of its DER.
    pub sha256: Sha256,
    /// Its common name, or all of it; safe to show.
    pub name: String,
}

/// What one certificate of a chain can be revoked by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct CertificateMarks {
    /// Its serial number.
    pub serial: Serial,
    /// SHA-256 of its issuer's name.
    pub issuer: Sha256,
    /// SHA-256 of its SubjectPublicKeyInfo.
    pub key: Sha256,
}

impl CertificateMarks {
    /// Reads one DER certificate; the caller bounds its size.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Unreadable> {
        Self::read_named(der).map(|(marks, _)| marks)
    }

    /// As `read`, with the issuer's name.
    pub(crate) fn read_named(der: &[u8]) -> Result<(Self, DistinguishedName), Unreadable> {
        let unreadable = |error: &dyn fmt::Display| Unreadable(show(&error.to_string()));
        let (_, certificate) =
            x509_parser::parse_x509_certificate(der).map_err(|error| unreadable(&error))?;
        let issuer = Sha256::of(certificate.issuer().as_raw());
        let marks = Self {
            serial: Serial::from_bytes(certificate.raw_serial()),
            issuer,
            key: Sha256::of(certificate.public_key().raw),
        };
        Ok((marks, DistinguishedName { sha256: issuer, name: shown_name(certificate.issuer()) }))
    }
}

/// What a whole chain can be revoked by; shared by all who use that chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainMarks {
    /// Which chain it is, and what for.
    pub(crate) fingerprint: Fingerprint,
    /// The leaf's SPIFFE ID, if it has one.
    pub id: Option<SpiffeId>,
    /// The leaf, the intermediates of its path, and the root where it is known.
    pub certificates: Box<[CertificateMarks]>,
    /// Is the last one the root?
    pub rooted: bool,
    /// How the leaf's issuer is asked about it; `None` where the issuer is not known.
    pub(crate) question: Option<Arc<Question>>,
}

impl ChainMarks {
    /// Of the certificates of a path, leaf first.
    pub(crate) fn of<'a, 'c: 'a>(
        fingerprint: Fingerprint,
        id: Option<SpiffeId>,
        path: impl IntoIterator<Item = &'a CertificateDer<'c>>,
        rooted: bool,
    ) -> Result<Self, Unreadable> {
        let path: Vec<_> = path.into_iter().collect();
        let certificates = path.iter().map(|der| CertificateMarks::read(der)).collect::<Result<_, _>>()?;
        let question = match path.as_slice() {
            [leaf, issuer, ..] => Question::of(leaf, issuer).ok().map(Arc::new),
            _ => None,
        };
        Ok(Self { fingerprint, id, certificates, rooted, question })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::leaf::Leaf;
    use crate::identity::testing::{LeafSpec, TestCa};

    #[test]
    fn a_serial_is_the_same_however_it_is_written() {
        let serial: Serial = "0ABc".parse().unwrap();
        for same in ["abc", "00:0a:bc", "0A:BC", "00000abc"] {
            assert_eq!(same.parse::<Serial>().unwrap(), serial, "{same}");
        }
        assert_eq!(serial.to_string(), "0abc");
        assert_eq!("0".parse::<Serial>().unwrap().to_string(), "00");
        for bad in ["", ":", "0x0a", "g1", "-1", "é", &"a".repeat(200)] {
            assert!(bad.parse::<Serial>().unwrap_err().to_string().contains("hex"), "{bad}");
        }
    }

    #[test]
    fn a_hash_has_exactly_64_digits() {
        let hash = Sha256::of(b"abc");
        assert_eq!(hash.to_string(), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(hash.to_string().to_uppercase().parse(), Ok(hash));
        for bad in ["", "ba78", &format!("{hash}00"), &"g".repeat(64), &"é".repeat(32)] {
            assert!(bad.parse::<Sha256>().unwrap_err().to_string().contains("sha256sum"), "{bad}");
        }
    }

    #[test]
    fn marks_are_what_the_certificate_says() {
        let root = TestCa::root("root");
        let leaf = root.intermediate("between").leaf(&LeafSpec::default());
        let (marks, issuer) = CertificateMarks::read_named(&leaf.chain[0]).unwrap();
        assert_eq!(marks.serial.to_string(), Leaf::read(&leaf.chain[0]).unwrap().serial);
        assert_eq!((issuer.name.as_str(), issuer.sha256), ("between", marks.issuer));
        assert_eq!(marks.key, Sha256::of(&rcgen::PublicKeyData::subject_public_key_info(&leaf.key)));
        let above = CertificateMarks::read(&leaf.chain[1]).unwrap();
        assert!(above.key != marks.key && above.issuer != marks.issuer && above.serial != marks.serial);
        assert!(CertificateMarks::read(b"not a certificate").is_err());
    }
}
