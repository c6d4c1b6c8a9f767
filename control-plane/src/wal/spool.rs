//! All tables as one file, for a member that is behind the log or for a backup: merged from the
//! runs beside the node, read in pieces, gone with the value.

use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use control_core::replica::Position;
use control_core::state::{Headline, State};

use super::error::{Named as _, WalError, damaged};
use super::health::Health;
use super::runs::{Merge, Run, Writer};
use super::{Tables, files};

/// Pieces of a file on its way. Four are under way: a ping behind them must get through a slow link
/// before it is given up (2 s).
pub const CHUNK_BYTES: usize = 256 * 1024;
/// A merge may take runs away while they are opened.
const TRIES: u32 = 20;
/// Each gets a directory of its own.
static SPOOLS: AtomicU64 = AtomicU64::new(0);

/// The file.
#[derive(Debug)]
pub struct Spool {
    dir: PathBuf,
    file: File,
    /// Where the tables stand in the log.
    pub at: Position,
    /// What they say about themselves.
    pub headline: Headline,
    /// Of the file.
    pub bytes: u64,
    /// Of the whole file.
    pub crc32c: u32,
}

impl Drop for Spool {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Where spools are.
pub(crate) fn outgoing(dir: &Path) -> PathBuf {
    dir.join("outgoing")
}

/// Removes what an earlier life left.
pub(super) fn forget(dir: &Path) -> Result<(), WalError> {
    let dir = outgoing(dir);
    if dir.exists() { fs::remove_dir_all(&dir).named(&dir, "removed") } else { Ok(()) }
}

impl Spool {
    /// Of the tables in the data directory that `health` is of, as they are on disk now. Takes as
    /// long as writing them does; refused when too little space would be left.
    pub fn make(tables: &Tables, health: &Health) -> Result<Self, WalError> {
        let number = SPOOLS.fetch_add(1, Ordering::Relaxed);
        let dir = outgoing(health.dir()).join(number.to_string());
        health.check_room(&dir, tables.bytes())?;
        fs::create_dir_all(&dir).named(&dir, "made")?;
        let made = write(tables, &dir);
        if made.is_err() {
            // Nothing of it is of use.
            let _ = fs::remove_dir_all(&dir);
        }
        let (run, at, headline) = made?;
        let file = File::open(&run.path).named(&run.path, "opened")?;
        let crc32c = checksum(&run.path)?;
        Ok(Self { dir, file, at, headline, bytes: run.bytes, crc32c })
    }

    /// Where it is: alone, under the name that [`file_name`] gives it.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The same file in another directory, durable.
    pub fn copy_into(&self, dir: &Path) -> Result<(), WalError> {
        let to = dir.join(file_name(self.at.index));
        let from = self.dir.join(file_name(self.at.index));
        let copy = || {
            fs::copy(&from, &to)?;
            File::open(&to)?.sync_all()?;
            files::sync_dir(dir)
        };
        copy().named(&to, "written")
    }

    /// The piece that begins here; empty at the end.
    pub fn chunk(&self, offset: u64) -> Result<Bytes, WalError> {
        let left = usize::try_from(self.bytes.saturating_sub(offset)).unwrap_or(usize::MAX);
        let mut piece = vec![0; left.min(CHUNK_BYTES)];
        self.file.read_exact_at(&mut piece, offset).named(&self.dir, "read")?;
        Ok(piece.into())
    }
}

fn write(tables: &Tables, dir: &Path) -> Result<(Run, Position, Headline), WalError> {
    let mut tries = 0;
    let merge = loop {
        match Merge::of(&tables.get(), false) {
            Err(WalError::Io { .. }) if tries < TRIES => tries += 1,
            other => break other?,
        }
    };
    let (at, mut headline) = (merge.applied(), Headline::default());
    let mut writer = Writer::create(dir, 0, at)?;
    for row in merge {
        let (key, value) = row?;
        headline.note(&key, value.as_deref().unwrap_or_default());
        writer.row(&key, value.as_deref())?;
    }
    Ok((writer.finish()?, at, headline))
}

/// Name of a file with all tables of this index.
pub fn file_name(index: u64) -> String {
    format!("{index:016x}-{:016x}.run", 0)
}

/// CRC-32C of a file.
pub fn checksum(path: &Path) -> Result<u32, WalError> {
    let mut file = File::open(path).named(path, "opened")?;
    let (mut crc, mut piece) = (0, vec![0; CHUNK_BYTES]);
    loop {
        let read = file.read(&mut piece).named(path, "read")?;
        if read == 0 {
            return Ok(crc);
        }
        crc = crc32c::crc32c_append(crc, piece.get(..read).unwrap_or_default());
    }
}

/// The state a whole file of tables makes, every byte checked; `at`: where they must stand.
pub fn load(path: &Path, at: Position) -> Result<State, WalError> {
    let bytes = path.metadata().named(path, "read")?.len();
    let run = Run { path: path.to_owned(), from: 0, applied: at.index, bytes };
    let merge = Merge::of(std::slice::from_ref(&run), false)?;
    if merge.applied() != at {
        return Err(damaged(path, "its place in the log"));
    }
    let mut failed = None;
    let rows = merge.map_while(|row| match row {
        Ok((key, value)) => Some((key, value.unwrap_or_default())),
        Err(error) => {
            failed = Some(error);
            None
        }
    });
    let state = State::from_tables(rows);
    match failed {
        Some(error) => Err(error),
        None => state.map_err(|error| damaged(path, error.to_string())),
    }
}

/// A file of tables becomes all the tables there are: durable, renamed, only then the rest goes.
pub(super) fn adopt(
    state_dir: &Path,
    tables: &Tables,
    at: Position,
    from: &Path,
) -> Result<(), WalError> {
    let path = state_dir.join(file_name(at.index));
    File::open(from).and_then(|file| file.sync_all()).named(from, "synced")?;
    fs::rename(from, &path).named(from, "renamed")?;
    files::sync_dir(state_dir).named(state_dir, "synced")?;
    let bytes = path.metadata().named(&path, "read")?.len();
    tables.set(vec![Run { path, from: 0, applied: at.index, bytes }]);
    super::flusher::tidy(state_dir)
}
