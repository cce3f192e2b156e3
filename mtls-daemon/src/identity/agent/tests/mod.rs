//! Both APIs against a server that speaks the published protocol.

mod delegated;
mod protocol;
mod server;
mod workload_api;

use std::sync::Arc;
use std::time::Duration;

use server::{Reply, Server};

use super::{Agent, Timing};
use crate::identity::testing::{HOUR, LeafSpec, TestCa, TestLeaf};
use crate::identity::{IdentityStatus, IdentityStore};

/// Generous: this machine is shared.
const LIMIT: Duration = Duration::from_secs(30);
const QUICK: Timing = Timing {
    min_pause: Duration::from_millis(20),
    max_pause: Duration::from_millis(100),
    first_answer: Duration::from_secs(20),
};

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + LIMIT;
    while !holds() {
        assert!(tokio::time::Instant::now() < deadline, "not in time: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A store that runs, with what it holds at hand.
struct Node {
    store: Arc<IdentityStore>,
    running: tokio::task::JoinHandle<()>,
}

impl Node {
    fn start() -> Self {
        let store = Arc::new(IdentityStore::new());
        let running = tokio::spawn(Arc::clone(&store).run());
        Self { store, running }
    }

    fn status(&self, workload: &str) -> IdentityStatus {
        let status = self.store.status(std::time::SystemTime::now());
        status.into_iter().find(|status| status.workload == workload).unwrap()
    }

    fn error(&self, workload: &str) -> String {
        self.status(workload).last_error.unwrap_or_default()
    }

    fn chain(&self, workload: &str) -> Option<Vec<rustls::pki_types::CertificateDer<'static>>> {
        self.store.get(workload).map(|identity| identity.svid.chain.clone())
    }

    /// The domains that it has roots of.
    fn domains(&self, workload: &str) -> Vec<String> {
        let identity = self.store.get(workload);
        identity.iter().flat_map(|identity| identity.bundles.iter()).map(|(d, _)| d.to_string()).collect()
    }

    async fn has(&self, workload: &str, leaf: &TestLeaf) {
        eventually("the identity", || self.chain(workload).as_ref() == Some(&leaf.chain)).await;
    }

    async fn complains(&self, workload: &str, part: &str) {
        eventually(part, || self.error(workload).contains(part)).await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.running.abort();
    }
}
