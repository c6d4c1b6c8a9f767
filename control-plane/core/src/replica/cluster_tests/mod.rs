//! Replicas in one thread: seeded loss, delay, duplication, partitions, slow disks and
//! crashes that keep exactly what was durable. Checked: nothing acknowledged is lost, one owner per
//! number, once per request id, reads see what was acknowledged before them, events without a gap,
//! equal states, progress after healing, same seed same trace.

mod failover;
mod groups;
mod levels;
mod load;
mod members;
mod reads;
mod sim;
mod snapshots;
mod storms;

pub(super) use load::load;
pub(super) use sim::{NODES, Rng, STORM, Sim};
