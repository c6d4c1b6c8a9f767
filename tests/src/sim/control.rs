//! A control node: the replica, a disk that loses what was not synced, and its watchers.

use std::collections::BTreeMap;

use std::sync::Arc;

use bytes::Bytes;
use control_core::replica::{
    LogEntry, Persist, Position, Replica, ReplicaCommand, ReplicaConfig, Restored, Role,
};
use control_core::state::{Conf, Headline, State};
use control_core::watch::WatchLog;
use pop_core::view::ViewUpdate;
use proto::id::{NodeId, Revision};
use proto::raft::Command;
use proto::raft::command::Kind;
use proto::time::Duration;

use super::net::REGIONS;

/// Events kept for watchers that come back: few, so that snapshots happen too.
const WATCH_EVENTS: usize = 16;
/// Time between ticks.
pub const TICK: Duration = Duration::from_millis(50);

/// What a forgetful disk keeps.
const EARLY_WRITES: u64 = 20;

/// All tables, as they travel.
pub type Rows = Arc<Vec<(Vec<u8>, Bytes)>>;

/// Tables that are ready to be sent.
#[derive(Debug, Clone)]
pub struct Taken {
    pub at: Position,
    pub conf: Conf,
    pub rows: Rows,
}

/// A disk: one transaction at a time.
#[derive(Debug, Default)]
pub struct Disk {
    durable: Restored,
    tables: BTreeMap<Vec<u8>, Bytes>,
    writes: u64,
    /// Tables that came from a leader, until a transaction asks for them.
    staged: BTreeMap<Position, Rows>,
    /// For [`super::Mutation::ForgetfulDisk`].
    early: Option<(Restored, BTreeMap<Vec<u8>, Bytes>)>,
}

impl Disk {
    /// A whole transaction, durable from now on.
    pub fn write(&mut self, persist: Persist) {
        self.writes += 1;
        if self.writes == EARLY_WRITES {
            self.early = Some((self.durable.clone(), self.tables.clone()));
        }
        let Persist { snapshot, entries, changes, hard_state, applied, compact_to, .. } = persist;
        if let Some(snapshot) = snapshot {
            self.durable.entries.clear();
            self.durable.base = snapshot.position;
            let rows = self.staged.remove(&snapshot.position).expect("its tables came before");
            self.tables = rows.iter().cloned().collect();
            self.staged.clear();
        }
        if let Some(first) = entries.first().map(|entry| entry.index) {
            self.durable.entries.retain(|entry| entry.index < first);
            self.durable.entries.extend(entries);
        }
        for change in changes {
            match change.value {
                Some(value) => _ = self.tables.insert(change.key, value),
                None => _ = self.tables.remove(&change.key),
            }
        }
        self.durable.hard_state = hard_state;
        self.durable.applied = applied;
        if let Some(base) = compact_to {
            self.compact(base);
        }
    }

    /// Tables came.
    pub fn stage(&mut self, at: Position, rows: Rows) {
        self.staged.insert(at, rows);
    }

    /// Loses rows of tables that came.
    pub fn spoil_staged(&mut self, at: Position, keep: impl Fn(&[u8]) -> bool) {
        if let Some(rows) = self.staged.get_mut(&at) {
            *rows = Arc::new(rows.iter().filter(|(key, _)| keep(key)).cloned().collect());
        }
    }

    /// A snapshot, as far as the tables are.
    pub fn take(&self) -> Taken {
        let index = self.durable.applied;
        let entry = self.durable.entries.iter().find(|entry| entry.index == index);
        let term = entry.map_or(self.durable.base.term, |entry| entry.term);
        let mut headline = Headline::default();
        self.tables.iter().for_each(|(key, value)| headline.note(key, value));
        let rows = self.tables.iter().map(|(key, value)| (key.clone(), value.clone())).collect();
        Taken { at: Position { index, term }, conf: headline.conf, rows: Arc::new(rows) }
    }

    fn compact(&mut self, base: Position) {
        self.durable.entries.retain(|entry: &LogEntry| entry.index > base.index);
        self.durable.base = base;
    }

    /// What a new start finds.
    pub fn restore(&self) -> Restored {
        let tables = self.tables.clone().into_iter().collect();
        Restored { tables, ..self.durable.clone() }
    }

    /// Loses all but its first transactions.
    pub fn forget(&mut self) {
        if let Some((durable, tables)) = self.early.take() {
            (self.durable, self.tables) = (durable, tables);
        }
    }
}

/// A control node. `replica` is `None` while it is dead.
pub struct ControlNode {
    pub index: usize,
    pub replica: Option<Replica>,
    pub disk: Disk,
    pub watch: WatchLog,
    /// Counts up at each start: what was under way to an earlier life is dropped.
    pub life: u64,
    /// Being written; lost by a crash.
    writing: Option<Persist>,
    /// Ready to be sent.
    pub taken: Option<Taken>,
    /// Proposals handed out.
    pub proposals: u64,
}

