//! What a replica is given, asks for and answers.

use bytes::Bytes;
use proto::control::{ClusterMember, Event};
use proto::id::{NodeId, Revision};
use proto::raft::Outcome;

use crate::command::COMMAND_BYTES_MAX;
use crate::group::GroupId;
use crate::state::TableChange;

/// Largest peer message a replica takes: some entries, one of them as large as they get.
pub const PEER_MESSAGE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// How a replica takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplicaConfig {
    /// This node.
    pub id: NodeId,
    /// Which keys it keeps, the same on every node.
    pub group: GroupId,
    /// The first voters of a new cluster, this node among them, the same on every node; empty for a
    /// node that joins one. Without meaning once there is data.
    pub voters: Vec<NodeId>,
    /// Where they are, for the first leader to tell; may be empty.
    pub members: Vec<ClusterMember>,
    /// Feature levels this node may know: [`super::LEVELS`], or less to hold an upgrade back.
    pub levels: (u32, u32),
    /// Ticks between heartbeats of a leader.
    pub heartbeat_ticks: u32,
    /// Ticks without a leader until an election: drawn from `[min, max)`. `max == min + 1` pins
    /// it; simulations pin each node to another value, or runs do not repeat and ties never break.
    pub election_ticks: (u32, u32),
    /// Voters refuse a candidate of lower priority, its log being equal. 0 for all is usual.
    pub priority: i64,
    /// Of the data directory; part of what makes a read context unique.
    pub incarnation: String,
}

/// Bounds of the log, and how often replicas compare their states. `hash_every` is the same on all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// A log with more entries than this is compacted,
    pub log_entries_max: usize,
    /// down to so many, which followers may be behind without needing a snapshot.
    pub log_entries_kept: usize,
    /// A log with more bytes is compacted to half of them.
    pub log_bytes_max: usize,
    /// Log entries between comparisons; never 0.
    pub hash_every: u64,
    /// A planted bug for tests of the tests: reads ask nobody.
    pub reads_ask_nobody: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            log_entries_max: 100_000,
            log_entries_kept: 50_000,
            log_bytes_max: 256 * 1024 * 1024,
            hash_every: 4_096,
            reads_ask_nobody: false,
        }
    }
}

/// A place in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    /// Index.
    pub index: u64,
    /// Term of the entry at `index`.
    pub term: u64,
}

/// Raft's `HardState`: what a voter must never forget (Raft §5, figure 2), and its commit index.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HardState {
    /// Latest term seen.
    pub term: u64,
    /// Voted for in `term`; 0 for nobody.
    pub vote: u64,
    /// Known committed.
    pub commit: u64,
}

/// One log entry, encoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// The entry as raft encodes it; opaque for storage.
    pub bytes: Bytes,
}

/// A snapshot of the leader that replaces everything here: the tables that were given to
/// [`super::Replica::handle_snapshot`] with this position, which are [`super::Replica::state`] now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InstallSnapshot {
    /// Last log position it contains; becomes the log's base.
    pub position: Position,
}

/// One durable transaction. All of it or nothing, in this order: `snapshot`, `entries`,
/// `changes`, then the rest. Answer with [`super::Replica::handle_persisted`] when it is on disk;
/// any storage error must end the process (counted as persisted, it would lose acknowledged
/// writes). At most one is outstanding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persist {
    /// Names it in `handle_persisted`; counts up.
    pub number: u64,
    /// Put its tables in the place of all tables, delete the whole log; the base is its position.
    pub snapshot: Option<InstallSnapshot>,
    /// Delete entries with `index >= entries[0].index`, then append these.
    pub entries: Vec<LogEntry>,
    /// Table changes: put, or delete when the value is `None`.
    pub changes: Vec<TableChange>,
    /// Replace.
    pub hard_state: HardState,
    /// Replace: the tables contain the effects of the log up to here.
    pub applied: u64,
    /// The new base: delete entries with `index <= compact_to.index`. Never beyond `applied`.
    pub compact_to: Option<Position>,
}

/// What storage holds at start. All empty (`default()`): a new node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Restored {
    /// Last persisted.
    pub hard_state: HardState,
    /// Last `compact_to` or snapshot position.
    pub base: Position,
    /// Entries after `base`, in order.
    pub entries: Vec<LogEntry>,
    /// All tables, in any order.
    pub tables: Vec<(Vec<u8>, Bytes)>,
    /// Last persisted.
    pub applied: u64,
}

