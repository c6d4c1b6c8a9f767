//! The station: sessions of routers in, hints out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::frame::FrameError;
use super::hint::{FLAP_WINDOW, Hint, Reason};
use super::message::{Community, Message};
use super::prefix::Prefix;
use super::report::{FeedState, NeighborReport, Report, RouterReport, WayReport};
use super::router::{Dirty, Ignored, Interest, Router};
use super::table::RoutePath;

/// Addresses of interest; more are not looked at.
const INTEREST_MAX: usize = 8_192;
/// Time goes on at least so often.
const TICK: Duration = Duration::from_secs(1);
/// New addresses wait for company so long before routers are made to send all again,
const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// and at least so long since the last time.
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(300);
/// Between looks for what is of no use any more.
const CLEAN_EVERY: Duration = Duration::from_secs(60);
/// ASes of a path that standbys are compared by.
const TRANSIT_MAX: usize = 16;

/// A BGP neighbor of a router that is an upstream of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbor {
    /// Only this router's; else any router's.
    pub router: Option<IpAddr>,
    /// The neighbor's address.
    pub address: IpAddr,
}

/// How the operator reads communities.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Policy {
    /// Routes with one of these are to be left.
    pub drain: Vec<Community>,
    /// Routes with one of these cost so much R.
    pub cost: Vec<(Community, f64)>,
}

/// Facts of the configuration.
#[derive(Debug, Clone, Default)]
pub struct BgpConfig {
    /// Routers that may connect.
    pub routers: Vec<IpAddr>,
    /// Of each upstream, in the order of our overlay addresses.
    pub upstreams: Vec<Vec<Neighbor>>,
    /// Communities.
    pub policy: Policy,
}

/// A router's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Session(pub u64);

/// Why a connection is closed, by us or because it is of no use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Hangup {
    /// The stream is no BMP.
    #[error(transparent)]
    Frame(#[from] FrameError),
    /// There are new addresses of interest: the router is to send all again.
    #[error("new addresses of interest: everything is wanted again")]
    AskedAgain,
    /// The other end closed it, or it broke.
    #[error("closed by the router, or broken")]
    Closed,
    /// A message before Initiation.
    #[error("a message before Initiation (RFC 7854 §4.3)")]
    NotIntroduced,
    /// The router connected again.
    #[error("the router connected again")]
    Replaced,
    /// The router said so.
    #[error("terminated by the router")]
    Terminated,
    /// No router of the configuration.
    #[error("not a router of [bgp] routers")]
    Unknown,
}

impl Hangup {
    /// All, by their labels in metrics.
    pub const NAMES: &'static [&'static str] = &[
        "asked_again",
        "closed",
        "not_bmp",
        "not_introduced",
        "replaced",
        "terminated",
        "unknown_router",
    ];

    /// As a label of metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::AskedAgain => "asked_again",
            Self::Closed => "closed",
            Self::Frame(_) => "not_bmp",
            Self::NotIntroduced => "not_introduced",
            Self::Replaced => "replaced",
            Self::Terminated => "terminated",
            Self::Unknown => "unknown_router",
        }
    }
}

/// What the station wants.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// Close this session; it is over for the station already.
    Close(Session, Hangup),
    /// What speaks against sending to `address` by `upstream` is this now.
    Hint {
        /// Counted from zero.
        upstream: u8,
        /// Of another POP, or of a carrier.
        address: IpAddr,
        /// All of it.
        hint: Hint,
    },
}

/// What is known of sending to one address by one upstream.
#[derive(Debug, Default)]
struct Way {
    /// Hash of the route, when it was last judged.
    hash: Option<u64>,
    changed: Option<Instant>,
    /// Withdrawn since, until everything is told again.
    gone: Option<Instant>,
    prefix: Option<Prefix>,
    path: Option<Arc<RoutePath>>,
    hint: Hint,
}

/// What the tables say of it.
enum Outlook {
    Unknown,
    Withdrawn { since: Instant, flaps: usize },
    Routed { prefix: Prefix, path: Arc<RoutePath>, settled: bool, flaps: usize },
}

