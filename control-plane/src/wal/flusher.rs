//! Writes table changes behind the log, on a thread of its own, and merges runs.
//!
//! The log holds everything until it is here: a flush that finds no space is handed back to be
//! tried again, any other error ends the node. One flush at a time.

use std::path::{Path, PathBuf};
use std::sync::mpsc::{self, Receiver, SyncSender, TryRecvError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use control_core::replica::Position;
use control_core::state::TableChange;
use tokio::sync::watch;

use super::error::{Named as _, WalError};
use super::health::Health;
use super::runs::{self, Merge, Run, Writer};
use crate::telemetry;

/// The runs that make up the tables now, for whoever reads them beside the flusher.
#[derive(Debug, Clone, Default)]
pub struct Tables {
    runs: Arc<Mutex<Vec<Run>>>,
    applied: Arc<watch::Sender<u64>>,
}

impl Tables {
    /// Starts with these.
    pub(super) fn new(chain: Vec<Run>) -> Self {
        let applied = chain.last().map_or(0, |run| run.applied);
        Self { runs: Arc::new(Mutex::new(chain)), applied: Arc::new(watch::Sender::new(applied)) }
    }

    /// These rows as a file in `dir`.
    #[cfg(test)]
    pub(crate) fn of_rows(dir: &Path, applied: Position, rows: &[(Vec<u8>, bytes::Bytes)]) -> Self {
        std::fs::create_dir_all(dir).unwrap();
        let tables = Self::default();
        replace_all(dir, &tables, applied, rows).unwrap();
        tables
    }

    /// The index up to which the tables are on disk.
    pub fn applied(&self) -> u64 {
        *self.applied.borrow()
    }

    /// The same, to wait for.
    pub fn follow(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Bytes on disk.
    pub(crate) fn bytes(&self) -> u64 {
        let runs = self.runs.lock().unwrap_or_else(PoisonError::into_inner);
        runs.iter().map(|run| run.bytes).sum()
    }

    pub(super) fn get(&self) -> Vec<Run> {
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn set(&self, chain: Vec<Run>) {
        let applied = chain.last().map_or(0, |run| run.applied);
        *self.runs.lock().unwrap_or_else(PoisonError::into_inner) = chain;
        self.applied.send_replace(applied);
    }
}

/// Changes up to an index.
pub(super) struct Job {
    pub(super) changes: Vec<TableChange>,
    pub(super) applied: Position,
}

/// `Some`: there was no space, try again later.
type Ended = Result<Option<Job>, WalError>;

/// What the thread is up to.
pub(super) enum Turn {
    Busy,
    Idle,
    /// There was no space for this.
    Full(Job),
}

/// The thread's other end.
pub(super) struct Flusher {
    jobs: Option<SyncSender<Job>>,
    done: Receiver<Ended>,
    thread: Option<JoinHandle<()>>,
    tables: Tables,
    busy: bool,
}

impl Flusher {
    pub(super) fn start(dir: &Path, tables: Tables, health: Arc<Health>) -> Result<Self, WalError> {
        let (jobs, inbox) = mpsc::sync_channel(1);
        let (outbox, done) = mpsc::sync_channel(1);
        let worker = Worker { dir: dir.to_owned(), tables: tables.clone(), health };
        let thread = std::thread::Builder::new().name("flusher".into()).spawn(move || {
            while let Ok(job) = inbox.recv() {
                let ended = worker.work(job);
                if matches!(ended, Ok(None))
                    && let Err(error) = worker.merge()
                {
                    // The runs that were to become one are still there.
                    tracing::warn!(%error, "table files were not merged");
                }
                let failed = ended.is_err();
                if outbox.send(ended).is_err() || failed {
                    return;
                }
            }
        });
        let thread = thread.named(dir, "given a thread")?;
        Ok(Self { jobs: Some(jobs), done, thread: Some(thread), tables, busy: false })
    }

    /// How things stand. An error is for good.
    pub(super) fn turn(&mut self) -> Result<Turn, WalError> {
        if !self.busy {
            return Ok(Turn::Idle);
        }
        match self.done.try_recv() {
            Ok(ended) => self.ended(ended),
            Err(TryRecvError::Empty) => Ok(Turn::Busy),
            Err(TryRecvError::Disconnected) => Err(self.gone()),
        }
    }

    /// Waits until no flush is under way.
    pub(super) fn wait(&mut self) -> Result<Turn, WalError> {
        if !self.busy {
            return Ok(Turn::Idle);
        }
        let ended = self.done.recv().map_err(|_| self.gone())?;
        self.ended(ended)
    }

    fn ended(&mut self, ended: Ended) -> Result<Turn, WalError> {
        self.busy = false;
        Ok(ended?.map_or(Turn::Idle, Turn::Full))
    }

    /// Begins a flush; only when idle.
    pub(super) fn begin(&mut self, job: Job) -> Result<(), WalError> {
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        if !matches!(sent, Some(Ok(()))) {
            return Err(self.gone());
        }
        self.busy = true;
        Ok(())
    }

    fn gone(&self) -> WalError {
        let source = std::io::Error::other("its thread ended");
        let file = self.tables.get().last().map(|run| run.path.clone()).unwrap_or_default();
        WalError::Io { file, action: "written", source }
    }
}

impl Drop for Flusher {
    fn drop(&mut self) {
        self.jobs = None;
        // A result nobody takes must not hold it up.
        while self.busy && self.done.recv().is_ok() {
            self.busy = false;
        }
        if let Some(thread) = self.thread.take() {
            // It can only have panicked; the files it left are judged at the next start.
            let _ = thread.join();
        }
    }
}

struct Worker {
    dir: PathBuf,
    tables: Tables,
    health: Arc<Health>,
}

impl Worker {
    fn work(&self, mut job: Job) -> Ended {
        // Of the same key the last change counts; the sort keeps their order.
        job.changes.sort_by(|a, b| a.key.cmp(&b.key));
        match write(&self.dir, self.tables.applied(), &job) {
            Err(WalError::Full { .. }) => {
                self.health.give_up_reserve();
                tracing::warn!("no space to write the tables: their changes stay in the log");
                Ok(Some(job))
            }
            Err(error) => Err(error),
            Ok(run) => {
                let mut chain = self.tables.get();
                chain.push(run);
                self.tables.set(chain);
                Ok(None)
            }
        }
    }

    fn merge(&self) -> Result<(), WalError> {
        let mut chain = self.tables.get();
        let sizes: Vec<u64> = chain.iter().map(|run| run.bytes).collect();
        let Some(from) = runs::to_merge(&sizes) else { return Ok(()) };
        let parts = chain.split_off(from);
        let began = Instant::now();
        let run = merge(&self.dir, &parts)?;
        telemetry::tables_merged(began.elapsed(), run.bytes);
        chain.push(run);
        self.tables.set(chain);
        parts
            .iter()
            .try_for_each(|part| std::fs::remove_file(&part.path).named(&part.path, "removed"))
    }
}

fn write(dir: &Path, from: u64, job: &Job) -> Result<Run, WalError> {
    let mut writer = Writer::create(dir, from, job.applied)?;
    let mut rows = job.changes.iter().peekable();
    while let Some(row) = rows.next() {
        if rows.peek().is_none_or(|next| next.key != row.key) && (from > 0 || row.value.is_some()) {
            writer.row(&row.key, row.value.as_deref())?;
        }
    }
    writer.finish()
}

fn merge(dir: &Path, parts: &[Run]) -> Result<Run, WalError> {
    let from = parts.first().map_or(0, |run| run.from);
    let rows = Merge::of(parts, from > 0)?;
    let mut writer = Writer::create(dir, from, rows.applied())?;
    for row in rows {
        let (key, value) = row?;
        writer.row(&key, value.as_deref())?;
    }
    writer.finish()
}

/// Replaces all runs by these rows, now.
pub(super) fn replace_all(
    dir: &Path,
    tables: &Tables,
    applied: Position,
    rows: &[(Vec<u8>, bytes::Bytes)],
) -> Result<(), WalError> {
    let mut writer = Writer::create(dir, 0, applied)?;
    let mut sorted: Vec<_> = rows.iter().collect();
    sorted.sort_by(|a, b| a.0.cmp(&b.0));
    for (key, value) in sorted {
        writer.row(key, Some(value))?;
    }
    tables.set(vec![writer.finish()?]);
    Ok(())
}

/// Removes what no chain needs: after a crash in the middle of a merge, or a snapshot.
pub(super) fn tidy(dir: &Path) -> Result<(), WalError> {
    let (_, rest) = runs::list(dir)?;
    rest.iter().try_for_each(|path| std::fs::remove_file(path).named(path, "removed"))
}
