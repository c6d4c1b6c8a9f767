//! A few numbers that change in place: two slots a page apart, written in turn, so that a torn
//! write leaves the other one.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::error::{Named as _, WalError};

const SLOT_BYTES: usize = 32;
const SLOT_AT: [u64; 2] = [0, 4096];

/// What a file of slots holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Found {
    /// The newest readable values.
    pub(super) values: Option<[u64; 2]>,
    generation: u64,
    /// Slots that were written and cannot be read.
    pub(super) unreadable: usize,
}

/// Reads without changing anything; a file that is not there holds nothing.
pub(super) fn read(path: &Path) -> Result<Found, WalError> {
    let bytes = super::files::read(path)?.unwrap_or_default();
    let mut found = Found::default();
    for at in SLOT_AT.map(|at| usize::try_from(at).unwrap_or(usize::MAX)) {
        let slot = bytes.get(at..).unwrap_or_default();
        let slot = slot.get(..SLOT_BYTES).unwrap_or(slot);
        match decode(slot) {
            Some((generation, values)) if generation > found.generation => {
                found = Found { values: Some(values), generation, ..found };
            }
            Some(_) => {}
            None => found.unreadable += usize::from(slot.iter().any(|byte| *byte != 0)),
        }
    }
    Ok(found)
}

/// The file, open for writing.
pub(super) struct Slots {
    file: File,
    path: PathBuf,
    generation: u64,
}

impl Slots {
    /// Goes on after what was found.
    pub(super) fn open(path: PathBuf, found: Found) -> Result<Self, WalError> {
        let file = File::options().create(true).write(true).truncate(false).open(&path);
        Ok(Self { file: file.named(&path, "opened")?, path, generation: found.generation })
    }

    /// Writes new values; a crash of the machine may lose them until [`Slots::sync`].
    pub(super) fn write(&mut self, values: [u64; 2]) -> Result<(), WalError> {
        self.generation += 1;
        let at = SLOT_AT.get(usize::from(self.generation.is_multiple_of(2))).copied();
        let bytes = encode(self.generation, values);
        self.file.write_all_at(&bytes, at.unwrap_or_default()).named(&self.path, "written")
    }

    pub(super) fn sync(&self) -> Result<(), WalError> {
        self.file.sync_data().named(&self.path, "synced")
    }
}

fn encode(generation: u64, values: [u64; 2]) -> Vec<u8> {
    let [a, b] = values;
    let mut bytes = [generation, a, b].map(u64::to_le_bytes).concat();
    let crc = crc32c::crc32c(&bytes);
    bytes.extend_from_slice(&u64::from(crc).to_le_bytes());
    bytes
}

fn decode(slot: &[u8]) -> Option<(u64, [u64; 2])> {
    let (chunks, _) = slot.as_chunks::<8>();
    let numbers: Vec<u64> = chunks.iter().map(|chunk| u64::from_le_bytes(*chunk)).collect();
    let [generation, a, b, _] = numbers.try_into().ok()?;
    (encode(generation, [a, b]) == slot && generation > 0).then_some((generation, [a, b]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_readable_slot_counts() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vote");
        assert_eq!(read(&path).unwrap(), Found::default());
        let mut slots = Slots::open(path.clone(), Found::default()).unwrap();
        for n in 1..=5 {
            slots.write([n, 10 * n]).unwrap();
            assert_eq!(read(&path).unwrap().values, Some([n, 10 * n]));
        }
        slots.sync().unwrap();
        let mut slots = Slots::open(path.clone(), read(&path).unwrap()).unwrap();
        slots.write([6, 60]).unwrap();
        let written = std::fs::read(&path).unwrap();
        for at in (0..SLOT_BYTES).chain(4096..4096 + SLOT_BYTES) {
            let mut damaged = written.clone();
            damaged[at] ^= 0x10;
            std::fs::write(&path, &damaged).unwrap();
            let found = read(&path).unwrap();
            assert_eq!(found.unreadable, 1, "byte {at}");
            let expected = if at < SLOT_BYTES { [5, 50] } else { [6, 60] };
            let other = if at < SLOT_BYTES { [6, 60] } else { [5, 50] };
            let values = found.values.unwrap();
            assert!(values == expected || values == other, "byte {at}: {values:?}");
        }
    }
}
