//! From a value to the clauses that name it, for each kind of value.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::marker::PhantomData;
use std::net::IpAddr;

use ipnet::IpNet;

use super::bits::{Bits, Clause};
use super::nested::{Nested, Network, Prefix};
use crate::config::TextPattern;

/// What names values, while it is put together and when it is asked.
pub(super) trait Lookup: Default {
    /// What a clause names.
    type Named: ?Sized;
    /// What is looked up.
    type Value: ?Sized;
    /// Notes that a clause names it; clauses come in ascending order.
    fn note(&mut self, named: &Self::Named, clause: Clause);
    /// Nothing more comes.
    fn finish(&mut self);
    /// Every set of clauses that name the value in one way or another.
    fn find<'a>(&'a self, value: &Self::Value, found: impl FnMut(&'a Bits));
}

/// Whole texts, beginnings, ends, and any text at all.
#[derive(Debug, Default)]
pub(super) struct Texts {
    exact: HashMap<Box<str>, Bits>,
    present: Bits,
    collected: [BTreeMap<Prefix, Bits>; 2],
    prefixes: Option<Nested<Prefix>>,
    /// Of the texts backwards.
    suffixes: Option<Nested<Prefix>>,
}

impl Lookup for Texts {
    type Named = TextPattern;
    type Value = str;

    fn note(&mut self, named: &TextPattern, clause: Clause) {
        let [prefixes, suffixes] = &mut self.collected;
        match named {
            TextPattern::Exact(text) => self.exact.entry(text.clone()).or_default().push(clause),
            TextPattern::Present => self.present.push(clause),
            TextPattern::Prefix(text) => {
                prefixes.entry(Prefix(text.as_bytes().into())).or_default().push(clause);
            }
            TextPattern::Suffix(text) => suffixes.entry(backwards(text)).or_default().push(clause),
        }
    }

    fn finish(&mut self) {
        let [prefixes, suffixes] = std::mem::take(&mut self.collected).map(nested);
        (self.prefixes, self.suffixes) = (prefixes, suffixes);
        self.exact.values_mut().for_each(Bits::shrink);
    }

    fn find<'a>(&'a self, text: &str, mut found: impl FnMut(&'a Bits)) {
        if !self.present.is_empty() {
            found(&self.present);
        }
        self.exact.get(text).into_iter().for_each(&mut found);
        if let Some(prefixes) = &self.prefixes {
            prefixes.covering(text.as_bytes(), &mut found);
        }
        if let Some(suffixes) = &self.suffixes {
            suffixes.covering(&*backwards(text).0, found);
        }
    }
}

fn backwards(text: &str) -> Prefix {
    Prefix(text.bytes().rev().collect())
}

fn nested(collected: BTreeMap<Prefix, Bits>) -> Option<Nested<Prefix>> {
    (!collected.is_empty()).then(|| Nested::new(collected.into_iter().collect()))
}

/// Networks, for an address.
#[derive(Debug, Default)]
pub(super) struct Networks {
    collected: BTreeMap<Network, Bits>,
    networks: Option<Nested<Network>>,
}

impl Lookup for Networks {
    type Named = IpNet;
    type Value = IpAddr;

    fn note(&mut self, named: &IpNet, clause: Clause) {
        self.collected.entry(Network::from(*named)).or_default().push(clause);
    }

    fn finish(&mut self) {
        self.networks = Some(Nested::new(std::mem::take(&mut self.collected).into_iter().collect()));
    }

    fn find<'a>(&'a self, address: &IpAddr, found: impl FnMut(&'a Bits)) {
        if let Some(networks) = &self.networks {
            networks.covering(address, found);
        }
    }
}

/// Values that are only equal or not; `V`: as they are looked up.
#[derive(Debug)]
pub(super) struct Exact<T, V: ?Sized = T>(HashMap<T, Bits>, PhantomData<fn(&V)>);

impl<T, V: ?Sized> Default for Exact<T, V> {
    fn default() -> Self {
        Self(HashMap::new(), PhantomData)
    }
}

impl<T: Eq + Hash + Clone + Borrow<V>, V: Eq + Hash + ?Sized> Lookup for Exact<T, V> {
    type Named = T;
    type Value = V;

    fn note(&mut self, named: &T, clause: Clause) {
        self.0.entry(named.clone()).or_default().push(clause);
    }

    fn finish(&mut self) {
        self.0.values_mut().for_each(Bits::shrink);
    }

    fn find<'a>(&'a self, value: &V, found: impl FnMut(&'a Bits)) {
        self.0.get(value).into_iter().for_each(found);
    }
}
