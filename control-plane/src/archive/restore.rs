//! Tables of a revision, from an archive.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use control_core::replica::{LogEntry, Position, replay};
use control_core::state::State;

use super::{Contents, Entries, Segment};
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
    // Twice the same way, for there is no way back from the first entry beyond the revision. One
    // part of the log is in memory at a time, and nothing behind the revision is looked at.
    let end = match revision {
        Some(wanted) => end_of(Walk::begin(path, manifest.clone(), &contents)?, wanted)?,
        None => u64::MAX,
    };
    let mut walk = Walk::begin(path, manifest, &contents)?;
    while walk.found.at.index < end && walk.step()? {}
    let reached = walk.found.state.revision().0;
    if let Some(wanted) = revision {
        ensure!(
            reached == wanted,
            "{} goes to revision {reached}, not to {wanted}: the log behind it is not there",
            dir.display()
        );
    }
    Ok(walk.found)
}

/// Index of the last entry of this revision, or where the log ends.
fn end_of(mut walk: Walk<'_>, revision: u64) -> Result<u64> {
    loop {
        let (end, reached) = (walk.found.at.index, walk.found.state.revision().0);
        match walk.step() {
            Ok(true) if walk.found.state.revision().0 <= revision => {}
            Ok(_) => return Ok(end),
            // All of the revision that can be read is there.
            Err(_) if reached == revision => return Ok(end),
            Err(error) => return Err(error),
        }
    }
}

/// Tables that follow the log of an archive, entry by entry.
struct Walk<'a> {
    found: Found,
    segments: std::slice::Iter<'a, Segment>,
    entries: Option<Entries<'a>>,
}

impl<'a> Walk<'a> {
    /// From the backup at `path`.
    fn begin(path: &Path, manifest: Manifest, contents: &'a Contents) -> Result<Self> {
        let (state, at) = rescue::load(path, &manifest)?;
        let found = Found { state, at, manifest };
        Ok(Self { found, segments: contents.segments.iter(), entries: None })
    }

    /// Does what the next entry did; `false`: there is none.
    fn step(&mut self) -> Result<bool> {
        let next = self.next().transpose().with_context(|| {
            let reached = self.found.state.revision().0;
            format!("`--to-revision {reached}` restores what comes before the damage")
        })?;
        let Some(entry) = next else { return Ok(false) };
        replay(&mut self.found.state, &entry)?;
        self.found.at = Position { index: entry.index, term: entry.term };
        Ok(true)
    }

    fn next(&mut self) -> Option<Result<LogEntry>> {
        loop {
            let end = self.found.at.index;
            if let Some(entries) = &mut self.entries
                && let Some(next) = entries.find(|e| e.as_ref().map_or(true, |e| e.index > end))
            {
                return Some(next);
            }
            let segment = self.segments.find(|segment| segment.last > end)?;
            if segment.first > end + 1 {
                return None; // The log after the gap belongs to a later backup.
            }
            match Entries::of(segment) {
                Ok(entries) => self.entries = Some(entries),
                Err(error) => return Some(Err(error)),
            }
        }
    }
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

#[cfg(test)]
mod tests;
