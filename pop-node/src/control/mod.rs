//! Client of the control plane: registration, heartbeats to every node, a gap-proof watch.
//!
//! The POP never waits for it. The last view lies on disk, and calls are served from that copy
//! when no control node answers. Nodes are tried in turn with jittered waits; each takes the
//! same requests. Deliberately absent: any change but the POP's own registration.

mod disk;
mod heartbeat;
mod watch;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pop_core::view::{View, ViewUpdate};
use proto::control::pops_client::PopsClient;
use proto::control::{Pop, PopAnswer, PopQuestion, RegisterPopRequest, WriteOptions};
use proto::id::{Epoch, PopId};
use proto::identity::CONTROL_DNS_NAME;
use rustls_pki_types::ServerName;
use tokio::sync::{Notify, mpsc, oneshot, watch as channel};
use tonic::Status;
use tonic::transport::Channel;

use crate::backoff::Backoff;
use crate::link::Peer;
use crate::tls::Credentials;

pub use disk::Copy;

/// To answer a TCP connect, and any unary request.
const REQUEST: Duration = Duration::from_secs(3);
/// A connection without life is given up after this and [`KEEP_ALIVE_TIMEOUT`].
const KEEP_ALIVE: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(3);
/// A node answers if it did so to a beat that is no older: the last one may be on its way yet.
const ANSWERS: Duration = Duration::from_millis(2 * heartbeat::INTERVAL.as_millis() as u64 + 200);

/// What the control plane tells the signaling loop.
#[derive(Debug)]
pub enum Event {
    /// Our registration has this epoch.
    Registered(Epoch),
    /// A newer process registered as this POP: this one must not go on.
    Fenced,
    /// This POP was found lost, and others have its calls; it registers anew.
    Lost,
    /// Until then no majority of the control nodes can have found this POP lost.
    Lease(std::time::Instant),
    /// The whole view, built already.
    Snapshot(Box<View>),
    /// A change of the view, checked to follow the one before.
    View(ViewUpdate),
}

/// One control node as seen from here.
#[derive(Debug)]
pub struct Node {
    /// As configured.
    pub endpoint: String,
    /// It answers heartbeats.
    pub heard: AtomicBool,
    /// When the last beat that it answered was sent.
    answered: Mutex<Option<std::time::Instant>>,
    channel: Channel,
}

impl Node {
    /// It answered a beat that was sent lately, two intervals and a long way ago at most.
    fn answers(&self) -> bool {
        let answered = *self.answered.lock().unwrap_or_else(PoisonError::into_inner);
        answered.is_some_and(|at| at.elapsed() < ANSWERS)
    }
}

/// A question of an operator, through a control node.
#[derive(Debug)]
pub struct Asked {
    /// What.
    pub question: PopQuestion,
    /// Its number is filled in.
    pub answer: oneshot::Sender<PopAnswer>,
}

/// What the tasks share, with the signaling loop and the admin page.
#[derive(Debug)]
pub struct Shared {
    /// All control nodes, in the configured order.
    pub nodes: Vec<Node>,
    /// Calls now: set by the signaling loop, sent in heartbeats.
    pub calls: AtomicU32,
    /// Revision of the view in use: likewise.
    pub revision: AtomicU64,
    /// Epoch of our registration, 0 before the first of this process.
    pub epoch: AtomicU64,
    /// A watch feeds the view now.
    pub live: AtomicBool,
    /// POPs that a path led to and none does now: this POP bears witness against them.
    unseen: channel::Receiver<BTreeSet<PopId>>,
    registered: Notify,
    asked: mpsc::Sender<Asked>,
    /// The latest epoch of ours that a node calls outdated.
    fenced: AtomicU64,
    /// The latest epoch of ours that was found lost, though no newer process has our name.
    lost: AtomicU64,
    fenced_anew: Notify,
}

