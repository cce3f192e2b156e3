//! What both roles do alike: from the duplicate of the application's descriptor to the end.
use crate::{
    Action, Address, Body, By, ConnectionId, Counts, FourTuple, Ignored, Input, Message, Nonce, Outcome,
    Reason, Step, Timer,
};

/// Whether the session that the connection was agreed on still lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Session {
    /// It lives.
    Live,
    /// It died after the connection stood on its own.
    Lost,
}

/// The common states.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Half<D> {
    /// The keys are being set on the duplicate.
    Installing {
        /// The duplicate.
        dup: D,
        /// The other side's `Ready` came already.
        peer_ready: bool,
    },
    /// Threads are being moved out of plain calls.
    Emptying {
        /// The duplicate.
        dup: D,
        /// The other side's `Ready` came already.
        peer_ready: bool,
    },
    /// Own side is armed, the writer is held until the other side's `Ready` comes. A client has sent its own and opened its guard;
    /// a server does both when it lets go.
    Armed {
        /// The duplicate.
        dup: D,
    },
    /// Own side is armed and its writer let go although the other side's `Ready` has not come.
    Early,
    /// Armed and let go; the daemon is not on the path any more.
    Released {
        /// Whether the other side can still be told.
        session: Session,
        /// The other side's counts, where its socket ended first.
        peer: Option<Counts>,
    },
    /// The own socket ended; the other side's counts are awaited.
    Closing {
        /// What the own socket carried.
        own: Counts,
    },
    /// Over, for this reason.
    Over(Outcome),
}

/// What a machine knows of its connection all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Context {
    client: Address,
    server: Address,
    nonce: Nonce,
    // Two flags: as one `Role` they would cost each connection eight bytes.
    early_release: bool,
    is_server: bool,
}

/// Where the two sides do not do alike.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Role {
    /// Says `Ready` when it is armed itself. `early_release`: its writer may be let go before the server is ready.
    Client { early_release: bool },
    /// Says `Ready` last of all: whoever has read a request may answer it at once. Programs take EAGAIN for an error where nothing
    /// was sent before.
    Server,
}

impl Context {
    pub fn new(id: ConnectionId, role: Role) -> Self {
        let FourTuple { client, server } = id.tuple;
        let (client, server) = (client.into(), server.into());
        let early_release = matches!(role, Role::Client { early_release: true });
        Self { client, server, nonce: id.nonce, early_release, is_server: matches!(role, Role::Server) }
    }

    /// What is done when nobody is left in a plain call.
    fn when_armed<D>(&self, dup: D) -> Vec<Action<D>> {
        if self.is_server { Vec::new() } else { vec![Action::OpenGuard(dup), self.send(Body::Ready)] }
    }

    /// What is done when the other side is ready, too.
    fn when_both_are<D: Copy>(&self, dup: D) -> Vec<Action<D>> {
        let (let_go, close) = (Action::ReleaseWriter(dup), Action::Close(dup));
        if self.is_server {
            vec![Action::OpenGuard(dup), let_go, self.send(Body::Ready), close]
        } else {
            vec![let_go, close]
        }
    }

    pub fn id(&self) -> ConnectionId {
        let tuple = FourTuple { client: self.client.into(), server: self.server.into() };
        ConnectionId { tuple, nonce: self.nonce }
    }

    pub fn send<D>(&self, body: Body) -> Action<D> {
        Action::Send(Message { id: self.id(), body })
    }
}

/// What a state has to give back when it fails.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Held<D> {
    /// The duplicate.
    pub dup: Option<D>,
    /// The SYN is still held: the connect() gets an errno and there is nothing to destroy.
    pub syn: bool,
    /// The addresses are in EXPECTED.
    pub expected: bool,
    /// The other daemon has heard of the connection.
    pub peer_knows: bool,
}

impl<D> Held<D> {
    pub fn socket(dup: Option<D>) -> Self {
        Self { dup, syn: false, expected: false, peer_knows: true }
    }
}

