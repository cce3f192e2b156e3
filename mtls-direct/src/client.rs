//! The side of the application that called connect().
use crate::half::{Context, Half, Held, Role, fail};
use crate::{Action, Body, By, ConnectionId, Ignored, Input, Message, Nonce, Reason, Step, Timer};

/// Where the client's side stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientState<D> {
    /// The SYN is held, the duplicate is being taken. Nobody else knows of the connection.
    Duplicating,
    /// The SYN is held, the server's daemon is asked.
    Asking {
        /// The duplicate.
        dup: D,
    },
    /// The SYN is on its way.
    Connecting {
        /// The duplicate.
        dup: D,
        /// The server's nonce.
        server: Nonce,
        /// The server's side was quicker.
        peer_ready: bool,
    },
    /// Arming and after, as on the other side.
    Half(Half<D>),
}

/// The machine of the client's daemon for one connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Client<D> {
    context: Context,
    state: ClientState<D>,
}

impl<D: Copy> Client<D> {
    /// A SYN of a direct workload is held. `early_release`: the writer may be let go before a slow accept().
    pub fn new(id: ConnectionId, early_release: bool) -> (Self, Vec<Action<D>>) {
        let context = Context::new(id, Role::Client { early_release });
        (Self { context, state: ClientState::Duplicating }, vec![Action::Duplicate])
    }

    /// Its connection.
    pub fn id(&self) -> ConnectionId {
        self.context.id()
    }

    /// Where it stands.
    pub fn state(&self) -> &ClientState<D> {
        &self.state
    }

    /// Whether it is over: the driver may forget it.
    pub fn is_over(&self) -> bool {
        matches!(self.state, ClientState::Half(Half::Over(_)))
    }

    /// The duplicate that it owns.
    pub fn descriptor(&self) -> Option<D> {
        match &self.state {
            ClientState::Duplicating => None,
            ClientState::Asking { dup } | ClientState::Connecting { dup, .. } => Some(*dup),
            ClientState::Half(half) => half.descriptor(),
        }
    }

    /// The timers that run in this state.
    pub fn timers(&self) -> &'static [Timer] {
        match &self.state {
            ClientState::Duplicating | ClientState::Asking { .. } => &[Timer::Answer],
            ClientState::Connecting { .. } => &[Timer::Handshake],
            ClientState::Half(half) => half.timers(&self.context),
        }
    }

    /// Takes one input.
    pub fn step(&mut self, input: Input<D>) -> Step<D> {
        if matches!(input, Input::Peer(message) if message.id != self.context.id()) {
            return Step::ignored(Ignored::OtherConnection);
        }
        let context = self.context;
        match self.state {
            ClientState::Half(ref mut half) => half.step(&context, input),
            ClientState::Duplicating => self.duplicating(input),
            ClientState::Asking { dup } => self.asking(dup, input),
            ClientState::Connecting { dup, server, peer_ready } => {
                self.connecting(dup, server, peer_ready, input)
            }
        }
    }

    fn fail(&mut self, held: Held<D>, by: By, reason: Reason) -> Step<D> {
        let (outcome, actions) = fail(&self.context, held, by, reason);
        self.state = ClientState::Half(Half::Over(outcome));
        Step::of(actions)
    }

    fn duplicating(&mut self, input: Input<D>) -> Step<D> {
        let held = Held { dup: None, syn: true, expected: false, peer_knows: false };
        match input {
            Input::Duplicated(dup) => {
                self.state = ClientState::Asking { dup };
                Step::of(vec![self.context.send(Body::Open)])
            }
            Input::DuplicateFailed => self.fail(held, By::Us, Reason::NoDescriptor),
            Input::Timer(Timer::Answer) => self.fail(held, By::Us, Reason::NoDescriptor),
            Input::Peer(_) => self.fail(held, By::Us, Reason::Protocol),
            other => self.before_arming(held, other),
        }
    }

    fn asking(&mut self, dup: D, input: Input<D>) -> Step<D> {
        let held = Held { dup: Some(dup), syn: true, expected: false, peer_knows: true };
        match input {
            Input::Peer(Message { body, .. }) => match body {
                Body::Accept(server) => {
                    self.state = ClientState::Connecting { dup, server, peer_ready: false };
                    Step::of(vec![Action::ReleaseSyn])
                }
                Body::Refuse(reason) | Body::Abort(reason) => self.fail(held, By::Peer, reason),
                Body::Open | Body::Ready | Body::Closed(_) => self.fail(held, By::Us, Reason::Protocol),
            },
            Input::Timer(Timer::Answer) => self.fail(held, By::Us, Reason::NoAnswer),
            other => self.before_arming(held, other),
        }
    }

    /// What ends a connection before arming is the same in each of these states.
    fn before_arming(&mut self, held: Held<D>, input: Input<D>) -> Step<D> {
        match input {
            Input::SessionLost => self.fail(held, By::Us, Reason::SessionLost),
            Input::ApplicationGone => self.fail(held, By::Us, Reason::ApplicationGone),
            Input::SocketEnded(_) => self.fail(held, By::Us, Reason::SocketEnded),
            Input::LeaseEnded => self.fail(held, By::Us, Reason::LeaseEnded),
            _ => Step::ignored(Ignored::Late),
        }
    }

    fn connecting(&mut self, dup: D, server: Nonce, peer_ready: bool, input: Input<D>) -> Step<D> {
        let held = Held::socket(Some(dup));
        match input {
            Input::Established => {
                let (half, actions) = Half::start(&self.context, server, dup, peer_ready);
                self.state = ClientState::Half(half);
                Step::of(actions)
            }
            Input::Peer(Message { body, .. }) => match body {
                Body::Ready if !peer_ready => {
                    self.state = ClientState::Connecting { dup, server, peer_ready: true };
                    Step::of(Vec::new())
                }
                Body::Abort(reason) => self.fail(held, By::Peer, reason),
                Body::Closed(_) => self.fail(held, By::Us, Reason::SocketEnded),
                Body::Open | Body::Accept(_) | Body::Refuse(_) | Body::Ready => {
                    self.fail(held, By::Us, Reason::Protocol)
                }
            },
            Input::Timer(Timer::Handshake) => self.fail(held, By::Us, Reason::NoHandshake),
            other => self.before_arming(held, other),
        }
    }
}
