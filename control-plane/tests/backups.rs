//! Backups of a running cluster, and a revision between two of them.
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

use cluster::tools::{control, restore};
use cluster::{Cluster, eventually};
use proto::control::numbers_client::NumbersClient;
use proto::control::{ImportNumbersRequest, ListNumbersRequest, ReadConsistency, WriteOptions};
use serde_json::Value;

async fn import(cluster: &Cluster, last: u32) -> u64 {
    let options = Some(WriteOptions { request_id: format!("import-{last}"), ..<_>::default() });
    let e164 = vec![format!("+49302312{last:04}")];
    let request = ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(request, ask).await.header.unwrap().revision
}

/// All numbers, as a majority has them.
async fn listed(cluster: &Cluster) -> Vec<String> {
    let consistency = ReadConsistency::Linearizable.into();
    let request = ListNumbersRequest { consistency, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).list(request).await;
    let numbers = cluster.write(request, ask).await.numbers;
    numbers.into_iter().map(|number| number.e164).collect()
}

/// Where node 1 keeps its archive, when all three have begun one.
async fn archives(target: &Path) -> PathBuf {
    eventually("all nodes keep an archive", async || {
        let of_cluster = std::fs::read_dir(target).ok()?.next()?.ok()?.path();
        let is_whole =
            |path: &Path| path.extension().is_none() && path.join("manifest.json").exists();
        let has_tables = |node: u64| {
            let there = std::fs::read_dir(of_cluster.join(format!("node-{node}")));
            there.is_ok_and(|mut all| all.any(|entry| entry.is_ok_and(|e| is_whole(&e.path()))))
        };
        (1..=3).all(has_tables).then(|| of_cluster.join("node-1"))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_cluster_is_saved_and_any_revision_comes_back() {
    let archive =
        |dir: &Path| format!("[backup]\ntarget = {:?}\nevery = \"100ms\"\n", dir.join("archive"));
    let mut cluster = Cluster::start_with(archive).await;
    let path = |name: &str| cluster.path().join(name);
    let (saved, archive) = (path("saved"), path("archive"));
    import(&cluster, 0).await;
    let first = import(&cluster, 1).await;

    // From whichever node answers; tables follow the log by two seconds at most.
    let manifest = eventually("a backup with both numbers", async || {
        let _ = std::fs::remove_dir_all(&saved);
        let taken = control(&cluster, &["backup", "--to", saved.to_str().unwrap()]).unwrap();
        (taken["revision"].as_u64().unwrap() >= first).then_some(taken)
    })
    .await;
    let again = control(&cluster, &["backup", "--to", saved.to_str().unwrap()]).unwrap_err();
    assert!(again.contains("is there already"), "{again}");
    let stranger = Command::new(env!("CARGO_BIN_EXE_meshctl"))
        .args(cluster.connection("portal"))
        .args(["control", "backup", "--to", path("stolen").to_str().unwrap()])
        .output()
        .unwrap();
    let said = String::from_utf8(stranger.stderr).unwrap();
    assert!(stranger.status.code() == Some(1) && said.contains("PERMISSION_DENIED"), "{said}");
    assert!(!path("stolen").exists());

    let between = import(&cluster, 2).await;
    let then = listed(&cluster).await;
    for last in 3..8 {
        import(&cluster, last).await;
    }
    let node_1 = archives(&archive).await;
    let wanted = between.to_string();
    let to_revision = ["--to-revision", wanted.as_str()];
    let trial = path("trial");
    let restored = eventually("the log is shipped", async || {
        restore(&cluster, &node_1, 1, &trial, &to_revision).ok()
    })
    .await;
    assert_eq!(restored["revision"].as_u64(), Some(between));
    let several = restore(&cluster, &archive, 1, &path("other"), &to_revision).unwrap_err();
    assert!(several.contains("several archives"), "{several}");
    let beyond = restore(&cluster, &node_1, 1, &path("other"), &["--to-revision", "1000000"]);
    assert!(beyond.unwrap_err().contains("the log behind it is not there"));
    let verified = control(&cluster, &["verify", "--data-dir", trial.to_str().unwrap()]).unwrap();
    assert_eq!(verified["revision"].as_u64(), Some(between + 1_000_000_000));

    // The online backup holds what was there when it was made, and no more.
    restore(&cluster, &saved, 1, &path("from-saved"), &[]).unwrap();
    let verified = path("from-saved");
    let verified =
        control(&cluster, &["verify", "--data-dir", verified.to_str().unwrap()]).unwrap();
    let made = manifest["revision"].as_u64().unwrap();
    assert_eq!(verified["revision"].as_u64(), Some(made + 1_000_000_000));

    cluster.kill_all();
    for id in 1..=3 {
        cluster.wipe(id);
        restore(&cluster, &node_1, id, &cluster.data_dir(id), &to_revision).unwrap();
    }
    cluster.start_all();
    cluster.ready().await;
    assert_eq!(listed(&cluster).await, then, "as it was at revision {between}");
    assert_eq!(then.len(), 3);
    let more = import(&cluster, 9).await;
    assert!(more > between + 1_000_000_000, "no watcher goes on by chance: {more}");
    cluster.stop().await;
}

/// Node id and role of each member the cluster knows.
fn roles(cluster: &Cluster) -> Vec<(u64, String)> {
    let answer = control(cluster, &["members", "list"]).unwrap();
    let members = answer["members"].as_array().unwrap().iter();
    let role = |m: &Value| (m["node_id"].as_u64().unwrap(), m["role"].as_str().unwrap().into());
    members.map(role).collect()
}

/// Starts what was restored or recovered: it elects, has all numbers, and writes.
async fn goes_on(cluster: &mut Cluster, ids: &[u64], numbers: &[String], last: u32) {
    ids.iter().for_each(|id| cluster.spawn(*id));
    cluster.ready().await;
    assert_eq!(listed(cluster).await, numbers);
    import(cluster, last).await;
    let voters: Vec<_> = ids.iter().map(|id| (*id, String::from("voter"))).collect();
    eventually("these are the members, and no others", async || {
        (roles(cluster) == voters).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_with_a_node_that_joined_begins_anew_elsewhere() {
    let mut cluster = Cluster::start().await;
    import(&cluster, 0).await;
    cluster.join(4, "eu");
    let wait = async |cluster: &Cluster, role: &str| {
        eventually(role, async || roles(cluster).contains(&(4, role.into())).then_some(())).await;
    };
    wait(&cluster, "learner").await;
    eventually("node 4 caught up", async || control(&cluster, &["members", "promote", "4"]).ok())
        .await;
    wait(&cluster, "voter").await;
    import(&cluster, 1).await;
    let saved = cluster.path().join("saved");
    control(&cluster, &["backup", "--to", saved.to_str().unwrap()]).unwrap();
    let numbers = listed(&cluster).await;
    cluster.kill_all();

    let ids = [1, 2, 4];
    cluster.move_away(&ids);
    for id in ids {
        cluster.wipe(id);
        restore(&cluster, &saved, id, &cluster.data_dir(id), &["--voters", "1,2,4"]).unwrap();
    }
    goes_on(&mut cluster, &ids, &numbers, 2).await;

    // Two of the three are lost, the one that joined is left.
    let numbers = listed(&cluster).await;
    cluster.kill_all();
    let (plan, dir) = (cluster.path().join("plan.json"), cluster.data_dir(4));
    let (plan, dir) = (plan.to_str().unwrap(), dir.to_str().unwrap());
    control(&cluster, &["recover", "--plan", plan, "--data-dir", dir]).unwrap();
    control(&cluster, &["recover", "--apply", plan, "--data-dir", dir]).unwrap();
    cluster.move_away(&[4]);
    goes_on(&mut cluster, &[4], &numbers, 3).await;
    cluster.stop().await;
}
