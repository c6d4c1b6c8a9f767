//! The receiver's end: one file at a time, the newest sender's.
//!
//! What is here of a file stays over breaks and restarts (`incoming/….part`); another file takes
//! its place. Nothing is believed before the checksum of the whole file fits.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use control_core::replica::Position;
use control_core::state::State;
use proto::control::FileChunk;
use proto::raft::{SnapshotHave, SnapshotHead};

use super::is_sound;
use crate::telemetry;
use crate::wal::{Health, WalError, spool};

/// Why a piece is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Refused {
    /// A head that makes no sense.
    #[error("the head of the snapshot makes no sense")]
    Head,
    /// The disk.
    #[error(transparent)]
    Disk(#[from] WalError),
    /// Another sender came.
    #[error("another snapshot is coming in")]
    Superseded,
}

/// Names one sender's turn.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket(u64);

/// A whole snapshot.
#[derive(Debug)]
pub struct Arrival {
    /// Where its tables stand in the log.
    pub at: Position,
    /// Raft's message.
    pub message: Bytes,
    /// The file of its tables.
    pub file: PathBuf,
    /// What they make.
    pub state: State,
}

/// What is coming in.
#[derive(Debug)]
pub struct Inbox {
    dir: PathBuf,
    health: Arc<Health>,
    now: Mutex<Now>,
}

#[derive(Debug, Default)]
struct Now {
    tickets: u64,
    part: Option<Part>,
}

#[derive(Debug)]
struct Part {
    ticket: Ticket,
    head: SnapshotHead,
    path: PathBuf,
    file: File,
    have: u64,
}

impl Inbox {
    /// In the data directory that `health` is of.
    pub fn new(health: Arc<Health>) -> Result<Self, WalError> {
        let dir = health.dir().join("incoming");
        let io = |source| WalError::Io { file: dir.clone(), action: "made", source };
        fs::create_dir_all(&dir).map_err(io)?;
        let inbox = Self { dir: dir.clone(), health, now: Mutex::default() };
        // Whole files nobody asked for belong to an earlier life.
        inbox.remove_all_but(|path| path.extension().is_some_and(|e| e == "part")).map_err(io)?;
        Ok(inbox)
    }

    /// A sender begins, or goes on: how much of it is here.
    pub fn begin(&self, head: &SnapshotHead) -> Result<(Ticket, SnapshotHave), Refused> {
        if head.index == 0 || head.bytes == 0 {
            return Err(Refused::Head);
        }
        let mut now = self.lock();
        now.tickets += 1;
        let ticket = Ticket(now.tickets);
        let name = name(head);
        let path = self.dir.join(format!("{name}.part"));
        now.part = None;
        self.remove_all_but(|other| other == path || other.extension().is_some_and(|e| e == "run"))
            .map_err(|source| self.failed(source))?;
        let open = File::options().create(true).read(true).write(true).truncate(false).open(&path);
        let file = open.map_err(|source| self.failed(source))?;
        let length = file.metadata().map_err(|source| self.failed(source))?.len();
        let have = if length > head.bytes { 0 } else { length };
        file.set_len(have).map_err(|source| self.failed(source))?;
        // All of it, or nothing is begun. What is here of it stays.
        self.health.check_room(&path, head.bytes - have)?;
        now.part = Some(Part { ticket, head: head.clone(), path, file, have });
        telemetry::snapshot_incoming(have, head.bytes);
        Ok((ticket, SnapshotHave { bytes: have, ..<_>::default() }))
    }

    /// A piece: how much is here now.
    pub fn chunk(&self, ticket: Ticket, chunk: &FileChunk) -> Result<SnapshotHave, Refused> {
        let mut now = self.lock();
        let part = mine(&mut now, ticket)?;
        let have = |damaged, bytes| SnapshotHave { bytes, damaged, taken: false };
        let end = chunk.offset.saturating_add(chunk.data.len() as u64);
        let fits = chunk.data.len() <= spool::CHUNK_BYTES && end <= part.head.bytes;
        if !fits || chunk.data.is_empty() || !is_sound(chunk) {
            telemetry::snapshot_damaged();
            return Ok(have(true, part.have));
        }
        if chunk.offset != part.have {
            return Ok(have(false, part.have)); // One that followed a damaged one.
        }
        // Others write too; the sender comes again.
        self.health.check_room(&part.path, chunk.data.len() as u64)?;
        part.file.write_all_at(&chunk.data, chunk.offset).map_err(|source| self.failed(source))?;
        part.have = end;
        telemetry::snapshot_received(chunk.data.len(), part.have, part.head.bytes);
        Ok(have(false, part.have))
    }

    /// The file, when all of it is here and right; begun anew when it is not right.
    pub fn finish(&self, ticket: Ticket) -> Result<Option<Arrival>, Refused> {
        let mut now = self.lock();
        let part = mine(&mut now, ticket)?;
        if part.have < part.head.bytes {
            return Ok(None);
        }
        part.file.sync_all().map_err(|source| self.failed(source))?;
        let at = Position { index: part.head.index, term: part.head.term };
        let right = spool::checksum(&part.path)? == part.head.crc32c;
        let state = if right { spool::load(&part.path, at).ok() } else { None };
        let Some(state) = state else {
            telemetry::snapshot_damaged();
            part.have = 0;
            part.file.set_len(0).map_err(|source| self.failed(source))?;
            return Ok(None);
        };
        let file = self.dir.join(format!("{}-{}.run", name(&part.head), ticket.0));
        fs::rename(&part.path, &file).map_err(|source| self.failed(source))?;
        let message = Bytes::from(std::mem::take(&mut part.head.message));
        now.part = None;
        Ok(Some(Arrival { at, message, file, state }))
    }

    fn remove_all_but(&self, keep: impl Fn(&Path) -> bool) -> std::io::Result<()> {
        for entry in fs::read_dir(&self.dir)? {
            let path = entry?.path();
            if !keep(&path) {
                fs::remove_file(path)?;
            }
        }
        Ok(())
    }

    fn failed(&self, source: std::io::Error) -> Refused {
        use crate::wal::Named as _;
        let named: Result<(), WalError> = Err(source).named(&self.dir, "written");
        named.err().map_or(Refused::Head, Refused::Disk)
    }

    fn lock(&self) -> MutexGuard<'_, Now> {
        self.now.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn mine(now: &mut Now, ticket: Ticket) -> Result<&mut Part, Refused> {
    now.part.as_mut().filter(|part| part.ticket == ticket).ok_or(Refused::Superseded)
}

/// The same for the same file.
fn name(head: &SnapshotHead) -> String {
    let SnapshotHead { index, term, bytes, crc32c, .. } = head;
    format!("{index:016x}-{term:016x}-{bytes:x}-{crc32c:08x}")
}
