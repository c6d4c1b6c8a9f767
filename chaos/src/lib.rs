//! The lab: a whole mesh on one machine, its WAN, its callers and its faults.
//!
//! - [`lab`]: real processes of `control-plane` and `pop-node` on own loopback addresses, with
//!   certificates made for the run, and a client of the public API to provision them.
//! - [`wan`]: what lies between POPs: delay, jitter and loss, in user space.
//! - [`endpoint`]: SIP user agents that speak with a human voice and measure what they hear.
//! - [`speech`]: the voice, and the proof that it arrived.
//! - [`demo`]: all of it in one command.
//! - [`live`]: a mesh that stays up, to be changed and hurt by hand.
//! - [`drill`]: a fault under calls, written down in a file, and whether the calls survived it.

pub mod demo;
pub mod drill;
pub mod endpoint;
pub mod lab;
pub mod live;
mod quality;
pub mod rng;
pub mod screen;
pub mod speech;
pub mod wan;
