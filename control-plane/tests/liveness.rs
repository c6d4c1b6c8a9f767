//! POPs expire when nobody hears them, return with their heartbeats, and outlive leaders.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cluster::{Cluster, Node, eventually};
use control_core::liveness::TTL;
use proto::control::pops_client::PopsClient;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind as Item;
use proto::control::{
    HeartbeatRequest, ListPopsRequest, Pop, RegisterPopRequest, Resource, WatchRequest,
    WatchResponse, WriteOptions, change, resource,
};
use proto::identity::Kind;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// As POPs do.
const BEAT: Duration = Duration::from_millis(500);

async fn register(cluster: &Cluster) -> u64 {
    register_as(cluster, "fra1", "register").await
}

async fn register_as(cluster: &Cluster, pop_id: &str, request_id: &str) -> u64 {
    let pop = Pop {
        pop_id: pop_id.into(),
        region: "eu".into(),
        overlay_address: "192.0.2.1:4433".into(),
        sip_addresses: vec!["udp:192.0.2.1:5060".into()],
        ..Pop::default()
    };
    let options = Some(WriteOptions { request_id: request_id.into(), ..<_>::default() });
    let request = RegisterPopRequest { options, pop: Some(pop) };
    let ask = async |channel, request| PopsClient::new(channel).register(request).await;
    cluster.write(request, ask).await.pop.unwrap().epoch
}

/// A POP as it beats.
#[derive(Clone)]
struct Beating {
    pop_id: &'static str,
    epoch: u64,
    unseen: watch::Receiver<Vec<String>>,
    calls: watch::Receiver<u32>,
    view_revision: Arc<AtomicU64>,
}

impl Beating {
    fn new(pop_id: &'static str, epoch: u64) -> (watch::Sender<Vec<String>>, Self) {
        let (says, unseen) = watch::channel(Vec::new());
        let (_, calls) = watch::channel(0);
        (says, Self { pop_id, epoch, unseen, calls, view_revision: Arc::default() })
    }

    fn beat(&self) -> HeartbeatRequest {
        let (pop_id, unseen) = (self.pop_id.into(), self.unseen.borrow().clone());
        let (epoch, calls) = (self.epoch, *self.calls.borrow());
        let view_revision = self.view_revision.load(Ordering::Relaxed);
        HeartbeatRequest { pop_id, epoch, calls, view_revision, unseen, ..<_>::default() }
    }
}

/// Beats to one node, again when the stream ends, until dropped.
async fn beat(channel: Channel, mut pop: Beating) {
    loop {
        let (beats, stream) = mpsc::channel(1);
        let beating = async {
            while beats.send(pop.beat()).await.is_ok() {
                // Who does not change its mind, or never will again, beats on.
                let _ = tokio::time::timeout(BEAT, async {
                    if pop.unseen.changed().await.is_err() {
                        std::future::pending::<()>().await;
                    }
                })
                .await;
            }
        };
        let answering = async {
            let mut pops = PopsClient::new(channel.clone());
            if let Ok(answers) = pops.heartbeat(ReceiverStream::new(stream)).await {
                let mut answers = answers.into_inner();
                while matches!(answers.message().await, Ok(Some(_))) {}
            }
        };
        tokio::select! {
            () = beating => {}
            () = answering => {}
        }
        tokio::time::sleep(BEAT).await;
    }
}

fn beats(cluster: &Cluster, epoch: u64) -> JoinSet<()> {
    let (_, pop) = Beating::new("fra1", epoch);
    beats_of(cluster, &pop)
}

fn beats_of(cluster: &Cluster, pop: &Beating) -> JoinSet<()> {
    let channels = cluster.alive().map(|node| cluster.channel(node, pop.pop_id));
    channels.map(|channel| beat(channel, pop.clone())).collect()
}

/// The wires of a host, one to each node: the kernel ends the connections of a process that died.
async fn wires(cluster: &Cluster) -> (JoinSet<()>, Vec<SocketAddr>) {
    let (mut wires, mut addresses) = (JoinSet::new(), Vec::new());
    for node in cluster.alive() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        addresses.push(listener.local_addr().unwrap());
        let to = node.api;
        wires.spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((mut near, _)) = listener.accept().await {
                open.spawn(async move {
                    let mut far = TcpStream::connect(to).await.unwrap();
                    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
                });
            }
        });
    }
    (wires, addresses)
}

