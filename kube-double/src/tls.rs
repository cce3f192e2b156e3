//! The double's own CA, and its certificate for loopback.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, SanType};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

/// Its configuration, and the root that vouches for it, as PEM.
pub(crate) fn server() -> (Arc<ServerConfig>, String) {
    let (params, key) = root();
    let ca = params.self_signed(&key).expect("a root");
    let own = KeyPair::generate().expect("a key");
    let mut leaf = CertificateParams::new(vec!["kubernetes".to_owned()]).expect("a name");
    let loopback: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    leaf.subject_alt_names.extend(loopback.map(SanType::IpAddress));
    let chain = leaf.signed_by(&own, &Issuer::from_params(&params, &key)).expect("a certificate");
    let own = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("the provider can do them")
        .with_no_client_auth()
        .with_single_cert(vec![CertificateDer::from(chain.der().to_vec())], own)
        .expect("the key is the certificate's");
    (Arc::new(config), ca.pem())
}

/// A root that vouches for nothing of any double.
#[must_use]
pub fn other_ca_pem() -> String {
    let (params, key) = root();
    params.self_signed(&key).expect("a root").pem()
}

fn root() -> (CertificateParams, KeyPair) {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, "kubernetes");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    (params, KeyPair::generate().expect("a key"))
}
