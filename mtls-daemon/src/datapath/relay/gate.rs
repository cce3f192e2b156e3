//! Whether an inbound connection may be: the rules, then the policy engine.

use std::net::IpAddr;
use std::sync::Arc;

use super::authorise::{note_decision, outcome};
use super::external;
use crate::config::Mode;
use crate::flows::{Channel, Flows, Tuple};
use crate::identity::PeerIdentity;
use crate::observe::Refusal;
use crate::observe::connection::{Direction, LiveConnection};
use crate::policy::external::{Calls, End, External, Question};
use crate::policy::{Peer, Query};
use crate::snapshot::{Snapshot, WorkloadState};

/// Policy for one connection; a handshake carries a copy along.
#[derive(Clone)]
pub struct Gate {
    /// The view to decide on.
    pub snapshot: Arc<Snapshot>,
    /// Whose port it is.
    pub workload: Arc<WorkloadState>,
    /// Where what was decided is noted.
    pub connection: Arc<LiveConnection>,
    /// Calls to the policy engine.
    pub calls: Arc<Calls>,
    /// What connections there were.
    pub flows: Arc<Flows>,
    /// Where the client is.
    pub from: IpAddr,
    /// The address that it came to.
    pub to: IpAddr,
    /// The port.
    pub port: u16,
    /// That port's mode.
    pub mode: Mode,
}

impl Gate {
    /// Asks policy; notes the rule that decided.
    pub fn admit(&self, peer: Option<&PeerIdentity>, channel: Channel) -> Result<(), Refusal> {
        let settings = &self.workload.settings;
        let subject = self.subject(peer);
        let decision = self.snapshot.policy.decide(&Query::to(settings, self.port, subject));
        let default = settings.default_name(self.port);
        let rule = note_decision(&self.connection, &decision, &default);
        let tuple = match peer {
            Some(peer) => Tuple::proven(Direction::Inbound, &settings.name, self.port, self.from, peer),
            None => Tuple::unproven(Direction::Inbound, &settings.name, self.port, self.from, channel),
        };
        self.flows.note(&tuple, &outcome(&decision, &rule));
        if decision.verdict.allow {
            return Ok(());
        }
        let detail = format!("{}: {rule}", self.between(peer));
        Err(Refusal::new(decision.verdict.refusal_reason(), detail))
    }

    /// As [`Self::admit`], and what the policy engine is known to deny: a handshake waits for nobody.
    pub fn admit_within_handshake(&self, peer: &PeerIdentity) -> Result<(), Refusal> {
        self.admit(Some(peer), Channel::MutualTls)?;
        let Some(engine) = self.engine() else { return Ok(()) };
        let (question, between) = (self.question(Some(peer)), self.between(Some(peer)));
        external::recall(engine, &self.calls, &self.connection, &question, &between)
    }

    /// Asks the policy engine about what [`Self::admit`] lets in.
    pub async fn ask(&self, peer: Option<&PeerIdentity>) -> Result<(), Refusal> {
        let Some(engine) = self.engine() else { return Ok(()) };
        let (question, between) = (self.question(peer), self.between(peer));
        external::ask(engine, &self.calls, &self.connection, &question, &between).await
    }

    fn engine(&self) -> Option<&Arc<External>> {
        let asked = |engine: &&Arc<External>| {
            let settings = engine.settings();
            settings.inbound && settings.is_about(&self.workload.settings.name)
        };
        self.snapshot.external.as_ref().filter(asked)
    }

    fn question<'a>(&'a self, peer: Option<&'a PeerIdentity>) -> Question<'a> {
        let to = End::local(&self.workload.settings, self.to).at(self.port);
        Question::inbound(End::peer(&self.subject(peer)), to, self.mode, peer.is_some())
    }

    fn subject<'a>(&self, peer: Option<&'a PeerIdentity>) -> Peer<'a> {
        match peer {
            Some(peer) => Peer::proven(peer, self.from),
            None => Peer::unproven(self.from),
        }
    }

    /// The two ends, for people.
    fn between(&self, peer: Option<&PeerIdentity>) -> String {
        let who = peer.map_or_else(|| "a client without identity".to_owned(), |peer| peer.name.to_string());
        format!("{who} to {} port {}", self.workload.settings.name, self.port)
    }
}
