//! Writes an archive beside a running node: all tables from time to time, the log in between.
//!
//! It is said to be up to date only when it holds all that is applied here.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use control_core::replica::Replica;

use super::{Contents, tables_path, write_segment};
use crate::config::BackupConfig;
use crate::driver::{Driver, Stopped};
use crate::rescue;
use crate::telemetry;
use crate::wal::spool::Spool;

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
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
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
                    let target = config.target.display();
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
    let dir = config.target.join(&*cluster).join(format!("node-{node}"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.with_context(|| dir.display().to_string())?;
    if tables_are_due(&Contents::of(&dir)?, config.tables_every)?
        && take_tables(driver, &dir).await?
    {
        retain(&Contents::of(&dir)?, config.keep)?;
    }
    match follow(driver, &dir, limits).await? {
        // The node was away for long, or a snapshot replaced its log: on from new tables.
        Shipped::Gap(_) if take_tables(driver, &dir).await? => follow(driver, &dir, limits).await,
        shipped => Ok(shipped),
    }
}

/// Ships the log behind what is there.
async fn follow(driver: &Driver, dir: &Path, limits: Limits) -> Result<Shipped> {
    let contents = Contents::of(dir)?;
    let Some((newest, _)) = contents.tables.last() else {
        bail!("{} holds no tables", dir.display())
    };
    let mut end = contents.reaches(*newest);
    for _ in 0..limits.parts {
        let look = move |replica: &Replica| replica.applied_after(end, limits.part_bytes);
        let Some(entries) = driver.query(look).await? else { return Ok(Shipped::Gap(end)) };
        let Some(segment) = write_segment(dir, &entries)? else { return Ok(Shipped::All(end)) };
        end = segment.last;
    }
    Ok(Shipped::More(end))
}

fn tables_are_due(contents: &Contents, every: Duration) -> Result<bool> {
    let Some((_, path)) = contents.tables.last() else { return Ok(true) };
    let made =
        path.metadata().and_then(|m| m.modified()).with_context(|| path.display().to_string())?;
    Ok(SystemTime::now().duration_since(made).unwrap_or_default() >= every)
}

/// Whether the archive has other tables now.
async fn take_tables(driver: &Driver, dir: &Path) -> Result<bool> {
    // Writing them takes long: not when they are there already.
    if tables_path(dir, driver.tables_at()).exists() {
        return Ok(false);
    }
    let spool = driver.spool().await??;
    let to = tables_path(dir, spool.at.index);
    if to.exists() {
        return Ok(false);
    }
    seal(&spool, &to)?;
    Ok(true)
}

fn seal(spool: &Arc<Spool>, to: &Path) -> Result<()> {
    let interrupted = rescue::beside(to);
    if interrupted.exists() {
        fs::remove_dir_all(&interrupted).with_context(|| interrupted.display().to_string())?;
    }
    let beside = rescue::begin(to)?;
    spool.copy_into(&beside)?;
    rescue::seal(&beside, to)?;
    Ok(())
}

/// Removes all but the newest backups, and the log before the oldest that stays.
fn retain(contents: &Contents, keep: usize) -> Result<()> {
    let Some(first) = contents.tables.len().checked_sub(keep.max(1)) else { return Ok(()) };
    let (gone, kept) = contents.tables.split_at(first);
    for (_, path) in gone {
        // Whole as long as it has its name: a crash in between leaves no half backup.
        let gone = path.with_extension("gone");
        fs::rename(path, &gone).with_context(|| path.display().to_string())?;
        fs::remove_dir_all(&gone).with_context(|| gone.display().to_string())?;
    }
    let oldest = kept.first().map_or(0, |(index, _)| *index);
    let old: Vec<&PathBuf> =
        contents.segments.iter().filter(|s| s.last <= oldest).map(|s| &s.path).collect();
    for path in old {
        fs::remove_file(path).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
