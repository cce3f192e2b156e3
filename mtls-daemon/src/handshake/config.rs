//! The rustls configurations of a workload: one per connection, because each carries its own verdict.

mod watched;

use std::sync::Arc;
use std::time::SystemTime;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::CertificateDer;
use rustls::server::NoServerSessionStorage;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::version::{TLS12, TLS13};
use rustls::{ClientConfig, ServerConfig, SupportedProtocolVersion};

use super::verifier::{Authorise, PeerClientVerifier, PeerServerVerifier};
use super::verify::{ExpectedServer, PeerRole, Trust, verify_peer};
use super::{ALPN_MTLSD, Verdict};
use crate::datapath::ktls::{Abilities, Suite};
use crate::identity::{ChainMarks, PeerIdentity, X509Svid};
use crate::observe::Refusal;

pub use watched::{Request, Shown, Watched};

/// The oldest TLS version that is spoken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum MinVersion {
    /// Only TLS 1.3.
    #[default]
    Tls13,
    /// TLS 1.2 as well, for peers that cannot do better.
    Tls12,
}

/// Which suites of TLS 1.3 are offered and accepted, in order of preference. Those of TLS 1.2 are rustls' own.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SuiteOrder {
    suites: Vec<Suite>,
    /// As server: does our order decide, or the client's?
    ours_decides: bool,
}

/// As strong as P-256 and X25519 are, and as BoringSSL and Go prefer them: processors have instructions for SHA-256, and few
/// for SHA-384, which was a fifth of a handshake.
const USUAL: [Suite; 3] = [Suite::Aes128Gcm, Suite::Aes256Gcm, Suite::ChaCha20Poly1305];
/// Its keys have no limit that a connection can reach: it need not be cut where keys cannot be changed.
const WITHOUT_LIMIT_FIRST: [Suite; 3] = [Suite::ChaCha20Poly1305, Suite::Aes128Gcm, Suite::Aes256Gcm];

impl Default for SuiteOrder {
    fn default() -> Self {
        Self::auto(None)
    }
}

impl SuiteOrder {
    /// As somebody wrote it down, who means it.
    #[must_use]
    pub fn configured(suites: Vec<Suite>) -> Self {
        Self { suites, ours_decides: true }
    }

    /// As suits the kernel that will do the records; `None`: the daemon does them.
    ///
    /// A kernel that can change keys leaves the choice to the client, whose kernel perhaps cannot.
    #[must_use]
    pub fn auto(ktls: Option<&Abilities>) -> Self {
        let ours_decides = ktls.is_some_and(|abilities| !abilities.rekey);
        let mut suites = Vec::from(if ours_decides { WITHOUT_LIMIT_FIRST } else { USUAL });
        if let Some(abilities) = ktls {
            // Stable: among those that the kernel can do, and those that it cannot, the order stays.
            suites.sort_by_key(|suite| !abilities.can(*suite));
        }
        Self { suites, ours_decides }
    }

    /// The provider's suites, TLS 1.3 as ordered here.
    pub(super) fn apply(&self, provider: &mut CryptoProvider) {
        let known = std::mem::take(&mut provider.cipher_suites);
        let find = |wanted: &Suite| known.iter().find(|suite| Suite::of(**suite) == Some(*wanted)).copied();
        provider.cipher_suites = self.suites.iter().filter_map(find).collect();
        provider.cipher_suites.extend(known.iter().filter(|suite| suite.tls13().is_none()));
    }
}

/// What a workload's TLS is made of besides its identity.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// The oldest version.
    pub min_version: MinVersion,
    /// The suites.
    pub suites: SuiteOrder,
}

/// Why no configuration can be made.
#[derive(Debug, thiserror::Error)]
pub enum TlsConfigError {
    /// The provider supports none of the wanted versions, or is inconsistent.
    #[error("TLS cannot be set up: {0}; this build of mtlsd is broken")]
    Rustls(#[from] rustls::Error),
}

const TLS13_ONLY: &[&SupportedProtocolVersion] = &[&TLS13];
const TLS12_TOO: &[&SupportedProtocolVersion] = &[&TLS13, &TLS12];

/// A workload's identity and trust, ready to make configurations; make a new one when either changes.
#[derive(Debug, Clone)]
pub struct WorkloadTls {
    provider: Arc<CryptoProvider>,
    key: Arc<SingleCertAndKey>,
    certified: Arc<CertifiedKey>,
    trust: Arc<Trust>,
    settings: TlsSettings,
    /// Of the own chain, for which an OCSP answer may be there to be stapled.
    own: Option<Arc<ChainMarks>>,
}

impl WorkloadTls {
    /// For a workload with this identity, which trusts these roots.
    #[must_use]
    pub fn new(svid: &X509Svid, trust: Arc<Trust>, settings: TlsSettings) -> Self {
        // Named here and passed everywhere: the process-wide default depends on what else is linked in.
        let mut provider = aws_lc_rs::default_provider();
        settings.suites.apply(&mut provider);
        let certified = Arc::new(svid.certified_key());
        let key = Arc::new(SingleCertAndKey::from(Arc::clone(&certified)));
        Self { provider: Arc::new(provider), key, certified, trust, settings, own: None }
    }

