//! What the whole-mesh tests share.
//!
//! - [`bench`]: benchmarks, run by `tests/bench`.
//! - [`linear`]: judges recorded histories of clients and watchers.
//! - [`peers`]: sipp and baresip as children of ours, and PESQ.
//! - [`scene`]: a mesh of the lab, provisioned for a test.
//! - [`siege`]: real control nodes under attack, judged by [`linear`].
//! - [`sim`]: the whole mesh in one thread, in virtual time.
//! - [`upstreams`]: two POPs with two upstreams each, calls between them, and what fails.

pub mod bench;
pub mod linear;
pub mod peers;
pub mod scene;
pub mod siege;
pub mod sim;
pub mod upstreams;

use std::path::{Path, PathBuf};

/// The top of the repository.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}
