//! Which POPs this node hears. Every POP beats to every control node, so that a new leader
//! already knows who is silent. Nothing here is replicated.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use proto::control::HeartbeatRequest;

/// A POP that is silent for longer is not alive.
pub const WINDOW: Duration = Duration::from_secs(3);
/// More POPs than any mesh has; certificates bound them before this does.
const POPS_MAX: usize = 10_000;

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

    /// Heard within the window.
    pub fn is_alive(&self, now: Instant) -> bool {
        self.silent(now) <= WINDOW
    }
}

/// Last heartbeats by POP.
#[derive(Debug, Default)]
pub struct Liveness(Mutex<BTreeMap<String, Beat>>);

impl Liveness {
    /// Takes a heartbeat. An older epoch does not replace a newer one's.
    pub fn heard(&self, beat: &HeartbeatRequest, now: Instant) {
        let mut beats = self.beats();
        let newer = beats.get(&beat.pop_id).is_some_and(|b| b.epoch > beat.epoch);
        if newer || (beats.len() >= POPS_MAX && !beats.contains_key(&beat.pop_id)) {
            return;
        }
        let &HeartbeatRequest { epoch, calls, view_revision, .. } = beat;
        beats.insert(beat.pop_id.clone(), Beat { at: now, epoch, calls, view_revision });
    }

    /// Last heartbeat of a POP.
    pub fn last(&self, pop_id: &str) -> Option<Beat> {
        self.beats().get(pop_id).cloned()
    }

    /// POPs heard within the window.
    pub fn alive(&self, now: Instant) -> usize {
        self.beats().values().filter(|beat| beat.is_alive(now)).count()
    }

    fn beats(&self) -> MutexGuard<'_, BTreeMap<String, Beat>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_and_epochs() {
        let (liveness, start) = (Liveness::default(), Instant::now());
        let beat = |epoch, calls| HeartbeatRequest {
            pop_id: "fra1".into(),
            epoch,
            calls,
            view_revision: 7,
        };
        liveness.heard(&beat(2, 5), start);
        liveness.heard(&beat(1, 9), start + WINDOW);
        assert_eq!(liveness.last("fra1").map(|b| b.calls), Some(5));
        assert_eq!(liveness.alive(start + WINDOW), 1);
        assert_eq!(liveness.alive(start + WINDOW + Duration::from_millis(1)), 0);
        assert_eq!(liveness.last("sin1"), None);
    }
}
