//! The clock, the queue of what is under way, and the loop.

use std::collections::BTreeMap;

use bytes::Bytes;
use chaos::rng::Rng;
use control_core::replica::{Persist, Position, ProposeError, Replica, ReplicaCommand, Role};
use control_core::state::State;
use proto::id::NodeId;
use proto::raft::{Outcome, PopEpoch, PopSighting, outcome};

use super::bent::Promises;
use super::client::{self, Attempt, Client};
use super::links::Links;
use super::members::Change;
use super::node::Node;
use super::observe::Observed;
use super::plan::{Fault, MS, Micros, Mutant, Plan, SECOND};
use super::pops::Pops;
use super::trace::{Trace, sum};
use super::watchers::{Item, Watcher};
use super::{Counts, Report};
use crate::linear::{Answer, Complaint, History, Rule, judge};
use crate::sim::control::{Rows, Taken, index_of, node_id};

/// Grain of raft's time.
const TICK: Micros = 25 * MS;
/// Unix time at the beginning.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// After everything healed, all is answered within this.
const PATIENCE: Micros = 40 * SECOND;
/// More is a run that never ends.
const STEPS_MAX: u64 = 2_000_000;

/// Something that will happen.
#[derive(Debug)]
pub enum Due {
    Tick {
        node: usize,
        life: u64,
    },
    Peer {
        from: usize,
        to: usize,
        message: Bytes,
    },
    /// A snapshot and its tables.
    Tables {
        from: usize,
        to: usize,
        message: Bytes,
        at: Position,
        rows: Rows,
    },
    Synced {
        node: usize,
        life: u64,
    },
    /// A reader asks another node where its log ends.
    Question {
        from: usize,
        to: usize,
        round: u64,
        life: u64,
    },
    LogEnd {
        from: usize,
        to: usize,
        round: u64,
        life: u64,
        end: Position,
    },
    /// A client's try arrives.
    Asked {
        node: usize,
        attempt: u64,
    },
    /// Its answer arrives; `None`: try again.
    Told {
        attempt: u64,
        answer: Option<(Answer, u64, u64)>,
    },
    /// A client's timer.
    Wake {
        client: usize,
        timer: u64,
    },
    /// A client repeats a request that was answered.
    Echo {
        operation: usize,
    },
    /// A watcher gets something of this connection.
    Watch {
        watcher: usize,
        connection: u64,
        item: Item,
    },
    WatchAgain {
        watcher: usize,
        connection: u64,
    },
    /// A node is refused a connection by one that died in that life.
    Gone {
        node: usize,
        gone: usize,
        life: u64,
    },
    /// POPs beat.
    Beats,
    Beat {
        pop: usize,
        node: usize,
        epoch: u64,
    },
    /// The heartbeat stream of a POP breaks.
    Broken {
        pop: usize,
        node: usize,
        epoch: u64,
    },
    /// A leader asks another node which POPs it hears.
    PopsAsked {
        from: usize,
        to: usize,
        life: u64,
        asked: Vec<PopEpoch>,
    },
    PopsSaid {
        from: usize,
        to: usize,
        life: u64,
        said: Vec<PopSighting>,
    },
    /// A change of members is asked for, until it is done.
    Member(Change),
    BeginPop(usize),
    EndPop(usize),
    Begin(usize),
    End(usize),
    Start(usize),
    Heal,
}

/// How far a run is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Clients ask, things break.
    Load,
    /// Everything is well; what is open gets answered.
    Healing,
    /// Everything is read.
    Reading,
    Done,
}

/// A run.
pub struct World {
    pub plan: Plan,
    pub now: Micros,
    pub phase: Phase,
    pub nodes: Vec<Node>,
    pub links: Links,
    pub pops: Pops,
    pub clients: Vec<Client>,
    pub watchers: Vec<Watcher>,
    pub history: History,
    pub attempts: BTreeMap<u64, Attempt>,
    pub(super) trace: Trace,
    pub observed: Observed,
    /// All wall clocks are so much ahead, ms.
    pub passed_ms: u64,
    /// About to pass, once nobody waits: longer than a request id is remembered.
    pub passes_ms: Option<u64>,
    /// Operations before it are from before time passed; nobody asks for them again.
    pub era: usize,
    pub complaints: Vec<Complaint>,
    /// For [`Mutant::HeldTooLong`].
    pub promises: Promises,
    pub rng: Rng,
    pub to_read: Vec<crate::linear::Request>,
    pub counts: Counts,
    /// Tries so far.
    pub tries: u64,
    queue: BTreeMap<(Micros, u64), Due>,
    sequence: u64,
    steps: u64,
}

