//! What a control node keeps: a log that is synced before anything is promised, and tables that
//! follow behind it.
//!
//! `owner` says whose directory it is, `log/` holds the entries of raft in segments (`wal/log.rs`),
//! `vote` and `acked` what must survive damage of the log, `state/` the tables as sorted runs
//! (`wal/runs.rs`), written by a thread beside the log. The state in memory is the truth; what the
//! runs lack the log has, so segments go only when the runs are past them. A torn last write is
//! cut if it was never acknowledged; damage never is (`wal/assess.rs`). Opening changes nothing in
//! a directory that is refused. Any error while writing ends the process.

mod assess;
mod error;
mod files;
mod flusher;
mod frame;
mod health;
mod log;
pub mod offline;
mod owner;
mod runs;
mod scan;
mod slots;
pub mod spool;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_core::replica::{
    HardState, InstallSnapshot, Persist, Position, Repair, RestoreError, Restored,
};
use control_core::state::TableChange;
use proto::id::NodeId;

pub use error::WalError;
pub use flusher::Tables;
pub use health::{Health, Marks};
pub use owner::Owner;

use assess::{Evidence, Image, Verdict, assess};
pub(crate) use error::Named;
use error::damaged;
use flusher::{Flusher, Job, Turn};
use log::{Append, Log, acked_path, log_dir, vote_path};
use owner::Deed;
use runs::{Merge, state_dir};
use scan::Scanned;

use crate::telemetry;

/// Changes of tables are written when there are so many,
const FLUSH_CHANGES: usize = 50_000;
/// or after this time: what is not written yet is applied again at the next start.
const FLUSH_AFTER: Duration = Duration::from_secs(2);
/// How often the disk is looked at, and marks are synced when nothing else is.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const MIB: u64 = 1024 * 1024;
/// A segment of the log, on a disk that has room.
const SEGMENT_BYTES_MAX: u64 = 16 * MIB;
/// On the smallest disk.
const SEGMENT_BYTES_MIN: u64 = MIB / 4;

/// How to open a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Options {
    /// The low-water mark of free space; `None`: by the size of the disk.
    pub low_bytes: Option<u64>,
    /// This node is the only voter: nobody else has what it loses.
    pub alone: bool,
    /// Size of a segment; `None`: by the size of the disk.
    pub segment_bytes: Option<u64>,
}

/// Whether what was found may be started from.
pub type Check<'a> = &'a dyn Fn(&Restored) -> Result<(), RestoreError>;

/// What was found at start.
pub struct Opened {
    /// The open directory.
    pub wal: Wal,
    /// For the replica.
    pub restored: Restored,
    /// Something this node promised is lost: it must not vote before that came back.
    pub repair: Option<Repair>,
    /// Made with the data directory; a wiped one comes back with another.
    pub incarnation: String,
}

/// The open directory.
pub struct Wal {
    dir: PathBuf,
    log: Log,
    flusher: Flusher,
    tables: Tables,
    health: Arc<Health>,
    hard_state: HardState,
    /// Goes with the next frame.
    reset: Option<Position>,
    /// Not handed to the flusher yet, in order, and since when.
    pending: Vec<TableChange>,
    pending_since: Option<Instant>,
    applied: u64,
    flushing: u64,
    /// Replicas may be behind up to here.
    compact_to: u64,
    /// Tables are wanted up to here.
    wanted: u64,
    /// Files of tables that came from a leader.
    staged: BTreeMap<Position, PathBuf>,
    looked: Instant,
    peers: BTreeMap<NodeId, String>,
    _lock: File,
}

/// An accepted directory, before anything in it is changed.
struct Place<'a> {
    dir: &'a Path,
    deed: Deed,
    options: Options,
    /// Where the log goes on.
    place: Scanned,
    lock: File,
    peers: BTreeMap<NodeId, String>,
}

