//! The WAN between POPs, in user space: no privileges, no kernel modules.
//!
//! [`Link`] is the pure emulator of one direction between two POPs; [`Wan`] is the thin shell with
//! the sockets. Each POP has a *front*: the address other POPs dial instead of its own.
//!
//! Deliberately not here: bandwidth limits (admission is tested elsewhere) and reordering
//! (real paths reorder far less than they lose).

mod link;
mod socket;

pub use link::{Counters, DropReason, Link, Profile};
pub use socket::{Front, Wan};
