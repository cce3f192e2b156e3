use super::*;

fn asking() -> Vec<In> {
    vec![Input::Duplicated(DUP)]
}

fn connecting() -> Vec<In> {
    vec![Input::Duplicated(DUP), peer(Body::Accept(SERVER))]
}

fn check(before: &[In], input: In, actions: Vec<Out>, state: ClientState<u32>) {
    let mut client = client(before, false);
    let step = client.step(input);
    assert_eq!((step.actions, step.ignored), (actions, None), "{input:?} after {before:?}");
    assert_eq!(*client.state(), state, "{input:?} after {before:?}");
}

fn fails(before: &[In], input: In, held: Vec<Out>, reason: Reason, told: bool) {
    let over = ClientState::Half(Half::Over(Outcome::Failed(By::Us, reason)));
    check(before, input, failure(held, reason, told), over);
}

fn ends(before: &[In], input: In, held: Vec<Out>, reason: Reason) {
    let over = ClientState::Half(Half::Over(Outcome::Failed(By::Peer, reason)));
    check(before, input, by_peer(held, reason), over);
}

fn ignores(before: &[In], input: In, why: Ignored) {
    let mut client = client(before, false);
    let state = *client.state();
    assert_eq!(
        client.step(input),
        Step { actions: vec![], ignored: Some(why) },
        "{input:?} after {before:?}"
    );
    assert_eq!(*client.state(), state);
}

#[test]
fn the_way_to_keys() {
    check(&[], Input::Duplicated(DUP), vec![send(Body::Open)], ClientState::Asking { dup: DUP });
    let connecting_state = |peer_ready| ClientState::Connecting { dup: DUP, server: SERVER, peer_ready };
    check(&asking(), peer(Body::Accept(SERVER)), vec![Action::ReleaseSyn], connecting_state(false));
    check(&connecting(), peer(Body::Ready), vec![], connecting_state(true));
    let installing = |peer_ready| ClientState::Half(Half::Installing { dup: DUP, peer_ready });
    check(&connecting(), Input::Established, vec![install()], installing(false));
    let ready = [connecting(), vec![peer(Body::Ready)]].concat();
    check(&ready, Input::Established, vec![install()], installing(true));
}

#[test]
fn a_duplicate_that_cannot_be_had_refuses_the_connect_and_tells_nobody() {
    for (input, reason) in [
        (Input::DuplicateFailed, Reason::NoDescriptor),
        (Input::Timer(Timer::Answer), Reason::NoDescriptor),
        (Input::SessionLost, Reason::SessionLost),
        (Input::ApplicationGone, Reason::ApplicationGone),
        (Input::SocketEnded(counts(0, 0)), Reason::SocketEnded),
        (Input::LeaseEnded, Reason::LeaseEnded),
        (peer(Body::Accept(SERVER)), Reason::Protocol),
    ] {
        fails(&[], input, vec![Action::RefuseConnect(reason)], reason, false);
    }
}

#[test]
fn what_fails_while_asking_refuses_the_connect() {
    for (input, reason, told) in [
        (Input::Timer(Timer::Answer), Reason::NoAnswer, true),
        (Input::SessionLost, Reason::SessionLost, false),
        (Input::ApplicationGone, Reason::ApplicationGone, true),
        (Input::SocketEnded(counts(0, 0)), Reason::SocketEnded, true),
        (Input::LeaseEnded, Reason::LeaseEnded, true),
        (peer(Body::Open), Reason::Protocol, true),
        (peer(Body::Ready), Reason::Protocol, true),
        (peer(Body::Closed(counts(0, 0))), Reason::Protocol, true),
    ] {
        fails(&asking(), input, vec![Action::RefuseConnect(reason), Action::Close(DUP)], reason, told);
    }
    for reason in [Reason::NotCapable, Reason::Denied] {
        let held = || vec![Action::RefuseConnect(reason), Action::Close(DUP)];
        ends(&asking(), peer(Body::Refuse(reason)), held(), reason);
        ends(&asking(), peer(Body::Abort(reason)), held(), reason);
    }
}

#[test]
fn what_fails_while_connecting_destroys_the_socket() {
    let ready = [connecting(), vec![peer(Body::Ready)]].concat();
    for (before, input, reason, told) in [
        (connecting(), Input::Timer(Timer::Handshake), Reason::NoHandshake, true),
        (connecting(), Input::SessionLost, Reason::SessionLost, false),
        (connecting(), Input::ApplicationGone, Reason::ApplicationGone, true),
        (connecting(), Input::SocketEnded(counts(0, 0)), Reason::SocketEnded, true),
        (connecting(), Input::LeaseEnded, Reason::LeaseEnded, true),
        (connecting(), peer(Body::Open), Reason::Protocol, true),
        (connecting(), peer(Body::Accept(SERVER)), Reason::Protocol, true),
        (connecting(), peer(Body::Refuse(Reason::Denied)), Reason::Protocol, true),
        (ready, peer(Body::Ready), Reason::Protocol, true),
    ] {
        fails(&before, input, vec![Action::Destroy(reason), Action::Close(DUP)], reason, told);
    }
    let held = |reason| vec![Action::Destroy(reason), Action::Close(DUP)];
    ends(
        &connecting(),
        peer(Body::Abort(Reason::NotAccepted)),
        held(Reason::NotAccepted),
        Reason::NotAccepted,
    );
    fails(
        &connecting(),
        peer(Body::Closed(counts(0, 0))),
        held(Reason::SocketEnded),
        Reason::SocketEnded,
        true,
    );
}

#[test]
fn what_does_not_belong_changes_nothing() {
    for before in [vec![], asking(), connecting()] {
        for input in [
            Input::Installed,
            Input::Emptied,
            Input::EmptyFailed,
            Input::Accepted,
            Input::Allowed(SERVER),
            Input::Timer(Timer::PeerReady),
        ] {
            ignores(&before, input, Ignored::Late);
        }
    }
    let other =
        Message { id: ConnectionId { nonce: Nonce([8; 16]), ..id() }, body: Body::Abort(Reason::Denied) };
    for before in [vec![], asking(), connecting(), [connecting(), vec![Input::Established]].concat()] {
        ignores(&before, Input::Peer(other), Ignored::OtherConnection);
    }
}

#[test]
fn every_state_that_waits_has_a_timer() {
    assert_eq!(client(&[], false).timers(), [Timer::Answer]);
    assert_eq!(client(&asking(), false).timers(), [Timer::Answer]);
    assert_eq!(client(&connecting(), false).timers(), [Timer::Handshake]);
}
