//! One connection of the table.
use std::time::Duration;

use super::command::{About, Key, Owner, Role, Socket};
use super::timers::{Limits, Timers};
use crate::{Client, ClientState, ConnectionId, Half, Input, Named, Server, ServerState, Step, Timer};

/// Either side.
#[derive(Clone, Copy, Debug)]
pub(super) enum Machine<D> {
    Client(Client<D>),
    Server(Server<D>),
}

impl<D: Copy> Machine<D> {
    pub fn step(&mut self, input: Input<D>) -> Step<D> {
        match self {
            Self::Client(client) => client.step(input),
            Self::Server(server) => server.step(input),
        }
    }

    fn role(&self) -> Role {
        match self {
            Self::Client(_) => Role::Client,
            Self::Server(_) => Role::Server,
        }
    }

    pub fn id(&self) -> ConnectionId {
        match self {
            Self::Client(client) => client.id(),
            Self::Server(server) => server.id(),
        }
    }

    pub fn is_over(&self) -> bool {
        match self {
            Self::Client(client) => client.is_over(),
            Self::Server(server) => server.is_over(),
        }
    }

    fn timers(&self) -> &'static [Timer] {
        match self {
            Self::Client(client) => client.timers(),
            Self::Server(server) => server.timers(),
        }
    }

    fn half(&self) -> Option<&Half<D>> {
        match self {
            Self::Client(client) => match client.state() {
                ClientState::Half(half) => Some(half),
                _ => None,
            },
            Self::Server(server) => match server.state() {
                ServerState::Half(half) => Some(half),
                _ => None,
            },
        }
    }
}

/// A machine with what is known of its connection; what [`About`] says is here once, since it lives as long as the connection.
#[derive(Debug)]
pub(super) struct Entry<L, D> {
    pub key: Key,
    pub link: L,
    pub netns: Option<u64>,
    pub cookie: Option<u64>,
    pub owner: Option<Owner>,
    pub machine: Machine<D>,
    /// No state has more than two timers.
    running: [Option<(Timer, Duration)>; 2],
    opening: bool,
}

impl<L, D> Named for Entry<L, D> {
    type Name = Key;

    fn name(&self) -> Key {
        self.key
    }
}

impl<L: Copy, D: Copy> Entry<L, D> {
    pub fn new(key: Key, link: L, machine: Machine<D>) -> Self {
        let running = [None; 2];
        Self { key, link, netns: None, cookie: None, owner: None, machine, running, opening: true }
    }

    /// Of an application's own connect().
    pub fn of_client(key: Key, link: L, machine: Client<D>, socket: Socket, owner: Owner) -> Self {
        Self {
            netns: Some(socket.netns),
            cookie: Some(socket.cookie),
            owner: Some(owner),
            ..Self::new(key, link, Machine::Client(machine))
        }
    }

    pub fn about(&self) -> About<L> {
        About {
            key: self.key,
            role: self.machine.role(),
            link: self.link,
            id: self.machine.id(),
            netns: self.netns,
            cookie: self.cookie,
            owner: self.owner,
        }
    }

    pub fn is_deciding(&self) -> bool {
        matches!(&self.machine, Machine::Server(server) if matches!(server.state(), ServerState::Deciding))
    }

    pub fn is_expecting(&self) -> bool {
        matches!(&self.machine, Machine::Server(server) if matches!(server.state(), ServerState::Expecting { .. }))
    }

    /// True once: when it stands on its own, or is over.
    pub fn opened_now(&mut self) -> bool {
        let open = self
            .machine
            .half()
            .is_some_and(|half| matches!(half, Half::Released { .. } | Half::Closing { .. } | Half::Over(_)));
        open && std::mem::take(&mut self.opening)
    }

    /// A timer is gone from the queue.
    pub fn ran_out(&mut self, timer: Timer) {
        for slot in &mut self.running {
            if slot.is_some_and(|(running, _)| running == timer) {
                *slot = None;
            }
        }
    }

    /// Stops what the state does not have any more and starts what it has anew; a timer that both states have
    /// goes on, so that it bounds both together.
    pub fn follow(&mut self, now: Duration, limits: &Limits, timers: &mut Timers) {
        let wanted = self.machine.timers();
        for slot in &mut self.running {
            if let Some((timer, at)) = *slot
                && !wanted.contains(&timer)
            {
                timers.stop(at, self.key, timer);
                *slot = None;
            }
        }
        for &timer in wanted {
            let Some(lasts) = limits.of(timer) else { continue };
            if self.running.iter().flatten().any(|(running, _)| *running == timer) {
                continue;
            }
            if let Some(free) = self.running.iter_mut().find(|slot| slot.is_none()) {
                let at = now.saturating_add(lasts);
                timers.start(at, self.key, timer);
                *free = Some((timer, at));
            }
        }
    }
}
