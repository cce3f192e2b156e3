//! Revoking on a running node: the list first, then the connections that it names.

use std::sync::Arc;
use std::time::SystemTime;

use super::daemon::Daemon;
use crate::control::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use crate::identity::revocation::{Entry, RevocationError};
use crate::identity::{ChainMarks, Revocations};
use crate::lease::{Leases, Mark};

/// Puts the entry in force and cuts what it names; how many connections that were.
pub(super) fn revoke(
    revocations: &Revocations,
    leases: &Leases,
    entry: &Entry,
    now: SystemTime,
) -> Result<usize, RevocationError> {
    revocations.revoke(entry.clone(), now)?;
    let ended = leases.end(Mark::from(&entry.target), |parties| parties.revoked(revocations, now));
    Ok(ended.connections)
}

impl Daemon {
    pub(super) fn put_on_deny_list(
        &self,
        request: RevokeRequest,
        by: String,
    ) -> Result<RevokeReport, RevocationError> {
        let now = SystemTime::now();
        let entry = Entry::new(request.target, request.reason, by, request.seconds, now)?;
        let connections_cut = revoke(&self.revocations, &self.relay.leases, &entry, now)?;
        self.warn_of_own(&entry);
        tracing::warn!(target = %entry.target, by = entry.by, reason = entry.reason, connections_cut, "revoked");
        Ok(RevokeReport { entry, connections_cut })
    }

    pub(super) fn take_off_deny_list(
        &self,
        request: &UnrevokeRequest,
        by: &str,
    ) -> Result<UnrevokeReport, RevocationError> {
        let entries = self.revocations.unrevoke(&request.target, SystemTime::now())?;
        for entry in &entries {
            tracing::warn!(target = %entry.target, by, "no longer revoked");
        }
        Ok(UnrevokeReport { entries })
    }

    /// A workload of this node that is closed by it had better be known.
    fn warn_of_own(&self, entry: &Entry) {
        let names = |marks: &Arc<ChainMarks>| entry.target.names(marks);
        let snapshot = self.relay.snapshot.load();
        for workload in snapshot.workloads.values() {
            if workload.identity.as_ref().is_ok_and(|identity| names(&identity.marks)) {
                let name = &workload.settings.name;
                let target = &entry.target;
                tracing::warn!(workload = name, %target, "its own identity is revoked: it has no connections");
            }
        }
    }
}
