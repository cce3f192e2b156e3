//! How long each wait may last, and which run.
use std::collections::BTreeSet;
use std::time::Duration;

use super::command::Key;
use crate::Timer;

/// The bounds of a node's direct connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// [`Timer::Answer`].
    pub answer: Duration,
    /// [`Timer::Handshake`].
    pub handshake: Duration,
    /// [`Timer::Accept`].
    pub accept: Duration,
    /// [`Timer::Arming`].
    pub arming: Duration,
    /// [`Timer::PeerReady`]; longer than `accept` and `arming` together, or a slow server is taken for a dead one.
    pub peer_ready: Duration,
    /// [`Timer::EarlyRelease`]; `None`: a client waits for its server's accept().
    pub early_release: Option<Duration>,
    /// [`Timer::PeerCounts`].
    pub peer_counts: Duration,
    /// Connections that may be in the making over one session, so that no peer takes the room of all.
    pub opening_per_session: usize,
    /// Connections of the node, of all sessions.
    pub connections: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            answer: Duration::from_secs(2),
            handshake: Duration::from_secs(5),
            accept: Duration::from_secs(30),
            // An application that gets no processor is no reason to reset its connection.
            arming: Duration::from_secs(5),
            peer_ready: Duration::from_secs(38),
            // What it lets out too early is sent again after TCP's 200 ms: only for who cannot accept() before it has sent.
            early_release: Some(Duration::from_millis(100)),
            peer_counts: Duration::from_secs(5),
            opening_per_session: 1024,
            connections: 1 << 20,
        }
    }
}

impl Limits {
    pub(super) fn of(&self, timer: Timer) -> Option<Duration> {
        match timer {
            Timer::Answer => Some(self.answer),
            Timer::Handshake => Some(self.handshake),
            Timer::Accept => Some(self.accept),
            Timer::Arming => Some(self.arming),
            Timer::PeerReady => Some(self.peer_ready),
            Timer::EarlyRelease => self.early_release,
            Timer::PeerCounts => Some(self.peer_counts),
        }
    }
}

/// The timers that run, the next one first.
#[derive(Debug, Default)]
pub(super) struct Timers(BTreeSet<(Duration, Key, Timer)>);

impl Timers {
    pub fn next(&self) -> Option<Duration> {
        self.0.first().map(|(at, ..)| *at)
    }

    pub fn start(&mut self, at: Duration, key: Key, timer: Timer) {
        self.0.insert((at, key, timer));
    }

    pub fn stop(&mut self, at: Duration, key: Key, timer: Timer) {
        self.0.remove(&(at, key, timer));
    }

    /// The first one that has run out.
    pub fn pop(&mut self, now: Duration) -> Option<(Key, Timer)> {
        if self.next()? > now {
            return None;
        }
        self.0.pop_first().map(|(_, key, timer)| (key, timer))
    }
}
