//! All replicated data as typed records over one ordered [`Store`].
//!
//! Every write goes through [`Tables::put`] or [`Tables::delete`] and is noted, so that
//! persistence, snapshots, the state hash and watchers come from one list of changes.

use std::collections::BTreeMap;
use std::ops::{Bound, Deref};

use bytes::Bytes;
use prost::Message;
use proto::control::{Pop, Route, Trunk};

use super::hash::{TableHash, lanes};
use super::requests::RequestRecord;
use super::store::{Memory, Overlay, Store};

/// One changed key of the tables; `None` deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChange {
    /// Key: one byte for the table, then the record's name.
    pub key: Vec<u8>,
    /// Encoded record.
    pub value: Option<Bytes>,
}

/// A table entry that does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("table {table:?}, entry {entry} in key order")]
pub struct TableError {
    /// First byte of the key.
    pub table: char,
    /// Which entry.
    pub entry: usize,
}

/// What a table holds. Adding one: a byte never used before, and a line in `Index::load`.
pub(crate) trait Record: Message + Default {
    const TABLE: u8;
    /// Unique in its table.
    fn name(&self) -> String;
}

/// The same, when the name is not in the record: millions of them would say everything twice.
pub(crate) trait Row: Message + Default {
    const BYTE: u8;
}

impl<R: Record> Row for R {
    const BYTE: u8 = R::TABLE;
}

impl Record for Pop {
    const TABLE: u8 = b'p';
    fn name(&self) -> String {
        self.pop_id.clone()
    }
}

impl Record for Route {
    const TABLE: u8 = b'r';
    fn name(&self) -> String {
        self.route_id.clone()
    }
}

impl Record for Trunk {
    const TABLE: u8 = b't';
    fn name(&self) -> String {
        self.trunk_id.clone()
    }
}

/// Single values: `m` and a name.
pub(crate) const META_TABLE: u8 = b'm';

/// Audit rows: not hashed with the others, for their chain is a hash already.
pub(crate) const AUDIT_TABLE: u8 = b'A';

/// Single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Cluster,
    Conf,
    FeatureLevel,
    /// The highest generation of a number that left the inventory.
    Generation,
    LogTime,
    Revision,
    /// Names reservations and port orders.
    Sequence,
}

impl Meta {
    pub(crate) const fn key(self) -> &'static [u8] {
        match self {
            Self::Cluster => b"mcluster",
            Self::Conf => b"mconf",
            Self::FeatureLevel => b"mlevel",
            Self::Generation => b"mgeneration",
            Self::LogTime => b"mtime",
            Self::Revision => b"mrevision",
            Self::Sequence => b"msequence",
        }
    }
}

/// A key without the byte of its table.
pub(crate) struct Name<B>(B);

impl<B: AsRef<[u8]>> Deref for Name<B> {
    type Target = [u8];
    fn deref(&self) -> &[u8] {
        self.0.as_ref().get(1..).unwrap_or_default()
    }
}

/// The store, its hash, and what changed since [`Tables::take_changes`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables<S = Memory> {
    store: S,
    hash: TableHash,
    changed: BTreeMap<Vec<u8>, Option<Bytes>>,
    digests: Digests,
}

/// What a command replaced and what it wrote, as sums of the hashes of records.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests {
    removed: TableHash,
    added: TableHash,
}

impl Digests {
    pub(crate) fn before(&self) -> Vec<u8> {
        short(self.removed)
    }

    pub(crate) fn after(&self) -> Vec<u8> {
        short(self.added)
    }
}

/// 16 bytes tell two states apart; nothing for nothing.
fn short(hash: TableHash) -> Vec<u8> {
    if hash == TableHash::default() {
        return Vec::new();
    }
    hash.to_bytes().get(..16).unwrap_or_default().to_vec()
}

impl<S: Store> Tables<S> {
    /// From storage or a snapshot into an empty store; nothing counts as changed. Of one key, the
    /// last value counts.
    pub(crate) fn load(mut store: S, entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>) -> Self {
        store.load(entries);
        let mut hash = TableHash::default();
        store
            .range(Bound::Unbounded, Bound::Unbounded)
            .filter(|(key, _)| is_hashed(key.as_ref()))
            .for_each(|(key, value)| hash.add(key.as_ref(), value.as_ref()));
        Self { store, hash, changed: BTreeMap::new(), digests: Digests::default() }
    }

