//! The daemon's presence in one network namespace: its listeners, its answers to held SYNs, and which
//! workload owns which port there.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use tokio::net::TcpStream;
use tokio::sync::{oneshot, watch};

use crate::capture::{HeldSyn, Injector, Listeners, Unreachable};
use crate::observe::Reason;
use crate::sys::netns::Netns;

/// Longer than the kernel tries to connect with any usual `tcp_syn_retries`.
const LONGEST_CONNECT: Duration = Duration::from_secs(600);

/// Who receives inbound connections of a namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owners {
    /// The workload that has the whole namespace.
    pub whole: Option<u32>,
    /// Owners of single ports.
    pub ports: HashMap<u16, u32>,
}

impl Owners {
    /// The workload that owns a port.
    #[must_use]
    pub fn of(&self, port: u16) -> Option<u32> {
        self.ports.get(&port).copied().or(self.whole)
    }
}

/// What became of a held SYN.
enum Hold {
    /// The daemon is finding out.
    Waiting,
    /// It may go; sent again if the kernel asks.
    Released,
    /// It was answered; again, should the kernel have missed it (a socket in use takes no ICMP error).
    Answered(Answer),
}

struct HeldEntry {
    hold: Hold,
    since: Instant,
    /// Dropped with the entry, which tells the task that the application gave up.
    _alive: oneshot::Sender<()>,
}

/// One namespace with the daemon in it.
pub struct Place {
    /// The namespace.
    pub netns: Netns,
    /// Its cookie.
    pub cookie: u64,
    /// Who owns what.
    pub owners: ArcSwap<Owners>,
    /// Sockets here are born held, so that connections may be direct.
    pub held_for_direct: AtomicBool,
    /// Becomes true when the daemon leaves the namespace.
    pub left: watch::Sender<bool>,
    injector: Injector,
    outbound_ports: (u16, u16),
    inbound_families: Vec<u32>,
    /// Addresses from which the daemon tries its own strict ports.
    probes: Mutex<HashSet<SocketAddr>>,
    held: Mutex<HashMap<u64, HeldEntry>>,
    awaited: Mutex<HashMap<SocketAddr, oneshot::Sender<TcpStream>>>,
}

impl Place {
    /// Makes these its owners, if they are others than before.
    pub fn give_to(&self, owners: &Owners) {
        if **self.owners.load() != *owners {
            self.owners.store(Arc::new(owners.clone()));
        }
    }

    /// A place for an opened namespace.
    #[must_use]
    pub fn new(netns: Netns, cookie: u64, owners: Owners, listeners: &Listeners, injector: Injector) -> Self {
        Self {
            netns,
            cookie,
            owners: ArcSwap::from_pointee(owners),
            held_for_direct: AtomicBool::new(false),
            left: watch::channel(false).0,
            injector,
            outbound_ports: listeners.outbound_ports(),
            inbound_families: listeners.inbound().map(|(family, _)| family).collect(),
            probes: Mutex::default(),
            held: Mutex::default(),
            awaited: Mutex::default(),
        }
    }

    /// A SYN is held, for the first time or `again`. `Some`: a new one, with what resolves when the
    /// application gives up.
    pub fn hold(&self, socket: u64, syn: &HeldSyn, again: bool) -> Option<oneshot::Receiver<()>> {
        let (v4, v6) = self.outbound_ports;
        let port = syn.listener.port();
        if port != if syn.listener.is_ipv4() { v4 } else { v6 } {
            // It was turned to the listener of an earlier daemon.
            let _ = self.injector.refuse(syn);
            return None;
        }
        match lock(&self.held).entry(socket) {
            Entry::Occupied(entry) => {
                let sent = match entry.get().hold {
                    Hold::Waiting => Ok(()),
                    Hold::Released => self.injector.release(syn),
                    Hold::Answered(answer) => self.inject(syn, answer),
                };
                if let Err(error) = sent {
                    tracing::debug!(%error, "a held connect() could not be answered again");
                }
                None
            }
            // Its connection was established while this event waited.
            Entry::Vacant(_) if again => None,
            Entry::Vacant(entry) => {
                let (alive, gone) = oneshot::channel();
                entry.insert(HeldEntry { hold: Hold::Waiting, since: Instant::now(), _alive: alive });
                Some(gone)
            }
        }
    }

