//! The direct connections that an earlier daemon left: those that it had not let go are ended, the others have leases again.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use mtls_direct::{Counts, FourTuple, Mark, Reason as Why, Recovery, recover};

use super::host::Host;
use super::leased::Leased;
use super::opened::note_peer;
use crate::capture::{Live, Phase};
use crate::datapath::direct::drive::Node as _;
use crate::datapath::relay::Place;
use crate::datapath::relay::admission::ConnectionPermit;
use crate::handshake::PeerRole;
use crate::identity::PeerIdentity;
use crate::lease::Lease;
use crate::lifecycle::daemon::lock;
use crate::observe::connection::{Datapath, Direction, Ending};
use crate::observe::observer::Observed;
use crate::observe::{Reason, Refusal};
use crate::snapshot::WorkloadState;
use crate::sys::sock_diag::{StateFlags, each_tcp};

/// What is known of them.
#[derive(Default)]
pub(super) struct Left {
    /// Their namespace, or their workload's identity, is not there yet.
    waiting: Mutex<Vec<Live>>,
    kept: Mutex<HashMap<u64, Kept>>,
    leased: Leased<u64>,
}

/// One that has a lease again.
struct Kept {
    observed: Observed,
    lease: Lease,
    live: Live,
    /// The limit may be reached by those that were there before.
    _permit: Option<ConnectionPermit>,
}

/// Which end is the client's.
fn tuple(live: &Live) -> FourTuple {
    match direction(live) {
        Direction::Outbound => FourTuple { client: live.local, server: live.remote },
        Direction::Inbound => FourTuple { client: live.remote, server: live.local },
    }
}

fn direction(live: &Live) -> Direction {
    match live.role {
        mtls_common::Role::Client => Direction::Outbound,
        mtls_common::Role::Server => Direction::Inbound,
    }
}

fn mark(phase: Phase) -> Mark {
    match phase {
        Phase::Held => Mark::Held,
        Phase::Released => Mark::Released,
    }
}

impl Host {
    /// Once, before anything new becomes direct.
    pub(super) fn find_left(&self) {
        let left = self.relay().capture.direct_sockets();
        self.journal.keep_only(&left.iter().map(|live| live.session).collect());
        if !left.is_empty() {
            tracing::info!(connections = left.len(), "direct connections of an earlier daemon are there");
        }
        *lock(&self.left.waiting) = left;
    }

    /// Those whose namespace and identity are there by now.
    pub(super) fn take_over(self: &Arc<Self>) {
        let waiting = std::mem::take(&mut *lock(&self.left.waiting));
        let mut still = Vec::new();
        let mut there: HashMap<u64, Option<HashSet<u64>>> = HashMap::new();
        for live in waiting {
            let Some(place) = self.place(live.netns) else {
                still.push(live);
                continue;
            };
            match there.entry(live.netns).or_insert_with(|| sockets(&place)) {
                // The event of its end came to nobody.
                Some(sockets) if !sockets.contains(&live.cookie) => {
                    self.relay().capture.forget_direct_socket(live.cookie);
                }
                _ => still.extend(self.take_over_one(live)),
            }
        }
        lock(&self.left.waiting).extend(still);
    }

    /// It comes back where it is too early.
    fn take_over_one(self: &Arc<Self>, live: Live) -> Option<Live> {
        if recover(mark(live.phase)) == Recovery::Destroy {
            self.destroy(live.netns, Some(live.cookie), tuple(&live), Why::Recovered);
            return None;
        }
        let snapshot = self.relay().snapshot.load_full();
        let Some(workload) = snapshot.workloads.get(&live.workload) else { return Some(live) };
        let Ok(identity) = &workload.identity else { return Some(live) };
        let role = match direction(&live) {
            Direction::Outbound => PeerRole::Server,
            Direction::Inbound => PeerRole::Client,
        };
        let observed = self.observe(workload, direction(&live), tuple(&live));
        observed.established(Datapath::Direct, None);
        let peer = self
            .journal
            .read(live.session)
            .map_err(|error| {
                Refusal::new(Reason::DirectFailed, format!("nobody knows who its peer was: {error}"))
            })
            .and_then(|chain| identity.tls.verify_again(&chain, role, SystemTime::now()));
        match peer {
            Ok(peer) => self.keep_left(live, workload, observed, Arc::new(peer)),
            Err(refusal) => self.cut_left(&live, observed, refusal),
        }
        None
    }

    fn keep_left(
        self: &Arc<Self>,
        live: Live,
        workload: &Arc<WorkloadState>,
        observed: Observed,
        peer: Arc<PeerIdentity>,
    ) {
        note_peer(&observed, workload, &peer, peer.name.to_string().into());
        let lease = match self.lease(workload, direction(&live), tuple(&live), peer) {
            Ok(lease) => lease,
            Err(refusal) => return self.cut_left(&live, observed, refusal),
        };
        let standing = lease.standing();
        observed.connection().learn(|learned| learned.standing = standing);
        let permit = self.permit(&self.relay().snapshot.load(), workload).ok();
        let host = Arc::downgrade(self);
        let mut kept = lock(&self.left.kept);
        // Inside the lock: its end finds it here.
        self.left.leased.watch(&lease, live.cookie, move |cookie| {
            if let Some(host) = host.upgrade() {
                host.lease_of_left_over(cookie);
            }
        });
        kept.insert(live.cookie, Kept { observed, lease, live, _permit: permit });
    }

    fn cut_left(&self, live: &Live, observed: Observed, refusal: Refusal) {
        self.destroy(live.netns, Some(live.cookie), tuple(live), Why::LeaseEnded);
        observed.end(Ending::Cut(refusal));
    }

    fn lease_of_left_over(&self, cookie: u64) {
        let live = lock(&self.left.kept).get(&cookie).map(|kept| kept.live);
        if let Some(live) = live {
            self.destroy(live.netns, Some(cookie), tuple(&live), Why::LeaseEnded);
        }
    }

    /// A socket ended. True: it was an earlier daemon's.
    pub(super) fn left_ended(&self, cookie: u64, counts: Counts) -> bool {
        lock(&self.left.waiting).retain(|live| live.cookie != cookie);
        let Some(kept) = lock(&self.left.kept).remove(&cookie) else { return false };
        let Kept { observed, lease, live, .. } = kept;
        self.left.leased.forget(&lease, cookie);
        observed.add_sent(counts.sent);
        observed.add_received(counts.received);
        observed.end(match lease.refusal() {
            Some(refusal) => Ending::Cut(Refusal::clone(&refusal)),
            // The other side's counts are not to be had.
            None => Ending::Closed,
        });
        drop(lease);
        let of_session = |kept: &Kept| kept.live.session == live.session;
        if !lock(&self.left.kept).values().any(of_session) {
            self.journal.forget(live.session);
        }
        true
    }

    /// The daemon stops: what flows goes on, and is the next one's to record.
    pub(super) fn leave_left(&self) {
        self.left.leased.forget_all();
        for kept in std::mem::take(&mut *lock(&self.left.kept)).into_values() {
            kept.observed.left_open();
        }
    }
}

/// Cookies of the connections of a namespace; `None`: they cannot be had, so that all must be taken to be there.
fn sockets(place: &Place) -> Option<HashSet<u64>> {
    let mut cookies = HashSet::new();
    let read = place.netns.run(|| {
        each_tcp(StateFlags::all(), None, |socket| {
            cookies.insert(socket.cookie);
        })
    });
    read.inspect_err(|error| tracing::warn!(%error, "the sockets of a namespace cannot be listed")).ok()?;
    Some(cookies)
}
