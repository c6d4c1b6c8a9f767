//! How much CPU Opus may cost: less the busier the media thread is.
//!
//! The shell says how busy it is; one step at a time, and a step up only where the load that it
//! adds leaves room, so that the choice does not swing.

/// Best first: libopus complexity, and the load above which it is too much. Encoding 20 ms at
/// 8 kHz costs about 60, 46, 30 and 18 µs.
const STEPS: [(u8, f64); 4] = [(10, 0.60), (5, 0.75), (2, 0.85), (0, f64::INFINITY)];
/// A better step is taken only this far below its limit.
const MARGIN: f64 = 0.20;

/// The complexity in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complexity {
    step: usize,
    fixed: Option<u8>,
}

impl Complexity {
    /// Always `fixed` (at most 10), or by load, beginning with the best.
    pub fn new(fixed: Option<u8>) -> Self {
        Self { step: 0, fixed: fixed.map(|complexity| complexity.min(10)) }
    }

    /// What to encode with, 0 to 10.
    pub fn now(self) -> u8 {
        self.fixed.or_else(|| STEPS.get(self.step).map(|(complexity, _)| *complexity)).unwrap_or(0)
    }

    /// Is there CPU left for what only makes voices nicer?
    pub const fn affords_extras(self) -> bool {
        self.step < 2
    }

    /// Takes the share of one core that the thread used since the last call, 0 to 1; at most about
    /// once a second.
    pub fn handle_load(&mut self, load: f64) {
        let limit = |step: usize| STEPS.get(step).map_or(f64::INFINITY, |(_, limit)| *limit);
        if load > limit(self.step) {
            self.step += 1;
        } else if self.step > 0 && load < limit(self.step - 1) - MARGIN {
            self.step -= 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quality_yields_to_load_step_by_step_and_comes_back() {
        let mut complexity = Complexity::new(None);
        let mut after = |load: f64| {
            complexity.handle_load(load);
            complexity.now()
        };
        assert_eq!([0.3, 0.59, 0.7, 0.7, 0.8, 0.95, 0.95].map(&mut after), [10, 10, 5, 5, 2, 0, 0]);
        assert_eq!([0.7, 0.6, 0.5, 0.45, 0.39].map(&mut after), [0, 2, 5, 5, 10]);
        assert_eq!(after(f64::NAN), 10);
    }

    #[test]
    fn extras_yield_above_three_quarters_whatever_opus_does() {
        let mut complexity = Complexity::new(Some(10));
        let mut after = |load: f64| {
            complexity.handle_load(load);
            complexity.affords_extras()
        };
        assert_eq!([0.5, 0.7, 0.8, 0.7, 0.5].map(&mut after), [true, true, false, false, true]);
    }

    #[test]
    fn a_fixed_one_stays() {
        let mut complexity = Complexity::new(Some(200));
        complexity.handle_load(1.0);
        assert_eq!(complexity.now(), 10);
    }
}
