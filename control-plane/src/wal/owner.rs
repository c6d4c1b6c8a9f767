//! Whose directory it is: the file `owner`, text that a person can read, written once.
//!
//! It is also the lock: two processes on one directory would vote twice.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use proto::id::NodeId;

use super::error::{Named as _, WalError, damaged};
use super::files;

/// The layout of the directory this version reads and writes. Format 1 was one redb file.
pub(super) const FORMAT_NOW: u64 = 2;

const TITLE: &str = "voxmesh control data";

/// Whose data it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Owner {
    /// Name of the mesh.
    pub mesh: String,
    /// The node.
    pub node: NodeId,
}

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Deed {
    /// Whose.
    pub(super) owner: Owner,
    /// Made with the directory; a wiped one comes back with another.
    pub(super) incarnation: String,
}

/// The file.
pub(super) fn path(dir: &Path) -> PathBuf {
    dir.join("owner")
}

/// What the file says; `None` for a directory without one.
pub(super) fn read(dir: &Path) -> Result<Option<Deed>, WalError> {
    let file = path(dir);
    let Some(bytes) = files::read(&file)? else {
        let old = dir.join("control.redb");
        if old.exists() {
            return Err(WalError::Format { file: old, format: 1 });
        }
        return Ok(None);
    };
    let unreadable = || damaged(&file, "who owns this directory");
    let (title, lines) = files::open_lines(&bytes).ok_or_else(unreadable)?;
    let line = |key| files::line(&lines, key).ok_or_else(unreadable);
    let format = line("format")?.parse().map_err(|_| unreadable())?;
    if title != TITLE {
        return Err(unreadable());
    }
    if format != FORMAT_NOW {
        return Err(WalError::Format { file, format });
    }
    let node = NodeId(line("node")?.parse().map_err(|_| unreadable())?);
    let owner = Owner { mesh: line("mesh")?.to_owned(), node };
    Ok(Some(Deed { owner, incarnation: line("incarnation")?.to_owned() }))
}

/// Makes the file of a new directory.
pub(super) fn write(dir: &Path, deed: &Deed) -> Result<(), WalError> {
    let lines = [
        ("format", FORMAT_NOW.to_string()),
        ("mesh", deed.owner.mesh.clone()),
        ("node", deed.owner.node.to_string()),
        ("incarnation", deed.incarnation.clone()),
    ];
    files::replace(&path(dir), files::seal_lines(TITLE, &lines).as_bytes())
}

/// Whether it is `owner`'s.
pub(super) fn check(dir: &Path, deed: &Deed, owner: &Owner) -> Result<(), WalError> {
    if deed.owner == *owner {
        return Ok(());
    }
    let name = |owner: &Owner| format!("node {} of mesh \"{}\"", owner.node, owner.mesh);
    let (stored, configured) = (name(&deed.owner), name(owner));
    Err(WalError::Owner { file: path(dir), stored, configured })
}

/// Held as long as the value lives.
pub(super) fn lock(dir: &Path) -> Result<File, WalError> {
    let file = path(dir);
    let handle = File::open(&file).named(&file, "opened")?;
    match handle.try_lock() {
        Ok(()) => Ok(handle),
        Err(TryLockError::WouldBlock) => Err(WalError::InUse { file: dir.to_owned() }),
        Err(TryLockError::Error(error)) => Err(error).named(&file, "locked"),
    }
}
