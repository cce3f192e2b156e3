//! Which workload of a node a session is for: the server name that its client sends (RFC 6066, section 3).
//!
//! It is the address and port that the application called, since that is what the client's directory knows and what a node finds
//! its workloads by. It decides which certificate the server shows, nothing else: the client pins the identity.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use rustls::pki_types::ServerName;

use super::wire::canonical;

/// A name that no DNS has (RFC 6761, section 6.4).
const SUFFIX: &str = ".mtlsd-direct.invalid";

/// The server name for sessions to this destination.
///
/// # Errors
/// None: every such name is a DNS name.
pub fn server_name(destination: SocketAddr) -> Result<ServerName<'static>, rustls::Error> {
    let ip = match destination.ip() {
        IpAddr::V4(ip) => ip.to_ipv6_mapped(),
        IpAddr::V6(ip) => ip,
    };
    let name = format!("{:032x}-{}{SUFFIX}", u128::from(ip), destination.port());
    ServerName::try_from(name).map_err(|error| rustls::Error::General(error.to_string()))
}

/// The destination that a server name means; `None`: it is no name of ours.
#[must_use]
pub fn destination(server_name: &str) -> Option<SocketAddr> {
    let (ip, port) = server_name.strip_suffix(SUFFIX)?.split_once('-')?;
    let digits = ip.len() == 32 && ip.bytes().all(|byte| byte.is_ascii_hexdigit());
    let ip = digits.then(|| u128::from_str_radix(ip, 16).ok()).flatten()?;
    let port: u16 = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten()?;
    (port != 0).then(|| canonical(SocketAddr::new(Ipv6Addr::from(ip).into(), port)))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_name_leads_back_to_its_destination() {
        for address in ["10.0.0.3:5432", "[2001:db8::3]:1", "0.0.0.0:65535"] {
            let address: SocketAddr = address.parse().unwrap();
            let name = server_name(address).unwrap();
            assert_eq!(destination(&name.to_str()), Some(address));
        }
        let mapped = server_name("[::ffff:10.0.0.3]:5432".parse().unwrap()).unwrap();
        assert_eq!(mapped, server_name("10.0.0.3:5432".parse().unwrap()).unwrap());
        assert_eq!(mapped.to_str(), "00000000000000000000ffff0a000003-5432.mtlsd-direct.invalid");
    }

    #[test]
    fn other_names_are_none_of_ours() {
        let good = "00000000000000000000ffff0a000003-5432.mtlsd-direct.invalid";
        for name in [
            "db.example.org".to_owned(),
            good.replace("-5432", "-0"),
            good.replace("-5432", "-65536"),
            good.replace("-5432", "-+1"),
            good.replace("-5432", "-"),
            good.replace("0a00", "+a00"),
            good.replace("0a00", "a00"),
            good.replace(".invalid", ""),
        ] {
            assert_eq!(destination(&name), None, "{name}");
        }
    }

    proptest! {
        #[test]
        fn no_name_makes_it_panic(name in ".{0,80}") {
            prop_assert_eq!(destination(&name), None);
            let _ = destination(&format!("{name}{SUFFIX}"));
        }
    }
}
