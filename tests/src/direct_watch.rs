//! Watches that connections between `web` and `far` are direct, that both ends count the same bytes, and that nothing but TLS is
//! on the wire.

use std::net::SocketAddr;
use std::time::Duration;

use crate::direct::{World, records};
use crate::lab::within;
use crate::wire::Capture;
use crate::{Record, programs, slow};

/// A world with a session for one port of `far`, and what its daemons had recorded up to now.
#[derive(Debug)]
pub struct Watch {
    /// Its world.
    pub world: World,
    port: u16,
    capture: Capture,
    seen: [usize; 2],
}

/// What a group of connections must have left in the access logs.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// How many connections.
    pub connections: usize,
    /// Reasons that may stand in the records; "" is none.
    pub reasons: &'a [&'a str],
}

impl Watch {
    /// Makes the world. `first` uses its server on that port once: that goes by relay and has the session made.
    #[track_caller]
    pub fn start(port: u16, first: impl FnOnce(&World, SocketAddr)) -> Self {
        let world = World::bare(&[port], "", "");
        Self::over(world, port, first)
    }

    /// With a world that is there already.
    #[track_caller]
    pub fn over(world: World, port: u16, first: impl FnOnce(&World, SocketAddr)) -> Self {
        let to = world.far().at(port);
        first(&world, to);
        world.wait_session(to);
        let capture = world.lab.capture();
        let mut watch = Self { world, port, capture, seen: [0; 2] };
        watch.skip();
        watch
    }

    /// nginx on port 80 of `far`.
    #[track_caller]
    pub fn nginx() -> Self {
        let mut world = World::bare(&[80], "", "");
        world.nginx = Some(programs::nginx(world.far(), 80));
        Self::over(world, 80, |world, to| {
            world.get(to).ok();
        })
    }

    /// Where the server is.
    pub fn to(&self) -> SocketAddr {
        self.world.far().at(self.port)
    }

    /// The server's port.
    pub fn port(&self) -> u16 {
        self.port
    }

    fn of_both(&self) -> [Vec<Record>; 2] {
        [records(&self.world.here, "web"), records(&self.world.there, "far")]
    }

    /// What is recorded already is not looked at again, once the records of both ends are there.
    pub fn skip(&mut self) {
        let both = within(slow::limit(15), || {
            let both = self.of_both();
            (both[0].len() == both[1].len()).then_some(both)
        });
        self.seen = both.unwrap_or_else(|| self.of_both()).map(|records| records.len());
    }

    /// As [`Watch::skip`], where a connection may have got no further than one end: once no record has come for a moment.
    pub fn skip_unequal(&mut self) {
        loop {
            let before = self.of_both().map(|records| records.len());
            std::thread::sleep(Duration::from_millis(300));
            self.seen = self.of_both().map(|records| records.len());
            if self.seen == before {
                return;
            }
        }
    }

    /// Waits for the records of connections that were made since the last call, and says what is wrong about them.
    ///
    /// # Errors
    /// When one is missing, was not direct, ended for a reason that was not wanted, or counted other bytes than its other end.
    pub fn look(&mut self, wanted: Wanted<'_>) -> Result<(), String> {
        within(slow::limit(20), || {
            self.fresh().iter().all(|records| records.len() >= wanted.connections).then_some(())
        });
        let fresh = self.fresh();
        self.judge(&fresh, wanted)
    }

    /// What both ends recorded since the last call.
    fn fresh(&self) -> [Vec<Record>; 2] {
        let mut fresh = self.of_both();
        for (records, seen) in fresh.iter_mut().zip(self.seen) {
            records.drain(..seen.min(records.len()));
        }
        fresh
    }

    fn judge(&mut self, fresh: &[Vec<Record>; 2], wanted: Wanted<'_>) -> Result<(), String> {
        self.seen = [0, 1].map(|end: usize| self.seen[end] + fresh[end].len());
        let [here, there] = fresh;
        let shown = || here.iter().chain(there).map(|r| r.0.to_string()).collect::<Vec<_>>().join("\n");
        if here.len() != wanted.connections || there.len() != wanted.connections {
            let (n, here, there) = (wanted.connections, here.len(), there.len());
            return Err(format!("{n} connections, {here} records here, {there} there:\n{}", shown()));
        }
        for record in here.iter().chain(there) {
            if record.datapath().starts_with("relay") {
                return Err(format!("a relay carried it: {}", record.0));
            }
            if record.datapath() != "direct" || !wanted.reasons.contains(&record.reason()) {
                return Err(format!("not direct or ended for a reason: {}", record.0));
            }
        }
        for record in here {
            let other = there.iter().find(|other| other.source() == record.source());
            let equal =
                |other: &Record| (other.sent(), other.received()) == (record.received(), record.sent());
            if !other.is_some_and(equal) {
                return Err(format!("the ends disagree about bytes:\n{}", shown()));
            }
        }
        Ok(())
    }

    /// As [`Watch::look`], where every connection ends without a reason.
    ///
    /// # Panics
    /// When something is wrong.
    #[track_caller]
    pub fn all_direct(&mut self, what: &str, connections: usize) {
        let told = self.look(Wanted { connections, reasons: &[""] });
        told.unwrap_or_else(|told| panic!("{what}: {told}\n{}", self.world.printed()));
    }

    /// As [`Watch::all_direct`] for a program that makes as many connections as it likes, at least one.
    ///
    /// # Panics
    /// When something is wrong.
    #[track_caller]
    pub fn direct_however_many(&mut self, what: &str) {
        // Equal at both ends, and no more of them a second later: a program's connections do not all end at once.
        let mut fresh = self.fresh();
        within(slow::limit(20), || {
            std::thread::sleep(Duration::from_secs(1));
            let before = std::mem::replace(&mut fresh, self.fresh()).map(|records| records.len());
            let [here, there] = [0, 1].map(|end: usize| fresh[end].len());
            (here > 0 && here == there && before == [here, there]).then_some(())
        });
        let connections = fresh[0].len();
        assert!(connections > 0, "{what}: no connection\n{}", self.world.printed());
        let told = self.judge(&fresh, Wanted { connections, reasons: &[""] });
        told.unwrap_or_else(|told| panic!("{what}: {told}\n{}", self.world.printed()));
    }

    /// Nothing but TLS was on the wire from and to the port, since the beginning.
    ///
    /// # Panics
    /// When there was, or when there was nothing.
    #[track_caller]
    pub fn only_tls(self) {
        self.capture.stop().assert_only_tls(self.port);
    }

    /// As [`Watch::only_tls`], where there may have been nothing at all.
    ///
    /// # Panics
    /// When there was something else.
    #[track_caller]
    pub fn no_plaintext(self) {
        let traffic = self.capture.stop();
        if traffic.of_port(self.port).any(|stream| !stream.bytes.is_empty()) {
            traffic.assert_only_tls(self.port);
        }
    }
}
