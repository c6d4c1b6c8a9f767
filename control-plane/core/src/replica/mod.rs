//! A raft voter (Ongaro's thesis; raft-rs) with the state it replicates.
//!
//! Invariants:
//! - What a message promises is durable before the message leaves: term and vote before a vote,
//!   entries before their acknowledgement. At most one [`Persist`] is outstanding, and what depends
//!   on it waits in it. A leader's appends may leave before, they promise nothing (thesis §10.2.1).
//!   A disk that hangs thus silences a leader, and the others elect another.
//! - A [`Persist`] is one transaction, so entries, hard state, tables and `applied` always agree.
//! - No bytes of a peer can panic raft-rs: see `validate`.
//! - A snapshot being written stops everything else.
//!
//! Deliberately not here: leases (raft-rs has no clock), forwarding of proposals
//! (the shells do, with deadlines).

mod api;
mod apply;
mod drive;
mod elections;
mod examine;
mod log;
mod members;
mod prefer;
mod proposals;
mod reads;
mod repair;
mod repeats;
mod ship;
mod snapshot;
mod validate;

#[cfg(test)]
mod cluster_tests;
#[cfg(test)]
mod hostile_tests;
#[cfg(test)]
mod refused_tests;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::Bytes;
use prost::Message as _;
use prost011::Message as _;
use proto::id::{NodeId, Revision};
use proto::raft::{Command, Outcome, Reason, Rejected, outcome};
use raft::prelude::Message;
use raft::{Config, RawNode, ReadOnlyOption, StateRole};

pub use api::*;
pub use examine::{Examined, check_start, examine};
pub use members::LEVELS;
pub use ship::replay;
pub use validate::PeerMisbehaved;

use drive::Outstanding;
use elections::Hurry;
use log::Log;
use prefer::Preference;
use proposals::{Proposals, Queue};
use reads::Reads;
use snapshot::Transfer;
use validate::Judge;

use crate::command::COMMAND_BYTES_MAX;
use crate::group::GroupId;
use crate::state::store::Memory;
use crate::state::{Conf, State};

/// A voter: log, state and the raft between them.
///
/// Drain [`Replica::poll_command`] to `None` after each call. Several proposals before the drain
/// share one [`Persist`].
pub struct Replica {
    config: ReplicaConfig,
    limits: Limits,
    raw: RawNode<Log>,
    state: State,
    applied: Position,
    applied_durable: u64,
    /// Index of the last applied entry that changed a table.
    changed: u64,
    /// Table changes no [`Persist`] has carried yet, and since which tick.
    dirty: BTreeMap<Vec<u8>, Option<Bytes>>,
    dirty_since: Option<u64>,
    outstanding: Option<Outstanding>,
    persists: u64,
    commands: VecDeque<ReplicaCommand>,
    proposals: Proposals,
    reads: Reads,
    /// To be proposed together.
    queue: Queue,
    clock_due: u64,
    /// States of snapshots that were checked and handed to raft; it keeps one.
    incoming: Vec<(Position, State)>,
    /// Followers a snapshot is on its way to, or that go on from one.
    snapshots: BTreeMap<u64, Transfer>,
    /// The offered snapshot is taken back at this tick unless it is under way.
    snapshot_until: u64,
    /// Log index since which the members are who they are, or an earlier start.
    members_since: u64,
    /// The shell was asked for one; again after this tick.
    snapshot_asked_until: u64,
    /// State hashes at the last multiples of [`Limits::hash_every`].
    hashes: VecDeque<(u64, [u8; 32])>,
    /// The leader is gone for certain, or an election hangs.
    hurry: Option<Hurry>,
    preference: Preference,
    /// When each member was heard last.
    heard: BTreeMap<u64, u64>,
    /// Feature levels they know.
    levels: BTreeMap<u64, (u32, u32)>,
    level_due: u64,
    /// What [`ReplicaCommand::Role`] said last.
    said: (Option<NodeId>, u64, Role),
    /// Last log time stamped by this leader.
    stamped_ms: u64,
    wall_ms: u64,
    tick: u64,
    halted: bool,
    /// Entries this node acknowledged and lost.
    repair: Option<Repair>,
    counters: Counters,
}

impl Replica {
    /// From what storage holds; `Restored::default()` for a new node. What raft itself has to say
    /// is lost.
    pub fn new(config: ReplicaConfig, restored: Restored) -> Result<Self, RestoreError> {
        Self::with_logger(config, restored, &slog::Logger::root(slog::Discard, slog::o!()))
    }

