//! Where identities come from: the seam for the embedded CA, files, issuers, and whatever is added later.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::Notify;

use super::agent::AgentError;
use super::ca::Order;
use super::issuer::IssuerError;
use super::{
    CaError, EmbeddedCa, FilesError, IdentityFiles, Pkcs11Error, SpiffeId, Subject, TrustBundles, X509Svid,
};

/// What a source gives a workload.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The workload's certificate and key.
    pub svid: Arc<X509Svid>,
    /// The roots that the source knows: of the SVID's own trust domain, and of those that it federates with.
    pub bundles: TrustBundles,
}

impl Identity {
    /// Does it prove and trust the same? A certificate goes with one key only.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        self.svid.chain == other.svid.chain && self.bundles == other.bundles
    }

    /// What the workload trusts: the configured bundles, and what its source says.
    #[must_use]
    pub fn trusted_with(&self, configured: &TrustBundles) -> TrustBundles {
        let mut bundles = configured.clone();
        for (domain, bundle) in self.bundles.iter() {
            bundles.add(domain.clone(), bundle.clone());
        }
        bundles
    }
}

/// Why a source gave no identity.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The embedded CA could not issue.
    #[error("embedded CA: {0}")]
    Ca(#[from] CaError),
    /// The files are not usable.
    #[error("identity files: {0}")]
    Files(#[from] FilesError),
    /// The key in the token is not usable.
    #[error(transparent)]
    Pkcs11(#[from] Pkcs11Error),
    /// An issuer did not sign, or not what was asked for.
    #[error(transparent)]
    Issuer(#[from] IssuerError),
    /// An agent did not answer, or not with an identity.
    #[error(transparent)]
    Agent(#[from] Arc<AgentError>),
    /// The source says that the workload has this identity no longer: the one in force is given up at once.
    #[error("the identity was withdrawn: {0}")]
    Withdrawn(String),
    /// The files were written while they were read.
    #[error("the identity files were changed while they were read; they are read again")]
    Changing,
    /// The source stopped with a panic, which is a defect of mtlsd.
    #[error("the identity source {0} failed inside mtlsd; please report it with the log")]
    Panicked(&'static str),
}

/// Tells the store to look at its sources now.
#[derive(Debug, Clone, Default)]
pub struct Wake(Arc<Notify>);

impl Wake {
    /// Something is different.
    pub fn wake(&self) {
        self.0.notify_one();
    }

    /// Do both wake the same store?
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    /// Until somebody says so.
    pub(super) async fn woken(&self) {
        self.0.notified().await;
    }
}

/// A source of one workload's identity. `fetch` may block (disk, network, other programs): the store calls it where
/// that is allowed.
pub trait IdentitySource: fmt::Debug + Send + Sync {
    /// The identity as of now.
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError>;

    /// Files whose change means that `fetch` gives something new.
    fn watch_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

    /// Another number than before means that `fetch` gives something new, for sources that are told of changes.
    fn version(&self) -> u64 {
        0
    }

    /// Is it told of everything, also of the first identity? Then it is not asked before the version changes.
    fn is_told(&self) -> bool {
        false
    }

    /// Called once, before the first `fetch`, on the daemon's runtime: whom to wake when [`IdentitySource::version`]
    /// changes.
    fn connect(&self, _wake: &Wake) {}

    /// Is there something to do between two fetches, such as to renew an issuer's token? Does not block.
    fn needs_upkeep(&self, _now: Instant) -> bool {
        false
    }

    /// Does it. May block; a failure is logged, and matters only if a `fetch` fails for it.
    fn upkeep(&self, _now: Instant) {}

    /// Does `fetch` need nothing but this machine's disk and processor? Others are asked in the background, also for the
    /// first time, so that an issuer that does not answer holds up nobody else.
    fn is_local(&self) -> bool;

    /// Does each `fetch` make a new certificate? If so the store asks again at half of its life.
    fn renews(&self) -> bool;

    /// A short name for status pages: `embedded_ca`, `files`.
    fn kind(&self) -> &'static str;

    /// All settings in one line. A reloaded configuration with an equal line keeps what was fetched.
    fn describe(&self) -> String;
}

/// Issues from the embedded CA.
#[derive(Debug, Clone)]
pub struct EmbeddedSource {
    /// The CA, shared by all workloads.
    pub ca: Arc<EmbeddedCa>,
    /// The workload's SPIFFE ID.
    pub id: SpiffeId,
    /// Its DNS SANs.
    pub dns_names: Vec<String>,
    /// Its subject.
    pub subject: Subject,
    /// The workload's name, for the issuance log.
    pub workload: String,
}

impl IdentitySource for EmbeddedSource {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let order = Order {
            id: &self.id,
            dns_names: &self.dns_names,
            subject: &self.subject,
            requested_by: &format!("workload {}", self.workload),
        };
        let svid = Arc::new(self.ca.issue(&order, now)?);
        let bundles = [(self.ca.trust_domain().clone(), self.ca.bundle())].into_iter().collect();
        Ok(Identity { svid, bundles })
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        self.ca.watch_paths()
    }

    fn is_local(&self) -> bool {
        !self.ca.signs_in_token()
    }

    fn renews(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "embedded_ca"
    }

    fn describe(&self) -> String {
        let lifetime = self.ca.lifetime();
        let names = self.dns_names.join(",");
        format!("{} {lifetime:?} {} {names} {:?}", self.ca.directory().display(), self.id, self.subject)
    }
}

impl IdentitySource for IdentityFiles {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let (svid, bundle) = self.read(now)?;
        let bundles = bundle.map(|bundle| (svid.id.trust_domain().clone(), bundle)).into_iter().collect();
        Ok(Identity { svid: Arc::new(svid), bundles })
    }

    fn is_local(&self) -> bool {
        true
    }

    fn watch_paths(&self) -> Vec<PathBuf> {
        self.paths()
    }

    fn renews(&self) -> bool {
        false
    }

    fn kind(&self) -> &'static str {
        "files"
    }

    fn describe(&self) -> String {
        let paths: Vec<_> = self.paths().iter().map(|path| path.display().to_string()).collect();
        paths.join(" ")
    }
}