impl World {
    pub fn new(plan: Plan, verbose: bool) -> Self {
        let mut world = Self {
            now: 0,
            phase: Phase::Load,
            nodes: (0..plan.nodes + usize::from(plan.joins()))
                .map(|index| Node::new(index, plan.mutant))
                .collect(),
            links: Links::new(plan.seed, plan.conditions),
            pops: Pops::new(plan.seed),
            clients: Vec::new(),
            watchers: (0..plan.watchers).map(|_| Watcher::default()).collect(),
            history: History::default(),
            attempts: BTreeMap::new(),
            trace: Trace::new(verbose),
            observed: Observed::default(),
            passed_ms: 0,
            passes_ms: None,
            era: 0,
            complaints: Vec::new(),
            promises: Promises::default(),
            rng: Rng::split(plan.seed, "world"),
            to_read: Vec::new(),
            counts: Counts::default(),
            tries: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            plan,
        };
        world.open();
        world
    }

    fn open(&mut self) {
        for node in 0..self.plan.nodes {
            self.start(node);
        }
        for client in 0..self.plan.clients {
            self.clients.push(Client { open: None, tries: 0, timer: 0 });
            let at = 300 * MS + self.rng.below(200 * MS);
            self.push(at, Due::Wake { client, timer: 0 });
        }
        for watcher in 0..self.plan.watchers {
            self.push(400 * MS, Due::WatchAgain { watcher, connection: 0 });
        }
        for (at, (when, _)) in self.plan.faults.clone().into_iter().enumerate() {
            self.push(when, Due::Begin(at));
        }
        if self.plan.pops {
            for (at, (when, _)) in self.plan.pop_faults.clone().into_iter().enumerate() {
                self.push(when, Due::BeginPop(at));
            }
            self.push(500 * MS, Due::Beats);
        }
        for (when, fault) in self.plan.members.clone() {
            self.push(when, Due::Member(Change::of(fault)));
        }
        self.push(self.plan.load, Due::Heal);
    }

    pub fn push(&mut self, at: Micros, due: Due) {
        self.sequence += 1;
        self.queue.insert((at, self.sequence), due);
    }

    /// To the end, or to the first thing that cannot go on.
    pub fn run(&mut self) {
        while self.phase != Phase::Done
            && self.complaints.is_empty()
            && let Some(((at, _), due)) = self.queue.pop_first()
        {
            self.now = self.now.max(at);
            self.steps += 1;
            if self.now > self.plan.load + PATIENCE || self.steps > STEPS_MAX {
                self.complain(Rule::Progress, self.what_is_open());
                return;
            }
            self.happen(due);
        }
    }

    pub fn complain(&mut self, rule: Rule, what: String) {
        self.trace.note(self.now, &[], || format!("BROKEN [{rule:?}] {what}"));
        self.complaints.push(rule.broken(what));
    }

    fn what_is_open(&self) -> String {
        let open: Vec<_> = self.clients.iter().filter_map(|client| client.open).collect();
        let roles: Vec<_> =
            self.nodes.iter().map(|n| n.replica.as_ref().map(|r| r.status())).collect();
        let open: Vec<_> = open.iter().map(|at| &self.history.operations[*at].request).collect();
        format!("{:?} still; unanswered {open:?}; nodes {roles:?}", self.phase)
    }

