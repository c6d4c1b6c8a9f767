//! Real processes come and go: a node joins, takes a dead one's place, leadership moves.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::process::Command;

use cluster::{Cluster, eventually};
use proto::control::numbers_client::NumbersClient;
use proto::control::{GetNumberRequest, ImportNumbersRequest, WriteOptions};
use serde_json::Value;

async fn import(cluster: &Cluster, id: &str, e164: &str) {
    let options = Some(WriteOptions { request_id: id.into(), ..<_>::default() });
    let e164 = vec![e164.to_owned()];
    let request = ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(request, ask).await;
}

/// What the operator's command prints, or why it refuses.
#[expect(clippy::unwrap_in_result, reason = "only refusals are an answer")]
fn meshctl(cluster: &Cluster, arguments: &str) -> Result<Value, String> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    command.args(cluster.connection("anna")).args(["--output", "json", "control"]);
    let output = command.args(arguments.split(' ')).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    if output.status.success() { Ok(serde_json::from_str(&text).unwrap()) } else { Err(text) }
}

/// Node id and role of each that is or was a member.
fn roles(cluster: &Cluster) -> Vec<(u64, String)> {
    let answer = meshctl(cluster, "members list").unwrap();
    let members = answer["members"].as_array().unwrap().iter();
    let role = |m: &Value| (m["node_id"].as_u64().unwrap(), m["role"].as_str().unwrap().into());
    members.map(role).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_node_takes_the_place_of_a_dead_one() {
    let mut cluster = Cluster::start().await;
    import(&cluster, "before", "+493023125000").await;
    let leader = cluster.leader().await;
    let dead = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(dead);

    cluster.join(4, "eu");
    eventually("node 4 learns", async || {
        roles(&cluster).contains(&(4, "learner".into())).then_some(())
    })
    .await;
    meshctl(&cluster, &format!("members replace {dead} 4")).unwrap();
    let voter = |id: u64| (id, if id == dead { "removed" } else { "voter" }.to_owned());
    eventually("node 4 votes", async || {
        (roles(&cluster) == (1..=4).map(voter).collect::<Vec<_>>()).then_some(())
    })
    .await;

    // It has what was written before it came, and the old one is told to go.
    import(&cluster, "after", "+493023125001").await;
    let new = cluster.alive().find(|node| node.id == 4).unwrap();
    for e164 in ["+493023125000", "+493023125001"] {
        let get = GetNumberRequest { e164: e164.into(), ..<_>::default() };
        NumbersClient::new(cluster.channel(new, "anna")).get(get).await.unwrap();
    }
    cluster.spawn(dead);
    eventually("the old one is told", async || {
        cluster.log(dead).contains("was removed from this cluster").then_some(())
    })
    .await;
    let refused = meshctl(&cluster, &format!("members promote {dead}")).unwrap_err();
    assert!(refused.contains("ILLEGAL_TRANSITION"), "{refused}");
    cluster.kill(dead);

    // Leadership moves when asked, and with the leader that is removed.
    meshctl(&cluster, "transfer-leader 4").unwrap();
    assert_eq!(cluster.leader().await, 4);
    meshctl(&cluster, "members remove 4").unwrap();
    assert_ne!(cluster.leader().await, 4);
    import(&cluster, "last", "+493023125002").await;
    let level = meshctl(&cluster, "members list").unwrap()["feature_level"].as_u64();
    assert_eq!(level, Some(control_core::replica::LEVELS.1.into()));
    cluster.kill_all();
}
