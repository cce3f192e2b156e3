//! The way of a connection that is not there yet, step by step, by the snapshot of now.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::time::SystemTime;

use super::judge::{Ruling, rule_on};
use super::near;
use super::parties::{self, From, To, UnknownParty};
use super::report::{PathReport, Refused, Walk};
use crate::config::{Exclusions, Mode, Rule, Unknown, UnknownDestinations, Workload, is_never_captured};
use crate::directory::Destination;
use crate::identity::{PeerName, SpiffeId};
use crate::observe::connection::{Datapath, Direction};
use crate::observe::explain::near::Says;
use crate::observe::reason::Reason;
use crate::policy::Peer;
use crate::snapshot::{Snapshot, WorkloadState};
use crate::workload::Presence;

/// What the answer is taken from.
pub struct Ground<'a> {
    /// The view that connections are decided on.
    pub snapshot: &'a Snapshot,
    /// The time.
    pub now: SystemTime,
    /// How a workload stands on the node.
    pub presence: &'a (dyn Fn(&str) -> Option<Presence> + Sync),
    /// The entry of the deny list that names this ID.
    pub revoked: &'a (dyn Fn(&SpiffeId) -> Option<String> + Sync),
    /// The datapath that a workload's connections end up with, and why not a better one.
    pub datapath: &'a (dyn Fn(&WorkloadState) -> (Datapath, Option<String>) + Sync),
}

/// What would become of a connection. `from`: a workload of this node (or its address), or a SPIFFE ID. `to`: a workload, a
/// name of the directory, a SPIFFE ID in it or an address, each with its port.
///
/// # Errors
/// One of the two is nobody, or neither is on this node.
pub fn path(ground: &Ground<'_>, from: &str, to: &str) -> Result<PathReport, UnknownParty> {
    let client = parties::from(ground.snapshot, from)?;
    let target = parties::to(ground.snapshot, to)?;
    let mut walk = Walk::default();
    let whose = match &client {
        From::Local(client) => {
            // What refuses is in the walk.
            let _refused = ground.outbound(&mut walk, client, &target).is_err();
            format!("{} ({})", client.settings.name, client.spiffe_id)
        }
        From::Remote(id) => {
            let elsewhere = || UnknownParty::Elsewhere { from: from.to_owned(), to: to.to_owned() };
            let server = target.workload.as_ref().ok_or_else(elsewhere)?;
            let _refused = ground.arriving(&mut walk, id, server, target.port).is_err();
            id.to_string()
        }
    };
    let at = target.address.filter(|_| to.parse::<SocketAddr>().is_err());
    let at = at.map(|address| format!(" at {address}")).unwrap_or_default();
    Ok(walk.report(&format!("from {whose} to {to}{at}"), ground.snapshot.generation))
}

type Step = Result<(), Refused>;

