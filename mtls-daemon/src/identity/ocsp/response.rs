//! The answer (RFC 6960, section 4.2), from whoever answered: nothing in it counts before the CA's signature does.

use std::time::{Duration, SystemTime};

use rustls::pki_types::{CertificateDer, UnixTime};
use webpki::{EndEntityCert, KeyUsage};
use x509_cert::der::oid::AssociatedOid;
use x509_cert::der::{Decode, Encode};
use x509_cert::ext::Extension;
use x509_ocsp::{
    BasicOcspResponse, CertStatus, OcspGeneralizedTime, OcspResponse, OcspResponseStatus, SingleResponse,
};

use super::IssuerId;
use super::question::parse;
use crate::identity::leaf::show;
use crate::identity::when;

/// Largest answer that is read, in bytes. With a responder's certificate they have 1 to 3 KiB.
pub const MAX_RESPONSE: usize = 64 * 1024;
/// By how much the clocks of a responder and of this node may differ.
const SKEW: Duration = when::CLOCK_SKEW;
/// For how long an answer without nextUpdate counts.
const WITHOUT_END: Duration = Duration::from_secs(86_400);
/// id-kp-OCSPSigning (RFC 6960, section 4.2.2.2), without tag and length.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];

/// Why there is no answer to believe.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OcspError {
    /// The certificate that is asked for, or its issuer's, cannot be read.
    #[error("a certificate cannot be parsed: {0}")]
    Certificate(String),
    /// The question cannot be written.
    #[error("an OCSP request cannot be written: {0}")]
    Request(String),
    /// More than [`MAX_RESPONSE`].
    #[error(
        "the OCSP response has {0} bytes, and at most {MAX_RESPONSE} are read; check the responder's address"
    )]
    TooLarge(usize),
    /// No OCSP response at all.
    #[error("{field} of the OCSP response cannot be parsed: {reason}; check the responder's address")]
    Malformed {
        /// Which part.
        field: &'static str,
        /// What the parser said.
        reason: String,
    },
    /// The responder does not answer.
    #[error("responseStatus: the OCSP responder says {0}; look at its log")]
    NotSuccessful(&'static str),
    /// Not signed by the CA, nor by whom it has put in charge.
    #[error(
        "signature: the OCSP response is not signed by the issuer of the certificate, nor by whom it has put in charge: {0}; \
         check the responder's key and certificate"
    )]
    Signature(String),
    /// About other certificates.
    #[error(
        "certID: the OCSP response is not about the certificate that was asked for; check the responder's address"
    )]
    OtherCertificate,
    /// From the future.
    #[error("thisUpdate: the OCSP response is {0}; check the clocks of this node and of the responder")]
    NotYetValid(String),
    /// Older than one that is known.
    #[error(
        "thisUpdate: the OCSP response of {0} is older than the one in force, of {1}; whoever serves it went back"
    )]
    Older(String, String),
    /// It says more than is understood, and that it matters.
    #[error(
        "{0} of the OCSP response: there is a critical extension, and none is known here; have the responder leave it out"
    )]
    Critical(&'static str),
    /// Too old.
    #[error("nextUpdate: the OCSP response {0}; look at the responder, or check this node's clock")]
    Expired(String),
}

impl OcspError {
    /// Would the responder answer no other question either, just now?
    pub(super) fn is_of_responder(&self) -> bool {
        matches!(self, Self::NotSuccessful("tryLater" | "internalError"))
    }
}

/// What a CA says about a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// It is not revoked.
    Good,
    /// It is, since then.
    Revoked(SystemTime),
    /// The responder does not know it.
    Unknown,
}

/// An answer that the CA has signed and that counts now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Answer {
    /// What it says.
    pub status: Status,
    /// Since when that is known.
    pub this_update: SystemTime,
    /// Until when it counts.
    pub until: SystemTime,
}

impl Answer {
    /// Does it count still?
    #[must_use]
    pub fn is_fresh(&self, now: SystemTime) -> bool {
        when::between(self.until, now) <= SKEW
    }

    /// Reads and verifies an answer about the certificate `id`, which `issuer` has signed.
    ///
    /// # Errors
    /// For everything that is not such an answer, or does not count at `now`.
    pub fn read(
        der: &[u8],
        id: &IssuerId,
        issuer: &CertificateDer<'_>,
        now: SystemTime,
    ) -> Result<Self, OcspError> {
        if der.len() > MAX_RESPONSE {
            return Err(OcspError::TooLarge(der.len()));
        }
        let basic = basic(der)?;
        verify(&basic, issuer, now)?;
        is_understood(basic.tbs_response_data.response_extensions.as_deref(), "responseExtensions")?;
        let single = basic.tbs_response_data.responses.iter().find(|single| id.is(&single.cert_id));
        Self::of(single.ok_or(OcspError::OtherCertificate)?, now)
    }

