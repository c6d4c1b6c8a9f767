//! What a receiver knows of a source: loss (RFC 3550 A.1, A.3) and jitter (A.8).

use proto::time::{Duration, Instant};

use super::bursts::{BurstMetrics, Bursts};

/// Sequence numbers may jump this far before it counts as a restart (RFC 3550 A.1).
const MAX_DROPOUT: u16 = 3_000;
/// And this far back (RFC 3550 A.1).
const MAX_MISORDER: u16 = 100;

/// Loss since the previous report (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Interval {
    /// Packets expected.
    pub expected: u32,
    /// Packets received.
    pub received: u32,
}

impl Interval {
    /// Fraction lost in 1/256; 0 when duplicates outweigh losses.
    pub fn fraction_lost(self) -> u8 {
        let lost = u64::from(self.expected.saturating_sub(self.received));
        match u64::from(self.expected) {
            0 => 0,
            expected => u8::try_from(lost * 256 / expected).unwrap_or(u8::MAX),
        }
    }
}

/// What was received, and how what was not came in runs: from the beginning, or between two times.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Packets received.
    pub received: u64,
    /// Packets expected.
    pub expected: u64,
    /// Runs of packets lost.
    pub runs: u64,
    /// Packets in these runs.
    pub missed: u64,
}

impl Totals {
    /// What came after `earlier`. A packet that came late may have filled a gap of before.
    pub const fn since(self, earlier: Self) -> Self {
        Self {
            received: self.received.saturating_sub(earlier.received),
            expected: self.expected.saturating_sub(earlier.expected),
            runs: self.runs.saturating_sub(earlier.runs),
            missed: self.missed.saturating_sub(earlier.missed),
        }
    }

    /// Packets lost; duplicates make it too small, never negative.
    pub const fn lost(self) -> u64 {
        self.expected.saturating_sub(self.received)
    }

    /// BurstR (G.107 §3.5): the mean length of the runs over what it were if each packet was lost
    /// by chance, 1/(1 − loss). 1 without losses; below 1 they are spread more evenly than chance.
    #[allow(clippy::cast_precision_loss, reason = "a ratio")]
    pub fn burst_ratio(self) -> f64 {
        if self.runs == 0 || self.missed == 0 || self.expected == 0 {
            return 1.0;
        }
        let mean = self.missed as f64 / self.runs as f64;
        let loss = (self.missed as f64 / self.expected as f64).min(1.0);
        mean * (1.0 - loss)
    }
}

/// Reception statistics of one source; survives its restarts, keeping totals.
#[derive(Debug, Clone, Default)]
pub struct Reception {
    source: Option<Source>,
    received: u64,
    /// Expected of sources before the current one.
    expected_before: u64,
    reported_expected: u64,
    reported_received: u64,
    clock_rate: u32,
    /// In clock units, times 16 (A.8).
    jitter: u32,
    transit: Option<u32>,
    /// Runs of packets not received, the packets in them, and in the latest.
    runs: u64,
    missed: u64,
    run: u16,
    bursts: Bursts,
    /// Least transit since it was asked for, and of the source's first such time.
    least: Option<u32>,
    first: Option<u32>,
}

#[derive(Debug, Clone, Copy)]
struct Source {
    ssrc: u32,
    base: u16,
    highest: u16,
    cycles: u32,
}

impl Source {
    fn expected(self) -> u64 {
        let extended = u64::from(self.cycles) << 16 | u64::from(self.highest);
        (extended + 1).saturating_sub(u64::from(self.base))
    }
}

impl Reception {
    /// A packet arrived. True if it continues the source, false if the source is new or restarted.
    pub fn packet(&mut self, ssrc: u32, sequence: u16) -> bool {
        self.received += 1;
        if let Some(source) = &mut self.source
            && source.ssrc == ssrc
        {
            let ahead = sequence.wrapping_sub(source.highest);
            if ahead < MAX_DROPOUT {
                if ahead > 1 {
                    self.run = ahead - 1;
                    self.runs += 1;
                    self.missed += u64::from(self.run);
                    self.bursts.lost(self.run, self.expected_before + source.expected());
                }
                source.cycles += u32::from(sequence < source.highest);
                source.highest = sequence;
                return true;
            }
            if ahead > u16::MAX - MAX_MISORDER {
                self.filled();
                return true;
            }
        }
        self.expected_before = self.expected();
        self.source = Some(Source { ssrc, base: sequence, highest: sequence, cycles: 0 });
        (self.transit, self.run) = (None, 0);
        (self.least, self.first) = (None, None);
        false
    }

