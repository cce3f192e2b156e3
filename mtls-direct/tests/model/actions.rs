//! What can happen next.
use mtls_direct::{Body, Counts, Input, Nonce, Reason, Timer};
use stateright::{Model, Property};

use super::props;
use super::world::{A, B, Content, DUP, Daemon, Direct, Flaw, Job, Socket, Thread, World, message};

/// One event. The number is the side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    // The system goes on by itself.
    Receive(usize),
    NoticeLoss(usize),
    JobDone(usize),
    Kick(usize, usize),
    Timer(usize, Timer),
    Handshake,
    TellEstablished(usize),
    Accept,
    TellAccepted,
    TellEnded(usize),
    TellGone(usize),
    ReceiveRst(usize),
    Fin(usize),
    StrayRefused,
    Restart(usize),
    Egress(usize),
    Ingress(usize),
    PlainSend(usize, usize),
    PlainRecv(usize, usize),
    // Applications.
    Enter(usize, Thread),
    TlsSend(usize),
    TlsRecv(usize),
    End(usize),
    // What goes wrong.
    JobFails(usize),
    LeaseEnds(usize),
    SessionDies,
    DaemonDies(usize),
    // The attacker.
    Inject(usize, bool),
    Replay(usize, u8),
    ForgeRst(usize),
    ForgeFin(usize),
}

impl Direct {
    /// What happens without anybody's choice: where none of it is left, nothing more happens by itself.
    pub fn system(&self, w: &World, acts: &mut Vec<Act>) {
        for i in [A, B] {
            let side = &w.side[i];
            // A machine that is over ignores the other daemon.
            let lives = side.daemon.has_machine() && !side.daemon.is_over();
            let listens = lives || side.daemon == Daemon::Idle;
            if listens && !side.told_lost {
                if !w.channel[i].is_empty() {
                    acts.push(Act::Receive(i));
                }
                if !w.session {
                    acts.push(Act::NoticeLoss(i));
                }
            }
            match side.job {
                Some(Job::Empty) if self.flaw != Flaw::NoKick => {
                    let inside = (0..2).filter(|&t| side.threads[t] != Thread::Out);
                    let before = acts.len();
                    acts.extend(inside.map(|t| Act::Kick(i, t)));
                    if acts.len() == before {
                        acts.push(Act::JobDone(i));
                    }
                }
                Some(_) => acts.push(Act::JobDone(i)),
                None => {}
            }
            acts.extend(side.daemon.timers().iter().map(|&timer| Act::Timer(i, timer)));
            // Reports may come after the socket's end.
            let was_up = side.alive() || side.socket == Socket::Gone;
            if was_up && side.daemon.has_machine() && !side.told_established {
                acts.push(Act::TellEstablished(i));
            }
            if lives && side.socket == Socket::Gone && !side.told_ended {
                acts.push(Act::TellEnded(i));
            }
            if lives && side.ended && !side.told_gone {
                acts.push(Act::TellGone(i));
            }
            if side.daemon == Daemon::Dead {
                acts.push(Act::Restart(i));
            }
            // Whatever is sent to a socket that is gone is answered with another RST.
            let other = &w.side[1 - i];
            let answered = side.alive()
                && other.socket == Socket::Gone
                && (side.passed > other.taken || (side.ended && !side.dup && self.passes(side)));
            if side.rst || answered {
                acts.push(Act::ReceiveRst(i));
            }
            self.segments(w, i, acts);
        }
        if w.syn_free && w.side[A].socket == Socket::Opening {
            acts.push(Act::Handshake);
        }
        let server = &w.side[B];
        if server.socket == Socket::Queued {
            acts.push(Act::Accept);
        }
        let was_accepted = matches!(server.socket, Socket::Up | Socket::Gone);
        if was_accepted && server.daemon.has_machine() && !server.told_accepted {
            acts.push(Act::TellAccepted);
        }
        // The listener of the daemon meets a TLS record under keys it has not, or gives up waiting for a ClientHello.
        if w.strayed && w.side[A].alive() {
            acts.push(Act::StrayRefused);
        }
    }

