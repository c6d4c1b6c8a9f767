//! Who votes, and which commands all members know (Raft §6, joint consensus).
//!
//! A change of members is one log entry: raft's part says who votes, ours where they are. Raft
//! takes it when it is applied, and only if the state took it; the configuration is a record of
//! the state, so it is durable with `applied`. The second half of a joint change follows by
//! itself. What only a leader can know is asked before the entry is proposed: whether a learner
//! has caught up, whether enough voters are alive.

use prost011::Message as _;
use proto::control::{MemberChange, member_change};
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::{ChangeMembers, Command, LogRecord, RecordPops};
use raft::prelude::{
    ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState, Entry,
    EntryType,
};
use raft::{RawNode, StateRole};

use super::api::{HaltReason, HardState, MembersError, Position, ProposeError, ReplicaCommand};
use super::log::Log;
use super::{Replica, validate};
use crate::state::{Conf, State, changes_conf};

/// Feature levels this version knows: from, to.
///
/// 1: POPs, trunks, routes, single numbers. 2: members, feature levels, and every command with a
/// tag of 20 or more. 3: POPs expire and return. 4: media encryption of trunks. 5: low
/// bandwidth and noise suppression of trunks. 6: POPs are fenced, cordoned and drained.
pub const LEVELS: (u32, u32) = (1, 6);

/// From here on POPs are fenced.
const FENCING: u32 = 6;

/// A learner that lags by more entries gets no vote.
const CAUGHT_UP: u64 = 1_000;

/// The level at which the log may hold it.
pub(super) const fn level_of(kind: &Kind) -> u32 {
    match kind {
        Kind::PutTrunk(trunk) if trunk.low_bandwidth || trunk.noise_suppression => 5,
        Kind::PutTrunk(trunk) if trunk.media_encryption != 0 => 4,
        Kind::RegisterPop(_)
        | Kind::PutTrunk(_)
        | Kind::DeleteTrunk(_)
        | Kind::PutRoute(_)
        | Kind::DeleteRoute(_)
        | Kind::ImportNumbers(_)
        | Kind::AllocateNumber(_)
        | Kind::ReleaseNumber(_)
        | Kind::AdvanceClock(_)
        | Kind::InitCluster(_)
        | Kind::HashCheck(_)
        // The first entry of a cluster, and of a level.
        | Kind::FoundMembers(_)
        | Kind::SetFeatureLevel(_) => 1,
        Kind::SteerPop(_) => 6,
        Kind::RecordPops(record) if !record.fenced.is_empty() => FENCING,
        Kind::RecordPops(_) => 3,
        _ => 2,
    }
}

/// The entry of a record: raft must see changes of who votes.
pub(super) fn entry(record: &LogRecord) -> Entry {
    let data = prost::Message::encode_to_vec(record);
    match record.command.as_ref().and_then(|command| command.kind.as_ref()) {
        Some(Kind::ChangeMembers(change)) if changes_conf(change) => {
            let change = ConfChangeV2 { context: data, ..conf_change(change) };
            let mut entry = Entry { data: change.encode_to_vec(), ..Entry::default() };
            entry.set_entry_type(EntryType::EntryConfChangeV2);
            entry
        }
        _ => Entry { data, ..Entry::default() },
    }
}

/// Raft's part of a change.
fn conf_change(change: &ChangeMembers) -> ConfChangeV2 {
    let single = |change: &MemberChange| {
        let (kind, id) = match &change.kind {
            Some(member_change::Kind::AddLearner(member)) => {
                (ConfChangeType::AddLearnerNode, member.node_id)
            }
            Some(member_change::Kind::Promote(id)) => (ConfChangeType::AddNode, *id),
            Some(member_change::Kind::Demote(id)) => (ConfChangeType::AddLearnerNode, *id),
            Some(member_change::Kind::Remove(id)) => (ConfChangeType::RemoveNode, *id),
            Some(member_change::Kind::Update(_)) | None => return None,
        };
        let mut single = ConfChangeSingle { node_id: id, ..ConfChangeSingle::default() };
        single.set_change_type(kind);
        Some(single)
    };
    let mut conf_change = ConfChangeV2 {
        changes: change.changes.iter().filter_map(single).collect(),
        ..ConfChangeV2::default()
    };
    // One at a time needs no joint phase (Raft thesis §4.1); Auto decides.
    conf_change.set_transition(ConfChangeTransition::Auto);
    conf_change
}

