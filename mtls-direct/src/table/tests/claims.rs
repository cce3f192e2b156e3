//! What the table adds to the machines, claim by claim.
use std::time::Duration;

use super::super::{Command, Decision, Table};
use super::{LINK, OWNER, id, limits, seconds, socket};
use crate::{Action, Body, By, ConnectionId, Counts, Input, Key, Message, Nonce, Outcome, Reason};

type Nodes = Table<u32, u8>;

fn actions(commands: &[Command<u32, u8>]) -> Vec<Action<u8>> {
    commands
        .iter()
        .map(|command| match command {
            Command::Do(_, action) => *action,
            other => panic!("{other:?}"),
        })
        .collect()
}

fn say(port: u16, body: Body) -> Message {
    Message { id: id(port, 1), body }
}

/// A server that expects the connection of `port`.
fn expecting(port: u16) -> Nodes {
    let mut table = Nodes::new(limits());
    let commands = table.peer(seconds(0), LINK, say(port, Body::Open));
    let [Command::Do(about, Action::Decide)] = commands[..] else { panic!("{commands:?}") };
    let done = table.decided(seconds(0), about.key, Decision::Allow(9, Nonce([2; 16])));
    assert_eq!(
        actions(&done),
        [
            Action::Expect(id(port, 1).tuple),
            Action::Send(Message { id: id(port, 1), body: Body::Accept(Nonce([2; 16])) })
        ]
    );
    table
}

#[test]
fn the_kernels_reports_find_their_connection_by_addresses_first_and_then_by_cookie() {
    let mut table = expecting(1000);
    let tuple = id(1000, 1).tuple;
    let done = table.established(seconds(0), socket(9, 77), tuple);
    assert_eq!(actions(&done), [Action::Unexpect(tuple)]);
    let done = table.accepted(seconds(0), socket(9, 77), id(1001, 1).tuple, OWNER);
    let [Command::Do(about, Action::Duplicate)] = done[..] else { panic!("{done:?}") };
    assert_eq!((about.cookie, about.owner, about.netns), (Some(77), Some(OWNER), Some(9)));
}

#[test]
fn a_report_from_another_namespace_is_not_taken_for_the_expected_one() {
    let mut table = expecting(1000);
    let tuple = id(1000, 1).tuple;
    let done = table.established(seconds(0), socket(8, 77), tuple);
    assert_eq!(done, [Command::Destroy { socket: socket(8, 77), tuple, reason: Reason::Unknown }]);
}

#[test]
fn addresses_that_are_expected_already_are_not_given_to_a_second_session() {
    let mut table = expecting(1000);
    let commands = table.peer(seconds(0), LINK + 1, say(1000, Body::Open));
    let [Command::Do(about, Action::Decide)] = commands[..] else { panic!("{commands:?}") };
    let done = actions(&table.decided(seconds(0), about.key, Decision::Allow(9, Nonce([3; 16]))));
    assert!(done.contains(&Action::Send(say(1000, Body::Refuse(Reason::Busy)))), "{done:?}");
    assert!(!done.iter().any(|action| matches!(action, Action::Unexpect(_))), "the first one's entry stays");
    // The first one is still found.
    assert_eq!(actions(&table.established(seconds(0), socket(9, 1), id(1000, 1).tuple)).len(), 1);
}

#[test]
fn a_message_of_another_session_is_about_no_connection_of_this_one() {
    let mut table = expecting(1000);
    let stranger = table.peer(seconds(0), LINK + 1, say(1000, Body::Abort(Reason::Denied)));
    assert_eq!(stranger, []);
    let ready = table.peer(seconds(0), LINK + 1, say(1000, Body::Ready));
    assert_eq!(ready, [Command::Answer(LINK + 1, say(1000, Body::Abort(Reason::Unknown)))]);
    assert_eq!(table.len(), 1);
}

#[test]
fn one_session_cannot_take_the_room_of_the_others() {
    let mut table = Nodes::new(limits());
    for port in 0..3 {
        table.peer(seconds(0), LINK, say(port, Body::Open));
    }
    let refused = table.peer(seconds(0), LINK, say(3, Body::Open));
    assert_eq!(refused, [Command::Answer(LINK, say(3, Body::Refuse(Reason::Busy)))]);
    let held = table.syn(seconds(0), LINK, socket(1, 2), OWNER, id(4, 1));
    let tuple = id(4, 1).tuple;
    assert_eq!(held, [Command::RefuseConnect { socket: socket(1, 2), tuple, reason: Reason::Busy }]);
    assert_eq!(table.peer(seconds(0), LINK + 1, say(3, Body::Open)).len(), 1, "another session has room");
    // What ends makes room.
    table.peer(seconds(0), LINK, say(0, Body::Abort(Reason::Denied)));
    assert!(matches!(table.peer(seconds(0), LINK, say(3, Body::Open))[..], [Command::Do(..)]));
}

#[test]
fn the_room_of_the_node_is_bounded_too() {
    let mut table = Nodes::new(limits());
    for session in 0..8 {
        assert!(matches!(table.peer(seconds(0), session, say(1, Body::Open))[..], [Command::Do(..)]));
    }
    let refused = table.peer(seconds(0), 9, say(1, Body::Open));
    assert_eq!(refused, [Command::Answer(9, say(1, Body::Refuse(Reason::Busy)))]);
}

