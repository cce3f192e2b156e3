//! One direct connection as this node sees it, and what is written of its end.

use std::sync::Arc;
use std::time::Instant;

use mtls_direct::{By, Outcome, Reason as Why};
use tokio::task::AbortHandle;

use crate::capture::HeldSyn;
use crate::datapath::relay::Place;
use crate::identity::PeerIdentity;
use crate::observe::connection::Ending;
use crate::observe::observer::Observed;
use crate::observe::{Reason, Refusal};
use crate::snapshot::WorkloadState;

/// A connection that is being made or lives.
pub(super) struct Opened {
    pub observed: Observed,
    pub workload: Arc<WorkloadState>,
    pub peer: Arc<PeerIdentity>,
    pub started: Instant,
    /// Of a client, until it may go.
    pub syn: Option<(Arc<Place>, HeldSyn)>,
    /// The application's TCP_NOTSENT_LOWAT.
    pub wish: Option<u32>,
    /// Bytes may flow.
    pub established: bool,
    /// Waits for the end of the lease.
    pub lease: Option<AbortHandle>,
    /// What ended it, where that is more than the machine knows.
    pub refusal: Option<Refusal>,
}

impl Opened {
    pub fn new(observed: Observed, workload: &Arc<WorkloadState>, peer: &Arc<PeerIdentity>) -> Self {
        Self {
            observed,
            workload: Arc::clone(workload),
            peer: Arc::clone(peer),
            started: Instant::now(),
            syn: None,
            wish: None,
            established: false,
            lease: None,
            refusal: None,
        }
    }
}

pub(super) fn note_peer(observed: &Observed, peer: &PeerIdentity) {
    observed.connection().learn(|learned| {
        learned.peer_identity = Some(peer.name.to_string());
        learned.peer_proven = true;
        learned.peer_chain = Some(Arc::clone(&peer.chain));
    });
}

/// What the log says of an outcome.
pub(super) fn ending(outcome: Outcome, established: bool, refusal: Option<Refusal>) -> Ending {
    let cut = |refusal| if established { Ending::Cut(refusal) } else { Ending::Refused(refusal) };
    match outcome {
        Outcome::Complete | Outcome::Unverified => Ending::Closed,
        Outcome::Truncated { sent, received } => {
            let detail =
                format!("{sent} bytes sent did not arrive, {received} bytes of the peer did not arrive here");
            Ending::Cut(Refusal::new(Reason::Truncated, detail))
        }
        Outcome::Failed(by, why) => {
            let who = if by == By::Peer { "said by the other daemon: " } else { "" };
            cut(refusal.unwrap_or_else(|| Refusal::new(reason_of(why), format!("{who}{why}"))))
        }
    }
}

fn reason_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::PolicyDenied,
        Why::LeaseEnded => Reason::Revoked,
        Why::SocketEnded | Why::ApplicationGone => Reason::Reset,
        _ => Reason::DirectFailed,
    }
}

/// What connect() of a held SYN says.
pub(super) fn errno_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::PolicyDenied,
        Why::NoAnswer => Reason::DialUnreachable,
        _ => Reason::DialRefused,
    }
}
