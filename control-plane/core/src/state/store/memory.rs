//! The state in memory. On disk it is what follows the log (`control-plane/src/wal/runs.rs`).

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;

use super::Store;
use super::packed::Packed;

/// All records in memory.
#[derive(Debug, Clone, Default)]
pub struct Memory(BTreeMap<Packed, Packed>);

impl Store for Memory {
    type Bytes<'a> = &'a [u8];
    type Old = Packed;

    fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Packed::as_slice)
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], &'a [u8])> + use<'a> {
        let found = self.0.range::<[u8], _>((from, to));
        found.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Packed> {
        self.0.insert(key.into(), value.into())
    }

    fn delete(&mut self, key: &[u8]) -> Option<Packed> {
        self.0.remove(key)
    }

    fn len(&self) -> usize {
        self.0.len()
    }

    fn load(&mut self, entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>) {
        // In order of keys this builds full nodes.
        let packed = |(key, value): (Vec<u8>, Bytes)| (Packed::from(&*key), Packed::from(&*value));
        self.0 = entries.into_iter().map(packed).collect();
    }
}