    /// The same tables, where writes leave these as they are.
    pub(crate) fn overlay(&self) -> Tables<Overlay<'_, S>> {
        Tables {
            store: Overlay::new(&self.store),
            hash: self.hash,
            changed: BTreeMap::new(),
            digests: Digests::default(),
        }
    }

    pub(crate) fn get<R: Row>(&self, name: impl AsRef<[u8]>) -> Option<R> {
        // Every record was decoded once when it was loaded or was encoded here.
        R::decode(self.store.get(&key::<R>(&name))?.as_ref()).ok()
    }

    pub(crate) fn contains<R: Row>(&self, name: impl AsRef<[u8]>) -> bool {
        self.store.get(&key::<R>(&name)).is_some()
    }

    /// Records of one table by name, after `after`.
    pub(crate) fn scan<'a, R: Row>(
        &'a self,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = R> + use<'a, R, S> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.range::<R>(from, Bound::Unbounded).map(|(_, record)| record)
    }

    /// Records of one table between two names, by name. Nothing when the bounds are crossed.
    pub(crate) fn range<'a, R: Row>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (Name<S::Bytes<'a>>, R)> + use<'a, R, S> {
        let entries = self.between::<R>(from, to);
        entries.filter_map(|(key, value)| Some((Name(key), R::decode(value.as_ref()).ok()?)))
    }

    /// Everything of one table, as stored.
    pub(crate) fn raw<'a, R: Row>(
        &'a self,
    ) -> impl Iterator<Item = (Name<S::Bytes<'a>>, S::Bytes<'a>)> + use<'a, R, S> {
        let entries = self.between::<R>(Bound::Unbounded, Bound::Unbounded);
        entries.map(|(key, value)| (Name(key), value))
    }

    fn between<'a, R: Row>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (S::Bytes<'a>, S::Bytes<'a>)> + use<'a, R, S> {
        let (from, to) = (from.map(|name| key::<R>(&name)), to.map(|name| key::<R>(&name)));
        let from = match &from {
            Bound::Unbounded => Bound::Included([R::BYTE].as_slice()),
            bound => bound.as_ref().map(Vec::as_slice),
        };
        let end = [R::BYTE + 1];
        let to = match &to {
            Bound::Unbounded => Bound::Excluded(end.as_slice()),
            bound => bound.as_ref().map(Vec::as_slice),
        };
        let crossed = match (from, to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a >= b
            }
            _ => false,
        };
        (!crossed).then(|| self.store.range(from, to)).into_iter().flatten()
    }

    pub(crate) fn put<R: Record>(&mut self, record: &R) {
        self.put_at(record.name(), record);
    }

    pub(crate) fn put_at<R: Row>(&mut self, name: impl AsRef<[u8]>, record: &R) {
        self.write(key::<R>(&name), Some(record.encode_to_vec().into()));
    }

    pub(crate) fn delete<R: Row>(&mut self, name: impl AsRef<[u8]>) {
        self.write(key::<R>(&name), None);
    }

    /// What `read` makes of a single value; of nothing when there is none.
    pub(crate) fn meta<T>(&self, meta: Meta, read: impl FnOnce(&[u8]) -> T) -> T {
        match self.store.get(meta.key()) {
            Some(value) => read(value.as_ref()),
            None => read(&[]),
        }
    }

    pub(crate) fn meta_u64(&self, meta: Meta) -> u64 {
        self.meta(meta, |value| value.try_into().map_or(0, u64::from_le_bytes))
    }

    pub(crate) fn put_meta(&mut self, meta: Meta, value: impl Into<Bytes>) {
        self.write(meta.key().to_vec(), Some(value.into()));
    }

    pub(crate) fn put_meta_u64(&mut self, meta: Meta, value: u64) {
        self.put_meta(meta, value.to_le_bytes().to_vec());
    }

    fn write(&mut self, key: Vec<u8>, value: Option<Bytes>) {
        let audited = key.first().is_some_and(|t| ![META_TABLE, RequestRecord::BYTE].contains(t));
        let old = match &value {
            Some(bytes) => {
                let lanes = lanes(&key, bytes);
                self.hash.add_lanes(lanes);
                if audited {
                    self.digests.added.add_lanes(lanes);
                }
                self.store.put(&key, bytes)
            }
            None => self.store.delete(&key),
        };
        if let Some(old) = old {
            let lanes = lanes(&key, old.as_ref());
            self.hash.remove_lanes(lanes);
            if audited {
                self.digests.removed.add_lanes(lanes);
            }
        }
        self.changed.insert(key, value);
    }

    /// What was replaced and written since the last call, single values left out.
    pub(crate) fn take_digests(&mut self) -> Digests {
        std::mem::take(&mut self.digests)
    }

    /// Stores what is not hashed with the tables.
    pub(crate) fn put_plain(&mut self, key: Vec<u8>, value: Vec<u8>) {
        let value = Bytes::from(value);
        self.store.put(&key, &value);
        self.changed.insert(key, Some(value));
    }

    /// What `put_plain` stored.
    pub(crate) fn plain<M: Message + Default>(&self, key: &[u8]) -> Option<M> {
        M::decode(self.store.get(key)?.as_ref()).ok()
    }

    /// Ends what belongs together: what changed since the last call, by key.
    pub(crate) fn take_changes(&mut self) -> Vec<TableChange> {
        self.store.commit();
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|(key, value)| TableChange { key, value }).collect()
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hash.to_bytes()
    }

    /// Everything, by key.
    pub(crate) fn entries(&self) -> impl Iterator<Item = (S::Bytes<'_>, S::Bytes<'_>)> {
        self.store.range(Bound::Unbounded, Bound::Unbounded)
    }

    pub(crate) fn store(&self) -> &S {
        &self.store
    }

    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        self.store.len()
    }
}

