//! Reading a certificate revocation list (RFC 5280 section 5): whole, direct, and signed by an issuer of its trust
//! domain.
//!
//! webpki checks the form and knows every extension that changes what a list means; x509-parser gives what webpki
//! does not hand out. webpki's own check of a path against lists is not used: chains are remembered here, and a list
//! that arrives later must still be asked.

use std::collections::HashSet;
use std::time::SystemTime;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, CertificateRevocationListDer};
use webpki::{BorrowedCertRevocationList, EndEntityCert, Error as PkiError};
use x509_parser::extensions::ParsedExtension;
use x509_parser::oid_registry::Oid;

use super::marks::{DistinguishedName, Serial, Sha256};
use crate::identity::bundle::Root;
use crate::identity::leaf::{show, shown_name};
use crate::identity::{Bundle, when};

/// Largest list that is read, in bytes.
pub const MAX_CRL_BYTES: usize = 16 << 20;
/// Most entries of one list.
pub const MAX_CRL_ENTRIES: usize = 200_000;
/// Most intermediates that may sign lists of one source.
pub const MAX_CRL_ISSUERS: usize = 64;

/// Why bytes are not a list that can be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CrlError {
    /// More than [`MAX_CRL_BYTES`].
    #[error("the CRL has {0} bytes and at most {MAX_CRL_BYTES} are read; have its issuer split it")]
    TooLarge(usize),
    /// More than [`MAX_CRL_ENTRIES`].
    #[error(
        "the CRL has more than {MAX_CRL_ENTRIES} entries; have its issuer leave out what has expired, or split it"
    )]
    TooManyEntries,
    /// Neither PEM nor DER.
    #[error("the CRL cannot be parsed: {0}; look at it with `openssl crl -text` and fetch it again")]
    Malformed(String),
    /// PEM with more than one list, of which only one would be in force.
    #[error(
        "the file has more than one CRL; give each a file and an entry of its own (`csplit`, docs/revocation.md)"
    )]
    Several,
    /// It only says what has changed since another one.
    #[error(
        "deltaCRLIndicator: this is a delta CRL, which says only what has changed; give the complete one"
    )]
    Delta,
    /// It speaks for other issuers than its own.
    #[error(
        "indirectCRL or certificateIssuer: this is an indirect CRL, which speaks for others; give each issuer's own"
    )]
    Indirect,
    /// It speaks of some reasons or of attribute certificates only.
    #[error(
        "issuingDistributionPoint: this CRL covers only some reasons, or attribute certificates; give the complete one"
    )]
    Partial,
    /// Its time has not come.
    #[error("thisUpdate: the CRL is {0}; check this node's clock")]
    NotYet(String),
    /// Nobody that could have signed it is known.
    #[error(
        "issuer: no root of its trust domain and no certificate of `issuer_file` has the name {0:?}; add the \
         issuer's certificate to `issuer_file`"
    )]
    UnknownIssuer(String),
    /// Its issuer may not sign lists.
    #[error("issuer: the key usage of {0:?} does not allow signing CRLs (cRLSign)")]
    Usage(String),
    /// Signed by somebody else.
    #[error("signature: it was not made by {0:?}; the CRL was altered, or the issuer has another key by now")]
    Signature(String),
}

/// A list whose signature was verified.
#[derive(Debug)]
pub struct Crl {
    /// Whose certificates it is about.
    pub issuer: DistinguishedName,
    /// SHA-256 of the SubjectPublicKeyInfo that verified it.
    pub signer: Sha256,
    /// When it was made.
    pub this_update: SystemTime,
    /// When the next one is due; from then on it is stale.
    pub next_update: SystemTime,
    /// Is it about leaves?
    pub leaves: bool,
    /// Is it about intermediates?
    pub authorities: bool,
    /// Where it came from, for messages.
    pub source: String,
    pub(super) serials: HashSet<Serial>,
}

