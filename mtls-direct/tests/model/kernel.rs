//! What a kernel does: calls, segments, the guard, and the machines' actions.
use mtls_direct::{Action, Body, Input, Mark, Reason, Recovery, Server, recover};

use super::props::{ANSWERS, END, LEAK, LIVES, PREFIX, READ};
use super::world::{B, Content, DUP, Daemon, Direct, Flaw, Job, Side, Socket, Thread, World, id};

impl World {
    /// Hands an input to a machine and carries out what it says.
    pub fn tell(&mut self, direct: &Direct, i: usize, input: Input<u8>) {
        let step = self.side[i].daemon.step(input);
        for action in step.actions {
            self.carry_out(direct, i, action);
        }
    }

    fn carry_out(&mut self, direct: &Direct, i: usize, action: Action<u8>) {
        let hasty = direct.flaw == Flaw::NoGuardAndHasty;
        match action {
            Action::Duplicate => self.side[i].job = Some(Job::Duplicate),
            Action::Decide => self.side[i].job = Some(Job::Decide),
            Action::Send(message) => {
                assert_eq!(message.id, id());
                if message.body == Body::Ready && hasty {
                    self.side[i].held = false;
                }
                if self.session {
                    self.channel[1 - i].push(message.body);
                }
            }
            Action::Expect(_) => self.expected = true,
            Action::Unexpect(_) => self.expected = false,
            Action::ReleaseSyn => self.syn_free = true,
            Action::RefuseConnect(_) => {
                assert!(!self.syn_free, "a connect() that is not held cannot be refused");
                self.side[i].socket = Socket::Gone;
            }
            Action::Install { descriptor: DUP, .. } => self.side[i].job = Some(Job::Install),
            Action::Empty(DUP) => self.side[i].job = Some(Job::Empty),
            Action::OpenGuard(DUP) => self.side[i].open = true,
            Action::ReleaseWriter(DUP) => {
                assert!(self.side[i].dup, "released through a descriptor that is closed");
                self.side[i].held = false;
                self.settled |= self.side.iter().all(|side| side.alive() && !side.held);
            }
            Action::Close(DUP) => {
                assert!(self.side[i].dup, "closed twice");
                self.side[i].dup = direct.flaw == Flaw::NoClose;
            }
            Action::Destroy(reason) => {
                if direct.flaw != Flaw::NoDestroy {
                    self.destroy(i, reason);
                }
            }
            Action::Remember(_) | Action::Report(_) => {}
            Action::Install { .. }
            | Action::Empty(_)
            | Action::OpenGuard(_)
            | Action::ReleaseWriter(_)
            | Action::Close(_) => {
                panic!("a descriptor that was never given")
            }
        }
    }

    pub fn destroy(&mut self, i: usize, reason: Reason) {
        if matches!(self.side[i].socket, Socket::None | Socket::Gone) {
            return;
        }
        if self.settled && reason != Reason::LeaseEnded {
            self.breaks(LIVES);
        }
        self.reset(i);
    }

    /// The socket ends with RST.
    pub fn reset(&mut self, i: usize) {
        self.end(i);
        self.side[1 - i].rst |=
            matches!(self.side[1 - i].socket, Socket::Opening) && self.syn_free || self.side[1 - i].alive();
    }

    /// The socket ends; calls inside it return an error.
    pub fn end(&mut self, i: usize) {
        let side = &mut self.side[i];
        side.socket = Socket::Gone;
        side.threads = [Thread::Out; 2];
        side.queue.clear();
        side.rst = false;
    }

    /// A FIN with the next sequence number passes the guard of the node it goes to.
    pub fn take_fin(&mut self, i: usize) {
        let other = &self.side[1 - i];
        if !other.ended || usize::from(self.side[i].taken) < other.sent.len() {
            self.breaks(END);
        }
        self.side[i].fin = true;
    }

    /// `Open` reaches a daemon without a machine.
    pub fn open(&mut self, direct: &Direct, i: usize) {
        let (server, actions) = Server::new(id());
        self.side[i].daemon = Daemon::Server(server);
        for action in actions {
            self.carry_out(direct, i, action);
        }
    }

