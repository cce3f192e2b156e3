//! What is kept, counted and forgotten.

use super::*;

fn one(flows: &Flows) -> Flow {
    let mut record = flows.record_at(Moment::default(), NOON);
    assert_eq!(record.flows.len(), 1);
    record.flows.remove(0)
}

#[test]
fn connections_that_are_alike_are_one_flow_with_its_last_decision() {
    let flows = flows(8);
    let db = Db(&flows);
    db.plain(1, open(), ago(100));
    db.plain(1, open(), ago(90));
    db.plain(1, Outcome::refused("no", Reason::PolicyDenied), ago(30));
    let flow = one(&flows);
    assert_eq!((flow.allowed, flow.refused, flow.count()), (2, 1, 3));
    assert_eq!((flow.first_seen, flow.last_seen), (ago(100), ago(30)));
    assert_eq!(flow.longest_pause, Duration::from_secs(60));
    let decision = Decision { allow: false, rule: "no".into(), reason: Some(Reason::PolicyDenied) };
    assert_eq!(flow.decision, decision);
    // A clock that goes back does not make it older.
    db.plain(1, open(), ago(50));
    assert_eq!((one(&flows).last_seen, one(&flows).decision.allow), (ago(30), true));
}

#[test]
fn whatever_rules_can_ask_tells_flows_apart() {
    let flows = flows(100);
    let (web, other) = (spiffe("spiffe://a/web"), PeerName::Dns("web".into()));
    let shop =
        CertificateAttributes { organizations: vec!["Shop".into()], ..CertificateAttributes::default() };
    let base = Tuple::unproven(Direction::Inbound, "db", 80, address(1), Channel::MutualTls);
    let base = Tuple { name: Some(&web), ..base };
    let tuples = [
        base,
        Tuple { direction: Direction::Outbound, ..base },
        Tuple { workload: "web", ..base },
        Tuple { port: 81, ..base },
        Tuple { address: address(2), ..base },
        Tuple { name: Some(&other), ..base },
        Tuple { attributes: &shop, ..base },
        Tuple { name: None, channel: Channel::Plaintext, ..base },
        Tuple { name: None, channel: Channel::OwnTls, ..base },
    ];
    for _ in 0..2 {
        tuples.iter().for_each(|tuple| flows.note_at(tuple, &open(), NOON));
    }
    let record = flows.record_at(Moment::default(), NOON);
    assert_eq!(record.flows.len(), tuples.len());
    assert!(record.flows.iter().all(|flow| flow.count() == 2));
    let mapped =
        Tuple::unproven(Direction::Inbound, "db", 80, "::ffff:10.0.0.9".parse().unwrap(), Channel::Plaintext);
    assert_eq!(mapped.address, address(9), "one address, however it is written");
}

#[test]
fn the_least_recently_seen_are_forgotten_and_counted() {
    let flows = flows(32);
    let db = Db(&flows);
    let web = spiffe("spiffe://a/web");
    for number in 0..32_u16 {
        db.proven(&web, number, open(), ago(1_000 - u64::from(number)));
    }
    assert_eq!(flows.counts(), (32, 0));
    db.proven(&web, 0, open(), ago(10));
    db.proven(&web, 100, open(), ago(5));
    assert_eq!(flows.counts(), (31, 2), "a sixteenth");
    let record = flows.record_at(Moment::default(), NOON);
    assert!(record.flows.iter().any(|flow| flow.address == address(0)), "it was seen again");
    assert!(!record.flows.iter().any(|flow| [address(1), address(2)].contains(&flow.address)));
    assert_eq!((record.evicted, record.last_evicted), (2, Some(ago(998))));
    assert!(record.gaps(ago(997)).is_empty(), "they were seen before");
    let gaps = record.gaps(ago(998));
    assert!(gaps[0].contains("2 flows were forgotten") && gaps[0].contains("flows.entries"), "{gaps:?}");
}

#[test]
fn a_flood_from_many_addresses_makes_nobody_forget_those_who_proved_who_they_are() {
    let flows = flows(64);
    let db = Db(&flows);
    for number in 0..30_u16 {
        db.proven(&spiffe(&format!("spiffe://a/{number}")), 1, open(), ago(500));
    }
    for number in 0..10_000_u16 {
        db.plain(number, open(), ago(400).max(Moment::from_millis(u64::from(number))));
    }
    let record = flows.record_at(Moment::default(), NOON);
    assert!(record.flows.len() <= 64);
    assert_eq!(record.flows.iter().filter(|flow| flow.peer.is_some()).count(), 30);
    assert_eq!(record.evicted, 10_030 - u64::try_from(record.flows.len()).unwrap());
}

