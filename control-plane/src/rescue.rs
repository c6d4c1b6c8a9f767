//! What an operator does with data directories: verify, back up, restore, and recover a cluster
//! that lost its majority for good.
//!
//! Works on files only; nothing here talks to a node. A backup may be made beside a running node:
//! table files never change. Everything that writes builds a directory beside and renames it; what
//! was there before is kept.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use control_core::replica::{Examined, HardState, Position, Restored, examine};
use control_core::state::State;
use proto::id::NodeId;
use proto::raft::LogRecord;
use proto::raft::command::Kind;
use serde::{Deserialize, Serialize};

use crate::wal::Owner;
use crate::wal::offline::{self, Inspected};

/// A restored cluster's revisions begin so far behind the old ones: no watcher of the old cluster
/// can go on in the new one by chance.
const REVISIONS_APART: u64 = 1_000_000_000;
/// The layout of a backup and of a plan.
const FORMAT: u32 = 1;
const MANIFEST: &str = "manifest.json";

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
    ensure!(!to.exists(), "{} is there already: name a new directory", to.display());
    let beside = to.with_extension("partial");
    fs::create_dir_all(&beside).with_context(|| beside.display().to_string())?;
    offline::copy_tables(dir, &beside)?;
    let (applied, rows) = offline::read_copy(&beside)?;
    let count = rows.len();
    let state = State::from_tables(rows)?;
    let manifest = Manifest {
        format: FORMAT,
        cluster_id: state.cluster_id(),
        voters: state.voters(),
        revision: state.revision().0,
        applied: applied.index,
        log_time_ms: state.log_time_ms(),
        rows: count,
        hash: hex(&state.hash()),
    };
    write_json(&beside.join(MANIFEST), &manifest)?;
    rename(&beside, to)?;
    Ok(manifest)
}

/// Makes `dir` the data directory of a node of a new cluster that begins with a backup. Restore
/// the same backup on all voters before any is started.
pub fn restore(from: &Path, dir: &Path, owner: &Owner, voters: &[u64]) -> Result<Manifest> {
    let manifest: Manifest = read_json(&from.join(MANIFEST))?;
    ensure!(manifest.format == FORMAT, "the backup has format {}", manifest.format);
    ensure!(!dir.exists(), "{} is there already: move it aside", dir.display());
    let (applied, rows) = offline::read_copy(from)?;
    let mut state = State::from_tables(rows)?;
    let same = hex(&state.hash()) == manifest.hash && applied.index == manifest.applied;
    ensure!(same, "the tables in {} are not those of its manifest", from.display());
    let voters = if voters.is_empty() { manifest.voters.clone() } else { sorted(voters) };
    ensure!(voters.contains(&owner.node.0), "node {} is not among the voters", owner.node);
    let cluster = format!("{}-r{}", manifest.cluster_id, manifest.revision);
    state.found_anew(&voters, &cluster, REVISIONS_APART);
    let restored = Restored {
        hard_state: HardState { term: applied.term, vote: 0, commit: applied.index },
        base: applied,
        entries: Vec::new(),
        tables: rows_of(&state),
        applied: applied.index,
    };
    build(dir, owner, &new_name(&cluster, owner.node), &restored)?;
    Ok(manifest)
}

/// How to go on without a majority.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    /// Of plans.
    pub format: u32,
    /// The survivor with the longest log: the only voter of what comes.
    pub chosen: Report,
    /// All that were looked at.
    pub survivors: Vec<Report>,
    /// Entries nobody left knows to be committed. They are kept: some may have been acknowledged.
    pub uncertain: Vec<Uncertain>,
    /// Name of the cluster that comes.
    pub cluster_id: String,
}

/// An entry of the log that is not known to be committed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Uncertain {
    /// Its index.
    pub index: u64,
    /// Its term.
    pub term: u64,
    /// Who asked.
    pub principal: String,
    /// Under which id.
    pub request_id: String,
}

