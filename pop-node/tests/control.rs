//! The control plane's client against scripted control nodes.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod common;

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use common::Authority;
use pop_core::view::{View, ViewUpdate};
use pop_node::control::{Client, Copy, Event, Settings};
use pop_node::link::Peer;
use proto::control::pops_server::{Pops, PopsServer};
use proto::control::watch_response::Kind;
use proto::control::watch_server::{Watch, WatchServer};
use proto::control::{self as wire, change, resource};
use proto::id::{Epoch, PopId, Revision};
use proto::identity::{Identity, Kind as Party};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service};
use tonic::transport::{Certificate, Identity as Pem, Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};

const PATIENCE: Duration = Duration::from_secs(30);

/// What a node says to one watch after the other.
type Script = VecDeque<Result<Vec<wire::WatchResponse>, Status>>;

/// A control node that follows a script.
#[derive(Clone)]
struct Node {
    script: Arc<Mutex<Script>>,
    /// `(from_revision, cluster_id)` of every watch.
    asked: Arc<Mutex<Vec<(u64, String)>>>,
    registered: Arc<Mutex<Vec<wire::RegisterPopRequest>>>,
    beats: Arc<Mutex<Vec<wire::HeartbeatRequest>>>,
}

#[tonic::async_trait]
impl Watch for Node {
    type WatchStream = ReceiverStream<Result<wire::WatchResponse, Status>>;

