//! Puts a control node together, runs it, takes it down.
//!
//! Down: a leader hands over first, then connections and long streams end, open requests get a
//! moment, and the driver makes the disk durable. A node that loses its disk, or may not go on, ends with an error.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use control_core::group::GroupId;
use control_core::replica::{LEVELS, Limits, Replica, ReplicaConfig, RestoreError, check_start};
use metrics_exporter_prometheus::{BuildError, PrometheusHandle};
use proto::control::{ClusterMember, MemberRole};
use proto::id::NodeId;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

use crate::accept::{self, Guests};
use crate::admin;
use crate::api::{self, Api, Cluster, Issuing};
use crate::archive;
use crate::audit;
use crate::check;
use crate::config::{Config, Member};
use crate::dns;
use crate::driver::{self, Driver, DriverError, Progress};
use crate::hub::Hub;
use crate::liveness::Liveness;
use crate::pace::Pace;
use crate::peer::{self, Outboxes, Peers, Sender, channel};
use crate::pki::Authority;
use crate::problem::Problem;
use crate::raft_log;
use crate::snapshot::inbox::Inbox;
use crate::tls::Credentials;
use crate::tls::rotation::Rotation;
use crate::wal::{Health, Opened, Options, Owner, Wal, WalError};

/// Open requests get this long to end.
const DRAIN: Duration = Duration::from_secs(2);
/// A leader that is asked to stop has this long to hand over.
const HAND_OVER: Duration = Duration::from_millis(300);
/// What this version's nodes keep: one group keeps everything.
const GROUP: GroupId = GroupId::ROOT;
/// A start that found no room on the disk is tried again after this.
const ROOM_AGAIN: Duration = Duration::from_secs(1);
/// Connections whose handshake is done and that wait to be served.
const ACCEPTED: usize = 64;

