//! Committed entries become state, answers and events.

use proto::raft::HashCheck;
use proto::raft::command::Kind;
use raft::StateRole;
use raft::prelude::Entry;

use super::api::{HaltReason, Position, ReplicaCommand};
use super::proposals::Fate;
use super::{Replica, validate};

/// Hashes remembered: a check arrives a round after the index it is about.
const HASHES_MAX: usize = 16;

impl Replica {
    pub(super) fn apply(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            if self.halted {
                return;
            }
            self.apply_entry(&entry);
        }
    }

    fn apply_entry(&mut self, entry: &Entry) {
        let at = Position { index: entry.index, term: entry.term };
        let fate = self.proposals.applied(at);
        if entry.data.is_empty() {
            // A leader's first entry: says that it leads.
            self.applied = at;
            if let Some(Fate::Applied(lost) | Fate::Lost(lost)) = fate {
                self.proposal_lost(lost);
            }
        } else {
            let Some(record) = validate::record(&entry.data) else {
                self.halt(HaltReason::UnknownCommand { index: at.index });
                return;
            };
            let command = record.command.unwrap_or_default();
            let applied = self.state.apply(record.log_time_ms, &command);
            self.applied = at;
            self.counters.applied += 1;
            self.counters.repeated += u64::from(applied.repeated);
            self.note_changes(applied.changes);
            if let Some(event) = applied.event {
                self.commands.push_back(ReplicaCommand::Event(event));
            }
            match fate {
                Some(Fate::Applied(proposal)) => {
                    let revision = self.revision();
                    let outcome = applied.outcome;
                    self.commands.push_back(ReplicaCommand::Outcome {
                        proposal,
                        outcome,
                        revision,
                    });
                }
                Some(Fate::Lost(proposal)) => self.proposal_lost(proposal),
                None => {}
            }
            if let Some(Kind::HashCheck(check)) = &command.kind {
                self.compare(check);
            }
        }
        self.note_hash(at.index);
    }

    /// Every so many entries the state's hash is noted, and the leader asks all to compare.
    fn note_hash(&mut self, index: u64) {
        if !index.is_multiple_of(self.limits.hash_every) {
            return;
        }
        let hash = self.state.hash();
        self.hashes.push_back((index, hash));
        while self.hashes.len() > HASHES_MAX {
            self.hashes.pop_front();
        }
        if self.raw.raft.state == StateRole::Leader {
            let sha256 = hash.to_vec();
            self.propose_later(Kind::HashCheck(HashCheck { index, sha256 }));
        }
    }

    fn compare(&mut self, check: &HashCheck) {
        let ours = self.hashes.iter().find(|(index, _)| *index == check.index);
        if ours.is_some_and(|(_, hash)| hash.as_slice() != check.sha256) {
            self.halt(HaltReason::StateDiffers { index: check.index });
        }
    }
}
