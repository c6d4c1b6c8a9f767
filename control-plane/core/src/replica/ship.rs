//! The log as a stream for archives: what was applied here, and how to apply it elsewhere.

use super::Replica;
use super::api::{LogEntry, RestoreError};
use super::log::encode_entries;
use super::validate;
use crate::state::State;

impl Replica {
    /// Entries after `index` that are applied here, in order, of about so many bytes; `None` when
    /// the log does not go back so far.
    pub fn applied_after(&self, index: u64, bytes: usize) -> Option<Vec<LogEntry>> {
        let mut left = bytes;
        let entries = self.raw.store().follow(index)?;
        let entries = entries.take_while(|entry| entry.index <= self.applied.index);
        let taken = entries.map_while(|entry| {
            let goes = left > 0;
            left = left.saturating_sub(entry.data.len() + size_of_val(entry));
            goes.then(|| entry.clone())
        });
        Some(encode_entries(&taken.collect::<Vec<_>>()))
    }
}

/// Does to tables what this entry did. Who votes is left as it is: whoever begins anew from these
/// tables says that himself.
pub fn replay(state: &mut State, entry: &LogEntry) -> Result<(), RestoreError> {
    let decoded = <raft::prelude::Entry as prost011::Message>::decode(entry.bytes.as_ref());
    let decoded = decoded.map_err(|_| RestoreError::Corrupt("a log entry does not decode"))?;
    let newer = RestoreError::Corrupt("a log entry holds a command of a newer version");
    if let Some(record) = validate::content(&decoded).ok_or(newer)?.record() {
        state.apply(record.log_time_ms, &record.command.unwrap_or_default());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::tests::{alone, drain, put_trunk};
    use super::*;

    #[test]
    fn what_is_shipped_makes_the_same_state() {
        let (mut replica, mut disk) = alone();
        let base = replica.applied();
        let mut copy = State::from_tables(disk.tables.iter().cloned()).unwrap();
        let from = disk.applied;
        for n in 0..20 {
            replica.propose(n, put_trunk(&format!("r{n}"), &format!("t{n}")), 2_000 + n).unwrap();
            drain(&mut replica, &mut disk);
        }
        let (mut at, mut parts) = (from, 0);
        while let Some(entries) = replica.applied_after(at, 200).filter(|part| !part.is_empty()) {
            entries.iter().for_each(|entry| replay(&mut copy, entry).unwrap());
            at = entries.last().unwrap().index;
            parts += 1;
        }
        assert!(parts > 3 && at == replica.applied() && at > base);
        assert_eq!(copy.hash(), replica.state().hash());
        assert_eq!(copy.trunks().count(), 20);
        assert_eq!(replica.applied_after(0, 200), None, "before the log");
        let bad = LogEntry { index: 1, term: 1, bytes: vec![0xff].into() };
        assert!(replay(&mut copy, &bad).is_err());
    }
}
