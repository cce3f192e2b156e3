//! Who may connect to a local workload.
//!
//! Deny wins, then allow, then the default of the port's mode: strict denies, permissive allows. Compiled once per
//! configuration: a decision costs a few hash lookups, however many rules there are.

mod index;

use crate::config::{Action, Config, Mode};
use crate::identity::{PeerName, SpiffeId};

use index::{Best, Index};

/// An inbound connection to be decided on.
#[derive(Clone, Copy, Debug)]
pub struct Query<'a> {
    /// Who connects; `None`: an unauthenticated plaintext client.
    pub peer: Option<&'a PeerName>,
    /// The local workload.
    pub workload: &'a str,
    /// Its port.
    pub port: u16,
    /// The mode of that port.
    pub mode: Mode,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision<'a> {
    /// Whether the connection may be.
    pub allow: bool,
    /// The rule that says so, the first in the file among those that do; `None`: the default of the mode.
    pub rule: Option<&'a str>,
}

/// All rules, compiled.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    names: Vec<String>,
    index: Index,
}

impl Policy {
    /// Compiles the configuration's rules.
    #[must_use]
    pub fn from_config(config: &Config) -> Self {
        let mut index = Index::default();
        for (number, rule) in (0..).zip(&config.policy) {
            let best = match rule.action {
                Action::Deny => Best { deny: Some(number), allow: None },
                Action::Allow => Best { deny: None, allow: Some(number) },
            };
            index.add(rule, best);
        }
        Self { names: config.policy.iter().map(|rule| rule.name.clone()).collect(), index }
    }

    /// Decides on a connection.
    ///
    /// On a strict port a peer without a name is denied whatever the rules say: a rule without `from` means anyone
    /// that the mode lets in, and strict lets in nobody unproven.
    #[must_use]
    pub fn decide(&self, query: &Query<'_>) -> Decision<'_> {
        let default = query.mode != Mode::Strict;
        if query.peer.is_none() && !default {
            return Decision { allow: false, rule: None };
        }
        let id = query.peer.and_then(PeerName::spiffe_id);
        self.choose(self.index.best(id, query.workload, query.port), default)
    }

    /// What is known at connect() already, before the server has seen the client: the denial that this source
    /// would meet at a local workload, or `None` if it would be let in.
    #[must_use]
    pub fn denied_early(
        &self,
        source: &SpiffeId,
        workload: &str,
        port: u16,
        mode: Mode,
    ) -> Option<Decision<'_>> {
        let decision = self.choose(self.index.best(Some(source), workload, port), mode != Mode::Strict);
        (!decision.allow).then_some(decision)
    }

    fn choose(&self, best: Best, default: bool) -> Decision<'_> {
        let name =
            |number: u32| usize::try_from(number).ok().and_then(|n| self.names.get(n)).map(String::as_str);
        match (best.deny, best.allow) {
            (Some(rule), _) => Decision { allow: false, rule: name(rule) },
            (None, Some(rule)) => Decision { allow: true, rule: name(rule) },
            (None, None) => Decision { allow: default, rule: None },
        }
    }
}

#[cfg(test)]
mod tests;
