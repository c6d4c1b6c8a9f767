//! Real nodes with disks that fill up, fail and hang. `cargo e2e`, as root: small disks are mounts,
//! and strace puts errors and delays into a running node's system calls.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    dead_code,
    reason = "a test: a panic is its verdict; it needs a part of what the cluster can do"
)]

mod cluster;

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use cluster::{Cluster, Node, eventually};
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::{
    AllocateNumberRequest, ImportNumbersRequest, ListNumbersRequest, ReadConsistency,
    ReleaseNumberRequest, WriteOptions,
};
use tonic::{Code, Status};

fn options(id: &str) -> Option<WriteOptions> {
    Some(WriteOptions { request_id: id.to_owned(), ..<_>::default() })
}

fn import(last: u32) -> ImportNumbersRequest {
    let options = options(&format!("import-{last}"));
    let e164 = vec![format!("+49302312{last:04}")];
    ImportNumbersRequest { options, pool: "berlin".into(), e164, ..<_>::default() }
}

/// Through whichever node does it.
async fn write(cluster: &Cluster, last: u32) {
    let ask = async |channel, request| NumbersClient::new(channel).import(request).await;
    cluster.write(import(last), ask).await;
}

/// How many numbers there are.
async fn count(cluster: &Cluster) -> usize {
    let consistency = ReadConsistency::Linearizable.into();
    let request = ListNumbersRequest { consistency, ..<_>::default() };
    let ask = async |channel, request| NumbersClient::new(channel).list(request).await;
    cluster.write(request, ask).await.numbers.len()
}

/// Disks of 64 MiB for the data directories, gone with the value.
struct Disks(Vec<PathBuf>);

impl Disks {
    fn mount(dir: &Path) -> Self {
        let at: Vec<PathBuf> = (1..=3).map(|id| dir.join(format!("data-{id}"))).collect();
        for at in &at {
            std::fs::create_dir_all(at).unwrap();
            let mount = ["-t", "tmpfs", "-o", "size=64m", "disks"];
            let mounted = Command::new("mount").args(mount).arg(at).status().unwrap();
            assert!(mounted.success(), "only root may mount: run this as root (sudo)");
        }
        Self(at)
    }
}

impl Drop for Disks {
    fn drop(&mut self) {
        for at in &self.0 {
            // Lazily: the nodes may still have it open.
            let _ = Command::new("umount").arg("-l").arg(at).status();
        }
    }
}

/// strace beside a running node: from now on each `fdatasync` of it meets `fault`.
struct Fault(Child);

