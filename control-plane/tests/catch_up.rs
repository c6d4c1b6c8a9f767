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

#[tokio::test(flavor = "multi_thread")]
async fn a_node_far_behind_goes_on_where_the_connection_broke() {
    // No elections on a busy machine: another leader has another file.
    let slow = |_: &std::path::Path| "[timers]\ntick = \"250ms\"\n".to_owned();
    let mut cluster = Cluster::start_with(slow).await;
    for batch in 0..BATCHES {
        import(&cluster, batch).await;
    }
    let leader = cluster.leader().await;
    let of_leader = cluster.alive().find(|node| node.id == leader).unwrap();
    let term = async |cluster: &Cluster, node: &Node| {
        let mut admin = AdminClient::new(cluster.channel(node, "anna"));
        admin.status(StatusRequest {}).await.unwrap().into_inner().header.unwrap().term
    };
    let before = term(&cluster, of_leader).await;

    let front = Front::new(1, 2 * MIB).await;
    cluster.join_behind(4, "eu", Some(&front));
    let new = cluster.alive().find(|node| node.id == 4).unwrap();
    eventually("node 4 has all", async || {
        let e164 = format!("+493012{:06}", 2 * (BATCH * BATCHES - 1));
        let local = ReadConsistency::Local.into();
        let get = GetNumberRequest { e164, consistency: local, ..<_>::default() };
        NumbersClient::new(cluster.channel(new, "anna")).get(get).await.ok()
    })
    .await;

    let taken = counter(new, "control_snapshot_bytes_total");
    let connections = front.brought(MIB / 2);
    println!("tables of {taken} bytes came over connections of {connections:?} bytes");
    let [first, second] = connections.as_slice() else {
        panic!("one cut, so two connections: {connections:?}\n{}", cluster.log(leader))
    };
    assert!(taken > 5 * MIB / 2 && *first > 2 * MIB, "the test is too small: {taken}");
    // All but what was under way had arrived: it did not come again.
    assert!(*second < taken - MIB + MIB / 4, "{second} of {taken} bytes came again");
    let of_leader = cluster.alive().find(|node| node.id == leader).unwrap();
    assert_eq!(counter(of_leader, "control_snapshot_retries_total"), 1);
    assert_eq!(term(&cluster, of_leader).await, before, "no election meanwhile");
    cluster.stop().await;
}
