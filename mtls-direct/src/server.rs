//! The side of the application that listens.
use crate::half::{Context, Half, Held, Role, fail};
use crate::{Action, Body, By, ConnectionId, Ignored, Input, Message, Nonce, Outcome, Reason, Step, Timer};

/// Where the server's side stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState<D> {
    /// `Open` came; policy and capability are asked.
    Deciding,
    /// The addresses are in EXPECTED.
    Expecting {
        /// Our nonce.
        server: Nonce,
        /// The client's side was quicker than our kernel's report.
        peer_ready: bool,
    },
    /// The kernel has the connection, the application has not called accept().
    Waiting {
        /// Our nonce.
        server: Nonce,
        /// The client's `Ready` came already.
        peer_ready: bool,
    },
    /// The application has it, the duplicate is being taken.
    Duplicating {
        /// Our nonce.
        server: Nonce,
        /// The client's `Ready` came already.
        peer_ready: bool,
    },
    /// Arming and after, as on the other side.
    Half(Half<D>),
}

/// The machine of the server's daemon for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Server<D> {
    context: Context,
    state: ServerState<D>,
}

impl<D: Copy> Server<D> {
    /// An `Open` came for a connection that is not known.
    pub fn new(id: ConnectionId) -> (Self, Vec<Action<D>>) {
        let context = Context::new(id, Role::Server);
        (Self { context, state: ServerState::Deciding }, vec![Action::Decide])
    }

    /// Its connection.
    pub fn id(&self) -> ConnectionId {
        self.context.id()
    }

    /// Where it stands.
    pub fn state(&self) -> &ServerState<D> {
        &self.state
    }

    /// Whether it is over: the driver may forget it.
    pub fn is_over(&self) -> bool {
        matches!(self.state, ServerState::Half(Half::Over(_)))
    }

    /// The duplicate that it owns.
    pub fn descriptor(&self) -> Option<D> {
        match &self.state {
            ServerState::Half(half) => half.descriptor(),
            ServerState::Deciding
            | ServerState::Expecting { .. }
            | ServerState::Waiting { .. }
            | ServerState::Duplicating { .. } => None,
        }
    }

