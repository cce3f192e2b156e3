use super::*;

fn expecting() -> Vec<In> {
    vec![Input::Allowed(SERVER)]
}

fn waiting() -> Vec<In> {
    vec![Input::Allowed(SERVER), Input::Established]
}

fn duplicating() -> Vec<In> {
    vec![Input::Allowed(SERVER), Input::Established, Input::Accepted]
}

fn check(before: &[In], input: In, actions: Vec<Out>, state: ServerState<u32>) {
    let mut server = server(before);
    let step = server.step(input);
    assert_eq!((step.actions, step.ignored), (actions, None), "{input:?} after {before:?}");
    assert_eq!(*server.state(), state, "{input:?} after {before:?}");
}

fn over(by: By, reason: Reason) -> ServerState<u32> {
    ServerState::Half(Half::Over(Outcome::Failed(by, reason)))
}

#[test]
fn the_way_to_keys() {
    let (server, peer_ready) = (SERVER, false);
    let accept = vec![Action::Expect(id().tuple), send(Body::Accept(SERVER))];
    check(&[], Input::Allowed(SERVER), accept, ServerState::Expecting { server, peer_ready });
    let unexpect = Action::Unexpect(id().tuple);
    check(&expecting(), Input::Established, vec![unexpect], ServerState::Waiting { server, peer_ready });
    let quick = ServerState::Duplicating { server, peer_ready };
    check(&expecting(), Input::Accepted, vec![unexpect, Action::Duplicate], quick);
    check(&waiting(), Input::Accepted, vec![Action::Duplicate], quick);
    let installing = ServerState::Half(Half::Installing { dup: DUP, peer_ready });
    check(&duplicating(), Input::Duplicated(DUP), vec![install()], installing);
}

#[test]
fn a_quick_client_is_remembered() {
    let (server, peer_ready) = (SERVER, true);
    check(&expecting(), peer(Body::Ready), vec![], ServerState::Expecting { server, peer_ready });
    check(&waiting(), peer(Body::Ready), vec![], ServerState::Waiting { server, peer_ready });
    check(&duplicating(), peer(Body::Ready), vec![], ServerState::Duplicating { server, peer_ready });
    let before = [&duplicating()[..], &[peer(Body::Ready)]].concat();
    let installing = ServerState::Half(Half::Installing { dup: DUP, peer_ready });
    check(&before, Input::Duplicated(DUP), vec![install()], installing);
}

/// So that no request is read by an application that cannot answer it yet.
#[test]
fn the_server_opens_lets_go_and_only_then_says_ready() {
    let mut emptying = duplicating();
    emptying.extend([Input::Duplicated(DUP), Input::Installed]);
    let armed = ServerState::Half(Half::Armed { dup: DUP });
    check(&emptying, Input::Emptied, vec![], armed);
    let all = vec![Action::OpenGuard(DUP), Action::ReleaseWriter(DUP), send(Body::Ready), Action::Close(DUP)];
    let released = ServerState::Half(Half::Released { session: Session::Live, peer: None });
    let before = [&emptying[..], &[Input::Emptied]].concat();
    check(&before, peer(Body::Ready), all.clone(), released);
    check(&[&emptying[..], &[peer(Body::Ready)]].concat(), Input::Emptied, all, released);
    assert_eq!(server(&before).timers(), [Timer::PeerReady]);
}

#[test]
fn a_refusal_has_nothing_to_give_back() {
    for (input, reason) in [
        (Input::Refused(Reason::NotCapable), Reason::NotCapable),
        (Input::Refused(Reason::Denied), Reason::Denied),
        (Input::Timer(Timer::Answer), Reason::NoAnswer),
        (Input::LeaseEnded, Reason::LeaseEnded),
        (peer(Body::Ready), Reason::Protocol),
    ] {
        let report = Action::Report(Outcome::Failed(By::Us, reason));
        check(&[], input, vec![send(Body::Refuse(reason)), report], over(By::Us, reason));
    }
    let report = Action::Report(Outcome::Failed(By::Us, Reason::SessionLost));
    check(&[], Input::SessionLost, vec![report], over(By::Us, Reason::SessionLost));
    let report = Action::Report(Outcome::Failed(By::Peer, Reason::NoAnswer));
    check(&[], peer(Body::Abort(Reason::NoAnswer)), vec![report], over(By::Peer, Reason::NoAnswer));
}

