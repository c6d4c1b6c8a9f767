//! Real peers: programs of others that must understand us.

pub mod baresip;
pub mod quality;
pub mod rpki;
pub mod sipp;

use std::time::{Duration, Instant};

use anyhow::{Result, bail};
pub(crate) use chaos::lab::process::start_in as start;
pub use chaos::lab::routers as bgp;

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
