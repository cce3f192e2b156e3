//! What the CA signs: roots, intermediates and leaves.

use std::time::{Duration, SystemTime};

use rcgen::string::Ia5String;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyIdMethod, KeyUsagePurpose, SanType, SerialNumber, SigningKey,
};
use rustls::pki_types::{CertificateDer, UnixTime};
use time::OffsetDateTime;
use x509_parser::extensions::ParsedExtension;

use super::{CLOCK_SKEW, CaError, INTERMEDIATE_LIFETIME, ROOT_LIFETIME, crypto};
use crate::identity::key::{OwnKey, SecretKey};
use crate::identity::leaf::show;
use crate::identity::subject::{MAX_ATTRIBUTE, Subject};
use crate::identity::{Bundle, SpiffeId, TrustDomain, when};

/// Bytes of a serial number: 128 random bits (RFC 5280 section 4.1.2.2 allows 160).
const SERIAL_BYTES: usize = 16;
/// Life of the leaf that `check_chain` signs and throws away.
const PROBE_LIFETIME: Duration = Duration::from_secs(60);

/// What signs for a CA certificate: a key in memory, or one that stays where it is.
pub(super) type Signer = dyn SigningKey + Send + Sync;

/// A CA certificate and what signs for it.
pub(super) fn issuer<'a>(
    der: &CertificateDer<'_>,
    key: &'a Signer,
) -> Result<Issuer<'static, &'a Signer>, CaError> {
    Issuer::from_ca_cert_der(der, key).map_err(crypto("read the CA certificate"))
}

/// A root with a key of its own.
pub(super) fn root(
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<(SecretKey, CertificateDer<'static>), CaError> {
    let key = generate()?;
    let mut params = ca_params("root", domain, now, ROOT_LIFETIME)?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let certificate = params.self_signed(&key).map_err(crypto("sign the root"))?;
    Ok((key, certificate.into()))
}

/// An intermediate for a key, no longer than `until`; one that replaces another has its name, so that one CRL speaks for
/// both.
pub(super) fn intermediate(
    root: &Issuer<'_, &Signer>,
    key: &Signer,
    domain: &TrustDomain,
    name: Option<&str>,
    until: SystemTime,
    now: SystemTime,
) -> Result<CertificateDer<'static>, CaError> {
    let mut params = intermediate_params(domain, name, now)?;
    // It would be good for nothing after its root.
    params.not_after = params.not_after.min(date(until)?);
    Ok(params.signed_by(&key, root).map_err(crypto("sign the intermediate"))?.into())
}

pub(super) fn intermediate_params(
    domain: &TrustDomain,
    name: Option<&str>,
    now: SystemTime,
) -> Result<CertificateParams, CaError> {
    let mut params = ca_params("intermediate", domain, now, INTERMEDIATE_LIFETIME)?;
    if let Some(name) = name {
        params.distinguished_name.push(DnType::CommonName, name);
    }
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.use_authority_key_identifier_extension = true;
    // No name constraint on the trust domain: webpki 0.103 does not implement URI constraints and refuses
    // every chain that has one. The bundle of each trust domain does that work; see docs/embedded-ca.md.
    Ok(params)
}

/// A request for an intermediate (RFC 2986) as PEM. One that renews another asks for its subject.
pub(super) fn request(
    domain: &TrustDomain,
    renewed: Option<&CertificateDer<'_>>,
    key: &OwnKey,
    now: SystemTime,
) -> Result<String, CaError> {
    let mut params = intermediate_params(domain, None, now)?;
    params.serial_number = None;
    params.use_authority_key_identifier_extension = false;
    if let Some(renewed) = renewed {
        let action = "ask for the subject of the intermediate";
        let (_, old) = x509_parser::parse_x509_certificate(renewed)
            .map_err(|error| CaError::Crypto { action, reason: show(&error.to_string()) })?;
        params.distinguished_name = super::site::name::written_again(old.subject())
            .map_err(|reason| CaError::Crypto { action, reason: reason.to_owned() })?;
    }
    let request = params.serialize_request(key).map_err(crypto("sign a certificate request"));
    let request = request.map_err(|error| super::key::explained(key, error))?;
    Ok(super::directory::pem_block("CERTIFICATE REQUEST", request.der()))
}

/// What a leaf shall say, and who asked for it.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    /// The SPIFFE ID, the one URI SAN.
    pub id: &'a SpiffeId,
    /// The DNS SANs.
    pub dns_names: &'a [String],
    /// The subject.
    pub subject: &'a Subject,
    /// For the issuance log.
    pub requested_by: &'a str,
}

/// Signs a leaf for a fresh key.
pub(super) fn leaf(
    issuer: &Issuer<'_, &Signer>,
    order: &Order<'_>,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<(CertificateDer<'static>, SecretKey), CaError> {
    let mut params = params(now.checked_sub(CLOCK_SKEW).unwrap_or(now), not_after)?;
    params.subject_alt_names = vec![SanType::URI(ascii(order.id.as_str())?)];
    for name in order.dns_names {
        // `localhost` and other single labels are fine; an address or a wildcard is not a workload's name.
        if rustls::pki_types::DnsName::try_from(name.as_str()).is_err() {
            return Err(CaError::DnsName(show(name)));
        }
        params.subject_alt_names.push(SanType::DnsName(ascii(name)?));
    }
    params.distinguished_name = order.subject.distinguished_name(order.id.trust_domain());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    let key = generate()?;
    let certificate = params.signed_by(&key, issuer).map_err(crypto("sign a certificate"))?;
    Ok((certificate.into(), key))
}