/// What a node lost of what it promised; see [`super::Replica::begin_repair`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Repair {
    /// It may have acknowledged the log up to here,
    pub index: u64,
    /// from leaders up to this term.
    pub term: u64,
}

/// What the shell is to do.
#[derive(Debug, Clone, PartialEq)]
#[expect(clippy::large_enum_variant, reason = "few at once, each for a moment")]
pub enum ReplicaCommand {
    /// Ask another voter where its log ends ([`super::Replica::log_end`]), and hand the answer to
    /// [`super::Replica::handle_log_end`]. May be lost.
    Ask {
        /// Whom.
        to: NodeId,
        /// Names the question in the answer.
        round: u64,
    },
    /// A control resource changed; for watchers.
    Event(Event),
    /// Stop the process: going on could harm. Nothing comes after it.
    Halt {
        /// Why.
        reason: HaltReason,
    },
    /// Who the members are or where has changed: look at the state.
    Members,
    /// A proposal of this node was applied.
    Outcome {
        /// As given to `propose`.
        proposal: u64,
        /// What it came to.
        outcome: Outcome,
        /// Of the state after it.
        revision: Revision,
    },
    /// Write durably; see [`Persist`].
    Persist(Persist),
    /// The leader changed or took too long: whether it was or will be applied is unknown.
    ProposalLost {
        /// As given to `propose`.
        proposal: u64,
    },
    /// No majority answered in time, or this node lags too far behind.
    ReadLost {
        /// As given to `read`.
        read: u64,
    },
    /// The state now holds all that was acknowledged before the read began.
    ReadReady {
        /// As given to `read`.
        read: u64,
    },
    /// Role, term or leader changed.
    Role {
        /// Known leader.
        leader: Option<NodeId>,
        /// Term.
        term: u64,
        /// Role of this node.
        role: Role,
    },
    /// To another voter. May be lost; may not be reordered often.
    Send {
        /// To whom.
        to: NodeId,
        /// For its `handle_peer`.
        message: Bytes,
    },
    /// To a member that is behind the log: first the tables that were told to
    /// [`super::Replica::handle_snapshot_taken`] with this position, then the message, for its
    /// [`super::Replica::handle_snapshot`]. Tell what becomes of it:
    /// [`super::Replica::handle_snapshot_progress`], [`super::Replica::handle_snapshot_failed`].
    SendSnapshot {
        /// To whom.
        to: NodeId,
        /// Which tables.
        at: Position,
        /// What raft says with it.
        message: Bytes,
    },
    /// A member is behind the log: make tables of this index or a later one ready to be sent, and
    /// call [`super::Replica::handle_snapshot_taken`].
    SnapshotWanted {
        /// The log begins behind this.
        at_least: u64,
    },
    /// A snapshot replaced the state: events are missing. Cut watchers and empty the watch log.
    StateReplaced {
        /// Of the new state.
        revision: Revision,
    },
}

/// Why a replica had to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum HaltReason {
    /// From here on the log holds what this version does not know.
    #[error(
        "log index {index} raises the feature level to {level}, this version knows {newest}: run the version the other nodes run"
    )]
    FeatureLevel {
        /// Where.
        index: u64,
        /// To this.
        level: u32,
        /// Ours.
        newest: u32,
    },
    /// Its state differs from the leader's at the same log index.
    #[error(
        "the state at log index {index} differs from the leader's: move this node's data aside and keep it for analysis"
    )]
    StateDiffers {
        /// Where.
        index: u64,
    },
    /// The log holds a command of a newer version.
    #[error(
        "log index {index} holds a command this version does not know: run the version the other nodes run"
    )]
    UnknownCommand {
        /// Where.
        index: u64,
    },
}

/// Raft role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Follows or waits.
    Follower,
    /// Asks whether an election could be won (Raft thesis §9.6).
    PreCandidate,
    /// Asks for votes.
    Candidate,
    /// Leads.
    Leader,
}

impl Role {
    /// For people: "leader".
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Follower => "follower",
            Self::PreCandidate => "pre-candidate",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
        }
    }
}

/// Why a proposal was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// A change of the members that the leader does not propose, or a command too new for them.
    #[error(transparent)]
    Members(#[from] MembersError),
    /// Ask the leader.
    #[error("this node is not the leader")]
    NotLeader {
        /// Where to go, if known.
        leader: Option<NodeId>,
    },
    /// Too much waits for a quorum already. Retry later.
    #[error("too many commands wait for a quorum")]
    Overloaded,
    /// Larger than a log entry may be.
    #[error("the command is larger than {COMMAND_BYTES_MAX} bytes")]
    TooLarge,
}