    pub fn die(&mut self, i: usize) {
        self.session = false;
        let side = &mut self.side[i];
        side.daemon = Daemon::Dead;
        side.job = None;
        side.dup = false;
        self.channel[i].clear();
        if self.side[i].ended && self.side[i].socket == Socket::Opening {
            self.end(i);
        }
    }

    pub fn restart(&mut self, direct: &Direct, i: usize) {
        self.side[i].daemon = Daemon::Restarted;
        if i == B {
            self.expected = false;
        }
        let mark = if self.side[i].held { Mark::Held } else { Mark::Released };
        let destroy = match direct.flaw {
            Flaw::NoRecovery => false,
            Flaw::RecoveryOfAll => true,
            _ => recover(mark) == Recovery::Destroy,
        };
        if destroy {
            self.destroy(i, Reason::Recovered);
        }
    }

    /// A thread inside plain tcp_sendmsg gets room.
    pub fn plain_send(&mut self, i: usize, thread: usize) {
        let side = &mut self.side[i];
        side.sent.push(Content::Plain(side.sent.len() as u8));
        side.leave(thread);
    }

    pub fn tls_send(&mut self, i: usize) {
        let side = &mut self.side[i];
        side.sent.push(Content::Tls(side.sent.len() as u8));
    }

    /// A thread inside plain tcp_recvmsg gets what is in the queue, whatever it is.
    pub fn plain_recv(&mut self, i: usize, thread: usize) {
        let content = self.side[i].queue.remove(0);
        self.side[i].leave(thread);
        match content {
            Content::Tls(_) | Content::Evil => self.breaks(READ),
            Content::Plain(place) => self.deliver(i, place),
        }
    }

    pub fn tls_recv(&mut self, direct: &Direct, i: usize) {
        if i == B && self.side[i].held {
            self.breaks(ANSWERS);
        }
        let numbered = direct.flaw != Flaw::NoRecordNumbers;
        let content = self.side[i].queue.remove(0);
        match content {
            // The record's number is in its nonce: any other record fails to authenticate.
            Content::Tls(record) if record == self.side[i].read || !numbered => self.deliver(i, record),
            Content::Tls(_) | Content::Plain(_) | Content::Evil => {
                self.side[i].broken = true;
                self.side[i].queue.clear();
            }
        }
    }

    fn deliver(&mut self, i: usize, place: u8) {
        if place != self.side[i].read {
            self.breaks(PREFIX);
        }
        self.side[i].read += 1;
    }

    /// A segment leaves past the guard of its node.
    pub fn egress(&mut self, direct: &Direct, i: usize) {
        let index = self.side[i].passed;
        let content = self.side[i].sent[usize::from(index)];
        if direct.guarded() && index == 0 && !matches!(content, Content::Tls(_)) {
            return self.reset(i);
        }
        if matches!(content, Content::Plain(_)) {
            self.breaks(LEAK);
        }
        self.side[i].passed += 1;
    }

    /// A segment with the next sequence number meets the guard of the node it goes to.
    pub fn ingress(&mut self, direct: &Direct, i: usize, content: Content, looks_like_tls: bool) {
        if direct.guarded() && self.side[i].taken == 0 && !looks_like_tls {
            return self.reset(i);
        }
        let side = &mut self.side[i];
        side.taken += 1;
        if !side.broken {
            side.queue.push(content);
        }
    }
}

impl Side {
    pub fn enter(&mut self, call: Thread) {
        self.threads[0] = call;
        self.threads.sort_unstable();
    }

    pub fn leave(&mut self, thread: usize) {
        self.threads[thread] = Thread::Out;
        self.threads.sort_unstable();
    }
}

impl Direct {
    pub fn guarded(&self) -> bool {
        !matches!(self.flaw, Flaw::NoGuard | Flaw::NoGuardAndHasty)
    }

    /// Whether the guard passes what looks right.
    pub fn passes(&self, side: &Side) -> bool {
        side.open || !self.guarded() || (self.flaw == Flaw::GuardBeforeKick && side.tls)
    }
}
