//! Log and state on disk: one redb file, one transaction for each `Persist`.
//!
//! Entries, HardState, tables and the applied index change together or not at all (Raft §5:
//! persisted before answering). A transaction is synced unless it only moves `applied` and the
//! commit index on: those follow from the log again after a crash. Every value carries a CRC-32 of
//! key and value, checked when the node starts. Damage is never cut away silently: the node says
//! what is damaged and stays down. Any error while writing ends the process.

mod checksum;

use std::path::{Path, PathBuf};

use bytes::Bytes;
use control_core::replica::{HardState, InstallSnapshot, LogEntry, Persist, Position, Restored};
use control_core::state::TableChange;
use proto::id::NodeId;
use redb::{
    Database, DatabaseError, Durability, ReadableDatabase, ReadableTable, TableDefinition,
    WriteTransaction,
};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const META: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("meta");
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");

const APPLIED: &str = "applied";
const BASE: &str = "base";
const FORMAT: &str = "format";
const HARD_STATE: &str = "hard_state";
const INCARNATION: &str = "incarnation";
const MESH: &str = "mesh";
const NODE: &str = "node";
/// The layout described here.
const FORMAT_NOW: u64 = 1;

/// The state is in memory; the pages of this file need no large cache of their own.
const CACHE_BYTES: usize = 8 * 1024 * 1024;

/// Why the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// Bytes differ from what was written.
    #[error(
        "{file}: {what} is damaged: keep the file for analysis and restore this node from a copy of its data_dir"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The record.
        what: String,
    },
    /// Written by a later version.
    #[error(
        "{file} has format {format}, this version reads {FORMAT_NOW}: run the version that wrote it"
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u64,
    },
    /// Another process has it open.
    #[error(
        "{file} is in use: stop the other control-plane process, or give this node its own node.data_dir"
    )]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Belongs to someone else.
    #[error(
        "{file} belongs to {stored}, but the configuration says {configured}: correct node.data_dir, node.id or node.mesh"
    )]
    Owner {
        /// The file.
        file: PathBuf,
        /// In the file.
        stored: String,
        /// In the configuration.
        configured: String,
    },
    /// The disk or redb failed.
    #[error("{file} cannot be used ({source}): check the disk and its free space")]
    Storage {
        /// The file.
        file: PathBuf,
        /// Cause.
        source: Box<redb::Error>,
    },
}

/// Whose data it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the mesh.
    pub mesh: String,
    /// The node.
    pub node: NodeId,
}

/// What was found at start.
pub struct Opened {
    /// The open file.
    pub wal: Wal,
    /// For the replica.
    pub restored: Restored,
    /// Made with the data directory; a wiped one comes back with another.
    pub incarnation: String,
}

/// The open file.
pub struct Wal {
    database: Database,
    file: PathBuf,
    hard_state: HardState,
}

type Fallible<T> = Result<T, redb::Error>;

