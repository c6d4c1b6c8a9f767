//! Which POPs this control node hears, what the other nodes say, and which POPs have expired.
//!
//! Every POP beats to every control node, so a new leader already knows who is silent. The leader
//! finds that a POP expired when it has not heard it for [`Liveness::set_ttl`], a majority of those
//! nodes it reaches says the same, and they are a quorum. A node that began to listen, or went on
//! after a pause, says nothing until it has listened for as long: time that it did not live through
//! is not silence. Many POPs at once that some node still hears are held (see `judge`).
//!
//! A heartbeat stream that breaks is evidence, too: the kernel of a host closes the connections of a
//! process that died. When no beat comes back for [`Liveness::set_patience`], the POP is silent.
//!
//! Expired is what may return. When the other POPs do not see it either (`witness`), it is fenced:
//! that epoch is over, and others take its calls.
//!
//! What is found becomes a command (`RecordPops`); the state says who is expired or fenced, this
//! machine only who should be.

mod judge;
#[cfg(test)]
mod tests;
mod witness;

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use proto::control::Pop;
use proto::raft::{PopEpoch, PopHearing, PopSighting};
use proto::time::Instant;

pub use judge::Judgment;

/// A POP is silent after this, unless told otherwise: four of its beats.
pub const TTL: Duration = Duration::from_secs(2);
/// A POP whose heartbeat stream broke beats again within this, or its process is gone.
pub const PATIENCE: Duration = Duration::from_millis(600);
/// Beats must have come for so long, without a silence, before an expired POP returns.
pub const STEADY: Duration = Duration::from_secs(1);
/// A POP that was never heard with its epoch is waited for so long: it has just registered, or
/// this node has just begun.
pub const GRACE: Duration = Duration::from_secs(10);
/// What another node said longer ago counts no more.
pub const FRESH: Duration = Duration::from_millis(1_500);
/// Between two ticks; more is a pause of this process. Half of the silence: a shorter pause makes
/// none, and a busy machine is not taken for a stopped one.
pub const TICK_MAX: Duration = Duration::from_secs(1);
/// POPs in one question; the next one asks about others.
pub const QUESTION_MAX: usize = 1_000;
/// POPs that one other can miss; who misses more is cut off itself.
const UNSEEN_MAX: usize = 256;
/// More POPs than any mesh has; certificates bound them before this does.
const POPS_MAX: usize = 10_000;

/// What is known of one POP.
#[derive(Debug, Clone)]
struct Known {
    epoch: u64,
    /// Since when this node could have heard this epoch.
    noticed: Instant,
    beat: Option<Instant>,
    /// First beat after the last silence.
    steady: Instant,
    /// What the state says; `None`: it does not name it, as far as is known here.
    expired: Option<bool>,
    /// The state says that this epoch is over.
    fenced: bool,
    /// Found to be expired or not, and on its way into the log until then.
    found: Option<(bool, Instant)>,
    /// Likewise found to be over.
    doomed: Option<Instant>,
    /// Its heartbeat stream broke then, and no beat came since.
    broken: Option<Instant>,
    /// POPs it does not see.
    unseen: BTreeSet<String>,
    /// A newer epoch that beats, and that the state does not name: a process that has just
    /// registered and this node lags, or one that nobody registered.
    ahead: Option<Box<Known>>,
}

impl Known {
    const fn new(epoch: u64, now: Instant) -> Self {
        Self {
            epoch,
            noticed: now,
            beat: None,
            steady: now,
            expired: None,
            fenced: false,
            found: None,
            doomed: None,
            broken: None,
            unseen: BTreeSet::new(),
            ahead: None,
        }
    }

    fn hear(&mut self, now: Instant, ttl: Duration) {
        if self.beat.is_none_or(|beat| now - beat >= ttl) {
            self.steady = now;
        }
        self.beat = Some(now);
        self.broken = None;
    }

    /// One newer epoch is kept: the highest that still beats.
    fn hear_ahead(&mut self, epoch: u64, now: Instant, ttl: Duration) {
        let beats = |other: &Self| other.beat.is_some_and(|beat| now - beat < ttl);
        if self.ahead.as_ref().is_some_and(|other| other.epoch > epoch && beats(other)) {
            return;
        }
        let known = self.ahead.take().filter(|other| other.epoch == epoch);
        let mut ahead = known.unwrap_or_else(|| Box::new(Self::new(epoch, now)));
        ahead.hear(now, ttl);
        self.ahead = Some(ahead);
    }

