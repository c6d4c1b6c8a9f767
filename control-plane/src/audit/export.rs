//! A node keeps the whole audit log: each row that its state holds is appended to a file in a
//! directory, synced, and a new file begun when one is large.
//!
//! After a start it goes on where the files end: the last one is verified, a line that was torn by
//! a crash is cut off, and rows that came meanwhile follow. Rows that left the state before they
//! were written are a gap: it is said, counted, and `verify` finds it. A file that does not fit the
//! chain is left as it is, and nothing is written: somebody changed it.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use control_core::replica::Replica;
use control_core::state::audit::Verifier;
use proto::control::AuditRow;

use super::{ExportError, LineError, PREFIX, Row, SUFFIX, files, verify_file};
use crate::driver::{Driver, Stopped};
use crate::telemetry;

/// A file that is larger is followed by another one, unless configured.
pub const ROTATE_BYTES: u64 = 64 << 20;
/// Between two looks.
const EVERY: Duration = Duration::from_secs(1);
/// After a failure.
const AGAIN: Duration = Duration::from_secs(10);
/// Rows at once.
const ROWS: usize = 2_000;

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Export {
    /// Where files go.
    pub dir: PathBuf,
    /// A larger file is followed by another one.
    pub rotate_bytes: u64,
}

/// The files, open where they end.
#[derive(Debug)]
pub struct Files {
    config: Export,
    verifier: Verifier,
    open: Option<(PathBuf, File, u64)>,
}

impl Files {
    /// Opens the directory, made if need be, and verifies its last file.
    pub fn open(config: Export) -> Result<Self, ExportError> {
        std::fs::create_dir_all(&config.dir).map_err(ExportError::io(&config.dir))?;
        let mut verifier = Verifier::default();
        let mut open = None;
        if let Some(path) = files(&config.dir)?.pop() {
            cut_torn_line(&path).map_err(ExportError::io(&path))?;
            verify_file(&path, &mut verifier)?;
            let mut file =
                OpenOptions::new().append(true).open(&path).map_err(ExportError::io(&path))?;
            let length = file.seek(SeekFrom::End(0)).map_err(ExportError::io(&path))?;
            open = Some((path, file, length));
        }
        Ok(Self { config, verifier, open })
    }

    /// Number of the last row written.
    pub fn last(&self) -> u64 {
        self.verifier.last().map_or(0, |(sequence, _)| sequence)
    }

    /// Appends rows, in order, durably: how many are missing before the first of them.
    pub fn append(&mut self, rows: Vec<AuditRow>) -> Result<u64, ExportError> {
        let mut missing = 0;
        let mut lines = String::new();
        for row in rows {
            let last = self.last();
            if row.sequence <= last {
                continue;
            }
            if last > 0 && row.sequence > last + 1 {
                missing += row.sequence - last - 1;
                // The chain begins anew, in a file of its own.
                self.write(&std::mem::take(&mut lines))?;
                (self.verifier, self.open) = (Verifier::default(), None);
            }
            self.check(&row)?;
            if self.open.as_ref().is_none_or(|(_, _, length)| *length >= self.config.rotate_bytes) {
                self.write(&std::mem::take(&mut lines))?;
                self.begin(row.sequence)?;
            }
            let line = Row::line(row);
            if let Some((_, _, length)) = &mut self.open {
                *length += line.len() as u64;
            }
            lines.push_str(&line);
        }
        self.write(&lines)?;
        Ok(missing)
    }

    fn check(&mut self, row: &AuditRow) -> Result<(), ExportError> {
        let path = self.open.as_ref().map_or(&self.config.dir, |(path, ..)| path).clone();
        let wrong = |broken| ExportError::Line { path, line: 0, error: LineError::Broken(broken) };
        self.verifier.row(row).map_err(wrong)
    }

    fn begin(&mut self, sequence: u64) -> Result<(), ExportError> {
        let path = self.config.dir.join(format!("{PREFIX}{sequence:020}{SUFFIX}"));
        let file = OpenOptions::new().create(true).append(true).open(&path);
        let file = file.map_err(ExportError::io(&path))?;
        // The name must outlive a crash as well as the rows.
        let dir = File::open(&self.config.dir).and_then(|dir| dir.sync_all());
        dir.map_err(ExportError::io(&self.config.dir))?;
        self.open = Some((path, file, 0));
        Ok(())
    }

    fn write(&mut self, lines: &str) -> Result<(), ExportError> {
        if lines.is_empty() {
            return Ok(());
        }
        let Some((path, file, _)) = &mut self.open else { return Ok(()) };
        let written = file.write_all(lines.as_bytes()).and_then(|()| file.sync_data());
        written.map_err(ExportError::io(path))
    }
}

/// A crash or a full disk may have left half a line.
fn cut_torn_line(path: &Path) -> std::io::Result<()> {
    let mut file = OpenOptions::new().read(true).write(true).open(path)?;
    let mut length = file.seek(SeekFrom::End(0))?;
    let mut byte = [0];
    while length > 0 {
        file.seek(SeekFrom::Start(length - 1))?;
        file.read_exact(&mut byte)?;
        if byte == [b'\n'] {
            break;
        }
        length -= 1;
    }
    file.set_len(length)?;
    file.sync_all()
}

