//! Drives the machines of [`mtls_direct`]: takes what happened, has its node carry out what they want.
//!
//! One task owns the table of all direct connections of a node, so that nothing is decided twice. What takes
//! long (policy, moving threads) runs elsewhere and comes back as an event.

mod node;
mod told;

#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use mtls_direct::{About, Action, Command, Input, Limits, Message, Table, Timer};
use tokio::sync::mpsc;
use tokio::time::Instant;

pub use node::{Node, NotInstalled, NotTaken, Session};
pub use told::{LinkId, Told};

/// A duplicate of an application's descriptor, as the machines know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Duplicate(u64);

/// Where the driver is told what happened. Cheap to clone.
pub struct Teller<S>(mpsc::UnboundedSender<Told<S>>);

impl<S> Clone for Teller<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Teller<S> {
    /// Tells it; after its end nobody listens, and that is no error.
    pub fn tell(&self, told: Told<S>) {
        let _ = self.0.send(told);
    }
}

/// The driver of one node.
pub struct Driver<N: Node> {
    node: Arc<N>,
    table: Table<LinkId, Duplicate>,
    sessions: HashMap<LinkId, N::Session>,
    /// Jobs may still use one that the table has closed.
    duplicates: HashMap<Duplicate, Arc<N::Taken>>,
    last: u64,
    /// What the table's times count from.
    origin: Instant,
    inbox: mpsc::UnboundedReceiver<Told<N::Session>>,
    own: mpsc::WeakUnboundedSender<Told<N::Session>>,
}

type Wanted = Command<LinkId, Duplicate>;

impl<N: Node> Driver<N> {
    /// A driver and where to tell it. It ends when every [`Teller`] is gone.
    pub fn new(node: Arc<N>, limits: Limits) -> (Self, Teller<N::Session>) {
        let (sender, inbox) = mpsc::unbounded_channel();
        let driver = Self {
            node,
            table: Table::new(limits),
            sessions: HashMap::new(),
            duplicates: HashMap::new(),
            last: 0,
            origin: Instant::now(),
            inbox,
            own: sender.downgrade(),
        };
        (driver, Teller(sender))
    }

