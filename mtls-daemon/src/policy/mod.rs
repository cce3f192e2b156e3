//! Who may connect to whom.
//!
//! Deny wins, then allow, then the default. Compiled once per configuration (`index`): a decision costs a few lookups in
//! tables, however many rules there are. [`mod@reference`] says the same by going through all rules; it is what tests
//! compare with, and what explains a decision.

mod bits;
pub mod check;
pub mod coverage;
mod dimension;
pub mod expect;
pub mod external;
mod index;
mod lookup;
mod nested;
mod peer;
pub mod reference;
#[cfg(test)]
pub(crate) mod tests;

use crate::config::{Config, Mode, Rule, Workload};
use crate::observe::Reason;

use index::{Index, Kind, Search};
pub use peer::Peer;

/// An inbound connection to be decided on.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who connects.
    pub peer: Peer<'a>,
    /// The local workload.
    pub workload: &'a str,
    /// Its port.
    pub port: u16,
    /// The mode of that port.
    pub mode: Mode,
    /// What holds when no rule matches.
    pub allowed_by_default: bool,
}

/// An outbound connection to be decided on.
#[derive(Clone, Copy, Debug)]
pub struct OutboundQuery<'a> {
    /// Who is connected to.
    pub peer: Peer<'a>,
    /// The local workload.
    pub workload: &'a str,
    /// The port of the destination.
    pub port: u16,
    /// What holds when no rule matches.
    pub allowed_by_default: bool,
}

impl<'a> Query<'a> {
    /// A connection of `peer` to this workload's port.
    #[must_use]
    pub fn to(server: &'a Workload, port: u16, peer: Peer<'a>) -> Self {
        let (mode, allowed_by_default) = (server.mode_of_port(port), server.allows_by_default(port));
        Self { peer, workload: &server.name, port, mode, allowed_by_default }
    }
}

impl<'a> OutboundQuery<'a> {
    /// A connection of this workload to a port of `peer`.
    #[must_use]
    pub fn from(client: &'a Workload, port: u16, peer: Peer<'a>) -> Self {
        Self { peer, workload: &client.name, port, allowed_by_default: client.allows_outbound_by_default() }
    }
}

/// What was decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the connection may be, and why.
    pub verdict: Verdict<'a>,
    /// What it would be if the dry-run rules were in force; `None`: the same, by the same rule.
    pub dry_run: Option<Verdict<'a>>,
    /// Audit rules that match, at most [`MAX_AUDITED`], in the order of the file.
    pub audited: Vec<&'a str>,
}

/// Whether a connection may be, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict<'a> {
    /// It may.
    pub allow: bool,
    /// The rule that says so, the first in the file among those that do; `None`: the default.
    pub rule: Option<&'a str>,
}

impl Verdict<'_> {
    /// The reason for the refusal, where it is one.
    #[must_use]
    pub fn refusal_reason(&self) -> Reason {
        if self.rule.is_some() { Reason::PolicyDenied } else { Reason::PolicyDefault }
    }
}

/// Most audit rules that one decision names.
pub const MAX_AUDITED: usize = 8;

/// All rules, compiled.
#[derive(Debug, Default)]
pub struct Policy {
    inbound: Rules,
    outbound: Rules,
}

impl Policy {
    /// Compiles the configuration's rules.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        Self { inbound: Rules::new(&config.policy), outbound: Rules::new(&config.outbound_policy) }
    }

    /// Decides on an inbound connection.
    ///
    /// On a strict port a peer without a name is denied whatever the rules say: a rule without `from` means anyone
    /// that the mode lets in, and strict lets in nobody unproven.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Decision<'_> {
        if query.peer.name.is_none() && query.mode == Mode::Strict {
            let verdict = Verdict { allow: false, rule: None };
            return Decision { verdict, dry_run: None, audited: Vec::new() };
        }
        self.inbound.decide(&query.peer, query.workload, query.port, query.allowed_by_default)
    }

    /// Decides on an outbound connection.
    #[must_use]
    pub fn decide_outbound(&self, query: &OutboundQuery<'_>) -> Decision<'_> {
        self.outbound.decide(&query.peer, query.workload, query.port, query.allowed_by_default)
    }

    /// The denial that an inbound connection will meet whatever is still to be learned of its peer; `None` if it may be let
    /// in. This is how connect() between two workloads of one node fails at once.
    #[must_use]
    pub fn denied_early(&self, query: &Query<'_>) -> Option<Verdict<'_>> {
        self.inbound.denied_early(&query.peer, query.workload, query.port, query.allowed_by_default)
    }

    /// As [`Self::denied_early`], for an outbound connection.
    #[must_use]
    pub fn outbound_denied_early(&self, query: &OutboundQuery<'_>) -> Option<Verdict<'_>> {
        self.outbound.denied_early(&query.peer, query.workload, query.port, query.allowed_by_default)
    }

    /// There is a rule for outbound connections.
    #[must_use]
    pub fn has_outbound_rules(&self) -> bool {
        !self.outbound.names.is_empty()
    }
}

/// The rules of one direction.
#[derive(Debug, Default)]
struct Rules {
    names: Vec<String>,
    index: Index,
}

impl Rules {
    fn new(rules: &[Rule]) -> Self {
        Self { names: rules.iter().map(|rule| rule.name.clone()).collect(), index: Index::new(rules) }
    }

    fn decide(&self, peer: &Peer<'_>, workload: &str, port: u16, default: bool) -> Decision<'_> {
        let found = self.index.search(peer, workload, port);
        let (deny, allow) = (found.first(Kind::Deny), found.first(Kind::Allow));
        let (dry_deny, dry_allow) = (found.first(Kind::DryDeny), found.first(Kind::DryAllow));
        let verdict = self.verdict(deny, allow, default);
        let dry_run = self.verdict(first(deny, dry_deny), first(allow, dry_allow), default);
        Decision { verdict, dry_run: (dry_run != verdict).then_some(dry_run), audited: self.audited(&found) }
    }

    fn audited(&self, found: &Search<'_>) -> Vec<&str> {
        let mut rules: Vec<u32> = Vec::new();
        found.each(Kind::Audit, |rule| {
            if rules.last() != Some(&rule) {
                rules.push(rule);
            }
            rules.len() < MAX_AUDITED
        });
        rules.into_iter().filter_map(|rule| self.name(rule)).collect()
    }

    fn denied_early(&self, peer: &Peer<'_>, workload: &str, port: u16, default: bool) -> Option<Verdict<'_>> {
        let deny = self.index.search(peer, workload, port).first(Kind::Deny);
        let may_be_allowed =
            || default || self.index.search_possible(peer, workload, port).first(Kind::Allow).is_some();
        match deny {
            Some(_) => Some(self.verdict(deny, None, default)),
            None if may_be_allowed() => None,
            None => Some(self.verdict(None, None, default)),
        }
    }

    fn verdict(&self, deny: Option<u32>, allow: Option<u32>, default: bool) -> Verdict<'_> {
        match (deny, allow) {
            (Some(rule), _) => Verdict { allow: false, rule: self.name(rule) },
            (None, Some(rule)) => Verdict { allow: true, rule: self.name(rule) },
            (None, None) => Verdict { allow: default, rule: None },
        }
    }

    fn name(&self, rule: u32) -> Option<&str> {
        usize::try_from(rule).ok().and_then(|rule| self.names.get(rule)).map(String::as_str)
    }
}

/// The earlier in the file.
fn first(a: Option<u32>, b: Option<u32>) -> Option<u32> {
    a.into_iter().chain(b).min()
}
