//! The policy engine's word on one connection, for its record and for its refusal.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::config::Workload;
use crate::identity::PeerIdentity;
use crate::observe::connection::{ExternalNote, ExternalSource, LiveConnection};
use crate::observe::metrics::ExternalResult;
use crate::observe::{Reason, Refusal};
use crate::policy;
use crate::policy::external::{Answer, Calls, End, External, Question, Ruling};
use crate::snapshot::Snapshot;

/// Asks, where the configuration wants it. No byte may travel before. `between`: the two ends for people.
///
/// # Errors
/// The engine denies it, or gives no answer and `on_failure: deny`.
pub async fn ask(
    external: &Arc<External>,
    calls: &Arc<Calls>,
    connection: &LiveConnection,
    question: &Question<'_>,
    between: &str,
) -> Result<(), Refusal> {
    match external.decide(calls, question).await {
        Ruling::Answered { answer, cached } => {
            let from = if cached { ExternalSource::Cache } else { ExternalSource::Answer };
            settle(calls, connection, &answer, from, between)
        }
        Ruling::Unavailable(why) => {
            let allow = external.allows_without_answer();
            note(connection, ExternalNote { allow, rule: None, from: ExternalSource::OnFailure });
            if allow {
                calls.metrics.decided(ExternalResult::AllowedUnavailable);
                return Ok(());
            }
            calls.metrics.decided(ExternalResult::DeniedUnavailable);
            Err(Refusal::new(Reason::ExternalUnavailable, format!("{between}: {why}")))
        }
    }
}

/// The ends of an outbound connection, the server's proven.
pub struct Outbound<'a> {
    /// The own workload.
    pub workload: &'a Workload,
    /// From where it connects.
    pub from: IpAddr,
    /// Who the server proved to be.
    pub peer: &'a PeerIdentity,
    /// Where it is.
    pub to: SocketAddr,
    /// The directory's name for it.
    pub name: &'a str,
}

/// As [`ask`], about an outbound connection, where the engine is asked about those of its workload.
///
/// # Errors
/// As [`ask`].
pub async fn ask_outbound(
    snapshot: &Snapshot,
    calls: &Arc<Calls>,
    connection: &LiveConnection,
    ends: Outbound<'_>,
) -> Result<(), Refusal> {
    let Outbound { workload, from, peer, to, name } = ends;
    let Some(engine) = &snapshot.external else { return Ok(()) };
    if !engine.settings().outbound || !engine.settings().is_about(&workload.name) {
        return Ok(());
    }
    let server = End::peer(&policy::Peer::proven(peer, to.ip())).called(name).at(to.port());
    let question = Question::outbound(End::local(workload, from), server);
    let between = format!("{} to {} port {}", workload.name, peer.name, to.port());
    ask(engine, calls, connection, &question, &between).await
}

/// As [`ask`], where nothing can be waited for: only a denial that is known already counts.
///
/// # Errors
/// The engine denied an equal question.
pub fn recall(
    external: &External,
    calls: &Calls,
    connection: &LiveConnection,
    question: &Question<'_>,
    between: &str,
) -> Result<(), Refusal> {
    match external.known(question) {
        Some(answer) if !answer.allow => settle(calls, connection, &answer, ExternalSource::Cache, between),
        _ => Ok(()),
    }
}

fn settle(
    calls: &Calls,
    connection: &LiveConnection,
    answer: &Answer,
    from: ExternalSource,
    between: &str,
) -> Result<(), Refusal> {
    note(connection, ExternalNote { allow: answer.allow, rule: answer.rule.clone(), from });
    if answer.allow {
        calls.metrics.decided(ExternalResult::Allowed);
        return Ok(());
    }
    calls.metrics.decided(ExternalResult::Denied);
    let rule = answer.rule.as_deref().map(|rule| format!(", rule {rule}")).unwrap_or_default();
    let reason = answer.reason.as_deref().map(|reason| format!(" ({reason})")).unwrap_or_default();
    Err(Refusal::new(Reason::ExternalDenied, format!("{between}: the policy engine says no{rule}{reason}")))
}

