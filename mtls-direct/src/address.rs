//! Addresses that are kept for as long as a connection lives.
use std::net::{AddrParseError, IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// A [`SocketAddr`] in 20 bytes in place of 32. Flow information and scope of IPv6 are not kept: no socket of a
/// connection that a daemon captures is told apart by them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Address {
    ip: [u8; 16],
    port: u16,
    v4: bool,
}

impl From<SocketAddr> for Address {
    fn from(address: SocketAddr) -> Self {
        let ip = match address.ip() {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        Self { ip: ip.octets(), port: address.port(), v4: address.is_ipv4() }
    }
}

impl From<Address> for SocketAddr {
    fn from(address: Address) -> Self {
        let ip = Ipv6Addr::from(address.ip);
        let v4 = if address.v4 { ip.to_ipv4_mapped() } else { None };
        Self::new(v4.map_or(IpAddr::V6(ip), IpAddr::V4), address.port)
    }
}

impl FromStr for Address {
    type Err = AddrParseError;

    fn from_str(text: &str) -> Result<Self, AddrParseError> {
        text.parse::<SocketAddr>().map(Self::from)
    }
}

impl std::fmt::Debug for Address {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        SocketAddr::from(*self).fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_in_comes_out_and_a_mapped_address_stays_one() {
        for text in ["10.0.0.1:80", "[2001:db8::1]:65535", "[::ffff:10.0.0.1]:80", "[::]:0", "0.0.0.0:1"] {
            let address: SocketAddr = text.parse().unwrap();
            let kept = Address::from(address);
            assert_eq!(SocketAddr::from(kept), address);
            assert_eq!(format!("{kept:?}"), text);
            assert_eq!(text.parse(), Ok(kept));
        }
        assert_eq!(size_of::<Address>(), 20);
    }
}
