//! One question that clauses ask about a connection, such as: from which network?

use smallvec::SmallVec;

use super::bits::{Bits, Clause};
use super::lookup::Lookup;

/// What clauses want of one kind of value, and what they do not want.
#[derive(Debug, Default)]
pub(super) struct Dimension<L> {
    /// Clauses that take any value, but for exceptions.
    any: Bits,
    /// Clauses that do not ask at all.
    silent: Bits,
    is: L,
    not: L,
    asked: bool,
}

impl<L: Lookup> Dimension<L> {
    /// The next clause. `is`: `None` for any value.
    pub fn add<'n>(
        &mut self,
        clause: Clause,
        is: Option<impl IntoIterator<Item = &'n L::Named>>,
        not: impl IntoIterator<Item = &'n L::Named>,
    ) where
        L::Named: 'n,
    {
        let mut silent = is.is_none();
        match is {
            None => self.any.push(clause),
            Some(named) => named.into_iter().for_each(|named| self.is.note(named, clause)),
        }
        for named in not {
            silent = false;
            self.not.note(named, clause);
        }
        if silent {
            self.silent.push(clause);
        }
        self.asked |= !silent;
    }

    pub fn finish(&mut self) {
        self.is.finish();
        self.not.finish();
        self.any.shrink();
        self.silent.shrink();
    }

    /// Some clause asks.
    pub fn is_asked(&self) -> bool {
        self.asked
    }

    /// The clauses that these values pass: one of them is wanted, and none is not.
    pub fn select<'a>(&'a self, values: impl FnOnce(&mut dyn FnMut(&L::Value))) -> Selection<'a> {
        let mut selection = Selection { any: &self.any, is: SmallVec::new(), not: SmallVec::new() };
        values(&mut |value| {
            self.is.find(value, |bits| selection.is.push(bits));
            self.not.find(value, |bits| selection.not.push(bits));
        });
        selection
    }

    /// The clauses that any value passes.
    pub fn certain(&self) -> Selection<'_> {
        Selection { any: &self.silent, is: SmallVec::new(), not: SmallVec::new() }
    }
}

/// The clauses that one question leaves.
#[derive(Debug)]
pub(super) struct Selection<'a> {
    any: &'a Bits,
    is: SmallVec<[&'a Bits; 3]>,
    not: SmallVec<[&'a Bits; 1]>,
}

impl Selection<'_> {
    /// 64 of them, from `64 * index`.
    pub fn word(&self, index: u32) -> u64 {
        let of = |bits: &&Bits| bits.word(index);
        let wanted = self.any.word(index) | self.is.iter().map(of).fold(0, |a, b| a | b);
        wanted & !self.not.iter().map(of).fold(0, |a, b| a | b)
    }

    /// In which of 64 words some may be.
    pub fn summary(&self, index: u32) -> u64 {
        let any = self.any.summary(index);
        self.is.iter().fold(any, |all, bits| all | bits.summary(index))
    }
}

impl<'a> From<&'a Bits> for Selection<'a> {
    fn from(all: &'a Bits) -> Self {
        Self { any: all, is: SmallVec::new(), not: SmallVec::new() }
    }
}