/// What decided is the engine's word when it denies; else it stays the rule here, which the engine agreed with.
fn note(connection: &LiveConnection, note: ExternalNote) {
    connection.learn(|learned| {
        if !note.allow {
            let rule = match (note.from, note.rule.as_deref()) {
                (ExternalSource::OnFailure, _) => "external: on_failure: deny".to_owned(),
                (_, Some(rule)) => format!("external: {rule}"),
                (_, None) => "external".to_owned(),
            };
            learned.policy = Some(rule.into());
        }
        learned.notes.get_or_insert_default().external = Some(note);
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{ExternalCache, ExternalPolicy, Mode, OnFailure};
    use crate::observe::connection::{ConnectionIds, Direction, Ending, Opening};
    use crate::policy::Peer;
    use crate::policy::external::End;
    use crate::snapshot::testing::config;
    use std::time::Duration;

    fn connection() -> LiveConnection {
        LiveConnection::new(Opening {
            id: ConnectionIds::new().next(),
            direction: Direction::Inbound,
            workload: "db".into(),
            local_identity: None,
            source: "10.0.0.2:41000".parse().unwrap(),
            destination: "10.1.0.7:5432".parse().unwrap(),
        })
    }

    /// Nobody is at its address.
    fn gone(on_failure: OnFailure) -> Arc<External> {
        let bound = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/v1/data/mtlsd/allow", bound.local_addr().unwrap());
        Arc::new(External::new(ExternalPolicy {
            url,
            timeout: Duration::from_secs(5),
            cache: ExternalCache { allow: Duration::ZERO, deny: Duration::ZERO, entries: 1 },
            on_failure,
            inbound: true,
            outbound: true,
            workloads: None,
            ca_file: None,
            token_file: None,
        }))
    }

    #[tokio::test]
    async fn without_an_answer_the_configured_failure_holds_and_the_record_says_so() {
        let config = config("workloads: [{ name: db, select: { netns: db } }]\n");
        let here = "10.1.0.7".parse().unwrap();
        let peer = Peer::unproven("10.0.0.2".parse().unwrap());
        let to = End::local(config.workload("db").unwrap(), here).at(5432);
        let question = Question::inbound(End::peer(&peer), to, Mode::Permissive, false);
        for (on_failure, allow) in [(OnFailure::Deny, false), (OnFailure::Allow, true)] {
            let (external, live) = (gone(on_failure), connection());
            let calls = Arc::new(Calls::new(Arc::default()));
            live.learn(|learned| learned.policy = Some("everyone".into()));
            let asked = ask(&external, &calls, &live, &question, "a client to db port 5432").await;
            let record = live.ended(match &asked {
                Ok(()) => Ending::Closed,
                Err(refusal) => Ending::Refused(refusal.clone()),
            });
            let note = ExternalNote { allow, rule: None, from: ExternalSource::OnFailure };
            assert_eq!(record.external, Some(note));
            assert!(external.is_failing());
            match asked {
                Ok(()) => assert_eq!((allow, record.policy.as_deref()), (true, Some("everyone"))),
                Err(refusal) => {
                    assert_eq!((allow, refusal.reason), (false, Reason::ExternalUnavailable));
                    assert!(
                        refusal.detail.contains("a client to db port 5432: http://127.0.0.1:"),
                        "{refusal}"
                    );
                    assert_eq!(record.policy.as_deref(), Some("external: on_failure: deny"));
                }
            }
        }
    }

    #[test]
    fn a_denial_names_the_engines_rule_and_reason() {
        let (calls, live) = (Calls::new(Arc::default()), connection());
        let answer = Answer { allow: false, rule: Some("night".into()), reason: Some("not at night".into()) };
        let refusal =
            settle(&calls, &live, &answer, ExternalSource::Cache, "web to db port 5432").unwrap_err();
        assert_eq!(refusal.reason, Reason::ExternalDenied);
        assert_eq!(
            refusal.detail,
            "web to db port 5432: the policy engine says no, rule night (not at night)"
        );
        let record = serde_json::to_value(live.ended(Ending::Refused(refusal))).unwrap();
        assert_eq!(record["policy"], "external: night");
        let note = serde_json::json!({ "allow": false, "rule": "night", "from": "cache" });
        assert_eq!(record["external"], note);
    }
}