/// The machine.
#[derive(Debug)]
pub struct Bgp {
    config: BgpConfig,
    routers: BTreeMap<IpAddr, Router>,
    interest: Interest,
    ways: BTreeMap<(IpAddr, u8), Way>,
    /// Ways whose hint is to be told.
    news: BTreeSet<(IpAddr, u8)>,
    closing: Vec<(Session, Hangup)>,
    sessions: u64,
    ask_again: Option<Instant>,
    asked_again: Option<Instant>,
    cleaned: Instant,
    tick: Instant,
    route_changes: u64,
    withdrawals: u64,
}

impl Bgp {
    /// Nobody connected yet.
    pub fn new(config: BgpConfig, now: Instant) -> Self {
        let routers = config.routers.iter().map(|address| (*address, Router::new(now))).collect();
        Self {
            config,
            routers,
            interest: Interest::new(),
            ways: BTreeMap::new(),
            news: BTreeSet::new(),
            closing: Vec::new(),
            sessions: 0,
            ask_again: None,
            asked_again: None,
            cleaned: now,
            tick: now + TICK,
            route_changes: 0,
            withdrawals: 0,
        }
    }

    /// Addresses whose ways matter: all of them, each time.
    pub fn set_interest(&mut self, addresses: &BTreeSet<IpAddr>, now: Instant) {
        let before = self.interest.len();
        self.interest.retain(|address, _| addresses.contains(address));
        let kept = self.interest.len();
        for address in addresses {
            if self.interest.len() < INTEREST_MAX {
                self.interest.entry(*address).or_insert(now);
            }
        }
        let told = self.routers.values().any(|router| router.session.is_some());
        if self.interest.len() > kept && told {
            let earliest = self.asked_again.map_or(now, |at| at + ASK_AGAIN_EVERY);
            self.ask_again.get_or_insert(earliest.max(now + ASK_AGAIN_AFTER));
        }
        if kept < before {
            let interest = &self.interest;
            // Nothing is held against them any more: that is news, too.
            let gone = self.ways.extract_if(.., |(address, _), _| !interest.contains_key(address));
            self.news.extend(gone.map(|(way, _)| way));
            self.clean(now);
        }
    }

    /// Is a route to this prefix worth parsing?
    pub fn wants(&self, prefix: &Prefix) -> bool {
        self.interest.range(prefix.range()).next().is_some()
    }

    /// A connection came; an older one of the same router is closed.
    pub fn connect(&mut self, router: IpAddr, now: Instant) -> Result<Session, Hangup> {
        let state = self.routers.get_mut(&router).ok_or(Hangup::Unknown)?;
        self.sessions += 1;
        let session = Session(self.sessions);
        if let Some(older) = state.session.take() {
            self.closing.push((older, Hangup::Replaced));
        }
        state.connect(session, now);
        Ok(session)
    }

    /// A connection is no more.
    pub fn disconnect(&mut self, session: Session, now: Instant) {
        let mut routers = self.routers.values_mut();
        if let Some(router) = routers.find(|router| router.session == Some(session)) {
            router.disconnect(now);
        }
    }

    /// The router said something. An error ends the session.
    pub fn handle_message(
        &mut self,
        session: Session,
        message: Message,
        now: Instant,
    ) -> Result<(), Hangup> {
        let mut routers = self.routers.iter_mut();
        let found = routers.find(|(_, router)| router.session == Some(session));
        let Some((address, router)) = found else { return Err(Hangup::Replaced) };
        let mut dirty = Dirty::default();
        let context = (self.config.upstreams.as_slice(), &self.interest);
        let heard = router.handle(message, context, (*address, now), &mut dirty);
        if heard.is_err() {
            router.disconnect(now);
        }
        self.judge_all(&dirty, now);
        heard
    }

    /// Something of the router's could not be used.
    pub fn ignore(&mut self, session: Session, why: Ignored) {
        let mut routers = self.routers.values_mut();
        if let Some(router) = routers.find(|router| router.session == Some(session)) {
            router.ignore(why);
        }
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.tick {
            return;
        }
        self.tick = now + TICK;
        let mut dirty = Dirty::default();
        for router in self.routers.values_mut() {
            router.settle(&self.interest, now, &mut dirty);
        }
        let restless = self.ways.iter().filter(|(_, way)| way.hint.is_restless());
        dirty.addresses.extend(restless.map(|((address, _), _)| *address));
        self.judge_all(&dirty, now);
        if now - self.cleaned >= CLEAN_EVERY {
            self.clean(now);
        }
        if self.ask_again.is_some_and(|at| at <= now) {
            self.ask_again(now);
        }
    }

