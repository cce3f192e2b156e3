//! What a configuration says of a flow that was seen.

use crate::config::{Config, Exclusions, Mode, Workload};
use crate::directory::{Destination, Directory};
use crate::identity::PeerName;
use crate::observe::Direction;
use crate::policy::{self, OutboundQuery, Peer, Policy, Query, Verdict};
use crate::snapshot::{denied_early, denied_source};

use super::flow::{Channel, Flow};

/// A configuration, ready to judge.
#[derive(Debug, Clone, Copy)]
pub struct Ground<'a> {
    /// Its workloads, modes and exclusions.
    pub config: &'a Config,
    /// Its rules.
    pub policy: &'a Policy,
    /// Its destinations.
    pub directory: &'a Directory,
}

/// Who says what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// It would be let through.
    pub allow: bool,
    /// The rule, the default, or what else decides.
    pub rule: String,
}

impl Ruling {
    fn new(allow: bool, rule: impl Into<String>) -> Self {
        Self { allow, rule: rule.into() }
    }

    fn of(verdict: Verdict<'_>, default: &str) -> Self {
        Self::new(verdict.allow, verdict.rule.unwrap_or(default))
    }
}

/// What became of a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judged {
    /// It would be decided so.
    Decided {
        /// By what is in force.
        ruling: Ruling,
        /// And if the dry-run rules were in force too; `None`: the same, by the same rule.
        dry_run: Option<Ruling>,
    },
    /// The configuration does not decide on it.
    Not(String),
}

impl Judged {
    fn plain(allow: bool, rule: impl Into<String>) -> Self {
        Self::Decided { ruling: Ruling::new(allow, rule), dry_run: None }
    }

    fn policy(decision: &policy::Decision<'_>, default: &str) -> Self {
        let dry_run = decision.dry_run.map(|verdict| Ruling::of(verdict, default));
        Self::Decided { ruling: Ruling::of(decision.verdict, default), dry_run }
    }
}

impl Ground<'_> {
    /// What this configuration says.
    #[must_use]
    pub fn judge(&self, flow: &Flow) -> Judged {
        let Some(workload) = self.config.workload(&flow.workload) else {
            return Judged::Not(format!("{} is not a workload of this configuration", flow.workload));
        };
        match flow.direction {
            Direction::Inbound => self.inbound(workload, flow),
            Direction::Outbound => self.outbound(workload, flow),
        }
    }

    /// An inbound connection of this workload, which may have other settings than in the configuration.
    #[must_use]
    pub fn inbound(&self, workload: &Workload, flow: &Flow) -> Judged {
        let (port, mode) = (flow.port, workload.mode_of_port(flow.port));
        let not_captured = match mode {
            Mode::Disabled => Some("mode disabled"),
            _ if self.excludes_port(workload, port) => Some("exclude"),
            _ => None,
        };
        if let Some(why) = not_captured {
            return match flow.channel {
                // Nobody would answer the client's handshake.
                Channel::MutualTls => {
                    Judged::plain(false, format!("{why}: the application gets the TLS bytes"))
                }
                _ => Judged::plain(true, why),
            };
        }
        let peer = match (&flow.peer, flow.channel) {
            (_, Channel::Failed) => {
                return Judged::Not(
                    "the peer did not prove who it is, and policy is not asked then".to_owned(),
                );
            }
            (_, Channel::Syn) => {
                let unknown = "the client sent no more than a SYN: it did not show who it is";
                return match denied_source(self.policy, workload, port, flow.address) {
                    Some(denial) => Judged::plain(false, denial.rule()),
                    None => Judged::Not(unknown.to_owned()),
                };
            }
            (None, _) if mode == Mode::Strict => return Judged::plain(false, MODE_STRICT),
            (None, _) => Peer::unproven(flow.address),
            (Some(peer), _) => Peer {
                name: Some(&peer.name),
                attributes: Some(&peer.attributes),
                address: Some(flow.address),
            },
        };
        let decision = self.policy.decide(&Query::to(workload, port, peer));
        Judged::policy(&decision, &workload.default_name(port))
    }

    fn outbound(&self, client: &Workload, flow: &Flow) -> Judged {
        let (address, port) = (flow.address, flow.port);
        let everyone = &self.config.exclude;
        let within = |exclude: &Exclusions| exclude.cidrs.iter().any(|network| network.contains(&address));
        if self.excludes_port(client, port) || within(everyone) || within(&client.exclude) {
            return Judged::plain(true, "exclude");
        }
        let Some(destination) = self.directory.lookup(address, port) else {
            let unknown = self.directory.unknown(self.config, client, address, port);
            return Judged::plain(!unknown.is_denied(), unknown.rule());
        };
        let server = destination.local_workload.as_deref().and_then(|name| self.config.workload(name));
        if let Some(denial) = denied_early(self.policy, client, server, destination, port, Some(address)) {
            return Judged::plain(false, denial.rule());
        }
        let Some(peer) = &flow.peer else {
            return Judged::plain(true, "nothing denies it at connect()");
        };
        if !expects(destination, &peer.name) {
            return Judged::plain(false, format!("directory: {} is another server", destination.name));
        }
        let peer =
            Peer { name: Some(&peer.name), attributes: Some(&peer.attributes), address: Some(address) };
        let decision = self.policy.decide_outbound(&OutboundQuery::from(client, port, peer));
        Judged::policy(&decision, client.outbound_default_name())
    }

    fn excludes_port(&self, workload: &Workload, port: u16) -> bool {
        self.config.exclude.ports.contains(&port) || workload.exclude.ports.contains(&port)
    }
}

/// What refuses plain bytes on a strict port.
pub const MODE_STRICT: &str = "mode strict";

fn expects(destination: &Destination, name: &PeerName) -> bool {
    match name {
        PeerName::Spiffe(id) => destination.expected.contains(id),
        PeerName::Dns(name) => destination.dns_names.contains(name),
        // A server's common name is compared with nothing but DNS names.
        PeerName::CommonName(name) => destination.dns_names.contains(name),
    }
}