    fn happen(&mut self, due: Due) {
        let Some(due) = self.or_kept(due) else { return };
        match due {
            Due::Tick { node, life } => self.tick(node, life),
            Due::Peer { from, to, message } => self.peer(from, to, &message),
            Due::Tables { from, to, message, at, rows } => {
                self.tables(from, to, &message, at, rows);
            }
            Due::Synced { node, life } => self.synced(node, life),
            Due::Question { from, to, round, life } => self.questioned(from, to, round, life),
            Due::LogEnd { from, to, round, life, end } if self.nodes[to].life == life => {
                self.log_end(from, to, round, end);
            }
            Due::LogEnd { .. } => {}
            Due::Asked { node, attempt } => self.asked(node, attempt),
            Due::Told { attempt, answer } => self.told(attempt, answer),
            Due::Wake { client, timer } => self.wake(client, timer),
            Due::Echo { operation } if operation >= self.era => self.send(operation),
            Due::Echo { .. } => {}
            Due::Watch { watcher, connection, item } => self.watched(watcher, connection, item),
            Due::WatchAgain { watcher, connection } => self.watch_again(watcher, connection),
            Due::Gone { node, gone, life } => self.gone(node, gone, life),
            Due::Beats => self.beats(),
            Due::Beat { pop, node, epoch } => self.beat(pop, node, epoch),
            Due::Broken { pop, node, epoch } => self.broken(pop, node, epoch),
            Due::PopsAsked { from, to, life, asked } => self.pops_asked(from, to, life, &asked),
            Due::PopsSaid { from, to, life, said } => self.pops_said(from, to, life, said),
            Due::Member(change) => self.change_members(change),
            Due::BeginPop(fault) => self.begin_pop(fault),
            Due::EndPop(fault) => self.end_pop(fault),
            Due::Begin(fault) => self.begin(fault),
            Due::End(fault) => self.end(fault),
            Due::Start(node) => self.start(node),
            Due::Heal => self.heal(),
        }
    }

    /// A stopped process gets nothing; it is there when it goes on. Time it did not live through
    /// is not made up for, as in the shell.
    fn or_kept(&mut self, due: Due) -> Option<Due> {
        let node = match &due {
            Due::Tick { node, .. } | Due::Synced { node, .. } | Due::Asked { node, .. } => *node,
            Due::Gone { node, .. } | Due::Beat { node, .. } | Due::Broken { node, .. } => *node,
            Due::Peer { to, .. }
            | Due::Tables { to, .. }
            | Due::Question { to, .. }
            | Due::LogEnd { to, .. }
            | Due::PopsAsked { to, .. }
            | Due::PopsSaid { to, .. } => *to,
            _ => return Some(due),
        };
        match &mut self.nodes[node].stopped {
            None => Some(due),
            Some(kept) => {
                let tick = matches!(due, Due::Tick { .. });
                if !tick || !kept.iter().any(|due| matches!(due, Due::Tick { .. })) {
                    kept.push(due);
                }
                None
            }
        }
    }

    // ------------------------------------------------------------ nodes

    pub fn start(&mut self, node: usize) {
        if self.nodes[node].replica.is_some() {
            return;
        }
        if let Err(why) = self.nodes[node].start(&self.plan, &mut self.rng, self.now) {
            return self.complain(Rule::Halt, format!("node {node} does not start: {why}"));
        }
        let life = self.nodes[node].life;
        self.trace.note(self.now, &[1, node as u64], || format!("node {node} starts"));
        let phase = self.rng.below(TICK);
        self.push(self.now + phase, Due::Tick { node, life });
        self.drain(node);
    }

    pub fn wall_ms(&self, node: usize) -> u64 {
        let wall = EPOCH_MS + self.passed_ms + self.now / MS;
        wall.saturating_add_signed(self.nodes[node].clock_ms)
    }

    fn tick(&mut self, node: usize, life: u64) {
        let wall_ms = self.wall_ms(node);
        let place = &mut self.nodes[node];
        if place.life != life {
            return;
        }
        let Some(replica) = &mut place.replica else { return };
        replica.handle_tick(wall_ms);
        self.push(self.now + TICK, Due::Tick { node, life });
        self.drain(node);
        if self.plan.pops {
            self.look(node);
        }
        self.go_on();
    }

