//! What is known before a packet is sent: whose connection it is, whereto, with which certificate, and whether it may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::super::near;
use super::super::path::is_disabled;
use super::Live;
use super::address::Host;
use super::report::{Evidence, Stopped, Walk};
use super::step::Question;
use crate::config::{Mode, Unknown};
use crate::directory::{Destination, DestinationId};
use crate::handshake::ExpectedServer;
use crate::identity::{PeerName, SpiffeId, when};
use crate::observe::explain::near::Says;
use crate::observe::{Reason, Refusal};
use crate::policy::Peer;
use crate::snapshot::OwnIdentity;
use crate::workload::Presence;

/// What mtlsd makes of a connection there.
pub(super) enum Way {
    /// Its bytes go out as they are.
    Untouched,
    /// Mutual TLS with whoever is expected.
    Tls(Box<Destination>),
}

impl Live<'_> {
    pub(super) fn workload(&self, walk: &mut Walk) -> Result<(), Stopped> {
        let (step, settings) = (Question::Workload, &self.client.settings);
        let name = &settings.name;
        if settings.mode == Mode::Disabled {
            walk.passed(step, format!("workload {name} is in mode disabled"), Evidence::default());
            return Ok(());
        }
        let mend = "See `mtlsd workloads` and `mtlsd verify`; start the workload, or mend its `select`.";
        let why = match (self.ground.presence)(name) {
            Some(Presence::Enrolled) => {
                walk.passed(step, format!("workload {name} is enrolled"), Evidence::default());
                return Ok(());
            }
            Some(Presence::Absent(why) | Presence::Failed(why)) => why,
            None => "it was not looked for yet".to_owned(),
        };
        let detail = format!("workload {name} is not enrolled: {why}");
        Err(walk.failed(step, detail, Evidence::default(), None, mend))
    }

    /// The addresses that are the same destination as the first one, and what that is.
    pub(super) fn destination(
        &self,
        walk: &mut Walk,
        host: &Host<'_>,
        addresses: &mut Vec<SocketAddr>,
    ) -> Result<Way, Stopped> {
        let step = Question::Destination;
        let Some(first) = addresses.first().copied() else {
            return Err(walk.failed(step, "there is no address", Evidence::default(), None, "Name one."));
        };
        walk.address = Some(first);
        let directory = &self.ground.snapshot.directory;
        let of = |to: &SocketAddr| directory.lookup(to.ip(), to.port()).map(|found| found.id);
        let mut evidence = Evidence::default();
        addresses.retain(|other| {
            let same = of(other) == of(&first);
            if !same {
                evidence.lines.push(format!("{} is another destination: ask for it by address", other.ip()));
            }
            same
        });
        let found = directory.lookup(first.ip(), first.port());
        if let Some(expect) = self.expect {
            let detail = match found {
                Some(found) => format!(
                    "the server must prove to be {expect}, as was asked for; the directory's entry {} says {}",
                    found.name,
                    names(found)
                ),
                None => format!(
                    "the server must prove to be {expect}, as was asked for; the directory does not have {} port {}",
                    first.ip(),
                    first.port()
                ),
            };
            walk.passed(step, detail, evidence);
            return Ok(Way::Tls(Box::new(asked_for(found, expect, first))));
        }
        if let Some((why, advice)) = self.left_alone(host, first, found) {
            walk.passed(step, why, evidence);
            walk.advise(advice);
            return Ok(Way::Untouched);
        }
        let Some(found) = found else {
            return self.unknown(walk, host, first, evidence);
        };
        let (name, expected) = (&found.name, names(found));
        let detail = format!("the directory's entry {name} has it; the server must prove to be {expected}");
        walk.passed(step, detail, evidence);
        Ok(Way::Tls(Box::new(found.clone())))
    }

    /// Why mtlsd does not touch a connection there, and how that would be changed.
    fn left_alone(
        &self,
        host: &Host<'_>,
        to: SocketAddr,
        found: Option<&Destination>,
    ) -> Option<(String, &'static str)> {
        let settings = &self.client.settings;
        let name = &settings.name;
        if settings.mode == Mode::Disabled {
            let why = format!("connections of {name} go out as they are: its mode is disabled");
            return Some((why, "Set the workload's mode to strict or permissive."));
        }
        if let Some(why) = self.ground.excluded(&self.client, Some(to.ip()), to.port()) {
            return Some((why, "If it should be protected, take it out of `exclude`."));
        }
        let local = found.and_then(|found| found.local_workload.as_deref());
        let server = local.and_then(|local| self.ground.snapshot.by_name(local)).or(match host {
            Host::Address(_, workload) => workload.as_ref(),
            _ => None,
        })?;
        if server.number == self.client.number && !settings.select.shares_its_namespace() {
            let why = format!("workload {name} has its namespace to itself and talks to itself over lo");
            return Some((why, "Nothing needs mending."));
        }
        is_disabled(server, to.port()).then(|| {
            let why = format!(
                "port {} of {} is disabled, so mtlsd leaves it alone",
                to.port(),
                server.settings.name
            );
            (why, "If it should be protected, set the port's mode to strict or permissive.")
        })
    }

    fn unknown(
        &self,
        walk: &mut Walk,
        host: &Host<'_>,
        to: SocketAddr,
        evidence: Evidence,
    ) -> Result<Way, Stopped> {
        let what = match host {
            Host::Directory(named, port) => {
                format!("the directory's entry {} does not have port {port}", named.name)
            }
            _ => format!("the directory does not have {} port {}", to.ip(), to.port()),
        };
        let unknown = self.ground.snapshot.unknown(&self.client.settings, to);
        let rule = unknown.rule();
        let (detail, mend) = match unknown {
            Unknown::Denied | Unknown::DeniedInside => {
                let what = format!("{what}, and it is refused ({rule})");
                let refusal = Refusal::new(Reason::UnknownDestination, what);
                return Err(walk.refused(Question::Destination, &refusal, evidence));
            }
            Unknown::LeftAlone => (
                format!("policy disables port {} there: it goes out as it is", to.port()),
                "If it should be protected, change the mode of that port.",
            ),
            Unknown::Passes => (
                format!("{what}: it goes out as it is ({rule})"),
                "If it should be protected, add it to the directory; --expect SPIFFE-ID tries that now.",
            ),
        };
        walk.passed(Question::Destination, detail, evidence);
        walk.advise(mend);
        Ok(Way::Untouched)
    }

    pub(super) fn identity(&self, walk: &mut Walk) -> Result<&OwnIdentity, Stopped> {
        let (step, now) = (Question::Identity, SystemTime::now());
        let own = self.client.usable_identity(now);
        let own = own.map_err(|refusal| walk.refused(step, &refusal, Evidence::default()))?;
        let (id, serial) = (&self.client.spiffe_id, &own.certificate.serial);
        let left = when::span(when::between(now, own.not_after));
        let until = when::rfc3339(own.not_after);
        let evidence = Evidence::of(vec![format!("serial {serial}, until {until}: {left} left")]);
        walk.passed(step, format!("workload {} can prove to be {id}", self.client.settings.name), evidence);
        Ok(own)
    }

    /// What connect() would be told at once.
    pub(super) fn connect_policy(
        &self,
        walk: &mut Walk,
        destination: &Destination,
        to: SocketAddr,
    ) -> Result<(), Stopped> {
        let (snapshot, step) = (&self.ground.snapshot, Question::ConnectPolicy);
        let (client, address) = (&self.client, Some(to.ip()));
        let Some(denial) = snapshot.denied_early(client, destination, to.port(), address) else {
            let detail = "no rule known here denies it whatever the server proves to be";
            walk.passed(step, detail, Evidence::default());
            return Ok(());
        };
        let rule = denial.rule().into_owned();
        // Of the two policies that are asked, ours is the first.
        let elsewhere = Destination { local_workload: None, ..destination.clone() };
        let ours = snapshot.denied_early(client, &elsewhere, to.port(), address).is_some();
        let evidence = self.nearly(destination, to, ours, &denial.verdict);
        let whose = if ours { "outbound policy of this node" } else { "policy of this node for the server" };
        let between = format!("{} to {} port {}", client.settings.spiffe_id, destination.name, to.port());
        let refusal = Refusal::new(
            denial.verdict.refusal_reason(),
            format!("{between}: {rule}, by {whose}, at connect()"),
        );
        Err(walk.refused(step, &refusal, Evidence::of(evidence)))
    }

    /// Rules that nearly decide otherwise.
    fn nearly(
        &self,
        destination: &Destination,
        to: SocketAddr,
        ours: bool,
        verdict: &crate::policy::Verdict<'_>,
    ) -> Vec<String> {
        let config = &self.ground.snapshot.config;
        let says = if verdict.rule.is_some() { Says::Deny } else { Says::Allow };
        let own = PeerName::Spiffe(self.client.settings.spiffe_id.clone());
        let theirs = destination.expected.first().cloned().map(PeerName::Spiffe);
        let (rules, name, address, workload) = match (ours, theirs, &destination.local_workload) {
            (true, Some(theirs), _) => {
                (&config.outbound_policy, theirs, Some(to.ip()), &self.client.settings.name)
            }
            (false, _, Some(server)) => (&config.policy, own, None, server),
            _ => return Vec::new(),
        };
        let peer = Peer::expected(&name, address);
        near::find(rules, &peer, workload, to.port(), says, verdict.rule).sentences()
    }
}

/// Whom a destination expects.
pub(super) fn expected(destination: &Destination) -> Arc<ExpectedServer> {
    Arc::new(ExpectedServer { ids: destination.expected.clone(), dns_names: destination.dns_names.clone() })
}

fn names(destination: &Destination) -> String {
    let ids = destination.expected.iter().map(SpiffeId::to_string);
    let dns = destination.dns_names.iter().map(|name| format!("dns:{name}"));
    ids.chain(dns).collect::<Vec<_>>().join(" or ")
}

/// The destination that was asked for in place of the directory's.
fn asked_for(found: Option<&Destination>, expect: &SpiffeId, to: SocketAddr) -> Destination {
    let expected = vec![expect.clone()];
    match found {
        Some(found) => Destination { expected, dns_names: Vec::new(), ..found.clone() },
        None => Destination {
            id: DestinationId(0),
            name: to.to_string().into(),
            expected,
            dns_names: Vec::new(),
            local_workload: None,
            ports: None,
            addresses: Vec::new(),
            node: None,
            left_alone: std::collections::BTreeSet::new(),
        },
    }
}
