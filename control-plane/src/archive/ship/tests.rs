//! A node alone on a real disk, and its archive.

use std::fs::{self, File};
use std::path::PathBuf;

use rustix::fs::{CWD, FileType, Mode, mknodat};
use tokio::sync::oneshot;

use super::*;
use crate::archive::{Target, restore};
use crate::driver::alone::Alone;

/// Of the parts: entries of these tests are about 100 bytes.
const SMALL: Limits = Limits { part_bytes: 300, parts: 2 };
const DAY: Duration = Duration::from_secs(86_400);

struct Node {
    alone: Alone,
    config: BackupConfig,
}

impl Node {
    /// With a log of at most so many entries.
    async fn start(log_entries: usize, tables_every: Duration) -> Self {
        let alone = Alone::start(log_entries).await;
        let target = Target::Directory(alone.home.path().join("archive"));
        let every = Duration::from_millis(100);
        Self { alone, config: BackupConfig { target, every, tables_every, keep: 2 } }
    }

    async fn turn(&self, limits: Limits) -> Shipped {
        turn(&self.config, &self.alone.driver, limits).await.unwrap()
    }

    fn archive(&self) -> PathBuf {
        let of_cluster =
            fs::read_dir(self.alone.home.path().join("archive")).unwrap().next().unwrap().unwrap();
        of_cluster.path().join("node-1")
    }
}

impl std::ops::Deref for Node {
    type Target = Alone;
    fn deref(&self) -> &Alone {
        &self.alone
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_a_turn_takes_is_said_to_be_more() {
    let node = Node::start(10_000, DAY).await;
    node.turn(LIMITS).await;
    node.write(0..20).await;
    let mut turns = 0;
    let end = loop {
        match node.turn(SMALL).await {
            Shipped::More(index) => assert!(index < node.applied().await),
            Shipped::All(index) => break index,
            other => panic!("{other:?}"),
        }
        turns += 1;
    };
    assert!(turns > 2, "{turns} turns");
    assert_eq!(end, node.applied().await);
    let found = restore::find(&node.archive(), None).unwrap();
    assert_eq!((found.at.index, found.state.trunks().count()), (end, 20));
    node.alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_gap_new_tables_come_before_it_is_said_to_be_whole() {
    let node = Node::start(20, DAY).await;
    node.settle().await;
    assert!(matches!(node.turn(LIMITS).await, Shipped::All(_)));
    let before = node.applied().await;
    node.write(0..60).await;
    let log = node.driver.query(move |replica| replica.applied_after(before, 1)).await.unwrap();
    assert_eq!(log, None, "the log goes back to there no more");
    // Tables that do not stand behind the gap yet leave one, and it is said.
    let first = node.turn(LIMITS).await;
    node.settle().await;
    let second = node.turn(LIMITS).await;
    for shipped in [first, second] {
        match shipped {
            Shipped::Gap(index) => assert!(index < before + 60, "{index}"),
            Shipped::All(index) => {
                assert_eq!(index, node.applied().await);
                let found = restore::find(&node.archive(), None).unwrap();
                assert_eq!((found.at.index, found.state.trunks().count()), (index, 60));
            }
            other => panic!("{other:?}"),
        }
    }
    assert!(matches!(second, Shipped::All(_)), "{second:?}");
    node.alone.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_node_writes_no_tables_again() {
    let node = Node::start(10_000, Duration::ZERO).await;
    node.settle().await;
    node.turn(LIMITS).await;
    // Spools are numbered directories: a file in their place lets none be made.
    let outgoing = node.home.path().join("data/outgoing");
    fs::remove_dir_all(&outgoing).unwrap();
    fs::write(&outgoing, "no spool").unwrap();
    node.turn(LIMITS).await;
    node.write(0..1).await;
    node.settle().await;
    let failed = turn(&node.config, &node.driver, LIMITS).await.unwrap_err();
    assert!(format!("{failed:#}").contains("outgoing"), "{failed:#}");
    fs::remove_file(&outgoing).unwrap();
    node.turn(LIMITS).await;
    assert_eq!(Contents::of(&node.archive()).unwrap().tables.len(), 2);
    node.alone.stop().await;
}

/// This runtime has one thread: were it the one that waits for the archive, nothing else would go on.
#[tokio::test]
async fn an_archive_that_hangs_holds_nobody_up() {
    let node = Node::start(10_000, DAY).await;
    node.settle().await;
    node.turn(LIMITS).await;
    // More than a pipe holds.
    node.write_long(0..9, 30_000).await;
    let there = Contents::of(&node.archive()).unwrap();
    let first = there.reaches(there.tables.last().unwrap().0) + 1;
    let pipe = format!("log-{first:016x}-{:016x}.new", node.applied().await);
    let pipe = node.archive().join(pipe);
    let mode = Mode::RUSR | Mode::WUSR;
    mknodat(CWD, &pipe, FileType::Fifo, mode, 0).unwrap();
    start(node.config.clone(), node.driver.clone()).unwrap();
    let (hangs, hanging) = oneshot::channel();
    let (go_on, told) = std::sync::mpsc::channel();
    let reader = std::thread::spawn(move || {
        let pipe = File::open(pipe).unwrap(); // When its writer is there.
        hangs.send(()).unwrap();
        let told = told.recv_timeout(Duration::from_secs(20)).is_ok();
        drop(pipe);
        told
    });
    hanging.await.unwrap();
    node.write(9..12).await;
    go_on.send(()).unwrap();
    assert!(reader.join().unwrap(), "writes went on while the archive hung");
    node.alone.stop().await;
}
