//! Reads a log without changing it: what it holds, where it ends, and what is wrong with it.
//!
//! An unreadable place is a torn write only if nothing says otherwise: no later frame is readable,
//! and neither a frame nor the mark of what was acknowledged knows of a later sequence. All else is
//! damage: something that was promised to another node cannot be read.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use control_core::replica::{HardState, LogEntry, Position};

use super::error::{Named as _, WalError};
use super::frame::{self, At, Frame, Seed};

/// A segment begins with this, its number and the first sequence in it; then frames.
pub(super) const SEGMENT_HEAD_BYTES: usize = 32;
const MAGIC: &[u8; 8] = b"VXMLOG02";
/// A frame cannot claim a sequence further ahead than that.
const SEQUENCE_JUMP_MAX: u64 = 1 << 32;

/// A segment file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Segment {
    pub(super) number: u64,
    /// The highest index in it.
    pub(super) last_index: u64,
}

/// What a log holds.
#[derive(Debug, Default)]
pub(super) struct Scanned {
    /// Precedes the first entry.
    pub(super) base: Position,
    pub(super) entries: VecDeque<LogEntry>,
    /// Of the newest readable frame.
    pub(super) hard_state: HardState,
    pub(super) sequence: u64,
    pub(super) frames: u64,
    pub(super) segments: Vec<Segment>,
    /// Where the next frame goes, in the last segment.
    pub(super) end: usize,
    /// The highest index any readable frame ever held.
    pub(super) highest: u64,
    /// What cannot be read and was promised.
    pub(super) damage: Vec<String>,
    /// Bytes of a write that never finished.
    pub(super) torn: Option<String>,
    /// What is missing was the end.
    pub(super) tail_lost: bool,
    /// The entries up to the first damage. `base` and `entries` are those after the last.
    pub(super) before_damage: Option<(Position, VecDeque<LogEntry>)>,
}

impl Scanned {
    /// The last position.
    pub(super) fn last(&self) -> Position {
        let entry = self.entries.back();
        entry.map_or(self.base, |entry| Position { index: entry.index, term: entry.term })
    }
}

/// The checksum of frames begins with their segment and whose log it is.
pub(super) fn seed(incarnation: &str, number: u64) -> Seed {
    let seed = crc32c::crc32c(incarnation.as_bytes());
    Seed(crc32c::crc32c_append(seed, &number.to_le_bytes()))
}

/// The file of a segment.
pub(super) fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:016x}.seg"))
}

/// The beginning of a segment file.
pub(super) fn segment_head(incarnation: &str, number: u64, first_sequence: u64) -> Vec<u8> {
    let mut head = MAGIC.to_vec();
    head.extend_from_slice(&number.to_le_bytes());
    head.extend_from_slice(&first_sequence.to_le_bytes());
    let crc = crc32c::crc32c_append(seed(incarnation, number).0, &head);
    head.extend_from_slice(&u64::from(crc).to_le_bytes());
    head
}

