//! What would be written, over a store that stays as it is.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::ops::Bound;

use super::Store;

/// A store and the writes nobody else sees.
#[derive(Debug)]
pub(crate) struct Overlay<'s, S> {
    below: &'s S,
    written: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    entries: usize,
}

impl<'s, S: Store> Overlay<'s, S> {
    pub(crate) fn new(below: &'s S) -> Self {
        Self { below, written: BTreeMap::new(), entries: below.len() }
    }

    fn write(&mut self, key: &[u8], value: Option<Vec<u8>>) -> Option<Vec<u8>> {
        let old = self.get(key).map(|old| old.as_ref().to_vec());
        self.entries += usize::from(value.is_some());
        self.entries -= usize::from(old.is_some());
        self.written.insert(key.to_vec(), value);
        old
    }
}

/// From below, or written over it.
pub(crate) enum Seen<'a, B> {
    Below(B),
    Written(&'a [u8]),
}

impl<B: AsRef<[u8]>> AsRef<[u8]> for Seen<'_, B> {
    fn as_ref(&self) -> &[u8] {
        match self {
            Self::Below(bytes) => bytes.as_ref(),
            Self::Written(bytes) => bytes,
        }
    }
}

impl<'s, S: Store> Store for Overlay<'s, S> {
    type Bytes<'a>
        = Seen<'a, S::Bytes<'a>>
    where
        Self: 'a;
    type Old = Vec<u8>;

    fn get(&self, key: &[u8]) -> Option<Self::Bytes<'_>> {
        match self.written.get(key) {
            Some(value) => value.as_deref().map(Seen::Written),
            None => self.below.get(key).map(Seen::Below),
        }
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (Self::Bytes<'a>, Self::Bytes<'a>)> + use<'a, 's, S> {
        let below = Ends::new(self.below.range(from, to));
        let written = Ends::new(self.written.range::<[u8], _>((from, to)));
        Merged { below, written }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        self.write(key, Some(value.to_vec()))
    }

    fn delete(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        self.write(key, None)
    }

    fn len(&self) -> usize {
        self.entries
    }
}

/// An iterator with a look at what comes next on either side.
struct Ends<I: Iterator> {
    between: I,
    first: Option<I::Item>,
    last: Option<I::Item>,
}

impl<I: DoubleEndedIterator> Ends<I> {
    fn new(between: I) -> Self {
        Self { between, first: None, last: None }
    }

    /// The place of the next one from this side, filled unless nothing is left.
    fn next(&mut self, back: bool) -> &mut Option<I::Item> {
        let Self { between, first, last } = self;
        let (near, far) = if back { (last, first) } else { (first, last) };
        if near.is_none() {
            let next = if back { between.next_back() } else { between.next() };
            *near = next.or_else(|| far.take());
        }
        near
    }
}

/// Both in order; of one key, what was written counts.
struct Merged<A: Iterator, W: Iterator> {
    below: Ends<A>,
    written: Ends<W>,
}

impl<'a, B, A, W> Merged<A, W>
where
    B: AsRef<[u8]>,
    A: DoubleEndedIterator<Item = (B, B)>,
    W: DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
{
    fn step(&mut self, back: bool) -> Option<(Seen<'a, B>, Seen<'a, B>)> {
        loop {
            let (below, written) = (self.below.next(back), self.written.next(back));
            let order = match (&*below, &*written) {
                (None, None) => return None,
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some((key, _)), Some((over, _))) => {
                    let order = key.as_ref().cmp(over.as_slice());
                    if back { order.reverse() } else { order }
                }
            };
            if order == Ordering::Less {
                return below.take().map(|(key, value)| (Seen::Below(key), Seen::Below(value)));
            }
            if order == Ordering::Equal {
                below.take();
            }
            if let Some((key, Some(value))) = written.take() {
                return Some((Seen::Written(key), Seen::Written(value)));
            }
        }
    }
}

impl<'a, B, A, W> Iterator for Merged<A, W>
where
    B: AsRef<[u8]>,
    A: DoubleEndedIterator<Item = (B, B)>,
    W: DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
{
    type Item = (Seen<'a, B>, Seen<'a, B>);

    fn next(&mut self) -> Option<Self::Item> {
        self.step(false)
    }
}

impl<'a, B, A, W> DoubleEndedIterator for Merged<A, W>
where
    B: AsRef<[u8]>,
    A: DoubleEndedIterator<Item = (B, B)>,
    W: DoubleEndedIterator<Item = (&'a Vec<u8>, &'a Option<Vec<u8>>)>,
{
    fn next_back(&mut self) -> Option<Self::Item> {
        self.step(true)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::Memory;
    use super::*;

    fn keys() -> impl Strategy<Value = Vec<(u8, bool)>> {
        proptest::collection::vec((0u8..24, any::<bool>()), 0..24)
    }

    proptest! {
        /// An overlay looks as its store would after the same writes, read from any side.
        #[test]
        fn reads_as_if_it_were_written(
            before in keys(), after in keys(),
            from in 0u8..24, to in 0u8..24, sides in proptest::collection::vec(any::<bool>(), 60),
        ) {
            let write = |store: &mut Memory, (key, put): &(u8, bool), value: u8| match put {
                true => drop(store.put(&[*key], &[value])),
                false => drop(store.delete(&[*key])),
            };
            let mut store = Memory::default();
            before.iter().for_each(|one| write(&mut store, one, 1));
            let below = store.clone();
            let mut overlay = Overlay::new(&below);
            for (key, put) in &after {
                let old = if *put { overlay.put(&[*key], &[2]) } else { overlay.delete(&[*key]) };
                let was = store.get(&[*key]).map(<[u8]>::to_vec);
                prop_assert_eq!(old, was);
                write(&mut store, &(*key, *put), 2);
            }
            prop_assert_eq!(overlay.len(), store.len());
            let (from, to) = ([from.min(to)], [from.max(to)]);
            let bounds = (Bound::Included(&from[..]), Bound::Included(&to[..]));
            let (mut seen, mut real) =
                (overlay.range(bounds.0, bounds.1), store.range(bounds.0, bounds.1));
            for back in sides {
                let one = if back { seen.next_back() } else { seen.next() };
                let one = one.map(|(k, v)| (k.as_ref().to_vec(), v.as_ref().to_vec()));
                let other = if back { real.next_back() } else { real.next() };
                prop_assert_eq!(one, other.map(|(k, v)| (k.to_vec(), v.to_vec())));
            }
        }
    }
}
