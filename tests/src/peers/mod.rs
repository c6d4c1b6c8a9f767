//! Real peers: programs of others that must understand us.

pub mod baresip;
pub mod bgp;
pub mod quality;
pub mod rpki;
pub mod sipp;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::lab::process::{Process, Recipe};

/// Starts a Debian program in `dir`, its output in `dir/name.log`.
pub(crate) fn start(dir: &Path, name: &str, program: &str, args: Vec<String>) -> Result<Process> {
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    // `env -C` becomes the program: its process id, its working directory.
    let mut all = vec!["-C".into(), dir.display().to_string(), program.to_owned()];
    all.extend(args);
    let recipe = Recipe {
        name: name.to_owned(),
        program: "/usr/bin/env".into(),
        args: all,
        // They may look for a home; it must not be the user's.
        env: vec![("HOME".into(), dir.display().to_string())],
        log: dir.join(format!("{name}.log")),
    };
    Process::start(recipe)
}

/// Polls until `done` says something; an error names what was waited for.
pub async fn eventually<T>(
    what: &str,
    patience: Duration,
    mut done: impl AsyncFnMut() -> Result<Option<T>>,
) -> Result<T> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(found) = done().await? {
            return Ok(found);
        }
        if Instant::now() >= deadline {
            bail!("{what}: not within {patience:?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
