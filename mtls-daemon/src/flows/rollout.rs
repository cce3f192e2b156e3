//! `mtlsd rollout status`: who would be refused if a port became strict now.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::flow::{Channel, Flow};
use super::judge::{Ground, Judged, Ruling};
use super::moment::Moment;
use super::record::Record;
use crate::config::{Config, Mode, Workload};
use crate::observe::{Direction, Reason};

/// How far every workload is (`GET /v1/rollout`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutReport {
    /// Connections before this do not count.
    pub since: Moment,
    /// Each port that is permissive, and each strict one that refused somebody.
    pub ports: Vec<PortReport>,
}

impl RolloutReport {
    /// Whether every port that was asked about is strict or may become so.
    #[must_use]
    pub fn holds(&self) -> bool {
        self.ports.iter().all(|port| matches!(port.verdict, Verdict::Safe | Verdict::Strict))
    }
}

/// One port.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PortReport {
    /// The workload.
    pub workload: String,
    /// Its port; null: every port, for none was seen.
    pub port: Option<u16>,
    /// The mode now.
    pub mode: String,
    /// May it become strict?
    pub verdict: Verdict,
    /// Why, in sentences.
    pub why: Vec<String>,
    /// What to do.
    pub mend: String,
    /// Who was seen; those that would be refused come first.
    pub peers: Vec<PeerSeen>,
}

/// May a port become strict?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Everybody who was seen would be let in.
    Safe,
    /// Somebody would be refused.
    NotSafe,
    /// Too little is known.
    Unknown,
    /// It is.
    Strict,
}

/// One peer, by identity and address.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerSeen {
    /// What would become of it.
    pub fate: Fate,
    /// How it connected.
    pub channel: Channel,
    /// Who it proved to be.
    pub identity: Option<String>,
    /// Its address.
    pub address: IpAddr,
    /// The workload or the directory's entry that has this address.
    pub name: Option<String>,
    /// Connections since the first.
    pub count: u64,
    /// The first one.
    pub first_seen: Moment,
    /// The last one.
    pub last_seen: Moment,
    /// The rule, the default or the mode that decides in strict; of one that is refused already, that or the reason.
    pub rule: String,
}

/// What would become of a peer if the port became strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fate {
    /// It is let in now, and would not be.
    WouldBeRefused,
    /// It is refused now already.
    RefusedNow,
    /// It has connected by mutual TLS since, and not so any more.
    Moved,
    /// It is let in now, and would be.
    Allowed,
}

/// Looks at every workload, or at one.
#[must_use]
pub fn status(ground: &Ground<'_>, record: &Record, since: Moment, only: Option<&str>) -> RolloutReport {
    let mut by_port: BTreeMap<(&str, u16), Vec<&Flow>> = BTreeMap::new();
    for flow in record.flows.iter().filter(|flow| flow.direction == Direction::Inbound) {
        by_port.entry((&flow.workload, flow.port)).or_default().push(flow);
    }
    let view = View { ground, record, since, by_port, names: Names::of(ground.config) };
    let wanted = |workload: &&Workload| only.is_none_or(|only| workload.name == only);
    let workloads =
        ground.config.workloads.iter().filter(wanted).filter(|workload| !workload.is_left_alone());
    RolloutReport { since, ports: workloads.flat_map(|workload| view.workload(workload)).collect() }
}

struct View<'a> {
    ground: &'a Ground<'a>,
    record: &'a Record,
    since: Moment,
    by_port: BTreeMap<(&'a str, u16), Vec<&'a Flow>>,
    names: Names<'a>,
}

