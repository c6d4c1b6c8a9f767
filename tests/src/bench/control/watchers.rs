//! A thousand watchers see every change, soon; and none gets lost with a leader.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;
use chaos::lab::process::Signal;
use tokio::task::JoinSet;

use super::super::{Figure, Table, Target, percentile};
use super::Options;
use super::bed::{NODES, Spot};
use super::etcd::Etcd;
use super::ours::Ours;
use super::system::{Session, System};

const WATCHERS: usize = 1_000;
const WATCHERS_PER_CONNECTION: usize = 50;
const CHANGES_PER_SECOND: u32 = 20;
/// Changes measured before the leader is killed, and changes around its death.
const CALM: u64 = 100;
const STORM: u64 = 40;

/// When each change began, and how long it took to arrive.
#[derive(Default)]
struct Log {
    begun: Mutex<Vec<Instant>>,
    late_ms: Mutex<Vec<f64>>,
    /// Arrivals of changes around the leader's death, at watchers of nodes that live.
    arrived: AtomicU64,
}

impl Log {
    fn begin(&self) {
        self.begun.lock().unwrap_or_else(PoisonError::into_inner).push(Instant::now());
    }

    fn seen(&self, key: u64, node: usize, killed: usize) {
        let begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        let begun = usize::try_from(key).ok().and_then(|key| begun.get(key).copied());
        let Some(begun) = begun else { return };
        if key < CALM {
            let late = begun.elapsed().as_secs_f64() * 1e3;
            self.late_ms.lock().unwrap_or_else(PoisonError::into_inner).push(late);
        } else if node != killed {
            self.arrived.fetch_add(1, Ordering::Relaxed);
        }
    }
}

struct Seen {
    p99_ms: f64,
    missing: f64,
    cpu_us: f64,
    lost: f64,
}

#[allow(clippy::cast_precision_loss, reason = "counts")]
async fn measure<S: System>(mut system: S) -> Result<Seen> {
    let leader = system.leader().await?;
    let log = Arc::new(Log::default());
    let mut watchers = JoinSet::new();
    let mut living = 0;
    for connection in 0..WATCHERS / WATCHERS_PER_CONNECTION {
        let node = connection % NODES;
        let session = system.session(node)?;
        living += if node == leader { 0 } else { WATCHERS_PER_CONNECTION };
        for _ in 0..WATCHERS_PER_CONNECTION {
            let (session, log) = (session.clone(), Arc::clone(&log));
            // A watcher of the killed node ends with it.
            watchers.spawn(async move { session.watch(|key| log.seen(key, node, leader)).await });
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    let before = system.bed().cpu()?;
    let survivor = system.session((leader + 1) % NODES)?;
    let near = system.session(leader)?;
    let mut ticks = tokio::time::interval(Duration::from_secs(1) / CHANGES_PER_SECOND);
    let mut cpu = Duration::ZERO;
    for key in 0..CALM + STORM {
        ticks.tick().await;
        if key == CALM {
            tokio::time::sleep(Duration::from_millis(500)).await;
            cpu = system.bed().cpu()?.saturating_sub(before);
        }
        log.begin();
        if key < CALM {
            near.write(key, key).await?;
            continue;
        }
        if key == CALM + STORM / 4 {
            system.bed_mut().process(leader)?.signal(Signal::KILL)?;
        }
        // One write after the other, each until it is acknowledged.
        while survivor.write(key, key).await.is_err() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    drop(watchers);
    let mut late = log.late_ms.lock().unwrap_or_else(PoisonError::into_inner).clone();
    late.sort_by(f64::total_cmp);
    let expected = CALM * WATCHERS as u64;
    let around = STORM * living as u64;
    Ok(Seen {
        p99_ms: percentile(&late, 0.99),
        missing: expected.saturating_sub(late.len() as u64) as f64,
        cpu_us: cpu.as_secs_f64() * 1e6 / expected as f64,
        lost: around.saturating_sub(log.arrived.load(Ordering::Relaxed)) as f64,
    })
}

pub(super) async fn watchers(table: &mut Table, _options: &Options) -> Result<()> {
    let etcd = measure(Etcd::start(Spot::loopback(1)?).await?).await?;
    let ours = measure(Ours::start(Spot::loopback(2)?).await?).await?;
    let rows = [
        ("1,000 watchers, 20 changes/s, p99", etcd.p99_ms, ours.p99_ms, Target::AtMost(80.0), "ms"),
        ("… events that did not arrive", etcd.missing, ours.missing, Target::AtMost(0.0), ""),
        ("… CPU of the servers per event", etcd.cpu_us, ours.cpu_us, Target::Told, "µs"),
        ("… events lost with a killed leader", etcd.lost, ours.lost, Target::AtMost(0.0), ""),
    ];
    for (name, peer, ours, target, unit) in rows {
        table.add(Figure { name: name.into(), peer: Some(peer), ours, target, unit });
    }
    Ok(())
}