pub(super) fn to_raft(conf: &Conf) -> ConfState {
    let Conf { voters, learners, voters_outgoing, learners_next, auto_leave } = conf.clone();
    ConfState { voters, learners, voters_outgoing, learners_next, auto_leave }
}

pub(super) fn of_raft(conf: &ConfState) -> Conf {
    let ConfState { mut voters, mut learners, mut voters_outgoing, mut learners_next, auto_leave } =
        conf.clone();
    // Raft keeps sets in hash order; the state must be the same everywhere.
    for set in [&mut voters, &mut learners, &mut voters_outgoing, &mut learners_next] {
        set.sort_unstable();
    }
    Conf { voters, learners, voters_outgoing, learners_next, auto_leave }
}

/// What raft makes of these members by this change; `None`: nothing. It is asked itself, as a node
/// that takes no part: a replayed log leads to the same members as a live one.
fn after(conf: &Conf, change: &ConfChangeV2) -> Option<Conf> {
    let at = Position { index: 1, term: 1 };
    let hard_state = HardState { term: at.term, vote: 0, commit: at.index };
    let log = Log::new(to_raft(conf), hard_state, at, &[]).ok()?;
    let config = raft::Config { id: u64::MAX, applied: at.index, ..raft::Config::default() };
    let quiet = slog::Logger::root(slog::Discard, slog::o!());
    let mut raw = RawNode::new(&config, log, &quiet).ok()?;
    raw.apply_conf_change(change).ok().map(|conf| of_raft(&conf))
}

/// Has the state follow a change that it took.
pub(super) fn follow(state: &mut State, command: &Command) {
    if let Some(Kind::ChangeMembers(change)) = &command.kind
        && changes_conf(change)
    {
        follow_raft(state, &conf_change(change));
    }
}

/// The second half of a joint change.
pub(super) fn follow_leave(state: &mut State) {
    follow_raft(state, &ConfChangeV2::default());
}

fn follow_raft(state: &mut State, change: &ConfChangeV2) {
    if let Some(conf) = after(&state.conf(), change) {
        state.set_conf(&conf);
        state.take_changes();
    }
}

impl Replica {
    /// What `node` knows: feature levels from, to.
    pub fn handle_levels(&mut self, node: NodeId, levels: (u32, u32)) {
        self.levels.insert(node.0, levels);
    }

    /// Whether this command may be proposed now, as far as only a leader can say.
    pub(super) fn check_proposal(&mut self, kind: &Kind) -> Result<(), ProposeError> {
        self.check_feature_level(kind)?;
        match kind {
            Kind::ChangeMembers(change) => self.check_change(change),
            Kind::SetFeatureLevel(level) => self.check_level(*level),
            _ => Ok(()),
        }
    }

    pub(super) fn check_feature_level(&self, kind: &Kind) -> Result<(), MembersError> {
        let (level, needed) = (self.feature_level(), level_of(kind));
        if needed > level {
            return Err(MembersError::FeatureLevel { needed, level });
        }
        Ok(())
    }

    /// A leader found that POPs expired, returned or are over. Nothing when this node does not
    /// lead, or as much of it as the log may hold.
    pub fn propose_pops(&mut self, mut record: RecordPops) {
        let leads = self.raw.raft.state == StateRole::Leader && !self.halted;
        let level = self.feature_level();
        if !leads || self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if level < FENCING {
            record.fenced.clear();
        }
        let nothing = record.found.is_empty() && record.fenced.is_empty();
        let kind = Kind::RecordPops(record);
        if !nothing && level_of(&kind) <= level {
            self.propose_later(kind);
        }
    }

    /// Of the log; before the first entry says it, of this node.
    pub fn feature_level(&self) -> u32 {
        match self.state.feature_level() {
            0 => self.config.levels.1,
            level => level,
        }
    }

    fn check_change(&mut self, change: &ChangeMembers) -> Result<(), ProposeError> {
        // What the state refuses is told as an outcome.
        if self.state.check_members(change).is_err() || !changes_conf(change) {
            return Ok(());
        }
        if self.raw.raft.has_pending_conf() || self.state.conf().is_joint() {
            return Err(MembersError::InProgress.into());
        }
        let mut voters = self.state.conf().voters;
        for change in &change.changes {
            match &change.kind {
                Some(member_change::Kind::Promote(id)) => {
                    self.check_caught_up(*id)?;
                    voters.push(*id);
                }
                Some(member_change::Kind::Demote(id) | member_change::Kind::Remove(id)) => {
                    voters.retain(|voter| voter != id);
                }
                _ => {}
            }
        }
        let own = self.config.id.0;
        let alive = voters.iter().filter(|id| **id == own || self.heard_lately(**id)).count();
        let needed = voters.len() / 2 + 1;
        if alive < needed {
            return Err(MembersError::NoQuorum { alive, needed }.into());
        }
        if voters.contains(&own) { Ok(()) } else { self.step_aside(&voters) }
    }

