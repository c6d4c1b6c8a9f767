//! Which POPs this node hears: heartbeats into the core's machine, its questions and answers on
//! the connections between control nodes, what it finds into the log.
//!
//! Every POP beats to every control node, so that a new leader already knows who is silent.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use control_core::liveness::{self as core, Judgment};
use control_core::replica::Replica;
use proto::control::{HeartbeatRequest, Pop};
use proto::id::NodeId;
use proto::raft::{PopEpoch, PopSighting, RecordPops};
use tokio::sync::watch;

use crate::driver::Driver;
use crate::pace::Pace;
use crate::telemetry;

/// More POPs than any mesh has; certificates bound them before this does.
const POPS_MAX: usize = 10_000;
/// Between two looks.
const EVERY: Duration = Duration::from_millis(100);
/// Between two looks at all POPs of the state.
const ROSTER_EVERY: Duration = Duration::from_secs(5);
/// After a finding the state is looked at each time for so long: it takes it, or not.
const ROSTER_SOON: Duration = Duration::from_secs(2);

/// The last heartbeat of a POP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Beat {
    /// When it came.
    pub at: Instant,
    /// Epoch it claimed.
    pub epoch: u64,
    /// Calls it carries.
    pub calls: u32,
    /// Revision of the view it works with.
    pub view_revision: u64,
}

impl Beat {
    /// How long ago.
    pub fn silent(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.at)
    }
}

/// Heartbeats, and what follows from them.
pub struct Liveness {
    origin: Instant,
    inner: Mutex<Inner>,
    question: watch::Sender<Arc<Vec<PopEpoch>>>,
}

struct Inner {
    beats: BTreeMap<String, Beat>,
    /// The last heartbeat stream of each POP.
    streams: BTreeMap<String, u64>,
    begun: u64,
    core: core::Liveness,
}

/// A heartbeat stream of a POP, numbered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeartStreamId {
    /// Whose.
    pub pop_id: String,
    /// Which process.
    pub epoch: u64,
    number: u64,
}

impl Liveness {
    /// Of this node, that begins to listen now.
    pub fn new(own: NodeId) -> Self {
        let core = core::Liveness::new(own.0, proto::time::Instant::ZERO);
        let (beats, streams) = (BTreeMap::new(), BTreeMap::new());
        let inner = Mutex::new(Inner { beats, streams, begun: 0, core });
        Self { origin: Instant::now(), inner, question: watch::Sender::default() }
    }

    /// And looks at what it hears, until the node stops.
    pub fn start(own: NodeId, driver: &Driver, pace: &Pace) -> Arc<Self> {
        let liveness = Arc::new(Self::new(own));
        tokio::spawn(liveness.clone().run(driver.clone(), pace.clone()));
        liveness
    }

    /// Takes a heartbeat. Only those of the process the state names are
    /// shown.
    pub fn heard(&self, beat: &HeartbeatRequest, named: Option<&Pop>, now: Instant) {
        let at = self.time(now);
        let mut inner = self.lock();
        let Inner { beats, core, .. } = &mut *inner;
        named.into_iter().for_each(|named| core.handle_named(named, at));
        let counts = core.handle_beat(&beat.pop_id, beat.epoch, at);
        core.handle_word(&beat.pop_id, beat.epoch, &beat.unseen);
        if !counts || (beats.len() >= POPS_MAX && !beats.contains_key(&beat.pop_id)) {
            return;
        }
        let &HeartbeatRequest { epoch, calls, view_revision, .. } = beat;
        beats.insert(beat.pop_id.clone(), Beat { at: now, epoch, calls, view_revision });
    }

    /// A stream brings the heartbeats of a process from now on.
    pub fn begun(&self, pop_id: &str, epoch: u64) -> HeartStreamId {
        let mut inner = self.lock();
        inner.begun += 1;
        let number = inner.begun;
        if inner.streams.len() < POPS_MAX || inner.streams.contains_key(pop_id) {
            inner.streams.insert(pop_id.to_owned(), number);
        }
        HeartStreamId { pop_id: pop_id.to_owned(), epoch, number }
    }

    /// It broke, with no goodbye: evidence, unless a newer one is there.
    pub fn broke(&self, stream: &HeartStreamId, now: Instant) {
        let at = self.time(now);
        let mut inner = self.lock();
        if inner.streams.get(&stream.pop_id) == Some(&stream.number) {
            tracing::info!(
                pop_id = stream.pop_id,
                epoch = stream.epoch,
                "its heartbeats broke off"
            );
            inner.core.handle_broken(&stream.pop_id, stream.epoch, at);
        }
    }

    /// Last heartbeat of a POP.
    pub fn last(&self, pop_id: &str) -> Option<Beat> {
        self.lock().beats.get(pop_id).cloned()
    }

