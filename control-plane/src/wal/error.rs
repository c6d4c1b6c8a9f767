//! Why the disk cannot be used, said to the person who can help.

use std::io;
use std::path::{Path, PathBuf};

use control_core::replica::RestoreError;

use super::owner::FORMAT_NOW;

/// Why the disk cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WalError {
    /// What must never be lost cannot be read, and no other node has it.
    #[error(
        "{file}: {what} is damaged: this node must not vote again with it; move node.data_dir aside and replace the node, or restore the directory from a copy made while it was stopped"
    )]
    Damaged {
        /// The file.
        file: PathBuf,
        /// The record.
        what: String,
    },
    /// Written by another version.
    #[error(
        "{file} has format {format}, this version reads {FORMAT_NOW}: run the version that wrote it"
    )]
    Format {
        /// The file.
        file: PathBuf,
        /// Its format.
        format: u64,
    },
    /// Another process has it open.
    #[error(
        "{file} is in use: stop the other control-plane process, or give this node its own node.data_dir"
    )]
    InUse {
        /// The file.
        file: PathBuf,
    },
    /// Belongs to someone else.
    #[error(
        "{file} belongs to {stored}, but the configuration says {configured}: correct node.data_dir, node.id or node.mesh"
    )]
    Owner {
        /// The file.
        file: PathBuf,
        /// In the file.
        stored: String,
        /// In the configuration.
        configured: String,
    },
    /// Data, and nothing that says whose.
    #[error(
        "{dir} holds {what}, but the file owner that says whose data this is is missing; the directory was left as it was: bring back the file from a copy of the directory, or set node.data_dir to an empty directory and replace the node"
    )]
    Unowned {
        /// The data directory.
        dir: PathBuf,
        /// What is there.
        what: String,
    },
    /// Not for this version or this node; nothing was changed.
    #[error("{dir}: {why}; the directory was left as it was")]
    Unfit {
        /// The data directory.
        dir: PathBuf,
        /// Why.
        why: RestoreError,
    },
    /// The disk is full, the reserve file is used up.
    #[error(
        "{file}: the disk is full and the reserve file is used up: free space, then start the node again"
    )]
    Full {
        /// What could not be written.
        file: PathBuf,
    },
    /// There would be too little space left.
    #[error(
        "{path} needs {needed} bytes, the disk has {free} bytes free and the low-water mark is {low} bytes: free space, it is tried again by itself"
    )]
    Low {
        /// What would grow.
        path: PathBuf,
        /// By how much.
        needed: u64,
        /// What is there.
        free: u64,
        /// `storage.low_water`.
        low: u64,
    },
    /// The disk failed.
    #[error("{file} cannot be {action} ({source}): check the disk")]
    Io {
        /// The file.
        file: PathBuf,
        /// "written", "synced".
        action: &'static str,
        /// Cause.
        source: io::Error,
    },
}

/// Adds the file and what was done to it.
pub(crate) trait Named<T> {
    /// As a [`WalError`].
    fn named(self, file: &Path, action: &'static str) -> Result<T, WalError>;
}

impl<T> Named<T> for io::Result<T> {
    fn named(self, file: &Path, action: &'static str) -> Result<T, WalError> {
        self.map_err(|source| match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                WalError::Full { file: file.to_owned() }
            }
            _ => WalError::Io { file: file.to_owned(), action, source },
        })
    }
}

/// Damage of a record.
pub(crate) fn damaged(file: &Path, what: impl Into<String>) -> WalError {
    WalError::Damaged { file: file.to_owned(), what: what.into() }
}
