//! The connections to the other members: raft messages on one stream to each, and commands a
//! follower hands to its leader.
//!
//! Raft repeats what is lost, so messages wait in a bounded queue that drops the oldest, and
//! nothing waits for a peer that is not connected. Each peer is dialed by the DNS name of its
//! node: another node's certificate does not do.

mod link;
mod outbox;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_core::group::GroupId;
use enroll::dial::{self, Tls};
use proto::control::{ClusterMember, MemberRole};
use proto::id::NodeId;
use proto::identity::CONTROL_DNS_NAME;
use proto::raft::peer_client::PeerClient;
use proto::raft::{Command, JoinRequest, ProposeRequest, ProposeResponse, VouchRequest};
use rustls_pki_types::ServerName;
use tokio::task::AbortHandle;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};

pub use outbox::{Outbox, Outboxes, Parcel};

use link::Link;

use crate::driver::Driver;
use crate::liveness::Liveness;
use crate::pace::Pace;
use crate::problem::Problem;
use crate::snapshot::courier::Courier;
use crate::tls::Credentials;

/// How long to wait for a TCP and TLS connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// HTTP/2 pings: a dead peer is noticed after interval and timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a ping may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);

/// A member says whether it knows another one, or does not count.
const VOUCH: Duration = Duration::from_secs(1);
/// One try to be let in.
const JOIN: Duration = Duration::from_secs(6);
/// Between two rounds of tries.
const JOIN_AGAIN: Duration = Duration::from_secs(1);

/// Whom raft messages come from.
#[derive(Debug, Clone)]
pub struct Sender {
    /// This node.
    pub node: NodeId,
    /// Of its data directory.
    pub incarnation: String,
    /// Whose log it replicates.
    pub group: GroupId,
}

/// Clients of all other members; they come and go.
#[derive(Clone)]
pub struct Peers(Arc<Shared>);

struct Shared {
    parts: Parts,
    open: Mutex<BTreeMap<NodeId, Peer>>,
}

/// What connections are made of.
pub struct Parts {
    /// This node's certificate and the authorities, of the moment.
    pub tls: Tls,
    /// This node.
    pub sender: Sender,
    /// Where the driver puts what goes out.
    pub outboxes: Outboxes,
    /// Takes what comes in.
    pub driver: Driver,
    /// Learns of round trips.
    pub pace: Pace,
    /// Asks the others which POPs they hear.
    pub liveness: Arc<Liveness>,
}

struct Peer {
    address: String,
    channel: Channel,
    link: AbortHandle,
    courier: AbortHandle,
}

impl Peers {
    /// Connected to the members from now on.
    pub fn start(parts: Parts) -> Self {
        let peers = Self(Arc::new(Shared { parts, open: Mutex::default() }));
        tokio::spawn(peers.clone().follow());
        peers
    }

    /// Keeps a stream of raft messages to each member, whoever they are, until this node stops.
    async fn follow(self) {
        let mut members = self.0.parts.driver.members();
        loop {
            let now = members.borrow_and_update().clone();
            self.connect(&now);
            if members.changed().await.is_err() {
                return;
            }
        }
    }

    fn connect(&self, members: &[ClusterMember]) {
        let Parts { sender, outboxes, pace, .. } = &self.0.parts;
        let wanted: BTreeMap<NodeId, &ClusterMember> = members
            .iter()
            .filter(|m| m.role() != MemberRole::Removed && m.node_id != sender.node.0)
            .map(|member| (NodeId(member.node_id), member))
            .collect();
        let mut open = self.lock();
        open.retain(|id, peer| {
            let stays = wanted.get(id).is_some_and(|member| member.address == peer.address);
            if !stays {
                tracing::info!(to = %id, address = peer.address, "no connection to it any more");
                peer.link.abort();
                peer.courier.abort();
                outboxes.remove(*id);
                pace.forget(*id);
            }
            stays
        });
        for (id, member) in wanted {
            if open.contains_key(&id) {
                continue;
            }
            match self.dial(id, &member.address) {
                Ok(peer) => drop(open.insert(id, peer)),
                Err(problem) => tracing::error!(to = %id, %problem, "a member cannot be dialed"),
            }
        }
    }

