use proptest::prelude::*;

use super::*;

const MINUTE: Duration = Duration::from_secs(60);
const SETTINGS: UnfitSettings =
    UnfitSettings { entries: 3, retry: Duration::from_secs(600), retry_limit: Duration::from_secs(2400) };

fn pair(port: u16) -> Pair {
    Pair { workload: "web".into(), side: Side::Inbound(port) }
}

fn left(memory: &mut Memory, port: u16, now: Instant) -> Option<Duration> {
    memory.why_not(DirectChoice::Auto, &pair(port), now).map(|unfit| unfit.left)
}

#[test]
fn a_pair_is_left_to_a_relay_for_its_time_and_not_longer() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    assert_eq!(left(&mut memory, 1, start), None);
    memory.failed(pair(1), Reason::NoAnswer, start);
    let told = memory.why_not(DirectChoice::Auto, &pair(1), start + MINUTE).unwrap();
    assert_eq!(told, Unfit { reason: Reason::NoAnswer, failures: 1, left: 9 * MINUTE });
    assert_eq!(
        told.to_string(),
        "the other daemon did not answer in time (failures in a row: 1; tried again in 540 s)"
    );
    assert_eq!(
        left(&mut memory, 1, start + 10 * MINUTE - Duration::from_nanos(1)),
        Some(Duration::from_nanos(1))
    );
    assert_eq!(left(&mut memory, 1, start + 10 * MINUTE), None);
    // Neither the other direction, nor another port or workload.
    for other in [
        Pair { workload: "web".into(), side: Side::Outbound("10.0.0.1:1".parse().unwrap()) },
        Pair { workload: "db".into(), side: Side::Inbound(1) },
        pair(2),
    ] {
        assert_eq!(memory.why_not(DirectChoice::Auto, &other, start), None, "{other:?}");
    }
}

#[test]
fn require_is_never_told() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    memory.failed(pair(1), Reason::NoKernelTls, start);
    assert_eq!(memory.why_not(DirectChoice::Require, &pair(1), start), None);
    assert!(left(&mut memory, 1, start).is_some());
}

#[test]
fn an_end_before_arming_counts_only_when_the_next_connection_ends_so_too() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    let early = Reason::NotEstablished;
    assert!(!memory.failed(pair(1), early, start));
    assert!(!memory.failed(pair(1), early, start + TOGETHER / 2), "those of one application end together");
    assert_eq!((left(&mut memory, 1, start), memory.list(start)), (None, Vec::new()));
    assert!(memory.failed(pair(1), early, start + TOGETHER), "it is its way");
    assert_eq!(left(&mut memory, 1, start + TOGETHER), Some(10 * MINUTE));
    // What became direct in between wipes it out.
    assert!(!memory.failed(pair(2), early, start));
    memory.succeeded(&pair(2));
    assert!(!memory.failed(pair(2), early, start + MINUTE));
    // What is worse counts at once.
    assert!(memory.failed(pair(2), Reason::NoKernelTls, start + MINUTE));
    assert_eq!(left(&mut memory, 2, start + MINUTE), Some(10 * MINUTE));
    assert!(memory.failed(pair(2), early, start + 2 * MINUTE), "and is not forgotten for a doubt");
}

#[test]
fn what_says_nothing_of_the_next_attempt_is_not_remembered() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    for reason in [Reason::Denied, Reason::SessionLost, Reason::ApplicationGone, Reason::LeaseEnded] {
        memory.failed(pair(1), reason, start);
        assert_eq!(left(&mut memory, 1, start), None, "{reason}");
    }
}

#[test]
fn each_further_failure_doubles_the_time_up_to_the_limit() {
    let (mut memory, mut now) = (Memory::new(SETTINGS), Instant::now());
    for minutes in [10, 20, 40, 40] {
        memory.failed(pair(1), Reason::NotEmptied, now);
        assert_eq!(left(&mut memory, 1, now), Some(minutes * MINUTE));
        now += minutes * MINUTE;
    }
    // It was fit for as long as the limit: the next failure is a first one.
    memory.failed(pair(1), Reason::NotEmptied, now + 40 * MINUTE);
    assert_eq!(left(&mut memory, 1, now + 40 * MINUTE), Some(10 * MINUTE));
}

#[test]
fn attempts_under_way_at_the_same_time_count_once() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    memory.failed(pair(1), Reason::NoAnswer, start);
    memory.failed(pair(1), Reason::NotAccepted, start + MINUTE);
    let told = memory.why_not(DirectChoice::Auto, &pair(1), start + MINUTE).unwrap();
    assert_eq!(told, Unfit { reason: Reason::NotAccepted, failures: 1, left: 9 * MINUTE });
}

