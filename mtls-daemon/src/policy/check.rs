//! What is probably not meant in a set of rules.

use std::fmt;

use serde::Serialize;

use super::coverage::{covers, matches_nothing};
use crate::config::{Action, Config, IssuerKind, Mode, PeerMatch, PeerTrait, Rule, TextPattern};
use crate::identity::TrustDomain;

/// Something that is probably not meant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What it is.
    pub kind: FindingKind,
    /// The rule.
    pub rule: String,
    /// The other rule that makes it so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other: Option<String>,
    /// What it means, and the mend.
    pub text: String,
}

/// What can be found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum FindingKind {
    /// An allow rule, of which a deny rule denies everything.
    Contradiction,
    /// An earlier rule that says the same matches all that it does.
    Shadowed,
    /// It can match no connection.
    MatchesNothing,
    /// It names trust domains of which none is accepted here.
    UnknownTrustDomain,
    /// It lets in everybody.
    AllowAll,
    /// What it allows is allowed anyway.
    WithoutEffect,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rule {}: {}", self.rule, self.text)
    }
}

/// Most pairs of rules that are compared; beyond it only each rule by itself is looked at.
pub const MAX_PAIRS: usize = 25_000_000;

/// Everything that is probably not meant, in the order of the rules.
#[must_use]
pub fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (rules, inbound) in [(&config.policy, true), (&config.outbound_policy, false)] {
        let compared = rules.len().saturating_mul(rules.len()) <= MAX_PAIRS;
        for (place, rule) in rules.iter().enumerate() {
            let found = nothing(rule)
                .or_else(|| unknown_trust_domain(config, rule))
                .or_else(|| compared.then(|| covered(rules, place, rule)).flatten())
                .or_else(|| inbound.then(|| allow_all(config, rule)).flatten())
                .or_else(|| without_effect(config, rule, inbound));
            findings.extend(found);
        }
    }
    findings
}

fn finding(kind: FindingKind, rule: &Rule, text: String) -> Option<Finding> {
    Some(Finding { kind, rule: rule.name.clone(), other: None, text })
}

fn nothing(rule: &Rule) -> Option<Finding> {
    let why = matches_nothing(rule)?;
    finding(FindingKind::MatchesNothing, rule, format!("it matches nothing: {why}; mend it or remove it"))
}

fn unknown_trust_domain(config: &Config, rule: &Rule) -> Option<Finding> {
    let peers = rule.peers.as_ref()?;
    let unknown: Option<Vec<&str>> = peers.iter().map(|peer| only_unknown_domain(config, peer)).collect();
    let domain = unknown?.into_iter().next()?;
    let text = format!(
        "it matches nothing: no roots are configured for trust domain {domain}, so that no peer can prove an ID of it; add \
         them to trust.bundles, or mend the name"
    );
    finding(FindingKind::UnknownTrustDomain, rule, text)
}

/// A trust domain, if the peer must be of one and none of those is accepted.
fn only_unknown_domain<'a>(config: &Config, peer: &'a PeerMatch) -> Option<&'a str> {
    let domain_of = |pattern: &'a TextPattern| match pattern {
        TextPattern::Exact(text) | TextPattern::Prefix(text) => text
            .strip_prefix("spiffe://")
            .map_or(Some(&**text), |rest| rest.split_once('/').map(|(domain, _)| domain)),
        TextPattern::Suffix(_) | TextPattern::Present => None,
    };
    let of = |kind| -> Option<Vec<&'a str>> {
        let patterns: &'a _ = peer.is.texts.get(&kind)?;
        patterns.iter().map(domain_of).collect()
    };
    let domains = of(PeerTrait::TrustDomain).or_else(|| of(PeerTrait::SpiffeId))?;
    let accepted = |domain: &str| {
        domain.parse::<TrustDomain>().is_ok_and(|domain| {
            domain == config.trust_domain
                || config.trust.bundles.iter().any(|bundle| bundle.trust_domain == domain)
                || config.workloads.iter().any(|workload| *workload.spiffe_id.trust_domain() == domain)
                || config.issuers.iter().any(|issuer| brings_roots(&issuer.kind))
        })
    };
    let unknown = domains.iter().all(|domain| !accepted(domain));
    domains.first().copied().filter(|_| unknown)
}

/// An agent tells of the trust domains that it federates with.
fn brings_roots(issuer: &IssuerKind) -> bool {
    matches!(issuer, IssuerKind::WorkloadApi { .. } | IssuerKind::DelegatedIdentity { .. })
}

fn covered(rules: &[Rule], place: usize, rule: &Rule) -> Option<Finding> {
    if rule.dry_run || rule.action == Action::Audit {
        return None;
    }
    let in_force = |other: &&Rule| !other.dry_run;
    if rule.action == Action::Allow {
        let denies =
            rules.iter().filter(in_force).find(|other| other.action == Action::Deny && covers(other, rule));
        if let Some(other) = denies {
            let text = format!(
                "it never allows anything: {} denies all of it, and deny wins; narrow one of the two",
                other.name
            );
            let other = Some(other.name.clone());
            return Some(Finding { kind: FindingKind::Contradiction, rule: rule.name.clone(), other, text });
        }
    }
    let earlier = rules.iter().take(place).filter(in_force);
    let other = earlier.filter(|other| other.action == rule.action).find(|other| covers(other, rule))?;
    let text =
        format!("it adds nothing: {} before it says the same of all that it matches; remove one", other.name);
    let other = Some(other.name.clone());
    Some(Finding { kind: FindingKind::Shadowed, rule: rule.name.clone(), other, text })
}

fn allow_all(config: &Config, rule: &Rule) -> Option<Finding> {
    let anyone = match &rule.peers {
        None => true,
        Some(peers) => peers.iter().any(|peer| {
            peer.is.networks.iter().all(|network| network.prefix_len() == 0)
                && peer.is.texts.values().all(|patterns| patterns.contains(&TextPattern::Present))
        }),
    };
    if rule.action != Action::Allow || !anyone {
        return None;
    }
    let permissive = config.workloads.iter().any(|workload| {
        let named = rule.local.workloads.as_ref().is_none_or(|names| names.contains(&workload.name));
        named
            && (workload.mode == Mode::Permissive
                || workload.ports.values().any(|mode| *mode == Mode::Permissive))
    });
    let who = if permissive {
        "everybody, on permissive ports also who proves nothing"
    } else {
        "every peer with a certificate of an accepted trust domain"
    };
    finding(FindingKind::AllowAll, rule, format!("it lets in {who}; name who is meant in `from`"))
}

fn without_effect(config: &Config, rule: &Rule, inbound: bool) -> Option<Finding> {
    if inbound || rule.action != Action::Allow {
        return None;
    }
    let named = |name: &str| rule.local.workloads.as_ref().is_none_or(|names| names.contains(name));
    let mut meant = config.workloads.iter().filter(|workload| named(&workload.name)).peekable();
    meant.peek()?;
    if !meant.all(crate::config::Workload::allows_outbound_by_default) {
        return None;
    }
    let text = "what it allows is allowed anyway; set outbound_default: deny for its workloads".to_owned();
    finding(FindingKind::WithoutEffect, rule, text)
}
