//! Three replicas in one thread: seeded loss, delay, duplication, partitions, slow disks and
//! crashes that keep exactly what was durable. Checked: nothing acknowledged is lost, one owner per
//! number, once per request id, reads see what was acknowledged before them, events without a gap,
//! equal states, progress after healing, same seed same trace.

use proto::control::{Event, NumberState};
use proto::raft::command::Kind;
use proto::raft::{AllocateNumber, ImportNumbers, ReleaseNumber, allocate_number};
use sha2::{Digest, Sha256};

use super::tests::{config, write};
use super::*;

pub(super) const NODES: [u64; 3] = [1, 2, 3];
const TICK_MS: u64 = 25;

/// SplitMix64.
pub(super) struct Rng(u64);

impl Rng {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub(super) fn percent(&mut self, p: u64) -> bool {
        self.below(100) < p
    }
}

#[derive(Default)]
pub(super) struct Node {
    pub(super) replica: Option<Replica>,
    disk: Restored,
    pub(super) writing: Option<(u64, Persist)>,
    /// Revision its watchers are at.
    watched: u64,
}

/// A client's request, retried under its id until answered.
struct Request {
    command: Command,
    answer: Option<Outcome>,
    /// (node, proposal) under way, and until when it waits.
    waiting: Option<(u64, u64, u64)>,
}

#[derive(Clone, Copy)]
pub(super) struct Faults {
    loss: u64,
    duplicate: u64,
    delay: u64,
    disk: u64,
    crash: u64,
    partition: u64,
}

const CALM: Faults = Faults { loss: 0, duplicate: 0, delay: 1, disk: 0, crash: 0, partition: 0 };
pub(super) const STORM: Faults =
    Faults { loss: 10, duplicate: 5, delay: 6, disk: 5, crash: 6, partition: 10 };

pub(super) struct Sim {
    pub(super) rng: Rng,
    faults: Faults,
    pub(super) now: u64,
    sequence: u64,
    pub(super) nodes: BTreeMap<u64, Node>,
    /// (due, sequence) → (from, to, message).
    network: BTreeMap<(u64, u64), (u64, u64, Bytes)>,
    /// Cut until.
    cut: Option<(u64, u64)>,
    requests: Vec<Request>,
    proposals: BTreeMap<(u64, u64), usize>,
    /// Read → (highest index acknowledged when it began, node).
    reads: BTreeMap<u64, (u64, u64)>,
    acknowledged: u64,
    reads_done: u64,
    trace: Sha256,
    /// By term.
    leaders: BTreeMap<u64, u64>,
    /// Some of what was sent.
    pub(super) said: Vec<(u64, u64, Bytes)>,
}

