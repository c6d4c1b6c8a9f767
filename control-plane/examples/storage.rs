//! What one durable write costs: redb for log and state, a bare append with `fdatasync`, and the
//! storage a control node uses.
//!
//! `cargo run --release -p control-plane --example storage [DIR [SECONDS]]`. One writer, no raft:
//! entries of 220 bytes, and for each entry two table rows and two counters, in batches of 1, 64
//! and 256 entries per sync. CPU is user + system time of the whole process, so work that other
//! threads do later counts too.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use control_core::replica::{HardState, LogEntry, Persist, Position};
use control_core::state::TableChange;
use control_plane::wal::{Options, Owner, Wal};
use proto::id::NodeId;
use redb::{Database, Durability, TableDefinition};

const LOG: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("log");
const STATE: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("state");
const BATCHES: [u64; 3] = [1, 64, 256];
/// As the replica does: compaction starts here,
const LOG_MAX: u64 = 100_000;
/// and leaves so many.
const LOG_KEPT: u64 = 50_000;

/// Something that makes a batch durable.
trait Storage {
    fn persist(&mut self, persist: &Persist) -> anyhow::Result<()>;
    /// All that was put off.
    fn finish(&mut self) -> anyhow::Result<()>;
}

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let dir = arguments.next().map_or_else(std::env::temp_dir, PathBuf::from);
    let seconds = arguments.next().map_or(Ok(3), |s| s.parse()).context("SECONDS is a number")?;
    let time = Duration::from_secs(seconds);
    let mut out = std::io::stdout().lock();
    writeln!(out, "| storage | batch | writes/s | sync p50 µs | p99 µs | CPU µs/write |")?;
    writeln!(out, "|---|---|---|---|---|---|")?;
    for batch in BATCHES {
        for name in ["redb", "redb, log only", "bare append", "own"] {
            let home = tempfile::tempdir_in(&dir)?;
            let mut storage: Box<dyn Storage> = match name {
                "redb" => Box::new(Redb::open(home.path(), true)?),
                "redb, log only" => Box::new(Redb::open(home.path(), false)?),
                "own" => Box::new(Own::open(home.path())?),
                _ => Box::new(Bare::open(home.path())?),
            };
            let measured = measure(storage.as_mut(), batch, time)?;
            let Measured { writes_per_s, p50_us, p99_us, cpu_us } = measured;
            writeln!(
                out,
                "| {name} | {batch} | {writes_per_s:.0} | {p50_us:.0} | {p99_us:.0} | {cpu_us:.1} |"
            )?;
        }
    }
    Ok(())
}

struct Measured {
    writes_per_s: f64,
    p50_us: f64,
    p99_us: f64,
    cpu_us: f64,
}

fn measure(storage: &mut dyn Storage, batch: u64, time: Duration) -> anyhow::Result<Measured> {
    let (mut next, mut syncs) = (2u64, Vec::new());
    let (cpu, began) = (cpu_seconds()?, Instant::now());
    while began.elapsed() < time {
        let persist = work(next, batch);
        next += batch;
        let at = Instant::now();
        storage.persist(&persist)?;
        syncs.push(at.elapsed());
    }
    let wall = began.elapsed().as_secs_f64();
    storage.finish()?;
    let cpu = cpu_seconds()? - cpu;
    let writes = (next - 2) as f64;
    syncs.sort_unstable();
    let at = |share: usize| {
        let index = (syncs.len() * share / 100).min(syncs.len().saturating_sub(1));
        syncs.get(index).map_or(0.0, |d| d.as_secs_f64() * 1e6)
    };
    let (p50_us, p99_us) = (at(50), at(99));
    Ok(Measured { writes_per_s: writes / wall, p50_us, p99_us, cpu_us: cpu * 1e6 / writes })
}

