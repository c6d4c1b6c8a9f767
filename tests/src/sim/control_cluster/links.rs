//! Who reaches whom, how late, and what gets lost, doubled and overtaken.

use std::collections::BTreeMap;

use chaos::rng::Rng;

use super::plan::{Conditions, MS, Micros};

/// The network between nodes, and between clients and nodes.
pub struct Links {
    rng: Rng,
    conditions: Conditions,
    /// Cut from … to, how often: cuts overlap.
    cut: BTreeMap<(usize, usize), u32>,
    healed: bool,
}

impl Links {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self { rng: Rng::split(seed, "links"), conditions, cut: BTreeMap::new(), healed: false }
    }

    /// When copies of a message arrive; none: lost.
    pub fn between(&mut self, from: usize, to: usize, now: Micros) -> Vec<Micros> {
        let Conditions { loss, double, .. } = self.conditions;
        let lost = self.rng.next_f64() < loss;
        let copies = if self.rng.next_f64() < double { 2 } else { 1 };
        if self.cut.contains_key(&(from, to)) {
            return Vec::new();
        }
        if self.healed {
            return vec![self.due(now)];
        }
        if lost {
            return Vec::new();
        }
        (0..copies).map(|_| self.due(now)).collect()
    }

    fn due(&mut self, now: Micros) -> Micros {
        let Conditions { delay, jitter, .. } = self.conditions;
        // Most are quick, a few overtake others by far.
        let jitter = if self.rng.below(4) == 0 { self.rng.below(jitter) } else { 0 };
        now + delay + jitter
    }

    /// When a request or an answer of a client arrives.
    pub fn client(&mut self, now: Micros) -> Option<Micros> {
        let lost = self.rng.next_f64() < self.conditions.client_loss && !self.healed;
        let due = now + 200 + self.rng.below(5 * MS);
        (!lost).then_some(due)
    }

    pub fn cut(&mut self, from: usize, to: usize) {
        *self.cut.entry((from, to)).or_default() += 1;
    }

    pub fn mend(&mut self, from: usize, to: usize) {
        if let Some(count) = self.cut.get_mut(&(from, to)) {
            *count -= 1;
            if *count == 0 {
                self.cut.remove(&(from, to));
            }
        }
    }

    /// No loss from now on, and no cut.
    pub fn heal(&mut self) {
        self.healed = true;
        self.cut.clear();
    }
}
