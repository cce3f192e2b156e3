//! Kernel TLS calls without a safe wrapper elsewhere: records with their type, and what is on its way.

#![allow(unsafe_code)]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd};

use nix::libc::{self, SOL_TLS, TLS_GET_RECORD_TYPE, TLS_RX_EXPECT_NO_PAD, TLS_SET_RECORD_TYPE, TLS_TX};

/// `struct tls_crypto_info` and the largest body behind it (AES-256-GCM or ChaCha20-Poly1305), with room to spare.
const CRYPTO_INFO: usize = 128;
/// The record sequence number is the last field of every `struct tls12_crypto_info_*`.
const SEQUENCE: usize = 8;
/// Where `tcpi_bytes_acked` is in `struct tcp_info` (include/uapi/linux/tcp.h, Linux 4.1).
const BYTES_ACKED: usize = 120;
const TCP_INFO_LEN: usize = 128;
/// `TCP_ESTABLISHED`, `TCP_FIN_WAIT1` and `TCP_FIN_WAIT2` (include/net/tcp_states.h).
const STATES_BEFORE_FIN: [u8; 3] = [1, 4, 5];

/// Room for one control message with one byte, aligned as `struct cmsghdr` wants it.
#[repr(C)]
union OneByteMessage {
    header: libc::cmsghdr,
    room: [u8; 32],
}

/// Reads from one record; does not wait (`recvmsg` with `MSG_DONTWAIT`). The type is `None` at EOF, which is
/// how EOF differs from an empty record.
///
/// # Errors
/// `EAGAIN` while there is no complete record, `EBADMSG` for one that is not authentic, `EMSGSIZE` for one that
/// is too long, `EKEYEXPIRED` when the peer has changed its key and the new one is not installed.
pub fn receive(socket: &impl AsFd, room: &mut [u8]) -> io::Result<(Option<u8>, usize)> {
    let mut control = OneByteMessage { room: [0; 32] };
    let mut buffer = libc::iovec { iov_base: room.as_mut_ptr().cast(), iov_len: room.len() };
    // SAFETY: an all-zero msghdr is an empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<OneByteMessage>() as _;
    // SAFETY: the message points at `buffer`, which describes `room`, and at `control`, with their sizes.
    let received = unsafe { libc::recvmsg(socket.as_fd().as_raw_fd(), &raw mut message, libc::MSG_DONTWAIT) };
    let length = usize::try_from(received).map_err(|_| io::Error::last_os_error())?;
    // SAFETY: the kernel has filled in the control messages and their length; CMSG_FIRSTHDR checks it.
    let kind = unsafe {
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        let is_type =
            !first.is_null() && (*first).cmsg_level == SOL_TLS && (*first).cmsg_type == TLS_GET_RECORD_TYPE;
        is_type.then(|| libc::CMSG_DATA(first).read())
    };
    Ok((kind, length))
}

/// Sends `bytes` as one record of the given type; does not wait.
///
/// # Errors
/// `EAGAIN` while there is no room.
pub fn send_record(socket: &impl AsFd, kind: u8, bytes: &[u8]) -> io::Result<usize> {
    let mut control = OneByteMessage { room: [0; 32] };
    let mut buffer = libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: an all-zero msghdr is an empty one.
    let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
    message.msg_iov = &raw mut buffer;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    // SAFETY: pure arithmetic; and `control` has room for the header and one byte.
    let sent = unsafe {
        message.msg_controllen = libc::CMSG_SPACE(1) as _;
        let first = libc::CMSG_FIRSTHDR(&raw const message);
        (*first).cmsg_level = SOL_TLS;
        (*first).cmsg_type = TLS_SET_RECORD_TYPE;
        (*first).cmsg_len = libc::CMSG_LEN(1) as _;
        libc::CMSG_DATA(first).write(kind);
        libc::sendmsg(socket.as_fd().as_raw_fd(), &raw const message, libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL)
    };
    usize::try_from(sent).map_err(|_| io::Error::last_os_error())
}

