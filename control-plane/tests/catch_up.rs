//! A real node that is far behind gets all tables over a connection that breaks in the middle.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use cluster::{Cluster, Front, Node, eventually, metrics};
use proto::control::admin_client::AdminClient;
use proto::control::numbers_client::NumbersClient;
use proto::control::{
    GetNumberRequest, ImportNumbersRequest, ReadConsistency, StatusRequest, WriteOptions,
};

const MIB: u64 = 1024 * 1024;
const BATCH: u32 = 10_000;
const BATCHES: u32 = 9;

async fn import(cluster: &Cluster, batch: u32) {
    let options = Some(WriteOptions { request_id: format!("import-{batch}"), ..<_>::default() });
    // Every second one: neighbours would be one block.
    let e164 = (batch * BATCH..(batch + 1) * BATCH).map(|n| format!("+493012{:06}", 2 * n));
    let e164 = e164.collect();
    let request = ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(request, ask).await;
}

fn counter(node: &Node, name: &str) -> u64 {
    let text = metrics(node);
    let line = text.lines().find(|line| line.starts_with(&format!("{name} ")));
    line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
}

async fn term(cluster: &Cluster, id: u64) -> u64 {
    let node = cluster.alive().find(|node| node.id == id).unwrap();
    let mut admin = AdminClient::new(cluster.channel(node, "anna"));
    admin.status(StatusRequest {}).await.unwrap().into_inner().header.unwrap().term
}

/// What it took for an empty node to have everything, over a connection that is cut once.
struct Taken {
    /// Bytes of the tables.
    bytes: u64,
    /// Bytes of each connection that brought much.
    connections: Vec<u64>,
    /// Tries that the leader repeated.
    retries: u64,
}

/// `None`: another leader was elected meanwhile. It has another file, so the member begins anew.
async fn catch_up(cluster: &mut Cluster, id: u64) -> Option<Taken> {
    let leader = cluster.leader().await;
    let before = term(cluster, leader).await;
    let retries = |cluster: &Cluster| {
        let of_leader = cluster.alive().find(|node| node.id == leader).unwrap();
        counter(of_leader, "control_snapshot_retries_total")
    };
    let retried = retries(cluster);
    let front = Front::new(1, 2 * MIB).await;
    cluster.join_behind(id, "eu", Some(&front));
    let new = cluster.alive().find(|node| node.id == id).unwrap();
    eventually(&format!("node {id} has all"), async || {
        let e164 = format!("+493012{:06}", 2 * (BATCH * BATCHES - 1));
        let local = ReadConsistency::Local.into();
        let get = GetNumberRequest { e164, consistency: local, ..<_>::default() };
        NumbersClient::new(cluster.channel(new, "anna")).get(get).await.ok()
    })
    .await;
    let bytes = counter(new, "control_snapshot_bytes_total");
    let (connections, retries) = (front.brought(MIB / 2), retries(cluster) - retried);
    println!("tables of {bytes} bytes came over connections of {connections:?} bytes");
    let calm = term(cluster, leader).await == before;
    calm.then_some(Taken { bytes, connections, retries })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_far_behind_goes_on_where_the_connection_broke() {
    // Few elections on a busy machine.
    let slow = |_: &std::path::Path| "[timers]\ntick = \"250ms\"\n".to_owned();
    let mut cluster = Cluster::start_with(slow).await;
    for batch in 0..BATCHES {
        import(&cluster, batch).await;
    }
    let mut taken = None;
    for id in 4..8 {
        taken = catch_up(&mut cluster, id).await;
        if taken.is_some() {
            break;
        }
    }
    let Taken { bytes, connections, retries } = taken.expect("an election each time");
    let [first, second] = connections.as_slice() else {
        panic!("one cut, so two connections: {connections:?}")
    };
    assert!(bytes > 5 * MIB / 2 && *first > 2 * MIB, "the test is too small: {bytes}");
    // All but what was under way had arrived: it did not come again.
    assert!(*second < bytes - MIB + MIB / 4, "{second} of {bytes} bytes came again");
    assert_eq!(retries, 1);
    cluster.stop().await;
}
