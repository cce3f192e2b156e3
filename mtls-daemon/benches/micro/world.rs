//! Two workloads whose certificates the embedded CA issued.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls_daemon::handshake::{ExpectedServer, PeerNameSettings, Trust};
use mtls_daemon::identity::ca::Order;
use mtls_daemon::identity::{
    Bundle, EmbeddedCa, EmbeddedCaSettings, Revocations, Subject, TrustBundles, X509Svid,
};

const DOMAIN: &str = "example.org";

pub struct World {
    pub root: Bundle,
    /// Connects.
    pub web: X509Svid,
    /// Is connected to.
    pub db: X509Svid,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now = SystemTime::now();
        let settings = EmbeddedCaSettings {
            directory: directory.path().join("ca"),
            lifetime: Duration::from_secs(86_400),
            trust_domain: DOMAIN.parse().unwrap(),
            key: None,
        };
        let ca = EmbeddedCa::open(settings, now).unwrap();
        let issue = |id: &str| {
            let (id, subject) = (id.parse().unwrap(), Subject::default());
            let order = Order { id: &id, dns_names: &[], subject: &subject, requested_by: "benchmark" };
            ca.issue(&order, now).unwrap()
        };
        Self {
            root: ca.bundle(),
            web: issue("spiffe://example.org/web"),
            db: issue("spiffe://example.org/db"),
        }
    }

    pub fn expected(&self) -> Arc<ExpectedServer> {
        Arc::new(ExpectedServer { ids: vec![self.db.id.clone()], dns_names: vec![] })
    }
}

/// Trust in these roots, with the limits that a configuration has by default.
pub fn trust(roots: Bundle) -> Arc<Trust> {
    let trust_domain = DOMAIN.parse().unwrap();
    Arc::new(Trust {
        bundles: Arc::new(TrustBundles::from_iter([(DOMAIN.parse().unwrap(), roots)])),
        trust_domain,
        names: PeerNameSettings::default(),
        max_certificates: 10,
        max_bytes: 65_536,
        revocations: Arc::new(Revocations::in_memory()),
        clock_skew: Trust::CLOCK_SKEW,
    })
}
