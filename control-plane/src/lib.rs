//! The shell of a control node, and what `meshctl` shares with it.
//!
//! Holds the sockets, the disk and the clock around `control_core`, which decides.

pub mod accept;
pub mod access;
pub mod admin;
pub mod api;
pub mod archive;
pub mod audit;
pub mod check;
pub mod config;
pub mod dns;
pub mod driver;
pub mod hub;
pub mod join;
pub mod liveness;
pub mod pace;
pub mod peer;
pub mod pki;
pub mod problem;
pub mod questions;
pub mod raft_log;
pub mod rescue;
pub mod run;
pub mod snapshot;
pub mod telemetry;
pub mod tls;
pub mod wal;