/// Segment numbers in `dir`, in order.
pub(super) fn numbers(dir: &Path) -> Result<Vec<u64>, WalError> {
    let mut numbers = Vec::new();
    for entry in std::fs::read_dir(dir).named(dir, "read")? {
        let name = entry.named(dir, "read")?.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".seg"));
        numbers.extend(number.and_then(|hex| u64::from_str_radix(hex, 16).ok()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// Reads all segments. `acked`: the sequence the mark says was acknowledged.
pub(super) fn scan(dir: &Path, incarnation: &str, acked: u64) -> Result<Scanned, WalError> {
    let mut scan = Scan { out: Scanned::default(), first: true, suspect: None, acked };
    let numbers = numbers(dir)?;
    for (at, number) in numbers.iter().enumerate() {
        let path = segment_path(dir, *number);
        let bytes = std::fs::read(&path).named(&path, "read")?;
        let gap = at > 0 && numbers.get(at - 1).is_some_and(|before| before + 1 != *number);
        if gap {
            scan.suspect(format!("the segment before {}", path.display()));
        }
        scan.segment(&path, &bytes, incarnation, *number, at + 1 == numbers.len());
    }
    scan.finish(dir);
    Ok(scan.out)
}

struct Scan {
    out: Scanned,
    /// No frame was read yet.
    first: bool,
    /// An unreadable place with nothing readable after it so far.
    suspect: Option<String>,
    acked: u64,
}

impl Scan {
    fn segment(&mut self, path: &Path, bytes: &[u8], incarnation: &str, number: u64, last: bool) {
        let name = path.display();
        let head = bytes.get(..SEGMENT_HEAD_BYTES).unwrap_or_default();
        let first = frame::claimed_sequence(head.get(8..).unwrap_or_default()).unwrap_or_default();
        if head != segment_head(incarnation, number, first) {
            // A segment that was being made, or put to use again, when the machine stopped.
            self.suspect(format!("the head of {name}"));
            if last && self.find(bytes, SEGMENT_HEAD_BYTES, seed(incarnation, number)).is_none() {
                return;
            }
        } else if first == self.out.sequence + 1 {
            // Nothing is missing: what is behind the last frame was there before the segment was
            // used again.
            self.suspect = None;
        } else if !self.first {
            self.suspect(format!("the end of the segment before {name}"));
        }
        self.out.segments.push(Segment { number, last_index: self.out.last().index });
        self.frames(path, bytes, seed(incarnation, number));
        if let Some(segment) = self.out.segments.last_mut() {
            segment.last_index = self.out.highest;
        }
    }

    fn frames(&mut self, path: &Path, bytes: &[u8], seed: Seed) {
        let mut at = SEGMENT_HEAD_BYTES;
        self.out.end = at;
        loop {
            let rest = bytes.get(at..).unwrap_or_default();
            match frame::decode(rest, seed) {
                At::Frame(frame, length) => {
                    self.take(*frame, path, at);
                    at += length;
                    self.out.end = at;
                }
                // Zeros after a frame end a segment, unless a frame is found behind them.
                At::Nothing | At::Unreadable => {
                    let unreadable = matches!(frame::decode(rest, seed), At::Unreadable);
                    let next = self.find(bytes, at + 8, seed);
                    if unreadable || next.is_some() {
                        let name = path.display();
                        self.suspect(format!("a frame of {name} at byte {at}"));
                    }
                    match next {
                        Some(next) => at = next,
                        None => return,
                    }
                }
            }
        }
    }

    /// The next place with a readable, later frame.
    fn find(&self, bytes: &[u8], from: usize, seed: Seed) -> Option<usize> {
        let plausible = self.out.sequence + 1..self.out.sequence + SEQUENCE_JUMP_MAX;
        (from..bytes.len()).step_by(8).find(|at| {
            let rest = bytes.get(*at..).unwrap_or_default();
            frame::claimed_sequence(rest).is_some_and(|s| plausible.contains(&s))
                && matches!(frame::decode(rest, seed), At::Frame(..))
        })
    }

    fn take(&mut self, frame: Frame, path: &Path, at: usize) {
        let place = || format!("a frame of {} before byte {at}", path.display());
        if !self.first && frame.sequence != self.out.sequence + 1 {
            self.suspect(place());
        }
        if let Some(what) = self.suspect.take() {
            self.damage(what);
        }
        if self.first {
            self.out.base = frame.previous;
        }
        if let Some(reset) = frame.reset {
            self.out.entries.clear();
            self.out.base = reset;
        }
        while self.out.entries.back().is_some_and(|entry| entry.index > frame.previous.index) {
            self.out.entries.pop_back();
        }
        if self.out.last() != frame.previous {
            self.damage(place());
            self.out.base = frame.previous;
        }
        self.first = false;
        self.out.entries.extend(frame.entries);
        self.out.highest = self.out.highest.max(self.out.last().index);
        self.out.hard_state = frame.hard_state;
        self.out.sequence = frame.sequence;
        self.out.frames += 1;
        self.acked = self.acked.max(frame.durable);
    }

    fn suspect(&mut self, what: String) {
        self.suspect.get_or_insert(what);
    }

    /// What was read before cannot be joined to what comes: a frame in between may have replaced
    /// any of it.
    fn damage(&mut self, what: String) {
        let entries = std::mem::take(&mut self.out.entries);
        if self.out.before_damage.is_none() {
            self.out.before_damage = Some((self.out.base, entries));
        }
        self.out.damage.push(what);
        self.first = true;
    }

    fn finish(&mut self, dir: &Path) {
        let suspect = self.suspect.take();
        if self.acked > self.out.sequence {
            let frames = self.acked - self.out.sequence;
            let what = suspect.unwrap_or_else(|| format!("the end of {}", dir.display()));
            self.damage(format!("{what} ({frames} acknowledged frames are missing)"));
            self.out.tail_lost = true;
        } else {
            self.out.torn = suspect;
        }
    }
}