/// What a replica asks for: these entries, and the effects of those before them.
fn work(first: u64, batch: u64) -> Persist {
    let entries = (first..first + batch).map(|index| LogEntry {
        index,
        term: 1,
        bytes: Bytes::from(vec![(index % 251) as u8; 220]),
    });
    let applied = first - 1;
    let mut changes = Vec::new();
    for index in first.saturating_sub(batch).max(1)..first {
        // Numbers come in order, request ids do not.
        let scattered = index.wrapping_mul(0x9E37_79B9_7F4A_7C15);
        changes.push(put(format!("n+49301{index:07}").into_bytes(), vec![1; 120]));
        changes.push(put(format!("qoperator/anna {scattered:032x}").into_bytes(), vec![2; 90]));
    }
    changes.push(put(b"mrevision".to_vec(), applied.to_le_bytes().to_vec()));
    changes.push(put(b"mtime".to_vec(), first.to_le_bytes().to_vec()));
    changes.sort_by(|a, b| a.key.cmp(&b.key));
    Persist {
        number: first,
        snapshot: None,
        entries: entries.collect(),
        changes,
        hard_state: HardState { term: 1, vote: 1, commit: applied },
        applied,
        compact_to: None,
    }
}

fn put(key: Vec<u8>, value: Vec<u8>) -> TableChange {
    TableChange { key, value: Some(value.into()) }
}

/// User and system time of this process (proc(5): fields 14 and 15 of stat, in ticks of 10 ms).
fn cpu_seconds() -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let (_, fields) = stat.rsplit_once(')').context("stat has no name")?;
    let ticks = fields.split_ascii_whitespace().skip(11).take(2).map(str::parse::<f64>);
    Ok(ticks.sum::<Result<f64, _>>()? / 100.0)
}

/// Log and state in one transaction: what control nodes did before they had a log of their own.
struct Redb {
    database: Database,
    with_state: bool,
    base: u64,
}

impl Redb {
    fn open(dir: &Path, with_state: bool) -> anyhow::Result<Self> {
        let database =
            Database::builder().set_cache_size(8 * 1024 * 1024).create(dir.join("redb"))?;
        Ok(Self { database, with_state, base: 0 })
    }
}

impl Storage for Redb {
    fn persist(&mut self, persist: &Persist) -> anyhow::Result<()> {
        let mut txn = self.database.begin_write()?;
        txn.set_durability(Durability::Immediate)?;
        {
            let mut log = txn.open_table(LOG)?;
            for entry in &persist.entries {
                log.insert(entry.index, entry.bytes.as_ref())?;
            }
            let last = persist.entries.last().map_or(0, |entry| entry.index);
            if last - self.base > LOG_MAX {
                self.base = last - LOG_KEPT;
                log.retain_in(..=self.base, |_, _| false)?;
            }
        }
        if self.with_state {
            let mut state = txn.open_table(STATE)?;
            for change in &persist.changes {
                let value = change.value.as_deref().unwrap_or_default();
                state.insert(change.key.as_slice(), value)?;
            }
        }
        Ok(txn.commit()?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}

/// What a control node does.
struct Own(Wal);

impl Own {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let owner = Owner { mesh: "bench".into(), node: NodeId(1) };
        let mut wal = Wal::open(dir, &owner, "bench", Options::default(), &|_| Ok(()))?.wal;
        let mut first = work(1, 0);
        first.compact_to = Some(Position { index: 1, term: 1 });
        first.applied = 1;
        wal.persist(&first)?;
        Ok(Self(wal))
    }
}

impl Storage for Own {
    fn persist(&mut self, persist: &Persist) -> anyhow::Result<()> {
        let mut persist = persist.clone();
        let last = persist.entries.last().map_or(0, |entry| entry.index);
        let index = last.saturating_sub(LOG_KEPT);
        persist.compact_to = Some(Position { index, term: 1 });
        Ok(self.0.persist(&persist)?)
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(self.0.flush()?)
    }
}

/// The floor: one write and one fdatasync.
struct Bare {
    file: File,
    at: u64,
}

impl Bare {
    fn open(dir: &Path) -> anyhow::Result<Self> {
        let file = File::create(dir.join("bare"))?;
        // Written, not only reserved: the file system then has nothing to note at a sync.
        file.write_all_at(&vec![1; 64 * 1024 * 1024], 0)?;
        file.sync_all()?;
        Ok(Self { file, at: 0 })
    }
}

impl Storage for Bare {
    fn persist(&mut self, persist: &Persist) -> anyhow::Result<()> {
        let bytes: Vec<u8> = persist.entries.iter().flat_map(|e| e.bytes.to_vec()).collect();
        if self.at + bytes.len() as u64 > 64 * 1024 * 1024 {
            self.at = 0;
        }
        self.file.write_all_at(&bytes, self.at)?;
        self.file.sync_data()?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        Ok(())
    }
}
