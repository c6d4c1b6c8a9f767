//! The state's records in a database: redb, here in memory.

use std::ops::Bound;

use control_core::state::store::Store;
use redb::backends::InMemoryBackend;
use redb::{Database as Redb, Durability, ReadableTable, TableDefinition, WriteTransaction};

const RECORDS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("records");

/// A command is a transaction: what others see of the database is the state after a command.
pub(crate) struct Database {
    redb: Redb,
    /// Of the command under way.
    writing: Option<WriteTransaction>,
    entries: usize,
}

impl Default for Database {
    fn default() -> Self {
        let redb = Redb::builder().create_with_backend(InMemoryBackend::new()).expect("in memory");
        let writing = Some(redb.begin_write().expect("no other writer"));
        Self { redb, writing, entries: 0 }
    }
}

impl Database {
    /// What is committed, by key.
    pub(crate) fn committed(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        use redb::ReadableDatabase;
        let reading = self.redb.begin_read().expect("readable");
        let table = reading.open_table(RECORDS).expect("made by the first write");
        let entries = table.iter().expect("readable").map(|entry| entry.expect("sound"));
        entries.map(|(key, value)| (key.value().to_vec(), value.value().to_vec())).collect()
    }

    /// redb opens a table once at a time, so each access opens it.
    fn table<T>(&self, access: impl FnOnce(&mut redb::Table<'_, &[u8], &[u8]>) -> T) -> T {
        let writing = self.writing.as_ref().expect("one is always open");
        access(&mut writing.open_table(RECORDS).expect("a table of bytes"))
    }
}

impl Store for Database {
    type Bytes<'a> = Vec<u8>;
    type Old = Vec<u8>;

    fn get(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.table(|table| table.get(key).expect("readable").map(|found| found.value().to_vec()))
    }

    fn range<'a>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (Vec<u8>, Vec<u8>)> + use<'a> {
        let own = |bound: Bound<&[u8]>| bound.map(<[u8]>::to_vec);
        Cursor { database: self, from: own(from), to: own(to) }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> Option<Vec<u8>> {
        let old = self.table(|table| {
            let old = table.insert(key, value).expect("writable");
            old.map(|old| old.value().to_vec())
        });
        self.entries += usize::from(old.is_none());
        old
    }

    fn delete(&mut self, key: &[u8]) -> Option<Vec<u8>> {
        let old = self.table(|table| {
            let old = table.remove(key).expect("writable");
            old.map(|old| old.value().to_vec())
        });
        self.entries -= usize::from(old.is_some());
        old
    }

    fn len(&self) -> usize {
        self.entries
    }

    fn commit(&mut self) {
        self.writing.take().expect("one is always open").commit().expect("writable");
        let mut next = self.redb.begin_write().expect("no other writer");
        next.set_durability(Durability::None).expect("nothing to sync in memory");
        self.writing = Some(next);
    }
}

/// What is left of a range: each step is one access, as it would be over a network.
struct Cursor<'a> {
    database: &'a Database,
    from: Bound<Vec<u8>>,
    to: Bound<Vec<u8>>,
}

impl Cursor<'_> {
    fn step(&self, back: bool) -> Option<(Vec<u8>, Vec<u8>)> {
        let bounds = (as_slice(&self.from), as_slice(&self.to));
        if let (Bound::Excluded(from), Bound::Included(to) | Bound::Excluded(to))
        | (Bound::Included(from), Bound::Excluded(to)) = bounds
            && from >= to
        {
            return None;
        }
        self.database.table(|table| {
            let mut found = table.range::<&[u8]>(bounds).expect("readable");
            let entry = if back { found.next_back() } else { found.next() };
            let (key, value) = entry?.expect("sound");
            Some((key.value().to_vec(), value.value().to_vec()))
        })
    }
}

impl Iterator for Cursor<'_> {
    type Item = (Vec<u8>, Vec<u8>);

    fn next(&mut self) -> Option<Self::Item> {
        let entry = self.step(false)?;
        self.from = Bound::Excluded(entry.0.clone());
        Some(entry)
    }
}

impl DoubleEndedIterator for Cursor<'_> {
    fn next_back(&mut self) -> Option<Self::Item> {
        let entry = self.step(true)?;
        self.to = Bound::Excluded(entry.0.clone());
        Some(entry)
    }
}

fn as_slice(bound: &Bound<Vec<u8>>) -> Bound<&[u8]> {
    bound.as_ref().map(Vec::as_slice)
}
