//! What became of a policy object, written into its status: the condition `Accepted`.
//!
//! Every node comes to the same verdict. Each waits for a random time, looks at what is written, and writes only what is not
//! there yet, so that two hundred nodes cost one change.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use tokio::time::Instant;

use crate::config::{Outcome, PolicyKind, PolicyName, Verdict};
use crate::kube::{
    AUTHORIZATION_POLICIES, Client, Key, KubeError, MUTUAL_TLS_POLICIES, PEER_AUTHENTICATIONS, Resource,
};

/// Over which time the nodes of a cluster spread what they write.
const SPREAD: Duration = Duration::from_secs(5);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(30);
/// The condition.
const CONDITION: &str = "mtlsd.io/Accepted";
/// Longest message of a condition, in bytes (metav1.Condition allows 32,768).
const MAX_MESSAGE: usize = 4_096;

/// What is to be written, and when.
#[derive(Debug, Default)]
pub struct Reports {
    done: HashMap<PolicyName, Verdict>,
    due: BTreeMap<PolicyName, (Instant, Verdict)>,
}

impl Reports {
    /// Takes note of what became of every object.
    pub fn note(&mut self, verdicts: &[Verdict], now: Instant) {
        let known = |name: &PolicyName| verdicts.iter().any(|verdict| verdict.name == *name);
        self.done.retain(|name, _| known(name));
        self.due.retain(|name, _| known(name));
        for verdict in verdicts {
            let is_done = self.done.get(&verdict.name) == Some(verdict);
            let is_due = self.due.get(&verdict.name).is_some_and(|(_, due)| due == verdict);
            if is_done {
                self.due.remove(&verdict.name);
            } else if !is_due {
                let at = now + SPREAD.mul_f64(fastrand::f64());
                self.due.insert(verdict.name.clone(), (at, verdict.clone()));
            }
        }
    }

    /// What is to be written now.
    pub fn next(&mut self, now: Instant) -> Option<Verdict> {
        let name = self.due.iter().find(|(_, (at, _))| *at <= now).map(|(name, _)| name.clone())?;
        self.due.remove(&name).map(|(_, verdict)| verdict)
    }

    /// It is written, or was there.
    pub fn written(&mut self, verdict: Verdict) {
        self.done.insert(verdict.name.clone(), verdict);
    }

    /// It could not be written; later again, unless there is something newer by then.
    pub fn failed(&mut self, verdict: Verdict, now: Instant) {
        self.due.entry(verdict.name.clone()).or_insert((now + AGAIN, verdict));
    }
}

#[derive(Deserialize)]
struct Object {
    metadata: Metadata,
    #[serde(default)]
    status: Option<Status>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    #[serde(default)]
    generation: i64,
    #[serde(default)]
    resource_version: String,
}

#[derive(Default, Deserialize)]
struct Status {
    #[serde(default)]
    conditions: Option<Vec<Value>>,
}

/// Writes the condition, unless it is there or the object is another one by now.
///
/// # Errors
/// Why it could not be written. A conflict means that somebody else wrote at the same time.
pub(super) async fn write(client: &Client, verdict: &Verdict) -> Result<(), KubeError> {
    let resource = resource(verdict.name.kind);
    let (Ok(namespace), Ok(name)) = (verdict.name.namespace.parse(), verdict.name.name.parse()) else {
        return Ok(());
    };
    let key = Key { namespace: Some(namespace), name };
    let object = match client.get::<Object>(resource, &key).await {
        Err(KubeError::NotFound { .. }) => return Ok(()),
        outcome => outcome?,
    };
    let Some(patch) = patch(object, verdict, SystemTime::now()) else { return Ok(()) };
    client.patch_status::<serde::de::IgnoredAny>(resource, &key, &patch).await.map(drop)
}

fn resource(kind: PolicyKind) -> Resource {
    match kind {
        PolicyKind::PeerAuthentication => PEER_AUTHENTICATIONS,
        PolicyKind::AuthorizationPolicy => AUTHORIZATION_POLICIES,
        PolicyKind::MutualTlsPolicy => MUTUAL_TLS_POLICIES,
    }
}

