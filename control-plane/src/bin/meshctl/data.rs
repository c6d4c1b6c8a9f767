//! `meshctl control verify|backup|restore|recover`: data directories of control nodes, on the
//! machine they are on. Only a backup may also come from a running node.

use std::path::PathBuf;

use anyhow::Result;
use clap::{Args, Subcommand};
use control_plane::rescue;
use control_plane::wal::Owner;
use proto::id::NodeId;
use serde_json::json;

use crate::table::Printer;

#[derive(Subcommand)]
pub(crate) enum Data {
    /// Check every record of a data directory whose node is stopped; changes nothing
    Verify {
        /// The node's data_dir
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
    },
    /// Save all tables, from a running node (any that answers) or from a data directory
    Backup {
        /// A new directory (or file:///…); it will hold the passwords of trunks
        #[arg(long, value_name = "DIR")]
        to: String,
        /// A node's data_dir on this machine, instead of asking a node; the node may run
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Make a data directory from a backup: a new cluster. Do it for each voter, then start them
    Restore {
        /// A backup, or an archive that a node keeps ([backup] target in its configuration)
        #[arg(long, value_name = "DIR")]
        from: PathBuf,
        /// Of an archive: exactly the tables of this revision [default: the newest]
        #[arg(long, value_name = "N")]
        to_revision: Option<u64>,
        /// The node's data_dir; must not exist
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Name of the mesh
        #[arg(long)]
        mesh: String,
        /// Number of the node
        #[arg(long)]
        node: u64,
        /// All voters [default: those of the backup]
        #[arg(long, value_delimiter = ',', value_name = "ID,…")]
        voters: Vec<u64>,
    },
    /// Go on after a majority was lost for good: plan first, then apply
    Recover(Recover),
}

#[derive(Args)]
#[command(group(clap::ArgGroup::new("step").required(true).args(["plan", "apply"])))]
pub(crate) struct Recover {
    /// Look at the survivors' data directories and write a plan into this new file
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Carry out this plan: the chosen node becomes the only voter
    #[arg(long, value_name = "FILE")]
    apply: Option<PathBuf>,
    /// Data directories of stopped nodes; with --apply that of the chosen one
    #[arg(long, value_name = "DIR", required = true)]
    data_dir: Vec<PathBuf>,
}

impl Data {
    /// Whether it needs no control node.
    pub(crate) const fn is_offline(&self) -> bool {
        !matches!(self, Self::Backup { data_dir: None, .. })
    }
}

/// Where a backup goes.
pub(crate) fn target(to: &str) -> Result<PathBuf> {
    let to = match to.split_once("://") {
        None => std::path::absolute(to)?,
        Some(_) => control_plane::archive::directory(to)
            .map_err(|what| anyhow::anyhow!("--to {to} {what}"))?,
    };
    Ok(to)
}

/// What was saved.
pub(crate) fn saved(manifest: &rescue::Manifest, to: &std::path::Path) -> String {
    let rescue::Manifest { rows, revision, hash, .. } = manifest;
    format!("{}: {rows} rows at revision {revision}, hash {hash}", to.display())
}

pub(crate) fn run(command: &Data, printer: &Printer) -> Result<()> {
    match command {
        Data::Verify { data_dir } => {
            let report = rescue::verify(data_dir)?;
            let sentence = format!(
                "{}: node {} of mesh \"{}\", {} rows at revision {}, {} log entries to index {} \
                 (term {}), all readable",
                data_dir.display(),
                report.node,
                report.mesh,
                report.rows,
                report.revision,
                report.entries,
                report.last_index,
                report.last_term,
            );
            printer.done(&report, &sentence)
        }
        Data::Backup { data_dir, to } => {
            let Some(data_dir) = data_dir else { anyhow::bail!("--data-dir is not given") };
            let to = target(to)?;
            let manifest = rescue::backup(data_dir, &to)?;
            printer.done(&manifest, &saved(&manifest, &to))
        }
        Data::Restore { from, to_revision, data_dir, mesh, node, voters } => {
            let owner = Owner { mesh: mesh.clone(), node: NodeId(*node) };
            let manifest = rescue::restore(from, data_dir, &owner, voters, *to_revision)?;
            let sentence = format!(
                "{}: node {node} of a new cluster with the tables of revision {}; restore the \
                 other voters from the same backup before any is started",
                data_dir.display(),
                manifest.revision
            );
            printer.done(&manifest, &sentence)
        }
        Data::Recover(recover) => run_recover(recover, printer),
    }
}

fn run_recover(recover: &Recover, printer: &Printer) -> Result<()> {
    let (Some(file), None) = (&recover.plan, &recover.apply) else {
        let (Some(file), [dir]) = (&recover.apply, recover.data_dir.as_slice()) else {
            anyhow::bail!("--apply needs one --data-dir: that of the chosen node");
        };
        let kept = rescue::apply_plan(file, dir)?;
        let sentence = format!(
            "{} is the only voter now (before: {}). List it alone in [[members]], start it, then \
             add new nodes. Destroy the data of the lost ones: together they would be a majority \
             of the old cluster",
            dir.display(),
            kept.display()
        );
        return printer.done(&json!({ "data_dir": dir, "kept": kept }), &sentence);
    };
    let plan = rescue::plan(&recover.data_dir)?;
    rescue::save_plan(&plan, file)?;
    let end = rescue::end_of(&plan.chosen);
    let sentence = format!(
        "{}: node {} has the longest log (index {}, term {}). {} entries are not known to be \
         committed and will be kept; entries that only lost nodes held are gone",
        file.display(),
        plan.chosen.node,
        end.index,
        end.term,
        plan.uncertain.len()
    );
    printer.done(&plan, &sentence)
}
