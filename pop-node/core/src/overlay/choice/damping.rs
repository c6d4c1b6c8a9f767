//! No path is gone back to in a hurry: dwell, and penalties as of route flap damping (RFC 2439).

use std::collections::BTreeMap;

use proto::time::{Duration, Instant};

use crate::overlay::Hop;

/// No switch for the better sooner than this after the last one.
const DWELL_MIN: Duration = Duration::from_secs(15);
const DWELL_MAX: Duration = Duration::from_secs(300);
/// Going back to a path within this is a flap.
const FLAP: Duration = Duration::from_secs(600);
const PENALTY: f64 = 1_000.0;
const HALF_LIFE: Duration = Duration::from_secs(60);
const SUPPRESS: f64 = 3_000.0;
const REUSE: f64 = 1_500.0;
/// Paths remembered; a pair has fewer.
const PATHS_MAX: usize = 64;

#[derive(Debug, Clone)]
struct Record {
    left: Instant,
    penalty: f64,
    /// When it had that penalty.
    at: Instant,
    suppressed: bool,
}

impl Record {
    fn penalty(&self, now: Instant) -> f64 {
        let lives = (now - self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.penalty * 0.5_f64.powf(lives)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Damping {
    dwell: Duration,
    switched: Option<Instant>,
    records: BTreeMap<Hop, Record>,
}

impl Default for Damping {
    fn default() -> Self {
        Self { dwell: DWELL_MIN, switched: None, records: BTreeMap::new() }
    }
}

impl Damping {
    /// The earliest time of a switch for the better.
    pub(super) fn free_at(&self) -> Instant {
        self.switched.map_or(Instant::ZERO, |at| at + self.dwell)
    }

    /// May media go to `to`, only because it is better there?
    pub(super) fn allows(&mut self, to: &Hop, now: Instant) -> bool {
        if let Some(record) = self.records.get_mut(to) {
            let penalty = record.penalty(now);
            record.suppressed = record.suppressed && penalty > REUSE;
            if record.suppressed {
                return false;
            }
        }
        now >= self.free_at()
    }

    /// Media went from one to the other; by `choice`, or because it had to.
    pub(super) fn switched(&mut self, from: &Hop, to: &Hop, choice: bool, now: Instant) {
        self.switched = Some(now);
        let back = self.records.get(to).is_some_and(|record| now - record.left < FLAP);
        if choice {
            self.dwell = if back { (self.dwell * 2).min(DWELL_MAX) } else { DWELL_MIN };
        }
        if self.records.len() >= PATHS_MAX {
            self.records.clear();
        }
        let record = self.records.entry(from.clone()).or_insert_with(|| Record {
            left: now,
            penalty: 0.0,
            at: now,
            suppressed: false,
        });
        let penalty = record.penalty(now) + PENALTY;
        *record = Record {
            left: now,
            penalty,
            at: now,
            suppressed: record.suppressed || penalty >= SUPPRESS,
        };
    }
}
