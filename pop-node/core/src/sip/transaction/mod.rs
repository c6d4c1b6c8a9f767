//! The transaction machines of RFC 3261 §17 and RFC 6026.

use proto::time::Duration;

/// The timers of RFC 3261 §17 (table 4), RFC 6026 §7, and three guards of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// INVITE request retransmit, unreliable transports only (§17.1.1.2).
    A,
    /// INVITE client timeout (§17.1.1.2).
    B,
    /// Wait for response retransmits to an INVITE (§17.1.1.2).
    D,
    /// Non-INVITE request retransmit (§17.1.2.2).
    E,
    /// Non-INVITE client timeout (§17.1.2.2).
    F,
    /// INVITE final response retransmit (§17.2.1).
    G,
    /// Wait for ACK (§17.2.1).
    H,
    /// Wait for ACK retransmits (§17.2.1).
    I,
    /// Wait for non-INVITE request retransmits (§17.2.2).
    J,
    /// Wait for response retransmits (§17.1.2.2).
    K,
    /// Wait for accepted INVITE retransmits and for the ACK to the 2xx (RFC 6026 §7.1).
    L,
    /// Wait for 2xx retransmits (RFC 6026 §7.2).
    M,
    /// 2xx retransmit until the ACK comes (§13.3.1.4).
    Success,
    /// A cancelled INVITE that gets no final response (§9.1).
    Cancelled,
    /// A non-INVITE request that our own user never answers: the client has given up (RFC 4320).
    Unanswered,
}

/// The base values (RFC 3261 §17, table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerValues {
    /// Round-trip estimate; default 500 ms.
    pub t1: Duration,
    /// Longest retransmit interval; default 4 s.
    pub t2: Duration,
    /// Longest life of a message in the network; default 5 s.
    pub t4: Duration,
}

impl Default for TimerValues {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}
