//! The rustls side of [`verify_peer`](super::verify_peer): one verifier per connection, which leaves its verdict behind.

use std::fmt;
use std::sync::{Arc, OnceLock};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error as TlsError, OtherError,
    SignatureScheme,
};

use super::claim::{Claim, presented};
use super::refusal;
use super::verify::{ExpectedServer, PeerRole, Trust, verify_stapled};
use crate::identity::{PeerIdentity, when};
use crate::observe::chain::PeerChain;
use crate::observe::{Reason, Refusal};

/// What the verifier of one connection found; read it after the handshake.
///
/// rustls decides the alert by the kind of its error, which has no room for the evidence, so the evidence
/// travels beside it.
#[derive(Debug, Clone, Default)]
pub struct Verdict(Arc<Found>);

/// The two answers in the order in which they come: whose certificate it is, and whether the peer holds its key.
#[derive(Debug, Default)]
struct Found {
    chain: OnceLock<Result<PeerIdentity, Rejected>>,
    /// Set once the handshake's signature was verified; a refusal says who is proven and yet not let in.
    proof: OnceLock<Result<(), Refusal>>,
}

#[derive(Debug)]
struct Rejected {
    refusal: Refusal,
    claim: Option<Claim>,
    presented: Arc<PeerChain>,
}

/// Decides on a peer that has proved who it is; a refusal ends the handshake with the alert access_denied.
pub type Authorise = Box<dyn Fn(&PeerIdentity) -> Result<(), Refusal> + Send + Sync>;

impl Verdict {
    /// Who the peer proved to be: its chain was accepted and the handshake is signed with its key.
    #[must_use]
    pub fn peer(&self) -> Option<&PeerIdentity> {
        self.0.proof.get()?;
        self.accepted()
    }

    /// What the peer's certificate says, proven or not.
    #[must_use]
    pub fn claim(&self) -> Option<Claim> {
        match self.0.chain.get()? {
            Ok(peer) => Some(Claim::from(peer)),
            Err(rejected) => rejected.claim.clone(),
        }
    }

    /// The peer's certificates for people, proven or not.
    #[must_use]
    pub fn chain(&self) -> Option<Arc<PeerChain>> {
        Some(match self.0.chain.get()? {
            Ok(peer) => Arc::clone(&peer.chain),
            Err(rejected) => Arc::clone(&rejected.presented),
        })
    }

    /// Why the peer was refused: its certificate, or what it may do.
    #[must_use]
    pub fn refusal(&self) -> Option<&Refusal> {
        match self.0.chain.get()? {
            Ok(_) => self.0.proof.get()?.as_ref().err(),
            Err(rejected) => Some(&rejected.refusal),
        }
    }

    /// The refusal behind an error of rustls, with the evidence where the verifier left some.
    #[must_use]
    pub fn refusal_of(&self, error: &TlsError) -> Refusal {
        match (error, self.refusal(), self.accepted()) {
            (TlsError::InvalidCertificate(_), Some(refusal), _) => refusal.clone(),
            // The chain was good: what failed is the signature of the handshake itself.
            (TlsError::InvalidCertificate(_), None, Some(peer)) => Refusal::new(
                Reason::BadSignature,
                format!(
                    "{}, certificate {}: the handshake was not signed with its key ({error})",
                    peer.name, peer.serial
                ),
            ),
            _ => refusal::of(error),
        }
    }

    /// Whose chain was accepted, before the peer has proved that it holds the key.
    fn accepted(&self) -> Option<&PeerIdentity> {
        self.0.chain.get()?.as_ref().ok()
    }

    fn set_chain(&self, found: Result<PeerIdentity, Rejected>) -> Result<(), TlsError> {
        let result = match &found {
            Ok(_) => Ok(()),
            Err(rejected) => Err(certificate_error(&rejected.refusal)),
        };
        // A second certificate in one handshake cannot happen; the first verdict would stay.
        if self.0.chain.set(found).is_err() {
            return Err(TlsError::General("the peer's certificate was verified twice".to_owned()));
        }
        result
    }

    fn set_proof(&self, allowed: Result<(), Refusal>) -> Result<(), TlsError> {
        let result = allowed.as_ref().copied().map_err(certificate_error);
        if self.0.proof.set(allowed).is_err() {
            return Err(TlsError::General("the handshake's signature was verified twice".to_owned()));
        }
        result
    }
}

