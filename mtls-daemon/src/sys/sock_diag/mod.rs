//! Every TCP socket of a network namespace, as the kernel lists them (sock_diag(7), `NETLINK_SOCK_DIAG`).
//!
//! The crate `netlink-packet-sock-diag` lays the fixed parts out. Its requests carry no attributes and its replies
//! leave the socket's eBPF storage (Linux 5.7) and its cgroup (5.9) unparsed: `reply` reads these.

mod reply;
mod request;

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use netlink_packet_sock_diag::constants::{AF_INET, AF_INET6};
pub use netlink_packet_sock_diag::inet::StateFlags;
use nix::libc;
use socket2::{Domain, Protocol, Socket, Type};

use reply::Reply;

/// `NETLINK_SOCK_DIAG`.
const PROTOCOL: i32 = 4;
/// The kernel fills at most 32 KiB at a time.
const BUFFER: usize = 64 << 10;
/// The kernel answers at once; this only bounds a defect.
const PATIENCE: Duration = Duration::from_secs(10);

/// States in which bytes of a connection can still come or go.
pub const CONNECTED: StateFlags = StateFlags::ESTABLISHED
    .union(StateFlags::FIN_WAIT1)
    .union(StateFlags::FIN_WAIT2)
    .union(StateFlags::CLOSE_WAIT)
    .union(StateFlags::LAST_ACK)
    .union(StateFlags::CLOSING);

/// One TCP socket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpSocket<'a> {
    /// Its own address; IPv4-mapped ones are IPv4.
    pub local: SocketAddr,
    /// Its peer's.
    pub remote: SocketAddr,
    /// `TCP_ESTABLISHED` and so on (`include/net/tcp_states.h`).
    pub state: u8,
    /// `SO_COOKIE`; unlike the inode it is there before accept() and after close().
    pub cookie: u64,
    /// Of its file; 0 while it waits for accept(), and after close().
    pub inode: u32,
    /// The user whose process made it, as the calling thread's user namespace counts.
    pub uid: u32,
    /// The cgroup v2 that it was made in; `None` where the kernel does not say.
    pub cgroup: Option<u64>,
    /// Its value in the storage map that was asked for; `None`: it has none.
    pub storage: Option<&'a [u8]>,
}

/// Calls `each` for every TCP socket, of both families, in one of these states in the calling thread's namespace.
/// `storage`: a `BPF_MAP_TYPE_SK_STORAGE` map whose value of each socket is wanted.
///
/// # Errors
/// `ENOENT` without the kernel module `tcp_diag`, `EPERM` without CAP_NET_ADMIN (CAP_BPF with `storage`),
/// `InvalidData` for what cannot be read.
pub fn each_tcp(
    states: StateFlags,
    storage: Option<BorrowedFd<'_>>,
    mut each: impl FnMut(&TcpSocket<'_>),
) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    for family in [AF_INET, AF_INET6] {
        dump(family, states.clone(), storage, &mut buffer, &mut each)?;
    }
    Ok(())
}

