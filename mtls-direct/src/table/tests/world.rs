//! Two tables, two kernels and a network in any order, with failures: whatever happens, nothing is left over.
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use proptest::prelude::*;

use super::super::{Command, Decision, Key, Role, Table};
use super::{LINK, OWNER, id, socket};
use crate::{Action, Counts, FourTuple, Input, Limits, Message, Nonce, Outcome};

/// What a node still has to answer.
#[derive(Clone, Copy, Debug)]
enum Job {
    Duplicate(Key),
    Decide(Key),
    Install(Key),
    Empty(Key),
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Tcp {
    SynHeld,
    SynSent,
    Established,
    Gone,
}

#[derive(Default)]
struct Side {
    jobs: VecDeque<Job>,
    open: BTreeSet<u32>,
    expected: BTreeSet<(u16, u16)>,
    released: BTreeSet<Key>,
    reports: BTreeMap<Key, Outcome>,
}

struct World {
    now: Duration,
    tables: [Table<u32, u32>; 2],
    sides: [Side; 2],
    wires: [VecDeque<Message>; 2],
    tcp: BTreeMap<u16, Tcp>,
    accepted: BTreeSet<u16>,
    duplicates: u32,
    choices: VecDeque<u8>,
}

fn ports(tuple: &FourTuple) -> (u16, u16) {
    (tuple.client.port(), tuple.server.port())
}

impl World {
    fn new(choices: Vec<u8>) -> Self {
        let limits = Limits { opening_per_session: 100, connections: 100, ..Limits::default() };
        Self {
            now: Duration::ZERO,
            tables: [Table::new(limits), Table::new(limits)],
            sides: <[Side; 2]>::default(),
            wires: <[VecDeque<Message>; 2]>::default(),
            tcp: BTreeMap::new(),
            accepted: BTreeSet::new(),
            duplicates: 0,
            choices: choices.into(),
        }
    }

    /// The next choice below `of`; when they are used up always the first.
    fn choose(&mut self, of: usize) -> usize {
        self.choices.pop_front().map_or(0, |choice| usize::from(choice) % of)
    }

    fn fails(&mut self) -> bool {
        self.choices.len() > 1 && self.choose(12) == 11
    }

    fn carry_out(&mut self, at: usize, commands: Vec<Command<u32, u32>>) {
        for command in commands {
            match command {
                Command::Do(about, action) => self.act(at, about.key, about.role, about.id.tuple, action),
                Command::Answer(_, message) => self.wires[1 - at].push_back(message),
                Command::RefuseConnect { tuple, .. } | Command::Destroy { tuple, .. } => {
                    self.tcp.insert(tuple.client.port(), Tcp::Gone);
                }
                Command::Close(duplicate) => assert!(self.sides[at].open.remove(&duplicate)),
            }
        }
    }

    fn act(&mut self, at: usize, key: Key, role: Role, tuple: FourTuple, action: Action<u32>) {
        let port = tuple.client.port();
        let side = &mut self.sides[at];
        match action {
            Action::Duplicate => side.jobs.push_back(Job::Duplicate(key)),
            Action::Decide => side.jobs.push_back(Job::Decide(key)),
            Action::Install { .. } => side.jobs.push_back(Job::Install(key)),
            Action::Empty(_) => side.jobs.push_back(Job::Empty(key)),
            Action::Send(message) => self.wires[1 - at].push_back(message),
            Action::Expect(tuple) => assert!(side.expected.insert(ports(&tuple)), "expected twice"),
            Action::Unexpect(tuple) => assert!(side.expected.remove(&ports(&tuple)), "never expected"),
            Action::ReleaseSyn => {
                if self.tcp[&port] == Tcp::SynHeld {
                    self.tcp.insert(port, Tcp::SynSent);
                }
            }
            Action::RefuseConnect(_) => {
                assert_eq!(role, Role::Client);
                self.tcp.insert(port, Tcp::Gone);
            }
            Action::Destroy(_) => {
                self.tcp.insert(port, Tcp::Gone);
            }
            Action::ReleaseWriter(_) => assert!(side.released.insert(key), "released twice"),
            Action::Close(duplicate) => assert!(side.open.remove(&duplicate), "closed twice"),
            Action::OpenGuard(_) | Action::Remember(_) => {}
            Action::Report(outcome) => assert!(side.reports.insert(key, outcome).is_none(), "reported twice"),
        }
    }

    fn connect(&mut self, port: u16) {
        self.tcp.insert(port, Tcp::SynHeld);
        let commands = self.tables[0].syn(self.now, LINK, socket(1, port.into()), OWNER, id(port, 1));
        self.carry_out(0, commands);
    }

    /// One thing that can happen happens; false when nothing can but by time.
    fn happen(&mut self) -> bool {
        let mut can: Vec<(u8, usize, u16)> = Vec::new();
        for at in 0..2 {
            if !self.wires[at].is_empty() {
                can.push((0, at, 0));
            }
            if !self.sides[at].jobs.is_empty() {
                can.push((1, at, 0));
            }
        }
        for (port, tcp) in &self.tcp {
            match tcp {
                Tcp::SynSent if self.sides[1].expected.contains(&(*port, 80)) => can.push((2, 0, *port)),
                Tcp::Established if !self.accepted.contains(port) => can.push((3, 0, *port)),
                _ => {}
            }
        }
        if can.is_empty() {
            return false;
        }
        let (what, at, port) = can[self.choose(can.len())];
        match what {
            0 => {
                let message = self.wires[at].pop_front().unwrap();
                let commands = self.tables[at].peer(self.now, LINK, message);
                self.carry_out(at, commands);
            }
            1 => self.job(at),
            2 => {
                self.tcp.insert(port, Tcp::Established);
                for (at, netns) in [(1, 2), (0, 1)] {
                    let commands =
                        self.tables[at].established(self.now, socket(netns, port.into()), id(port, 1).tuple);
                    self.carry_out(at, commands);
                }
            }
            _ => {
                self.accepted.insert(port);
                let commands =
                    self.tables[1].accepted(self.now, socket(2, port.into()), id(port, 1).tuple, OWNER);
                self.carry_out(1, commands);
            }
        }
        true
    }