    /// As `new`; raft speaks to `logger`.
    pub fn with_logger(
        config: ReplicaConfig,
        restored: Restored,
        logger: &slog::Logger,
    ) -> Result<Self, RestoreError> {
        let voters = check_config(&config)?;
        let ids: Vec<u64> = voters.iter().copied().collect();
        // A node that lost everything begins anew, but keeps its term and vote.
        let Restored { applied, tables, entries, .. } = &restored;
        let fresh = *applied == 0 && tables.is_empty() && entries.is_empty();
        let (restored, state) = if fresh && !ids.is_empty() {
            bootstrap(config.group, &ids, restored.hard_state)
        } else {
            let mut restored = restored;
            let state = State::from_tables(std::mem::take(&mut restored.tables))?;
            (restored, state)
        };
        check_restored(&config, &restored, &state)?;
        let conf_state = members::to_raft(&state.conf());
        let log = Log::new(conf_state, restored.hard_state, restored.base, &restored.entries)?;
        if restored.hard_state.commit > log.last().index {
            return Err(RestoreError::Corrupt("the log ends before what was committed"));
        }
        let term = raft::Storage::term(&log, restored.applied)
            .map_err(|_| RestoreError::Corrupt("what was applied is not in the log"))?;
        let raw = RawNode::new(&raft_config(&config, restored.applied), log, logger)
            .map_err(|_| RestoreError::Config("raft refuses it"))?;
        let said = (None, raw.raft.term, Role::Follower);
        let mut replica = Self {
            limits: Limits::default(),
            raw,
            state,
            applied: Position { index: restored.applied, term },
            applied_durable: restored.applied,
            changed: restored.applied,
            dirty: BTreeMap::new(),
            dirty_since: None,
            outstanding: None,
            persists: 0,
            commands: VecDeque::new(),
            proposals: Proposals::default(),
            reads: Reads::default(),
            queue: Queue::default(),
            clock_due: 0,
            incoming: Vec::new(),
            snapshots: BTreeMap::new(),
            snapshot_until: 0,
            members_since: restored.applied,
            snapshot_asked_until: 0,
            hashes: VecDeque::new(),
            hurry: None,
            preference: Preference::default(),
            heard: BTreeMap::new(),
            levels: BTreeMap::new(),
            level_due: 0,
            said,
            stamped_ms: 0,
            wall_ms: 0,
            tick: 0,
            halted: false,
            repair: None,
            counters: Counters::default(),
            config,
        };
        if fresh && restored.base.index > 0 {
            replica.persist_bootstrap(restored.base);
        }
        Ok(replica)
    }

    /// Other bounds than the default ones: simulations compact and compare more often.
    pub fn set_limits(&mut self, limits: Limits) {
        self.limits = limits;
    }

    /// A message of `from` (as its certificate says).
    pub fn handle_peer(&mut self, from: NodeId, message: &[u8]) -> Result<(), PeerMisbehaved> {
        self.hear(from, message, None)
    }

    /// A snapshot of `from`: raft's message, where its tables stand and the state they make.
    /// `true`: keep the tables until a [`Persist`] asks for them or another snapshot comes;
    /// `false`: raft has no use for them.
    pub fn handle_snapshot(
        &mut self,
        from: NodeId,
        message: &[u8],
        at: Position,
        state: State,
    ) -> Result<bool, PeerMisbehaved> {
        let had = self.awaits_snapshot(at);
        self.hear(from, message, Some((at, state)))?;
        Ok(!had && self.awaits_snapshot(at))
    }

    fn hear(
        &mut self,
        from: NodeId,
        message: &[u8],
        tables: Option<(Position, State)>,
    ) -> Result<(), PeerMisbehaved> {
        if self.halted {
            return Ok(());
        }
        match self.take_message(from, message, tables) {
            Ok(()) => self.counters.peer_messages += 1,
            Err(refused) => {
                self.counters.peer_refused += 1;
                return Err(refused);
            }
        }
        Ok(())
    }

