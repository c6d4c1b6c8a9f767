//! What an operator does with data directories: verify, back up, restore, and recover a cluster
//! that lost its majority for good.
//!
//! Works on files only; nothing here talks to a node. A backup may be made beside a running node:
//! table files never change; `crate::archive` keeps many and the log between them. Everything that writes builds a directory beside and renames it; what
//! was there before is kept.

mod recover;

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use control_core::replica::{Examined, HardState, Position, Restored, examine};
use control_core::state::State;
use proto::id::NodeId;
use serde::{Deserialize, Serialize};

pub use recover::{Plan, Uncertain, apply_plan, end_of, plan, save_plan};

use crate::wal::Owner;
use crate::wal::offline::{self, Inspected};

/// A restored cluster's revisions begin so far behind the old ones: no watcher of the old cluster
/// can go on in the new one by chance.
const REVISIONS_APART: u64 = 1_000_000_000;
/// The layout of a backup and of a plan.
const FORMAT: u32 = 1;
pub(crate) const MANIFEST: &str = "manifest.json";

/// What a directory holds, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Name of the mesh.
    pub mesh: String,
    /// The node.
    pub node: u64,
    /// Name of the directory.
    pub incarnation: String,
    /// Name of the cluster.
    pub cluster_id: String,
    /// Who votes.
    pub voters: Vec<u64>,
    /// Of the tables.
    pub revision: u64,
    /// Log index the tables are right for.
    pub applied: u64,
    /// Known committed.
    pub commit: u64,
    /// Raft term.
    pub term: u64,
    /// End of the log.
    pub last_index: u64,
    /// Term of that entry.
    pub last_term: u64,
    /// Rows of all tables.
    pub rows: usize,
    /// Entries in the log.
    pub entries: usize,
    /// Segments of the log.
    pub segments: usize,
    /// Frames in them.
    pub frames: u64,
    /// Hash of the tables.
    pub hash: String,
    /// A last write that never ended: harmless.
    pub torn: Option<String>,
    /// The node lost what it acknowledged and waits for it.
    pub repairing: bool,
}

/// Reads every record of a data directory; any damage is an error.
pub fn verify(dir: &Path) -> Result<Report> {
    let (inspected, examined) = read(dir)?;
    Ok(report(&inspected, &examined))
}

fn read(dir: &Path) -> Result<(Inspected, Examined)> {
    let inspected = offline::inspect(dir)?;
    let examined = examine(&inspected.restored).with_context(|| dir.display().to_string())?;
    Ok((inspected, examined))
}

fn report(inspected: &Inspected, examined: &Examined) -> Report {
    let Restored { hard_state, entries, tables, applied, .. } = &inspected.restored;
    Report {
        mesh: inspected.owner.mesh.clone(),
        node: inspected.owner.node.0,
        incarnation: inspected.incarnation.clone(),
        cluster_id: examined.state.cluster_id(),
        voters: examined.state.voters(),
        revision: examined.state.revision().0,
        applied: *applied,
        commit: hard_state.commit,
        term: hard_state.term,
        last_index: examined.last.index,
        last_term: examined.last.term,
        rows: tables.len(),
        entries: entries.len(),
        segments: inspected.segments,
        frames: inspected.frames,
        hash: hex(&examined.state.hash()),
        torn: inspected.torn.clone(),
        repairing: inspected.repair.is_some(),
    }
}

/// What a backup is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of backups.
    pub format: u32,
    /// Whose.
    pub cluster_id: String,
    /// Who voted.
    pub voters: Vec<u64>,
    /// Of the tables.
    pub revision: u64,
    /// Log index they are right for.
    pub applied: u64,
    /// Log time of that.
    pub log_time_ms: u64,
    /// Rows.
    pub rows: usize,
    /// Hash of the tables.
    pub hash: String,
}

/// Copies the tables of a data directory, also of a running node, into the new directory `to`.
pub fn backup(dir: &Path, to: &Path) -> Result<Manifest> {
    let beside = begin(to)?;
    offline::copy_tables(dir, &beside)?;
    seal(&beside, to)
}

/// A new directory for what becomes the backup `to`; readable by its owner only, for it holds the
/// passwords of trunks.
pub fn begin(to: &Path) -> Result<PathBuf> {
    ensure!(!to.exists(), "{} is there already: name a new directory", to.display());
    let beside = beside(to);
    ensure!(
        !beside.exists(),
        "{} is there: a backup under way, or one that was interrupted; remove it first",
        beside.display()
    );
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&beside);
    made.with_context(|| beside.display().to_string())?;
    Ok(beside)
}

/// Where what becomes `to` is made.
pub fn beside(to: &Path) -> PathBuf {
    let mut name = to.as_os_str().to_owned();
    name.push(".partial");
    PathBuf::from(name)
}

/// Reads the file of tables in `beside`, writes down what it is, and gives it its name.
pub fn seal(beside: &Path, to: &Path) -> Result<Manifest> {
    let manifest = describe_copy(beside)?;
    write_json(&beside.join(MANIFEST), &manifest)?;
    rename(beside, to)?;
    Ok(manifest)
}

