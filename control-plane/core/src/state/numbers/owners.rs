//! Which numbers have an owner or a last one, in order of [`OwnerKey`].
//!
//! Numbers of one tenant, state, type and country often follow each other, as carriers hand them
//! out and as `any` gives them: kept as ranges they cost next to nothing, alone as much as in a
//! set.

use std::collections::BTreeMap;
use std::ops::{Bound, RangeInclusive};

use super::index::OwnerKey;
use super::ranges::Ranges;

/// The first part of the key → the numbers.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Owners(BTreeMap<u64, Ranges>);

impl Owners {
    pub(crate) fn insert(&mut self, OwnerKey(head, number): OwnerKey) {
        self.0.entry(head).or_default().insert(number, number);
    }

    pub(crate) fn remove(&mut self, OwnerKey(head, number): OwnerKey) {
        if let Some(numbers) = self.0.get_mut(&head) {
            numbers.remove(number);
            if numbers.is_empty() {
                self.0.remove(&head);
            }
        }
    }

    /// The keys from here to there, in order.
    pub(crate) fn range(
        &self,
        from: Bound<OwnerKey>,
        to: OwnerKey,
    ) -> impl Iterator<Item = OwnerKey> + '_ {
        let (first, skipped) = match from {
            Bound::Unbounded => (OwnerKey(0, 0), None),
            Bound::Included(key) => (key, None),
            Bound::Excluded(key) => (key, Some(key)),
        };
        let heads = (first.0 <= to.0).then(|| self.0.range(first.0..=to.0));
        let keys = heads.into_iter().flatten().flat_map(move |(head, numbers)| {
            let low = if *head == first.0 { first.1 } else { 0 };
            let high = if *head == to.0 { to.1 } else { u64::MAX };
            numbers.within(low..=high).flatten().map(|number| OwnerKey(*head, number))
        });
        keys.skip_while(move |key| Some(*key) == skipped)
    }

    /// The highest number of a kind in a window.
    pub(crate) fn highest(&self, head: u64, window: RangeInclusive<u64>) -> Option<u64> {
        self.0.get(&head)?.within(window).next_back().map(|range| *range.end())
    }

    /// The lowest one.
    pub(crate) fn lowest(&self, head: u64, window: RangeInclusive<u64>) -> Option<u64> {
        self.0.get(&head)?.within(window).next().map(|range| *range.start())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a plain set of keys.
        #[test]
        fn behaves_as_a_set(
            steps in proptest::collection::vec((any::<bool>(), 1u64..4, 1u64..20), 1..60),
            (from, to) in ((0u64..5, 0u64..22), (0u64..5, 0u64..22)),
            excluded: bool,
        ) {
            let (mut owners, mut set) = (Owners::default(), BTreeSet::new());
            for (put, head, number) in steps {
                let key = OwnerKey(head, number);
                if put {
                    owners.insert(key);
                    set.insert(key);
                } else {
                    owners.remove(key);
                    set.remove(&key);
                }
            }
            let (from, to) = (OwnerKey(from.0, from.1), OwnerKey(to.0, to.1));
            let bound = if excluded { Bound::Excluded(from) } else { Bound::Included(from) };
            let wanted = |key: &&OwnerKey| **key <= to && (**key > from || (!excluded && **key == from));
            let expected: Vec<OwnerKey> = set.iter().filter(wanted).copied().collect();
            prop_assert_eq!(owners.range(bound, to).collect::<Vec<_>>(), expected);
            let (low, high) = (from.1.min(to.1), from.1.max(to.1));
            let within = |key: &&OwnerKey| key.0 == from.0 && (low..=high).contains(&key.1);
            let mut within = set.iter().filter(within).map(|key| key.1);
            prop_assert_eq!(owners.lowest(from.0, low..=high), within.clone().next());
            prop_assert_eq!(owners.highest(from.0, low..=high), within.next_back());
            let heads: BTreeSet<u64> = set.iter().map(|key| key.0).collect();
            prop_assert_eq!(owners.0.len(), heads.len());
        }
    }
}