    fn take_message(
        &mut self,
        from: NodeId,
        message: &[u8],
        tables: Option<(Position, State)>,
    ) -> Result<(), PeerMisbehaved> {
        if message.len() > PEER_MESSAGE_BYTES_MAX {
            return Err(PeerMisbehaved::TooLarge(message.len()));
        }
        let message = Message::decode(message).map_err(|_| PeerMisbehaved::Encoding)?;
        if message.from != from.0 {
            return Err(PeerMisbehaved::Impersonates { claimed: message.from });
        }
        let Some(message) = self.repairing(message) else { return Ok(()) };
        self.judge().check(from, &message)?;
        self.believe_loss(from, &message);
        if self.outstanding.as_ref().is_some_and(Outstanding::is_snapshot) {
            self.counters.peer_dropped += 1;
            return Ok(());
        }
        self.expect_snapshot(&message, tables)?;
        self.heard.insert(from.0, self.tick);
        // Errors are about local messages and peers without progress: neither passes the judge.
        let _ = self.raw.step(message);
        self.forget_ignored_snapshots();
        Ok(())
    }

    fn judge(&self) -> Judge<'_> {
        let raft = &self.raw.raft;
        let last_index = raft.raft_log.last_index();
        let writing = self.outstanding.as_ref().is_some_and(|o| o.is_log);
        Judge {
            id: self.config.id,
            state: &self.state,
            term: raft.term,
            leader: raft.leader_id,
            role: raft.state,
            last_index,
            log_durable: raft.raft_log.persisted == last_index && !writing,
        }
    }

    /// Time passes. `wall_ms`: Unix time of this node; what a leader stamps the log with.
    pub fn handle_tick(&mut self, wall_ms: u64) {
        if self.halted {
            return;
        }
        self.tick += 1;
        self.wall_ms = wall_ms;
        // An election while a snapshot is being written would look at a log that is not there.
        // And one of a node that lost entries might win without them.
        if !self.outstanding.as_ref().is_some_and(Outstanding::is_snapshot) && !self.is_repairing()
        {
            self.raw.tick();
            self.hurry();
        }
        let term = self.raw.raft.term;
        for proposal in self.proposals.expired(self.tick, term) {
            self.proposal_lost(proposal);
        }
        for read in self.reads.expired(self.tick) {
            self.commands.push_back(ReplicaCommand::ReadLost { read });
        }
        for (to, round) in self.reads.overdue(self.raw.store().conf_state(), self.tick) {
            self.ask(to, round);
        }
        self.advance_clock();
        self.raise_level();
        self.leave_office();
        self.prefer();
        self.watch_snapshots();
    }

    /// The [`Persist`] of this number is durable.
    pub fn handle_persisted(&mut self, number: u64) {
        if self.halted {
            return;
        }
        if let Some(done) = self.outstanding.take_if(|o| o.number == number) {
            self.persisted(done);
        }
    }

    /// Messages to `to` are not arriving.
    pub fn report_unreachable(&mut self, to: NodeId) {
        if self.halted || self.raw.raft.prs().get(to.0).is_none() {
            return;
        }
        self.raw.report_unreachable(to.0);
    }

    /// Proposes a command; `proposal` names it in the answer: exactly one of
    /// [`ReplicaCommand::Outcome`] and [`ReplicaCommand::ProposalLost`] follows an `Ok`.
    pub fn propose(
        &mut self,
        proposal: u64,
        command: Command,
        wall_ms: u64,
    ) -> Result<(), ProposeError> {
        if self.halted || self.raw.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader { leader: self.leader() });
        }
        if self.raw.raft.lead_transferee.is_some() {
            return Err(ProposeError::NotLeader { leader: None });
        }
        if command.encoded_len() > COMMAND_BYTES_MAX {
            return Err(ProposeError::TooLarge);
        }
        if self.proposals.len() + self.queue.len() >= proposals::PROPOSALS_MAX {
            return Err(ProposeError::Overloaded);
        }
        if let Some(kind) = &command.kind {
            self.check_proposal(kind)?;
        } else {
            // Followers would refuse it: to them it is a command of a newer version.
            self.answer_empty(proposal);
            return Ok(());
        }
        if self.queue.is_full(self.raw.raft.uncommitted_size()) {
            return Err(ProposeError::Overloaded);
        }
        self.wall_ms = wall_ms;
        self.queue.push(Some(proposal), command);
        Ok(())
    }

    /// What a command would come to, as far as this node can tell: only a leader knows whether
    /// other members are well enough for a change of members.
    pub fn rehearse(&self, wall_ms: u64, command: &Command) -> Result<Outcome, MembersError> {
        if let Some(kind) = &command.kind {
            self.check_feature_level(kind)?;
        }
        Ok(self.state.rehearse(wall_ms, command))
    }

    fn answer_empty(&mut self, proposal: u64) {
        let rejected =
            Rejected { reason: Reason::Invalid.into(), message: "the command is empty".into() };
        let revision = self.state.revision();
        self.commands.push_back(ReplicaCommand::Outcome {
            proposal,
            outcome: Outcome {
                revision: revision.0,
                kind: Some(outcome::Kind::Rejected(rejected)),
            },
            revision,
        });
    }

    /// Begins a linearizable read, on any node; exactly one of [`ReplicaCommand::ReadReady`] and
    /// [`ReplicaCommand::ReadLost`] follows an `Ok`.
    pub fn read(&mut self, read: u64) -> Result<(), ReadError> {
        if self.halted {
            return Err(ReadError::Halted);
        }
        if self.reads.len() >= reads::READS_MAX {
            return Err(ReadError::Overloaded);
        }
        if self.limits.reads_ask_nobody {
            self.commands.push_back(ReplicaCommand::ReadReady { read });
            return Ok(());
        }
        self.reads.push(read, self.tick + self.patience());
        Ok(())
    }

    /// Where this node's log ends: the answer to [`ReplicaCommand::Ask`]. Never older than what
    /// this node acknowledged in messages that left.
    pub fn log_end(&self) -> Position {
        let log = &self.raw.raft.raft_log;
        let end = Position { index: log.last_index(), term: log.last_term() };
        // What was lost was acknowledged: a reader that counts this node must wait for it.
        self.lost_end().map_or(end, |lost| reads::newer(end, lost))
    }

    /// `from` answers the question `round`.
    pub fn handle_log_end(&mut self, from: NodeId, round: u64, end: Position) {
        if !self.halted {
            self.reads.answered(from.0, round, end);
            self.reads_go_on();
        }
    }

    /// Reads whose round has its majority, or whose log is applied.
    fn reads_go_on(&mut self) {
        self.reads.conclude(self.raw.store().conf_state());
        for read in self.reads.ready(self.applied) {
            self.commands.push_back(ReplicaCommand::ReadReady { read });
        }
    }

    fn ask(&mut self, to: u64, round: u64) {
        if to != self.config.id.0 {
            self.commands.push_back(ReplicaCommand::Ask { to: NodeId(to), round });
        }
    }

    /// The next thing to do; drain it after each `handle_*`, `propose` and `read`.
    pub fn poll_command(&mut self) -> Option<ReplicaCommand> {
        if self.commands.is_empty() {
            self.pump();
        }
        self.commands.pop_front()
    }

    /// The state as applied here.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Log index up to which [`Replica::state`] holds effects.
    pub fn applied(&self) -> u64 {
        self.applied.index
    }

    /// Tables that stand at this index or behind it hold everything that was applied here.
    pub fn changed(&self) -> u64 {
        self.changed
    }

    /// Who votes.
    pub fn voters(&self) -> Vec<u64> {
        self.raw.store().conf_state().voters.clone()
    }

    /// The leader, if known.
    pub fn leader(&self) -> Option<NodeId> {
        let leader = self.raw.raft.leader_id;
        (leader != raft::INVALID_ID).then_some(NodeId(leader))
    }

    /// This node.
    pub fn id(&self) -> NodeId {
        self.config.id
    }

    /// Raft term.
    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// Whether this node leads.
    pub fn leads(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    /// How things stand, in full.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        let progress = |id: &u64| Some((NodeId(*id), raft.prs().get(*id)?.matched));
        let leads = raft.state == StateRole::Leader;
        let Conf { voters, learners, voters_outgoing, .. } = self.state.conf();
        let members: BTreeSet<u64> =
            voters.into_iter().chain(learners).chain(voters_outgoing).collect();
        Status {
            id: self.config.id,
            role: role(raft.state),
            term: raft.term,
            leader: self.leader(),
            commit: raft.raft_log.committed,
            applied: self.applied.index,
            applied_durable: self.applied_durable,
            first_index: raft.raft_log.first_index(),
            last_index: raft.raft_log.last_index(),
            match_index: members.iter().filter(|_| leads).filter_map(progress).collect(),
            proposals: self.proposals.len() + self.queue.len(),
            commands: self.commands.len(),
        }
    }

    /// What was counted since start.
    pub fn counters(&self) -> Counters {
        self.counters
    }

    fn proposal_lost(&mut self, proposal: u64) {
        self.counters.proposals_lost += 1;
        self.commands.push_back(ReplicaCommand::ProposalLost { proposal });
    }

    /// Ticks a client is left without an answer: an election and a round may pass.
    fn patience(&self) -> u64 {
        u64::from(self.config.election_ticks.1).saturating_mul(3)
    }

    fn halt(&mut self, reason: HaltReason) {
        if !self.halted {
            self.halted = true;
            self.commands.push_back(ReplicaCommand::Halt { reason });
        }
    }

    fn revision(&self) -> Revision {
        self.state.revision()
    }
}

