//! One router: its BMP session and what it said of its neighbors.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::frame::{PeerHeader, PeerKey, Rib};
use super::message::{Message, Update};
use super::prefix::Prefix;
use super::station::{Hangup, Neighbor, Session};
use super::table::{RoutePath, Table};

/// Neighbors kept of one router, of those that are an upstream's.
const NEIGHBORS_MAX: usize = 64;
/// What a lost session told is held for so long: routers reconnect, and send all again.
const HELD: Duration = Duration::from_secs(60);
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
    /// RFC 9069: the router's choice among all neighbors.
    LocRib = "loc_rib",
    /// An UPDATE that cannot be read: what it says is unknown (the shell counts them here).
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
    pre: Table,
    post: Table,
}

impl NeighborState {
    fn tables_mut(&mut self) -> [&mut Table; 2] {
        [&mut self.pre, &mut self.post]
    }

    /// What the router accepted, if it tells, for that is what it sends by; else what it received.
    pub(super) fn table(&self) -> &Table {
        if self.post.is_empty() { &self.pre } else { &self.post }
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

/// What is to be judged anew.
#[derive(Debug, Default)]
pub(super) struct Dirty {
    pub(super) addresses: BTreeSet<IpAddr>,
    /// Ways of which nothing is known any more: what comes next is no change.
    pub(super) forgotten: BTreeSet<(IpAddr, u8)>,
}

impl Dirty {
    fn touch<'a>(&mut self, interest: &Interest, prefixes: impl Iterator<Item = &'a Prefix>) {
        for prefix in prefixes {
            self.addresses.extend(interest.range(prefix.range()).map(|(address, _)| *address));
        }
    }

    fn forget<'a>(
        &mut self,
        interest: &Interest,
        prefixes: impl Iterator<Item = &'a Prefix>,
        upstream: u8,
    ) {
        let mut touched = Self::default();
        touched.touch(interest, prefixes);
        self.forgotten.extend(touched.addresses.iter().map(|address| (*address, upstream)));
        self.addresses.append(&mut touched.addresses);
    }
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
            unmapped: BTreeSet::new(),
        }
    }

    pub(super) fn connect(&mut self, session: Session, now: Instant) {
        (self.session, self.since, self.began) = (Some(session), now, now);
        self.introduced = false;
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

    pub(super) fn ignore(&mut self, why: Ignored) {
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
                    self.hear(upstream, peer, what, interest, now, dirty);
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

    #[allow(clippy::too_many_arguments, reason = "the pieces of one message and its surroundings")]
    fn hear(
        &mut self,
        upstream: u8,
        peer: PeerHeader,
        what: What,
        interest: &Interest,
        now: Instant,
        dirty: &mut Dirty,
    ) {
        let neighbor = self.neighbors.entry(peer.key).or_insert_with(|| NeighborState {
            upstream,
            asn: peer.asn,
            own_asn: None,
            told: false,
            since: now,
            unconfirmed: None,
            downs: 0,
            pre: Table::default(),
            post: Table::default(),
        });
        match what {
            What::Up(own_asn) => {
                // Also twice in a row: everything comes anew.
                neighbor.tables_mut().into_iter().for_each(Table::begin);
                neighbor.since = now;
                (neighbor.own_asn, neighbor.told, neighbor.asn) = (Some(own_asn), true, peer.asn);
            }
            // Also of a neighbor that never was up, again and again: then nothing is new.
            What::Down => {
                neighbor.down(now);
                dirty.touch(interest, neighbor.pre.prefixes().chain(neighbor.post.prefixes()));
            }
            What::Routes(update) => match neighbor.own_asn {
                None => self.ignore(Ignored::BeforePeerUp),
                Some(own) => {
                    let post = peer.rib == Rib::AdjInPost;
                    let table = if post { &mut neighbor.post } else { &mut neighbor.pre };
                    let refused = learn(table, update, own, interest, now, dirty);
                    (0..refused).for_each(|_| self.ignore(Ignored::NoRoom));
                }
            },
        }
    }

    /// What time changes.
    pub(super) fn settle(&mut self, interest: &Interest, now: Instant, dirty: &mut Dirty) {
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
                    dirty.forget(interest, forgotten.iter(), upstream);
                    dirty.touch(interest, table.prefixes());
                }
                if (lost || retold && table.is_awaited()) && table.has_stale() {
                    dirty.forget(interest, table.prefixes(), upstream);
                    table.forget_stale();
                }
                if lost && !table.is_empty() {
                    dirty.forget(interest, table.prefixes(), upstream);
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
                dirty.forget(interest, gone.iter(), upstream);
            }
        }
    }
}

enum What {
    Up(u32),
    Down,
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
        table.withdraw(nlri, now);
        dirty.touch(interest, std::iter::once(&nlri.prefix));
    }
    let announced: Vec<_> = announced.iter().filter(|nlri| wanted(&nlri.prefix)).collect();
    if announced.is_empty() {
        return 0;
    }
    let path = Arc::new(RoutePath::new(attributes, own));
    let mut refused = 0;
    for nlri in announced {
        if table.announce(*nlri, &path, now) {
            dirty.touch(interest, std::iter::once(&nlri.prefix));
        } else {
            refused += 1;
        }
    }
    refused
}
