//! How the rest of the process talks to the driver's thread.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use control_core::access::Policy;
use control_core::replica::{Position, ProposeError, ReadError, Replica, TransferError};
use proto::control::{ClusterMember, ResponseHeader};
use proto::id::{NodeId, Revision};
use proto::raft::{Command, RecordPops};
use tokio::sync::{mpsc, oneshot, watch};

use super::answers::Delivery;
use super::{ApiInput, Members, PeerInput, Proposed, Unread};
use crate::snapshot::inbox::Arrival;
use crate::wal::spool::Spool;
use crate::wal::{Health, Tables, WalError};

/// The driver ended: this process is about to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this node is stopping")]
pub struct Stopped;

/// Where the replica stands, for readers that wait.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Progress {
    /// This node.
    pub node: NodeId,
    /// Applied log index.
    pub applied: u64,
    /// Revision of the state.
    pub revision: Revision,
    /// Log time of the state.
    pub log_time_ms: u64,
    /// Raft term.
    pub term: u64,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Leads itself.
    pub leads: bool,
    /// Empty until the cluster has one.
    pub cluster_id: Arc<str>,
    /// Roles and bindings.
    pub policy: Arc<Policy>,
    /// When the loop last turned; old when the disk hangs.
    pub turned: Instant,
}

impl Progress {
    /// Of this replica, now.
    pub(crate) fn of(replica: &Replica) -> Self {
        let state = replica.state();
        Self {
            node: replica.id(),
            applied: replica.applied(),
            revision: state.revision(),
            log_time_ms: state.log_time_ms(),
            term: replica.term(),
            leader: replica.leader(),
            leads: replica.leads(),
            cluster_id: state.cluster_id().into(),
            policy: state.policy().clone(),
            turned: Instant::now(),
        }
    }

    /// Brings it up to date; whether anything but the time of the turn changed.
    pub(super) fn update(&mut self, replica: &Replica) -> bool {
        let new = Self::of(replica);
        let changed = Self { turned: self.turned, ..new.clone() } != *self;
        *self = new;
        changed
    }

    /// For answers of the API.
    pub fn header(&self) -> ResponseHeader {
        ResponseHeader {
            cluster_id: self.cluster_id.to_string(),
            revision: self.revision.0,
            term: self.term,
            node_id: self.node.0,
            log_time_ms: self.log_time_ms,
        }
    }
}

/// The same, right from the replica: for each answer.
pub(crate) fn header(replica: &Replica) -> ResponseHeader {
    let state = replica.state();
    ResponseHeader {
        cluster_id: state.cluster_id(),
        revision: state.revision().0,
        term: replica.term(),
        node_id: replica.id().0,
        log_time_ms: state.log_time_ms(),
    }
}

/// The leader and its term.
pub type Led = (Option<NodeId>, u64);

/// A handle to the driver's thread.
#[derive(Clone)]
pub struct Driver {
    api: mpsc::Sender<ApiInput>,
    peer: mpsc::Sender<PeerInput>,
    stop: Arc<watch::Sender<bool>>,
    shared: Shared,
}

/// What can be seen without the driver's turn.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) led: watch::Receiver<Led>,
    pub(super) stalled: watch::Receiver<bool>,
    pub(super) log_end: Arc<Mutex<Position>>,
    pub(super) members: watch::Receiver<Members>,
    pub(super) levels: (u32, u32),
    pub(super) tables: Tables,
    pub(super) health: Arc<Health>,
}

impl Driver {
    pub(super) fn new(
        api: mpsc::Sender<ApiInput>,
        peer: mpsc::Sender<PeerInput>,
        stop: watch::Sender<bool>,
        shared: Shared,
    ) -> Self {
        Self { api, peer, stop: Arc::new(stop), shared }
    }

