//! Who is connected, and what leads to them.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use crate::identity::revocation::{CertificateMarks, Serial, Sha256, Target};
use crate::identity::verified::Fingerprint;
use crate::identity::{ChainMarks, PeerIdentity, PeerName, Revocations, SpiffeId};
use crate::observe::Refusal;
use crate::observe::connection::Direction;

/// What a connection is judged by, for as long as it lives.
#[derive(Debug, Clone)]
pub struct Parties {
    /// The workload's name.
    pub workload: Arc<str>,
    /// The workload's certificate; `None` where it was not used.
    pub own: Option<Own>,
    /// The peer, as it was verified; `None` where it proved nothing.
    pub peer: Option<Arc<PeerIdentity>>,
    /// Who opened it.
    pub direction: Direction,
    /// The server's port.
    pub port: u16,
    /// Where the peer is.
    pub address: IpAddr,
}

/// The workload's own certificate.
#[derive(Debug, Clone)]
pub struct Own {
    /// What its chain can be revoked by.
    pub marks: Arc<ChainMarks>,
    /// Its `notAfter`.
    pub not_after: SystemTime,
}

/// Connections with equal keys are judged alike.
pub(super) type Key = (Arc<str>, Option<Fingerprint>, Option<Fingerprint>, Direction, u16, IpAddr);

impl Parties {
    /// Why the connection may not go on.
    #[must_use]
    pub fn revoked(&self, revocations: &Revocations, now: SystemTime) -> Option<Refusal> {
        [("the peer", self.peer_marks()), ("the workload itself", self.own_marks())].into_iter().find_map(
            |(who, chain)| {
                let refusal = revocations.refusal_of(chain?, now)?;
                Some(Refusal::new(refusal.reason, format!("of {who}: {}", refusal.detail)))
            },
        )
    }

    /// The peer's SPIFFE ID, if it has one.
    #[must_use]
    pub fn peer_id(&self) -> Option<&SpiffeId> {
        self.peer.as_ref().and_then(|peer| peer.name.spiffe_id())
    }

    /// How the log calls the peer.
    #[must_use]
    pub fn peer_name(&self) -> String {
        match &self.peer {
            Some(peer) => PeerName::to_string(&peer.name),
            None => format!("{} without identity", self.address),
        }
    }

    /// What the two chains can be revoked by.
    pub fn chains(&self) -> impl Iterator<Item = &ChainMarks> {
        self.own_marks().into_iter().chain(self.peer_marks())
    }

    fn own_marks(&self) -> Option<&ChainMarks> {
        self.own.as_ref().map(|own| &*own.marks)
    }

    fn peer_marks(&self) -> Option<&ChainMarks> {
        self.peer.as_ref().map(|peer| &*peer.marks)
    }

    pub(super) fn key(&self) -> Key {
        let of = |chain: Option<&ChainMarks>| chain.map(|chain| chain.fingerprint);
        let (own, peer) = (of(self.own_marks()), of(self.peer_marks()));
        (Arc::clone(&self.workload), own, peer, self.direction, self.port, self.address)
    }

    pub(super) fn marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let ids = self.chains().filter_map(|chain| chain.id.as_ref()).map(|id| Mark::Id(id.as_str()));
        let certificates = self.chains().flat_map(|chain| &chain.certificates).flat_map(
            |CertificateMarks { serial, issuer, key }| {
                [Mark::Serial(serial), Mark::Issuer(issuer), Mark::Key(key)]
            },
        );
        let domain = self.peer_id().map(|id| Mark::TrustDomain(id.trust_domain().as_str()));
        let port = (self.direction == Direction::Inbound).then(|| Mark::Port(&self.workload, self.port));
        std::iter::once(Mark::Workload(&self.workload))
            .chain(port)
            .chain(domain)
            .chain(ids)
            .chain(certificates)
    }
}

#[cfg(test)]
impl Parties {
    /// An inbound connection to port 80 from a peer that is known by these marks.
    pub(crate) fn of_peer(workload: &str, peer: Option<Arc<ChainMarks>>) -> Self {
        let peer = peer.map(|marks| {
            let name = match &marks.id {
                Some(id) => PeerName::Spiffe(id.clone()),
                None => PeerName::Dns("peer.example".to_owned()),
            };
            let now = SystemTime::now();
            let hour = std::time::Duration::from_secs(3600);
            Arc::new(PeerIdentity {
                name,
                serial: "01".to_owned(),
                not_before: now - hour,
                not_after: now + hour,
                chain_len: 1,
                attributes: Arc::default(),
                marks,
                chain: Arc::default(),
            })
        });
        Self {
            workload: workload.into(),
            own: None,
            peer,
            direction: Direction::Inbound,
            port: 80,
            address: IpAddr::from([10, 0, 0, 1]),
        }
    }
}

/// What leads to connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Mark<'a> {
    /// The workload's name.
    Workload(&'a str),
    /// A port of the workload's, for inbound connections.
    Port(&'a str, u16),
    /// The rule that lets them be; names are unique over both directions.
    Rule(&'a str),
    /// The peer's trust domain.
    TrustDomain(&'a str),
    /// The SPIFFE ID of either end.
    Id(&'a str),
    /// The serial of a certificate of either chain.
    Serial(&'a Serial),
    /// The issuer's name of a certificate of either chain.
    Issuer(&'a Sha256),
    /// The key of a certificate of either chain, the root of a verified one included.
    Key(&'a Sha256),
    /// The key of the root that the peer's identity was verified under last, where that is what holds them.
    RenewedRoot(&'a Sha256),
    /// They go on though they would not be allowed any more.
    Overdue,
}

impl<'a> From<&'a Target> for Mark<'a> {
    fn from(target: &'a Target) -> Self {
        match target {
            Target::Serial { serial, .. } => Self::Serial(serial),
            Target::SpiffeId { id } => Self::Id(id.as_str()),
            Target::Key { sha256 } => Self::Key(sha256),
        }
    }
}

/// Ways to the same connections: each alternative leads to all that a change may concern, and the one that leads to
/// the fewest is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cover<'a>(pub Vec<Vec<Mark<'a>>>);

impl<'a> From<Mark<'a>> for Cover<'a> {
    fn from(mark: Mark<'a>) -> Self {
        Self(vec![vec![mark]])
    }
}
