//! Every configured workload: is it enrolled, and has it an identity that it may use?

use std::time::SystemTime;

use super::Finding;
use crate::control::view::Check;
use crate::lifecycle::daemon::{Daemon, lock};
use crate::workload::Presence;

pub(super) fn look(daemon: &Daemon) -> Vec<Check> {
    let snapshot = daemon.relay.snapshot.load_full();
    let node = lock(&daemon.node);
    let mut checks = Vec::new();
    for workload in snapshot.workloads.values().filter(|workload| !workload.settings.is_left_alone()) {
        let name = &workload.settings.name;
        let whose = || Some(name.clone());
        let presence = match node.presence(name) {
            Some(Presence::Enrolled) => Finding::good(whose(), "enrolled"),
            Some(Presence::Absent(why)) => Finding::good(whose(), format!("not on this node now: {why}")),
            Some(Presence::Failed(why)) => Finding::bad(whose(), why.clone(), "Mend what the detail says."),
            None => Finding::bad(whose(), "not looked for yet", "Try again in a second."),
        };
        checks.push(presence.check("workload enrolled"));
        let identity = match workload.usable_identity(SystemTime::now()) {
            Ok(identity) => {
                let certificate = &identity.certificate;
                let detail = format!("certificate {} until {}", certificate.serial, certificate.not_after);
                Finding::good(whose(), detail)
            }
            Err(refusal) => Finding::bad(whose(), refusal.to_string(), "See `mtlsd workloads`."),
        };
        checks.push(identity.check("identity valid"));
    }
    checks
}
