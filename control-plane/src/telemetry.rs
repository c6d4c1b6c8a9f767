//! Every metric of a control node, in one table, and the log.
//!
//! Names: `control_…`, base units (Prometheus). Reasons are labels with a bounded set of values.
//! Never personal data in a label: no numbers, no names of callers.

use std::io::BufWriter;
use std::sync::OnceLock;
use std::time::Duration;

use metrics::{counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram};
use metrics_exporter_prometheus::{BuildError, PrometheusBuilder, PrometheusHandle};
use proto::control::NumberState;
use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};

use crate::wal::Health;

enum Kind {
    Counter,
    Gauge,
    Histogram,
}

macro_rules! table {
    ($($(#[$doc:meta])* $name:ident = $text:literal, $kind:ident, $help:literal;)*) => {
        $(const $name: &str = $text;)*
        const TABLE: &[(&str, Kind, &str)] = &[$(($text, Kind::$kind, $help)),*];
    };
}

table! {
    API_REQUESTS = "control_api_requests_total", Counter, "API requests by method and gRPC code";
    APPLY_SECONDS = "control_apply_seconds", Histogram,
        "Time of applying the committed entries of one step";
    AUDIT_EXPORTED = "control_audit_exported_row", Gauge,
        "Last audit row in the files of [audit] export";
    AUDIT_EXPORT_LAG = "control_audit_export_lag_rows", Gauge, "Audit rows not exported yet";
    AUDIT_EXPORT_FAILED = "control_audit_export_failures_total", Counter,
        "Times the files of [audit] export could not be written";
    AUDIT_EXPORT_MISSED = "control_audit_export_missed_rows_total", Counter,
        "Audit rows that left the state before they were exported";
    BACKUP_FAILURES = "control_backup_failures_total", Counter,
        "Times the log or the tables could not be shipped";
    BACKUP_INDEX = "control_backup_index", Gauge, "Last log index in the archive";
    BACKUP_TIME = "control_backup_timestamp_seconds", Gauge,
        "When the archive held all that was applied, Unix time";
    BUILD_INFO = "control_build_info", Gauge, "1, with the version as a label";
    CERTIFICATE_LEFT = "control_certificate_left_seconds", Gauge,
        "Time until this node's certificate ends";
    COMMIT_SECONDS = "control_commit_seconds", Histogram,
        "Time from a proposal on this node, as leader, until it was committed";
    CONNECTIONS = "control_connections", Gauge, "Open TLS connections of clients and peers";
    CONNECTIONS_REFUSED = "control_connections_refused_total", Counter,
        "Connections refused, by reason";
    DNS_QUERIES = "control_dns_queries_total", Counter,
        "DNS queries of clients and resolvers, by what became of them";
    DNS_TARGETS = "control_dns_targets", Gauge,
        "Addresses of POPs that DNS steers new calls to; 0: callers that follow DNS find none";
    DISK_FREE = "control_disk_free_bytes", Gauge, "Free bytes of the disk with the data directory";
    DISK_LOW = "control_disk_low", Gauge, "1 while growth is refused for want of disk space";
    DISK_STALLS = "control_disk_stalls_total", Counter,
        "Writes that took longer than an election: this node could not lead";
    DISK_WRITE_AGE = "control_disk_write_age_seconds", Gauge,
        "Age of the durable write under way, 0 without one";
    FSYNC_SECONDS = "control_fsync_seconds", Histogram, "Time of one write and sync of the log";
    HEARTBEATS = "control_heartbeats_total", Counter, "Heartbeats of POPs";
    LOG_BYTES = "control_log_bytes", Gauge, "Bytes of the log on disk";
    LOG_LOST = "control_log_lines_lost_total", Counter,
        "Lines for standard error that found no room: who reads them, or its disk, is too slow";
    NUMBERS = "control_numbers", Gauge, "Numbers of the inventory by state";
    POOL_NUMBERS = "control_pool_numbers", Gauge, "Numbers by pool and state, of the first 100 pools";
    PEER_FRAMES = "control_peer_frames_total", Counter, "Raft messages by direction";
    PEER_DROPPED = "control_peer_dropped_frames_total", Counter,
        "Raft messages dropped before sending or refused on arrival, by reason";
    PEER_ROUND_TRIP = "control_peer_round_trip_seconds", Gauge,
        "Shortest of the last round trips to a member";
    PERSIST_SECONDS = "control_persist_seconds", Histogram, "Time of one durable transaction";
    POPS_ALIVE = "control_pops_alive", Gauge, "POPs whose heartbeats reach this node";
    POPS_FOUND = "control_pops_found_total", Counter,
        "POPs this node, as leader, found expired, returned or fenced, by finding";
    POPS_HELD = "control_pops_held", Gauge,
        "POPs that a majority does not hear but some node does, kept because many went at once";
    PROPOSALS = "control_proposals_total", Counter, "Commands proposed here, by result";
    RAFT_APPLIED = "control_raft_applied_index", Gauge, "Last log index applied";
    RAFT_COMMIT = "control_raft_commit_index", Gauge, "Last log index known committed";
    RAFT_ELECTED = "control_raft_elections_won_total", Counter,
        "Times this node became leader";
    RAFT_EVENTS = "control_raft_events_total", Counter, "What the replica did, by event";
    RAFT_FOLLOWER_LAG = "control_raft_follower_lag_entries", Gauge,
        "Entries a member is behind this leader, by peer; 0 where this node does not lead";
    RAFT_ELECTIONS = "control_raft_leader_changes_total", Counter, "Changes of the known leader";
    RAFT_LEADER = "control_raft_is_leader", Gauge, "1 while this node leads";
    RAFT_LOG = "control_raft_log_entries", Gauge, "Entries in the log";
    RAFT_TERM = "control_raft_term", Gauge, "Raft term";
    READ_SECONDS = "control_read_round_seconds", Histogram,
        "Time until a linearizable read may look at the state";
    TURN_SECONDS = "control_turn_seconds", Histogram,
        "Time of one turn of the driver: what was asked made durable, sent and applied";
    WATCH_BUFFER = "control_watch_buffer_events", Gauge, "Events kept for watches that come back";
    WATCH_LAG = "control_watch_lag_events", Gauge, "Events the slowest open watch is behind";
    REVISION = "control_revision", Gauge, "Revision of the replicated state";
    SNAPSHOT_BYTES = "control_snapshot_bytes_total", Counter,
        "Bytes of tables that came from a leader";
    SNAPSHOT_DAMAGED = "control_snapshot_damaged_total", Counter,
        "Pieces of tables that came damaged and were asked for again";
    SNAPSHOT_PROGRESS = "control_snapshot_progress_ratio", Gauge,
        "How much of the tables under way is there, by direction";
    SNAPSHOT_RETRIES = "control_snapshot_retries_total", Counter,
        "Connections that broke while tables were sent over them";
    TABLES_BYTES = "control_tables_bytes", Gauge, "Bytes of the tables on disk";
    TABLES_MERGE_BYTES = "control_tables_merge_bytes", Gauge, "Size of the last merged table file";
    TABLES_MERGE_SECONDS = "control_tables_merge_seconds", Histogram,
        "Time to merge table files";
    WATCHERS = "control_watchers", Gauge, "Open watches";
    WATCHERS_CUT = "control_watchers_cut_total", Counter, "Watches ended by this node, by reason";
}

/// Why a raft message went nowhere.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerDrop {
    /// It is about another group's log.
    Group,
    /// The message came from a wiped or copied data directory.
    Incarnation,
    /// It broke raft's rules.
    Misbehaved,
    /// More waited than the queue holds; the oldest went.
    QueueFull,
    /// It names another sender or receiver than the connection does.
    Sender,
    /// It is no member, and no member vouches for it.
    Stranger,
    /// No connection to the peer.
    Unconnected,
}

impl PeerDrop {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Incarnation => "incarnation",
            Self::Misbehaved => "misbehaved",
            Self::QueueFull => "queue_full",
            Self::Sender => "sender",
            Self::Stranger => "stranger",
            Self::Unconnected => "unconnected",
        }
    }
}

