//! What the paths to a POP looked like at any moment of the last hour.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use super::choice::Candidate;
use super::route::Route;

/// Between two looks.
const EVERY: Duration = Duration::from_secs(10);
/// One hour of them.
const MOMENTS_MAX: usize = 360;

/// One look at all paths to a POP.
#[derive(Debug, Clone, PartialEq)]
pub struct Moment {
    /// When.
    pub at: Instant,
    /// How media was sent.
    pub route: Option<Route>,
    /// Each path.
    pub paths: Vec<Seen>,
}

/// One path. An hour of ten paths to one POP takes some 250 kB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// As [`super::Hop`] prints it.
    pub path: Box<str>,
    /// As [`super::Health::name`].
    pub state: &'static str,
    /// Round trip in µs; 0: not measured.
    pub rtt_us: u32,
    /// Lost, of 10,000.
    pub loss: u16,
    /// R (G.107) times ten.
    pub r: u16,
}

impl Seen {
    #[allow(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "R is 0 to 100, loss 0 to 1"
    )]
    fn of(path: &Candidate) -> Self {
        let micros = |rtt: Duration| u32::try_from(rtt.as_micros()).unwrap_or(u32::MAX);
        Self {
            path: path.hop.to_string().into(),
            state: path.health.name(),
            rtt_us: path.rtt.map_or(0, micros),
            loss: (path.loss.clamp(0.0, 1.0) * 10_000.0) as u16,
            r: (path.r_factor().clamp(0.0, 100.0) * 10.0) as u16,
        }
    }
}

/// The looks at one POP, oldest first.
#[derive(Debug, Default)]
pub(super) struct History(VecDeque<Moment>);

impl History {
    /// Keeps a look, if it is time for one.
    pub(super) fn observe(&mut self, paths: &[Candidate], route: Option<&Route>, now: Instant) {
        if self.0.back().is_some_and(|last| now - last.at < EVERY) {
            return;
        }
        if self.0.len() >= MOMENTS_MAX {
            self.0.pop_front();
        }
        let paths = paths.iter().map(Seen::of).collect();
        self.0.push_back(Moment { at: now, route: route.cloned(), paths });
    }

    /// The last look at or before `at`.
    pub(super) fn at(&self, at: Instant) -> Option<&Moment> {
        self.0.iter().rev().find(|moment| moment.at <= at)
    }
}
