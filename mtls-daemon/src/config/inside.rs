//! The cluster's networks: an address in them of which nothing is known may be a pod's that is younger than the news of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ipnet::IpNet;

use super::types::{Config, Mode, UnknownDestinations, Workload};

/// Networks of the cluster, and who in them speaks no TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inside {
    /// Of its pods and Services.
    pub networks: Vec<IpNet>,
    /// Addresses in them that are known and no destinations.
    pub known: BTreeSet<IpAddr>,
}

impl Inside {
    /// Most addresses that are known: half of what the kernel's table holds. What exceeds them is taken for unknown.
    pub const MAX_KNOWN: usize = 65_536;
    /// Most networks.
    pub const MAX_NETWORKS: usize = 64;

    /// `offered`: in order, none twice.
    pub(super) fn new<'a>(networks: &[IpNet], offered: impl Iterator<Item = &'a IpAddr>) -> Self {
        let is_inside = |address: &&IpAddr| networks.iter().any(|network| network.contains(*address));
        let mut inside = offered.filter(is_inside);
        let known = inside.by_ref().take(Self::MAX_KNOWN).copied().collect();
        let left_out = inside.count();
        if left_out > 0 {
            tracing::error!(
                left_out,
                "the cluster has more than {} addresses that are not enrolled; those that do not fit are closed to strict \
                 workloads: narrow `kubernetes.networks`",
                Self::MAX_KNOWN
            );
        }
        Self { networks: networks.to_vec(), known }
    }

    fn is_unknown(&self, address: IpAddr) -> bool {
        !self.known.contains(&address) && self.networks.iter().any(|network| network.contains(&address))
    }
}

/// What becomes of a connection to an address and port that the directory does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// The directory has it, and policy disables that port there.
    LeftAlone,
    /// It goes on untouched.
    Passes,
    /// The workload has `unknown_destinations: deny`.
    Denied,
    /// The workload is strict, and it is an address inside the cluster of which nothing is known.
    DeniedInside,
}

impl Unknown {
    /// The setting that decides so.
    #[must_use]
    pub const fn rule(self) -> &'static str {
        match self {
            Self::LeftAlone => "mode disabled",
            Self::Passes => "unknown_destinations: passthrough",
            Self::Denied => "unknown_destinations: deny",
            Self::DeniedInside => "kubernetes.networks",
        }
    }

    /// Is connect() refused?
    #[must_use]
    pub const fn is_denied(self) -> bool {
        matches!(self, Self::Denied | Self::DeniedInside)
    }
}

impl Config {
    /// What becomes of a connection of `client` to an address that the directory does not have with that port
    /// ([`crate::directory::Directory::unknown`] asks it for that).
    #[must_use]
    pub fn unknown(&self, client: &Workload, address: IpAddr) -> Unknown {
        if client.unknown_destinations == UnknownDestinations::Deny {
            return Unknown::Denied;
        }
        match client.mode == Mode::Strict && self.inside.is_unknown(address) {
            true => Unknown::DeniedInside,
            false => Unknown::Passes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(texts: &[&str]) -> BTreeSet<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn an_address_inside_is_unknown_unless_somebody_has_it() {
        let networks = ["10.0.0.0/16", "fd00::/64"].map(|text| text.parse().unwrap());
        let inside = Inside::new(&networks, addresses(&["10.0.0.1", "fd00::1", "192.0.2.1"]).iter());
        assert_eq!(inside.known, addresses(&["10.0.0.1", "fd00::1"]), "outside nobody asks for it");
        let unknown = |text: &str| inside.is_unknown(text.parse().unwrap());
        assert!(unknown("10.0.0.2") && unknown("fd00::2"));
        for known in ["10.0.0.1", "fd00::1", "192.0.2.1", "192.0.2.2", "10.1.0.1", "fd00:0:0:1::1"] {
            assert!(!unknown(known), "{known}");
        }
        assert!(!Inside::default().is_unknown("10.0.0.2".parse().unwrap()));
    }

    #[test]
    fn addresses_beyond_the_bound_are_unknown() {
        let first = u32::from(std::net::Ipv4Addr::new(10, 0, 0, 0));
        let many = u32::try_from(Inside::MAX_KNOWN).unwrap() + 1;
        let all: BTreeSet<IpAddr> = (first..first + many).map(|n| IpAddr::V4(n.into())).collect();
        let inside = Inside::new(&["10.0.0.0/8".parse().unwrap()], all.iter());
        assert_eq!(inside.known.len(), Inside::MAX_KNOWN);
        assert!(inside.is_unknown(*all.last().unwrap()) && !inside.is_unknown(*all.first().unwrap()));
    }
}