/// Would a leaf signed by the first of these intermediates be accepted by someone who trusts the root?
pub(super) fn check_chain(
    chain: &[CertificateDer<'static>],
    key: &OwnKey,
    bundle: &Bundle,
    domain: &TrustDomain,
    now: SystemTime,
) -> Result<(), ProbeRefused> {
    let odd = || ProbeRefused::Refused("it cannot be tried".to_owned());
    let id: SpiffeId = format!("spiffe://{domain}/mtlsd/self-check").parse().map_err(|_| odd())?;
    let end = now.checked_add(PROBE_LIFETIME).ok_or_else(odd)?;
    let der = chain.first().ok_or_else(odd)?;
    let issuer = issuer(der, key).map_err(|error| ProbeRefused::Refused(error.to_string()))?;
    let order = Order { id: &id, dns_names: &[], subject: &Subject::default(), requested_by: "" };
    let (probe, _) = leaf(&issuer, &order, now, end).map_err(ProbeRefused::Unsigned)?;
    let now = UnixTime::since_unix_epoch(when::between(SystemTime::UNIX_EPOCH, now));
    webpki::EndEntityCert::try_from(&probe)
        .and_then(|probe| {
            let usage = webpki::KeyUsage::server_auth();
            let algorithms = webpki::ALL_VERIFICATION_ALGS;
            probe.verify_for_usage(algorithms, bundle.anchors(), chain, now, usage, None, None).map(|_| ())
        })
        .map_err(|error| ProbeRefused::Refused(format!("{error:?}")))
}

/// Why a leaf of this CA would be refused.
#[derive(Debug)]
pub(super) enum ProbeRefused {
    /// There is none: it was not signed.
    Unsigned(CaError),
    /// What webpki says.
    Refused(String),
}

/// Eight hexadecimal digits that nobody else has.
pub(super) fn tag() -> Result<String, CaError> {
    Ok(random::<4>()?.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// The subject key identifier of a CA certificate, which a PKI elsewhere may have made in its own way.
pub(super) fn key_identifier(der: &CertificateDer<'_>) -> KeyIdMethod {
    let parsed = x509_parser::parse_x509_certificate(der).ok();
    let identifier = parsed.as_ref().and_then(|(_, certificate)| {
        certificate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
            ParsedExtension::SubjectKeyIdentifier(identifier) => Some(identifier.0.to_vec()),
            _ => None,
        })
    });
    identifier.map_or(KeyIdMethod::Sha256, KeyIdMethod::PreSpecified)
}

fn ca_params(
    kind: &str,
    domain: &TrustDomain,
    now: SystemTime,
    lifetime: Duration,
) -> Result<CertificateParams, CaError> {
    let not_after = now.checked_add(lifetime).unwrap_or(now);
    let mut params = params(now.checked_sub(CLOCK_SKEW).unwrap_or(now), not_after)?;
    // The number tells two CAs of one trust domain apart: equal names would turn "another CA" into
    // "bad signature" when a peer looks for the issuer.
    let tag = tag()?;
    params.distinguished_name.push(DnType::CommonName, format!("mtlsd {kind} CA {tag}"));
    params.distinguished_name.push(DnType::OrganizationName, clip(domain.as_str()));
    params.subject_alt_names = vec![SanType::URI(ascii(&format!("spiffe://{domain}"))?)];
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

fn params(not_before: SystemTime, not_after: SystemTime) -> Result<CertificateParams, CaError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.serial_number = Some(SerialNumber::from_slice(&random::<SERIAL_BYTES>()?));
    params.not_before = date(not_before)?;
    params.not_after = date(not_after)?;
    Ok(params)
}

pub(super) fn date(time: SystemTime) -> Result<OffsetDateTime, CaError> {
    when::to_unix(time).and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()).ok_or(
        CaError::Crypto {
            action: "write the validity of a certificate",
            reason: "this node's clock is outside the calendar".to_owned(),
        },
    )
}

fn clip(name: &str) -> String {
    name.chars().take(MAX_ATTRIBUTE).collect()
}

fn ascii(text: &str) -> Result<Ia5String, CaError> {
    Ia5String::try_from(text.to_owned()).map_err(crypto("write a name into a certificate"))
}

fn generate() -> Result<SecretKey, CaError> {
    SecretKey::generate().map_err(crypto("generate a key"))
}

fn random<const N: usize>() -> Result<[u8; N], CaError> {
    let mut bytes = [0; N];
    rustls::crypto::aws_lc_rs::default_provider()
        .secure_random
        .fill(&mut bytes)
        .map_err(|error| CaError::Crypto { action: "get random numbers", reason: format!("{error:?}") })?;
    Ok(bytes)
}
