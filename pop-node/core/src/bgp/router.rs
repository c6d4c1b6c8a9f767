//! One router: its BMP session and what it said of its neighbors.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::frame::{PeerHeader, PeerKey, Rib};
use super::message::{Message, Update};
use super::prefix::Prefix;
use super::sense::Distrust;
use super::station::{Hangup, Neighbor, Session};
use super::table::{Learned, RoutePath, Table};

/// Neighbors kept of one router, of those that are an upstream's.
const NEIGHBORS_MAX: usize = 64;
/// What a lost session told is held for so long: routers reconnect, and send all again.
const HELD: Duration = Duration::from_secs(60);
/// Between two times that a router is made to send all again. New addresses wait for company so long:
const ASK_AGAIN_EVERY: Duration = Duration::from_secs(300);
pub(super) const ASK_AGAIN_AFTER: Duration = Duration::from_secs(10);
/// A neighbor that was not spoken of for so long in a new session is none any more.
const RETOLD: Duration = Duration::from_secs(300);

macro_rules! ignored {
    ($($(#[$doc:meta])* $name:ident = $label:literal,)+) => {
        /// Why something of a router's was not used.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Ignored {
            $($(#[$doc])* $name,)+
        }

        impl Ignored {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            /// As a label of metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => $label,)+ }
            }
        }
    };
}

ignored! {
    /// RFC 8671: what the router sends.
    AdjRibOut = "adj_rib_out",
    /// Routes of a neighbor that is not up: its AS is not known.
    BeforePeerUp = "before_peer_up",
    /// Routes of a table that is not believed, until it is told anew.
    Distrusted = "distrusted",
    /// RFC 9069: the router's choice among all neighbors.
    LocRib = "loc_rib",
    /// A message that cannot be read: what it says is unknown.
    Malformed = "malformed",
    /// A route to an address of interest, and no room for it.
    NoRoom = "no_room",
    /// Statistics, mirrored messages, unknown types.
    Other = "other",
    /// Of a neighbor that is no upstream's.
    OtherNeighbor = "other_neighbor",
    /// A peer type nobody knows.
    UnknownPeerType = "unknown_peer_type",
}

#[derive(Debug)]
pub(super) struct NeighborState {
    pub(super) upstream: u8,
    pub(super) asn: u32,
    /// The router's AS there; `Some` while the BGP session is up.
    pub(super) own_asn: Option<u32>,
    /// Spoken of in this BMP session.
    told: bool,
    pub(super) since: Instant,
    /// Since when what is known of it waits to be told again by a session that lasts.
    unconfirmed: Option<Instant>,
    pub(super) downs: u64,
    /// Nothing it says is believed until all is told anew.
    pub(super) distrust: Option<(Distrust, Instant)>,
    pre: Table,
    post: Table,
}

impl NeighborState {
    fn new(upstream: u8, asn: u32, now: Instant) -> Self {
        Self {
            upstream,
            asn,
            own_asn: None,
            told: false,
            since: now,
            unconfirmed: None,
            downs: 0,
            distrust: None,
            pre: Table::default(),
            post: Table::default(),
        }
    }

    fn tables_mut(&mut self) -> [&mut Table; 2] {
        [&mut self.pre, &mut self.post]
    }

    /// What the router accepted, if it tells, for that is what it sends by; else what it received.
    pub(super) fn table(&self) -> &Table {
        if self.is_post() { &self.post } else { &self.pre }
    }

    /// Is [`Self::table`] what the router accepted?
    pub(super) fn is_post(&self) -> bool {
        !self.post.is_empty()
    }

    /// One of its tables, after the router's policy or before.
    pub(super) const fn table_of(&self, post: bool) -> &Table {
        if post { &self.post } else { &self.pre }
    }

    /// Nothing it told counts any more.
    fn distrust(&mut self, why: Distrust, dirty: &mut Dirty, now: Instant) {
        self.distrust = Some((why, now));
        let upstream = self.upstream;
        for table in self.tables_mut() {
            dirty.forget(table.prefixes(), upstream);
            *table = Table::default();
        }
    }

    pub(super) fn is_made_up(&self) -> bool {
        self.pre.is_made_up() && self.post.is_empty() || self.post.is_made_up()
    }

    fn down(&mut self, now: Instant) {
        if self.own_asn.take().is_some() {
            self.downs += 1;
            self.since = now;
        }
        (self.told, self.unconfirmed) = (true, None);
        self.tables_mut().into_iter().for_each(|table| table.withdraw_all(now));
    }
}

/// Addresses of interest, and since when.
pub(super) type Interest = BTreeMap<IpAddr, Instant>;

/// What is to be judged anew: prefixes, because wide ones cover all addresses each time they are told.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    touched: BTreeSet<Prefix>,
    /// By upstream: of these nothing is known any more, what comes next is no change.
    forgotten: BTreeMap<u8, BTreeSet<Prefix>>,
}

impl Dirty {
    fn touch<'a>(&mut self, prefixes: impl IntoIterator<Item = &'a Prefix>) {
        self.touched.extend(prefixes);
    }

    fn forget<'a>(&mut self, prefixes: impl IntoIterator<Item = &'a Prefix>, upstream: u8) {
        let mut prefixes = prefixes.into_iter().peekable();
        if prefixes.peek().is_some() {
            self.forgotten.entry(upstream).or_default().extend(prefixes);
        }
    }

    /// Ways of which nothing is known any more.
    pub(super) fn forgotten(&self, interest: &Interest) -> Vec<(IpAddr, u8)> {
        let of = |(upstream, prefixes): (&u8, &BTreeSet<Prefix>)| {
            let upstream = *upstream;
            covered(prefixes, interest).into_iter().map(move |address| (address, upstream))
        };
        self.forgotten.iter().flat_map(of).collect()
    }

    /// All that is to be looked at.
    pub(super) fn addresses(&self, interest: &Interest) -> Vec<IpAddr> {
        let forgotten = self.forgotten.values().flat_map(|prefixes| covered(prefixes, interest));
        covered(&self.touched, interest).into_iter().chain(forgotten).collect()
    }
}