    fn clean(&mut self, now: Instant) {
        self.cleaned = now;
        let mut dirty = Dirty::default();
        for router in self.routers.values_mut() {
            router.clean(&self.interest, now, &mut dirty);
        }
        self.judge_all(&dirty, now);
    }

    fn ask_again(&mut self, now: Instant) {
        (self.ask_again, self.asked_again) = (None, Some(now));
        for router in self.routers.values_mut() {
            if let Some(session) = router.session {
                router.disconnect(now);
                self.closing.push((session, Hangup::AskedAgain));
            }
        }
    }

    /// When to call [`Self::handle_timeout`].
    pub const fn poll_timeout(&self) -> Instant {
        self.tick
    }

    /// What to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some((session, why)) = self.closing.pop() {
            return Some(Event::Close(session, why));
        }
        let (address, upstream) = self.news.pop_first()?;
        let hint = self.ways.get(&(address, upstream)).map(|way| way.hint.clone());
        Some(Event::Hint { upstream, address, hint: hint.unwrap_or_default() })
    }

    fn judge_all(&mut self, dirty: &Dirty, now: Instant) {
        for way in &dirty.forgotten {
            if let Some(way) = self.ways.get_mut(way) {
                (way.hash, way.gone) = (None, None);
            }
        }
        for address in &dirty.addresses {
            self.judge(*address, now);
        }
    }

    fn judge(&mut self, address: IpAddr, now: Instant) {
        let Some(&wanted) = self.interest.get(&address) else { return };
        let upstreams = 0..u8::try_from(self.config.upstreams.len()).unwrap_or(u8::MAX);
        let outlooks: Vec<Outlook> =
            upstreams.map(|upstream| self.outlook(upstream, address, wanted, now)).collect();
        for (upstream, outlook) in (0..).zip(&outlooks) {
            let way = self.ways.entry((address, upstream)).or_default();
            let (changed, gone) = (way.changed, way.gone);
            way.follow(outlook, now);
            self.route_changes += u64::from(way.changed != changed);
            self.withdrawals += u64::from(way.gone.is_some() && gone.is_none());
        }
        for (upstream, outlook) in (0..).zip(&outlooks) {
            let is_other = |key: &(IpAddr, u8)| key.1 != upstream;
            let others = self.ways.range((address, 0)..=(address, u8::MAX));
            let elsewhere = others.filter(|(key, _)| is_other(key)).any(|(_, w)| w.gone.is_none());
            let Some(way) = self.ways.get_mut(&(address, upstream)) else { continue };
            let hint = way.hint(outlook, elsewhere, &self.config.policy, now);
            if hint.differs(&way.hint) {
                way.hint = hint;
                self.news.insert((address, upstream));
            }
        }
    }

    fn outlook(&self, upstream: u8, address: IpAddr, wanted: Instant, now: Instant) -> Outlook {
        let routers = self.routers.values().filter(|router| router.began >= wanted);
        let neighbors = routers.flat_map(|router| router.neighbors.values());
        let tables: Vec<_> = neighbors
            .filter(|neighbor| neighbor.upstream == upstream)
            .map(super::router::NeighborState::table)
            .collect();
        let settled = tables.iter().all(|table| table.is_settled());
        let mut best: Option<(Prefix, &super::table::Route)> = None;
        let mut gone = None;
        let mut flaps = 0;
        for prefix in Prefix::covering(address) {
            for route in tables.iter().flat_map(|table| table.to(prefix)) {
                flaps = flaps.max(route.withdrawals(FLAP_WINDOW, now));
                if !route.present {
                    gone = gone.max(Some(route.since));
                    continue;
                }
                let shorter = |(_, than): (Prefix, &super::table::Route)| {
                    route.path.as_path.len() < than.path.as_path.len()
                };
                let longest = best.is_none_or(|best| best.0 == prefix && shorter(best));
                if longest {
                    best = Some((prefix, route));
                }
            }
        }
        match (best, gone) {
            (Some((prefix, route)), _) => {
                Outlook::Routed { prefix, path: route.path.clone(), settled, flaps }
            }
            (None, Some(since)) => Outlook::Withdrawn { since, flaps },
            (None, None) => Outlook::Unknown,
        }
    }

    /// Everything that is known, as of now.
    pub fn report(&self, now: Instant) -> Report {
        Report {
            routers: self.routers.iter().map(|(address, r)| router_report(*address, r)).collect(),
            ways: self.ways.iter().map(|(key, way)| way.report(*key)).collect(),
            addresses: self.interest.len(),
            route_changes: self.route_changes,
            withdrawals: self.withdrawals,
            at: now,
        }
    }
}

