//! Three real processes with certificates made for the run: writes, a leader killed, a restart of
//! all; nothing acknowledged is lost.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test: a panic is its verdict"
)]

mod cluster;

use std::collections::BTreeMap;
use std::process::Command;

use cluster::{Cluster, Node, eventually};
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::pops_client::PopsClient;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind as Item;
use proto::control::{
    AllocateNumberRequest, GetNumberRequest, HeartbeatRequest, ImportNumbersRequest,
    ListNumbersRequest, ListPopsRequest, Number, Pop, ReadConsistency, RegisterPopRequest,
    WatchRequest, WriteOptions,
};
use tonic::{Code, Status};

const POOL: &str = "berlin";

fn options(id: &str) -> Option<WriteOptions> {
    Some(WriteOptions { request_id: id.to_owned(), ..<_>::default() })
}

fn reason(status: &Status) -> &str {
    status.metadata().get("voxmesh-reason").map_or("", |reason| reason.to_str().unwrap())
}

async fn import(cluster: &Cluster, count: u32) {
    let e164 = (0..count).map(|n| format!("+4930{}", 23_125_000 + n)).collect();
    let request = ImportNumbersRequest {
        options: options("import"),
        pool: POOL.into(),
        e164,
        ..<_>::default()
    };
    let answer = cluster
        .write(request, async |channel, request| NumbersClient::new(channel).import(request).await)
        .await;
    assert_eq!(answer.imported, count);
}

async fn allocate(cluster: &Cluster, id: &str) -> Number {
    let request = AllocateNumberRequest {
        options: options(id),
        tenant: format!("tenant-{id}"),
        which: Some(Which::AnyOfPool(POOL.into())),
        candidates: Vec::new(),
        ..<_>::default()
    };
    let ask = async |channel, request| NumbersClient::new(channel).allocate(request).await;
    cluster.write(request, ask).await.number.unwrap()
}

/// Every active number and its owner, as `node` has it.
async fn owned(
    cluster: &Cluster,
    node: &Node,
    consistency: ReadConsistency,
) -> BTreeMap<String, String> {
    let request = ListNumbersRequest { consistency: consistency.into(), ..<_>::default() };
    let channel = cluster.channel(node, "anna");
    let answer = NumbersClient::new(channel).list(request).await.unwrap().into_inner();
    let active = answer.numbers.into_iter().filter(|number| !number.tenant.is_empty());
    active.map(|number| (number.e164, number.tenant)).collect()
}

#[tokio::test]
async fn nothing_acknowledged_is_lost() {
    let mut cluster = Cluster::start().await;
    import(&cluster, 60).await;
    let mut acknowledged = BTreeMap::new();
    for n in 0..20 {
        let number = allocate(&cluster, &format!("a{n}")).await;
        acknowledged.insert(number.e164, number.tenant);
    }
    assert_eq!(acknowledged.len(), 20, "each request its own number");

    let leader = cluster.leader().await;
    cluster.kill(leader);
    let killed = std::time::Instant::now();
    let number = allocate(&cluster, "after-kill").await; // Waits as long as is bearable, no longer.
    println!("a write after the leader was killed took {:?}", killed.elapsed());
    acknowledged.insert(number.e164.clone(), number.tenant);
    // The same request again: the same answer, no second number.
    assert_eq!(allocate(&cluster, "after-kill").await.e164, number.e164);
    for n in 0..20 {
        let number = allocate(&cluster, &format!("b{n}")).await;
        acknowledged.insert(number.e164, number.tenant);
    }
    for node in cluster.alive() {
        let seen = owned(&cluster, node, ReadConsistency::Linearizable).await;
        assert_eq!(seen, acknowledged, "node {}", node.id);
    }

    cluster.kill_all();
    cluster.start_all();
    cluster.ready().await;
    for node in cluster.alive() {
        let seen = owned(&cluster, node, ReadConsistency::Linearizable).await;
        assert_eq!(seen, acknowledged, "node {} after the restart", node.id);
    }
    assert_eq!(allocate(&cluster, "after-kill").await.e164, number.e164, "remembered for days");
    let rss = cluster.resident_kib();
    println!("resident memory: {rss:?} KiB");
    cluster.stop().await;
}

#[tokio::test]
async fn a_paused_leader_is_replaced_and_never_answers_from_the_past() {
    let mut cluster = Cluster::start().await;
    import(&cluster, 3).await;
    let leader = cluster.leader().await;
    cluster.pause(leader);
    let number = allocate(&cluster, "meanwhile").await;
    cluster.resume(leader);
    let node = cluster.alive().find(|node| node.id == leader).unwrap();
    let seen = owned(&cluster, node, ReadConsistency::Linearizable).await;
    assert_eq!(seen.get(&number.e164), Some(&number.tenant));
    cluster.stop().await;
}