    fn of(single: &SingleResponse, now: SystemTime) -> Result<Self, OcspError> {
        is_understood(single.single_extensions.as_deref(), "singleExtensions")?;
        let this_update = time(single.this_update);
        let until = match single.next_update {
            Some(next) => time(next),
            None => this_update.checked_add(WITHOUT_END).unwrap_or(this_update),
        };
        if this_update > now.checked_add(SKEW).unwrap_or(now) {
            return Err(OcspError::NotYetValid(when::not_yet(this_update, now)));
        }
        if until < now.checked_sub(SKEW).unwrap_or(now) {
            return Err(OcspError::Expired(when::expired(until, now)));
        }
        let status = match single.cert_status {
            CertStatus::Good(_) => Status::Good,
            CertStatus::Revoked(info) => Status::Revoked(time(info.revocation_time)),
            CertStatus::Unknown(_) => Status::Unknown,
        };
        Ok(Self { status, this_update, until })
    }
}

fn is_understood(extensions: Option<&[Extension]>, field: &'static str) -> Result<(), OcspError> {
    match extensions.into_iter().flatten().find(|extension| extension.critical) {
        Some(_) => Err(OcspError::Critical(field)),
        None => Ok(()),
    }
}

fn time(time: OcspGeneralizedTime) -> SystemTime {
    time.0.to_system_time()
}

fn malformed(field: &'static str) -> impl Fn(x509_cert::der::Error) -> OcspError {
    move |error| OcspError::Malformed { field, reason: show(&error.to_string()) }
}

fn basic(der: &[u8]) -> Result<BasicOcspResponse, OcspError> {
    let response = OcspResponse::from_der(der).map_err(malformed("OCSPResponse"))?;
    let refused = match response.response_status {
        OcspResponseStatus::Successful => None,
        OcspResponseStatus::MalformedRequest => Some("malformedRequest"),
        OcspResponseStatus::InternalError => Some("internalError"),
        OcspResponseStatus::TryLater => Some("tryLater"),
        OcspResponseStatus::SigRequired => Some("sigRequired"),
        OcspResponseStatus::Unauthorized => Some("unauthorized"),
    };
    if let Some(refused) = refused {
        return Err(OcspError::NotSuccessful(refused));
    }
    let empty = || OcspError::Malformed { field: "responseBytes", reason: "there are none".to_owned() };
    let bytes = response.response_bytes.ok_or_else(empty)?;
    if bytes.response_type != BasicOcspResponse::OID {
        let reason = format!("it is {}, not id-pkix-ocsp-basic", bytes.response_type);
        return Err(OcspError::Malformed { field: "responseType", reason });
    }
    BasicOcspResponse::from_der(bytes.response.as_bytes()).map_err(malformed("BasicOCSPResponse"))
}

/// Signed by the issuer itself, or by a responder whose certificate the issuer has signed for that (RFC 6960, section 4.2.2.2).
fn verify(basic: &BasicOcspResponse, issuer: &CertificateDer<'_>, now: SystemTime) -> Result<(), OcspError> {
    // Written again as DER: what is verified is what was read, whatever else the bytes were.
    let signed = basic.tbs_response_data.to_der().map_err(malformed("responseData"))?;
    let algorithm = basic.signature_algorithm.to_der().map_err(malformed("signatureAlgorithm"))?;
    let signature = basic.signature.as_bytes().ok_or_else(|| OcspError::Malformed {
        field: "signature",
        reason: "it has unused bits".to_owned(),
    })?;
    let by_issuer = signed_by(issuer, &algorithm, &signed, signature);
    if by_issuer.is_ok() {
        return Ok(());
    }
    let mut why = by_issuer;
    for responder in basic.certs.iter().flatten() {
        let der = CertificateDer::from(responder.to_der().map_err(malformed("certs"))?);
        why = may_answer(&der, issuer, now).and_then(|()| signed_by(&der, &algorithm, &signed, signature));
        if why.is_ok() {
            return Ok(());
        }
    }
    why.map_err(OcspError::Signature)
}

fn signed_by(
    signer: &CertificateDer<'_>,
    algorithm: &[u8],
    message: &[u8],
    signature: &[u8],
) -> Result<(), String> {
    let parsed = EndEntityCert::try_from(signer).map_err(|error| format!("{error:?}"))?;
    // The identifier within its SEQUENCE.
    let wanted = |known: &&&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
        algorithm.ends_with(known.signature_alg_id().as_ref())
    };
    let mut failure = "its algorithm is not supported".to_owned();
    for known in webpki::ALL_VERIFICATION_ALGS.iter().filter(wanted) {
        match parsed.verify_signature(*known, message, signature) {
            Ok(()) => return Ok(()),
            Err(error) => failure = format!("{error:?}"),
        }
    }
    Err(failure)
}

fn may_answer(
    responder: &CertificateDer<'_>,
    issuer: &CertificateDer<'_>,
    now: SystemTime,
) -> Result<(), String> {
    let said = |error: webpki::Error| format!("{error:?}");
    let anchor = webpki::anchor_from_trusted_cert(issuer).map_err(said)?;
    let time = UnixTime::since_unix_epoch(when::between(SystemTime::UNIX_EPOCH, now));
    EndEntityCert::try_from(responder)
        .and_then(|parsed| {
            let usage = KeyUsage::required(OCSP_SIGNING);
            parsed
                .verify_for_usage(webpki::ALL_VERIFICATION_ALGS, &[anchor], &[], time, usage, None, None)
                .map(|_| ())
        })
        .map_err(said)?;
    // The issuer vouches for it directly: a chain of delegations is not to be.
    match parse(responder) {
        Ok(parsed) if !parsed.is_ca() => Ok(()),
        _ => Err("the responder's certificate is a CA's".to_owned()),
    }
}