async fn watch_all(cluster: &Cluster, node: &Node) -> Streaming<WatchResponse> {
    let mut client = WatchClient::new(cluster.channel(node, "anna"));
    client.watch(WatchRequest::default()).await.unwrap().into_inner()
}

/// The next change of this POP.
async fn changed(watch: &mut Streaming<WatchResponse>, pop_id: &str) -> Pop {
    loop {
        let Some(Item::Event(event)) = watch.message().await.unwrap().unwrap().kind else {
            continue;
        };
        let pop = event.changes.into_iter().find_map(|change| match change.kind {
            Some(change::Kind::Put(Resource { kind: Some(resource::Kind::Pop(pop)) })) => Some(pop),
            _ => None,
        });
        if let Some(pop) = pop.filter(|pop| pop.pop_id == pop_id) {
            return pop;
        }
    }
}

async fn all_hear(cluster: &Cluster, count: usize) {
    for node in cluster.alive() {
        eventually("every node hears the POPs", async || {
            let mut pops = PopsClient::new(cluster.channel(node, "anna"));
            let list = pops.list(ListPopsRequest::default()).await.ok()?.into_inner();
            let heard = list.pops.iter().filter(|pop| pop.silent_ms.is_some_and(|ms| ms < 1_000));
            (heard.count() == count).then_some(())
        })
        .await;
    }
}

