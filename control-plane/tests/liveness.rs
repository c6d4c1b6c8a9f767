//! POPs expire when nobody hears them, return with their heartbeats, and outlive leaders.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::time::Duration;

use cluster::{Cluster, eventually};
use proto::control::pops_client::PopsClient;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind as Item;
use proto::control::{
    HeartbeatRequest, ListPopsRequest, Pop, RegisterPopRequest, WatchRequest, WatchResponse,
    WriteOptions, change, resource,
};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;
use tonic::transport::Channel;

/// As POPs do.
const BEAT: Duration = Duration::from_millis(500);

async fn register(cluster: &Cluster) -> u64 {
    let pop = Pop {
        pop_id: "fra1".into(),
        region: "eu".into(),
        overlay_address: "192.0.2.1:4433".into(),
        sip_addresses: vec!["udp:192.0.2.1:5060".into()],
        ..Pop::default()
    };
    let options = Some(WriteOptions { request_id: "register".into(), ..<_>::default() });
    let request = RegisterPopRequest { options, pop: Some(pop) };
    let ask = async |channel, request| PopsClient::new(channel).register(request).await;
    cluster.write(request, ask).await.pop.unwrap().epoch
}

/// Beats to one node, again when the stream ends, until dropped.
async fn beat(channel: Channel, epoch: u64) {
    loop {
        let (beats, stream) = mpsc::channel(1);
        let beat = HeartbeatRequest { pop_id: "fra1".into(), epoch, ..<_>::default() };
        let beating = async {
            while beats.send(beat.clone()).await.is_ok() {
                tokio::time::sleep(BEAT).await;
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
    let channels = cluster.alive().map(|node| cluster.channel(node, "fra1"));
    channels.map(|channel| beat(channel, epoch)).collect()
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
