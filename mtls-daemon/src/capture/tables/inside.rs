//! What is known inside the cluster's networks. It grows with the cluster and changes an address at a time, so only what has changed
//! is written.

use std::collections::HashMap;

use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{MapData, MapError};
use mtls_common::INSIDE_KNOWN;

use super::{ignore_absent, in_order_of_removal, replace_trie, turn};

/// Prefixes (length over 128 bits, address) with their value.
pub(super) type Prefixes = HashMap<(u32, [u8; 16]), u32>;

/// The table.
pub(super) struct Inside {
    trie: LpmTrie<MapData, [u8; 16], u32>,
    /// What was brought into the kernel last; `None`: it is not known what is there.
    applied: Option<Prefixes>,
}

impl Inside {
    pub fn new(trie: LpmTrie<MapData, [u8; 16], u32>) -> Self {
        Self { trie, applied: None }
    }

    pub fn trie(&self) -> &LpmTrie<MapData, [u8; 16], u32> {
        &self.trie
    }

    /// Somebody else may have written.
    pub fn doubt(&mut self) {
        self.applied = None;
    }

    /// Adds who is known; nobody goes.
    ///
    /// # Errors
    /// The table cannot be written; what was written stays.
    pub fn know(&mut self, wanted: &Prefixes) -> Result<(), MapError> {
        let known = self.changed(wanted, |value| value == INSIDE_KNOWN);
        let written = turn(&mut self.trie, &known);
        match (&written, &mut self.applied) {
            (Ok(()), Some(applied)) => applied.extend(known),
            _ => self.applied = None,
        }
        written
    }

    /// Brings the table to `wanted`.
    ///
    /// # Errors
    /// As [`Inside::know`].
    pub fn replace(&mut self, wanted: &Prefixes) -> Result<(), MapError> {
        let changed = self.changed(wanted, |_| true);
        match self.applied.take() {
            None => replace_trie(&mut self.trie, wanted)?,
            Some(applied) => {
                turn(&mut self.trie, &changed)?;
                for (length, address) in in_order_of_removal(applied.into_keys(), wanted) {
                    ignore_absent(self.trie.remove(&Key::new(length, address)))?;
                }
            }
        }
        self.applied = Some(wanted.clone());
        Ok(())
    }

    fn changed(&self, wanted: &Prefixes, which: impl Fn(u32) -> bool) -> Prefixes {
        let there = |key| self.applied.as_ref().and_then(|applied| applied.get(key));
        let changed = wanted.iter().filter(|(key, value)| which(**value) && there(key) != Some(*value));
        changed.map(|(key, value)| (*key, *value)).collect()
    }
}
