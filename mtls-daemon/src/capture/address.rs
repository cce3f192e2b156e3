//! Addresses as the tables have them.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use mtls_common::Endpoint;

/// 16 bytes, IPv4 as `::ffff:a.b.c.d`.
#[must_use]
pub fn octets(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// As the tables have it.
#[must_use]
pub fn endpoint(address: SocketAddr) -> Endpoint {
    Endpoint { address: octets(address.ip()), port: address.port(), reserved: 0 }
}

/// As the standard library has it; IPv4-mapped addresses become IPv4 again.
#[must_use]
pub fn socket_address(endpoint: &Endpoint) -> SocketAddr {
    SocketAddr::new(Ipv6Addr::from(endpoint.address).to_canonical(), endpoint.port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_families_come_back_as_they_went() {
        for text in ["10.1.2.3:80", "[fd00::1]:443", "127.0.0.1:1"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(socket_address(&endpoint(address)), address);
        }
        assert!(endpoint("10.0.0.1:1".parse().unwrap()).is_ipv4());
        assert!(!endpoint("[fd00::1]:1".parse().unwrap()).is_ipv4());
    }
}
