//! One TCP socket with the kernel's TLS on it.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::errno::Errno;
use nix::sys::socket::setsockopt;
use nix::sys::socket::sockopt::{TcpTlsRx, TcpTlsTx, TcpUlp};

use super::keys::RecordKeys;
use crate::datapath::tls::ContentType;
use crate::sys::ktls as sys;

/// What was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Bytes of a record of this type; 0 for an empty one.
    Record(ContentType, usize),
    /// TCP ended. Clean only after close_notify.
    Eof,
}

/// Puts the kernel's TLS on a connected socket. It stays plain until the keys are installed, and can never be
/// taken off again.
///
/// # Errors
/// `ENOENT` when the kernel has no `tls` module (or it may not be loaded), `ENOTCONN` unless established.
pub fn enable(socket: &impl AsFd) -> Result<(), Errno> {
    setsockopt(socket, TcpUlp::default(), b"tls")
}

/// A borrowed socket on which [`enable`] was called.
#[derive(Debug, Clone, Copy)]
pub struct TlsSocket<'s>(BorrowedFd<'s>);

impl<'s> TlsSocket<'s> {
    /// Of a socket that was enabled.
    pub fn new(socket: &'s impl AsFd) -> Self {
        Self(socket.as_fd())
    }

    /// The key for what is sent from now on.
    ///
    /// # Errors
    /// `EBUSY` for a second key before Linux 6.14.
    pub fn install_tx(self, keys: &RecordKeys) -> Result<(), Errno> {
        setsockopt(&self.0, TcpTlsTx, keys.info())
    }

    /// The key for what is received from now on, what waits included.
    ///
    /// # Errors
    /// `EBUSY` for a second key before Linux 6.14.
    pub fn install_rx(self, keys: &RecordKeys) -> Result<(), Errno> {
        setsockopt(&self.0, TcpTlsRx, keys.info())
    }

    /// As [`sys::decrypt_into_readers_memory`].
    ///
    /// # Errors
    /// As there.
    pub fn decrypt_into_readers_memory(self) -> io::Result<()> {
        sys::decrypt_into_readers_memory(&self.0)
    }

    /// Reads from one record; does not wait.
    ///
    /// # Errors
    /// As [`sys::receive`].
    pub fn receive(self, room: &mut [u8]) -> io::Result<Received> {
        Ok(match sys::receive(&self.0, room)? {
            (None, 0) => Received::Eof,
            (kind, length) => {
                let kind = kind.map_or(ContentType::ApplicationData, ContentType::from);
                Received::Record(kind, length)
            }
        })
    }

    /// Sends one record that is not application data; does not wait. What was spliced before goes first.
    ///
    /// # Errors
    /// `EAGAIN` while there is no room.
    pub fn send(self, kind: ContentType, bytes: &[u8]) -> io::Result<()> {
        match sys::send_record(&self.0, kind.number(), bytes)? {
            length if length == bytes.len() => Ok(()),
            _ => Err(io::ErrorKind::WriteZero.into()),
        }
    }

    /// Sequence number of the next record to be sent with the current key.
    ///
    /// # Errors
    /// `EBUSY` without a key.
    pub fn next_sequence(self) -> io::Result<u64> {
        sys::next_sequence(&self.0)
    }

    /// As [`sys::peer_has_ended`].
    ///
    /// # Errors
    /// When the socket is not TCP.
    pub fn peer_has_ended(self) -> io::Result<bool> {
        sys::peer_has_ended(&self.0)
    }

    /// As [`sys::bytes_given_to_tcp`].
    ///
    /// # Errors
    /// When the socket is not TCP.
    pub fn bytes_given_to_tcp(self) -> io::Result<u64> {
        sys::bytes_given_to_tcp(&self.0)
    }
}
