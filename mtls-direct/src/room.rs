//! How much may wait unsent in a socket that was let go.
//!
//! kTLS takes a record of a non-blocking send() although only its first part found room; the rest is dropped when the
//! application then ends its side, and the peer reads a clean end (`docs/design/direct-facts.md`). A record that needs no second
//! segment of the send queue is never cut: so what waits unsent must leave room for one in the segment it waits in.

/// Bytes of the largest record on the wire: header, 2^14 bytes of content, its type, the tag (RFC 8446, section 5.2).
pub const LARGEST_RECORD: u32 = 5 + (1 << 14) + 1 + 16;

/// What the kernel keeps free for headers below `gso_max_size` (`tcp_xmit_size_goal`: MAX_TCP_HEADER and one byte), rounded up.
const HEADERS: u32 = 512;

/// The value of TCP_NOTSENT_LOWAT, bytes, with which no record is cut. `None`: this connection cannot have one, and goes
/// by relay.
///
/// `mss`: of a segment, bytes. `window`: the largest window that the peer has shown, bytes; it only grows, and the limit with
/// it. `gso`: the device's `gso_max_size`, bytes.
#[must_use]
pub fn unsent_limit(mss: u32, window: u32, gso: u32) -> Option<u32> {
    let segment = (window / 2).min(gso.saturating_sub(HEADERS));
    let whole = segment.checked_div(mss)?.checked_mul(mss)?;
    whole.checked_sub(LARGEST_RECORD).filter(|limit| *limit > 0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GSO: u32 = 65_536;

    #[test]
    fn the_values_that_were_tried_on_real_kernels() {
        assert_eq!(LARGEST_RECORD, 16_406);
        assert_eq!(unsent_limit(1_448, 64_240, GSO), Some(31_856 - 16_406));
        // With jumbo frames 15,000 lost records, and this did not.
        assert_eq!(unsent_limit(8_948, 64_240, GSO), Some(26_844 - 16_406));
        assert_eq!(unsent_limit(1_448, 4 << 20, GSO), Some(44 * 1_448 - 16_406));
    }

    #[test]
    fn where_a_record_does_not_fit_there_is_no_value() {
        assert_eq!(unsent_limit(1_448, 32_000, GSO), None, "a reader with a small buffer");
        assert_eq!(unsent_limit(1_448, 64_240, 16_384), None, "a device with small bursts");
        assert_eq!(
            unsent_limit(40_000, 64_240, GSO),
            None,
            "a segment that is larger than half of the window"
        );
        assert_eq!(unsent_limit(0, 64_240, GSO), None);
        assert_eq!(unsent_limit(1_448, 0, 0), None);
        let exactly = 2 * LARGEST_RECORD;
        assert_eq!(unsent_limit(LARGEST_RECORD, exactly, GSO), None, "nothing could wait");
    }

    proptest! {
        #[test]
        fn what_waits_and_one_record_fit_into_whole_segments(mss in any::<u32>(), window in any::<u32>(), gso in any::<u32>()) {
            if let Some(limit) = unsent_limit(mss, window, gso) {
                let whole = limit + LARGEST_RECORD;
                prop_assert!(limit > 0 && whole <= window / 2 && whole <= gso && whole.is_multiple_of(mss));
            }
        }

        #[test]
        fn a_larger_window_never_lowers_it(mss in 1_u32..70_000, window in any::<u32>(), more in any::<u32>()) {
            let larger = window.saturating_add(more);
            prop_assert!(unsent_limit(mss, larger, GSO) >= unsent_limit(mss, window, GSO));
        }
    }
}
