//! Owns the replica and its disk: one thread, one loop, nothing awaited inside a turn.
//!
//! A turn takes what waits (at most `BATCH`), then executes all the replica's commands in order.
//! Writes are synced on this thread: a disk that hangs stops this node's heartbeats too, and the
//! others elect a leader that can write. What arrives meanwhile shares the next sync.
//!
//! Order of sources, first one first: the clock, peers, the API.

#[cfg(test)]
pub(crate) mod alone;
mod answers;
mod clock;
mod handle;
mod snapshots;
mod stall;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use control_core::replica::{
    HaltReason, Persist, Position, ProposeError, ReadError, Replica, ReplicaCommand, Role,
    TransferError,
};
use proto::control::{ClusterMember, ResponseHeader};
use proto::id::NodeId;
use proto::raft::{Command, Outcome, RecordPops};
use tokio::sync::{mpsc, oneshot, watch};

pub(crate) use handle::header;
pub use handle::{Driver, Led, Progress, Stopped};

use answers::{Answer, Answers, Delivery};
use clock::Clocks;
pub(crate) use clock::wall_ms;
use handle::Shared;
use snapshots::Snapshots;
use stall::Writing;

use crate::hub::Hub;
use crate::pace::Pace;
use crate::peer::{Outboxes, Parcel};
use crate::snapshot::inbox::Arrival;
use crate::telemetry::{self, PeerDrop};
use crate::wal::spool::Spool;
use crate::wal::{Wal, WalError};

/// Inputs of one turn: they share one sync.
const BATCH: usize = 256;
/// Waiting API inputs; beyond that the API answers RESOURCE_EXHAUSTED.
const API_QUEUE: usize = 1_024;
/// Waiting peer messages; beyond that the peer's stream waits.
const PEER_QUEUE: usize = 256;
/// How often the gauges are set.
const GAUGES_EVERY: Duration = Duration::from_secs(1);

