//! What an issuer is asked for: a PKCS #10 certificate request (RFC 2986) for one workload.

use std::time::Duration;

use pem::{EncodeConfig, LineEnding, Pem};
use rcgen::string::Ia5String;
use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, KeyUsagePurpose, SanType};

use super::{IssuerError, crypto};
use crate::identity::key::OwnKey;
use crate::identity::leaf::show;
use crate::identity::{SpiffeId, Subject};

/// What a workload's certificate shall say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The workload's name, for whoever signs.
    pub workload: String,
    /// Its SPIFFE ID, the one URI SAN.
    pub id: SpiffeId,
    /// Its DNS SANs.
    pub dns_names: Vec<String>,
    /// Its subject.
    pub subject: Subject,
    /// The life that is asked for, where the issuer takes a wish; `None`: the issuer's own.
    pub lifetime: Option<Duration>,
}

/// A request, signed with the key that it is for.
#[derive(Debug, Clone)]
pub struct Csr {
    /// As PEM.
    pub pem: String,
    /// What is in it.
    pub request: Request,
}

impl Request {
    /// Signs the request.
    pub(super) fn csr(&self, key: &OwnKey) -> Result<Csr, IssuerError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = self.subject.distinguished_name(self.id.trust_domain());
        params.subject_alt_names = vec![SanType::URI(ascii(self.id.as_str())?)];
        for name in &self.dns_names {
            if rustls::pki_types::DnsName::try_from(name.as_str()).is_err() {
                return Err(IssuerError::DnsName(show(name)));
            }
            params.subject_alt_names.push(SanType::DnsName(ascii(name)?));
        }
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let request = params.serialize_request(key).map_err(|error| match key.failure(&error) {
            Some(failure) => IssuerError::Pkcs11(failure),
            None => crypto("sign a certificate request")(error),
        })?;
        let config = EncodeConfig::new().set_line_ending(LineEnding::LF);
        let pem = Pem::new("CERTIFICATE REQUEST", request.der().as_ref());
        Ok(Csr { pem: pem::encode_config(&pem, config), request: self.clone() })
    }
}

fn ascii(text: &str) -> Result<Ia5String, IssuerError> {
    Ia5String::try_from(text.to_owned()).map_err(crypto("write a name into a certificate request"))
}
