//! A change of what is allowed ends what is allowed no longer, and looks at nothing that it cannot concern.

use super::*;
use crate::config::Config;
use crate::identity::PeerName;
use crate::observe::connection::Direction;
use crate::snapshot::Snapshot;
use crate::snapshot::testing::{config, snapshot};

/// One snapshot after another, with connections that were let in under the first.
struct Node {
    leases: Arc<Leases>,
    snapshot: Snapshot,
    live: Vec<(Parties, Lease)>,
}

impl Node {
    fn new(config: Config) -> Self {
        Self { leases: Arc::default(), snapshot: snapshot(config), live: Vec::new() }
    }

    fn connect(&mut self, parties: Parties) {
        let lease = self.leases.join(parties.clone());
        let now = SystemTime::now();
        self.leases.settle(&lease, |parties, renewed| judge(&self.snapshot, parties, renewed, now)).unwrap();
        self.live.push((parties, lease));
    }

    fn change(&mut self, config: Config) -> Ended {
        let (new, now) = (snapshot(config), Now::read());
        let terms = new.workloads.values().map(|state| {
            let terms = Terms { settings: state.settings.lease, metrics: Arc::clone(&state.metrics) };
            (Arc::clone(state.metrics.name()), terms)
        });
        self.leases.set_terms(terms.collect());
        let covers = change::between(&self.snapshot, &new);
        let judge = |parties: &Parties, renewed: Option<&_>| judge(&new, parties, renewed, now.wall);
        let ended = self.leases.judge_again(&covers, judge, now);
        self.snapshot = new;
        ended
    }

    /// Those that are over, with their reasons.
    fn over(&self) -> Vec<(&Parties, Refusal)> {
        let over = |lease: &Lease| lease.refusal().map(|refusal| Refusal::clone(&refusal));
        self.live.iter().filter_map(|(parties, lease)| Some((parties, over(lease)?))).collect()
    }
}

fn of(id: &str, port: u16) -> Parties {
    let marks = ChainMarks {
        fingerprint: Fingerprint::of(1, &[id.as_bytes().to_vec().into()]),
        id: Some(id.parse().unwrap()),
        certificates: [].into(),
        rooted: false,
        question: None,
    };
    Parties { port, ..parties("db", Some(Arc::new(marks))) }
}

fn ended(connections: usize, looked_at: usize) -> Ended {
    Ended { connections, looked_at, ..Ended::default() }
}

const WORKLOADS: &str = "workloads:\n  - { name: db, select: { netns: db }, ports: { 81: permissive } }\n  \
                         - { name: web, select: { netns: web } }\n";

/// Ten teams, each with a rule of its own; `more` are further rules.
fn teams(of: impl Iterator<Item = usize>, more: &str) -> Config {
    let team = |n: usize| {
        format!(
            "  - {{ name: team-{n}, action: allow, from: {{ spiffe_id_prefixes: ['spiffe://example.org/{n}/'] }} }}\n"
        )
    };
    config(&format!("{WORKLOADS}policy:\n{}{more}", of.map(team).collect::<String>()))
}

