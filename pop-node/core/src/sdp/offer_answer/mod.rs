//! Offer and answer (RFC 3264) for one audio stream over RTP or SRTP.
//!
//! [`RemoteMedia`] is what the peer's description says, [`LocalSession`] writes ours. Invariants:
//! an answer has a section for each section of the offer, refused ones with port 0 (§6); a later
//! offer has at least the sections of the earlier (§8); a payload type keeps its meaning for the
//! whole session (§8.3.2); the version in `o=` grows exactly when the description changes (§8).

mod local;
mod remote;
mod security;

pub use local::{Carried, Description, LocalSession};
pub use remote::{Negotiated, NegotiationError, RemoteMedia};
pub use security::{Policy, Security};

use crate::media::Direction;

/// What the one sends the other receives (RFC 3264 §6.1).
pub const fn reversed(direction: Direction) -> Direction {
    match direction {
        Direction::SendRecv => Direction::SendRecv,
        Direction::SendOnly => Direction::RecvOnly,
        Direction::RecvOnly => Direction::SendOnly,
        Direction::Inactive => Direction::Inactive,
    }
}

/// From its two halves.
pub const fn direction(sends: bool, receives: bool) -> Direction {
    match (sends, receives) {
        (true, true) => Direction::SendRecv,
        (true, false) => Direction::SendOnly,
        (false, true) => Direction::RecvOnly,
        (false, false) => Direction::Inactive,
    }
}

/// What both allow.
pub const fn both(a: Direction, b: Direction) -> Direction {
    direction(a.sends() && b.sends(), a.receives() && b.receives())
}

const fn attribute(direction: Direction) -> &'static str {
    match direction {
        Direction::SendRecv => "sendrecv",
        Direction::SendOnly => "sendonly",
        Direction::RecvOnly => "recvonly",
        Direction::Inactive => "inactive",
    }
}

fn from_attribute(name: &str) -> Option<Direction> {
    match name {
        "sendrecv" => Some(Direction::SendRecv),
        "sendonly" => Some(Direction::SendOnly),
        "recvonly" => Some(Direction::RecvOnly),
        "inactive" => Some(Direction::Inactive),
        _ => None,
    }
}