/// The sequence number of the next record that will be sent (`getsockopt(TLS_TX)`).
///
/// # Errors
/// `EBUSY` when no key was installed.
pub fn next_sequence(socket: &impl AsFd) -> io::Result<u64> {
    let mut info = zeroize::Zeroizing::new([0_u8; CRYPTO_INFO]);
    // The kernel wants the exact size of the cipher's structure; ask for the head first.
    let head: [u8; 4] = option(socket, SOL_TLS, TLS_TX)?;
    let size = crypto_info_size(u16::from_ne_bytes([head[2], head[3]]))
        .ok_or_else(|| io::Error::other("the kernel names a cipher that mtlsd does not use"))?;
    let room = info.get_mut(..size).ok_or(io::ErrorKind::InvalidData)?;
    let length = get(socket, SOL_TLS, TLS_TX, room)?;
    let sequence = length
        .checked_sub(SEQUENCE)
        .and_then(|start| info.get(start..length))
        .and_then(|bytes| <[u8; SEQUENCE]>::try_from(bytes).ok())
        .ok_or(io::ErrorKind::InvalidData)?;
    Ok(u64::from_be_bytes(sequence))
}

/// Has the kernel decrypt into the reader's own memory instead of pages that it must get, clear and copy
/// (`TLS_RX_EXPECT_NO_PAD`, Linux 6.0). A record with padding, and one that is no data, is decrypted twice then; before
/// Linux 7.2 (and 6.1.192) `recvmsg` also writes what is no data behind itself, so that it is not for who reads such records.
///
/// # Errors
/// `EINVAL` without a key of TLS 1.3 for what is received, `ENOPROTOOPT` where the kernel does not know it.
pub fn decrypt_into_readers_memory(socket: &impl AsFd) -> io::Result<()> {
    let on: libc::c_int = 1;
    set(socket, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &on.to_ne_bytes())
}

/// Whether it does.
///
/// # Errors
/// As [`decrypt_into_readers_memory`].
#[cfg(test)]
pub fn decrypts_into_readers_memory(socket: &impl AsFd) -> io::Result<bool> {
    option(socket, SOL_TLS, TLS_RX_EXPECT_NO_PAD).map(|value: [u8; 4]| i32::from_ne_bytes(value) == 1)
}

/// Size of `struct tls12_crypto_info_*` of a cipher (include/uapi/linux/tls.h).
fn crypto_info_size(cipher: u16) -> Option<usize> {
    match cipher {
        libc::TLS_CIPHER_AES_GCM_128 => Some(size_of::<libc::tls12_crypto_info_aes_gcm_128>()),
        libc::TLS_CIPHER_AES_GCM_256 => Some(size_of::<libc::tls12_crypto_info_aes_gcm_256>()),
        libc::TLS_CIPHER_CHACHA20_POLY1305 => Some(size_of::<libc::tls12_crypto_info_chacha20_poly1305>()),
        _ => None,
    }
}

/// Says whether the peer has sent FIN, or the connection is over (`tcpi_state`).
///
/// # Errors
/// When the socket is not TCP.
pub fn peer_has_ended(socket: &impl AsFd) -> io::Result<bool> {
    let [state]: [u8; 1] = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    Ok(!STATES_BEFORE_FIN.contains(&state))
}

