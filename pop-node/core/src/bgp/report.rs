//! What the station knows, for people and metrics.

use std::collections::BTreeMap;
use std::net::IpAddr;

use proto::time::Instant;

use super::hint::Hint;
use super::message::Community;
use super::prefix::Prefix;
use super::router::Ignored;
use super::rpki::Validity;
use super::sense::Distrust;

/// Is what a router tells of use?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedState {
    /// It tells.
    Up,
    /// It does not: paths are chosen by measurement alone.
    Lost,
    /// Of a neighbor it tells withdrawals only, which mean nothing.
    MadeUp,
    /// What it told of a neighbor is not believed; it is asked to tell all again.
    Distrusted,
}

impl FeedState {
    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Lost => "lost",
            Self::MadeUp => "made_up",
            Self::Distrusted => "distrusted",
        }
    }
}

/// One BGP session of a router with an upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct NeighborReport {
    /// The neighbor.
    pub address: IpAddr,
    /// Of which it is one.
    pub upstream: u8,
    /// The neighbor's AS.
    pub asn: u32,
    /// Established?
    pub up: bool,
    /// When that changed.
    pub since: Instant,
    /// Routes kept of it.
    pub routes: usize,
    /// Everything was told.
    pub settled: bool,
    /// How often it went down.
    pub downs: u64,
    /// Withdrawals only, which mean nothing.
    pub made_up: bool,
    /// Why nothing it tells is believed, since when.
    pub distrust: Option<(Distrust, Instant)>,
}

/// One router.
#[derive(Debug, Clone, PartialEq)]
pub struct RouterReport {
    /// As configured.
    pub address: IpAddr,
    /// As it calls itself.
    pub name: Option<String>,
    /// Is it of use?
    pub state: FeedState,
    /// When it connected, or was lost.
    pub since: Instant,
    /// BMP messages.
    pub messages: u64,
    /// How often what it told of a neighbor was no longer believed, by reason.
    pub distrusts: BTreeMap<Distrust, u64>,
    /// Messages of no use, by reason.
    pub ignored: BTreeMap<Ignored, u64>,
    /// Its neighbors that are no upstream's.
    pub unmapped: Vec<IpAddr>,
    /// Those that are.
    pub neighbors: Vec<NeighborReport>,
}

/// One address by one upstream.
#[derive(Debug, Clone, PartialEq)]
pub struct WayReport {
    /// Of another POP, or of a carrier.
    pub address: IpAddr,
    /// Counted from zero.
    pub upstream: u8,
    /// The route to it, or the one that there was.
    pub prefix: Option<Prefix>,
    /// Without the router's own AS.
    pub as_path: Vec<u32>,
    /// Next hop.
    pub next_hop: Option<IpAddr>,
    /// Sorted.
    pub communities: Vec<Community>,
    /// What RPKI says of the route's origin.
    pub validity: Validity,
    /// What speaks against it.
    pub hint: Hint,
}

/// All of it.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// As configured.
    pub routers: Vec<RouterReport>,
    /// What is known of each address, by each upstream.
    pub ways: Vec<WayReport>,
    /// Addresses of interest.
    pub addresses: usize,
    /// How often the route of a way changed.
    pub route_changes: u64,
    /// How often a way was left without route.
    pub withdrawals: u64,
    /// As of then.
    pub at: Instant,
}