impl ControlNode {
    pub fn new(index: usize) -> Self {
        let mut node = Self {
            index,
            replica: None,
            disk: Disk::default(),
            watch: WatchLog::new(WATCH_EVENTS, Revision(0)),
            life: 0,
            writing: None,
            taken: None,
            proposals: 0,
        };
        node.start();
        node
    }

    /// Starts from what the disk has.
    pub fn start(&mut self) {
        let voters = (1..).take(REGIONS).map(NodeId).collect();
        // Pinned and distinct: raft-rs draws from a range with real entropy.
        let election = 10 + 3 * u32::try_from(self.index).unwrap_or(0);
        self.life += 1;
        let config = ReplicaConfig {
            id: node_id(self.index),
            group: control_core::group::GroupId::ROOT,
            voters,
            members: Vec::new(),
            levels: control_core::replica::LEVELS,
            heartbeat_ticks: 2,
            election_ticks: (election, election + 1),
            priority: 0,
            incarnation: format!("disk-{}-life-{}", self.index, self.life),
        };
        let replica = Replica::new(config, self.disk.restore()).expect("what was written restores");
        self.watch = WatchLog::new(WATCH_EVENTS, replica.state().revision());
        self.writing = None;
        self.replica = Some(replica);
    }

    /// kill -9.
    pub fn crash(&mut self) {
        self.replica = None;
        self.writing = None;
        self.taken = None;
    }

    /// A transaction begins; it is durable when [`ControlNode::synced`] is called.
    pub fn write(&mut self, persist: Persist) -> u64 {
        let number = persist.number;
        assert!(self.writing.is_none(), "two transactions at once");
        self.writing = Some(persist);
        number
    }

    /// A snapshot and its tables came from another node.
    pub fn tables(&mut self, from: usize, message: &[u8], at: Position, rows: Rows) {
        let Some(replica) = &mut self.replica else { return };
        let state = State::from_tables(rows.iter().cloned()).expect("honest tables");
        let taken = replica.handle_snapshot(node_id(from), message, at, state);
        if taken.expect("peers of ours behave") {
            self.disk.stage(at, rows);
        }
    }

    /// The sync returned.
    pub fn synced(&mut self) {
        if let (Some(persist), Some(replica)) = (self.writing.take(), &mut self.replica) {
            let number = persist.number;
            self.disk.write(persist);
            replica.handle_persisted(number);
        }
    }

    /// As the shell: the first leader gives the cluster its id.
    pub fn found_cluster(&mut self, wall_ms: u64) {
        let Some(replica) = &mut self.replica else { return };
        if replica.status().role == Role::Leader && replica.state().cluster_id().is_empty() {
            self.proposals += 1;
            let kind = Kind::InitCluster(format!("cluster-of-{}", self.index));
            let command = Command { kind: Some(kind), ..Command::default() };
            // A leader that cannot take it loses its role soon; the next one tries.
            let _refused = replica.propose(self.proposals, command, wall_ms);
        }
    }

    /// The next thing the replica wants.
    pub fn poll(&mut self) -> Option<ReplicaCommand> {
        self.replica.as_mut()?.poll_command()
    }

    /// What a watcher that holds `revision` of `cluster_id` is sent first. `None`: this node is
    /// behind the watcher.
    pub fn begin_watch(&self, cluster_id: &str, revision: Revision) -> Option<Vec<ViewUpdate>> {
        begin_watch(self.replica.as_ref()?.state(), &self.watch, cluster_id, revision)
    }
}

/// What a node with this state and history sends first to a watcher that holds `revision` of
/// `cluster_id`. `None`: the node is behind the watcher.
pub fn begin_watch(
    state: &State,
    watch: &WatchLog,
    cluster_id: &str,
    revision: Revision,
) -> Option<Vec<ViewUpdate>> {
    if state.cluster_id().is_empty() {
        return None;
    }
    if cluster_id == state.cluster_id() {
        if revision > state.revision() {
            return None;
        }
        if revision > Revision(0)
            && let Ok(events) = watch.since(revision)
        {
            return Some(events.map(|e| ViewUpdate::Event(e.as_ref().clone())).collect());
        }
    }
    Some(vec![ViewUpdate::Snapshot {
        cluster_id: state.cluster_id(),
        revision: state.revision(),
        resources: state.resources().collect(),
    }])
}

/// Ids count from 1.
pub fn node_id(index: usize) -> NodeId {
    NodeId(index as u64 + 1)
}

/// And back.
pub fn index_of(id: NodeId) -> usize {
    usize::try_from(id.0.saturating_sub(1)).unwrap_or(usize::MAX)
}
