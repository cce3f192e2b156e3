//! All direct connections of one node: which machine an event is for, and which timers run.
mod command;
mod entry;
mod index;
#[cfg(test)]
mod tests;
mod timers;

use std::collections::{HashMap, hash_map};
use std::hash::Hash;
use std::time::Duration;

pub use command::{About, Command, Key, Owner, Role, Socket};
pub use timers::Limits;

use crate::recover::stray;
use crate::{
    Body, ByName, Client, ConnectionId, Counts, FourTuple, Input, Message, Nonce, Reason, Server, Step,
};
use entry::{Entry, Machine};
use index::Index;
use timers::Timers;

/// What the driver has decided about an `Open`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decision {
    /// It may be direct: the namespace of the listener, and a fresh nonce.
    Allow(u64, Nonce),
    /// It may not.
    Refuse(Reason),
}

/// The machines of a node. `L` names a session with another daemon, `D` a duplicate descriptor.
///
/// Times are durations since a moment that the driver chooses once. Every method says what to do, in that order.
#[derive(Debug)]
pub struct Table<L, D> {
    limits: Limits,
    entries: ByName<Entry<L, D>>,
    /// A nonce is of one connection of a session: who uses it twice is refused.
    by_nonce: Index,
    by_socket: Index,
    /// Servers that wait for the kernel's first report.
    expected: HashMap<(u64, FourTuple), Key>,
    timers: Timers,
    /// How many are being set up, over each session.
    opening: HashMap<L, usize>,
    last: u64,
}