#[tokio::test]
async fn of_ten_thousand_connections_a_change_looks_at_those_that_it_can_concern_and_at_no_other() {
    let mut node = Node::new(teams(0..10, ""));
    for number in 0..10_000 {
        let group = number % 1000;
        node.connect(of(
            &format!("spiffe://example.org/{}/{group}", group % 10),
            if group < 20 { 81 } else { 80 },
        ));
    }
    // Nothing changed, or nothing that anybody is held by.
    assert_eq!(node.change(teams(0..10, "")), ended(0, 0));
    assert_eq!(node.change(teams((0..10).rev(), "")), ended(0, 0));
    let deny = |more: &str| teams(0..10, &format!("  - {{ name: no, action: deny, {more} }}\n"));
    for (change, want) in [
        (deny("from: { spiffe_ids: ['spiffe://example.org/9/nobody'] }"), ended(0, 0)),
        (deny("from: { spiffe_ids: ['spiffe://example.org/9/999'] }"), ended(10, 1)),
        (deny("from: { trust_domains: [elsewhere.example] }"), ended(0, 0)),
        (deny("dry_run: true, from: { trust_domains: [example.org] }"), ended(0, 0)),
        // The narrower of two ways: a port of which two tens of groups are, and a trust domain that all are of.
        (deny("to: { workloads: [db], ports: [81] }, from: { organizations: [Bad] }"), ended(0, 20)),
        (
            deny("to: { workloads: [db], ports: [81] }, from: { trust_domains: [example.org] }"),
            ended(200, 20),
        ),
        (deny("to: { workloads: [web] }"), ended(0, 0)),
        // Team 3 has a hundred groups; two of them were among those on port 81.
        (teams((0..10).filter(|n| *n != 3), ""), ended(980, 98)),
    ] {
        assert_eq!(node.change(change), want);
    }
    let reasons: Vec<_> = node.over().into_iter().map(|(_, refusal)| refusal.reason).collect();
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::PolicyDenied).count(), 210);
    assert_eq!(reasons.iter().filter(|reason| **reason == Reason::PolicyDefault).count(), 980);
    node.live.clear();
    assert!(node.leases.is_empty(), "nothing is left behind");
}

#[tokio::test]
async fn what_another_rule_allows_goes_on_and_is_held_by_that_one() {
    let rules = |rules: &str| config(&format!("{WORKLOADS}policy: [{rules}]"));
    let rule =
        |name: &str| format!("{{ name: {name}, action: allow, from: {{ trust_domains: [example.org] }} }}, ");
    let mut node = Node::new(rules(&rule("a")));
    node.connect(of("spiffe://example.org/x", 80));
    assert_eq!(node.change(rules(&rule("b"))), ended(0, 1), "renamed");
    assert_eq!(node.change(rules(&format!("{}{}", rule("b"), rule("a")))), ended(0, 0));
    assert_eq!(node.change(rules(&rule("b"))), ended(0, 0), "the first one does not hold it any more");
    assert_eq!(node.change(rules("")), ended(1, 1));
    let (_, refusal) = node.over().remove(0);
    assert!(refusal.detail.contains("spiffe://example.org/x to db port 80: default of strict"), "{refusal}");
}

#[tokio::test]
async fn a_mode_that_becomes_strict_ends_plain_connections_of_that_port() {
    let ports = |ports: &str| {
        config(&format!(
            "workloads: [{{ name: db, select: {{ netns: db }}, ports: {ports} }}]\n\
             policy: [{{ name: all, action: allow }}]"
        ))
    };
    let mut node = Node::new(ports("{ 80: permissive, 81: permissive }"));
    for port in [80, 81] {
        node.connect(Parties { port, ..parties("db", None) });
        node.connect(of("spiffe://example.org/x", port));
    }
    assert_eq!(node.change(ports("{ 80: permissive, 81: strict }")), ended(1, 2));
    let [(parties, refusal)] = &node.over()[..] else { panic!("one") };
    assert_eq!((parties.port, parties.peer.is_some(), refusal.reason), (81, false, Reason::Plaintext));
    assert!(refusal.detail.contains("port 81 of db has become strict"), "{refusal}");
}

#[tokio::test]
async fn outbound_connections_are_judged_by_outbound_rules_and_their_default() {
    let outbound = |default: &str, rules: &str| {
        config(&format!(
            "workloads: [{{ name: web, select: {{ netns: web }}, outbound_default: {default} }}]\noutbound_policy: [{rules}]"
        ))
    };
    let to_db = "{ name: to-db, action: allow, to: { spiffe_ids: ['spiffe://example.org/db'] } }";
    let mut node = Node::new(outbound("allow", ""));
    for id in ["spiffe://example.org/db", "spiffe://example.org/other"] {
        let parties = Parties { workload: "web".into(), direction: Direction::Outbound, ..of(id, 5432) };
        node.connect(parties);
    }
    assert_eq!(node.change(outbound("allow", to_db)), ended(0, 0));
    assert_eq!(node.change(outbound("deny", to_db)), ended(1, 2));
    let never = "{ name: never, action: deny, from: { ports: [5432] } }";
    assert_eq!(node.change(outbound("deny", &format!("{to_db}, {never}"))), ended(1, 1));
    let names: Vec<_> = node.over().iter().map(|(p, r)| (p.peer_name(), r.detail.clone())).collect();
    assert!(names[0].1.contains("web to spiffe://example.org/db port 5432: never"), "{names:?}");
    assert!(names[1].1.contains("outbound_default: deny"), "{names:?}");
}