    fn segments(&self, w: &World, i: usize, acts: &mut Vec<Act>) {
        let (side, other) = (&w.side[i], &w.side[1 - i]);
        if side.alive() && usize::from(side.passed) < side.sent.len() && self.passes(side) {
            acts.push(Act::Egress(i));
        }
        if side.alive() && side.taken < other.passed && self.passes(side) {
            acts.push(Act::Ingress(i));
        }
        let unread = !side.queue.is_empty();
        if side.alive() && side.ended && !side.dup && !other.fin && (unread || self.fin_arrives(w, i)) {
            acts.push(Act::Fin(i));
        }
        for t in 0..2 {
            if side.threads[t] == Thread::PlainSend && !side.held {
                acts.push(Act::PlainSend(i, t));
            }
            if side.threads[t] == Thread::PlainRecv && !side.queue.is_empty() {
                acts.push(Act::PlainRecv(i, t));
            }
        }
    }

    /// All that was sent has arrived, and both guards let the FIN pass: they drop it like payload while closed.
    fn fin_arrives(&self, w: &World, i: usize) -> bool {
        let (side, other) = (&w.side[i], &w.side[1 - i]);
        other.alive()
            && usize::from(side.passed) == side.sent.len()
            && usize::from(other.taken) >= side.sent.len()
            && self.passes(side)
            && self.passes(other)
    }

    fn applications(&self, w: &World, acts: &mut Vec<Act>) {
        for i in [A, B] {
            let side = &w.side[i];
            if side.ended || !(side.alive() || (i == A && side.socket == Socket::Opening)) {
                continue;
            }
            acts.push(Act::End(i));
            if side.socket != Socket::Up || side.threads[0] != Thread::Out {
                continue;
            }
            let sending = side.threads.iter().filter(|&&t| t == Thread::PlainSend).count() + side.sent.len();
            let more = sending < usize::from(self.length[i]);
            if side.tls {
                if more && !side.held {
                    acts.push(Act::TlsSend(i));
                }
                if !side.queue.is_empty() && !side.broken {
                    acts.push(Act::TlsRecv(i));
                }
            } else {
                if more {
                    acts.push(Act::Enter(i, Thread::PlainSend));
                }
                acts.push(Act::Enter(i, Thread::PlainRecv));
            }
        }
    }

    fn faults(&self, w: &World, acts: &mut Vec<Act>) {
        for i in [A, B] {
            let side = &w.side[i];
            if self.failures && side.job.is_some() {
                acts.push(Act::JobFails(i));
            }
            if w.can_end_lease && side.daemon.has_machine() && !side.daemon.is_over() {
                acts.push(Act::LeaseEnds(i));
            }
            if self.deaths && side.daemon.has_machine() && !side.daemon.is_over() {
                acts.push(Act::DaemonDies(i));
            }
            let reachable = side.alive() && (w.side[1 - i].alive() || w.side[1 - i].socket == Socket::Gone);
            if w.can_inject && reachable && self.passes(side) {
                acts.extend([Act::Inject(i, true), Act::Inject(i, false)]);
            }
            if w.can_replay && reachable && self.passes(side) {
                acts.extend((0..w.side[1 - i].passed).map(|n| Act::Replay(i, n)));
            }
            if self.attacker && side.alive() && !side.rst {
                acts.push(Act::ForgeRst(i));
            }
            if self.flaw == Flaw::ForgedFin && side.alive() && !side.fin && self.passes(side) {
                acts.push(Act::ForgeFin(i));
            }
        }
        if self.deaths && w.session && w.side.iter().any(|side| !side.daemon.is_over()) {
            acts.push(Act::SessionDies);
        }
    }
}

impl Model for Direct {
    type State = World;
    type Action = Act;

    fn init_states(&self) -> Vec<World> {
        vec![World::new(self)]
    }

    fn actions(&self, w: &World, acts: &mut Vec<Act>) {
        // What follows a broken property says nothing more.
        if w.broken.is_empty() {
            self.system(w, acts);
            self.applications(w, acts);
            self.faults(w, acts);
        }
    }

    fn next_state(&self, last: &World, act: Act) -> Option<World> {
        let mut next = last.clone();
        self.apply(&mut next, act);
        next.normalise();
        Some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        props::all()
    }
}