    fn peer(&mut self, from: usize, to: usize, message: &Bytes) {
        let Some(replica) = &mut self.nodes[to].replica else { return };
        let taken = replica.handle_peer(node_id(from), message);
        let facts = [2, from as u64, to as u64, sum(message), u64::from(taken.is_ok())];
        self.trace.note(self.now, &facts, || {
            format!("{from} → {to}: {}", super::observe::describe(message))
        });
        if let Err(why) = taken.map(drop)
            && !self.may_be_stranger(why)
        {
            self.complain(Rule::Halt, format!("node {to} refused its honest peer {from}: {why}"));
        }
        self.drain(to);
    }

    fn tables(&mut self, from: usize, to: usize, message: &Bytes, at: Position, rows: Rows) {
        let place = &mut self.nodes[to];
        let Some(replica) = &mut place.replica else { return };
        let state = State::from_tables(rows.iter().cloned()).expect("honest tables");
        let taken = replica.handle_snapshot(node_id(from), message, at, state);
        if taken == Ok(true) {
            place.disk.stage(at, rows);
        }
        let facts = [5, from as u64, to as u64, at.index, u64::from(taken.is_ok())];
        self.trace
            .note(self.now, &facts, || format!("{from} → {to}: the tables of index {}", at.index));
        if let Err(why) = taken.map(drop)
            && !self.may_be_stranger(why)
        {
            self.complain(Rule::Halt, format!("node {to} refused its honest peer {from}: {why}"));
        }
        self.drain(to);
    }

    fn send_tables(&mut self, from: usize, to: NodeId, at: Position, message: &Bytes) {
        let place = &mut self.nodes[from];
        let taken = place.taken.clone().filter(|taken| taken.at == at);
        let arrive = match taken {
            Some(_) => self.links.between(from, index_of(to), self.now),
            None => Vec::new(),
        };
        if let Some(replica) = place.replica.as_mut().filter(|_| arrive.is_empty()) {
            return replica.handle_snapshot_failed(to);
        }
        let Some(Taken { rows, .. }) = taken else { return };
        for due in arrive {
            let (message, rows) = (message.clone(), rows.clone());
            self.push(due, Due::Tables { from, to: index_of(to), message, at, rows });
        }
    }

    fn synced(&mut self, node: usize, life: u64) {
        let place = &mut self.nodes[node];
        if place.life != life || place.replica.is_none() {
            return;
        }
        if place.stalled_until > self.now {
            let at = place.stalled_until;
            return self.push(at, Due::Synced { node, life });
        }
        let Some(number) = place.synced() else { return };
        let early = self.plan.mutant == Some(Mutant::AckBeforeDurable);
        if let Some(replica) = place.replica.as_mut().filter(|_| !early) {
            replica.handle_persisted(number);
        }
        self.trace.note(self.now, &[3, node as u64, number], || {
            format!("node {node} has write {number} on its disk")
        });
        self.drain(node);
    }

    /// Everything the replica wants, then everybody it can answer.
    pub fn drain(&mut self, node: usize) {
        while let Some(command) = self.nodes[node].replica.as_mut().and_then(Replica::poll_command)
        {
            self.execute(node, command);
        }
        if let Some(replica) = self.nodes[node].replica.as_ref().filter(|_| !self.plan.blind) {
            self.observed.state(node, replica, &mut self.complaints);
        }
    }

