//! How OCSP names a certificate: by hashes of its issuer's name and key, and its serial (RFC 6960, section 4.1.1).

use std::time::SystemTime;

use aws_lc_rs::digest::{Algorithm, SHA1_FOR_LEGACY_USE_ONLY, SHA256, digest};
use rustls::pki_types::CertificateDer;
use x509_ocsp::CertId;
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{OID_HASH_SHA1, OID_NIST_HASH_SHA256, Oid};
use x509_parser::prelude::FromDer;

use super::response::{Answer, OcspError};
use crate::fetch::is_url;
use crate::identity::leaf::show;
use crate::identity::revocation::{Serial, Sha256};
use crate::identity::when;

/// The access method of a responder (RFC 6960, section 4.2.2.2: id-ad-ocsp).
const ID_AD_OCSP: &str = "1.3.6.1.5.5.7.48.1";

/// Who issued a certificate, and which of theirs it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IssuerId {
    name: Vec<u8>,
    key: Vec<u8>,
    serial: Vec<u8>,
}

impl IssuerId {
    /// Of a certificate and the CA that signed it; nothing is verified here.
    ///
    /// # Errors
    /// For bytes that are no certificates.
    pub fn of(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Result<Self, OcspError> {
        let (certificate, issuer) = (parse(certificate)?, parse(issuer)?);
        Ok(Self {
            name: issuer.subject().as_raw().to_vec(),
            key: issuer.public_key().subject_public_key.data.to_vec(),
            serial: certificate.raw_serial().to_vec(),
        })
    }

    /// The serial as DER has it, with its leading zero.
    pub(super) fn serial(&self) -> &[u8] {
        &self.serial
    }

    /// SHA-1 of name and key: what every responder understands (RFC 5019, section 2.1.1). No security rests on it: the answer
    /// is signed, and the serial is in it.
    pub(super) fn hashes(&self) -> (Vec<u8>, Vec<u8>) {
        self.hashes_with(&SHA1_FOR_LEGACY_USE_ONLY)
    }

    fn hashes_with(&self, algorithm: &'static Algorithm) -> (Vec<u8>, Vec<u8>) {
        let hash = |bytes: &[u8]| digest(algorithm, bytes).as_ref().to_vec();
        (hash(&self.name), hash(&self.key))
    }

    /// Is an answer about this certificate?
    pub(super) fn is(&self, id: &CertId) -> bool {
        let algorithm = match Oid::from_der(&der_of(id)).map(|(_, oid)| oid) {
            Ok(oid) if oid == OID_HASH_SHA1 => &SHA1_FOR_LEGACY_USE_ONLY,
            Ok(oid) if oid == OID_NIST_HASH_SHA256 => &SHA256,
            _ => return false,
        };
        let (name, key) = self.hashes_with(algorithm);
        id.issuer_name_hash.as_bytes() == name
            && id.issuer_key_hash.as_bytes() == key
            && significant(id.serial_number.as_bytes()) == significant(&self.serial)
    }
}

fn der_of(id: &CertId) -> Vec<u8> {
    use x509_cert::der::Encode;
    id.hash_algorithm.oid.to_der().unwrap_or_default()
}

/// An integer without leading zeros.
fn significant(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

/// A leaf whose chain was verified, and all that it takes to ask about it and to understand the answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    id: IssuerId,
    key: Sha256,
    serial: Serial,
    issuer: CertificateDer<'static>,
    responder: Option<Box<str>>,
    not_after: SystemTime,
}

impl Question {
    /// About a certificate that `issuer` has signed.
    ///
    /// # Errors
    /// For bytes that are no certificates.
    pub fn of(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> Result<Self, OcspError> {
        let id = IssuerId::of(certificate, issuer)?;
        // Two hashes and what is left: no two certificates have the same.
        let name = [id.hashes_with(&SHA256).0, id.hashes_with(&SHA256).1, id.serial.clone()].concat();
        Ok(Self {
            key: Sha256::of(&name),
            serial: Serial::from_bytes(&id.serial),
            id,
            issuer: CertificateDer::from(issuer.to_vec()),
            responder: responder_url(certificate)?.map(Into::into),
            not_after: when::from_unix(parse(certificate)?.validity().not_after.timestamp()),
        })
    }

    /// The question as it is sent.
    ///
    /// # Errors
    /// For a serial that is too long.
    pub fn request(&self) -> Result<Vec<u8>, OcspError> {
        super::request(&self.id)
    }

    /// What was answered, if it is an answer to this question that counts.
    ///
    /// # Errors
    /// As [`Answer::read`].
    pub fn read(&self, der: &[u8], now: SystemTime) -> Result<Answer, OcspError> {
        Answer::read(der, &self.id, &self.issuer, now)
    }

    /// The same for every certificate of this issuer's key with this serial.
    #[must_use]
    pub fn key(&self) -> &Sha256 {
        &self.key
    }

    /// The same about another certificate.
    #[cfg(test)]
    pub(super) fn numbered(&self, number: usize) -> Self {
        let serial = number.to_be_bytes();
        let (key, serial) = (Sha256::of(&serial), Serial::from_bytes(&serial));
        Self { key, serial, ..self.clone() }
    }

    /// The certificate's serial.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// The responder that the certificate names.
    #[must_use]
    pub fn responder(&self) -> Option<&str> {
        self.responder.as_deref()
    }

    /// The certificate's `notAfter`.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }
}

pub(super) fn parse<'a>(der: &'a CertificateDer<'_>) -> Result<X509Certificate<'a>, OcspError> {
    let parsed = x509_parser::parse_x509_certificate(der);
    parsed.map(|(_, parsed)| parsed).map_err(|error| OcspError::Certificate(show(&error.to_string())))
}

/// The HTTP responder that a certificate names (RFC 5280, section 4.2.2.1), if it does.
///
/// # Errors
/// For bytes that are no certificate.
pub fn responder_url(certificate: &CertificateDer<'_>) -> Result<Option<String>, OcspError> {
    let parsed = parse(certificate)?;
    let access = parsed.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityInfoAccess(access) => Some(access),
        _ => None,
    });
    let locations = access.iter().flat_map(|access| &access.accessdescs);
    let mut urls = locations.filter_map(|description| match &description.access_location {
        GeneralName::URI(url) if description.access_method.to_id_string() == ID_AD_OCSP && is_url(url) => {
            Some((*url).to_owned())
        }
        _ => None,
    });
    Ok(urls.next())
}