/// Why the members cannot do it now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MembersError {
    /// A learner lags.
    #[error("node {node} is {behind} entries behind: wait until it has caught up")]
    Behind {
        /// Which.
        node: NodeId,
        /// By so many.
        behind: u64,
    },
    /// The command is of a newer version.
    #[error(
        "this command needs feature level {needed}, the cluster is at {level}: upgrade all control nodes"
    )]
    FeatureLevel {
        /// For the command.
        needed: u32,
        /// Of the log.
        level: u32,
    },
    /// One at a time.
    #[error("another change of members is not done yet: retry")]
    InProgress,
    /// It would stop the cluster.
    #[error("only {alive} of the voters there would be are alive, {needed} are needed")]
    NoQuorum {
        /// Heard from lately.
        alive: usize,
        /// A majority.
        needed: usize,
    },
    /// The leader goes and nobody can follow it.
    #[error("this leader can hand over to none of those who stay: wait until one has caught up")]
    NoSuccessor,
    /// Silence.
    #[error("node {node} was not heard from lately: start it, and look at its address")]
    NotHeard {
        /// Which.
        node: NodeId,
    },
    /// Not all members know it.
    #[error("feature level {level} is not known to all members, {able} is: upgrade them first")]
    Unsupported {
        /// Asked for.
        level: u32,
        /// Known to all.
        able: u32,
    },
}

/// Why a read was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// This node may not go on.
    #[error("this node stopped itself")]
    Halted,
    /// Too many reads wait. Retry later.
    #[error("too many reads wait for a quorum")]
    Overloaded,
}

/// Why leadership does not move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// Nobody could take over: not a voter, not heard from, or too far behind.
    #[error("no voter that was heard from lately and is up to date can take over")]
    NoCandidate,
    /// Ask the leader.
    #[error("this node is not the leader")]
    NotLeader {
        /// Where to go, if known.
        leader: Option<NodeId>,
    },
}

/// Why stored data was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RestoreError {
    /// The configuration makes no sense.
    #[error("the replica's configuration is not valid: {0}")]
    Config(&'static str),
    /// Storage lost or invented something.
    #[error("the stored data contradicts itself: {0}")]
    Corrupt(&'static str),
    /// A table entry does not decode.
    #[error("a stored table entry is damaged: {0}")]
    Table(#[from] crate::state::TableError),
    /// Written by a newer version.
    #[error("this data is at feature level {stored}, this version knows {newest}: run a newer one")]
    FeatureLevel {
        /// Of the data.
        stored: u32,
        /// Ours.
        newest: u32,
    },
    /// Of other keys than this node is to keep.
    #[error(
        "this data is of group {stored}, this node is of group {own}: give it its own data_dir"
    )]
    Group {
        /// Of the data.
        stored: GroupId,
        /// Ours.
        own: GroupId,
    },
    /// This node is no member any more.
    #[error(
        "node {0} was removed from this cluster: join with a new node.id and an empty data_dir"
    )]
    Removed(NodeId),
}

/// How things stand.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Status {
    /// This node.
    pub id: NodeId,
    /// Role.
    pub role: Role,
    /// Term.
    pub term: u64,
    /// Known leader.
    pub leader: Option<NodeId>,
    /// Known committed.
    pub commit: u64,
    /// Applied to the state in memory.
    pub applied: u64,
    /// Applied and durable.
    pub applied_durable: u64,
    /// First index in the log.
    pub first_index: u64,
    /// Last index in the log.
    pub last_index: u64,
    /// Leader only: the last index each member is known to hold.
    pub match_index: Vec<(NodeId, u64)>,
    /// Proposals that wait for a quorum.
    pub proposals: usize,
    /// Commands not yet polled.
    pub commands: usize,
}

/// What was counted since start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Peer messages taken.
    pub peer_messages: u64,
    /// Peer messages refused ([`super::PeerMisbehaved`]).
    pub peer_refused: u64,
    /// Peer messages dropped because a snapshot was being written.
    pub peer_dropped: u64,
    /// Log entries applied.
    pub applied: u64,
    /// Commands answered from the request table.
    pub repeated: u64,
    /// Times this node became leader.
    pub elected: u64,
    /// Times this leader handed over to a voter of higher priority, unasked.
    pub preferred: u64,
    /// Snapshots sent.
    pub snapshots_sent: u64,
    /// Snapshots installed.
    pub snapshots_installed: u64,
    /// Proposals lost.
    pub proposals_lost: u64,
}
