//! The immutable view that every connection is decided on: configuration, directory, policy, identities.
//! A change makes a new one; a connection keeps the one it began with.

use std::borrow::Cow;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::SystemTime;

use tokio::sync::watch;

pub use crate::config::number_of;
use crate::config::{self, Config};
use crate::directory::{Destination, Directory};
use crate::handshake::WorkloadTls;
use crate::identity::when;
use crate::identity::{ChainMarks, PeerName, Revocations, TrustBundles};
use crate::observe::connection::CertificateInfo;
use crate::observe::metrics::WorkloadMetrics;
use crate::observe::{Reason, Refusal};
use crate::policy::external::External;
use crate::policy::{OutboundQuery, Peer, Policy, Query, Verdict};

/// A consistent set of everything that decides.
#[derive(Debug)]
pub struct Snapshot {
    /// Counts the configurations applied since the daemon started.
    pub generation: u64,
    /// The configuration.
    pub config: Arc<Config>,
    /// Destinations.
    pub directory: Arc<Directory>,
    /// Rules.
    pub policy: Arc<Policy>,
    /// Who else is asked about what the rules allow; with the answers since this configuration came into force.
    pub external: Option<Arc<External>>,
    /// Workloads by number.
    pub workloads: HashMap<u32, Arc<WorkloadState>>,
}

/// One workload.
#[derive(Debug)]
pub struct WorkloadState {
    /// Its number in the eBPF tables.
    pub number: u32,
    /// Its settings.
    pub settings: config::Workload,
    /// Its SPIFFE ID as the log shows it.
    pub spiffe_id: Arc<str>,
    /// Its counters.
    pub metrics: Arc<WorkloadMetrics>,
    /// Its live connections, kept across snapshots.
    pub live: Arc<AtomicU64>,
    /// Becomes true when the workload is removed or the daemon stops.
    pub stopped: watch::Receiver<bool>,
    /// Its certificate and trust, or why it has none.
    pub identity: Result<OwnIdentity, Refusal>,
}

/// A workload's identity, ready for handshakes.
#[derive(Debug)]
pub struct OwnIdentity {
    /// Makes TLS configurations.
    pub tls: WorkloadTls,
    /// Whom it believes.
    pub bundles: Arc<TrustBundles>,
    /// What the log says about the certificate.
    pub certificate: Arc<CertificateInfo>,
    /// The certificate's `notAfter`.
    pub not_after: SystemTime,
    /// What its chain can be revoked by.
    pub marks: Arc<ChainMarks>,
    /// What is revoked.
    pub revocations: Arc<Revocations>,
}

impl WorkloadState {
    /// The identity, if it may be used now.
    ///
    /// # Errors
    /// [`Reason::NoIdentity`] with what the source said, or that the certificate has expired meanwhile;
    /// [`Reason::Revoked`].
    pub fn usable_identity(&self, now: SystemTime) -> Result<&OwnIdentity, Refusal> {
        let identity = self.identity.as_ref().map_err(Clone::clone)?;
        if now > identity.not_after {
            let serial = &identity.certificate.serial;
            return Err(Refusal::new(
                Reason::NoIdentity,
                format!(
                    "certificate {serial} of workload {} {} and was not renewed",
                    self.settings.name,
                    when::expired(identity.not_after, now)
                ),
            ));
        }
        if let Some(revoked) = identity.revocations.refusal_of(&identity.marks, now) {
            let (name, serial) = (&self.settings.name, &identity.certificate.serial);
            let detail = format!("the own certificate {serial} of workload {name}: {}", revoked.detail);
            return Err(Refusal::new(revoked.reason, detail));
        }
        Ok(identity)
    }
}

impl Snapshot {
    /// The workload of that name.
    #[must_use]
    pub fn by_name(&self, name: &str) -> Option<&Arc<WorkloadState>> {
        self.workloads.get(&number_of(name))
    }
}

/// A denial that is known before there is a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EarlyDenial<'a> {
    /// What policy says.
    pub verdict: Verdict<'a>,
    /// What the log calls the default.
    default: Cow<'static, str>,
}

impl EarlyDenial<'_> {
    /// The rule's name, or the default.
    #[must_use]
    pub fn rule(&self) -> Cow<'_, str> {
        self.verdict.rule.map_or_else(|| self.default.clone(), Cow::Borrowed)
    }
}

impl Snapshot {
    /// The denial that a connection of `client` to this destination will meet, whatever is still to be learned of the
    /// server; `None` if it may be. `address`: that of the server, if it is known.
    #[must_use]
    pub fn denied_early(
        &self,
        client: &WorkloadState,
        destination: &Destination,
        port: u16,
        address: Option<IpAddr>,
    ) -> Option<EarlyDenial<'_>> {
        let server = destination.local_workload.as_deref().and_then(|name| self.by_name(name));
        let server = server.map(|server| &server.settings);
        denied_early(&self.policy, &client.settings, server, destination, port, address)
    }

    /// What becomes of a connection of `client` to where the directory finds nobody.
    #[must_use]
    pub fn unknown(&self, client: &config::Workload, to: SocketAddr) -> config::Unknown {
        self.directory.unknown(&self.config, client, to.ip(), to.port())
    }

    /// The denial that a client at this address will meet, whoever it proves to be; `None` if it may be let in.
    ///
    /// A port that no rule opens to anybody is not denied here: most often a rule was forgotten, and the client's mtlsd hears
    /// the reason only after the handshake.
    #[must_use]
    pub fn denied_source(&self, server: &WorkloadState, port: u16, from: IpAddr) -> Option<EarlyDenial<'_>> {
        denied_source(&self.policy, &server.settings, port, from)
    }
}

