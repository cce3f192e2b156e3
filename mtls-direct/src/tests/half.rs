use super::*;

fn installing() -> Vec<In> {
    vec![Input::Duplicated(DUP), peer(Body::Accept(SERVER)), Input::Established]
}

fn then(more: &[In]) -> Vec<In> {
    [&installing()[..], more].concat()
}

fn emptying() -> Vec<In> {
    then(&[Input::Installed])
}

fn armed() -> Vec<In> {
    then(&[Input::Installed, Input::Emptied])
}

fn early() -> Vec<In> {
    then(&[Input::Installed, Input::Emptied, Input::Timer(Timer::EarlyRelease)])
}

fn released(more: &[In]) -> Vec<In> {
    [&armed()[..], &[peer(Body::Ready)], more].concat()
}

fn closing() -> Vec<In> {
    released(&[Input::SocketEnded(counts(9, 4))])
}

fn half(client: &Client<u32>) -> Half<u32> {
    match client.state() {
        ClientState::Half(half) => *half,
        other => panic!("{other:?}"),
    }
}

fn check(before: &[In], input: In, actions: Vec<Out>, state: Half<u32>) {
    let mut client = client(before, true);
    let step = client.step(input);
    assert_eq!((step.actions, step.ignored), (actions, None), "{input:?} after {before:?}");
    assert_eq!(half(&client), state, "{input:?} after {before:?}");
}

fn over(by: By, reason: Reason) -> Half<u32> {
    Half::Over(Outcome::Failed(by, reason))
}

fn let_go() -> Vec<Out> {
    vec![Action::ReleaseWriter(DUP), Action::Close(DUP)]
}

const LIVE: Half<u32> = Half::Released { session: Session::Live, peer: None };
const LOST: Half<u32> = Half::Released { session: Session::Lost, peer: None };

#[test]
fn keys_then_threads_then_guard_then_ready() {
    let state = Half::Emptying { dup: DUP, peer_ready: false };
    check(&installing(), Input::Installed, vec![Action::Empty(DUP)], state);
    let ready = vec![Action::OpenGuard(DUP), send(Body::Ready)];
    check(&emptying(), Input::Emptied, ready, Half::Armed { dup: DUP });
}

#[test]
fn the_writer_goes_when_both_are_ready_in_either_order() {
    check(&armed(), peer(Body::Ready), let_go(), LIVE);
    check(&installing(), peer(Body::Ready), vec![], Half::Installing { dup: DUP, peer_ready: true });
    check(&emptying(), peer(Body::Ready), vec![], Half::Emptying { dup: DUP, peer_ready: true });
    let all = [vec![Action::OpenGuard(DUP), send(Body::Ready)], let_go()].concat();
    check(&then(&[peer(Body::Ready), Input::Installed]), Input::Emptied, all, LIVE);
}

#[test]
fn an_early_release_needs_own_arming_only_and_must_be_on() {
    check(&armed(), Input::Timer(Timer::EarlyRelease), let_go(), Half::Early);
    let mut without = client(&armed(), false);
    assert_eq!(without.step(Input::Timer(Timer::EarlyRelease)).ignored, Some(Ignored::Late));
    assert_eq!(without.timers(), [Timer::PeerReady]);
    assert_eq!(client(&armed(), true).timers(), [Timer::EarlyRelease, Timer::PeerReady]);
    assert_eq!(client(&early(), true).timers(), []);
}

#[test]
fn every_failure_before_release_destroys_closes_and_tells() {
    let own = [
        (installing(), Input::InstallFailed, Reason::NoKernelTls),
        (installing(), Input::NotEstablished, Reason::NotEstablished),
        (installing(), Input::Timer(Timer::Arming), Reason::ArmingTimeout),
        (emptying(), Input::EmptyFailed, Reason::NotEmptied),
        (emptying(), Input::Timer(Timer::Arming), Reason::ArmingTimeout),
        (armed(), Input::Timer(Timer::PeerReady), Reason::PeerNotReady),
        (then(&[peer(Body::Ready)]), peer(Body::Ready), Reason::Protocol),
    ];
    let any = [installing(), emptying(), armed()].into_iter().flat_map(|before| {
        [
            (Input::SessionLost, Reason::SessionLost),
            (Input::SocketEnded(counts(0, 0)), Reason::SocketEnded),
            (Input::LeaseEnded, Reason::LeaseEnded),
            (Input::ReleaseFailed, Reason::NotReleased),
            (peer(Body::Open), Reason::Protocol),
            (peer(Body::Accept(SERVER)), Reason::Protocol),
            (peer(Body::Refuse(Reason::Denied)), Reason::Protocol),
            // The other side hears that nothing of what it let go early has arrived.
            (peer(Body::Closed(counts(1, 1))), Reason::SocketEnded),
        ]
        .map(|(input, reason)| (before.clone(), input, reason))
    });
    for (before, input, reason) in own.into_iter().chain(any) {
        let held = vec![Action::Destroy(reason), Action::Close(DUP)];
        check(&before, input, failure(held, reason, reason != Reason::SessionLost), over(By::Us, reason));
    }
    for before in [installing(), emptying(), armed()] {
        let reason = Reason::NoKernelTls;
        let held = vec![Action::Destroy(reason), Action::Close(DUP)];
        check(&before, peer(Body::Abort(reason)), by_peer(held, reason), over(By::Peer, reason));
    }
}

