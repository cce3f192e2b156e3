//! Whether connections that are open would still be let in, asked of a snapshot.

use std::sync::Arc;
use std::time::SystemTime;

use super::parties::{Mark, Parties};
use crate::config::Mode;
use crate::identity::revocation::Sha256;
use crate::identity::{ChainMarks, PeerIdentity, SpiffeId, when};
use crate::observe::connection::Direction;
use crate::observe::{Reason, Refusal};
use crate::policy::{Decision, OutboundQuery, Peer, Query};
use crate::snapshot::{OwnIdentity, Snapshot, WorkloadState};

/// What lets a connection be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    /// The rule; `None`: the default.
    pub rule: Option<Arc<str>>,
    /// The first end among the certificates of its two identities; `None`: nothing of it runs out.
    pub until: Option<SystemTime>,
    /// The key of the root that the peer was verified under since, where the one above its chain is trusted no longer.
    pub root: Option<Sha256>,
}

impl Held {
    /// What leads here besides the parties' own marks.
    pub(super) fn marks(&self) -> impl Iterator<Item = Mark<'_>> {
        let rule = self.rule.as_deref().map(Mark::Rule);
        rule.into_iter().chain(self.root.as_ref().map(Mark::RenewedRoot))
    }
}

/// What was verified last of a SPIFFE ID: the certificate that lasts longest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Renewed {
    /// Its `notAfter`.
    pub until: SystemTime,
    /// The key of the root above it.
    pub root: Option<Sha256>,
}

impl Renewed {
    /// What this certificate says.
    #[must_use]
    pub fn of(peer: &PeerIdentity) -> Self {
        Self { until: peer.not_after, root: root_of(&peer.marks) }
    }
}

fn root_of(chain: &ChainMarks) -> Option<Sha256> {
    chain.certificates.last().filter(|_| chain.rooted).map(|root| root.key)
}

/// What holds the connections of these parties now. `renewed`: what was verified last of the peer's identity.
///
/// # Errors
/// Why they would not be let in any more.
pub fn judge(
    snapshot: &Snapshot,
    parties: &Parties,
    renewed: Option<&Renewed>,
    now: SystemTime,
) -> Result<Held, Refusal> {
    // Only the drill's are of no workload; those of a workload that was removed are ended by its stop.
    let Some(workload) = snapshot.by_name(&parties.workload) else { return Ok(Held::default()) };
    let identity = workload.identity.as_ref().ok();
    let mut root = None;
    if let Some(identity) = identity {
        if let Some(revoked) = parties.revoked(&identity.revocations, now)
            // What is merely not known refuses new connections only.
            && revoked.reason == Reason::Revoked
        {
            return Err(revoked);
        }
        if let Some(peer) = &parties.peer {
            root = trusted(identity, peer, renewed)?;
        }
    }
    let rule = permitted(snapshot, workload, parties)?;
    Ok(Held { rule, until: lasts(identity, parties, renewed, now)?, root })
}

/// The root that the peer was verified under is still there (`None`), or the same identity was verified under another one
/// since, which is.
fn trusted(
    identity: &OwnIdentity,
    peer: &PeerIdentity,
    renewed: Option<&Renewed>,
) -> Result<Option<Sha256>, Refusal> {
    let own = identity.marks.id.as_ref();
    let Some(domain) = peer.name.spiffe_id().or(own).map(SpiffeId::trust_domain) else { return Ok(None) };
    let Some(bundle) = identity.bundles.get(domain) else {
        let detail = format!("of {}: the bundle of {domain} was removed", peer.name);
        return Err(Refusal::new(Reason::TrustDomain, detail));
    };
    let is_there = |key: &Sha256| bundle.roots().iter().any(|root| root.key() == key);
    if root_of(&peer.marks).is_none_or(|key| is_there(&key)) {
        return Ok(None);
    }
    let since = renewed.and_then(|renewed| renewed.root).filter(is_there);
    since.map(Some).ok_or_else(|| {
        let detail = format!("of {}: the root above it was removed from the bundle of {domain}", peer.name);
        Refusal::new(Reason::UnknownIssuer, detail)
    })
}

/// What policy says now; the rule, or none for the default.
fn permitted(
    snapshot: &Snapshot,
    workload: &WorkloadState,
    parties: &Parties,
) -> Result<Option<Arc<str>>, Refusal> {
    let settings = &workload.settings;
    let port = parties.port;
    let peer = match &parties.peer {
        Some(peer) => Peer::proven(peer, parties.address),
        None => Peer::unproven(parties.address),
    };
    let (decision, default) = match parties.direction {
        Direction::Inbound => {
            let mode = settings.mode_of_port(port);
            match (mode, &parties.peer) {
                (Mode::Disabled, _) => return Ok(None),
                (Mode::Strict, None) => {
                    let detail = format!("port {port} of {} has become strict", settings.name);
                    return Err(Refusal::new(Reason::Plaintext, detail));
                }
                _ => {}
            }
            let query = Query::to(settings, port, peer);
            (snapshot.policy.decide(&query), settings.default_name(port))
        }
        Direction::Outbound => {
            if settings.allows_outbound_by_default() && !snapshot.policy.has_outbound_rules() {
                return Ok(None);
            }
            let query = OutboundQuery::from(settings, port, peer);
            (snapshot.policy.decide_outbound(&query), settings.outbound_default_name().into())
        }
    };
    let Decision { verdict, .. } = decision;
    if verdict.allow {
        return Ok(verdict.rule.map(Arc::from));
    }
    let (name, who) = (&settings.name, parties.peer_name());
    let between = match parties.direction {
        Direction::Inbound => format!("{who} to {name}"),
        Direction::Outbound => format!("{name} to {who}"),
    };
    let rule = verdict.rule.unwrap_or(&default);
    let detail = format!("{between} port {port}: {rule}, since the policy has changed");
    Err(Refusal::new(verdict.refusal_reason(), detail))
}

/// Until when both identities are good. One that has been renewed is good for as long as its newest certificate is.
fn lasts(
    identity: Option<&OwnIdentity>,
    parties: &Parties,
    renewed: Option<&Renewed>,
    now: SystemTime,
) -> Result<Option<SystemTime>, Refusal> {
    let own = parties.own.as_ref().map(|own| {
        let newer = identity.filter(|identity| identity.marks.id == own.marks.id);
        newer.map_or(own.not_after, |newer| newer.not_after.max(own.not_after))
    });
    let peer = parties.peer.as_ref();
    let theirs = peer.map(|peer| renewed.map_or(peer.not_after, |newer| newer.until.max(peer.not_after)));
    if let (Some(end), Some(peer)) = (theirs, peer)
        && now > end
    {
        let expired = when::expired(end, now);
        let detail = format!("of {}: {expired} and no newer one was seen here", peer.name);
        return Err(Refusal::new(Reason::CertificateExpired, detail));
    }
    if let Some(end) = own
        && now > end
    {
        let expired = when::expired(end, now);
        let detail = format!("of {}: {expired} and was not renewed", parties.workload);
        return Err(Refusal::new(Reason::NoIdentity, detail));
    }
    Ok([own, theirs].into_iter().flatten().min())
}
