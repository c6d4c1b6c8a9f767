//! Tables of a revision, from an archive.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use control_core::replica::{LogEntry, Position, replay};
use control_core::state::State;

use super::{Contents, read_segment};
use crate::rescue::{self, Manifest};

/// Tables and where they stand.
pub struct Found {
    /// The tables.
    pub state: State,
    /// Where they stand in the log.
    pub at: Position,
    /// Of the backup they begin with.
    pub manifest: Manifest,
}

/// The tables at `revision`, or the newest there are.
pub fn find(archive: &Path, revision: Option<u64>) -> Result<Found> {
    let dir = the_archive(archive)?;
    let contents = Contents::of(&dir)?;
    // Newest first; one that was damaged or half removed spoils none of the others.
    let (mut chosen, mut damaged) = (None, String::new());
    for (_, path) in contents.tables.iter().rev() {
        match rescue::manifest(path) {
            Ok(manifest) if revision.is_none_or(|wanted| manifest.revision <= wanted) => {
                chosen = Some((path, manifest));
                break;
            }
            Ok(_) => {}
            Err(error) => damaged = format!("; not readable: {error:#}"),
        }
    }
    let Some((path, manifest)) = chosen else {
        bail!("{} has no backup of so old a revision{damaged}", dir.display());
    };
    let (state, applied) = rescue::load(path, &manifest)?;
    let log = log_after(&contents, applied.index)?;
    let end = end_of(rescue::load(path, &manifest)?.0, &log, revision)?;
    let mut found = Found { state, at: applied, manifest };
    for entry in log.iter().take(end) {
        replay(&mut found.state, entry)?;
        found.at = Position { index: entry.index, term: entry.term };
    }
    let reached = found.state.revision().0;
    if let Some(wanted) = revision {
        ensure!(
            reached == wanted,
            "{} goes to revision {reached}, not to {wanted}: the log behind it is not there",
            dir.display()
        );
    }
    Ok(found)
}

/// How many entries lead to the revision: the first that goes beyond it is not one of them.
fn end_of(mut state: State, log: &[LogEntry], revision: Option<u64>) -> Result<usize> {
    let Some(revision) = revision else { return Ok(log.len()) };
    for (count, entry) in log.iter().enumerate() {
        replay(&mut state, entry)?;
        if state.revision().0 > revision {
            return Ok(count);
        }
    }
    Ok(log.len())
}

fn log_after(contents: &Contents, index: u64) -> Result<Vec<LogEntry>> {
    let (mut log, mut end) = (Vec::new(), index);
    for segment in &contents.segments {
        if segment.last <= end {
            continue;
        }
        if segment.first > end + 1 {
            break; // The log after the gap belongs to a later backup.
        }
        let entries = read_segment(segment)?;
        log.extend(entries.into_iter().filter(|entry| entry.index > end));
        end = segment.last;
    }
    Ok(log)
}

/// The archive itself, or the only one below.
fn the_archive(dir: &Path) -> Result<PathBuf> {
    let mut below = vec![dir.to_owned()];
    for _ in 0..3 {
        let mut next = Vec::new();
        for dir in &below {
            if !Contents::of(dir)?.tables.is_empty() {
                next.push(dir.clone());
                continue;
            }
            for entry in std::fs::read_dir(dir).with_context(|| dir.display().to_string())? {
                let path = entry?.path();
                if path.is_dir() {
                    next.push(path);
                }
            }
        }
        below = next;
    }
    below.retain(|dir| Contents::of(dir).is_ok_and(|contents| !contents.tables.is_empty()));
    match below.as_slice() {
        [one] => Ok(one.clone()),
        [] => bail!("{} holds no backup", dir.display()),
        several => {
            let names: Vec<String> = several.iter().map(|dir| dir.display().to_string()).collect();
            bail!("{} holds several archives: name one of {}", dir.display(), names.join(", "))
        }
    }
}
