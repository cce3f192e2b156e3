//! Where the data of several records lies in one room, between their headers and tags.

use std::io::IoSlice;
use std::ops::Range;

/// Full records that one read can bring, and two more.
const MOST: usize = super::RECORDS + 2;
/// Data up to this length is moved behind the data before it: one piece more would cost as much.
const SMALL: usize = 1024;

/// Ranges of a room, in order.
#[derive(Debug, Default)]
pub struct Pieces {
    ranges: [Range<usize>; MOST],
    count: usize,
}

impl Pieces {
    /// Adds what lies at `from`, behind everything that was added before.
    pub fn push(&mut self, room: &mut [u8], from: Range<usize>) {
        let last = self.count.checked_sub(1).and_then(|last| self.ranges.get_mut(last));
        if let Some(last) = last
            && (self.count == MOST || from.len() <= SMALL)
        {
            let end = last.end;
            last.end += from.len();
            room.copy_within(from, end);
        } else if let Some(next) = self.ranges.get_mut(self.count) {
            *next = from;
            self.count += 1;
        }
    }

    /// How many bytes they are.
    pub fn length(&self) -> usize {
        self.ranges().map(Range::len).sum()
    }

    /// Lends them to a vectored write.
    pub fn with_slices<T>(&self, room: &[u8], write: impl FnOnce(&[IoSlice<'_>]) -> T) -> T {
        let mut slices = [IoSlice::new(&[]); MOST];
        for (slice, range) in slices.iter_mut().zip(self.ranges()) {
            *slice = IoSlice::new(room.get(range.clone()).unwrap_or_default());
        }
        write(slices.get(..self.count).unwrap_or_default())
    }

    /// What comes behind the first `written` bytes.
    pub fn rest<'r>(&'r self, room: &'r [u8], written: usize) -> impl Iterator<Item = &'r [u8]> {
        let mut skip = written;
        self.ranges().filter_map(move |range| {
            let skipped = skip.min(range.len());
            skip -= skipped;
            room.get(range.start + skipped..range.end).filter(|rest| !rest.is_empty())
        })
    }

    fn ranges(&self) -> impl Iterator<Item = &Range<usize>> {
        self.ranges.iter().take(self.count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    proptest::proptest! {
        #[test]
        fn the_data_comes_out_as_it_went_in(
            lengths in proptest::collection::vec(proptest::prop_oneof![1..50_usize, 1000..1100_usize, 3000..4000_usize], 0..40),
            written in 0..40_000_usize,
        ) {
            let (mut room, mut at, mut expected) = (Vec::new(), Vec::new(), Vec::new());
            for (n, length) in (1_u8..).zip(&lengths) {
                room.extend([0; 5]);
                at.push(room.len()..room.len() + length);
                room.extend(vec![n; *length]);
                expected.extend(vec![n; *length]);
                room.extend([0; 17]);
            }
            let mut pieces = Pieces::default();
            for range in at {
                pieces.push(&mut room, range);
            }
            assert_eq!(pieces.length(), expected.len());
            assert!(pieces.with_slices(&room, |slices| slices.concat_bytes()) == expected);
            let rest: Vec<u8> = pieces.rest(&room, written).flatten().copied().collect();
            assert!(rest == expected.get(written..).unwrap_or_default());
        }
    }

    trait Concat {
        fn concat_bytes(&self) -> Vec<u8>;
    }

    impl Concat for &[IoSlice<'_>] {
        fn concat_bytes(&self) -> Vec<u8> {
            self.iter().flat_map(|slice| slice.iter().copied()).collect()
        }
    }
}
