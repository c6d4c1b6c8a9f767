//! The control plane alone in virtual time: three or five replicas, their disks and network under
//! faults, clients that retry, watchers that come back. Of POPs only the heartbeats, so that
//! thousands of schedules fit into a minute.
//!
//! - [`plan`]: what happens in a run, drawn from its seed; the planted bugs ([`Mutant`]).
//! - [`links`]: who reaches whom, how late, what gets lost, doubled and overtaken.
//! - [`node`]: a replica with its disk, as the shell drives it.
//! - [`client`]: what clients ask, and how a command becomes an answer.
//! - [`members`]: voters that learn for a while, and nodes that come.
//! - [`bent`]: planted bugs of what is asked and told.
//! - [`world`]: the clock, the queue of what is under way, and the loop.
//! - [`pops`]: heartbeats, and who expires.
//! - [`observe`]: what only a simulation can see: equal replicas, one leader per term, log time.
//! - [`shrink`]: a failing plan made small.
//!
//! Judged by [`crate::linear`]. Same seed, same trace. A torn write is a lost one here: that the
//! disk's checksums find it is for the tests of the disk (`wal`).
#![allow(clippy::indexing_slicing, reason = "a simulation that is wrong may panic")]

pub mod bent;
pub mod client;
mod faults;
pub mod links;
pub mod members;
pub mod node;
pub mod observe;
pub mod plan;
pub mod pops;
pub mod shrink;
mod trace;
mod watchers;
pub mod world;

pub use plan::{Fault, MemberFault, Mutant, Plan, PopFault};
pub use shrink::shrink;

use crate::linear::Complaint;

/// What a run came to.
pub struct Report {
    /// What was wrong.
    pub complaints: Vec<Complaint>,
    /// Equal for equal runs.
    pub digest: u64,
    /// What happened, when asked for.
    pub lines: Vec<String>,
    /// Operations answered.
    pub answered: usize,
    /// Tries that were repeated, snapshots installed, leaders elected.
    pub counts: Counts,
}

/// That a run was worth it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Counts {
    /// Operations tried more than once.
    pub retried: u64,
    /// Answers that came to a client once more.
    pub repeated: u64,
    /// By followers.
    pub snapshots: u64,
    /// POPs a leader let expire.
    pub expired: u64,
    /// And gave up for good.
    pub fenced: u64,
    /// Changes of members that were done.
    pub members: u64,
    /// Terms with a leader.
    pub leaders: u64,
    /// Virtual time, ms.
    pub virtual_ms: u64,
}

/// Runs a plan to its end and judges it.
pub fn run(plan: &Plan, verbose: bool) -> Report {
    let mut world = world::World::new(plan.clone(), verbose);
    world.run();
    world.report()
}