#[tokio::test]
async fn what_is_to_be_kept_or_drained_is_told_apart_and_ends_as_soon_as_the_settings_say_cut() {
    let terms = |policy: &str, rules: &str| {
        config(&format!(
            "workloads: [{{ name: db, select: {{ netns: db }}, lease: {{ policy: {policy}, drain: 1h }} }}]\npolicy: [{rules}]"
        ))
    };
    let all = "{ name: all, action: allow }";
    for fate in ["keep", "drain"] {
        let mut node = Node::new(terms(fate, all));
        for id in ["spiffe://example.org/x", "spiffe://example.org/x", "spiffe://example.org/y"] {
            node.connect(of(id, 80));
        }
        let (draining, kept) = if fate == "drain" { (3, 0) } else { (0, 3) };
        let want = Ended { connections: 0, looked_at: 2, draining, kept };
        assert_eq!(node.change(terms(fate, "")), want);
        let counts = OverdueCounts { kept: kept as u64, draining: draining as u64 };
        assert_eq!(node.leases.overdue()["db"], counts);
        // Those who show a connection see it too, from the standing that it had when it was opened.
        let standing = node.live[0].1.standing().unwrap();
        let overdue = standing.now().unwrap();
        assert_eq!(overdue.reason.reason(), Some(Reason::PolicyDefault));
        assert_eq!(overdue.until.is_some(), fate == "drain");
        // Looked at again, and told once.
        assert_eq!(node.change(terms(fate, "{ name: none, action: deny }")), ended(0, 2));
        // Allowed again.
        assert_eq!(node.change(terms(fate, all)), ended(0, 2));
        assert!(node.leases.overdue().is_empty());
        assert_eq!(standing.now(), None);
        // One leaves, and is not counted any more.
        node.change(terms(fate, ""));
        node.live.pop();
        assert_eq!(node.leases.overdue()["db"].kept + node.leases.overdue()["db"].draining, 2);
        assert_eq!(node.change(terms("cut", "")), ended(2, 1));
        assert!(node.leases.overdue().is_empty() && node.over().len() == 2);
        assert!(node.live[0].1.standing().is_none(), "its group was ended");
    }
}

#[tokio::test]
async fn who_joins_late_is_refused_whatever_becomes_of_those_that_were_let_in() {
    let rules = |rules: &str| {
        config(&format!(
            "workloads: [{{ name: db, select: {{ netns: db }}, lease: {{ policy: keep }} }}]\npolicy: [{rules}]"
        ))
    };
    let mut node = Node::new(rules("{ name: all, action: allow }"));
    node.connect(of("spiffe://example.org/x", 80));
    // Decided before the change, and opened after it: nobody looks at it any more.
    let stranger = node.leases.join(of("spiffe://example.org/y", 80));
    node.leases.settle(&stranger, |_, _| Ok(Held::default())).unwrap();
    let kept = node.change(rules(""));
    assert_eq!((kept.kept, kept.connections), (1, 0), "nothing is known of a rule that holds the stranger");
    let now = SystemTime::now();
    for id in ["spiffe://example.org/x", "spiffe://example.org/y"] {
        let lease = node.leases.join(of(id, 80));
        let settled = node.leases.settle(&lease, |p, renewed| judge(&node.snapshot, p, renewed, now));
        assert_eq!(settled.unwrap_err().reason, Reason::PolicyDefault);
    }
    let counts = OverdueCounts { kept: 2, draining: 0 };
    assert_eq!(node.leases.overdue()["db"], counts, "who asks asks for the whole group");
    assert!(node.over().is_empty());
    let name = PeerName::Spiffe("spiffe://example.org/x".parse().unwrap());
    assert_eq!(node.live[0].0.peer.as_ref().unwrap().name, name);
}