    /// A packet of the latest run came after all.
    fn filled(&mut self) {
        if self.run > 0 {
            self.run -= 1;
            self.missed -= 1;
            self.runs -= u64::from(self.run == 0);
        }
    }

    /// How many packets are missing between the highest received and this one; 0 if it is no
    /// continuation.
    pub fn missing_before(&self, ssrc: u32, sequence: u16) -> u16 {
        let source = self.source.filter(|source| source.ssrc == ssrc);
        let ahead = source.map_or(0, |source| sequence.wrapping_sub(source.highest));
        if ahead < MAX_DROPOUT { ahead.saturating_sub(1) } else { 0 }
    }

    /// Measures jitter with a packet that carries new audio (not an event's repetition: those
    /// repeat their timestamp).
    pub fn arrival(&mut self, timestamp: u32, clock_rate: u32, now: Instant) {
        if clock_rate != self.clock_rate {
            self.clock_rate = clock_rate;
            self.jitter = 0;
            self.transit = None;
            (self.least, self.first) = (None, None);
        }
        let (nanos, rate) = (now.as_nanos(), u64::from(clock_rate));
        // In two steps, because it is done for each packet and a division of 128 bits is slow.
        let units = (nanos / 1_000_000_000)
            .wrapping_mul(rate)
            .wrapping_add((nanos % 1_000_000_000) * rate / 1_000_000_000);
        #[allow(clippy::cast_possible_truncation, reason = "timestamps wrap at 32 bits")]
        let transit = (units as u32).wrapping_sub(timestamp);
        if let Some(before) = self.transit {
            let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs();
            // A pause or a timestamp jump is not jitter; one second is no jitter either.
            if difference < clock_rate {
                self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
            }
        }
        self.transit = Some(transit);
        let least = self.least.unwrap_or(transit);
        let is_less = transit.wrapping_sub(least).cast_signed() < 0;
        self.least = Some(if is_less { transit } else { least });
    }

    /// How much longer the way takes than in the source's first interval, in µs, by the fastest
    /// packet of each: what a route or a queue added. The drift of the sender's clock is in it.
    /// Ends the interval; `None` when nothing came in it.
    pub fn delay_change(&mut self) -> Option<i64> {
        let least = self.least.take()?;
        let first = *self.first.get_or_insert(least);
        let units = i64::from(least.wrapping_sub(first).cast_signed());
        Some(units * 1_000_000 / i64::from(self.clock_rate.max(1)))
    }

    /// How losses come in bursts, from the beginning. Packets that came out of order count as lost.
    pub fn bursts(&self) -> BurstMetrics {
        self.bursts.metrics(self.expected())
    }

    /// Everything since the beginning.
    pub fn totals(&self) -> Totals {
        let (received, expected) = (self.received, self.expected());
        Totals { received, expected, runs: self.runs, missed: self.missed }
    }

    /// Packets received.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Packets expected.
    pub fn expected(&self) -> u64 {
        self.expected_before + self.source.map_or(0, Source::expected)
    }

    /// Packets lost.
    pub fn lost(&self) -> u64 {
        self.expected().saturating_sub(self.received)
    }

    /// Interarrival jitter.
    pub fn jitter(&self) -> Duration {
        match self.clock_rate {
            0 => Duration::ZERO,
            rate => {
                Duration::from_nanos(u64::from(self.jitter >> 4) * 1_000_000_000 / u64::from(rate))
            }
        }
    }

    /// Interarrival jitter in clock units, as reports carry it.
    pub fn jitter_units(&self) -> u32 {
        self.jitter >> 4
    }

    /// The source heard last and its extended highest sequence number (RFC 3550 §6.4.1).
    pub fn source(&self) -> Option<(u32, u32)> {
        self.source.map(|s| (s.ssrc, (s.cycles << 16) | u32::from(s.highest)))
    }