/// The rustls error that puts the right alert on the wire (RFC 8446 section 6.2).
fn certificate_error(refusal: &Refusal) -> TlsError {
    let error = match refusal.reason {
        Reason::NoCertificate => return TlsError::NoCertificatesPresented,
        Reason::MalformedCertificate => CertificateError::BadEncoding,
        Reason::UnknownIssuer | Reason::TrustDomain => CertificateError::UnknownIssuer,
        Reason::BadSignature => CertificateError::BadSignature,
        Reason::CertificateExpired => CertificateError::Expired,
        Reason::CertificateNotYetValid => CertificateError::NotValidYet,
        Reason::Revoked => CertificateError::Revoked,
        Reason::CertificateUsage | Reason::CertificateUnsupported => CertificateError::InvalidPurpose,
        Reason::UnexpectedServer => CertificateError::NotValidForName,
        Reason::PolicyDenied | Reason::PolicyDefault | Reason::ExternalDenied => {
            CertificateError::ApplicationVerificationFailure
        }
        // No alert names these: certificate_unknown, "some other issue".
        _ => CertificateError::Other(OtherError(Arc::new(refusal.clone()))),
    };
    TlsError::InvalidCertificate(error)
}

/// What both verifiers share.
struct Common {
    trust: Arc<Trust>,
    algorithms: WebPkiSupportedAlgorithms,
    verdict: Verdict,
}

impl Common {
    fn verify(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        staple: &[u8],
        role: PeerRole,
        expected: Option<&ExpectedServer>,
        now: UnixTime,
    ) -> Result<(), TlsError> {
        let now = when::from_pki(now);
        let chain: Vec<CertificateDer<'_>> = std::iter::once(end_entity)
            .chain(intermediates)
            .map(|der| CertificateDer::from(der.as_ref()))
            .collect();
        let found =
            verify_stapled(&chain, staple, role, &self.trust, expected, now).map_err(|refusal| Rejected {
                refusal,
                claim: Claim::read(end_entity, self.trust.max_bytes),
                presented: Arc::new(presented(&chain, self.trust.max_certificates, self.trust.max_bytes)),
            });
        self.verdict.set_chain(found)
    }

    /// After the signature: now the peer is who its certificate says, and may be judged as that.
    fn prove(
        &self,
        signature: Result<HandshakeSignatureValid, TlsError>,
        authorise: Option<&Authorise>,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let valid = signature?;
        let allowed = match (authorise, self.verdict.accepted()) {
            (Some(authorise), Some(peer)) => authorise(peer),
            _ => Ok(()),
        };
        self.verdict.set_proof(allowed)?;
        Ok(valid)
    }
}

impl fmt::Debug for Common {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Common").field("verdict", &self.verdict).finish_non_exhaustive()
    }
}

/// Verifies the client of one connection; a certificate is mandatory.
pub struct PeerClientVerifier {
    common: Common,
    authorise: Option<Authorise>,
}

impl PeerClientVerifier {
    /// A verifier that writes into `verdict`; `authorise` is asked once the client is proven.
    #[must_use]
    pub fn new(
        trust: Arc<Trust>,
        algorithms: WebPkiSupportedAlgorithms,
        verdict: Verdict,
        authorise: Option<Authorise>,
    ) -> Self {
        Self { common: Common { trust, algorithms, verdict }, authorise }
    }
}

impl fmt::Debug for PeerClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeerClientVerifier").field("common", &self.common).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for PeerClientVerifier {
    fn client_auth_mandatory(&self) -> bool {
        true
    }

    // No hints: they would tell a stranger whom this node trusts, and a client with one certificate needs none.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, TlsError> {
        self.common.verify(end_entity, intermediates, &[], PeerRole::Client, None, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let valid = verify_tls12_signature(message, certificate, signature, &self.common.algorithms);
        self.common.prove(valid, self.authorise.as_ref())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let valid = verify_tls13_signature(message, certificate, signature, &self.common.algorithms);
        self.common.prove(valid, self.authorise.as_ref())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.common.algorithms.supported_schemes()
    }
}

/// Verifies the server of one connection: it must be the workload that the directory expects.
#[derive(Debug)]
pub struct PeerServerVerifier {
    common: Common,
    expected: Arc<ExpectedServer>,
}

impl PeerServerVerifier {
    /// A verifier that writes into `verdict`.
    #[must_use]
    pub fn new(
        trust: Arc<Trust>,
        expected: Arc<ExpectedServer>,
        algorithms: WebPkiSupportedAlgorithms,
        verdict: Verdict,
    ) -> Self {
        Self { common: Common { trust, algorithms, verdict }, expected }
    }
}

impl ServerCertVerifier for PeerServerVerifier {
    // The server's name is the directory's business, not that of the SNI, which only helps its routing.
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, TlsError> {
        let expected = Some(&*self.expected);
        self.common.verify(end_entity, intermediates, ocsp_response, PeerRole::Server, expected, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let valid = verify_tls12_signature(message, certificate, signature, &self.common.algorithms);
        self.common.prove(valid, None)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, TlsError> {
        let valid = verify_tls13_signature(message, certificate, signature, &self.common.algorithms);
        self.common.prove(valid, None)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.common.algorithms.supported_schemes()
    }
}