    /// The application gave up, or the connection is established: nothing is held any more.
    pub fn forget(&self, socket: u64) {
        lock(&self.held).remove(&socket);
    }

    /// Lets a SYN through; the application's connection arrives at the receiver.
    ///
    /// # Errors
    /// When the packet cannot be sent.
    pub fn release(&self, socket: u64, syn: &HeldSyn) -> io::Result<oneshot::Receiver<TcpStream>> {
        let (sender, receiver) = oneshot::channel();
        lock(&self.awaited).insert(syn.source, sender);
        if let Some(entry) = lock(&self.held).get_mut(&socket) {
            entry.hold = Hold::Released;
        }
        self.injector.release(syn)?;
        Ok(receiver)
    }

    /// Stops waiting for a released connection.
    pub fn stop_waiting(&self, source: SocketAddr) {
        lock(&self.awaited).remove(&source);
    }

    /// An application's connection arrived at the outbound listener. One that nobody waits for was not
    /// captured but came to our port directly, and is dropped.
    pub fn arrived(&self, from: SocketAddr, stream: TcpStream) {
        if let Some(sender) = lock(&self.awaited).remove(&from) {
            let _nobody = sender.send(stream);
        }
    }

    /// Fails a held connect() with the errno that says what happened.
    pub fn answer(&self, socket: u64, syn: &HeldSyn, reason: Reason) {
        let answer = Answer::to(reason);
        if let Entry::Occupied(mut entry) = lock(&self.held).entry(socket) {
            match entry.get().hold {
                // Most likely established by now, so that no event will say when it ends.
                Hold::Released => drop(entry.remove()),
                Hold::Waiting | Hold::Answered(_) => entry.get_mut().hold = Hold::Answered(answer),
            }
        }
        if let Err(error) = self.inject(syn, answer) {
            tracing::warn!(%error, reason = reason.code(), "the answer to a held connect() could not be sent");
        }
    }

    fn inject(&self, syn: &HeldSyn, answer: Answer) -> io::Result<()> {
        match answer {
            Answer::Refuse => self.injector.refuse(syn),
            Answer::Unreachable(what) => self.injector.unreachable(syn, what),
            Answer::Silence => Ok(()),
        }
    }

    /// Lets the SYN of a direct connection go to where it wants to go.
    ///
    /// # Errors
    /// When the packet cannot be sent.
    pub fn release_direct(&self, syn: &HeldSyn) -> io::Result<()> {
        self.injector.release(syn)
    }

    /// Fails the connect() of a direct connection, whose SYN was never let go.
    ///
    /// # Errors
    /// When the packet cannot be sent.
    pub fn answer_direct(&self, syn: &HeldSyn, reason: Reason) -> io::Result<()> {
        self.inject(syn, Answer::to(reason))
    }

    /// Forgets what was answered so long ago that the application's socket must be gone: the event that says
    /// so is lost when the ring is full.
    pub fn forget_old(&self) {
        lock(&self.held).retain(|_, entry| match entry.hold {
            Hold::Answered(_) => entry.since.elapsed() < LONGEST_CONNECT,
            Hold::Waiting | Hold::Released => true,
        });
    }

    /// Ports of the outbound listeners, IPv4 and IPv6; 0 where there is none.
    #[must_use]
    pub fn outbound_ports(&self) -> (u16, u16) {
        self.outbound_ports
    }