impl View<'_> {
    fn workload(&self, workload: &Workload) -> Vec<PortReport> {
        let name = workload.name.as_str();
        let seen = self.by_port.range((name, 0)..=(name, u16::MAX)).map(|((_, port), _)| *port);
        let named = workload.ports.keys().chain(&workload.listen_ports).copied();
        let ports: BTreeSet<u16> = seen.chain(named).collect();
        let mut reports: Vec<_> = ports.into_iter().filter_map(|port| self.port(workload, port)).collect();
        if workload.mode == Mode::Permissive && !reports.iter().any(|report| report.mode == "permissive") {
            reports.push(PortReport {
                workload: name.to_owned(),
                port: None,
                mode: workload.mode.to_string(),
                verdict: Verdict::Unknown,
                why: vec!["no connection was seen".to_owned()],
                mend: WAIT.to_owned(),
                peers: Vec::new(),
            });
        }
        reports
    }

    fn port(&self, workload: &Workload, port: u16) -> Option<PortReport> {
        let mode = workload.mode_of_port(port);
        let mut strict = workload.clone();
        strict.ports.insert(port, Mode::Strict);
        let flows = self.by_port.get(&(workload.name.as_str(), port)).map(Vec::as_slice).unwrap_or_default();
        let modes = Modes { now: workload, strict: &strict, let_in: self.let_in(&strict, flows) };
        let mut peers: Vec<_> = flows.iter().map(|flow| self.peer(&modes, flow)).collect();
        peers.sort_by_key(|peer| (peer.fate, std::cmp::Reverse(peer.count), peer.address));
        let (verdict, why, mend) = match mode {
            Mode::Disabled => return None,
            Mode::Strict => {
                peers.retain(|peer| peer.fate == Fate::RefusedNow);
                if peers.is_empty() {
                    return None;
                }
                (Verdict::Strict, vec![format!("{} peers were refused", peers.len())], SEE_RULE.to_owned())
            }
            Mode::Permissive => self.verdict(workload, &peers),
        };
        let (workload, mode) = (workload.name.clone(), mode.to_string());
        Some(PortReport { workload, port: Some(port), mode, verdict, why, mend, peers })
    }

    fn verdict(&self, workload: &Workload, peers: &[PeerSeen]) -> (Verdict, Vec<String>, String) {
        let refused: Vec<_> = peers.iter().filter(|peer| peer.fate == Fate::WouldBeRefused).collect();
        if !refused.is_empty() {
            let of = |what: &str, is: fn(Channel) -> bool| {
                let count = refused.iter().filter(|peer| is(peer.channel)).count();
                (count > 0).then(|| format!("{count} peers {what}"))
            };
            let found = [
                (of("speak plaintext", |c| c == Channel::Plaintext), ENROL),
                (of("speak TLS of their own", |c| c == Channel::OwnTls), OWN_TLS),
                (of("prove who they are, and no rule would let them in", |c| c == Channel::MutualTls), ALLOW),
            ];
            let found = found.into_iter().filter_map(|(why, mend)| why.map(|why| (why, mend)));
            let (why, mend): (Vec<_>, Vec<_>) = found.unzip();
            return (Verdict::NotSafe, why, mend.join(" "));
        }
        let mut gaps = self.record.gaps(self.since);
        gaps.extend(self.record.gap_of(&workload.name, self.since));
        if !peers.iter().any(|peer| peer.fate == Fate::Allowed) {
            gaps.insert(0, "no connection that strict would let in was seen".to_owned());
        }
        if gaps.is_empty() {
            (Verdict::Safe, vec!["everybody who was seen would be let in".to_owned()], MAKE_STRICT.to_owned())
        } else {
            (Verdict::Unknown, gaps, WAIT.to_owned())
        }
    }

    /// When each address was seen last by mutual TLS that strict would let in.
    fn let_in(&self, strict: &Workload, flows: &[&Flow]) -> HashMap<IpAddr, Moment> {
        let mut let_in: HashMap<IpAddr, Moment> = HashMap::new();
        for flow in flows {
            if self.ruling(strict, flow).is_some_and(|ruling| ruling.allow) {
                let last = let_in.entry(flow.address).or_default();
                *last = flow.last_seen.max(*last);
            }
        }
        let_in
    }

    fn peer(&self, modes: &Modes<'_>, flow: &Flow) -> PeerSeen {
        let (fate, rule) = self.fate(modes, flow);
        PeerSeen {
            fate,
            channel: flow.channel,
            identity: flow.peer.as_ref().map(|peer| peer.name.to_string()),
            address: flow.address,
            name: self.names.at(flow.address),
            count: flow.count(),
            first_seen: flow.first_seen,
            last_seen: flow.last_seen,
            rule,
        }
    }

    fn fate(&self, modes: &Modes<'_>, flow: &Flow) -> (Fate, String) {
        let Some(then) = self.ruling(modes.strict, flow) else {
            return (Fate::RefusedNow, reason(flow));
        };
        if then.allow {
            return (Fate::Allowed, then.rule);
        }
        if flow.peer.is_none() && self.moved(flow, modes.let_in.get(&flow.address)) {
            return (Fate::Moved, then.rule);
        }
        match self.ruling(modes.now, flow) {
            Some(now) if now.allow => (Fate::WouldBeRefused, then.rule),
            Some(now) => (Fate::RefusedNow, now.rule),
            None => (Fate::RefusedNow, reason(flow)),
        }
    }

    /// Whoever is behind an address has moved to mutual TLS if it was let in by that since its last connection of another
    /// kind, and has not made one of that kind for longer than it ever paused between two: an address may have several
    /// clients, and one that connects each hour has not moved because another one did a minute ago.
    fn moved(&self, flow: &Flow, let_in: Option<&Moment>) -> bool {
        let since = let_in.is_some_and(|let_in| *let_in > flow.last_seen);
        since && self.record.taken.since(flow.last_seen) > flow.longest_pause
    }

    /// `None`: policy is not asked, and it is refused.
    fn ruling(&self, workload: &Workload, flow: &Flow) -> Option<Ruling> {
        match self.ground.inbound(workload, flow) {
            Judged::Decided { ruling, .. } => Some(ruling),
            Judged::Not(_) => None,
        }
    }
}

