//! Statistics of the paths to other POPs.

use proto::time::Duration;

/// What was measured on the datagrams of one peer.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct LinkStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams lost on the way to us, by sequence gaps.
    pub lost: u64,
    /// Datagrams received twice.
    pub duplicate: u64,
    /// Datagrams received after a later one.
    pub reordered: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Interarrival jitter (as RFC 3550 A.8) by the send times in the datagrams.
    pub jitter: Duration,
    /// How much longer than the shortest the one-way delay is now.
    pub queueing: Duration,
}
