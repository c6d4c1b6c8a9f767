//! What a leader finds, from its own ears and the others' answers.

use std::time::Duration;

use proto::raft::PopHearing;
use proto::raft::record_pops::Found;
use proto::time::Instant;

use super::{FRESH, Known, Liveness, Peer};

/// Most of one command.
const FOUND_MAX: usize = 1_000;
/// A finding that did not come into the state meanwhile is found again.
const AGAIN: Duration = Duration::from_secs(2);
/// Expiries within this are one storm,
const STORM: Duration = Duration::from_secs(5);
/// when they are more than one POP and more than this share of the living, in percent.
const STORM_PERCENT: usize = 30;

/// What to record, and what not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgment {
    /// For the log.
    pub found: Vec<Found>,
    /// POPs that a majority does not hear, held because many went at once and some node hears them.
    pub held: usize,
}

/// What all say of one POP.
struct Verdict {
    own: PopHearing,
    /// Voters with evidence.
    witnesses: usize,
    silent: usize,
    steady: usize,
    /// Voters that could have been asked, this one included.
    reached: usize,
    /// Somebody hears it.
    heard: bool,
}

impl Verdict {
    fn is_silent(&self) -> bool {
        let own = matches!(self.own, PopHearing::Silent | PopHearing::Never);
        own && self.silent * 2 > self.witnesses || self.is_unknown()
    }

    /// Nobody ever heard it, though all listened.
    fn is_unknown(&self) -> bool {
        self.own == PopHearing::Never && self.witnesses == 0
    }

    fn is_back(&self) -> bool {
        self.own == PopHearing::Steady || self.steady * 2 > self.reached
    }
}

impl Liveness {
    /// What this leader finds, while `voters` decide. Nothing unless it reaches a quorum of them:
    /// what it proposes alone might be decided much later.
    pub fn judge(&mut self, voters: &[u64], now: Instant) -> Judgment {
        let fresh = |id: &&u64| **id == self.own || self.is_fresh(**id, now);
        if voters.iter().filter(fresh).count() * 2 <= voters.len() {
            return Judgment::default();
        }
        self.recent.retain(|at| now - *at < STORM);
        let mut expired = Vec::new();
        let mut back = Vec::new();
        for (id, known) in &self.pops {
            let Some(is_expired) = known.expired else { continue };
            if known.found.is_some_and(|(expired, until)| expired != is_expired && until > now) {
                continue;
            }
            let verdict = self.verdict(id, known, voters, now);
            if is_expired && verdict.is_back() {
                back.push(id.clone());
            } else if !is_expired && verdict.is_silent() {
                expired.push((id.clone(), verdict.heard));
            }
        }
        let held = self.brake(&mut expired);
        expired.truncate(FOUND_MAX);
        self.recent.extend(expired.iter().map(|_| now));
        let expired = expired.into_iter().map(|(id, _)| (id, true));
        let all = expired.chain(back.into_iter().map(|id| (id, false))).take(FOUND_MAX);
        let found = all.collect::<Vec<_>>().into_iter().filter_map(|(id, e)| self.find(id, e, now));
        Judgment { found: found.collect(), held }
    }

    fn find(&mut self, pop_id: String, expired: bool, now: Instant) -> Option<Found> {
        let known = self.pops.get_mut(&pop_id)?;
        known.found = Some((expired, now + AGAIN));
        Some(Found { pop_id, epoch: known.epoch, expired })
    }

    /// Many go at once and somebody hears them: not they are gone, but the way to them. How many
    /// are held.
    fn brake(&self, expired: &mut Vec<(String, bool)>) -> usize {
        let going = expired.len() + self.recent.len();
        let alive = self.pops.values().filter(|known| known.expired == Some(false)).count();
        if going <= 1 || going * 100 <= (alive + self.recent.len()) * STORM_PERCENT {
            return 0;
        }
        let before = expired.len();
        expired.retain(|(_, heard)| !heard);
        before - expired.len()
    }

    fn verdict(&self, pop_id: &str, known: &Known, voters: &[u64], now: Instant) -> Verdict {
        let own = self.hearing(known, now);
        let mut verdict =
            Verdict { own, witnesses: 0, silent: 0, steady: 0, reached: 0, heard: false };
        for id in voters {
            let hearing = match *id == self.own {
                true => own,
                false if self.is_fresh(*id, now) => self.said(*id, pop_id, known.epoch, now),
                false => continue,
            };
            verdict.reached += 1;
            verdict.witnesses += usize::from(hearing != PopHearing::Never);
            verdict.silent += usize::from(hearing == PopHearing::Silent);
            verdict.steady += usize::from(hearing == PopHearing::Steady);
            verdict.heard |= matches!(hearing, PopHearing::Heard | PopHearing::Steady);
        }
        verdict
    }

    fn is_fresh(&self, node: u64, now: Instant) -> bool {
        self.peers.get(&node).is_some_and(|peer| now - peer.heard <= FRESH)
    }

    /// What another node says of it; unclear until it was asked.
    fn said(&self, node: u64, pop_id: &str, epoch: u64, now: Instant) -> PopHearing {
        let said = |peer: &Peer| {
            let (about, hearing, at) = peer.sightings.get(pop_id)?;
            (*about == epoch && now - *at <= FRESH).then_some(*hearing)
        };
        self.peers.get(&node).and_then(said).unwrap_or(PopHearing::Unspecified)
    }
}
