//! Members that are behind the log get all tables. Those travel on a way of the shell's own, in
//! pieces and resumable; raft only hears where they stand and who took part there.
//!
//! While tables are on their way, and until the member has caught up from there, the log that
//! follows them stays, up to [`LOG_TIMES`] its usual length and [`BYTES_TIMES`] its bytes: else a
//! slow member would need the next ones when these have come.

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
/// And to so many times its usual bytes: they are memory, and disk.
const BYTES_TIMES: usize = 2;

/// Tables on their way to a member, and the log it needs behind them.
pub(super) struct Transfer {
    /// Where they stand.
    index: u64,
    /// Given up at this tick.
    until: u64,
    /// They are there: what is left is the log.
    there: bool,
}

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
        if let Some(transfer) = self.snapshots.get_mut(&to.0).filter(|transfer| !transfer.there) {
            transfer.until = until;
        }
    }

    /// `to` does not get its snapshot: it is offered another one.
    pub fn handle_snapshot_failed(&mut self, to: NodeId) {
        if self.halted || !self.sends_snapshot_to(to) {
            return;
        }
        self.snapshots.remove(&to.0);
        self.raw.report_snapshot(to.0, SnapshotStatus::Failure);
        if !self.sends_snapshots() {
            self.raw.mut_store().offer_snapshot(None);
        }
    }

    /// Whether `to` is being sent a snapshot.
    pub fn sends_snapshot_to(&self, to: NodeId) -> bool {
        self.snapshots.get(&to.0).is_some_and(|transfer| !transfer.there)
    }

    fn sends_snapshots(&self) -> bool {
        self.snapshots.values().any(|transfer| !transfer.there)
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
        self.snapshots.insert(to.0, Transfer { index: at.index, until, there: false });
        ReplicaCommand::SendSnapshot { to, at, message }
    }

    /// The log up to here is of no use to members that are being sent a snapshot, or were.
    pub(super) fn needed_by_snapshots(&self) -> u64 {
        let (log, limits) = (self.raw.store(), self.limits);
        let too_long = log.len() > limits.log_entries_max.saturating_mul(LOG_TIMES)
            || log.bytes() > limits.log_bytes_max.saturating_mul(BYTES_TIMES);
        if too_long {
            return u64::MAX;
        }
        let progress = self.raw.raft.prs();
        let needs = |(id, transfer): (&u64, &Transfer)| {
            let matched = progress.get(*id).map_or(0, |progress| progress.matched);
            transfer.index.max(if transfer.there { matched } else { 0 })
        };
        self.snapshots.iter().map(needs).chain(log.offered()).min().unwrap_or(u64::MAX)
    }

    /// Raft waits for ever for the fate of a snapshot it sent: give it one.
    pub(super) fn watch_snapshots(&mut self) {
        self.follow_transfers();
        let late = |transfer: &Transfer| !transfer.there && transfer.until <= self.tick;
        let late: Vec<u64> =
            self.snapshots.iter().filter(|(_, t)| late(t)).map(|(id, _)| *id).collect();
        for id in late {
            self.handle_snapshot_failed(NodeId(id));
        }
        if !self.sends_snapshots()
            && self.snapshot_until <= self.tick
            && !self.raw.store().snapshot_wanted()
        {
            self.raw.mut_store().offer_snapshot(None);
        }
    }

    /// Tables that are there, members that have caught up from them, and those that take too long.
    fn follow_transfers(&mut self) {
        let (progress, tick) = (self.raw.raft.prs(), self.tick);
        let last = self.raw.store().last().index;
        let until = tick + self.patience().saturating_mul(PATIENCES);
        self.snapshots.retain(|id, transfer| {
            let Some(progress) = progress.get(*id) else { return false };
            if progress.state == ProgressState::Snapshot {
                return true;
            }
            if !transfer.there && progress.matched >= transfer.index {
                (transfer.there, transfer.until) = (true, until);
            }
            transfer.there && transfer.until > tick && progress.matched < last
        });
    }

    /// Raft must not see a snapshot that cannot be installed: it has no way back.
    pub(super) fn expect_snapshot(
        &mut self,
        message: &Message,
        tables: Option<(Position, State)>,
    ) -> Result<(), PeerMisbehaved> {
        let is_snapshot = message.msg_type == MessageType::MsgSnapshot as i32;
        let Some((at, state)) = tables else {
            return if is_snapshot { Err(PeerMisbehaved::Snapshot) } else { Ok(()) };
        };
        let metadata = message.get_snapshot().get_metadata();
        let announced = Position { index: metadata.index, term: metadata.term };
        if is_snapshot && announced != at {
            return Err(PeerMisbehaved::OtherTables { announced, came: at });
        }
        // Who votes is part of the state; raft believes what the envelope says.
        let conf = metadata.conf_state.as_ref().map(members::of_raft);
        let ours = conf == Some(state.conf()) && state.group() == self.config.group;
        if !is_snapshot || !ours {
            return Err(PeerMisbehaved::Snapshot);
        }
        let (level, newest) = (state.feature_level(), self.config.levels.1);
        if level > newest {
            return Err(PeerMisbehaved::FeatureLevel { level, newest });
        }
        if !self.awaits_snapshot(at) {
            self.incoming.push((at, state));
        }
        Ok(())
    }

    /// Raft took a snapshot of this position, and nothing asked for its tables yet.
    pub(super) fn awaits_snapshot(&self, at: Position) -> bool {
        self.incoming.iter().any(|(known, _)| *known == at)
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
