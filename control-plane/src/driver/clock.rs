//! What a leader may stamp the log with: its own clock, but at most 500 ms away from the middle
//! one of the voters' clocks. One clock that is wrong by hours must not move everybody's
//! quarantines and expiries.

use std::collections::BTreeMap;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use proto::id::NodeId;

/// How far a stamp may be from the middle.
const AWAY_MAX_MS: u64 = 500;
/// What a node said longer ago says nothing of its clock now.
const AGE_MAX: Duration = Duration::from_secs(60);

/// The clocks of the other nodes, as they told.
#[derive(Debug, Default)]
pub(super) struct Clocks(BTreeMap<NodeId, (u64, Instant)>);

impl Clocks {
    pub(super) fn told(&mut self, node: NodeId, wall_ms: u64, now: Instant) {
        self.0.insert(node, (wall_ms, now));
    }

    /// `own_ms` within the bounds that it and the clocks of `voters` set, as far as they told.
    pub(super) fn bounded(&self, own_ms: u64, voters: &[u64], now: Instant) -> u64 {
        let told = |id: &u64| {
            let (wall_ms, at) = self.0.get(&NodeId(*id))?;
            let age = now.saturating_duration_since(*at);
            let age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX);
            (age <= AGE_MAX).then(|| wall_ms.saturating_add(age_ms))
        };
        let mut clocks: Vec<u64> = voters.iter().filter_map(told).chain([own_ms]).collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        // The middle one; of two the one behind: waiting is better than expiring too early.
        let Some(middle) = clocks.get(clocks.len() / 2) else { return own_ms };
        own_ms.clamp(middle.saturating_sub(AWAY_MAX_MS), middle.saturating_add(AWAY_MAX_MS))
    }
}

/// Wall time; before 1970 it is 1970.
pub(crate) fn wall_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3_600_000;
    const NOW: u64 = 1_700_000_000_000;

    #[test]
    fn a_clock_that_is_wrong_cannot_drag_the_log() {
        let (mut clocks, start) = (Clocks::default(), Instant::now());
        let voters = [1, 2, 3];
        assert_eq!(clocks.bounded(NOW, &voters, start), NOW, "nobody told");
        clocks.told(NodeId(2), NOW, start);
        clocks.told(NodeId(3), NOW + 40, start);
        assert_eq!(clocks.bounded(NOW + 100, &voters, start), NOW + 100);
        assert_eq!(clocks.bounded(NOW + HOUR, &voters, start), NOW + 40 + 500, "far ahead");
        assert_eq!(clocks.bounded(NOW - HOUR, &voters, start), NOW - 500, "far behind");
        // Another's wrong clock does not count either.
        clocks.told(NodeId(3), NOW + HOUR, start);
        assert_eq!(clocks.bounded(NOW + 100, &voters, start), NOW + 100);
        // A clock goes on after it was told.
        let later = start + Duration::from_secs(10);
        assert_eq!(clocks.bounded(NOW, &voters, later), NOW + 10_000 - 500);
        let much_later = start + AGE_MAX * 2;
        assert_eq!(clocks.bounded(NOW + HOUR, &voters, much_later), NOW + HOUR);
    }
}
