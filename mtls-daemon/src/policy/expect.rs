//! Tests of a policy: is each connection decided as it shall be?

use serde::Serialize;

use super::{OutboundQuery, Peer, Policy, Query, Verdict, reference};
use crate::config::{Config, End, PolicyTest, Rule, Who, Workload, WorkloadIdentity};
use crate::identity::{CertificateAttributes, PeerName};

/// What came of one test.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Outcome {
    /// The test's name.
    pub name: String,
    /// It was decided as it shall be.
    pub passed: bool,
    /// Who decided what, or why it could not be decided.
    pub text: String,
}

/// Decides on each connection.
#[must_use]
pub fn run(config: &Config, tests: &[PolicyTest]) -> Vec<Outcome> {
    let policy = Policy::from_config(config);
    let outcome = |test: &PolicyTest| match decide(config, &policy, test) {
        Ok(decided) => {
            let rule = test.rule.as_ref().is_none_or(|rule| *rule == decided.rule);
            let passed = decided.allow == test.allow && rule;
            let said = if decided.allow { "allowed" } else { "denied" };
            let mut text = format!("{said} by {}", decided.rule);
            if !passed {
                let wanted = if test.allow { "allowed" } else { "denied" };
                let by = test.rule.as_ref().map(|rule| format!(" by {rule}")).unwrap_or_default();
                text = format!("{text}; it shall be {wanted}{by}");
                text.extend(decided.nearly.iter().map(|near| format!("; {near}")));
            }
            Outcome { name: test.name.clone(), passed, text }
        }
        Err(why) => Outcome { name: test.name.clone(), passed: false, text: why },
    };
    tests.iter().map(outcome).collect()
}

/// A decision in words.
struct Decided {
    allow: bool,
    rule: String,
    nearly: Vec<String>,
}

/// An end as policy sees it.
struct Seen {
    name: Option<PeerName>,
    /// `None`: not known.
    attributes: Option<CertificateAttributes>,
}

/// Both ends decide where both are workloads here: the connection may be if both say so.
fn decide(config: &Config, policy: &Policy, test: &PolicyTest) -> Result<Decided, String> {
    let (client, server) = (workload(config, &test.from)?, workload(config, &test.to)?);
    let mut last = Err("no workload of this node takes part in it; name one under from or to".to_owned());
    if let Some(client) = client {
        let decided = outbound(config, policy, test, client)?;
        if !decided.allow {
            return Ok(decided);
        }
        last = Ok(decided);
    }
    match server {
        Some(server) => inbound(config, policy, test, server),
        None => last,
    }
}

fn workload<'c>(config: &'c Config, end: &End) -> Result<Option<&'c Workload>, String> {
    match &end.who {
        Who::Workload(name) => {
            let known =
                config.workload(name).ok_or_else(|| format!("this configuration has no workload {name}"))?;
            Ok(Some(known))
        }
        Who::Peer { .. } | Who::Nobody => Ok(None),
    }
}

fn inbound(
    config: &Config,
    policy: &Policy,
    test: &PolicyTest,
    server: &Workload,
) -> Result<Decided, String> {
    let seen = seen(config, &test.from)?;
    let peer =
        Peer { name: seen.name.as_ref(), attributes: seen.attributes.as_ref(), address: test.from.address };
    let default = server.default_name(test.port).into_owned();
    let query = Query::to(server, test.port, peer);
    enough(&config.policy, &peer, &server.name, test.port)?;
    Ok(in_words(&config.policy, policy.decide(&query).verdict, &default, &peer, &server.name, test.port))
}

fn outbound(
    config: &Config,
    policy: &Policy,
    test: &PolicyTest,
    client: &Workload,
) -> Result<Decided, String> {
    let seen = seen(config, &test.to)?;
    let peer =
        Peer { name: seen.name.as_ref(), attributes: seen.attributes.as_ref(), address: test.to.address };
    let query = OutboundQuery::from(client, test.port, peer);
    enough(&config.outbound_policy, &peer, &client.name, test.port)?;
    let verdict = policy.decide_outbound(&query).verdict;
    let default = client.outbound_default_name();
    Ok(in_words(&config.outbound_policy, verdict, default, &peer, &client.name, test.port))
}

fn in_words(
    rules: &[Rule],
    verdict: Verdict<'_>,
    default: &str,
    peer: &Peer<'_>,
    workload: &str,
    port: u16,
) -> Decided {
    const MOST: usize = 3;
    let near = |rule: &Rule| match reference::misses(rule, peer, workload, port).as_slice() {
        [miss] => Some(format!("rule {} nearly matches, but {miss}", rule.name)),
        _ => None,
    };
    Decided {
        allow: verdict.allow,
        rule: verdict.rule.unwrap_or(default).to_owned(),
        nearly: rules.iter().filter_map(near).take(MOST).collect(),
    }
}

fn seen(config: &Config, end: &End) -> Result<Seen, String> {
    Ok(match &end.who {
        Who::Nobody => Seen { name: None, attributes: Some(CertificateAttributes::NONE.clone()) },
        Who::Peer { id, attributes } => {
            Seen { name: Some(PeerName::Spiffe(id.clone())), attributes: Some(attributes.clone()) }
        }
        Who::Workload(_) => {
            let Some(workload) = workload(config, end)? else {
                return Err("it names no workload".to_owned());
            };
            Seen {
                name: Some(PeerName::Spiffe(workload.spiffe_id.clone())),
                attributes: own_attributes(workload),
            }
        }
    })
}

/// What the workload's certificate will say, where mtlsd makes it.
fn own_attributes(workload: &Workload) -> Option<CertificateAttributes> {
    if workload.identity != WorkloadIdentity::EmbeddedCa {
        return None;
    }
    let subject = &workload.subject;
    let organization = match &subject.organization {
        Some(organization) => organization.to_string(),
        None => workload
            .spiffe_id
            .trust_domain()
            .as_str()
            .chars()
            .take(crate::identity::subject::MAX_ATTRIBUTE)
            .collect(),
    };
    Some(CertificateAttributes {
        organizations: vec![organization.into()],
        organizational_units: subject
            .organizational_unit
            .iter()
            .map(|unit| unit.to_string().into())
            .collect(),
        extensions: Vec::new(),
    })
}

/// A test that leaves open what a rule asks for would pass or fail by chance.
fn enough(rules: &[Rule], peer: &Peer<'_>, workload: &str, port: u16) -> Result<(), String> {
    for rule in rules.iter().filter(|rule| reference::is_for(rule, workload, port)) {
        for wanted in rule.peers.iter().flatten() {
            let asks_address = !wanted.is.networks.is_empty() || !wanted.not.networks.is_empty();
            if asks_address && peer.address.is_none() {
                return Err(format!("rule {} asks for the peer's address; say `address`", rule.name));
            }
            if wanted.is.texts.keys().chain(wanted.not.texts.keys()).any(|kind| !peer.knows(kind)) {
                return Err(format!(
                    "rule {} asks for what the certificate says, and this workload's comes from elsewhere; describe it with \
                     spiffe_id, organizations, organizational_units, extensions",
                    rule.name
                ));
            }
        }
    }
    Ok(())
}
