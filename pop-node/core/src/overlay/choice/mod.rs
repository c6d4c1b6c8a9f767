//! Which path carries the media for one POP: cheap, reversible steps at once, expensive ones slowly.
//!
//! * silent (suspect): a copy on the most disjoint other path, at once;
//! * down: switch at once, to where the copies went, else to what is heard;
//! * lossy: each datagram again, then a copy on another path ([`repair`]), then switch;
//! * another path is better: switch after it was so for 5 s, not sooner than 15 s after the last
//!   switch, with penalties for going back and forth ([`damping`]), and with copies on the old path
//!   until the new one has proven itself.
//!
//! Quality is the E-model's R (G.107) of a G.711 call over the path, less what speaks against it.

mod damping;
mod improvement;
mod repair;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use proto::overlay::PathId;
use proto::time::{Duration, Instant};

use super::explain::Why;
use super::health::Health;
use super::route::{Hop, Route};
use crate::bgp::Drain;
use crate::codec::Codec;
use crate::media::quality::PathQuality;
use damping::Damping;
use improvement::Better;
use repair::{Repair, Step};

/// Mouth to ear without the path between the POPs: packets, access on both sides, playout.
const REST_OF_THE_WAY: Duration = Duration::from_millis(100);
/// R that another POP between costs: its processor and one more thing that can fail.
const RELAY_COST: f64 = 1.5;
/// R by which a standby is less wanted for each upstream it shares with the primary.
const SHARED_UPSTREAM: f64 = 6.0;
/// And for each AS between.
const SHARED_TRANSIT: f64 = 2.0;
/// After a switch that nothing forced, the old path carries copies: playout and 200 ms.
const BOTH_FOR: Duration = Duration::from_millis(300);
/// A repeat comes one packet later: behind most bursts, before playout.
const AGAIN_AFTER: Duration = Duration::from_millis(20);

/// What is known of a path in the direction we send.
#[derive(Debug, Clone, PartialEq)]
pub struct Candidate {
    /// Which.
    pub hop: Hop,
    /// Is it there?
    pub health: Health,
    /// Both ends hear it at this moment, trusted or not.
    pub heard: bool,
    /// A probe came by it in the last 0.4 s: nobody has to guess whether it is there.
    pub fresh: bool,
    /// Round trip; `None`: not measured yet.
    pub rtt: Option<Duration>,
    /// Interarrival jitter at the far end.
    pub jitter: Duration,
    /// One-way delay above the shortest of late.
    pub queueing: Duration,
    /// Share of datagrams lost in the last seconds, 0 to 1.
    pub loss: f64,
    /// Runs of three or more lost, in the last 10 s.
    pub bursts: u32,
    /// R that speaks against it: BGP, cost, the operator.
    pub risk: f64,
    /// Something happened to its route lately: worth a copy.
    pub shaky: bool,
    /// The operator or the upstream wants it empty, or its route is gone.
    pub drain: Drain,
    /// ASes between, as BGP tells; sorted.
    pub transit: Arc<[u32]>,
}

impl Candidate {
    /// R (G.107) of a G.711 call over this path alone.
    pub fn r_factor(&self) -> f64 {
        let half = self.rtt.unwrap_or(Duration::from_millis(300)) / 2;
        let delay = REST_OF_THE_WAY + half + self.queueing + self.jitter * 2;
        PathQuality::new(Codec::Pcmu, delay, self.loss).r_factor()
    }

    /// What paths are compared by.
    pub fn score(&self) -> f64 {
        let relay = if self.hop.via.is_some() { RELAY_COST } else { 0.0 };
        self.r_factor() - relay - self.risk
    }

    const fn carries(&self) -> bool {
        matches!((self.health, self.drain), (Health::Good, Drain::No))
    }

    /// How much it is to be preferred when none carries: heard, and the less doubtful the more.
    const fn makeshift(&self) -> u8 {
        match self.health {
            _ if !self.heard => 0,
            Health::Down(_) => 1,
            Health::Suspect(_) => 2,
            Health::Unmeasured => 3,
            Health::Good => 4,
        }
    }

    fn delay(&self) -> Duration {
        self.rtt.unwrap_or(Duration::MAX / 4) / 2 + self.queueing
    }

    /// How much less it is wanted beside `primary`: what it shares may fail for both.
    fn shared_with(&self, primary: &Hop, transit: &[u32]) -> f64 {
        let upstreams = match (self.hop.path.upstreams(), primary.path.upstreams()) {
            (Some((a, b)), Some((c, d))) => {
                SHARED_UPSTREAM * (f64::from(u8::from(a == c)) + f64::from(u8::from(b == d)))
            }
            // Through another POP: our upstream may be the same.
            (Some(_), None) | (None, Some(_)) => SHARED_UPSTREAM,
            (None, None) => SHARED_UPSTREAM * 2.0,
        };
        let shared = self.transit.iter().filter(|asn| transit.contains(asn));
        shared.fold(upstreams, |sum, _| sum + SHARED_TRANSIT)
    }
}