impl Ground<'_> {
    /// From a workload of this node.
    fn outbound(&self, walk: &mut Walk, client: &WorkloadState, to: &To<'_>) -> Step {
        let settings = &client.settings;
        let name = &settings.name;
        if settings.mode == Mode::Disabled {
            let why = format!("{name} is in mode disabled, so its connections go out as they are.");
            return self.untouched(walk, "captured", why, "set its mode to strict or permissive", to);
        }
        self.enrolled(walk, client)?;
        if let Some(why) = self.excluded(client, to.address, to.port) {
            return self.untouched(walk, "captured", why, "take it out of `exclude`", to);
        }
        let found = match to.address {
            Some(address) => self.snapshot.directory.lookup(address, to.port),
            None => None,
        };
        let Some(destination) = found else {
            return self.unknown_destination(walk, client, to);
        };
        let expected = expected_names(destination);
        walk.passed(
            "destination",
            format!(
                "The directory's entry {} has the address and port; the server must prove to be {}.",
                destination.name,
                expected.iter().map(ToString::to_string).collect::<Vec<_>>().join(" or ")
            ),
        );
        let server = destination.local_workload.as_deref().and_then(|name| self.snapshot.by_name(name));
        if server.is_some_and(|server| server.number == client.number)
            && !settings.select.shares_its_namespace()
        {
            walk.passed(
                "captured",
                format!("{name} has its namespace to itself and talks to itself over lo."),
            );
            return Ok(());
        }
        if let Some(server) = server
            && is_disabled(server, to.port)
        {
            let why = format!(
                "Port {} of {} is disabled, so mtlsd leaves it alone.",
                to.port, server.settings.name
            );
            return self.untouched(walk, "captured", why, "set the port's mode to strict or permissive", to);
        }
        walk.passed("captured", format!("mtlsd captures connections of {name} to it."));
        self.identity(walk, client)?;
        self.outbound_policy(walk, client, &expected, to)?;
        self.expected_revoked(walk, destination)?;
        walk.protected = true;
        walk.datapath = Some((self.datapath)(client));
        match server {
            Some(server) => self.serving(walk, &settings.spiffe_id, server, to.port),
            None => {
                walk.elsewhere(
                    "server",
                    format!(
                        "Whether the node of {} lets it in is decided there: ask `mtlsd explain --from {} --to {}:{}` on it.",
                        destination.name, settings.spiffe_id, destination.name, to.port
                    ),
                );
                Ok(())
            }
        }
    }

    /// From another node's workload.
    fn arriving(&self, walk: &mut Walk, from: &SpiffeId, server: &WorkloadState, port: u16) -> Step {
        walk.elsewhere(
            "client",
            format!("{from} is not a workload of this node: what its own node decides is not known here."),
        );
        if is_disabled(server, port) || self.snapshot.config.exclude.ports.contains(&port) {
            let name = &server.settings.name;
            walk.passed(
                "captured",
                format!("Port {port} of {name} is disabled or excluded: mtlsd leaves it alone."),
            );
            walk.advise("If it should be protected, set the port's mode to strict or permissive and take it out of `exclude`.");
            return Ok(());
        }
        walk.protected = true;
        if let Some(entry) = (self.revoked)(from) {
            return Err(walk.refused(
                "revocation",
                format!("{from} is revoked on this node: {entry}."),
                Reason::Revoked,
            ));
        }
        walk.passed(
            "revocation",
            format!("The deny list does not name {from}; its certificate is not known here."),
        );
        walk.datapath = Some((self.datapath)(server));
        self.serving(walk, from, server, port)
    }

    /// At a server of this node, with mutual TLS.
    fn serving(&self, walk: &mut Walk, from: &SpiffeId, server: &WorkloadState, port: u16) -> Step {
        let settings = &server.settings;
        self.enrolled(walk, server)?;
        self.identity(walk, server)?;
        let mode = settings.mode_of_port(port);
        walk.passed("mode", format!("Port {port} of {} is {mode}.", settings.name));
        let name = PeerName::Spiffe(from.clone());
        let asked = self.asked_of(settings, port);
        asked.of(walk, &[Peer::expected(&name, None)])?;
        self.policy_engine(walk, &settings.name, Direction::Inbound);
        Ok(())
    }

    /// Nobody is asked for an explanation: what the engine would say is not known here.
    fn policy_engine(&self, walk: &mut Walk, workload: &str, direction: Direction) {
        let engine = self.snapshot.config.policy_external.as_ref();
        let asked = engine.filter(|engine| {
            let of_direction = match direction {
                Direction::Inbound => engine.inbound,
                Direction::Outbound => engine.outbound,
            };
            of_direction && engine.is_about(workload)
        });
        if let Some(engine) = asked {
            let detail = format!("The policy engine at {} is asked then, and may deny it.", engine.url);
            walk.unknown("policy engine", detail, "Try the connection and ask `mtlsd explain` about it.");
        }
    }

    /// What inbound policy is asked.
    fn asked_of<'s>(&'s self, settings: &'s Workload, port: u16) -> Asked<'s> {
        Asked {
            what: "policy",
            rules: &self.snapshot.config.policy,
            workload: &settings.name,
            port,
            default: settings.allows_by_default(port),
            default_name: settings.default_name(port),
        }
    }

    /// mtlsd does not carry it: plain bytes, unless the application does otherwise.
    fn untouched(&self, walk: &mut Walk, step: &str, why: String, advice: &str, to: &To<'_>) -> Step {
        walk.passed(step, why);
        walk.advise(&format!("If it should be protected, {advice}."));
        let Some(server) = &to.workload else {
            walk.elsewhere("server", "What the other end makes of it is not known here.");
            return Ok(());
        };
        let (settings, port) = (&server.settings, to.port);
        if is_disabled(server, port) || self.snapshot.config.exclude.ports.contains(&port) {
            walk.passed("mode", format!("{} does not protect port {port}.", settings.name));
            return Ok(());
        }
        if settings.mode_of_port(port) == Mode::Strict {
            let detail = format!("Port {port} of {} is strict and takes no plain bytes.", settings.name);
            return Err(walk.refused("mode", detail, Reason::Plaintext));
        }
        walk.passed("mode", format!("Port {port} of {} is permissive and takes plain bytes.", settings.name));
        let asked = self.asked_of(settings, port);
        let nobody = Peer { address: None, ..Peer::unproven(IpAddr::from([0, 0, 0, 0])) };
        asked.of(walk, &[nobody])?;
        self.policy_engine(walk, &settings.name, Direction::Inbound);
        Ok(())
    }

    fn unknown_destination(&self, walk: &mut Walk, client: &WorkloadState, to: &To<'_>) -> Step {
        let what = match (to.address, &to.workload, to.named) {
            (None, Some(server), _) => format!(
                "{} has no `addresses`, so that the directory does not know where it is.",
                server.settings.name
            ),
            (_, _, Some(named)) => {
                format!("The directory's entry {} does not have port {}.", named.name, to.port)
            }
            (Some(address), ..) => format!("The directory does not have {address} port {}.", to.port),
            (None, None, None) => "The directory does not have it.".to_owned(),
        };
        let settings = &client.settings;
        let unknown = match (to.address, settings.unknown_destinations) {
            (Some(address), _) => self.snapshot.unknown(settings, SocketAddr::new(address, to.port)),
            (None, UnknownDestinations::Deny) => Unknown::Denied,
            (None, UnknownDestinations::Passthrough) => Unknown::Passes,
        };
        let rule = unknown.rule();
        let (why, mend) = match unknown {
            Unknown::Denied | Unknown::DeniedInside => {
                let why = format!("{what} It is refused ({rule}).");
                return Err(walk.refused("destination", why, Reason::UnknownDestination));
            }
            Unknown::LeftAlone => (
                format!("Policy disables port {} there: it goes out as it is.", to.port),
                "change the mode of that port",
            ),
            Unknown::Passes => {
                (format!("{what} It goes out as it is ({rule})."), "add the destination to the directory")
            }
        };
        self.untouched(walk, "destination", why, mend, to)
    }

    fn enrolled(&self, walk: &mut Walk, workload: &WorkloadState) -> Step {
        let name = &workload.settings.name;
        match (self.presence)(name) {
            Some(Presence::Enrolled) => walk.passed("enrolled", format!("{name} is enrolled.")),
            Some(Presence::Absent(why) | Presence::Failed(why)) => {
                let mend =
                    "See `mtlsd workloads` and `mtlsd verify`; start the workload, or mend its `select`.";
                return Err(walk.broken("enrolled", format!("{name} is not enrolled: {why}."), mend));
            }
            None => {
                walk.unknown("enrolled", format!("{name} was not looked for yet."), "Ask again in a second.")
            }
        }
        Ok(())
    }

    fn identity(&self, walk: &mut Walk, workload: &WorkloadState) -> Step {
        match workload.usable_identity(self.now) {
            Ok(identity) => {
                let (id, serial) = (&workload.spiffe_id, &identity.certificate.serial);
                walk.passed(
                    "identity",
                    format!("{} can prove to be {id}, with certificate {serial}.", workload.settings.name),
                );
                Ok(())
            }
            Err(refusal) => {
                let why =
                    if refusal.detail.is_empty() { String::new() } else { format!(": {}", refusal.detail) };
                let detail = format!("{} has no identity that may be used{why}.", workload.settings.name);
                Err(walk.refused("identity", detail, refusal.reason))
            }
        }
    }

    fn outbound_policy(
        &self,
        walk: &mut Walk,
        client: &WorkloadState,
        expected: &[PeerName],
        to: &To<'_>,
    ) -> Step {
        let settings = &client.settings;
        let peers: Vec<_> = expected.iter().map(|name| Peer::expected(name, to.address)).collect();
        let asked = Asked {
            what: "outbound policy",
            rules: &self.snapshot.config.outbound_policy,
            workload: &settings.name,
            port: to.port,
            default: settings.allows_outbound_by_default(),
            default_name: settings.outbound_default_name().into(),
        };
        asked.of(walk, &peers)?;
        self.policy_engine(walk, &settings.name, Direction::Outbound);
        Ok(())
    }

    fn expected_revoked(&self, walk: &mut Walk, destination: &Destination) -> Step {
        let entries: Vec<_> = destination.expected.iter().map(|id| (self.revoked)(id)).collect();
        let revoked: Vec<_> = entries.iter().flatten().collect();
        let Some(first) = revoked.first() else {
            walk.passed("revocation", "The deny list names none of the expected identities; which certificate the server has is not known here.");
            return Ok(());
        };
        if revoked.len() == entries.len() && destination.dns_names.is_empty() {
            let detail = format!("The expected identity is revoked on this node: {first}.");
            return Err(walk.refused("revocation", detail, Reason::Revoked));
        }
        let mend = "Take the revoked identity out of the directory's entry.";
        walk.unknown("revocation", format!("One of the expected identities is revoked: {first}."), mend);
        Ok(())
    }

    /// Why connections of a workload to there are not captured.
    pub(super) fn excluded(&self, client: &WorkloadState, to: Option<IpAddr>, port: u16) -> Option<String> {
        let address = to.map(|address| address.to_canonical());
        if address.is_some_and(is_never_captured) {
            return Some("mtlsd never captures loopback, link-local and multicast addresses.".to_owned());
        }
        let everyone: (&Exclusions, Cow<'_, str>) = (&self.snapshot.config.exclude, "the node's".into());
        let own = (&client.settings.exclude, format!("{}'s", client.settings.name).into());
        [everyone, own].into_iter().find_map(|(exclude, whose)| {
            if exclude.ports.contains(&port) {
                return Some(format!("Port {port} is in {whose} `exclude`: it is not captured."));
            }
            let address = address?;
            let network = exclude.cidrs.iter().find(|network| network.contains(&address))?;
            Some(format!("{address} is in {network} of {whose} `exclude`: it is not captured."))
        })
    }
}

