//! Linearizable reads on any node, in one round trip and without a clock.
//!
//! The reader asks all voters where their logs end, takes the most up-to-date of a majority (by
//! last term, then last index: Raft §5.4.1), and waits until that entry, or one of a later term,
//! is applied here. Whatever was acknowledged before is in that log, by the argument that makes a
//! new leader's log complete (Raft §5.4.3). A voter that lags, is paused or was deposed answers
//! with an older log and does no harm. When the voters change meanwhile, the round says nothing
//! about the new ones and begins anew; in joint consensus both majorities must answer.
//!
//! Not ReadIndex (Raft thesis §6.4): that costs a follower two round trips. Never a lease: raft-rs
//! has no clock.

use std::collections::{BTreeSet, VecDeque};

use raft::prelude::ConfState;

use super::api::Position;

/// Most reads that wait at once.
pub(super) const READS_MAX: usize = 65_536;

/// Rounds under way at once: a reader far from the others waits for its own round only.
const ROUNDS_MAX: usize = 16;

/// A voter that does not answer is asked again after so many ticks.
const ASK_AGAIN_TICKS: u64 = 8;

#[derive(Debug, Clone, Copy)]
struct Read {
    read: u64,
    deadline: u64,
}

struct Round {
    number: u64,
    /// When its voters were asked last.
    asked: u64,
    answered: BTreeSet<u64>,
    /// The most up-to-date log of those.
    newest: Position,
    reads: Vec<Read>,
}

/// Reads of this node.
#[derive(Default)]
pub(super) struct Reads {
    /// For the next round.
    waiting: VecDeque<Read>,
    rounds: VecDeque<Round>,
    /// Rounds that ended, and what they wait for.
    applying: VecDeque<(Position, Vec<Read>)>,
    /// Rounds begun since start.
    begun: u64,
}

/// Whether these are a majority, in joint consensus of both sets.
pub(super) fn is_quorum(conf: &ConfState, who: &BTreeSet<u64>) -> bool {
    let majority = |set: &[u64]| {
        set.is_empty() || set.iter().filter(|id| who.contains(id)).count() > set.len() / 2
    };
    !conf.voters.is_empty() && majority(&conf.voters) && majority(&conf.voters_outgoing)
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        let asked: usize = self.rounds.iter().map(|round| round.reads.len()).sum();
        let applying: usize = self.applying.iter().map(|(_, reads)| reads.len()).sum();
        self.waiting.len() + asked + applying
    }

    pub(super) fn push(&mut self, read: u64, deadline: u64) {
        self.waiting.push_back(Read { read, deadline });
    }

    /// Begins a round for all who wait: its number. `own` is the end of this voter's log.
    pub(super) fn begin(&mut self, own: Option<(u64, Position)>, tick: u64) -> Option<u64> {
        if self.waiting.is_empty() || self.rounds.len() >= ROUNDS_MAX {
            return None;
        }
        self.begun += 1;
        let reads = std::mem::take(&mut self.waiting).into();
        let answered = own.iter().map(|(id, _)| *id).collect();
        let newest = own.map(|(_, log)| log).unwrap_or_default();
        self.rounds.push_back(Round { number: self.begun, asked: tick, answered, newest, reads });
        Some(self.begun)
    }

    /// The log of `from` ended there after the round began.
    pub(super) fn answered(&mut self, from: u64, number: u64, log: Position) {
        if let Some(round) = self.rounds.iter_mut().find(|round| round.number == number) {
            round.answered.insert(from);
            round.newest = newer(round.newest, log);
        }
    }

    /// Questions and answers get lost: whom to ask again, about which round.
    pub(super) fn overdue(&mut self, conf: &ConfState, tick: u64) -> Vec<(u64, u64)> {
        let mut ask = Vec::new();
        for round in self.rounds.iter_mut().filter(|round| round.asked + ASK_AGAIN_TICKS <= tick) {
            round.asked = tick;
            let voters: BTreeSet<u64> =
                conf.voters.iter().chain(&conf.voters_outgoing).copied().collect();
            ask.extend(voters.difference(&round.answered).map(|id| (*id, round.number)));
        }
        ask
    }

    /// Rounds that have their majority go on to wait for the log.
    pub(super) fn conclude(&mut self, conf: &ConfState) {
        let (done, open): (VecDeque<Round>, VecDeque<Round>) =
            self.rounds.drain(..).partition(|round| is_quorum(conf, &round.answered));
        self.rounds = open;
        self.applying.extend(done.into_iter().map(|round| (round.newest, round.reads)));
    }

    /// Reads that see everything they must see in the state at `applied`.
    pub(super) fn ready(&mut self, applied: Position) -> Vec<u64> {
        let seen = |log: &Position| applied.term > log.term || applied.index >= log.index;
        let (done, open): (VecDeque<_>, VecDeque<_>) =
            self.applying.drain(..).partition(|(log, _)| seen(log));
        self.applying = open;
        done.into_iter().flat_map(|(_, reads)| reads).map(|read| read.read).collect()
    }

    /// The voters changed: all begin anew.
    pub(super) fn restart(&mut self) {
        let asked = self.rounds.drain(..).map(|round| round.reads);
        let reads: Vec<Read> =
            asked.chain(self.applying.drain(..).map(|(_, reads)| reads)).flatten().collect();
        self.waiting.extend(reads);
    }

    pub(super) fn expired(&mut self, tick: u64) -> Vec<u64> {
        let mut lost = Vec::new();
        let mut keep = |read: &Read| {
            let late = read.deadline <= tick;
            if late {
                lost.push(read.read);
            }
            !late
        };
        self.waiting.retain(&mut keep);
        for reads in self.rounds.iter_mut().map(|round| &mut round.reads) {
            reads.retain(&mut keep);
        }
        for (_, reads) in &mut self.applying {
            reads.retain(&mut keep);
        }
        // A round nobody waits for must not keep others from beginning.
        self.rounds.retain(|round| !round.reads.is_empty());
        self.applying.retain(|(_, reads)| !reads.is_empty());
        lost
    }
}