/// Why a connection was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ConnectionRefused {
    /// No handshake in time.
    HandshakeTimeout,
    /// As many as are allowed are open.
    Limit,
    /// TLS failed: no certificate, a foreign one, no TLS 1.3.
    Tls,
}

impl ConnectionRefused {
    const fn as_str(self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Limit => "limit",
            Self::Tls => "tls",
        }
    }
}

/// Installs the recorder and describes the table.
pub fn install() -> Result<PrometheusHandle, BuildError> {
    let buckets = [0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 2.5];
    let handle = PrometheusBuilder::new().set_buckets(&buckets)?.install_recorder()?;
    for (name, kind, help) in TABLE {
        match kind {
            Kind::Counter => describe_counter!(*name, *help),
            Kind::Gauge => describe_gauge!(*name, *help),
            Kind::Histogram => describe_histogram!(*name, *help),
        }
    }
    gauge!(BUILD_INFO, "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    Ok(handle)
}

/// The receiver of tables has so much of them.
pub fn snapshot_sent(have: u64, of: u64) {
    gauge!(SNAPSHOT_PROGRESS, "direction" => "out").set(have as f64 / of.max(1) as f64);
}

/// Tables begin to come in, or go on.
pub fn snapshot_incoming(have: u64, of: u64) {
    gauge!(SNAPSHOT_PROGRESS, "direction" => "in").set(have as f64 / of.max(1) as f64);
}

/// A piece of tables came.
pub fn snapshot_received(bytes: usize, have: u64, of: u64) {
    counter!(SNAPSHOT_BYTES).increment(bytes as u64);
    snapshot_incoming(have, of);
}

/// A piece of tables came damaged.
pub fn snapshot_damaged() {
    counter!(SNAPSHOT_DAMAGED).increment(1);
}

/// A connection broke on which tables were sent.
pub fn snapshot_retried() {
    counter!(SNAPSHOT_RETRIES).increment(1);
}

/// The archive holds the log up to here, and there is more.
pub fn shipping(index: u64) {
    gauge!(BACKUP_INDEX).set(index as f64);
}

/// The archive holds all of the log, which ends here.
pub fn shipped(index: u64) {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    gauge!(BACKUP_INDEX).set(index as f64);
    gauge!(BACKUP_TIME).set(now.unwrap_or_default().as_secs_f64());
}

/// A turn of shipping failed.
pub fn shipping_failed() {
    counter!(BACKUP_FAILURES).increment(1);
}

/// An API request was answered.
pub fn api_request(method: &'static str, code: tonic::Code) {
    counter!(API_REQUESTS, "method" => method, "code" => code_name(code)).increment(1);
}

/// As PromQL readers expect it: `UNAVAILABLE`.
fn code_name(code: tonic::Code) -> &'static str {
    use tonic::Code;
    match code {
        Code::Aborted => "ABORTED",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::Cancelled => "CANCELLED",
        Code::DataLoss => "DATA_LOSS",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Internal => "INTERNAL",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::NotFound => "NOT_FOUND",
        Code::Ok => "OK",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::Unauthenticated => "UNAUTHENTICATED",
        Code::Unavailable => "UNAVAILABLE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Unknown => "UNKNOWN",
    }
}