    /// Proposes a command on this node and waits for what it comes to.
    pub async fn propose(&self, command: Command) -> Result<Proposed, Stopped> {
        let (reply, answer) = oneshot::channel();
        match self.api.try_send(ApiInput::Propose(Box::new(command), reply)) {
            Ok(()) => answer.await.map_err(|_| Stopped),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Ok(Proposed::Refused(ProposeError::Overloaded))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Stopped),
        }
    }

    /// Looks, on the driver's thread, when the state holds everything acknowledged before the
    /// call; or gives `look` back. Be quick.
    pub async fn read<T: Send + 'static, F>(
        &self,
        look: F,
    ) -> Result<Result<T, (Unread, F)>, Stopped>
    where
        F: FnOnce(&Replica) -> T + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let reader = Box::new(move |ready: Result<&Replica, Unread>| -> Delivery {
            // The caller may have left: then nobody needs the work.
            if reply.is_closed() {
                return Box::new(|| ());
            }
            let found = match ready {
                Ok(replica) => Ok(look(replica)),
                Err(why) => Err((why, look)),
            };
            Box::new(move || drop(reply.send(found)))
        });
        if let Err(mpsc::error::TrySendError::Full(ApiInput::Read(reader))) =
            self.api.try_send(ApiInput::Read(reader))
        {
            reader(Err(Unread::Refused(ReadError::Overloaded)))();
        }
        answer.await.map_err(|_| Stopped)
    }

    /// Begins to hand leadership to `to`, or to the best voter: which one.
    pub async fn transfer_leader(
        &self,
        to: Option<NodeId>,
    ) -> Result<Result<NodeId, TransferError>, Stopped> {
        let (reply, answer) = oneshot::channel();
        self.api.send(ApiInput::Transfer(to, reply)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Proposes what a leader found of the POPs.
    pub async fn record_pops(&self, record: RecordPops) -> Result<(), Stopped> {
        self.api.send(ApiInput::RecordPops(record)).await.map_err(|_| Stopped)
    }

    /// Looks at the replica, on the driver's thread: be quick.
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |replica: &Replica| -> Delivery {
            // The caller may have left: then nobody needs the work.
            if reply.is_closed() {
                return Box::new(|| ());
            }
            let found = look(replica);
            Box::new(move || drop(reply.send(found)))
        });
        self.api.send(ApiInput::Query(query)).await.map_err(|_| Stopped)?;
        answer.await.map_err(|_| Stopped)
    }

    /// Hands over a raft message; waits while too many do.
    pub async fn peer_message(&self, from: NodeId, message: Bytes) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Message(from, message)).await.map_err(|_| Stopped)
    }

    /// Has the data directory of another node remembered.
    pub async fn remember_incarnation(&self, node: NodeId, it: String) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Remember(node, it)).await.map_err(|_| Stopped)
    }

    /// A node told its clock.
    pub async fn clock_of(&self, node: NodeId, wall_ms: u64) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Clock(node, wall_ms)).await.map_err(|_| Stopped)
    }

    /// Who the members are, until the state says so.
    pub async fn introduce(&self, members: Vec<ClusterMember>) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Introduce(members)).await.map_err(|_| Stopped)
    }

    /// A node told which feature levels it knows.
    pub async fn levels_of(&self, node: NodeId, levels: (u32, u32)) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Levels(node, levels)).await.map_err(|_| Stopped)
    }

    /// A node told where its log ends.
    pub async fn log_end_of(&self, it: NodeId, round: u64, end: Position) -> Result<(), Stopped> {
        self.peer.send(PeerInput::LogEnd(it, round, end)).await.map_err(|_| Stopped)
    }

    /// A node sent a whole snapshot.
    pub async fn snapshot(&self, from: NodeId, arrival: Arrival) -> Result<(), Stopped> {
        let input = PeerInput::Snapshot(from, Box::new(arrival));
        self.peer.send(input).await.map_err(|_| Stopped)
    }

    /// A node got more of the tables that go to it. May be lost.
    pub fn snapshot_progress(&self, to: NodeId) {
        // A full queue means that the driver has other things to do, and more will follow.
        let _ = self.peer.try_send(PeerInput::SnapshotProgress(to));
    }

    /// Tables as one file, as they are on disk now.
    pub async fn spool(&self) -> Result<Result<Arc<Spool>, WalError>, Stopped> {
        let (tables, health) = (self.shared.tables.clone(), self.shared.health.clone());
        let made = tokio::task::spawn_blocking(move || Spool::make(&tables, &health)).await;
        Ok(made.map_err(|_| Stopped)?.map(Arc::new))
    }

    /// Log index of the tables on disk.
    pub fn tables_at(&self) -> u64 {
        self.shared.tables.applied()
    }

    /// Waits until the tables on disk stand at this index at least; they are brought there.
    pub async fn tables_reach(&self, index: u64) -> Result<(), Stopped> {
        let mut at = self.shared.tables.follow();
        if *at.borrow() < index {
            self.api.send(ApiInput::CatchUp(index)).await.map_err(|_| Stopped)?;
        }
        at.wait_for(|at| *at >= index).await.map(|_| ()).map_err(|_| Stopped)
    }

    /// The process of a node has ended.
    pub async fn peer_gone(&self, node: NodeId) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Gone(node)).await.map_err(|_| Stopped)
    }

    /// The connection to a node broke.
    pub async fn unreachable(&self, node: NodeId) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Unreachable(node)).await.map_err(|_| Stopped)
    }

    /// Where the replica stands, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.shared.progress.clone()
    }

    /// Who leads: changes seldom, so that each write under way can wait for it.
    pub fn led(&self) -> watch::Receiver<Led> {
        self.shared.led.clone()
    }

    /// All that are or were members.
    pub fn members(&self) -> watch::Receiver<Members> {
        self.shared.members.clone()
    }

    /// Feature levels this node may know.
    pub fn levels(&self) -> (u32, u32) {
        self.shared.levels
    }

    /// Where this node's log ends: at least at what it acknowledged to the leader.
    pub fn log_end(&self) -> Position {
        *self.shared.log_end.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a write has been under way for longer than an election takes.
    pub fn stalled(&self) -> watch::Receiver<bool> {
        self.shared.stalled.clone()
    }

    /// Ends the loop; what is written is made durable.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
