//! Every interleaving of both machines with kernels, applications, an attacker and deaths.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation)]
mod model;

use model::{ANSWERS, Direct, END, Flaw, LEAK, LEAVES, LEFT, LIVES, PREFIX, REACHED, READ, STUCK};
use stateright::{Checker, HasDiscoveries, Model};

const RIGHT: Direct = Direct {
    flaw: Flaw::None,
    early_release: false,
    length: [1, 1],
    attacker: true,
    deaths: true,
    failures: true,
};

/// Explores all of it and says how much that was; fails with the shortest way to a broken property.
fn holds(name: &str, direct: Direct) {
    let checker = direct.checker().spawn_bfs().join();
    println!("{name}: {} states, {} steps", checker.unique_state_count(), checker.state_count());
    for property in [LEAK, READ, PREFIX, STUCK, LIVES, LEFT, END, ANSWERS] {
        if let Some(path) = checker.discovery(property) {
            let last = path.last_state().clone();
            panic!("{name}: {property} is broken by {:#?}\n{last:#?}", path.into_actions());
        }
    }
    assert!(checker.discovery(REACHED).is_some(), "{name}: no way to a finished exchange");
    assert_eq!(checker.discovery(LEAVES).is_some(), direct.early_release, "{name}");
}

/// A model with a flaw must break the property, or the property could not be broken at all.
fn breaks(direct: Direct, property: &'static str) {
    let found = HasDiscoveries::AnyOf([property].into());
    let checker = direct.checker().finish_when(found).spawn_bfs().join();
    println!("{:?}: {} states until the end", direct.flaw, checker.unique_state_count());
    let path = checker.discovery(property);
    let path = path.unwrap_or_else(|| panic!("{:?} does not break {property}", direct.flaw));
    println!("{:?} breaks {property}: {:?}", direct.flaw, path.into_actions());
}

/// Two bytes each way: what depends on the first byte and what follows it.
const LONG: Direct = Direct { length: [2, 2], ..RIGHT };

#[test]
fn every_interleaving_holds() {
    holds("all", RIGHT);
}

#[test]
fn every_interleaving_with_early_release_holds() {
    holds("all, early release", Direct { early_release: true, ..RIGHT });
}

#[test]
fn longer_streams_with_an_attacker_hold() {
    for early_release in [false, true] {
        let length = [2, 1];
        holds("long, attacker", Direct { early_release, length, deaths: false, failures: false, ..LONG });
    }
}

#[test]
fn longer_streams_with_deaths_and_failures_hold() {
    for early_release in [false, true] {
        holds("long, deaths and failures", Direct { early_release, attacker: false, ..LONG });
    }
}

#[test]
fn without_the_kick_plaintext_leaks() {
    breaks(Direct { flaw: Flaw::NoKick, ..LONG }, LEAK);
}

#[test]
fn without_the_kick_ciphertext_is_read() {
    breaks(Direct { flaw: Flaw::NoKick, attacker: false, ..RIGHT }, READ);
}

#[test]
fn without_the_guard_injected_plaintext_is_read() {
    breaks(Direct { flaw: Flaw::NoGuard, ..RIGHT }, READ);
}

#[test]
fn a_writer_let_go_before_the_peer_is_ready_is_read_as_ciphertext() {
    breaks(Direct { flaw: Flaw::NoGuardAndHasty, attacker: false, ..RIGHT }, READ);
}

#[test]
fn a_guard_that_opens_before_the_kick_lets_injected_plaintext_be_read() {
    breaks(Direct { flaw: Flaw::GuardBeforeKick, ..RIGHT }, READ);
}

#[test]
fn a_guard_that_opens_before_the_writer_goes_lets_a_held_server_read() {
    breaks(Direct { flaw: Flaw::GuardBeforeKick, early_release: true, attacker: false, ..RIGHT }, ANSWERS);
}

#[test]
fn records_without_numbers_let_a_replay_be_read() {
    breaks(Direct { flaw: Flaw::NoRecordNumbers, ..RIGHT }, PREFIX);
}

#[test]
fn a_duplicate_that_is_not_closed_is_left_behind() {
    breaks(Direct { flaw: Flaw::NoClose, ..RIGHT }, LEFT);
}

#[test]
fn a_failure_that_leaves_the_socket_is_stuck() {
    breaks(Direct { flaw: Flaw::NoDestroy, ..RIGHT }, STUCK);
}

#[test]
fn a_start_without_recovery_leaves_held_sockets() {
    breaks(Direct { flaw: Flaw::NoRecovery, ..RIGHT }, STUCK);
}

#[test]
fn a_start_that_destroys_released_sockets_ends_live_connections() {
    breaks(Direct { flaw: Flaw::RecoveryOfAll, ..RIGHT }, LIVES);
}

#[test]
fn an_early_writer_that_dies_with_the_session_ends_a_live_connection() {
    breaks(Direct { flaw: Flaw::EarlyDiesWithSession, early_release: true, ..RIGHT }, LIVES);
}

/// A known limit of `direct` (docs/design/direct-machine.md): should a mend make this fail, say so there.
#[test]
fn a_forged_fin_after_arming_is_read_as_an_end() {
    breaks(Direct { flaw: Flaw::ForgedFin, ..RIGHT }, END);
}
