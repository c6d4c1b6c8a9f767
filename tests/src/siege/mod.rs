//! Three real control nodes under attack: each in a network namespace of its own, killed, stopped,
//! unplugged, muted and out of disk, while clients and watchers record what they see.
//! [`crate::linear`] judges it, by the rules the simulation is judged by.
//!
//! - [`field`]: namespaces, links between them, and small disks.
//! - [`nodes`]: the three processes.
//! - [`clients`], [`watchers`]: who asks and listens.
//! - [`faults`]: what happens to whom.
//!
//! Needs root: namespaces and mounts. Everything is inside namespaces that go away with the run.
//! Deliberately not here: clocks of one machine cannot step apart (the simulation's do), and what
//! is lost with the power (a killed process leaves the page cache to the kernel).
#![allow(clippy::indexing_slicing, reason = "a test may panic")]

mod clients;
mod faults;
mod field;
mod nodes;
mod watchers;

use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use chaos::rng::Rng;
use tonic::transport::Channel;

use crate::linear::history::UNSEEN;
use crate::linear::{Complaint, Feed, History, judge};
use field::Field;
use nodes::Nodes;

/// After everything healed, all is answered within this.
const PATIENCE: Duration = Duration::from_secs(60);
/// Clients that ask at the same time.
const CLIENTS: usize = 8;
const WATCHERS: usize = 3;

/// What to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// How long nodes are attacked.
    pub seconds: u64,
    /// What happens follows from it, but for the times real processes take.
    pub seed: u64,
    /// A planted bug, to be seen: linearizable reads ask one node for what it has.
    pub stale_reads: bool,
    /// Where `control-plane` is.
    pub bin_dir: PathBuf,
}

/// What came of it.
#[derive(Debug)]
pub struct Verdict {
    /// Nothing is what we want.
    pub complaints: Vec<Complaint>,
    /// In words: how much happened.
    pub summary: String,
}

/// What all tasks share.
struct Shared {
    began: Instant,
    history: Mutex<History>,
    /// The faults are over: no new operations.
    healing: AtomicBool,
    /// Everything was read: watchers may end once they hold this revision.
    last_revision: AtomicU64,
    nodes: Vec<Channel>,
    stale_reads: bool,
    /// Numbers that were asked for so far.
    numbers: AtomicU64,
}

impl Shared {
    fn now(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn history(&self) -> MutexGuard<'_, History> {
        self.history.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_healing(&self) -> bool {
        self.healing.load(Ordering::Relaxed)
    }
}

/// Makes the namespaces, and runs `program` with `args` in the one the clients live in. Whether it
/// found no rule broken.
pub fn enter(program: &std::path::Path, args: &[String]) -> Result<bool> {
    ensure!(
        rustix::process::geteuid().is_root(),
        "only root may make network namespaces: run this as root (sudo)"
    );
    let field = Field::build()?;
    let mut inside = Command::new("ip");
    inside.args(["netns", "exec", &field.hub()]).arg(program).args(args);
    inside.env(field::VARIABLE, field.name());
    let status = inside.status().context("ip netns exec failed")?;
    match status.code() {
        Some(0) => Ok(true),
        Some(1) => Ok(false),
        _ => bail!("{} did not come to a verdict: {status}", program.display()),
    }
}

/// Whether [`enter`] started this process.
pub fn is_inside() -> bool {
    Field::entered().is_some()
}

/// Attacks, heals, judges. Inside of [`enter`].
pub async fn run(options: &Options) -> Result<Verdict> {
    let Some(field) = Field::entered() else { bail!("not in a namespace of this test") };
    let mut nodes = Nodes::start(&field, &options.bin_dir)?;
    nodes.ready().await?;
    let shared = Arc::new(Shared {
        began: Instant::now(),
        history: Mutex::new(History::default()),
        healing: AtomicBool::new(false),
        last_revision: AtomicU64::new(u64::MAX),
        nodes: nodes.channels()?,
        stale_reads: options.stale_reads,
        numbers: AtomicU64::new(0),
    });
    let clients: Vec<_> = (0..CLIENTS)
        .map(|id| tokio::spawn(clients::run(shared.clone(), id, options.seed)))
        .collect();
    let watchers: Vec<_> = (0..WATCHERS)
        .map(|id| tokio::spawn(watchers::run(shared.clone(), id, options.seed)))
        .collect();
    let rng = Rng::split(options.seed, "faults");
    let during = Duration::from_secs(options.seconds);
    let faults = faults::rage(&field, &mut nodes, rng, during).await?;
    nodes.heal(&field)?;
    nodes.ready().await?;
    shared.healing.store(true, Ordering::Relaxed);
    for client in clients {
        let done = tokio::time::timeout(PATIENCE, client).await;
        done.context("a client still waits for an answer")?.context("a client panicked")?;
    }
    clients::read_all(&shared).await?;
    let feeds = listen_to_the_end(&shared, watchers).await?;
    nodes.check()?;
    let history = shared.history().clone();
    let complaints = judge(&history, &feeds);
    let summary = summary(&history, &feeds, &faults);
    Ok(Verdict { complaints, summary })
}

async fn listen_to_the_end(
    shared: &Arc<Shared>,
    watchers: Vec<tokio::task::JoinHandle<Feed>>,
) -> Result<Vec<Feed>> {
    let last = {
        let history = shared.history();
        let seen = history.operations.iter().map(|operation| operation.revision);
        seen.filter(|revision| *revision != UNSEEN).max().unwrap_or(0)
    };
    shared.last_revision.store(last, Ordering::Relaxed);
    let mut feeds = Vec::new();
    for watcher in watchers {
        let done = tokio::time::timeout(PATIENCE, watcher).await;
        feeds.push(done.context("a watcher does not get the last revision")??);
    }
    Ok(feeds)
}

fn summary(history: &History, feeds: &[Feed], faults: &faults::Tally) -> String {
    let operations = history.operations.len();
    let answered = history.answered().count();
    let echoes: usize = history.operations.iter().map(|o| o.echoes.len()).sum();
    let rejected = history
        .answered()
        .filter(|(_, answer)| matches!(answer, crate::linear::Answer::Rejected(_)))
        .count();
    let seen: usize = feeds.iter().map(|feed| feed.seen.len()).sum();
    format!(
        "{operations} operations, {answered} answered ({rejected} refused for good reason), \
         {echoes} answered once more, {seen} things watched; {faults}"
    )
}
