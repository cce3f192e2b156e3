//! A rule that matches, with one thing changed, does not match: nothing of a rule is overlooked.

use std::collections::{BTreeMap, BTreeSet};

use super::super::reference::{self, Miss};
use super::*;
use crate::config::{Action, LocalMatch, PeerMatch, PeerTrait, PeerTraits, Rule, TextPattern};

const OID: &str = "1.2.3.4";

fn attributes() -> CertificateAttributes {
    CertificateAttributes {
        organizations: vec!["Shop".into(), "Other".into()],
        organizational_units: vec!["Cart".into()],
        extensions: vec![(OID.into(), "blue".into())],
    }
}

fn every_trait() -> BTreeMap<PeerTrait, BTreeSet<TextPattern>> {
    let entry = |kind: PeerTrait, patterns: &[&str]| {
        (kind, patterns.iter().map(|pattern| pattern.parse().unwrap()).collect())
    };
    BTreeMap::from([
        entry(PeerTrait::SpiffeId, &["spiffe://a/ns/shop/sa/cart", "spiffe://b/*"]),
        entry(PeerTrait::TrustDomain, &["a"]),
        entry(PeerTrait::Namespace, &["sh*"]),
        entry(PeerTrait::ServiceAccount, &["*/cart"]),
        entry(PeerTrait::Organization, &["Other"]),
        entry(PeerTrait::OrganizationalUnit, &["*"]),
        entry(PeerTrait::Extension(OID.parse().unwrap()), &["blue"]),
    ])
}

fn matching() -> Rule {
    Rule {
        name: "r".to_owned(),
        action: Action::Allow,
        dry_run: false,
        local: LocalMatch {
            workloads: Some(["w".to_owned()].into()),
            not_workloads: ["v".to_owned()].into(),
            ports: Some([80].into()),
            not_ports: [81].into(),
        },
        peers: Some(vec![PeerMatch {
            is: PeerTraits { texts: every_trait(), networks: ["10.0.0.0/8".parse().unwrap()].into() },
            not: PeerTraits::default(),
        }]),
    }
}

/// Each way to change the rule so that it no longer matches, with the miss that says so.
fn mutants() -> Vec<(Rule, Option<Miss>)> {
    let mut mutants = Vec::new();
    let mut mutate = |miss: Option<Miss>, change: &dyn Fn(&mut Rule, &mut PeerMatch)| {
        let mut rule = matching();
        let mut peer = rule.peers.take().unwrap().remove(0);
        change(&mut rule, &mut peer);
        rule.peers = Some(vec![peer]);
        mutants.push((rule, miss));
    };
    // Written out, so that another field cannot be forgotten here.
    let Rule { name: _, action: _, dry_run: _, local, peers } = matching();
    let LocalMatch { workloads: _, not_workloads: _, ports: _, not_ports: _ } = local;
    let PeerMatch { is: PeerTraits { texts, networks: _ }, not: PeerTraits { texts: _, networks: _ } } =
        peers.unwrap().remove(0);
    mutate(None, &|rule, _| rule.action = Action::Deny);
    mutate(None, &|rule, _| rule.action = Action::Audit);
    mutate(None, &|rule, _| rule.dry_run = true);
    mutate(Some(Miss::Workload), &|rule, _| rule.local.workloads = Some(["v".to_owned()].into()));
    mutate(Some(Miss::Workload), &|rule, _| rule.local.workloads = Some(BTreeSet::new()));
    mutate(Some(Miss::Workload), &|rule, _| {
        rule.local.not_workloads.insert("w".to_owned());
    });
    mutate(Some(Miss::Port), &|rule, _| rule.local.ports = Some([81].into()));
    mutate(Some(Miss::Port), &|rule, _| {
        rule.local.not_ports.insert(80);
    });
    mutate(Some(Miss::Network), &|_, peer| peer.is.networks = ["11.0.0.0/8".parse().unwrap()].into());
    mutate(Some(Miss::ExcludedNetwork), &|_, peer| {
        peer.not.networks = ["10.0.0.1/32".parse().unwrap()].into()
    });
    for (kind, patterns) in texts {
        mutate(Some(Miss::Trait(kind.clone())), &|_, peer| {
            peer.is.texts.insert(kind.clone(), ["nobody".parse().unwrap()].into());
        });
        mutate(Some(Miss::Excluded(kind.clone())), &|_, peer| {
            peer.not.texts.insert(kind.clone(), patterns.clone());
        });
    }
    mutants
}

#[test]
fn a_change_of_any_part_of_a_rule_changes_what_it_does() {
    let (name, attributes) = (spiffe("spiffe://a/ns/shop/sa/cart"), attributes());
    let peer = known(Some(&name), &attributes);
    let mut config = config("");
    let mut decide = |rule: &Rule| {
        config.policy = vec![rule.clone()];
        let policy = Policy::from_config(&config);
        policy.decide(&query(peer, "w", 80, Mode::Strict)).verdict.allow
    };
    let original = matching();
    assert!(decide(&original));
    assert_eq!(reference::misses(&original, &peer, "w", 80), []);
    for (mutant, miss) in mutants() {
        assert!(!decide(&mutant), "{mutant:?}");
        assert_eq!(reference::misses(&mutant, &peer, "w", 80), Vec::from_iter(miss), "{mutant:?}");
    }
}
