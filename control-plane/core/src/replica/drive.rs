//! Between raft and the shell: what is ready becomes commands, what is durable is told to raft.

use std::collections::BTreeSet;

use bytes::Bytes;
use prost011::Message as _;
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::{AdvanceClock, Command, FoundMembers};
use raft::prelude::{Message, MessageType};
use raft::{Ready, StateRole};
use sha2::{Digest, Sha256};

use super::api::{
    HaltReason, HardState, InstallSnapshot, LogEntry, Persist, Position, ReplicaCommand, Role,
};
use super::log::encode_entries;
use super::repeats::without_repeated;
use super::{Replica, members, proposals, role};
use crate::state::TableChange;

/// Applied effects reach the disk with the next entries, or after so many ticks: they can be
/// repeated from the log, so they are worth no write of their own.
const FLUSH_TICKS: u64 = 4;

/// Nor are they kept waiting when there are many.
const FLUSH_CHANGES: usize = 10_000;

/// A [`Persist`] the shell works on.
pub(super) struct Outstanding {
    pub(super) number: u64,
    /// Raft's number for it.
    ready: Option<u64>,
    /// These promise what it makes durable.
    messages: Vec<Message>,
    snapshot: Option<Position>,
    applied: u64,
    /// It carries entries or a snapshot.
    pub(super) is_log: bool,
}

impl Outstanding {
    pub(super) fn is_snapshot(&self) -> bool {
        self.snapshot.is_some()
    }
}

/// What one Ready wants durable.
#[derive(Default)]
struct Write {
    ready: Option<u64>,
    messages: Vec<Message>,
    entries: Vec<LogEntry>,
    snapshot: Option<InstallSnapshot>,
}

impl Replica {
    /// Turns all that raft has ready into commands, up to a write that must come first.
    pub(super) fn pump(&mut self) {
        while !self.halted {
            self.note_role();
            self.begin_reads();
            if self.outstanding.is_some() {
                return;
            }
            self.propose_queued();
            self.offer_snapshot();
            if self.raw.has_ready() {
                let ready = self.raw.ready();
                self.take_ready(ready);
            } else {
                self.flush();
                return;
            }
        }
    }

    fn take_ready(&mut self, mut ready: Ready) {
        self.send(ready.take_messages());
        let mut write = Write {
            ready: Some(ready.number()),
            messages: ready.take_persisted_messages(),
            entries: encode_entries(ready.entries()),
            snapshot: None,
        };
        if !ready.snapshot().is_empty() {
            write.snapshot = self.install(&ready);
            if write.snapshot.is_none() {
                let index = ready.snapshot().get_metadata().index;
                return self.halt(HaltReason::StateDiffers { index });
            }
        }
        // Raft reads its log here from now on.
        self.raw.mut_store().append(ready.take_entries());
        let committed = ready.take_committed_entries();
        let must_sync = ready.must_sync();
        self.raw.advance_append_async(ready);
        self.apply(committed);
        self.reads_go_on();
        if self.halted {
            return;
        }
        if write.snapshot.is_none() {
            self.raw.advance_apply_to(self.applied.index);
        }
        if must_sync {
            self.persist(write);
        } else {
            // Nothing in it has to be durable: a commit index is found again.
            if let Some(number) = write.ready {
                self.raw.on_persist_ready(number);
            }
            self.send(write.messages);
        }
    }

    fn install(&mut self, ready: &Ready) -> Option<InstallSnapshot> {
        let metadata = ready.snapshot().get_metadata();
        let position = Position { index: metadata.index, term: metadata.term };
        let state = self.take_incoming(position)?;
        self.state = state;
        self.applied = position;
        self.changed = position.index;
        self.dirty.clear();
        self.dirty_since = None;
        self.hashes.clear();
        self.raw.mut_store().restart_at(position);
        self.raw.mut_store().set_conf_state(members::to_raft(&self.state.conf()));
        self.follow_members(); // It may have brought others.
        for proposal in self.proposals.skipped(position.index) {
            self.proposal_lost(proposal);
        }
        self.counters.snapshots_installed += 1;
        let revision = self.revision();
        self.commands.push_back(ReplicaCommand::StateReplaced { revision });
        Some(InstallSnapshot { position })
    }

