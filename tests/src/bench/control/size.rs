//! What a million taken numbers cost, and how fast inventory comes in.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::super::{Figure, Table, Target};
use super::Options;
use super::bed::{NODES, Spot};
use super::etcd::Etcd;
use super::ours::Ours;
use super::system::{Session, System};

const NUMBERS: u64 = 1_000_000;
const INVENTORY: u64 = 10_000_000;
/// As carriers hand them out.
const BLOCK: u64 = 10_000;
/// Requests at once while it fills.
const AT_ONCE: u64 = 8;

struct Size {
    rss_mb: f64,
    restart_s: f64,
}

#[allow(clippy::cast_precision_loss, reason = "megabytes")]
async fn measure<S: System>(mut system: S, numbers: u64) -> Result<Size> {
    let leader = system.leader().await?;
    let session = system.session(leader)?;
    let share = numbers / AT_ONCE;
    let fillers: Vec<_> = (0..AT_ONCE)
        .map(|n| {
            let session = session.clone();
            tokio::spawn(async move { session.hold(n * share, (n + 1) * share).await })
        })
        .collect();
    for filler in fillers {
        filler.await?.with_context(|| format!("{}: filling", S::NAME))?;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let rss = system.bed().rss()?;
    let follower = (leader + 1) % NODES;
    let process = system.bed_mut().process(follower)?;
    process.kill();
    let begun = Instant::now();
    process.restart()?;
    let session = system.session(follower)?;
    while begun.elapsed() < Duration::from_secs(60) {
        let read = tokio::time::timeout(Duration::from_millis(500), session.read(1)).await;
        if matches!(read, Ok(Ok(()))) {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    Ok(Size { rss_mb: rss as f64 / 1e6, restart_s: begun.elapsed().as_secs_f64() })
}

pub(super) async fn size(table: &mut Table, options: &Options) -> Result<()> {
    let numbers = if options.quick { NUMBERS / 10 } else { NUMBERS };
    let etcd = measure(Etcd::start(Spot::loopback(1)?).await?, numbers).await?;
    let ours = Ours::start(Spot::loopback(2)?).await?;
    let session = ours.session(ours.leader().await?)?;
    let begun = Instant::now();
    session.import(5, INVENTORY, BLOCK).await?;
    let import = begun.elapsed().as_secs_f64();
    session.import(8, NUMBERS, BLOCK).await?;
    let ours = measure(ours, numbers).await?;
    let rows = [
        (format!("{numbers} taken numbers: resident"), Some(etcd.rss_mb), ours.rss_mb, 350.0, "MB"),
        (
            "… a node's restart to its first linearizable read".into(),
            Some(etcd.restart_s),
            ours.restart_s,
            1.5,
            "s",
        ),
        ("10,000,000 numbers imported as 1,000 blocks".into(), None, import, 5.0, "s"),
    ];
    for (name, peer, ours, most, unit) in rows {
        table.add(Figure { name, peer, ours, target: Target::AtMost(most), unit });
    }
    Ok(())
}