impl Way {
    fn follow(&mut self, outlook: &Outlook, now: Instant) {
        match outlook {
            Outlook::Unknown => {
                (self.hash, self.gone, self.path, self.prefix) = (None, None, None, None);
            }
            Outlook::Withdrawn { since, .. } => self.gone = Some(*since),
            // Until all is told, what is there may be half of it.
            Outlook::Routed { settled: false, path, prefix, .. } => {
                if self.path.is_none() {
                    (self.path, self.prefix) = (Some(path.clone()), Some(*prefix));
                }
            }
            Outlook::Routed { path, prefix, .. } => {
                if self.hash.is_some_and(|hash| hash != path.hash) {
                    self.changed = Some(now);
                }
                (self.hash, self.gone) = (Some(path.hash), None);
                (self.path, self.prefix) = (Some(path.clone()), Some(*prefix));
            }
        }
    }

    /// `elsewhere`: by another upstream there is a way, or nothing is known against one.
    fn hint(&self, outlook: &Outlook, elsewhere: bool, policy: &Policy, now: Instant) -> Hint {
        let mut hint = Hint::default();
        match outlook {
            Outlook::Unknown => return hint,
            Outlook::Withdrawn { flaps, .. } | Outlook::Routed { flaps, .. } => {
                hint.flapped(*flaps);
            }
        }
        match self.gone {
            Some(since) if elsewhere => hint.drain(Reason::Withdrawn(since)),
            Some(since) => hint.withdrawn_everywhere(since, now),
            None => {}
        }
        if let Outlook::Routed { path, .. } = outlook {
            for community in &path.communities {
                if *community == Community::GRACEFUL_SHUTDOWN {
                    hint.drain(Reason::GracefulShutdown);
                } else if policy.drain.contains(community) {
                    hint.drain(Reason::Drain(*community));
                }
                for (_, cost) in policy.cost.iter().filter(|(priced, _)| priced == community) {
                    hint.cost(*community, *cost);
                }
            }
            hint.transit = transit(&path.as_path);
        }
        if let Some(at) = self.changed {
            hint.changed(at, now);
        }
        hint
    }

    fn report(&self, (address, upstream): (IpAddr, u8)) -> WayReport {
        WayReport {
            address,
            upstream,
            prefix: self.prefix,
            as_path: self.path.as_ref().map(|path| path.as_path.clone()).unwrap_or_default(),
            next_hop: self.path.as_ref().and_then(|path| path.next_hop),
            communities: self.path.as_ref().map(|p| p.communities.clone()).unwrap_or_default(),
            hint: self.hint.clone(),
        }
    }
}

/// All but the destination's own, which all ways share.
fn transit(as_path: &[u32]) -> Arc<[u32]> {
    let Some((origin, between)) = as_path.split_last() else { return Arc::default() };
    let between: BTreeSet<u32> = between.iter().copied().filter(|asn| asn != origin).collect();
    between.into_iter().take(TRANSIT_MAX).collect()
}

fn router_report(address: IpAddr, router: &Router) -> RouterReport {
    let neighbors = router.neighbors.iter().map(|(key, neighbor)| NeighborReport {
        address: key.address,
        upstream: neighbor.upstream,
        asn: neighbor.asn,
        up: neighbor.own_asn.is_some(),
        since: neighbor.since,
        routes: neighbor.table().present(),
        settled: neighbor.table().is_settled(),
        downs: neighbor.downs,
        made_up: neighbor.is_made_up(),
    });
    let neighbors: Vec<_> = neighbors.collect();
    let made_up = neighbors.iter().any(|neighbor| neighbor.made_up);
    let state = match (router.session.is_some(), made_up) {
        (false, _) => FeedState::Lost,
        (true, true) => FeedState::MadeUp,
        (true, false) => FeedState::Up,
    };
    RouterReport {
        address,
        name: router.name.clone(),
        state,
        since: router.since,
        messages: router.messages,
        ignored: router.ignored.clone(),
        unmapped: router.unmapped.iter().copied().collect(),
        neighbors,
    }
}
