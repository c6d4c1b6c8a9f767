//! The raft log since the last compaction, in memory, as raft reads it.
//!
//! Holds what is durable and what is being made durable: raft keeps the two apart by itself.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use prost011::Message as _;
use raft::prelude::{ConfState, Entry, HardState as RaftHardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::api::{HardState, LogEntry, Position, RestoreError};

/// Entries, the position before the first of them, and a snapshot for those who are behind it.
pub(super) struct Log {
    initial: RaftHardState,
    conf_state: ConfState,
    base: Position,
    entries: VecDeque<Entry>,
    bytes: usize,
    snapshot: Option<Snapshot>,
    /// Raft asked for a snapshot that is not there. Atomic only because raft asks through `&self`.
    snapshot_wanted: AtomicBool,
}

impl Log {
    /// From checked parts; `entries` follow `base` without a gap.
    pub(super) fn new(
        conf_state: ConfState,
        hard_state: HardState,
        base: Position,
        entries: &[LogEntry],
    ) -> Result<Self, RestoreError> {
        let mut log = Self {
            initial: RaftHardState {
                term: hard_state.term,
                vote: hard_state.vote,
                commit: hard_state.commit,
            },
            conf_state,
            base,
            entries: VecDeque::with_capacity(entries.len()),
            bytes: 0,
            snapshot: None,
            snapshot_wanted: AtomicBool::new(false),
        };
        for stored in entries {
            let entry = Entry::decode(stored.bytes.as_ref())
                .map_err(|_| RestoreError::Corrupt("a log entry does not decode"))?;
            let expected = log.last();
            if entry.index != stored.index || entry.term != stored.term {
                return Err(RestoreError::Corrupt("a log entry is not the one its key names"));
            }
            if entry.index != expected.index + 1 || entry.term < expected.term {
                return Err(RestoreError::Corrupt("the log has a gap or terms that fall"));
            }
            if entry.term > hard_state.term {
                return Err(RestoreError::Corrupt("the log is ahead of the term"));
            }
            log.push(entry);
        }
        Ok(log)
    }

    pub(super) fn last(&self) -> Position {
        self.entries
            .back()
            .map_or(self.base, |entry| Position { index: entry.index, term: entry.term })
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// What follows this index has at most so many bytes.
    pub(super) fn before_the_last(&self, bytes: usize) -> u64 {
        let mut kept = 0usize;
        let over = self.entries.iter().rev().find(|entry| {
            kept = kept.saturating_add(size(entry));
            kept > bytes
        });
        over.map_or(self.base.index, |entry| entry.index)
    }

    pub(super) fn conf_state(&self) -> &ConfState {
        &self.conf_state
    }

    /// Who takes part, as applied.
    pub(super) fn set_conf_state(&mut self, conf_state: ConfState) {
        self.conf_state = conf_state;
    }

    /// Replaces what conflicts and appends.
    pub(super) fn append(&mut self, entries: Vec<Entry>) {
        let Some(first) = entries.first().map(|entry| entry.index) else { return };
        while self.entries.back().is_some_and(|entry| entry.index >= first) {
            if let Some(gone) = self.entries.pop_back() {
                self.bytes = self.bytes.saturating_sub(size(&gone));
            }
        }
        for entry in entries {
            self.push(entry);
        }
    }

    /// Forgets everything up to `index`; `None` when that is no progress or not in the log.
    pub(super) fn compact(&mut self, index: u64) -> Option<Position> {
        let term = self.term_at(index).filter(|_| index > self.base.index)?;
        while self.entries.front().is_some_and(|entry| entry.index <= index) {
            if let Some(gone) = self.entries.pop_front() {
                self.bytes = self.bytes.saturating_sub(size(&gone));
            }
        }
        self.base = Position { index, term };
        if self.snapshot.as_ref().is_some_and(|s| s.get_metadata().index < index) {
            self.snapshot = None;
        }
        Some(self.base)
    }

    /// A snapshot of the leader replaced everything.
    pub(super) fn restart_at(&mut self, position: Position) {
        self.entries.clear();
        self.bytes = 0;
        self.base = position;
        self.snapshot = None;
    }

    /// Entries after `index`.
    pub(super) fn after(&self, index: u64) -> impl Iterator<Item = &Entry> {
        self.entries.iter().rev().take_while(move |entry| entry.index > index)
    }

    /// The entries after `index`, in order; `None` when some of them are compacted away.
    pub(super) fn follow(&self, index: u64) -> Option<impl Iterator<Item = &Entry>> {
        let skip = usize::try_from(index.checked_sub(self.base.index)?).ok()?;
        Some(self.entries.iter().skip(skip))
    }

    pub(super) fn snapshot_wanted(&self) -> bool {
        self.snapshot_wanted.load(Ordering::Relaxed)
    }

    /// The position before the first entry.
    pub(super) fn base(&self) -> Position {
        self.base
    }

    /// Where the snapshot stands that followers are offered.
    pub(super) fn offered(&self) -> Option<u64> {
        self.snapshot.as_ref().map(|snapshot| snapshot.get_metadata().index)
    }

    /// For followers that need what is not in the log any more; `None` takes it back.
    pub(super) fn offer_snapshot(&mut self, snapshot: Option<Snapshot>) {
        self.snapshot = snapshot;
        self.snapshot_wanted.store(false, Ordering::Relaxed);
    }

    fn push(&mut self, entry: Entry) {
        self.bytes = self.bytes.saturating_add(size(&entry));
        self.entries.push_back(entry);
    }

    fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.base.index {
            return Some(self.base.term);
        }
        let offset = index.checked_sub(self.base.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?).map(|entry| entry.term)
    }
}

/// As storage keeps them.
pub(super) fn encode_entries(entries: &[Entry]) -> Vec<LogEntry> {
    let encode = |entry: &Entry| LogEntry {
        index: entry.index,
        term: entry.term,
        bytes: Bytes::from(entry.encode_to_vec()),
    };
    entries.iter().map(encode).collect()
}

/// Memory of an entry, about.
fn size(entry: &Entry) -> usize {
    entry.data.len() + size_of::<Entry>()
}

impl Storage for Log {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(self.initial.clone(), self.conf_state.clone()))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        let Some(offset) = low.checked_sub(self.base.index + 1) else {
            return Err(StorageError::Compacted.into());
        };
        if high > self.last().index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let max_size = max_size.into().unwrap_or(u64::MAX);
        let mut size = 0u64;
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        let count = usize::try_from(high.saturating_sub(low)).unwrap_or(usize::MAX);
        let entries = self.entries.iter().skip(skip).take(count);
        let taken = entries.enumerate().take_while(|(at, entry)| {
            size = size.saturating_add(entry.encoded_len() as u64);
            *at == 0 || size <= max_size
        });
        Ok(taken.map(|(_, entry)| entry.clone()).collect())
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.base.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index).ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.base.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    fn snapshot(&self, request_index: u64, _to: u64) -> raft::Result<Snapshot> {
        let fits = |s: &&Snapshot| s.get_metadata().index >= request_index;
        if let Some(snapshot) = self.snapshot.as_ref().filter(fits) {
            return Ok(snapshot.clone());
        }
        // Raft asks again at the next heartbeat; the replica has one by then.
        self.snapshot_wanted.store(true, Ordering::Relaxed);
        Err(StorageError::SnapshotTemporarilyUnavailable.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(index: u64, term: u64) -> Entry {
        Entry { index, term, data: vec![0; 10], ..Entry::default() }
    }

    fn log(entries: &[Entry]) -> Result<Log, RestoreError> {
        let hard_state = HardState { term: 9, vote: 0, commit: 1 };
        let voters = ConfState { voters: vec![1, 2, 3], ..ConfState::default() };
        Log::new(voters, hard_state, Position { index: 1, term: 1 }, &encode_entries(entries))
    }

    fn indices(log: &Log, low: u64, high: u64, max: Option<u64>) -> raft::Result<Vec<u64>> {
        let entries = log.entries(low, high, max, GetEntriesContext::empty(false))?;
        Ok(entries.iter().map(|e| e.index).collect())
    }

    #[test]
    fn appends_overwrites_and_compacts() {
        let mut log = log(&[entry(2, 1), entry(3, 1), entry(4, 2)]).unwrap();
        assert_eq!(log.last(), Position { index: 4, term: 2 });
        log.append(vec![entry(3, 3), entry(4, 3), entry(5, 3)]);
        assert_eq!((log.term(2).unwrap(), log.term(3).unwrap(), log.term(5).unwrap()), (1, 3, 3));
        assert_eq!(log.len(), 4);
        assert_eq!(log.compact(3), Some(Position { index: 3, term: 3 }));
        assert_eq!(log.compact(3), None);
        assert_eq!(log.compact(9), None);
        assert_eq!(log.first_index().unwrap(), 4);
        assert_eq!(log.term(3).unwrap(), 3);
        assert!(log.term(2).is_err());
        assert_eq!(indices(&log, 4, 6, None).unwrap(), [4, 5]);
        assert_eq!(indices(&log, 4, 6, Some(0)).unwrap(), [4], "one at least");
        assert!(indices(&log, 3, 6, None).is_err());
        log.restart_at(Position { index: 20, term: 4 });
        assert_eq!((log.first_index().unwrap(), log.last_index().unwrap()), (21, 20));
        assert_eq!(log.bytes(), 0);
    }

    #[test]
    fn refuses_what_storage_cannot_have_written() {
        assert!(log(&[entry(3, 1)]).is_err(), "gap");
        assert!(log(&[entry(2, 2), entry(3, 1)]).is_err(), "terms fall");
        assert!(log(&[entry(2, 10)]).is_err(), "ahead of the term");
    }

    #[test]
    fn a_missing_snapshot_is_noted() {
        let mut log = log(&[]).unwrap();
        assert!(log.snapshot(0, 2).is_err());
        assert!(log.snapshot_wanted());
        let mut snapshot = Snapshot::default();
        snapshot.mut_metadata().index = 1;
        log.offer_snapshot(Some(snapshot));
        assert!(!log.snapshot_wanted());
        assert_eq!(log.snapshot(1, 2).unwrap().get_metadata().index, 1);
        assert!(log.snapshot(2, 2).is_err(), "too old for the one who asks");
    }
}
