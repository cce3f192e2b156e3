//! The end of the hold: TCP_NOTSENT_LOWAT becomes as large as no record can be cut by (docs/design/direct-facts.md, "Surprises").

use std::io;
use std::os::fd::AsFd;

use mtls_common::LetGo;
use mtls_direct::{LARGEST_RECORD, unsent_limit};
use socket2::SockRef;

use crate::sys::socket::let_go;
use crate::sys::tcp_info::TcpInfo;

/// `gso_max_size` of a device that says nothing else, bytes (`GSO_LEGACY_MAX_SIZE`).
pub const USUAL_GSO: u32 = 65_536;

/// The smallest SO_SNDBUF, as getsockopt gives it (twice what was asked for, socket(7)), with which nothing was lost.
const LEAST_BUFFER: usize = 18_000;
/// By so much a segment shrinks while it carries SACK blocks, bytes (RFC 2018: four, without timestamps).
const SACKS: u32 = 36;

/// Why a socket cannot be let go without the danger that its last record is cut: its connection belongs to relay.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A record does not fit into the largest segment of the send queue.
    #[error(
        "the peer's window of {window} bytes (segments of {mss}, bursts of {gso}) has no room for a TLS record: use relay"
    )]
    Window {
        /// The peer's window, bytes.
        window: u32,
        /// Payload of a segment, bytes.
        mss: u32,
        /// The device's largest burst, bytes.
        gso: u32,
    },
    /// The application has made its send buffer too small.
    #[error(
        "the application's SO_SNDBUF of {0} bytes has no room for a TLS record: it must be {LEAST_BUFFER}, or use relay"
    )]
    Buffer(usize),
    /// The kernel refuses.
    #[error("TCP_NOTSENT_LOWAT: {0}")]
    Failed(#[from] io::Error),
}

/// How much may wait unsent, bytes. `wish`: what the application has set (or the namespace before the hold); it can only
/// lower the limit. 0 is the system's default, which is none.
fn limit(info: &TcpInfo, gso: u32, wish: Option<u32>) -> Option<u32> {
    let whole = unsent_limit(info.mss, info.window, gso)?.checked_add(LARGEST_RECORD)?;
    // Read in tcp_current_mss and tcp_xmit_size_goal: the number of segments stays, and each may lose that much.
    let sacks = whole.checked_div(info.mss)?.checked_mul(SACKS)?;
    let limit = whole.checked_sub(sacks)?.checked_sub(LARGEST_RECORD).filter(|limit| *limit > 0)?;
    Some(lowered(limit, wish))
}

fn lowered(limit: u32, wish: Option<u32>) -> u32 {
    wish.filter(|wish| *wish > 0).map_or(limit, |wish| wish.min(limit))
}

fn safe(socket: &impl AsFd, gso: u32) -> Result<u32, ReleaseError> {
    let buffer = SockRef::from(socket).send_buffer_size()?;
    if buffer < LEAST_BUFFER {
        return Err(ReleaseError::Buffer(buffer));
    }
    // The window of now is never larger than the largest that was shown, which the kernel counts by and does not tell.
    let info = TcpInfo::of(socket)?;
    limit(&info, gso, None).ok_or(ReleaseError::Window { window: info.window, mss: info.mss, gso })
}

/// Whether [`release`] would succeed; for the decision before anything is armed.
///
/// # Errors
/// As [`release`].
pub fn can_release(socket: &impl AsFd, gso: u32) -> Result<(), ReleaseError> {
    safe(socket, gso).map(drop)
}

/// Lets the writers go; gives the TCP_NOTSENT_LOWAT that was set, bytes. `gso`: of the device ([`USUAL_GSO`]).
/// `wish`: the application's own TCP_NOTSENT_LOWAT.
///
/// # Errors
/// When it cannot be let go safely: it stays held.
pub fn release(socket: &impl AsFd, gso: u32, wish: Option<u32>) -> Result<u32, ReleaseError> {
    let ceiling = safe(socket, gso)?;
    let limit = lowered(ceiling, wish);
    let_go(socket, LetGo::new(limit, ceiling))?;
    Ok(limit)
}

