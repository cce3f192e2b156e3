//! One direct connection as this node sees it, and what is written of its end.

use std::num::NonZeroU64;
use std::sync::Arc;

use mtls_direct::{By, Named, Nonce, Outcome, Reason as Why};

use super::links::Peer;
use crate::datapath::direct::drive::LinkId;
use crate::datapath::relay::admission::ConnectionPermit;
use crate::identity::PeerIdentity;
use crate::lease::Lease;
use crate::observe::connection::Ending;
use crate::observe::observer::Observed;
use crate::observe::{Reason, Refusal};
use crate::snapshot::WorkloadState;

/// What a connection needs before it may be.
pub(super) type Admitted = (ConnectionPermit, Lease);

/// How this node calls a connection: its session, and the client's nonce there.
pub(super) type Name = (LinkId, Nonce);

/// A connection that is being made or lives.
pub(super) struct Opened {
    name: Name,
    pub observed: Observed,
    pub workload: Arc<WorkloadState>,
    pub lease: Lease,
    /// The application's TCP_NOTSENT_LOWAT.
    pub wish: Option<u32>,
    /// How many bytes one of its keys may protect.
    pub key_limit: Option<NonZeroU64>,
    /// Bytes may flow.
    pub established: bool,
    /// Why the guard has closed.
    pub guard: Option<Box<Refusal>>,
    /// What ended it, where that is more than the machine knows.
    pub refusal: Option<Box<Refusal>>,
    _permit: ConnectionPermit,
}

impl Named for Opened {
    type Name = Name;

    fn name(&self) -> Name {
        self.name
    }
}

impl Opened {
    pub fn new(
        name: Name,
        observed: Observed,
        workload: &Arc<WorkloadState>,
        (permit, lease): Admitted,
    ) -> Self {
        Self {
            name,
            observed,
            workload: Arc::clone(workload),
            lease,
            wish: None,
            key_limit: None,
            established: false,
            guard: None,
            refusal: None,
            _permit: permit,
        }
    }
}

/// Whether what was refused is the peer's identity or our own, so that no connection of the same session may be.
pub(super) fn is_of_identity(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::Revoked
            | Reason::CertificateExpired
            | Reason::NoIdentity
            | Reason::TrustDomain
            | Reason::UnknownIssuer
    )
}

/// What the session's handshake has shown.
pub(super) fn note_session(observed: &Observed, workload: &WorkloadState, peer: &Peer) {
    note_peer(observed, workload, &peer.identity, Arc::clone(&peer.name));
    let tls = peer.tls.clone();
    observed.connection().learn(|learned| learned.tls = tls);
}

/// Who is at both ends; `name`: the peer's.
pub(super) fn note_peer(observed: &Observed, workload: &WorkloadState, peer: &PeerIdentity, name: Arc<str>) {
    let own = workload.identity.as_ref().ok().map(|identity| Arc::clone(&identity.certificate));
    observed.connection().learn(|learned| {
        learned.local_certificate = own;
        learned.peer_identity = Some(name);
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
        Outcome::Forged(bytes) => {
            let detail = format!(
                "{bytes} bytes arrived that the other side had not sent: somebody is on the path; no application read them, and what came after them is lost"
            );
            Ending::Cut(Refusal::new(Reason::DirectFailed, detail))
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

/// Nothing changes the key of a direct connection.
pub(super) fn key_is_used_up() -> Refusal {
    let detail = "and nothing changes the key of a direct connection; for larger ones choose TLS_CHACHA20_POLY1305_SHA256, or `direct: never`";
    Refusal::new(Reason::KeyLimit, detail)
}

/// Something else than a TLS record came, or was about to leave, where one had to be.
pub(super) fn violation() -> Refusal {
    let detail = "what came first was no TLS record: somebody is on the path, or one end is at fault; nothing of it was let through";
    Refusal::new(Reason::DirectFailed, detail)
}

/// What connect() of a held SYN says.
pub(super) fn errno_of(why: Why) -> Reason {
    match why {
        Why::Denied => Reason::PolicyDenied,
        Why::NoAnswer => Reason::DialUnreachable,
        _ => Reason::DialRefused,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(outcome: Outcome, established: bool, known: Option<Refusal>) -> (bool, Refusal) {
        match ending(outcome, established, known) {
            Ending::Refused(refusal) => (false, refusal),
            Ending::Cut(refusal) => (true, refusal),
            Ending::Closed => panic!("a clean end"),
        }
    }

    /// What every live connection costs here (SPECIFICATION.md, "Direct").
    #[test]
    fn what_is_kept_of_a_connection_is_small() {
        assert!(size_of::<Opened>() <= 184, "{}", size_of::<Opened>());
    }

    #[test]
    fn only_what_was_whole_or_could_not_be_compared_is_a_clean_end() {
        for outcome in [Outcome::Complete, Outcome::Unverified] {
            assert!(matches!(ending(outcome, true, None), Ending::Closed));
        }
        let (cut, refusal) = refused(Outcome::Truncated { sent: 3, received: 0 }, true, None);
        assert_eq!((cut, refusal.reason), (true, Reason::Truncated));
        assert!(refusal.detail.contains("3 bytes sent did not arrive"), "{refusal}");
        let (cut, refusal) = refused(Outcome::Forged(32), true, None);
        assert_eq!((cut, refusal.reason), (true, Reason::DirectFailed));
        assert!(refusal.detail.starts_with("32 bytes arrived that"), "{refusal}");
    }

    #[test]
    fn a_failure_says_whose_word_it_is_and_what_is_known_better_than_the_machine() {
        let failed = |by, why| Outcome::Failed(by, why);
        let (cut, refusal) = refused(failed(By::Peer, Why::Denied), false, None);
        assert_eq!((cut, refusal.reason), (false, Reason::PolicyDenied));
        assert!(refusal.detail.starts_with("said by the other daemon: denied by the policy"), "{refusal}");
        let known = Refusal::new(Reason::CertificateExpired, "yesterday");
        let (cut, refusal) = refused(failed(By::Us, Why::LeaseEnded), true, Some(known));
        assert_eq!((cut, refusal.reason), (true, Reason::CertificateExpired));
        assert_eq!(refused(failed(By::Us, Why::NotEmptied), false, None).1.reason, Reason::DirectFailed);
        assert_eq!(refused(failed(By::Us, Why::SocketEnded), true, None).1.reason, Reason::Reset);
    }

    #[test]
    fn connect_says_what_a_relay_would_say() {
        assert_eq!(errno_of(Why::Denied), Reason::PolicyDenied);
        assert_eq!(errno_of(Why::NoAnswer), Reason::DialUnreachable);
        assert_eq!(errno_of(Why::NoDescriptor), Reason::DialRefused);
    }

    #[test]
    fn policy_of_one_connection_says_nothing_of_its_session() {
        assert!(is_of_identity(Reason::Revoked) && is_of_identity(Reason::CertificateExpired));
        assert!(!is_of_identity(Reason::PolicyDenied) && !is_of_identity(Reason::ShuttingDown));
    }
}
