//! Keys into an application's socket: TCP_ULP, TLS_RX, TLS_TX.

use nix::errno::Errno;

use super::taken::Taken;
use crate::datapath::direct::session::SocketKeys;
use crate::datapath::ktls::{TlsSocket, enable};

/// Why a socket did not take its keys. Whatever was set stays: such a socket can only be destroyed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ArmError {
    /// No kernel TLS here.
    #[error(
        "setsockopt(TCP_ULP, \"tls\"): the kernel has no TLS (CONFIG_TLS), or its module is not loaded: `modprobe tls`"
    )]
    NoKernelTls,
    /// The application, or its peer, has ended a direction before anything was sent.
    #[error(
        "setsockopt(TCP_ULP, \"tls\"): a direction had ended before the keys were there; such connections need a relay"
    )]
    HalfClosed,
    /// The application has set one itself.
    #[error(
        "setsockopt(TCP_ULP, \"tls\"): the socket has another upper layer protocol already, which the application must have set"
    )]
    Taken,
    /// Anything else.
    #[error("setsockopt({option}): {errno}")]
    Refused {
        /// Which option.
        option: &'static str,
        /// What it said.
        errno: Errno,
    },
}

/// Installs both keys, the one for receiving first: nothing may come that could not be opened.
///
/// # Errors
/// See [`ArmError`].
pub fn arm(taken: &Taken, keys: &SocketKeys) -> Result<(), ArmError> {
    enable(taken).map_err(|errno| match errno {
        Errno::ENOENT | Errno::ENOPROTOOPT => ArmError::NoKernelTls,
        Errno::ENOTCONN => ArmError::HalfClosed,
        Errno::EEXIST => ArmError::Taken,
        errno => ArmError::Refused { option: "TCP_ULP", errno },
    })?;
    let refused = |option| move |errno| ArmError::Refused { option, errno };
    let socket = TlsSocket::new(taken);
    socket.install_rx(&keys.rx).map_err(refused("TLS_RX"))?;
    socket.install_tx(&keys.tx).map_err(refused("TLS_TX"))
}
