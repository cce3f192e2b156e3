//! Pseudo-random bytes that both ends can make, so that neither has to be told what to expect.

/// splitmix64: enough to notice any byte that is lost, doubled or moved.
#[derive(Debug, Clone)]
pub struct Random(pub u64);

impl Random {
    /// The next 64 bits.
    #[expect(clippy::should_implement_trait, reason = "it never ends")]
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// 1 to 2^17; small sizes are as likely as large ones.
    pub fn chunk(&mut self) -> usize {
        let bits = self.next() % 18;
        usize::try_from(1 + self.next() % (1 << bits)).unwrap_or(1)
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: u64) -> bool {
        self.next().is_multiple_of(n)
    }
}

/// The bytes of one direction, from any number of calls.
#[derive(Debug, Clone)]
pub struct Bytes {
    random: Random,
    word: [u8; 8],
    used: usize,
}

impl Bytes {
    /// The stream of this seed, from its start.
    pub fn new(seed: u64) -> Self {
        Self { random: Random(seed), word: [0; 8], used: 8 }
    }

    /// The next bytes of the stream.
    pub fn fill(&mut self, out: &mut [u8]) {
        for byte in out {
            if self.used == 8 {
                self.word = self.random.next().to_le_bytes();
                self.used = 0;
            }
            *byte = self.word[self.used];
            self.used += 1;
        }
    }

    /// Compares `got` with the next bytes of the stream: the position of the first that differs.
    pub fn differs(&mut self, got: &[u8]) -> Option<usize> {
        let mut expected = vec![0; got.len()];
        self.fill(&mut expected);
        (0..got.len()).find(|i| got[*i] != expected[*i])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_the_same_however_it_is_cut_and_every_change_is_seen() {
        let mut whole = [0; 100];
        Bytes::new(7).fill(&mut whole);
        let mut bytes = Bytes::new(7);
        for part in whole.chunks(13) {
            assert_eq!(bytes.differs(part), None);
        }
        whole[61] ^= 1;
        assert_eq!(Bytes::new(7).differs(&whole), Some(61));
        assert!(Bytes::new(8).differs(&whole).is_some());
    }
}