/// Connections opened (1) or closed (-1).
pub fn connections(change: f64) {
    gauge!(CONNECTIONS).increment(change);
}

/// A connection was refused.
pub fn connection_refused(reason: ConnectionRefused) {
    counter!(CONNECTIONS_REFUSED, "reason" => reason.as_str()).increment(1);
}

/// Seconds until the certificate ends.
pub fn certificate_left(seconds: i64) {
    gauge!(CERTIFICATE_LEFT).set(seconds as f64);
}

/// A DNS query was answered, or not.
pub fn dns_query(outcome: crate::dns::answer::Outcome) {
    counter!(DNS_QUERIES, "outcome" => outcome.name()).increment(1);
}

/// Addresses that DNS steers calls to.
pub fn dns_targets(count: usize) {
    gauge!(DNS_TARGETS).set(count as f64);
}

/// A POP's heartbeat came.
pub fn heartbeat() {
    counter!(HEARTBEATS).increment(1);
}

/// POPs heard within the liveness window.
pub fn pops_alive(count: usize) {
    gauge!(POPS_ALIVE).set(count as f64);
}

/// A leader found that POPs are gone, given up or back.
pub fn pops_found(record: &proto::raft::RecordPops) {
    let count = |expired| record.found.iter().filter(|pop| pop.expired == expired).count();
    let found =
        [("expired", count(true)), ("returned", count(false)), ("fenced", record.fenced.len())];
    for (finding, count) in found {
        counter!(POPS_FOUND, "finding" => finding).increment(count as u64);
    }
}