impl Sim {
    pub(super) fn new(seed: u64, faults: Faults) -> Self {
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
            reads_done: 0,
            trace: Sha256::new(),
            leaders: BTreeMap::new(),
            said: Vec::new(),
        };
        for id in NODES {
            sim.nodes.insert(id, Node::default());
            sim.start(id);
        }
        sim
    }

    fn start(&mut self, id: u64) {
        let node = self.nodes.get_mut(&id).unwrap();
        let mut replica = Replica::new(config(id, &NODES), node.disk.clone()).expect("restores");
        replica.set_limits(Limits {
            log_entries_max: 60,
            log_entries_kept: 20,
            hash_every: 16,
            ..Limits::default()
        });
        node.watched = replica.state().revision().0;
        node.replica = Some(replica);
    }

    /// What was being written may be durable or not, but nobody heard.
    fn crash(&mut self, id: u64) {
        let written = self.rng.percent(50);
        let node = self.nodes.get_mut(&id).unwrap();
        node.replica = None;
        if let Some((_, persist)) = node.writing.take()
            && written
        {
            write(&mut node.disk, &persist);
        }
        self.forget_proposals(id);
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

    fn step(&mut self) {
        self.now += 1;
        self.deliver();
        self.finish_writes();
        for id in NODES {
            // Clocks differ by a second.
            let wall_ms = 1_700_000_000_000 + self.now * TICK_MS + id * 500;
            if let Some(replica) = self.nodes.get_mut(&id).and_then(|n| n.replica.as_mut()) {
                replica.handle_tick(wall_ms);
            }
            self.drain(id);
        }
        self.disturb();
        self.clients();
    }

    fn deliver(&mut self) {
        while let Some(entry) = self.network.first_entry().filter(|e| e.key().0 <= self.now) {
            let (from, to, message) = entry.remove();
            let node = self.nodes.get_mut(&to).unwrap();
            if let Some(replica) = &mut node.replica {
                let taken = replica.handle_peer(NodeId(from), &message);
                let shown = || format!("{:?}", Message::decode(message.as_ref()));
                assert_eq!(taken, Ok(()), "an honest peer was refused: {}", shown());
                self.drain(to);
            }
        }
    }

    fn finish_writes(&mut self) {
        for id in NODES {
            let node = self.nodes.get_mut(&id).unwrap();
            let Some((_, persist)) = node.writing.take_if(|(due, _)| *due <= self.now) else {
                continue;
            };
            write(&mut node.disk, &persist);
            if let Some(replica) = &mut node.replica {
                replica.handle_persisted(persist.number);
            }
            self.drain(id);
        }
    }

    fn drain(&mut self, id: u64) {
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
            ReplicaCommand::Send { to, message } => self.send(id, to.0, message),
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
            ReplicaCommand::ReadReady { read, index } => {
                let (floor, _) = self.reads.remove(&read).expect("answered once");
                assert!(index >= floor, "a read at {index} misses {floor}, acknowledged before");
                self.reads_done += 1;
            }
            ReplicaCommand::ReadLost { read } => {
                self.reads.remove(&read).expect("answered once");
            }
            ReplicaCommand::Role { term, role: Role::Leader, .. } => {
                let leader = *self.leaders.entry(term).or_insert(id);
                assert_eq!(leader, id, "two leaders in term {term}");
            }
            ReplicaCommand::Role { .. } => {}
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
        let cut = self.cut.is_some_and(|(alone, _)| alone == from || alone == to);
        if cut || self.rng.percent(self.faults.loss) {
            if self.rng.percent(20)
                && let Some(replica) = self.nodes.get_mut(&from).and_then(|n| n.replica.as_mut())
            {
                replica.report_unreachable(NodeId(to));
            }
            return;
        }
        let copies = 1 + u64::from(self.rng.percent(self.faults.duplicate));
        for _ in 0..copies {
            self.sequence += 1;
            let due = self.now + 1 + self.rng.below(self.faults.delay);
            self.network.insert((due, self.sequence), (from, to, message.clone()));
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
        for id in NODES {
            if self.nodes[&id].replica.is_none() && self.rng.below(60) == 0 {
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

    pub(super) fn heal(&mut self) {
        self.faults = CALM;
        self.cut = None;
        for id in NODES {
            if self.nodes[&id].replica.is_none() {
                self.start(id);
            }
        }
    }

    fn replica(&self, id: u64) -> &Replica {
        self.nodes[&id].replica.as_ref().expect("up")
    }

    fn request(&mut self, kind: Kind) {
        let command = Command {
            request_id: format!("request-{}", self.requests.len()),
            principal: "operator/anna".into(),
            kind: Some(kind),
        };
        self.requests.push(Request { command, answer: None, waiting: None });
    }

    /// Each open request goes to some node; one that was redirected or lost tries again.
    fn clients(&mut self) {
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
                let id = NODES[self.rng.below(3) as usize];
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
        if replica.read_index(read).is_ok() {
            self.reads.insert(read, (floor, id));
            self.drain(id);
        }
    }

    fn settled(&self) -> bool {
        let applied: BTreeSet<u64> = NODES.iter().map(|id| self.replica(*id).applied()).collect();
        self.requests.iter().all(|r| r.answer.is_some()) && applied.len() == 1
    }

    fn settle(&mut self) {
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

fn number(at: u64) -> String {
    format!("+4930{at:06}")
}

/// A workload: imports, allocations, and releases of what was allocated.
pub(super) fn load(sim: &mut Sim, steps: u64) {
    let mut imported = 0;
    for at in 0..steps {
        if at % 40 == 0 {
            let e164 = (0..8).map(|n| number(imported + n)).collect();
            imported += 8;
            sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
        }
        if at % 7 == 0 {
            let which = Some(allocate_number::Which::AnyOfPool("p".into()));
            let tenant = format!("tenant-{}", sim.requests.len());
            sim.request(Kind::AllocateNumber(AllocateNumber { tenant, which, candidates: vec![] }));
        }
        if at % 31 == 0 {
            let allocated = sim
                .requests
                .iter()
                .find_map(|r| allocated(r).filter(|_| sim.now.is_multiple_of(3)));
            if let Some((tenant, e164)) = allocated {
                sim.request(Kind::ReleaseNumber(ReleaseNumber { tenant, e164, expect: None }));
            }
        }
        sim.step();
    }
}

fn allocated(request: &Request) -> Option<(String, String)> {
    match request.answer.as_ref()?.kind.as_ref()? {
        outcome::Kind::Number(n) if n.state() == NumberState::Active => {
            Some((n.tenant.clone(), n.e164.clone()))
        }
        _ => None,
    }
}

/// What was answered, against what the cluster holds in the end.
fn check(sim: &mut Sim) {
    let hashes: BTreeSet<_> = NODES.iter().map(|id| sim.replica(*id).state().hash()).collect();
    assert_eq!(hashes.len(), 1, "states differ");
    let state = sim.replica(1).state().clone();
    let released: BTreeSet<String> = sim
        .requests
        .iter()
        .filter_map(|r| match (&r.command.kind, &r.answer.as_ref()?.kind) {
            (Some(Kind::ReleaseNumber(release)), Some(outcome::Kind::Number(_))) => {
                Some(release.tenant.clone())
            }
            _ => None,
        })
        .collect();
    let mut owners = BTreeMap::new();
    for request in &sim.requests {
        match (&request.command.kind, &request.answer.as_ref().unwrap().kind) {
            (Some(Kind::ImportNumbers(import)), Some(outcome::Kind::Imported(_))) => {
                assert!(import.e164.iter().all(|n| state.number(n).is_some()), "import lost");
            }
            (Some(Kind::AllocateNumber(allocate)), Some(outcome::Kind::Number(number)))
                if !released.contains(&allocate.tenant) =>
            {
                let now = state.number(&number.e164).unwrap();
                assert_eq!(now.tenant, allocate.tenant, "allocation lost");
                assert_eq!(now.state(), NumberState::Active);
                let before = owners.insert(number.e164.clone(), allocate.tenant.clone());
                assert_eq!(before, None, "two owners");
            }
            _ => {}
        }
    }
    // Each tenant asked once: more than one number would be a request carried out twice.
    let mut held: BTreeMap<String, usize> = BTreeMap::new();
    let query = crate::state::NumberQuery { limit: usize::MAX, ..Default::default() };
    for number in state.numbers(query).into_iter().filter(|n| !n.tenant.is_empty()) {
        *held.entry(number.tenant).or_default() += 1;
    }
    assert!(held.values().all(|count| *count == 1), "carried out twice: {held:?}");
}

/// Every request sent again is answered as before, without effect.
fn repeat_all(sim: &mut Sim) {
    let before: Vec<_> = sim.requests.iter_mut().map(|r| r.answer.take().unwrap()).collect();
    let revision = sim.replica(1).state().revision();
    sim.settle();
    for (request, before) in sim.requests.iter().zip(before) {
        let again = request.answer.as_ref().unwrap();
        assert_eq!(again.revision, before.revision);
        if !matches!(before.kind, Some(outcome::Kind::Rejected(_))) {
            assert_eq!(*again, before);
        }
    }
    assert_eq!(sim.replica(1).state().revision(), revision);
}

fn run(seed: u64, steps: u64) -> (Sim, [u8; 32]) {
    let mut sim = Sim::new(seed, STORM);
    load(&mut sim, steps);
    sim.settle();
    check(&mut sim);
    repeat_all(&mut sim);
    let trace = sim.trace.clone().finalize().into();
    (sim, trace)
}

#[test]
fn a_calm_cluster_elects_and_agrees() {
    let mut sim = Sim::new(1, CALM);
    load(&mut sim, 400);
    sim.settle();
    check(&mut sim);
    let leaders = NODES.iter().filter(|id| sim.replica(**id).status().role == Role::Leader);
    assert_eq!(leaders.count(), 1);
    assert!(sim.reads_done > 5);
    assert_eq!(sim.replica(1).counters().elected + sim.replica(2).counters().elected, 1);
    assert!(!sim.replica(3).state().cluster_id().is_empty());
}

#[test]
fn storms_lose_nothing() {
    let (mut elections, mut snapshots, mut reads) = (0, 0, 0);
    for seed in 0..12 {
        let (sim, _) = run(seed, 1_200);
        for id in NODES {
            elections += sim.replica(id).counters().elected;
            snapshots += sim.replica(id).counters().snapshots_installed;
        }
        reads += sim.reads_done;
    }
    // A storm that disturbs nothing proves nothing.
    assert!(elections > 12, "{elections} elections");
    assert!(snapshots > 3, "{snapshots} snapshots");
    assert!(reads > 100, "{reads} reads");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(77, 600).1, run(77, 600).1);
    assert_ne!(run(77, 600).1, run(78, 600).1);
}

#[test]
fn an_empty_follower_gets_a_snapshot() {
    let mut sim = Sim::new(5, CALM);
    sim.nodes.get_mut(&3).unwrap().replica = None;
    for _ in 0..200 {
        sim.now += 1;
        sim.deliver();
        sim.finish_writes();
        for id in [1, 2] {
            let now = sim.now;
            sim.nodes.get_mut(&id).unwrap().replica.as_mut().unwrap().handle_tick(now * TICK_MS);
            sim.drain(id);
        }
        if sim.now > 60 {
            let e164 = vec![number(sim.now)];
            sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
        }
        sim.clients();
    }
    sim.nodes.get_mut(&3).unwrap().disk = Restored::default();
    sim.settle();
    check(&mut sim);
    assert!(sim.replica(3).counters().snapshots_installed >= 1);
    assert!(sim.replica(3).status().first_index > 2);
}

/// A leader that was paused still believes: a lease without a clock would answer from the past.
#[test]
fn a_paused_leader_confirms_no_read() {
    let mut sim = Sim::new(9, CALM);
    load(&mut sim, 200);
    sim.settle();
    let leads = |sim: &Sim, id: u64| sim.replica(id).status().role == Role::Leader;
    let old = *NODES.iter().find(|id| leads(&sim, **id)).unwrap();
    let paused = sim.nodes.get_mut(&old).unwrap().replica.take();
    let acknowledged = sim.acknowledged;
    let start = sim.requests.len();
    for at in 0..3 {
        let e164 = vec![number(900_000 + at)];
        sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
    }
    while sim.requests.iter().skip(start).any(|r| r.answer.is_none()) {
        sim.now += 1;
        sim.deliver();
        sim.finish_writes();
        for id in NODES.into_iter().filter(|id| *id != old) {
            let now = sim.now;
            sim.nodes.get_mut(&id).unwrap().replica.as_mut().unwrap().handle_tick(now * TICK_MS);
            sim.drain(id);
        }
        sim.clients();
        assert!(sim.now < 5_000);
    }
    assert!(sim.acknowledged > acknowledged);
    let mut paused = paused.unwrap();
    assert_eq!(paused.status().role, Role::Leader);
    paused.read_index(1).unwrap();
    let mut fates = Vec::new();
    for _ in 0..200 {
        while let Some(command) = paused.poll_command() {
            match command {
                ReplicaCommand::ReadReady { .. } => panic!("a read from the past"),
                ReplicaCommand::ReadLost { read } => fates.push(read),
                _ => {}
            }
        }
        paused.handle_tick(sim.now * TICK_MS);
    }
    assert_eq!(fates.last(), Some(&1), "after those it had when it was paused");
    assert_ne!(paused.status().role, Role::Leader, "no quorum answers");
}
