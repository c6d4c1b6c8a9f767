//! The station: sessions of routers in, hints out.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::ops::Bound;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::frame::FrameError;
use super::hint::Hint;
use super::message::{Community, Message};
use super::prefix::Prefix;
use super::report::{FeedState, NeighborReport, Report, RouterReport};
use super::router::{ASK_AGAIN_AFTER, Dirty, Interest, Router};
use super::rpki::{Validity, Vrps};
use super::sense::Distrust;
use super::way::{Elsewhere, Outlook, Way};

/// Addresses of interest; more are not looked at.
const INTEREST_MAX: usize = 8_192;
/// Time goes on at least so often.
const TICK: Duration = Duration::from_secs(1);
/// Addresses judged in one turn; more wait for the next one, which is due at once.
const JUDGED_MAX: usize = 128;
/// Between looks for what is of no use any more.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

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
    /// What it told makes no sense: the router is to send all again.
    #[error("what it told of a neighbor is not believed: everything is wanted again")]
    Distrusted,
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
        "distrusted",
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
            Self::Distrusted => "distrusted",
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
    /// An alarm: what this router tells of this neighbor is not believed until it told all again.
    Distrusted {
        /// Which router.
        router: IpAddr,
        /// Its neighbor.
        neighbor: IpAddr,
        /// Why.
        why: Distrust,
    },
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