fn is_hashed(key: &[u8]) -> bool {
    key.first() != Some(&AUDIT_TABLE)
}

fn key<R: Row>(name: &impl AsRef<[u8]>) -> Vec<u8> {
    let name = name.as_ref();
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(R::BYTE);
    key.extend_from_slice(name);
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    fn trunk(id: &str, port: u32) -> Trunk {
        Trunk { trunk_id: id.into(), port, ..Trunk::default() }
    }

    #[test]
    fn one_list_of_changes_feeds_storage_and_hash() {
        let mut tables = Tables::<Memory>::default();
        tables.put(&trunk("a", 1));
        tables.put(&trunk("b", 2));
        tables.put(&trunk("a", 3));
        tables.put_meta_u64(Meta::Revision, 7);
        let changes = tables.take_changes();
        assert_eq!(changes.len(), 3, "one change per key");
        assert!(tables.take_changes().is_empty());

        let stored: Vec<_> = changes.into_iter().filter_map(|c| Some((c.key, c.value?))).collect();
        let copy = Tables::load(Memory::default(), stored);
        assert_eq!(copy.hash(), tables.hash());
        assert_eq!(copy.get::<Trunk>("a"), Some(trunk("a", 3)));
        assert_eq!(copy.meta_u64(Meta::Revision), 7);
        assert_eq!(copy.meta_u64(Meta::LogTime), 0);

        tables.delete::<Trunk>("a");
        let expected = TableChange { key: b"ta".to_vec(), value: None };
        assert_eq!(tables.take_changes(), [expected]);
        assert_ne!(copy.hash(), tables.hash());
    }

    #[test]
    fn scans_stay_in_their_table() {
        let mut tables = Tables::<Memory>::default();
        for id in ["c", "a", "b"] {
            tables.put(&trunk(id, 0));
            tables.put(&Route { route_id: id.into(), ..Route::default() });
            tables.put(&Pop { pop_id: id.into(), ..Pop::default() });
        }
        let ids = |after: Option<&str>| {
            tables.scan::<Trunk>(after.map(str::as_bytes)).map(|t| t.trunk_id).collect::<Vec<_>>()
        };
        assert_eq!(ids(None), ["a", "b", "c"]);
        assert_eq!(ids(Some("a")), ["b", "c"]);
        assert_eq!(ids(Some("c")), Vec::<String>::new());
    }
}
