//! Writes an archive beside a running node: all tables from time to time, the log in between.
//!
//! It is said to be up to date only when it holds all that is applied here.

use std::time::{Duration, SystemTime};

use anyhow::{Result, bail};
use control_core::replica::Replica;

use super::Contents;
use super::place::Place;
use crate::config::BackupConfig;
use crate::driver::{Driver, Stopped};
use crate::telemetry;

/// How much goes at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Limits {
    /// Bytes of the log in one file.
    part_bytes: usize,
    /// Files in one turn: after them tables may be due, or the node may be about to stop.
    parts: usize,
}

const LIMITS: Limits = Limits { part_bytes: 2 * 1024 * 1024, parts: 64 };

/// How far a turn came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shipped {
    /// There is no cluster yet.
    Nothing,
    /// All that is applied here is in the archive, up to this index.
    All(u64),
    /// More is to be shipped behind this index; there is some now.
    More(u64),
    /// The log here begins behind this index, and the tables on disk do not stand there yet.
    Gap(u64),
}

/// Ships until the node stops, on a thread of its own: disks may hang, the API must not.
pub fn start(config: BackupConfig, driver: Driver) -> std::io::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ship = move || runtime.block_on(run(config, driver));
    std::thread::Builder::new().name("archive".into()).spawn(ship).map(|_| ())
}

/// What fails is tried again at the next turn.
async fn run(config: BackupConfig, driver: Driver) {
    let (mut failing, mut more) = (false, false);
    loop {
        if !more {
            tokio::time::sleep(config.every).await;
        }
        let shipped = turn(&config, &driver, LIMITS).await;
        more = matches!(shipped, Ok(Shipped::More(_)));
        match shipped {
            Ok(Shipped::All(index)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(index, "the log is shipped again");
                }
                telemetry::shipped(index);
            }
            Ok(Shipped::More(index) | Shipped::Gap(index)) => telemetry::shipping(index),
            Ok(Shipped::Nothing) => {}
            Err(error) if error.is::<Stopped>() => return,
            Err(error) => {
                telemetry::shipping_failed();
                if !std::mem::replace(&mut failing, true) {
                    let target = &config.target;
                    tracing::error!(%target, "the log is not shipped: {error:#}");
                }
            }
        }
    }
}

/// Brings the archive towards what is applied here.
async fn turn(config: &BackupConfig, driver: &Driver, limits: Limits) -> Result<Shipped> {
    let (cluster, node) = {
        let progress = driver.progress();
        let progress = progress.borrow();
        (progress.cluster_id.clone(), progress.node)
    };
    if cluster.is_empty() {
        return Ok(Shipped::Nothing);
    }
    let place = Place::open(&config.target, &cluster, node.0)?;
    let (contents, made) = place.contents().await?;
    if tables_are_due(made, config.tables_every) && take_tables(driver, &place, &contents).await? {
        place.retain(&place.contents().await?.0, config.keep).await?;
    }
    match follow(driver, &place, limits).await? {
        // The node was away for long, or a snapshot replaced its log: on from new tables.
        Shipped::Gap(_) if take_tables(driver, &place, &place.contents().await?.0).await? => {
            follow(driver, &place, limits).await
        }
        shipped => Ok(shipped),
    }
}

/// Ships the log behind what is there.
async fn follow(driver: &Driver, place: &Place, limits: Limits) -> Result<Shipped> {
    let (contents, _) = place.contents().await?;
    let Some((newest, _)) = contents.tables.last() else { bail!("the archive holds no tables") };
    let mut end = contents.reaches(*newest);
    for _ in 0..limits.parts {
        let look = move |replica: &Replica| replica.applied_after(end, limits.part_bytes);
        let Some(entries) = driver.query(look).await? else { return Ok(Shipped::Gap(end)) };
        let Some(segment) = place.put_log(&entries).await? else { return Ok(Shipped::All(end)) };
        end = segment.last;
    }
    Ok(Shipped::More(end))
}

fn tables_are_due(made: Option<SystemTime>, every: Duration) -> bool {
    made.is_none_or(|made| SystemTime::now().duration_since(made).unwrap_or_default() >= every)
}

/// Whether the archive has other tables now.
async fn take_tables(driver: &Driver, place: &Place, contents: &Contents) -> Result<bool> {
    let has = |index: u64| contents.tables.iter().any(|(at, _)| *at == index);
    // Writing them takes long: not when they are there already.
    if has(driver.tables_at()) {
        return Ok(false);
    }
    let spool = driver.spool().await??;
    if has(spool.at.index) {
        return Ok(false);
    }
    place.put_tables(&spool).await?;
    Ok(true)
}

#[cfg(test)]
mod tests;
