//! Metrics with something in each series, for the reference and for tests.

use std::time::Duration;

use super::super::cause::Cause;
use super::super::connection::{Datapath, Direction};
use super::super::reason::Reason;
use super::{
    CaSample, ClusterHealth, CrlHealth, ExternalResult, Metrics, OcspHealth, RootsSample, Side, SourceHealth,
};
use crate::identity::alarm::Level;

impl Metrics {
    /// Metrics in which every series has been touched: every name and label that there can be.
    #[must_use]
    pub fn example() -> Self {
        let metrics = Self::new("1.2.3");
        metrics.set_crls(vec![CrlHealth {
            trust_domain: "example.org".into(),
            source: "/site.crl".into(),
            age: Some(Duration::from_secs(90)),
            stale: true,
        }]);
        metrics.set_ocsp(vec![OcspHealth {
            trust_domain: "example.org".into(),
            answered: 3,
            failed: 2,
            stale: 1,
            age: Some(Duration::from_secs(80)),
        }]);
        let pods = SourceHealth {
            source: "pods".into(),
            age: Some(Duration::from_secs(3)),
            stale: false,
            objects: 5,
            refused: 1,
        };
        let cluster = ClusterHealth { sources: vec![pods], mixed_services: 1, policies_refused: 1 };
        metrics.set_cluster(Some(cluster));
        let web = metrics.workload("web");
        for side in Side::ALL {
            web.handshake_ok(side, Duration::from_millis(2));
            for reason in Reason::ALL {
                web.handshake_failed(side, *reason);
                web.refused(*reason);
            }
        }
        for direction in Direction::ALL {
            for datapath in Datapath::ALL {
                let open = web.opened(direction, datapath);
                open.add_sent(1);
                open.add_received(2);
            }
        }
        web.denied("default of strict");
        web.plaintext_accepted();
        web.set_certificate_expiry(Some(1_800_000_000));
        web.set_identity(Level::Critical, 4);
        metrics.set_ca(vec![CaSample {
            certificate: "intermediate",
            name: "mtlsd intermediate CA 0a1b2c3d".into(),
            level: Level::Critical,
            not_after: Some(1_850_000_000),
        }]);
        web.leases_ended(Cause::Revoked, 3);
        web.set_overdue(5, 6);
        metrics.set_roots(vec![RootsSample {
            trust_domain: "example.org".into(),
            level: Level::Warning,
            not_after: Some(1_900_000_000),
        }]);
        metrics.set_ebpf_counter("captured", 12);
        metrics.set_flows(7, 2);
        web.set_unaccounted(7);
        metrics.set_verify_failed("programs", true);
        metrics.set_verify_failed("tables", false);
        metrics.repaired("program");
        metrics.config_reloaded(true);
        metrics.config_reloaded(false);
        metrics.access_log_lost().inc();
        let external = metrics.external();
        external.decided(ExternalResult::Allowed);
        external.decided(ExternalResult::DeniedUnavailable);
        external.called(true, Duration::from_millis(3));
        external.called(false, Duration::from_millis(500));
        external.set_failing(true);
        metrics
    }
}