    /// POPs heard lately.
    pub fn alive(&self, now: Instant) -> usize {
        let now = self.time(now);
        self.lock().core.heard(now)
    }

    /// What a leader asks the other nodes, now and from now on.
    pub fn question(&self) -> watch::Receiver<Arc<Vec<PopEpoch>>> {
        self.question.subscribe()
    }

    /// What this node hears of them.
    pub fn answer(&self, asked: &[PopEpoch]) -> Vec<PopSighting> {
        if asked.is_empty() {
            return Vec::new();
        }
        let now = self.time(Instant::now());
        self.lock().core.answer(asked, now)
    }

    /// Another node answered.
    pub fn answered(&self, from: NodeId, sightings: &[PopSighting]) {
        let now = self.time(Instant::now());
        self.lock().core.handle_answer(from.0, sightings, now);
    }

    /// The connection to another node broke.
    pub fn peer_lost(&self, node: NodeId) {
        self.lock().core.handle_peer_lost(node.0);
    }

    /// Looks, asks and finds while this node leads, until it stops.
    async fn run(self: Arc<Self>, driver: Driver, pace: Pace) {
        let mut voters = Vec::new();
        let (mut due, mut soon, mut led) = (Instant::now(), Instant::now(), false);
        loop {
            tokio::time::sleep(EVERY).await;
            let leads = driver.progress().borrow().leads;
            let now = Instant::now();
            self.tick(&pace, now);
            if now >= due || now < soon || (leads && !led) {
                due = now + ROSTER_EVERY;
                let Ok((roster, deciding)) = driver.query(roster).await else { return };
                voters = deciding;
                let now = self.time(Instant::now());
                self.lock().core.handle_roster(roster, now);
            }
            led = leads;
            let Judgment { record, held } = self.look(leads, &voters);
            telemetry::pops_held(held);
            if record != RecordPops::default() {
                soon = now + ROSTER_SOON;
                say(&record);
                telemetry::pops_found(&record);
                if driver.record_pops(record).await.is_err() {
                    return;
                }
            }
        }
    }

    fn tick(&self, pace: &Pace, now: Instant) {
        let now = self.time(now);
        let mut inner = self.lock();
        inner.core.set_ttl(pace.pop_ttl());
        inner.core.set_patience(pace.pop_patience());
        inner.core.handle_tick(now);
    }

    /// Asks and judges, if this node leads.
    fn look(&self, leads: bool, voters: &[u64]) -> Judgment {
        let now = self.time(Instant::now());
        let mut inner = self.lock();
        let (asked, urgent) = if leads { inner.core.question(now) } else { <_>::default() };
        let judgment = if leads { inner.core.judge(voters, now) } else { Judgment::default() };
        drop(inner);
        self.question.send_if_modified(|question| {
            *question = Arc::new(asked);
            urgent
        });
        judgment
    }

    fn time(&self, at: Instant) -> proto::time::Instant {
        proto::time::Instant::ZERO + at.saturating_duration_since(self.origin)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn say(record: &RecordPops) {
    for PopEpoch { pop_id, epoch } in &record.fenced {
        tracing::warn!(pop_id, epoch, "a POP is given up: neither heartbeats nor paths of others");
    }
    for pop in &record.found {
        let (pop_id, epoch) = (pop.pop_id.as_str(), pop.epoch);
        match pop.expired {
            true => tracing::warn!(pop_id, epoch, "a POP expired: no heartbeats"),
            false => tracing::info!(pop_id, epoch, "a POP is back"),
        }
    }
}

/// The POPs of the state, and who decides.
fn roster(replica: &Replica) -> (Vec<Pop>, Vec<u64>) {
    (replica.state().pops().collect(), replica.voters())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_beat_of_the_newest_epoch_counts() {
        let (liveness, start) = (Liveness::new(NodeId(1)), Instant::now());
        let beat = |epoch, calls| HeartbeatRequest {
            pop_id: "fra1".into(),
            epoch,
            calls,
            view_revision: 7,
            ..HeartbeatRequest::default()
        };
        let named = Pop { pop_id: "fra1".into(), epoch: 2, ..Pop::default() };
        liveness.heard(&beat(2, 5), Some(&named), start);
        liveness.heard(&beat(1, 9), Some(&named), start + core::TTL);
        liveness.heard(&beat(3, 9), Some(&named), start + core::TTL);
        assert_eq!(liveness.last("fra1").map(|b| b.calls), Some(5));
        assert_eq!(liveness.alive(start), 1);
        assert_eq!(liveness.alive(start + core::TTL), 0);
        assert_eq!(liveness.last("sin1"), None);
    }
}