    /// What the state says of it.
    fn name(&mut self, pop: &Pop, now: Instant) {
        self.claim(pop.epoch, now);
        self.expired = Some(pop.expired);
        self.fenced = pop.fenced;
    }

    /// The state names this epoch: whatever beats with another one, it is this that is judged.
    fn claim(&mut self, epoch: u64, now: Instant) {
        if self.epoch == epoch {
            return;
        }
        let ahead = self.ahead.take();
        let before = std::mem::replace(self, Self::new(epoch, now));
        match ahead {
            Some(ahead) if ahead.epoch == epoch => *self = *ahead,
            Some(ahead) if ahead.epoch > epoch => self.ahead = Some(ahead),
            _ if before.epoch > epoch => self.ahead = Some(Box::new(before)),
            _ => {}
        }
    }
}

/// What another node said.
#[derive(Debug, Default)]
struct Peer {
    /// It answered last.
    heard: Instant,
    sightings: BTreeMap<String, (u64, PopHearing, Instant)>,
}

/// The machine. Feed it beats, answers and ticks.
#[derive(Debug)]
pub struct Liveness {
    own: u64,
    ttl: Duration,
    patience: Duration,
    pops: BTreeMap<String, Known>,
    peers: BTreeMap<u64, Peer>,
    /// Awake without a pause since.
    awake: Instant,
    ticked: Instant,
    /// The last question ended here.
    asked: String,
    /// POPs found expired or over lately.
    recent: BTreeMap<String, Instant>,
}

impl Liveness {
    /// Of the node `own`, that begins to listen.
    pub fn new(own: u64, now: Instant) -> Self {
        Self {
            own,
            ttl: TTL,
            patience: PATIENCE,
            pops: BTreeMap::new(),
            peers: BTreeMap::new(),
            awake: now,
            ticked: now,
            asked: String::new(),
            recent: BTreeMap::new(),
        }
    }

    /// Silence after which a POP may expire.
    pub fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// Silence after which one may expire whose stream broke.
    pub fn set_patience(&mut self, patience: Duration) {
        self.patience = patience;
    }

    /// Time passes; at least each [`TICK_MAX`].
    pub fn handle_tick(&mut self, now: Instant) {
        if now - self.ticked > TICK_MAX {
            self.awake = now;
        }
        self.ticked = now;
    }

    /// A heartbeat; `true`: of the process the state names, as far as is known here. One with an
    /// older epoch says nothing. One with a newer epoch counts from when the state names it.
    pub fn handle_beat(&mut self, pop_id: &str, epoch: u64, now: Instant) -> bool {
        let ttl = self.ttl;
        let Some(known) = self.entry(pop_id, epoch, now) else { return false };
        match epoch.cmp(&known.epoch) {
            Ordering::Less => {}
            Ordering::Equal => known.hear(now, ttl),
            Ordering::Greater => known.hear_ahead(epoch, now, ttl),
        }
        epoch == known.epoch
    }

    /// What the state says of a POP that beats: newer than the last roster.
    pub fn handle_named(&mut self, pop: &Pop, now: Instant) {
        if let Some(known) = self.entry(&pop.pop_id, pop.epoch, now) {
            known.name(pop, now);
        }
    }

    /// The last heartbeat stream of a process broke, without its saying goodbye.
    pub fn handle_broken(&mut self, pop_id: &str, epoch: u64, now: Instant) {
        let known = self.pops.get_mut(pop_id).filter(|known| known.epoch == epoch);
        if let Some(known) = known.filter(|known| known.beat.is_some()) {
            known.broken.get_or_insert(now);
        }
    }

    /// The POPs of the state. To be told again now and then, and after each change of its own
    /// making.
    pub fn handle_roster(&mut self, roster: impl IntoIterator<Item = Pop>, now: Instant) {
        for known in self.pops.values_mut() {
            known.expired = None;
        }
        for pop in roster {
            self.handle_named(&pop, now);
        }
        self.pops.retain(|_, known| {
            known.expired.is_some() || known.beat.is_some_and(|beat| now - beat < GRACE)
        });
    }

