//! Things by their names, which only the things keep.
use std::hash::{BuildHasher as _, Hash, RandomState};

use hashbrown::HashTable;
use hashbrown::hash_table::Entry;

/// What knows its own name.
pub trait Named {
    /// Its name.
    type Name: Hash + Eq;

    /// No other in the same table has it, and it never changes.
    fn name(&self) -> Self::Name;
}

/// Things by their names. A place of the table is 9 bytes, and up to half of them are empty: a map with the name as its key would
/// have each name twice, and once for each empty place.
#[derive(Debug)]
pub struct ByName<T> {
    things: HashTable<Box<T>>,
    // Seeded: names come from other nodes.
    hasher: RandomState,
}

impl<T> Default for ByName<T> {
    fn default() -> Self {
        Self { things: HashTable::new(), hasher: RandomState::new() }
    }
}

impl<T: Named> ByName<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.things.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.things.is_empty()
    }

    /// The one with this name.
    pub fn get(&self, name: &T::Name) -> Option<&T> {
        self.things.find(self.hasher.hash_one(name), |thing| thing.name() == *name).map(Box::as_ref)
    }

    /// The same, to be changed; its name must stay.
    pub fn get_mut(&mut self, name: &T::Name) -> Option<&mut T> {
        self.things.find_mut(self.hasher.hash_one(name), |thing| thing.name() == *name).map(Box::as_mut)
    }

    /// Adds one; what had its name before comes back.
    pub fn insert(&mut self, thing: T) -> Option<T> {
        let (name, hasher, thing) = (thing.name(), &self.hasher, Box::new(thing));
        let hash = hasher.hash_one(&name);
        match self.things.entry(hash, |other| other.name() == name, |other| hasher.hash_one(other.name())) {
            Entry::Occupied(mut there) => Some(*std::mem::replace(there.get_mut(), thing)),
            Entry::Vacant(free) => {
                free.insert(thing);
                None
            }
        }
    }

    /// Takes out the one with this name.
    pub fn remove(&mut self, name: &T::Name) -> Option<T> {
        let found = self.things.find_entry(self.hasher.hash_one(name), |thing| thing.name() == *name);
        found.ok().map(|there| *there.remove().0)
    }

    /// All, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.things.iter().map(Box::as_ref)
    }

    /// All, in no order, to be changed; their names must stay.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.things.iter_mut().map(Box::as_mut)
    }

    /// Takes all out.
    pub fn take_all(&mut self) -> impl Iterator<Item = T> + use<T> {
        std::mem::take(&mut self.things).into_iter().map(|thing| *thing)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Thing(u8, u32);

    impl Named for Thing {
        type Name = u8;

        fn name(&self) -> u8 {
            self.0
        }
    }

    proptest! {
        #[test]
        fn it_does_what_a_map_does(steps in proptest::collection::vec((any::<u8>(), any::<u32>(), 0..4_u8), 0..600)) {
            let (mut things, mut map) = (ByName::default(), HashMap::new());
            for (name, value, what) in steps {
                match what {
                    0 => prop_assert_eq!(things.remove(&name).map(|thing: Thing| thing.1), map.remove(&name)),
                    1 => if let Some(thing) = things.get_mut(&name) {
                        thing.1 = value;
                        map.insert(name, value);
                    },
                    _ => prop_assert_eq!(things.insert(Thing(name, value)).map(|old| old.1), map.insert(name, value)),
                }
                prop_assert_eq!(things.get(&name).map(|thing| thing.1), map.get(&name).copied());
                prop_assert_eq!((things.len(), things.is_empty()), (map.len(), map.is_empty()));
            }
            let seen: HashMap<u8, u32> = things.iter().map(|thing| (thing.0, thing.1)).collect();
            prop_assert_eq!(&seen, &map);
            for thing in things.iter_mut() {
                thing.1 = 7;
            }
            let taken: Vec<Thing> = things.take_all().collect();
            prop_assert_eq!(taken.len(), map.len());
            prop_assert!(taken.iter().all(|thing| thing.1 == 7) && things.is_empty());
        }
    }
}
