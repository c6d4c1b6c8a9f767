//! Which proposals of this node wait for which log index.
//!
//! A proposal is known by the (index, term) raft gave it: applied under that term it happened,
//! another entry at its index means it did not. In between, nobody knows; after a while that is
//! the answer, and the client retries with the same request id.

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use proto::raft::{Command, LogRecord};
use raft::prelude::Entry;

use super::api::Position;
use super::members;

/// Most proposals that wait at once.
pub(super) const PROPOSALS_MAX: usize = 65_536;

/// Most bytes without a quorum at once, in raft and in the queue.
pub(super) const UNCOMMITTED_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Commands of one turn, proposed together: one append to each follower, one write.
#[derive(Default)]
pub(super) struct Queue {
    /// `None`: this node's own.
    commands: Vec<(Option<u64>, Command)>,
    bytes: usize,
}

impl Queue {
    pub(super) fn len(&self) -> usize {
        self.commands.len()
    }

    pub(super) fn is_full(&self, uncommitted: usize) -> bool {
        uncommitted.saturating_add(self.bytes) > UNCOMMITTED_BYTES_MAX / 2
    }

    pub(super) fn push(&mut self, proposal: Option<u64>, command: Command) {
        self.bytes = self.bytes.saturating_add(command.encoded_len());
        self.commands.push((proposal, command));
    }

    pub(super) fn take(&mut self) -> Vec<(Option<u64>, Command)> {
        self.bytes = 0;
        std::mem::take(&mut self.commands)
    }
}

/// A log entry; raft gives it its place.
pub(super) fn entry(log_time_ms: u64, proposer: u64, proposal: u64, command: Command) -> Entry {
    members::entry(&LogRecord { log_time_ms, proposal, proposer, command: Some(command) })
}

struct Waiting {
    term: u64,
    proposal: u64,
}

/// What became of the proposal at an applied index.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// It is the one applied.
    Applied(u64),
    /// Another entry took its place.
    Lost(u64),
}

/// By log index, and by deadline.
#[derive(Default)]
pub(super) struct Proposals {
    by_index: BTreeMap<u64, Waiting>,
    /// (deadline in ticks, position), both rising in order of arrival.
    deadlines: VecDeque<(u64, Position)>,
    /// Those of older terms are given up at this tick: the leader that took them is gone.
    give_up: Option<u64>,
}

impl Proposals {
    pub(super) fn len(&self) -> usize {
        self.by_index.len()
    }

    /// `Some`: the proposal that waited there before is lost.
    #[must_use]
    pub(super) fn insert(&mut self, at: Position, proposal: u64, deadline: u64) -> Option<u64> {
        self.deadlines.push_back((deadline, at));
        let waiting = Waiting { term: at.term, proposal };
        self.by_index.insert(at.index, waiting).map(|old| old.proposal)
    }

    pub(super) fn applied(&mut self, at: Position) -> Option<Fate> {
        let waiting = self.by_index.remove(&at.index)?;
        Some(if waiting.term == at.term {
            Fate::Applied(waiting.proposal)
        } else {
            Fate::Lost(waiting.proposal)
        })
    }

    /// Leadership ended: what is not decided by `tick` is given up.
    pub(super) fn leadership_lost(&mut self, tick: u64) {
        self.give_up = Some(tick);
    }

    /// Everything up to `index` was jumped over by a snapshot.
    pub(super) fn skipped(&mut self, index: u64) -> Vec<u64> {
        let later = self.by_index.split_off(&index.saturating_add(1));
        let gone = std::mem::replace(&mut self.by_index, later);
        gone.into_values().map(|waiting| waiting.proposal).collect()
    }

    /// What is given up at `tick`, in `term`.
    pub(super) fn expired(&mut self, tick: u64, term: u64) -> Vec<u64> {
        let mut lost = Vec::new();
        if self.give_up.is_some_and(|at| at <= tick) {
            self.give_up = None;
            self.by_index.retain(|_, waiting| {
                let keep = waiting.term == term;
                if !keep {
                    lost.push(waiting.proposal);
                }
                keep
            });
        }
        while let Some((_, at)) = self.deadlines.pop_front_if(|(deadline, _)| *deadline <= tick) {
            let same = self.by_index.get(&at.index).is_some_and(|w| w.term == at.term);
            if same && let Some(waiting) = self.by_index.remove(&at.index) {
                lost.push(waiting.proposal);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    #[test]
    fn each_proposal_has_one_fate() {
        let mut p = Proposals::default();
        assert_eq!(p.insert(at(5, 2), 50, 10), None);
        assert_eq!(p.insert(at(6, 2), 60, 10), None);
        assert_eq!(p.insert(at(7, 2), 70, 11), None);
        assert_eq!(p.applied(at(5, 2)), Some(Fate::Applied(50)));
        assert_eq!(p.applied(at(6, 3)), Some(Fate::Lost(60)));
        assert_eq!(p.applied(at(6, 3)), None);
        assert_eq!(p.insert(at(7, 4), 71, 20), Some(70));
        assert_eq!(p.expired(19, 4), Vec::<u64>::new(), "70's deadline does not reach 71");
        assert_eq!(p.expired(20, 4), [71]);
        assert_eq!(p.len(), 0);
    }

    #[test]
    fn lost_leadership_gives_up_older_terms_only() {
        let mut p = Proposals::default();
        assert_eq!(p.insert(at(5, 2), 50, 100), None);
        p.leadership_lost(10);
        assert_eq!(p.insert(at(6, 3), 60, 100), None);
        assert_eq!(p.expired(9, 3), Vec::<u64>::new());
        assert_eq!(p.expired(10, 3), [50]);
        assert_eq!(p.skipped(6), [60]);
        assert_eq!(p.expired(100, 3), Vec::<u64>::new());
    }
}