impl Fault {
    fn begin(node: &Node, fault: &str) -> Self {
        let inject = format!("inject=fdatasync:{fault}");
        let mut child = Command::new("strace")
            .args(["-f", "-e", "trace=fdatasync", "-e", &inject, "-p", &node.pid().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("strace is installed");
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let attached = lines.next().unwrap().unwrap();
        assert!(attached.contains("attached"), "{attached}");
        // Nobody reads the rest, and a full pipe would stop it.
        std::thread::spawn(move || lines.for_each(drop));
        Self(child)
    }
}

impl Drop for Fault {
    fn drop(&mut self) {
        // It lets go of the node, which goes on.
        let _ = Command::new("kill").arg(self.0.id().to_string()).status();
        let _ = self.0.wait();
    }
}

fn node(cluster: &Cluster, id: u64) -> &Node {
    cluster.alive().find(|node| node.id == id).unwrap()
}

async fn try_import(cluster: &Cluster, id: u64, last: u32) -> Result<(), Status> {
    let channel = cluster.channel(node(cluster, id), "anna");
    NumbersClient::new(channel).import(import(last)).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_refuses_growth_and_heals() {
    let mut disks = None;
    let mut cluster = Cluster::start_with(|dir| {
        disks = Some(Disks::mount(dir));
        String::new()
    })
    .await;
    write(&cluster, 0).await;
    let leader = cluster.leader().await;
    let mut client = NumbersClient::new(cluster.channel(node(&cluster, leader), "anna"));
    let allocate = AllocateNumberRequest {
        options: options("allocate"),
        tenant: "acme".into(),
        which: Some(Which::AnyOfPool("berlin".into())),
        ..<_>::default()
    };
    let number = client.allocate(allocate).await.unwrap().into_inner().number.unwrap();

    // Three MiB stay free: less than the tenth that is the low-water mark.
    let path = cluster.data_dir(leader).join("filler");
    let mut filler = std::fs::File::create(&path).unwrap();
    let block = vec![1; 1 << 20];
    while filler.write_all(&block).is_ok() {}
    drop(filler);
    let length = path.metadata().unwrap().len();
    let filler = std::fs::File::options().write(true).open(&path).unwrap();
    filler.set_len(length - (3 << 20)).unwrap();
    drop(filler); // Open, it would keep its space when it is removed.
    let refused = eventually("growth is refused", async || {
        let last = 1 + u32::try_from(std::process::id() % 7).unwrap();
        try_import(&cluster, leader, last).await.err().filter(|s| s.code() != Code::Unavailable)
    })
    .await;
    let reason = refused.metadata().get("voxmesh-reason").unwrap().to_str().unwrap();
    assert_eq!((refused.code(), reason), (Code::ResourceExhausted, "STORAGE_LOW"), "{refused}");

    // Reads and releases go on.
    assert!(count(&cluster).await >= 1);
    let release = ReleaseNumberRequest {
        options: options("release"),
        e164: number.e164,
        tenant: "acme".into(),
        ..<_>::default()
    };
    client.release(release).await.unwrap();

    // Not a byte is left, and the node is started again: it begins, and is asked.
    let mut filler = std::fs::File::options().append(true).open(&path).unwrap();
    while filler.write_all(&block).is_ok() {}
    while filler.write_all(&[1]).is_ok() {}
    drop(filler);
    cluster.kill(leader);
    cluster.spawn(leader);
    eventually("a node begins on a full disk", async || {
        let consistency = ReadConsistency::Linearizable.into();
        let request = ListNumbersRequest { consistency, ..<_>::default() };
        let channel = cluster.channel(node(&cluster, leader), "anna");
        NumbersClient::new(channel).list(request).await.ok()
    })
    .await;

    // There is room again: it heals by itself.
    std::fs::remove_file(&path).unwrap();
    eventually("growth goes on", async || try_import(&cluster, leader, 20).await.ok()).await;
    cluster.stop().await;
    drop(disks);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_sync_ends_the_node_and_not_the_cluster() {
    let mut cluster = Cluster::start().await;
    write(&cluster, 0).await;
    let leader = cluster.leader().await;
    let fault = Fault::begin(node(&cluster, leader), "error=EIO");
    // It is what makes the node sync; the answer may be lost with it.
    let _ = try_import(&cluster, leader, 1).await;
    assert_eq!(cluster.ended(leader).await, Some(3), "{}", cluster.log(leader));
    drop(fault);
    let log = cluster.log(leader);
    assert!(log.contains("its disk failed") && log.contains("check the disk"), "{log}");
    write(&cluster, 1).await;
    write(&cluster, 2).await;
    assert_eq!(count(&cluster).await, 3, "nothing acknowledged is lost");
    // With a disk that works again it comes back.
    cluster.spawn(leader);
    cluster.ready().await;
    let other = cluster.leader().await;
    let other = (1..=3).find(|id| ![leader, other].contains(id)).unwrap();
    cluster.kill(other);
    write(&cluster, 3).await;
    assert_eq!(count(&cluster).await, 4);
    cluster.kill_all();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_disk_hangs_gives_up() {
    let cluster = Cluster::start().await;
    write(&cluster, 0).await;
    let leader = cluster.leader().await;
    // Each sync takes a minute: longer than anybody waits.
    let fault = Fault::begin(node(&cluster, leader), "delay_enter=60000000");
    let hangs = try_import(&cluster, leader, 1);
    let others = async {
        eventually("another node leads", async || {
            let status = cluster.leader_but(leader).await?;
            Some(status)
        })
        .await;
        eventually("writes go on", async || {
            for other in (1..=3).filter(|id| *id != leader) {
                if try_import(&cluster, other, 2).await.is_ok() {
                    return Some(());
                }
            }
            None
        })
        .await;
    };
    let (_, ()) = tokio::join!(hangs, others);
    drop(fault);
    // The disk answers again: it follows, and has what the others wrote.
    eventually("the old leader follows", async || {
        let consistency = ReadConsistency::Local.into();
        let request = ListNumbersRequest { consistency, ..<_>::default() };
        let mut client = NumbersClient::new(cluster.channel(node(&cluster, leader), "anna"));
        let numbers = client.list(request).await.ok()?.into_inner().numbers;
        numbers.iter().any(|number| number.e164.ends_with("0002")).then_some(())
    })
    .await;
    cluster.stop().await;
}
