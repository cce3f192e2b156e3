use super::*;
use crate::snapshot::number_of;
use crate::snapshot::testing::{config, snapshot};

const WORLD: &str = r#"
exclude: { ports: [22], cidrs: [10.9.0.0/16] }
workloads:
  - { name: web, select: { netns: web }, addresses: [10.0.0.2, "fd00::2"], ports: { 9100: disabled, 8080: permissive }, probe_ports: [8081] }
  - { name: db, select: { netns: db }, addresses: [10.0.0.3], ports: { 9100: disabled } }
  - { name: soft, select: { netns: soft }, mode: permissive, addresses: [10.0.0.4] }
  - { name: shy, select: { netns: shy }, unknown_destinations: deny }
  - { name: off, select: { netns: off }, mode: disabled }
"#;

struct World {
    snapshot: Snapshot,
    owners: Owners,
    listening: HashSet<u16>,
    makers: Makers,
}

impl World {
    /// A namespace that `workload` has alone, with listeners on 80, 8080, 9100 and 22.
    fn of(workload: &str) -> Self {
        Self {
            snapshot: snapshot(config(WORLD)),
            owners: Owners { whole: Some(number_of(workload)), ports: HashMap::new() },
            listening: HashSet::from([80, 8080, 9100, 22]),
            makers: Makers::default(),
        }
    }

    /// A namespace that nobody has alone; `web` owns port 80 and cgroup 7.
    fn shared() -> Self {
        let web = number_of("web");
        Self {
            owners: Owners { whole: None, ports: HashMap::from([(80, web)]) },
            makers: Makers {
                cgroups: HashMap::from([(7, web)]),
                users: BTreeMap::from([((5, 1000), web), ((6, 1001), web)]),
            },
            ..Self::of("web")
        }
    }

    fn decide(&self, seen: &Seen) -> Option<(u32, Account)> {
        let ground = Ground {
            snapshot: &self.snapshot,
            owners: &self.owners,
            listening: &self.listening,
            cookie: 5,
            makers: &self.makers,
        };
        account(&ground, seen)
    }
}

fn seen(local: &str, remote: &str, kind: Option<SocketKind>, workload: &str) -> Seen {
    let workload = if workload.is_empty() { 0 } else { number_of(workload) };
    let mark = kind.map(|kind| Mark { kind: Some(kind), workload });
    Seen { local: local.parse().unwrap(), remote: remote.parse().unwrap(), cgroup: None, uid: 0, mark }
}

fn of(workload: &str, local: &str, remote: &str, kind: Option<SocketKind>) -> Account {
    let (whose, account) = World::of(workload).decide(&seen(local, remote, kind, workload)).unwrap();
    assert_eq!(whose, number_of(workload));
    account
}

#[test]
fn what_is_captured_is_carried_as_long_as_it_leads_to_the_daemon() {
    for kind in [SocketKind::Captured, SocketKind::Established, SocketKind::Flowing] {
        assert_eq!(of("web", "10.0.0.2:4000", "127.0.0.1:33333", Some(kind)), Account::Carried);
        assert_eq!(of("web", "[fd00::2]:4000", "[::1]:33333", Some(kind)), Account::Carried);
        assert_eq!(
            of("web", "10.0.0.2:4000", "10.0.0.3:5432", Some(kind)),
            Account::Not(Lack::TurnedElsewhere)
        );
    }
    assert_eq!(of("db", "10.0.0.3:80", "10.0.0.3:4000", Some(SocketKind::Delivered)), Account::Carried);
}

#[test]
fn the_daemons_own_sockets_are_accounted_for_whatever_they_lead_to() {
    let found = World::of("web").decide(&seen("10.0.0.2:80", "10.0.0.3:4", Some(SocketKind::Own), ""));
    assert_eq!(found, Some((0, Account::Daemon)));
}

#[test]
fn what_was_left_alone_is_judged_by_the_configuration_in_force() {
    let untouched = |workload: &str, to: &str| of(workload, "10.0.0.2:4", to, Some(SocketKind::Untouched));
    for (to, why) in [
        ("127.0.0.1:80", Why::NeverCaptured),
        ("169.254.1.1:80", Why::NeverCaptured),
        ("[fe80::1]:80", Why::NeverCaptured),
        ("10.0.0.3:22", Why::Excluded),
        ("10.9.1.1:5432", Why::Excluded),
        ("10.0.0.3:9100", Why::Disabled),
        ("192.0.2.1:443", Why::Unknown),
        ("10.0.0.2:80", Why::Itself),
    ] {
        assert_eq!(untouched("web", to), Account::LeftAlone(why), "{to}");
    }
    assert_eq!(untouched("web", "10.0.0.3:5432"), Account::Not(Lack::LeftAloneBefore));
    assert_eq!(untouched("shy", "192.0.2.1:443"), Account::Not(Lack::LeftAloneBefore));
    assert_eq!(untouched("soft", "10.0.0.3:5432"), Account::Permissive);
    let accepted = seen("10.0.0.2:80", "10.0.0.2:4000", Some(SocketKind::Untouched), "");
    let found = World::of("web").decide(&accepted);
    assert_eq!(found, Some((number_of("web"), Account::LeftAlone(Why::Itself))));
}

#[test]
fn a_probe_is_accounted_for_while_its_port_is_one_that_is_probed() {
    let probed = |local: &str| of("web", local, "10.0.0.9:4000", Some(SocketKind::Probed));
    assert_eq!(probed("10.0.0.2:8081"), Account::LeftAlone(Why::Probe));
    assert_eq!(probed("10.0.0.2:80"), Account::Not(Lack::LeftAloneBefore));
    let own_end = seen("10.0.0.2:4000", "10.0.0.3:8081", Some(SocketKind::Probing), "");
    assert_eq!(World::of("web").decide(&own_end), None, "the prober's end is no workload's");
}