    /// Another node answered; `sightings` may be empty.
    pub fn handle_answer(&mut self, from: u64, sightings: &[PopSighting], now: Instant) {
        let peer = self.peers.entry(from).or_default();
        peer.heard = now;
        peer.sightings.retain(|_, (_, _, at)| now - *at <= FRESH);
        for sighting in sightings.iter().take(QUESTION_MAX) {
            let said = (sighting.epoch, sighting.hearing(), now);
            peer.sightings.insert(sighting.pop_id.clone(), said);
        }
    }

    /// The connection to another node broke: what it said is of the past.
    pub fn handle_peer_lost(&mut self, node: u64) {
        self.peers.remove(&node);
    }

    /// What a leader has to ask the others: about POPs it does not hear, and expired ones it does
    /// not hear come back. And whether it is urgent: one may expire.
    pub fn question(&mut self, now: Instant) -> (Vec<PopEpoch>, bool) {
        let open = |known: &Known| match known.expired {
            _ if known.fenced => false,
            Some(false) => !self.is_heard(known, now),
            Some(true) => self.hearing(known, now) != PopHearing::Steady,
            None => false,
        };
        let ask =
            |(id, known): (&String, &Known)| PopEpoch { pop_id: id.clone(), epoch: known.epoch };
        let after = (std::ops::Bound::Excluded(&self.asked), std::ops::Bound::Unbounded);
        let later = self.pops.range::<String, _>(after).filter(|(_, known)| open(known));
        let earlier = self.pops.range::<String, _>(..=&self.asked).filter(|(_, known)| open(known));
        let asked: Vec<PopEpoch> = later.chain(earlier).map(ask).take(QUESTION_MAX).collect();
        let full = asked.len() == QUESTION_MAX;
        self.asked = asked.last().filter(|_| full).map_or_else(String::new, |p| p.pop_id.clone());
        let urgent = |known: &Known| known.expired == Some(false) && !self.is_heard(known, now);
        let urgent = self.pops.values().any(urgent);
        (asked, urgent)
    }

    /// What this node hears, for a leader that asks.
    pub fn answer(&self, asked: &[PopEpoch], now: Instant) -> Vec<PopSighting> {
        let sighting = |asked: &PopEpoch| {
            let hearing = match self.pops.get(&asked.pop_id) {
                // The asker lags: whoever is newer is not the one to expire.
                Some(known) if known.epoch > asked.epoch && known.expired.is_some() => {
                    PopHearing::Heard
                }
                Some(known) if known.epoch == asked.epoch => self.hearing(known, now),
                Some(Known { ahead: Some(ahead), .. }) if ahead.epoch == asked.epoch => {
                    self.hearing(ahead, now)
                }
                _ => PopHearing::Unspecified,
            };
            let PopEpoch { pop_id, epoch } = asked.clone();
            PopSighting { pop_id, epoch, hearing: hearing.into() }
        };
        asked.iter().take(QUESTION_MAX).map(sighting).collect()
    }

    /// POPs heard lately.
    pub fn heard(&self, now: Instant) -> usize {
        self.pops.values().filter(|known| self.is_heard(known, now)).count()
    }

    fn is_heard(&self, known: &Known, now: Instant) -> bool {
        known.broken.is_none() && known.beat.is_some_and(|beat| now - beat < self.ttl / 2)
    }

    fn hearing(&self, known: &Known, now: Instant) -> PopHearing {
        let Some(beat) = known.beat else {
            let listened = now - known.noticed.max(self.awake);
            return if listened >= GRACE { PopHearing::Never } else { PopHearing::Unspecified };
        };
        if let Some(broken) = known.broken.filter(|_| now - beat < self.ttl) {
            // Whoever left a node that slept comes back when it is tried again.
            let gone = now - broken >= self.patience && now - self.awake >= self.ttl;
            return if gone { PopHearing::Silent } else { PopHearing::Unspecified };
        }
        if now - beat < self.ttl {
            let steady = beat - known.steady >= STEADY;
            return if steady { PopHearing::Steady } else { PopHearing::Heard };
        }
        if now - beat.max(self.awake) >= self.ttl {
            return PopHearing::Silent;
        }
        PopHearing::Unspecified
    }

    /// What is known of it; `None` when there are too many.
    fn entry(&mut self, pop_id: &str, epoch: u64, now: Instant) -> Option<&mut Known> {
        if !self.pops.contains_key(pop_id) && self.pops.len() >= POPS_MAX {
            return None;
        }
        Some(self.pops.entry(pop_id.to_owned()).or_insert_with(|| Known::new(epoch, now)))
    }
}
