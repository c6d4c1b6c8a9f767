//! The simulation: nodes, disks, network, clients.

use std::sync::Arc;

use proto::control::Event;
use proto::raft::command::Kind;
use sha2::{Digest, Sha256};

use super::super::tests::{config, write};
use super::super::*;
use crate::state::Headline;

pub(in super::super) const NODES: [u64; 3] = [1, 2, 3];
pub(in super::super) const TICK_MS: u64 = 25;

/// SplitMix64.
pub(in super::super) struct Rng(u64);

impl Rng {
    pub(in super::super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(in super::super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(in super::super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(in super::super) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Default)]
pub(in super::super) struct Node {
    pub(in super::super) replica: Option<Replica>,
    pub(in super::super) disk: Restored,
    pub(in super::super) writing: Option<(u64, Persist)>,
    /// Tables ready to be sent.
    taken: Option<(Position, Rows)>,
    /// Tables that came, until a write asks for them.
    staged: BTreeMap<Position, Rows>,
    /// What it lost of what it acknowledged.
    pub(in super::super) lost: Option<Repair>,
    /// Nobody starts it again.
    pub(in super::super) stays_down: bool,
    /// Revision its watchers are at.
    pub(in super::super) watched: u64,
}

impl Node {
    /// A write is durable; of a snapshot, the tables that came with it.
    fn store(&mut self, persist: &Persist) {
        if let Some(snapshot) = &persist.snapshot {
            let rows = self.staged.remove(&snapshot.position).expect("its tables came before");
            self.disk.tables = rows.as_ref().clone();
            self.staged.clear();
        }
        write(&mut self.disk, persist);
    }
}

/// A client's request, retried under its id until answered.
pub(in super::super) struct Request {
    pub(in super::super) command: Command,
    pub(in super::super) answer: Option<Outcome>,
    /// (node, proposal) under way, and until when it waits.
    waiting: Option<(u64, u64, u64)>,
}

/// All tables.
pub(in super::super) type Rows = Arc<Vec<(Vec<u8>, Bytes)>>;

/// What nodes send each other.
#[derive(Clone)]
pub(in super::super) enum Packet {
    Raft(Bytes),
    Snapshot(Bytes, Position, Rows),
    Ask(u64),
    LogEnd(u64, Position),
}

#[derive(Clone, Copy)]
pub(in super::super) struct Faults {
    pub(in super::super) loss: u64,
    pub(in super::super) duplicate: u64,
    pub(in super::super) delay: u64,
    pub(in super::super) disk: u64,
    pub(in super::super) crash: u64,
    pub(in super::super) partition: u64,
    /// Crashes that damage the disk, per hundred.
    pub(in super::super) rot: u64,
}

pub(in super::super) const CALM: Faults =
    Faults { loss: 0, duplicate: 0, delay: 1, disk: 0, crash: 0, partition: 0, rot: 0 };
pub(in super::super) const STORM: Faults =
    Faults { loss: 10, duplicate: 5, delay: 6, disk: 5, crash: 6, partition: 10, rot: 0 };

pub(in super::super) struct Sim {
    pub(in super::super) rng: Rng,
    faults: Faults,
    pub(in super::super) now: u64,
    sequence: u64,
    pub(in super::super) nodes: BTreeMap<u64, Node>,
    /// (due, sequence) → (from, to, what).
    network: BTreeMap<(u64, u64), (u64, u64, Packet)>,
    /// Cut until.
    pub(in super::super) cut: Option<(u64, u64)>,
    pub(in super::super) requests: Vec<Request>,
    proposals: BTreeMap<(u64, u64), usize>,
    /// Read → (highest index acknowledged when it began, node).
    reads: BTreeMap<u64, (u64, u64)>,
    pub(in super::super) acknowledged: u64,
    /// Disks that lost something.
    pub(in super::super) rotten: u64,
    pub(in super::super) reads_done: u64,
    /// Those that missed what was acknowledged before them.
    pub(in super::super) stale_reads: u64,
    pub(in super::super) trace: Sha256,
    /// Nodes come and go.
    pub(in super::super) members_change: bool,
    /// The newest feature level the nodes know.
    pub(in super::super) level: u32,
    /// The planted bug.
    pub(in super::super) reads_ask_nobody: bool,
    /// Of a log, from the next start of a node on.
    pub(in super::super) log_bytes_max: usize,
    /// Tables take so many ticks longer than messages.
    pub(in super::super) slow_tables: u64,
    group: GroupId,
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// Some of what was sent.
    pub(in super::super) said: Vec<(u64, u64, Bytes)>,
}

impl Sim {
    pub(in super::super) fn new(seed: u64, faults: Faults) -> Self {
        Self::of_group(GroupId::ROOT, seed, faults)
    }

    pub(in super::super) fn of_group(group: GroupId, seed: u64, faults: Faults) -> Self {
        let mut sim = Self {
            rng: Rng(seed),
            faults,
            now: 0,
            sequence: 0,
            nodes: BTreeMap::new(),
            network: BTreeMap::new(),
            cut: None,
            requests: Vec::new(),
            proposals: BTreeMap::new(),
            reads: BTreeMap::new(),
            acknowledged: 0,
            rotten: 0,
            reads_done: 0,
            stale_reads: 0,
            trace: Sha256::new(),
            members_change: false,
            level: LEVELS.1,
            reads_ask_nobody: false,
            log_bytes_max: Limits::default().log_bytes_max,
            slow_tables: 0,
            group,
            leaders: BTreeMap::new(),
            said: Vec::new(),
        };
        for id in NODES {
            sim.nodes.insert(id, Node::default());
            sim.start(id);
        }
        sim
    }

    pub(in super::super) fn start(&mut self, id: u64) {
        let founder = NODES.contains(&id);
        let start = config(id, if founder { &NODES } else { &[] });
        let start = ReplicaConfig { levels: (1, self.level), group: self.group, ..start };
        let node = self.nodes.get_mut(&id).unwrap();
        let mut replica = Replica::new(start, node.disk.clone()).expect("restores");
        replica.set_limits(Limits {
            log_entries_max: 60,
            log_entries_kept: 20,
            hash_every: 16,
            reads_ask_nobody: self.reads_ask_nobody,
            log_bytes_max: self.log_bytes_max,
        });
        if let Some(lost) = node.lost {
            replica.begin_repair(lost);
        }
        node.watched = replica.state().revision().0;
        node.replica = Some(replica);
    }

    pub(in super::super) fn restart_all(&mut self) {
        for id in NODES {
            self.crash(id);
            self.start(id);
        }
    }

    pub(in super::super) fn stay_down(&mut self, id: u64) {
        self.nodes.get_mut(&id).unwrap().stays_down = true;
    }

    pub(in super::super) fn ids(&self) -> Vec<u64> {
        self.nodes.keys().copied().collect()
    }

    /// An empty node that waits to be let in.
    pub(in super::super) fn join(&mut self, id: u64) {
        self.members_change = true;
        self.nodes.insert(id, Node::default());
        self.start(id);
        self.drain(id);
    }

    /// The one leader of the highest term.
    pub(in super::super) fn leader(&self) -> Option<u64> {
        let up = self.nodes.iter().filter_map(|(id, n)| Some((*id, n.replica.as_ref()?.status())));
        let leaders = up.filter(|(_, status)| status.role == Role::Leader);
        leaders.max_by_key(|(_, status)| status.term).map(|(id, _)| id)
    }

    /// Steps until `done`, at most `most` times: how many it took.
    pub(in super::super) fn until(&mut self, most: u64, done: impl Fn(&Self) -> bool) -> u64 {
        for steps in 0..most {
            if done(self) {
                return steps;
            }
            self.step();
        }
        let nodes: Vec<_> = self
            .nodes
            .iter()
            .map(|(id, node)| {
                let conf = node.replica.as_ref().map(|r| r.state().conf());
                (id, node.disk.applied, node.replica.as_ref().map(Replica::status), conf)
            })
            .collect();
        panic!("not within {most} ticks: {nodes:#?}");
    }

    /// What was being written may be durable or not, but nobody heard.
    pub(in super::super) fn crash(&mut self, id: u64) {
        let written = self.rng.percent(50);
        let node = self.nodes.get_mut(&id).unwrap();
        node.replica = None;
        if let Some((_, persist)) = node.writing.take()
            && written
        {
            node.store(&persist);
        }
        node.taken = None;
        node.staged.clear();
        self.forget_proposals(id);
        if self.rng.percent(self.faults.rot) {
            self.rot(id);
        }
    }

    /// The disk loses the end of the log, or everything but term and vote. Of a majority at once
    /// no protocol brings back what it held.
    fn rot(&mut self, id: u64) {
        if self.nodes.values().any(|node| node.lost.is_some()) {
            return;
        }
        let kept = self.rng.below(3);
        let disk = &mut self.nodes.get_mut(&id).unwrap().disk;
        let HardState { term, vote, .. } = disk.hard_state;
        let index = disk.entries.last().map_or(disk.base.index, |entry| entry.index);
        if kept == 0 {
            let hard_state = HardState { term, vote, commit: 0 };
            *disk = Restored { hard_state, ..Restored::default() };
        } else {
            let applied = disk.applied;
            disk.entries.retain(|entry| entry.index <= applied);
            disk.hard_state.commit = disk.hard_state.commit.min(applied);
        }
        self.nodes.get_mut(&id).unwrap().lost = Some(Repair { index, term });
        self.rotten += 1;
    }

    fn forget_proposals(&mut self, node: u64) {
        let lost: Vec<_> = self.proposals.range((node, 0)..=(node, u64::MAX)).collect();
        let lost: Vec<_> = lost.into_iter().map(|(k, v)| (*k, *v)).collect();
        for (key, request) in lost {
            self.proposals.remove(&key);
            self.requests[request].waiting = None;
        }
        self.reads.retain(|_, (_, at)| *at != node);
    }

    pub(in super::super) fn step(&mut self) {
        self.now += 1;
        self.deliver();
        self.finish_writes();
        for id in self.ids() {
            // Clocks differ by a second.
            let wall_ms = 1_700_000_000_000 + self.now * TICK_MS + id * 500;
            if let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) {
                replica.handle_tick(wall_ms);
            }
            self.drain(id);
            let node = self.nodes.get_mut(&id).unwrap();
            if node.replica.as_mut().is_some_and(Replica::take_repaired) {
                node.lost = None;
            }
        }
        self.disturb();
        self.clients();
    }

    pub(in super::super) fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, packet) = entry.remove();
            let node = self.nodes.get_mut(&to);
            let Some(node) = node else { continue };
            let Some(replica) = node.replica.as_mut() else { continue };
            match packet {
                Packet::Raft(message) => {
                    let taken = replica.handle_peer(NodeId(from), &message);
                    let shown = || format!("{:?}", Message::decode(message.as_ref()));
                    let stranger =
                        matches!(taken, Err(PeerMisbehaved::Removed | PeerMisbehaved::NotAMember));
                    let fine = taken.is_ok() || (self.members_change && stranger);
                    assert!(fine, "an honest peer was refused: {taken:?} {}", shown());
                }
                Packet::Snapshot(message, at, rows) => {
                    let state = State::from_tables(rows.iter().cloned()).unwrap();
                    let taken = replica.handle_snapshot(NodeId(from), &message, at, state);
                    if taken == Ok(true) {
                        node.staged.insert(at, rows.clone());
                    }
                    let stranger =
                        matches!(taken, Err(PeerMisbehaved::Removed | PeerMisbehaved::NotAMember));
                    let fine = taken.is_ok() || (self.members_change && stranger);
                    assert!(fine, "an honest peer was refused: {taken:?}");
                }
                Packet::Ask(round) => {
                    let end = replica.log_end();
                    self.transmit(to, from, Packet::LogEnd(round, end));
                }
                Packet::LogEnd(round, end) => replica.handle_log_end(NodeId(from), round, end),
            }
            self.drain(to);
        }
    }

    pub(in super::super) fn finish_writes(&mut self) {
        for id in self.ids() {
            let node = self.nodes.get_mut(&id).unwrap();
            let Some((_, persist)) = node.writing.take_if(|(due, _)| *due <= self.now) else {
                continue;
            };
            node.store(&persist);
            if let Some(replica) = &mut node.replica {
                replica.handle_persisted(persist.number);
            }
            self.drain(id);
        }
    }

    pub(in super::super) fn drain(&mut self, id: u64) {
        loop {
            let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) else {
                return;
            };
            let Some(command) = replica.poll_command() else { return };
            self.trace.update(format!("{} {id} {command:?}\n", self.now));
            self.execute(id, command);
        }
    }

    fn execute(&mut self, id: u64, command: ReplicaCommand) {
        match command {
            ReplicaCommand::Ask { to, round } => self.transmit(id, to.0, Packet::Ask(round)),
            ReplicaCommand::Send { to, message } => self.send(id, to.0, message),
            ReplicaCommand::SendSnapshot { to, at, message } => {
                self.send_snapshot(id, to.0, at, message);
            }
            ReplicaCommand::SnapshotWanted { .. } => self.take_snapshot(id),
            ReplicaCommand::Persist(persist) => {
                let due = self.now + self.rng.below(self.faults.disk + 1);
                let node = self.nodes.get_mut(&id).unwrap();
                assert!(node.writing.is_none(), "one write at a time");
                node.writing = Some((due, persist));
            }
            ReplicaCommand::Event(event) => self.watch(id, &event),
            ReplicaCommand::StateReplaced { revision } => {
                self.nodes.get_mut(&id).unwrap().watched = revision.0;
            }
            ReplicaCommand::Outcome { proposal, outcome, .. } => {
                let applied = self.replica(id).applied();
                self.acknowledged = self.acknowledged.max(applied);
                let at = self.proposals.remove(&(id, proposal)).expect("answered once");
                let request = &mut self.requests[at];
                request.waiting = None;
                request.answer = Some(outcome);
            }
            ReplicaCommand::ProposalLost { proposal } => {
                let at = self.proposals.remove(&(id, proposal)).expect("answered once");
                self.requests[at].waiting = None;
            }
            ReplicaCommand::ReadReady { read } => {
                let (floor, _) = self.reads.remove(&read).expect("answered once");
                let applied = self.replica(id).applied();
                self.stale_reads += u64::from(applied < floor);
                self.reads_done += 1;
            }
            ReplicaCommand::ReadLost { read } => {
                self.reads.remove(&read).expect("answered once");
            }
            ReplicaCommand::Role { term, role: Role::Leader, .. } => {
                let leader = *self.leaders.entry(term).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {term}");
            }
            ReplicaCommand::Members | ReplicaCommand::Role { .. } => {}
            ReplicaCommand::Halt { reason } => panic!("node {id} halts: {reason}"),
        }
    }

    fn watch(&mut self, id: u64, event: &Event) {
        let node = self.nodes.get_mut(&id).unwrap();
        assert_eq!(event.prev_revision, node.watched, "node {id}: a gap in its events");
        node.watched = event.revision;
    }

    fn send(&mut self, from: u64, to: u64, message: Bytes) {
        if self.said.len() < 5_000 {
            self.said.push((from, to, message.clone()));
        }
        self.transmit(from, to, Packet::Raft(message));
    }

    /// As far as the disk is.
    fn take_snapshot(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let disk = &node.disk;
        let index = disk.applied;
        let entry = disk.entries.iter().find(|entry| entry.index == index);
        let at = Position { index, term: entry.map_or(disk.base.term, |entry| entry.term) };
        let mut headline = Headline::default();
        disk.tables.iter().for_each(|(key, value)| headline.note(key, value));
        node.taken = Some((at, Arc::new(disk.tables.clone())));
        node.replica.as_mut().unwrap().handle_snapshot_taken(at, &headline.conf);
    }

    fn send_snapshot(&mut self, from: u64, to: u64, at: Position, message: Bytes) {
        let node = self.nodes.get_mut(&from).unwrap();
        match node.taken.clone().filter(|(position, _)| *position == at) {
            Some((_, rows)) => self.transmit(from, to, Packet::Snapshot(message, at, rows)),
            None => node.replica.as_mut().unwrap().handle_snapshot_failed(NodeId(to)),
        }
    }

    fn transmit(&mut self, from: u64, to: u64, packet: Packet) {
        let cut = self.cut.is_some_and(|(alone, _)| alone == from || alone == to);
        if cut || self.rng.percent(self.faults.loss) {
            if self.rng.percent(20)
                && let Some(replica) = self.nodes.get_mut(&from).and_then(|n| n.replica.as_mut())
            {
                replica.report_unreachable(NodeId(to));
                if matches!(packet, Packet::Snapshot(..)) {
                    replica.handle_snapshot_failed(NodeId(to));
                }
            }
            return;
        }
        let copies = 1 + u64::from(self.rng.percent(self.faults.duplicate));
        for _ in 0..copies {
            self.sequence += 1;
            let slow = if matches!(packet, Packet::Snapshot(..)) { self.slow_tables } else { 0 };
            let due = self.now + 1 + slow + self.rng.below(self.faults.delay);
            self.network.insert((due, self.sequence), (from, to, packet.clone()));
        }
    }

    /// Per thousand steps.
    fn disturb(&mut self) {
        if self.rng.below(1_000) < self.faults.crash {
            let id = NODES[self.rng.below(3) as usize];
            if self.nodes[&id].replica.is_some() {
                self.crash(id);
            }
        }
        for id in self.ids() {
            let stays = self.nodes[&id].stays_down;
            if self.nodes[&id].replica.is_none() && !stays && self.rng.below(60) == 0 {
                self.start(id);
            }
        }
        if self.cut.is_some_and(|(_, until)| until <= self.now) {
            self.cut = None;
        }
        if self.cut.is_none() && self.rng.below(1_000) < self.faults.partition {
            let id = NODES[self.rng.below(3) as usize];
            self.cut = Some((id, self.now + 20 + self.rng.below(200)));
        }
    }

    pub(in super::super) fn heal(&mut self) {
        self.faults = CALM;
        self.cut = None;
        for id in self.ids() {
            if self.nodes[&id].replica.is_none() && !self.nodes[&id].stays_down {
                self.start(id);
            }
        }
    }

    pub(in super::super) fn replica(&self, id: u64) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("up")
    }

    pub(in super::super) fn request(&mut self, kind: Kind) {
        let command = Command {
            request_id: format!("request-{}", self.requests.len()),
            principal: "operator/anna".into(),
            kind: Some(kind),
        };
        self.requests.push(Request { command, answer: None, waiting: None });
    }

    /// Each open request goes to some node; one that was redirected or lost tries again.
    pub(in super::super) fn clients(&mut self) {
        for at in 0..self.requests.len() {
            let request = &mut self.requests[at];
            if request.answer.is_some() {
                continue;
            }
            if let Some((node, proposal, until)) = request.waiting {
                if until > self.now {
                    continue;
                }
                // The client's deadline; the proposal may still happen.
                self.proposals.remove(&(node, proposal));
                request.waiting = None;
                panic!("request {at} was left without an answer");
            }
            if self.rng.percent(30) {
                let ids = self.ids();
                let id = ids[self.rng.below(ids.len() as u64) as usize];
                self.propose(at, id);
            }
        }
        if self.rng.percent(10) {
            self.read();
        }
    }

    fn propose(&mut self, at: usize, id: u64) {
        self.sequence += 1;
        let proposal = self.sequence;
        let wall_ms = 1_700_000_000_000 + self.now * TICK_MS + id * 500;
        let command = self.requests[at].command.clone();
        let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) else {
            return;
        };
        if replica.propose(proposal, command, wall_ms).is_ok() {
            self.requests[at].waiting = Some((id, proposal, self.now + 500));
            self.proposals.insert((id, proposal), at);
            if self.rng.percent(70) {
                self.drain(id);
            }
        }
    }

    fn read(&mut self) {
        let id = NODES[self.rng.below(3) as usize];
        self.sequence += 1;
        let (read, floor) = (self.sequence, self.acknowledged);
        let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) else {
            return;
        };
        if replica.read(read).is_ok() {
            self.reads.insert(read, (floor, id));
            self.drain(id);
        }
    }

    fn settled(&self) -> bool {
        let applied: BTreeSet<u64> = NODES.iter().map(|id| self.replica(*id).applied()).collect();
        let whole = self.nodes.values().all(|node| node.lost.is_none());
        whole && self.requests.iter().all(|r| r.answer.is_some()) && applied.len() == 1
    }

    pub(in super::super) fn settle(&mut self) {
        self.heal();
        for _ in 0..4_000 {
            self.step();
            if self.settled() {
                return;
            }
        }
        let open = self.requests.iter().filter(|r| r.answer.is_none()).count();
        let status: Vec<_> = NODES.iter().map(|id| self.replica(*id).status()).collect();
        panic!("no progress after healing: {open} requests open, {status:#?}");
    }
}
