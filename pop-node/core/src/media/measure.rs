//! The quality of a stream over time: points of 5 s, what they come to, and a bounded timeline.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use super::meter::Level;

/// Why nothing is heard from a peer that may send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SilenceCause {
    /// Nothing comes.
    NoPackets,
    /// Packets come, but from an address that may not send.
    WrongSource,
    /// Packets come with payload types nobody agreed on.
    CodecMismatch,
    /// Packets come and their audio is digital silence.
    Muted,
}

impl SilenceCause {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 4] =
        [Self::NoPackets, Self::WrongSource, Self::CodecMismatch, Self::Muted];

    /// The name in metrics and records.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NoPackets => "no_packets",
            Self::WrongSource => "wrong_source",
            Self::CodecMismatch => "codec_mismatch",
            Self::Muted => "muted",
        }
    }
}

/// What is rated every 5 s.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rated {
    /// What a leg receives from its peer.
    Leg,
    /// What a leg's stream brings from another POP.
    Stream,
    /// What the peer of a leg hears, over the whole way.
    Call,
}

impl Rated {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 3] = [Self::Leg, Self::Stream, Self::Call];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Leg => "leg",
            Self::Stream => "stream",
            Self::Call => "call",
        }
    }
}

/// How satisfied users are (G.107 table B.1; 4.2 is the bar of this mesh).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rating {
    /// MOS 4.2 and more.
    Good,
    /// From 4.0: satisfied.
    Fair,
    /// From 3.6: some dissatisfied.
    Poor,
    /// From 2.6: most dissatisfied.
    Bad,
    /// Below.
    Unusable,
}

impl Rating {
    /// All of them, in the order of their counters.
    pub const ALL: [Self; 5] = [Self::Good, Self::Fair, Self::Poor, Self::Bad, Self::Unusable];

    /// The name in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Poor => "poor",
            Self::Bad => "bad",
            Self::Unusable => "unusable",
        }
    }

    /// By MOS.
    pub fn of(mos: f64) -> Self {
        match mos {
            mos if mos >= 4.2 => Self::Good,
            mos if mos >= 4.0 => Self::Fair,
            mos if mos >= 3.6 => Self::Poor,
            mos if mos >= 2.6 => Self::Bad,
            _ => Self::Unusable,
        }
    }
}

/// What a stream was like for a while: 5 s, or more where points were merged.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// When it ended.
    pub end: Instant,
    /// How long it was.
    pub length: Duration,
    /// Packets received.
    pub received: u64,
    /// Packets lost.
    pub lost: u64,
    /// Packets that came too late to be played.
    pub late: u64,
    /// BurstR of the losses (G.107 §3.5).
    pub burst_ratio: f64,
    /// Interarrival jitter at the end.
    pub jitter: Duration,
    /// How much longer the way was than at the stream's beginning, in µs.
    pub delay_change: Option<i64>,
    /// Round trip to the peer, by RTCP.
    pub round_trip: Option<Duration>,
    /// Frames played from packets, when this POP decodes.
    pub played: u64,
    /// Frames made up.
    pub concealed: u64,
    /// Level, where it was measured.
    pub level: Option<Level>,
    /// Why nothing was heard.
    pub silence: Option<SilenceCause>,
    /// E-model rating; `None` when nothing was expected.
    pub r_factor: Option<f64>,
    /// MOS estimated from it.
    pub mos: Option<f64>,
}

impl Point {
    /// Both as one: counts add up, of ratings and delays the worse one stays.
    fn with(self, next: Self) -> Self {
        let worse = |a: Option<f64>, b: Option<f64>| match (a, b) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
        Self {
            end: next.end,
            length: self.length + next.length,
            received: self.received + next.received,
            lost: self.lost + next.lost,
            late: self.late + next.late,
            burst_ratio: self.burst_ratio.max(next.burst_ratio),
            jitter: self.jitter.max(next.jitter),
            delay_change: self.delay_change.max(next.delay_change),
            round_trip: self.round_trip.max(next.round_trip),
            played: self.played + next.played,
            concealed: self.concealed + next.concealed,
            level: next.level.or(self.level),
            silence: next.silence.or(self.silence),
            r_factor: worse(self.r_factor, next.r_factor),
            mos: worse(self.mos, next.mos),
        }
    }
}

/// Points kept: ten minutes of 5 s, or hours with the older ones merged.
const POINTS_MAX: usize = 120;

/// The points of a call, the newest as they came; the older the coarser.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Timeline(VecDeque<Point>);