impl Direct {
    fn apply(&self, w: &mut World, act: Act) {
        match act {
            Act::Receive(i) => {
                let body = w.channel[i].remove(0);
                match (&w.side[i].daemon, body) {
                    (Daemon::Idle, Body::Open) => w.open(self, i),
                    _ => w.tell(self, i, Input::Peer(message(body))),
                }
            }
            Act::NoticeLoss(i) => {
                w.side[i].told_lost = true;
                w.channel[i].clear();
                if self.flaw == Flaw::EarlyDiesWithSession && w.side[i].daemon.is_early() {
                    w.destroy(i, Reason::SessionLost);
                }
                w.tell(self, i, Input::SessionLost);
            }
            Act::JobDone(i) => {
                let input = match w.side[i].job.take() {
                    Some(Job::Duplicate) if w.side[i].ended => Input::DuplicateFailed,
                    Some(Job::Duplicate) => {
                        w.side[i].dup = true;
                        Input::Duplicated(DUP)
                    }
                    Some(Job::Decide) => Input::Allowed(Nonce([9; 16])),
                    // TCP_ULP wants an established socket.
                    Some(Job::Install) if !w.side[i].alive() => Input::InstallFailed,
                    Some(Job::Install) => {
                        w.side[i].tls = true;
                        Input::Installed
                    }
                    Some(Job::Empty) | None => Input::Emptied,
                };
                w.tell(self, i, input);
            }
            Act::JobFails(i) => {
                let input = match w.side[i].job.take() {
                    Some(Job::Duplicate) => Input::DuplicateFailed,
                    Some(Job::Decide) => Input::Refused(Reason::Denied),
                    Some(Job::Install) => Input::InstallFailed,
                    Some(Job::Empty) | None => Input::EmptyFailed,
                };
                w.tell(self, i, input);
            }
            Act::Kick(i, t) => w.side[i].leave(t),
            Act::Timer(i, timer) => w.tell(self, i, Input::Timer(timer)),
            Act::Handshake => {
                w.side[A].socket = Socket::Up;
                if w.expected {
                    w.side[B].socket = Socket::Queued;
                } else {
                    w.strayed = true;
                }
            }
            Act::TellEstablished(i) => {
                w.side[i].told_established = true;
                w.tell(self, i, Input::Established);
            }
            Act::Accept => w.side[B].socket = Socket::Up,
            Act::TellAccepted => {
                w.side[B].told_accepted = true;
                w.tell(self, B, Input::Accepted);
            }
            Act::TellEnded(i) => {
                w.side[i].told_ended = true;
                // The counts decide what is reported and nothing else.
                w.tell(self, i, Input::SocketEnded(Counts::default()));
            }
            Act::TellGone(i) => {
                w.side[i].told_gone = true;
                w.tell(self, i, Input::ApplicationGone);
            }
            Act::ReceiveRst(i) => w.end(i),
            Act::Fin(i) => {
                if w.side[i].queue.is_empty() {
                    w.take_fin(1 - i);
                    if w.side[i].fin {
                        w.end(A);
                        w.end(B);
                    }
                } else {
                    w.reset(i);
                }
            }
            Act::StrayRefused => w.end(A),
            Act::Restart(i) => w.restart(self, i),
            Act::Egress(i) => w.egress(self, i),
            Act::Ingress(i) => {
                let content = w.side[1 - i].sent[usize::from(w.side[i].taken)];
                w.ingress(self, i, content, matches!(content, Content::Tls(_)));
            }
            Act::PlainSend(i, t) => w.plain_send(i, t),
            Act::PlainRecv(i, t) => w.plain_recv(i, t),
            Act::Enter(i, call) => w.side[i].enter(call),
            Act::TlsSend(i) => w.tls_send(i),
            Act::TlsRecv(i) => w.tls_recv(self, i),
            Act::End(i) => {
                w.side[i].ended = true;
                w.side[i].threads = [Thread::Out; 2];
                // A listener that closes resets what is in its queue.
                if w.side[i].socket == Socket::Queued {
                    w.reset(i);
                } else if w.side[i].socket == Socket::Opening && !w.side[i].dup {
                    w.end(i);
                }
            }
            Act::LeaseEnds(i) => {
                w.can_end_lease = false;
                w.tell(self, i, Input::LeaseEnded);
            }
            Act::SessionDies => w.session = false,
            Act::DaemonDies(i) => w.die(i),
            Act::Inject(i, looks_like_tls) => {
                w.can_inject = false;
                w.ingress(self, i, Content::Evil, looks_like_tls);
            }
            Act::Replay(i, n) => {
                w.can_replay = false;
                let content = w.side[1 - i].sent[usize::from(n)];
                w.ingress(self, i, content, matches!(content, Content::Tls(_)));
            }
            Act::ForgeRst(i) => w.end(i),
            Act::ForgeFin(i) => w.take_fin(i),
        }
    }
}
