//! Maps for the packet path: a look-up in one step, and never in an order that matters.
//!
//! The hash is seeded, so that whoever may choose keys (SSRCs, ports) cannot aim at one bucket
//! from what the code says; it is no cryptographic one.

#![allow(clippy::disallowed_types, reason = "nothing here can be walked through")]

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, Hasher};

/// A map that can be asked, but not walked through: its order means nothing.
#[derive(Debug)]
pub struct Map<K, V>(HashMap<K, V, Seed>);

impl<K: Eq + Hash, V> Map<K, V> {
    /// An empty map.
    pub fn new(seed: u64) -> Self {
        Self(HashMap::with_hasher(Seed(seed)))
    }

    /// The value of a key.
    pub fn get(&self, key: &K) -> Option<&V> {
        self.0.get(key)
    }

    /// The value of a key, to be changed.
    pub fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.0.get_mut(key)
    }

    /// The value of a key; `value` if it had none.
    pub fn get_or_insert(&mut self, key: K, value: V) -> &mut V {
        self.0.entry(key).or_insert(value)
    }

    /// Has the key a value?
    pub fn contains_key(&self, key: &K) -> bool {
        self.0.contains_key(key)
    }

    /// Gives a key a value; the one before.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        self.0.insert(key, value)
    }

    /// Takes a key out.
    pub fn remove(&mut self, key: &K) -> Option<V> {
        self.0.remove(key)
    }

    /// How many keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// None?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// The hash of [`Map`].
#[derive(Debug, Clone, Copy)]
pub struct Seed(u64);

impl BuildHasher for Seed {
    type Hasher = Folded;

    fn build_hasher(&self) -> Folded {
        Folded(self.0)
    }
}

/// The golden ratio's digits: odd, and without a pattern.
const MIX: u64 = 0x9e37_79b9_7f4a_7c15;

/// Folds the 128-bit product of each word: both halves depend on all bits.
#[derive(Debug, Clone, Copy)]
pub struct Folded(u64);

impl Folded {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a product")]
    fn fold(&mut self, word: u64) {
        let product = u128::from(self.0 ^ word ^ MIX) * u128::from(MIX);
        self.0 = (product as u64) ^ ((product >> 64) as u64);
    }
}

impl Hasher for Folded {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word.iter_mut().zip(chunk).for_each(|(to, from)| *to = *from);
            self.fold(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, word: u8) {
        self.fold(word.into());
    }

    fn write_u16(&mut self, word: u16) {
        self.fold(word.into());
    }

    fn write_u32(&mut self, word: u32) {
        self.fold(word.into());
    }

    fn write_u64(&mut self, word: u64) {
        self.fold(word);
    }

    fn write_usize(&mut self, word: usize) {
        self.fold(word as u64);
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn counting_keys_spread_over_buckets_and_differ_by_seed() {
        for seed in [0, 1, u64::MAX] {
            let low: BTreeSet<u64> =
                (0..4_096_u64).map(|key| Seed(seed).hash_one(key) % 65_536).collect();
            assert!(low.len() > 3_800, "{} of 4096 low bits differ (seed {seed})", low.len());
            let high: BTreeSet<u64> =
                (0..4_096_u64).map(|key| Seed(seed).hash_one(key) >> 57).collect();
            assert!(high.len() > 100, "{} of 128 tags are used (seed {seed})", high.len());
        }
        assert_ne!(Seed(1).hash_one(7_u64), Seed(2).hash_one(7_u64));
    }
}