    /// Loss since the last call.
    pub fn interval(&mut self) -> Interval {
        let (expected, received) = (self.expected(), self.received);
        let narrow = |n: u64| u32::try_from(n).unwrap_or(u32::MAX);
        let interval = Interval {
            expected: narrow(expected - self.reported_expected),
            received: narrow(received - self.reported_received),
        };
        self.reported_expected = expected;
        self.reported_received = received;
        interval
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loss_is_counted_across_the_wrap() {
        let mut reception = Reception::default();
        assert!(!reception.packet(1, 65_530));
        for n in 1..20_u16 {
            if n % 5 != 0 {
                assert!(reception.packet(1, 65_530_u16.wrapping_add(n)));
            }
        }
        assert_eq!((reception.received(), reception.expected(), reception.lost()), (17, 20, 3));
        assert_eq!(reception.source(), Some((1, (1 << 16) + 13)));
        assert_eq!(reception.interval().fraction_lost(), 38);
        assert_eq!(reception.interval(), Interval::default());
    }

    #[test]
    fn reordering_is_no_loss_and_a_new_source_keeps_totals() {
        let mut reception = Reception::default();
        for sequence in [1, 3, 2, 4] {
            reception.packet(1, sequence);
        }
        assert_eq!(reception.lost(), 0);
        assert!(!reception.packet(2, 9_000));
        assert!(!reception.packet(2, 30_000), "a jump is a restart");
        assert_eq!((reception.expected(), reception.lost()), (6, 0));
    }

    #[test]
    fn jitter_follows_the_standard() {
        let mut reception = Reception::default();
        for n in 0..2_000_u32 {
            // Alternately 0 and 5 ms late: |D| is always 5 ms, and J converges to it.
            let now = Instant::from_millis(u64::from(n) * 20 + u64::from(n % 2) * 5);
            reception.arrival(n.wrapping_mul(160).wrapping_sub(1_000), 8_000, now);
        }
        let jitter = reception.jitter().as_micros();
        assert!((4_600..=5_000).contains(&jitter), "{jitter}");
    }

    #[test]
    fn losses_in_runs_are_told_from_losses_by_chance() {
        let ratio = |is_lost: &dyn Fn(u32) -> bool| {
            let mut reception = Reception::default();
            for n in (0..10_000_u32).filter(|&n| !is_lost(n)) {
                reception.packet(1, n as u16);
            }
            reception.totals().burst_ratio()
        };
        assert_eq!(ratio(&|_| false), 1.0);
        let by_chance = ratio(&|n| n.wrapping_mul(2_654_435_761) >> 8 & 0xff < 13);
        assert!((0.9..1.1).contains(&by_chance), "{by_chance}");
        // 5 %, five at a time: 5 × 0.95.
        let runs = ratio(&|n| n % 100 >= 95);
        assert!((4.7..4.8).contains(&runs), "{runs}");
    }

    #[test]
    fn a_gap_that_is_filled_was_no_run() {
        let mut reception = Reception::default();
        for sequence in [1, 2, 5, 4, 3, 6, 9, 8] {
            reception.packet(1, sequence);
        }
        let totals = reception.totals();
        assert_eq!((totals.runs, totals.missed, totals.lost()), (1, 1, 1));
        reception.packet(1, 7);
        assert_eq!(reception.totals().burst_ratio(), 1.0);
        let before = reception.totals();
        reception.packet(1, 12);
        let part = reception.totals().since(before);
        assert_eq!((part.received, part.expected, part.runs, part.missed), (1, 3, 1, 2));
    }

    #[test]
    fn a_longer_way_is_seen_by_the_fastest_packets() {
        let mut reception = Reception::default();
        let mut hear = |from: u32, longer: u64, slow: u64| {
            for n in from..from + 10 {
                let late = longer + if n % 10 == 7 { 0 } else { slow };
                let now = Instant::from_millis(u64::from(n) * 20 + late);
                reception.packet(1, n as u16);
                reception.arrival(n * 160, 8_000, now);
            }
            reception.delay_change()
        };
        assert_eq!(hear(0, 50, 9), Some(0));
        assert_eq!(hear(10, 50, 3), Some(0));
        assert_eq!(hear(20, 75, 9), Some(25_000));
        assert_eq!(hear(30, 45, 0), Some(-5_000));
        assert_eq!(reception.delay_change(), None);
    }

    proptest! {
        #[test]
        fn any_sequence_is_counted_without_panic(
            packets in prop::collection::vec((0..3_u32, any::<u16>(), any::<u32>()), 0..200),
        ) {
            let mut reception = Reception::default();
            for (n, (ssrc, sequence, timestamp)) in packets.iter().enumerate() {
                reception.packet(*ssrc, *sequence);
                reception.arrival(*timestamp, 8_000, Instant::from_millis(n as u64));
                let interval = reception.interval();
                prop_assert!(interval.received == 1);
            }
            prop_assert_eq!(reception.received(), packets.len() as u64);
        }
    }
}
