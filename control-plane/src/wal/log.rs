//! The log on disk: append-only segments, one frame and one `fdatasync` for each promise.
//!
//! Segments are preallocated and used again, so that a sync finds nothing to note but data. A
//! frame never crosses segments. `acked` marks what was acknowledged; `vote` keeps term and vote a
//! second time, because nobody else can say what this node voted.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use control_core::replica::{HardState, LogEntry, Position};

use super::error::{Named as _, WalError};
use super::files;
use super::frame::{self, Frame};
use super::health::Health;
use super::scan::{self, SEGMENT_HEAD_BYTES, Scanned, Segment, segment_path};
use super::slots::{self, Slots};
use crate::telemetry;

/// Files kept for the next segments.
const SPARES_MAX: usize = 2;

/// Where things are in a data directory.
pub(super) fn log_dir(dir: &Path) -> PathBuf {
    dir.join("log")
}

/// See the module.
pub(super) fn acked_path(dir: &Path) -> PathBuf {
    dir.join("acked")
}

/// See the module.
pub(super) fn vote_path(dir: &Path) -> PathBuf {
    dir.join("vote")
}

/// What one append makes durable.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Append<'a> {
    pub(super) hard_state: HardState,
    pub(super) reset: Option<Position>,
    pub(super) entries: &'a [LogEntry],
}

/// Where a log that was read goes on.
pub(super) struct Found<'a> {
    /// The segments and the sequence.
    pub(super) place: &'a Scanned,
    /// Precedes the entries.
    pub(super) base: Position,
    /// What is in it.
    pub(super) entries: &'a [LogEntry],
}

/// The open log.
pub(super) struct Log {
    dir: PathBuf,
    incarnation: String,
    segment_bytes: u64,
    health: Arc<Health>,
    file: Option<(File, u64)>,
    at: u64,
    segments: VecDeque<Segment>,
    spares: Vec<PathBuf>,
    next_number: u64,
    sequence: u64,
    durable: u64,
    /// Terms begin at these positions; the first is the base.
    terms: VecDeque<Position>,
    last: u64,
    acked: Slots,
    vote: Slots,
    voted: (u64, u64),
    buffer: Vec<u8>,
}

impl Log {
    /// Goes on after what was found; what stands behind its end is overwritten.
    pub(super) fn open(
        data: &Path,
        incarnation: &str,
        segment_bytes: u64,
        found: &Found<'_>,
        health: Arc<Health>,
    ) -> Result<Self, WalError> {
        let Found { place: scanned, base, entries } = *found;
        let dir = log_dir(data);
        let (acked_path, vote_path) = (acked_path(data), vote_path(data));
        let acked = Slots::open(acked_path.clone(), slots::read(&acked_path)?)?;
        let kept = slots::read(&vote_path)?;
        let [term, vote] = kept.values.unwrap_or_default();
        let mut log = Self {
            incarnation: incarnation.to_owned(),
            segment_bytes,
            health,
            file: None,
            at: 0,
            segments: scanned.segments.iter().cloned().collect(),
            spares: Vec::new(),
            next_number: 0,
            sequence: scanned.sequence,
            durable: scanned.sequence,
            terms: VecDeque::new(),
            last: 0,
            acked,
            vote: Slots::open(vote_path, kept)?,
            voted: (term, vote),
            buffer: Vec::new(),
            dir,
        };
        log.begin_at(base);
        log.note_entries(entries);
        if let Some(segment) = log.segments.back() {
            let path = segment_path(&log.dir, segment.number);
            let file = File::options().write(true).open(&path).named(&path, "opened")?;
            let size = file.metadata().named(&path, "read")?.len();
            log.file = Some((file, size));
            log.at = scanned.end as u64;
            log.next_number = segment.number + 1;
        } else {
            log.next_number = scan::numbers(&log.dir)?.last().copied().unwrap_or(0).max(1);
        }
        log.find_spares()?;
        Ok(log)
    }

    /// Makes it durable: when this returns, it is.
    pub(super) fn append(&mut self, append: Append<'_>) -> Result<(), WalError> {
        self.keep_vote(append.hard_state)?;
        if let Some(reset) = append.reset {
            self.begin_at(reset);
        }
        let previous = append.entries.first().map_or_else(
            || self.position(self.last),
            |first| self.position(first.index.saturating_sub(1)),
        );
        let head = Frame {
            sequence: self.sequence + 1,
            durable: self.durable,
            hard_state: append.hard_state,
            previous,
            reset: append.reset,
            entries: Vec::new(),
        };
        self.write(&head, append.entries)?;
        self.sequence += 1;
        self.note_entries(append.entries);
        if let Some(segment) = self.segments.back_mut() {
            segment.last_index = segment.last_index.max(self.last);
        }
        self.durable = self.sequence;
        self.acked.write([self.durable, self.last])
    }

    /// Lets go of segments that only hold entries up to `index`.
    pub(super) fn release(&mut self, index: u64) -> Result<(), WalError> {
        while self.segments.len() > 1
            && self.segments.front().is_some_and(|s| s.last_index <= index)
        {
            let Some(segment) = self.segments.pop_front() else { break };
            let path = segment_path(&self.dir, segment.number);
            if self.spares.len() < SPARES_MAX && !self.health.is_low() {
                let spare = path.with_extension("spare");
                fs::rename(&path, &spare).named(&path, "renamed")?;
                self.spares.push(spare);
            } else {
                fs::remove_file(&path).named(&path, "removed")?;
            }
        }
        Ok(())
    }

