//! Things of which some lie within others: prefixes of texts, and networks.

use std::net::IpAddr;

use ipnet::IpNet;

use super::bits::Bits;

/// Something that covers values. In its order whatever it covers comes after it and before anything that it does not.
pub(super) trait Covers<V: ?Sized>: Ord {
    /// Whether it stands at or before the value in that order.
    fn is_not_after(&self, value: &V) -> bool;
    /// Whether it covers the value.
    fn covers(&self, value: &V) -> bool;
    /// Whether it covers all that the other does.
    fn covers_all_of(&self, other: &Self) -> bool;
}

/// Finds everything that covers a value: a binary search, and then one step for each that lies around it.
#[derive(Clone, Debug)]
pub(super) struct Nested<K> {
    /// In order, each with the place of the smallest that lies around it.
    entries: Vec<Entry<K>>,
}

#[derive(Clone, Debug)]
struct Entry<K> {
    key: K,
    around: Option<usize>,
    bits: Bits,
}

impl<K: Ord> Nested<K> {
    pub fn new<V: ?Sized>(mut list: Vec<(K, Bits)>) -> Self
    where
        K: Covers<V>,
    {
        list.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut entries: Vec<Entry<K>> = Vec::with_capacity(list.len());
        for (key, mut bits) in list {
            bits.shrink();
            let mut around = entries.len().checked_sub(1);
            while let Some(entry) = around.and_then(|place| entries.get(place)) {
                if entry.key.covers_all_of(&key) {
                    break;
                }
                around = entry.around;
            }
            entries.push(Entry { key, around, bits });
        }
        Self { entries }
    }

    /// What belongs to all that cover the value.
    pub fn covering<'a, V: ?Sized>(&'a self, value: &V, mut found: impl FnMut(&'a Bits))
    where
        K: Covers<V>,
    {
        let mut place = self.entries.partition_point(|entry| entry.key.is_not_after(value)).checked_sub(1);
        while let Some(entry) = place.and_then(|place| self.entries.get(place)) {
            if entry.key.covers(value) {
                found(&entry.bits);
            }
            place = entry.around;
        }
    }
}

/// The beginning of a text, in bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Prefix(pub Box<[u8]>);

impl Covers<[u8]> for Prefix {
    fn is_not_after(&self, value: &[u8]) -> bool {
        &*self.0 <= value
    }

    fn covers(&self, value: &[u8]) -> bool {
        value.starts_with(&self.0)
    }

    fn covers_all_of(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }
}

/// A network; those of IPv4 come first.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Network {
    first: IpAddr,
    length: u8,
}

impl From<IpNet> for Network {
    fn from(network: IpNet) -> Self {
        Self { first: network.network(), length: network.prefix_len() }
    }
}

impl Network {
    fn net(&self) -> Option<IpNet> {
        IpNet::new(self.first, self.length).ok()
    }
}

impl Covers<IpAddr> for Network {
    fn is_not_after(&self, value: &IpAddr) -> bool {
        self.first <= *value
    }

    fn covers(&self, value: &IpAddr) -> bool {
        self.net().is_some_and(|net| net.contains(value))
    }

    fn covers_all_of(&self, other: &Self) -> bool {
        self.length <= other.length && self.covers(&other.first)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::btree_set;
    use proptest::prelude::*;

    use super::*;

    fn numbered<K>(keys: impl IntoIterator<Item = K>) -> Vec<(K, Bits)> {
        (0..).zip(keys).map(|(number, key)| (key, [number].into_iter().collect())).collect()
    }

    fn found<K: Covers<V>, V: ?Sized>(nested: &Nested<K>, value: &V) -> Vec<Bits> {
        let mut all = Vec::new();
        nested.covering(value, |bits| all.push(bits.clone()));
        all.sort_by_key(|bits| bits.word(0));
        all
    }

    proptest! {
        #[test]
        fn every_prefix_of_a_text_is_found(prefixes in btree_set("[ab]{0,5}", 0..20), text in "[abc]{0,6}") {
            let list = numbered(prefixes.iter().map(|prefix| Prefix(prefix.as_bytes().into())));
            let want = prefixes.iter().zip(&list).filter(|(prefix, _)| text.starts_with(prefix.as_str()));
            let want: Vec<Bits> = want.map(|(_, (_, bits))| bits.clone()).collect();
            prop_assert_eq!(found(&Nested::new(list.clone()), text.as_bytes()), want);
        }

        #[test]
        fn every_network_around_an_address_is_found(
            networks in btree_set((0..8_u32, 28..=32_u8), 0..20),
            six in btree_set((0..8_u128, 124..=128_u8), 0..20),
            address in 0..9_u32,
        ) {
            let v4 = networks.iter().map(|(a, l)| IpNet::new(IpAddr::from(a.to_be_bytes()), *l).unwrap());
            let v6 = six.iter().map(|(a, l)| IpNet::new(IpAddr::from(a.to_be_bytes()), *l).unwrap());
            let mut all: Vec<IpNet> = v4.chain(v6).map(|network| network.trunc()).collect();
            all.sort();
            all.dedup();
            let list = numbered(all.iter().map(|network| Network::from(*network)));
            let nested = Nested::new(list.clone());
            for ip in [IpAddr::from(address.to_be_bytes()), IpAddr::from(u128::from(address).to_be_bytes())] {
                let want: Vec<Bits> = all.iter().zip(&list)
                    .filter(|(network, _)| network.contains(&ip))
                    .map(|(_, (_, bits))| bits.clone())
                    .collect();
                prop_assert_eq!(found(&nested, &ip), want);
            }
        }
    }
}
