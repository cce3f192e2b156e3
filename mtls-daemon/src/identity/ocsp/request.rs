//! The question (RFC 6960, section 4.1): one certificate, no nonce, so that responders may answer from a cache (RFC 5019).

use x509_cert::der::asn1::{Null, ObjectIdentifier, OctetString};
use x509_cert::der::{Any, Encode};
use x509_ocsp::{CertId, OcspRequest, Request, TbsRequest};

use super::{IssuerId, OcspError};

/// id-sha1 (RFC 3279, section 2.2.1).
const SHA1: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.14.3.2.26");

/// Asks for the status of one certificate.
///
/// # Errors
/// For a serial that is too long.
pub fn request(id: &IssuerId) -> Result<Vec<u8>, OcspError> {
    let (name, key) = id.hashes();
    let encoded = || {
        let req_cert = CertId {
            hash_algorithm: x509_cert::spki::AlgorithmIdentifier {
                oid: SHA1,
                parameters: Some(Any::from(Null)),
            },
            issuer_name_hash: OctetString::new(name)?,
            issuer_key_hash: OctetString::new(key)?,
            serial_number: x509_cert::serial_number::SerialNumber::new(id.serial())?,
        };
        let request = Request { req_cert, single_request_extensions: None };
        let tbs_request = TbsRequest { request_list: vec![request], ..TbsRequest::default() };
        OcspRequest { tbs_request, optional_signature: None }.to_der()
    };
    encoded().map_err(|error: x509_cert::der::Error| OcspError::Request(error.to_string()))
}