/// The decision for one POP, over time.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    route: Option<Route>,
    repair: Repair,
    damping: Damping,
    better: Better,
    /// The path left last, which carries copies until then.
    both: Option<(Hop, Instant)>,
}

impl Choice {
    /// The route in use.
    pub const fn route(&self) -> Option<&Route> {
        self.route.as_ref()
    }

    /// The path that would be taken if it stays better until then.
    pub fn contender(&self) -> Option<(&Hop, Instant)> {
        let (hop, ripe) = self.better.first()?;
        Some((hop, ripe.max(self.damping.free_at())))
    }

    /// The path's route is another one: for how long it was better, or lossy, says nothing.
    pub(super) fn forget(&mut self, hop: &Hop) {
        let primary = self.route.as_ref().is_some_and(|route| route.primary == *hop);
        if primary {
            self.repair = Repair::default();
        }
        self.better.forget(hop, primary);
    }

    /// Decides anew. `Some` if the route changed, with the reason.
    pub fn decide(&mut self, candidates: &[Candidate], now: Instant) -> Option<Why> {
        let switched = self.primary(candidates, now);
        let primary = self.route.as_ref()?.primary.clone();
        let (copy, again, why) = self.redundancy(candidates, &primary, now);
        let direct = self.direct(candidates, &primary);
        let route = Route { primary, copy, again, direct };
        let before = self.route.replace(route);
        let changed = before.as_ref() != self.route.as_ref();
        switched.or(changed.then_some(why))
    }

    /// Chooses the primary.
    fn primary(&mut self, candidates: &[Candidate], now: Instant) -> Option<Why> {
        let Some(route) = &self.route else {
            let first = best(candidates.iter()).or_else(|| candidates.first())?;
            self.route = Some(Route { primary: first.hop.clone(), ..Route::default() });
            return Some(Why::First);
        };
        let current = candidates.iter().find(|c| c.hop == route.primary);
        let primary = route.primary.clone();
        let others = || candidates.iter().filter(|c| c.hop != primary);
        let (to, why) = match current {
            None => (best(others()).or_else(|| makeshift(others()))?, Why::Gone),
            Some(current) if matches!(current.health, Health::Down(_)) => {
                // What was not heard since the primary went silent may have died with it.
                let heard = || others().filter(|other| other.fresh && other.carries());
                let copied = heard().find(|other| route.copy.as_ref() == Some(&other.hop));
                // Any that is less in doubt.
                let less = |other: &&Candidate| other.makeshift() > current.makeshift();
                let any = || makeshift(others()).filter(less);
                let to = copied.or_else(|| best(heard())).or_else(|| best(others()));
                (to.or_else(any)?, Why::Down)
            }
            Some(current) if current.health == Health::Unmeasured => (best(others())?, Why::First),
            Some(current) => match refuge(current, others()) {
                Some(refuge) => (refuge, Why::Drained),
                None => self.improvement(current, others(), now)?,
            },
        };
        let to = to.hop.clone();
        self.switch(to, why, now);
        Some(why)
    }

    /// Is it time to leave a path that works for one that works better?
    fn improvement<'a>(
        &mut self,
        current: &Candidate,
        others: impl Iterator<Item = &'a Candidate>,
        now: Instant,
    ) -> Option<(&'a Candidate, Why)> {
        // What is said against a path counts less than what is lost on this one.
        let of_use = |other: &&Candidate| {
            other.carries() || other.health == Health::Good && other.saves_from(current)
        };
        let others: Vec<&Candidate> = others.filter(of_use).collect();
        self.better.observe(current, &others, now);
        let (better, damping) = (&self.better, &mut self.damping);
        let saving = others.iter().copied().filter(|other| other.saves_from(current));
        let saving = saving.filter(|other| better.is_ripe(other, improvement::HOPELESS_FOR, now));
        if let Some(saving) = best(saving.clone()).or_else(|| makeshift(saving)) {
            return Some((saving, Why::Lossy));
        }
        let ripe = others.into_iter();
        let ripe = ripe.filter(|other| better.is_ripe(other, improvement::BETTER_FOR, now));
        let free = ripe.filter(|other| damping.allows(&other.hop, now));
        Some((best(free)?, Why::Better))
    }

    fn switch(&mut self, to: Hop, why: Why, now: Instant) {
        let Some(route) = &mut self.route else { return };
        let from = std::mem::replace(&mut route.primary, to.clone());
        let planned = matches!(why, Why::Better | Why::Drained | Why::Lossy);
        self.both = planned.then(|| (from.clone(), now + BOTH_FOR));
        self.damping.switched(&from, &to, why == Why::Better, now);
        self.better.clear();
        self.repair = Repair::default();
    }

    /// The primary if it is direct; else the one before, for as long as it carries.
    fn direct(&self, candidates: &[Candidate], primary: &Hop) -> Option<PathId> {
        if primary.via.is_none() {
            return Some(primary.path);
        }
        let all = || candidates.iter().filter(|c| c.hop.via.is_none());
        let before = self.route.as_ref().and_then(|route| route.direct);
        let kept = all().find(|c| Some(c.hop.path) == before && c.carries());
        let chosen = kept.or_else(|| best(all())).or_else(|| all().next());
        chosen.map(|candidate| candidate.hop.path)
    }

    /// Copies and repeats, with the reason for them.
    fn redundancy(
        &mut self,
        candidates: &[Candidate],
        primary: &Hop,
        now: Instant,
    ) -> (Option<Hop>, Option<Duration>, Why) {
        if let Some((old, until)) = &self.both {
            if now < *until {
                return (Some(old.clone()), None, Why::Both);
            }
            self.both = None;
        }
        let current = candidates.iter().find(|c| c.hop == *primary);
        let Some(current) = current else { return (None, None, Why::Gone) };
        let standby = standby(candidates, primary);
        let copy = || standby.map(|standby| standby.hop.clone());
        if !matches!(current.health, Health::Good) {
            let copy = beside_silence(candidates, current);
            let why = if current.health == Health::Unmeasured { Why::First } else { Why::Suspect };
            return (copy.map(|copy| copy.hop.clone()), None, why);
        }
        match self.repair.step(current, now) {
            Step::Nothing => (None, None, Why::Clean),
            Step::Again => (None, Some(AGAIN_AFTER), Why::SomeLoss),
            Step::Copy if current.shaky => (copy(), None, Why::Shaky),
            // Alone there is only the same path, later.
            Step::Copy if standby.is_none() => (None, Some(AGAIN_AFTER), Why::SomeLoss),
            Step::Copy => (copy(), None, Why::Loss),
        }
    }
}

