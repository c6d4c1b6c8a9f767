//! Which paths are better than the one in use, each since when.

use std::collections::BTreeMap;

use proto::time::{Duration, Instant};

use super::Candidate;
use crate::overlay::Hop;

/// A better path is better by this much R,
const BETTER_R: f64 = 4.0;
/// and by this much delay or half the loss,
const BETTER_DELAY: Duration = Duration::from_millis(10);
/// for so long.
pub(super) const BETTER_FOR: Duration = Duration::from_secs(5);
/// More loss than this on primary and standby together is no matter of copies,
const JOINT_LOSS_MAX: f64 = 0.10;
/// after so long.
pub(super) const HOPELESS_FOR: Duration = Duration::from_secs(1);

/// Each path has its own time: when the best of them changes, the wait does not begin anew.
#[derive(Debug, Clone, Default)]
pub(super) struct Better(BTreeMap<Hop, Instant>);

impl Better {
    /// Looks at all `others` that carry.
    pub(super) fn observe(&mut self, current: &Candidate, others: &[&Candidate], now: Instant) {
        let better = others.iter().filter(|other| other.is_better(current));
        let since = |hop: &Hop| self.0.get(hop).copied().unwrap_or(now);
        self.0 = better.map(|other| (other.hop.clone(), since(&other.hop))).collect();
    }

    pub(super) fn is_ripe(&self, path: &Candidate, after: Duration, now: Instant) -> bool {
        self.0.get(&path.hop).is_some_and(|since| now - *since >= after)
    }

    /// The one that is ripe first, and when.
    pub(super) fn first(&self) -> Option<(&Hop, Instant)> {
        let (hop, since) = self.0.iter().min_by_key(|(_, since)| **since)?;
        Some((hop, *since + BETTER_FOR))
    }

    /// One is another than before, or `all` are compared with it.
    pub(super) fn forget(&mut self, hop: &Hop, all: bool) {
        self.0.retain(|other, _| !all && other != hop);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Candidate {
    fn is_better(&self, than: &Self) -> bool {
        let much = self.score() - than.score() >= BETTER_R;
        let shorter = self.delay() + BETTER_DELAY <= than.delay();
        let cleaner = than.loss >= 0.005 && self.loss <= than.loss / 2.0;
        // What the operator or BGP holds against a path is a reason of its own.
        let safer = than.risk - self.risk >= BETTER_R;
        much && (shorter || cleaner || safer)
    }

    /// It is to be left, but not for `other`, which loses far more. Half of what drives media here,
    /// so that none goes back and forth.
    pub(super) fn is_refuge_from(&self, other: &Self) -> bool {
        other.loss > JOINT_LOSS_MAX / 2.0 && self.loss < other.loss / 2.0
    }

    /// `from` loses more than copies can repair, and this does not.
    pub(super) fn saves_from(&self, from: &Self) -> bool {
        from.loss.min(1.0) > JOINT_LOSS_MAX && self.loss < from.loss / 2.0
    }
}
