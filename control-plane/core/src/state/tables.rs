//! All replicated data as one ordered map of keys and encoded records.
//!
//! Every write goes through [`Tables::put`] or [`Tables::delete`] and is noted, so that
//! persistence, snapshots, the state hash and watchers come from one list of changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use bytes::Bytes;
use prost::Message;
use proto::control::{Number, Pop, Route, Trunk};

use super::hash::TableHash;
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

/// What a table holds. Adding one: a `TABLE` byte never used before, and a line in `State::load`.
pub(crate) trait Record: Message + Default {
    const TABLE: u8;
    /// Unique in its table.
    fn name(&self) -> String;
}

impl Record for Number {
    const TABLE: u8 = b'n';
    fn name(&self) -> String {
        self.e164.clone()
    }
}

impl Record for Pop {
    const TABLE: u8 = b'p';
    fn name(&self) -> String {
        self.pop_id.clone()
    }
}

impl Record for RequestRecord {
    const TABLE: u8 = b'q';
    fn name(&self) -> String {
        super::requests::name(&self.principal, &self.request_id)
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

/// Single values.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Meta {
    Cluster,
    LogTime,
    Revision,
    Voters,
}

impl Meta {
    const fn key(self) -> &'static [u8] {
        match self {
            Self::Cluster => b"mcluster",
            Self::LogTime => b"mtime",
            Self::Revision => b"mrevision",
            Self::Voters => b"mvoters",
        }
    }
}

/// The map, its hash, and what changed since [`Tables::take_changes`].
#[derive(Debug, Clone, Default)]
pub(crate) struct Tables {
    map: BTreeMap<Vec<u8>, Bytes>,
    hash: TableHash,
    changed: BTreeMap<Vec<u8>, Option<Bytes>>,
}

impl Tables {
    /// From storage or a snapshot; nothing counts as changed.
    pub(crate) fn load(entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>) -> Self {
        let mut tables = Self::default();
        for (key, value) in entries {
            tables.hash.add(&key, &value);
            if let Some(old) = tables.map.insert(key.clone(), value) {
                tables.hash.remove(&key, &old);
            }
        }
        tables
    }

    pub(crate) fn get<R: Record>(&self, name: &str) -> Option<R> {
        // Every record was decoded once when it was loaded or was encoded here.
        self.map.get(&key::<R>(name)).and_then(|bytes| R::decode(bytes.clone()).ok())
    }

    pub(crate) fn contains<R: Record>(&self, name: &str) -> bool {
        self.map.contains_key(&key::<R>(name))
    }

    /// Records of one table by name, after `after`.
    pub(crate) fn scan<R: Record>(&self, after: Option<&str>) -> impl Iterator<Item = R> + '_ {
        let from = after.map_or(Bound::Included(vec![R::TABLE]), |n| Bound::Excluded(key::<R>(n)));
        let to = Bound::Excluded(vec![R::TABLE + 1]);
        self.map.range((from, to)).filter_map(|(_, bytes)| R::decode(bytes.clone()).ok())
    }

    pub(crate) fn put<R: Record>(&mut self, record: &R) {
        self.write(key::<R>(&record.name()), Some(record.encode_to_vec().into()));
    }

    pub(crate) fn delete<R: Record>(&mut self, name: &str) {
        self.write(key::<R>(name), None);
    }

    pub(crate) fn meta(&self, meta: Meta) -> &[u8] {
        self.map.get(meta.key()).map_or(&[], |bytes| bytes)
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
        let old = match &value {
            Some(bytes) => {
                self.hash.add(&key, bytes);
                self.map.insert(key.clone(), bytes.clone())
            }
            None => self.map.remove(&key),
        };
        if let Some(old) = old {
            self.hash.remove(&key, &old);
        }
        self.changed.insert(key, value);
    }

    /// What changed since the last call, by key.
    pub(crate) fn take_changes(&mut self) -> Vec<TableChange> {
        let changed = std::mem::take(&mut self.changed);
        changed.into_iter().map(|(key, value)| TableChange { key, value }).collect()
    }

    pub(crate) fn hash(&self) -> [u8; 32] {
        self.hash.to_bytes()
    }

    /// Everything, by key. Values are shared, not copied.
    pub(crate) fn entries(&self) -> impl ExactSizeIterator<Item = (&Vec<u8>, &Bytes)> {
        self.map.iter()
    }
}

fn key<R: Record>(name: &str) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + name.len());
    key.push(R::TABLE);
    key.extend_from_slice(name.as_bytes());
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
        let ids = |after| tables.scan::<Trunk>(after).map(|t| t.trunk_id).collect::<Vec<_>>();
        assert_eq!(ids(None), ["a", "b", "c"]);
        assert_eq!(ids(Some("a")), ["b", "c"]);
        assert_eq!(ids(Some("c")), Vec::<String>::new());
    }
}