/// Also while the handshake's end has not been reported: the socket may be there already.
#[test]
fn every_failure_withdraws_expected_first_and_then_destroys() {
    let own = [
        (expecting(), Input::Timer(Timer::Handshake), Reason::NoHandshake),
        (waiting(), Input::Timer(Timer::Accept), Reason::NotAccepted),
        (waiting(), Input::DuplicateFailed, Reason::NoDescriptor),
        (duplicating(), Input::Timer(Timer::Arming), Reason::ArmingTimeout),
        (duplicating(), Input::DuplicateFailed, Reason::NoDescriptor),
    ];
    let any = [expecting(), waiting(), duplicating()].into_iter().flat_map(|before| {
        [
            (Input::SessionLost, Reason::SessionLost),
            (Input::SocketEnded(counts(0, 0)), Reason::SocketEnded),
            (Input::ApplicationGone, Reason::ApplicationGone),
            (Input::LeaseEnded, Reason::LeaseEnded),
            (peer(Body::Open), Reason::Protocol),
            (peer(Body::Accept(SERVER)), Reason::Protocol),
            // The client hears that nothing of what it let go early has arrived.
            (peer(Body::Closed(counts(0, 0))), Reason::SocketEnded),
        ]
        .map(|(input, reason)| (before.clone(), input, reason))
    });
    for (before, input, reason) in own.into_iter().chain(any) {
        let mut held = vec![Action::Destroy(reason)];
        if before.len() == 1 {
            held.insert(0, Action::Unexpect(id().tuple));
        }
        let actions = failure(held, reason, reason != Reason::SessionLost);
        check(&before, input, actions, over(By::Us, reason));
    }
    for before in [expecting(), waiting(), duplicating()] {
        let reason = Reason::PeerNotReady;
        let mut held = vec![Action::Destroy(reason)];
        if before.len() == 1 {
            held.insert(0, Action::Unexpect(id().tuple));
        }
        check(&before, peer(Body::Abort(reason)), by_peer(held, reason), over(By::Peer, reason));
        let twice = [before, vec![peer(Body::Ready)]].concat();
        let mut server = server(&twice);
        server.step(peer(Body::Ready));
        assert_eq!(*server.state(), over(By::Us, Reason::Protocol), "Ready twice");
    }
}

#[test]
fn what_does_not_belong_changes_nothing() {
    for (before, input, why) in [
        (vec![], Input::Established, Ignored::Late),
        (expecting(), Input::Emptied, Ignored::Late),
        (waiting(), Input::Established, Ignored::Known),
        (waiting(), Input::Timer(Timer::Handshake), Ignored::Late),
        (duplicating(), Input::Accepted, Ignored::Known),
        (duplicating(), Input::Timer(Timer::Accept), Ignored::Late),
    ] {
        let mut server = server(&before);
        let state = *server.state();
        assert_eq!(server.step(input), Step { actions: vec![], ignored: Some(why) }, "{input:?} {before:?}");
        assert_eq!(*server.state(), state);
    }
    let other = Message { id: ConnectionId { nonce: Nonce([8; 16]), ..id() }, body: Body::Ready };
    assert_eq!(server(&expecting()).step(Input::Peer(other)).ignored, Some(Ignored::OtherConnection));
}

#[test]
fn a_late_report_of_a_socket_destroys_it_again() {
    let mut server = server(&[Input::Allowed(SERVER), Input::SessionLost]);
    assert_eq!(server.step(Input::Established).actions, [Action::Destroy(Reason::Unknown)]);
    assert_eq!(server.step(Input::Accepted).actions, [Action::Destroy(Reason::Unknown)]);
}

#[test]
fn a_late_duplicate_is_closed() {
    let mut server = server(&[&duplicating()[..], &[Input::Timer(Timer::Arming)]].concat());
    assert_eq!(server.step(Input::Duplicated(DUP)).actions, [Action::Close(DUP)]);
    assert_eq!(server.descriptor(), None);
}

#[test]
fn every_state_that_waits_has_a_timer() {
    for (before, timer) in [
        (vec![], Timer::Answer),
        (expecting(), Timer::Handshake),
        (waiting(), Timer::Accept),
        (duplicating(), Timer::Arming),
    ] {
        assert_eq!(server(&before).timers(), [timer]);
    }
}