impl Wal {
    /// Opens `dir`, or makes it the directory of `owner`, under the name `new_incarnation`. What
    /// `check` refuses stays as it is.
    pub fn open(
        dir: &Path,
        owner: &Owner,
        new_incarnation: &str,
        options: Options,
        check: Check<'_>,
    ) -> Result<Opened, WalError> {
        let deed = match owner::read(dir)? {
            Some(deed) => deed,
            None => found(dir, owner, new_incarnation)?,
        };
        owner::check(dir, &deed, owner)?;
        let lock = owner::lock(dir)?;
        let peers = read_peers(dir)?;
        let evidence = evidence(dir, &deed, options.alone)?;
        let fresh = evidence.log.frames == 0 && evidence.log.damage.is_empty();
        let mut place = place_of(&evidence.log);
        let acked = evidence.acked.values.map_or(0, |[sequence, _]| sequence);
        let verdict = assess(dir, evidence)?;
        check(&verdict.restored).map_err(|why| WalError::Unfit { dir: dir.to_owned(), why })?;
        let tables_fresh = verdict.restored.tables.is_empty();
        if fresh && tables_fresh && !verdict.discard_tables {
            let restored = Restored::default();
            let verdict = Verdict { restored, ..verdict };
            return Self::begin(Place { dir, deed, options, place, lock, peers }, verdict);
        }
        if let Some(repair) = verdict.repair {
            write_repair(dir, repair)?;
        }
        for what in &verdict.said {
            tracing::error!(dir = %dir.display(), %what, "damaged: kept aside");
        }
        if verdict.rewrite_log {
            place = Scanned { sequence: place.sequence.max(acked), ..Scanned::default() };
            set_aside(dir, verdict.discard_tables)?;
        }
        Self::begin(Place { dir, deed, options, place, lock, peers }, verdict)
    }

    fn begin(begin: Place<'_>, verdict: Verdict) -> Result<Opened, WalError> {
        let Place { dir, deed, options, place, lock, peers } = begin;
        let health = Arc::new(Health::new(dir, options.low_bytes));
        health.look();
        spool::forget(dir)?;
        let segment_bytes = options.segment_bytes.unwrap_or_else(|| segment_bytes(&health));
        let Verdict { restored, repair, reset, rewrite_log, .. } = verdict;
        let entries = if rewrite_log { &[] } else { restored.entries.as_slice() };
        let found = log::Found { place: &place, base: restored.base, entries };
        let mut log = Log::open(dir, &deed.incarnation, segment_bytes, &found, health.clone())?;
        if rewrite_log && !restored.tables.is_empty() {
            let reset = Some(restored.base);
            let (hard_state, entries) = (restored.hard_state, restored.entries.as_slice());
            log.append(Append { hard_state, reset, entries })?;
        }
        let (chain, _) = runs::list(&state_dir(dir))?;
        let tables = Tables::new(chain);
        let flusher = Flusher::start(&state_dir(dir), tables.clone(), health.clone())?;
        let wal = Self {
            dir: dir.to_owned(),
            log,
            flusher,
            tables,
            health,
            hard_state: restored.hard_state,
            reset: reset.filter(|_| !rewrite_log),
            pending: Vec::new(),
            pending_since: None,
            applied: restored.applied,
            flushing: restored.applied,
            compact_to: restored.base.index,
            wanted: 0,
            staged: BTreeMap::new(),
            looked: Instant::now(),
            peers,
            _lock: lock,
        };
        Ok(Opened { wal, restored, repair, incarnation: deed.incarnation })
    }

    /// Makes durable what `persist` promises. Tables follow later: the log has them.
    pub fn persist(&mut self, persist: &Persist) -> Result<(), WalError> {
        // A node that joins has no tables until the leader's snapshot comes.
        let first = self.tables.applied() == 0 && persist.applied > 0;
        if let Some(snapshot) = &persist.snapshot {
            self.install(snapshot)?;
        } else if first {
            self.install_first(persist)?;
        }
        if self.must_sync(persist) || self.reset.is_some() {
            self.log.append(Append {
                hard_state: persist.hard_state,
                reset: self.reset,
                entries: &persist.entries,
            })?;
            self.reset = None;
        }
        self.hard_state = persist.hard_state;
        if !persist.changes.is_empty() && (!first || persist.snapshot.is_some()) {
            self.pending.extend(persist.changes.iter().cloned());
            self.pending_since.get_or_insert_with(Instant::now);
        }
        self.applied = self.applied.max(persist.applied);
        if let Some(position) = persist.compact_to {
            self.compact_to = self.compact_to.max(position.index);
        }
        self.flush_if_due(false)
    }

