//! Paths to other POPs: what is measured on them, which of them carries media, and why.
//!
//! [`Paths`] is the machine: probes and reports in, probes and a [`Route`] for each peer out. Each
//! POP decides for what it sends; the other end tells how it arrived. [`choice`] is the decision.
//! Deliberately not here: connections (the shell), frames and copies (`media`).

pub mod choice;
mod explain;
mod health;
mod history;
mod lane;
mod paths;
mod peer;
mod route;
mod stats;
#[cfg(test)]
mod tests;

pub use explain::{Change, PathReport, PeerReport, Why};
pub use health::Health;
pub use history::{Moment, Seen};
pub use lane::LaneWindow;
pub use paths::{PathCommand, Paths, PathsConfig};
pub use route::{Hop, Route};
pub use stats::{LinkStats, PathStats};
