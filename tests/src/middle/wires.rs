//! The two interfaces of the attacker, as packet sockets.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::ifaddrs::getifaddrs;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike, bind, send, socket,
};

use super::Segment;
use crate::lab::{Lab, Pod, net};

/// The attacker's cable to the bridge: this end is the bridge's, the other one ours.
const CABLE: [&str; 2] = ["m0", "m1"];

/// Virtual interfaces carry what is longer than the MTU in one; a packet socket does not.
const PIECE: usize = 1_400;

/// See the module.
pub(super) struct Wires {
    bridge: OwnedFd,
    pod: OwnedFd,
    addresses: [IpAddr; 2],
}

impl Wires {
    pub(super) fn between(lab: &Lab, pod: &Pod) -> Self {
        let (port, [outer, inner]) = (pod.port(), CABLE);
        net::ip_in(
            &lab.wire(),
            &format!(
                "link add {outer} type veth peer name {inner}\nlink set {inner} up\nlink set {port} nomaster\n\
                 link set {outer} master {} up\n",
                net::BRIDGE
            ),
        );
        let wire = net::netns_path(&lab.wire());
        let (bridge, pod_side) = net::inside(&wire, || (open(inner), open(port)));
        Self { bridge, pod: pod_side, addresses: pod.addresses() }
    }

    /// Each interface that has a frame, and the other one.
    pub(super) fn ready(&self) -> Vec<(&OwnedFd, &OwnedFd)> {
        let mut polled = [
            PollFd::new(self.bridge.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.pod.as_fd(), PollFlags::POLLIN),
        ];
        if poll(&mut polled, PollTimeout::from(20_u8)).is_err() {
            return Vec::new();
        }
        let ways = [(&self.bridge, &self.pod), (&self.pod, &self.bridge)];
        let ready = polled.iter().zip(ways).filter(|(polled, _)| polled.any() == Some(true));
        ready.map(|(_, way)| way).collect()
    }

    pub(super) fn read(from: &OwnedFd) -> Option<Vec<u8>> {
        let mut frame = vec![0; 1 << 16];
        let got = nix::unistd::read(from, &mut frame).ok()?;
        frame.truncate(got);
        Some(frame)
    }

    pub(super) fn write(to: &OwnedFd, frame: &[u8]) {
        match send(to.as_raw_fd(), frame, MsgFlags::empty()) {
            // What cannot go on is lost, as on any wire; a receiver that went away took its interface along.
            Ok(_) | Err(Errno::ENOBUFS | Errno::ENETDOWN | Errno::ENXIO | Errno::ENODEV) => {}
            Err(error) => panic!("a frame of {} bytes: {error}", frame.len()),
        }
    }

    /// To its receiver, as from its sender.
    pub(super) fn send(&self, segment: &Segment) {
        let to = if self.addresses.contains(&segment.to.ip()) { &self.pod } else { &self.bridge };
        for piece in segment.pieces(PIECE) {
            Self::write(to, &piece.frame(hardware(segment.from.ip()), hardware(segment.to.ip())));
        }
    }
}

/// The lab makes them from the addresses.
fn hardware(address: IpAddr) -> [u8; 6] {
    let last = match address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(address) => address.octets()[15],
    };
    [2, 0x77, 0, 0, 0, last]
}

/// A packet socket of an interface of this thread's namespace.
fn open(interface: &str) -> OwnedFd {
    let opened = socket(AddressFamily::Packet, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::EthAll);
    let opened = opened.expect("a packet socket needs root");
    let mut interfaces = getifaddrs().expect("interfaces can be listed");
    // Only the kernel's list has a link address without unsafe code.
    let address = interfaces.find_map(|found| {
        let link = found.address.filter(|_| found.interface_name == interface)?;
        (link.family() == Some(AddressFamily::Packet)).then_some(link)
    });
    let address = address.unwrap_or_else(|| panic!("no interface {interface}"));
    bind(opened.as_raw_fd(), &address).expect("a packet socket can be bound");
    opened
}
