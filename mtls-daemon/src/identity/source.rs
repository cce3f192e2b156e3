//! Where identities come from: the seam for the embedded CA, files, and whatever is added later.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::{Bundle, CaError, EmbeddedCa, FilesError, IdentityFiles, SpiffeId, TrustBundles, X509Svid};

/// What a source gives a workload.
#[derive(Debug, Clone)]
pub struct Identity {
    /// The workload's certificate and key.
    pub svid: Arc<X509Svid>,
    /// The roots of the SVID's own trust domain, if the source knows them.
    pub bundle: Option<Bundle>,
}

impl Identity {
    /// What the workload trusts: the configured bundles, and its source's roots for its own trust domain.
    #[must_use]
    pub fn trusted_with(&self, configured: &TrustBundles) -> TrustBundles {
        let mut bundles = configured.clone();
        if let Some(bundle) = &self.bundle {
            bundles.add(self.svid.id.trust_domain().clone(), bundle.clone());
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
    /// The source stopped with a panic, which is a defect of mtlsd.
    #[error("the identity source {0} failed inside mtlsd; please report it with the log")]
    Panicked(&'static str),
}

/// A source of one workload's identity. `fetch` may block (disk, cryptography): the store calls it where that
/// is allowed.
pub trait IdentitySource: fmt::Debug + Send + Sync {
    /// The identity as of now.
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError>;

    /// Files whose change means that `fetch` gives something new.
    fn watch_paths(&self) -> Vec<PathBuf> {
        Vec::new()
    }

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
}

impl IdentitySource for EmbeddedSource {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let svid = Arc::new(self.ca.issue(&self.id, &self.dns_names, now)?);
        Ok(Identity { svid, bundle: Some(self.ca.bundle().clone()) })
    }

    fn renews(&self) -> bool {
        true
    }

    fn kind(&self) -> &'static str {
        "embedded_ca"
    }

    fn describe(&self) -> String {
        let lifetime = self.ca.lifetime();
        format!("{} {lifetime:?} {} {}", self.ca.directory().display(), self.id, self.dns_names.join(","))
    }
}

impl IdentitySource for IdentityFiles {
    fn fetch(&self, now: SystemTime) -> Result<Identity, IdentityError> {
        let (svid, bundle) = self.read(now)?;
        Ok(Identity { svid: Arc::new(svid), bundle })
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