impl Wal {
    /// Opens or makes `control.redb` in `dir`. `new_incarnation` names a new data directory.
    pub fn open(dir: &Path, owner: &Owner, new_incarnation: &str) -> Result<Opened, WalError> {
        let file = dir.join("control.redb");
        let database = Database::builder().set_cache_size(CACHE_BYTES).create(&file);
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => WalError::InUse { file: file.clone() },
            DatabaseError::Storage(redb::StorageError::Corrupted(what)) => {
                WalError::Damaged { file: file.clone(), what }
            }
            other => storage(&file, other.into()),
        })?;
        let mut wal = Self { database, file, hard_state: HardState::default() };
        wal.found(owner, new_incarnation)?;
        let restored = wal.restore()?;
        wal.hard_state = restored.hard_state;
        let incarnation = wal.text(INCARNATION)?.unwrap_or_default();
        Ok(Opened { wal, restored, incarnation })
    }

    /// Writes one transaction; durable (where that matters) when it returns.
    pub fn persist(&mut self, persist: &Persist) -> Result<(), WalError> {
        self.write(persist).map_err(|error| storage(&self.file, error))?;
        self.hard_state = persist.hard_state;
        Ok(())
    }

    /// Makes everything durable, at the end.
    pub fn flush(&self) -> Result<(), WalError> {
        let commit = || Fallible::Ok(self.database.begin_write()?.commit()?);
        commit().map_err(|error| storage(&self.file, error))
    }

    /// Who may vote as which node was fixed when the other nodes first met it; see `remember`.
    pub fn known_incarnation(&self, node: NodeId) -> Result<Option<String>, WalError> {
        self.text(&peer_key(node))
    }

    /// Remembers the data directory another node came with.
    pub fn remember_incarnation(&self, node: NodeId, incarnation: &str) -> Result<(), WalError> {
        let write = || {
            let txn = self.database.begin_write()?;
            put_meta(&txn, &peer_key(node), incarnation.as_bytes())?;
            Fallible::Ok(txn.commit()?)
        };
        write().map_err(|error| storage(&self.file, error))
    }

    fn write(&self, persist: &Persist) -> Fallible<()> {
        let mut txn = self.database.begin_write()?;
        if !self.must_sync(persist) {
            txn.set_durability(Durability::None)?;
        }
        if let Some(snapshot) = &persist.snapshot {
            install(&txn, snapshot)?;
        }
        append(&txn, &persist.entries)?;
        change(&txn, &persist.changes)?;
        put_meta(&txn, HARD_STATE, &encode_hard_state(persist.hard_state))?;
        put_meta(&txn, APPLIED, &persist.applied.to_le_bytes())?;
        if let Some(position) = persist.compact_to {
            txn.open_table(LOG)?.retain_in(..=position.index, |_, _| false)?;
            put_meta(&txn, BASE, &encode_position(position))?;
        }
        Ok(txn.commit()?)
    }

    /// Entries, votes and terms are promises to other nodes. `applied` and `commit` are not: the
    /// log brings them back, and the state they belong to is in the same transaction.
    fn must_sync(&self, persist: &Persist) -> bool {
        let HardState { term, vote, commit: _ } = self.hard_state;
        persist.snapshot.is_some()
            || !persist.entries.is_empty()
            || persist.compact_to.is_some()
            || (persist.hard_state.term, persist.hard_state.vote) != (term, vote)
    }

    /// Makes the tables and names the owner, or checks who owns them.
    fn found(&self, owner: &Owner, new_incarnation: &str) -> Result<(), WalError> {
        let found = || {
            let txn = self.database.begin_write()?;
            txn.open_table(LOG)?;
            txn.open_table(STATE)?;
            let is_new = txn.open_table(META)?.get(FORMAT)?.is_none();
            if is_new {
                put_meta(&txn, FORMAT, &FORMAT_NOW.to_le_bytes())?;
                put_meta(&txn, INCARNATION, new_incarnation.as_bytes())?;
                put_meta(&txn, MESH, owner.mesh.as_bytes())?;
                put_meta(&txn, NODE, &owner.node.0.to_le_bytes())?;
            }
            Fallible::Ok(txn.commit()?)
        };
        found().map_err(|error| storage(&self.file, error))?;
        let format = self.number(FORMAT)?.unwrap_or_default();
        if format != FORMAT_NOW {
            return Err(WalError::Format { file: self.file.clone(), format });
        }
        let node = NodeId(self.number(NODE)?.unwrap_or_default());
        let stored = Owner { mesh: self.text(MESH)?.unwrap_or_default(), node };
        if stored != *owner {
            let name = |owner: &Owner| format!("node {} of mesh \"{}\"", owner.node, owner.mesh);
            let (stored, configured) = (name(&stored), name(owner));
            return Err(WalError::Owner { file: self.file.clone(), stored, configured });
        }
        Ok(())
    }

    fn restore(&self) -> Result<Restored, WalError> {
        let hard_state = self.meta(HARD_STATE)?.map(|b| decode_hard_state(&b));
        let base = self.meta(BASE)?.map(|b| decode_position(&b));
        Ok(Restored {
            hard_state: self.decoded(hard_state, HARD_STATE)?,
            base: self.decoded(base, BASE)?,
            entries: self.entries()?,
            tables: self.tables()?,
            applied: self.number(APPLIED)?.unwrap_or_default(),
        })
    }

    fn entries(&self) -> Result<Vec<LogEntry>, WalError> {
        let read = || {
            let txn = self.database.begin_read()?;
            let table = txn.open_table(LOG)?;
            let mut entries = Vec::new();
            for row in table.iter()? {
                let (index, value) = row?;
                entries.push((index.value(), open_entry(index.value(), value.value())));
            }
            Fallible::Ok(entries)
        };
        let entries = read().map_err(|error| storage(&self.file, error))?;
        let judged = entries
            .into_iter()
            .map(|(index, entry)| entry.ok_or_else(|| self.damaged(format!("log entry {index}"))));
        judged.collect()
    }

    fn tables(&self) -> Result<Vec<(Vec<u8>, Bytes)>, WalError> {
        let read = || {
            let txn = self.database.begin_read()?;
            let table = txn.open_table(STATE)?;
            let mut rows = Vec::new();
            for row in table.iter()? {
                let (key, value) = row?;
                let (key, value) = (key.value(), value.value());
                rows.push((key.to_vec(), checksum::open(key, value).map(Bytes::copy_from_slice)));
            }
            Fallible::Ok(rows)
        };
        let rows = read().map_err(|error| storage(&self.file, error))?;
        let judged = rows.into_iter().enumerate().map(|(n, (key, value))| {
            let value = value.ok_or_else(|| self.damaged(format!("state record {n}")))?;
            Ok((key, value))
        });
        judged.collect()
    }

    fn meta(&self, key: &str) -> Result<Option<Vec<u8>>, WalError> {
        let read = || {
            let txn = self.database.begin_read()?;
            let value = txn.open_table(META)?.get(key)?;
            Fallible::Ok(value.map(|v| v.value().to_vec()))
        };
        let Some(sealed) = read().map_err(|error| storage(&self.file, error))? else {
            return Ok(None);
        };
        let value = checksum::open(key.as_bytes(), &sealed).map(<[u8]>::to_vec);
        value.map(Some).ok_or_else(|| self.damaged(format!("record \"{key}\"")))
    }

    fn text(&self, key: &str) -> Result<Option<String>, WalError> {
        Ok(self.meta(key)?.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn number(&self, key: &str) -> Result<Option<u64>, WalError> {
        let numbers = self.meta(key)?.map(|bytes| numbers::<1>(&bytes));
        Ok(numbers.map(|n| self.decoded(Some(n), key)).transpose()?.map(|[n]| n))
    }

    /// An absent record is the default, an unreadable one is damage.
    fn decoded<T: Default>(&self, value: Option<Option<T>>, key: &str) -> Result<T, WalError> {
        value.map_or_else(
            || Ok(T::default()),
            |v| v.ok_or_else(|| self.damaged(format!("record \"{key}\""))),
        )
    }

    fn damaged(&self, what: String) -> WalError {
        WalError::Damaged { file: self.file.clone(), what }
    }
}

fn storage(file: &Path, error: redb::Error) -> WalError {
    WalError::Storage { file: file.to_owned(), source: Box::new(error) }
}

fn peer_key(node: NodeId) -> String {
    format!("incarnation_of_{node}")
}

fn install(txn: &WriteTransaction, snapshot: &InstallSnapshot) -> Fallible<()> {
    txn.open_table(LOG)?.retain(|_, _| false)?;
    let mut state = txn.open_table(STATE)?;
    state.retain(|_, _| false)?;
    for (key, value) in &snapshot.tables {
        state.insert(key.as_slice(), checksum::seal(key, value).as_slice())?;
    }
    put_meta(txn, BASE, &encode_position(snapshot.position))
}

fn append(txn: &WriteTransaction, entries: &[LogEntry]) -> Fallible<()> {
    let Some(first) = entries.first() else { return Ok(()) };
    let mut log = txn.open_table(LOG)?;
    // A new leader's entries replace what was never committed.
    log.retain_in(first.index.., |_, _| false)?;
    for entry in entries {
        let mut value = entry.term.to_le_bytes().to_vec();
        value.extend_from_slice(&entry.bytes);
        log.insert(entry.index, checksum::seal(&entry.index.to_le_bytes(), &value).as_slice())?;
    }
    Ok(())
}

fn change(txn: &WriteTransaction, changes: &[TableChange]) -> Fallible<()> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut state = txn.open_table(STATE)?;
    for change in changes {
        let key = change.key.as_slice();
        match &change.value {
            Some(value) => state.insert(key, checksum::seal(key, value).as_slice())?,
            None => state.remove(key)?,
        };
    }
    Ok(())
}

