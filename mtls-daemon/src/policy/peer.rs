//! What is known of the other end when policy is asked.

use std::net::IpAddr;

use crate::config::PeerTrait;
use crate::identity::{CertificateAttributes, PeerIdentity, PeerName, SpiffeId};

/// The other end of a connection.
#[derive(Clone, Copy, Debug, Default)]
pub struct Peer<'a> {
    /// Who it proved to be; `None`: it proved nothing, or, without `attributes` too, it is not known who it will prove to
    /// be.
    pub name: Option<&'a PeerName>,
    /// What else its certificate says; `None`: it will prove something that is not known yet.
    pub attributes: Option<&'a CertificateAttributes>,
    /// Where it is; `None`: not known yet.
    pub address: Option<IpAddr>,
}

impl<'a> Peer<'a> {
    /// A client that proved nothing.
    #[must_use]
    pub fn unproven(address: IpAddr) -> Self {
        Self { name: None, attributes: Some(CertificateAttributes::NONE), address: Some(address) }
    }

    /// A verified peer.
    #[must_use]
    pub fn proven(peer: &'a PeerIdentity, address: IpAddr) -> Self {
        Self { name: Some(&peer.name), attributes: Some(&peer.attributes), address: Some(address) }
    }

    /// Somebody who will prove this name, of whom nothing else is known yet.
    #[must_use]
    pub fn expected(name: &'a PeerName, address: Option<IpAddr>) -> Self {
        Self { name: Some(name), attributes: None, address }
    }

    /// Somebody who has sent no more than a SYN.
    #[must_use]
    pub fn unknown(address: Option<IpAddr>) -> Self {
        Self { name: None, attributes: None, address }
    }

    fn spiffe_id(&self) -> Option<&'a SpiffeId> {
        self.name.and_then(PeerName::spiffe_id)
    }

    /// Whether it is known what the peer has of this kind, be it nothing.
    #[must_use]
    pub fn knows(&self, kind: &PeerTrait) -> bool {
        match kind {
            PeerTrait::Organization | PeerTrait::OrganizationalUnit | PeerTrait::Extension(_) => {
                self.attributes.is_some()
            }
            PeerTrait::SpiffeId
            | PeerTrait::TrustDomain
            | PeerTrait::Namespace
            | PeerTrait::ServiceAccount => self.name.is_some() || self.attributes.is_some(),
        }
    }

    /// Each value of a kind that the peer has.
    pub(super) fn each(&self, kind: &PeerTrait, value: &mut dyn FnMut(&str)) {
        let attributes = self.attributes.unwrap_or(CertificateAttributes::NONE);
        match kind {
            PeerTrait::SpiffeId => self.spiffe_id().into_iter().for_each(|id| value(id.as_str())),
            PeerTrait::TrustDomain => {
                self.spiffe_id().into_iter().for_each(|id| value(id.trust_domain().as_str()));
            }
            PeerTrait::Namespace => {
                let account = self.spiffe_id().and_then(SpiffeId::service_account);
                account.into_iter().for_each(|(namespace, _)| value(namespace));
            }
            PeerTrait::ServiceAccount => {
                let account = self.spiffe_id().and_then(SpiffeId::service_account);
                account.into_iter().for_each(|(namespace, name)| value(&format!("{namespace}/{name}")));
            }
            PeerTrait::Organization => attributes.organizations.iter().for_each(|text| value(text)),
            PeerTrait::OrganizationalUnit => {
                attributes.organizational_units.iter().for_each(|text| value(text));
            }
            PeerTrait::Extension(oid) => attributes
                .extensions
                .iter()
                .filter(|(of, _)| **of == *oid.as_str())
                .for_each(|(_, text)| value(text)),
        }
    }
}
