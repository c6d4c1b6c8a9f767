//! What the state needs from whatever keeps its records: an ordered map of bytes.
//!
//! [`Memory`] is what control nodes use. Another one makes [`super::State`] run elsewhere with the
//! same outcomes, hashes and snapshots (`state/tests/stores.rs` proves it with a database); what it
//! may cost is in ARCHITECTURE.md.

mod memory;
mod overlay;
mod packed;

use std::ops::Bound;

use bytes::Bytes;

pub use memory::Memory;
pub(crate) use overlay::Overlay;

/// An ordered map from keys to values, both bytes; keys in the order of their bytes.
///
/// It is called from `apply`, which is total: there is no error to return. A store that cannot
/// answer stops its process, as the log does (exit code 3).
pub trait Store {
    /// A key or value as it is read: borrowed or fetched.
    type Bytes<'a>: AsRef<[u8]>
    where
        Self: 'a;

    /// A value that was replaced.
    type Old: AsRef<[u8]>;

    /// The value of a key.
    fn get(&self, key: &[u8]) -> Option<Self::Bytes<'_>>;

    /// Entries between two keys, from both ends. The bounds are never crossed.
    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (Self::Bytes<'a>, Self::Bytes<'a>)> + use<'a, Self>;

    /// Writes, and gives what was there. Read back at once.
    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Self::Old>;

    /// Removes, and gives what was there.
    fn delete(&mut self, key: &[u8]) -> Option<Self::Old>;

    /// How many entries there are.
    fn len(&self) -> usize;

    /// Whether there are none.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills an empty store, usually in the order of keys. Of one key, the last value counts.
    fn load(&mut self, entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>) {
        for (key, value) in entries {
            self.put(&key, &value);
        }
        self.commit();
    }

    /// A command ends: all that was written since the last call belongs together, and others may
    /// see it. Nothing where nobody else looks.
    fn commit(&mut self) {}
}
