//! Real nodes whose disks lost something: bit rot, and a majority of disks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use cluster::{Cluster, Node, eventually};
use proto::control::numbers_client::NumbersClient;
use proto::control::{ImportNumbersRequest, ListNumbersRequest, ReadConsistency, WriteOptions};
use serde_json::Value;

async fn import(cluster: &Cluster, last: u32) {
    let options = Some(WriteOptions { request_id: format!("import-{last}"), ..<_>::default() });
    let e164 = vec![format!("+49302312{last:04}")];
    let request = ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(request, ask).await;
}

/// How many numbers this node has, once it has all that was acknowledged.
async fn count(cluster: &Cluster, node: &Node) -> usize {
    eventually("the node answers a linearizable read", async || {
        let consistency = ReadConsistency::Linearizable.into();
        let request = ListNumbersRequest { consistency, ..<_>::default() };
        let mut client = NumbersClient::new(cluster.channel(node, "anna"));
        client.list(request).await.ok().map(|answer| answer.into_inner().numbers.len())
    })
    .await
}

fn control(arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_meshctl"));
    let output = command.args(["--output", "json", "control"]).args(arguments).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code(), text)
}

/// All files below `dir` with what they hold.
fn tree(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let (mut files, mut dirs) = (BTreeMap::new(), vec![dir.to_owned()]);
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path.clone());
                files.insert(path, Vec::new());
            } else {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

/// Flips a bit in the middle of what a log holds.
fn rot(data_dir: &Path) {
    let segments = fs::read_dir(data_dir.join("log")).unwrap().map(|entry| entry.unwrap().path());
    let segment = segments.filter(|path| path.extension().is_some_and(|e| e == "seg")).max();
    let path = segment.expect("a segment of the log");
    let mut bytes = fs::read(&path).unwrap();
    let end = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[end / 2] ^= 4;
    fs::write(&path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn bit_rot_in_the_log_is_noticed_and_repaired_from_the_others() {
    let mut cluster = Cluster::start().await;
    for last in 0..40 {
        import(&cluster, last).await;
    }
    let leader = cluster.leader().await;
    let victim = (1..=3).find(|id| *id != leader).unwrap();
    cluster.kill(victim);
    rot(&cluster.data_dir(victim));
    let (code, text) =
        control(&["verify", "--data-dir", cluster.data_dir(victim).to_str().unwrap()]);
    assert!(code == Some(1) && text.contains("is damaged"), "{code:?} {text}");
    import(&cluster, 40).await;
    cluster.spawn(victim);
    cluster.ready().await;
    let node = cluster.alive().find(|node| node.id == victim).unwrap();
    assert_eq!(count(&cluster, node).await, 41);
    let log = cluster.log(victim);
    assert!(log.contains("damaged: kept aside"), "{log}");
    let kept = cluster.data_dir(victim).join("log.damaged-1");
    assert!(kept.exists(), "nothing is cut away");
    // It votes again: with it and one other, writes go on.
    let other = (1..=3).find(|id| ![leader, victim].contains(id)).unwrap();
    cluster.kill(other);
    import(&cluster, 41).await;
    cluster.kill_all();
    let (code, text) =
        control(&["verify", "--data-dir", cluster.data_dir(victim).to_str().unwrap()]);
    assert_eq!(code, Some(0), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_loss_of_a_majority_one_goes_on_with_all_that_was_acknowledged() {
    let mut cluster = Cluster::start().await;
    for last in 0..20 {
        import(&cluster, last).await;
    }
    // It has acknowledged them all.
    let survivor = cluster.leader().await;
    cluster.kill_all();
    let lost: Vec<u64> = (1..=3).filter(|id| *id != survivor).collect();
    lost.iter().for_each(|id| cluster.wipe(*id));
    let (dir, plan) = (cluster.data_dir(survivor), cluster.path().join("plan.json"));
    let (dir, plan) = (dir.to_str().unwrap(), plan.to_str().unwrap());
    let before = tree(Path::new(dir));
    let (code, text) = control(&["recover", "--plan", plan, "--data-dir", dir]);
    assert_eq!(code, Some(0), "{text}");
    let planned: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(planned["chosen"]["node"].as_u64(), Some(survivor));
    assert_eq!(tree(Path::new(dir)), before, "a plan changes nothing");
    let (code, text) = control(&["recover", "--apply", plan, "--data-dir", dir]);
    assert_eq!(code, Some(0), "{text}");
    let (code, text) = control(&["recover", "--apply", plan, "--data-dir", dir]);
    assert!(code == Some(1) && text.contains("not as it was"), "a plan is good once: {text}");

    cluster.go_on_alone(survivor);
    cluster.ready().await;
    let node = cluster.alive().next().unwrap();
    assert_eq!(count(&cluster, node).await, 20);
    import(&cluster, 20).await;
    assert_eq!(count(&cluster, node).await, 21);
    // A new node takes the place of a lost one.
    cluster.join(4, "us");
    let new = cluster.alive().find(|node| node.id == 4).unwrap();
    assert_eq!(count(&cluster, new).await, 21);
    cluster.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_that_is_not_for_this_node_is_left_as_it_is() {
    let mut cluster = Cluster::start().await;
    import(&cluster, 0).await;
    cluster.kill_all();
    let dir = cluster.data_dir(1);
    let config = fs::read_to_string(cluster.config(1)).unwrap();
    let before = tree(&dir);
    let mut refused = |text: &str, says: &str| {
        fs::write(cluster.config(1), text).unwrap();
        let said = cluster.refused(1);
        assert!(said.contains(says), "{said}");
        assert_eq!(tree(&dir), before, "{says}");
    };
    // Of another node.
    let other = config.replace(&format!("data_dir = {dir:?}"), "data_dir = \"DIR\"");
    let other = other.replacen("id = 1", "id = 2", 1).replacen("\"eu\"", "\"us\"", 1);
    let other = other.replace("control-1.", "control-2.").replace("DIR", dir.to_str().unwrap());
    let other = other.split("[ca]").next().unwrap();
    refused(other, "belongs to node 1 of mesh \"demo\"");
    // Of a newer feature level.
    let older = config.replacen("[node]\n", "[node]\nfeature_level_max = 1\n", 1);
    refused(&older, "run a newer one");
    // Damaged where nobody else can help.
    let owner = dir.join("owner");
    let good = fs::read(&owner).unwrap();
    let mut bad = good.clone();
    bad[20] ^= 1;
    fs::write(&owner, &bad).unwrap();
    let before = tree(&dir);
    fs::write(cluster.config(1), &config).unwrap();
    let said = cluster.refused(1);
    assert!(said.contains("is damaged"), "{said}");
    assert_eq!(tree(&dir), before);
}