    fn dial(&self, to: NodeId, address: &str) -> Result<Peer, Problem> {
        let Parts { tls, sender, outboxes, driver, pace, liveness } = &self.0.parts;
        let channel = channel(to, address, tls)?;
        let link = Link {
            to,
            address: address.to_owned(),
            channel: channel.clone(),
            sender: sender.clone(),
            outbox: outboxes.to(to),
            driver: driver.clone(),
            pace: pace.clone(),
            liveness: liveness.clone(),
        };
        let link = tokio::spawn(link.run()).abort_handle();
        let courier = Courier {
            to,
            address: address.to_owned(),
            tls: tls.clone(),
            sender: sender.clone(),
            driver: driver.clone(),
        };
        let courier = tokio::spawn(courier.run(outboxes.slot(to))).abort_handle();
        Ok(Peer { address: address.to_owned(), channel, link, courier })
    }

    /// Channels to all other members.
    pub fn channels(&self) -> Vec<Channel> {
        self.lock().values().map(|peer| peer.channel.clone()).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.0.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn group(&self) -> u32 {
        self.0.parts.sender.group.0.into()
    }

    /// Hands a command to the leader.
    pub async fn propose(
        &self,
        leader: NodeId,
        command: Command,
        patience: Duration,
    ) -> Result<ProposeResponse, Status> {
        let (group, incarnation) = (self.group(), self.0.parts.sender.incarnation.clone());
        let mut request =
            Request::new(ProposeRequest { command: Some(command), group, incarnation });
        request.set_timeout(patience);
        let mut client = PeerClient::new(self.channel(leader)?);
        within(patience, client.propose(request)).await.map(tonic::Response::into_inner)
    }

    /// Whether any member that is known here, and answers, knows `node` with this data directory as
    /// a member too.
    pub async fn vouch(&self, node: NodeId, incarnation: &str) -> bool {
        let mut asked = tokio::task::JoinSet::new();
        for channel in self.channels() {
            let (node_id, incarnation) = (node.0, incarnation.to_owned());
            asked.spawn(async move {
                let request = Request::new(VouchRequest { node_id, incarnation });
                within(VOUCH, PeerClient::new(channel).vouch(request)).await
            });
        }
        while let Some(answer) = asked.join_next().await {
            if answer.is_ok_and(|answer| answer.is_ok_and(|answer| answer.into_inner().member)) {
                return true;
            }
        }
        false
    }

    fn channel(&self, node: NodeId) -> Result<Channel, Status> {
        let channel = self.lock().get(&node).map(|peer| peer.channel.clone());
        channel.ok_or_else(|| Status::unavailable(format!("node {node} is not a member here")))
    }
}

/// Asks the cluster at `addresses` to let this node in, until it does: its members.
pub async fn join(
    addresses: &[String],
    credentials: &Credentials,
    member: &ClusterMember,
    group: GroupId,
) -> Vec<ClusterMember> {
    loop {
        for address in addresses {
            let asked = async {
                let endpoint = endpoint(address, CONTROL_DNS_NAME, credentials)
                    .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
                let mut client = PeerClient::new(endpoint.connect_lazy());
                let request = JoinRequest { member: Some(member.clone()), group: group.0.into() };
                within(JOIN, client.join(Request::new(request))).await
            };
            match asked.await {
                Ok(answer) => {
                    tracing::info!(address, "this node was let in: the leader sends it everything");
                    return answer.into_inner().members;
                }
                Err(status) => tracing::warn!(address, %status, "not let in yet"),
            }
        }
        tokio::time::sleep(jittered(JOIN_AGAIN)).await;
    }
}

/// A channel to a member that connects when first used, with the certificate of that moment. The
/// member is dialed by the DNS name of its node.
pub fn channel(to: NodeId, address: &str, tls: &Tls) -> Result<Channel, Problem> {
    let unusable = |error: String| {
        let what = format!("cannot be dialed ({error})");
        Problem::new(address, what, "write host:port")
    };
    let endpoint = dial::endpoint(address).map_err(|error| unusable(error.to_string()))?;
    let name = ServerName::try_from(format!("{to}.control.voxmesh"));
    let name = name.map_err(|error| unusable(error.to_string()))?;
    Ok(dial::channel(&alive(endpoint), name, tls.clone()))
}

/// Notices a dead peer soon.
fn alive(endpoint: Endpoint) -> Endpoint {
    endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
}

/// How to reach a control node.
pub fn endpoint(address: &str, name: &str, tls: &Credentials) -> Result<Endpoint, Problem> {
    let unusable = |error: tonic::transport::Error| {
        let fix = "write host:port and the mesh's certificates";
        Problem::new(address, format!("cannot be dialed ({error})"), fix)
    };
    let endpoint = Endpoint::from_shared(format!("https://{address}")).map_err(unusable)?;
    Ok(alive(endpoint.tls_config(tls.client_config(name)).map_err(unusable)?))
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