/// POPs that a leader does not let expire, though a majority does not hear them.
pub fn pops_held(count: usize) {
    gauge!(POPS_HELD).set(count as f64);
}

/// A raft message was handed to a connection.
pub fn frame_sent() {
    counter!(PEER_FRAMES, "direction" => "sent").increment(1);
}

/// A raft message came in.
pub fn frame_received() {
    counter!(PEER_FRAMES, "direction" => "received").increment(1);
}

/// A raft message went nowhere.
pub fn frame_dropped(reason: PeerDrop) {
    counter!(PEER_DROPPED, "reason" => reason.as_str()).increment(1);
}

/// The shortest of the last round trips to a member.
pub fn peer_round_trip(member: proto::id::NodeId, took: Duration) {
    gauge!(PEER_ROUND_TRIP, "peer" => member.to_string()).set(took.as_secs_f64());
}

/// A write has been under way for this long.
pub fn disk_write_age(age: Duration) {
    gauge!(DISK_WRITE_AGE).set(age.as_secs_f64());
}

/// A write took longer than an election.
pub fn disk_stalled() {
    counter!(DISK_STALLS).increment(1);
}

/// A durable transaction took this long.
pub fn persisted(took: Duration) {
    histogram!(PERSIST_SECONDS).record(took);
}

/// A proposal came to this: `applied`, `rejected`, `lost`, `not_leader`, `overloaded`.
pub fn proposal(result: &'static str) {
    counter!(PROPOSALS, "result" => result).increment(1);
}

/// A linearizable read waited this long.
pub fn read(took: Duration) {
    histogram!(READ_SECONDS).record(took);
}

/// The known leader changed.
pub fn leader_changed() {
    counter!(RAFT_ELECTIONS).increment(1);
}

/// Committed entries were applied.
pub fn applied(took: Duration) {
    histogram!(APPLY_SECONDS).record(took);
}

/// A proposal of this leader was committed so long after it came.
pub fn committed(took: Duration) {
    histogram!(COMMIT_SECONDS).record(took);
}

/// The driver's loop turned.
pub fn turned(took: Duration) {
    histogram!(TURN_SECONDS).record(took);
}

/// Events kept for watches, and how many the slowest open one has still to take.
pub fn watches(buffered: usize, lag: u64) {
    gauge!(WATCH_BUFFER).set(buffered as f64);
    gauge!(WATCH_LAG).set(lag as f64);
}

/// The files of the audit log end at `last`, the state at `head`.
pub fn audit_exported(last: u64, head: u64, missed: u64) {
    gauge!(AUDIT_EXPORTED).set(last as f64);
    gauge!(AUDIT_EXPORT_LAG).set(head.saturating_sub(last) as f64);
    counter!(AUDIT_EXPORT_MISSED).increment(missed);
}

/// They could not be written.
pub fn audit_export_failed() {
    counter!(AUDIT_EXPORT_FAILED).increment(1);
}

/// What the replica counted, and how far the others are.
fn raft(replica: &control_core::replica::Replica, status: &control_core::replica::Status) {
    let counters = replica.counters();
    counter!(RAFT_ELECTED).absolute(counters.elected);
    for (event, count) in [
        ("applied", counters.applied),
        ("message_dropped", counters.peer_dropped),
        ("message_refused", counters.peer_refused),
        ("message_taken", counters.peer_messages),
        ("moved_by_preference", counters.preferred),
        ("proposal_lost", counters.proposals_lost),
        ("repeated_request", counters.repeated),
        ("snapshot_installed", counters.snapshots_installed),
        ("snapshot_sent", counters.snapshots_sent),
    ] {
        counter!(RAFT_EVENTS, "event" => event).absolute(count);
    }
    for member in replica.state().members() {
        let known = status.match_index.iter().find(|(id, _)| id.0 == member.node_id);
        let lag = known.map_or(0, |(_, matched)| status.last_index.saturating_sub(*matched));
        if member.node_id != status.id.0 {
            gauge!(RAFT_FOLLOWER_LAG, "peer" => member.node_id.to_string()).set(lag as f64);
        }
    }
}

