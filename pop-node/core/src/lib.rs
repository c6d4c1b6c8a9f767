//! The pure core of a POP: protocol logic as values. Input and time go in, effects come out.
//!
//! No clock, socket, disk, RNG or environment: randomness is a seed given to `new`.
#![warn(missing_docs)]

pub mod bgp;
pub mod call;
pub mod codec;
pub mod media;
pub mod overlay;
pub mod pop;
pub mod route;
pub mod rtp;
pub mod sdp;
pub mod sip;
pub mod srtp;
pub mod view;
