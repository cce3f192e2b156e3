//! Which namespaces are held, so that connections there may be direct.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::hold::{self, HoldError};
use crate::config::Config;
use crate::datapath::relay::Place;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::workload::{Hierarchy, find};

/// A namespace that is enrolled no longer: its sockets are born free again.
pub(in crate::lifecycle) fn let_go(place: &Place) {
    if place.held_for_direct.swap(false, Ordering::AcqRel)
        && let Err(error) = hold::let_go(&place.netns)
    {
        tracing::warn!(netns = %place.netns.path().display(), %error, "net.ipv4.tcp_notsent_lowat could not be set back");
    }
}

/// For `mtlsd uninstall`: nothing stays held once no program lets it go. Namespaces that are gone need nothing.
pub(in crate::lifecycle) fn let_all_go(config: &Config) {
    let hierarchy = Hierarchy::of(config);
    for workload in &config.workloads {
        for netns in
            find(&workload.select, hierarchy.as_ref()).map(|found| found.namespaces).unwrap_or_default()
        {
            if let Err(error) = hold::let_go(&netns) {
                tracing::warn!(netns = %netns.path().display(), %error, "net.ipv4.tcp_notsent_lowat could not be set back");
            }
        }
    }
}

impl Daemon {
    /// Holds the namespaces of workloads that may be direct, where that is possible by now.
    pub(in crate::lifecycle) fn hold_for_direct(&self) {
        if !self.is_direct() {
            return;
        }
        let snapshot = self.relay.snapshot.load_full();
        let places: Vec<_> = lock(&self.node).places().map(Arc::clone).collect();
        for place in places {
            let owner = place.owners.load().whole.and_then(|number| snapshot.workloads.get(&number));
            let wanted = owner.is_some_and(|workload| workload.settings.may_be_direct());
            if !wanted || place.held_for_direct.load(Ordering::Acquire) {
                continue;
            }
            let netns = place.netns.path().display();
            match hold::hold(&place.netns) {
                Ok(_) => {
                    place.held_for_direct.store(true, Ordering::Release);
                    tracing::info!(%netns, "its connections may be direct from now on");
                }
                Err(why @ HoldError::Open(_)) => tracing::debug!(%netns, %why, "not direct yet"),
                Err(why) => tracing::warn!(%netns, %why, "its connections cannot be direct"),
            }
        }
    }
}