    fn execute(&mut self, node: usize, command: ReplicaCommand) {
        match command {
            ReplicaCommand::Send { to, message } => self.transmit(node, index_of(to), message),
            ReplicaCommand::SendSnapshot { to, at, message } => {
                self.send_tables(node, to, at, &message);
            }
            ReplicaCommand::SnapshotWanted { .. } => {
                let place = &mut self.nodes[node];
                let taken = place.disk.take();
                if let Some(replica) = &mut place.replica {
                    replica.handle_snapshot_taken(taken.at, &taken.conf);
                }
                place.taken = Some(taken);
            }
            ReplicaCommand::Persist(persist) => self.write(node, persist),
            ReplicaCommand::Event(event) => self.publish(node, event),
            ReplicaCommand::StateReplaced { revision } => {
                self.counts.snapshots += 1;
                self.nodes[node].watch.reset(revision);
                self.drop_watchers(node);
            }
            ReplicaCommand::Outcome { proposal, outcome, .. } => {
                self.outcome(node, proposal, outcome);
            }
            ReplicaCommand::ProposalLost { proposal } => {
                let attempt = self.nodes[node].proposals.remove(&proposal);
                self.reply(node, attempt, None);
            }
            ReplicaCommand::Ask { to, round } => self.question(node, index_of(to), round),
            ReplicaCommand::Members => {}
            ReplicaCommand::ReadReady { read } => {
                if let Some(attempt) = self.nodes[node].reads.remove(&read) {
                    self.serve(node, attempt);
                }
            }
            ReplicaCommand::ReadLost { read } => {
                let attempt = self.nodes[node].reads.remove(&read);
                self.reply(node, attempt, None);
            }
            ReplicaCommand::Role { term, role, .. } => {
                self.trace.note(self.now, &[4, node as u64, term], || {
                    format!("node {node} is {} of term {term}", role.as_str())
                });
                if role == Role::Leader && !self.plan.blind {
                    self.observed.leader(node, term, &mut self.complaints);
                }
            }
            ReplicaCommand::Halt { reason } => {
                self.complain(Rule::Halt, format!("node {node} stops itself: {reason}"));
            }
        }
    }

    fn transmit(&mut self, from: usize, to: usize, message: Bytes) {
        let message = match self.plan.mutant {
            Some(Mutant::LocalPick) if to + 1 == self.plan.nodes => {
                super::observe::pick_another(&message, self.nodes[to].replica.as_ref())
            }
            _ => message,
        };
        for at in self.links.between(from, to, self.now) {
            self.push(at, Due::Peer { from, to, message: message.clone() });
        }
    }

    fn write(&mut self, node: usize, persist: Persist) {
        let takes = 50 + self.rng.below(self.plan.conditions.disk);
        let place = &mut self.nodes[node];
        let (life, number) = (place.life, persist.number);
        place.writing.push_back(persist);
        if self.plan.mutant == Some(Mutant::AckBeforeDurable) {
            if let Some(replica) = &mut place.replica {
                replica.handle_persisted(number);
            }
        } else {
            assert_eq!(place.writing.len(), 1, "two writes at once");
        }
        self.push(self.now + takes, Due::Synced { node, life });
    }

    // ------------------------------------------------------------ clients' tries at a node

    fn asked(&mut self, node: usize, attempt: u64) {
        let Some(known) = self.attempts.get(&attempt).copied() else { return };
        if self.nodes[node].replica.is_none() || known.operation < self.era {
            return;
        }
        let operation = &self.history.operations[known.operation];
        let (request, request_id) = (operation.request.clone(), operation.request_id.clone());
        self.trace.note(self.now, &[5, node as u64, attempt], || {
            format!("node {node} is asked (try {attempt}): {request:?}")
        });
        let id = match self.plan.mutant {
            Some(Mutant::NoDedupe) => format!("{request_id}-{attempt}"),
            _ => request_id,
        };
        match client::command(&request, &id) {
            Some(command) => self.propose(node, attempt, self.plan.bent(command)),
            None if request.is_local() => self.serve(node, attempt),
            None => self.read(node, attempt),
        }
        self.drain(node);
    }

    fn propose(&mut self, node: usize, attempt: u64, command: proto::raft::Command) {
        let wall_ms = self.wall_ms(node);
        let place = &mut self.nodes[node];
        let name = place.name();
        let Some(replica) = &mut place.replica else { return };
        match replica.propose(name, command, wall_ms) {
            Ok(()) => _ = place.proposals.insert(name, attempt),
            Err(ProposeError::NotLeader { leader }) => self.pass_on(node, attempt, leader),
            Err(_) => self.reply(node, Some(attempt), None),
        }
    }

    fn read(&mut self, node: usize, attempt: u64) {
        let place = &mut self.nodes[node];
        let name = place.name();
        let Some(replica) = &mut place.replica else { return };
        match replica.read(name) {
            Ok(()) => _ = place.reads.insert(name, attempt),
            Err(_) => self.reply(node, Some(attempt), None),
        }
    }

