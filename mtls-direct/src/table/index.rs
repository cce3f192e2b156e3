//! Which connection has a name, without keeping the name a second time.
use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;

use super::command::Key;

/// Connections by a name of theirs that their entries know: 9 bytes for each place of the table.
#[derive(Debug, Default)]
pub(super) struct Index {
    keys: HashTable<Key>,
    // Seeded: names come from other nodes.
    hasher: RandomState,
}

impl Index {
    #[cfg(test)]
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// The connection called `name`; `name_of`: what a connection is called.
    pub fn get<N: Hash + Eq>(&self, name: &N, name_of: impl Fn(Key) -> Option<N>) -> Option<Key> {
        let is_it = |key: &Key| name_of(*key).as_ref() == Some(name);
        self.keys.find(self.hasher.hash_one(name), is_it).copied()
    }

    /// Adds one whose name no other has. All that are there have their names still.
    pub fn insert<N: Hash + Eq>(&mut self, name: &N, key: Key, name_of: impl Fn(Key) -> Option<N>) {
        let hasher = &self.hasher;
        let hash_of = |key: &Key| name_of(*key).map_or(0, |name| hasher.hash_one(name));
        self.keys.insert_unique(hasher.hash_one(name), key, hash_of);
    }

    /// Takes out what is there; its entry may be gone.
    pub fn remove<N: Hash>(&mut self, name: &N, key: Key) {
        if let Ok(there) = self.keys.find_entry(self.hasher.hash_one(name), |other| *other == key) {
            there.remove();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    #[test]
    fn names_are_found_while_the_table_grows_and_others_go() {
        let mut names = HashMap::new();
        let mut index = Index::default();
        for number in 0..3000_u64 {
            let (key, name) = (Key(number), number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            names.insert(key, name);
            index.insert(&name, key, |key| names.get(&key).copied());
            if number % 3 == 0 {
                names.remove(&key);
                index.remove(&name, key);
            }
        }
        assert_eq!(index.len(), names.len());
        for (key, name) in &names {
            assert_eq!(index.get(name, |key| names.get(&key).copied()), Some(*key));
        }
        let gone = 3_u64.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        assert_eq!(index.get(&gone, |key| names.get(&key).copied()), None);
        index.remove(&gone, Key(3));
        index.remove(&names[&Key(1)], Key(2));
        assert_eq!(index.len(), names.len(), "what is not there is not taken out");
    }
}