#[tokio::test]
async fn a_pop_registers_beats_and_watches() {
    let cluster = Cluster::start().await;
    let pop = Pop { pop_id: "fra1".into(), region: "eu".into(), ..<_>::default() };
    let pop = Pop { overlay_address: "127.0.0.1:4433".into(), ..pop };
    let node = cluster.alive().next().unwrap();
    let channel = cluster.channel(node, "fra1");
    let mut pops = PopsClient::new(channel.clone());
    let register =
        |id: &str, pop: &Pop| RegisterPopRequest { options: options(id), pop: Some(pop.clone()) };
    let registered = pops.register(register("r1", &pop)).await.unwrap().into_inner();
    assert_eq!(registered.pop.map(|pop| pop.epoch), Some(1));
    let registered = pops.register(register("r2", &pop)).await.unwrap().into_inner();
    assert_eq!(registered.pop.map(|pop| pop.epoch), Some(2));

    // For itself only.
    let other = Pop { pop_id: "sin1".into(), ..pop.clone() };
    let refused = pops.register(register("r3", &other)).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::PermissionDenied, "PERMISSION_DENIED"));
    let import = ImportNumbersRequest { options: options("x"), ..<_>::default() };
    let refused = NumbersClient::new(channel.clone()).import(import).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);

    // A snapshot, then every change.
    let mut watch = WatchClient::new(channel.clone())
        .watch(WatchRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = watch.message().await.unwrap().unwrap();
    let Some(Item::Snapshot(part)) = &first.kind else { panic!("{first:?}") };
    assert!(part.last && part.resources.len() == 1, "{part:?}");
    let revision = part.revision;
    let registered = pops.register(register("r4", &pop)).await.unwrap().into_inner();
    let event = loop {
        let message = watch.message().await.unwrap().unwrap();
        if let Some(Item::Event(event)) = message.kind {
            break event;
        }
    };
    assert_eq!(event.prev_revision, revision);
    assert_eq!(Some(event.revision), registered.header.map(|header| header.revision));

    // Resumed on another node; another cluster's revision is refused.
    let elsewhere = cluster.alive().last().unwrap();
    let mut elsewhere = WatchClient::new(cluster.channel(elsewhere, "fra1"));
    let resume =
        WatchRequest { from_revision: revision, cluster_id: first.cluster_id.clone(), group: 0 };
    let mut resumed = elsewhere.watch(resume).await.unwrap().into_inner();
    let message = resumed.message().await.unwrap().unwrap();
    assert_eq!(message.kind, Some(Item::Event(event)));
    let foreign = WatchRequest { from_revision: revision, cluster_id: "another".into(), group: 0 };
    let mut refused = elsewhere.watch(foreign).await.unwrap().into_inner();
    let refused = refused.message().await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::OutOfRange, "REVISION_COMPACTED"));

    heartbeats(&cluster, node, registered.pop.unwrap().epoch).await;
    cluster.stop().await;
}

async fn heartbeats(cluster: &Cluster, node: &Node, epoch: u64) {
    let mut pops = PopsClient::new(cluster.channel(node, "fra1"));
    let beat = |pop_id: &str, epoch| HeartbeatRequest {
        pop_id: pop_id.into(),
        epoch,
        calls: 7,
        view_revision: 1,
        answers: Vec::new(),
        unseen: Vec::new(),
    };
    let beats = tokio_stream::iter([beat("fra1", epoch)]);
    let mut answers = pops.heartbeat(beats).await.unwrap().into_inner();
    assert!(answers.message().await.unwrap().unwrap().revision > 0);
    let list = pops.list(ListPopsRequest::default()).await.unwrap().into_inner();
    let entry = list.pops.first().unwrap();
    assert_eq!((entry.alive, entry.calls), (true, 7));
    for (wrong, expected) in
        [(beat("fra1", epoch - 1), "FENCED"), (beat("sin1", epoch), "PERMISSION_DENIED")]
    {
        let mut answers = pops.heartbeat(tokio_stream::iter([wrong])).await.unwrap().into_inner();
        assert_eq!(reason(&answers.message().await.unwrap_err()), expected);
    }
}