impl<L: Copy + Eq + Hash, D: Copy> Table<L, D> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            entries: ByName::default(),
            by_nonce: Index::default(),
            by_socket: Index::default(),
            expected: HashMap::new(),
            timers: Timers::default(),
            opening: HashMap::new(),
            last: 0,
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// What is known of a connection.
    pub fn about(&self, key: Key) -> Option<About<L>> {
        self.entries.get(&key).map(|entry| entry.about())
    }

    /// What is known of the connection of a socket.
    pub fn of_socket(&self, socket: Socket) -> Option<About<L>> {
        self.about(self.by_socket(socket)?)
    }

    /// Every connection over this session that is not over.
    pub fn over(&self, link: L) -> Vec<Key> {
        let mut keys: Vec<Key> =
            self.entries.iter().filter(|entry| entry.link == link).map(|entry| entry.key).collect();
        keys.sort_unstable();
        keys
    }

    /// When [`Table::expire`] has something to do next.
    pub fn next_deadline(&self) -> Option<Duration> {
        self.timers.next()
    }

    /// A SYN of a direct workload is held.
    pub fn syn(
        &mut self,
        now: Duration,
        link: L,
        socket: Socket,
        owner: Owner,
        id: ConnectionId,
    ) -> Vec<Command<L, D>> {
        if self.by_socket(socket).is_some() {
            return Vec::new();
        }
        if self.is_full(link) || self.by_nonce(link, id.nonce).is_some() {
            return vec![Command::RefuseConnect { socket, tuple: id.tuple, reason: Reason::Busy }];
        }
        let (machine, actions) = Client::new(id, self.limits.early_release.is_some());
        let key = self.key();
        self.enter(now, Entry::of_client(key, link, machine, socket, owner), Step::of(actions))
    }

    /// Another daemon says something over a session of ours.
    pub fn peer(&mut self, now: Duration, link: L, message: Message) -> Vec<Command<L, D>> {
        let known = self.by_nonce(link, message.id.nonce);
        if let Some(key) = known.filter(|key| self.is_of(*key, message.id)) {
            return self.step(now, key, Input::Peer(message));
        }
        if !matches!(message.body, Body::Open) {
            return stray(message).map(|answer| Command::Answer(link, answer)).into_iter().collect();
        }
        if known.is_some() || self.is_full(link) {
            let refusal = Message { id: message.id, body: Body::Refuse(Reason::Busy) };
            return vec![Command::Answer(link, refusal)];
        }
        let (machine, actions) = Server::new(message.id);
        let key = self.key();
        self.enter(now, Entry::new(key, link, Machine::Server(machine)), Step::of(actions))
    }

    /// The answer to [`Action::Decide`](crate::Action::Decide).
    pub fn decided(&mut self, now: Duration, key: Key, decision: Decision) -> Vec<Command<L, D>> {
        let Some(entry) = self.entries.get_mut(&key).filter(|entry| entry.is_deciding()) else {
            return Vec::new();
        };
        let input = match decision {
            Decision::Refuse(reason) => Input::Refused(reason),
            Decision::Allow(netns, nonce) => match self.expected.entry((netns, entry.machine.id().tuple)) {
                // Whoever expects these addresses first has them: a second one could only be meant to take them over.
                hash_map::Entry::Occupied(_) => Input::Refused(Reason::Busy),
                hash_map::Entry::Vacant(place) => {
                    place.insert(key);
                    entry.netns = Some(netns);
                    Input::Allowed(nonce)
                }
            },
        };
        self.step(now, key, input)
    }

    /// The kernel ended the TCP handshake of a direct socket.
    pub fn established(&mut self, now: Duration, socket: Socket, tuple: FourTuple) -> Vec<Command<L, D>> {
        self.reported(now, socket, tuple, None)
    }

    /// accept() returned a direct socket to an application.
    pub fn accepted(
        &mut self,
        now: Duration,
        socket: Socket,
        tuple: FourTuple,
        owner: Owner,
    ) -> Vec<Command<L, D>> {
        self.reported(now, socket, tuple, Some(owner))
    }

    fn reported(
        &mut self,
        now: Duration,
        socket: Socket,
        tuple: FourTuple,
        owner: Option<Owner>,
    ) -> Vec<Command<L, D>> {
        let known = self.by_socket(socket);
        let key = known.or_else(|| self.expected.get(&(socket.netns, tuple)).copied());
        let Some((key, entry)) = key.and_then(|key| Some((key, self.entries.get_mut(&key)?))) else {
            // Its connection is over: what came up too late is destroyed.
            return vec![Command::Destroy { socket, tuple, reason: Reason::Unknown }];
        };
        let input = match owner {
            None => Input::Established,
            Some(owner) => {
                entry.owner = Some(owner);
                Input::Accepted
            }
        };
        if entry.cookie.is_none() {
            entry.cookie = Some(socket.cookie);
            self.name_socket(socket, key);
        }
        self.step(now, key, input)
    }

    /// The kernel's socket reached CLOSE.
    pub fn ended(&mut self, now: Duration, socket: Socket, counts: Counts) -> Vec<Command<L, D>> {
        match self.by_socket(socket) {
            Some(key) => self.step(now, key, Input::SocketEnded(counts)),
            None => Vec::new(),
        }
    }

    /// What a job of [`Command::Do`] came to, or that its application or lease ended.
    pub fn input(&mut self, now: Duration, key: Key, input: Input<D>) -> Vec<Command<L, D>> {
        match input {
            Input::Duplicated(duplicate) if self.entries.get(&key).is_none() => {
                vec![Command::Close(duplicate)]
            }
            input => self.step(now, key, input),
        }
    }

    /// A session died.
    pub fn session_lost(&mut self, now: Duration, link: L) -> Vec<Command<L, D>> {
        self.over(link).into_iter().flat_map(|key| self.step(now, key, Input::SessionLost)).collect()
    }

    /// Every timer that has run out by `now`.
    pub fn expire(&mut self, now: Duration) -> Vec<Command<L, D>> {
        let mut commands = Vec::new();
        while let Some((key, timer)) = self.timers.pop(now) {
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.ran_out(timer);
            }
            commands.extend(self.step(now, key, Input::Timer(timer)));
        }
        commands
    }

    fn by_nonce(&self, link: L, nonce: Nonce) -> Option<Key> {
        self.by_nonce.get(&(link, nonce), |key| Some(self.entries.get(&key)?.about().name()))
    }

    fn by_socket(&self, socket: Socket) -> Option<Key> {
        self.by_socket.get(&socket, |key| self.entries.get(&key)?.about().socket())
    }

    fn name_socket(&mut self, socket: Socket, key: Key) {
        self.by_socket.insert(&socket, key, |key| self.entries.get(&key)?.about().socket());
    }

    fn key(&mut self) -> Key {
        self.last += 1;
        Key(self.last)
    }

    fn is_full(&self, link: L) -> bool {
        self.opening.get(&link).is_some_and(|opening| *opening >= self.limits.opening_per_session)
            || self.entries.len() >= self.limits.connections
    }

    fn is_of(&self, key: Key, id: ConnectionId) -> bool {
        self.entries.get(&key).is_some_and(|entry| entry.machine.id() == id)
    }

    fn enter(&mut self, now: Duration, entry: Entry<L, D>, step: Step<D>) -> Vec<Command<L, D>> {
        let (key, about) = (entry.key, entry.about());
        *self.opening.entry(entry.link).or_default() += 1;
        self.entries.insert(entry);
        self.by_nonce.insert(&about.name(), key, |key| Some(self.entries.get(&key)?.about().name()));
        if let Some(socket) = about.socket() {
            self.name_socket(socket, key);
        }
        self.after(now, key, step)
    }

    fn step(&mut self, now: Duration, key: Key, input: Input<D>) -> Vec<Command<L, D>> {
        match self.entries.get_mut(&key).map(|entry| entry.machine.step(input)) {
            Some(step) => self.after(now, key, step),
            None => Vec::new(),
        }
    }

    /// Timers and indexes follow the state that a step led to.
    fn after(&mut self, now: Duration, key: Key, step: Step<D>) -> Vec<Command<L, D>> {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Vec::new();
        };
        let about = entry.about();
        entry.follow(now, &self.limits, &mut self.timers);
        if entry.opened_now() {
            Self::less(&mut self.opening, about.link);
        }
        if !entry.is_expecting()
            && let Some(netns) = about.netns
            && self.expected.get(&(netns, about.id.tuple)) == Some(&key)
        {
            self.expected.remove(&(netns, about.id.tuple));
        }
        if entry.machine.is_over() {
            self.forget(&about);
        }
        step.actions.into_iter().map(|action| Command::Do(about, action)).collect()
    }

    fn less(opening: &mut HashMap<L, usize>, link: L) {
        if let Some(count) = opening.get_mut(&link) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                opening.remove(&link);
            }
        }
    }

    fn forget(&mut self, about: &About<L>) {
        self.entries.remove(&about.key);
        self.by_nonce.remove(&about.name(), about.key);
        if let Some(socket) = about.socket() {
            self.by_socket.remove(&socket, about.key);
        }
    }
}