#[test]
fn a_syn_that_is_sent_again_changes_nothing() {
    let mut table = Nodes::new(limits());
    let first = table.syn(seconds(0), LINK, socket(1, 2), OWNER, id(1, 1));
    assert_eq!(actions(&first), [Action::Duplicate]);
    assert_eq!(table.syn(seconds(1), LINK, socket(1, 2), OWNER, id(1, 9)), []);
    assert_eq!(table.len(), 1);
}

#[test]
fn a_timer_of_two_states_bounds_both_together() {
    let mut table = Nodes::new(limits());
    let commands = table.syn(seconds(0), LINK, socket(1, 2), OWNER, id(1, 1));
    let [Command::Do(about, _)] = commands[..] else { panic!("{commands:?}") };
    table.input(seconds(1), about.key, Input::Duplicated(3));
    assert_eq!(table.next_deadline(), Some(limits().answer), "Answer goes on since the SYN");
    assert_eq!(table.expire(limits().answer - Duration::from_nanos(1)), []);
    let done = actions(&table.expire(limits().answer));
    assert_eq!(done.first(), Some(&Action::RefuseConnect(Reason::NoAnswer)), "{done:?}");
    assert!(done.contains(&Action::Close(3)) && table.is_empty() && table.next_deadline().is_none());
}

#[test]
fn a_state_without_timers_has_none() {
    let mut table = expecting(1000);
    assert_eq!(table.next_deadline(), Some(limits().handshake));
    table.established(seconds(1), socket(9, 77), id(1000, 1).tuple);
    assert_eq!(table.next_deadline(), Some(seconds(1) + limits().accept), "Accept, from its own start");
}

#[test]
fn what_comes_when_all_is_over_is_cleaned_up() {
    let mut table = Nodes::new(limits());
    let commands = table.syn(seconds(0), LINK, socket(1, 2), OWNER, id(1, 1));
    let [Command::Do(about, _)] = commands[..] else { panic!("{commands:?}") };
    table.session_lost(seconds(0), LINK);
    assert!(table.is_empty());
    assert_eq!(table.input(seconds(0), about.key, Input::Duplicated(3)), [Command::Close(3)]);
    assert_eq!(table.input(seconds(0), about.key, Input::Installed), []);
    let tuple = id(1, 1).tuple;
    assert_eq!(
        table.established(seconds(0), socket(1, 2), tuple),
        [Command::Destroy { socket: socket(1, 2), tuple, reason: Reason::Unknown }]
    );
    assert_eq!(table.ended(seconds(0), socket(1, 2), Counts::default()), []);
    assert_eq!(table.decided(seconds(0), about.key, Decision::Refuse(Reason::Denied)), []);
}

#[test]
fn a_lost_session_ends_its_own_connections_only() {
    let mut table = Nodes::new(limits());
    table.syn(seconds(0), LINK, socket(1, 1), OWNER, id(1, 1));
    table.syn(seconds(0), LINK + 1, socket(1, 2), OWNER, id(2, 1));
    let done = actions(&table.session_lost(seconds(0), LINK));
    assert_eq!(done.last(), Some(&Action::Report(Outcome::Failed(By::Us, Reason::SessionLost))));
    assert_eq!(table.len(), 1);
    assert_eq!(table.over(LINK + 1).len(), 1);
}

#[test]
fn a_late_decision_changes_nothing() {
    let mut table = expecting(1000);
    let key = table.over(LINK)[0];
    assert_eq!(table.decided(seconds(0), key, Decision::Allow(8, Nonce([9; 16]))), []);
    assert_eq!(table.about(key).unwrap().netns, Some(9));
}

#[test]
fn a_connection_at_rest_takes_a_few_hundred_bytes() {
    let entry = size_of::<super::super::entry::Entry<u64, u64>>();
    let indexes = 2 * size_of::<Key>() + size_of::<Box<()>>();
    assert!(entry <= 216 && entry + indexes <= 240, "{entry} + {indexes}");
}

#[test]
fn a_nonce_names_one_connection_of_a_session() {
    let mut table = Nodes::new(limits());
    table.peer(seconds(0), LINK, say(1, Body::Open));
    let other = ConnectionId { nonce: id(1, 1).nonce, ..id(2, 1) };
    let refusal = Message { id: other, body: Body::Refuse(Reason::Busy) };
    let opened = table.peer(seconds(0), LINK, Message { id: other, body: Body::Open });
    assert_eq!(opened, [Command::Answer(LINK, refusal)]);
    let refused = table.syn(seconds(0), LINK, socket(1, 2), OWNER, other);
    assert!(matches!(refused[..], [Command::RefuseConnect { reason: Reason::Busy, .. }]));
    // Nor is what is said of the other one taken for the first.
    let aborted = table.peer(seconds(0), LINK, Message { id: other, body: Body::Abort(Reason::Denied) });
    assert_eq!((aborted.len(), table.len()), (0, 1));
    assert_eq!(table.peer(seconds(0), LINK + 1, Message { id: other, body: Body::Open }).len(), 1);
}
