//! All flows that are known, and how much is not.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::flow::Flow;
use super::moment::Moment;

/// Since when the connections of a workload are seen.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Watched {
    /// Since when.
    pub since: Moment,
    /// Its ports that are not seen, for they are disabled or excluded; another set begins anew.
    pub unseen: String,
}

/// A time in which no daemon was there to see connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Absence {
    /// The last sign of the old one.
    pub from: Moment,
    /// The start of the new one.
    pub to: Moment,
}

/// Most absences that are kept; nothing is known of what was before the last of them.
pub(super) const MAX_ABSENCES: usize = 64;
/// A record that misses no more than this of a time counts as whole: a restart takes seconds.
const MISSED: Duration = Duration::from_secs(300);

/// All flows that are known, and how much is not.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// When this was put together.
    pub taken: Moment,
    /// Nothing before this is known.
    pub begun: Moment,
    /// When nobody was there.
    pub absences: Vec<Absence>,
    /// Since when each workload is seen, by name.
    pub watched: BTreeMap<String, Watched>,
    /// Flows that were forgotten for want of room.
    pub evicted: u64,
    /// When the one among them that was seen last was seen.
    pub last_evicted: Option<Moment>,
    /// The flows.
    pub flows: Vec<Flow>,
}

impl Record {
    /// Why the record may not hold every connection since that time, in sentences; empty: it does.
    #[must_use]
    pub fn gaps(&self, since: Moment) -> Vec<String> {
        let mut gaps = Vec::new();
        if self.begun > since {
            gaps.push(format!("the record begins at {}, and {since} was asked for", self.begun));
        }
        if let Some(last) = self.last_evicted.filter(|last| *last >= since) {
            gaps.push(format!(
                "{} flows were forgotten for want of room, the last of them seen at {last}; raise flows.entries",
                self.evicted
            ));
        }
        let missed = |absence: &Absence| absence.to.since(absence.from.max(since));
        let missed: Duration =
            self.absences.iter().map(missed).fold(Duration::ZERO, Duration::saturating_add);
        if missed > MISSED {
            let minutes = missed.as_secs() / 60;
            gaps.push(format!(
                "for {minutes} min of that time no daemon was running, and what a permissive port took then is not known"
            ));
        }
        gaps
    }

    /// As [`Self::gaps`], of one workload.
    #[must_use]
    pub fn gap_of(&self, workload: &str, since: Moment) -> Option<String> {
        match self.watched.get(workload) {
            Some(watched) if watched.since <= since.max(self.begun) => None,
            Some(watched) => Some(format!(
                "{workload} is watched, with these ports, only since {}, and {since} was asked for",
                watched.since
            )),
            None => Some(format!("{workload} is not watched")),
        }
    }
}