/// As [`Snapshot::denied_source`].
#[must_use]
pub fn denied_source<'p>(
    policy: &'p Policy,
    server: &config::Workload,
    port: u16,
    from: IpAddr,
) -> Option<EarlyDenial<'p>> {
    let denied = |from| policy.denied_early(&Query::to(server, port, Peer::unknown(from)));
    let verdict = denied(Some(from))?;
    let by_address = verdict.rule.is_some() || denied(None).is_none();
    by_address.then(|| EarlyDenial { verdict, default: server.default_name(port) })
}

/// As [`Snapshot::denied_early`]; `server`: the local workload that the destination is.
#[must_use]
pub fn denied_early<'p>(
    policy: &'p Policy,
    client: &config::Workload,
    server: Option<&config::Workload>,
    destination: &Destination,
    port: u16,
    address: Option<IpAddr>,
) -> Option<EarlyDenial<'p>> {
    outbound_denied_early(policy, client, destination, port, address)
        .or_else(|| inbound_denied_early(policy, client, server?, port))
}

fn outbound_denied_early<'p>(
    policy: &'p Policy,
    client: &config::Workload,
    destination: &Destination,
    port: u16,
    address: Option<IpAddr>,
) -> Option<EarlyDenial<'p>> {
    if (client.allows_outbound_by_default() && !policy.has_outbound_rules())
        || !destination.dns_names.is_empty()
    {
        return None;
    }
    let denied = |id: &crate::identity::SpiffeId| {
        let name = PeerName::Spiffe(id.clone());
        let peer = Peer::expected(&name, address);
        policy.outbound_denied_early(&OutboundQuery::from(client, port, peer))
    };
    // Each server that it may be must be one that is denied.
    let verdicts: Option<Vec<_>> = destination.expected.iter().map(denied).collect();
    let verdict = verdicts?.into_iter().next()?;
    Some(EarlyDenial { verdict, default: client.outbound_default_name().into() })
}

/// What a server of this node will say.
fn inbound_denied_early<'p>(
    policy: &'p Policy,
    client: &config::Workload,
    server: &config::Workload,
    port: u16,
) -> Option<EarlyDenial<'p>> {
    if server.mode_of_port(port) == config::Mode::Disabled {
        return None;
    }
    let name = PeerName::Spiffe(client.spiffe_id.clone());
    let verdict = policy.denied_early(&Query::to(server, port, Peer::expected(&name, None)))?;
    Some(EarlyDenial { verdict, default: server.default_name(port) })
}

#[cfg(test)]
pub(crate) mod testing {
    //! Snapshots for tests.

    use super::*;
    use crate::config::Source;
    use crate::observe::metrics::Metrics;

    /// The configuration that this text is; everything but the trust domain `example.org`.
    pub(crate) fn config(text: &str) -> Config {
        let text = format!("trust_domain: example.org\n{text}");
        Config::parse(&Source { path: "F".into(), text }, &[]).unwrap()
    }

    /// A snapshot whose workloads have no identity.
    pub(crate) fn snapshot(config: Config) -> Snapshot {
        let metrics = Metrics::new("0");
        let state = |settings: &config::Workload| {
            let number = number_of(&settings.name);
            let state = WorkloadState {
                number,
                settings: settings.clone(),
                spiffe_id: settings.spiffe_id.as_str().into(),
                metrics: metrics.workload(&settings.name),
                live: Arc::default(),
                stopped: watch::channel(false).1,
                identity: Err(Reason::NoIdentity.into()),
            };
            (number, Arc::new(state))
        };
        Snapshot {
            generation: 1,
            directory: Arc::new(Directory::from_config(&config)),
            policy: Arc::new(Policy::from_config(&config)),
            external: config.policy_external.clone().map(|settings| Arc::new(External::new(settings))),
            workloads: config.workloads.iter().map(state).collect(),
            config: Arc::new(config),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_found_by_its_name_and_one_without_identity_says_why() {
        let snapshot =
            testing::snapshot(testing::config("workloads: [{ name: web, select: { netns: web } }]"));
        let web = snapshot.by_name("web").unwrap();
        assert_eq!(web.number, number_of("web"));
        assert!(snapshot.by_name("db").is_none());
        assert_eq!(web.usable_identity(SystemTime::now()).unwrap_err().reason, Reason::NoIdentity);
    }

    #[test]
    fn numbers_are_stable_and_never_zero() {
        assert_eq!(number_of("web"), number_of("web"));
        assert_ne!(number_of("web"), number_of("db"));
        assert_eq!(number_of(""), 0x811c_9dc5);
    }
}