/// Ends a connection: everything that is held is given back, the other daemon is told.
pub(crate) fn fail<D>(context: &Context, held: Held<D>, by: By, reason: Reason) -> (Outcome, Vec<Action<D>>) {
    let mut actions = Vec::new();
    if held.expected {
        actions.push(Action::Unexpect(context.id().tuple));
    }
    actions.push(if held.syn { Action::RefuseConnect(reason) } else { Action::Destroy(reason) });
    actions.extend(held.dup.map(Action::Close));
    if held.peer_knows && by == By::Us && reason != Reason::SessionLost {
        actions.push(context.send(Body::Abort(reason)));
    }
    if reason.speaks_against_direct() {
        actions.push(Action::Remember(reason));
    }
    let outcome = Outcome::Failed(by, reason);
    actions.push(Action::Report(outcome));
    (outcome, actions)
}

fn compare(own: Counts, peer: Counts) -> Outcome {
    let forged = own.received.saturating_sub(peer.sent).max(peer.received.saturating_sub(own.sent));
    if forged > 0 {
        return Outcome::Forged(forged);
    }
    let sent = own.sent.saturating_sub(peer.received);
    let received = peer.sent.saturating_sub(own.received);
    if sent == 0 && received == 0 { Outcome::Complete } else { Outcome::Truncated { sent, received } }
}

impl<D: Copy> Half<D> {
    /// Starts arming with the duplicate in hand.
    pub(crate) fn start(
        context: &Context,
        server: Nonce,
        dup: D,
        peer_ready: bool,
    ) -> (Self, Vec<Action<D>>) {
        let install = Action::Install { descriptor: dup, client: context.id().nonce, server };
        (Self::Installing { dup, peer_ready }, vec![install])
    }

    /// The duplicate that this state owns.
    pub fn descriptor(&self) -> Option<D> {
        match *self {
            Self::Installing { dup, .. } | Self::Emptying { dup, .. } | Self::Armed { dup } => Some(dup),
            Self::Early | Self::Released { .. } | Self::Closing { .. } | Self::Over(_) => None,
        }
    }