    /// Runs until every teller is gone.
    pub async fn run(mut self) {
        loop {
            let deadline = self.table.next_deadline().map(|after| self.origin + after);
            let told = tokio::select! {
                // What has happened counts before what has not: a timer must not overtake the answer that is here.
                biased;
                told = self.inbox.recv() => match told {
                    Some(told) => Some(told),
                    None => return,
                },
                () = sleep_until(deadline) => None,
            };
            let commands = match told {
                Some(told) => self.take(told),
                None => self.table.expire(self.now()),
            };
            self.carry_out(commands);
        }
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    fn take(&mut self, told: Told<N::Session>) -> Vec<Wanted> {
        let now = self.now();
        match told {
            Told::SessionUp(link, session) => {
                self.sessions.insert(link, session);
                Vec::new()
            }
            Told::SessionLost(link) => {
                self.sessions.remove(&link);
                self.table.session_lost(now, link)
            }
            Told::Peer(link, message) => self.table.peer(now, link, message),
            Told::Syn { link, socket, owner, id } => self.table.syn(now, link, socket, owner, id),
            Told::Established { socket, tuple } => self.table.established(now, socket, tuple),
            Told::Accepted { socket, tuple, owner } => self.table.accepted(now, socket, tuple, owner),
            Told::Unreachable(socket) => match self.table.of_socket(socket).map(|about| about.key) {
                Some(key) => self.table.input(now, key, Input::DuplicateFailed),
                None => Vec::new(),
            },
            Told::Ended { socket, counts } => {
                if let Some(about) = self.table.of_socket(socket) {
                    self.node.carried(&about, counts);
                }
                self.table.ended(now, socket, counts)
            }
            Told::LeaseEnded(key) => self.table.input(now, key, Input::LeaseEnded),
            Told::Decided(key, decision) => self.table.decided(now, key, decision),
            Told::Emptied(key, true) => self.table.input(now, key, Input::Emptied),
            Told::Emptied(key, false) => self.table.input(now, key, Input::EmptyFailed),
        }
    }

    /// What is done may lead to more at once; each step's actions are carried out whole and in order.
    fn carry_out(&mut self, commands: Vec<Wanted>) {
        let mut waiting = VecDeque::from(commands);
        while let Some(command) = waiting.pop_front() {
            let more = match command {
                Command::Do(about, action) => self.act(&about, action),
                Command::Answer(link, message) => {
                    self.send(link, message);
                    Vec::new()
                }
                Command::RefuseConnect { socket, tuple, reason } => {
                    self.node.refuse_connect(socket, tuple, reason);
                    Vec::new()
                }
                Command::Destroy { socket, tuple, reason } => {
                    self.node.destroy(socket.netns, Some(socket.cookie), tuple, reason);
                    Vec::new()
                }
                Command::Close(duplicate) => {
                    self.duplicates.remove(&duplicate);
                    Vec::new()
                }
            };
            waiting.extend(more);
        }
    }

    fn send(&self, link: LinkId, message: Message) {
        // One that is gone swallows it: its end is an event of its own.
        if let Some(session) = self.sessions.get(&link) {
            session.send(message);
        }
    }

    fn act(&mut self, about: &About<LinkId>, action: Action<Duplicate>) -> Vec<Wanted> {
        let (now, key, tuple) = (self.now(), about.key, about.id.tuple);
        match action {
            Action::Duplicate => {
                let input = match self.node.duplicate(about) {
                    Ok(taken) => {
                        self.last += 1;
                        let duplicate = Duplicate(self.last);
                        self.duplicates.insert(duplicate, Arc::new(taken));
                        Input::Duplicated(duplicate)
                    }
                    Err(NotTaken::ApplicationGone) => Input::ApplicationGone,
                    Err(NotTaken::Failed) => Input::DuplicateFailed,
                };
                return self.table.input(now, key, input);
            }
            Action::Decide => self.decide(*about),
            Action::Send(message) => self.send(about.link, message),
            Action::Expect(tuple) => {
                let netns = about.netns.unwrap_or(0);
                if !self.node.expect(netns, tuple) {
                    // Its SYN would go to the daemon: as if it had not come.
                    return self.table.input(now, key, Input::Timer(Timer::Handshake));
                }
            }
            Action::Unexpect(tuple) => self.node.unexpect(about.netns.unwrap_or(0), tuple),
            Action::ReleaseSyn => self.node.release_syn(about),
            Action::RefuseConnect(reason) => {
                if let Some(socket) = about.socket() {
                    self.node.refuse_connect(socket, tuple, reason);
                }
            }
            Action::Install { descriptor, server, .. } => {
                let ready = self.sessions.get(&about.link).zip(self.duplicates.get(&descriptor));
                let installed = ready
                    .and_then(|(session, taken)| Some((session.keys(&about.id, server)?, taken)))
                    .map_or(Err(NotInstalled::Failed), |(keys, taken)| self.node.install(about, taken, keys));
                let input = match installed {
                    Ok(()) => Input::Installed,
                    Err(NotInstalled::NotEstablished) => Input::NotEstablished,
                    Err(NotInstalled::Failed) => Input::InstallFailed,
                };
                return self.table.input(now, key, input);
            }
            Action::Empty(duplicate) => self.empty(*about, duplicate),
            Action::OpenGuard(duplicate) => return self.let_go(about, duplicate, N::open_guard),
            Action::ReleaseWriter(duplicate) => return self.let_go(about, duplicate, N::release_writer),
            Action::Close(duplicate) => {
                self.duplicates.remove(&duplicate);
            }
            Action::Destroy(reason) => {
                if let Some(netns) = about.netns {
                    self.node.destroy(netns, about.cookie, tuple, reason);
                }
            }
            Action::Remember(reason) => self.node.remember(about, reason),
            Action::Report(outcome) => self.node.report(about, outcome),
        }
        Vec::new()
    }

    /// One of the two steps after which bytes may pass.
    fn let_go(
        &mut self,
        about: &About<LinkId>,
        duplicate: Duplicate,
        step: impl Fn(&N, &About<LinkId>, &N::Taken) -> bool,
    ) -> Vec<Wanted> {
        let duplicate = self.duplicates.get(&duplicate);
        if duplicate.is_some_and(|duplicate| step(&self.node, about, duplicate)) {
            return Vec::new();
        }
        self.table.input(self.now(), about.key, Input::ReleaseFailed)
    }

    /// Asks policy, which may take a call to elsewhere.
    fn decide(&self, about: About<LinkId>) {
        let Some(own) = self.own.upgrade() else { return };
        let node = Arc::clone(&self.node);
        tokio::spawn(async move {
            let decision = node.decide(about).await;
            let _ = own.send(Told::Decided(about.key, decision));
        });
    }

    /// Waits for other threads, so not on this one.
    fn empty(&self, about: About<LinkId>, duplicate: Duplicate) {
        let Some(own) = self.own.upgrade() else { return };
        let (node, duplicate) = (Arc::clone(&self.node), self.duplicates.get(&duplicate).map(Arc::clone));
        tokio::task::spawn_blocking(move || {
            let emptied = duplicate.is_some_and(|duplicate| node.empty(&about, &duplicate));
            let _ = own.send(Told::Emptied(about.key, emptied));
        });
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
