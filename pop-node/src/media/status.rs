//! Figures of the media plane, of one thread or of all.

use pop_core::media::{Counters, LinkStats, PathCounts};
use proto::id::PopId;

/// What one thread does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ThreadFigures {
    /// Open legs.
    pub legs: usize,
    /// RTP packets received from legs.
    pub rtp_received: u64,
}

/// Figures of the media plane.
#[derive(Debug, Default)]
pub struct Status {
    /// Totals.
    pub counters: Counters,
    /// Measured on media, by peer.
    pub links: Vec<(PopId, LinkStats)>,
    /// Open legs.
    pub legs: usize,
    /// libopus complexity in use, where it is lowest.
    pub opus_complexity: Option<u8>,
    /// Thread by thread.
    pub threads: Vec<ThreadFigures>,
}

impl Status {
    /// Adds another thread's.
    pub(super) fn add(&mut self, other: Self) {
        self.counters.add(&other.counters);
        for (peer, stats) in other.links {
            match self.links.iter_mut().find(|(known, _)| *known == peer) {
                Some((_, known)) => *known = known.with(stats),
                None => self.links.push((peer, stats)),
            }
        }
        self.legs += other.legs;
        let lowest = self.opus_complexity.into_iter().chain(other.opus_complexity).min();
        self.opus_complexity = lowest;
        self.threads.extend(other.threads);
    }
}

/// Adds what another thread counted on the paths.
pub(super) fn add_paths(sum: &mut Vec<PathCounts>, other: Vec<PathCounts>) {
    for counts in other {
        let Some(known) = sum.iter_mut().find(|known| known.peer == counts.peer) else {
            sum.push(counts);
            continue;
        };
        known.sent += counts.sent;
        for (path, stats) in counts.received {
            match known.received.iter_mut().find(|(known, _)| *known == path) {
                Some((_, known)) => *known = known.with(stats),
                None => known.received.push((path, stats)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_figures_of_two_threads_are_added() {
        let peer = |name| PopId::new(name).unwrap();
        let link = |received, ms| LinkStats {
            received,
            jitter: Duration::from_millis(ms),
            ..LinkStats::default()
        };
        let one = |links, legs, complexity, rtp_received| {
            let mut counters = Counters::default();
            counters.rtp_received = rtp_received;
            let threads = vec![ThreadFigures { legs, rtp_received }];
            Status { counters, links, legs, opus_complexity: Some(complexity), threads }
        };
        let mut sum = Status::default();
        sum.add(one(vec![(peer("iad1"), link(3, 5))], 2, 9, 10));
        sum.add(one(vec![(peer("sin1"), link(1, 1)), (peer("iad1"), link(4, 2))], 4, 7, 20));
        assert_eq!((sum.legs, sum.counters.rtp_received, sum.opus_complexity), (6, 30, Some(7)));
        assert_eq!(sum.links, [(peer("iad1"), link(7, 5)), (peer("sin1"), link(1, 1))]);
        assert_eq!(sum.threads.len(), 2);
    }
}