/// Addresses that are covered, each once: wide prefixes come before those within them.
fn covered(prefixes: &BTreeSet<Prefix>, interest: &Interest) -> Vec<IpAddr> {
    let mut all = Vec::new();
    let mut done = None;
    for range in prefixes.iter().map(Prefix::range) {
        if done.is_none_or(|done| *range.end() > done) {
            done = Some(*range.end());
            all.extend(interest.range(range).map(|(address, _)| *address));
        }
    }
    all
}

#[derive(Debug)]
pub(super) struct Router {
    pub(super) session: Option<Session>,
    /// When the session began, or ended.
    pub(super) since: Instant,
    /// Of the present session, or of the last one.
    pub(super) began: Instant,
    introduced: bool,
    pub(super) name: Option<String>,
    pub(super) neighbors: BTreeMap<PeerKey, NeighborState>,
    pub(super) messages: u64,
    pub(super) ignored: BTreeMap<Ignored, u64>,
    pub(super) distrusts: BTreeMap<Distrust, u64>,
    /// Not told yet: of which neighbor, why.
    alarms: Vec<(IpAddr, Distrust)>,
    /// To be made to send all again then, and why.
    ask: Option<(Instant, Hangup)>,
    asked: Option<Instant>,
    /// Neighbors that are no upstream's: for who wonders why nothing comes of them.
    pub(super) unmapped: BTreeSet<IpAddr>,
}

