//! The routes of one neighbor, before or after the router's policy.
//!
//! A BMP session, or a BGP session behind it, begins with all routes, and nothing reliable says
//! where they end: routers leave End-of-RIB out, and one EoR is for one family. So the dump is over
//! when routes become few ([`FEW`] in [`WINDOW`]). What was known before is held meanwhile; what
//! the dump did not bring is withdrawn then.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::{Duration, Instant};

use super::message::{Attributes, Community, Nlri};
use super::prefix::Prefix;
use super::sense::{Distrust, Sense, Trait};

/// Routes kept of one table: a few for each address of interest.
const ROUTES_MAX: usize = 16_384;
/// And of those to one prefix (RFC 7911).
const PATHS_MAX: usize = 64;
/// A dump comes in thousands of routes a second, afterwards a full table changes in tens.
const WINDOW: Duration = Duration::from_secs(5);
const FEW: u32 = 500;
/// However many come, it is over then.
const DUMP_MAX: Duration = Duration::from_secs(300);
/// A route gone for so long is nobody's any more.
const GONE_KEPT: Duration = Duration::from_secs(24 * 3_600);

/// How a route goes, and a hash of that.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct RoutePath {
    pub(super) hash: u64,
    pub(super) as_path: Vec<u32>,
    pub(super) origin: Option<u32>,
    pub(super) communities: Vec<Community>,
    pub(super) next_hop: Option<IpAddr>,
}

impl RoutePath {
    /// `own`: the router's AS, which FRR prepends in BMP to what the neighbor sent.
    pub(super) fn new(attributes: Attributes, own: u32) -> Self {
        let Attributes { mut as_path, origin, next_hop, mut communities } = attributes;
        let ours = as_path.iter().take_while(|asn| **asn == own).count();
        as_path.drain(..ours);
        communities.sort_unstable();
        communities.dedup();
        let mut hash = Fnv::default();
        as_path.iter().for_each(|asn| hash.add(&asn.to_be_bytes()));
        hash.add(b"/");
        for community in &communities {
            match community {
                Community::Standard(value) => hash.add(&value.to_be_bytes()),
                Community::Large(a, b, c) => {
                    [a, b, c].iter().for_each(|part| hash.add(&part.to_be_bytes()));
                }
            }
        }
        match next_hop {
            Some(IpAddr::V4(v4)) => hash.add(&v4.octets()),
            Some(IpAddr::V6(v6)) => hash.add(&v6.octets()),
            None => {}
        }
        Self { hash: hash.0, as_path, origin, communities, next_hop }
    }
}

/// FNV-1a.
struct Fnv(u64);

impl Default for Fnv {
    fn default() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }
}

impl Fnv {
    fn add(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = (self.0 ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }
}

#[derive(Debug)]
pub(super) struct Route {
    pub(super) path: Arc<RoutePath>,
    /// Announced and not withdrawn.
    pub(super) present: bool,
    /// Of a session before this one.
    stale: bool,
    /// When it became as it is.
    pub(super) since: Instant,
    /// How often it went away; wraps.
    pub(super) withdrawals: u32,
    /// As it was a while ago.
    before: Trait,
}

impl Route {
    /// True if it was there.
    fn withdraw(&mut self, now: Instant) -> bool {
        let there = self.present;
        if there {
            (self.present, self.since) = (false, now);
            self.withdrawals = self.withdrawals.wrapping_add(1);
        }
        self.stale = false;
        there
    }
}

/// What became of a route that was announced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Learned {
    /// As it was: routers repeat themselves.
    Same,
    /// New, back, or another one.
    Changed,
    /// Not kept.
    NoRoom,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dump {
    /// Nothing came yet.
    Awaited,
    /// Since `begun`; so many `routes` since `window`.
    Running {
        begun: Instant,
        window: Instant,
        routes: u32,
    },
    Over,
}

#[derive(Debug)]
pub(super) struct Table {
    routes: BTreeMap<Nlri, Route>,
    /// How many of them have a prefix of this family (IPv6?) and length.
    lengths: BTreeMap<(bool, u8), usize>,
    /// How many of them are stale.
    stale: usize,
    dump: Dump,
    sense: Sense,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            routes: BTreeMap::new(),
            lengths: BTreeMap::new(),
            stale: 0,
            dump: Dump::Awaited,
            sense: Sense::default(),
        }
    }
}

impl Table {
    /// Everything comes anew: what is known is held until it did.
    pub(super) fn begin(&mut self) {
        self.routes.values_mut().for_each(|route| route.stale = route.present);
        (self.dump, self.sense) = (Dump::Awaited, Sense::default());
        self.recount();
    }

    fn recount(&mut self) {
        self.stale = self.routes.values().filter(|route| route.stale).count();
        self.lengths.clear();
        for Nlri { prefix, .. } in self.routes.keys() {
            *self.lengths.entry((prefix.is_ipv6(), prefix.length())).or_default() += 1;
        }
    }

    /// UPDATEs came, with so many routes for anywhere.
    pub(super) fn count(&mut self, announced: u32, withdrawn: u32, now: Instant) {
        self.sense.count(announced, withdrawn, now);
        let routes = announced.saturating_add(withdrawn);
        match &mut self.dump {
            Dump::Awaited => self.dump = Dump::Running { begun: now, window: now, routes },
            Dump::Running { routes: so_far, .. } => *so_far = so_far.saturating_add(routes),
            Dump::Over => {}
        }
    }

