//! The connections to the other members: raft messages on one stream to each, and the two unary
//! calls a follower makes of its leader.
//!
//! Raft repeats what is lost, so messages wait in a bounded queue that drops the oldest, and
//! nothing waits for a peer that is not connected. Each peer is dialed by the DNS name of its
//! node: another node's certificate does not do.

mod outbox;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::id::NodeId;
use proto::raft::peer_client::PeerClient;
use proto::raft::{Command, ProposeRequest, ProposeResponse, RaftAck, RaftFrame, ReadIndexRequest};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status, Streaming};

pub use outbox::{Outbox, Outboxes};

use crate::config::Member;
use crate::driver::Driver;
use crate::problem::Problem;
use crate::telemetry;
use crate::tls::Credentials;

/// Reconnect after this much, doubled up to the other, each time ± a half.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two tries: a leader must be heard again within an election.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A refusal by the peer (wrong data directory, not a member) needs a person: try rarely.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);
/// How long to wait for a TCP and TLS connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings: a dead peer is noticed after interval and timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a ping may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// Whom raft messages come from.
#[derive(Debug, Clone)]
pub struct Sender {
    /// This node.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: String,
}

/// Clients of all other members.
#[derive(Clone)]
pub struct Peers(Arc<BTreeMap<NodeId, Channel>>);

impl Peers {
    /// Prepares connections; they are made when first used.
    pub fn new<'a>(
        members: impl Iterator<Item = &'a Member>,
        credentials: &Credentials,
    ) -> Result<Self, Problem> {
        let channels = members.map(|member| {
            let name = format!("{}.control.voxmesh", member.id);
            let channel = endpoint(&member.address, &name, credentials)?;
            Ok((member.id, channel.connect_lazy()))
        });
        Ok(Self(Arc::new(channels.collect::<Result<_, Problem>>()?)))
    }

    /// Hands a command to the leader.
    pub async fn propose(
        &self,
        leader: NodeId,
        command: Command,
        patience: Duration,
    ) -> Result<ProposeResponse, Status> {
        let mut request = Request::new(ProposeRequest { command: Some(command) });
        request.set_timeout(patience);
        let mut client = PeerClient::new(self.channel(leader)?);
        within(patience, client.propose(request)).await.map(tonic::Response::into_inner)
    }

    /// Asks the leader which index a read must wait for.
    pub async fn read_index(&self, leader: NodeId, patience: Duration) -> Result<u64, Status> {
        let mut request = Request::new(ReadIndexRequest {});
        request.set_timeout(patience);
        let mut client = PeerClient::new(self.channel(leader)?);
        within(patience, client.read_index(request)).await.map(|answer| answer.into_inner().index)
    }

    fn channel(&self, node: NodeId) -> Result<Channel, Status> {
        let channel = self.0.get(&node).cloned();
        channel.ok_or_else(|| Status::unavailable(format!("node {node} is not a member here")))
    }

    /// Keeps a stream of raft messages to each member, for ever.
    pub fn run(&self, sender: &Sender, outboxes: &Outboxes, driver: &Driver) {
        for (&to, channel) in self.0.iter() {
            let Some(outbox) = outboxes.to(to) else { continue };
            let link = Link {
                to,
                channel: channel.clone(),
                sender: sender.clone(),
                outbox,
                driver: driver.clone(),
            };
            tokio::spawn(link.run());
        }
    }
}

/// How to reach a control node.
pub fn endpoint(address: &str, name: &str, tls: &Credentials) -> Result<Endpoint, Problem> {
    let unusable = |error: tonic::transport::Error| {
        let fix = "write host:port and the mesh's certificates";
        Problem::new(address, format!("cannot be dialed ({error})"), fix)
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(unusable)?;
    Ok(endpoint
        .tls_config(tls.client_config(name))
        .map_err(unusable)?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true))
}

async fn within<T>(
    patience: Duration,
    call: impl Future<Output = Result<T, Status>>,
) -> Result<T, Status> {
    match tokio::time::timeout(patience, call).await {
        Ok(answer) => answer,
        Err(_) => Err(Status::deadline_exceeded("the leader did not answer in time")),
    }
}

/// The stream to one member.
struct Link {
    to: NodeId,
    channel: Channel,
    sender: Sender,
    outbox: Arc<Outbox>,
    driver: Driver,
}

impl Link {
    async fn run(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let (began, status) = self.stream().await;
            if status.code() == tonic::Code::FailedPrecondition {
                tracing::error!(to = %self.to, "member refuses this node: {}", status.message());
                backoff = BACKOFF_REFUSED;
            } else if began {
                tracing::info!(to = %self.to, reason = status.message(), "stream to a member ended");
                backoff = BACKOFF_MIN;
            } else {
                tracing::debug!(to = %self.to, %status, "no stream to a member");
                backoff = backoff.saturating_mul(2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            }
            if self.driver.unreachable(self.to).await.is_err() {
                return; // This node is stopping.
            }
            tokio::time::sleep(jittered(backoff)).await;
        }
    }

    /// Until the stream ends: whether it ever began, and why it ended.
    async fn stream(&self) -> (bool, Status) {
        let (frames, receiver) = mpsc::channel::<RaftFrame>(8);
        let mut client = PeerClient::new(self.channel.clone());
        let acks = match client.stream(ReceiverStream::new(receiver)).await {
            Ok(acks) => acks.into_inner(),
            Err(status) => return (false, status),
        };
        tracing::info!(to = %self.to, "stream to a member begins");
        let _open = self.outbox.open();
        tokio::select! {
            () = self.pump(frames) => (true, Status::unavailable("the connection broke")),
            status = ended(acks) => (true, status),
        }
    }

    async fn pump(&self, frames: mpsc::Sender<RaftFrame>) {
        loop {
            let frame = RaftFrame {
                from: self.sender.node.0,
                to: self.to.0,
                incarnation: self.sender.incarnation.clone(),
                message: self.outbox.next().await.into(),
            };
            if frames.send(frame).await.is_err() {
                return;
            }
            telemetry::frame_sent();
        }
    }
}

/// Waits for the end of a stream and says why.
async fn ended(mut acks: Streaming<RaftAck>) -> Status {
    loop {
        match acks.message().await {
            Ok(Some(RaftAck {})) => {}
            Ok(None) => return Status::unavailable("the member ended it"),
            Err(status) => return status,
        }
    }
}

/// Half to one and a half of it, so that nodes that lost each other at once do not meet in step.
pub fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0u8) % 1_000;
    pause.mul_f64(0.5 + random as f64 / 1_000.0)
}
