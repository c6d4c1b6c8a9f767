//! Tables for members that are behind the log, and tables that came from a leader.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use control_core::replica::Position;
use proto::id::NodeId;
use tokio::sync::mpsc;

use super::{Loop, PeerInput};
use crate::snapshot::courier::Shipment;
use crate::snapshot::inbox::Arrival;
use crate::telemetry::{self, PeerDrop};
use crate::wal::spool::{self, Spool};
use crate::wal::{Health, Tables, WalError};

/// Tables that go to nobody are kept so long: the next one who is behind may take them.
const KEEP: Duration = Duration::from_secs(60);

/// What is under way.
pub(super) struct Snapshots {
    own: mpsc::Sender<PeerInput>,
    /// Wanted from this index on.
    wanted: Option<u64>,
    making: bool,
    /// The disk is too full for them.
    no_room: bool,
    spool: Option<(Arc<Spool>, Instant)>,
    /// To whom tables go.
    shipped: BTreeSet<NodeId>,
}

impl Snapshots {
    /// Nothing is. `own`: the driver's own queue.
    pub(super) fn new(own: mpsc::Sender<PeerInput>) -> Self {
        let (making, no_room) = (false, false);
        Self { own, wanted: None, making, no_room, spool: None, shipped: BTreeSet::new() }
    }
}

impl Loop {
    /// What is there already does, when the log goes on from there: a member that was being sent
    /// it goes on where it is.
    pub(super) fn want_snapshot(&mut self, at_least: u64) {
        self.snapshots.wanted = Some(at_least);
        let there = self.snapshots.spool.as_ref().map(|(spool, _)| spool.clone());
        if let Some(spool) = there.filter(|spool| spool.at.index >= at_least) {
            self.snapshots.wanted = None;
            self.replica.handle_snapshot_taken(spool.at, &spool.headline.conf);
        }
        self.wal.catch_up(at_least);
    }

    /// Writes the file on a thread of its own, once the tables on disk are far enough.
    pub(super) fn make_snapshot(&mut self) {
        let Some(at_least) = self.snapshots.wanted else { return };
        if self.snapshots.making || self.wal.tables().applied() < at_least {
            return;
        }
        let (tables, health) = (self.wal.tables(), self.wal.health());
        if !self.has_room(&tables, &health) {
            return;
        }
        let own = self.snapshots.own.clone();
        let make = move || {
            let made = Spool::make(&tables, &health);
            // Fails when this node is stopping.
            let _ = own.blocking_send(PeerInput::SnapshotTaken(made));
        };
        match std::thread::Builder::new().name("spool".into()).spawn(make) {
            Ok(_) => self.snapshots.making = true,
            Err(error) => tracing::error!(%error, "no thread to write tables for a member"),
        }
    }

    /// While the disk is low nothing is begun; looked at again at each tick.
    fn has_room(&mut self, tables: &Tables, health: &Health) -> bool {
        let room = health.check_room(&spool::outgoing(health.dir()), tables.bytes());
        let was = std::mem::replace(&mut self.snapshots.no_room, room.is_err());
        if let Err(error) = &room
            && !was
        {
            tracing::warn!(%error, "a member is behind the log and gets no tables yet");
        }
        room.is_ok()
    }

    pub(super) fn snapshot_made(&mut self, made: Result<Spool, WalError>) {
        self.snapshots.making = false;
        match made {
            Ok(spool) => {
                self.snapshots.wanted = None;
                self.replica.handle_snapshot_taken(spool.at, &spool.headline.conf);
                self.snapshots.spool = Some((Arc::new(spool), Instant::now()));
            }
            // Raft asks again.
            Err(error) => {
                self.snapshots.wanted = None;
                tracing::error!(%error, "tables for a member that is behind cannot be written");
            }
        }
    }

    pub(super) fn ship_snapshot(&mut self, to: NodeId, at: Position, message: Bytes) {
        let spool = self.snapshots.spool.as_ref().map(|(spool, _)| spool.clone());
        let shipped = spool
            .filter(|spool| spool.at == at)
            .is_some_and(|spool| self.outboxes.ship(to, Shipment { spool, message }));
        if shipped {
            self.snapshots.shipped.insert(to);
        } else {
            self.replica.handle_snapshot_failed(to);
        }
    }

    pub(super) fn snapshot_came(&mut self, from: NodeId, arrival: Arrival) {
        let Arrival { at, message, file, state } = arrival;
        match self.replica.handle_snapshot(from, &message, at, state) {
            Ok(true) => return self.wal.stage(at, file),
            Ok(false) => {}
            Err(error) => {
                telemetry::frame_dropped(PeerDrop::Misbehaved);
                tracing::warn!(%from, %error, "a snapshot was refused");
            }
        }
        // Nothing asks for it. What stays is removed at the next start.
        let _ = std::fs::remove_file(file);
    }

    /// Ends what nobody needs.
    pub(super) fn look_after_snapshots(&mut self, now: Instant) {
        let (replica, outboxes) = (&self.replica, &self.outboxes);
        self.snapshots.shipped.retain(|to| {
            let goes = replica.sends_snapshot_to(*to);
            if !goes {
                outboxes.recall(*to);
            }
            goes
        });
        if let Some((spool, used)) = &mut self.snapshots.spool {
            if Arc::strong_count(spool) > 1 {
                *used = now;
            } else if now.saturating_duration_since(*used) > KEEP {
                self.snapshots.spool = None;
            }
        }
    }
}
