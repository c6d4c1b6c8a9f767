//! How the rest of the process talks to the driver's thread.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use control_core::access::Policy;
use control_core::replica::{ProposeError, ReadError, Replica, Role};
use proto::control::ResponseHeader;
use proto::id::{NodeId, Revision};
use proto::raft::Command;
use tokio::sync::{mpsc, oneshot, watch};

use super::{ApiInput, PeerInput, Proposed, ReadIndex};

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
        let (status, state) = (replica.status(), replica.state());
        Self {
            node: status.id,
            applied: replica.applied(),
            revision: state.revision(),
            log_time_ms: state.log_time_ms(),
            term: status.term,
            leader: status.leader,
            leads: status.role == Role::Leader,
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

/// A handle to the driver's thread.
#[derive(Clone)]
pub struct Driver {
    api: mpsc::Sender<ApiInput>,
    peer: mpsc::Sender<PeerInput>,
    progress: watch::Receiver<Progress>,
    stop: Arc<watch::Sender<bool>>,
}

impl Driver {
    pub(super) fn new(
        api: mpsc::Sender<ApiInput>,
        peer: mpsc::Sender<PeerInput>,
        progress: watch::Receiver<Progress>,
        stop: watch::Sender<bool>,
    ) -> Self {
        Self { api, peer, progress, stop: Arc::new(stop) }
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

    /// Asks this node, as the leader, for the index a read must wait for.
    pub async fn read_index(&self) -> Result<ReadIndex, Stopped> {
        let (reply, answer) = oneshot::channel();
        match self.api.try_send(ApiInput::ReadIndex(reply)) {
            Ok(()) => answer.await.map_err(|_| Stopped),
            Err(mpsc::error::TrySendError::Full(_)) => {
                Ok(ReadIndex::Refused(ReadError::Overloaded))
            }
            Err(mpsc::error::TrySendError::Closed(_)) => Err(Stopped),
        }
    }

    /// Looks at the replica, on the driver's thread: be quick.
    pub async fn query<T: Send + 'static>(
        &self,
        look: impl FnOnce(&Replica) -> T + Send + 'static,
    ) -> Result<T, Stopped> {
        let (reply, answer) = oneshot::channel();
        let query = Box::new(move |replica: &Replica| {
            // The caller may have left: then nobody needs the work.
            if !reply.is_closed() {
                let _ = reply.send(look(replica));
            }
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

    /// The connection to a node broke.
    pub async fn unreachable(&self, node: NodeId) -> Result<(), Stopped> {
        self.peer.send(PeerInput::Unreachable(node)).await.map_err(|_| Stopped)
    }

    /// Where the replica stands, now and from now on.
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Ends the loop; what is written is made durable.
    pub fn stop(&self) {
        self.stop.send_replace(true);
    }
}