/// Why a node did not start or did not end well.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// It stopped while running.
    #[error(transparent)]
    Driver(#[from] DriverError),
    /// The system refused something small.
    #[error(
        "the system refused a socket, thread or signal handler ({0}): raise this user's limits"
    )]
    Io(#[from] std::io::Error),
    /// Metrics.
    #[error("metrics cannot be served ({0})")]
    Metrics(#[from] BuildError),
    /// Something named in the configuration.
    #[error(transparent)]
    Problem(#[from] Problem),
    /// What the disk holds does not fit.
    #[error("{0}: correct the configuration, or restore node.data_dir from a copy")]
    Restore(#[from] RestoreError),
    /// TLS refused the certificates.
    #[error("tls cannot be used ({0}): issue certificates with `meshctl pki issue`")]
    Tls(#[from] rustls::Error),
    /// The gRPC server failed.
    #[error("the API ended ({0})")]
    Transport(#[from] tonic::transport::Error),
    /// The disk.
    #[error(transparent)]
    Wal(#[from] WalError),
}

impl RunError {
    /// 1: refused to start. 3: ran, and stopped itself (2 is for wrong arguments).
    pub const fn exit_code(&self) -> u8 {
        match self {
            Self::Driver(_) | Self::Transport(_) => 3,
            Self::Io(_)
            | Self::Metrics(_)
            | Self::Problem(_)
            | Self::Restore(_)
            | Self::Tls(_)
            | Self::Wal(_) => 1,
        }
    }
}

/// A node that has everything but has not begun.
struct Ready {
    config: Config,
    credentials: Credentials,
    authority: Option<Authority>,
    join: Option<TcpListener>,
    api: TcpListener,
    admin: TcpListener,
    dns: Option<dns::Bound>,
    prometheus: PrometheusHandle,
}

/// The replica, and what is known of the others' data directories.
struct Restored {
    replica: Replica,
    wal: Wal,
    inbox: Inbox,
    incarnation: String,
    others: BTreeMap<NodeId, String>,
    health: Arc<Health>,
}

/// Runs until SIGTERM or SIGINT.
pub async fn run(config: Config) -> Result<(), RunError> {
    // The first number read costs 0.1 s of preparation; no request should wait for it.
    tokio::task::spawn_blocking(proto::e164::E164::warm_up);
    let credentials = check::credentials(&config, SystemTime::now())?;
    let authority = check::authority(&config)?;
    check::data_dir(&config.node.data_dir)?;
    let join = match &config.ca {
        Some(ca) => Some(TcpListener::from_std(check::listen("ca.listen", ca.listen)?)?),
        None => None,
    };
    let api = TcpListener::from_std(check::listen("api.listen", config.api)?)?;
    let admin = TcpListener::from_std(check::listen("admin.listen", config.admin)?)?;
    let dns = config.dns.as_ref().map(check::dns).transpose()?;
    let prometheus = crate::telemetry::install()?;
    let (mut terminate, mut interrupt) =
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let mut signals = std::pin::pin!(async {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    });
    let Some(restored) = with_room(&config, signals.as_mut()).await? else { return Ok(()) };
    let ready = Ready { config, credentials, authority, join, api, admin, dns, prometheus };
    ready.run(restored, signals).await
}

impl Ready {
    async fn run(
        self,
        restored: Restored,
        signals: impl Future<Output = ()>,
    ) -> Result<(), RunError> {
        let Restored { replica, wal, inbox, incarnation, others, health } = restored;
        let replica_is_new = replica.voters().is_empty();
        let hub = Arc::new(Hub::new(replica.state().revision()));
        let outboxes = Outboxes::default();
        let pace = Pace::new(self.config.timers);
        let (ended, mut end) = oneshot::channel();
        let parts = driver::Parts {
            replica,
            wal,
            hub: hub.clone(),
            outboxes: outboxes.clone(),
            pace: pace.clone(),
            founders: founders(&self.config),
            levels: levels(&self.config),
        };
        let joins = replica_is_new && !self.config.node.join.is_empty();
        let driver = driver::start(parts, ended)?;
        ship(&self.config, &driver).and_then(|()| steer(&self.config, self.dns, &driver))?;
        let shown = self.authority.as_ref().map(Authority::certificate);
        let rotation = Rotation::new(&self.config, &self.credentials, shown)?;
        let issuing = issuing(&self.config, self.authority, &self.credentials);
        let credentials = Arc::new(self.credentials);
        if joins {
            let own = joining(&self.config, &incarnation);
            let_in(self.config.node.join.clone(), credentials, driver.clone(), own);
        }
        let sender = Sender { node: self.config.node.id, incarnation, group: GROUP };
        let liveness = Liveness::start(self.config.node.id, &driver, &pace);
        let (tls, own) = (rotation.client(), liveness.clone());
        let driving = driver.clone();
        let parts = peer::Parts { tls, sender, outboxes, driver: driving, pace, liveness: own };
        let peers = Peers::start(parts);
        let (stop, stopped) = watch::channel(false);
        let page = admin::Page {
            prometheus: self.prometheus,
            progress: driver.progress(),
            liveness: liveness.clone(),
        };
        tokio::spawn(admin::serve(self.admin, page));
        let api = Api::new(api::Parts {
            cluster: Cluster::new(driver.clone(), peers.clone(), health, GROUP),
            hub,
            liveness,
            mesh: self.config.node.mesh.clone(),
            issuing,
            incarnations: others,
            inbox,
            stop: stopped,
        });
        tokio::spawn(api.clone().audit_reads());
        serve_joins(self.join, &rotation, &api);
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        let guests = Guests::Mesh(self.config.node.mesh.as_str().into());
        tokio::spawn(accept::run(self.api, rotation.server(), guests, accepted));
        let mut serving = tokio::spawn(api.serve(connections));
        let node = self.config.node.id;
        // Itself too: it may be the one that issues.
        let own = channel(node, &self.config.api.to_string(), &rotation.client())?;
        tokio::spawn(rotation.run(own, peers));
        tracing::info!(%node, api = %self.config.api, admin = %self.config.admin, "control node");
        tokio::select! {
            () = signals => {}
            ended = &mut end => return Err(failed(ended)),
            served = &mut serving => {
                served.map_err(std::io::Error::other)??;
                return Ok(());
            }
        }
        shut_down(&stop, serving, &driver, end).await
    }
}

/// Keeps an archive and the whole audit log, on a node that is told to.
fn ship(config: &Config, driver: &Driver) -> std::io::Result<()> {
    audit::export::start(config.audit.clone(), driver);
    let backup = config.backup.clone();
    backup.map_or(Ok(()), |backup| archive::ship::start(backup, driver.clone()))
}

/// Answers DNS, on a node that is told to.
fn steer(config: &Config, bound: Option<dns::Bound>, driver: &Driver) -> std::io::Result<()> {
    let told = config.dns.as_ref().zip(bound);
    told.map_or(Ok(()), |(config, bound)| dns::start(config, bound, driver))
}

/// Asks the members to let this node in.
fn let_in(at: Vec<String>, tls: Arc<Credentials>, driver: Driver, own: ClusterMember) {
    tokio::spawn(async move {
        let members = peer::join(&at, &tls, &own, GROUP).await;
        // Fails when this node is stopping.
        let _ = driver.introduce(members).await;
    });
}

/// On nodes that let new machines in.
fn serve_joins(listener: Option<TcpListener>, rotation: &Rotation, api: &Api) {
    if let (Some(listener), Some(tls)) = (listener, rotation.join()) {
        let (accepted, connections) = mpsc::channel(ACCEPTED);
        tokio::spawn(accept::run(listener, tls, Guests::Strangers, accepted));
        tokio::spawn(api.clone().serve_joins(connections));
    }
}

fn issuing(
    config: &Config,
    authority: Option<Authority>,
    credentials: &Credentials,
) -> Option<Issuing> {
    let (authority, config) = authority.zip(config.ca.clone())?;
    Some(Issuing { authority, config, ca_pem: credentials.ca_pem() })
}

async fn shut_down(
    stop: &watch::Sender<bool>,
    serving: tokio::task::JoinHandle<Result<(), tonic::transport::Error>>,
    driver: &Driver,
    end: oneshot::Receiver<Result<(), DriverError>>,
) -> Result<(), RunError> {
    // Without a successor the others elect one.
    let _ = tokio::time::timeout(HAND_OVER, hand_over(driver)).await;
    tracing::info!("stopping: requests end, then the disk is made durable");
    stop.send_replace(true);
    // Connections that stay idle hold up the server; it is not waited for longer.
    let _ = tokio::time::timeout(DRAIN, serving).await;
    driver.stop();
    match end.await {
        Ok(result) => Ok(result?),
        Err(_) => Err(std::io::Error::other("the driver's thread is gone").into()),
    }
}

/// Returns when another node leads and what was proposed here is decided.
async fn hand_over(driver: &Driver) {
    let mut progress = driver.progress();
    if !progress.borrow().leads {
        return;
    }
    let Ok(Ok(to)) = driver.transfer_leader(None).await else { return };
    tracing::info!(%to, "handing leadership over");
    let taken = |progress: &Progress| !progress.leads && progress.leader.is_some();
    if progress.wait_for(taken).await.is_err() {
        return;
    }
    while driver.query(|replica| replica.status().proposals).await.is_ok_and(|open| open > 0) {
        if progress.changed().await.is_err() {
            return;
        }
    }
}

/// The driver never ends by itself without a reason.
fn failed(ended: Result<Result<(), DriverError>, oneshot::error::RecvError>) -> RunError {
    match ended {
        Ok(Err(error)) => error.into(),
        Ok(Ok(())) | Err(_) => std::io::Error::other("the driver's thread is gone").into(),
    }
}

/// Waits while the disk has no room even for what a start needs; `None`: asked to end meanwhile.
async fn with_room(
    config: &Config,
    mut asked: std::pin::Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<Restored>, RunError> {
    loop {
        let file = match restore(config) {
            Err(RunError::Wal(WalError::Full { file })) => file,
            other => return other.map(Some),
        };
        tracing::warn!(file = %file.display(), "the disk is full: this node begins when there is room");
        tokio::select! {
            () = asked.as_mut() => return Ok(None),
            () = tokio::time::sleep(ROOM_AGAIN) => {}
        }
    }
}

fn restore(config: &Config) -> Result<Restored, RunError> {
    let owner = Owner { mesh: config.node.mesh.clone(), node: config.node.id };
    let options = Options {
        low_bytes: config.storage.low_water_bytes,
        alone: config.members.len() == 1,
        segment_bytes: None,
    };
    let (id, (_, newest)) = (config.node.id, levels(config));
    let check = |restored: &control_core::replica::Restored| check_start(id, newest, restored);
    let opened = Wal::open(&config.node.data_dir, &owner, &random_id(), options, &check)?;
    let Opened { wal, restored, repair, incarnation } = opened;
    let mut others = BTreeMap::new();
    for member in config.peers() {
        if let Some(known) = wal.known_incarnation(member.id)? {
            others.insert(member.id, known);
        }
    }
    let replica = ReplicaConfig {
        id: config.node.id,
        group: GROUP,
        voters: config.members.iter().map(|member| member.id).collect(),
        members: founders(config),
        levels: levels(config),
        heartbeat_ticks: config.timers.heartbeat_ticks(),
        election_ticks: config.timers.election_ticks(),
        priority: config.node.priority,
        incarnation: incarnation.clone(),
    };
    let mut replica = Replica::with_logger(replica, restored, &raft_log::logger())?;
    replica.set_limits(limits(config));
    if let Some(lost) = repair {
        tracing::warn!(
            index = lost.index,
            "this node lost what it had acknowledged: it votes again when that came back"
        );
        replica.begin_repair(lost);
    }
    let health = wal.health();
    let inbox = Inbox::new(health.clone())?;
    Ok(Restored { replica, wal, inbox, incarnation, others, health })
}

fn limits(config: &Config) -> Limits {
    let usual = Limits::default();
    let log_entries_max = config.storage.log_entries.unwrap_or(usual.log_entries_max);
    Limits { log_entries_max, log_entries_kept: log_entries_max / 2, ..usual }
}

/// The first members, as every node of a new cluster has them in its file.
fn founders(config: &Config) -> Vec<ClusterMember> {
    let founder = |member: &Member| ClusterMember {
        node_id: member.id.0,
        address: member.address.clone(),
        region: member.region.clone(),
        role: MemberRole::Voter.into(),
        priority: member.priority,
        ..ClusterMember::default()
    };
    config.members.iter().map(founder).collect()
}

/// This node, as it introduces itself.
fn joining(config: &Config, incarnation: &str) -> ClusterMember {
    let address = config.node.address.clone();
    ClusterMember {
        node_id: config.node.id.0,
        address: address.unwrap_or_else(|| config.api.to_string()),
        region: config.node.region.clone(),
        incarnation: incarnation.to_owned(),
        priority: config.node.priority,
        ..ClusterMember::default()
    }
}

fn levels(config: &Config) -> (u32, u32) {
    let (oldest, newest) = LEVELS;
    (oldest, config.node.feature_level_max.unwrap_or(newest).clamp(oldest, newest))
}

/// 128 random bits, for names that must never meet.
fn random_id() -> String {
    let mut bytes = [0u8; 16];
    let random = rustls::crypto::aws_lc_rs::default_provider().secure_random;
    if random.fill(&mut bytes).is_err() {
        // Without entropy there is no TLS either; the clock still makes it unlike another node's.
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        bytes = now.as_nanos().to_le_bytes();
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
