//! The tables on disk: sorted runs of rows, each the changes between two applied indices.
//!
//! The oldest run holds everything (from index 0), the next what changed after it, and so on. The
//! state in memory is the truth; runs are written behind it and merged when the newer ones have
//! grown to half of the older one, so that every row is written a few times only. A run is
//! complete or absent: written beside, synced, renamed. Row: lengths of key and value (u32; a
//! deleted key has no value), CRC-32C of both and the bytes, key, value. At the end: their number
//! and a checksum over all checksums.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use control_core::replica::Position;

use super::error::{Named as _, WalError, damaged};
use super::files;

const MAGIC: &[u8; 8] = b"VXMRUN02";
const HEAD_BYTES: usize = 36;
/// Stands for the length of a value that is not there.
const DELETED: u32 = u32::MAX;
/// Stands for the length of a key after the last row.
const END: u32 = u32::MAX;
/// No key or value is longer: a length beyond is damage.
const FIELD_BYTES_MAX: u32 = 64 * 1024 * 1024;
/// Written to the disk in pieces, so that the log's syncs get between.
const SYNC_EVERY: u64 = 4 * 1024 * 1024;

/// Key, and value unless deleted.
pub(crate) type Row = (Vec<u8>, Option<Bytes>);

/// A run file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) path: PathBuf,
    /// It holds what changed after this index; 0: everything.
    pub(crate) from: u64,
    pub(crate) applied: u64,
    pub(crate) bytes: u64,
}

/// Where runs are.
pub(crate) fn state_dir(dir: &Path) -> PathBuf {
    dir.join("state")
}

/// Runs that follow each other from everything to the newest, and files nothing needs.
pub(crate) fn list(dir: &Path) -> Result<(Vec<Run>, Vec<PathBuf>), WalError> {
    let mut all = Vec::new();
    let mut rest = Vec::new();
    for entry in fs::read_dir(dir).named(dir, "read")? {
        let path = entry.named(dir, "read")?.path();
        let parsed = path.file_name().and_then(|n| n.to_str()).and_then(parse_name);
        let bytes = path.metadata().named(&path, "read")?.len();
        match parsed {
            Some((applied, from)) => all.push(Run { path, from, applied, bytes }),
            None => rest.push(path),
        }
    }
    let mut chain: Vec<Run> = Vec::new();
    let mut at = 0;
    // Each step goes forward: as many steps as runs at most.
    while let Some(next) =
        all.iter().filter(|r| r.from == at && r.applied > at).max_by_key(|r| r.applied)
    {
        at = next.applied;
        chain.push(next.clone());
    }
    rest.extend(all.into_iter().filter(|run| !chain.contains(run)).map(|run| run.path));
    Ok((chain, rest))
}

fn parse_name(name: &str) -> Option<(u64, u64)> {
    let (applied, from) = name.strip_suffix(".run")?.split_once('-')?;
    Some((u64::from_str_radix(applied, 16).ok()?, u64::from_str_radix(from, 16).ok()?))
}

/// Writes one run.
pub(crate) struct Writer {
    out: BufWriter<File>,
    beside: PathBuf,
    run: Run,
    rows: u64,
    crc: u32,
    unsynced: u64,
}

impl Writer {
    pub(crate) fn create(dir: &Path, from: u64, applied: Position) -> Result<Self, WalError> {
        let path = dir.join(format!("{:016x}-{from:016x}.run", applied.index));
        let beside = path.with_extension("new");
        let file = File::create(&beside).named(&beside, "made")?;
        let mut head = MAGIC.to_vec();
        for number in [from, applied.index, applied.term] {
            head.extend_from_slice(&number.to_le_bytes());
        }
        let crc = crc32c::crc32c(&head);
        head.extend_from_slice(&crc.to_le_bytes());
        let mut out = BufWriter::with_capacity(256 * 1024, file);
        out.write_all(&head).named(&beside, "written")?;
        let run = Run { path, from, applied: applied.index, bytes: HEAD_BYTES as u64 };
        Ok(Self { out, beside, run, rows: 0, crc, unsynced: 0 })
    }