#[test]
fn an_early_writer_ends_by_word_but_not_by_silence() {
    check(&early(), peer(Body::Ready), vec![], LIVE);
    check(&early(), Input::SessionLost, vec![], LOST);
    let own = counts(3, 0);
    check(&early(), Input::SocketEnded(own), vec![send(Body::Closed(own))], Half::Closing { own });
    for (input, reason) in [
        (Input::LeaseEnded, Reason::LeaseEnded),
        (Input::ReleaseFailed, Reason::NotReleased),
        (peer(Body::Accept(SERVER)), Reason::Protocol),
        (peer(Body::Closed(counts(0, 0))), Reason::SocketEnded),
    ] {
        check(&early(), input, failure(vec![Action::Destroy(reason)], reason, true), over(By::Us, reason));
    }
    let reason = Reason::NotAccepted;
    let ended = by_peer(vec![Action::Destroy(reason)], reason);
    check(&early(), peer(Body::Abort(reason)), ended, over(By::Peer, reason));
}

#[test]
fn a_released_connection_outlives_the_session() {
    check(&released(&[]), Input::SessionLost, vec![], LOST);
    let report = vec![Action::Report(Outcome::Unverified)];
    let lost = released(&[Input::SessionLost]);
    check(&lost, Input::SocketEnded(counts(1, 1)), report, Half::Over(Outcome::Unverified));
}

#[test]
fn a_released_connection_ends_by_lease_by_word_or_by_a_failed_release() {
    for (input, reason) in
        [(Input::LeaseEnded, Reason::LeaseEnded), (Input::ReleaseFailed, Reason::NotReleased)]
    {
        let actions = |told| failure(vec![Action::Destroy(reason)], reason, told);
        check(&released(&[]), input, actions(true), over(By::Us, reason));
        check(&released(&[Input::SessionLost]), input, actions(false), over(By::Us, reason));
    }
    let reason = Reason::LeaseEnded;
    let ended = by_peer(vec![Action::Destroy(reason)], reason);
    check(&released(&[]), peer(Body::Abort(reason)), ended, over(By::Peer, reason));
}

#[test]
fn counts_are_compared_whichever_side_ends_first() {
    let own = counts(9, 4);
    check(&released(&[]), Input::SocketEnded(own), vec![send(Body::Closed(own))], Half::Closing { own });
    for (theirs, outcome) in [
        (counts(4, 9), Outcome::Complete),
        (counts(4, 7), Outcome::Truncated { sent: 2, received: 0 }),
        (counts(5, 9), Outcome::Truncated { sent: 0, received: 1 }),
        // More here than was sent there, and the other way round; also where something is missing besides.
        (counts(1, 9), Outcome::Forged(3)),
        (counts(4, 10), Outcome::Forged(1)),
        (counts(5, 11), Outcome::Forged(2)),
    ] {
        let report = Action::Report(outcome);
        check(&closing(), peer(Body::Closed(theirs)), vec![report], Half::Over(outcome));
        let known = Half::Released { session: Session::Live, peer: Some(theirs) };
        check(&released(&[]), peer(Body::Closed(theirs)), vec![], known);
        let first = released(&[peer(Body::Closed(theirs))]);
        check(&first, Input::SocketEnded(own), vec![send(Body::Closed(own)), report], Half::Over(outcome));
    }
}

#[test]
fn counts_that_never_come_are_not_called_complete() {
    for input in [Input::SessionLost, Input::Timer(Timer::PeerCounts)] {
        let report = vec![Action::Report(Outcome::Unverified)];
        check(&closing(), input, report, Half::Over(Outcome::Unverified));
    }
    let outcome = Outcome::Failed(By::Peer, Reason::LeaseEnded);
    let abort = peer(Body::Abort(Reason::LeaseEnded));
    check(&closing(), abort, vec![Action::Report(outcome)], Half::Over(outcome));
    assert_eq!(client(&closing(), false).timers(), [Timer::PeerCounts]);
}

#[test]
fn what_does_not_belong_changes_nothing() {
    let done = [&closing()[..], &[Input::SessionLost]].concat();
    for (before, input, why) in [
        (installing(), Input::ApplicationGone, Ignored::KeptByDuplicate),
        (armed(), Input::ApplicationGone, Ignored::KeptByDuplicate),
        (installing(), Input::Emptied, Ignored::Late),
        (emptying(), Input::Installed, Ignored::Late),
        (armed(), Input::EmptyFailed, Ignored::Late),
        (armed(), Input::Established, Ignored::Known),
        (early(), Input::ApplicationGone, Ignored::Known),
        (early(), Input::Timer(Timer::PeerReady), Ignored::Late),
        (released(&[]), Input::Timer(Timer::PeerReady), Ignored::Late),
        (released(&[]), Input::ApplicationGone, Ignored::Known),
        (released(&[]), peer(Body::Ready), Ignored::Armed),
        (released(&[]), peer(Body::Open), Ignored::Armed),
        (closing(), Input::LeaseEnded, Ignored::Late),
        (closing(), peer(Body::Ready), Ignored::Late),
        (done.clone(), peer(Body::Abort(Reason::Denied)), Ignored::Over),
        (done, Input::LeaseEnded, Ignored::Over),
    ] {
        let mut client = client(&before, true);
        let state = half(&client);
        assert_eq!(client.step(input), Step { actions: vec![], ignored: Some(why) }, "{input:?} {before:?}");
        assert_eq!(half(&client), state);
    }
}
