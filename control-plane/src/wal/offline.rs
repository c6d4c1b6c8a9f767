//! A data directory whose node does not run: read whole without a change, or written whole.

use std::path::Path;
use std::sync::Arc;

use control_core::replica::{Position, Repair, Restored};

use super::assess::assess;
use super::error::{WalError, damaged};
use super::health::Health;
use super::log::{Append, Found, Log};
use super::owner::{self, Owner};
use super::runs::{self, Merge, Run, Writer, state_dir};
use super::scan::Scanned;
use super::{Tables, evidence, flusher, found};

/// What a directory holds.
#[derive(Debug)]
pub struct Inspected {
    /// Whose.
    pub owner: Owner,
    /// Its name.
    pub incarnation: String,
    /// As a start would see it.
    pub restored: Restored,
    /// A repair that has not ended.
    pub repair: Option<Repair>,
    /// Segments of the log.
    pub segments: usize,
    /// Frames in them.
    pub frames: u64,
    /// A last write that never ended.
    pub torn: Option<String>,
}

/// Reads and checks every byte; any damage is an error. Changes nothing.
pub fn inspect(dir: &Path) -> Result<Inspected, WalError> {
    let Some(deed) = owner::read(dir)? else {
        return Err(damaged(&dir.join("owner"), "who owns this directory (it is missing)"));
    };
    let mut evidence = evidence(dir, &deed, true)?;
    let (segments, frames) = (evidence.log.segments.len(), evidence.log.frames);
    let torn = evidence.log.torn.take();
    let verdict = assess(dir, evidence)?;
    let (restored, repair) = (verdict.restored, verdict.repair);
    let (owner, incarnation) = (deed.owner, deed.incarnation);
    Ok(Inspected { owner, incarnation, restored, repair, segments, frames, torn })
}

/// Makes `dir` a data directory with this in it.
pub fn write_new(
    dir: &Path,
    owner: &Owner,
    incarnation: &str,
    restored: &Restored,
) -> Result<(), WalError> {
    if owner::read(dir)?.is_some() {
        return Err(WalError::InUse { file: dir.to_owned() });
    }
    let deed = found(dir, owner, incarnation)?;
    let term = restored.entries.iter().find(|entry| entry.index == restored.applied);
    let term = term.map_or(restored.base.term, |entry| entry.term);
    let applied = Position { index: restored.applied, term };
    let tables = Tables::new(Vec::new());
    flusher::replace_all(&state_dir(dir), &tables, applied, &restored.tables)?;
    let place = Scanned::default();
    let at = Found { place: &place, base: restored.base, entries: &[] };
    let health = Arc::new(Health::new(dir, Some(0)));
    let mut log = Log::open(dir, &deed.incarnation, super::SEGMENT_BYTES_MIN, &at, health)?;
    let (hard_state, entries) = (restored.hard_state, restored.entries.as_slice());
    log.append(Append { hard_state, reset: Some(restored.base), entries })?;
    log.sync_marks()
}

/// The tables of a directory, also of a node that runs, as one file in `to`: where they stand.
pub fn copy_tables(dir: &Path, to: &Path) -> Result<Position, WalError> {
    let mut tries = 0;
    let merge = loop {
        let (chain, _) = runs::list(&state_dir(dir))?;
        match Merge::of(&chain, false) {
            Ok(merge) => break merge,
            // The node merged them just now.
            Err(WalError::Io { .. }) if tries < 20 => tries += 1,
            Err(error) => return Err(error),
        }
    };
    let applied = merge.applied();
    let mut writer = Writer::create(to, 0, applied)?;
    for row in merge {
        let (key, value) = row?;
        writer.row(&key, value.as_deref())?;
    }
    writer.finish()?;
    Ok(applied)
}

/// The rows of [`copy_tables`], every byte checked.
#[expect(clippy::type_complexity, reason = "rows as the replica takes them")]
pub fn read_copy(from: &Path) -> Result<(Position, Vec<(Vec<u8>, bytes::Bytes)>), WalError> {
    let (chain, _) = runs::list(from)?;
    let [Run { .. }] = chain.as_slice() else {
        return Err(damaged(from, "the file of tables (it is missing)"));
    };
    let image = super::read_tables(from)?;
    Ok((image.applied, image.rows))
}