    /// A route came.
    pub(super) fn announce(&mut self, nlri: Nlri, path: &Arc<RoutePath>, now: Instant) -> Learned {
        if let Some(route) = self.routes.get_mut(&nlri) {
            let moved = route.path.hash != path.hash;
            let same = route.present && !moved;
            if !same {
                (route.path, route.present, route.since) = (path.clone(), true, now);
            }
            if std::mem::take(&mut route.stale) {
                self.stale -= 1;
            }
            if moved && self.dump == Dump::Over {
                self.sense.changed();
            }
            return if same { Learned::Same } else { Learned::Changed };
        }
        if self.routes.len() >= ROUTES_MAX || self.to(nlri.prefix).count() >= PATHS_MAX {
            return Learned::NoRoom;
        }
        let before = Trait::of(&path.as_path);
        let path = path.clone();
        let route = Route { path, present: true, stale: false, since: now, withdrawals: 0, before };
        self.routes.insert(nlri, route);
        *self.lengths.entry((nlri.prefix.is_ipv6(), nlri.prefix.length())).or_default() += 1;
        Learned::Changed
    }

    /// True if there was such a route. One that was never announced cannot go, nor can any from a
    /// session that announced nothing.
    pub(super) fn withdraw(&mut self, nlri: &Nlri, now: Instant) -> bool {
        if self.sense.announced() == 0 {
            return false;
        }
        let Some(route) = self.routes.get_mut(nlri) else { return false };
        self.stale -= usize::from(route.stale);
        route.withdraw(now)
    }

    /// The neighbor is gone, and all it told (RFC 7854 §4.9).
    pub(super) fn withdraw_all(&mut self, now: Instant) {
        self.routes.values_mut().for_each(|route| _ = route.withdraw(now));
        self.stale = 0;
    }

    /// Why it is not to be believed any more, though the session goes on.
    pub(super) fn distrust(&mut self, now: Instant) -> Option<Distrust> {
        // What a session begins with has nothing to be compared with.
        if self.dump != Dump::Over {
            return None;
        }
        if self.sense.only_withdraws(now) {
            return Some(Distrust::OnlyWithdraws);
        }
        if !self.sense.is_worth_a_look(self.routes.len()) {
            return None;
        }
        let there = self.routes.values().filter(|route| route.present);
        self.sense.look(there.map(|route| (route.before, Trait::of(&route.path.as_path))))
    }

    fn roll(&mut self, now: Instant) {
        if self.sense.roll(now) {
            let all = self.routes.values_mut();
            all.for_each(|route| route.before = Trait::of(&route.path.as_path));
        }
    }

    /// Ends the dump if it is over: then what is forgotten, for the router told nothing true.
    pub(super) fn settle(&mut self, now: Instant) -> Option<Vec<Prefix>> {
        if self.dump == Dump::Over {
            self.roll(now);
        }
        let Dump::Running { begun, window, routes } = self.dump else { return None };
        if now - window < WINDOW {
            return None;
        }
        if routes >= FEW && now - begun < DUMP_MAX {
            self.dump = Dump::Running { begun, window: now, routes: 0 };
            return None;
        }
        self.dump = Dump::Over;
        let forgotten = if self.sense.announced() == 0 { self.forget_stale() } else { Vec::new() };
        let missing = self.routes.values_mut().filter(|route| route.stale);
        missing.for_each(|route| _ = route.withdraw(now));
        self.stale = 0;
        self.roll(now);
        Some(forgotten)
    }

    /// Is everything known, as far as one can tell?
    pub(super) fn is_settled(&self) -> bool {
        !matches!(self.dump, Dump::Running { .. }) && !self.has_stale()
    }

    pub(super) fn is_awaited(&self) -> bool {
        self.dump == Dump::Awaited
    }

    /// What a session before told and this one did not.
    pub(super) fn forget_stale(&mut self) -> Vec<Prefix> {
        let stale = self.routes.extract_if(.., |_, route| route.stale);
        let gone = stale.map(|(nlri, _)| nlri.prefix).collect();
        self.recount();
        gone
    }

    /// Removes what is gone for long, and what is not wanted any more; tells what.
    pub(super) fn clean(&mut self, wanted: impl Fn(&Prefix) -> bool, now: Instant) -> Vec<Prefix> {
        let kept = |nlri: &Nlri, route: &Route| {
            (route.present || now - route.since < GONE_KEPT) && wanted(&nlri.prefix)
        };
        let gone = self.routes.extract_if(.., |nlri, route| !kept(nlri, route));
        let gone = gone.map(|(nlri, _)| nlri.prefix).collect();
        self.recount();
        gone
    }

    pub(super) const fn has_stale(&self) -> bool {
        self.stale > 0
    }

    /// Does it make no sense from its beginning?
    pub(super) const fn is_made_up(&self) -> bool {
        self.sense.is_made_up()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty()
    }

    pub(super) fn present(&self) -> usize {
        self.routes.values().filter(|route| route.present).count()
    }

    pub(super) fn prefixes(&self) -> impl Iterator<Item = &Prefix> {
        self.routes.keys().map(|nlri| &nlri.prefix)
    }

    /// The routes to exactly this prefix, also those that are gone.
    pub(super) fn to(&self, prefix: Prefix) -> impl Iterator<Item = (&Nlri, &Route)> {
        let all = Nlri { prefix, path_id: 0 }..=Nlri { prefix, path_id: u32::MAX };
        self.routes.range(all)
    }

    /// Those to any prefix that covers `address`.
    pub(super) fn covering(&self, address: IpAddr) -> impl Iterator<Item = (&Nlri, &Route)> {
        let lengths = self.lengths.range((address.is_ipv6(), 0)..=(address.is_ipv6(), u8::MAX));
        let prefixes = lengths.filter_map(move |((_, bits), _)| Prefix::new(address, *bits));
        prefixes.flat_map(|prefix| self.to(prefix))
    }

    pub(super) fn route(&self, nlri: &Nlri) -> Option<&Route> {
        self.routes.get(nlri)
    }
}
