//! Revoking on a running node: the list first, then the connections that it names.

use std::sync::Arc;
use std::time::SystemTime;

use super::daemon::Daemon;
use crate::control::revoke::{RevokeReport, RevokeRequest, UnrevokeReport, UnrevokeRequest};
use crate::identity::revocation::{Entry, RevocationError};
use crate::identity::{ChainMarks, Revocations};
use crate::lease::{Ended, Leases, Mark};

/// Puts the entry in force and ends what it names, as each workload wants it.
pub(super) fn revoke(
    revocations: &Revocations,
    leases: &Leases,
    entry: &Entry,
    now: SystemTime,
) -> Result<Ended, RevocationError> {
    revocations.revoke(entry.clone(), now)?;
    Ok(leases.end(Mark::from(&entry.target), |parties| parties.revoked(revocations, now)))
}

impl Daemon {
    pub(super) fn put_on_deny_list(
        &self,
        request: RevokeRequest,
        by: String,
    ) -> Result<RevokeReport, RevocationError> {
        let now = SystemTime::now();
        let entry = Entry::new(request.target, request.reason, by, request.seconds, now)?;
        let ended = revoke(&self.revocations, &self.relay.leases, &entry, now)?;
        self.warn_of_own(&entry);
        let Ended { connections: connections_cut, draining, kept, .. } = ended;
        let reason = &entry.reason;
        tracing::warn!(target = %entry.target, by = entry.by, reason, connections_cut, draining, kept, "revoked");
        Ok(RevokeReport { entry, connections_cut, connections_draining: draining, connections_kept: kept })
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
        self.judge_overdue();
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
