//! Who reaches whom, how late, and what gets lost.
//!
//! POPs (and control nodes) are far from each other, each with a carrier near it. Datagrams get
//! lost; streams (QUIC, gRPC) are reliable and ordered, wait while their way is cut, and break when
//! that lasts longer than the idle timeout.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use chaos::rng::Rng;
use proto::time::{Duration, Instant};

/// As the shell's QUIC: a silent connection is given up after this.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
/// And a new one is up this long after the way is free.
pub const RECONNECT: Duration = Duration::from_millis(400);

/// Regions, and so POPs, carriers and control nodes.
pub const REGIONS: usize = 3;

/// A pair of regions, the lower first.
pub type Pair = (usize, usize);

/// The pair of two regions.
pub fn pair(a: usize, b: usize) -> Pair {
    (a.min(b), a.max(b))
}

/// All pairs.
pub const PAIRS: [Pair; REGIONS] = [(0, 1), (0, 2), (1, 2)];

/// What the plan says about the network.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Share of datagrams lost between regions.
    pub far_loss: f64,
    /// Share of datagrams lost between carrier and POP.
    pub near_loss: f64,
}

/// The network.
pub struct Net {
    rng: Rng,
    conditions: Conditions,
    far_cut: BTreeSet<Pair>,
    raft_cut: BTreeSet<Pair>,
    /// When the last message of an ordered way arrives, by way.
    ordered: BTreeMap<(usize, usize, Way), Instant>,
}

/// Ordered ways between regions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Way {
    /// Call streams of two POPs.
    Calls,
    /// Raft messages of two control nodes.
    Raft,
    /// A watch.
    Watch,
}

impl Net {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self {
            rng: Rng::split(seed, "network"),
            conditions,
            far_cut: BTreeSet::new(),
            raft_cut: BTreeSet::new(),
            ordered: BTreeMap::new(),
        }
    }

    /// When a datagram between carrier and POP arrives; `None`: lost.
    pub fn near(&mut self, now: Instant) -> Option<Instant> {
        let lost = self.rng.next_f64() < self.conditions.near_loss;
        (!lost).then(|| now + Duration::from_micros(500 + self.rng.below(500)))
    }

    /// When a datagram between POPs arrives; `None`: lost or cut.
    pub fn far(&mut self, from: usize, to: usize, now: Instant) -> Option<Instant> {
        let lost = self.rng.next_f64() < self.conditions.far_loss;
        let jitter = Duration::from_micros(self.rng.below(5_000));
        (!lost && !self.is_cut(from, to)).then(|| now + delay(from, to) + jitter)
    }

    /// When a message on a reliable, ordered way arrives.
    pub fn ordered(&mut self, from: usize, to: usize, way: Way, now: Instant) -> Instant {
        let jitter = Duration::from_micros(self.rng.below(2_000));
        let due = now + delay(from, to) + jitter;
        let last = self.ordered.entry((from, to, way)).or_default();
        *last = due.max(*last);
        *last
    }

    /// Whether a raft message gets through.
    pub fn raft_passes(&mut self, from: usize, to: usize) -> bool {
        let lost = self.rng.next_f64() < self.conditions.far_loss;
        !lost && !self.raft_cut.contains(&pair(from, to))
    }

    pub fn cut(&mut self, ends: Pair) {
        self.far_cut.insert(ends);
    }

    pub fn heal(&mut self, ends: Pair) {
        self.far_cut.remove(&ends);
    }

    pub fn is_cut(&self, a: usize, b: usize) -> bool {
        self.far_cut.contains(&pair(a, b))
    }

    pub fn cut_raft(&mut self, ends: Pair) {
        self.raft_cut.insert(ends);
    }

    pub fn heal_raft(&mut self, ends: Pair) {
        self.raft_cut.remove(&ends);
    }
}

/// One way, without jitter.
pub fn delay(from: usize, to: usize) -> Duration {
    match pair(from, to) {
        (a, b) if a == b => Duration::from_millis(1),
        (0, 1) => Duration::from_millis(40),
        (0, 2) => Duration::from_millis(80),
        _ => Duration::from_millis(100),
    }
}

/// Benchmark addresses (RFC 2544): `.1` a POP, `.2` its carrier.
fn host(region: usize, last: u8) -> IpAddr {
    let third = u8::try_from(region).unwrap_or(u8::MAX);
    IpAddr::V4(Ipv4Addr::new(198, 18, third, last))
}

/// Where a POP takes SIP, and receives media.
pub fn pop_sip(region: usize) -> SocketAddr {
    SocketAddr::new(host(region, 1), 5060)
}

/// Where a carrier takes SIP, and receives media.
pub fn carrier_sip(region: usize) -> SocketAddr {
    SocketAddr::new(host(region, 2), 5060)
}