/// `None`: there is nothing to write. Others' conditions stay as they are; a patch of a list replaces all of it, and therefore
/// names the version that it was made from.
fn patch(object: Object, verdict: &Verdict, now: SystemTime) -> Option<Value> {
    if object.metadata.generation != verdict.generation {
        return None;
    }
    let mut conditions = object.status.unwrap_or_default().conditions.unwrap_or_default();
    let kind = |condition: &Value| condition.get("type").is_some_and(|kind| kind == CONDITION);
    let place = conditions.iter().position(kind);
    let (status, reason, message) = words(verdict);
    let wanted = json!({
        "type": CONDITION, "status": status, "reason": reason, "message": message,
        "observedGeneration": verdict.generation,
    });
    let before = place.map(|place| conditions.remove(place));
    let same = |before: &Value, key: &str| before.get(key) == wanted.get(key);
    // A definition that does not know the last one has it removed.
    let pruned = |before: &Value| before.get("observedGeneration").is_none();
    if let Some(before) = &before
        && ["status", "reason", "message"].iter().all(|key| same(before, key))
        && (same(before, "observedGeneration") || pruned(before))
    {
        return None;
    }
    let since = match before {
        Some(before) if same(&before, "status") => before.get("lastTransitionTime").cloned(),
        _ => None,
    };
    let since = match since {
        Some(since) => since,
        None => OffsetDateTime::from(now).replace_nanosecond(0).ok()?.format(&Rfc3339).ok()?.into(),
    };
    let mut condition = wanted;
    condition.as_object_mut()?.insert("lastTransitionTime".to_owned(), since);
    conditions.push(condition);
    let version = object.metadata.resource_version;
    Some(json!({ "metadata": { "resourceVersion": version }, "status": { "conditions": conditions } }))
}

