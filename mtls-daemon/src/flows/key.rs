//! What makes two connections the same flow. It is asked with borrowed parts, so that a flow that is known costs no
//! allocation.

use std::borrow::Borrow;
use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::sync::Arc;

use super::flow::{Channel, FlowPeer};
use crate::identity::{CertificateAttributes, PeerIdentity, PeerName};
use crate::observe::Direction;

/// Everything of a connection that rules can ask.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tuple<'a> {
    /// Who opened it.
    pub direction: Direction,
    /// The local workload.
    pub workload: &'a str,
    /// The workload's port; outbound the destination's.
    pub port: u16,
    /// The peer's address.
    pub address: IpAddr,
    /// What it was.
    pub channel: Channel,
    /// Who the peer proved to be.
    pub name: Option<&'a PeerName>,
    /// What else its certificate says.
    pub attributes: &'a CertificateAttributes,
}

impl<'a> Tuple<'a> {
    /// A connection with somebody who proved nothing.
    #[must_use]
    pub fn unproven(
        direction: Direction,
        workload: &'a str,
        port: u16,
        address: IpAddr,
        channel: Channel,
    ) -> Self {
        let address = address.to_canonical();
        Self {
            direction,
            workload,
            port,
            address,
            channel,
            name: None,
            attributes: CertificateAttributes::NONE,
        }
    }

    /// Mutual TLS with this peer.
    #[must_use]
    pub fn proven(
        direction: Direction,
        workload: &'a str,
        port: u16,
        address: IpAddr,
        peer: &'a PeerIdentity,
    ) -> Self {
        let tuple = Self::unproven(direction, workload, port, address, Channel::MutualTls);
        Self { name: Some(&peer.name), attributes: &peer.attributes, ..tuple }
    }
}

/// A [`Tuple`] that is kept.
#[derive(Debug, Clone)]
pub(super) struct Key {
    pub direction: Direction,
    pub workload: Arc<str>,
    pub port: u16,
    pub address: IpAddr,
    pub channel: Channel,
    pub peer: Option<FlowPeer>,
}

impl Key {
    /// `None`: the peer's certificate says more than is kept.
    pub fn new(tuple: &Tuple<'_>) -> Option<Self> {
        let &Tuple { direction, workload, port, address, channel, name, attributes } = tuple;
        let peer = match name {
            Some(name) => Some(FlowPeer::new(name.clone(), attributes.clone()).ok()?),
            None => None,
        };
        Some(Self { direction, workload: workload.into(), port, address, channel, peer })
    }

    /// Bytes on the heap, about.
    pub fn bytes(&self) -> usize {
        let Some(peer) = &self.peer else { return self.workload.len() };
        let attributes = &peer.attributes;
        let name = match &peer.name {
            PeerName::Spiffe(id) => id.as_str().len(),
            PeerName::Dns(name) | PeerName::CommonName(name) => name.len(),
        };
        let texts = attributes.organizations.iter().chain(&attributes.organizational_units);
        let texts = texts.chain(attributes.extensions.iter().flat_map(|(oid, value)| [oid, value]));
        let texts: usize = texts.map(|text| text.len() + size_of::<Box<str>>()).sum();
        self.workload.len() + name + size_of::<CertificateAttributes>() + texts
    }
}

/// Lets a table of keys be asked with a [`Tuple`].
pub(super) trait AsTuple {
    fn tuple(&self) -> Tuple<'_>;
}

impl AsTuple for Tuple<'_> {
    fn tuple(&self) -> Tuple<'_> {
        *self
    }
}

impl AsTuple for Key {
    fn tuple(&self) -> Tuple<'_> {
        Tuple {
            direction: self.direction,
            workload: &self.workload,
            port: self.port,
            address: self.address,
            channel: self.channel,
            name: self.peer.as_ref().map(|peer| &peer.name),
            attributes: self.peer.as_ref().map_or(CertificateAttributes::NONE, |peer| &peer.attributes),
        }
    }
}

impl Hash for dyn AsTuple + '_ {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tuple().hash(state);
    }
}

impl PartialEq for dyn AsTuple + '_ {
    fn eq(&self, other: &Self) -> bool {
        self.tuple() == other.tuple()
    }
}

impl Eq for dyn AsTuple + '_ {}

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tuple().hash(state);
    }
}

impl PartialEq for Key {
    fn eq(&self, other: &Self) -> bool {
        self.tuple() == other.tuple()
    }
}

impl Eq for Key {}

impl<'a> Borrow<dyn AsTuple + 'a> for Key {
    fn borrow(&self) -> &(dyn AsTuple + 'a) {
        self
    }
}
