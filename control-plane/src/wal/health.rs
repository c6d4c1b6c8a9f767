//! How the disk is: shared by who writes, who refuses growth, and who tells.
//!
//! Below the low-water mark commands that make the state grow are refused, all else goes on. A
//! reserve file is given up when a write finds no space in spite of that, and made again when
//! there is space.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::error::WalError;

const MIB: u64 = 1024 * 1024;
/// Segments and a file of tables fit in.
const RESERVE_BYTES_MAX: u64 = 64 * MIB;

/// What is kept free, and what is given up first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marks {
    /// Less free space than this is low.
    pub low_bytes: u64,
    /// Size of the reserve file.
    pub reserve_bytes: u64,
}

impl Marks {
    /// For a disk of this size: a tenth is low, at most 512 MiB, unless it is said.
    pub fn of_disk(total: u64, low_bytes: Option<u64>) -> Self {
        let low_bytes = low_bytes.unwrap_or((total / 10).min(512 * MIB));
        Self { low_bytes, reserve_bytes: (low_bytes / 8).min(RESERVE_BYTES_MAX) }
    }
}

/// Shared by all threads.
#[derive(Debug)]
pub struct Health {
    dir: PathBuf,
    marks: Marks,
    free: AtomicU64,
    low: AtomicBool,
    has_reserve: AtomicBool,
    #[cfg(test)]
    pretended: std::sync::Mutex<Option<u64>>,
}

impl Health {
    /// Of the disk `dir` is on. `low_bytes`: as configured.
    pub fn new(dir: &Path, low_bytes: Option<u64>) -> Self {
        let total = space(dir).map_or(u64::MAX, |(total, _)| total);
        Self {
            dir: dir.to_owned(),
            marks: Marks::of_disk(total, low_bytes),
            free: AtomicU64::new(u64::MAX),
            low: AtomicBool::new(false),
            has_reserve: AtomicBool::new(false),
            #[cfg(test)]
            pretended: std::sync::Mutex::new(None),
        }
    }

    /// The data directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What is kept free.
    pub fn marks(&self) -> Marks {
        self.marks
    }

    /// Growth is to be refused.
    pub fn is_low(&self) -> bool {
        self.low.load(Ordering::Relaxed)
    }

    /// Free bytes when last looked.
    pub fn free_bytes(&self) -> u64 {
        self.free.load(Ordering::Relaxed)
    }

    /// Whether `path` may grow by so many bytes: what is written beside the log must leave it the
    /// space that is kept free for it.
    pub fn check_room(&self, path: &Path, needed: u64) -> Result<(), WalError> {
        let Some((_, free)) = self.space() else { return Ok(()) };
        let low = self.marks.low_bytes;
        if free >= low.saturating_add(needed) {
            return Ok(());
        }
        Err(WalError::Low { path: path.to_owned(), needed, free, low })
    }

    fn space(&self) -> Option<(u64, u64)> {
        #[cfg(test)]
        if let Some(free) = *self.pretended.lock().unwrap() {
            return Some((u64::MAX, free));
        }
        space(&self.dir)
    }

    /// As if so much were free.
    #[cfg(test)]
    pub(crate) fn pretend(&self, free: u64) {
        *self.pretended.lock().unwrap() = Some(free);
    }

    /// Looks at the disk; makes the reserve when there is room for it.
    pub fn look(&self) {
        let Some((_, free)) = self.space() else { return };
        self.free.store(free, Ordering::Relaxed);
        // Once low, it takes some more to be well again: no flapping at the mark.
        let was = self.is_low();
        let mark = if was { self.marks.low_bytes / 8 * 9 } else { self.marks.low_bytes };
        let low = free < mark;
        if low != was {
            self.low.store(low, Ordering::Relaxed);
            let dir = self.dir.display();
            if low {
                tracing::warn!(%dir, free, "disk space is low: writes that grow the state are refused");
            } else {
                tracing::info!(%dir, free, "disk space is enough again");
            }
        }
        if !low && free > self.marks.low_bytes + self.marks.reserve_bytes {
            self.make_reserve();
        }
    }

    fn make_reserve(&self) {
        if self.marks.reserve_bytes == 0 || self.has_reserve.load(Ordering::Relaxed) {
            return;
        }
        let path = self.dir.join("reserve");
        let mode = rustix::fs::FallocateFlags::empty();
        let made = File::create(&path)
            .and_then(|file| Ok(rustix::fs::fallocate(&file, mode, 0, self.marks.reserve_bytes)?));
        if let Err(error) = made {
            tracing::warn!(%error, "no reserve file");
            // Part of a reserve is none.
            let _ = fs::remove_file(&path);
            return;
        }
        self.has_reserve.store(true, Ordering::Relaxed);
    }

    /// Frees the reserve; whether there was one.
    pub(super) fn give_up_reserve(&self) -> bool {
        self.low.store(true, Ordering::Relaxed);
        self.has_reserve.store(false, Ordering::Relaxed);
        let given = fs::remove_file(self.dir.join("reserve")).is_ok();
        if given {
            tracing::error!(dir = %self.dir.display(), "the disk is full: the reserve file was given up");
        }
        given
    }
}

/// Size and free bytes (for this user) of the file system.
fn space(dir: &Path) -> Option<(u64, u64)> {
    let found = rustix::fs::statvfs(dir).ok()?;
    Some((
        found.f_blocks.saturating_mul(found.f_frsize),
        found.f_bavail.saturating_mul(found.f_frsize),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_disks_have_small_marks() {
        let marks = Marks::of_disk(64 * MIB, None);
        assert!(marks.low_bytes < 7 * MIB && marks.reserve_bytes < 2 * MIB, "{marks:?}");
        assert_eq!(Marks::of_disk(1 << 40, None).low_bytes, 512 * MIB);
        assert_eq!(Marks::of_disk(1 << 40, Some(0)).reserve_bytes, 0);
    }

    #[test]
    fn low_space_is_noticed_and_the_reserve_given_up_once() {
        let dir = tempfile::tempdir().unwrap();
        let low = Health::new(dir.path(), Some(u64::MAX / 16));
        low.look();
        assert!(low.is_low() && !dir.path().join("reserve").exists());
        let mut health = Health::new(dir.path(), Some(0));
        health.marks.reserve_bytes = 4096;
        health.look();
        assert!(!health.is_low() && health.free_bytes() > 0);
        assert_eq!(dir.path().join("reserve").metadata().unwrap().len(), 4096);
        assert!(health.give_up_reserve() && health.is_low());
        assert!(!health.give_up_reserve());
    }
}
