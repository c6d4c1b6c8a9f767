//! Statistics of one path, measured on the datagrams themselves.
//!
//! Loss by the path sequence, jitter as RFC 3550 A.8 and delay change by the send times. The
//! clocks of two POPs are not compared: only changes of their difference mean anything.

use proto::time::{Duration, Instant};

/// A path sequence further behind than this is a restarted peer, not a late datagram.
const REORDER_MAX: u16 = 1_000;
/// A path sequence further ahead than this is a restarted peer, not loss.
const DROPOUT_MAX: u16 = 30_000;
/// The shortest delay is forgotten after one to two of these: clocks drift, routes change.
const SHORTEST_WINDOW: Duration = Duration::from_secs(30);

/// Datagrams lost in a row that are a burst: more than concealment hides well.
const BURST: u16 = 3;

/// What was measured on the datagrams of one path, or of all paths of a peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LinkStats {
    /// Datagrams received.
    pub received: u64,
    /// Datagrams lost on the way to us, by sequence gaps.
    pub lost: u64,
    /// How often three or more were lost in a row.
    pub bursts: u64,
    /// Datagrams received twice on the same path.
    pub duplicate: u64,
    /// Datagrams received after a later one.
    pub reordered: u64,
    /// Datagrams sent.
    pub sent: u64,
    /// Interarrival jitter (as RFC 3550 A.8) by the send times in the datagrams.
    pub jitter: Duration,
    /// How much longer than the shortest of late the one-way delay was for the last datagram.
    pub queueing: Duration,
}

impl LinkStats {
    /// Counts added up; of jitter and queueing the longer.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        Self {
            received: self.received + other.received,
            lost: self.lost + other.lost,
            bursts: self.bursts + other.bursts,
            duplicate: self.duplicate + other.duplicate,
            reordered: self.reordered + other.reordered,
            sent: self.sent + other.sent,
            jitter: self.jitter.max(other.jitter),
            queueing: self.queueing.max(other.queueing),
        }
    }
}

/// Measures the datagrams received on one path.
#[derive(Debug, Clone, Default)]
pub struct PathStats {
    totals: LinkStats,
    position: Option<Position>,
    /// In µs, times 16 (RFC 3550 A.8).
    jitter: u32,
    transit: Option<u32>,
    shortest: Shortest,
}

#[derive(Debug, Clone, Copy)]
struct Position {
    highest: u16,
    /// Bit n: `highest - n` was received.
    seen: u64,
}

impl PathStats {
    /// The sender began anew; totals go on.
    pub fn restart(&mut self) {
        *self = Self { totals: self.totals, ..Self::default() };
    }

    /// A datagram arrived; false if it is a duplicate.
    pub fn received(&mut self, sequence: u16, send_time_us: u32, now: Instant) -> bool {
        if !self.place(sequence) {
            self.totals.duplicate += 1;
            return false;
        }
        self.totals.received += 1;
        #[allow(clippy::cast_possible_truncation, reason = "the send time wraps at 32 bits too")]
        let transit = (now.as_micros() as u32).wrapping_sub(send_time_us);
        if let Some(before) = self.transit {
            let difference = transit.wrapping_sub(before).cast_signed().unsigned_abs();
            if difference < 1_000_000 {
                self.jitter = self.jitter + difference - ((self.jitter + 8) >> 4);
            }
        }
        self.transit = Some(transit);
        let above = self.shortest.above(transit, now);
        self.totals.queueing = Duration::from_micros(u64::from(above));
        true
    }

