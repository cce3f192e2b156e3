//! Following the resources that matter to a node.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::offer::View;
use super::report;
use super::standing::{Follows, ResourceStanding};
use crate::config::{Kubernetes, PolicySource, Verdict};
use crate::kube::objects::{
    AuthorizationPolicy, EndpointSlice, Kind, MutualTlsPolicy, Namespace, PeerAuthentication, Pod, Service,
};
use crate::kube::{
    Changes, Client, ClusterConfig, ConfigError, Kept, KubeError, Reflector, Remembered, Scope, StateFile,
    StateFileError, Timing,
};

/// The environment variable that says on which node this is.
pub const NODE_NAME: &str = "NODE_NAME";

const POLL: Duration = Duration::from_millis(50);

/// Why the cluster cannot be followed.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// Not in a pod.
    #[error("kubernetes is configured, but {0}")]
    NotInCluster(#[from] ConfigError),
    /// Nobody says which node this is.
    #[error(
        "kubernetes is configured, but nobody says which node this is; set kubernetes.node, or NODE_NAME from spec.nodeName in the DaemonSet"
    )]
    NoNode,
}

/// A node's copy of what its cluster says. It is followed until this is dropped.
pub struct Cluster {
    client: Arc<Client>,
    node: String,
    file: StateFile,
    began: Instant,
    pods: Reflector<Pod>,
    namespaces: Reflector<Namespace>,
    services: Reflector<Service>,
    slices: Reflector<EndpointSlice>,
    modes: Option<Reflector<PeerAuthentication>>,
    rules: Option<Reflector<AuthorizationPolicy>>,
    ours: Option<Reflector<MutualTlsPolicy>>,
}

impl Cluster {
    /// Begins to follow, with what an earlier daemon left in the state directory.
    ///
    /// # Errors
    /// If this is not in a pod, or on no node.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn start(settings: &Kubernetes, state: &Path) -> Result<Self, ClusterError> {
        let client =
            Arc::new(Client::new(ClusterConfig::in_cluster(&settings.service_account)?, Timing::default()));
        let named = || std::env::var(NODE_NAME).ok().filter(|name| !name.is_empty());
        let node = settings.node.clone().or_else(named).ok_or(ClusterError::NoNode)?;
        let file = StateFile::of(state);
        let remembered = file.read_or_set_aside().unwrap_or_default();
        fn start<K: Kind>(client: &Arc<Client>, kept: Option<Kept<K>>) -> Reflector<K> {
            Reflector::start(Arc::clone(client), Scope::default(), kept)
        }
        let istio = settings.policies.contains(&PolicySource::Istio);
        let mtlsd = settings.policies.contains(&PolicySource::Mtlsd);
        Ok(Self {
            node,
            file,
            began: Instant::now(),
            pods: start(&client, remembered.pods),
            namespaces: start(&client, remembered.namespaces),
            services: start(&client, remembered.services),
            slices: start(&client, remembered.endpoint_slices),
            modes: istio.then(|| start(&client, remembered.peer_authentications)),
            rules: istio.then(|| start(&client, remembered.authorization_policies)),
            ours: mtlsd.then(|| start(&client, remembered.mutual_tls_policies)),
            client,
        })
    }

    /// The node that this is.
    #[must_use]
    pub fn node(&self) -> &str {
        &self.node
    }

    /// What is known; `None`: not all of it was heard yet, and half of it would open what is closed.
    #[must_use]
    pub fn view(&self) -> Option<View> {
        let behind = self.follows().into_iter().any(|followed| !followed.is_known());
        if behind {
            return None;
        }
        Some(View {
            pods: all(&self.pods),
            namespaces: all(&self.namespaces),
            services: all(&self.services),
            slices: all(&self.slices),
            modes: self.modes.as_ref().map(all).unwrap_or_default(),
            rules: self.rules.as_ref().map(all).unwrap_or_default(),
            ours: self.ours.as_ref().map(all).unwrap_or_default(),
        })
    }

    /// Waits until the API server has said what is since this began to follow, but no longer than `limit`. `false`: it has not.
    pub async fn heard_within(&self, limit: Duration) -> bool {
        let mut changes = self.changes();
        let heard = async {
            while self.standings().iter().any(|standing| standing.trouble.is_some()) {
                // A list that says what is known already changes nothing.
                let _ = timeout(POLL, changes.next()).await;
            }
        };
        timeout(limit, heard).await.is_ok()
    }

    /// How each resource stands.
    #[must_use]
    pub fn standings(&self) -> Vec<ResourceStanding> {
        let followed = self.began.elapsed();
        self.follows().into_iter().map(|of| of.standing(followed)).collect()
    }

    fn follows(&self) -> Vec<&dyn Follows> {
        let built_in: [&dyn Follows; 4] = [&self.pods, &self.namespaces, &self.services, &self.slices];
        let modes = self.modes.iter().map(|followed| followed as &dyn Follows);
        let rules = self.rules.iter().map(|followed| followed as &dyn Follows);
        let ours = self.ours.iter().map(|followed| followed as &dyn Follows);
        built_in.into_iter().chain(modes).chain(rules).chain(ours).collect()
    }

    /// Hears of changes of any of them from now on.
    #[must_use]
    pub fn changes(&self) -> AnyChange {
        let built_in =
            [self.pods.changes(), self.namespaces.changes(), self.services.changes(), self.slices.changes()];
        let policies = [
            self.modes.as_ref().map(Reflector::changes),
            self.rules.as_ref().map(Reflector::changes),
            self.ours.as_ref().map(Reflector::changes),
        ];
        AnyChange::of(built_in.into_iter().chain(policies.into_iter().flatten()).collect())
    }

    /// Writes what became of a policy object into its status, unless it is there.
    ///
    /// # Errors
    /// Why it could not be written.
    pub async fn report(&self, verdict: &Verdict) -> Result<(), KubeError> {
        report::write(&self.client, verdict).await
    }

    /// Writes what is known to the state directory, for the next daemon.
    ///
    /// # Errors
    /// What the kernel said; the old file is still there.
    pub fn remember(&self) -> Result<(), StateFileError> {
        self.file.write(&Remembered {
            pods: self.pods.kept(),
            namespaces: self.namespaces.kept(),
            services: self.services.kept(),
            endpoint_slices: self.slices.kept(),
            peer_authentications: self.modes.as_ref().and_then(Reflector::kept),
            authorization_policies: self.rules.as_ref().and_then(Reflector::kept),
            mutual_tls_policies: self.ours.as_ref().and_then(Reflector::kept),
            nodes: None,
        })
    }
}

fn all<K: Kind>(reflector: &Reflector<K>) -> Vec<Arc<K>> {
    reflector.with(|objects| objects.values().cloned().collect())
}

/// Says when anything has changed.
pub struct AnyChange {
    changed: Arc<Notify>,
    /// Ended with this.
    _listeners: JoinSet<()>,
}

impl AnyChange {
    fn of(all: Vec<Changes>) -> Self {
        let changed = Arc::new(Notify::new());
        let mut listeners = JoinSet::new();
        for mut changes in all {
            let changed = Arc::clone(&changed);
            listeners.spawn(async move {
                while changes.next().await {
                    changed.notify_one();
                }
            });
        }
        Self { changed, _listeners: listeners }
    }

    /// Waits for a change since the last call.
    pub async fn next(&mut self) {
        self.changed.notified().await;
    }
}
