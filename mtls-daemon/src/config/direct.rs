//! What is configured about the datapath `direct` (docs/design/direct.md).

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::is_never_captured;

/// Whether connections are `direct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum DirectChoice {
    /// Where it can be; else a relay carries them.
    Auto,
    /// A relay carries them (default).
    #[default]
    Never,
    /// Or they fail: no relay ever carries them.
    Require,
}

impl fmt::Display for DirectChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Never => "never",
            Self::Require => "require",
        })
    }
}

/// The node's part in `direct`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Direct {
    /// Of workloads that do not say so themselves.
    pub default: DirectChoice,
    /// Where this node's daemon takes sessions of other daemons; `None` (default): nowhere.
    pub listen: Option<NodeAddress>,
    /// What is remembered of attempts that failed.
    pub unfit: UnfitSettings,
}

/// How long, and how much, is remembered of pairs for which `direct` proved unfit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnfitSettings {
    /// Most pairs; the one that was not asked about for the longest time makes room. Not zero.
    pub entries: u32,
    /// How long a pair is left to a relay after its first failure, 1 s to 1 d. Each further one doubles it.
    pub retry: Duration,
    /// The most that doubling makes of it; not less than `retry`, at most 7 d.
    pub retry_limit: Duration,
}

impl UnfitSettings {
    /// What holds where nothing is configured.
    pub const DEFAULT: Self = Self {
        entries: 4096,
        retry: Duration::from_secs(10 * 60),
        retry_limit: Duration::from_secs(4 * 3600),
    };
}

impl Default for UnfitSettings {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// Where a node's daemon takes sessions of other daemons: an address that other nodes can reach, and a port that is not 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NodeAddress(SocketAddr);

/// Why a text is not a [`NodeAddress`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeAddressError {
    /// Not an address and a port.
    #[error("it is not an address with a port; write one such as 10.0.0.7:15080 or \"[fd00::7]:15080\"")]
    Form,
    /// Port 0 would be another port at every start.
    #[error("there is no port 0; write the port on which the daemon listens, such as 15080")]
    Port,
    /// No other node could reach it, or nobody has it alone.
    #[error(
        "it is loopback, link-local, multicast, broadcast or unspecified; write the address by which other nodes reach this one"
    )]
    Unreachable,
    /// `::ffff:10.0.0.1` is 10.0.0.1 on the wire.
    #[error("it is an IPv4 address inside IPv6; write the IPv4 address")]
    Mapped,
    /// `fd00::7%2`: the number of an interface means nothing on another node.
    #[error("it names an interface (`%`), which only a link-local address needs; leave that out")]
    Scope,
}

impl NodeAddress {
    /// The address and port.
    #[must_use]
    pub fn get(self) -> SocketAddr {
        self.0
    }
}

impl std::str::FromStr for NodeAddress {
    type Err = NodeAddressError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map_err(|_| NodeAddressError::Form).and_then(SocketAddr::try_into)
    }
}

impl TryFrom<SocketAddr> for NodeAddress {
    type Error = NodeAddressError;

    fn try_from(address: SocketAddr) -> Result<Self, Self::Error> {
        if let SocketAddr::V6(v6) = address {
            if v6.ip().to_ipv4_mapped().is_some() {
                return Err(NodeAddressError::Mapped);
            }
            if v6.scope_id() != 0 {
                return Err(NodeAddressError::Scope);
            }
        }
        match (address.port(), address.ip()) {
            (0, _) => Err(NodeAddressError::Port),
            (_, ip) if is_never_captured(ip) => Err(NodeAddressError::Unreachable),
            _ => Ok(Self(address)),
        }
    }
}

impl From<NodeAddress> for IpAddr {
    fn from(address: NodeAddress) -> Self {
        address.0.ip()
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_has_an_address_that_others_can_reach() {
        use NodeAddressError::{Form, Mapped, Port, Scope, Unreachable};
        for text in ["10.0.0.7:15080", "[fd00::7]:1", "240.0.0.1:65535"] {
            let address: NodeAddress = text.parse().unwrap();
            assert_eq!((address.to_string(), address.get().to_string()), (text.to_owned(), text.to_owned()));
            assert_eq!(IpAddr::from(address), address.get().ip());
        }
        for (text, why) in [
            ("", Form),
            ("10.0.0.7", Form),
            ("node:15080", Form),
            ("10.0.0.7:65536", Form),
            ("fd00::7:15080", Form),
            ("10.0.0.7:0", Port),
            ("0.0.0.0:1", Unreachable),
            ("[::]:1", Unreachable),
            ("127.0.0.1:1", Unreachable),
            ("[::1]:1", Unreachable),
            ("169.254.1.1:1", Unreachable),
            ("[fe80::1]:1", Unreachable),
            ("224.0.0.1:1", Unreachable),
            ("[ff02::1]:1", Unreachable),
            ("255.255.255.255:1", Unreachable),
            ("[::ffff:10.0.0.1]:1", Mapped),
            ("[fd00::7%2]:1", Scope),
        ] {
            assert_eq!(text.parse::<NodeAddress>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_choice_is_shown_as_it_is_written() {
        for choice in [DirectChoice::Auto, DirectChoice::Never, DirectChoice::Require] {
            let read: DirectChoice = serde_json::from_value(choice.to_string().into()).unwrap();
            assert_eq!(read, choice);
        }
    }
}
