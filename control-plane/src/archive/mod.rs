//! An archive of a cluster: backups of all tables, and between them the log, so that any revision
//! since the oldest backup can be had again.
//!
//! A directory: `tables-INDEX/` are backups as `rescue::backup` makes them, `log-FIRST-LAST.log`
//! the entries after FIRST - 1 up to LAST. Every file is written beside, synced and renamed: what
//! has its name is whole. [`ship`] writes it beside a running node, [`restore`] reads it.

pub mod fetch;
mod place;
pub mod restore;
pub mod ship;
pub mod store;
mod target;

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use control_core::replica::LogEntry;

const MAGIC: &[u8; 8] = b"VXMSHP01";
/// No entry is longer: a length beyond is damage.
const ENTRY_BYTES_MAX: u32 = 16 * 1024 * 1024;

pub use target::Target;

/// A part of the log.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Segment {
    /// Its first entry.
    pub first: u64,
    /// Its last one.
    pub last: u64,
    /// Where.
    pub path: PathBuf,
}

/// What an archive holds, in order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Contents {
    /// Log index and place of each backup.
    pub tables: Vec<(u64, PathBuf)>,
    /// The log.
    pub segments: Vec<Segment>,
}

impl Contents {
    /// Of this directory.
    pub fn of(dir: &Path) -> Result<Self> {
        let mut contents = Self::default();
        for entry in fs::read_dir(dir).with_context(|| dir.display().to_string())? {
            let path = entry?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned());
            contents.note(&name.unwrap_or_default(), path);
        }
        Ok(contents.sorted())
    }

    /// What a directory or an object of this name is.
    fn note(&mut self, name: &str, path: PathBuf) {
        let index = |text: &str| u64::from_str_radix(text, 16).ok();
        if let Some(index) = name.strip_prefix("tables-").and_then(index) {
            self.tables.push((index, path));
        } else if let Some((first, last)) = segment(name) {
            self.segments.push(Segment { first, last, path });
        }
    }

    fn sorted(mut self) -> Self {
        self.tables.sort();
        self.segments.sort();
        self
    }

    /// Where the log ends that begins behind this index without a gap.
    pub fn reaches(&self, index: u64) -> u64 {
        self.segments.iter().fold(index, |end, segment| {
            if segment.first <= end + 1 { end.max(segment.last) } else { end }
        })
    }
}

fn segment(name: &str) -> Option<(u64, u64)> {
    let (first, last) = name.strip_prefix("log-")?.strip_suffix(".log")?.split_once('-')?;
    Some((u64::from_str_radix(first, 16).ok()?, u64::from_str_radix(last, 16).ok()?))
}

/// Name of the backup of this index.
fn tables_name(index: u64) -> String {
    format!("tables-{index:016x}")
}

/// Entries that follow each other, as a file: its name and content.
fn encode(entries: &[LogEntry]) -> Result<Option<(Segment, Vec<u8>)>> {
    let (Some(first), Some(last)) = (entries.first(), entries.last()) else { return Ok(None) };
    let (first, last) = (first.index, last.index);
    let path = PathBuf::from(format!("log-{first:016x}-{last:016x}.log"));
    let mut text = MAGIC.to_vec();
    for entry in entries {
        let length = u32::try_from(entry.bytes.len()).context("an entry is too long")?;
        let mut head = Vec::from(entry.index.to_le_bytes());
        head.extend_from_slice(&entry.term.to_le_bytes());
        head.extend_from_slice(&length.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head), &entry.bytes);
        text.extend_from_slice(&head);
        text.extend_from_slice(&crc.to_le_bytes());
        text.extend_from_slice(&entry.bytes);
    }
    Ok(Some((Segment { first, last, path }, text)))
}

/// Writes entries that follow each other: the new segment.
fn write_segment(dir: &Path, entries: &[LogEntry]) -> Result<Option<Segment>> {
    let Some((segment, text)) = encode(entries)? else { return Ok(None) };
    let path = dir.join(&segment.path);
    let beside = path.with_extension("new");
    let write = || {
        // Commands hold the passwords of trunks.
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = options.open(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, &path)?;
        File::open(dir)?.sync_all()
    };
    write().with_context(|| path.display().to_string())?;
    Ok(Some(Segment { path, ..segment }))
}