    /// The timers that run in this state.
    pub fn timers(&self) -> &'static [Timer] {
        match &self.state {
            ServerState::Deciding => &[Timer::Answer],
            ServerState::Expecting { .. } => &[Timer::Handshake],
            ServerState::Waiting { .. } => &[Timer::Accept],
            ServerState::Duplicating { .. } => &[Timer::Arming],
            ServerState::Half(half) => half.timers(&self.context),
        }
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input<D>) -> Step<D> {
        if matches!(input, Input::Peer(message) if message.id != self.context.id()) {
            return Step::ignored(Ignored::OtherConnection);
        }
        let context = self.context;
        match self.state {
            ServerState::Half(ref mut half) => half.step(&context, input),
            ServerState::Deciding => self.deciding(input),
            ServerState::Expecting { server, peer_ready } => self.expecting(server, peer_ready, input),
            ServerState::Waiting { server, peer_ready } => self.waiting(server, peer_ready, input),
            ServerState::Duplicating { server, peer_ready } => self.duplicating(server, peer_ready, input),
        }
    }

    fn fail(&mut self, expected: bool, by: By, reason: Reason) -> Step<D> {
        let held = Held { expected, ..Held::socket(None) };
        let (outcome, actions) = fail(&self.context, held, by, reason);
        self.state = ServerState::Half(Half::Over(outcome));
        Step::of(actions)
    }

    /// Nothing is in the kernel yet: the answer is all there is to give back.
    fn refuse(&mut self, answer: Option<Body>, by: By, reason: Reason) -> Step<D> {
        let outcome = Outcome::Failed(by, reason);
        self.state = ServerState::Half(Half::Over(outcome));
        let mut actions: Vec<_> = answer.map(|body| self.context.send(body)).into_iter().collect();
        actions.push(Action::Report(outcome));
        Step::of(actions)
    }

    fn deciding(&mut self, input: Input<D>) -> Step<D> {
        match input {
            Input::Allowed(server) => {
                self.state = ServerState::Expecting { server, peer_ready: false };
                // EXPECTED first: the answer lets the SYN go.
                let expect = Action::Expect(self.context.id().tuple);
                Step::of(vec![expect, self.context.send(Body::Accept(server))])
            }
            Input::Refused(reason) => self.refuse(Some(Body::Refuse(reason)), By::Us, reason),
            Input::Timer(Timer::Answer) => {
                self.refuse(Some(Body::Refuse(Reason::NoAnswer)), By::Us, Reason::NoAnswer)
            }
            Input::LeaseEnded => {
                self.refuse(Some(Body::Refuse(Reason::LeaseEnded)), By::Us, Reason::LeaseEnded)
            }
            Input::SessionLost => self.refuse(None, By::Us, Reason::SessionLost),
            Input::Peer(Message { body: Body::Abort(reason), .. }) => self.refuse(None, By::Peer, reason),
            Input::Peer(_) => self.refuse(Some(Body::Refuse(Reason::Protocol)), By::Us, Reason::Protocol),
            _ => Step::ignored(Ignored::Late),
        }
    }

    fn expecting(&mut self, server: Nonce, peer_ready: bool, input: Input<D>) -> Step<D> {
        let unexpect = Action::Unexpect(self.context.id().tuple);
        match input {
            Input::Established => {
                self.state = ServerState::Waiting { server, peer_ready };
                Step::of(vec![unexpect])
            }
            // The two reports of the kernel come on different ways.
            Input::Accepted => {
                self.state = ServerState::Duplicating { server, peer_ready };
                Step::of(vec![unexpect, Action::Duplicate])
            }
            Input::Peer(Message { body: Body::Ready, .. }) if !peer_ready => {
                self.state = ServerState::Expecting { server, peer_ready: true };
                Step::of(Vec::new())
            }
            Input::Timer(Timer::Handshake) => self.fail(true, By::Us, Reason::NoHandshake),
            other => self.before_duplicate(true, other),
        }
    }

    fn waiting(&mut self, server: Nonce, peer_ready: bool, input: Input<D>) -> Step<D> {
        match input {
            Input::Accepted => {
                self.state = ServerState::Duplicating { server, peer_ready };
                Step::of(vec![Action::Duplicate])
            }
            Input::Peer(Message { body: Body::Ready, .. }) if !peer_ready => {
                self.state = ServerState::Waiting { server, peer_ready: true };
                Step::of(Vec::new())
            }
            Input::Timer(Timer::Accept) => self.fail(false, By::Us, Reason::NotAccepted),
            // Accepted, and no process has it under a number.
            Input::DuplicateFailed => self.fail(false, By::Us, Reason::NoDescriptor),
            other => self.before_duplicate(false, other),
        }
    }

    fn duplicating(&mut self, server: Nonce, peer_ready: bool, input: Input<D>) -> Step<D> {
        match input {
            Input::Duplicated(dup) => {
                let (half, actions) = Half::start(&self.context, server, dup, peer_ready);
                self.state = ServerState::Half(half);
                Step::of(actions)
            }
            Input::DuplicateFailed => self.fail(false, By::Us, Reason::NoDescriptor),
            Input::Peer(Message { body: Body::Ready, .. }) if !peer_ready => {
                self.state = ServerState::Duplicating { server, peer_ready: true };
                Step::of(Vec::new())
            }
            Input::Timer(Timer::Arming) => self.fail(false, By::Us, Reason::ArmingTimeout),
            other => self.before_duplicate(false, other),
        }
    }

    /// What ends a connection without a duplicate is the same in each of these states.
    fn before_duplicate(&mut self, expected: bool, input: Input<D>) -> Step<D> {
        match input {
            Input::Peer(Message { body: Body::Abort(reason), .. }) => self.fail(expected, By::Peer, reason),
            // Ours to say: the client may have let bytes go early, and waits to hear what became of them.
            Input::Peer(Message { body: Body::Closed(_), .. }) => {
                self.fail(expected, By::Us, Reason::SocketEnded)
            }
            Input::Peer(_) => self.fail(expected, By::Us, Reason::Protocol),
            Input::SessionLost => self.fail(expected, By::Us, Reason::SessionLost),
            Input::SocketEnded(_) => self.fail(expected, By::Us, Reason::SocketEnded),
            Input::ApplicationGone => self.fail(expected, By::Us, Reason::ApplicationGone),
            Input::LeaseEnded => self.fail(expected, By::Us, Reason::LeaseEnded),
            Input::Established | Input::Accepted => Step::ignored(Ignored::Known),
            _ => Step::ignored(Ignored::Late),
        }
    }
}
