//! This version beside the one before it: log, snapshots and API both ways, and the upgrade of a
//! running cluster, node by node.
//!
//! The version before is the newest release tag (`vX.Y.Z`) below this version, built from its
//! sources into `target/previous`. As long as there is none, this version stands in for it, held at
//! the feature level before the newest.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::print_stdout,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{Cluster, Program, eventually};
use control_core::replica::LEVELS;
use proto::control::cluster_client::ClusterClient;
use proto::control::numbers_client::NumbersClient;
use proto::control::{
    GetNumberRequest, ImportNumbersRequest, ListMembersRequest, MemberRole, ReadConsistency,
    TransferLeaderRequest, WriteOptions,
};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

fn version(text: &str) -> Option<[u32; 3]> {
    let mut parts = text.split('.').map(|part| part.parse().ok());
    let version = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(version)
}

/// The newest of these tags below `current`.
fn newest_below<'a>(tags: impl Iterator<Item = &'a str>, current: &str) -> Option<&'a str> {
    let current = version(current)?;
    let released = tags.filter_map(|tag| Some((version(tag.strip_prefix('v')?)?, tag)));
    released.filter(|(version, _)| *version < current).max().map(|(_, tag)| tag)
}

#[test]
fn the_release_before_this_version_is_found_among_tags() {
    let tags = ["v0.9.0", "v0.10.1", "v1.0.0", "v0.10.2-rc1", "nightly", "v1.1"];
    assert_eq!(newest_below(tags.into_iter(), "1.0.0"), Some("v0.10.1"));
    assert_eq!(newest_below(tags.into_iter(), "1.0.1"), Some("v1.0.0"));
    assert_eq!(newest_below(tags.into_iter(), "0.9.0"), None);
}