/// The next time a watcher is told that the POP changed: whether it expired.
async fn told(watch: &mut Streaming<WatchResponse>) -> bool {
    loop {
        let Some(Item::Event(event)) = watch.message().await.unwrap().unwrap().kind else {
            continue;
        };
        assert_eq!(event.revision, event.prev_revision + 1);
        for change in event.changes {
            if let Some(change::Kind::Put(resource)) = change.kind
                && let Some(resource::Kind::Pop(pop)) = resource.kind
            {
                return pop.expired;
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_outlives_a_leader_expires_with_its_beats_and_returns() {
    let mut cluster = Cluster::start().await;
    let epoch = register(&cluster).await;
    let leader = cluster.leader().await;
    let survivor = cluster.alive().find(|node| node.id != leader).unwrap();
    let mut watch = WatchClient::new(cluster.channel(survivor, "anna"))
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let heard = beats(&cluster, epoch);
    for node in cluster.alive() {
        eventually("every node hears the POP", async || {
            let mut pops = PopsClient::new(cluster.channel(node, "anna"));
            let list = pops.list(ListPopsRequest::default()).await.ok()?.into_inner();
            list.pops[0].silent_ms.map(drop)
        })
        .await;
    }
    cluster.kill(leader);
    // A new leader writes: it had all the time to be wrong about the POP.
    let again = cluster.leader().await;
    assert_ne!(again, leader);
    drop(heard);
    assert!(told(&mut watch).await, "the first that happens to it is its end");
    let back = beats(&cluster, epoch);
    assert!(!told(&mut watch).await, "and then its return");

    // A registration is a return too, and a new life.
    drop(back);
    assert!(told(&mut watch).await);
    let node = cluster.alive().next().unwrap();
    let list = PopsClient::new(cluster.channel(node, "anna"));
    let list = list.clone().list(ListPopsRequest::default()).await.unwrap().into_inner();
    assert!(!list.pops[0].alive);
    cluster.kill_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pop_that_died_is_given_up_and_one_that_others_see_only_expires() {
    let cluster = Cluster::start().await;
    let mut others = Vec::new();
    for pop_id in ["iad1", "sin1"] {
        cluster.issue("ca", Kind::Pop, pop_id, "eu");
        let (says, pop) = Beating::new(pop_id, register_as(&cluster, pop_id, pop_id).await);
        others.push((says, beats_of(&cluster, &pop)));
    }
    let epoch = register(&cluster).await;
    let (_says, fra1) = Beating::new("fra1", epoch);
    let (wires, addresses) = wires(&cluster).await;
    let channels = addresses.iter().map(|address| cluster.channel_by(*address, "fra1"));
    let beating: JoinSet<()> = channels.map(|channel| beat(channel, fra1.clone())).collect();
    all_hear(&cluster, 3).await;
    // What a node that has just begun says counts for nothing.
    tokio::time::sleep(TTL * 2).await;

    let node = cluster.alive().next().unwrap();
    let mut watch = watch_all(&cluster, node).await;
    let died = Instant::now();
    drop((wires, beating));
    others.iter().for_each(|(says, _)| _ = says.send(vec!["fra1".into()]));
    let pop = changed(&mut watch, "fra1").await;
    println!("connections closed, others miss it: given up after {:?}", died.elapsed());
    assert!(pop.fenced && pop.expired && pop.epoch == epoch, "{pop:?}");

    // Its process, if it lives: it is told so by each node, and comes back as another.
    for node in cluster.alive() {
        let mut pops = PopsClient::new(cluster.channel(node, "fra1"));
        let beats = tokio_stream::iter([fra1.beat()]);
        let mut answers = pops.heartbeat(beats).await.unwrap().into_inner();
        let refused = answers.message().await.unwrap_err();
        let said = |key| refused.metadata().get(key).and_then(|value| value.to_str().ok());
        assert_eq!(said("voxmesh-reason"), Some("FENCED"), "{refused:?}");
        assert_eq!(said("voxmesh-verdict"), Some("fenced"));
        assert!(refused.message().contains("register anew"), "{refused:?}");
    }
    let again = register_as(&cluster, "fra1", "again").await;
    let pop = changed(&mut watch, "fra1").await;
    assert!(again == epoch + 1 && pop.epoch == again && !pop.fenced && !pop.expired);

    // One that the control plane does not hear, but the others see.
    others.iter().for_each(|(says, _)| _ = says.send(Vec::new()));
    let (says, fra1) = Beating::new("fra1", again);
    let beating = beats_of(&cluster, &fra1);
    all_hear(&cluster, 3).await;
    drop((beating, says));
    let pop = changed(&mut watch, "fra1").await;
    assert!(pop.expired && !pop.fenced, "{pop:?}");
    let silent = Instant::now();
    others.iter().for_each(|(says, _)| _ = says.send(vec!["fra1".into()]));
    let pop = changed(&mut watch, "fra1").await;
    println!("expired, then missed by the others: given up after {:?}", silent.elapsed());
    assert!(pop.fenced, "{pop:?}");
    drop(others);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_the_last_call_and_outlives_the_process() {
    let cluster = Cluster::start().await;
    let epoch = register(&cluster).await;
    let connection = cluster.connection("anna");
    let meshctl = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(&connection).args(arguments.split(' '));
        command
    };
    let run = |arguments: &str| {
        let output = meshctl(arguments).output().unwrap();
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), text)
    };
    let (code, text) = run("pop drain nowhere");
    assert!(code == Some(1) && text.contains("there is no POP \"nowhere\""), "{text}");
    let (code, text) = run("pop drain fra1 --dry-run");
    assert!(code == Some(0) && text.contains("dry run"), "{text}");
    let (code, text) = run("pop cordon fra1");
    assert!(code == Some(0) && text.contains("takes no new calls"), "{text}");
    let (_, text) = run("pop list");
    assert!(text.contains("alive, cordoned"), "{text}");

    let (_says, mut fra1) = Beating::new("fra1", epoch);
    let (calls, carried) = watch::channel(7);
    fra1.calls = carried;
    let view = fra1.view_revision.clone();
    let _beating = beats_of(&cluster, &fra1);
    all_hear(&cluster, 1).await;
    let (code, text) = run("pop drain fra1 --wait-at-most 1s");
    assert!(code == Some(1) && text.contains("still carries 7 calls"), "{text}");
    calls.send_replace(0);
    eventually("it carries no call", async || {
        let (_, text) = run("--output json pop list");
        let pops: serde_json::Value = serde_json::from_str(&text).unwrap();
        (pops[0]["calls"] == 0).then_some(())
    })
    .await;
    // But it does not know yet that it drains: one may begin.
    let draining = meshctl("--output json pop drain fra1").stdout(Stdio::piped()).spawn().unwrap();
    let end = std::thread::spawn(move || draining.wait_with_output().unwrap());
    tokio::time::sleep(BEAT * 5).await;
    assert!(!end.is_finished());
    view.store(u64::MAX, Ordering::Relaxed);
    let output = tokio::task::spawn_blocking(|| end.join().unwrap()).await.unwrap();
    let document: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&document["drained"], &document["calls"]), (&"fra1".into(), &0.into()));

    assert_eq!(register_as(&cluster, "fra1", "again").await, epoch + 1);
    let (_, text) = run("pop list");
    assert!(text.contains("alive, draining"), "{text}");
    let (code, text) = run("pop uncordon fra1");
    assert!(code == Some(0) && text.contains("takes calls again"), "{text}");
    let (_, text) = run("pops");
    assert!(text.contains("alive  "), "{text}");
    cluster.stop().await;
}