/// Looks at what is left and chooses the most up-to-date log (Raft §5.4.1).
pub fn plan(survivors: &[PathBuf]) -> Result<Plan> {
    let mut found = Vec::new();
    for dir in survivors {
        let (inspected, examined) = read(dir)?;
        found.push((report(&inspected, &examined), examined));
    }
    let Some((first, _)) = found.first() else { bail!("no data directory is named") };
    let (mesh, voters) = (first.mesh.clone(), first.voters.clone());
    for (report, _) in &found {
        let same = report.mesh == mesh && report.voters == voters;
        ensure!(same, "node {} belongs to another cluster than node {}", report.node, first.node);
    }
    let survivors: Vec<Report> = found.iter().map(|(report, _)| report.clone()).collect();
    if survivors.len() > voters.len() / 2 {
        bail!(
            "{} of {} voters are left: a majority needs no recovery",
            survivors.len(),
            voters.len()
        );
    }
    let whole = found.into_iter().filter(|(report, _)| !report.repairing);
    let best = whole.max_by_key(|(r, _)| (r.last_term, r.last_index, r.commit));
    let Some((chosen, examined)) = best else { bail!("no survivor has a whole log") };
    // A voter that may have been added or removed: who may go on is not for a file to say.
    let members = |record: &LogRecord| {
        let kind = record.command.as_ref().and_then(|command| command.kind.as_ref());
        matches!(kind, Some(Kind::ChangeMembers(_)))
    };
    if examined.uncertain.iter().any(|(_, record)| record.as_ref().is_some_and(members)) {
        bail!("the end of the log changes the members, and nobody left knows whether it counts");
    }
    let commit = survivors.iter().map(|report| report.commit).max().unwrap_or_default();
    let uncertain = examined.uncertain.into_iter().filter(|(at, _)| at.index > commit);
    let uncertain = uncertain.map(|(at, record)| {
        let command = record.and_then(|record| record.command).unwrap_or_default();
        let (principal, request_id) = (command.principal, command.request_id);
        Uncertain { index: at.index, term: at.term, principal, request_id }
    });
    let cluster_id = format!("{}-e{}", chosen.cluster_id, chosen.term + 1);
    Ok(Plan { format: FORMAT, uncertain: uncertain.collect(), chosen, survivors, cluster_id })
}

/// Writes a plan into a new file.
pub fn save_plan(plan: &Plan, file: &Path) -> Result<()> {
    ensure!(!file.exists(), "{} is there already: name a new file", file.display());
    write_json(file, plan)
}

/// Carries out a plan on the chosen node's directory: from then on that node is the only voter.
/// What was there is kept beside; its place.
pub fn apply_plan(file: &Path, dir: &Path) -> Result<PathBuf> {
    let plan: Plan = read_json(file)?;
    ensure!(plan.format == FORMAT, "the plan has format {}", plan.format);
    let (inspected, examined) = read(dir)?;
    let now = report(&inspected, &examined);
    ensure!(
        now == plan.chosen,
        "{} is not as it was when the plan was made: stop the node and plan again",
        dir.display()
    );
    let Inspected { owner, restored, .. } = inspected;
    let mut state = examined.state;
    state.found_anew(&[owner.node.0], &plan.cluster_id, 0);
    // A term nobody voted in. The tail stays, and is committed by the one voter.
    let HardState { term, commit, .. } = restored.hard_state;
    let hard_state = HardState { term: term + 1, vote: 0, commit };
    let restored = Restored { hard_state, tables: rows_of(&state), ..restored };
    let kept = free_name(dir, "before-recovery");
    let beside = dir.with_extension("recovered");
    ensure!(!beside.exists(), "{} is there already: remove it", beside.display());
    offline::write_new(
        &made(&beside)?,
        &owner,
        &new_name(&plan.cluster_id, owner.node),
        &restored,
    )?;
    rename(dir, &kept)?;
    rename(&beside, dir)?;
    Ok(kept)
}

fn build(dir: &Path, owner: &Owner, incarnation: &str, restored: &Restored) -> Result<()> {
    let beside = dir.with_extension("partial");
    ensure!(!beside.exists(), "{} is there already: remove it", beside.display());
    offline::write_new(&made(&beside)?, owner, incarnation, restored)?;
    rename(&beside, dir)
}

fn made(dir: &Path) -> Result<PathBuf> {
    fs::create_dir_all(dir).with_context(|| dir.display().to_string())?;
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

/// The end of a log, for people.
pub fn end_of(report: &Report) -> Position {
    Position { index: report.last_index, term: report.last_term }
}

#[cfg(test)]
mod tests;
