//! An archive being written: in a directory or in a bucket, the same names in both.

use std::fs;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result};
use control_core::replica::LogEntry;

use super::store::Store;
use super::{Contents, Segment, Target, encode, tables_name, write_segment};
use crate::rescue::{self, MANIFEST};
use crate::wal::spool::{Spool, file_name};

/// Where it is.
#[derive(Debug)]
pub(super) enum Place {
    Directory(PathBuf),
    Bucket(Store),
}

impl Place {
    /// The archive of a node of a cluster.
    pub(super) fn open(target: &Target, cluster: &str, node: u64) -> Result<Self> {
        match target {
            Target::Directory(dir) => {
                let dir = dir.join(cluster).join(format!("node-{node}"));
                let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
                made.with_context(|| dir.display().to_string())?;
                Ok(Self::Directory(dir))
            }
            Target::Bucket { bucket, prefix } => {
                let store = Store::open(bucket, prefix)?;
                Ok(Self::Bucket(store.below(cluster).below(&format!("node-{node}"))))
            }
        }
    }

    /// What it holds, and when its newest tables were made.
    pub(super) async fn contents(&self) -> Result<(Contents, Option<SystemTime>)> {
        match self {
            Self::Directory(dir) => {
                let contents = Contents::of(dir)?;
                let Some((_, path)) = contents.tables.last() else { return Ok((contents, None)) };
                let made = path.metadata().and_then(|m| m.modified());
                let made = made.with_context(|| path.display().to_string())?;
                Ok((contents, Some(made)))
            }
            Self::Bucket(store) => {
                let (mut contents, mut newest) = (Contents::default(), None);
                for object in store.objects().await? {
                    let whole = object.name.strip_suffix(MANIFEST);
                    if let Some(tables) = whole.map(|name| name.trim_end_matches('/')) {
                        contents.note(tables, tables.into());
                        newest = Some(object.made); // The last by name is of the highest index.
                    } else {
                        contents.note(&object.name, object.name.clone().into());
                    }
                }
                Ok((contents.sorted(), newest))
            }
        }
    }

    /// Adds entries that follow each other.
    pub(super) async fn put_log(&self, entries: &[LogEntry]) -> Result<Option<Segment>> {
        match self {
            Self::Directory(dir) => write_segment(dir, entries),
            Self::Bucket(store) => {
                let Some((segment, text)) = encode(entries)? else { return Ok(None) };
                store.put(&segment.path.to_string_lossy(), text).await?;
                Ok(Some(segment))
            }
        }
    }

    /// Adds all tables.
    pub(super) async fn put_tables(&self, spool: &Spool) -> Result<()> {
        let name = tables_name(spool.at.index);
        match self {
            Self::Directory(dir) => seal(spool, &dir.join(name)),
            Self::Bucket(store) => {
                let (manifest, file) =
                    (rescue::describe_copy(spool.dir())?, file_name(spool.at.index));
                store.put_file(&format!("{name}/{file}"), &spool.dir().join(file)).await?;
                // With it they are whole.
                let manifest = serde_json::to_vec_pretty(&manifest)?;
                store.put(&format!("{name}/{MANIFEST}"), manifest).await
            }
        }
    }

    /// Removes all but the newest backups, and the log before the oldest that stays.
    pub(super) async fn retain(&self, contents: &Contents, keep: usize) -> Result<()> {
        let Some(first) = contents.tables.len().checked_sub(keep.max(1)) else { return Ok(()) };
        let (gone, kept) = contents.tables.split_at(first);
        for (index, path) in gone {
            self.remove_tables(*index, path).await?;
        }
        let oldest = kept.first().map_or(0, |(index, _)| *index);
        for segment in contents.segments.iter().filter(|segment| segment.last <= oldest) {
            let path = &segment.path;
            match self {
                Self::Directory(_) => {
                    fs::remove_file(path).with_context(|| path.display().to_string())?;
                }
                Self::Bucket(store) => store.remove(&path.to_string_lossy()).await?,
            }
        }
        Ok(())
    }

    /// Whole as long as they have their name, or their manifest: a crash in between leaves no half
    /// backup.
    async fn remove_tables(&self, index: u64, path: &Path) -> Result<()> {
        match self {
            Self::Directory(_) => {
                let gone = path.with_extension("gone");
                fs::rename(path, &gone).with_context(|| path.display().to_string())?;
                fs::remove_dir_all(&gone).with_context(|| gone.display().to_string())
            }
            Self::Bucket(store) => {
                let name = tables_name(index);
                store.remove(&format!("{name}/{MANIFEST}")).await?;
                store.remove(&format!("{name}/{}", file_name(index))).await
            }
        }
    }
}

fn seal(spool: &Spool, to: &Path) -> Result<()> {
    let interrupted = rescue::beside(to);
    if interrupted.exists() {
        fs::remove_dir_all(&interrupted).with_context(|| interrupted.display().to_string())?;
    }
    let beside = rescue::begin(to)?;
    spool.copy_into(&beside)?;
    rescue::seal(&beside, to)?;
    Ok(())
}