impl Crl {
    /// Reads one list, in PEM or DER. `issuers`: who may have signed it, see [`issuers`].
    ///
    /// # Errors
    /// Which field is wrong, and why.
    pub fn read(
        bytes: &[u8],
        issuers: &[CertificateDer<'_>],
        source: &str,
        now: SystemTime,
    ) -> Result<Self, CrlError> {
        if bytes.len() > MAX_CRL_BYTES {
            return Err(CrlError::TooLarge(bytes.len()));
        }
        let mut blocks = CertificateRevocationListDer::pem_slice_iter(bytes);
        let der = match blocks.next() {
            Some(Ok(_)) if blocks.next().is_some() => return Err(CrlError::Several),
            Some(Ok(der)) => der,
            Some(Err(error)) => return Err(CrlError::Malformed(show(&error.to_string()))),
            None => CertificateRevocationListDer::from(bytes),
        };
        let serials = serials(&der)?;
        let malformed = |error: &dyn std::fmt::Display| CrlError::Malformed(show(&error.to_string()));
        let (_, crl) = x509_parser::parse_x509_crl(&der).map_err(|error| malformed(&error))?;
        let (mut leaves, mut authorities) = (true, true);
        for extension in crl.extensions() {
            if let ParsedExtension::IssuingDistributionPoint(scope) = extension.parsed_extension() {
                if scope.only_contains_attribute_certs {
                    return Err(CrlError::Partial);
                }
                leaves = !scope.only_contains_ca_certs;
                authorities = !scope.only_contains_user_certs;
            }
        }
        let next_update = crl.next_update().ok_or_else(|| malformed(&"it has no nextUpdate"))?;
        let this_update = when::from_unix(crl.last_update().timestamp());
        if this_update > now {
            return Err(CrlError::NotYet(when::not_yet(this_update, now)));
        }
        let issuer =
            DistinguishedName { sha256: Sha256::of(crl.issuer().as_raw()), name: shown_name(crl.issuer()) };
        let signed = Signed {
            content: crl.tbs_cert_list.as_ref(),
            algorithm: &crl.signature_algorithm.algorithm,
            signature: &crl.signature_value.data,
        };
        let signer = signer(&signed, crl.issuer().as_raw(), &issuer.name, issuers)?;
        Ok(Self {
            issuer,
            signer,
            this_update,
            next_update: when::from_unix(next_update.timestamp()),
            leaves,
            authorities,
            source: source.to_owned(),
            serials,
        })
    }

    /// Is the next one overdue?
    #[must_use]
    pub fn is_stale(&self, now: SystemTime) -> bool {
        now > self.next_update
    }

    /// How many certificates it revokes.
    #[must_use]
    pub fn entries(&self) -> usize {
        self.serials.len()
    }
}

fn serials(der: &[u8]) -> Result<HashSet<Serial>, CrlError> {
    let refuse = |error: PkiError| match error {
        PkiError::UnsupportedDeltaCrl => CrlError::Delta,
        PkiError::UnsupportedIndirectCrl => CrlError::Indirect,
        PkiError::UnsupportedRevocationReasonsPartitioning => CrlError::Partial,
        other => CrlError::Malformed(format!("{other:?}")),
    };
    let crl = BorrowedCertRevocationList::from_der(der).map_err(refuse)?;
    let mut serials = HashSet::new();
    for entry in &crl {
        if serials.len() >= MAX_CRL_ENTRIES {
            return Err(CrlError::TooManyEntries);
        }
        serials.insert(Serial::from_bytes(entry.map_err(refuse)?.serial_number));
    }
    Ok(serials)
}

/// What was signed, how, and the signature.
struct Signed<'a> {
    content: &'a [u8],
    algorithm: &'a Oid<'a>,
    signature: &'a [u8],
}

impl Signed<'_> {
    /// With the algorithms that certificates are verified with too.
    fn is_by(&self, issuer: &CertificateDer<'_>) -> bool {
        let Ok(issuer) = EndEntityCert::try_from(issuer) else { return false };
        // The identifier of an algorithm begins with its OID, whose length fits one byte.
        let oid = self.algorithm.as_bytes();
        let length = u8::try_from(oid.len()).unwrap_or(u8::MAX);
        let begins = [&[0x06, length], oid].concat();
        webpki::ALL_VERIFICATION_ALGS
            .iter()
            .filter(|algorithm| algorithm.signature_alg_id().as_ref().starts_with(&begins))
            .any(|algorithm| issuer.verify_signature(*algorithm, self.content, self.signature).is_ok())
    }
}

fn signer(
    signed: &Signed<'_>,
    name: &[u8],
    shown: &str,
    issuers: &[CertificateDer<'_>],
) -> Result<Sha256, CrlError> {
    let mut error = CrlError::UnknownIssuer(shown.to_owned());
    for der in issuers {
        let Ok((_, issuer)) = x509_parser::parse_x509_certificate(der) else { continue };
        if issuer.subject().as_raw() != name {
            continue;
        }
        if !signed.is_by(der) {
            error = CrlError::Signature(shown.to_owned());
        } else if issuer.key_usage().ok().flatten().is_some_and(|usage| !usage.value.crl_sign()) {
            return Err(CrlError::Usage(shown.to_owned()));
        } else {
            return Ok(Sha256::of(issuer.public_key().raw));
        }
    }
    Err(error)
}

/// Who may sign lists of a trust domain: its roots, and those of `intermediates` that lead to one of them.
#[must_use]
pub fn issuers(
    bundle: &Bundle,
    intermediates: &[CertificateDer<'static>],
    now: SystemTime,
) -> Vec<CertificateDer<'static>> {
    let roots = bundle.roots().iter().filter(|root| root.is_valid_at(now)).map(Root::der).cloned();
    let mut known: Vec<_> = roots.collect();
    let mut open: Vec<_> = intermediates.iter().take(MAX_CRL_ISSUERS).collect();
    // Each round finds those one step further down.
    loop {
        let before = open.len();
        open.retain(|der| {
            let found = is_authority_below(der, &known, now);
            if found {
                known.push((*der).clone());
            }
            !found
        });
        if open.len() == before {
            return known;
        }
    }
}

fn is_authority_below(der: &CertificateDer<'_>, known: &[CertificateDer<'_>], now: SystemTime) -> bool {
    let Ok((_, certificate)) = x509_parser::parse_x509_certificate(der) else { return false };
    let is_ca = certificate.basic_constraints().ok().flatten().is_some_and(|basic| basic.value.ca);
    let (from, until) = (certificate.validity().not_before, certificate.validity().not_after);
    let valid = when::from_unix(from.timestamp()) <= now && now <= when::from_unix(until.timestamp());
    is_ca && valid && known.iter().any(|issuer| is_signed_by(der, issuer))
}

/// Is it the issuer that the certificate names, and is the signature its?
pub(crate) fn is_signed_by(certificate: &CertificateDer<'_>, issuer: &CertificateDer<'_>) -> bool {
    let parse = |der| x509_parser::parse_x509_certificate(der).map(|(_, parsed)| parsed);
    let (Ok(certificate), Ok(parsed)) = (parse(certificate), parse(issuer)) else { return false };
    let signed = Signed {
        content: certificate.tbs_certificate.as_ref(),
        algorithm: &certificate.signature_algorithm.algorithm,
        signature: &certificate.signature_value.data,
    };
    parsed.subject().as_raw() == certificate.issuer().as_raw() && signed.is_by(issuer)
}

#[cfg(test)]
mod tests;