fn role(state: StateRole) -> Role {
    match state {
        StateRole::Follower => Role::Follower,
        StateRole::PreCandidate => Role::PreCandidate,
        StateRole::Candidate => Role::Candidate,
        StateRole::Leader => Role::Leader,
    }
}

fn check_config(config: &ReplicaConfig) -> Result<BTreeSet<u64>, RestoreError> {
    let voters: BTreeSet<u64> = config.voters.iter().map(|id| id.0).collect();
    if voters.len() != config.voters.len() {
        return Err(RestoreError::Config("a voter is named twice"));
    }
    if voters.contains(&0) {
        return Err(RestoreError::Config("a voter has the id 0"));
    }
    if !voters.is_empty() && !voters.contains(&config.id.0) {
        return Err(RestoreError::Config("this node is not among the voters"));
    }
    let (min, max) = config.election_ticks;
    if config.heartbeat_ticks == 0 || min <= config.heartbeat_ticks || max <= min {
        return Err(RestoreError::Config("needs 0 < heartbeat < election min < election max"));
    }
    Ok(voters)
}

/// Every node of a new cluster begins with the same log of one applied entry, so that no message
/// ever speaks about the time before it, and with the voters in its state.
fn bootstrap(group: GroupId, voters: &[u64], known: HardState) -> (Restored, State) {
    let base = Position { index: 1, term: 1 };
    let hard_state = HardState { term: known.term.max(1), vote: known.vote, commit: 1 };
    let restored = Restored { hard_state, base, applied: 1, ..Restored::default() };
    (restored, State::bootstrap_in(Memory::default(), group, voters))
}

