//! What a leaf certificate says of its holder besides the name: for policy.

use std::fmt::Write as _;

use x509_parser::certificate::X509Certificate;
use x509_parser::der_parser::asn1_rs::{Any, FromDer, Tag};
use x509_parser::oid_registry::{self, Oid};
use x509_parser::x509::AttributeTypeAndValue;

use super::revocation::Sha256;

/// Most attributes of one kind that a certificate may have.
pub const MAX_ATTRIBUTES: usize = 64;
/// Longest value that is kept as it is, in bytes; of a longer one its SHA-256.
pub const MAX_VALUE: usize = 256;

/// Arcs of extensions that are part of X.509 itself (RFC 5280): id-ce and id-pe.
const STANDARD: [&str; 2] = ["2.5.29.", "1.3.6.1.5.5.7.1."];

/// Attributes of a verified leaf. Text is as the certificate has it; other values are `hex:` and their DER in hex, and of one
/// that is longer than [`MAX_VALUE`] `sha256:` and its hash.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct CertificateAttributes {
    /// O of the subject.
    pub organizations: Vec<Box<str>>,
    /// OU of the subject.
    pub organizational_units: Vec<Box<str>>,
    /// Extensions that RFC 5280 does not define: OID in dotted decimal, and value.
    pub extensions: Vec<(Box<str>, Box<str>)>,
}

impl CertificateAttributes {
    /// Of somebody who has no certificate.
    pub const NONE: &'static Self =
        &Self { organizations: Vec::new(), organizational_units: Vec::new(), extensions: Vec::new() };

    /// Reads them.
    pub(super) fn read(certificate: &X509Certificate<'_>) -> Result<Self, String> {
        let of = |oid| -> Vec<Box<str>> {
            certificate.subject().iter_by_oid(oid).take(MAX_ATTRIBUTES + 1).map(attribute).collect()
        };
        let attributes = Self {
            organizations: of(&oid_registry::OID_X509_ORGANIZATION_NAME),
            organizational_units: of(&oid_registry::OID_X509_ORGANIZATIONAL_UNIT),
            extensions: certificate
                .extensions()
                .iter()
                .filter_map(|extension| Some((custom(&extension.oid)?, value(extension.value))))
                .take(MAX_ATTRIBUTES + 1)
                .collect(),
        };
        let lists = [
            ("organizations", attributes.organizations.len()),
            ("organizational units", attributes.organizational_units.len()),
            ("extensions of its own", attributes.extensions.len()),
        ];
        match lists.iter().find(|(_, length)| *length > MAX_ATTRIBUTES) {
            // To leave some out could make a deny rule miss.
            Some((what, _)) => Err(format!("it has more than {MAX_ATTRIBUTES} {what}")),
            None => Ok(attributes),
        }
    }
}

fn custom(oid: &Oid<'_>) -> Option<Box<str>> {
    let text = oid.to_id_string();
    (!STANDARD.iter().any(|arc| text.starts_with(arc))).then(|| text.into())
}

fn attribute(attribute: &AttributeTypeAndValue<'_>) -> Box<str> {
    match attribute.as_str() {
        Ok(text) => bounded(text),
        Err(_) => bytes(attribute.attr_value().data),
    }
}

/// Text if it is the DER of one.
fn value(der: &[u8]) -> Box<str> {
    let text = match Any::from_der(der) {
        Ok(([], any)) if matches!(any.tag(), Tag::Utf8String | Tag::PrintableString | Tag::Ia5String) => {
            std::str::from_utf8(any.data).ok()
        }
        _ => None,
    };
    match text {
        Some(text) => bounded(text),
        None => bytes(der),
    }
}

fn bounded(text: &str) -> Box<str> {
    if text.len() <= MAX_VALUE { text.into() } else { hash(text.as_bytes()) }
}

fn bytes(bytes: &[u8]) -> Box<str> {
    if bytes.len() <= MAX_VALUE { format!("hex:{}", hex(bytes)).into() } else { hash(bytes) }
}

fn hash(bytes: &[u8]) -> Box<str> {
    format!("sha256:{}", Sha256::of(bytes)).into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::digest::{SHA256, digest};
    use rcgen::{CertificateParams, CustomExtension, DnType, KeyPair};

    use super::*;

    const OWN: &[u64] = &[1, 3, 6, 1, 4, 1, 99_999, 1];

    fn read(params: &CertificateParams) -> Result<CertificateAttributes, String> {
        let der = params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec();
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).unwrap();
        CertificateAttributes::read(&certificate)
    }

    fn with_extension(content: Vec<u8>) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.custom_extensions.push(CustomExtension::from_oid_content(OWN, content));
        params
    }

    #[test]
    fn subject_and_extensions_of_its_own_are_read_and_standard_ones_are_not() {
        let mut params = with_extension(b"\x0c\x04blue".to_vec());
        params.distinguished_name.push(DnType::OrganizationName, "Shop");
        params.distinguished_name.push(DnType::OrganizationalUnitName, "Zahlungen – é");
        params.is_ca = rcgen::IsCa::ExplicitNoCa;
        let attributes = read(&params).unwrap();
        assert_eq!(attributes.organizations, ["Shop".into()]);
        assert_eq!(attributes.organizational_units, ["Zahlungen – é".into()]);
        assert_eq!(attributes.extensions, [("1.3.6.1.4.1.99999.1".into(), "blue".into())]);
        assert_eq!(&read(&CertificateParams::default()).unwrap(), CertificateAttributes::NONE);
    }

    #[test]
    fn what_is_not_text_is_hex_and_what_is_long_is_a_hash() {
        let value =
            |content: &[u8]| read(&with_extension(content.to_vec())).unwrap().extensions[0].1.to_string();
        assert_eq!(value(b"\x02\x01\x05"), "hex:020105");
        assert_eq!(value(b"raw"), "hex:726177");
        assert_eq!(value(b"\x0c\x02\xff\xff"), "hex:0c02ffff", "not UTF-8");
        assert_eq!(value(b"\x0c\x01ab"), "hex:0c016162", "something follows the text");
        let long = vec![7; MAX_VALUE + 1];
        assert_eq!(value(&long), format!("sha256:{}", hex(digest(&SHA256, &long).as_ref())));
    }

    #[test]
    fn more_than_can_be_kept_is_refused_and_not_cut() {
        let mut params = CertificateParams::default();
        for number in 0..=MAX_ATTRIBUTES as u64 {
            let oid = [OWN, &[number]].concat();
            params.custom_extensions.push(CustomExtension::from_oid_content(&oid, b"\x05\x00".to_vec()));
        }
        assert_eq!(read(&params).unwrap_err(), "it has more than 64 extensions of its own");
    }
}