#[tokio::test]
async fn strangers_and_bad_requests_are_refused() {
    let cluster = Cluster::start().await;
    let node = cluster.alive().next().unwrap();
    cluster.issue_foreign();
    let mut numbers = NumbersClient::new(cluster.channel(node, "foreign"));
    let get = GetNumberRequest { e164: "+493023125000".into(), ..<_>::default() };
    let refused = numbers.get(get.clone()).await.unwrap_err();
    assert!(refused.code() != Code::Ok && reason(&refused).is_empty(), "TLS refuses: {refused}");

    let mut numbers = NumbersClient::new(cluster.channel(node, "anna"));
    let refused = numbers.get(get).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::NotFound, "NOT_FOUND"));
    let bad = GetNumberRequest { e164: "030 1234".into(), ..<_>::default() };
    assert_eq!(numbers.get(bad).await.unwrap_err().code(), Code::InvalidArgument);
    let import = |id: &str, number: &str| ImportNumbersRequest {
        options: options(id),
        pool: POOL.into(),
        e164: vec![number.into()],
        ..<_>::default()
    };
    let refused = numbers.import(import("", "+493023125000")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::InvalidArgument, "INVALID"));
    numbers.import(import("once", "+493023125000")).await.unwrap();
    let refused = numbers.import(import("once", "+493023125001")).await.unwrap_err();
    assert_eq!(reason(&refused), "IDEMPOTENCY_KEY_REUSED");
    let refused = numbers.import(import("twice", "+493023125000")).await.unwrap_err();
    assert_eq!((refused.code(), reason(&refused)), (Code::AlreadyExists, "ALREADY_EXISTS"));

    // Only members speak raft; an operator is none.
    let mut peer = proto::raft::peer_client::PeerClient::new(cluster.channel(node, "anna"));
    let refused = peer.propose(proto::raft::ProposeRequest::default()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    cluster.stop().await;
}

#[tokio::test]
async fn a_wiped_node_may_not_vote() {
    let mut cluster = Cluster::start().await;
    import(&cluster, 1).await;
    let leader = cluster.leader().await;
    let follower = cluster.alive().map(|node| node.id).find(|id| *id != leader).unwrap();
    cluster.kill(follower);
    cluster.wipe(follower);
    cluster.spawn(follower);
    let log = eventually("the wiped node is refused", async || {
        let log = cluster.log(follower);
        log.contains("member refuses this node").then_some(log)
    })
    .await;
    assert!(log.contains("came with another data_dir than before"), "{log}");
    // The other two go on without it.
    allocate(&cluster, "without").await;
    cluster.kill_all();
}

#[tokio::test]
async fn the_operators_command_does_it_all() {
    let cluster = Cluster::start().await;
    let meshctl = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
        command.args(cluster.connection("anna")).args(arguments.split(' '));
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.code(), String::from_utf8(text).unwrap())
    };
    let json = |arguments: &str| {
        let (code, text) = meshctl(&format!("--output json {arguments}"));
        assert_eq!(code, Some(0), "{arguments}: {text}");
        serde_json::from_str::<serde_json::Value>(&text).unwrap()
    };
    let status = json("status");
    assert_eq!(
        (&status["healthy"], status["nodes"].as_array().map(Vec::len)),
        (&true.into(), Some(3))
    );

    json("trunks put telco --pop fra1 --host 192.0.2.9 --source 192.0.2.0/28 --codec PCMA,opus");
    json("routes put world --to telco:0:10");
    assert_eq!(json("trunks list")[0]["codecs"][1], "opus");
    assert_eq!(json("routes list --local")[0]["candidates"][0]["weight"], 10);
    let (code, text) = meshctl("trunks delete telco");
    assert!(code == Some(1) && text.contains("IN_USE"), "{text}");
    json("numbers import --pool berlin +493023125000 +493023125001");
    let number = json("numbers allocate --any berlin --tenant acme --to telco");
    assert_eq!((&number["e164"], &number["state"]), (&"+493023125000".into(), &"active".into()));
    assert_eq!(json("numbers get +493023125000")["tenant"], "acme");
    let number = json("numbers release +493023125000 --tenant acme");
    assert_eq!(number["state"], "quarantine");
    assert_eq!(json("numbers list --state available").as_array().map(Vec::len), Some(1));
    let (code, text) = meshctl("numbers list");
    assert!(code == Some(0) && text.starts_with("NUMBER         STATE"), "{text}");
    json("routes delete world");
    json("trunks delete telco");
    assert_eq!(json("pops"), serde_json::json!([]));
    let (code, text) = meshctl("completions bash");
    assert!(code == Some(0) && text.contains("meshctl"), "{text}");
    let (code, text) = meshctl("numbers get +493023125009");
    assert!(code == Some(1) && text.contains("NOT_FOUND: "), "{text}");
    cluster.stop().await;
}
