//! Chains for tests, made by rcgen: good ones, and bad in one chosen way.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, PublicKeyData,
    RevokedCertParams, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use super::{Bundle, X509Svid};

pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

/// A CA whose parts are at hand.
pub(crate) struct TestCa {
    pub(crate) params: CertificateParams,
    pub(crate) key: KeyPair,
    pub(crate) der: CertificateDer<'static>,
    /// What its leaves send along: empty for a root.
    pub(crate) path: Vec<CertificateDer<'static>>,
}

/// What a leaf says; the default is a good one for `spiffe://example.org/web`.
#[derive(Clone)]
pub(crate) struct LeafSpec {
    pub(crate) uris: Vec<String>,
    pub(crate) dns: Vec<String>,
    pub(crate) common_name: Option<String>,
    pub(crate) extended: Vec<ExtendedKeyUsagePurpose>,
    pub(crate) usage: Vec<KeyUsagePurpose>,
    pub(crate) is_ca: IsCa,
    pub(crate) not_before: SystemTime,
    pub(crate) not_after: SystemTime,
    pub(crate) extensions: Vec<CustomExtension>,
}

impl Default for LeafSpec {
    fn default() -> Self {
        Self {
            uris: vec!["spiffe://example.org/web".to_owned()],
            dns: vec![],
            common_name: None,
            extended: vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            usage: vec![KeyUsagePurpose::DigitalSignature],
            is_ca: IsCa::NoCa,
            not_before: SystemTime::now() - HOUR,
            not_after: SystemTime::now() + HOUR,
            extensions: vec![],
        }
    }
}

impl LeafSpec {
    pub(crate) fn id(id: &str) -> Self {
        Self { uris: vec![id.to_owned()], ..Self::default() }
    }

    pub(crate) fn dns_only(name: &str) -> Self {
        Self { uris: vec![], dns: vec![name.to_owned()], ..Self::default() }
    }
}

/// A chain, leaf first, and the leaf's key.
pub(crate) struct TestLeaf {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: KeyPair,
}

impl TestLeaf {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.key.serialize_der()))
    }

    pub(crate) fn svid(&self) -> X509Svid {
        X509Svid::from_der(self.chain.clone(), &self.private_key(), SystemTime::now()).unwrap()
    }

    pub(crate) fn chain_pem(&self) -> String {
        self.chain.iter().map(|der| pem::encode(&pem::Pem::new("CERTIFICATE", der.as_ref()))).collect()
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = (SystemTime::now() - HOUR).into();
    params.not_after = (SystemTime::now() + 24 * HOUR).into();
    params
}

impl TestCa {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(ca_params(name))
    }

    pub(crate) fn root_valid(name: &str, not_before: SystemTime, not_after: SystemTime) -> Self {
        let mut params = ca_params(name);
        params.not_before = not_before.into();
        params.not_after = not_after.into();
        Self::root_with(params)
    }

    pub(crate) fn root_of(params: CertificateParams) -> Self {
        Self::root_with(params)
    }

    /// A revocation list of its certificates, in DER.
    pub(crate) fn crl(
        &self,
        revoked: &[&CertificateDer<'_>],
        this_update: SystemTime,
        next_update: SystemTime,
    ) -> Vec<u8> {
        let entry = |der: &&CertificateDer<'_>| {
            let (_, certificate) = x509_parser::parse_x509_certificate(der).unwrap();
            RevokedCertParams {
                serial_number: SerialNumber::from_slice(certificate.raw_serial()),
                revocation_time: this_update.into(),
                reason_code: None,
                invalidity_date: None,
            }
        };
        let params = CertificateRevocationListParams {
            this_update: this_update.into(),
            next_update: next_update.into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer()).unwrap().der().to_vec()
    }

    fn root_with(params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der = params.self_signed(&key).unwrap().into();
        Self { params, key, der, path: vec![] }
    }

    pub(crate) fn intermediate(&self, name: &str) -> Self {
        self.intermediate_with(ca_params(name))
    }

    pub(crate) fn intermediate_valid(&self, name: &str, from: SystemTime, to: SystemTime) -> Self {
        let mut params = ca_params(name);
        params.not_before = from.into();
        params.not_after = to.into();
        self.intermediate_with(params)
    }

    pub(crate) fn intermediate_with(&self, params: CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let der: CertificateDer<'static> = params.signed_by(&key, &self.issuer()).unwrap().into();
        let path = std::iter::once(der.clone()).chain(self.path.iter().cloned()).collect();
        Self { params, key, der, path }
    }

    pub(crate) fn params(name: &str) -> CertificateParams {
        ca_params(name)
    }

    pub(crate) fn issuer(&self) -> Issuer<'_, &KeyPair> {
        Issuer::from_params(&self.params, &self.key)
    }

    pub(crate) fn bundle(&self) -> Bundle {
        Bundle::from_der(vec![self.der.clone()]).unwrap()
    }

    pub(crate) fn leaf(&self, spec: &LeafSpec) -> TestLeaf {
        let key = KeyPair::generate().unwrap();
        TestLeaf { chain: self.leaf_for(spec, &key), key }
    }

    /// A chain for a key that is elsewhere.
    pub(crate) fn leaf_for(&self, spec: &LeafSpec, key: &impl PublicKeyData) -> Vec<CertificateDer<'static>> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        if let Some(name) = &spec.common_name {
            params.distinguished_name.push(DnType::CommonName, name.as_str());
        }
        let uris = spec.uris.iter().map(|uri| SanType::URI(uri.as_str().try_into().unwrap()));
        let dns = spec.dns.iter().map(|name| SanType::DnsName(name.as_str().try_into().unwrap()));
        params.subject_alt_names = uris.chain(dns).collect();
        params.extended_key_usages = spec.extended.clone();
        params.key_usages = spec.usage.clone();
        params.is_ca = spec.is_ca;
        params.not_before = spec.not_before.into();
        params.not_after = spec.not_after.into();
        params.custom_extensions = spec.extensions.clone();
        let der = params.signed_by(key, &self.issuer()).unwrap().into();
        std::iter::once(der).chain(self.path.iter().cloned()).collect()
    }
}

/// A key as a workload has it.
pub(crate) fn secret_key() -> super::key::SecretKey {
    super::key::SecretKey::generate().unwrap()
}

/// Where its bytes are.
pub(crate) fn key_address(key: &super::key::SecretKey) -> usize {
    key.der().secret_der().as_ptr().addr()
}
