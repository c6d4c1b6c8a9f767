//! The shell of a control node, and what `meshctl` shares with it.
//!
//! Holds the sockets, the disk and the clock around `control_core`, which decides.

pub mod config;
pub mod pki;
pub mod problem;
pub mod tls;