/// How many bytes TCP was given to send on this socket so far, modulo 2⁶⁴: those acknowledged and those
/// that wait. Never more than the truth.
///
/// # Errors
/// When the socket is not TCP.
pub fn bytes_given_to_tcp(socket: &impl AsFd) -> io::Result<u64> {
    let info: [u8; TCP_INFO_LEN] = option(socket, libc::IPPROTO_TCP, libc::TCP_INFO)?;
    let acknowledged = info
        .get(BYTES_ACKED..BYTES_ACKED + 8)
        .and_then(|bytes| <[u8; 8]>::try_from(bytes).ok())
        .map(u64::from_ne_bytes)
        .ok_or(io::ErrorKind::InvalidData)?;
    // Second, so that what is acknowledged in between is missed rather than counted twice.
    let mut waiting: libc::c_int = 0;
    // SAFETY: SIOCOUTQ (the same number as TIOCOUTQ) writes one int.
    let result = unsafe { libc::ioctl(socket.as_fd().as_raw_fd(), libc::TIOCOUTQ, &raw mut waiting) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(acknowledged.wrapping_add(u64::try_from(waiting).unwrap_or(0)))
}

fn option<const N: usize>(socket: &impl AsFd, level: libc::c_int, name: libc::c_int) -> io::Result<[u8; N]> {
    let mut value = [0; N];
    match get(socket, level, name, &mut value)? {
        length if length == N => Ok(value),
        _ => Err(io::ErrorKind::Unsupported.into()),
    }
}

pub(super) fn set(socket: &impl AsFd, level: libc::c_int, name: libc::c_int, value: &[u8]) -> io::Result<()> {
    let length = libc::socklen_t::try_from(value.len()).map_err(io::Error::other)?;
    // SAFETY: the kernel reads `length` bytes at `value`, which has so many.
    let result =
        unsafe { libc::setsockopt(socket.as_fd().as_raw_fd(), level, name, value.as_ptr().cast(), length) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

pub(super) fn get(
    socket: &impl AsFd,
    level: libc::c_int,
    name: libc::c_int,
    room: &mut [u8],
) -> io::Result<usize> {
    let mut length = MaybeUninit::new(libc::socklen_t::try_from(room.len()).unwrap_or(libc::socklen_t::MAX));
    // SAFETY: `length` says how much room there is at `room`, and the kernel writes back how much it used.
    let result = unsafe {
        libc::getsockopt(
            socket.as_fd().as_raw_fd(),
            level,
            name,
            room.as_mut_ptr().cast(),
            length.as_mut_ptr(),
        )
    };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: initialised above.
    usize::try_from(unsafe { length.assume_init() }).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn every_byte_given_to_tcp_is_counted_whether_acknowledged_or_not() {
        let (mut near, mut far) = pair();
        let before = bytes_given_to_tcp(&near).unwrap();
        near.write_all(&[1; 70_000]).unwrap();
        assert_eq!(bytes_given_to_tcp(&near).unwrap() - before, 70_000);
        far.read_exact(&mut [0; 70_000]).unwrap();
        near.write_all(&[1; 5]).unwrap();
        let counted = || bytes_given_to_tcp(&near).unwrap() - before;
        // An acknowledgement between the two questions makes it less for once.
        assert!(counted() == 70_005 || counted() == 70_005);
    }

    #[test]
    fn a_socket_without_tls_has_no_sequence_number_and_no_record_types() {
        let (near, mut far) = pair();
        assert!(next_sequence(&near).is_err());
        assert!(decrypt_into_readers_memory(&near).is_err());
        assert_eq!(receive(&near, &mut [0; 8]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        far.write_all(b"plain").unwrap();
        drop(far);
        let mut room = [0; 8];
        assert_eq!(receive(&near, &mut room).unwrap(), (None, 5));
    }

    #[test]
    fn the_peers_fin_is_told_from_our_own() {
        let (mut near, far) = pair();
        assert!(!peer_has_ended(&near).unwrap());
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert!(!peer_has_ended(&near).unwrap());
        drop(far);
        assert_eq!(near.read(&mut [0; 1]).unwrap(), 0, "FIN is here");
        assert!(peer_has_ended(&near).unwrap());
    }

    #[test]
    fn what_is_no_socket_is_an_error() {
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(receive(&file, &mut []).is_err());
        assert!(send_record(&file, 21, &[]).is_err());
        assert!(bytes_given_to_tcp(&file).is_err());
        assert!(peer_has_ended(&file).is_err());
    }
}
