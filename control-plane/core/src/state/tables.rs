//! All replicated data as one ordered map of keys and encoded records.
//!
//! Every write goes through [`Tables::put`] or [`Tables::delete`] and is noted, so that
//! persistence, snapshots, the state hash and watchers come from one list of changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;
use proto::control::{Pop, Route, Trunk};

use super::hash::{TableHash, lanes};
use super::packed::Packed;
use super::requests::RequestRecord;

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
    const fn key(self) -> &'static [u8] {
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

/// The map, its hash, and what changed since [`Tables::take_changes`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    map: BTreeMap<Packed, Packed>,
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

impl Tables {
    /// From storage or a snapshot; nothing counts as changed. Of one key, the last value counts.
    pub(crate) fn load(entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>) -> Self {
        // In order of keys, as entries usually come, this builds full nodes.
        let packed = |(key, value): (Vec<u8>, Bytes)| (Packed::from(&*key), Packed::from(&*value));
        let map: BTreeMap<Packed, Packed> = entries.into_iter().map(packed).collect();
        let mut hash = TableHash::default();
        map.iter()
            .filter(|(key, _)| is_hashed(key.as_slice()))
            .for_each(|(key, value)| hash.add(key.as_slice(), value.as_slice()));
        Self { map, hash, ..Self::default() }
    }

    pub(crate) fn get<R: Row>(&self, name: impl AsRef<[u8]>) -> Option<R> {
        // Every record was decoded once when it was loaded or was encoded here.
        self.map.get(key::<R>(&name).as_slice()).and_then(|bytes| R::decode(bytes.as_slice()).ok())
    }

    pub(crate) fn contains<R: Row>(&self, name: impl AsRef<[u8]>) -> bool {
        self.map.contains_key(key::<R>(&name).as_slice())
    }

    /// Records of one table by name, after `after`.
    pub(crate) fn scan<'a, R: Row>(
        &'a self,
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = R> + use<'a, R> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        self.range::<R>(from, Bound::Unbounded).map(|(_, record)| record)
    }

    /// Records of one table between two names, by name. Nothing when the bounds are crossed.
    pub(crate) fn range<'a, R: Row>(
        &'a self,
        from: Bound<&[u8]>,
        to: Bound<&[u8]>,
    ) -> impl DoubleEndedIterator<Item = (&'a [u8], R)> + use<'a, R> {
        let from = from.map(|name| key::<R>(&name));
        let to = to.map(|name| key::<R>(&name));
        let from = match &from {
            Bound::Unbounded => Bound::Included([R::BYTE].as_slice().into()),
            Bound::Included(key) => Bound::Included(Packed::from(key.as_slice())),
            Bound::Excluded(key) => Bound::Excluded(Packed::from(key.as_slice())),
        };
        let to = match &to {
            Bound::Unbounded => Bound::Excluded([R::BYTE + 1].as_slice().into()),
            Bound::Included(key) => Bound::Included(Packed::from(key.as_slice())),
            Bound::Excluded(key) => Bound::Excluded(Packed::from(key.as_slice())),
        };
        let crossed = match (&from, &to) {
            (Bound::Included(a), Bound::Included(b)) => a > b,
            (Bound::Included(a) | Bound::Excluded(a), Bound::Included(b) | Bound::Excluded(b)) => {
                a >= b
            }
            _ => false,
        };
        let found = (!crossed).then(|| self.map.range((from, to)));
        found.into_iter().flatten().filter_map(|(key, bytes)| {
            Some((key.as_slice().get(1..)?, R::decode(bytes.as_slice()).ok()?))
        })
    }

    /// Everything of one table, as stored.
    pub(crate) fn raw<R: Row>(&self) -> impl Iterator<Item = (&[u8], &[u8])> + '_ {
        let from: Packed = [R::BYTE].as_slice().into();
        let to: Packed = [R::BYTE + 1].as_slice().into();
        let entries = self.map.range((Bound::Included(from), Bound::Excluded(to)));
        entries.map(|(key, value)| (key.as_slice().get(1..).unwrap_or_default(), value.as_slice()))
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

    pub(crate) fn meta(&self, meta: Meta) -> &[u8] {
        self.map.get(meta.key()).map_or(&[], Packed::as_slice)
    }

    pub(crate) fn meta_u64(&self, meta: Meta) -> u64 {
        self.meta(meta).try_into().map_or(0, u64::from_le_bytes)
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
                self.map.insert(key.as_slice().into(), Packed::from(&**bytes))
            }
            None => self.map.remove(key.as_slice()),
        };
        if let Some(old) = old {
            let lanes = lanes(&key, old.as_slice());
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
        self.map.insert(key.as_slice().into(), Packed::from(&*value));
        self.changed.insert(key, Some(value));
    }

    /// What `put_plain` stored.
    pub(crate) fn plain<M: Message + Default>(&self, key: &[u8]) -> Option<M> {
        self.map.get(key).and_then(|bytes| M::decode(bytes.as_slice()).ok())
    }

    /// What changed since the last call, by key.
    pub(crate) fn take_changes(&mut self) -> Vec<TableChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|(key, value)| TableChange { key, value }).collect()
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hash.to_bytes()
    }

    /// Everything, by key.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&[u8], &[u8])> {
        self.map.iter().map(|(key, value)| (key.as_slice(), value.as_slice()))
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
        let mut tables = Tables::default();
        tables.put(&trunk("a", 1));
        tables.put(&trunk("b", 2));
        tables.put(&trunk("a", 3));
        tables.put_meta_u64(Meta::Revision, 7);
        let changes = tables.take_changes();
        assert_eq!(changes.len(), 3, "one change per key");
        assert!(tables.take_changes().is_empty());

        let stored: Vec<_> = changes.into_iter().filter_map(|c| Some((c.key, c.value?))).collect();
        let copy = Tables::load(stored);
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
        let mut tables = Tables::default();
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