/// The entries of a segment, one by one, every byte checked. What is damaged ends it with an error;
/// what comes before is good.
struct Entries<'a> {
    segment: &'a Segment,
    bytes: Bytes,
    /// The entry that comes.
    next: u64,
    ended: bool,
}

impl<'a> Entries<'a> {
    fn of(segment: &'a Segment) -> Result<Self> {
        let said = || segment.path.display().to_string();
        let mut bytes = Vec::new();
        File::open(&segment.path).and_then(|mut f| f.read_to_end(&mut bytes)).with_context(said)?;
        let Some(rest) = bytes.strip_prefix(MAGIC.as_slice()) else {
            bail!("{} is damaged: it does not begin as a part of the log does", said());
        };
        let begins = bytes.len() - rest.len();
        let bytes = Bytes::from(bytes).slice(begins..);
        Ok(Self { segment, bytes, next: segment.first, ended: false })
    }

    fn entry(&mut self) -> Option<LogEntry> {
        let (entry, length) = parse(&self.bytes)?;
        let fits = entry.index == self.next && entry.index <= self.segment.last;
        let rest = fits.then(|| self.bytes.slice(length..))?;
        self.bytes = rest;
        self.next += 1;
        Some(entry)
    }
}

impl Iterator for Entries<'_> {
    type Item = Result<LogEntry>;

    fn next(&mut self) -> Option<Self::Item> {
        let over = self.bytes.is_empty() && self.next == self.segment.last.saturating_add(1);
        if self.ended || over {
            return None;
        }
        let entry = self.entry();
        self.ended = entry.is_none();
        let (path, next) = (self.segment.path.display(), self.next);
        Some(entry.with_context(|| format!("{path} is damaged at log index {next}")))
    }
}

/// The first entry and its length.
fn parse(bytes: &Bytes) -> Option<(LogEntry, usize)> {
    let (head, tail) = bytes.split_at_checked(20)?;
    let (crc, tail) = tail.split_first_chunk::<4>()?;
    let index = u64::from_le_bytes(*head.first_chunk::<8>()?);
    let term = u64::from_le_bytes(*head.get(8..)?.first_chunk::<8>()?);
    let length = u32::from_le_bytes(*head.last_chunk::<4>()?);
    let length = usize::try_from(length).ok().filter(|_| length <= ENTRY_BYTES_MAX)?;
    let (data, _) = tail.split_at_checked(length)?;
    if crc32c::crc32c_append(crc32c::crc32c(head), data).to_le_bytes() != *crc {
        return None;
    }
    let data = bytes.slice_ref(data);
    Some((LogEntry { index, term, bytes: data }, 24 + length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_or_cut_goes_unnoticed() {
        let dir = tempfile::tempdir().unwrap();
        let entry =
            |index| LogEntry { index, term: 2, bytes: Bytes::from(format!("entry {index}")) };
        let entries: Vec<_> = (7..10).map(entry).collect();
        let segment = write_segment(dir.path(), &entries).unwrap().unwrap();
        let read = |segment| Entries::of(segment)?.collect::<Result<Vec<_>>>();
        assert_eq!(read(&segment).unwrap(), entries);
        let contents = Contents::of(dir.path()).unwrap();
        assert_eq!(contents.segments.first(), Some(&segment));
        assert_eq!((contents.reaches(6), contents.reaches(8), contents.reaches(5)), (9, 9, 5));
        let written = fs::read(&segment.path).unwrap();
        for bit in 0..written.len() * 8 {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            fs::write(&segment.path, &damaged).unwrap();
            assert!(read(&segment).is_err(), "bit {bit}");
        }
        for length in 0..written.len() {
            fs::write(&segment.path, &written[..length]).unwrap();
            assert!(read(&segment).is_err(), "cut at {length}");
        }
    }
}
