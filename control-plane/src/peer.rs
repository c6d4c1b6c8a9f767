//! The connections to the other members: raft messages on one stream to each, and commands a
//! follower hands to its leader.
//!
//! Raft repeats what is lost, so messages wait in a bounded queue that drops the oldest, and
//! nothing waits for a peer that is not connected. Each peer is dialed by the DNS name of its
//! node: another node's certificate does not do.

mod link;
mod outbox;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proto::id::NodeId;
use proto::raft::peer_client::PeerClient;
use proto::raft::{Command, ProposeRequest, ProposeResponse};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub use outbox::{Outbox, Outboxes, Parcel};

use link::Link;

use crate::config::Member;
use crate::driver::Driver;
use crate::pace::Pace;
use crate::problem::Problem;
use crate::tls::Credentials;

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
pub struct Peers(Arc<BTreeMap<NodeId, (String, Channel)>>);

impl Peers {
    /// Prepares connections; they are made when first used.
    pub fn new<'a>(
        members: impl Iterator<Item = &'a Member>,
        credentials: &Credentials,
    ) -> Result<Self, Problem> {
        let channels = members.map(|member| {
            let name = format!("{}.control.voxmesh", member.id);
            let channel = endpoint(&member.address, &name, credentials)?.connect_lazy();
            Ok((member.id, (member.address.clone(), channel)))
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

    fn channel(&self, node: NodeId) -> Result<Channel, Status> {
        let channel = self.0.get(&node).map(|(_, channel)| channel.clone());
        channel.ok_or_else(|| Status::unavailable(format!("node {node} is not a member here")))
    }

    /// Keeps a stream of raft messages to each member, for ever.
    pub fn run(&self, sender: &Sender, outboxes: &Outboxes, driver: &Driver, pace: &Pace) {
        for (&to, (address, channel)) in self.0.iter() {
            let link = Link {
                to,
                address: address.clone(),
                channel: channel.clone(),
                sender: sender.clone(),
                outbox: outboxes.to(to),
                driver: driver.clone(),
                pace: pace.clone(),
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

/// Half to one and a half of it, so that nodes that lost each other at once do not meet in step.
pub fn jittered(pause: Duration) -> Duration {
    use std::hash::{BuildHasher, RandomState};
    let random = RandomState::new().hash_one(0u8) % 1_000;
    pause.mul_f64(0.5 + random as f64 / 1_000.0)
}