/// What the file of tables in this directory is.
pub fn describe_copy(dir: &Path) -> Result<Manifest> {
    let (applied, rows) = offline::read_copy(dir)?;
    let count = rows.len();
    let state = State::from_tables(rows)?;
    Ok(describe(&state, applied, count))
}

fn describe(state: &State, applied: Position, rows: usize) -> Manifest {
    Manifest {
        format: FORMAT,
        cluster_id: state.cluster_id(),
        voters: state.voters(),
        revision: state.revision().0,
        applied: applied.index,
        log_time_ms: state.log_time_ms(),
        rows,
        hash: hex(&state.hash()),
    }
}

/// What a backup says that it is.
pub fn manifest(backup: &Path) -> Result<Manifest> {
    let manifest: Manifest = read_json(&backup.join(MANIFEST))?;
    ensure!(manifest.format == FORMAT, "the backup has format {}", manifest.format);
    Ok(manifest)
}

/// The tables of a backup, every byte checked, and where they stand.
pub fn load(backup: &Path, manifest: &Manifest) -> Result<(State, Position)> {
    let (applied, rows) = offline::read_copy(backup)?;
    let state = State::from_tables(rows)?;
    let same = hex(&state.hash()) == manifest.hash && applied.index == manifest.applied;
    ensure!(same, "the tables in {} are not those of its manifest", backup.display());
    Ok((state, applied))
}

/// Makes `dir` the data directory of a node of a new cluster that begins with a backup, or with
/// the tables an archive has of `revision`. Restore the same on all voters before any is started.
pub fn restore(
    from: &Path,
    dir: &Path,
    owner: &Owner,
    voters: &[u64],
    revision: Option<u64>,
) -> Result<Manifest> {
    ensure!(!dir.exists(), "{} is there already: move it aside", dir.display());
    let (mut state, at) = if from.join(MANIFEST).exists() {
        let manifest = manifest(from)?;
        let fits = revision.is_none_or(|revision| revision == manifest.revision);
        let is = manifest.revision;
        ensure!(fits, "{} is of revision {is}: name the archive it is in", from.display());
        load(from, &manifest)?
    } else {
        let found = crate::archive::restore::find(from, revision)?;
        (found.state, found.at)
    };
    let manifest = describe(&state, at, state.entries().count());
    let voters = if voters.is_empty() { manifest.voters.clone() } else { sorted(voters) };
    ensure!(voters.contains(&owner.node.0), "node {} is not among the voters", owner.node);
    let cluster = format!("{}-r{}", manifest.cluster_id, manifest.revision);
    state.found_anew(&voters, &cluster, REVISIONS_APART);
    let restored = Restored {
        hard_state: HardState { term: at.term, vote: 0, commit: at.index },
        base: at,
        entries: Vec::new(),
        tables: rows_of(&state),
        applied: at.index,
    };
    build(dir, owner, &new_name(&cluster, owner.node), &restored)?;
    Ok(manifest)
}

fn build(dir: &Path, owner: &Owner, incarnation: &str, restored: &Restored) -> Result<()> {
    let beside = dir.with_extension("partial");
    ensure!(!beside.exists(), "{} is there already: remove it", beside.display());
    offline::write_new(&made(&beside)?, owner, incarnation, restored)?;
    rename(&beside, dir)
}

fn made(dir: &Path) -> Result<PathBuf> {
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
    made.with_context(|| dir.display().to_string())?;
    Ok(dir.to_owned())
}

fn rename(from: &Path, to: &Path) -> Result<()> {
    fs::rename(from, to).with_context(|| format!("{} → {}", from.display(), to.display()))?;
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all().with_context(|| parent.display().to_string())
}

fn free_name(dir: &Path, what: &str) -> PathBuf {
    let name = dir.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let names = (1u32..).map(|n| dir.with_file_name(format!("{name}.{what}-{n}")));
    // One of so many is free.
    names.into_iter().find(|path| !path.exists()).unwrap_or_else(|| dir.with_extension(what))
}

/// The same on no other directory: the cluster is new, and a node has one directory in it.
fn new_name(cluster: &str, node: NodeId) -> String {
    format!("{cluster}-{node}")
}

fn rows_of(state: &State) -> Vec<(Vec<u8>, Bytes)> {
    state.entries().map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value))).collect()
}

fn sorted(voters: &[u64]) -> Vec<u64> {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    voters.dedup();
    voters
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text = serde_json::to_vec_pretty(value)?;
    fs::write(path, text).with_context(|| path.display().to_string())?;
    fs::File::open(path)?.sync_all().with_context(|| path.display().to_string())
}

fn read_json<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<T> {
    let text = fs::read(path).with_context(|| path.display().to_string())?;
    serde_json::from_slice(&text).with_context(|| format!("{} cannot be read", path.display()))
}

#[cfg(test)]
mod tests;