    /// A reader asks where another log ends; question and answer travel like messages, and the
    /// answer finds the life that asked, or nobody.
    fn question(&mut self, from: usize, to: usize, round: u64) {
        let life = self.nodes[from].life;
        for at in self.links.between(from, to, self.now) {
            self.push(at, Due::Question { from, to, round, life });
        }
    }

    fn questioned(&mut self, from: usize, to: usize, round: u64, life: u64) {
        let Some(replica) = &self.nodes[to].replica else { return };
        let end = replica.log_end();
        self.trace.note(self.now, &[14, from as u64, to as u64, end.index], || {
            format!("node {to} tells {from} for round {round} that its log ends at {end:?}")
        });
        for at in self.links.between(to, from, self.now) {
            self.push(at, Due::LogEnd { from: to, to: from, round, life, end });
        }
    }

    fn log_end(&mut self, from: usize, to: usize, round: u64, end: Position) {
        if let Some(replica) = &mut self.nodes[to].replica {
            replica.handle_log_end(node_id(from), round, end);
        }
        self.drain(to);
    }

    /// A follower hands it to the leader, as the shell does; the answer goes back directly.
    fn pass_on(&mut self, node: usize, attempt: u64, leader: Option<NodeId>) {
        let known = self.attempts.get_mut(&attempt);
        match (leader.map(index_of), known) {
            (Some(leader), Some(known)) if leader != node && known.passed_on < 3 => {
                known.passed_on += 1;
                for at in self.links.between(node, leader, self.now) {
                    self.push(at, Due::Asked { node: leader, attempt });
                }
            }
            _ => self.reply(node, Some(attempt), None),
        }
    }

    fn outcome(&mut self, node: usize, proposal: u64, outcome: Outcome) {
        let Some(attempt) = self.nodes[node].proposals.remove(&proposal) else { return };
        let Some(replica) = &self.nodes[node].replica else { return };
        let log_time_ms = replica.state().log_time_ms();
        let mut kind = outcome.kind;
        if self.plan.mutant == Some(Mutant::CrossedAnswers)
            && let Some(outcome::Kind::Number(number)) = &mut kind
            && self.rng.below(2) == 0
        {
            number.e164 = client::number(super::plan::below(&mut self.rng, self.plan.numbers));
        }
        let told = self.bend(attempt, client::answer(kind));
        let answer = (told, outcome.revision, log_time_ms);
        self.reply(node, Some(attempt), Some(answer));
    }

    /// Reads the state as it is here.
    fn serve(&mut self, node: usize, attempt: u64) {
        let Some(known) = self.attempts.get(&attempt) else { return };
        let Some(replica) = &self.nodes[node].replica else { return };
        let request = &self.history.operations[known.operation].request;
        let state = replica.state();
        let told = self.promises.shown(client::look(state, request));
        let answer = (told, state.revision().0, state.log_time_ms());
        self.reply(node, Some(attempt), Some(answer));
    }

    fn reply(&mut self, node: usize, attempt: Option<u64>, answer: Option<(Answer, u64, u64)>) {
        let Some(attempt) = attempt else { return };
        self.trace.note(self.now, &[6, node as u64, attempt], || {
            format!("node {node} answers try {attempt}: {answer:?}")
        });
        if let Some(at) = self.links.client(self.now) {
            self.push(at, Due::Told { attempt, answer });
        }
    }

    // ------------------------------------------------------------ the end

    /// What is wrong, after the run.
    pub fn report(mut self) -> Report {
        let mut complaints = std::mem::take(&mut self.complaints);
        self.observed.end(&mut complaints);
        let feeds: Vec<_> = self.watchers.iter().map(|watcher| watcher.feed.clone()).collect();
        complaints.extend(judge(&self.history, &feeds));
        self.counts.leaders = self.observed.leaders();
        self.counts.virtual_ms = self.now / MS;
        for complaint in &complaints {
            self.trace.note(self.now, &[], || format!("BROKEN {complaint}"));
        }
        Report {
            complaints,
            digest: self.trace.digest(),
            answered: self.history.answered().count(),
            counts: self.counts,
            lines: self.trace.take(),
        }
    }

    /// The fault of this number.
    pub fn fault(&self, at: usize) -> Fault {
        self.plan.faults[at].1
    }
}