#[test]
fn what_no_program_saw_is_unaccounted_for_a_strict_workload_unless_it_is_excluded() {
    let out = |workload: &str, to: &str| of(workload, "10.0.0.2:4000", to, None);
    for to in ["10.0.0.3:5432", "192.0.2.1:443"] {
        assert_eq!(out("web", to), Account::Not(Lack::NeverSeen), "{to}");
        assert_eq!(out("soft", to), Account::Permissive, "{to}");
    }
    assert_eq!(out("web", "10.9.1.1:443"), Account::LeftAlone(Why::Excluded));
    assert_eq!(out("web", "10.0.0.3:9100"), Account::LeftAlone(Why::Disabled));
    assert_eq!(out("web", "127.0.0.1:443"), Account::LeftAlone(Why::NeverCaptured));
}

#[test]
fn what_came_in_unseen_is_judged_by_the_mode_of_its_port() {
    let into = |workload: &str, port: u16| of(workload, &format!("10.0.0.2:{port}"), "192.0.2.1:5000", None);
    assert_eq!(into("web", 80), Account::Not(Lack::NeverSeen));
    assert_eq!(into("web", 8080), Account::Permissive);
    assert_eq!(into("web", 9100), Account::LeftAlone(Why::Disabled));
    assert_eq!(into("web", 22), Account::LeftAlone(Why::Excluded));
    assert_eq!(into("soft", 80), Account::Permissive);
    // Its listener is gone: still the port's own mode.
    let mut world = World::of("web");
    world.listening.clear();
    let found = world.decide(&seen("10.0.0.2:9100", "192.0.2.1:5000", None, "")).unwrap();
    assert_eq!(found.1, Account::LeftAlone(Why::Disabled));
}

#[test]
fn a_blocked_socket_is_unaccounted_and_says_that_nothing_leaves() {
    let account = of("web", "10.0.0.2:4000", "10.0.0.3:5432", Some(SocketKind::Blocked));
    assert_eq!(account, Account::Not(Lack::Blocked));
    assert!(Lack::Blocked.to_string().contains("nothing of it leave"));
}

#[test]
fn in_a_shared_namespace_the_port_or_the_cgroup_says_whose_it_is() {
    let world = World::shared();
    let inbound = world.decide(&seen("10.0.0.2:80", "192.0.2.1:5000", None, ""));
    assert_eq!(inbound, Some((number_of("web"), Account::Not(Lack::NeverSeen))));
    let mut outbound = seen("10.0.0.2:4000", "10.0.0.3:5432", None, "");
    assert_eq!(world.decide(&outbound), None, "somebody else's");
    outbound.cgroup = Some(8);
    assert_eq!(world.decide(&outbound), None, "another cgroup's");
    outbound.cgroup = Some(7);
    assert_eq!(world.decide(&outbound), Some((number_of("web"), Account::Not(Lack::NeverSeen))));
}

#[test]
fn in_a_shared_namespace_the_user_says_whose_it_is_unless_the_cgroup_does() {
    let world = World::shared();
    let mut outbound = seen("10.0.0.2:4000", "10.0.0.3:5432", None, "");
    outbound.uid = 1001;
    assert_eq!(world.decide(&outbound), None, "a user of another namespace");
    outbound.uid = 1000;
    assert_eq!(world.decide(&outbound), Some((number_of("web"), Account::Not(Lack::NeverSeen))));
}

#[test]
fn whoever_is_not_looked_after_has_no_account() {
    assert_eq!(World::of("off").decide(&seen("10.0.0.5:4", "10.0.0.3:5432", None, "")), None);
    let gone = seen("10.0.0.5:4", "127.0.0.1:5", Some(SocketKind::Flowing), "removed");
    assert_eq!(World::of("web").decide(&gone), None, "a workload that was removed from the configuration");
}

#[test]
fn a_mark_is_read_from_the_storage_and_nothing_else_is_taken_for_one() {
    let mut bytes = vec![0; size_of::<SocketState>()];
    bytes[..4].copy_from_slice(&SocketKind::Flowing.raw().to_ne_bytes());
    bytes[4..8].copy_from_slice(&77u32.to_ne_bytes());
    assert_eq!(Mark::parse(&bytes), Some(Mark { kind: Some(SocketKind::Flowing), workload: 77 }));
    bytes[..4].copy_from_slice(&999u32.to_ne_bytes());
    assert_eq!(Mark::parse(&bytes), Some(Mark { kind: None, workload: 77 }));
    assert_eq!(Mark::parse(&bytes[1..]), None);
    assert_eq!(Mark::parse(&[]), None);
    for kind in Mark::KINDS {
        bytes[..4].copy_from_slice(&kind.raw().to_ne_bytes());
        assert_eq!(Mark::parse(&bytes).unwrap().kind, Some(kind));
    }
}

#[test]
fn a_kind_of_a_newer_version_counts_as_unseen() {
    let mut socket = seen("10.0.0.2:4000", "10.0.0.3:5432", Some(SocketKind::Own), "web");
    socket.mark = Some(Mark { kind: None, workload: number_of("web") });
    let found = World::of("web").decide(&socket).unwrap();
    assert_eq!(found.1, Account::Not(Lack::NeverSeen));
}

#[test]
fn every_lack_has_a_sentence_and_a_mend_and_every_account_a_word() {
    for lack in [Lack::NeverSeen, Lack::LeftAloneBefore, Lack::TurnedElsewhere, Lack::Blocked] {
        assert!(!lack.to_string().is_empty() && lack.mend().ends_with('.'));
        assert_eq!(Account::Not(lack).word(), "unaccounted");
    }
}