    /// The next row in key order.
    pub(crate) fn row(&mut self, key: &[u8], value: Option<&[u8]>) -> Result<(), WalError> {
        let lengths = [field_length(key), value.map_or(DELETED, field_length)];
        let crc = row_crc(lengths, key, value.unwrap_or_default());
        let [k, v] = lengths.map(u32::to_le_bytes);
        let head = [k, v, crc.to_le_bytes()].concat();
        let mut write = || {
            self.out.write_all(&head)?;
            self.out.write_all(key)?;
            self.out.write_all(value.unwrap_or_default())
        };
        write().named(&self.beside, "written")?;
        self.rows += 1;
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        let bytes = (head.len() + key.len() + value.map_or(0, <[u8]>::len)) as u64;
        self.run.bytes += bytes;
        self.unsynced += bytes;
        if self.unsynced >= SYNC_EVERY {
            self.unsynced = 0;
            let synced = self.out.flush().and_then(|()| self.out.get_ref().sync_data());
            synced.named(&self.beside, "synced")?;
        }
        Ok(())
    }

    /// Complete and durable.
    pub(crate) fn finish(mut self) -> Result<Run, WalError> {
        let end = [
            END.to_le_bytes().as_slice(),
            self.rows.to_le_bytes().as_slice(),
            self.crc.to_le_bytes().as_slice(),
        ]
        .concat();
        let mut finish = || {
            self.out.write_all(&end)?;
            self.out.flush()?;
            self.out.get_ref().sync_all()?;
            fs::rename(&self.beside, &self.run.path)?;
            self.run.path.parent().map_or(Ok(()), files::sync_dir)
        };
        finish().named(&self.beside, "synced")?;
        self.run.bytes += end.len() as u64;
        Ok(self.run)
    }
}

fn field_length(bytes: &[u8]) -> u32 {
    // Commands, and so records, are far below.
    u32::try_from(bytes.len()).unwrap_or(FIELD_BYTES_MAX)
}

fn row_crc(lengths: [u32; 2], key: &[u8], value: &[u8]) -> u32 {
    let lengths = lengths.map(u32::to_le_bytes).concat();
    crc32c::crc32c_append(crc32c::crc32c_append(crc32c::crc32c(&lengths), key), value)
}

/// Reads one run and checks every byte of it.
pub(crate) struct Reader {
    input: BufReader<File>,
    path: PathBuf,
    applied: Position,
    rows: u64,
    crc: u32,
    last: Option<Vec<u8>>,
    ended: bool,
}

impl Reader {
    /// Opens the file; it may be removed while it is read.
    pub(crate) fn open(run: &Run) -> Result<Self, WalError> {
        let path = run.path.clone();
        let file = File::open(&path).named(&path, "opened")?;
        let mut input = BufReader::with_capacity(256 * 1024, file);
        let mut head = [0; HEAD_BYTES];
        let read = input.read_exact(&mut head);
        let (body, crc) = head.split_at(HEAD_BYTES - 4);
        let computed = crc32c::crc32c(body);
        let (magic, numbers) = body.split_at(MAGIC.len());
        let (numbers, _) = numbers.as_chunks::<8>();
        let numbers: Vec<u64> = numbers.iter().map(|n| u64::from_le_bytes(*n)).collect();
        let expected = [run.from, run.applied];
        if read.is_err()
            || crc != computed.to_le_bytes()
            || magic != MAGIC
            || !numbers.starts_with(&expected)
        {
            return Err(damaged(&path, "the head"));
        }
        let term = numbers.get(2).copied().unwrap_or_default();
        let applied = Position { index: run.applied, term };
        Ok(Self { input, path, applied, rows: 0, crc: computed, last: None, ended: false })
    }

    /// The tables with this run are those after this position.
    pub(crate) fn applied(&self) -> Position {
        self.applied
    }