/// A workload as it is, and with the port strict.
struct Modes<'a> {
    now: &'a Workload,
    strict: &'a Workload,
    let_in: HashMap<IpAddr, Moment>,
}

const ENROL: &str = "Enrol these clients with mtlsd, or give them a certificate. One that is gone for good is forgotten when it \
                     was not seen for as long as --since says.";
const OWN_TLS: &str = "On a strict port mtlsd answers TLS itself: let the client and the application speak plain TCP and leave \
                       TLS to mtlsd, or keep this port permissive.";
const ALLOW: &str =
    "Add an allow rule for these peers, or set policy_default: allow; try it with `mtlsd policy replay`.";
const MAKE_STRICT: &str = "Set the port's mode to strict.";
const WAIT: &str =
    "Wait until this port was seen in its usual use, then ask again; or ask with a shorter --since.";
const SEE_RULE: &str =
    "Nothing needs mending if they are meant to be refused; `mtlsd explain --last-refused` says more.";

fn reason(flow: &Flow) -> String {
    flow.decision.reason.map_or("refused", Reason::code).to_owned()
}

/// Who has an address.
struct Names<'a> {
    one: HashMap<IpAddr, &'a str>,
    many: Vec<(IpNet, &'a str)>,
}

impl<'a> Names<'a> {
    fn of(config: &'a Config) -> Self {
        let mut names = Self { one: HashMap::new(), many: Vec::new() };
        for workload in &config.workloads {
            for address in &workload.addresses {
                names.one.insert(address.to_canonical(), &workload.name);
            }
        }
        for entry in &config.directory {
            for network in &entry.addresses {
                if network.prefix_len() == network.max_prefix_len() {
                    names.one.entry(network.addr().to_canonical()).or_insert(&entry.name);
                } else {
                    names.many.push((*network, &entry.name));
                }
            }
        }
        names
    }

    fn at(&self, address: IpAddr) -> Option<String> {
        let many = || self.many.iter().find(|(network, _)| network.contains(&address)).map(|(_, name)| *name);
        self.one.get(&address).copied().or_else(many).map(str::to_owned)
    }
}
