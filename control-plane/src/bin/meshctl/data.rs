//! `meshctl control verify|backup|restore|recover`: data directories of control nodes, on the
//! machine they are on. Only a backup may also come from a running node.

use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use control_plane::archive::store::Store;
use control_plane::archive::{Target, fetch};
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
        /// A new directory, file:///… or s3://bucket/prefix; it will hold the passwords of trunks
        #[arg(long, value_name = "DIR|URL")]
        to: String,
        /// A node's data_dir on this machine, instead of asking a node; the node may run
        #[arg(long, value_name = "DIR")]
        data_dir: Option<PathBuf>,
    },
    /// Make a data directory from a backup: a new cluster. Do it for each voter, then start them
    Restore {
        /// A backup, or an archive that a node keeps ([backup] target in its configuration)
        #[arg(long, value_name = "DIR|URL")]
        from: String,
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

fn target(flag: &str, text: &str) -> Result<Target> {
    match text.split_once("://") {
        None => Ok(Target::Directory(std::path::absolute(text)?)),
        Some(_) => Target::parse(text).map_err(|what| anyhow!("{flag} {text} {what}")),
    }
}

/// A backup that is being made: where it goes, or here until all of it can go to a bucket.
pub(crate) struct Making {
    pub(crate) dir: PathBuf,
    to: Target,
    store: Option<Store>,
}

impl Making {
    pub(crate) async fn begin(to: &str) -> Result<Self> {
        let to = target("--to", to)?;
        let (dir, store) = match &to {
            Target::Directory(dir) => (dir.clone(), None),
            Target::Bucket { bucket, prefix } => {
                let store = Store::open(bucket, prefix)?;
                fetch::check_free(&store).await?;
                let name = format!("voxmesh-backup-{}", std::process::id());
                (std::env::temp_dir().join(name), Some(store))
            }
        };
        Ok(Self { dir, to, store })
    }

    /// It is whole: what was saved.
    pub(crate) async fn end(self, manifest: &rescue::Manifest) -> Result<String> {
        if let Some(store) = &self.store {
            fetch::put_backup(store, &self.dir).await?;
        }
        let rescue::Manifest { rows, revision, hash, .. } = manifest;
        Ok(format!("{}: {rows} rows at revision {revision}, hash {hash}", self.to))
    }
}

impl Drop for Making {
    fn drop(&mut self) {
        if self.store.is_some() {
            // Not there when nothing came.
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

fn wait<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// What is restored, as a directory; what a bucket has is fetched beside `data_dir`, and the second
/// one is to be removed.
fn fetched(
    from: &str,
    revision: Option<u64>,
    data_dir: &Path,
) -> Result<(PathBuf, Option<PathBuf>)> {
    match target("--from", from)? {
        Target::Directory(dir) => Ok((dir, None)),
        Target::Bucket { bucket, prefix } => {
            let to = data_dir.with_extension("fetched");
            anyhow::ensure!(!to.exists(), "{} is there already: remove it", to.display());
            let fetching = fetch::fetch(Store::open(&bucket, &prefix)?, revision, &to);
            if let Err(error) = wait(fetching) {
                let _ = std::fs::remove_dir_all(&to);
                return Err(error);
            }
            Ok((to.clone(), Some(to)))
        }
    }
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
            let (manifest, said) = wait(async {
                let making = Making::begin(to).await?;
                let manifest = rescue::backup(data_dir, &making.dir)?;
                let said = making.end(&manifest).await?;
                Ok((manifest, said))
            })?;
            printer.done(&manifest, &said)
        }
        Data::Restore { from, to_revision, data_dir, mesh, node, voters } => {
            let owner = Owner { mesh: mesh.clone(), node: NodeId(*node) };
            let (from, fetched) = fetched(from, *to_revision, data_dir)?;
            let restored = rescue::restore(&from, data_dir, &owner, voters, *to_revision);
            if let Some(fetched) = fetched {
                std::fs::remove_dir_all(&fetched)?;
            }
            let manifest = restored?;
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