/// Keeps the files, where configured, from now on.
pub fn start(config: Option<Export>, driver: &Driver) {
    if let Some(config) = config {
        tokio::spawn(run(config, driver.clone()));
    }
}

/// Until this node stops. A failure is said, and tried again from what is on the disk.
async fn run(config: Export, driver: Driver) {
    loop {
        match follow(&config, &driver).await {
            Ok(Stopped) => return,
            Err(error) => {
                telemetry::audit_export_failed();
                tracing::error!(%error, "the audit log is not exported: correct this");
            }
        }
        tokio::time::sleep(AGAIN).await;
    }
}

async fn follow(config: &Export, driver: &Driver) -> Result<Stopped, ExportError> {
    let config = config.clone();
    let mut files = blocking(move || Files::open(config)).await?;
    loop {
        let after = files.last();
        let look = move |replica: &Replica| {
            let state = replica.state();
            (state.audit_rows(after).take(ROWS).collect::<Vec<_>>(), state.audit_head().0)
        };
        let Ok((rows, head)) = driver.query(look).await else { return Ok(Stopped) };
        let full = rows.len() == ROWS;
        let (back, missing) = blocking(move || {
            let missing = files.append(rows)?;
            Ok((files, missing))
        })
        .await?;
        files = back;
        if missing > 0 {
            tracing::error!(missing, "audit rows left the state before they were exported");
        }
        telemetry::audit_exported(files.last(), head, missing);
        if !full {
            tokio::time::sleep(EVERY).await;
        }
    }
}

/// Off the threads that answer requests.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ExportError> + Send + 'static,
) -> Result<T, ExportError> {
    let failed = |error| ExportError::Io {
        path: PathBuf::from("the export"),
        error: std::io::Error::other(error),
    };
    tokio::task::spawn_blocking(work).await.map_err(failed)?
}

#[cfg(test)]
mod tests {
    use control_core::state::State;
    use proto::control::Trunk;
    use proto::raft::{Command, command};

    use super::super::verify;
    use super::*;

    fn rows(count: u64) -> Vec<AuditRow> {
        let mut state = State::bootstrap(&[1]);
        for n in 1..=count {
            let trunk = Trunk { trunk_id: format!("t{n}"), ..Trunk::default() };
            let kind = Some(command::Kind::PutTrunk(trunk));
            let (request_id, principal) = (format!("r{n}"), "operator/anna".into());
            state.apply(n, &Command { request_id, principal, kind });
        }
        state.audit_rows(0).collect()
    }

    fn config(dir: &Path) -> Export {
        Export { dir: dir.join("audit"), rotate_bytes: 1_000 }
    }

    fn last(dir: &Path) -> u64 {
        verify(&dir.join("audit")).unwrap().last().map_or(0, |(sequence, _)| sequence)
    }

    #[test]
    fn every_row_is_there_over_restarts_files_and_torn_lines() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows(40);
        let mut files = Files::open(config(dir.path())).unwrap();
        assert_eq!((files.last(), files.append(rows[..15].to_vec()).unwrap()), (0, 0));
        assert_eq!(last(dir.path()), 15);
        drop(files);
        // A crash in the middle of a write.
        let newest = super::files(&dir.path().join("audit")).unwrap().pop().unwrap();
        let length = std::fs::metadata(&newest).unwrap().len();
        OpenOptions::new().write(true).open(&newest).unwrap().set_len(length - 7).unwrap();
        let mut files = Files::open(config(dir.path())).unwrap();
        assert_eq!(files.last(), 14);
        // Rows that are there already are not written twice.
        assert_eq!(files.append(rows.clone()).unwrap(), 0);
        assert_eq!(last(dir.path()), 40);
        assert!(super::files(&dir.path().join("audit")).unwrap().len() > 3, "it rotates");
    }

    #[test]
    fn a_gap_is_counted_and_found() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows(20);
        let mut files = Files::open(config(dir.path())).unwrap();
        files.append(rows[..5].to_vec()).unwrap();
        assert_eq!(files.append(rows[8..].to_vec()).unwrap(), 3);
        assert_eq!(files.last(), 20);
        let found = verify(&dir.path().join("audit")).unwrap_err().to_string();
        assert!(found.contains("row 9 comes where row 6 is due"), "{found}");
    }

    #[test]
    fn a_file_that_was_changed_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let rows = rows(10);
        Files::open(config(dir.path())).unwrap().append(rows[..3].to_vec()).unwrap();
        let file = files(&dir.path().join("audit")).unwrap().pop().unwrap();
        let text = std::fs::read_to_string(&file).unwrap().replacen("anna", "otto", 1);
        std::fs::write(&file, &text).unwrap();
        let refused = Files::open(config(dir.path())).unwrap_err().to_string();
        assert!(refused.contains("line 1"), "{refused}");
        assert_eq!(std::fs::read_to_string(&file).unwrap(), text);
        // Rows of another mesh do not follow either.
        std::fs::remove_file(&file).unwrap();
        let mut files = Files::open(config(dir.path())).unwrap();
        files.append(rows[..3].to_vec()).unwrap();
        let mut other = rows[3].clone();
        other.hash = vec![7; 32];
        assert!(files.append(vec![other]).is_err());
    }
}