    pub(crate) fn timers(&self, context: &Context) -> &'static [Timer] {
        match self {
            Self::Installing { .. } | Self::Emptying { .. } => &[Timer::Arming],
            Self::Armed { .. } if context.early_release => &[Timer::EarlyRelease, Timer::PeerReady],
            Self::Armed { .. } => &[Timer::PeerReady],
            Self::Closing { .. } => &[Timer::PeerCounts],
            // The other side's own timers end an early release; an armed connection has none.
            Self::Early | Self::Released { .. } | Self::Over(_) => &[],
        }
    }

    pub(crate) fn step(&mut self, context: &Context, input: Input<D>) -> Step<D> {
        let (next, step) = match *self {
            Self::Over(outcome) => (Self::Over(outcome), over(input)),
            Self::Closing { own } => closing(own, input),
            Self::Released { session, peer } => released(context, session, peer, input),
            Self::Early => early(context, input),
            Self::Installing { .. } | Self::Emptying { .. } | Self::Armed { .. } => {
                self.arming(context, input)
            }
        };
        *self = next;
        step
    }

    fn arming(self, context: &Context, input: Input<D>) -> (Self, Step<D>) {
        let fail = |by, reason| ended(context, Held::socket(self.descriptor()), by, reason);
        match (self, input) {
            (Self::Installing { dup, peer_ready }, Input::Installed) => {
                (Self::Emptying { dup, peer_ready }, Step::of(vec![Action::Empty(dup)]))
            }
            (Self::Emptying { dup, peer_ready }, Input::Emptied) => {
                let mut actions = context.when_armed(dup);
                if !peer_ready {
                    return (Self::Armed { dup }, Step::of(actions));
                }
                actions.extend(context.when_both_are(dup));
                (Self::Released { session: Session::Live, peer: None }, Step::of(actions))
            }
            (Self::Armed { dup }, Input::Peer(Message { body: Body::Ready, .. })) => {
                (Self::Released { session: Session::Live, peer: None }, Step::of(context.when_both_are(dup)))
            }
            (Self::Armed { dup }, Input::Timer(Timer::EarlyRelease)) if context.early_release => {
                (Self::Early, Step::of(vec![Action::ReleaseWriter(dup), Action::Close(dup)]))
            }
            (Self::Installing { dup, peer_ready: false }, Input::Peer(Message { body: Body::Ready, .. })) => {
                (Self::Installing { dup, peer_ready: true }, Step::of(Vec::new()))
            }
            (Self::Emptying { dup, peer_ready: false }, Input::Peer(Message { body: Body::Ready, .. })) => {
                (Self::Emptying { dup, peer_ready: true }, Step::of(Vec::new()))
            }
            (Self::Installing { .. }, Input::InstallFailed) => fail(By::Us, Reason::NoKernelTls),
            (Self::Installing { .. }, Input::NotEstablished) => fail(By::Us, Reason::NotEstablished),
            (Self::Emptying { .. }, Input::EmptyFailed) => fail(By::Us, Reason::NotEmptied),
            (Self::Installing { .. } | Self::Emptying { .. }, Input::Timer(Timer::Arming)) => {
                fail(By::Us, Reason::ArmingTimeout)
            }
            (Self::Armed { .. }, Input::Timer(Timer::PeerReady)) => fail(By::Us, Reason::PeerNotReady),
            (_, Input::Peer(Message { body: Body::Abort(reason), .. })) => fail(By::Peer, reason),
            // Its socket ended before both were armed: nobody is there to write to.
            // Ours to say: the other side may have let bytes go early, and waits to hear what became of them.
            (_, Input::Peer(Message { body: Body::Closed(_), .. })) => fail(By::Us, Reason::SocketEnded),
            (_, Input::Peer(_)) => fail(By::Us, Reason::Protocol),
            (_, Input::SessionLost) => fail(By::Us, Reason::SessionLost),
            (_, Input::SocketEnded(_)) => fail(By::Us, Reason::SocketEnded),
            (_, Input::LeaseEnded) => fail(By::Us, Reason::LeaseEnded),
            (_, Input::ReleaseFailed) => fail(By::Us, Reason::NotReleased),
            (state, Input::ApplicationGone) => (state, Step::ignored(Ignored::KeptByDuplicate)),
            (state, Input::Established | Input::Accepted) => (state, Step::ignored(Ignored::Known)),
            (
                state,
                Input::Duplicated(_)
                | Input::DuplicateFailed
                | Input::Installed
                | Input::InstallFailed
                | Input::NotEstablished
                | Input::Emptied
                | Input::EmptyFailed
                | Input::Allowed(_)
                | Input::Refused(_)
                | Input::Timer(_),
            ) => (state, Step::ignored(Ignored::Late)),
        }
    }
}

fn ended<D>(context: &Context, held: Held<D>, by: By, reason: Reason) -> (Half<D>, Step<D>) {
    let (outcome, actions) = fail(context, held, by, reason);
    (Half::Over(outcome), Step::of(actions))
}

