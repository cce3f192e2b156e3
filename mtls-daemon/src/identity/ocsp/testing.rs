//! Answers as a CA would sign them, good ones and others.

use std::time::SystemTime;

use rcgen::SigningKey;
use rustls::pki_types::CertificateDer;
use x509_cert::Certificate;
use x509_cert::der::asn1::{BitString, ObjectIdentifier};
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_cert::spki::AlgorithmIdentifierOwned;
use x509_ocsp::{
    AsResponseBytes, BasicOcspResponse, CertStatus, OcspGeneralizedTime, OcspRequest, OcspResponse,
    OcspResponseStatus, ResponderId, ResponseData, RevokedInfo, SingleResponse,
};

use super::{Question, Status};
use crate::identity::testing::TestCa;

/// ecdsa-with-SHA256 (RFC 5758, section 3.2): what keys of [`TestCa`] sign with.
const ECDSA_SHA256: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.10045.4.3.2");

/// What a responder says about one certificate.
#[derive(Clone)]
pub(crate) struct Says {
    pub(crate) status: Status,
    pub(crate) this_update: SystemTime,
    pub(crate) next_update: Option<SystemTime>,
    pub(crate) extensions: Option<Vec<Extension>>,
    /// Certificates that come along, which nobody signs for.
    pub(crate) certs: Vec<CertificateDer<'static>>,
}

impl Says {
    pub(crate) fn new(status: Status, this_update: SystemTime, next_update: SystemTime) -> Self {
        Self { status, this_update, next_update: Some(next_update), extensions: None, certs: vec![] }
    }

    /// About this certificate, signed by `ca`, in DER.
    pub(crate) fn about(&self, leaf: &CertificateDer<'_>, ca: &TestCa) -> Vec<u8> {
        let request = Question::of(leaf, &ca.der).unwrap().request().unwrap();
        let request = OcspRequest::from_der(&request).unwrap();
        let cert_id = request.tbs_request.request_list[0].req_cert.clone();
        let time = |time: SystemTime| OcspGeneralizedTime::try_from(time).unwrap();
        let single = SingleResponse {
            cert_status: match self.status {
                Status::Good => CertStatus::good(),
                Status::Unknown => CertStatus::unknown(),
                Status::Revoked(at) => {
                    CertStatus::revoked(RevokedInfo { revocation_time: time(at), revocation_reason: None })
                }
            },
            this_update: time(self.this_update),
            next_update: self.next_update.map(time),
            single_extensions: self.extensions.clone(),
            cert_id: cert_id.clone(),
        };
        let data = ResponseData {
            version: Default::default(),
            responder_id: ResponderId::ByKey(cert_id.issuer_key_hash),
            produced_at: time(self.this_update),
            responses: vec![single],
            response_extensions: None,
        };
        let signature = ca.key.sign(&data.to_der().unwrap()).unwrap();
        let certs = || self.certs.iter().map(|der| Certificate::from_der(der).unwrap()).collect();
        let basic = BasicOcspResponse {
            tbs_response_data: data,
            signature_algorithm: AlgorithmIdentifierOwned { oid: ECDSA_SHA256, parameters: None },
            signature: BitString::from_bytes(&signature).unwrap(),
            certs: (!self.certs.is_empty()).then(certs),
        };
        let bytes = Some(basic.to_response_bytes().unwrap());
        OcspResponse { response_status: OcspResponseStatus::Successful, response_bytes: bytes }
            .to_der()
            .unwrap()
    }
}

/// `good` from now for an hour.
pub(crate) fn good() -> Says {
    let now = SystemTime::now();
    Says::new(Status::Good, now, now + crate::identity::testing::HOUR)
}

/// The same, but revoked a minute ago.
pub(crate) fn revoked() -> Says {
    let now = SystemTime::now();
    Says { status: Status::Revoked(now - std::time::Duration::from_secs(60)), ..good() }
}
