//! A disk that does not answer. The driver syncs on its own thread, so a write that hangs stops
//! this node's heartbeats and the others elect a leader; what this file adds is that clients of
//! this node are told at once to go elsewhere, and the operator why.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::pace::Pace;
use crate::telemetry;

/// How often to look.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Since when a write is under way.
#[derive(Debug)]
pub(super) struct Writing {
    start: Instant,
    /// Milliseconds after `start`, and one; 0 for none.
    since: AtomicU64,
}

impl Writing {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), since: AtomicU64::new(0) })
    }

    pub(super) fn begins(&self) {
        let after = self.start.elapsed().as_millis();
        self.since.store(u64::try_from(after).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.since.store(0, Ordering::Relaxed);
    }

    fn takes(&self) -> Duration {
        match self.since.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            since => self.start.elapsed().saturating_sub(Duration::from_millis(since - 1)),
        }
    }
}

/// Says when a write takes longer than an election would, until the driver is gone.
pub(super) async fn watch(writing: Weak<Writing>, pace: Pace, stalled: watch::Sender<bool>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(writing) = writing.upgrade() else { return };
        let takes = writing.takes();
        telemetry::disk_write_age(takes);
        let now = takes > pace.election();
        if stalled.send_if_modified(|before| std::mem::replace(before, now) != now) {
            if now {
                tracing::error!(?takes, "the disk does not answer: this node cannot lead or write");
                telemetry::disk_stalled();
            } else {
                tracing::info!("the disk answers again");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Timers;

    #[tokio::test]
    async fn a_write_that_hangs_is_noticed_and_forgiven() {
        let tick = Duration::from_millis(5);
        let timers = Timers { tick, election: tick * 10, fixed: true, ..Timers::default() };
        let (writing, (stalled, mut seen)) = (Writing::new(), watch::channel(false));
        tokio::spawn(watch(Arc::downgrade(&writing), Pace::new(timers), stalled));
        assert_eq!(writing.takes(), Duration::ZERO);
        writing.begins();
        seen.wait_for(|stalled| *stalled).await.unwrap();
        writing.ends();
        seen.wait_for(|stalled| !*stalled).await.unwrap();
        drop(writing);
        assert!(seen.changed().await.is_err(), "it ends with the driver");
    }
}
