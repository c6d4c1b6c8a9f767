//! Going on after a majority was lost for good: a plan first, then its execution.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail, ensure};
use control_core::replica::{HardState, LogEntry, Position, Restored, replay};
use proto::raft::LogRecord;
use proto::raft::command::Kind;
use serde::{Deserialize, Serialize};

use super::{
    FORMAT, Report, free_name, made, new_name, read, read_json, rename, report, rows_of, write_json,
};
use crate::wal::offline::{self, Inspected};

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
    // A term nobody voted in. The tail stays, and is committed by the one voter.
    let HardState { term, commit, .. } = restored.hard_state;
    let hard_state = HardState { term: term + 1, vote: 0, commit };
    let mut state = examined.state;
    // Changes of members that counted must not come back after the only voter was named.
    let unapplied = |entry: &&LogEntry| entry.index > restored.applied && entry.index <= commit;
    for entry in restored.entries.iter().filter(unapplied) {
        replay(&mut state, entry)?;
    }
    state.found_anew(&[owner.node.0], &plan.cluster_id, 0);
    let restored = Restored { hard_state, applied: commit, tables: rows_of(&state), ..restored };
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

/// The end of a log, for people.
pub fn end_of(report: &Report) -> Position {
    Position { index: report.last_index, term: report.last_term }
}
