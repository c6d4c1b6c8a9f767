//! One address by one upstream: what the tables say of it, over time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::IpAddr;
use std::sync::Arc;

use proto::time::Instant;

use super::frame::PeerKey;
use super::hint::{Drain, FLAP_WINDOW, Hint, Reason};
use super::message::{Community, Nlri};
use super::prefix::Prefix;
use super::report::WayReport;
use super::router::Router;
use super::rpki::{Validity, Vrps};
use super::station::Policy;
use super::table::{Route, RoutePath};

/// ASes of a path that standbys are compared by.
const TRANSIT_MAX: usize = 16;
/// Withdrawals remembered, to count flaps.
const LOSSES_MAX: usize = 8;

/// A route's place: router, neighbor, after its policy or before, destination.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    router: IpAddr,
    neighbor: PeerKey,
    post: bool,
    nlri: Nlri,
}

impl Place {
    fn route(self, routers: &BTreeMap<IpAddr, Router>) -> Option<&Route> {
        let neighbor = routers.get(&self.router)?.neighbors.get(&self.neighbor)?;
        neighbor.table_of(self.post).route(&self.nlri)
    }
}

/// What is known of sending to one address by one upstream.
#[derive(Debug, Default)]
pub(super) struct Way {
    /// Hash of the route, when it was last judged.
    hash: Option<u64>,
    pub(super) changed: Option<Instant>,
    /// Withdrawn since, until everything is told again.
    pub(super) gone: Option<Instant>,
    /// The route it goes by, and how often that was withdrawn when it was last looked at.
    used: Option<(Place, u32)>,
    /// When a route it went by was withdrawn; others' withdrawals are no matter.
    losses: VecDeque<Instant>,
    prefix: Option<Prefix>,
    path: Option<Arc<RoutePath>>,
    pub(super) validity: Validity,
    pub(super) hint: Hint,
}

/// What the ways to the same address by other upstreams are like.
#[derive(Debug, Clone, Copy)]
pub(super) struct Elsewhere {
    /// By one of them there is a route, or nothing is known against one.
    pub(super) reachable: bool,
    /// And RPKI does not speak against it.
    pub(super) allowed: bool,
}

/// What the tables say of it.
pub(super) enum Outlook {
    Unknown,
    Withdrawn { since: Instant },
    Routed { place: Place, path: Arc<RoutePath>, withdrawals: u32, settled: bool },
}

impl Outlook {
    /// By the neighbors of `upstream`, as far as their routers began after `wanted`.
    pub(super) fn of(
        routers: &BTreeMap<IpAddr, Router>,
        upstream: u8,
        address: IpAddr,
        wanted: Instant,
    ) -> Self {
        let routers = routers.iter().filter(|(_, router)| router.began >= wanted);
        let neighbors = routers
            .flat_map(|(router, state)| state.neighbors.iter().map(move |n| (*router, n)))
            .filter(|(_, (_, neighbor))| neighbor.upstream == upstream);
        let (mut best, mut gone, mut settled): (Option<(Place, &Route)>, _, _) = (None, None, true);
        for (router, (key, neighbor)) in neighbors {
            let (table, post) = (neighbor.table(), neighbor.is_post());
            settled &= table.is_settled();
            for (nlri, route) in table.covering(address) {
                if !route.present {
                    gone = gone.max(Some(route.since));
                    continue;
                }
                // The longest prefix, of these the shortest way.
                let rank = |nlri: &Nlri, route: &Route| {
                    (nlri.prefix.length(), std::cmp::Reverse(route.path.as_path.len()))
                };
                let is_worse =
                    |(place, than): (Place, &Route)| rank(&place.nlri, than) < rank(nlri, route);
                if best.is_none_or(is_worse) {
                    best = Some((Place { router, neighbor: *key, post, nlri: *nlri }, route));
                }
            }
        }
        match (best, gone) {
            (Some((place, route)), _) => {
                let (path, withdrawals) = (route.path.clone(), route.withdrawals);
                Self::Routed { place, path, withdrawals, settled }
            }
            (None, Some(since)) => Self::Withdrawn { since },
            (None, None) => Self::Unknown,
        }
    }
}

impl Outlook {
    /// What RPKI says of the route, if there is one. One without a path is the router's own.
    pub(super) fn validity(&self, address: IpAddr, vrps: &Vrps) -> Validity {
        let Some((origin, prefix)) = self.origin() else { return Validity::NotFound };
        vrps.validity(address, prefix, origin)
    }

