//! Which datagrams of a lane have come, whatever way they took.

/// Behind the newest by more than this is a restarted peer, or too late to be of use.
const REMEMBERED: u16 = 512;
/// Ahead by more than this is a restarted peer.
const DROPOUT_MAX: u16 = 30_000;
const WORDS: usize = REMEMBERED as usize / 64;

/// A window over the lane sequence.
#[derive(Debug, Clone, Default)]
pub struct LaneWindow {
    newest: Option<u16>,
    /// Bit (n mod 512): sequence n was received.
    seen: [u64; WORDS],
}

impl LaneWindow {
    /// False for a copy of one that has come before.
    pub fn is_new(&mut self, sequence: u16) -> bool {
        let Some(newest) = self.newest else {
            self.begin(sequence);
            return true;
        };
        let (ahead, behind) = (sequence.wrapping_sub(newest), newest.wrapping_sub(sequence));
        if (1..=DROPOUT_MAX).contains(&ahead) {
            if ahead >= REMEMBERED {
                self.seen = [0; WORDS];
            } else {
                for step in 1..=ahead {
                    self.mark(newest.wrapping_add(step), false);
                }
            }
            self.newest = Some(sequence);
            self.mark(sequence, true);
            return true;
        }
        if behind >= REMEMBERED {
            // Later than half a second of full load: a copy then as well as a restart.
            self.begin(sequence);
            return true;
        }
        !self.mark(sequence, true)
    }

    fn begin(&mut self, sequence: u16) {
        self.seen = [0; WORDS];
        self.newest = Some(sequence);
        self.mark(sequence, true);
    }

    /// Sets a bit; what it was.
    fn mark(&mut self, sequence: u16, value: bool) -> bool {
        let bit = usize::from(sequence % REMEMBERED);
        let Some(word) = self.seen.get_mut(bit / 64) else { return false };
        let mask = 1_u64 << (bit % 64);
        let was = *word & mask != 0;
        if value {
            *word |= mask;
        } else {
            *word &= !mask;
        }
        was
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn copies_are_seen_also_late_and_around_the_end_of_the_numbers() {
        let mut lane = LaneWindow::default();
        for n in 0..200_u16 {
            assert!(lane.is_new(65_500_u16.wrapping_add(n)), "{n}");
            let copy = n.saturating_sub(60);
            assert!(!lane.is_new(65_500_u16.wrapping_add(copy)), "copy of {copy}");
        }
        assert!(lane.is_new(30_000), "a restarted peer");
        assert!(lane.is_new(30_700) && !lane.is_new(30_700) && lane.is_new(30_699));
    }

    proptest! {
        #[test]
        fn each_is_new_once(steps in prop::collection::vec(0..400_u16, 1..300)) {
            let (mut lane, mut seen) = (LaneWindow::default(), BTreeSet::new());
            lane.is_new(1_000);
            seen.insert(1_000);
            // Never further behind the newest than the window remembers.
            let mut newest = 1_000_u16;
            for (n, step) in steps.iter().enumerate() {
                let sequence = if n % 2 == 0 { newest + step / 8 } else { newest - step % 400 };
                newest = newest.max(sequence);
                prop_assert_eq!(lane.is_new(sequence), seen.insert(sequence));
            }
        }
    }
}
