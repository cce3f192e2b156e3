//! Sets of clauses that are cheap to intersect, however many clauses there are.
//!
//! A set is words of 64 bits, of which only those that are not zero are kept, and a summary of which those are: so a
//! search looks at one word in 4,096 clauses unless there is something to find.

/// The number of a clause.
pub(super) type Clause = u32;

/// Clauses in a word.
pub(super) const WORD: u32 = u64::BITS;

/// A set of clauses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Bits {
    words: Vec<(u32, u64)>,
    /// Bit n of word m: there is a word 64 m + n.
    summary: Vec<(u32, u64)>,
}

impl Bits {
    /// Adds a clause; they come in ascending order.
    pub fn push(&mut self, clause: Clause) {
        let word = clause / WORD;
        set(&mut self.words, word, clause % WORD);
        set(&mut self.summary, word / WORD, word % WORD);
    }

    /// 64 clauses, from `64 * index`.
    pub fn word(&self, index: u32) -> u64 {
        get(&self.words, index)
    }

    /// Which of the 64 words from `64 * index` on hold something.
    pub fn summary(&self, index: u32) -> u64 {
        get(&self.summary, index)
    }

    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// Gives back the room that nothing will need.
    pub fn shrink(&mut self) {
        self.words.shrink_to_fit();
        self.summary.shrink_to_fit();
    }

    #[cfg(test)]
    fn clauses(&self) -> impl Iterator<Item = Clause> {
        self.words.iter().flat_map(|(index, word)| {
            (0..WORD).filter(move |bit| word & (1 << bit) != 0).map(move |bit| index * WORD + bit)
        })
    }
}

impl FromIterator<Clause> for Bits {
    fn from_iter<I: IntoIterator<Item = Clause>>(ascending: I) -> Self {
        let mut bits = Self::default();
        ascending.into_iter().for_each(|clause| bits.push(clause));
        bits
    }
}

fn set(words: &mut Vec<(u32, u64)>, index: u32, bit: u32) {
    let bit = 1 << bit;
    match words.last_mut() {
        Some((last, word)) if *last == index => *word |= bit,
        _ => words.push((index, bit)),
    }
}

fn get(words: &[(u32, u64)], index: u32) -> u64 {
    match words.binary_search_by_key(&index, |(index, _)| *index) {
        Ok(found) => words.get(found).map_or(0, |(_, word)| *word),
        Err(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn clauses() -> impl Strategy<Value = BTreeSet<Clause>> {
        btree_set(prop_oneof![0..200_u32, 4_000..4_200_u32, 0..1_000_000_u32], 0..40)
    }

    proptest! {
        #[test]
        fn it_holds_what_was_put_in_and_a_summary_of_it(some in clauses(), others in clauses()) {
            let bits: Bits = some.iter().copied().collect();
            prop_assert_eq!(bits.clauses().collect::<BTreeSet<_>>(), some.clone());
            prop_assert_eq!(bits.is_empty(), some.is_empty());
            for clause in some.union(&others).copied() {
                let word = clause / WORD;
                prop_assert_eq!(bits.word(word) >> (clause % WORD) & 1 == 1, some.contains(&clause));
                prop_assert_eq!(bits.summary(word / WORD) >> (word % WORD) & 1 == 1, bits.word(word) != 0);
            }
        }
    }
}
