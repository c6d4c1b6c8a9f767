//! How far apart the nodes are, and how fast raft's time goes because of it.
//!
//! Each stream to a member measures its round trip. The tick is 25 ms and a fifth of the longest
//! one: next door a heartbeat every 50 ms and an election after 0.4 to 0.6 s of silence, across
//! the planet (250 ms) 150 ms and 1.2 to 1.8 s. POPs expire after 2 s and four round trips.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use control_core::liveness::{PATIENCE, TTL};
use proto::id::NodeId;

use crate::config::Timers;
use crate::telemetry;

/// Of the last ones the shortest counts: the others waited in queues.
const SAMPLES: usize = 8;
/// No path on Earth is longer; what is was a pause.
const ROUND_TRIP_MAX: Duration = Duration::from_secs(1);

/// Shared by all who measure and by the driver.
#[derive(Debug, Clone)]
pub struct Pace {
    timers: Timers,
    samples: Arc<Mutex<BTreeMap<NodeId, VecDeque<Duration>>>>,
}

impl Pace {
    /// Nothing measured yet.
    pub fn new(timers: Timers) -> Self {
        Self { timers, samples: Arc::default() }
    }

    /// A round trip to a member took this long.
    pub fn measured(&self, member: NodeId, took: Duration) {
        let mut samples = self.lock();
        let own = samples.entry(member).or_default();
        own.push_back(took.min(ROUND_TRIP_MAX));
        while own.len() > SAMPLES {
            own.pop_front();
        }
        if let Some(shortest) = own.iter().min() {
            telemetry::peer_round_trip(member, *shortest);
        }
    }

    /// It is no member any more.
    pub fn forget(&self, member: NodeId) {
        self.lock().remove(&member);
    }

    /// To the member that is farthest away.
    pub fn longest(&self) -> Duration {
        let samples = self.lock();
        samples.values().filter_map(|own| own.iter().min().copied()).max().unwrap_or_default()
    }

    /// Grain of raft's time, now.
    pub fn tick(&self) -> Duration {
        if self.timers.fixed { self.timers.tick } else { self.timers.tick + self.longest() / 5 }
    }

    /// Silence after which a POP may expire.
    pub fn pop_ttl(&self) -> Duration {
        self.timers.pop_ttl.unwrap_or_else(|| TTL + self.longest() * 4)
    }

    /// As long for a POP whose heartbeat stream broke: it connects anew in three round trips.
    pub fn pop_patience(&self) -> Duration {
        PATIENCE + self.longest() * 4
    }

    /// Silence after which an election may begin.
    pub fn election(&self) -> Duration {
        self.tick().saturating_mul(self.timers.election_ticks().0)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, VecDeque<Duration>>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn the_tick_follows_the_farthest_member_and_not_its_queues() {
        let pace = Pace::new(Timers::default());
        assert_eq!((pace.tick(), pace.election()), (ms(25), ms(400)));
        pace.measured(NodeId(2), ms(250));
        pace.measured(NodeId(2), ms(900));
        pace.measured(NodeId(3), ms(10));
        assert_eq!((pace.tick(), pace.election()), (ms(75), ms(1_200)));
        (0..SAMPLES).for_each(|_| pace.measured(NodeId(2), ms(100)));
        assert_eq!(pace.tick(), ms(45));
        pace.forget(NodeId(2));
        assert_eq!(pace.tick(), ms(27));
    }

    #[test]
    fn a_configured_tick_stays() {
        let pace = Pace::new(Timers { fixed: true, ..Timers::default() });
        pace.measured(NodeId(2), ms(250));
        assert_eq!(pace.tick(), ms(25));
    }
}
