//! A control node: replica, disk, watch log, and what waits at it.

use std::collections::{BTreeMap, VecDeque};

use chaos::rng::Rng;
use control_core::liveness::Liveness;
use control_core::replica::{HardState, Limits, Persist, Replica, ReplicaConfig, RestoreError};
use control_core::watch::WatchLog;
use proto::id::{NodeId, Revision};

use super::members::member;
use super::plan::{Micros, Mutant, Plan};
use super::pops::instant;
use super::world::Due;
use crate::sim::control::{Disk, Taken, node_id};

/// Few, so that watchers meet compaction.
const WATCH_EVENTS: usize = 24;
/// Writes a disk without sync loses at a crash.
const UNSYNCED: usize = 3;

/// A node. `replica` is `None` while it is dead.
pub struct Node {
    pub index: usize,
    pub replica: Option<Replica>,
    pub liveness: Option<Liveness>,
    /// Lived through.
    pub ticks: u64,
    pub disk: Disk,
    /// Ready to be sent.
    pub taken: Option<Taken>,
    pub watch: WatchLog,
    /// Counts up at each start: what was under way to an earlier life is dropped.
    pub life: u64,
    /// Not yet durable, in order.
    pub writing: VecDeque<Persist>,
    /// Nothing becomes durable before.
    pub stalled_until: Micros,
    /// What arrived while it was stopped; `None`: it runs.
    pub stopped: Option<Vec<Due>>,
    /// Its wall clock is off by this, ms.
    pub clock_ms: i64,
    /// Attempts of clients that wait for a proposal.
    pub proposals: BTreeMap<u64, u64>,
    /// Attempts of clients that wait for the read of this name.
    pub reads: BTreeMap<u64, u64>,
    pub names: u64,
    mutant: Option<Mutant>,
    /// For [`Mutant::SkipSync`].
    unsynced: VecDeque<Persist>,
    /// For [`Mutant::HardStateLate`].
    hard_state: Option<HardState>,
}

impl Node {
    pub fn new(index: usize, mutant: Option<Mutant>) -> Self {
        Self {
            index,
            replica: None,
            liveness: None,
            ticks: 0,
            disk: Disk::default(),
            taken: None,
            watch: WatchLog::new(WATCH_EVENTS, Revision(0)),
            life: 0,
            writing: VecDeque::new(),
            stalled_until: 0,
            stopped: None,
            clock_ms: 0,
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            names: 0,
            mutant,
            unsynced: VecDeque::new(),
            hard_state: None,
        }
    }

    /// Starts from what the disk has.
    pub fn start(&mut self, plan: &Plan, rng: &mut Rng, now: Micros) -> Result<(), RestoreError> {
        self.life += 1;
        // Pinned and distinct: raft-rs draws from a range with real entropy.
        let spread = u32::try_from(rng.below(3) * plan.nodes as u64).unwrap_or(0);
        let election = 10 + spread + u32::try_from(self.index).unwrap_or(0);
        let config = ReplicaConfig {
            id: node_id(self.index),
            group: control_core::group::GroupId::ROOT,
            // One that comes later is let in.
            voters: match self.index < plan.nodes {
                true => (1..).take(plan.nodes).map(NodeId).collect(),
                false => Vec::new(),
            },
            members: (0..plan.nodes).filter(|_| self.index < plan.nodes).map(member).collect(),
            levels: control_core::replica::LEVELS,
            heartbeat_ticks: 2,
            election_ticks: (election, election + 1),
            priority: 0,
            incarnation: format!("disk-{}-life-{}", self.index, self.life),
        };
        let mut replica = Replica::new(config, self.disk.restore())?;
        replica.set_limits(Limits {
            log_entries_max: 20,
            log_entries_kept: 5,
            hash_every: if plan.blind { u64::MAX } else { 8 },
            reads_ask_nobody: self.mutant == Some(Mutant::ReadsAskNobody),
            ..Limits::default()
        });
        self.watch = WatchLog::new(WATCH_EVENTS, replica.state().revision());
        self.replica = Some(replica);
        self.liveness = Some(Liveness::new(node_id(self.index).0, instant(now)));
        Ok(())
    }

    /// kill -9. What was being written is there or not, but nobody heard.
    pub fn crash(&mut self, rng: &mut Rng) {
        self.replica = None;
        self.taken = None;
        self.liveness = None;
        self.stopped = None;
        let written = rng.below(self.writing.len() as u64 + 1);
        for persist in std::mem::take(&mut self.writing).into_iter().take(written as usize) {
            self.store(persist);
        }
        self.unsynced.clear();
        self.hard_state = None;
        self.proposals.clear();
        self.reads.clear();
    }

    /// The oldest write is on the disk.
    pub fn synced(&mut self) -> Option<u64> {
        let persist = self.writing.pop_front()?;
        let number = persist.number;
        self.store(persist);
        Some(number)
    }

    fn store(&mut self, mut persist: Persist) {
        match self.mutant {
            Some(Mutant::SkipSync) => {
                self.unsynced.push_back(persist);
                if self.unsynced.len() > UNSYNCED
                    && let Some(oldest) = self.unsynced.pop_front()
                {
                    self.disk.write(oldest);
                }
                return;
            }
            Some(Mutant::HardStateLate) => {
                let late = self.hard_state.replace(persist.hard_state);
                // What the disk itself would refuse is kept right.
                let HardState { term, vote, .. } = late.unwrap_or(persist.hard_state);
                persist.hard_state = HardState { term, vote, commit: persist.hard_state.commit };
            }
            Some(Mutant::VoteForgotten) => persist.hard_state.vote = 0,
            Some(Mutant::SnapshotWithoutRequests) => {
                if let Some(snapshot) = &persist.snapshot {
                    let keep = |key: &[u8]| key.first() != Some(&b'q');
                    self.disk.spoil_staged(snapshot.position, keep);
                }
            }
            _ => {}
        }
        self.disk.write(persist);
    }

    /// The next name for a proposal or read.
    pub fn name(&mut self) -> u64 {
        self.names += 1;
        self.names
    }
}