    /// Who a peer is whose handshake was some time ago, by the chain that it showed then: whether it may still be.
    ///
    /// # Errors
    /// As in a handshake.
    pub fn verify_again(
        &self,
        chain: &[CertificateDer<'_>],
        role: PeerRole,
        now: SystemTime,
    ) -> Result<PeerIdentity, Refusal> {
        verify_peer(chain, role, &self.trust, None, now)
    }

    /// As server, with the OCSP answer about its own certificate, whose chain this is, while there is a good one.
    #[must_use]
    pub fn stapling(self, own: Arc<ChainMarks>) -> Self {
        Self { own: Some(own), ..self }
    }

    /// Without TLS 1.2, whatever its settings say: for what is between two daemons only.
    #[must_use]
    pub fn tls13_only(&self) -> Self {
        let settings = TlsSettings { min_version: MinVersion::Tls13, ..self.settings.clone() };
        Self { settings, ..self.clone() }
    }

    fn server_key(&self) -> Arc<SingleCertAndKey> {
        let ocsp = self.trust.revocations.ocsp();
        let staple = self.own.as_ref().and_then(|own| ocsp.staple(own, SystemTime::now()));
        match staple {
            Some(staple) => {
                let stapled =
                    CertifiedKey { ocsp: Some(staple.to_vec()), ..CertifiedKey::clone(&self.certified) };
                Arc::new(SingleCertAndKey::from(stapled))
            }
            None => Arc::clone(&self.key),
        }
    }

    /// For one inbound connection. `mtlsd_alpn`: the ClientHello offers [`ALPN_MTLSD`]; rustls refuses a
    /// client that offers only other protocols once we name any, so we name ours only to those who know it.
    /// `authorise`: decides on the proven client within the handshake, for clients that hear of a refusal only
    /// by an alert.
    pub fn server(
        &self,
        mtlsd_alpn: bool,
        authorise: Option<Authorise>,
    ) -> Result<(Arc<ServerConfig>, Verdict), TlsConfigError> {
        let verdict = Verdict::default();
        let algorithms = self.provider.signature_verification_algorithms;
        let verifier =
            PeerClientVerifier::new(Arc::clone(&self.trust), algorithms, verdict.clone(), authorise);
        let mut config = ServerConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.versions())?
            .with_client_cert_verifier(Arc::new(verifier))
            .with_cert_resolver(self.server_key());
        // A resumed session would skip the verifier: expiry, revocation and policy would not be asked.
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.send_tls13_tickets = 0;
        config.max_early_data_size = 0;
        config.enable_secret_extraction = true;
        config.ignore_client_order = self.settings.suites.ours_decides;
        if mtlsd_alpn {
            config.alpn_protocols = vec![ALPN_MTLSD.to_vec()];
        }
        Ok((Arc::new(config), verdict))
    }

    /// For one outbound connection to a server that must be one of `expected`.
    pub fn client(
        &self,
        expected: Arc<ExpectedServer>,
    ) -> Result<(Arc<ClientConfig>, Verdict), TlsConfigError> {
        let (verifier, verdict) = self.verifier(expected);
        let config = self.client_config(Arc::new(verifier), Arc::clone(&self.key) as _)?;
        Ok((config, verdict))
    }

    fn verifier(&self, expected: Arc<ExpectedServer>) -> (PeerServerVerifier, Verdict) {
        let verdict = Verdict::default();
        let algorithms = self.provider.signature_verification_algorithms;
        (PeerServerVerifier::new(Arc::clone(&self.trust), expected, algorithms, verdict.clone()), verdict)
    }

    fn client_config(
        &self,
        verifier: Arc<dyn ServerCertVerifier>,
        key: Arc<dyn ResolvesClientCert>,
    ) -> Result<Arc<ClientConfig>, TlsConfigError> {
        let mut config = ClientConfig::builder_with_provider(Arc::clone(&self.provider))
            .with_protocol_versions(self.versions())?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_cert_resolver(key);
        config.resumption = Resumption::disabled();
        config.enable_early_data = false;
        config.enable_secret_extraction = true;
        config.alpn_protocols = vec![ALPN_MTLSD.to_vec()];
        Ok(Arc::new(config))
    }

    fn versions(&self) -> &'static [&'static SupportedProtocolVersion] {
        match self.settings.min_version {
            MinVersion::Tls13 => TLS13_ONLY,
            MinVersion::Tls12 => TLS12_TOO,
        }
    }
}

/// Do these ALPN protocols of a ClientHello include ours?
pub fn offers_mtlsd<'a>(protocols: impl IntoIterator<Item = &'a [u8]>) -> bool {
    protocols.into_iter().any(|protocol| protocol == ALPN_MTLSD)
}
