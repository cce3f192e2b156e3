//! What both policies say now that it is proven who the server is, and what the server says to us.
//!
//! A TLS 1.3 client is done before the server has judged its certificate (RFC 8446, section 2), so its answer is waited for: an
//! mtlsd says it in its preface, another server by an alert, or by going on.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::Live;
use super::report::{Evidence, Stopped, Walk};
use super::speaks::{alert_of, by_alert};
use super::step::Question;
use super::talk::{Broken, Reaction, Talk};
use crate::datapath::ktls::Suite;
use crate::handshake::{Preface, Watched};
use crate::observe::connection::RecordedReason;
use crate::observe::{Reason, Refusal};
use crate::policy::{OutboundQuery, Peer};

/// How long a server that is no mtlsd may take to show what it makes of our certificate.
const REACTION: Duration = Duration::from_secs(3);

impl Live<'_> {
    /// Outbound policy, as a connection is asked after its handshake.
    pub(super) fn policy_here(
        &self,
        walk: &mut Walk,
        watched: &Watched,
        to: SocketAddr,
    ) -> Result<(), Stopped> {
        let (step, snapshot, settings) = (Question::PolicyHere, &self.ground.snapshot, &self.client.settings);
        let Some(peer) = watched.verdict.peer() else {
            return Err(walk.refused(step, &Reason::BadSignature.into(), Evidence::default()));
        };
        let subject = Peer::proven(peer, to.ip());
        let decision = snapshot.policy.decide_outbound(&OutboundQuery::from(settings, to.port(), subject));
        let rule = decision.verdict.rule.unwrap_or(settings.outbound_default_name());
        if !decision.verdict.allow {
            let detail = format!("{} to {} port {}: {rule}", settings.name, peer.name, to.port());
            let refusal = Refusal::new(decision.verdict.refusal_reason(), detail);
            return Err(walk.refused(step, &refusal, Evidence::default()));
        }
        walk.passed(step, format!("outbound policy lets it out ({rule})"), Evidence::default());
        Ok(())
    }

    /// What the server says, until it has said it.
    pub(super) async fn their_verdict(
        &self,
        walk: &mut Walk,
        mut talk: Talk,
        shaken: Result<(), Broken>,
        watched: &Watched,
    ) -> Result<(), Stopped> {
        let suite = talk.records().suite().and_then(Suite::of);
        if let Err(broken) = shaken {
            talk.leave();
            return Err(not_trusted(walk, &broken, watched, Evidence::default()));
        }
        let started = Instant::now();
        if !talk.records().speaks_mtlsd() {
            self.foreign(walk, talk, watched).await?;
        } else {
            let preface = talk.preface(self.limit).await;
            let evidence = Evidence::after(started.elapsed());
            let preface = match preface {
                Ok(preface) => preface,
                Err(broken) => {
                    talk.leave();
                    return Err(not_trusted(walk, &broken, watched, evidence));
                }
            };
            talk.end(self.limit).await;
            told(walk, &preface, evidence)?;
        }
        walk.datapath = Some((self.datapath)(&self.client, suite));
        Ok(())
    }

    async fn foreign(&self, walk: &mut Walk, mut talk: Talk, watched: &Watched) -> Result<(), Stopped> {
        let (step, started) = (Question::TrustedThere, Instant::now());
        // TLS 1.2 has it in the handshake: the server's Finished comes after our certificate.
        let said_in_handshake = talk.records().suite().is_some_and(|suite| suite.tls13().is_none());
        let reaction = match said_in_handshake {
            true => Reaction::Spoke,
            false => talk.reaction(self.limit.min(REACTION)).await,
        };
        let evidence = Evidence::after(started.elapsed());
        talk.leave();
        let mend = "Look at the server's log: it has our certificate, and has not said what it makes of it.";
        match reaction {
            Reaction::Spoke => walk.passed(step, "it took our certificate and went on", evidence),
            Reaction::Ended => {
                walk.passed(
                    step,
                    "it took our certificate: it ended with close_notify, and no alert",
                    evidence,
                );
            }
            Reaction::Broke(broken @ Broken::Tls(_)) => {
                return Err(not_trusted(walk, &broken, watched, evidence));
            }
            Reaction::Broke(broken) => {
                let what = match broken {
                    Broken::Silent(limit) => format!("said nothing for {limit:?}"),
                    Broken::Closed => "closed without close_notify".to_owned(),
                    other => format!("broke off ({})", other.refusal(&watched.verdict).detail),
                };
                let detail =
                    format!("it refused our certificate by no alert, and did not go on either: it {what}");
                walk.unknown(step, detail, evidence, mend);
            }
        }
        walk.not_asked(Question::PolicyThere, "it is no mtlsd: what it may refuse later, only its log says");
        walk.not_asked(Question::Application, "it is the application itself, and it was sent nothing");
        Ok(())
    }
}

/// What an mtlsd says: it has verified us, or it would have sent an alert.
fn told(walk: &mut Walk, preface: &Preface, evidence: Evidence) -> Result<(), Stopped> {
    let remote = preface.remote_reason();
    walk.remote_reason.clone_from(&remote);
    walk.passed(Question::TrustedThere, "its mtlsd has verified our certificate", evidence);
    let (Preface::Refused(number, _), Some(remote)) = (preface, remote) else {
        walk.passed(Question::PolicyThere, "its mtlsd lets us in", Evidence::default());
        walk.passed(Question::Application, "its application took the connection", Evidence::default());
        return Ok(());
    };
    let step = match Reason::from_number(*number) {
        Some(Reason::ApplicationRefused) => {
            walk.passed(Question::PolicyThere, "its mtlsd lets us in", Evidence::default());
            Question::Application
        }
        Some(Reason::PolicyDenied | Reason::PolicyDefault) => Question::PolicyThere,
        // Limits and the like: neither the one nor the other.
        _ => Question::Application,
    };
    let mend = format!("At the server's node: {}", remote.mend);
    let RecordedReason { sentence, detail, .. } = &remote;
    let seen = if detail.is_empty() {
        String::new()
    } else {
        format!(" Seen there: {}.", detail.trim_end_matches('.'))
    };
    let detail = format!("its mtlsd refuses: {sentence}{seen}");
    Err(walk.failed(step, detail, evidence_of(&remote), remote.reason(), &mend))
}

fn evidence_of(remote: &RecordedReason) -> Evidence {
    Evidence::of(vec![format!("it came in the preface, as {}", remote.code)])
}

/// It broke off once it had our certificate.
fn not_trusted(walk: &mut Walk, broken: &Broken, watched: &Watched, evidence: Evidence) -> Stopped {
    match alert_of(broken) {
        Some(alert) => by_alert(walk, Question::TrustedThere, alert, broken, watched, evidence),
        None => walk.refused(Question::TrustedThere, &broken.refusal(&watched.verdict), evidence),
    }
}
