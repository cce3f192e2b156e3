//! The end of the hold: TCP_NOTSENT_LOWAT, so large that writers wake, so small that no record is cut.

use std::io;

use mtls_direct::{LARGEST_RECORD, unsent_limit};
use socket2::SockRef;

use super::taken::Taken;
use crate::sys::tcp_info::TcpInfo;

/// `GSO_LEGACY_MAX_SIZE`: what every device takes in one burst, bytes, unless it was told otherwise.
const GSO: u32 = 65_536;

/// Why a writer cannot be let go.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// The last record of the stream could be lost.
    #[error(
        "the peer's window of {window} bytes, or segments of {mss}, leave no room for a whole record in one segment, so the \
         last one could be lost at the end; such connections need a relay"
    )]
    Window {
        /// tcpi_snd_wnd.
        window: u32,
        /// tcpi_snd_mss.
        mss: u32,
    },
    /// The same, by the application's own buffer.
    #[error(
        "SO_SNDBUF of {0} bytes is less than one TLS record, so the last one could be lost at the end; such connections need \
         a relay"
    )]
    Buffer(usize),
    /// The kernel said no.
    #[error("setsockopt(TCP_NOTSENT_LOWAT): {0}")]
    Refused(#[from] io::Error),
}

/// Lets the writer go. `wish`: the TCP_NOTSENT_LOWAT in bytes that the application asked for, which can only lower it.
///
/// # Errors
/// See [`ReleaseError`]; the socket stays held.
pub fn release(taken: &Taken, wish: Option<u32>) -> Result<(), ReleaseError> {
    let socket = SockRef::from(taken);
    let limit = limit(&TcpInfo::of(taken)?, socket.send_buffer_size()?)?;
    socket.set_tcp_notsent_lowat(wish.map_or(limit, |wish| wish.clamp(1, limit)))?;
    Ok(())
}

fn limit(info: &TcpInfo, buffer: usize) -> Result<u32, ReleaseError> {
    let (mss, window) = (info.send_mss, info.send_window);
    if usize::try_from(LARGEST_RECORD).is_ok_and(|record| buffer < record) {
        return Err(ReleaseError::Buffer(buffer));
    }
    unsent_limit(mss, window, GSO).ok_or(ReleaseError::Window { window, mss })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_usual_connection_has_a_limit_and_a_narrow_one_has_its_reason() {
        let info = TcpInfo { send_mss: 1_448, send_window: 64_256 };
        assert_eq!(limit(&info, 87_040).unwrap(), 31_856 - LARGEST_RECORD);
        assert!(matches!(limit(&info, 4_608), Err(ReleaseError::Buffer(4_608))));
        let narrow = TcpInfo { send_window: 20_000, ..info };
        let error = limit(&narrow, 87_040).unwrap_err().to_string();
        assert!(error.contains("20000") && error.contains("relay"), "{error}");
    }
}
