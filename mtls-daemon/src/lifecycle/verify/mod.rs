//! Is everything in place that should be? Asked of the kernel, not of our own memory: `mtlsd verify`, and the same all the
//! time ([`keep`]), with repairs.

pub mod account;
mod connections;
pub mod keep;
mod namespaces;
mod order;
mod processes;
mod programs;
mod strict_ports;
mod tables;
mod workloads;

use std::sync::Arc;

use super::daemon::{Daemon, lock};
use crate::control::view::{Check, VerifyReport};
use crate::datapath::relay::Place;

/// What is checked all the time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Part {
    /// Every program runs where it should, and its pin is there.
    Programs,
    /// No other program can undo what ours do.
    Order,
    /// The kernel's tables are those of the configuration in force.
    Tables,
    /// The kernel knows every enrolled namespace, and steers to listeners that are there.
    Namespaces,
    /// They answer.
    Listeners,
    /// Something accounts for every connection.
    Connections,
    /// Plaintext to a strict port is refused.
    StrictPorts,
}

impl Part {
    /// Every part, in the order in which they are looked at: what a repair needs comes first.
    pub const ALL: [Self; 7] = [
        Self::Programs,
        Self::Namespaces,
        Self::Tables,
        Self::Listeners,
        Self::Order,
        Self::Connections,
        Self::StrictPorts,
    ];

    /// The label in the metrics.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::Programs => "programs",
            Self::Order => "order",
            Self::Tables => "tables",
            Self::Namespaces => "namespaces",
            Self::Listeners => "listeners",
            Self::Connections => "connections",
            Self::StrictPorts => "strict_ports",
        }
    }

    /// The words shown to people.
    #[must_use]
    pub const fn title(self) -> &'static str {
        match self {
            Self::Programs => "programs attached",
            Self::Order => "order of programs",
            Self::Tables => "tables",
            Self::Namespaces => "namespaces known",
            Self::Listeners => "listeners answer",
            Self::Connections => "connections accounted for",
            Self::StrictPorts => "strict ports refuse plaintext",
        }
    }

    /// `thorough`: also what costs too much to be done all the time.
    fn look(self, daemon: &Daemon, thorough: bool) -> Vec<Finding> {
        match self {
            Self::Programs => programs::look(daemon),
            Self::Order => order::look(daemon),
            Self::Tables => tables::look(daemon),
            Self::Namespaces => namespaces::look(daemon),
            Self::Listeners => namespaces::answer(daemon),
            Self::Connections => connections::look(daemon, thorough),
            Self::StrictPorts => strict_ports::look(daemon),
        }
    }

    fn repair(self, daemon: &Daemon) -> Vec<Repair> {
        match self {
            Self::Programs => programs::repair(daemon),
            Self::Tables => tables::repair(daemon),
            Self::Namespaces => namespaces::repair(daemon),
            Self::Listeners => namespaces::enter_again(daemon),
            Self::Order | Self::Connections | Self::StrictPorts => Vec::new(),
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Finding {
    workload: Option<String>,
    ok: bool,
    detail: String,
    mend: String,
}

impl Finding {
    fn good(workload: Option<String>, detail: impl Into<String>) -> Self {
        Self { workload, ok: true, detail: detail.into(), mend: String::new() }
    }

    fn bad(workload: Option<String>, detail: impl Into<String>, mend: impl Into<String>) -> Self {
        Self { workload, ok: false, detail: detail.into(), mend: mend.into() }
    }

    fn check(self, name: &str) -> Check {
        let Self { workload, ok, detail, mend } = self;
        Check { name: name.to_owned(), workload, ok, detail, mend }
    }
}

/// An attempt to put something back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Repair {
    /// The label in the metrics.
    what: &'static str,
    detail: String,
    result: Result<(), String>,
}

/// What [`keep`] repairs by itself.
const BY_ITSELF: &str =
    "mtlsd puts it back within seconds; find out who changed it. If it stays, see the daemon's log.";

/// Everything that is checked all the time, and besides workloads, identities and stray processes. Blocks.
#[must_use]
pub fn verify(daemon: &Daemon) -> VerifyReport {
    let mut checks = Vec::new();
    for part in Part::ALL {
        checks.extend(part.look(daemon, true).into_iter().map(|finding| finding.check(part.title())));
    }
    checks.extend(workloads::look(daemon));
    let strays = processes::look(daemon).into_iter();
    checks.extend(strays.map(|finding| finding.check("processes below the cgroup root")));
    VerifyReport { checks }
}

fn places(daemon: &Daemon) -> Vec<Arc<Place>> {
    lock(&daemon.node).places().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_part_has_a_label_and_a_title_of_its_own() {
        let codes: HashSet<_> = Part::ALL.iter().map(|part| part.code()).collect();
        let titles: HashSet<_> = Part::ALL.iter().map(|part| part.title()).collect();
        assert_eq!((codes.len(), titles.len()), (Part::ALL.len(), Part::ALL.len()));
    }
}