impl Router {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            session: None,
            since: now,
            began: now,
            introduced: false,
            name: None,
            neighbors: BTreeMap::new(),
            messages: 0,
            ignored: BTreeMap::new(),
            distrusts: BTreeMap::new(),
            alarms: Vec::new(),
            ask: None,
            asked: None,
            unmapped: BTreeSet::new(),
        }
    }

    pub(super) fn connect(&mut self, session: Session, now: Instant) {
        (self.session, self.since, self.began) = (Some(session), now, now);
        (self.introduced, self.ask) = (false, None);
        for neighbor in self.neighbors.values_mut() {
            (neighbor.told, neighbor.own_asn) = (false, None);
            neighbor.unconfirmed.get_or_insert(now);
            neighbor.tables_mut().into_iter().for_each(Table::begin);
        }
    }

    pub(super) fn disconnect(&mut self, now: Instant) {
        (self.session, self.since) = (None, now);
        for neighbor in self.neighbors.values_mut() {
            neighbor.unconfirmed.get_or_insert(now);
            neighbor.tables_mut().into_iter().for_each(Table::begin);
        }
    }

    /// Neighbors that are not believed since the last time.
    pub(super) fn take_alarms(&mut self) -> Vec<(IpAddr, Distrust)> {
        std::mem::take(&mut self.alarms)
    }

    /// Wants all to be sent again, some time.
    pub(super) fn ask(&mut self, why: Hangup, after: Duration, now: Instant) {
        if self.session.is_some() {
            let earliest = self.asked.map_or(now, |at| at + ASK_AGAIN_EVERY);
            let ask = (earliest.max(now + after), why);
            self.ask = Some(self.ask.filter(|sooner| sooner.0 <= ask.0).unwrap_or(ask));
        }
    }

    /// The session to be closed, if it is time.
    pub(super) fn ask_again(&mut self, now: Instant) -> Option<(Session, Hangup)> {
        let (_, why) = self.ask.take_if(|(at, _)| *at <= now)?;
        let session = self.session?;
        self.asked = Some(now);
        self.disconnect(now);
        Some((session, why))
    }

    fn ignore(&mut self, why: Ignored) {
        *self.ignored.entry(why).or_default() += 1;
    }

    pub(super) fn handle(
        &mut self,
        message: Message,
        (upstreams, interest): (&[Vec<Neighbor>], &Interest),
        (router, now): (IpAddr, Instant),
        dirty: &mut Dirty,
    ) -> Result<(), Hangup> {
        self.messages += 1;
        let (peer, what) = match message {
            Message::Initiation { name } => {
                self.introduced = true;
                self.name = name.or(self.name.take());
                return Ok(());
            }
            // RFC 7854 §4.3: it is first, always.
            _ if !self.introduced => return Err(Hangup::NotIntroduced),
            Message::Termination => return Err(Hangup::Terminated),
            Message::Other => {
                self.ignore(Ignored::Other);
                return Ok(());
            }
            Message::Malformed { peer } => {
                self.ignore(Ignored::Malformed);
                let Some(peer) = peer else { return Ok(()) };
                (peer, What::Malformed)
            }
            Message::PeerUp { peer, own_asn } => (peer, What::Up(own_asn)),
            Message::PeerDown { peer } => (peer, What::Down),
            Message::Routes { peer, update } => (peer, What::Routes(update)),
        };
        match peer.rib {
            Rib::AdjOut => self.ignore(Ignored::AdjRibOut),
            Rib::Local => self.ignore(Ignored::LocRib),
            Rib::Unknown => self.ignore(Ignored::UnknownPeerType),
            Rib::AdjInPre | Rib::AdjInPost => {
                if let Some(upstream) = self.upstream(router, &peer, upstreams) {
                    self.hear(upstream, peer, what, (interest, now), dirty);
                }
            }
        }
        Ok(())
    }

    fn upstream(
        &mut self,
        router: IpAddr,
        peer: &PeerHeader,
        upstreams: &[Vec<Neighbor>],
    ) -> Option<u8> {
        if let Some(known) = self.neighbors.get(&peer.key) {
            return Some(known.upstream);
        }
        let is = |neighbor: &Neighbor| {
            neighbor.address == peer.key.address
                && neighbor.router.is_none_or(|only| only == router)
        };
        let mapped = upstreams.iter().position(|neighbors| neighbors.iter().any(is));
        let upstream = mapped.and_then(|upstream| u8::try_from(upstream).ok());
        if upstream.is_none() || self.neighbors.len() >= NEIGHBORS_MAX {
            self.ignore(Ignored::OtherNeighbor);
            if self.unmapped.len() < NEIGHBORS_MAX {
                self.unmapped.insert(peer.key.address);
            }
            return None;
        }
        upstream
    }

    fn hear(
        &mut self,
        upstream: u8,
        peer: PeerHeader,
        what: What,
        (interest, now): (&Interest, Instant),
        dirty: &mut Dirty,
    ) {
        let new = || NeighborState::new(upstream, peer.asn, now);
        let neighbor = self.neighbors.entry(peer.key).or_insert_with(new);
        let distrusted = neighbor.distrust;
        match what {
            What::Up(own_asn) => {
                // Also twice in a row: everything comes anew.
                neighbor.tables_mut().into_iter().for_each(Table::begin);
                (neighbor.since, neighbor.distrust) = (now, None);
                (neighbor.own_asn, neighbor.told, neighbor.asn) = (Some(own_asn), true, peer.asn);
            }
            // Also of a neighbor that never was up, again and again: then nothing is new.
            What::Down => {
                neighbor.down(now);
                dirty.touch(neighbor.pre.prefixes().chain(neighbor.post.prefixes()));
            }
            What::Malformed => {
                neighbor.told = true;
                neighbor.distrust(Distrust::Malformed, dirty, now);
            }
            What::Routes(update) => match neighbor.own_asn {
                _ if distrusted.is_some() => self.ignore(Ignored::Distrusted),
                None => self.ignore(Ignored::BeforePeerUp),
                Some(own) => {
                    let post = peer.rib == Rib::AdjInPost;
                    let table = if post { &mut neighbor.post } else { &mut neighbor.pre };
                    let refused = learn(table, update, own, interest, now, dirty);
                    if let Some(why) = table.distrust(now) {
                        neighbor.distrust(why, dirty, now);
                    }
                    (0..refused).for_each(|_| self.ignore(Ignored::NoRoom));
                }
            },
        }
        let distrust = self.neighbors.get(&peer.key).and_then(|neighbor| neighbor.distrust);
        if let Some((why, _)) = distrust.filter(|_| distrusted.is_none()) {
            *self.distrusts.entry(why).or_default() += 1;
            if self.alarms.len() < NEIGHBORS_MAX {
                self.alarms.push((peer.key.address, why));
            }
        }
        if distrust.is_some() {
            self.ask(Hangup::Distrusted, Duration::ZERO, now);
        }
    }

    /// What time changes.
    pub(super) fn settle(&mut self, now: Instant, dirty: &mut Dirty) {
        let connected = self.session.is_some();
        for neighbor in self.neighbors.values_mut() {
            // Not since the session began: one that comes and goes would confirm nothing for ever.
            let waited = neighbor.unconfirmed.map_or(Duration::ZERO, |since| now - since);
            let retold = connected && waited >= RETOLD;
            let gone = !connected && waited >= HELD;
            let (upstream, lost) = (neighbor.upstream, gone || retold && !neighbor.told);
            let mut confirmed = false;
            for table in neighbor.tables_mut() {
                if let Some(forgotten) = table.settle(now) {
                    confirmed = true;
                    dirty.forget(&forgotten, upstream);
                    dirty.touch(table.prefixes());
                }
                if (lost || retold && table.is_awaited()) && table.has_stale() {
                    dirty.forget(table.prefixes(), upstream);
                    table.forget_stale();
                }
                if lost && !table.is_empty() {
                    dirty.forget(table.prefixes(), upstream);
                    *table = Table::default();
                }
            }
            if confirmed && connected {
                neighbor.unconfirmed = None;
            }
        }
        self.neighbors.retain(|_, neighbor| {
            let waited = neighbor.unconfirmed.map_or(Duration::ZERO, |since| now - since);
            !connected || neighbor.told || waited < RETOLD
        });
    }

    /// What covers no address of interest any more, and what is gone for long.
    pub(super) fn clean(&mut self, interest: &Interest, now: Instant, dirty: &mut Dirty) {
        let wanted = |prefix: &Prefix| interest.range(prefix.range()).next().is_some();
        for neighbor in self.neighbors.values_mut() {
            let upstream = neighbor.upstream;
            for table in neighbor.tables_mut() {
                let gone: Vec<Prefix> = table.clean(wanted, now);
                dirty.forget(&gone, upstream);
            }
        }
    }
}

enum What {
    Up(u32),
    Down,
    Malformed,
    Routes(Update),
}

/// How many routes found no room.
fn learn(
    table: &mut Table,
    update: Update,
    own: u32,
    interest: &Interest,
    now: Instant,
    dirty: &mut Dirty,
) -> usize {
    let Update { withdrawn, announced, attributes, withdrawn_total, announced_total } = update;
    table.count(announced_total, withdrawn_total, now);
    let wanted = |prefix: &Prefix| interest.range(prefix.range()).next().is_some();
    for nlri in withdrawn.iter().filter(|nlri| wanted(&nlri.prefix)) {
        if table.withdraw(nlri, now) {
            dirty.touch([&nlri.prefix]);
        }
    }
    let announced: Vec<_> = announced.iter().filter(|nlri| wanted(&nlri.prefix)).collect();
    if announced.is_empty() {
        return 0;
    }
    let path = Arc::new(RoutePath::new(attributes, own));
    let mut refused = 0;
    for nlri in announced {
        match table.announce(*nlri, &path, now) {
            Learned::Same => {}
            Learned::Changed => dirty.touch([&nlri.prefix]),
            Learned::NoRoom => refused += 1,
        }
    }
    refused
}
