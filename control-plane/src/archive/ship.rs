//! Writes an archive beside a running node: all tables from time to time, the log in between.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};

use super::{Contents, tables_path, write_segment};
use crate::config::BackupConfig;
use crate::driver::Driver;
use crate::rescue;
use crate::telemetry;
use crate::wal::spool::Spool;

/// Bytes of the log in one file.
const PART_BYTES: usize = 2 * 1024 * 1024;
/// Files in one turn; the rest waits for the next.
const PARTS_MAX: usize = 64;

/// Ships until the node stops. What fails is tried again at the next turn.
pub async fn run(config: BackupConfig, driver: Driver) {
    let mut failing = false;
    loop {
        tokio::time::sleep(config.every).await;
        match turn(&config, &driver).await {
            Ok(Some(index)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!(index, "the log is shipped again");
                }
                telemetry::shipped(index);
            }
            Ok(None) => {}
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

/// Brings the archive up to what is applied here: the index it reaches. `None`: there is no
/// cluster yet.
pub async fn turn(config: &BackupConfig, driver: &Driver) -> Result<Option<u64>> {
    let (cluster, node) = {
        let progress = driver.progress();
        let progress = progress.borrow();
        (progress.cluster_id.clone(), progress.node)
    };
    if cluster.is_empty() {
        return Ok(None);
    }
    let dir = config.target.join(&*cluster).join(format!("node-{node}"));
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
    made.with_context(|| dir.display().to_string())?;
    let mut contents = Contents::of(&dir)?;
    if tables_are_due(&contents, config.tables_every)? {
        take_tables(driver, &dir).await?;
        contents = Contents::of(&dir)?;
        retain(&contents, config.keep)?;
    }
    let Some((newest, _)) = contents.tables.last() else { bail!("no tables") };
    let mut end = contents.reaches(*newest);
    for _ in 0..PARTS_MAX {
        let part = driver.query(move |replica| replica.applied_after(end, PART_BYTES)).await?;
        let Some(entries) = part else {
            // The node was away for long, or a snapshot replaced its log.
            take_tables(driver, &dir).await?;
            return Ok(Some(end));
        };
        let place = dir.clone();
        let written =
            tokio::task::spawn_blocking(move || write_segment(&place, &entries)).await??;
        let Some(segment) = written else { break };
        end = segment.last;
    }
    Ok(Some(end))
}

fn tables_are_due(contents: &Contents, every: Duration) -> Result<bool> {
    let Some((_, path)) = contents.tables.last() else { return Ok(true) };
    let made =
        path.metadata().and_then(|m| m.modified()).with_context(|| path.display().to_string())?;
    Ok(SystemTime::now().duration_since(made).unwrap_or_default() >= every)
}

async fn take_tables(driver: &Driver, dir: &Path) -> Result<()> {
    let spool = driver.spool().await?.map_err(|why| anyhow::anyhow!(why))?;
    let to = tables_path(dir, spool.at.index);
    if to.exists() {
        return Ok(()); // Nothing was written to the tables since.
    }
    tokio::task::spawn_blocking(move || seal(&spool, &to)).await?
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
