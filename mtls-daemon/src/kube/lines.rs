//! A watch's bytes, cut into lines of bounded length.

/// Longest line of a watch, in bytes: an object has at most 1.5 MiB in etcd, and is no more than twice as long in JSON.
pub const MAX_LINE: usize = 4 << 20;
/// Memory that is kept between lines, in bytes.
const KEPT: usize = 64 * 1024;

/// A line that does not end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a line is longer than {MAX_LINE} bytes")]
pub struct LineTooLong;

/// Bytes in, lines out.
#[derive(Debug, Default)]
pub struct Splitter {
    bytes: Vec<u8>,
    /// Where the next line begins.
    start: usize,
    /// Up to where there is no end of line.
    scanned: usize,
}

impl Splitter {
    /// Takes what has arrived. Take the lines out before more is given.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.drain(..self.start.min(self.bytes.len()));
        self.scanned = self.scanned.saturating_sub(self.start);
        self.start = 0;
        if self.bytes.is_empty() {
            self.bytes.shrink_to(KEPT);
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole line, without its end; empty lines are none.
    ///
    /// # Errors
    /// If what is there is longer than [`MAX_LINE`].
    pub fn next_line(&mut self) -> Result<Option<&[u8]>, LineTooLong> {
        loop {
            let rest = self.bytes.get(self.scanned..).unwrap_or_default();
            let Some(length) = rest.iter().position(|byte| *byte == b'\n') else {
                self.scanned = self.bytes.len();
                let pending = self.bytes.len().saturating_sub(self.start);
                return if pending > MAX_LINE { Err(LineTooLong) } else { Ok(None) };
            };
            let (start, end) = (self.start, self.scanned.saturating_add(length));
            self.start = end.saturating_add(1);
            self.scanned = self.start;
            if end.saturating_sub(start) > MAX_LINE {
                return Err(LineTooLong);
            }
            if end > start {
                return Ok(self.bytes.get(start..end));
            }
        }
    }

    /// Is there the beginning of a line?
    #[must_use]
    pub fn is_within_line(&self) -> bool {
        self.bytes.len() > self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn lines(pieces: &[&[u8]]) -> (Vec<Vec<u8>>, Splitter) {
        let (mut splitter, mut lines) = (Splitter::default(), Vec::new());
        for piece in pieces {
            splitter.push(piece);
            while let Some(line) = splitter.next_line().unwrap() {
                lines.push(line.to_vec());
            }
        }
        (lines, splitter)
    }

    #[test]
    fn lines_end_at_their_ends_and_the_beginning_of_one_is_known() {
        let (found, splitter) = lines(&[b"ab", b"c\n\nd\ne", b"f"]);
        assert_eq!(found, [b"abc".to_vec(), b"d".to_vec()]);
        assert!(splitter.is_within_line());
        assert!(!lines(&[b"a\n"]).1.is_within_line());
    }

    #[test]
    fn a_line_has_at_most_4_mib_whether_or_not_it_ends() {
        let longest = vec![b'x'; MAX_LINE];
        assert!(lines(&[&longest, b"\n"]).0 == std::slice::from_ref(&longest));
        let mut splitter = Splitter::default();
        splitter.push(&longest);
        assert_eq!(splitter.next_line(), Ok(None));
        splitter.push(b"x");
        assert_eq!(splitter.next_line(), Err(LineTooLong));
        let mut splitter = Splitter::default();
        splitter.push(&[longest.as_slice(), b"x\n"].concat());
        assert_eq!(splitter.next_line(), Err(LineTooLong));
    }

    #[test]
    fn the_memory_of_a_long_line_is_given_back() {
        let (_, mut splitter) = lines(&[&vec![b'x'; MAX_LINE], b"\n"]);
        splitter.push(b"y");
        assert!(splitter.bytes.capacity() <= KEPT, "{}", splitter.bytes.capacity());
    }

    proptest! {
        #[test]
        fn where_the_bytes_are_cut_does_not_matter(
            text in proptest::collection::vec(prop_oneof![Just(b'\n'), any::<u8>()], 0..200),
            cuts in proptest::collection::vec(1_usize..20, 1..50),
        ) {
            let mut pieces = Vec::new();
            let mut rest = text.as_slice();
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, tail) = rest.split_at((*cut).min(rest.len()));
                pieces.push(piece);
                rest = tail;
            }
            let whole = text.iter().rposition(|byte| *byte == b'\n').map(|end| text[..end].to_vec());
            let wanted: Vec<Vec<u8>> = whole.unwrap_or_default().split(|byte| *byte == b'\n')
                .filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect();
            prop_assert_eq!(lines(&pieces).0, wanted);
        }
    }
}
