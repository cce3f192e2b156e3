//! From a configuration to identity sources, trust, and the snapshot that connections are decided on.

mod sources;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::SystemTime;

use super::error::PrepareError;
use super::registry::Registry;
use crate::config::{Config, DatapathChoice, TlsVersion, Workload, WorkloadIdentity};
use crate::datapath::relay::KernelTls;
use crate::datapath::relay::context::certificate_info;
use crate::directory::Directory;
use crate::handshake::{MinVersion, PeerNameSettings, SuiteOrder, TlsSettings, Trust, WorkloadTls};
use crate::identity::leaf::Unreadable;
use crate::identity::ocsp::Question;
use crate::identity::revocation::crl::is_signed_by;
use crate::identity::store::watch::Stamp;
use crate::identity::verified::Fingerprint;
use crate::identity::{
    ChainMarks, EmbeddedCa, EmbeddedCaSettings, IdentitySource, IdentityStore, Revocations, TrustBundles,
    X509Svid, files,
};
use crate::observe::metrics::Metrics;
use crate::observe::{Reason, Refusal};
use crate::policy::Policy;
use crate::policy::external::External;
use crate::snapshot::{OwnIdentity, Snapshot, WorkloadState, number_of};

/// Everything that a configuration needs from the disk, read and checked.
pub struct Prepared {
    /// The configuration.
    pub config: Arc<Config>,
    /// Where each workload's identity comes from.
    pub sources: BTreeMap<String, Arc<dyn IdentitySource>>,
    /// The embedded CA, if a workload needs it.
    pub ca: Option<Arc<EmbeddedCa>>,
    /// Roots besides those that an identity brings along, and besides the embedded CA's, which may change.
    pub bundles: Arc<TrustBundles>,
    /// What the bundle files were when they were read.
    pub bundle_files: BundleFiles,
    directory: Arc<Directory>,
    policy: Arc<Policy>,
    external: Option<Arc<External>>,
}

/// Enough of every bundle file to notice that one was replaced.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BundleFiles(Stamp);

impl BundleFiles {
    /// As they are now.
    #[must_use]
    pub fn of(config: &Config) -> Self {
        Self(Stamp::default()).again(config)
    }

    /// As they are now, to be compared with what they were.
    #[must_use]
    pub fn again(&self, config: &Config) -> Self {
        let paths: Vec<_> = config.trust.bundles.iter().map(|bundle| bundle.file.clone()).collect();
        Self(self.0.again(&paths))
    }
}

/// Opens the CA, reads the bundles, compiles directory and policy.
///
/// # Errors
/// What cannot be used; nothing in force was touched.
pub fn prepare(config: Config) -> Result<Prepared, PrepareError> {
    let mut numbers: HashMap<u32, &str> = HashMap::new();
    for workload in &config.workloads {
        if let Some(other) = numbers.insert(number_of(&workload.name), &workload.name) {
            return Err(PrepareError::NumberCollision(other.to_owned(), workload.name.clone()));
        }
    }
    // Before reading: a change in between is then seen as one.
    let bundle_files = BundleFiles::of(&config);
    let mut bundles = TrustBundles::new();
    for bundle in &config.trust.bundles {
        bundles.add(bundle.trust_domain.clone(), files::read_bundle(&bundle.file)?);
    }
    let ca = ca_for(&config)?;
    for (root, one, other) in bundles.shared_roots() {
        let root = root.subject();
        tracing::warn!(root, %one, %other, "this root vouches for two trust domains, whose IDs it may both issue; give each its own");
    }
    let sources = sources::of(&config, ca.as_ref());
    let directory = Arc::new(Directory::from_config(&config));
    let policy = Arc::new(Policy::from_config(&config));
    // A new one for each configuration: what was answered under another does not count.
    let external = config.policy_external.clone().map(|settings| Arc::new(External::new(settings)));
    let bundles = Arc::new(bundles);
    let config = Arc::new(config);
    Ok(Prepared { config, sources, ca, bundles, bundle_files, directory, policy, external })
}

/// `None`: no workload needs it.
fn ca_for(config: &Config) -> Result<Option<Arc<EmbeddedCa>>, PrepareError> {
    if config.workloads.iter().all(|workload| workload.identity != WorkloadIdentity::EmbeddedCa) {
        return Ok(None);
    }
    let settings = EmbeddedCaSettings {
        directory: config.embedded_ca.directory.clone(),
        lifetime: config.embedded_ca.lifetime,
        trust_domain: config.trust_domain.clone(),
        key: config.embedded_ca.key.clone(),
    };
    Ok(Some(Arc::new(EmbeddedCa::open(settings, SystemTime::now())?)))
}

impl Prepared {
    /// Another configuration of the same files: what they name on the disk is not read again.
    ///
    /// # Errors
    /// As [`prepare`].
    pub fn again(&self, config: Config) -> Result<Self, PrepareError> {
        let ca = match &self.ca {
            Some(ca) => Some(Arc::clone(ca)),
            None => ca_for(&config)?,
        };
        let config = Arc::new(config);
        Ok(Self {
            sources: sources::of(&config, ca.as_ref()),
            ca,
            bundles: Arc::clone(&self.bundles),
            bundle_files: self.bundle_files.clone(),
            directory: Arc::new(Directory::from_config(&config)),
            policy: Arc::new(Policy::from_config(&config)),
            external: self.external.clone(),
            config,
        })
    }

