//! A double, the files that a pod would have, and a client of both.

use std::sync::Arc;
use std::time::Duration;

use mtls_kube_double::{Double, TOKEN, json};
use serde_json::Value;
use tempfile::TempDir;

use crate::kube::objects::Pod;
use crate::kube::{Client, ClusterConfig, Kept, Reflector, Scope, Standing, Timing};

pub(crate) struct World {
    pub double: Double,
    pub files: TempDir,
}

/// Short, so that tests are.
pub(super) fn brisk() -> Timing {
    Timing {
        connect: Duration::from_secs(2),
        answer: Duration::from_secs(5),
        idle: Duration::from_secs(1),
        watch: Duration::from_secs(290),
        min_pause: Duration::from_millis(10),
        max_pause: Duration::from_millis(50),
        second_look: Duration::from_millis(200),
    }
}

impl World {
    pub fn new() -> Self {
        Self::of(Double::start())
    }

    /// Bookmarks come often enough that nothing is silent by chance.
    pub fn of(double: Double) -> Self {
        double.bookmarks_each(Duration::from_millis(100));
        let world = Self { double, files: tempfile::tempdir().unwrap() };
        world.token(TOKEN);
        world.ca(world.double.ca_pem());
        world
    }

    pub fn token(&self, token: &str) {
        std::fs::write(self.files.path().join("token"), token).unwrap();
    }

    pub fn ca(&self, pem: &str) {
        std::fs::write(self.files.path().join("ca.crt"), pem).unwrap();
    }

    pub fn config(&self) -> ClusterConfig {
        let address = self.double.address();
        let variable = |name: &str| match name {
            "KUBERNETES_SERVICE_HOST" => Some(address.ip().to_string()),
            _ => Some(address.port().to_string()),
        };
        ClusterConfig::from_variables(variable, self.files.path()).unwrap()
    }

    pub fn client(&self, timing: Timing) -> Arc<Client> {
        Arc::new(Client::new(self.config(), timing))
    }

    pub fn pods(&self) -> Reflector<Pod> {
        Reflector::start(self.client(brisk()), Scope::default(), None)
    }

    pub fn pods_remembering(&self, kept: Option<Kept<Pod>>) -> Reflector<Pod> {
        Reflector::start(self.client(brisk()), Scope::default(), kept)
    }

    pub fn put(&self, name: &str) {
        self.double.put("pods", pod(name));
    }

    pub fn put_many(&self, count: usize) {
        (0..count).for_each(|n| self.put(&format!("p{n}")));
    }
}

pub(super) fn pod(name: &str) -> Value {
    json!({ "metadata": { "name": name, "namespace": "shop" }, "status": { "podIP": "10.0.0.1" } })
}

/// Is there a pod of this name in the copy?
pub(super) fn has(pods: &Reflector<Pod>, name: &str) -> bool {
    pods.with(|all| all.keys().any(|key| key.name.as_str() == name))
}

pub(super) fn count(pods: &Reflector<Pod>) -> usize {
    pods.with(std::collections::BTreeMap::len)
}

pub(super) fn is_current(pods: &Reflector<Pod>) -> bool {
    pods.standing() == Standing::Current
}

/// What the copy says of why it is behind.
pub(super) fn trouble(pods: &Reflector<Pod>) -> String {
    match pods.standing() {
        Standing::Behind(error) => error.to_string(),
        _ => String::new(),
    }
}

/// Waits for something.
///
/// # Panics
/// If it does not come about within 20 s.
pub(super) async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
