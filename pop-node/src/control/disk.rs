//! The view's copy on disk, replaced as a whole: a crash leaves the old one or the new one.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use pop_core::view::View;

/// The file `view` in the data directory.
#[derive(Debug, Clone)]
pub struct Copy {
    path: PathBuf,
}

impl Copy {
    /// In this directory.
    pub fn new(data_dir: &Path) -> Self {
        Self { path: data_dir.join("view") }
    }

    /// The copy, or an empty view when there is none of use; why not, the log says.
    pub fn load(&self) -> View {
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return View::default(),
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "cannot read the view's copy");
                return View::default();
            }
        };
        View::decode(&bytes).unwrap_or_else(|error| {
            tracing::error!(path = %self.path.display(), %error, "starting without the copy");
            View::default()
        })
    }

    /// Writes beside, syncs, renames over, syncs the directory.
    pub fn save(&self, view: &View) -> io::Result<()> {
        let beside = self.path.with_extension("new");
        let mut file = File::create(&beside)?;
        file.write_all(&view.encode())?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        match self.path.parent() {
            Some(directory) => File::open(directory)?.sync_all(),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_comes_back_and_damage_means_no_copy() {
        let directory = tempfile::tempdir().unwrap();
        let copy = Copy::new(directory.path());
        assert_eq!(copy.load(), View::default());
        let mut view = View::default();
        let snapshot = pop_core::view::ViewUpdate::Snapshot {
            cluster_id: "c".to_owned(),
            revision: proto::id::Revision(5),
            resources: Vec::new(),
        };
        view.apply(snapshot).unwrap();
        copy.save(&view).unwrap();
        copy.save(&view).unwrap();
        assert_eq!(copy.load(), view);
        fs::write(directory.path().join("view"), b"vxview\x00\x01torn").unwrap();
        assert_eq!(copy.load(), View::default());
    }
}