/// The writer is let go, the other side's `Ready` has not come.
fn early<D: Copy>(context: &Context, input: Input<D>) -> (Half<D>, Step<D>) {
    let fail = |by, reason| ended(context, Held::socket(None), by, reason);
    match input {
        Input::Peer(Message { body: Body::Ready, .. }) => {
            (Half::Released { session: Session::Live, peer: None }, Step::of(Vec::new()))
        }
        // Its `Ready` may have been on its way, so both may be armed. If it is not, its own end reaches us as RST.
        Input::SessionLost => (Half::Released { session: Session::Lost, peer: None }, Step::of(Vec::new())),
        Input::SocketEnded(own) => (Half::Closing { own }, Step::of(vec![context.send(Body::Closed(own))])),
        Input::Peer(Message { body: Body::Abort(reason), .. }) => fail(By::Peer, reason),
        Input::Peer(Message { body: Body::Closed(_), .. }) => fail(By::Us, Reason::SocketEnded),
        Input::Peer(_) => fail(By::Us, Reason::Protocol),
        Input::LeaseEnded => fail(By::Us, Reason::LeaseEnded),
        Input::ReleaseFailed => fail(By::Us, Reason::NotReleased),
        Input::Established | Input::Accepted | Input::ApplicationGone => {
            (Half::Early, Step::ignored(Ignored::Known))
        }
        _ => (Half::Early, Step::ignored(Ignored::Late)),
    }
}

/// Armed on both sides. Only the socket's end, a lease or the other daemon's word ends it.
fn released<D: Copy>(
    context: &Context,
    session: Session,
    peer: Option<Counts>,
    input: Input<D>,
) -> (Half<D>, Step<D>) {
    let same = Half::Released { session, peer };
    let fail = |by, reason| {
        let held = Held { peer_knows: session == Session::Live, ..Held::socket(None) };
        ended(context, held, by, reason)
    };
    match (input, session, peer) {
        (Input::SessionLost, ..) => (Half::Released { session: Session::Lost, peer }, Step::of(Vec::new())),
        (Input::SocketEnded(_), Session::Lost, None) => {
            (Half::Over(Outcome::Unverified), Step::of(vec![Action::Report(Outcome::Unverified)]))
        }
        (Input::SocketEnded(own), _, Some(peer)) => {
            let outcome = compare(own, peer);
            (Half::Over(outcome), Step::of(vec![context.send(Body::Closed(own)), Action::Report(outcome)]))
        }
        (Input::SocketEnded(own), Session::Live, None) => {
            (Half::Closing { own }, Step::of(vec![context.send(Body::Closed(own))]))
        }
        (Input::Peer(Message { body: Body::Closed(counts), .. }), _, None) => {
            (Half::Released { session, peer: Some(counts) }, Step::of(Vec::new()))
        }
        (Input::Peer(Message { body: Body::Abort(reason), .. }), ..) => fail(By::Peer, reason),
        (Input::LeaseEnded, ..) => fail(By::Us, Reason::LeaseEnded),
        // The writer stayed held: the other side would wait for ever for what is never sent.
        (Input::ReleaseFailed, ..) => fail(By::Us, Reason::NotReleased),
        (Input::Peer(_), ..) => (same, Step::ignored(Ignored::Armed)),
        (Input::Established | Input::Accepted | Input::ApplicationGone, ..) => {
            (same, Step::ignored(Ignored::Known))
        }
        _ => (same, Step::ignored(Ignored::Late)),
    }
}

fn closing<D>(own: Counts, input: Input<D>) -> (Half<D>, Step<D>) {
    let over = |outcome| (Half::Over(outcome), Step::of(vec![Action::Report(outcome)]));
    match input {
        Input::Peer(Message { body: Body::Closed(peer), .. }) => over(compare(own, peer)),
        Input::Peer(Message { body: Body::Abort(reason), .. }) => over(Outcome::Failed(By::Peer, reason)),
        Input::SessionLost | Input::Timer(Timer::PeerCounts) => over(Outcome::Unverified),
        _ => (Half::Closing { own }, Step::ignored(Ignored::Late)),
    }
}

/// A late SYN may still have met EXPECTED or a held SYN may have been let go: what then comes up is destroyed again.
fn over<D>(input: Input<D>) -> Step<D> {
    match input {
        Input::Established | Input::Accepted => Step::of(vec![Action::Destroy(Reason::Unknown)]),
        Input::Duplicated(dup) => Step::of(vec![Action::Close(dup)]),
        _ => Step::ignored(Ignored::Over),
    }
}