    fn check_caught_up(&self, id: u64) -> Result<(), ProposeError> {
        let node = NodeId(id);
        if !self.heard_lately(id) {
            return Err(MembersError::NotHeard { node }.into());
        }
        let last = self.raw.raft.raft_log.last_index();
        let matched = self.raw.raft.prs().get(id).map_or(0, |progress| progress.matched);
        let behind = last.saturating_sub(matched);
        if behind > CAUGHT_UP {
            return Err(MembersError::Behind { node, behind }.into());
        }
        Ok(())
    }

    /// A leader does not lead its own removal: one of those who stay does.
    fn step_aside(&mut self, voters: &[u64]) -> Result<(), ProposeError> {
        let able = self.successors();
        let Some(to) = able.into_iter().find(|id| voters.contains(id)) else {
            return Err(MembersError::NoSuccessor.into());
        };
        // It takes over or does not; the client tries again either way.
        let _ = self.transfer_leader(Some(NodeId(to)));
        Err(ProposeError::NotLeader { leader: None })
    }

    fn check_level(&self, level: u32) -> Result<(), ProposeError> {
        let able = self.members_level();
        if level > able { Err(MembersError::Unsupported { level, able }.into()) } else { Ok(()) }
    }

    /// The newest level that all members are known to know.
    fn members_level(&self) -> u32 {
        let conf = self.state.conf();
        let all = conf.voters.iter().chain(&conf.voters_outgoing).chain(&conf.learners);
        let level = |id: &u64| match *id == self.config.id.0 {
            true => self.config.levels.1,
            false => self.levels.get(id).map_or(0, |(_, newest)| *newest),
        };
        all.map(level).min().unwrap_or(0)
    }

    /// A leader raises the level when all members can follow.
    pub(super) fn raise_level(&mut self) {
        if self.raw.raft.state != StateRole::Leader || self.tick < self.level_due {
            return;
        }
        self.level_due = self.tick + u64::from(self.config.election_ticks.1);
        let (able, now) = (self.members_level(), self.state.feature_level());
        if now > 0 && able > now {
            self.propose_later(Kind::SetFeatureLevel(able));
        }
    }

    /// The state took this command: raft and this node follow.
    pub(super) fn took(&mut self, index: u64, command: &Command) {
        match &command.kind {
            Some(Kind::ChangeMembers(change)) if changes_conf(change) => {
                self.change_conf(&conf_change(change));
            }
            Some(Kind::ChangeMembers(_) | Kind::FoundMembers(_)) => {
                self.commands.push_back(ReplicaCommand::Members);
            }
            Some(Kind::SetFeatureLevel(level)) if *level > self.config.levels.1 => {
                let newest = self.config.levels.1;
                self.halt(HaltReason::FeatureLevel { index, level: *level, newest });
            }
            _ => {}
        }
    }

    /// What raft refuses it refuses on all nodes; see also [`replay`](super::replay).
    pub(super) fn change_conf(&mut self, change: &ConfChangeV2) {
        let Ok(conf) = self.raw.apply_conf_change(change) else { return };
        let conf = of_raft(&conf);
        self.state.set_conf(&conf);
        let changes = self.state.take_changes();
        self.note_changes(changes);
        self.raw.mut_store().set_conf_state(to_raft(&conf));
        self.follow_members();
    }

    /// Who takes part has changed.
    pub(super) fn follow_members(&mut self) {
        self.members_since = self.applied.index;
        // A new member lets go of tables that do not name it.
        self.raw.mut_store().offer_snapshot(None);
        self.snapshot_asked_until = 0;
        self.reads.restart();
        self.commands.push_back(ReplicaCommand::Members);
    }

    /// Log time of what is in the log and not applied.
    pub(super) fn newest_stamp(&self) -> u64 {
        let unapplied = self.raw.store().after(self.applied.index);
        let stamps = unapplied.filter_map(|e| validate::content(e)?.record());
        stamps.map(|record| record.log_time_ms).max().unwrap_or(0)
    }
}
