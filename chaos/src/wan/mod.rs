//! The WAN, in user space: no kernel modules.
//!
//! - [`Link`] is the pure emulator of one direction between two sites.
//! - [`Wan`] is the thin shell with UDP sockets: what lies between POPs on loopback. Each POP has a
//!   *front*: the address other POPs dial instead of its own. Needs no privileges.
//! - [`Net`] is the shell for everything that speaks IP: a network namespace for each site, a TUN
//!   device in each, and one thread that carries packets between them. Needs root.
//!
//! Deliberately not here: reordering (real paths reorder far less than they lose).

mod link;
mod net;
mod socket;

pub use link::{Counters, DropReason, Link, Profile};
pub use net::{Net, Site};
pub use socket::{Front, Wan};
