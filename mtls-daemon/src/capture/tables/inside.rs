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
        let is_known = |value| value == INSIDE_KNOWN;
        let Some(mut applied) = self.applied.take() else {
            return turn(&mut self.trie, &changed(&Prefixes::new(), wanted, is_known));
        };
        let known = changed(&applied, wanted, is_known);
        turn(&mut self.trie, &known)?;
        applied.extend(known);
        self.applied = Some(applied);
        Ok(())
    }

    /// Brings the table to `wanted`.
    ///
    /// # Errors
    /// As [`Inside::know`].
    pub fn replace(&mut self, wanted: &Prefixes) -> Result<(), MapError> {
        let Some(mut applied) = self.applied.take() else {
            replace_trie(&mut self.trie, wanted)?;
            self.applied = Some(wanted.clone());
            return Ok(());
        };
        let changed = changed(&applied, wanted, |_| true);
        turn(&mut self.trie, &changed)?;
        for key in in_order_of_removal(applied.keys().copied(), wanted) {
            ignore_absent(self.trie.remove(&Key::new(key.0, key.1)))?;
            applied.remove(&key);
        }
        applied.extend(changed);
        self.applied = Some(applied);
        Ok(())
    }
}

/// What of `wanted` is not as it is there, among those of some values.
fn changed(there: &Prefixes, wanted: &Prefixes, which: impl Fn(u32) -> bool) -> Prefixes {
    let changed = wanted.iter().filter(|(key, value)| which(**value) && there.get(key) != Some(value));
    changed.map(|(key, value)| (*key, *value)).collect()
}
