//! Files that change as a whole: written beside, synced, renamed (POSIX rename is atomic).

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use super::error::{Named as _, WalError};

/// Makes a change of names in `dir` durable.
pub(super) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Replaces `path` by `bytes`, durably.
pub(super) fn replace(path: &Path, bytes: &[u8]) -> Result<(), WalError> {
    let beside = path.with_extension("new");
    let write = || {
        let mut file = File::create(&beside)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&beside, path)?;
        path.parent().map_or(Ok(()), sync_dir)
    };
    write().named(path, "written")
}

/// The whole file; `None` when there is none.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, WalError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).named(path, "read"),
    }
}

/// Moves `path` out of the way as `path.damaged-N`, for analysis.
pub(super) fn move_aside(path: &Path) -> Result<(), WalError> {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    for n in 1u32.. {
        let aside = path.with_file_name(format!("{name}.damaged-{n}"));
        if !aside.exists() {
            fs::rename(path, &aside).named(path, "moved aside")?;
            let parent = path.parent().map_or(Ok(()), sync_dir);
            return parent.named(path, "moved aside");
        }
    }
    Ok(())
}

/// Lines of `key = value` under a title, with a checksum at the end.
pub(super) fn seal_lines(title: &str, lines: &[(&str, String)]) -> String {
    let mut text = format!("{title}\n");
    for (key, value) in lines {
        text.push_str(&format!("{key} = {value}\n"));
    }
    let crc = crc32c::crc32c(text.as_bytes());
    text.push_str(&format!("crc32c = {crc:08x}\n"));
    text
}

/// The title and the lines; `None` when the checksum does not fit.
pub(super) fn open_lines(bytes: &[u8]) -> Option<(String, Vec<(String, String)>)> {
    let text = std::str::from_utf8(bytes).ok()?;
    let (body, crc) = text.rsplit_once("crc32c = ")?;
    // Exactly as it is written: one form, so that every bit counts.
    if crc != format!("{:08x}\n", crc32c::crc32c(body.as_bytes())) {
        return None;
    }
    let mut lines = body.lines();
    let title = lines.next()?.to_owned();
    let pairs = lines.map(|line| {
        let (key, value) = line.split_once(" = ")?;
        Some((key.to_owned(), value.to_owned()))
    });
    Some((title, pairs.collect::<Option<_>>()?))
}

/// One of the lines.
pub(super) fn line<'a>(lines: &'a [(String, String)], key: &str) -> Option<&'a str> {
    lines.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_goes_unnoticed() {
        let sealed = seal_lines("title", &[("a", "1".into()), ("b", "x y".into())]);
        let (title, lines) = open_lines(sealed.as_bytes()).unwrap();
        assert_eq!((title.as_str(), line(&lines, "b")), ("title", Some("x y")));
        assert_eq!(line(&lines, "c"), None);
        for bit in 0..sealed.len() * 8 {
            let mut damaged = sealed.clone().into_bytes();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(open_lines(&damaged).is_none(), "bit {bit}");
        }
    }

    #[test]
    fn what_is_moved_aside_keeps_what_was_moved_before() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("log");
        for text in ["one", "two"] {
            replace(&path, text.as_bytes()).unwrap();
            move_aside(&path).unwrap();
        }
        assert_eq!(read(&path).unwrap(), None);
        assert_eq!(fs::read(dir.path().join("log.damaged-1")).unwrap(), b"one");
        assert_eq!(fs::read(dir.path().join("log.damaged-2")).unwrap(), b"two");
    }
}
