//! A raft voter.

mod api;
mod validate;

pub use api::*;
pub use validate::PeerMisbehaved;

use proto::id::NodeId;
use proto::raft::Command;

use crate::state::State;

/// A voter: log, state and the raft between them.
pub struct Replica {
    config: ReplicaConfig,
    state: State,
    counters: Counters,
}

impl Replica {
    /// From what storage holds; `Restored::default()` for a new node.
    pub fn new(config: ReplicaConfig, restored: Restored) -> Result<Self, RestoreError> {
        Ok(Self {
            config,
            state: State::from_tables(restored.tables)?,
            counters: Counters::default(),
        })
    }

    /// A message of `from` (as its certificate says).
    pub fn handle_peer(&mut self, _from: NodeId, _message: &[u8]) -> Result<(), PeerMisbehaved> {
        Ok(())
    }

    /// Time passes. `wall_ms`: Unix time of this node, only used when it leads.
    pub fn handle_tick(&mut self, _wall_ms: u64) {}

    /// The [`Persist`] of this number is durable.
    pub fn handle_persisted(&mut self, _number: u64) {}

    /// Messages to `to` are not arriving.
    pub fn report_unreachable(&mut self, _to: NodeId) {}

    /// Proposes a command; `proposal` names it in the answer: exactly one of
    /// [`ReplicaCommand::Outcome`] and [`ReplicaCommand::ProposalLost`] follows an `Ok`.
    pub fn propose(
        &mut self,
        _proposal: u64,
        _command: Command,
        _wall_ms: u64,
    ) -> Result<(), ProposeError> {
        Err(ProposeError::NotLeader { leader: None })
    }

    /// Asks for a log index that a linearizable read must wait for; exactly one of
    /// [`ReplicaCommand::ReadReady`] and [`ReplicaCommand::ReadLost`] follows an `Ok`.
    pub fn read_index(&mut self, _read: u64) -> Result<(), ReadError> {
        Err(ReadError::NotLeader { leader: None })
    }

    /// The next thing to do; drain it after each `handle_*`, `propose` and `read_index`.
    pub fn poll_command(&mut self) -> Option<ReplicaCommand> {
        None
    }

    /// The state as applied here.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Log index up to which `state()` holds effects.
    pub fn applied(&self) -> u64 {
        0
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        Status {
            id: self.config.id,
            role: Role::Follower,
            term: 0,
            leader: None,
            commit: 0,
            applied: 0,
            applied_durable: 0,
            first_index: 0,
            last_index: 0,
            match_index: Vec::new(),
            proposals: 0,
            commands: 0,
        }
    }

    /// What was counted since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }
}