/// Raises the limit of a socket that was released to `before`, where the peer's window has grown. Gives the one in force; `None`:
/// the application has set another, and that one stays.
///
/// # Errors
/// When the kernel refuses, or the application's buffer has become too small for any.
pub fn raise(
    socket: &impl AsFd,
    gso: u32,
    wish: Option<u32>,
    before: u32,
) -> Result<Option<u32>, ReleaseError> {
    if SockRef::from(socket).tcp_notsent_lowat()? != before {
        return Ok(None);
    }
    match safe(socket, gso) {
        Ok(ceiling) if lowered(ceiling, wish) > before => {
            let limit = lowered(ceiling, wish);
            let_go(socket, LetGo::new(limit, ceiling))?;
            Ok(Some(limit))
        }
        // A window that has shrunk does not make the segments smaller again.
        Ok(_) | Err(ReleaseError::Window { .. }) => Ok(Some(before)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};

    use super::*;
    use crate::testing::eventually;

    /// Ours is held.
    fn pair(receive: Option<usize>) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        // Loopback's own are about as large as half of the window.
        SockRef::from(&listener).set_tcp_mss(1_448).unwrap();
        if let Some(bytes) = receive {
            SockRef::from(&listener).set_recv_buffer_size(bytes).unwrap();
        }
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        SockRef::from(&near).set_tcp_notsent_lowat(1).unwrap();
        (near, listener.accept().unwrap().0)
    }

    fn info(mss: u32, window: u32) -> TcpInfo {
        let mut bytes = [0; 232];
        bytes[16..20].copy_from_slice(&mss.to_ne_bytes());
        bytes[228..232].copy_from_slice(&window.to_ne_bytes());
        TcpInfo::parse(&bytes).unwrap()
    }

    #[test]
    fn what_waits_and_a_record_fit_even_when_every_segment_carries_sacks() {
        for mss in [536, 1_220, 1_448, 8_948] {
            for window in [50_000, 64_240, 65_535, 1 << 20, 1 << 30] {
                let Some(limit) = limit(&info(mss, window), USUAL_GSO, None) else { continue };
                let segments = (window / 2).min(USUAL_GSO) / mss;
                assert!(limit + LARGEST_RECORD <= segments * (mss - SACKS), "{mss}, {window}: {limit}");
                assert!(
                    limit + LARGEST_RECORD <= unsent_limit(mss, window, USUAL_GSO).unwrap() + LARGEST_RECORD
                );
            }
        }
        assert_eq!(limit(&info(1_448, 64_240), USUAL_GSO, None), Some(15_450 - 22 * 36));
    }

    #[test]
    fn the_application_can_only_lower_it_and_0_is_no_wish() {
        let of = |wish| limit(&info(1_448, 64_240), USUAL_GSO, wish);
        assert_eq!(of(Some(4_000)), Some(4_000));
        assert_eq!(of(Some(u32::MAX)), of(None));
        assert_eq!(of(Some(0)), of(None));
        assert_eq!(limit(&info(1_448, 32_000), USUAL_GSO, Some(1)), None, "a wish makes no room");
        assert_eq!(limit(&info(0, 0), 0, None), None);
    }

    #[test]
    fn a_released_socket_has_the_limit_and_a_grown_window_raises_it() {
        let (mut near, mut far) = pair(None);
        assert_eq!(release(&near, USUAL_GSO, Some(700)).unwrap(), 700);
        assert_eq!(SockRef::from(&near).tcp_notsent_lowat().unwrap(), 700);
        let reader = std::thread::spawn(move || far.read_exact(&mut [0; 300_000]).map(|()| far));
        near.write_all(&[1; 300_000]).unwrap();
        let _far = reader.join().unwrap().unwrap();
        let mut high = 700;
        eventually(|| {
            high = raise(&near, USUAL_GSO, None, 700).unwrap().unwrap();
            high > 700
        });
        assert_eq!(SockRef::from(&near).tcp_notsent_lowat().unwrap(), high);
        assert_eq!(raise(&near, USUAL_GSO, Some(700), high).unwrap(), Some(high), "it is never lowered");
        assert_eq!(raise(&near, USUAL_GSO, None, 1).unwrap(), None, "the application's own stays");
    }

    #[test]
    fn a_small_window_and_a_small_buffer_are_told_and_the_socket_stays_held() {
        let (near, _far) = pair(Some(4_096));
        assert!(matches!(release(&near, USUAL_GSO, None), Err(ReleaseError::Window { .. })));
        let (near, _far) = pair(None);
        SockRef::from(&near).set_send_buffer_size(5_000).unwrap();
        assert!(matches!(can_release(&near, USUAL_GSO), Err(ReleaseError::Buffer(10_000))));
        assert!(matches!(release(&near, USUAL_GSO, None), Err(ReleaseError::Buffer(_))));
        assert!(matches!(raise(&near, USUAL_GSO, None, 1), Err(ReleaseError::Buffer(_))));
        assert_eq!(SockRef::from(&near).tcp_notsent_lowat().unwrap(), 1);
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(matches!(release(&file, USUAL_GSO, None), Err(ReleaseError::Failed(_))));
    }
}