/// A question to policy.
struct Asked<'a> {
    what: &'static str,
    rules: &'a [Rule],
    workload: &'a str,
    port: u16,
    default: bool,
    default_name: Cow<'static, str>,
}

impl Asked<'_> {
    /// About whoever of these the peer will be; they need not be answered alike.
    fn of(&self, walk: &mut Walk, peers: &[Peer<'_>]) -> Step {
        let rulings: Vec<_> = peers
            .iter()
            .map(|peer| rule_on(self.rules, peer, self.workload, self.port, self.default))
            .collect();
        let allowed = rulings.iter().filter(|ruling| matches!(ruling, Ruling::Allowed(_))).count();
        let denied = rulings.iter().filter(|ruling| matches!(ruling, Ruling::Denied(_))).count();
        let unknown = rulings.iter().find_map(|ruling| match ruling {
            Ruling::Unknown(what) => Some(what.as_str()),
            _ => None,
        });
        let (what, mend) = (
            self.what,
            "Try the connection and ask `mtlsd explain` about it, or write a rule that asks for less.",
        );
        let near = |says, decided: Option<&str>| {
            let peer = peers.first()?;
            (!self.rules.is_empty())
                .then(|| near::find(self.rules, peer, self.workload, self.port, says, decided))
        };
        match rulings.first() {
            Some(Ruling::Allowed(rule)) if allowed == rulings.len() => {
                let rule = rule.as_deref();
                walk.passed(what, format!("By {what}, {} allows it.", self.by(rule)));
                walk.near_misses = near(Says::Deny, rule).filter(|near| !near.rules.is_empty());
                Ok(())
            }
            Some(Ruling::Denied(rule)) if denied == rulings.len() => {
                let rule = rule.as_deref();
                let (says, reason) = match rule {
                    Some(_) => (Says::Deny, Reason::PolicyDenied),
                    None => (Says::Allow, Reason::PolicyDefault),
                };
                walk.near_misses = near(says, rule);
                Err(walk.refused(what, format!("By {what}, {} denies it.", self.by(rule)), reason))
            }
            _ => {
                let depends = unknown.unwrap_or("which of the expected identities the server proves");
                walk.unknown(
                    what,
                    format!("By {what} it depends on {depends}, which is not known here."),
                    mend,
                );
                walk.near_misses = near(Says::Allow, None).filter(|near| !near.rules.is_empty());
                Ok(())
            }
        }
    }

    fn by(&self, rule: Option<&str>) -> String {
        rule.map_or_else(|| format!("the default ({})", self.default_name), |rule| format!("rule {rule}"))
    }
}

pub(super) fn is_disabled(server: &WorkloadState, port: u16) -> bool {
    server.settings.mode_of_port(port) == Mode::Disabled || server.settings.exclude.ports.contains(&port)
}

fn expected_names(destination: &Destination) -> Vec<PeerName> {
    let ids = destination.expected.iter().cloned().map(PeerName::Spiffe);
    ids.chain(destination.dns_names.iter().cloned().map(PeerName::Dns)).collect()
}