    fn persist(&mut self, write: Write) {
        self.persists += 1;
        let compact_to = self.compact();
        let dirty = std::mem::take(&mut self.dirty);
        self.dirty_since = None;
        let raft = self.raw.raft.hard_state();
        self.outstanding = Some(Outstanding {
            number: self.persists,
            ready: write.ready,
            messages: write.messages,
            snapshot: write.snapshot.as_ref().map(|s| s.position),
            applied: self.applied.index,
            is_log: write.snapshot.is_some() || !write.entries.is_empty(),
        });
        self.commands.push_back(ReplicaCommand::Persist(Persist {
            number: self.persists,
            snapshot: write.snapshot,
            entries: write.entries,
            changes: dirty.into_iter().map(|(key, value)| TableChange { key, value }).collect(),
            hard_state: HardState { term: raft.term, vote: raft.vote, commit: raft.commit },
            applied: self.applied.index,
            compact_to,
        }));
    }

    /// The beginning of a new node, durable before its first word.
    pub(super) fn persist_bootstrap(&mut self, base: Position) {
        let changes = self.state.take_changes();
        self.note_changes(changes);
        self.persist(Write::default());
        if let Some(ReplicaCommand::Persist(persist)) = self.commands.back_mut() {
            persist.compact_to = Some(base);
        }
    }

    pub(super) fn persisted(&mut self, done: Outstanding) {
        if let Some(number) = done.ready {
            self.raw.on_persist_ready(number);
        }
        if let Some(position) = done.snapshot {
            self.raw.advance_apply_to(position.index);
        }
        self.applied_durable = done.applied;
        self.send(done.messages);
    }

    pub(super) fn note_changes(&mut self, changes: Vec<TableChange>) {
        if !changes.is_empty() {
            self.dirty_since.get_or_insert(self.tick);
            self.changed = self.applied.index;
        }
        self.dirty.extend(changes.into_iter().map(|change| (change.key, change.value)));
    }

    /// Nothing else is to be written: applied effects may be due.
    fn flush(&mut self) {
        let waited = self.dirty_since.is_some_and(|since| since + FLUSH_TICKS <= self.tick);
        if waited || self.dirty.len() >= FLUSH_CHANGES {
            self.persist(Write::default());
        }
    }

    /// Drops the oldest part of a log that grew too long, never what is not applied. The tail
    /// stays for followers that are a little behind.
    fn compact(&mut self) -> Option<Position> {
        let log = self.raw.store();
        let (limits, last) = (self.limits, log.last().index);
        let target = if log.bytes() > limits.log_bytes_max {
            log.before_the_last(limits.log_bytes_max / 2)
        } else if log.len() > limits.log_entries_max {
            last.saturating_sub(limits.log_entries_kept as u64)
        } else {
            return None;
        };
        let target = target.min(self.applied.index).min(self.needed_by_snapshots());
        self.raw.mut_store().compact(target)
    }

    pub(super) fn send(&mut self, messages: Vec<Message>) {
        for message in without_repeated(messages) {
            let to = NodeId(message.to);
            let snapshot =
                message.snapshot.as_ref().and_then(|snapshot| snapshot.metadata.as_ref());
            let at =
                snapshot.map(|metadata| Position { index: metadata.index, term: metadata.term });
            let bytes = Bytes::from(message.encode_to_vec());
            let command = match at {
                Some(at) => self.send_snapshot(to, at, bytes),
                None => ReplicaCommand::Send { to, message: bytes },
            };
            self.commands.push_back(command);
        }
    }

    /// Tells the shell, and lets go of what only a leader has, when term, role or leader changed.
    pub(super) fn note_role(&mut self) {
        let raft = &self.raw.raft;
        let now = (self.leader(), raft.term, role(raft.state));
        if now == self.said {
            return;
        }
        let (_, term, before) = self.said;
        self.said = now;
        let (leader, now_term, now_role) = now;
        if before == Role::Leader && (now_role != Role::Leader || now_term != term) {
            let give_up = self.tick + u64::from(self.config.election_ticks.1);
            self.proposals.leadership_lost(give_up);
            self.drop_queued();
            self.snapshots.clear();
        }
        self.commands.push_back(ReplicaCommand::Role { leader, term: now_term, role: now_role });
        if now_role == Role::Leader && (before != Role::Leader || now_term != term) {
            self.elected();
        }
    }

