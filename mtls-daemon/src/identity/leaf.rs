//! What a leaf certificate says about itself, read before anything in it is trusted.
//!
//! webpki decides about the chain; this reads the names, the serial and the usages that webpki does not
//! hand out. Nothing here is believed until the chain has been verified.

use std::time::SystemTime;

use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::oid_registry;
use x509_parser::x509::X509Name;

use super::attributes::CertificateAttributes;
use super::when;

/// Longest piece of foreign text that goes into a message, in characters.
const MAX_SHOWN: usize = 256;
/// Longest serial that is shown, in bytes; RFC 5280 section 4.1.2.2 allows 20.
const MAX_SERIAL: usize = 32;
/// The tag number of a URI in a GeneralName (RFC 5280 section 4.2.1.6).
const URI_TAG: u32 = 6;

/// Foreign text made safe for a log line: control characters escaped, length bounded.
pub(crate) fn show(text: &str) -> String {
    let mut shown: String = text.chars().take(MAX_SHOWN).flat_map(char::escape_debug).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        shown.push('…');
    }
    shown
}

/// Why a certificate cannot be read; the text is the parser's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Unreadable(pub(crate) String);

/// Which key usages are set, as far as they matter for a leaf (RFC 5280 section 4.2.1.3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct KeyUsage {
    pub(crate) digital_signature: bool,
    pub(crate) key_cert_sign: bool,
    pub(crate) crl_sign: bool,
}

/// Which extended key usages are set, as far as they matter for TLS.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ExtendedUsage {
    pub(crate) server: bool,
    pub(crate) client: bool,
}

/// The claims of one certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Leaf {
    /// Lower-case hex without leading zero bytes.
    pub(crate) serial: String,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    /// The subject's CN if there is exactly one.
    pub(crate) common_name: Option<String>,
    /// The issuer's CN, or its whole name, safe to show.
    pub(crate) issuer: String,
    /// URI SANs; `None` for one that is not text.
    pub(crate) uris: Vec<Option<String>>,
    /// DNS SANs as written.
    pub(crate) dns: Vec<String>,
    pub(crate) is_ca: bool,
    pub(crate) key_usage: Option<KeyUsage>,
    pub(crate) extended_usage: Option<ExtendedUsage>,
    /// What policy may ask for.
    pub(crate) attributes: CertificateAttributes,
}

impl Leaf {
    /// Reads one DER certificate; the caller bounds its size.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Unreadable> {
        let (rest, certificate) = x509_parser::parse_x509_certificate(der).map_err(unreadable)?;
        if !rest.is_empty() {
            return Err(Unreadable(format!("{} bytes follow the certificate", rest.len())));
        }
        let mut uris = Vec::new();
        let mut dns = Vec::new();
        for name in certificate
            .subject_alternative_name()
            .map_err(unreadable)?
            .iter()
            .flat_map(|extension| &extension.value.general_names)
        {
            match name {
                GeneralName::URI(uri) => uris.push(Some((*uri).to_owned())),
                GeneralName::Invalid(tag, _) if tag.0 == URI_TAG => uris.push(None),
                GeneralName::DNSName(name) => dns.push((*name).to_owned()),
                _ => {}
            }
        }
        let key_usage = certificate.key_usage().map_err(unreadable)?.map(|usage| KeyUsage {
            digital_signature: usage.value.digital_signature(),
            key_cert_sign: usage.value.key_cert_sign(),
            crl_sign: usage.value.crl_sign(),
        });
        let extended_usage = certificate
            .extended_key_usage()
            .map_err(unreadable)?
            .map(|usage| ExtendedUsage { server: usage.value.server_auth, client: usage.value.client_auth });
        let is_ca = certificate.basic_constraints().map_err(unreadable)?.is_some_and(|basic| basic.value.ca);
        Ok(Self {
            serial: serial(&certificate),
            not_before: when::from_unix(certificate.validity().not_before.timestamp()),
            not_after: when::from_unix(certificate.validity().not_after.timestamp()),
            common_name: only_common_name(certificate.subject()),
            issuer: shown_name(certificate.issuer()),
            uris,
            dns,
            is_ca,
            key_usage,
            extended_usage,
            attributes: CertificateAttributes::read(&certificate).map_err(Unreadable)?,
        })
    }

    /// What stands against the use as a leaf, if anything: X509-SVID sections 4.1 and 4.3.
    pub(crate) fn wrong_usage(&self) -> Option<&'static str> {
        match self.key_usage {
            _ if self.is_ca => Some("it is a CA certificate, which may not be used as a leaf"),
            Some(usage) if usage.key_cert_sign || usage.crl_sign => {
                Some("its key usage allows signing certificates or CRLs, which a leaf may not")
            }
            Some(usage) if !usage.digital_signature => Some("its key usage lacks digitalSignature"),
            _ => None,
        }
    }
}

fn unreadable(error: impl std::fmt::Display) -> Unreadable {
    Unreadable(show(&error.to_string()))
}

/// In lower-case hex without leading zero bytes; bounded.
pub(crate) fn serial(certificate: &X509Certificate<'_>) -> String {
    let raw = certificate.raw_serial();
    let significant = raw.iter().skip_while(|byte| **byte == 0);
    let mut text: String = significant.take(MAX_SERIAL).map(|byte| format!("{byte:02x}")).collect();
    if text.is_empty() {
        text.push_str("00");
    }
    text
}

fn only_common_name(name: &X509Name<'_>) -> Option<String> {
    let mut names = name.iter_by_oid(&oid_registry::OID_X509_COMMON_NAME);
    let first = names.next()?.as_str().ok()?;
    // Two common names would leave it to chance which one is the identity.
    (names.next().is_none() && !first.is_empty()).then(|| first.to_owned())
}

/// A name as a person would call it: its CN, else all of it.
pub(crate) fn shown_name(name: &X509Name<'_>) -> String {
    only_common_name(name).map_or_else(|| show(&name.to_string()), |cn| show(&cn))
}