    async fn watch(
        &self,
        request: Request<wire::WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let request = request.into_inner();
        self.asked.lock().unwrap().push((request.from_revision, request.cluster_id));
        let next = self.script.lock().unwrap().pop_front();
        let messages = next.unwrap_or_else(|| Err(Status::unavailable("the script is over")))?;
        let (sender, stream) = mpsc::channel(64);
        for message in messages {
            sender.send(Ok(message)).await.unwrap();
        }
        // The stream stays open, silent.
        tokio::spawn(async move { sender.closed().await });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

#[tonic::async_trait]
impl Pops for Node {
    type HeartbeatStream = ReceiverStream<Result<wire::HeartbeatResponse, Status>>;

    async fn register(
        &self,
        request: Request<wire::RegisterPopRequest>,
    ) -> Result<Response<wire::RegisterPopResponse>, Status> {
        let request = request.into_inner();
        let mut registered = self.registered.lock().unwrap();
        registered.push(request.clone());
        let epoch = 40 + registered.len() as u64;
        let pop = Some(wire::Pop { epoch, ..request.pop.unwrap() });
        Ok(Response::new(wire::RegisterPopResponse { header: None, pop }))
    }

    async fn heartbeat(
        &self,
        request: Request<Streaming<wire::HeartbeatRequest>>,
    ) -> Result<Response<Self::HeartbeatStream>, Status> {
        let mut beats = request.into_inner();
        let (sender, stream) = mpsc::channel(4);
        let seen = self.beats.clone();
        tokio::spawn(async move {
            while let Ok(Some(beat)) = beats.message().await {
                // The first registration was taken over by somebody else.
                let fenced = beat.epoch == 41;
                seen.lock().unwrap().push(beat);
                let answer = if fenced {
                    Err(Status::failed_precondition("fenced"))
                } else {
                    Ok(wire::HeartbeatResponse { revision: 1, questions: Vec::new() })
                };
                if sender.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }

    async fn list(
        &self,
        _: Request<wire::ListPopsRequest>,
    ) -> Result<Response<wire::ListPopsResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn cordon(
        &self,
        _: Request<wire::SteerPopRequest>,
    ) -> Result<Response<wire::SteerPopResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn drain(
        &self,
        _: Request<wire::SteerPopRequest>,
    ) -> Result<Response<wire::SteerPopResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn uncordon(
        &self,
        _: Request<wire::SteerPopRequest>,
    ) -> Result<Response<wire::SteerPopResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }

    async fn ask(
        &self,
        _: Request<wire::AskPopRequest>,
    ) -> Result<Response<wire::AskPopResponse>, Status> {
        Err(Status::unimplemented("not in this test"))
    }
}

/// Both services at one address.
#[derive(Clone)]
struct Router {
    pops: PopsServer<Node>,
    watch: WatchServer<Node>,
}

impl Service<hyper::Request<Body>> for Router {
    type Response = hyper::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: hyper::Request<Body>) -> Self::Future {
        if request.uri().path().contains(".Watch/") {
            self.watch.call(request)
        } else {
            self.pops.call(request)
        }
    }
}

async fn serve(mesh: &Authority, number: &str, script: impl Into<Script>) -> (SocketAddr, Node) {
    let file = format!("control-{number}");
    let identity = Identity::new("demo", "eu", Party::Control, number).unwrap();
    mesh.issue_identity(&file, &identity, (-1, 30));
    let read = |name: String| std::fs::read(mesh.path(&name)).unwrap();
    let tls = ServerTlsConfig::new()
        .identity(Pem::from_pem(read(format!("{file}.pem")), read(format!("{file}.key"))))
        .client_ca_root(Certificate::from_pem(read("ca.pem".into())));
    let node = Node {
        script: Arc::new(Mutex::new(script.into())),
        asked: Arc::default(),
        registered: Arc::default(),
        beats: Arc::default(),
    };
    let listener = tokio::net::TcpListener::bind("127.0.44.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router =
        Router { pops: PopsServer::new(node.clone()), watch: WatchServer::new(node.clone()) };
    let server = Server::builder()
        .tls_config(tls)
        .unwrap()
        .serve_with_incoming(router, TcpListenerStream::new(listener));
    tokio::spawn(server);
    (address, node)
}

fn pop(id: &str) -> wire::Resource {
    let pop = wire::Pop {
        pop_id: id.to_owned(),
        overlay_address: format!("{id}.example:4433"),
        ..wire::Pop::default()
    };
    wire::Resource { kind: Some(resource::Kind::Pop(pop)) }
}

fn say(kind: Kind) -> wire::WatchResponse {
    wire::WatchResponse { kind: Some(kind), cluster_id: "c1".to_owned() }
}

fn part(revision: u64, pops: &[&str], last: bool) -> wire::WatchResponse {
    let resources = pops.iter().map(|id| pop(id)).collect();
    say(Kind::Snapshot(wire::SnapshotPart { revision, resources, last }))
}

fn event(prev_revision: u64, revision: u64, id: &str) -> wire::WatchResponse {
    let changes = vec![wire::Change { kind: Some(change::Kind::Put(pop(id))) }];
    say(Kind::Event(wire::Event { prev_revision, revision, changes }))
}

fn progress(revision: u64) -> wire::WatchResponse {
    say(Kind::Progress(wire::Progress { revision }))
}

struct Follower {
    client: Client,
    events: mpsc::Receiver<Event>,
    peers: watch::Receiver<Vec<Peer>>,
    view: View,
    out_of_sight: watch::Sender<BTreeSet<PopId>>,
}

impl Follower {
    fn start(mesh: &Authority, endpoints: &[SocketAddr], view: View) -> Self {
        let credentials = mesh.credentials("fra1");
        let (sender, events) = mpsc::channel(64);
        let (peers_out, peers) = watch::channel(Vec::new());
        let (out_of_sight, unseen) = watch::channel(BTreeSet::new());
        // Nobody answers questions here.
        let (asked, _) = mpsc::channel(1);
        let settings = Settings {
            pop: wire::Pop { pop_id: "fra1".to_owned(), ..wire::Pop::default() },
            endpoints: endpoints.iter().map(ToString::to_string).collect(),
            data_dir: mesh.directory.path().to_owned(),
            unseen,
        };
        let client =
            Client::start(settings, &credentials, view.clone(), (sender, asked), peers_out)
                .unwrap();
        Self { client, events, peers, view, out_of_sight }
    }

    /// Applies what comes until the view is at `revision`; epochs on the way.
    async fn until(&mut self, revision: u64) -> Vec<Epoch> {
        let mut epochs = Vec::new();
        while self.view.revision() != Revision(revision) {
            let event = tokio::time::timeout(PATIENCE, self.events.recv()).await;
            match event.expect("an event").unwrap() {
                Event::Registered(epoch) => epochs.push(epoch),
                // The scripted nodes fence the first registration.
                Event::Fenced | Event::Lost | Event::Lease(_) => {}
                Event::Snapshot(view) => self.view = *view,
                Event::View(update) => {
                    self.view.apply(update).expect("no gap reaches the calls");
                }
            }
        }
        epochs
    }
}

fn ids(view: &View) -> Vec<&str> {
    view.pops().map(|(id, _)| id.as_str()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gap_leads_to_a_snapshot_and_the_copy_is_written() {
    let mesh = Authority::new("demo");
    let script = vec![
        Ok(vec![
            part(5, &["fra1"], false),
            part(5, &["iad1"], true),
            event(5, 6, "sin1"),
            // 7 is missing.
            event(7, 8, "lost"),
        ]),
        Ok(vec![part(9, &["fra1", "iad1", "sin1", "syd1"], true), progress(9)]),
    ];
    let (address, node) = serve(&mesh, "1", script).await;
    let mut follower = Follower::start(&mesh, &[address], View::default());
    follower.until(9).await;
    assert_eq!(ids(&follower.view), ["fra1", "iad1", "sin1", "syd1"]);
    let expected = [(0, String::new()), (0, "c1".to_owned())];
    assert_eq!(*node.asked.lock().unwrap(), expected);
    // The links learn of the others, not of ourselves.
    let peers = follower.peers.borrow_and_update().clone();
    assert_eq!(
        peers.iter().map(|peer| peer.id.as_str()).collect::<Vec<_>>(),
        ["iad1", "sin1", "syd1"]
    );
    follower.client.shutdown().await;
    assert_eq!(Copy::new(mesh.directory.path()).load(), follower.view);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_resumes_elsewhere_and_refuses_to_go_back() {
    let mesh = Authority::new("demo");
    let mut view = View::default();
    let snapshot = ViewUpdate::Snapshot {
        cluster_id: "c1".to_owned(),
        revision: Revision(5),
        resources: vec![pop("fra1")],
    };
    view.apply(snapshot).unwrap();
    // The first node lost its history, holds an older state, then is gone.
    let behind =
        vec![Err(Status::out_of_range("REVISION_COMPACTED")), Ok(vec![part(4, &["old"], true)])];
    let (one, first) = serve(&mesh, "1", behind).await;
    let (two, second) = serve(
        &mesh,
        "2",
        vec![Err(Status::unavailable("not yet")), Ok(vec![part(7, &["fra1", "iad1"], true)])],
    )
    .await;
    let mut follower = Follower::start(&mesh, &[one, two], view);
    follower.until(7).await;
    assert_eq!(ids(&follower.view), ["fra1", "iad1"]);
    assert_eq!(first.asked.lock().unwrap()[0], (5, "c1".to_owned()));
    assert_eq!(second.asked.lock().unwrap()[1], (0, "c1".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn registers_once_and_beats_at_every_node() {
    let mesh = Authority::new("demo");
    let script = || vec![Ok(vec![part(1, &["fra1"], true)])];
    let (one, first) = serve(&mesh, "1", script()).await;
    let (two, second) = serve(&mesh, "2", script()).await;
    // An older process was here before.
    first.registered.lock().unwrap().push(wire::RegisterPopRequest::default());
    let follower = Follower::start(&mesh, &[one, two], View::default());
    follower.client.shared.calls.store(3, Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let good = |node: &Node| {
        node.beats.lock().unwrap().iter().any(|beat| (beat.epoch, beat.calls) == (42, 3))
    };
    while !(good(&first) && good(&second)) {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", second.beats.lock().unwrap());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // The node that answers first is asked.
    let registered = first.registered.lock().unwrap();
    assert_eq!(registered.len(), 2);
    assert_eq!(registered[1].options.clone().unwrap().request_id.len(), 32);
    assert!(!follower.client.shared.is_fenced());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_out_of_sight_is_told_to_every_node() {
    let mesh = Authority::new("demo");
    let script = || vec![Ok(vec![part(1, &["fra1"], true)])];
    let (one, first) = serve(&mesh, "1", script()).await;
    let (two, second) = serve(&mesh, "2", script()).await;
    first.registered.lock().unwrap().push(wire::RegisterPopRequest::default());
    let follower = Follower::start(&mesh, &[one, two], View::default());
    for unseen in [&["iad1", "sin1"][..], &["sin1"], &[]] {
        let ids = unseen.iter().map(|id| id.parse().unwrap()).collect();
        follower.out_of_sight.send_replace(ids);
        let last = |node: &Node| node.beats.lock().unwrap().last().map(|beat| beat.unseen.clone());
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while [&first, &second].iter().any(|node| last(node).as_deref() != Some(&*texts(unseen))) {
            assert!(tokio::time::Instant::now() < deadline, "{:?}", last(&second));
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

fn texts(ids: &[&str]) -> Vec<String> {
    ids.iter().map(|id| (*id).to_owned()).collect()
}

/// Of two processes with one name the older one goes, and says so: it does not register again.
#[tokio::test(flavor = "multi_thread")]
async fn an_older_process_keeps_away_once_it_is_fenced() {
    let mesh = Authority::new("demo");
    let script = vec![Ok(vec![part(1, &["fra1"], true)])];
    let (address, node) = serve(&mesh, "1", script).await;
    let mut follower = Follower::start(&mesh, &[address], View::default());
    let mut seen = Vec::new();
    while seen.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, follower.events.recv()).await;
        match event.expect("an event").unwrap() {
            Event::Registered(epoch) => seen.push(epoch.0),
            Event::Fenced => seen.push(0),
            Event::Snapshot(_) | Event::View(_) | Event::Lost | Event::Lease(_) => {}
        }
    }
    assert_eq!(seen, [41, 0]);
    assert!(follower.client.shared.is_fenced());
    // Nothing of it would tell the control plane that it lives; longer than the first retry. The
    // watch goes on.
    let end = tokio::time::Instant::now() + Duration::from_millis(700);
    while let Ok(more) = tokio::time::timeout_at(end, follower.events.recv()).await {
        assert!(
            matches!(more, Some(Event::Snapshot(_) | Event::View(_) | Event::Lease(_))),
            "{more:?}"
        );
    }
    assert_eq!(node.registered.lock().unwrap().len(), 1);
    // The one that was refused, and one on its way meanwhile.
    assert!(node.beats.lock().unwrap().len() <= 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_mesh_is_not_believed() {
    let (mesh, other) = (Authority::new("demo"), Authority::new("demo"));
    let (address, node) = serve(&other, "1", vec![Ok(vec![part(1, &["evil"], true)])]).await;
    let mut follower = Follower::start(&mesh, &[address], View::default());
    let event = tokio::time::timeout(Duration::from_millis(700), follower.events.recv()).await;
    assert!(event.is_err(), "{event:?}");
    assert!(node.asked.lock().unwrap().is_empty());
}