fn words(verdict: &Verdict) -> (&'static str, &'static str, String) {
    match &verdict.outcome {
        Outcome::Accepted => ("True", "Accepted", "in force on the nodes of mtlsd".to_owned()),
        Outcome::Refused { why, instead } => {
            let end = (0..=MAX_MESSAGE.min(why.len())).rev().find(|end| why.is_char_boundary(*end));
            let why = why.get(..end.unwrap_or(0)).unwrap_or_default();
            ("False", "Invalid", format!("{why}; {instead}"))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::config::Instead;
    use crate::kube::Timing;
    use crate::kube::tests::world::World;

    fn verdict(generation: i64, outcome: Outcome) -> Verdict {
        let name =
            PolicyName { kind: PolicyKind::MutualTlsPolicy, namespace: "shop".into(), name: "db".into() };
        Verdict { name, generation, outcome }
    }

    fn refused(why: &str) -> Outcome {
        Outcome::Refused { why: why.into(), instead: Instead::Closed }
    }

    fn object(generation: i64, conditions: Value) -> Object {
        let object = json!({
            "metadata": { "generation": generation, "resourceVersion": "41" },
            "status": { "conditions": conditions },
        });
        serde_json::from_value(object).unwrap()
    }

    #[test]
    fn the_condition_is_written_beside_those_of_others_and_only_once() {
        let others = json!([{ "type": "Ready", "status": "True" }]);
        let patch = |conditions: Value, verdict: &Verdict| {
            patch(object(3, conditions), verdict, SystemTime::UNIX_EPOCH)
        };
        let written = patch(others, &verdict(3, refused("no"))).unwrap();
        assert_eq!(written["metadata"]["resourceVersion"], "41");
        let conditions = written["status"]["conditions"].clone();
        assert_eq!(conditions[0]["type"], "Ready");
        assert_eq!(
            conditions[1],
            json!({ "type": CONDITION, "status": "False", "reason": "Invalid", "observedGeneration": 3,
                    "message": "no; whom it is for is closed until it is mended", "lastTransitionTime": "1970-01-01T00:00:00Z" })
        );
        assert_eq!(patch(conditions.clone(), &verdict(3, refused("no"))), None, "another node wrote it");
        let mut pruned = conditions.clone();
        pruned[1].as_object_mut().unwrap().remove("observedGeneration");
        assert_eq!(patch(pruned, &verdict(3, refused("no"))), None, "the server keeps no more of it");
        let mended = patch(conditions, &verdict(3, Outcome::Accepted)).unwrap();
        assert_eq!(mended["status"]["conditions"].as_array().unwrap().len(), 2);
        assert_eq!(mended["status"]["conditions"][1]["status"], "True");
    }

    #[test]
    fn what_is_about_another_version_is_not_written() {
        assert_eq!(patch(object(4, json!([])), &verdict(3, Outcome::Accepted), SystemTime::UNIX_EPOCH), None);
        let bare: Object = serde_json::from_value(json!({ "metadata": { "generation": 3 } })).unwrap();
        assert!(patch(bare, &verdict(3, Outcome::Accepted), SystemTime::UNIX_EPOCH).is_some());
        let long = verdict(3, refused(&"é".repeat(MAX_MESSAGE)));
        assert!(words(&long).2.len() < MAX_MESSAGE + 100);
    }

    #[tokio::test]
    async fn each_verdict_is_due_once_within_the_spread_and_again_after_a_failure() {
        let (mut reports, start) = (Reports::default(), Instant::now());
        reports.note(&[verdict(1, Outcome::Accepted)], start);
        let due = reports.next(start + SPREAD).unwrap();
        assert_eq!(reports.next(start + SPREAD), None);
        reports.failed(due.clone(), start);
        assert_eq!(reports.next(start + SPREAD), None);
        assert_eq!(reports.next(start + AGAIN), Some(due.clone()));
        reports.written(due);
        reports.note(&[verdict(1, Outcome::Accepted)], start);
        assert_eq!(reports.next(start + SPREAD), None, "it is written");
        reports.note(&[verdict(2, refused("x"))], start);
        assert!(reports.next(start + SPREAD).is_some(), "this one is not");
        reports.note(&[], start);
        assert!(reports.done.is_empty() && reports.due.is_empty());
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn two_hundred_nodes_write_one_condition_and_hardly_more_than_once() {
        const NODES: usize = 200;
        let world = World::new();
        let double = &world.double;
        let object = json!({ "metadata": { "name": "db", "namespace": "shop", "uid": "u" }, "spec": { "mode": "Strict" } });
        double.put("mutualtlspolicies", object);
        let generation =
            double.get("mutualtlspolicies", "shop", "db").unwrap()["metadata"]["generation"].as_i64();
        let refused = verdict(generation.unwrap_or(0), refused("mode: Strict is none"));
        let client = world.client(Timing::default());
        let mut nodes = tokio::task::JoinSet::new();
        for _ in 0..NODES {
            let (client, refused) = (Arc::clone(&client), refused.clone());
            nodes.spawn(async move {
                let mut reports = Reports::default();
                reports.note(std::slice::from_ref(&refused), Instant::now());
                let verdict = loop {
                    match reports.next(Instant::now()) {
                        Some(verdict) => break verdict,
                        None => tokio::time::sleep(Duration::from_millis(20)).await,
                    }
                };
                write(&client, &verdict).await
            });
        }
        let mut conflicts = 0;
        while let Some(outcome) = nodes.join_next().await {
            match outcome.unwrap() {
                Ok(()) => {}
                Err(KubeError::Conflict { .. }) => conflicts += 1,
                Err(error) => panic!("{error}"),
            }
        }
        let written = double.get("mutualtlspolicies", "shop", "db").unwrap();
        let conditions = written["status"]["conditions"].as_array().unwrap();
        assert!(conditions.len() == 1 && conditions[0]["reason"] == "Invalid", "{written}");
        let patches =
            double.count("patch", "mutualtlspolicies/status") + double.count("patch", "mutualtlspolicies");
        // Whoever looked before the first had written tries as well, and loses nothing by it.
        assert!(
            (1..NODES / 4).contains(&patches) && conflicts < patches,
            "{patches} patches, {conflicts} conflicts"
        );
    }
}
