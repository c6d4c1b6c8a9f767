//! Certificate files: written so that no reader sees half of one, and watched for changes.

use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

/// How often files are looked at: three `stat` calls.
const POLL: Duration = Duration::from_secs(2);

/// Written beside and renamed, so that no reader ever sees half a key.
pub fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let temporary = path.with_extension("new");
    // What lies there may be readable by others, or lead elsewhere: never written through.
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let file = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary);
    let mut file = file?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    // The name must survive a crash too.
    path.parent().map_or(Ok(()), |dir| fs::File::open(dir)?.sync_all())
}

/// What tells two versions of a file apart.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    length: u64,
    modified: (i64, i64),
}

fn stamp(path: &Path) -> Option<Stamp> {
    let found = fs::metadata(path).ok()?;
    let modified = (found.mtime(), found.mtime_nsec());
    Some(Stamp { inode: found.ino(), length: found.len(), modified })
}

/// Some files, as they were last seen.
#[derive(Debug)]
pub struct Seen {
    paths: Vec<PathBuf>,
    stamps: Vec<Option<Stamp>>,
}

impl Seen {
    /// As they are now.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let stamps = paths.iter().map(|path| stamp(path)).collect();
        Self { paths, stamps }
    }

    /// Whether one changed since the last look.
    pub fn changed(&mut self) -> bool {
        let now: Vec<_> = self.paths.iter().map(|path| stamp(path)).collect();
        let changed = now != self.stamps;
        self.stamps = now;
        changed
    }
}

/// Calls `reload` when a file changed, and on SIGHUP; for ever.
pub async fn watch(mut seen: Seen, mut reload: impl FnMut()) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut ticks = tokio::time::interval(POLL);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        let asked = tokio::select! {
            _ = ticks.tick() => false,
            got = hangup.recv() => match got {
                Some(()) => true,
                None => return Ok(()),
            },
        };
        if seen.changed() || asked {
            reload();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_not_written_into_a_file_that_lies_there() {
        let dir = tempfile::tempdir().unwrap();
        let (path, elsewhere) = (dir.path().join("a.key"), dir.path().join("elsewhere"));
        std::os::unix::fs::symlink(&elsewhere, dir.path().join("a.new")).unwrap();
        write(&path, b"key", 0o600).unwrap();
        assert!(!elsewhere.exists());
        assert!(fs::symlink_metadata(&path).unwrap().is_file());
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn changes_are_seen_once() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.pem");
        let mut seen = Seen::new(vec![path.clone()]);
        assert!(!seen.changed());
        write(&path, b"one", 0o644).unwrap();
        assert!(seen.changed() && !seen.changed());
        // Same length, perhaps the same clock tick: another inode still.
        write(&path, b"two", 0o644).unwrap();
        assert!(seen.changed() && !seen.changed());
        fs::remove_file(&path).unwrap();
        assert!(seen.changed());
    }
}
