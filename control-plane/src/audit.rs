//! The audit log outside of the mesh: one JSON object a line (NDJSON), in the order of the chain.
//!
//! The state keeps the last 65,536 rows. A node with `[audit] export` appends each row to files of
//! its own ([`export`]); `meshctl audit export` asks for them. Either can be verified without the
//! mesh.

pub mod export;
mod row;

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};

use control_core::state::audit::{Broken, Verifier};

pub use row::{Row, hex};

/// Files of an export are called so, with the number of their first row between.
const PREFIX: &str = "audit-";
const SUFFIX: &str = ".ndjson";

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// The system refused.
    #[error("{path} cannot be used ({error})")]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A line is no row, or does not follow the one before.
    #[error("{path} line {line}: {error}")]
    Line {
        /// Which.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// Why.
        error: LineError,
    },
}

/// What is wrong with a line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    /// It does not read as a row.
    #[error("is no audit row ({0})")]
    Form(String),
    /// The chain does not hold.
    #[error(transparent)]
    Broken(#[from] Broken),
}

impl ExportError {
    fn io(path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |error| Self::Io { path, error }
    }
}

/// Verifies a file, or all files of a directory in their order, without the mesh.
pub fn verify(path: &Path) -> Result<Verifier, ExportError> {
    let mut verifier = Verifier::default();
    let files = if path.is_dir() { files(path)? } else { vec![path.to_owned()] };
    for file in files {
        verify_file(&file, &mut verifier)?;
    }
    Ok(verifier)
}

fn verify_file(path: &Path, verifier: &mut Verifier) -> Result<(), ExportError> {
    let file = File::open(path).map_err(ExportError::io(path))?;
    for (at, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(ExportError::io(path))?;
        let wrong = |error| ExportError::Line { path: path.to_owned(), line: at + 1, error };
        let row = Row::read(&line).map_err(|e| wrong(LineError::Form(e)))?;
        verifier.row(&row).map_err(|broken| wrong(broken.into()))?;
    }
    Ok(())
}

/// The files of an export, oldest first.
fn files(dir: &Path) -> Result<Vec<PathBuf>, ExportError> {
    let entries = std::fs::read_dir(dir).map_err(ExportError::io(dir))?;
    let mut found = Vec::new();
    for entry in entries {
        let name = entry.map_err(ExportError::io(dir))?.file_name();
        let text = name.to_string_lossy();
        if text.starts_with(PREFIX) && text.ends_with(SUFFIX) {
            found.push(dir.join(&name));
        }
    }
    // The numbers have leading zeros.
    found.sort();
    Ok(found)
}
