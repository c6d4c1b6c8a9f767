//! Members that are behind the log get all tables. Those travel on a way of the shell's own, in
//! pieces and resumable; raft only hears where they stand and who took part there.
//!
//! While tables are on their way, the log that follows them stays, as long as its bytes allow: else
//! a slow member would need the next ones when these have come.

use bytes::Bytes;
use proto::id::NodeId;
use raft::prelude::{Message, MessageType, Snapshot, SnapshotMetadata};
use raft::{ProgressState, SnapshotStatus, StateRole};

use super::api::{Position, ReplicaCommand};
use super::{PeerMisbehaved, Replica, members};
use crate::state::{Conf, State};

/// A snapshot is given up when it made no progress for so many times the patience of a client.
const PATIENCES: u64 = 4;
/// The log grows to so many times its usual length for members that take long.
const LOG_TIMES: usize = 4;

impl Replica {
    /// The tables of this position stand ready to be sent; `conf`: who took part there. The answer
    /// to [`ReplicaCommand::SnapshotWanted`].
    pub fn handle_snapshot_taken(&mut self, at: Position, conf: &Conf) {
        if self.halted || !self.raw.store().snapshot_wanted() {
            return;
        }
        let behind = at.index < self.snapshot_floor();
        if behind || at.index > self.applied.index || !conf.is_sound() {
            self.snapshot_asked_until = self.tick + 1; // The log went on meanwhile.
            return;
        }
        let metadata = SnapshotMetadata {
            conf_state: Some(members::to_raft(conf)),
            index: at.index,
            term: at.term,
        };
        let snapshot = Snapshot { data: Vec::new(), metadata: Some(metadata) };
        self.raw.mut_store().offer_snapshot(Some(snapshot));
        self.snapshot_asked_until = 0;
        self.snapshot_until = self.tick + self.patience();
    }

    /// `to` got more of the snapshot it is being sent.
    pub fn handle_snapshot_progress(&mut self, to: NodeId) {
        let until = self.tick + self.patience().saturating_mul(PATIENCES);
        if let Some(deadline) = self.snapshots.get_mut(&to.0) {
            *deadline = until;
        }
    }

    /// `to` does not get its snapshot: it is offered another one.
    pub fn handle_snapshot_failed(&mut self, to: NodeId) {
        if self.halted || self.snapshots.remove(&to.0).is_none() {
            return;
        }
        self.raw.report_snapshot(to.0, SnapshotStatus::Failure);
        if self.snapshots.is_empty() {
            self.raw.mut_store().offer_snapshot(None);
        }
    }

    /// Whether `to` is being sent a snapshot.
    pub fn sends_snapshot_to(&self, to: NodeId) -> bool {
        self.snapshots.contains_key(&to.0)
    }

    /// A follower is behind the log: raft sends what is offered at the next heartbeat.
    pub(super) fn offer_snapshot(&mut self) {
        let leads = self.raw.raft.state == StateRole::Leader;
        if self.raw.store().snapshot_wanted() && leads && self.snapshot_asked_until <= self.tick {
            self.snapshot_asked_until = self.tick + self.patience().saturating_mul(PATIENCES);
            let at_least = self.snapshot_floor();
            self.commands.push_back(ReplicaCommand::SnapshotWanted { at_least });
        }
    }

    /// The log goes on from here, and the members are those of now.
    fn snapshot_floor(&self) -> u64 {
        self.raw.store().base().index.max(self.members_since)
    }

    pub(super) fn send_snapshot(
        &mut self,
        to: NodeId,
        at: Position,
        message: Bytes,
    ) -> ReplicaCommand {
        self.counters.snapshots_sent += 1;
        let until = self.tick + self.patience().saturating_mul(PATIENCES);
        self.snapshots.insert(to.0, until);
        ReplicaCommand::SendSnapshot { to, at, message }
    }

    /// The log up to here is of no use to members that are being sent a snapshot.
    pub(super) fn needed_by_snapshots(&self) -> u64 {
        let log = self.raw.store();
        let too_long = log.len() > self.limits.log_entries_max.saturating_mul(LOG_TIMES);
        log.offered().filter(|_| !too_long).unwrap_or(u64::MAX)
    }

    /// Raft waits for ever for the fate of a snapshot it sent: give it one.
    pub(super) fn watch_snapshots(&mut self) {
        let progress = self.raw.raft.prs();
        let sending =
            |id: u64| progress.get(id).is_some_and(|p| p.state == ProgressState::Snapshot);
        self.snapshots.retain(|id, _| sending(*id));
        let late: Vec<u64> =
            self.snapshots.iter().filter(|(_, t)| **t <= self.tick).map(|(id, _)| *id).collect();
        for id in late {
            self.handle_snapshot_failed(NodeId(id));
        }
        if self.snapshots.is_empty()
            && self.snapshot_until <= self.tick
            && !self.raw.store().snapshot_wanted()
        {
            self.raw.mut_store().offer_snapshot(None);
        }
    }

    /// Raft must not see a snapshot that cannot be installed: it has no way back.
    pub(super) fn expect_snapshot(
        &mut self,
        message: &Message,
        state: Option<State>,
    ) -> Result<(), PeerMisbehaved> {
        let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
        let Some(state) = state else {
            return if is_snapshot { Err(PeerMisbehaved::Snapshot) } else { Ok(()) };
        };
        let metadata = message.get_snapshot().get_metadata();
        let at = Position { index: metadata.index, term: metadata.term };
        // Who votes is part of the state; raft believes what the envelope says.
        let conf = metadata.conf_state.as_ref().map(members::of_raft);
        let ours = conf == Some(state.conf()) && state.group() == self.config.group;
        if !is_snapshot || !ours {
            return Err(PeerMisbehaved::Snapshot);
        }
        self.incoming.retain(|(known, _)| *known != at);
        self.incoming.push((at, state));
        Ok(())
    }

    /// What raft did not take, or let go for a newer one.
    pub(super) fn forget_ignored_snapshots(&mut self) {
        if self.incoming.is_empty() {
            return;
        }
        let taken = self.raw.snap().map(|snapshot| {
            let metadata = snapshot.get_metadata();
            Position { index: metadata.index, term: metadata.term }
        });
        self.incoming.retain(|(at, _)| Some(*at) == taken);
    }

    /// The state of the snapshot that raft took.
    pub(super) fn take_incoming(&mut self, at: Position) -> Option<State> {
        let incoming = std::mem::take(&mut self.incoming);
        incoming.into_iter().find(|(position, _)| *position == at).map(|(_, state)| state)
    }
}
