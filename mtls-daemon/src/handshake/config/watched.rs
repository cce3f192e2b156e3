//! A client's configuration that also notes what the server showed, for `mtlsd diagnose`. It decides as any other does: the
//! notes are made beside the verifier, and the own key signs only once the server's chain was accepted.

use std::sync::{Arc, OnceLock};

use rustls::client::ResolvesClientCert;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, DigitallySignedStruct, Error as TlsError, SignatureScheme};

use super::super::verifier::{PeerServerVerifier, Verdict};
use super::super::verify::{ExpectedServer, Trust};
use super::{TlsConfigError, WorkloadTls};

/// What one handshake found; read it after the handshake.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Whether the server was accepted, as for any connection.
    pub verdict: Verdict,
    seen: Arc<Seen>,
}

#[derive(Debug, Default)]
struct Seen {
    request: OnceLock<Request>,
    shown: OnceLock<Shown>,
}

/// The server's CertificateRequest (RFC 8446, section 4.3.2).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// The certificate authorities that it names, each a distinguished name in DER; often none.
    pub authorities: Vec<Vec<u8>>,
    /// Our key can sign in a scheme that it takes; if not, TLS sends no certificate.
    pub can_sign: bool,
}

/// What the server presented, accepted or not. TLS bounds its size: one handshake message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Leaf first.
    pub chain: Vec<CertificateDer<'static>>,
    /// The OCSP answer that came along; empty if none did.
    pub staple: Vec<u8>,
}

impl Watched {
    /// The server's request for a certificate; `None`: it asked for none, or did not come so far.
    #[must_use]
    pub fn request(&self) -> Option<&Request> {
        self.seen.request.get()
    }

    /// What it presented; `None`: it did not come so far.
    #[must_use]
    pub fn shown(&self) -> Option<&Shown> {
        self.seen.shown.get()
    }
}

impl WorkloadTls {
    /// As [`WorkloadTls::client`], with notes of what the server showed.
    ///
    /// # Errors
    /// As [`WorkloadTls::client`].
    pub fn watched_client(
        &self,
        expected: Arc<ExpectedServer>,
    ) -> Result<(Arc<ClientConfig>, Watched), TlsConfigError> {
        let seen = Arc::new(Seen::default());
        let (verifier, verdict) = self.verifier(expected);
        let verifier = Verifier { verifier, seen: Arc::clone(&seen) };
        let key = Key { key: Arc::clone(&self.certified), seen: Arc::clone(&seen) };
        let config = self.client_config(Arc::new(verifier), Arc::new(key))?;
        Ok((config, Watched { verdict, seen }))
    }

    /// What this workload believes.
    #[must_use]
    pub fn trust(&self) -> &Arc<Trust> {
        &self.trust
    }

    /// Whether one of these distinguished names (DER) has issued a certificate of the own chain.
    #[must_use]
    pub fn is_issued_by_one_of(&self, names: &[Vec<u8>]) -> bool {
        self.certified.cert.iter().any(|der| {
            let parsed = x509_parser::parse_x509_certificate(der);
            parsed.is_ok_and(|(_, own)| names.iter().any(|name| name == own.issuer().as_raw()))
        })
    }
}

#[derive(Debug)]
struct Key {
    key: Arc<CertifiedKey>,
    seen: Arc<Seen>,
}