    /// To be called often: writes what has waited, looks at the disk.
    pub fn tick(&mut self) -> Result<(), WalError> {
        self.flush_if_due(false)?;
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.health.look();
            self.log.sync_marks()?;
            telemetry::disk(&self.health, self.log.bytes(), self.tables.bytes());
        }
        Ok(())
    }

    /// Makes everything durable, at the end.
    pub fn flush(&mut self) -> Result<(), WalError> {
        // The one under way, then the rest; without space it stays in the log.
        for _ in 0..2 {
            if let Turn::Full(job) = self.flusher.wait()? {
                self.take_back(job);
                break;
            }
            self.flush_if_due(true)?;
        }
        if let Turn::Full(job) = self.flusher.wait()? {
            self.take_back(job);
        }
        self.log.sync_marks()
    }

    /// Brings the tables on disk at least to this index, soon.
    pub fn catch_up(&mut self, index: u64) {
        self.wanted = self.wanted.max(index);
    }

    /// A whole file of tables, for the snapshot of this position.
    pub fn stage(&mut self, at: Position, file: PathBuf) {
        self.staged.insert(at, file);
    }

    /// No write asked for it.
    pub fn unstage(&mut self, at: Position) {
        if let Some(file) = self.staged.remove(&at) {
            // What stays is removed at the next start.
            let _ = fs::remove_file(file);
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// How the disk is.
    pub fn health(&self) -> Arc<Health> {
        self.health.clone()
    }

    /// The tables on disk, for backups.
    pub fn tables(&self) -> Tables {
        self.tables.clone()
    }

    /// What was lost came back: this node votes again.
    pub fn repaired(&mut self) -> Result<(), WalError> {
        let path = repair_path(&self.dir);
        fs::remove_file(&path).named(&path, "removed")?;
        files::sync_dir(&self.dir).named(&self.dir, "synced")
    }

    /// Who may vote as which node was fixed when the other nodes first met it; see `remember`.
    pub fn known_incarnation(&self, node: NodeId) -> Result<Option<String>, WalError> {
        Ok(self.peers.get(&node).cloned())
    }

    /// Remembers the data directory another node came with.
    pub fn remember_incarnation(
        &mut self,
        node: NodeId,
        incarnation: &str,
    ) -> Result<(), WalError> {
        self.peers.insert(node, incarnation.to_owned());
        let names: Vec<(String, String)> =
            self.peers.iter().map(|(node, name)| (node.to_string(), name.clone())).collect();
        let lines: Vec<(&str, String)> =
            names.iter().map(|(node, name)| (node.as_str(), name.clone())).collect();
        let text = files::seal_lines(PEERS_TITLE, &lines);
        files::replace(&peers_path(&self.dir), text.as_bytes())
    }

    /// Entries, votes and terms are promises to other nodes. `applied` and `commit` are not: the
    /// log brings them back.
    fn must_sync(&self, persist: &Persist) -> bool {
        let HardState { term, vote, commit: _ } = self.hard_state;
        persist.snapshot.is_some()
            || !persist.entries.is_empty()
            || (persist.hard_state.term, persist.hard_state.vote) != (term, vote)
    }

    /// The first tables of a node come before its first promise.
    fn install_first(&mut self, persist: &Persist) -> Result<(), WalError> {
        let base = persist.compact_to.unwrap_or_default();
        let position = Position { index: persist.applied, term: base.term };
        let rows: Vec<_> = persist
            .changes
            .iter()
            .filter_map(|c| Some((c.key.clone(), c.value.clone()?)))
            .collect();
        flusher::replace_all(&state_dir(&self.dir), &self.tables, position, &rows)?;
        self.reset = Some(base);
        self.flushing = persist.applied;
        Ok(())
    }

    /// First the tables, durable, then the log that begins behind them: a crash in between leaves
    /// tables beyond the log, which then begins there.
    fn install(&mut self, snapshot: &InstallSnapshot) -> Result<(), WalError> {
        self.flusher.wait()?;
        self.pending.clear();
        self.pending_since = None;
        let at = snapshot.position;
        let missing = || damaged(&self.dir, format!("the tables of the snapshot at {}", at.index));
        let file = self.staged.remove(&at).ok_or_else(missing)?;
        spool::adopt(&state_dir(&self.dir), &self.tables, at, &file)?;
        // Those that raft did not take.
        let rest: Vec<Position> = self.staged.keys().copied().collect();
        rest.into_iter().for_each(|at| self.unstage(at));
        self.reset = Some(snapshot.position);
        self.applied = snapshot.position.index;
        self.flushing = self.applied;
        self.compact_to = self.applied;
        Ok(())
    }

    fn flush_if_due(&mut self, now: bool) -> Result<(), WalError> {
        match self.flusher.turn()? {
            Turn::Busy => return Ok(()),
            Turn::Full(job) => self.take_back(job),
            Turn::Idle => {}
        }
        self.log.release(self.compact_to.min(self.tables.applied()))?;
        let waited = self.pending_since.is_some_and(|since| since.elapsed() >= FLUSH_AFTER);
        let wanted = self.tables.applied() < self.wanted;
        let due = now || waited || wanted || self.pending.len() >= FLUSH_CHANGES;
        let nothing = self.pending.is_empty() && !wanted;
        if !due || nothing || self.applied <= self.flushing {
            return Ok(());
        }
        let changes = std::mem::take(&mut self.pending);
        self.pending_since = None;
        self.flushing = self.applied;
        self.flusher.begin(Job { changes, applied: self.log.position(self.applied) })
    }

    /// There was no space; it waits in front of what came since.
    fn take_back(&mut self, job: Job) {
        let newer = std::mem::replace(&mut self.pending, job.changes);
        self.pending.extend(newer);
        self.pending_since = Some(Instant::now());
        self.flushing = self.tables.applied();
    }
}

const PEERS_TITLE: &str = "voxmesh peers";
const REPAIR_TITLE: &str = "voxmesh repair";

fn peers_path(dir: &Path) -> PathBuf {
    dir.join("peers")
}

fn repair_path(dir: &Path) -> PathBuf {
    dir.join("repair")
}

/// A new directory: the places first, then the deed that makes it one. One that holds data of
/// nobody knows whom is not new: what it promised, and to which mesh, cannot be told.
fn found(dir: &Path, owner: &Owner, incarnation: &str) -> Result<Deed, WalError> {
    let what = kept(dir)?;
    if !what.is_empty() {
        return Err(WalError::Unowned { dir: dir.to_owned(), what: what.join(", ") });
    }
    for part in [log_dir(dir), state_dir(dir)] {
        fs::create_dir_all(&part).named(&part, "made")?;
    }
    let deed = Deed { owner: owner.clone(), incarnation: incarnation.to_owned() };
    owner::write(dir, &deed)?;
    Ok(deed)
}

/// What of a node's data is there. Empty places may be: a first start was interrupted.
fn kept(dir: &Path) -> Result<Vec<String>, WalError> {
    let places = [log_dir(dir), state_dir(dir)];
    let files = [vote_path(dir), acked_path(dir), peers_path(dir), repair_path(dir)];
    let mut kept: Vec<PathBuf> = files.into_iter().filter(|file| file.exists()).collect();
    for place in places.into_iter().filter(|place| place.exists()) {
        if fs::read_dir(&place).named(&place, "read")?.next().is_some() {
            kept.push(place);
        }
    }
    let name = |path: &PathBuf| path.file_name().map(|name| name.to_string_lossy().into_owned());
    Ok(kept.iter().filter_map(name).collect())
}

fn evidence(dir: &Path, deed: &Deed, alone: bool) -> Result<Evidence, WalError> {
    let (vote, acked) = (slots::read(&vote_path(dir))?, slots::read(&acked_path(dir))?);
    let sequence = acked.values.map_or(0, |[sequence, _]| sequence);
    let log = if log_dir(dir).exists() {
        scan::scan(&log_dir(dir), &deed.incarnation, sequence)?
    } else {
        Scanned { damage: vec![format!("{} is missing", log_dir(dir).display())], ..<_>::default() }
    };
    let tables = match read_tables(&state_dir(dir)) {
        Err(error @ (WalError::Damaged { .. } | WalError::Io { .. })) => Err(error),
        Err(other) => return Err(other),
        Ok(image) if image.rows.is_empty() && log.base.index > 0 => {
            Err(damaged(&state_dir(dir), "the oldest file (it is missing)"))
        }
        Ok(image) => Ok(image),
    };
    Ok(Evidence { log, tables, vote, acked, repair: read_repair(dir)?, alone })
}

fn read_tables(dir: &Path) -> Result<Image, WalError> {
    let (chain, _) = runs::list(dir)?;
    let merge = Merge::of(&chain, false)?;
    let applied = merge.applied();
    let rows = merge.filter_map(|row| match row {
        Ok((key, Some(value))) => Some(Ok((key, value))),
        Ok((_, None)) => None,
        Err(error) => Some(Err(error)),
    });
    Ok(Image { applied, rows: rows.collect::<Result<_, _>>()? })
}

/// Where writing goes on, without what was read.
fn place_of(log: &Scanned) -> Scanned {
    Scanned {
        sequence: log.sequence,
        segments: log.segments.clone(),
        end: log.end,
        ..Scanned::default()
    }
}

fn set_aside(dir: &Path, tables_too: bool) -> Result<(), WalError> {
    let parts = [Some(log_dir(dir)), tables_too.then(|| state_dir(dir))];
    for part in parts.into_iter().flatten() {
        if part.exists() {
            files::move_aside(&part)?;
        }
        fs::create_dir_all(&part).named(&part, "made")?;
    }
    files::sync_dir(dir).named(dir, "synced")
}

fn segment_bytes(health: &Health) -> u64 {
    // The marks grow with the disk; a log of some segments must stay small beside them.
    (health.marks().low_bytes / 16).clamp(SEGMENT_BYTES_MIN, SEGMENT_BYTES_MAX)
}

fn read_peers(dir: &Path) -> Result<BTreeMap<NodeId, String>, WalError> {
    let path = peers_path(dir);
    let Some(bytes) = files::read(&path)? else { return Ok(BTreeMap::new()) };
    let unreadable = || damaged(&path, "the data directories of the other nodes");
    let (_, lines) = files::open_lines(&bytes).ok_or_else(unreadable)?;
    let peers = lines.into_iter().map(|(node, name)| Some((NodeId(node.parse().ok()?), name)));
    peers.collect::<Option<_>>().ok_or_else(unreadable)
}

fn read_repair(dir: &Path) -> Result<Option<Repair>, WalError> {
    let path = repair_path(dir);
    let Some(bytes) = files::read(&path)? else { return Ok(None) };
    let unreadable = || damaged(&path, "what has to be repaired");
    let (_, lines) = files::open_lines(&bytes).ok_or_else(unreadable)?;
    let number = |key| files::line(&lines, key)?.parse().ok();
    let repair = number("index").zip(number("term"));
    repair.map(|(index, term)| Some(Repair { index, term })).ok_or_else(unreadable)
}

fn write_repair(dir: &Path, repair: Repair) -> Result<(), WalError> {
    let lines = [("index", repair.index.to_string()), ("term", repair.term.to_string())];
    files::replace(&repair_path(dir), files::seal_lines(REPAIR_TITLE, &lines).as_bytes())
}

#[cfg(test)]
mod tests;