    /// Was it made of this configuration, and of bundle files that are still the same?
    #[must_use]
    pub fn is_of(&self, config: &Config) -> bool {
        *self.config == *config && self.bundle_files == self.bundle_files.again(config)
    }

    /// Whom every workload of this node believes now.
    fn believed(&self) -> TrustBundles {
        let mut bundles = TrustBundles::clone(&self.bundles);
        if let Some(ca) = &self.ca {
            // A workload with files of its own believes its neighbours on the node as well.
            bundles.add(self.config.trust_domain.clone(), ca.bundle());
        }
        bundles
    }

    /// The snapshot with the identities that the store has now, for this kernel's TLS.
    pub fn snapshot(
        &self,
        generation: u64,
        store: &IdentityStore,
        ktls: &KernelTls,
        registry: &mut Registry,
        metrics: &Metrics,
    ) -> Snapshot {
        let bundles = self.believed();
        let workloads = self
            .config
            .workloads
            .iter()
            .map(|settings| {
                let lasting = registry.of(&settings.name, metrics);
                let identity = self.own_identity(settings, &bundles, store, ktls, registry.revocations());
                let expiry =
                    identity.as_ref().ok().map(|identity| identity.certificate.not_after.unix_timestamp());
                lasting.metrics.set_certificate_expiry(expiry);
                let number = number_of(&settings.name);
                let state = WorkloadState {
                    number,
                    spiffe_id: settings.spiffe_id.as_str().into(),
                    settings: settings.clone(),
                    metrics: lasting.metrics,
                    live: lasting.live,
                    stopped: lasting.stop.subscribe(),
                    identity,
                };
                (number, Arc::new(state))
            })
            .collect();
        Snapshot {
            generation,
            config: Arc::clone(&self.config),
            directory: Arc::clone(&self.directory),
            policy: Arc::clone(&self.policy),
            external: self.external.clone(),
            workloads,
        }
    }

    fn own_identity(
        &self,
        workload: &Workload,
        bundles: &TrustBundles,
        store: &IdentityStore,
        ktls: &KernelTls,
        revocations: &Arc<Revocations>,
    ) -> Result<OwnIdentity, Refusal> {
        let identity = store.usable(&workload.name, SystemTime::now())?;
        let limits = &self.config.limits;
        let bundles = Arc::new(identity.trusted_with(bundles));
        let trust = Trust {
            bundles: Arc::clone(&bundles),
            trust_domain: identity.svid.id.trust_domain().clone(),
            names: PeerNameSettings {
                dns: self.config.trust.peer_names.dns,
                common_name: self.config.trust.peer_names.common_name,
            },
            max_certificates: usize::try_from(limits.chain_certificates).unwrap_or(usize::MAX),
            max_bytes: usize::try_from(limits.chain_bytes).unwrap_or(usize::MAX),
            revocations: Arc::clone(revocations),
            clock_skew: self.config.trust.clock_skew,
        };
        let settings = tls_settings(&self.config, workload, ktls);
        let marks = Arc::new(own_marks(&identity.svid, &trust.bundles)?);
        Ok(OwnIdentity {
            tls: WorkloadTls::new(&identity.svid, Arc::new(trust), settings).stapling(Arc::clone(&marks)),
            bundles,
            certificate: Arc::new(certificate_info(&identity.svid.serial, identity.svid.not_after)),
            not_after: identity.svid.not_after,
            marks,
            revocations: Arc::clone(revocations),
        })
    }
}

/// A purpose of its own, beside those of peers.
const OWN: u8 = 0;

/// `bundles`: where the issuer is, if it is a root.
pub(super) fn own_marks(svid: &X509Svid, bundles: &TrustBundles) -> Result<ChainMarks, Refusal> {
    let print = Fingerprint::of(OWN, &svid.chain);
    let mut marks = ChainMarks::of(print, Some(svid.id.clone()), &svid.chain, false)
        .map_err(|Unreadable(why)| Refusal::new(Reason::NoIdentity, format!("its own chain: {why}")))?;
    if let ([leaf], Some(bundle)) = (svid.chain.as_slice(), bundles.get(svid.id.trust_domain())) {
        let root = bundle.roots().iter().find(|root| is_signed_by(leaf, root.der()));
        marks.question = root.and_then(|root| Question::of(leaf, root.der()).ok()).map(Arc::new);
    }
    Ok(marks)
}

fn tls_settings(config: &Config, workload: &Workload, ktls: &KernelTls) -> TlsSettings {
    let abilities = ktls.as_ref().ok().filter(|abilities| match workload.datapath {
        DatapathChoice::RelayUserspace => false,
        DatapathChoice::RelayKtls => true,
        DatapathChoice::Auto => abilities.serves_auto(),
    });
    TlsSettings {
        min_version: match config.tls.min_version {
            TlsVersion::V1_3 => MinVersion::Tls13,
            TlsVersion::V1_2 => MinVersion::Tls12,
        },
        suites: match &config.tls.cipher_suites {
            Some(suites) => SuiteOrder::configured(suites.clone()),
            None => SuiteOrder::auto(abilities.map(AsRef::as_ref)),
        },
    }
}

#[cfg(test)]
mod tests;