impl ResolvesClientCert for Key {
    fn resolve(&self, authorities: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let request = Request {
            authorities: authorities.iter().map(|name| name.to_vec()).collect(),
            can_sign: self.key.key.choose_scheme(schemes).is_some(),
        };
        // The first one counts; there is only one in a handshake.
        let _already = self.seen.request.set(request);
        Some(Arc::clone(&self.key))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[derive(Debug)]
struct Verifier {
    verifier: PeerServerVerifier,
    seen: Arc<Seen>,
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        staple: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let chain = std::iter::once(end_entity).chain(intermediates);
        let chain = chain.map(|der| der.clone().into_owned()).collect();
        let _already = self.seen.shown.set(Shown { chain, staple: staple.to_vec() });
        self.verifier.verify_server_cert(end_entity, intermediates, name, staple, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use rustls::server::NoClientAuth;
    use rustls::{DistinguishedName, ServerConfig};

    use super::*;
    use crate::handshake::tests::{CLIENT, SERVER, expected, handshake, trust};
    use crate::handshake::{TlsSettings, WorkloadTls};
    use crate::identity::testing::{LeafSpec, TestCa, TestLeaf};
    use crate::observe::Reason;

    fn tls(ca: &TestCa, leaf: &TestLeaf) -> WorkloadTls {
        WorkloadTls::new(&leaf.svid(), trust(ca), TlsSettings::default())
    }

    fn plain_server(leaf: &TestLeaf) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let config = config.unwrap().with_client_cert_verifier(Arc::new(NoClientAuth));
        Arc::new(config.with_single_cert(leaf.chain.clone(), leaf.private_key()).unwrap())
    }

    #[test]
    fn the_request_and_the_chain_are_noted_and_the_verdict_is_that_of_any_client() {
        let ca = TestCa::root("root");
        let (client, server) = (ca.leaf(&LeafSpec::id(CLIENT)), ca.leaf(&LeafSpec::id(SERVER)));
        let (config, watched) = tls(&ca, &client).watched_client(expected(SERVER)).unwrap();
        let (accepting, _) = tls(&ca, &server).server(true, None).unwrap();
        let (ours, theirs) = handshake(config, accepting);
        assert!(ours.error.is_none() && theirs.error.is_none());
        assert_eq!(watched.verdict.peer().unwrap().name.to_string(), SERVER);
        assert_eq!(watched.shown().unwrap(), &Shown { chain: server.chain.clone(), staple: vec![] });
        // mtlsd names no authorities.
        assert_eq!(watched.request().unwrap(), &Request { authorities: vec![], can_sign: true });
    }

    #[test]
    fn of_a_server_that_is_refused_both_are_noted_and_our_certificate_is_not_sent() {
        let ca = TestCa::root("root");
        let (client, server) = (ca.leaf(&LeafSpec::id(CLIENT)), ca.leaf(&LeafSpec::id(SERVER)));
        let wanted = expected("spiffe://example.org/other");
        let (config, watched) = tls(&ca, &client).watched_client(wanted).unwrap();
        let (accepting, saw) = tls(&ca, &server).server(true, None).unwrap();
        let (ours, _) = handshake(config, accepting);
        assert!(ours.error.is_some());
        assert_eq!(watched.verdict.refusal().unwrap().reason, Reason::UnexpectedServer);
        assert!(watched.request().is_some() && watched.shown().is_some());
        assert!(saw.claim().is_none(), "the server saw no certificate of ours");
    }

    #[test]
    fn a_server_that_asks_for_nothing_leaves_no_request() {
        let ca = TestCa::root("root");
        let (client, server) = (ca.leaf(&LeafSpec::id(CLIENT)), ca.leaf(&LeafSpec::id(SERVER)));
        let (config, watched) = tls(&ca, &client).watched_client(expected(SERVER)).unwrap();
        let (ours, _) = handshake(config, plain_server(&server));
        assert!(ours.error.is_none(), "{:?}", ours.error);
        assert!(watched.request().is_none() && watched.shown().is_some());
    }

    #[test]
    fn an_issuer_of_any_certificate_of_our_chain_fits() {
        let ca = TestCa::root("root");
        let leaf = ca.intermediate("between").leaf(&LeafSpec::id(CLIENT));
        let own = tls(&ca, &leaf);
        let subject = |der: &CertificateDer<'_>| {
            let (_, parsed) = x509_parser::parse_x509_certificate(der).unwrap();
            DistinguishedName::from(parsed.subject().as_raw().to_vec()).as_ref().to_vec()
        };
        assert!(own.is_issued_by_one_of(&[subject(&ca.der)]));
        assert!(own.is_issued_by_one_of(&[subject(&TestCa::root("other").der), subject(&leaf.chain[1])]));
        assert!(!own.is_issued_by_one_of(&[subject(&TestCa::root("other").der)]));
        assert!(!own.is_issued_by_one_of(&[]));
    }
}
