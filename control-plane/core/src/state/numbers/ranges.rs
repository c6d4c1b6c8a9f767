//! A set of numbers, kept as ranges.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// Ranges that neither overlap nor touch, by their first number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ranges {
    /// First → last, both inside.
    map: BTreeMap<u64, u64>,
}

impl Ranges {
    pub(crate) fn is_empty(&self) -> bool {
        self.map.is_empty()
    }

    /// Puts `first..=last` in, whatever of it is there already.
    pub(crate) fn insert(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        let (mut first, mut last) = (first, last);
        // Whatever begins up to just after the end and reaches our beginning melts in.
        while let Some((&start, &end)) = self.map.range(..=last.saturating_add(1)).next_back() {
            if end.saturating_add(1) < first {
                break;
            }
            self.map.remove(&start);
            first = first.min(start);
            last = last.max(end);
        }
        self.map.insert(first, last);
    }

    pub(crate) fn remove(&mut self, number: u64) {
        let Some((&start, &end)) = self.map.range(..=number).next_back() else { return };
        if number > end {
            return;
        }
        if start == number {
            self.map.remove(&start);
        } else {
            self.map.insert(start, number - 1);
        }
        if number < end {
            self.map.insert(number + 1, end);
        }
    }

    /// What is in both, in order.
    pub(crate) fn within(
        &self,
        window: RangeInclusive<u64>,
    ) -> impl DoubleEndedIterator<Item = RangeInclusive<u64>> + '_ {
        let (from, to) = window.into_inner();
        let before = self.map.range(..from).next_back().filter(|(_, end)| **end >= from);
        // A crossed window holds nothing; `range` would panic.
        let rest = (from <= to).then(|| self.map.range(from..=to)).into_iter().flatten();
        let found = before.filter(|_| from <= to).into_iter().chain(rest);
        found.map(move |(start, end)| (*start).max(from)..=(*end).min(to))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// As a plain set, and never with ranges that touch.
        #[test]
        fn behaves_as_a_set(steps in proptest::collection::vec((any::<bool>(), 1u64..60, 0u64..9), 1..80)) {
            let (mut ranges, mut set) = (Ranges::default(), BTreeSet::new());
            for (put, first, more) in steps {
                if put {
                    ranges.insert(first, first + more);
                    set.extend(first..=first + more);
                } else {
                    ranges.remove(first);
                    set.remove(&first);
                }
                let all: Vec<u64> = ranges.within(0..=u64::MAX).flatten().collect();
                prop_assert_eq!(all, set.iter().copied().collect::<Vec<_>>());
                let some: Vec<u64> = ranges.within(first..=first + more).flatten().collect();
                prop_assert_eq!(some, set.range(first..=first + more).copied().collect::<Vec<_>>());
                let gaps = ranges.map.iter().zip(ranges.map.iter().skip(1));
                prop_assert!(gaps.into_iter().all(|((_, end), (start, _))| end + 1 < *start));
            }
        }
    }

    #[test]
    fn crossed_windows_are_empty() {
        let mut ranges = Ranges::default();
        ranges.insert(1, 100);
        ranges.insert(5, 3);
        #[allow(clippy::reversed_empty_ranges, reason = "what is tested")]
        let none = ranges.within(7..=6).count();
        assert_eq!((none, ranges.map.len()), (0, 1));
    }
}
