use super::*;

#[test]
fn a_start_destroys_what_is_held_and_keeps_what_was_let_go() {
    assert_eq!(recover(Mark::Held), Recovery::Destroy);
    assert_eq!(recover(Mark::Released), Recovery::Keep);
}

#[test]
fn only_messages_that_wait_for_us_are_answered_when_nothing_is_known() {
    let unknown = Some(message(Body::Abort(Reason::Unknown)));
    assert_eq!(stray(message(Body::Accept(SERVER))), unknown);
    assert_eq!(stray(message(Body::Ready)), unknown);
    for body in
        [Body::Open, Body::Refuse(Reason::Denied), Body::Abort(Reason::Denied), Body::Closed(counts(0, 0))]
    {
        assert_eq!(stray(message(body)), None);
    }
}

#[test]
fn reasons_that_hold_for_a_relay_too_do_not_speak_against_direct() {
    for reason in [Reason::Denied, Reason::LeaseEnded, Reason::SessionLost, Reason::SocketEnded] {
        assert!(!reason.speaks_against_direct(), "{reason}");
    }
    for reason in [Reason::NoKernelTls, Reason::NotEmptied, Reason::NoDescriptor, Reason::PeerNotReady] {
        assert!(reason.speaks_against_direct(), "{reason}");
    }
}