fn run(command: &mut Command) {
    let output = command.output().unwrap();
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Builds a release, once.
fn build(tag: &str) -> PathBuf {
    let dir = root().join("target/previous").join(tag);
    let program = dir.join("target/debug/control-plane");
    if !program.exists() {
        std::fs::create_dir_all(&dir).unwrap();
        let archive = dir.join("sources.tar");
        run(Command::new("git")
            .current_dir(root())
            .args(["archive", "--output"])
            .arg(&archive)
            .arg(tag));
        run(Command::new("tar").current_dir(&dir).arg("xf").arg(&archive));
        let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
        run(Command::new(cargo)
            .current_dir(&dir)
            .env("CARGO_TARGET_DIR", dir.join("target"))
            .args(["build", "--locked", "-p", "control-plane", "--bin", "control-plane"]));
    }
    program
}

fn previous() -> Program {
    let tags = Command::new("git").current_dir(root()).args(["tag", "--list", "v*"]).output();
    let tags = tags.map(|tags| String::from_utf8_lossy(&tags.stdout).into_owned());
    match newest_below(tags.unwrap_or_default().lines(), env!("CARGO_PKG_VERSION")) {
        Some(tag) => {
            println!("the version before is {tag}");
            Program { path: build(tag), level_max: None }
        }
        None => {
            let level_max = Some(LEVELS.1 - 1);
            println!("no release before this version: it stands in itself, at {level_max:?}");
            Program { level_max, ..Program::current() }
        }
    }
}

/// A write through each node, and the read of all of them there.
async fn works(cluster: &Cluster, written: &mut Vec<String>) {
    let ids: Vec<u64> = cluster.alive().map(|node| node.id).collect();
    for id in ids {
        let e164 = format!("+4930231{:05}", written.len());
        let request = ImportNumbersRequest {
            options: Some(WriteOptions { request_id: format!("import-{e164}"), ..<_>::default() }),
            pool: "berlin".into(),
            e164: vec![e164.clone()],
            ..<_>::default()
        };
        let node = cluster.alive().find(|node| node.id == id).unwrap();
        eventually(&format!("node {id} takes a write"), async || {
            let mut numbers = NumbersClient::new(cluster.channel(node, "anna"));
            numbers.import(request.clone()).await.ok()
        })
        .await;
        written.push(e164);
    }
    for node in cluster.alive() {
        for e164 in written.iter() {
            let get = GetNumberRequest { e164: e164.clone(), ..<_>::default() };
            eventually(&format!("node {} has {e164}", node.id), async || {
                NumbersClient::new(cluster.channel(node, "anna")).get(get.clone()).await.ok()
            })
            .await;
        }
    }
}

/// Leadership goes to this node.
async fn lead(cluster: &Cluster, node_id: u64) {
    eventually(&format!("node {node_id} leads"), async || {
        let leader = cluster.leader().await;
        if leader == node_id {
            return Some(());
        }
        let node = cluster.alive().find(|node| node.id == leader)?;
        let mut client = ClusterClient::new(cluster.channel(node, "anna"));
        // It may not be up to date yet, or another one took over: asked again.
        let _ = client.transfer_leader(TransferLeaderRequest { node_id }).await;
        None
    })
    .await;
}

async fn level_now(cluster: &Cluster) -> u32 {
    let node = cluster.alive().next().unwrap();
    let mut client = ClusterClient::new(cluster.channel(node, "anna"));
    let answer = client.list_members(ListMembersRequest::default()).await.unwrap();
    answer.into_inner().feature_level
}

/// What each node itself says of the feature level, once all say `level`.
async fn level(cluster: &Cluster, level: u32) {
    for node in cluster.alive() {
        eventually(&format!("node {} is at level {level}", node.id), async || {
            let local = ReadConsistency::Local.into();
            let request = ListMembersRequest { consistency: local, read: None };
            let mut client = ClusterClient::new(cluster.channel(node, "anna"));
            let answer = client.list_members(request).await.ok()?.into_inner();
            (answer.feature_level == level).then_some(())
        })
        .await;
    }
}

async fn learns(cluster: &Cluster, id: u64) {
    let node = cluster.alive().find(|node| node.id == id).unwrap();
    eventually(&format!("node {id} has caught up"), async || {
        let mut client = ClusterClient::new(cluster.channel(node, "anna"));
        let request = ListMembersRequest::default();
        let members = client.list_members(request).await.ok()?.into_inner().members;
        members.iter().any(|m| m.node_id == id && m.role() == MemberRole::Learner).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_is_upgraded_node_by_node() {
    let (old, new) = (previous(), Program::current());
    let mut cluster = Cluster::start_as(&old).await;
    let mut written = Vec::new();
    works(&cluster, &mut written).await;
    let before = old.level_max.unwrap_or(level_now(&cluster).await);
    level(&cluster, before).await;

    // One of three is new: it follows and forwards, then it leads those before it.
    lead(&cluster, 2).await;
    cluster.kill(1);
    cluster.run_as(1, &new);
    cluster.spawn(1);
    works(&cluster, &mut written).await;
    // A snapshot of the old version for a new node, and the other way round.
    cluster.join_as(4, "eu", &new);
    learns(&cluster, 4).await;
    lead(&cluster, 1).await;
    cluster.join_as(5, "eu", &old);
    learns(&cluster, 5).await;
    works(&cluster, &mut written).await;
    level(&cluster, before).await;

    // All are new: the level rises by itself.
    for id in [2, 3, 5] {
        cluster.kill(id);
        cluster.run_as(id, &new);
        cluster.spawn(id);
        works(&cluster, &mut written).await;
    }
    level(&cluster, LEVELS.1).await;

    if before == LEVELS.1 {
        return cluster.kill_all();
    }
    // From here on there is no way back, and the data says so.
    cluster.kill(3);
    cluster.run_as(3, &old);
    cluster.spawn(3);
    // At the start, or where the log says it: tables follow the log at a distance.
    let refusals = ["this data is at feature level", "raises the feature level to"];
    eventually("the old version refuses newer data", async || {
        let log = cluster.log(3);
        refusals.iter().any(|refusal| log.contains(refusal)).then_some(())
    })
    .await;
    cluster.kill(3);
    works(&cluster, &mut written).await;
    cluster.kill_all();
}
