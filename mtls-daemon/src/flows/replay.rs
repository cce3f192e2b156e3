//! `mtlsd policy replay`: which decisions on recorded connections another configuration would change.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use serde::Serialize;

use super::flow::{Channel, Flow};
use super::judge::{Ground, Judged, Ruling};
use super::moment::Moment;
use super::record::Record;
use crate::observe::Direction;

/// What came of a replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ReplayReport {
    /// Flows that were seen last before this were not looked at.
    pub since: Moment,
    /// Flows that were looked at.
    pub flows: usize,
    /// The connections of those flows, since each was first seen.
    pub connections: u64,
    /// Decisions that would change; those that would be refused come first, then what was seen most.
    pub changes: Vec<Change>,
    /// Decisions that would change if the dry-run rules were in force too, and do not without.
    pub dry_run: Vec<Change>,
    /// Flows that would be decided the same, by another rule.
    pub by_another_rule: usize,
    /// Flows that could not be judged, by why.
    pub not_judged: BTreeMap<String, usize>,
    /// Why the record may not hold every connection of that time, in sentences.
    pub gaps: Vec<String>,
}

impl ReplayReport {
    /// Flows that were let through and would be refused.
    #[must_use]
    pub fn would_be_refused(&self) -> usize {
        self.changes.iter().filter(|change| !change.after.allow).count()
    }

    /// Flows that were judged.
    #[must_use]
    pub fn judged(&self) -> usize {
        self.flows.saturating_sub(self.not_judged.values().sum())
    }

    /// Whether nothing that was let through would be refused. Having looked at nothing is not success.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.judged() > 0 && self.would_be_refused() == 0
    }
}

/// A decision that would change.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Who opened the connections.
    pub direction: Direction,
    /// The local workload.
    pub workload: Arc<str>,
    /// The workload's port; outbound the destination's.
    pub port: u16,
    /// The peer's address.
    pub address: IpAddr,
    /// What they were.
    pub channel: Channel,
    /// Who the peer proved to be.
    pub peer: Option<String>,
    /// How many there were since the first.
    pub count: u64,
    /// The last one.
    pub last_seen: Moment,
    /// What was decided on the last one.
    pub before: Said,
    /// What would be.
    pub after: Said,
}

/// A decision, and who says so.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Said {
    /// Let through.
    pub allow: bool,
    /// The rule, the default, or what else decides.
    pub rule: String,
}

impl From<Ruling> for Said {
    fn from(ruling: Ruling) -> Self {
        Self { allow: ruling.allow, rule: ruling.rule }
    }
}

/// Asks the configuration about every flow.
#[must_use]
pub fn replay(record: &Record, ground: &Ground<'_>, since: Moment) -> ReplayReport {
    let mut report = ReplayReport {
        since,
        flows: record.flows.len(),
        connections: record.flows.iter().map(Flow::count).fold(0, u64::saturating_add),
        changes: Vec::new(),
        dry_run: Vec::new(),
        by_another_rule: 0,
        not_judged: BTreeMap::new(),
        gaps: record.gaps(since),
    };
    for flow in &record.flows {
        match ground.judge(flow) {
            Judged::Not(why) => *report.not_judged.entry(why).or_default() += 1,
            Judged::Decided { ruling, dry_run } => {
                let before = flow.decision.allow;
                if ruling.allow != before {
                    report.changes.push(change(flow, ruling));
                } else {
                    report.by_another_rule += usize::from(*ruling.rule != *flow.decision.rule);
                    let dry_run = dry_run.filter(|dry_run| dry_run.allow != before);
                    report.dry_run.extend(dry_run.map(|ruling| change(flow, ruling)));
                }
            }
        }
    }
    for list in [&mut report.changes, &mut report.dry_run] {
        list.sort_by(|a, b| {
            let key = |c: &Change| {
                (c.after.allow, std::cmp::Reverse(c.count), c.workload.clone(), c.port, c.address)
            };
            key(a).cmp(&key(b))
        });
    }
    report
}

fn change(flow: &Flow, after: Ruling) -> Change {
    let rule = match (&*flow.decision.rule, flow.decision.reason) {
        ("", Some(reason)) => reason.code().to_owned(),
        (rule, _) => rule.to_owned(),
    };
    Change {
        direction: flow.direction,
        workload: Arc::clone(&flow.workload),
        port: flow.port,
        address: flow.address,
        channel: flow.channel,
        peer: flow.peer.as_ref().map(|peer| peer.name.to_string()),
        count: flow.count(),
        last_seen: flow.last_seen,
        before: Said { allow: flow.decision.allow, rule },
        after: after.into(),
    }
}
