//! A POP's shell: sockets, clocks, disks and certificates around the pure core `pop_core`.
//!
//! Reading order: [`run`] puts it together; [`signaling`] is the loop that owns the calls,
//! [`media`] the thread that owns packets, [`bgp`] what routers tell, [`link`] QUIC to other POPs, [`control`] the control
//! plane's client. Nothing here decides what a call does.

pub mod admin;
pub mod announce;
pub mod backoff;
pub mod bgp;
pub mod cdr;
pub mod check;
pub mod clock;
pub mod config;
pub mod control;
pub mod drops;
pub mod join;
pub mod link;
pub mod log;
pub mod media;
pub mod quality;
pub mod resolve;
pub mod run;
pub mod signaling;
pub mod sockets;
pub mod telemetry;
pub mod tls;