fn dump(
    family: u8,
    states: StateFlags,
    storage: Option<BorrowedFd<'_>>,
    buffer: &mut [u8],
    each: &mut impl FnMut(&TcpSocket<'_>),
) -> io::Result<()> {
    let mut socket = open()?;
    socket.write_all(&request::dump(family, states, storage))?;
    loop {
        let length = socket.read(buffer)?;
        let mut rest = buffer.get(..length).unwrap_or_default();
        if rest.is_empty() {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        while !rest.is_empty() {
            let (reply, behind) = reply::next(rest)?;
            match reply {
                Reply::Socket(socket) => each(&socket),
                Reply::Done => return Ok(()),
                Reply::Other => {}
            }
            rest = behind;
        }
    }
}

fn open() -> io::Result<Socket> {
    let socket = Socket::new(Domain::from(libc::AF_NETLINK), Type::DGRAM, Some(Protocol::from(PROTOCOL)))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// Ends a socket of the calling thread's namespace with RST (`SOCK_DESTROY`, `tcp_abort`). False: there is no such socket any
/// more.
///
/// # Errors
/// `EOPNOTSUPP` on a kernel without CONFIG_INET_DIAG_DESTROY, `EPERM` without CAP_NET_ADMIN.
pub fn destroy(local: SocketAddr, remote: SocketAddr, cookie: u64) -> io::Result<bool> {
    let ended = ask_of_one(&request::destroy(local, remote, cookie), |_| ())?;
    Ok(ended.is_some())
}

/// The inode of a socket of the calling thread's namespace: 0 while it waits for accept(). `None`: there is no such socket
/// any more.
///
/// # Errors
/// `InvalidData` for an answer that cannot be read, or what the kernel says.
pub fn inode(local: SocketAddr, remote: SocketAddr, cookie: u64) -> io::Result<Option<u32>> {
    let inode = ask_of_one(&request::one(local, remote, cookie), |reply| match reply {
        Reply::Socket(socket) => Some(socket.inode),
        Reply::Done | Reply::Other => None,
    })?;
    Ok(inode.flatten())
}

/// What the one answer to a request about one socket says; `None`: there is no such socket.
fn ask_of_one<T>(request: &[u8], read: impl FnOnce(Reply<'_>) -> T) -> io::Result<Option<T>> {
    let mut socket = open()?;
    socket.write_all(request)?;
    let mut answer = [0; 1024];
    let length = socket.read(&mut answer)?;
    match reply::next(answer.get(..length).unwrap_or_default()) {
        Ok((reply, _)) => Ok(Some(read(reply))),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The name of a TCP state (RFC 9293), as `ss` writes it.
#[must_use]
pub fn state_name(state: u8) -> &'static str {
    match state {
        1 => "ESTABLISHED",
        4 => "FIN_WAIT_1",
        5 => "FIN_WAIT_2",
        8 => "CLOSE_WAIT",
        9 => "LAST_ACK",
        10 => "LISTEN",
        11 => "CLOSING",
        _ => "another state",
    }
}

#[cfg(test)]
mod tests {
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn both_ends_of_a_connection_are_listed_with_cookie_and_inode_and_the_listener_apart() {
        for address in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = std::net::TcpListener::bind(address) else { continue };
            let at = listener.local_addr().unwrap();
            let client = std::net::TcpStream::connect(at).unwrap();
            let from = client.local_addr().unwrap();
            let mut found = Vec::new();
            each_tcp(CONNECTED, None, |socket| {
                if socket.local.port() == at.port() || socket.remote.port() == at.port() {
                    found.push((socket.local, socket.remote, socket.state, socket.cookie, socket.inode));
                }
            })
            .unwrap();
            assert_eq!(found.len(), 2, "the listener has no peer: {found:?}");
            let of_client = found.iter().find(|(local, ..)| *local == from).unwrap();
            let cookie = socket2::SockRef::from(&client).cookie().unwrap();
            assert_eq!((of_client.1, of_client.2, of_client.3), (at, 1, cookie));
            assert_ne!(of_client.4, 0);
            let of_server = found.iter().find(|(local, ..)| *local == at).unwrap();
            assert_eq!((of_server.1, of_server.4), (from, 0), "nobody has accepted it yet");
            let mut listening = 0;
            each_tcp(StateFlags::LISTEN, None, |socket| listening += usize::from(socket.local == at))
                .unwrap();
            assert_eq!(listening, 1);
        }
    }

    #[test]
    fn the_inode_of_one_socket_is_zero_until_it_is_accepted_and_none_without_it() {
        use std::os::unix::fs::MetadataExt as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let client = std::net::TcpStream::connect(at).unwrap();
        let from = client.local_addr().unwrap();
        let file = |socket: &std::net::TcpStream| {
            let file = std::fs::File::from(std::os::fd::OwnedFd::from(socket.try_clone().unwrap()));
            file.metadata().unwrap().ino()
        };
        let cookie = socket2::SockRef::from(&client).cookie().unwrap();
        assert_eq!(inode(from, at, cookie).unwrap().map(u64::from), Some(file(&client)));
        assert_eq!(inode(from, at, cookie + 1_000_000).unwrap(), None, "another cookie");
        let mut waiting = None;
        each_tcp(CONNECTED, None, |socket| {
            if (socket.local, socket.remote) == (at, from) {
                waiting = Some(socket.cookie);
            }
        })
        .unwrap();
        let cookie = waiting.unwrap();
        assert_eq!(inode(at, from, cookie).unwrap(), Some(0));
        let accepted = listener.accept().unwrap().0;
        assert_eq!(inode(at, from, cookie).unwrap().map(u64::from), Some(file(&accepted)));
    }

    #[test]
    fn a_destroyed_socket_is_reset_at_both_ends_and_no_other_one_is_touched() {
        use std::io::Read as _;
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let at = listener.local_addr().unwrap();
        let mut client = std::net::TcpStream::connect(at).unwrap();
        let (mut server, from) = listener.accept().unwrap();
        let cookie = socket2::SockRef::from(&server).cookie().unwrap();
        assert!(!destroy(at, from, cookie + 1_000_000).unwrap(), "another cookie");
        let gone = SocketAddr::from(([127, 0, 0, 1], 1));
        assert!(!destroy(at, gone, cookie).unwrap(), "nor is it the listener that is found then");
        assert!(destroy(at, from, cookie).unwrap());
        assert_eq!(server.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionAborted);
        assert_eq!(client.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert!(std::net::TcpStream::connect(at).is_ok(), "the listener is still there");
    }

    #[test]
    fn a_storage_map_that_is_none_is_refused() {
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = each_tcp(CONNECTED, Some(file.as_fd()), |_| {}).unwrap_err();
        assert!(matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM | libc::EBADF)), "{error}");
    }
}