    /// The address families for which there is an inbound listener.
    pub fn families(&self) -> impl Iterator<Item = u32> + '_ {
        self.inbound_families.iter().copied()
    }

    /// A connection from there will be the daemon's own, to try a strict port.
    pub fn expect_probe(&self, from: SocketAddr) {
        lock(&self.probes).insert(from);
    }

    /// The trial from there is over.
    pub fn forget_probe(&self, from: SocketAddr) {
        lock(&self.probes).remove(&from);
    }

    /// Whether a connection from there is the daemon's own trial.
    #[must_use]
    pub fn is_probe(&self, from: SocketAddr) -> bool {
        lock(&self.probes).contains(&from)
    }

    /// Connects to the outbound listeners, as the kernel does for a captured connect().
    ///
    /// # Errors
    /// What connect() says.
    pub fn listeners_alive(&self) -> io::Result<()> {
        let (v4, v6) = self.outbound_ports;
        let v4 = SocketAddr::from((std::net::Ipv4Addr::LOCALHOST, v4));
        let v6 = (v6 != 0).then(|| SocketAddr::from((std::net::Ipv6Addr::LOCALHOST, v6)));
        for address in [Some(v4), v6].into_iter().flatten() {
            let patience = std::time::Duration::from_secs(1);
            match self.netns.run(|| std::net::TcpStream::connect_timeout(&address, patience)) {
                // Nobody waits for this connection: whoever took it may have reset it already.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                other => drop(other?),
            }
        }
        Ok(())
    }

    /// How many connect() calls wait here.
    #[must_use]
    pub fn waiting(&self) -> usize {
        lock(&self.held).values().filter(|entry| matches!(entry.hold, Hold::Waiting)).count()
    }
}

/// How a refusal looks to connect().
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// ECONNREFUSED.
    Refuse,
    /// EHOSTUNREACH, ENETUNREACH or (IPv6) EACCES.
    Unreachable(Unreachable),
    /// ETIMEDOUT, by the application's own timer.
    Silence,
}

impl Answer {
    /// The answer that says the same as the reason.
    #[must_use]
    pub fn to(reason: Reason) -> Self {
        match reason {
            Reason::DialRefused
            | Reason::ApplicationRefused
            | Reason::HandshakeClosed
            | Reason::WorkloadLimit
            | Reason::TotalLimit
            | Reason::HandshakeLimit
            | Reason::ShuttingDown
            | Reason::Reset
            | Reason::Truncated
            | Reason::DirectFailed
            | Reason::Internal => Self::Refuse,
            Reason::DialTimeout => Self::Silence,
            // It took the TCP connection and then said nothing: ETIMEDOUT cannot be injected, and the
            // application's own timer would take two minutes more.
            Reason::DialUnreachable | Reason::HandshakeTimeout => Self::Unreachable(Unreachable::Host),
            _ => Self::Unreachable(Unreachable::Prohibited),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code panics while it holds one of these locks, and what they guard is valid at every step.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_errno_of_connect_says_what_happened() {
        assert_eq!(Answer::to(Reason::DialRefused), Answer::Refuse);
        assert_eq!(Answer::to(Reason::ApplicationRefused), Answer::Refuse);
        assert_eq!(Answer::to(Reason::DialTimeout), Answer::Silence);
        assert_eq!(Answer::to(Reason::DialUnreachable), Answer::Unreachable(Unreachable::Host));
        for identity in [Reason::PolicyDenied, Reason::UnknownIssuer, Reason::UnexpectedServer] {
            assert_eq!(Answer::to(identity), Answer::Unreachable(Unreachable::Prohibited));
        }
    }

    #[test]
    fn a_port_has_its_own_owner_or_the_namespaces() {
        let owners = Owners { whole: Some(1), ports: HashMap::from([(5432, 2)]) };
        assert_eq!(owners.of(5432), Some(2));
        assert_eq!(owners.of(80), Some(1));
        assert_eq!(Owners::default().of(80), None);
    }
}
