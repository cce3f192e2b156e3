//! Where TLS records end in a byte stream, which only the handover to the kernel has to know.

/// Where the records of a byte stream end (RFC 8446, section 5.1), so that no more is read than the one that is
/// under way: what comes after the handshake may be the kernel's.
#[derive(Debug, Default)]
pub struct Boundary {
    header: [u8; HEADER],
    header_length: usize,
    body_left: usize,
}

/// Length of a record's header.
const HEADER: usize = 5;
/// What a record of application data adds to its content: header, content type and tag (RFC 8446, section 5.2).
const OVERHEAD: usize = HEADER + 1 + 16;

impl Boundary {
    /// How much may be read without going beyond a record. Never 0.
    pub fn wanted(&self) -> usize {
        if self.body_left > 0 { self.body_left } else { HEADER - self.header_length }
    }

    /// The last record is complete and no other has begun.
    pub fn is_between_records(&self) -> bool {
        self.body_left == 0 && self.header_length == 0
    }

    /// These bytes were read.
    pub fn pass(&mut self, mut bytes: &[u8]) {
        while let Some((first, rest)) = bytes.split_first() {
            if self.body_left > 0 {
                let passed = self.body_left.min(bytes.len());
                self.body_left -= passed;
                bytes = bytes.get(passed..).unwrap_or_default();
                continue;
            }
            if let Some(place) = self.header.get_mut(self.header_length) {
                *place = *first;
            }
            self.header_length += 1;
            bytes = rest;
            if self.header_length == HEADER {
                let [_, _, _, high, low] = self.header;
                self.body_left = usize::from(u16::from_be_bytes([high, low]));
                self.header_length = 0;
            }
        }
    }
}

/// The complete records that some bytes begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WholeRecords {
    length: usize,
    content: usize,
}

impl WholeRecords {
    /// Looks at headers only.
    #[must_use]
    pub fn of(mut bytes: &[u8]) -> Self {
        let mut whole = Self { length: 0, content: 0 };
        while let Some(&[_, _, _, high, low]) = bytes.first_chunk() {
            let length = HEADER + usize::from(u16::from_be_bytes([high, low]));
            let Some(rest) = bytes.get(length..) else { break };
            whole.length += length;
            whole.content += length.saturating_sub(OVERHEAD);
            bytes = rest;
        }
        whole
    }

    /// TLS took all of them when it took so many bytes; otherwise it waits for the rest of a message.
    #[must_use]
    pub fn end_at(self, done: usize) -> bool {
        done == self.length
    }

    /// Says whether these records, of which TLS took `done` bytes and made `produced` bytes of data, held nothing but
    /// data without padding. Where it says no there may have been a KeyUpdate: its content is not among the data.
    #[must_use]
    pub fn were_data(self, done: usize, produced: usize) -> bool {
        self.end_at(done) && produced == self.content
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_stops_at_the_end_of_each_record() {
        let mut boundary = Boundary::default();
        assert_eq!(boundary.wanted(), 5);
        boundary.pass(&[22, 3, 1]);
        assert_eq!(boundary.wanted(), 2);
        assert!(!boundary.is_between_records());
        boundary.pass(&[1, 2]);
        assert_eq!(boundary.wanted(), 258);
        boundary.pass(&[0; 257]);
        assert_eq!(boundary.wanted(), 1);
        boundary.pass(&[0]);
        assert!(boundary.is_between_records());
        // An empty record, and the header of the next.
        boundary.pass(&[23, 3, 3, 0, 0, 23]);
        assert_eq!(boundary.wanted(), 4);
    }

    proptest::proptest! {
        #[test]
        fn however_the_bytes_are_cut_the_records_end_at_the_same_place(
            lengths in proptest::collection::vec(0..600_u16, 1..6), cut in 1..700_usize
        ) {
            let stream: Vec<u8> = lengths
                .iter()
                .flat_map(|length| {
                    let mut record = vec![23, 3, 3];
                    record.extend(length.to_be_bytes());
                    record.resize(HEADER + usize::from(*length), 9);
                    record
                })
                .collect();
            let mut boundary = Boundary::default();
            for piece in stream.chunks(cut) {
                boundary.pass(piece);
                assert!(boundary.wanted() > 0);
            }
            assert!(boundary.is_between_records());
        }
    }

    #[test]
    fn only_whole_records_count_and_what_is_no_data_shows() {
        let record = |length: u16| {
            let mut record = vec![23, 3, 3];
            record.extend(length.to_be_bytes());
            record.resize(HEADER + usize::from(length), 9);
            record
        };
        assert_eq!(WholeRecords::of(&[23, 3, 3, 0]), WholeRecords { length: 0, content: 0 });
        let bytes = [record(17 + 100), record(17), record(40)].concat();
        let whole = WholeRecords::of(bytes.get(..bytes.len() - 1).unwrap());
        assert_eq!(whole, WholeRecords { length: 122 + 22, content: 100 });
        assert!(whole.were_data(144, 100));
        // Padding, or a message; and a message that TLS waits for the rest of.
        assert!(!whole.were_data(144, 95));
        assert!(!whole.were_data(122, 100));
    }
}
