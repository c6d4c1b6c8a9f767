//! The pure core of the control plane: what must be agreed across regions, and how.
//!
//! [`command`] checks what may be proposed, [`group`] says which group keeps it, [`replica`] agrees
//! on an order (raft), [`state`] applies it (total and deterministic), [`watch`] remembers the last
//! changes for watchers, [`liveness`] finds which POPs are gone.
//! No clock, socket, disk or thread: ticks, wall time, peer bytes and "this is durable now" go in,
//! [`replica::ReplicaCommand`]s come out.
#![warn(missing_docs)]

pub mod access;
pub mod command;
pub mod group;
pub mod liveness;
pub mod replica;
pub mod state;
pub mod watch;
