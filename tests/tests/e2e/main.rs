//! End to end: real processes of ours, real peers (sipp, baresip, FRR, GoBGP), audio measured.
//!
//! `cargo e2e` runs it on release builds; `cargo build --release` first. One scenario a module.
#![allow(clippy::indexing_slicing, clippy::print_stdout, reason = "a test may panic and speak")]

mod announce;
mod bgp;
mod calls;
mod check;
mod drills;
mod faults;
mod garbage;
mod lab;
mod moved;
mod paths;
mod peers_alone;
mod shutdown;
mod signaling;
mod srtp;
mod voice;

use std::future::Future;

/// Runs a scenario on its own runtime.
fn run(scenario: impl Future<Output = anyhow::Result<()>>) {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    if let Err(why) = runtime.expect("a runtime").block_on(scenario) {
        panic!("{why:?}");
    }
}
