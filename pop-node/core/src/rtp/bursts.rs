//! Bursts and gaps of loss (RFC 3611 §4.7.2, appendix A.2): within a burst fewer than `GMIN` packets
//! come between two losses.

/// Packets received in a row that end a burst.
pub(super) const GMIN: u8 = 16;

/// The transitions of the appendix's four-state model, by its names, in packets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Bursts {
    c11: u64,
    c13: u64,
    c14: u64,
    c22: u64,
    c23: u64,
    c33: u64,
    /// Losses of the burst going on, and packets received since the last.
    lost: u64,
    /// Packets expected when the last loss was.
    at: u64,
}

/// How losses come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct BurstMetrics {
    /// Share lost within bursts, in 1/256.
    pub burst_density: u8,
    /// Share lost outside of them, in 1/256.
    pub gap_density: u8,
    /// Mean length of a burst, in packets.
    pub burst_packets: u64,
    /// Mean length of a gap, in packets.
    pub gap_packets: u64,
}

impl Bursts {
    /// `run` packets in a row were lost; before them `expected` were expected in all.
    pub(super) fn lost(&mut self, run: u16, expected: u64) {
        let mut received = expected.saturating_sub(self.at);
        for _ in 0..run {
            if received >= u64::from(GMIN) {
                match self.lost {
                    0 | 1 => self.c14 += 1,
                    _ => self.c13 += 1,
                }
                self.lost = 1;
                self.c11 += received;
            } else {
                self.lost += 1;
                if received == 0 {
                    self.c33 += 1;
                } else {
                    self.c23 += 1;
                    self.c22 += received - 1;
                }
            }
            received = 0;
        }
        self.at = expected + u64::from(run);
    }

    /// Of all packets until now.
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "densities are 0 to 255"
    )]
    pub(super) fn metrics(&self, expected: u64) -> BurstMetrics {
        let mut now = *self;
        // The last gap is not over yet.
        now.c11 += expected.saturating_sub(self.at);
        let Self { c11, c13, c14, c22, c23, c33, .. } = now;
        let (c31, c32) = (c13, c23);
        let share = |part: u64, all: u64| if all == 0 { 0.0 } else { part as f64 / all as f64 };
        let density = |share: f64| (256.0 * share).min(255.0) as u8;
        let p32 = share(c32, c31 + c32 + c33);
        let p23 = if c22 + c23 == 0 { 1.0 } else { 1.0 - share(c22, c22 + c23) };
        let gap = c11 + c14 + c13;
        let all = gap + c22 + c23 + c31 + c32 + c33;
        let gap_packets = gap.checked_div(c13).unwrap_or(gap);
        BurstMetrics {
            burst_density: if c13 == 0 { 0 } else { density(p23 / (p23 + p32)) },
            gap_density: density(share(c14, c11 + c14)),
            burst_packets: all.checked_div(c13).unwrap_or(0).saturating_sub(gap_packets),
            gap_packets,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(is_lost: impl Fn(u64) -> bool) -> BurstMetrics {
        let mut bursts = Bursts::default();
        for n in (0..10_000).filter(|&n| is_lost(n)) {
            bursts.lost(1, n);
        }
        bursts.metrics(10_000)
    }

    #[test]
    fn single_losses_are_gaps() {
        let single = metrics(|n| n % 50 == 25);
        assert_eq!((single.burst_density, single.gap_density), (0, 5));
    }

    #[test]
    fn runs_are_bursts() {
        // Ten in a row each hundred.
        let runs = metrics(|n| n % 100 >= 90);
        assert_eq!((runs.burst_density, runs.gap_density), (255, 0));
        assert!((8..=11).contains(&runs.burst_packets), "{runs:?}");
        assert!((88..=92).contains(&runs.gap_packets), "{runs:?}");
        // Each second packet of twenty in a hundred.
        let half = metrics(|n| n % 100 >= 80 && n % 2 == 0);
        assert!((120..=145).contains(&half.burst_density), "{half:?}");
        assert_eq!(metrics(|_| false), BurstMetrics { gap_packets: 10_000, ..Default::default() });
    }
}
