//! What stored data says, judged as a start judges it, without starting: for verification,
//! backups and recovery.

use prost011::Message as _;
use proto::id::NodeId;
use proto::raft::LogRecord;
use proto::raft::command::Kind;
use raft::prelude::Entry;

use super::api::{Position, RestoreError, Restored};
use super::log::Log;
use super::{members, validate};
use crate::state::{Headline, State};

/// What stored data says.
#[derive(Debug)]
pub struct Examined {
    /// As of `Restored::applied`.
    pub state: State,
    /// The end of the log.
    pub last: Position,
    /// What is not known to be committed; a leader's first entry has no record.
    pub uncertain: Vec<(Position, Option<LogRecord>)>,
}

/// Decodes everything and checks that it fits together.
pub fn examine(restored: &Restored) -> Result<Examined, RestoreError> {
    let state = State::from_tables(restored.tables.iter().cloned())?;
    check_sound(restored)?;
    let conf = members::to_raft(&state.conf());
    let log = Log::new(conf, restored.hard_state, restored.base, &restored.entries)?;
    if restored.hard_state.commit > log.last().index {
        return Err(RestoreError::Corrupt("the log ends before what was committed"));
    }
    let mut uncertain = Vec::new();
    for stored in restored.entries.iter().filter(|e| e.index > restored.applied) {
        let entry = Entry::decode(stored.bytes.as_ref())
            .map_err(|_| RestoreError::Corrupt("a log entry does not decode"))?;
        let content = validate::content(&entry);
        let newer = RestoreError::Corrupt("a log entry holds a command of a newer version");
        let record = content.ok_or(newer)?.record();
        if stored.index > restored.hard_state.commit {
            uncertain.push((Position { index: stored.index, term: stored.term }, record));
        }
    }
    Ok(Examined { state, last: log.last(), uncertain })
}

/// What a start refuses, before anything is changed: data of a newer version than one that knows
/// feature level `newest`, or of a node that was removed.
pub fn check_start(id: NodeId, newest: u32, restored: &Restored) -> Result<(), RestoreError> {
    let mut headline = Headline::default();
    restored.tables.iter().for_each(|(key, value)| headline.note(key, value));
    let (applied, commit) = (restored.applied, restored.hard_state.commit);
    let committed = restored.entries.iter().filter(|e| e.index > applied && e.index <= commit);
    for stored in committed {
        let entry = Entry::decode(stored.bytes.as_ref())
            .map_err(|_| RestoreError::Corrupt("a log entry does not decode"))?;
        let newer = RestoreError::Corrupt("a log entry holds a command of a newer version");
        let record = validate::content(&entry).ok_or(newer)?.record();
        let kind = record.and_then(|record| record.command).and_then(|command| command.kind);
        if let Some(Kind::SetFeatureLevel(level)) = kind {
            headline.feature_level = headline.feature_level.max(level);
        }
    }
    if headline.feature_level > newest {
        return Err(RestoreError::FeatureLevel { stored: headline.feature_level, newest });
    }
    if headline.is_removed(id.0) { Err(RestoreError::Removed(id)) } else { Ok(()) }
}

/// As a start asks, but for what only a configuration knows.
fn check_sound(restored: &Restored) -> Result<(), RestoreError> {
    let Restored { hard_state, base, applied, .. } = restored;
    if base.index == 0 || base.term == 0 || hard_state.term < base.term {
        return Err(RestoreError::Corrupt("the log has no beginning"));
    }
    if *applied < base.index || *applied > hard_state.commit {
        return Err(RestoreError::Corrupt("applied is outside of what was committed"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::api::{HardState, LogEntry};
    use super::super::tests::put_trunk;
    use super::*;

    #[test]
    fn what_is_not_known_to_be_committed_is_told() {
        let mut state = State::bootstrap(&[1, 2, 3]);
        state.found_anew(&[1, 2, 3], "c", 0);
        let tables: Vec<_> =
            state.entries().map(|(k, v)| (k.to_vec(), bytes::Bytes::copy_from_slice(v))).collect();
        let entry = |index: u64, data: Vec<u8>| {
            let entry = Entry { index, term: 2, data, ..Entry::default() };
            LogEntry { index, term: 2, bytes: entry.encode_to_vec().into() }
        };
        let record = LogRecord { command: Some(put_trunk("r1", "t1")), ..LogRecord::default() };
        let record = prost::Message::encode_to_vec(&record);
        let mut restored = Restored {
            hard_state: HardState { term: 2, vote: 0, commit: 2 },
            base: Position { index: 1, term: 1 },
            entries: vec![entry(2, vec![]), entry(3, record)],
            tables,
            applied: 1,
        };
        let examined = examine(&restored).unwrap();
        assert_eq!(examined.last, Position { index: 3, term: 2 });
        let [(at, Some(record))] = examined.uncertain.as_slice() else { panic!("one") };
        assert_eq!(at.index, 3);
        assert_eq!(record.command.as_ref().unwrap().request_id, "r1");
        restored.entries[1] = entry(3, vec![0xff]);
        assert!(examine(&restored).is_err(), "no command of ours");
        restored.entries.remove(0);
        assert!(examine(&restored).is_err(), "a gap");
    }
}