/// The machine.
#[derive(Debug)]
pub struct Bgp {
    config: BgpConfig,
    routers: BTreeMap<IpAddr, Router>,
    interest: Interest,
    /// Who may originate which prefix.
    vrps: Arc<Vrps>,
    ways: BTreeMap<(IpAddr, u8), Way>,
    /// Ways whose hint is to be told.
    news: BTreeSet<(IpAddr, u8)>,
    closing: Vec<(Session, Hangup)>,
    alarms: Vec<Event>,
    /// Addresses to be judged, and which was the last.
    pending: BTreeSet<IpAddr>,
    judged: Option<IpAddr>,
    sessions: u64,
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
            vrps: Arc::default(),
            ways: BTreeMap::new(),
            news: BTreeSet::new(),
            closing: Vec::new(),
            alarms: Vec::new(),
            pending: BTreeSet::new(),
            judged: None,
            sessions: 0,
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
        if self.interest.len() > kept {
            let routers = self.routers.values_mut();
            routers.for_each(|router| router.ask(Hangup::AskedAgain, ASK_AGAIN_AFTER, now));
        }
        if kept < before {
            let interest = &self.interest;
            // Nothing is held against them any more: that is news, too.
            let gone = self.ways.extract_if(.., |(address, _), _| !interest.contains_key(address));
            self.news.extend(gone.map(|(way, _)| way));
            self.clean(now);
        }
    }

    /// What RPKI says now: all of it, each time.
    pub fn set_vrps(&mut self, vrps: Arc<Vrps>, now: Instant) {
        self.vrps = vrps;
        self.pending.extend(self.interest.keys());
        self.judge_some(now);
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
        self.handle_messages(session, [message], now)
    }

    /// The router said all this at once: it is judged by what is so at its end.
    pub fn handle_messages(
        &mut self,
        session: Session,
        messages: impl IntoIterator<Item = Message>,
        now: Instant,
    ) -> Result<(), Hangup> {
        let mut routers = self.routers.iter_mut();
        let found = routers.find(|(_, router)| router.session == Some(session));
        let Some((address, router)) = found else { return Err(Hangup::Replaced) };
        let mut dirty = Dirty::default();
        let context = (self.config.upstreams.as_slice(), &self.interest);
        let mut messages = messages.into_iter();
        let heard = messages
            .try_for_each(|message| router.handle(message, context, (*address, now), &mut dirty));
        if heard.is_err() {
            router.disconnect(now);
        }
        let alarms = router.take_alarms().into_iter();
        let alarm = |(neighbor, why)| Event::Distrusted { router: *address, neighbor, why };
        self.alarms.extend(alarms.map(alarm));
        self.judge_all(&dirty, now);
        heard
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        if now < self.tick {
            return self.judge_some(now);
        }
        self.tick = now + TICK;
        let mut dirty = Dirty::default();
        for router in self.routers.values_mut() {
            router.settle(now, &mut dirty);
        }
        let restless = self.ways.iter().filter(|(_, way)| way.hint.is_restless());
        self.pending.extend(restless.map(|((address, _), _)| *address));
        self.judge_all(&dirty, now);
        if now - self.cleaned >= CLEAN_EVERY {
            self.clean(now);
        }
        self.closing.extend(self.routers.values_mut().filter_map(|router| router.ask_again(now)));
    }

    fn clean(&mut self, now: Instant) {
        self.cleaned = now;
        let mut dirty = Dirty::default();
        for router in self.routers.values_mut() {
            router.clean(&self.interest, now, &mut dirty);
        }
        self.judge_all(&dirty, now);
    }

    /// When to call [`Self::handle_timeout`].
    pub fn poll_timeout(&self) -> Instant {
        // What waits is due already.
        if self.pending.is_empty() { self.tick } else { self.cleaned }
    }

    /// What to do next.
    pub fn poll_event(&mut self) -> Option<Event> {
        if let Some((session, why)) = self.closing.pop() {
            return Some(Event::Close(session, why));
        }
        if let Some(alarm) = self.alarms.pop() {
            return Some(alarm);
        }
        let (address, upstream) = self.news.pop_first()?;
        let hint = self.ways.get(&(address, upstream)).map(|way| way.hint.clone());
        Some(Event::Hint { upstream, address, hint: hint.unwrap_or_default() })
    }

    fn judge_all(&mut self, dirty: &Dirty, now: Instant) {
        for way in dirty.forgotten(&self.interest) {
            if let Some(way) = self.ways.get_mut(&way) {
                way.forget();
            }
        }
        self.pending.extend(dirty.addresses(&self.interest));
        self.judge_some(now);
    }

    /// Going round, so that who always has something new does not keep the others waiting.
    fn judge_some(&mut self, now: Instant) {
        for _ in 0..JUDGED_MAX {
            let after = self.judged.map_or(Bound::Unbounded, Bound::Excluded);
            let next = self.pending.range((after, Bound::Unbounded)).next();
            let Some(next) = next.or_else(|| self.pending.first()).copied() else { return };
            self.pending.remove(&next);
            self.judged = Some(next);
            self.judge(next, now);
        }
    }

    fn judge(&mut self, address: IpAddr, now: Instant) {
        let Some(&wanted) = self.interest.get(&address) else { return };
        let upstreams = 0..u8::try_from(self.config.upstreams.len()).unwrap_or(u8::MAX);
        let outlooks: Vec<Outlook> = upstreams
            .map(|upstream| Outlook::of(&self.routers, upstream, address, wanted))
            .collect();
        for (upstream, outlook) in (0..).zip(&outlooks) {
            let way = self.ways.entry((address, upstream)).or_default();
            let (changed, gone) = (way.changed, way.gone);
            way.follow(outlook, &self.routers, now);
            way.validity = outlook.validity(address, &self.vrps);
            self.route_changes += u64::from(way.changed != changed);
            self.withdrawals += u64::from(way.gone.is_some() && gone.is_none());
        }
        for (upstream, outlook) in (0..).zip(&outlooks) {
            let elsewhere = self.elsewhere(address, upstream);
            let Some(way) = self.ways.get_mut(&(address, upstream)) else { continue };
            let hint = way.hint(outlook, elsewhere, &self.config.policy, now);
            if hint.differs(&way.hint) {
                way.hint = hint;
                self.news.insert((address, upstream));
            }
        }
    }

    fn elsewhere(&self, address: IpAddr, upstream: u8) -> Elsewhere {
        let all = self.ways.range((address, 0)..=(address, u8::MAX));
        let others = all.filter(|(key, way)| key.1 != upstream && way.gone.is_none());
        let others: Vec<Validity> = others.map(|(_, way)| way.validity).collect();
        let allowed = others.iter().any(|validity| *validity != Validity::Invalid);
        Elsewhere { reachable: !others.is_empty(), allowed }
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
        distrust: neighbor.distrust,
    });
    let neighbors: Vec<_> = neighbors.collect();
    let made_up = neighbors.iter().any(|neighbor| neighbor.made_up);
    let distrusted = neighbors.iter().any(|neighbor| neighbor.distrust.is_some());
    let state = match router.session {
        None => FeedState::Lost,
        Some(_) if distrusted => FeedState::Distrusted,
        Some(_) if made_up => FeedState::MadeUp,
        Some(_) => FeedState::Up,
    };
    RouterReport {
        address,
        name: router.name.clone(),
        state,
        since: router.since,
        messages: router.messages,
        distrusts: router.distrusts.clone(),
        ignored: router.ignored.clone(),
        unmapped: router.unmapped.iter().copied().collect(),
        neighbors,
    }
}