/// Why the loop ended for good.
#[derive(Debug, thiserror::Error)]
pub enum DriverError {
    /// The replica must not go on.
    #[error("this node stopped itself: {0}")]
    Halt(#[from] HaltReason),
    /// The disk failed.
    #[error("this node stopped because its disk failed: {0}")]
    Wal(#[from] WalError),
}

/// What a proposal came to.
#[derive(Debug, Clone, PartialEq)]
pub enum Proposed {
    /// Applied; the header describes the state after it.
    Applied(Box<(Outcome, ResponseHeader)>),
    /// A new leader may or may not have it.
    Lost,
    /// Not taken.
    Refused(ProposeError),
}

/// Why a linearizable read did not look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unread {
    /// No majority answered in time.
    Lost,
    /// Not taken.
    Refused(ReadError),
}

type Query = Box<dyn FnOnce(&Replica) -> Delivery + Send>;

/// Looks when the state holds everything acknowledged before, or is told why not.
type Reader = Box<dyn FnOnce(Result<&Replica, Unread>) -> Delivery + Send>;

enum ApiInput {
    Propose(Box<Command>, oneshot::Sender<Proposed>),
    /// Tables are to stand here on disk, soon.
    CatchUp(u64),
    Query(Query),
    Read(Reader),
    RecordPops(RecordPops),
    Transfer(Option<NodeId>, oneshot::Sender<Result<NodeId, TransferError>>),
}

enum PeerInput {
    /// What its clock shows.
    Clock(NodeId, u64),
    /// Its process has ended.
    Gone(NodeId),
    /// The members, for a node that joins.
    Introduce(Vec<ClusterMember>),
    /// Feature levels it knows.
    Levels(NodeId, (u32, u32)),
    /// Where its log ends, for the reader's round of this number.
    LogEnd(NodeId, u64, Position),
    /// A raft message, as the certificate names the sender.
    Message(NodeId, Bytes),
    /// Another node came with this data directory for the first time.
    Remember(NodeId, String),
    /// A whole snapshot of it.
    Snapshot(NodeId, Box<Arrival>),
    /// It got more of the tables that go to it.
    SnapshotProgress(NodeId),
    /// Tables are ready to go, or not.
    SnapshotTaken(Result<Spool, WalError>),
    /// The connection to it broke.
    Unreachable(NodeId),
}

/// What the loop is made of.
pub struct Parts {
    /// The replica.
    pub replica: Replica,
    /// Its disk.
    pub wal: Wal,
    /// Where events go.
    pub hub: Arc<Hub>,
    /// Where raft messages go.
    pub outboxes: Outboxes,
    /// How fast raft's time goes.
    pub pace: Pace,
    /// The members until the state knows them.
    pub founders: Vec<ClusterMember>,
    /// Feature levels this node may know.
    pub levels: (u32, u32),
}

/// All that are or were members.
pub type Members = Arc<Vec<ClusterMember>>;

/// Whom this node knows. A cluster that begins anew forgot who was a member, and its configuration
/// may name the lost ones still: only who votes or learns now is believed before the state says.
pub(crate) fn members(replica: &Replica, founders: &[ClusterMember]) -> Members {
    let known: Vec<ClusterMember> = replica.state().members().collect();
    if !known.is_empty() {
        return Arc::new(known);
    }
    let conf = replica.state().conf();
    let is_new = conf.voters.is_empty();
    let believed = founders.iter().filter(|member| is_new || conf.contains(member.node_id));
    Arc::new(believed.cloned().collect())
}

/// A proposal under way.
struct Waiting {
    reply: oneshot::Sender<Proposed>,
    since: Instant,
}

struct Loop {
    replica: Replica,
    wal: Wal,
    hub: Arc<Hub>,
    outboxes: Outboxes,
    progress: watch::Sender<Progress>,
    led: watch::Sender<Led>,
    proposals: BTreeMap<u64, Waiting>,
    reads: BTreeMap<u64, Vec<Reader>>,
    /// Readers of this turn; they share one round.
    new_reads: Vec<Reader>,
    answers: Answers,
    clocks: Clocks,
    pace: Pace,
    founders: Vec<ClusterMember>,
    members: watch::Sender<Members>,
    log_end: Arc<Mutex<Position>>,
    writing: Arc<Writing>,
    snapshots: Snapshots,
    next: u64,
    gauges_at: Instant,
    /// What was applied last was known to be committed then.
    committed_at: Instant,
    leader: Option<NodeId>,
}

/// Starts the thread. It ends after `Driver::stop`, or with an error; either is told to `ended`.
pub fn start(
    parts: Parts,
    ended: oneshot::Sender<Result<(), DriverError>>,
) -> std::io::Result<Driver> {
    let (api, api_inputs) = mpsc::channel(API_QUEUE);
    let (peer, peer_inputs) = mpsc::channel(PEER_QUEUE);
    let (stop, stopped) = watch::channel(false);
    let (progress, seen) = watch::channel(Progress::of(&parts.replica));
    let (led, led_seen) = watch::channel((parts.replica.leader(), parts.replica.term()));
    let (stalls, stalled) = watch::channel(false);
    let Parts { replica, wal, hub, outboxes, pace, founders, levels } = parts;
    let (tables, health) = (wal.tables(), wal.health());
    let (members, members_seen) = watch::channel(members(&replica, &founders));
    let log_end = Arc::new(Mutex::new(replica.log_end()));
    let writing = Writing::new();
    tokio::spawn(stall::watch(Arc::downgrade(&writing), pace.clone(), stalls));
    let mut driver = Loop {
        replica,
        wal,
        hub,
        outboxes,
        progress,
        led,
        proposals: BTreeMap::new(),
        reads: BTreeMap::new(),
        new_reads: Vec::new(),
        answers: Answers::start(),
        clocks: Clocks::default(),
        pace,
        founders,
        members,
        log_end: log_end.clone(),
        writing,
        snapshots: Snapshots::new(peer.clone()),
        next: 0,
        gauges_at: Instant::now(),
        committed_at: Instant::now(),
        leader: None,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
    std::thread::Builder::new().name("driver".into()).spawn(move || {
        let result = runtime.block_on(driver.run(api_inputs, peer_inputs, stopped));
        // Nobody listens only when the process ends anyway.
        let _ = ended.send(result);
    })?;
    Ok(Driver::new(
        api,
        peer,
        stop,
        Shared {
            progress: seen,
            led: led_seen,
            stalled,
            log_end,
            members: members_seen,
            levels,
            tables,
            health,
        },
    ))
}

impl Loop {
    async fn run(
        &mut self,
        mut api: mpsc::Receiver<ApiInput>,
        mut peer: mpsc::Receiver<PeerInput>,
        mut stop: watch::Receiver<bool>,
    ) -> Result<(), DriverError> {
        let tick = tokio::time::sleep(self.pace.tick());
        tokio::pin!(tick);
        self.execute()?;
        loop {
            tokio::select! {
                biased;
                _ = stop.wait_for(|stop| *stop) => break,
                () = tick.as_mut() => {
                    self.tick()?;
                    // From now on: after a pause of the process, time that nobody lived through
                    // must not elect leaders.
                    tick.as_mut().reset(tokio::time::Instant::now() + self.pace.tick());
                }
                Some(input) = peer.recv() => {
                    self.peer_turn(input, &mut peer)?;
                    // Peers come first, and however busy they are, the API has its turn.
                    if let Ok(input) = api.try_recv() {
                        self.api_turn(input, &mut api);
                    }
                }
                Some(input) = api.recv() => self.api_turn(input, &mut api),
            }
            let began = Instant::now();
            self.execute()?;
            telemetry::turned(began.elapsed());
            self.publish();
        }
        Ok(self.wal.flush()?)
    }

    fn tick(&mut self) -> Result<(), DriverError> {
        self.wal.tick()?;
        let now = Instant::now();
        let wall_ms = self.wall_ms();
        self.replica.handle_tick(wall_ms);
        self.proposals.retain(|_, waiting| !waiting.reply.is_closed());
        if now >= self.gauges_at {
            self.gauges_at = now + GAUGES_EVERY;
            telemetry::replica(&self.replica);
            self.hub.measure();
            self.hub.forget_old_snapshot(now);
            self.look_after_snapshots(now);
        }
        self.make_snapshot();
        Ok(())
    }

    fn peer_turn(
        &mut self,
        first: PeerInput,
        more: &mut mpsc::Receiver<PeerInput>,
    ) -> Result<(), DriverError> {
        let mut next = Some(first);
        let mut left = BATCH;
        while let Some(input) = next {
            match input {
                PeerInput::Clock(node, wall_ms) => {
                    self.clocks.told(node, wall_ms, Instant::now());
                }
                PeerInput::Introduce(them) => {
                    self.founders = them;
                    self.members.send_replace(members(&self.replica, &self.founders));
                }
                PeerInput::Levels(node, levels) => self.replica.handle_levels(node, levels),
                PeerInput::Gone(node) => self.replica.handle_peer_gone(node),
                PeerInput::LogEnd(node, round, end) => {
                    self.replica.handle_log_end(node, round, end);
                }
                PeerInput::Message(from, message) => self.peer_message(from, &message),
                PeerInput::Remember(node, incarnation) => {
                    self.wal.remember_incarnation(node, &incarnation)?;
                }
                PeerInput::Snapshot(from, arrival) => self.snapshot_came(from, *arrival),
                PeerInput::SnapshotProgress(to) => self.replica.handle_snapshot_progress(to),
                PeerInput::SnapshotTaken(made) => self.snapshot_made(made),
                PeerInput::Unreachable(node) => self.replica.report_unreachable(node),
            }
            left -= 1;
            next = if left > 0 { more.try_recv().ok() } else { None };
        }
        Ok(())
    }

    fn peer_message(&mut self, from: NodeId, message: &[u8]) {
        if let Err(error) = self.replica.handle_peer(from, message) {
            telemetry::frame_dropped(PeerDrop::Misbehaved);
            tracing::warn!(%from, %error, "a raft message was refused");
        }
    }

    fn api_turn(&mut self, first: ApiInput, more: &mut mpsc::Receiver<ApiInput>) {
        let wall_ms = self.wall_ms();
        let mut next = Some(first);
        let mut left = BATCH;
        while let Some(input) = next {
            match input {
                ApiInput::Propose(command, reply) => self.propose(*command, reply, wall_ms),
                ApiInput::CatchUp(index) => self.wal.catch_up(index),
                ApiInput::Query(query) => {
                    let delivery = query(&self.replica);
                    self.answers.push(Answer::Other(delivery));
                }
                ApiInput::Read(reply) => self.new_reads.push(reply),
                ApiInput::RecordPops(record) => self.replica.propose_pops(record),
                ApiInput::Transfer(to, reply) => {
                    // The caller may have left.
                    let _ = reply.send(self.replica.transfer_leader(to));
                }
            }
            left -= 1;
            next = if left > 0 { more.try_recv().ok() } else { None };
        }
        self.read();
    }

    fn propose(&mut self, command: Command, reply: oneshot::Sender<Proposed>, wall_ms: u64) {
        if reply.is_closed() {
            return; // It waited for a disk, or too long: its client has gone elsewhere.
        }
        self.next += 1;
        match self.replica.propose(self.next, command, wall_ms) {
            Ok(()) => {
                self.proposals.insert(self.next, Waiting { reply, since: Instant::now() });
            }
            Err(error) => {
                telemetry::proposal(match error {
                    ProposeError::Members(_) => "refused",
                    ProposeError::NotLeader { .. } => "not_leader",
                    ProposeError::Overloaded => "overloaded",
                    ProposeError::TooLarge => "too_large",
                });
                self.answers.push(Answer::Proposed(reply, Proposed::Refused(error)));
            }
        }
    }

    /// All readers of this turn share one round: each of them began before it.
    fn read(&mut self) {
        let readers = std::mem::take(&mut self.new_reads);
        if readers.is_empty() {
            return;
        }
        self.next += 1;
        match self.replica.read(self.next) {
            Ok(()) => {
                self.reads.insert(self.next, readers);
            }
            Err(error) => self.answer_readers(readers, Some(Unread::Refused(error))),
        }
    }

    /// This node's clock, as far as the others' agree.
    fn wall_ms(&self) -> u64 {
        self.clocks.bounded(wall_ms(), &self.replica.voters(), Instant::now())
    }

    /// The next command. What is committed is applied on the way to it.
    fn poll(&mut self) -> Option<ReplicaCommand> {
        let (began, before) = (Instant::now(), self.replica.applied());
        let command = self.replica.poll_command();
        if self.replica.applied() > before {
            self.committed_at = began;
            telemetry::applied(began.elapsed());
        }
        command
    }

    fn execute(&mut self) -> Result<(), DriverError> {
        while let Some(command) = self.poll() {
            match command {
                ReplicaCommand::Ask { to, round } => self.outboxes.push(to, Parcel::Ask(round)),
                ReplicaCommand::Event(event) => self.hub.push(event),
                ReplicaCommand::Members => {
                    self.members.send_replace(members(&self.replica, &self.founders));
                }
                ReplicaCommand::Halt { reason } => return Err(reason.into()),
                ReplicaCommand::Outcome { proposal, outcome, revision: _ } => {
                    self.answer_proposal(proposal, outcome);
                }
                ReplicaCommand::Persist(persist) => {
                    self.answers.hand_over();
                    self.persist(&persist)?;
                }
                ReplicaCommand::ProposalLost { proposal } => {
                    telemetry::proposal("lost");
                    if let Some(waiting) = self.proposals.remove(&proposal) {
                        self.answers.push(Answer::Proposed(waiting.reply, Proposed::Lost));
                    }
                }
                ReplicaCommand::ReadLost { read } => {
                    let readers = self.reads.remove(&read).unwrap_or_default();
                    self.answer_readers(readers, Some(Unread::Lost));
                }
                ReplicaCommand::ReadReady { read } => {
                    let readers = self.reads.remove(&read).unwrap_or_default();
                    self.answer_readers(readers, None);
                }
                ReplicaCommand::Role { leader, term, role } => self.role(leader, term, role),
                ReplicaCommand::Send { to, message } => {
                    self.outboxes.push(to, Parcel::Raft(message));
                }
                ReplicaCommand::SendSnapshot { to, at, message } => {
                    self.ship_snapshot(to, at, message);
                }
                ReplicaCommand::SnapshotWanted { at_least } => self.want_snapshot(at_least),
                ReplicaCommand::StateReplaced { revision } => {
                    tracing::info!(%revision, "the leader's snapshot replaced the state");
                    self.hub.reset(revision);
                }
            }
        }
        self.answers.hand_over();
        Ok(())
    }

    fn persist(&mut self, persist: &Persist) -> Result<(), DriverError> {
        // Before it: what acknowledges these entries leaves after it, and readers ask meanwhile.
        *self.log_end.lock().unwrap_or_else(PoisonError::into_inner) = self.replica.log_end();
        let began = Instant::now();
        self.writing.begins();
        self.wal.persist(persist)?;
        self.writing.ends();
        telemetry::persisted(began.elapsed());
        self.replica.handle_persisted(persist.number);
        if self.replica.take_repaired() {
            self.wal.repaired()?;
            tracing::warn!("what this node had lost came back: it votes again");
        }
        Ok(())
    }

    fn answer_proposal(&mut self, proposal: u64, outcome: Outcome) {
        let rejected = matches!(outcome.kind, Some(proto::raft::outcome::Kind::Rejected(_)));
        telemetry::proposal(if rejected { "rejected" } else { "applied" });
        if let Some(Waiting { reply, since }) = self.proposals.remove(&proposal) {
            telemetry::committed(self.committed_at.saturating_duration_since(since));
            let applied = Proposed::Applied(Box::new((outcome, header(&self.replica))));
            self.answers.push(Answer::Proposed(reply, applied));
        }
    }

    fn answer_readers(&mut self, readers: Vec<Reader>, unread: Option<Unread>) {
        for reader in readers {
            let delivery = reader(unread.map_or(Ok(&self.replica), Err));
            self.answers.push(Answer::Other(delivery));
        }
    }

    fn role(&mut self, leader: Option<NodeId>, term: u64, role: Role) {
        if leader != self.leader {
            telemetry::leader_changed();
            self.leader = leader;
        }
        let leader = leader.map_or_else(|| "none".to_owned(), |l| l.to_string());
        tracing::info!(role = role.as_str(), leader, term, "raft role");
    }

    fn publish(&self) {
        self.progress.send_if_modified(|seen| seen.update(&self.replica));
        let led = (self.replica.leader(), self.replica.term());
        self.led.send_if_modified(|seen| std::mem::replace(seen, led) != led);
    }
}