    fn job(&mut self, at: usize) {
        let which = self.choose(self.sides[at].jobs.len());
        let job = self.sides[at].jobs.remove(which).unwrap();
        let fails = self.fails();
        let now = self.now;
        let table = &mut self.tables[at];
        let commands = match job {
            Job::Decide(key) if fails => table.decided(now, key, Decision::Refuse(crate::Reason::Denied)),
            Job::Decide(key) => table.decided(now, key, Decision::Allow(2, Nonce([5; 16]))),
            Job::Duplicate(key) if fails => table.input(now, key, Input::DuplicateFailed),
            Job::Duplicate(key) => {
                self.duplicates += 1;
                self.sides[at].open.insert(self.duplicates);
                table.input(now, key, Input::Duplicated(self.duplicates))
            }
            Job::Install(key) => {
                table.input(now, key, if fails { Input::InstallFailed } else { Input::Installed })
            }
            Job::Empty(key) => table.input(now, key, if fails { Input::EmptyFailed } else { Input::Emptied }),
        };
        self.carry_out(at, commands);
    }

    fn lose_session(&mut self) {
        self.wires = <[VecDeque<Message>; 2]>::default();
        for at in 0..2 {
            let commands = self.tables[at].session_lost(self.now, LINK);
            self.carry_out(at, commands);
        }
    }

    /// Everything goes on until only time can change anything, then time goes on too.
    fn settle(&mut self) {
        for _ in 0..100_000 {
            if self.happen() {
                continue;
            }
            let Some(next) = self.tables.iter().filter_map(Table::next_deadline).min() else {
                return;
            };
            self.now = self.now.max(next);
            for at in 0..2 {
                let commands = self.tables[at].expire(self.now);
                self.carry_out(at, commands);
            }
        }
        panic!("it never comes to rest");
    }

    fn end_sockets(&mut self, port: u16, lost: u64) {
        for at in 0..2 {
            let counts = Counts { sent: 10, received: 10 - if at == 0 { lost } else { 0 } };
            let netns = 1 + u64::try_from(at).unwrap();
            let commands = self.tables[at].ended(self.now, socket(netns, port.into()), counts);
            self.carry_out(at, commands);
        }
    }

    fn check_at_rest(&self) {
        for (table, side) in self.tables.iter().zip(&self.sides) {
            assert!(side.open.is_empty(), "descriptors are left: {:?}", side.open);
            assert!(side.expected.is_empty(), "entries are left: {:?}", side.expected);
            assert!(table.expected.is_empty() && table.opening.is_empty() && table.next_deadline().is_none());
            assert_eq!(table.by_nonce.len(), table.len());
            assert_eq!(table.by_socket.len(), table.len());
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn whatever_happens_nothing_is_left_over(choices in proptest::collection::vec(any::<u8>(), 0..400)) {
        let mut world = World::new(choices);
        let connections = 5;
        for port in 1..=connections {
            world.connect(port);
            for _ in 0..world.choose(6) {
                world.happen();
            }
            if world.choose(20) == 19 {
                world.lose_session();
            }
        }
        world.settle();
        world.check_at_rest();
        let live = world.tables[0].len();
        for port in 1..=connections {
            world.end_sockets(port, 0);
        }
        world.settle();
        world.check_at_rest();
        prop_assert!(world.tables.iter().all(Table::is_empty));
        // Every connection has its one report, and one that was let go on both sides ends complete.
        prop_assert_eq!(world.sides[0].reports.len(), usize::from(connections));
        let complete = world.sides[0].reports.values().filter(|o| **o == Outcome::Complete).count();
        prop_assert!(complete <= live);
    }
}

#[test]
fn without_failures_all_are_let_go_and_end_complete() {
    let mut world = World::new(Vec::new());
    (1..=5).for_each(|port| world.connect(port));
    world.settle();
    world.check_at_rest();
    assert_eq!((world.sides[0].released.len(), world.sides[1].released.len()), (5, 5));
    (1..=5).for_each(|port| world.end_sockets(port, 0));
    world.settle();
    for side in &world.sides {
        assert_eq!(side.reports.values().collect::<Vec<_>>(), [&Outcome::Complete; 5]);
    }
}

#[test]
fn a_stream_that_lost_bytes_at_its_end_is_reported_on_both_sides() {
    let mut world = World::new(Vec::new());
    world.connect(1);
    world.settle();
    world.end_sockets(1, 4);
    world.settle();
    let of = |at: usize| *world.sides[at].reports.values().next().unwrap();
    assert_eq!(of(0), Outcome::Truncated { sent: 0, received: 4 });
    assert_eq!(of(1), Outcome::Truncated { sent: 4, received: 0 });
}
