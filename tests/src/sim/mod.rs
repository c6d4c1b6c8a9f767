//! The whole mesh in one thread: three control nodes and three POPs made of the real cores, with
//! virtual time and a seeded network between them.
//!
//! - [`World`]: the clock, the queue of what is under way, and the loop.
//! - [`net`]: who reaches whom, how late, and what gets lost.
//! - [`control`]: a control node: replica, disk (that loses what was not synced), watchers.
//! - [`control_cluster`]: control nodes without POPs, under more faults and judged more closely.
//! - [`pop`]: a POP: `Pop` and `Media`, as the shell drives them.
//! - [`carrier`]: the callers and callees beside a POP.
//! - [`operator`]: provisions the mesh through raft and remembers what was acknowledged.
//! - [`plan`]: what happens in a run, drawn from its seed.
//! - [`check`]: what must be true at the end.
//!
//! Same seed, same trace: every input of every machine goes into one hash.
//!
//! Deliberately not here: codecs' sound (unit tests, e2e), QUIC, TLS, gRPC and sockets (e2e).

pub mod carrier;
pub mod check;
pub mod control;
pub mod control_cluster;
pub mod net;
pub mod operator;
mod phone;
pub mod plan;
pub mod pop;
pub mod trace;
mod world;

pub use plan::{Mutation, Plan};
pub use world::World;