impl Shared {
    /// A newer process registered as this POP.
    pub fn is_fenced(&self) -> bool {
        let epoch = self.epoch.load(Ordering::Relaxed);
        epoch != 0 && self.fenced.load(Ordering::Relaxed) >= epoch
    }

    /// A channel to each control node.
    pub fn channels(&self) -> Vec<Channel> {
        self.nodes.iter().map(|node| node.channel.clone()).collect()
    }

    /// Others answer heartbeats and this one does not: what it has to tell will not come.
    fn is_cut_off(&self, node: &Node) -> bool {
        !node.answers() && self.nodes.iter().any(Node::answers)
    }

    /// The node to turn to after this one: the next that answers, else the next.
    fn after(&self, index: usize) -> usize {
        let count = self.nodes.len().max(1);
        let mut others = (1..count).map(|step| (index + step) % count);
        let answers = |at: &usize| self.nodes.get(*at).is_some_and(Node::answers);
        others.find(answers).unwrap_or((index + 1) % count)
    }

    /// A node says that this epoch is not ours any more.
    fn fence(&self, epoch: u64) {
        self.fenced.fetch_max(epoch, Ordering::Relaxed);
        self.fenced_anew.notify_one();
    }

    /// A node says that this epoch of ours was found lost.
    fn lose(&self, epoch: u64) {
        self.lost.fetch_max(epoch, Ordering::Relaxed);
        self.fenced_anew.notify_one();
    }

    /// Returns when `epoch` is over; that an older one was is no news. True: it was found lost, and
    /// nobody else has the name.
    async fn until_over(&self, epoch: u64) -> bool {
        loop {
            if self.fenced.load(Ordering::Relaxed) >= epoch {
                return false;
            }
            if self.lost.load(Ordering::Relaxed) >= epoch {
                return true;
            }
            self.fenced_anew.notified().await;
        }
    }
}

/// What the client needs to know once.
#[derive(Debug)]
pub struct Settings {
    /// Our registration; its epoch is ignored.
    pub pop: Pop,
    /// Every control node.
    pub endpoints: Vec<String>,
    /// For the disk copy.
    pub data_dir: PathBuf,
    /// POPs that a path led to and none does now.
    pub unseen: channel::Receiver<BTreeSet<PopId>>,
}

/// A running client.
pub struct Client {
    /// For the signaling loop and the admin page.
    pub shared: Arc<Shared>,
    watch: tokio::task::JoinHandle<()>,
    stop: Arc<Notify>,
}

impl Client {
    /// Starts all tasks. `view` is the disk copy, or empty.
    pub fn start(
        settings: Settings,
        credentials: &Credentials,
        view: View,
        (events, asked): (mpsc::Sender<Event>, mpsc::Sender<Asked>),
        peers: tokio::sync::watch::Sender<Vec<Peer>>,
    ) -> Result<Self, tonic::transport::Error> {
        let nodes: Result<_, tonic::transport::Error> =
            settings.endpoints.iter().map(|endpoint| node(endpoint, credentials)).collect();
        let shared = Arc::new(Shared {
            nodes: nodes?,
            calls: AtomicU32::new(0),
            revision: AtomicU64::new(view.revision().0),
            epoch: AtomicU64::new(0),
            live: AtomicBool::new(false),
            unseen: settings.unseen,
            registered: Notify::new(),
            asked,
            fenced: AtomicU64::new(0),
            lost: AtomicU64::new(0),
            fenced_anew: Notify::new(),
        });
        let seed = || u64::from_ne_bytes(credentials.random());
        for index in 0..shared.nodes.len() {
            let pop_id = settings.pop.pop_id.clone();
            tokio::spawn(heartbeat::run(shared.clone(), index, pop_id, events.clone(), seed()));
        }
        let register = Register {
            shared: shared.clone(),
            pop: settings.pop.clone(),
            credentials: credentials.clone(),
            events: events.clone(),
        };
        tokio::spawn(register.run(seed()));
        let stop = Arc::new(Notify::new());
        let copy = Copy::new(&settings.data_dir);
        let own = settings.pop.pop_id;
        let watch = watch::Watch::new(shared.clone(), own, view, (events, peers), copy);
        let watch = tokio::spawn(watch.run(seed(), stop.clone()));
        Ok(Self { shared, watch, stop })
    }