#[test]
fn large_certificates_cannot_take_more_bytes_than_is_said() {
    let flows = flows(1024);
    let text = "x".repeat(256);
    let attributes = CertificateAttributes {
        organizations: vec![text.as_str().into(); 64],
        organizational_units: vec![text.as_str().into(); 64],
        extensions: Vec::new(),
    };
    for number in 0..200_u16 {
        let name = spiffe(&format!("spiffe://a/{number}"));
        let tuple = Tuple::unproven(Direction::Inbound, "db", 80, address(1), Channel::MutualTls);
        flows.note_at(&Tuple { name: Some(&name), attributes: &attributes, ..tuple }, &open(), NOON);
    }
    let (kept, evicted) = flows.counts();
    let each = 128 * 256;
    assert!(kept * each <= 1024 * BYTES_PER_FLOW, "{kept} of {each} bytes");
    assert!(kept > 20, "{kept}");
    assert_eq!(u64::try_from(kept).unwrap() + evicted, 200);
}

#[test]
fn what_cannot_be_written_is_not_kept_but_counted() {
    let flows = flows(8);
    let name = PeerName::CommonName("x".repeat(3000));
    Db(&flows).proven(&name, 1, open(), NOON);
    assert_eq!(flows.counts(), (0, 1));
    Db(&flows).plain(1, Outcome::allowed(&"é".repeat(1000)), NOON);
    let record = serde_json::to_string(&flows.record_at(Moment::default(), NOON)).unwrap();
    let read: Record = serde_json::from_str(&record).unwrap();
    assert_eq!(read.flows[0].decision.rule.len(), 1024);
    assert_eq!(flows.record_at(Moment::default(), NOON).last_evicted, Some(NOON));
}

#[test]
fn what_was_not_seen_for_long_is_forgotten_and_the_record_says_since_when_it_knows() {
    let flows = flows(8);
    let db = Db(&flows);
    db.plain(1, open(), NOON.before(8 * DAY));
    db.plain(2, open(), NOON.before(6 * DAY));
    let record = flows.record_at(Moment::default(), NOON);
    assert_eq!((record.flows.len(), record.begun), (1, NOON.before(7 * DAY)));
    assert_eq!(flows.record_at(NOON.before(DAY), NOON).flows.len(), 0);
    assert_eq!(flows.counts(), (2, 0));
    flows.expire_at(NOON);
    assert_eq!(flows.counts(), (1, 0), "that is no eviction");
    let gaps = record.gaps(NOON.before(8 * DAY));
    assert!(gaps[0].contains("the record begins at"), "{gaps:?}");
}

#[test]
fn a_workload_is_known_since_it_is_watched_with_the_same_ports() {
    let flows = flows(8);
    let watch = |text: &str, at| flows.watch_at(&config(text), at);
    let gap = |since| flows.record_at(Moment::default(), NOON).gap_of("db", since);
    watch("workloads: [{ name: db, select: { netns: db }, ports: { 8080: disabled } }]", ago(100));
    assert_eq!(gap(ago(90)), None);
    assert!(gap(ago(110)).unwrap().contains("only since"));
    watch(
        "workloads: [{ name: db, select: { netns: db }, mode: permissive, ports: { 8080: disabled } }]",
        ago(80),
    );
    assert_eq!(gap(ago(90)), None, "the mode of what is seen does not matter");
    watch("workloads: [{ name: db, select: { netns: db } }]", ago(70));
    assert!(gap(ago(90)).is_some(), "nothing of 8080 is known from before");
    assert_eq!(gap(ago(60)), None);
    watch("workloads: [{ name: db, select: { netns: db }, mode: disabled }]", ago(50));
    assert!(gap(ago(10)).unwrap().contains("not watched"));
    watch("workloads: [{ name: db, select: { netns: db } }]", ago(40));
    assert!(gap(ago(60)).is_some());
}

#[tokio::test]
async fn what_is_new_is_told_at_once_and_what_is_not_only_when_asked() {
    let flows = flows(8);
    let db = Db(&flows);
    assert!(flows.take_dirty());
    db.plain(1, open(), ago(3));
    flows.news().await;
    assert!(flows.take_dirty() && !flows.take_dirty());
    db.plain(1, open(), ago(2));
    assert!(flows.take_dirty(), "its count");
    assert!(tokio::time::timeout(Duration::ZERO, flows.news()).await.is_err());
    db.plain(1, Outcome::allowed("another rule"), ago(1));
    flows.news().await;
}

#[test]
fn a_store_that_is_off_keeps_nothing() {
    let flows = Flows::off();
    let tuple = Tuple::unproven(Direction::Inbound, "db", 80, address(1), Channel::Plaintext);
    flows.note(&tuple, &open());
    assert!(!flows.is_on());
    assert_eq!(flows.counts(), (0, 0));
}

#[test]
fn tasks_that_see_the_same_flow_first_at_the_same_time_count_each_of_their_connections() {
    let flows = flows(64);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| (0..1000_u16).for_each(|n| Db(&flows).plain(n % 32, open(), NOON)));
        }
    });
    let record = flows.record_at(Moment::default(), NOON);
    assert_eq!((record.flows.len(), record.evicted), (32, 0));
    assert_eq!(record.flows.iter().map(Flow::count).sum::<u64>(), 4000);
}
