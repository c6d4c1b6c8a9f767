//! How much redundancy a lossy path needs; up at once, down after ten quiet seconds.

use proto::time::{Duration, Instant};

use super::Candidate;

/// From here on a repeat is worth its bytes: R falls by one at about 0.4 % (G.711, G.107).
const AGAIN: f64 = 0.005;
/// From here on only another path helps.
const COPY: f64 = 0.02;
/// Bursts in the last 10 s that repeats would not survive.
const BURSTS: u32 = 2;
/// Less is taken only after so long below half of the limit.
const QUIET: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Step {
    #[default]
    Nothing,
    Again,
    Copy,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Repair {
    step: Step,
    /// When the present step was last needed.
    needed: Instant,
}

impl Repair {
    pub(super) fn step(&mut self, path: &Candidate, now: Instant) -> Step {
        let wanted = wanted(path, 1.0);
        if wanted >= self.step {
            (self.step, self.needed) = (wanted, now);
        } else if wanted_to_keep(path) >= self.step {
            self.needed = now;
        } else if now - self.needed >= QUIET {
            (self.step, self.needed) = (wanted, now);
        }
        self.step
    }
}

fn wanted(path: &Candidate, scale: f64) -> Step {
    let bursts = path.bursts >= BURSTS && path.loss >= AGAIN * scale;
    if path.loss > COPY * scale || bursts || path.shaky {
        Step::Copy
    } else if path.loss >= AGAIN * scale {
        Step::Again
    } else {
        Step::Nothing
    }
}

fn wanted_to_keep(path: &Candidate) -> Step {
    wanted(path, 0.5)
}