    /// Ends the watch after its last view is on disk.
    pub async fn shutdown(self) {
        self.stop.notify_one();
        let _ = tokio::time::timeout(REQUEST, self.watch).await;
    }
}

fn node(endpoint: &str, credentials: &Credentials) -> Result<Node, tonic::transport::Error> {
    let settings = enroll::dial::endpoint(endpoint)?
        .connect_timeout(REQUEST)
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT);
    let channel = enroll::dial::channel(&settings, control_name(), credentials.dial());
    Ok(Node {
        endpoint: endpoint.to_owned(),
        heard: AtomicBool::new(false),
        answered: Mutex::new(None),
        channel,
    })
}

/// What every control node's certificate carries.
fn control_name() -> ServerName<'static> {
    // A constant that is a DNS name; nothing verifies as the other one.
    ServerName::try_from(CONTROL_DNS_NAME)
        .unwrap_or(ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into()))
}

/// Enters the POP in the registry, once per process, and again when it was found lost. Who registers later has the higher epoch and
/// the name; the older process learns it by a refused heartbeat and keeps away from then on, or the
/// two would take each other's links for ever.
struct Register {
    shared: Arc<Shared>,
    pop: Pop,
    credentials: Credentials,
    events: mpsc::Sender<Event>,
}

impl Register {
    async fn run(self, seed: u64) {
        let mut backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(5), seed);
        let epoch = loop {
            // The same id until it is answered: a lost answer does not count twice.
            let request_id = hex(&self.credentials.random::<16>());
            let epoch = self.until_answered(&request_id, &mut backoff).await;
            tracing::info!(epoch, "registered with the control plane");
            if self.events.send(Event::Registered(Epoch(epoch))).await.is_err() {
                return;
            }
            self.shared.epoch.store(epoch, Ordering::Relaxed);
            self.shared.registered.notify_waiters();
            if !self.shared.until_over(epoch).await {
                break epoch;
            }
            tracing::warn!(
                epoch,
                "this POP was found lost while it was out of reach, and others took its calls over: \
                 leaving them, and registering anew"
            );
            self.shared.epoch.store(0, Ordering::Relaxed);
            if self.events.send(Event::Lost).await.is_err() {
                return;
            }
        };
        tracing::error!(
            epoch,
            "fenced: a newer process registered as this POP. This one takes no more calls and has \
             closed its links; stop it, or restart it to take the name back"
        );
        // The process is ending otherwise.
        let _ = self.events.send(Event::Fenced).await;
    }

    async fn until_answered(&self, request_id: &str, backoff: &mut Backoff) -> u64 {
        loop {
            let mut why = String::new();
            for node in &self.shared.nodes {
                let options =
                    Some(WriteOptions { request_id: request_id.to_owned(), ..<_>::default() });
                let pop = Some(self.pop.clone());
                let mut client = PopsClient::new(node.channel.clone());
                let request = client.register(RegisterPopRequest { options, pop });
                match tokio::time::timeout(REQUEST, request).await {
                    Ok(Ok(response)) => {
                        return response.into_inner().pop.map_or(0, |pop| pop.epoch);
                    }
                    Ok(Err(status)) => why = format!("{} {}", node.endpoint, said(&status)),
                    Err(_) => why = format!("{} is silent", node.endpoint),
                }
            }
            tracing::warn!(why, "no control node registers this POP yet; trying on");
            tokio::time::sleep(backoff.delay()).await;
        }
    }
}

/// What a node answered, without the nested causes.
fn said(status: &Status) -> String {
    format!("answered {:?}: {}", status.code(), status.message())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        // Writing to a String does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}
