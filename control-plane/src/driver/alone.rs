//! A node alone on a real disk, for tests of what goes on beside it.

use std::fs;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use control_core::group::GroupId;
use control_core::replica::{self, LEVELS, Replica, ReplicaConfig};
use proto::control::Trunk;
use proto::id::NodeId;
use proto::raft::Command;
use proto::raft::command::Kind;
use tokio::sync::oneshot;

use super::{Driver, DriverError, Parts, Progress, Proposed, start};
use crate::config::Timers;
use crate::hub::Hub;
use crate::pace::Pace;
use crate::peer::Outboxes;
use crate::wal::{Options, Owner, Wal};

/// See the module.
pub(crate) struct Alone {
    /// Goes with it.
    pub(crate) home: tempfile::TempDir,
    /// The node.
    pub(crate) driver: Driver,
    ended: oneshot::Receiver<Result<(), DriverError>>,
}

impl Alone {
    /// With a log of at most so many entries.
    pub(crate) async fn start(log_entries: usize) -> Self {
        let home = tempfile::tempdir().unwrap();
        let (dir, own) = (home.path().join("data"), NodeId(1));
        fs::create_dir_all(&dir).unwrap();
        let owner = Owner { mesh: "demo".into(), node: own };
        let options = Options { low_bytes: Some(0), alone: true, segment_bytes: Some(65_536) };
        let opened = Wal::open(&dir, &owner, "disk", options, &|_| Ok(())).unwrap();
        let config = ReplicaConfig {
            id: own,
            group: GroupId::ROOT,
            voters: vec![own],
            heartbeat_ticks: 1,
            election_ticks: (4, 8),
            priority: 0,
            members: Vec::new(),
            levels: LEVELS,
            incarnation: opened.incarnation,
        };
        let mut replica = Replica::new(config, opened.restored).unwrap();
        let usual = replica::Limits::default();
        let (log_entries_max, log_entries_kept) = (log_entries, log_entries / 2);
        replica.set_limits(replica::Limits { log_entries_max, log_entries_kept, ..usual });
        let (end, ended) = oneshot::channel();
        let parts = Parts {
            hub: Arc::new(Hub::new(replica.state().revision())),
            replica,
            wal: opened.wal,
            outboxes: Outboxes::default(),
            pace: Pace::new(Timers { tick: Duration::from_millis(5), ..Timers::default() }),
            founders: Vec::new(),
            levels: LEVELS,
        };
        let driver = start(parts, end).unwrap();
        let founded = |progress: &Progress| progress.leads && !progress.cluster_id.is_empty();
        driver.progress().wait_for(founded).await.unwrap();
        Self { home, driver, ended }
    }

    /// Puts trunks of these numbers.
    pub(crate) async fn write(&self, numbers: Range<u64>) {
        self.write_long(numbers, 9).await;
    }

    /// With hosts of such a length.
    pub(crate) async fn write_long(&self, numbers: Range<u64>, length: usize) {
        for n in numbers {
            let trunk =
                Trunk { trunk_id: format!("t{n}"), host: "h".repeat(length), ..Trunk::default() };
            let command = Command {
                request_id: format!("r{n}"),
                principal: "operator/anna".into(),
                kind: Some(Kind::PutTrunk(trunk)),
            };
            let done = self.driver.propose(command).await.unwrap();
            assert!(matches!(done, Proposed::Applied(_)), "{done:?}");
        }
    }

    /// All that was written is in the tables on disk.
    pub(crate) async fn settle(&self) {
        let changed = self.driver.query(Replica::changed).await.unwrap();
        self.driver.tables_reach(changed).await.unwrap();
    }

    /// Index of the last applied entry.
    pub(crate) async fn applied(&self) -> u64 {
        self.driver.query(Replica::applied).await.unwrap()
    }

    /// Ends it.
    pub(crate) async fn stop(self) {
        self.driver.stop();
        self.ended.await.unwrap().unwrap();
    }
}
