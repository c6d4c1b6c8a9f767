//! Linearizable reads by ReadIndex (Raft thesis §6.4): one round of heartbeats confirms the
//! leader for every read that waited when it began. Never by lease: raft-rs has no clock.

use std::collections::VecDeque;

/// Most reads that wait at once.
pub(super) const READS_MAX: usize = 65_536;

#[derive(Debug, Clone, Copy)]
struct Read {
    read: u64,
    deadline: u64,
}

struct Round {
    context: Vec<u8>,
    reads: VecDeque<Read>,
}

/// Reads of this leader.
#[derive(Default)]
pub(super) struct Reads {
    /// For the next round.
    waiting: VecDeque<Read>,
    round: Option<Round>,
    /// Rounds begun since start.
    rounds: u64,
}

impl Reads {
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.round.as_ref().map_or(0, |round| round.reads.len())
    }

    pub(super) fn push(&mut self, read: u64, deadline: u64) {
        self.waiting.push_back(Read { read, deadline });
    }

    /// Begins a round when reads wait and none is under way: its context for raft. Used once ever:
    /// an answer to an old round must not confirm a new one.
    pub(super) fn begin(&mut self, incarnation: &str, node: u64, term: u64) -> Option<Vec<u8>> {
        if self.round.is_some() || self.waiting.is_empty() {
            return None;
        }
        self.rounds += 1;
        let mut context = Vec::with_capacity(24 + incarnation.len());
        for part in [node, term, self.rounds] {
            context.extend_from_slice(&part.to_be_bytes());
        }
        context.extend_from_slice(incarnation.as_bytes());
        let reads = std::mem::take(&mut self.waiting);
        self.round = Some(Round { context: context.clone(), reads });
        Some(context)
    }

    /// A quorum confirmed the round of this context.
    pub(super) fn confirmed(&mut self, context: &[u8]) -> Vec<u64> {
        match self.round.take_if(|round| round.context == context) {
            Some(round) => round.reads.into_iter().map(|read| read.read).collect(),
            None => Vec::new(),
        }
    }

    /// Leadership ended.
    pub(super) fn lost(&mut self) -> Vec<u64> {
        let round = self.round.take().map(|round| round.reads).unwrap_or_default();
        let waiting = std::mem::take(&mut self.waiting);
        round.into_iter().chain(waiting).map(|read| read.read).collect()
    }

    pub(super) fn expired(&mut self, tick: u64) -> Vec<u64> {
        let mut lost = Vec::new();
        let round = self.round.as_mut().map(|round| &mut round.reads);
        for queue in round.into_iter().chain([&mut self.waiting]) {
            while let Some(read) = queue.pop_front_if(|read| read.deadline <= tick) {
                lost.push(read.read);
            }
        }
        lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_serves_all_who_waited_and_nobody_else() {
        let mut reads = Reads::default();
        assert_eq!(reads.begin("i", 1, 2), None);
        reads.push(1, 10);
        reads.push(2, 10);
        let first = reads.begin("i", 1, 2).unwrap();
        reads.push(3, 12);
        assert_eq!(reads.begin("i", 1, 2), None, "one at a time");
        assert_eq!(reads.confirmed(b"other"), Vec::<u64>::new());
        assert_eq!(reads.confirmed(&first), [1, 2]);
        let second = reads.begin("i", 1, 2).unwrap();
        assert_ne!(first, second);
        assert_eq!(reads.confirmed(&first), Vec::<u64>::new(), "an old answer confirms nothing");
        assert_eq!(reads.expired(11), Vec::<u64>::new());
        assert_eq!(reads.expired(12), [3]);
        assert_eq!(reads.confirmed(&second), Vec::<u64>::new());
        reads.push(4, 20);
        assert_eq!(reads.lost(), [4]);
        assert_eq!(reads.len(), 0);
    }
}