#[test]
fn a_success_makes_the_next_failure_a_first_one() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    memory.failed(pair(1), Reason::NoAnswer, start);
    memory.succeeded(&pair(1));
    assert_eq!(left(&mut memory, 1, start), None);
    memory.failed(pair(1), Reason::NoAnswer, start + 10 * MINUTE);
    assert_eq!(left(&mut memory, 1, start + 10 * MINUTE), Some(10 * MINUTE));
    memory.succeeded(&pair(2));
    assert_eq!(memory.list(start + 10 * MINUTE).len(), 1);
}

#[test]
fn the_pair_not_asked_about_for_the_longest_time_makes_room() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    for port in 1..=3 {
        memory.failed(pair(port), Reason::NoAnswer, start);
    }
    assert!(left(&mut memory, 1, start).is_some());
    memory.failed(pair(4), Reason::NoAnswer, start);
    let ports =
        |memory: &Memory| memory.list(start).into_iter().map(|(pair, _)| pair.side).collect::<Vec<_>>();
    assert_eq!(ports(&memory), [1, 3, 4].map(Side::Inbound));
    memory.configure(UnfitSettings { entries: 1, ..SETTINGS });
    assert_eq!(ports(&memory), [Side::Inbound(4)]);
}

#[test]
fn the_list_has_only_what_is_unfit_now() {
    let (mut memory, start) = (Memory::new(SETTINGS), Instant::now());
    let to = Pair { workload: "web".into(), side: Side::Outbound("[fd00::1]:443".parse().unwrap()) };
    memory.failed(pair(1), Reason::NoAnswer, start);
    memory.failed(to.clone(), Reason::NoHandshake, start + MINUTE);
    let unfit = Unfit { reason: Reason::NoHandshake, failures: 1, left: MINUTE };
    assert_eq!(memory.list(start + 10 * MINUTE), [(to.clone(), unfit)]);
    assert_eq!(memory.list(start + 11 * MINUTE), []);
    assert_eq!(
        (to.side.to_string(), pair(1).side.to_string()),
        ("to [fd00::1]:443".into(), "to its port 1".into())
    );
}

/// One thing that happens, and how long after the one before.
#[derive(Clone, Debug)]
enum Event {
    Asked(u16),
    Failed(u16),
    Succeeded(u16),
}

fn events() -> impl Strategy<Value = Vec<(Event, Duration)>> {
    let event = prop_oneof![
        (0..8_u16).prop_map(Event::Asked),
        (0..8_u16).prop_map(Event::Failed),
        (0..8_u16).prop_map(Event::Succeeded),
    ];
    proptest::collection::vec((event, (0..4000_u64).prop_map(Duration::from_secs)), 0..200)
}

proptest! {
    #[test]
    fn it_is_bounded_and_never_leaves_a_pair_to_a_relay_for_longer_than_the_limit(events in events()) {
        let (mut memory, mut now) = (Memory::new(SETTINGS), Instant::now());
        for (event, later) in events {
            now += later;
            match event {
                Event::Asked(port) => {
                    let listed = memory.list(now).into_iter().find(|(known, _)| *known == pair(port));
                    let told = memory.why_not(DirectChoice::Auto, &pair(port), now);
                    prop_assert_eq!(told, listed.map(|(_, unfit)| unfit));
                }
                Event::Failed(port) => {
                    memory.failed(pair(port), Reason::NoAnswer, now);
                    let unfit = memory.why_not(DirectChoice::Auto, &pair(port), now);
                    prop_assert!(unfit.is_some_and(|unfit| unfit.failures >= 1));
                }
                Event::Succeeded(port) => {
                    memory.succeeded(&pair(port));
                    prop_assert_eq!(memory.why_not(DirectChoice::Auto, &pair(port), now), None);
                }
            }
            prop_assert!(memory.known.len() <= 3);
            // The order has exactly the known pairs, each under its last use.
            prop_assert_eq!(memory.order.len(), memory.known.len());
            for (used, pair) in &memory.order {
                prop_assert_eq!(memory.known.get(pair).map(|entry| entry.used), Some(*used));
            }
            for (_, unfit) in memory.list(now) {
                prop_assert!(unfit.left <= SETTINGS.retry_limit);
            }
            prop_assert_eq!(memory.list(now + SETTINGS.retry_limit), []);
        }
    }
}
