//! Committed entries become state, answers and events.

use proto::raft::command::Kind;
use proto::raft::{HashCheck, LogRecord, outcome};
use raft::StateRole;
use raft::prelude::{ConfChangeV2, Entry};

use super::Replica;
use super::api::{HaltReason, Position, ReplicaCommand};
use super::proposals::Fate;
use super::validate::{self, Content};

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
        match validate::content(entry) {
            None => return self.halt(HaltReason::UnknownCommand { index: at.index }),
            Some(Content::Record(record)) => self.apply_record(at, *record, fate),
            Some(other) => {
                self.applied = at;
                if let Content::LeaveJoint = other {
                    self.change_conf(&ConfChangeV2::default());
                }
                if let Some(Fate::Applied(lost) | Fate::Lost(lost)) = fate {
                    self.proposal_lost(lost);
                }
            }
        }
        self.note_hash(at.index);
    }

    fn apply_record(&mut self, at: Position, record: LogRecord, fate: Option<Fate>) {
        let command = record.command.unwrap_or_default();
        let applied = self.state.apply(record.log_time_ms, &command);
        self.applied = at;
        self.counters.applied += 1;
        self.counters.repeated += u64::from(applied.repeated);
        self.note_changes(applied.changes);
        if let Some(event) = applied.event {
            self.commands.push_back(ReplicaCommand::Event(event));
        }
        let rejected = matches!(applied.outcome.kind, Some(outcome::Kind::Rejected(_)));
        if !rejected && !applied.repeated {
            self.took(at.index, &command);
        }
        match fate {
            Some(Fate::Applied(proposal)) => {
                let revision = self.revision();
                let outcome = applied.outcome;
                self.commands.push_back(ReplicaCommand::Outcome { proposal, outcome, revision });
            }
            Some(Fate::Lost(proposal)) => self.proposal_lost(proposal),
            None => {}
        }
        if let Some(Kind::HashCheck(check)) = &command.kind {
            self.compare(check);
        }
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