    /// The mark of what was acknowledged, durable: when nothing else is to do, and at the end.
    pub(super) fn sync_marks(&self) -> Result<(), WalError> {
        self.acked.sync()
    }

    /// Where an index stands, as far as the log knows.
    pub(super) fn position(&self, index: u64) -> Position {
        let begun = self.terms.iter().rev().find(|begin| begin.index <= index);
        Position { index, term: begun.map_or(0, |begin| begin.term) }
    }

    /// Bytes on disk.
    pub(super) fn bytes(&self) -> u64 {
        (self.segments.len() + self.spares.len()) as u64 * self.segment_bytes
    }

    fn keep_vote(&mut self, hard_state: HardState) -> Result<(), WalError> {
        let HardState { term, vote, commit: _ } = hard_state;
        if self.voted == (term, vote) {
            return Ok(());
        }
        self.vote.write([term, vote])?;
        self.vote.sync()?;
        self.voted = (term, vote);
        Ok(())
    }

    fn write(&mut self, head: &Frame, entries: &[LogEntry]) -> Result<(), WalError> {
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.clear();
        let number = self.segments.back().map_or(0, |segment| segment.number);
        frame::encode(&mut buffer, scan::seed(&self.incarnation, number), head, entries);
        let fits = |size: &u64| self.at + buffer.len() as u64 <= *size;
        if !self.file.as_ref().is_some_and(|(_, size)| fits(size)) {
            let number = self.next_segment(buffer.len() as u64)?;
            buffer.clear();
            frame::encode(&mut buffer, scan::seed(&self.incarnation, number), head, entries);
        }
        let path = segment_path(&self.dir, self.segments.back().map_or(0, |s| s.number));
        if let Some((file, _)) = &self.file {
            let began = Instant::now();
            file.write_all_at(&buffer, self.at).named(&path, "written")?;
            file.sync_data().named(&path, "synced")?;
            telemetry::synced(began.elapsed());
        }
        self.at += buffer.len() as u64;
        if buffer.capacity() <= 1 << 20 {
            self.buffer = buffer;
        }
        Ok(())
    }

    /// A segment with room for a frame of `bytes`; its number.
    fn next_segment(&mut self, bytes: u64) -> Result<u64, WalError> {
        let number = self.next_number;
        let path = segment_path(&self.dir, number);
        let size = self.segment_bytes.max(bytes + SEGMENT_HEAD_BYTES as u64);
        let file = match self.make(&path, size) {
            Err(WalError::Full { .. }) if self.health.give_up_reserve() => {
                self.make(&path, size)?
            }
            made => made?,
        };
        self.segments.push_back(Segment { number, last_index: self.last });
        self.next_number += 1;
        self.file = Some((file, size));
        self.at = SEGMENT_HEAD_BYTES as u64;
        Ok(number)
    }

    fn make(&mut self, path: &Path, size: u64) -> Result<File, WalError> {
        // A spare has blocks that were written before: a sync then changes no metadata.
        if size == self.segment_bytes
            && let Some(spare) = self.spares.pop()
        {
            fs::rename(&spare, path).named(path, "renamed")?;
        }
        let file = File::options().create(true).write(true).truncate(false).open(path);
        let file = file.named(path, "opened")?;
        let mode = rustix::fs::FallocateFlags::empty();
        match rustix::fs::fallocate(&file, mode, 0, size) {
            Ok(()) => {}
            // Not every file system can reserve; then the writes themselves tell.
            Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(size).named(path, "allocated")?,
            Err(error) => return Err(std::io::Error::from(error)).named(path, "allocated"),
        }
        let number = self.next_number;
        let head = scan::segment_head(&self.incarnation, number, self.sequence + 1);
        file.write_all_at(&head, 0).named(path, "written")?;
        file.sync_all().named(path, "synced")?;
        files::sync_dir(&self.dir).named(&self.dir, "synced")?;
        Ok(file)
    }

    fn begin_at(&mut self, base: Position) {
        self.terms.clear();
        self.terms.push_back(base);
        self.last = base.index;
    }

    fn note_entries(&mut self, entries: &[LogEntry]) {
        let Some(first) = entries.first() else { return };
        while self.terms.len() > 1 && self.terms.back().is_some_and(|t| t.index >= first.index) {
            self.terms.pop_back();
        }
        for entry in entries {
            if self.terms.back().is_none_or(|begun| begun.term != entry.term) {
                self.terms.push_back(Position { index: entry.index, term: entry.term });
            }
            self.last = entry.index;
        }
    }

    fn find_spares(&mut self) -> Result<(), WalError> {
        for entry in fs::read_dir(&self.dir).named(&self.dir, "read")? {
            let path = entry.named(&self.dir, "read")?.path();
            let size = path.metadata().named(&path, "read")?.len();
            if path.extension().is_some_and(|e| e == "spare") && size == self.segment_bytes {
                self.spares.push(path);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
impl Log {
    pub(super) fn segment_number(&self) -> u64 {
        self.segments.back().unwrap().number
    }

    pub(super) fn end(&self) -> usize {
        self.at as usize
    }
}
