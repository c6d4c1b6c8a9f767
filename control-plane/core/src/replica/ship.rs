//! The log as a stream for archives: what was applied here, and how to apply it elsewhere.

use proto::raft::outcome;

use super::api::{LogEntry, RestoreError};
use super::log::encode_entries;
use super::validate::{self, Content};
use super::{Replica, members};
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

/// Does to tables what this entry did, also to who votes: commands that follow are judged by it.
pub fn replay(state: &mut State, entry: &LogEntry) -> Result<(), RestoreError> {
    let decoded = <raft::prelude::Entry as prost011::Message>::decode(entry.bytes.as_ref());
    let decoded = decoded.map_err(|_| RestoreError::Corrupt("a log entry does not decode"))?;
    let newer = RestoreError::Corrupt("a log entry holds a command of a newer version");
    match validate::content(&decoded).ok_or(newer)? {
        Content::LeaveJoint => members::follow_leave(state),
        other => {
            let Some(record) = other.record() else { return Ok(()) };
            let command = record.command.unwrap_or_default();
            let applied = state.apply(record.log_time_ms, &command);
            let refused = matches!(applied.outcome.kind, Some(outcome::Kind::Rejected(_)));
            if !refused && !applied.repeated {
                members::follow(state, &command);
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::control::{ClusterMember, MemberChange, member_change};
    use proto::raft::command::Kind;
    use proto::raft::{ChangeMembers, Command};

    use super::super::tests::{alone, drain, put_trunk};
    use super::super::{Limits, Restored};
    use super::*;

    fn change(id: &str, kinds: &[member_change::Kind]) -> Command {
        let changes = kinds.iter().map(|k| MemberChange { kind: Some(k.clone()) }).collect();
        let kind = Some(Kind::ChangeMembers(ChangeMembers { changes }));
        Command { kind, ..put_trunk(id, "") }
    }

    fn add(id: u64) -> member_change::Kind {
        let address = format!("10.0.0.{id}:7000");
        let member = ClusterMember { node_id: id, address, ..ClusterMember::default() };
        member_change::Kind::AddLearner(member)
    }

    /// All rows, audit log included.
    fn rows(state: &State) -> Vec<(Vec<u8>, Vec<u8>)> {
        state.entries().map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    /// What the log makes of the tables as they were before it.
    fn replayed(replica: &Replica, before: &Restored) -> State {
        let mut copy = State::from_tables(before.tables.iter().cloned()).unwrap();
        let entries = replica.applied_after(before.applied, usize::MAX).unwrap();
        entries.iter().for_each(|entry| replay(&mut copy, entry).unwrap());
        copy
    }

    #[test]
    fn who_votes_changes_in_a_replay_as_it_did() {
        let (mut replica, mut disk) = alone();
        let limits = Limits::default();
        replica.set_limits(Limits { hash_every: 3, ..limits });
        let before = disk.clone();
        let steps = [
            change("one", &[add(4)]),
            change("refused", &[add(4)]),
            // Two at once take the way through a joint set of voters.
            change("two", &[add(5), member_change::Kind::Remove(4)]),
            put_trunk("between", "t1"),
            change("three", &[member_change::Kind::Remove(5)]),
            put_trunk("last", "t2"),
        ];
        for (at, step) in (1..).zip(steps) {
            replica.propose(at, step, 2_000 + at).unwrap();
            drain(&mut replica, &mut disk);
            let (copy, state) = (replayed(&replica, &before), replica.state());
            assert_eq!(copy.conf(), state.conf(), "step {at}");
            assert_eq!(copy.hash(), state.hash(), "step {at}");
            assert_eq!(rows(&copy), rows(state), "step {at}");
        }
        let conf = replica.state().conf();
        assert!(!conf.is_joint() && conf.learners.is_empty(), "{conf:?}");
        assert!([4, 5].iter().all(|id| replica.state().is_removed(*id)));
    }

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