/// The more up-to-date of two logs (Raft §5.4.1).
pub(super) fn newer(a: Position, b: Position) -> Position {
    if (b.term, b.index) > (a.term, a.index) { b } else { a }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(index: u64, term: u64) -> Position {
        Position { index, term }
    }

    fn conf(voters: &[u64], outgoing: &[u64]) -> ConfState {
        ConfState {
            voters: voters.to_vec(),
            voters_outgoing: outgoing.to_vec(),
            ..ConfState::default()
        }
    }

    #[test]
    fn a_round_serves_all_who_waited_and_ends_with_a_majority() {
        let (mut reads, three) = (Reads::default(), conf(&[1, 2, 3], &[]));
        assert_eq!(reads.begin(None, 0), None, "nobody waits");
        reads.push(1, 10);
        reads.push(2, 10);
        let first = reads.begin(Some((1, at(5, 2))), 0).unwrap();
        reads.push(3, 12);
        let second = reads.begin(Some((1, at(5, 2))), 0).unwrap();
        reads.conclude(&three);
        assert_eq!(reads.ready(at(9, 9)), [], "one of three is no majority");
        reads.answered(2, first, at(7, 2));
        reads.answered(2, 99, at(70, 20));
        reads.conclude(&three);
        assert_eq!(reads.ready(at(6, 2)), []);
        assert_eq!(reads.ready(at(7, 2)), [1, 2]);
        reads.answered(3, first, at(8, 2));
        reads.answered(3, second, at(4, 2));
        reads.conclude(&three);
        assert_eq!(reads.ready(at(5, 2)), [3], "an older log adds nothing");
        assert_eq!(reads.len(), 0);
    }

    #[test]
    fn a_later_term_is_waited_for_and_ends_the_wait_for_an_earlier_one() {
        let (mut reads, three) = (Reads::default(), conf(&[1, 2, 3], &[]));
        reads.push(1, 10);
        let round = reads.begin(Some((1, at(150, 3))), 0).unwrap();
        reads.answered(2, round, at(101, 4));
        reads.conclude(&three);
        assert_eq!(
            reads.ready(at(100, 3)),
            [],
            "not applied; and a deposed leader's tail is no measure"
        );
        assert_eq!(reads.ready(at(101, 4)), [1]);
        reads.push(2, 10);
        let round = reads.begin(Some((1, at(105, 4))), 0).unwrap();
        reads.answered(2, round, at(101, 4));
        reads.conclude(&three);
        assert_eq!(reads.ready(at(102, 5)), [2], "entry 105 was never committed");
    }

    #[test]
    fn both_majorities_of_a_joint_configuration_must_answer() {
        let joint = conf(&[1, 4, 5], &[1, 2, 3]);
        let is = |who: &[u64]| is_quorum(&joint, &who.iter().copied().collect());
        assert!(!is(&[1, 4]) && !is(&[1, 2]) && is(&[1, 2, 4]) && is(&[2, 3, 4, 5]));
        assert!(!is_quorum(&conf(&[], &[]), &[1].into()), "nobody votes");
    }

    #[test]
    fn changed_voters_begin_anew_and_late_reads_end() {
        let (mut reads, three) = (Reads::default(), conf(&[1, 2, 3], &[]));
        reads.push(1, 10);
        let round = reads.begin(Some((1, at(5, 2))), 0).unwrap();
        reads.answered(2, round, at(5, 2));
        reads.conclude(&three);
        reads.restart();
        assert_eq!(reads.ready(at(5, 2)), []);
        let again = reads.begin(Some((1, at(6, 2))), 0).unwrap();
        reads.answered(2, round, at(6, 2));
        reads.conclude(&three);
        assert_eq!(reads.ready(at(6, 2)), [], "an answer to the old round");
        assert_eq!(reads.overdue(&three, ASK_AGAIN_TICKS), [(2, again), (3, again)]);
        assert_eq!(reads.overdue(&three, ASK_AGAIN_TICKS + 1), []);
        assert_eq!(reads.expired(9), []);
        assert_eq!(reads.expired(10), [1]);
        reads.answered(2, again, at(6, 2));
        assert_eq!(reads.len(), 0);
    }
}