    fn place(&mut self, sequence: u16) -> bool {
        let Some(position) = &mut self.position else {
            self.position = Some(Position { highest: sequence, seen: 1 });
            return true;
        };
        let ahead = sequence.wrapping_sub(position.highest);
        let behind = position.highest.wrapping_sub(sequence);
        if (1..=DROPOUT_MAX).contains(&ahead) {
            self.totals.lost += u64::from(ahead - 1);
            self.totals.bursts += u64::from(ahead > BURST);
            position.seen = position.seen.checked_shl(u32::from(ahead)).unwrap_or(0) | 1;
            position.highest = sequence;
            return true;
        }
        if behind > REORDER_MAX {
            *position = Position { highest: sequence, seen: 1 };
            self.transit = None;
            self.shortest = Shortest::default();
            return true;
        }
        // Older than the window remembers: taken for late, the rarer harm.
        let bit = 1_u64.checked_shl(u32::from(behind)).unwrap_or(0);
        if position.seen & bit != 0 {
            return false;
        }
        position.seen |= bit;
        self.totals.reordered += 1;
        self.totals.lost = self.totals.lost.saturating_sub(1);
        true
    }

    /// A datagram was sent on this path.
    pub fn sent(&mut self) {
        self.totals.sent += 1;
    }

    /// The totals.
    pub fn stats(&self) -> LinkStats {
        let jitter = Duration::from_micros(u64::from(self.jitter >> 4));
        LinkStats { jitter, ..self.totals }
    }
}

/// The shortest of late wrapping transit times: the minimum of this and the previous window.
#[derive(Debug, Clone, Copy, Default)]
struct Shortest {
    window: Option<(Instant, u32)>,
    previous: Option<u32>,
}

fn shorter(a: u32, b: u32) -> u32 {
    if a.wrapping_sub(b).cast_signed() < 0 { a } else { b }
}

impl Shortest {
    /// How much `transit` is above the shortest.
    fn above(&mut self, transit: u32, now: Instant) -> u32 {
        let (since, minimum) = self.window.unwrap_or((now, transit));
        if now - since > SHORTEST_WINDOW {
            self.previous = Some(minimum);
            self.window = Some((now, transit));
        } else {
            self.window = Some((since, shorter(minimum, transit)));
        }
        let shortest = self.previous.map_or(minimum, |previous| shorter(previous, minimum));
        transit.wrapping_sub(shorter(shortest, transit))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn loss_reordering_and_duplicates_are_told_apart() {
        let mut path = PathStats::default();
        let start = u16::MAX - 3;
        for n in [0_u16, 1, 2, 5, 4, 4, 5, 9] {
            let at = Instant::from_millis(u64::from(n) + 7);
            path.received(start.wrapping_add(n), u32::from(n) * 1_000, at);
        }
        let stats = path.stats();
        assert_eq!((stats.received, stats.lost, stats.reordered, stats.bursts), (6, 4, 1, 1));
        assert_eq!((stats.duplicate, stats.queueing), (2, Duration::ZERO));
        assert!(
            path.received(start.wrapping_add(40_000), 0, Instant::from_millis(99)),
            "a restarted peer"
        );
        assert_eq!(path.stats().lost, 4);
    }

    #[test]
    fn delay_changes_are_seen_whatever_the_clocks_say() {
        let mut path = PathStats::default();
        for n in 0..100_u16 {
            let queueing = if n < 50 { 0 } else { 30 };
            let sent = (u32::from(n) * 20_000).wrapping_add(u32::MAX - 500_000);
            path.received(n, sent, Instant::from_millis(u64::from(n) * 20 + queueing));
        }
        assert_eq!(path.stats().queueing, Duration::from_millis(30));
        assert!(path.stats().jitter < Duration::from_millis(2));
    }

    proptest! {
        #[test]
        fn any_datagrams_are_counted(
            datagrams in prop::collection::vec((any::<u16>(), any::<u32>(), 0..10_u64), 0..100),
        ) {
            let mut path = PathStats::default();
            let mut now = 0;
            for (sequence, sent, later) in &datagrams {
                now += later * 1_000;
                path.received(*sequence, *sent, Instant::from_millis(now));
            }
            let stats = path.stats();
            prop_assert_eq!(stats.received + stats.duplicate, datagrams.len() as u64);
        }
    }
}
