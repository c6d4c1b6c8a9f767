//! The gRPC API: who calls, what they may do, and every service in its own file.
//!
//! Who may do what, `crate::access` decides: roles, and one line per RPC; everything else is
//! refused. Each mutation is checked here, at the edge; what is proposed is valid.

mod access;
mod admin;
mod audit;
mod cluster;
mod compliance;
mod enrollment;
mod failure;
mod growth;
mod members;
mod numbers;
mod peer;
mod pops;
mod porting;
mod read;
mod reads;
mod router;
mod routing;
mod shelves;
mod tenants;
mod tokens;
mod transfer;
mod watch;
mod write;

use std::collections::BTreeMap;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proto::id::NodeId;
use proto::identity::Identity;
use tokio::sync::{Semaphore, mpsc, watch as signal};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Extensions, Request, Response, Status};

use crate::accept::{Caller, Connection};
use crate::access::Gate;
use crate::config::CaConfig;
use crate::hub::Hub;
use crate::liveness::Liveness;
use crate::pki::Authority;
use crate::snapshot::inbox::Inbox;
use crate::telemetry;

pub use cluster::Cluster;
use failure::Failure;

/// How long leadership may take to move: an election would be over.
const TRANSFER: Duration = Duration::from_secs(2);
/// Requests at once on a connection.
const STREAMS_MAX: u32 = 256;
/// HTTP/2 pings: a dead client is noticed after interval and timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(1);
/// How long a ping may take.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(2);
/// A join is one write and a signature.
const JOIN_TIMEOUT: Duration = Duration::from_secs(12);
/// Requests at once on a connection of somebody unknown.
const JOIN_STREAMS_MAX: u32 = 2;
/// HTTP/2 windows: a peer far away must not wait for window updates.
const WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// What the services share.
#[derive(Clone)]
pub struct Api(Arc<Shared>);

struct Shared {
    cluster: Cluster,
    hub: Arc<Hub>,
    liveness: Arc<Liveness>,
    questions: crate::questions::Questions,
    mesh: String,
    issuing: Option<Issuing>,
    reads: reads::Reads,
    /// Data directories other nodes came with.
    incarnations: Mutex<BTreeMap<NodeId, String>>,
    /// Snapshots that come in.
    inbox: Arc<Inbox>,
    /// Backups at once.
    backups: Arc<Semaphore>,
    stop: signal::Receiver<bool>,
}

/// What it takes to issue certificates.
pub struct Issuing {
    /// Signs.
    pub authority: Authority,
    /// As configured.
    pub config: CaConfig,
    /// All authorities of the mesh, for new machines.
    pub ca_pem: String,
}

/// What the API is made of.
pub struct Parts {
    /// Writes and consistent reads.
    pub cluster: Cluster,
    /// Changes for watches.
    pub hub: Arc<Hub>,
    /// Heartbeats.
    pub liveness: Arc<Liveness>,
    /// Name of the mesh.
    pub mesh: String,
    /// On nodes that let new machines in.
    pub issuing: Option<Issuing>,
    /// Data directories other nodes are known to have.
    pub incarnations: BTreeMap<NodeId, String>,
    /// Snapshots that come in.
    pub inbox: Inbox,
    /// Turns true when long streams have to end.
    pub stop: signal::Receiver<bool>,
}

impl Api {
    /// From its parts.
    pub fn new(parts: Parts) -> Self {
        let Parts { cluster, hub, liveness, mesh, issuing, incarnations, inbox, stop } = parts;
        let inbox = Arc::new(inbox);
        let backups = Arc::new(Semaphore::new(transfer::BACKUPS_MAX));
        let incarnations = Mutex::new(incarnations);
        let reads = reads::Reads::default();
        Self(Arc::new(Shared {
            cluster,
            hub,
            liveness,
            questions: crate::questions::Questions::default(),
            mesh,
            issuing,
            reads,
            incarnations,
            inbox,
            backups,
            stop,
        }))
    }

    /// Takes join tokens on connections without client certificates, until told to stop.
    pub async fn serve_joins(
        self,
        connections: mpsc::Receiver<io::Result<Connection>>,
    ) -> Result<(), tonic::transport::Error> {
        let mut stop = self.0.stop.clone();
        let router = router::JoinRouter::new(&self);
        tonic::transport::Server::builder()
            .timeout(JOIN_TIMEOUT)
            .concurrency_limit_per_connection(1)
            .max_concurrent_streams(JOIN_STREAMS_MAX)
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .serve_with_incoming_shutdown(router, ReceiverStream::new(connections), async move {
                // An error means the sender is gone: stop too.
                let _ = stop.wait_for(|stop| *stop).await;
            })
            .await
    }

    /// Serves connections until told to stop, then lets open requests end.
    pub async fn serve(
        self,
        connections: mpsc::Receiver<io::Result<Connection>>,
    ) -> Result<(), tonic::transport::Error> {
        let mut stop = self.0.stop.clone();
        let router = router::Router::new(&self);
        let connections = ReceiverStream::new(connections);
        tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEP_ALIVE))
            .http2_keepalive_timeout(Some(KEEP_ALIVE_TIMEOUT))
            .initial_stream_window_size(WINDOW_BYTES)
            .initial_connection_window_size(4 * WINDOW_BYTES)
            .max_concurrent_streams(STREAMS_MAX)
            .serve_with_incoming_shutdown(router, connections, async move {
                // An error means the sender is gone: stop too.
                let _ = stop.wait_for(|stop| *stop).await;
            })
            .await
    }
}

type Answer<T> = Result<Response<T>, Status>;

/// Counts the answer of a method and turns its failure into gRPC's language.
async fn answer<T>(
    method: &'static str,
    work: impl Future<Output = Result<T, Failure>>,
) -> Answer<T> {
    let result = work.await;
    let code = result.as_ref().map_or_else(|failure| failure.code, |_| tonic::Code::Ok);
    telemetry::api_request(method, code);
    result.map(Response::new).map_err(Status::from)
}

/// Who called.
fn caller(extensions: &Extensions) -> Result<Arc<Identity>, Failure> {
    match extensions.get::<Caller>() {
        Some(Ok(identity)) => Ok(identity.clone()),
        Some(Err(why)) => Err(Failure::unauthenticated(format!("your certificate {why}"))),
        None => Err(Failure::unauthenticated("a client certificate is needed".into())),
    }
}

/// The caller and its request, if its roles allow what it names (`crate::access`).
fn authorise<T: 'static>(request: Request<T>) -> Result<(Arc<Identity>, T), Failure> {
    let identity = caller(request.extensions())?;
    let gate = request.extensions().get::<Gate>().cloned();
    let gate = gate.ok_or_else(|| Failure::denied(&identity))?;
    let message = request.into_inner();
    gate.admit_message(&identity, &message)?;
    Ok((identity, message))
}
