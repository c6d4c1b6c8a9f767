//! Shares the history of changes with all watches: one buffer, no copy per watcher.
//!
//! A watch asks for what follows its revision. One that is slower than the buffer is long finds
//! its place gone and begins anew; nobody waits for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use control_core::watch::{Compacted, WatchLog};
use proto::control::{Event, SnapshotPart};
use proto::id::Revision;
use tokio::sync::watch;

use crate::telemetry;

/// Events kept for those who come back: an hour of a busy day.
const EVENTS_MAX: usize = 65_536;
/// Events a watch takes at once.
const BATCH: usize = 256;
/// After a restart all POPs come at once: they share a snapshot of about this age.
const SNAPSHOT_AGE: Duration = Duration::from_secs(2);

/// Everything that is watched, at one revision.
#[derive(Debug)]
pub struct Snapshot {
    /// Where it stands.
    pub revision: Revision,
    /// Its parts, the last one marked.
    pub parts: Vec<SnapshotPart>,
}

/// The shared history.
pub struct Hub {
    log: Mutex<WatchLog>,
    snapshot: Mutex<Option<(Instant, Arc<Snapshot>)>>,
    revision: watch::Sender<Revision>,
    /// Where open watches are; gone with them.
    places: Mutex<Vec<Weak<AtomicU64>>>,
}

impl Hub {
    /// The state is at `revision`; what was before is not known here.
    pub fn new(revision: Revision) -> Self {
        Self {
            log: Mutex::new(WatchLog::new(EVENTS_MAX, revision)),
            snapshot: Mutex::new(None),
            revision: watch::Sender::new(revision),
            places: Mutex::default(),
        }
    }

    /// A change happened.
    pub fn push(&self, event: Event) {
        let revision = Revision(event.revision);
        lock(&self.log).push(event);
        self.revision.send_replace(revision);
    }

    /// The state jumped: events are missing.
    pub fn reset(&self, revision: Revision) {
        lock(&self.log).reset(revision);
        *lock(&self.snapshot) = None;
        self.revision.send_replace(revision);
    }

    /// A watch begins; it tells there how far it is.
    pub fn enter(&self) -> Arc<AtomicU64> {
        let place = Arc::new(AtomicU64::new(u64::MAX));
        lock(&self.places).push(Arc::downgrade(&place));
        place
    }

    /// Sets the gauges of watches.
    pub fn measure(&self) {
        telemetry::watches(lock(&self.log).len(), self.lag());
    }

    /// Events the slowest watch has still to take.
    fn lag(&self) -> u64 {
        let newest = self.revision.borrow().0;
        let mut places = lock(&self.places);
        places.retain(|place| place.strong_count() > 0);
        let open = places.iter().filter_map(Weak::upgrade);
        let behind = open.map(|place| newest.saturating_sub(place.load(Ordering::Relaxed)));
        behind.max().unwrap_or_default()
    }

    /// Tells of new revisions.
    pub fn subscribe(&self) -> watch::Receiver<Revision> {
        self.revision.subscribe()
    }

    /// Some events after `revision`, in order, without a gap.
    pub fn since(&self, revision: Revision) -> Result<Vec<Arc<Event>>, Compacted> {
        let log = lock(&self.log);
        Ok(log.since(revision)?.take(BATCH).collect())
    }

    /// A recent snapshot from which watching can go on.
    pub fn recent_snapshot(&self, now: Instant) -> Option<Arc<Snapshot>> {
        let (at, snapshot) = lock(&self.snapshot).clone()?;
        let young = now.saturating_duration_since(at) <= SNAPSHOT_AGE;
        (young && self.since(snapshot.revision).is_ok()).then_some(snapshot)
    }

    /// Offers a snapshot to those who come next.
    pub fn share_snapshot(&self, snapshot: &Arc<Snapshot>, now: Instant) {
        *lock(&self.snapshot) = Some((now, snapshot.clone()));
    }

    /// Frees a snapshot nobody will ask for.
    pub fn forget_old_snapshot(&self, now: Instant) {
        let mut snapshot = lock(&self.snapshot);
        if snapshot.as_ref().is_some_and(|(at, _)| now.duration_since(*at) > SNAPSHOT_AGE) {
            *snapshot = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(revision: u64) -> Event {
        Event { prev_revision: revision - 1, revision, changes: Vec::new() }
    }

    #[test]
    fn a_shared_snapshot_is_young_and_can_be_continued() {
        let (hub, now) = (Hub::new(Revision(3)), Instant::now());
        let snapshot = Arc::new(Snapshot { revision: Revision(3), parts: Vec::new() });
        assert!(hub.recent_snapshot(now).is_none());
        hub.share_snapshot(&snapshot, now);
        hub.push(event(4));
        assert!(hub.recent_snapshot(now).is_some());
        assert!(hub.recent_snapshot(now + SNAPSHOT_AGE * 2).is_none());
        hub.reset(Revision(9));
        assert!(hub.recent_snapshot(now).is_none());
        assert!(hub.since(Revision(4)).is_err());
    }

    #[test]
    fn the_slowest_open_watch_is_measured() {
        let hub = Hub::new(Revision(0));
        (1..=9).for_each(|revision| hub.push(event(revision)));
        assert_eq!(hub.lag(), 0, "nobody watches");
        let (slow, fast) = (hub.enter(), hub.enter());
        assert_eq!(hub.lag(), 0, "both begin");
        slow.store(2, Ordering::Relaxed);
        fast.store(8, Ordering::Relaxed);
        assert_eq!(hub.lag(), 7);
        drop(slow);
        assert_eq!(hub.lag(), 1);
    }

    #[test]
    fn events_come_in_order_and_are_announced() {
        let hub = Hub::new(Revision(0));
        let revisions = hub.subscribe();
        (1..=3).for_each(|revision| hub.push(event(revision)));
        assert_eq!(*revisions.borrow(), Revision(3));
        let after: Vec<u64> = hub.since(Revision(1)).unwrap().iter().map(|e| e.revision).collect();
        assert_eq!(after, [2, 3]);
    }
}