impl Timeline {
    /// Adds the newest point.
    pub fn push(&mut self, point: Point) {
        if self.0.len() >= POINTS_MAX {
            self.thin();
        }
        self.0.push_back(point);
    }

    /// Merges pairs in the older half.
    fn thin(&mut self) {
        let newer = self.0.split_off(self.0.len() / 2);
        let mut older = std::mem::take(&mut self.0).into_iter();
        while let Some(first) = older.next() {
            self.0.push_back(older.next().map_or(first, |second| first.with(second)));
        }
        self.0.extend(newer);
    }

    /// All points, oldest first.
    pub fn points(&self) -> impl Iterator<Item = &Point> {
        self.0.iter()
    }
}

/// Steps of 0.05 MOS from 1 to 4.5.
const STEPS: usize = 71;
const STEP: f64 = 0.05;

/// What the points of a stream came to.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    worst: Option<Point>,
    steps: [u16; STEPS],
}

impl Default for Summary {
    fn default() -> Self {
        Self { worst: None, steps: [0; STEPS] }
    }
}

impl Summary {
    /// Adds a point, if it is rated.
    pub(super) fn add(&mut self, point: &Point) {
        let Some(mos) = point.mos else { return };
        if self.worst.and_then(|worst| worst.mos).is_none_or(|worst| mos < worst) {
            self.worst = Some(*point);
        }
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "MOS is 1 to 4.5"
        )]
        let step = ((mos - 1.0) / STEP).round().max(0.0) as usize;
        if let Some(count) = self.steps.get_mut(step.min(STEPS - 1)) {
            *count = count.saturating_add(1);
        }
    }

    /// The worst point, the earliest of several: its MOS is the least.
    pub const fn worst(&self) -> Option<&Point> {
        self.worst.as_ref()
    }

    /// The median MOS of all points, to 0.05.
    pub fn median_mos(&self) -> Option<f64> {
        let all: u64 = self.steps.iter().map(|&count| u64::from(count)).sum();
        let mut below = 0;
        let median = self.steps.iter().position(|&count| {
            below += u64::from(count);
            below * 2 >= all && all > 0
        })?;
        #[allow(clippy::cast_precision_loss, reason = "at most 71")]
        Some(1.0 + median as f64 * STEP)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(crate) fn point(second: u64, mos: f64) -> Point {
        Point {
            end: Instant::from_millis(second * 1_000),
            length: Duration::from_secs(5),
            received: 250,
            lost: second % 3,
            late: 0,
            burst_ratio: 1.0,
            jitter: Duration::from_millis(second % 7),
            delay_change: Some(0),
            round_trip: None,
            played: 0,
            concealed: 0,
            level: None,
            silence: None,
            r_factor: Some(90.0),
            mos: Some(mos),
        }
    }

    #[test]
    fn the_summary_knows_worst_and_median() {
        let mut summary = Summary::default();
        assert_eq!((summary.worst(), summary.median_mos()), (None, None));
        summary.add(&Point { mos: None, ..point(0, 0.0) });
        assert_eq!(summary.median_mos(), None, "nothing was expected, nothing is rated");
        for (n, mos) in [4.4, 4.4, 2.1, 4.2, 4.4, 2.1].into_iter().enumerate() {
            summary.add(&point(n as u64 * 5, mos));
        }
        let worst = summary.worst().unwrap();
        assert_eq!((worst.end, worst.mos), (Instant::from_millis(10_000), Some(2.1)));
        assert!((summary.median_mos().unwrap() - 4.2).abs() < 0.001);
    }

    proptest! {
        #[test]
        fn a_timeline_of_any_length_is_bounded_and_loses_no_count(n in 1..3_000_u64) {
            let mut timeline = Timeline::default();
            (1..=n).for_each(|n| timeline.push(point(n * 5, 1.0 + (n % 30) as f64 / 10.0)));
            let points: Vec<_> = timeline.points().collect();
            prop_assert!(points.len() <= POINTS_MAX);
            prop_assert_eq!(points.iter().map(|p| p.received).sum::<u64>(), n * 250);
            let length: Duration = points.iter().map(|p| p.length).sum();
            prop_assert_eq!(length, Duration::from_secs(n * 5));
            prop_assert!(points.windows(2).all(|w| w[0].end < w[1].end));
            prop_assert_eq!(points.last().map(|p| p.length), Some(Duration::from_secs(5)));
        }
    }
}