    fn elected(&mut self) {
        self.counters.elected += 1;
        self.snapshot_asked_until = 0;
        // Log time goes on after everything in the log, applied or not.
        self.stamped_ms = self.newest_stamp().max(self.state.log_time_ms());
        self.level_due = self.tick + u64::from(self.config.election_ticks.1);
        // What follows may be there already, unapplied: the second is rejected.
        if self.state.feature_level() == 0 {
            self.propose_later(Kind::SetFeatureLevel(self.config.levels.1));
        }
        if self.state.members().next().is_none() && !self.config.members.is_empty() {
            // A cluster that began anew may have fewer than a configuration names: the others are
            // free to join, not removed.
            let conf = self.state.conf();
            let mut members = self.config.members.clone();
            members.retain(|member| conf.contains(member.node_id));
            self.propose_later(Kind::FoundMembers(FoundMembers { members }));
        }
        if self.state.cluster_id().is_empty() {
            let digest = Sha256::digest(self.config.incarnation.as_bytes());
            let hex = |bytes: &[u8]| bytes.iter().map(|b| format!("{b:02x}")).collect::<String>();
            let id = hex(digest.get(..16).unwrap_or_default());
            self.propose_later(Kind::InitCluster(id));
        }
    }

    pub(super) fn propose_later(&mut self, kind: Kind) {
        let command = Command {
            request_id: String::new(),
            principal: format!("control/{}", self.config.id),
            kind: Some(kind),
        };
        self.queue.push(None, command);
    }

    /// Hands raft what was queued, in one message.
    fn propose_queued(&mut self) {
        if self.queue.len() == 0 {
            return;
        }
        if self.raw.raft.state != StateRole::Leader {
            return self.drop_queued();
        }
        if self.raw.raft.lead_transferee.is_some() {
            return; // Raft would drop them. They go on when the transfer fails.
        }
        let node = self.config.id.0;
        let mut at =
            Position { index: self.raw.raft.raft_log.last_index(), term: self.raw.raft.term };
        let deadline = self.tick + self.patience();
        let (mut names, mut message) = (Vec::new(), Message::default());
        for (name, command) in self.queue.take() {
            self.stamped_ms = self.stamped_ms.saturating_add(1).max(self.wall_ms);
            let proposal = name.unwrap_or(0);
            message.entries.push(proposals::entry(self.stamped_ms, node, proposal, command));
            names.push(name);
        }
        message.set_msg_type(MessageType::MsgPropose);
        message.from = node;
        let refused = self.raw.raft.step(message).is_err();
        for name in names {
            at.index += 1;
            let lost = match name {
                Some(proposal) if refused => Some(proposal),
                Some(proposal) => self.proposals.insert(at, proposal, deadline),
                None => None,
            };
            if let Some(lost) = lost {
                self.proposal_lost(lost);
            }
        }
    }

    /// Leadership ended before raft saw them.
    fn drop_queued(&mut self) {
        for (name, _) in self.queue.take() {
            if let Some(proposal) = name {
                self.proposal_lost(proposal);
            }
        }
    }

    /// Expiries happen also when nobody writes.
    pub(super) fn advance_clock(&mut self) {
        let due = self.state.next_expiry_ms().is_some_and(|due| due <= self.wall_ms);
        if due && self.raw.raft.state == StateRole::Leader && self.tick >= self.clock_due {
            self.clock_due = self.tick + u64::from(self.config.election_ticks.1);
            self.propose_later(Kind::AdvanceClock(AdvanceClock {}));
        }
    }

    fn begin_reads(&mut self) {
        let (id, conf) = (self.config.id.0, self.raw.store().conf_state());
        let voters: BTreeSet<u64> =
            conf.voters.iter().chain(&conf.voters_outgoing).copied().collect();
        let own = voters.contains(&id).then(|| (id, self.log_end()));
        if let Some(round) = self.reads.begin(own, self.tick) {
            for to in voters {
                self.ask(to, round);
            }
            self.reads_go_on();
        }
    }
}