fn put_meta(txn: &WriteTransaction, key: &str, value: &[u8]) -> Fallible<()> {
    let sealed = checksum::seal(key.as_bytes(), value);
    txn.open_table(META)?.insert(key, sealed.as_slice())?;
    Ok(())
}

fn open_entry(index: u64, sealed: &[u8]) -> Option<LogEntry> {
    let value = checksum::open(&index.to_le_bytes(), sealed)?;
    let (term, bytes) = value.split_first_chunk::<8>()?;
    let term = u64::from_le_bytes(*term);
    Some(LogEntry { index, term, bytes: Bytes::copy_from_slice(bytes) })
}

fn encode_hard_state(hard_state: HardState) -> Vec<u8> {
    let HardState { term, vote, commit } = hard_state;
    [term, vote, commit].map(u64::to_le_bytes).concat()
}

fn decode_hard_state(bytes: &[u8]) -> Option<HardState> {
    numbers(bytes).map(|[term, vote, commit]| HardState { term, vote, commit })
}

fn encode_position(position: Position) -> Vec<u8> {
    [position.index, position.term].map(u64::to_le_bytes).concat()
}

fn decode_position(bytes: &[u8]) -> Option<Position> {
    numbers(bytes).map(|[index, term]| Position { index, term })
}

fn numbers<const N: usize>(bytes: &[u8]) -> Option<[u64; N]> {
    let (chunks, rest) = bytes.as_chunks::<8>();
    let numbers: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
    if rest.is_empty() { numbers.try_into().ok() } else { None }
}

#[cfg(test)]
mod tests;
