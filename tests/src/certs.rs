//! Certificates that a careful CA would never issue, and those it would.

use std::fs;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams,
    SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// A CA of the test: give its `root` to mtlsd under `trust.bundles`.
pub struct Authority {
    dir: PathBuf,
    params: CertificateParams,
    key: KeyPair,
    /// The root certificate's file.
    pub root: PathBuf,
    /// The root's key, for a test that lets another program sign.
    pub key_file: PathBuf,
}

/// What a leaf certificate says. Start from [`Leaf::good`] and spoil what the test is about.
#[derive(Debug, Clone)]
pub struct Leaf {
    /// URI SANs.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// Extended key usages.
    pub usages: Vec<ExtendedKeyUsagePurpose>,
    /// Start of validity, relative to now.
    pub from: Duration,
    /// End of validity, relative to now.
    pub until: Duration,
    /// Intermediate CAs between the root and the leaf.
    pub intermediates: u8,
    /// O of the subject.
    pub organization: Option<String>,
    /// An extension of its own: OID and DER.
    pub extension: Option<(Vec<u64>, Vec<u8>)>,
}

/// The files of a certificate.
#[derive(Debug, Clone)]
pub struct Files {
    /// The leaf alone, PEM.
    pub cert: PathBuf,
    /// The leaf and its intermediates, PEM.
    pub chain: PathBuf,
    /// The private key, PEM.
    pub key: PathBuf,
}

impl Leaf {
    /// A certificate that is accepted everywhere.
    pub fn good(spiffe_id: &str) -> Self {
        Self {
            uris: vec![spiffe_id.into()],
            dns: Vec::new(),
            usages: vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
            from: -Duration::HOUR,
            until: Duration::HOUR,
            intermediates: 0,
            organization: None,
            extension: None,
        }
    }
}

impl Authority {
    /// Makes a root in `dir`.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn new(dir: &Path, name: &str) -> Self {
        let dir = dir.join(format!("ca-{name}"));
        fs::create_dir_all(&dir).expect("lab directory is writable");
        let (params, key) = (ca_params(name), KeyPair::generate().expect("a key"));
        let root = dir.join("root.pem");
        let certificate = params.self_signed(&key).expect("a root");
        let key_file = dir.join("root.key");
        fs::write(&root, certificate.pem()).expect("lab directory is writable");
        fs::write(&key_file, key.serialize_pem()).expect("lab directory is writable");
        Self { dir, params, key, root, key_file }
    }

    /// Issues a leaf into files named after `name`.
    ///
    /// # Panics
    /// If the directory cannot be written.
    pub fn issue(&self, name: &str, leaf: &Leaf) -> Files {
        let mut chain = Vec::new();
        let mut issuers = vec![Issuer::from_params(&self.params, &self.key)];
        let keys: Vec<_> = (0..leaf.intermediates).map(|_| KeyPair::generate().expect("a key")).collect();
        let params: Vec<_> = (0..leaf.intermediates).map(|n| ca_params(&format!("{name} {n}"))).collect();
        for (params, key) in params.iter().zip(&keys) {
            let above = issuers.last().expect("the root is there");
            chain.insert(0, params.signed_by(key, above).expect("an intermediate").pem());
            issuers.push(Issuer::from_params(params, key));
        }
        let key = KeyPair::generate().expect("a key");
        let above = issuers.last().expect("the root is there");
        let cert = leaf_params(name, leaf).signed_by(&key, above).expect("a leaf").pem();

        let file = |suffix: &str| self.dir.join(format!("{name}.{suffix}"));
        let files = Files { cert: file("crt"), chain: file("chain.crt"), key: file("key") };
        let write = |path: &Path, text: &str| fs::write(path, text).expect("lab directory is writable");
        write(&files.cert, &cert);
        write(&files.chain, &format!("{cert}{}", chain.concat()));
        write(&files.key, &key.serialize_pem());
        files
    }
}

impl Authority {
    /// Writes a revocation list of these serials (hex), made `age` ago, to `to`: at once or not at all.
    ///
    /// # Panics
    /// If it cannot be written, or a serial is not hex.
    pub fn revoke(&self, serials: &[&str], age: Duration, to: &Path) {
        let made = OffsetDateTime::now_utc() - age;
        let bytes = |hex: &str| -> Vec<u8> {
            let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex");
            (0..hex.len()).step_by(2).map(digit).collect()
        };
        let entry = |serial: &&str| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&bytes(serial)),
            revocation_time: made,
            reason_code: None,
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: made,
            next_update: made + Duration::days(1),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let issuer = Issuer::from_params(&self.params, &self.key);
        let pem = list.signed_by(&issuer).and_then(|list| list.pem()).expect("a list");
        let new = to.with_extension("new");
        fs::write(&new, pem).and_then(|()| fs::rename(&new, to)).expect("lab directory is writable");
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(&format!("lab CA {name}"));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::days(400);
    params.not_after = OffsetDateTime::now_utc() + Duration::days(400);
    params
}

fn leaf_params(name: &str, leaf: &Leaf) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = common_name(name);
    let uris = leaf.uris.iter().map(|u| SanType::URI(u.as_str().try_into().expect("ASCII")));
    let dns = leaf.dns.iter().map(|d| SanType::DnsName(d.as_str().try_into().expect("ASCII")));
    params.subject_alt_names = uris.chain(dns).collect();
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = leaf.usages.clone();
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() + leaf.from;
    params.not_after = OffsetDateTime::now_utc() + leaf.until;
    if let Some(organization) = &leaf.organization {
        params.distinguished_name.push(DnType::OrganizationName, organization);
    }
    if let Some((oid, der)) = &leaf.extension {
        params.custom_extensions.push(CustomExtension::from_oid_content(oid, der.clone()));
    }
    params
}

fn common_name(name: &str) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}
