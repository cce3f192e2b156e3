//! Agents of this node that hand out SVIDs over a Unix socket: the SPIFFE Workload API gives mtlsd its own, SPIRE's
//! Delegated Identity API those of the workloads that it hosts.
//!
//! Each stream has one task, shared by all workloads that use it; it ends with the last of them. What comes over
//! a socket is hostile until `answer` has read it.

mod answer;
mod delegated;
mod error;
mod feed;
mod messages;
mod selector;
mod workload_api;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};

use tonic::Status;
use tonic::transport::{Channel, Endpoint};

pub use self::delegated::DelegatedSource;
use self::delegated::{SubscribeToX509Bundles, SubscribeToX509Svids};
pub use self::error::{AgentError, Cause, Fault, Field};
use self::feed::{Call, Feed};
pub use self::feed::{MAX_MESSAGE, Timing};
pub use self::selector::{SelectorError, SpireSelector};
use self::workload_api::FetchX509Svid;
pub use self::workload_api::WorkloadApiSource;

/// Agents that are in use. A reload makes new sources while those of unchanged workloads live on, and both shall
/// share the streams.
static AGENTS: Mutex<BTreeMap<PathBuf, Weak<Agent>>> = Mutex::new(BTreeMap::new());

/// An agent, by its socket: one connection, and the streams over it.
pub struct Agent {
    socket: PathBuf,
    timing: Timing,
    channel: OnceLock<Channel>,
    workload_api: Mutex<Weak<Feed<FetchX509Svid>>>,
    bundles: Mutex<Weak<Feed<SubscribeToX509Bundles>>>,
    svids: Mutex<BTreeMap<BTreeSet<SpireSelector>, Weak<Feed<SubscribeToX509Svids>>>>,
}

impl Agent {
    /// The agent at this socket. It is connected to when a source is.
    #[must_use]
    pub fn at(socket: &Path) -> Arc<Self> {
        let mut agents = lock(&AGENTS);
        agents.retain(|_, agent| agent.strong_count() > 0);
        if let Some(agent) = agents.get(socket).and_then(Weak::upgrade) {
            return agent;
        }
        let agent = Arc::new(Self::new(socket, Timing::default()));
        agents.insert(socket.to_owned(), Arc::downgrade(&agent));
        agent
    }

    fn new(socket: &Path, timing: Timing) -> Self {
        Self {
            socket: socket.to_owned(),
            timing,
            channel: OnceLock::new(),
            workload_api: Mutex::new(Weak::new()),
            bundles: Mutex::new(Weak::new()),
            svids: Mutex::default(),
        }
    }

    fn socket(&self) -> &Path {
        &self.socket
    }

    fn timing(&self) -> Timing {
        self.timing
    }

    /// Connects when it is used, and again when the connection has broken.
    fn channel(&self) -> Result<Channel, Status> {
        if let Some(channel) = self.channel.get() {
            return Ok(channel.clone());
        }
        let endpoint = Endpoint::from_shared(format!("unix://{}", self.socket.display()))
            .map_err(|error| Status::from_error(Box::new(error)))?;
        Ok(self.channel.get_or_init(|| endpoint.connect_lazy()).clone())
    }

    fn workload_api(self: &Arc<Self>) -> Arc<Feed<FetchX509Svid>> {
        self.feed(&mut lock(&self.workload_api), || FetchX509Svid)
    }

    fn x509_bundles(self: &Arc<Self>) -> Arc<Feed<SubscribeToX509Bundles>> {
        self.feed(&mut lock(&self.bundles), || SubscribeToX509Bundles)
    }

    fn x509_svids(self: &Arc<Self>, selectors: &BTreeSet<SpireSelector>) -> Arc<Feed<SubscribeToX509Svids>> {
        let mut svids = lock(&self.svids);
        svids.retain(|_, feed| feed.strong_count() > 0);
        let slot = svids.entry(selectors.clone()).or_default();
        self.feed(slot, || SubscribeToX509Svids(selectors.clone()))
    }

    /// The feed that there is, or a new one.
    fn feed<C: Call>(self: &Arc<Self>, slot: &mut Weak<Feed<C>>, call: impl FnOnce() -> C) -> Arc<Feed<C>> {
        slot.upgrade().unwrap_or_else(|| {
            let feed = Arc::new(Feed::open(Arc::clone(self), call()));
            *slot = Arc::downgrade(&feed);
            feed
        })
    }
}

impl fmt::Debug for Agent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Agent({})", self.socket.display())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks, and what they guard is valid at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
