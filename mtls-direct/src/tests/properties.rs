use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Inputs of every kind, whether they belong or not. The driver gives `Duplicated` only when asked, so it is not here.
fn any_input() -> impl Strategy<Value = In> {
    let reasons = select(vec![Reason::Denied, Reason::NotCapable, Reason::SessionLost, Reason::Unknown]);
    let body = prop_oneof![
        1 => Just(Body::Open),
        1 => Just(Body::Accept(SERVER)),
        4 => Just(Body::Ready),
        1 => reasons.clone().prop_map(Body::Refuse),
        1 => reasons.clone().prop_map(Body::Abort),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(sent, received)| Body::Closed(counts(sent, received))),
    ];
    let timer = select(vec![
        Timer::Answer,
        Timer::Handshake,
        Timer::Accept,
        Timer::Arming,
        Timer::PeerReady,
        Timer::EarlyRelease,
        Timer::PeerCounts,
    ]);
    let other = ConnectionId { nonce: Nonce([8; 16]), ..id() };
    prop_oneof![
        4 => body.clone().prop_map(peer),
        1 => body.prop_map(move |body| Input::Peer(Message { id: other, body })),
        2 => timer.prop_map(Input::Timer),
        1 => reasons.prop_map(Input::Refused),
        1 => (any::<u64>(), any::<u64>()).prop_map(|(sent, received)| Input::SocketEnded(counts(sent, received))),
        4 => select(vec![Input::Installed, Input::Emptied, Input::Established, Input::Accepted]),
        1 => select(vec![Input::Allowed(SERVER), Input::DuplicateFailed, Input::InstallFailed, Input::EmptyFailed]),
        1 => Just(Input::NotEstablished),
        1 => select(vec![Input::ReleaseFailed, Input::SessionLost, Input::ApplicationGone, Input::LeaseEnded]),
    ]
}

/// What the actions so far have left in the world.
#[derive(Default)]
struct World {
    server: bool,
    asked: bool,
    dup: bool,
    expected: bool,
    ready_sent: bool,
    ready_heard: bool,
    early: bool,
    guard: bool,
    released: bool,
    reports: u32,
}

impl World {
    fn hears(&mut self, input: In) {
        self.ready_heard |= input == peer(Body::Ready);
        self.early |= input == Input::Timer(Timer::EarlyRelease);
        if matches!(input, Input::Duplicated(_)) {
            (self.asked, self.dup) = (false, true);
        } else if input == Input::DuplicateFailed {
            self.asked = false;
        }
    }

    fn does(&mut self, action: Out) {
        assert!(self.reports == 0 || Self::is_cleaning(action), "{action:?} after the end");
        match action {
            Action::Duplicate => self.asked = true,
            Action::Expect(_) => self.expected = true,
            Action::Unexpect(_) => self.expected = false,
            Action::OpenGuard(_) => self.guard = true,
            Action::Send(Message { body: Body::Ready, .. }) => {
                assert!(self.guard, "Ready before the guard lets records in");
                assert!(self.released || !self.server, "a request may come that cannot be answered");
                self.ready_sent = true;
            }
            Action::ReleaseWriter(DUP) => {
                let early = self.early && !self.server;
                assert!(self.dup && self.guard && (self.ready_heard || early), "released too early");
                assert!(self.ready_sent || self.server, "released before its own Ready");
                self.released = true;
            }
            Action::Install { descriptor: DUP, .. } | Action::Empty(DUP) => {
                assert!(self.dup && !self.released);
            }
            Action::Close(DUP) => assert!(std::mem::take(&mut self.dup), "closed twice"),
            Action::Report(_) => self.reports += 1,
            _ => {}
        }
    }

    /// What may still be done about late reports when a connection is over.
    fn is_cleaning(action: Out) -> bool {
        matches!(action, Action::Close(_) | Action::Destroy(_))
    }

    fn check(&self, descriptor: Option<u32>, over: bool) {
        assert_eq!(descriptor.is_some(), self.dup, "the machine and the world differ about the duplicate");
        assert_eq!(self.reports, u32::from(over), "one report, at the end");
        assert!(!(over && (self.dup || self.expected)), "something is left behind");
        assert!(!(self.released && self.dup), "released and not closed");
    }
}

/// Runs a machine; where it has asked for a duplicate, `Emptied` stands for its coming as well.
fn run(
    mut world: World,
    mut step: impl FnMut(In) -> (Vec<Out>, Option<u32>, bool),
    first: Vec<Out>,
    inputs: Vec<In>,
) {
    first.into_iter().for_each(|action| world.does(action));
    for mut input in inputs {
        if world.asked && input == Input::Emptied {
            input = Input::Duplicated(DUP);
        }
        world.hears(input);
        let (actions, descriptor, over) = step(input);
        actions.into_iter().for_each(|action| world.does(action));
        world.check(descriptor, over);
    }
}

/// Random inputs rarely go far: most runs start with a piece of the right way.
fn inputs(way: Vec<In>) -> impl Strategy<Value = Vec<In>> {
    (0..=way.len(), vec(any_input(), 0..24))
        .prop_map(move |(length, rest)| way.iter().take(length).copied().chain(rest).collect())
}

proptest! {
    #[test]
    fn a_client_takes_any_inputs(
        inputs in inputs(vec![
            Input::Emptied, peer(Body::Accept(SERVER)), Input::Established, Input::Installed, Input::Emptied,
            peer(Body::Ready),
        ]),
        early_release in any::<bool>(),
    ) {
        let (mut client, first) = Client::new(id(), early_release);
        let world = World::default();
        run(world, |input| (client.step(input).actions, client.descriptor(), client.is_over()), first, inputs);
    }

    #[test]
    fn a_server_takes_any_inputs(
        inputs in inputs(vec![
            Input::Allowed(SERVER), Input::Established, Input::Accepted, Input::Emptied, Input::Installed,
            Input::Emptied, peer(Body::Ready),
        ]),
    ) {
        let (mut server, first) = Server::new(id());
        let world = World { server: true, ..World::default() };
        run(world, |input| (server.step(input).actions, server.descriptor(), server.is_over()), first, inputs);
    }
}