/// The best of those that carry.
fn best<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    let carrying = candidates.filter(|candidate| candidate.carries());
    carrying.max_by(|a, b| a.score().total_cmp(&b.score()).then(b.hop.cmp(&a.hop)))
}

/// Where to go from one that is to be left: of those that work the one that is least to be left,
/// unless it loses far more.
fn refuge<'a>(
    current: &Candidate,
    others: impl Iterator<Item = &'a Candidate>,
) -> Option<&'a Candidate> {
    let better = |other: &&Candidate| other.health == Health::Good && other.drain < current.drain;
    let others = others.filter(better).filter(|other| !current.is_refuge_from(other));
    others.max_by(|a, b| {
        let by_drain = b.drain.cmp(&a.drain);
        by_drain.then(a.score().total_cmp(&b.score())).then(b.hop.cmp(&a.hop))
    })
}

/// The best of those that do not carry: any that is heard, else any.
fn makeshift<'a>(candidates: impl Iterator<Item = &'a Candidate>) -> Option<&'a Candidate> {
    let worth = |c: &Candidate| (c.makeshift(), std::cmp::Reverse(c.drain));
    candidates.max_by(|a, b| {
        let by_worth = worth(a).cmp(&worth(b));
        by_worth.then(a.score().total_cmp(&b.score())).then(b.hop.cmp(&a.hop))
    })
}

/// The best that shares least with the primary.
fn standby<'a>(candidates: &'a [Candidate], primary: &Hop) -> Option<&'a Candidate> {
    let current = candidates.iter().find(|candidate| candidate.hop == *primary);
    let transit = current.map_or(&[][..], |current| &current.transit);
    let worth = |c: &Candidate| c.score() - c.shared_with(primary, transit);
    let others = candidates.iter().filter(|c| c.hop != *primary && c.carries());
    others.max_by(|a, b| worth(a).total_cmp(&worth(b)).then(b.hop.cmp(&a.hop)))
}

/// What shares least with the primary, however good it is otherwise: it is heard when the primary is not.
fn witness<'a>(
    candidates: impl Iterator<Item = &'a Candidate>,
    primary: &Candidate,
) -> Option<&'a Candidate> {
    let others = candidates.filter(|c| c.hop != primary.hop && c.carries());
    others.max_by(|a, b| {
        let apart = |c: &Candidate| -c.shared_with(&primary.hop, &primary.transit);
        let by_score = a.score().total_cmp(&b.score());
        apart(a).total_cmp(&apart(b)).then(by_score).then(b.hop.cmp(&a.hop))
    })
}

/// Where copies go when the primary is silent: whatever silences it may silence what shares something
/// with it, and what was not heard since. Anything is better than nothing.
fn beside_silence<'a>(candidates: &'a [Candidate], primary: &Candidate) -> Option<&'a Candidate> {
    let others = || candidates.iter().filter(|c| c.hop != primary.hop);
    let fresh = || others().filter(|c| c.fresh);
    let proven = witness(fresh(), primary).or_else(|| makeshift(fresh().filter(|c| c.heard)));
    let hoped = || witness(others(), primary).or_else(|| makeshift(others().filter(|c| c.heard)));
    proven.or_else(hoped).or_else(|| makeshift(fresh()))
}

/// The standby and the witness of `primary`, mostly one, for who schedules probes.
pub(super) fn watched(candidates: &[Candidate], primary: &Hop) -> [Option<Hop>; 2] {
    let current = candidates.iter().find(|candidate| candidate.hop == *primary);
    let witness = current.and_then(|current| witness(candidates.iter(), current));
    [standby(candidates, primary), witness].map(|found| found.map(|path| path.hop.clone()))
}
