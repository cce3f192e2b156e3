//! The classic pcap file format (draft-ietf-opsawg-pcap), as tcpdump writes it.

/// Frames larger than this are not made by any interface here (BIG TCP is off).
const MAX_FRAME: usize = 256 * 1024;
/// A capture that is larger is a mistake in the test: parsing keeps it in memory.
const MAX_FRAMES: usize = 4_000_000;

/// How a frame begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// LINKTYPE_ETHERNET.
    Ethernet,
    /// LINKTYPE_LINUX_SLL2, of `tcpdump -i any`.
    Sll2,
}

/// A parsed file.
#[derive(Debug)]
pub struct Pcap {
    /// How its frames begin.
    pub link: Link,
    /// The frames.
    pub frames: Vec<Vec<u8>>,
}

/// Parses a file. A last frame that is not whole yet (the writer is still at it) is left out.
pub fn parse(file: &[u8]) -> Result<Pcap, String> {
    let (header, mut rest) = file.split_at_checked(24).ok_or("shorter than a pcap header")?;
    let little = match header.get(..4) {
        Some([0xd4, 0xc3, 0xb2, 0xa1] | [0x4d, 0x3c, 0xb2, 0xa1]) => true,
        Some([0xa1, 0xb2, 0xc3, 0xd4] | [0xa1, 0xb2, 0x3c, 0x4d]) => false,
        _ => return Err("not a pcap file".into()),
    };
    let link = match word(header, 20, little).map(|w| w & 0xffff) {
        Some(1) => Link::Ethernet,
        Some(276) => Link::Sll2,
        other => return Err(format!("link type {other:?} is not Ethernet (1) or SLL2 (276)")),
    };
    let mut frames = Vec::new();
    while let Some((head, after)) = rest.split_at_checked(16) {
        let captured = word(head, 8, little).and_then(|w| usize::try_from(w).ok()).unwrap_or(usize::MAX);
        let original = word(head, 12, little).and_then(|w| usize::try_from(w).ok()).unwrap_or(usize::MAX);
        if captured > MAX_FRAME || frames.len() >= MAX_FRAMES {
            return Err(format!("frame {} of {captured} bytes: more than this parser takes", frames.len()));
        }
        if captured < original {
            return Err(format!("frame {} was cut to {captured} of {original} bytes", frames.len()));
        }
        let Some((frame, next)) = after.split_at_checked(captured) else { break };
        frames.push(frame.to_vec());
        rest = next;
    }
    Ok(Pcap { link, frames })
}

fn word(bytes: &[u8], at: usize, little: bool) -> Option<u32> {
    let four: [u8; 4] = bytes.get(at..at.checked_add(4)?)?.try_into().ok()?;
    Some(if little { u32::from_le_bytes(four) } else { u32::from_be_bytes(four) })
}

#[cfg(test)]
pub mod tests {
    use super::*;

    /// A little-endian file of frames.
    pub fn file(link: u32, frames: &[Vec<u8>]) -> Vec<u8> {
        let mut out = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 4, 0];
        out.extend(link.to_le_bytes());
        for frame in frames {
            let length = u32::try_from(frame.len()).unwrap().to_le_bytes();
            out.extend([[0; 4], [0; 4], length, length].concat());
            out.extend(frame);
        }
        out
    }

    #[test]
    fn frames_come_out_as_they_went_in_and_a_torn_last_one_is_left_out() {
        let frames = vec![vec![1, 2, 3], vec![], vec![9; 100]];
        let whole = file(1, &frames);
        assert_eq!(parse(&whole).unwrap().frames, frames);
        assert_eq!(parse(&whole[..whole.len() - 1]).unwrap().frames, frames[..2]);
        assert_eq!(parse(&file(276, &frames)).unwrap().link, Link::Sll2);
    }

    #[test]
    fn what_is_not_a_whole_capture_is_refused() {
        assert!(parse(b"").unwrap_err().contains("shorter"));
        assert!(parse(&[0; 24]).unwrap_err().contains("not a pcap"));
        assert!(parse(&file(113, &[])).unwrap_err().contains("link type"));
        let mut huge = file(1, &[vec![0; 4]]);
        huge[24 + 8..24 + 16].copy_from_slice(&[0xff; 8]);
        assert!(parse(&huge).unwrap_err().contains("more than this parser takes"));
        let mut cut = file(1, &[vec![0; 4]]);
        cut[24 + 12] = 9;
        assert!(parse(&cut).unwrap_err().contains("cut to 4 of 9"));
    }
}
