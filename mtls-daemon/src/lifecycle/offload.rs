//! The kernel's TLS: what it can do is asked at the start, and again as long as it cannot be used.

use std::sync::Arc;
use std::time::Duration;

use super::daemon::Daemon;
use crate::config::{Config, DatapathChoice};
use crate::datapath::ktls;
use crate::datapath::relay::KernelTls;

/// How often it is looked whether the module is there by now.
pub(super) const LOOK: Duration = Duration::from_secs(10);

/// Asks the kernel, and says once what it answered.
pub(super) fn ask(config: &Config) -> KernelTls {
    let answer = ktls::probe().map(Arc::new);
    tell(&answer, config);
    answer
}

impl Daemon {
    /// Cheap while nothing has changed.
    pub(super) fn look_for_ktls(self: &Arc<Self>) {
        let wanting =
            self.relay.ktls.load().as_ref().as_ref().is_err_and(|why| why.is_for_want_of_the_module());
        if wanting && ktls::listed() {
            let daemon = Arc::clone(self);
            tokio::task::spawn_blocking(move || daemon.ask_again());
        }
    }

    /// Asks the kernel again if it could not before; new connections then use what it can do.
    pub(super) fn ask_again(&self) {
        let before = self.relay.ktls.load_full();
        let Err(why_not) = before.as_ref() else { return };
        let answer = ktls::probe().map(Arc::new);
        let changed = answer.as_ref().map_or_else(|why| why.to_string() != why_not.to_string(), |_| true);
        if changed {
            tell(&answer, &self.relay.snapshot.load().config);
            self.relay.ktls.store(Arc::new(answer));
            // Which suites are preferred depends on it.
            self.refresh_identities();
        }
    }
}

fn tell(answer: &KernelTls, config: &Config) {
    let wanted = config.workloads.iter().any(|workload| workload.datapath == DatapathChoice::RelayKtls);
    match answer {
        Ok(abilities) => tracing::info!("relay-ktls can be used from now on: {abilities}"),
        Err(why) if wanted => {
            tracing::warn!("relay-ktls is configured and cannot be had, so it is relay-userspace: {why}");
        }
        Err(why) => tracing::info!("no relay-ktls, so it is relay-userspace: {why}"),
    }
}