fn check_restored(
    config: &ReplicaConfig,
    restored: &Restored,
    state: &State,
) -> Result<(), RestoreError> {
    let (stored, newest) = (state.feature_level(), config.levels.1);
    if stored > newest {
        return Err(RestoreError::FeatureLevel { stored, newest });
    }
    if state.is_removed(config.id.0) {
        return Err(RestoreError::Removed(config.id));
    }
    let Restored { hard_state, base, applied, entries, .. } = restored;
    let unborn = *base == Position::default()
        && (*applied, hard_state.commit) == (0, 0)
        && entries.is_empty()
        && state.entry_count() == 0;
    if unborn {
        return Ok(()); // It joins: a leader sends it everything.
    }
    if base.index == 0 || base.term == 0 || hard_state.term < base.term {
        return Err(RestoreError::Corrupt("the log has no beginning"));
    }
    if state.group() != config.group {
        return Err(RestoreError::Group { stored: state.group(), own: config.group });
    }
    if !state.conf().is_sound() {
        return Err(RestoreError::Corrupt("nobody votes"));
    }
    if *applied < base.index || *applied > hard_state.commit {
        return Err(RestoreError::Corrupt("applied is outside of what was committed"));
    }
    Ok(())
}

/// Ticks between the end of a leader's lease and the first election.
const LEASE_MARGIN_TICKS: u32 = 2;

fn raft_config(config: &ReplicaConfig, applied: u64) -> Config {
    let (min, max) = config.election_ticks;
    Config {
        id: config.id.0,
        election_tick: min as usize,
        heartbeat_tick: config.heartbeat_ticks as usize,
        applied,
        max_size_per_msg: 512 * 1024,
        max_inflight_msgs: 1024,
        check_quorum: true,
        pre_vote: true,
        // A voter refuses to vote until `election_tick` after it heard the leader. Who asks right
        // then would find some whose ticks lag by one, and wait for the whole timeout again.
        min_election_tick: (min + LEASE_MARGIN_TICKS).min(max - 1) as usize,
        max_election_tick: max as usize,
        read_only_option: ReadOnlyOption::Safe, // Not used: see `reads`.
        skip_bcast_commit: false,
        // raft-rs appends entries to a queued message that ends elsewhere when progress went back
        // in between; proposals are batched before they reach it instead.
        batch_append: false,
        priority: config.priority,
        max_uncommitted_size: proposals::UNCOMMITTED_BYTES_MAX as u64,
        max_committed_size_per_ready: 4 * 1024 * 1024,
    }
}