    fn next_row(&mut self) -> Result<Option<Row>, WalError> {
        let row = self.read_row().map_err(|error| match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                damaged(&self.path, format!("row {}", self.rows + 1))
            }
            _ => WalError::Io { file: self.path.clone(), action: "read", source: error },
        })?;
        self.ended = row.is_none();
        Ok(row)
    }

    fn read_row(&mut self) -> io::Result<Option<Row>> {
        let bad = || io::Error::from(io::ErrorKind::InvalidData);
        let key_length = self.u32()?;
        if key_length == END {
            let mut rows = [0; 8];
            self.input.read_exact(&mut rows)?;
            let same = u64::from_le_bytes(rows) == self.rows && self.u32()? == self.crc;
            let more = self.input.read(&mut [0])?;
            return if same && more == 0 { Ok(None) } else { Err(bad()) };
        }
        let (value_length, crc) = (self.u32()?, self.u32()?);
        let key = self.field(key_length)?;
        let value = if value_length == DELETED { None } else { Some(self.field(value_length)?) };
        let lengths = [key_length, value_length];
        let in_order = self.last.as_ref().is_none_or(|last| *last < key);
        if row_crc(lengths, &key, value.as_deref().unwrap_or_default()) != crc || !in_order {
            return Err(bad());
        }
        self.rows += 1;
        self.crc = crc32c::crc32c_append(self.crc, &crc.to_le_bytes());
        self.last = Some(key.clone());
        Ok(Some((key, value.map(Bytes::from))))
    }

    fn u32(&mut self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.input.read_exact(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn field(&mut self, length: u32) -> io::Result<Vec<u8>> {
        if length > FIELD_BYTES_MAX {
            return Err(io::ErrorKind::InvalidData.into());
        }
        // Grows as it is read: a damaged length costs no memory.
        let mut bytes = Vec::with_capacity(usize::try_from(length.min(4096)).unwrap_or_default());
        let read = (&mut self.input).take(u64::from(length)).read_to_end(&mut bytes)?;
        if read as u64 == u64::from(length) {
            Ok(bytes)
        } else {
            Err(io::ErrorKind::UnexpectedEof.into())
        }
    }
}

/// The rows of several runs by key; of the same key the newest.
pub(crate) struct Merge {
    /// Newest first, with the row that is next.
    sources: Vec<(Reader, Option<Row>)>,
    failed: bool,
    keep_deleted: bool,
}

impl Merge {
    /// Of runs, oldest first. Deletions are only of use beside older runs.
    pub(crate) fn of(runs: &[Run], keep_deleted: bool) -> Result<Self, WalError> {
        let mut sources = Vec::new();
        for run in runs.iter().rev() {
            let mut reader = Reader::open(run)?;
            let first = reader.next_row()?;
            sources.push((reader, first));
        }
        Ok(Self { sources, failed: false, keep_deleted })
    }

    /// The position the merged tables belong to.
    pub(crate) fn applied(&self) -> Position {
        self.sources.first().map(|(reader, _)| reader.applied()).unwrap_or_default()
    }

    fn step(&mut self) -> Result<Option<Row>, WalError> {
        let least = self.sources.iter().filter_map(|(_, row)| Some(&row.as_ref()?.0)).min();
        let Some(key) = least.cloned() else { return Ok(None) };
        let mut newest = None;
        for (reader, row) in &mut self.sources {
            if row.as_ref().is_some_and(|(k, _)| *k == key) {
                let taken = row.take();
                *row = reader.next_row()?;
                newest = newest.or(taken);
            }
        }
        Ok(newest)
    }
}

impl Iterator for Merge {
    type Item = Result<Row, WalError>;

    fn next(&mut self) -> Option<Self::Item> {
        while !self.failed {
            match self.step() {
                Ok(Some((_, None))) if !self.keep_deleted => {}
                Ok(row) => return row.map(Ok),
                Err(error) => {
                    self.failed = true;
                    return Some(Err(error));
                }
            }
        }
        None
    }
}

/// Which of the newest runs to make one of, by their sizes, oldest first; `None`: leave them.
pub(crate) fn to_merge(bytes: &[u64]) -> Option<usize> {
    let mut newer = 0u64;
    let mut from = bytes.len();
    for size in bytes.iter().rev() {
        if from < bytes.len() && *size > newer.saturating_mul(2) {
            break;
        }
        newer = newer.saturating_add(*size);
        from -= 1;
    }
    (bytes.len() - from >= 2).then_some(from)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn write(dir: &Path, from: u64, applied: u64, rows: &BTreeMap<Vec<u8>, Option<Bytes>>) -> Run {
        let mut writer = Writer::create(dir, from, Position { index: applied, term: 3 }).unwrap();
        for (key, value) in rows {
            writer.row(key, value.as_deref()).unwrap();
        }
        writer.finish().unwrap()
    }

    fn rows() -> impl Strategy<Value = BTreeMap<Vec<u8>, Option<Bytes>>> {
        let key = prop::collection::vec(0u8..4, 0..4);
        let value =
            prop::option::of(prop::collection::vec(any::<u8>(), 0..8).prop_map(Bytes::from));
        prop::collection::btree_map(key, value, 0..20)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn merged_runs_are_what_a_map_would_hold(runs in prop::collection::vec(rows(), 1..5)) {
            let dir = tempfile::tempdir().unwrap();
            let mut expected = BTreeMap::new();
            for (n, rows) in runs.iter().enumerate() {
                write(dir.path(), n as u64, n as u64 + 1, rows);
                expected.extend(rows.clone());
            }
            expected.retain(|_, value| value.is_some());
            let (chain, rest) = list(dir.path()).unwrap();
            prop_assert_eq!((chain.len(), rest.len()), (runs.len(), 0));
            let merge = Merge::of(&chain, false).unwrap();
            prop_assert_eq!(merge.applied(), Position { index: runs.len() as u64, term: 3 });
            let merged: BTreeMap<_, _> = merge.map(Result::unwrap).collect();
            prop_assert_eq!(merged, expected);
        }
    }

    #[test]
    fn every_flipped_bit_and_every_cut_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let value = |text: &'static str| Some(Bytes::from_static(text.as_bytes()));
        let rows = BTreeMap::from([
            (b"a".to_vec(), value("1")),
            (b"b".to_vec(), None),
            (b"c".to_vec(), value("")),
        ]);
        let run = write(dir.path(), 0, 7, &rows);
        let written = fs::read(&run.path).unwrap();
        assert_eq!(run.bytes, written.len() as u64);
        let reads = |bytes: &[u8]| {
            fs::write(&run.path, bytes).unwrap();
            let merge = Merge::of(std::slice::from_ref(&run), true);
            merge.and_then(|merge| merge.collect::<Result<Vec<_>, _>>())
        };
        assert_eq!(reads(&written).unwrap().len(), 3);
        for bit in 0..written.len() * 8 {
            let mut damaged = written.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let error = reads(&damaged).unwrap_err();
            assert!(matches!(error, WalError::Damaged { .. }), "bit {bit}: {error}");
        }
        for length in 0..written.len() {
            assert!(reads(&written[..length]).is_err(), "cut at {length}");
        }
        assert!(reads(&[written.as_slice(), b"x"].concat()).is_err(), "more than was written");
    }

    #[test]
    fn the_chain_takes_the_merged_run_and_names_what_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let empty = BTreeMap::new();
        for (from, applied) in [(0, 10), (10, 12), (12, 15), (10, 15), (15, 20), (17, 30)] {
            write(dir.path(), from, applied, &empty);
        }
        let (chain, rest) = list(dir.path()).unwrap();
        let indices: Vec<u64> = chain.iter().map(|run| run.applied).collect();
        assert_eq!((indices, rest.len()), (vec![10, 15, 20], 3));
    }

    #[test]
    fn newer_runs_are_merged_when_they_weigh_half_of_the_older() {
        assert_eq!(to_merge(&[]), None);
        assert_eq!(to_merge(&[100]), None);
        assert_eq!(to_merge(&[100, 10]), None);
        assert_eq!(to_merge(&[100, 10, 5]), Some(1));
        assert_eq!(to_merge(&[100, 40, 10]), None);
        assert_eq!(to_merge(&[100, 40, 20]), Some(0));
        assert_eq!(to_merge(&[1000, 100, 40, 20]), Some(1));
    }
}