/// Gauges of the replica, once a second.
pub fn replica(replica: &control_core::replica::Replica) {
    let status = replica.status();
    let leads = status.role == control_core::replica::Role::Leader;
    let entries = (status.last_index + 1).saturating_sub(status.first_index);
    let counts = replica.state().number_counts();
    raft(replica, &status);
    gauge!(RAFT_APPLIED).set(status.applied as f64);
    gauge!(RAFT_COMMIT).set(status.commit as f64);
    gauge!(RAFT_LEADER).set(f64::from(u8::from(leads)));
    gauge!(RAFT_LOG).set(entries as f64);
    gauge!(RAFT_TERM).set(status.term as f64);
    gauge!(REVISION).set(replica.state().revision().0 as f64);
    for (state, name) in NUMBER_STATES {
        gauge!(NUMBERS, "state" => name).set(counts.of(state) as f64);
    }
    // A gauge of a pool stays for ever: pools are few, and they stay too.
    for (pool, counts) in replica.state().pool_counts().into_iter().take(POOLS_MAX) {
        for (state, name) in NUMBER_STATES {
            let labels = [("pool", pool.clone()), ("state", name.to_owned())];
            gauge!(POOL_NUMBERS, &labels).set(counts.of(state) as f64);
        }
    }
}

/// Pools with gauges of their own.
const POOLS_MAX: usize = 100;

/// As the label says them.
const NUMBER_STATES: [(NumberState, &str); 11] = [
    (NumberState::Active, "active"),
    (NumberState::Available, "available"),
    (NumberState::Blocked, "blocked"),
    (NumberState::Decommissioned, "decommissioned"),
    (NumberState::Pending, "pending"),
    (NumberState::PortedOut, "ported_out"),
    (NumberState::PortingIn, "porting_in"),
    (NumberState::PortingOut, "porting_out"),
    (NumberState::Quarantine, "quarantine"),
    (NumberState::Reserved, "reserved"),
    (NumberState::Suspended, "suspended"),
];

/// The log wrote and synced.
pub fn synced(took: Duration) {
    histogram!(FSYNC_SECONDS).record(took);
}

/// Files of tables became one.
pub fn tables_merged(took: Duration, bytes: u64) {
    histogram!(TABLES_MERGE_SECONDS).record(took);
    gauge!(TABLES_MERGE_BYTES).set(bytes as f64);
}

/// The disk, and what is on it.
pub fn disk(health: &Health, log_bytes: u64, tables_bytes: u64) {
    gauge!(DISK_FREE).set(health.free_bytes() as f64);
    gauge!(DISK_LOW).set(f64::from(u8::from(health.is_low())));
    gauge!(LOG_BYTES).set(log_bytes as f64);
    gauge!(TABLES_BYTES).set(tables_bytes as f64);
}

/// Watches opened (1) or closed (-1).
pub fn watchers(change: f64) {
    gauge!(WATCHERS).increment(change);
}

/// This node ended a watch.
pub fn watcher_cut(reason: &'static str) {
    counter!(WATCHERS_CUT, "reason" => reason).increment(1);
}

/// Lines of the log that may wait; about 2 MB.
const LOG_LINES_MAX: usize = 8_192;
static LOG_QUEUE: OnceLock<ErrorCounter> = OnceLock::new();

/// Sends the log to standard error; `RUST_LOG` chooses, `info` without it. Through a bounded queue:
/// whoever reads it, or the disk behind it, may be slow, and no election waits for that. What still
/// waits is written when the guard is dropped.
pub fn log() -> WorkerGuard {
    let filter = tracing_subscriber::EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| "info,h2=warn,tonic=warn,hyper=warn".into());
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LOG_LINES_MAX);
    let (writer, guard) = queue.thread_name("log").finish(BufWriter::new(std::io::stderr()));
    LOG_QUEUE.get_or_init(|| writer.error_counter());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).init();
    guard
}

/// Counts lines that found no room, as of now.
pub fn log_lost() {
    let lost = LOG_QUEUE.get().map_or(0, ErrorCounter::dropped_lines);
    counter!(LOG_LOST).absolute(u64::try_from(lost).unwrap_or(u64::MAX));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_sorted_out_and_follow_the_convention() {
        let mut names: Vec<&str> = TABLE.iter().map(|(name, ..)| *name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
        for (name, kind, help) in TABLE {
            let counts = name.ends_with("_total");
            assert_eq!(counts, matches!(kind, Kind::Counter), "{name}");
            assert!(name.starts_with("control_") && !help.is_empty(), "{name}");
        }
    }
}
