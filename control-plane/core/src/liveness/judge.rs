//! What a leader finds, from its own ears and the others' answers.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::raft::record_pops::Found;
use proto::raft::{PopEpoch, PopHearing, RecordPops};
use proto::time::Instant;

use super::{FRESH, Known, Liveness, Peer};

/// Most of one command.
const FOUND_MAX: usize = 1_000;
/// A finding that did not come into the state meanwhile is found again.
const AGAIN: Duration = Duration::from_secs(2);
/// Expiries within this are one storm,
const STORM: Duration = Duration::from_secs(5);
/// when they are more than one POP and more than this share of the living, in percent.
pub(super) const STORM_PERCENT: usize = 30;

/// What to record, and what not.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Judgment {
    /// For the log.
    pub record: RecordPops,
    /// POPs that a majority does not hear, held because many went at once and some node hears them.
    pub held: usize,
}

/// A POP that nobody of a majority hears.
struct Going {
    /// Some node does.
    heard: bool,
    /// Other POPs do not see it either: this epoch is over.
    over: bool,
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
        self.recent.retain(|_, at| now - *at < STORM);
        let mut going = BTreeMap::new();
        let mut back = Vec::new();
        let witnesses = self.witnesses(now);
        for (id, known) in self.pops.iter().filter(|(_, known)| !known.fenced) {
            let Some(expired) = known.expired else { continue };
            let pending = known.found.is_some_and(|(found, until)| found != expired && until > now);
            let is_doomed = known.doomed.is_some_and(|until| until > now);
            let verdict = self.verdict(id, known, voters, now);
            if expired && !pending && !is_doomed && verdict.is_back() {
                back.push(id.clone());
            } else if verdict.is_silent() {
                let over = !is_doomed && witnesses.miss(id);
                if over || (!expired && !pending) {
                    going.insert(id.clone(), Going { heard: verdict.heard, over });
                }
            }
        }
        let held = self.brake(&mut going);
        Judgment { record: self.find(going, back, now), held }
    }

    /// Into the log, unless it is on its way.
    fn find(
        &mut self,
        going: BTreeMap<String, Going>,
        back: Vec<String>,
        now: Instant,
    ) -> RecordPops {
        let mut record = RecordPops::default();
        for (pop_id, Going { over, .. }) in going.into_iter().take(FOUND_MAX) {
            let Some(known) = self.pops.get_mut(&pop_id) else { continue };
            let epoch = known.epoch;
            self.recent.insert(pop_id.clone(), now);
            if over {
                known.doomed = Some(now + AGAIN);
                record.fenced.push(PopEpoch { pop_id: pop_id.clone(), epoch });
            }
            if known.expired == Some(false) {
                known.found = Some((true, now + AGAIN));
                record.found.push(Found { pop_id, epoch, expired: true });
            }
        }
        for pop_id in back.into_iter().take(FOUND_MAX) {
            let Some(known) = self.pops.get_mut(&pop_id) else { continue };
            known.found = Some((false, now + AGAIN));
            record.found.push(Found { pop_id, epoch: known.epoch, expired: false });
        }
        record
    }

    /// Many go at once and somebody hears them: not they are gone, but the way to them. How many
    /// are held.
    fn brake(&self, going: &mut BTreeMap<String, Going>) -> usize {
        let gone: BTreeSet<&String> = self.recent.keys().chain(going.keys()).collect();
        let lives =
            |(id, known): &(&String, &Known)| known.expired == Some(false) || gone.contains(id);
        let all = self.pops.iter().filter(lives).count();
        if gone.len() <= 1 || gone.len() * 100 <= all * STORM_PERCENT {
            return 0;
        }
        let before = going.len();
        going.retain(|_, going| !going.heard);
        before - going.len()
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