    fn origin(&self) -> Option<(Option<u32>, Prefix)> {
        let Self::Routed { place, path, .. } = self else { return None };
        let is_own = path.as_path.is_empty() && path.origin.is_none();
        (!is_own).then_some((path.origin, place.nlri.prefix))
    }
}

impl Way {
    /// Nothing is known of it any more: what comes next is no change.
    pub(super) fn forget(&mut self) {
        (self.hash, self.gone, self.used) = (None, None, None);
    }

    /// `routers` are those that `outlook` is of.
    pub(super) fn follow(
        &mut self,
        outlook: &Outlook,
        routers: &BTreeMap<IpAddr, Router>,
        now: Instant,
    ) {
        self.count_losses(routers, now);
        if let Outlook::Routed { place, withdrawals, .. } = outlook {
            self.used = Some((*place, *withdrawals));
        }
        match outlook {
            Outlook::Unknown => {
                self.forget();
                (self.path, self.prefix) = (None, None);
            }
            Outlook::Withdrawn { since } => self.gone = Some(*since),
            // Until all is told, what is there may be half of it.
            Outlook::Routed { settled: false, path, place, .. } => {
                if self.path.is_none() {
                    (self.path, self.prefix) = (Some(path.clone()), Some(place.nlri.prefix));
                }
            }
            Outlook::Routed { path, place, .. } => {
                if self.hash.is_some_and(|hash| hash != path.hash) {
                    self.changed = Some(now);
                }
                (self.hash, self.gone) = (Some(path.hash), None);
                (self.path, self.prefix) = (Some(path.clone()), Some(place.nlri.prefix));
            }
        }
    }

    /// Was the route it went by withdrawn since, also if it is back?
    fn count_losses(&mut self, routers: &BTreeMap<IpAddr, Router>, now: Instant) {
        let Some((place, seen)) = &mut self.used else { return };
        let Some(route) = place.route(routers) else { return };
        let new = route.withdrawals.wrapping_sub(std::mem::replace(seen, route.withdrawals));
        for _ in 0..usize::try_from(new).unwrap_or(LOSSES_MAX).min(LOSSES_MAX) {
            if self.losses.len() >= LOSSES_MAX {
                self.losses.pop_front();
            }
            self.losses.push_back(now);
        }
    }

    /// What speaks against it.
    pub(super) fn hint(
        &self,
        outlook: &Outlook,
        elsewhere: Elsewhere,
        policy: &Policy,
        now: Instant,
    ) -> Hint {
        let mut hint = Hint::default();
        if matches!(outlook, Outlook::Unknown) {
            return hint;
        }
        hint.flapped(self.losses.iter().filter(|at| now - **at < FLAP_WINDOW).count());
        match self.gone {
            Some(since) if elsewhere.reachable => {
                hint.drain(Drain::Withdrawn, Reason::Withdrawn(since))
            }
            Some(since) => hint.withdrawn_everywhere(since, now),
            None => {}
        }
        if let Outlook::Routed { path, .. } = outlook {
            for community in &path.communities {
                if *community == Community::GRACEFUL_SHUTDOWN {
                    hint.drain(Drain::Asked, Reason::GracefulShutdown);
                } else if policy.drain.contains(community) {
                    hint.drain(Drain::Asked, Reason::Drain(*community));
                }
                for (_, cost) in policy.cost.iter().filter(|(priced, _)| priced == community) {
                    hint.cost(*community, *cost);
                }
            }
            hint.transit = transit(&path.as_path);
        }
        if let (Validity::Invalid, Some((origin, prefix))) = (self.validity, outlook.origin()) {
            hint.rpki_invalid(origin, prefix, elsewhere.allowed);
        }
        if let Some(at) = self.changed {
            hint.changed(at, now);
        }
        hint
    }

    pub(super) fn report(&self, (address, upstream): (IpAddr, u8)) -> WayReport {
        WayReport {
            address,
            upstream,
            prefix: self.prefix,
            as_path: self.path.as_ref().map(|path| path.as_path.clone()).unwrap_or_default(),
            next_hop: self.path.as_ref().and_then(|path| path.next_hop),
            communities: self.path.as_ref().map(|p| p.communities.clone()).unwrap_or_default(),
            validity: self.validity,
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
