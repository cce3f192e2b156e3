//! The daemon's sockets inside a workload's network namespace.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, RawFd};

use nix::net::if_::InterfaceFlags;
use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use super::error::EnrolError;
use super::packet::{HeldSyn, Unreachable};
use crate::sys;
use crate::sys::netns::Netns;

const BACKLOG: i32 = 4096;
const AF_INET: u32 = 2;
const AF_INET6: u32 = 10;

/// The four listeners of a namespace. IPv6 ones are missing where the namespace has no IPv6.
#[derive(Debug)]
pub struct Listeners {
    /// For captured connect() calls, on 127.0.0.1.
    pub outbound_v4: std::net::TcpListener,
    /// For captured connect() calls, on ::1.
    pub outbound_v6: Option<std::net::TcpListener>,
    /// For steered SYNs of IPv4.
    pub inbound_v4: std::net::TcpListener,
    /// For steered SYNs of IPv6.
    pub inbound_v6: Option<std::net::TcpListener>,
}

impl Listeners {
    /// Opens them in `netns`; returns the namespace's cookie too.
    ///
    /// # Errors
    /// When `lo` is down, or a socket cannot be made.
    pub fn open(netns: &Netns) -> Result<Self, EnrolError> {
        let socket_error =
            |what| move |source| EnrolError::Socket { netns: netns.path().to_owned(), what, source };
        let (up, listeners) = netns
            .run(|| {
                let up = loopback_is_up()?;
                let v4 = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
                let v6 = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
                let listeners = Self {
                    outbound_v4: listen(v4)?,
                    outbound_v6: listen(v6).ok(),
                    inbound_v4: listen(v4)?,
                    inbound_v6: listen(v6).ok(),
                };
                Ok((up, listeners))
            })
            .map_err(socket_error("open a listener"))?;
        if !up {
            return Err(EnrolError::LoopbackDown(netns.path().to_owned()));
        }
        Ok(listeners)
    }

    /// The listeners for steered SYNs with their address families.
    pub fn inbound(&self) -> impl Iterator<Item = (u32, RawFd)> {
        let v6 = self.inbound_v6.as_ref().map(|socket| (AF_INET6, socket.as_raw_fd()));
        [Some((AF_INET, self.inbound_v4.as_raw_fd())), v6].into_iter().flatten()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = &std::net::TcpListener> {
        [Some(&self.outbound_v4), self.outbound_v6.as_ref(), Some(&self.inbound_v4), self.inbound_v6.as_ref()]
            .into_iter()
            .flatten()
    }

    /// Ports of the listeners for captured connect() calls, IPv4 and IPv6; 0 where there is none.
    #[must_use]
    pub fn outbound_ports(&self) -> (u16, u16) {
        let port = |socket: &std::net::TcpListener| socket.local_addr().map_or(0, |address| address.port());
        (port(&self.outbound_v4), self.outbound_v6.as_ref().map_or(0, port))
    }
}

/// The cookie of a namespace.
///
/// # Errors
/// When no socket can be made there, or on a kernel before 5.14.
pub fn cookie(netns: &Netns) -> Result<u64, EnrolError> {
    netns.run(|| sys::socket::netns_cookie(&Socket::new(Domain::UNIX, Type::STREAM, None)?)).map_err(
        |source| EnrolError::Socket {
            netns: netns.path().to_owned(),
            what: "read its cookie (SO_NETNS_COOKIE, Linux 5.14)",
            source,
        },
    )
}

fn listen(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    // Steered connections take a place at the application's port: without this it could not listen there
    // again, SO_REUSEADDR or not, while one of them lives.
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

fn loopback_is_up() -> io::Result<bool> {
    let mut addresses = nix::ifaddrs::getifaddrs().map_err(io::Error::from)?;
    Ok(addresses.any(|entry| {
        entry.flags.contains(InterfaceFlags::IFF_LOOPBACK) && entry.flags.contains(InterfaceFlags::IFF_UP)
    }))
}

/// Answers held SYNs: raw sockets in the namespace, sending over `lo`, and the SYNs of direct connections to where they go.
#[derive(Debug)]
pub struct Injector {
    v4: Socket,
    v6: Option<Socket>,
}

impl Injector {
    /// Opens the raw sockets in `netns`.
    ///
    /// # Errors
    /// `EPERM` without CAP_NET_RAW.
    pub fn open(netns: &Netns) -> Result<Self, EnrolError> {
        let raw = |domain| -> io::Result<Socket> {
            let socket = Socket::new(domain, Type::RAW, Some(Protocol::from(nix::libc::IPPROTO_RAW)))?;
            socket.set_nonblocking(true)?;
            Ok(socket)
        };
        netns.run(|| Ok(Self { v4: raw(Domain::IPV4)?, v6: raw(Domain::IPV6).ok() })).map_err(|source| {
            EnrolError::Socket { netns: netns.path().to_owned(), what: "open a raw socket", source }
        })
    }

    /// Its sockets.
    pub fn sockets(&self) -> impl Iterator<Item = &Socket> {
        std::iter::once(&self.v4).chain(self.v6.as_ref())
    }

    /// Lets the SYN through: connect() completes.
    ///
    /// # Errors
    /// What the kernel said of the raw packet.
    pub fn release(&self, syn: &HeldSyn) -> io::Result<()> {
        self.send(&syn.release(), syn.listener.ip())
    }

    /// connect() fails with ECONNREFUSED.
    ///
    /// # Errors
    /// As [`Injector::release`].
    pub fn refuse(&self, syn: &HeldSyn) -> io::Result<()> {
        self.send(&syn.refuse(), syn.source.ip())
    }

    /// connect() fails as the ICMP error says.
    ///
    /// # Errors
    /// As [`Injector::release`].
    pub fn unreachable(&self, syn: &HeldSyn, what: Unreachable) -> io::Result<()> {
        self.send(&syn.unreachable(what), syn.source.ip())
    }

    fn send(&self, packet: &[u8], to: IpAddr) -> io::Result<()> {
        let socket = match to {
            IpAddr::V4(_) => &self.v4,
            IpAddr::V6(_) => self.v6.as_ref().ok_or(io::ErrorKind::Unsupported)?,
        };
        socket.send_to(packet, &SockAddr::from(SocketAddr::new(to, 0))).map(drop)
    }
}
