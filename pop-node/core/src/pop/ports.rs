//! Media ports: even ones for RTP, the next odd one for RTCP (RFC 3550 §11).
//!
//! Or one pair for all legs: then the media plane tells them apart, and late packets, too.
//!
//! The port that rested longest is used next, and none before its quarantine is over: late packets
//! of the old call must not be heard in the new one.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use proto::id::Epoch;
use proto::time::{Duration, Instant};

use crate::media::Lane;

/// All media ports of a POP.
#[derive(Debug)]
pub(crate) struct Ports {
    free: VecDeque<u16>,
    resting: VecDeque<(Instant, u16)>,
    quarantine: Duration,
    /// By the media thread that has them.
    used: Vec<usize>,
    shared: Option<u16>,
}

/// None are used on any of so many media threads.
fn unused(threads: u8) -> Vec<usize> {
    vec![0; usize::from(threads.max(1))]
}

impl Ports {
    pub(crate) fn new(range: &RangeInclusive<u16>, quarantine: Duration, threads: u8) -> Self {
        let pairs = range.clone().filter(|port| port % 2 == 0 && range.contains(&(port | 1)));
        let (free, resting) = (pairs.collect(), VecDeque::new());
        Self { free, resting, quarantine, used: unused(threads), shared: None }
    }

    /// All legs of the first media thread get this one, those of the next the next pair.
    pub(crate) fn shared(port: u16, threads: u8) -> Self {
        let (free, resting) = (VecDeque::new(), VecDeque::new());
        Self {
            free,
            resting,
            quarantine: Duration::ZERO,
            used: unused(threads),
            shared: Some(port),
        }
    }

    /// The peers of a process before this one may still send to its ports: begin elsewhere than that
    /// did.
    pub(crate) fn begin_at(&mut self, epoch: Epoch) {
        // By the golden ratio, registrations spread over the range, however many there are.
        let ports = u64::try_from(self.free.len()).unwrap_or(u64::MAX);
        let steps = epoch.0.saturating_sub(1).wrapping_mul(ports.wrapping_mul(382) / 1_000);
        let at = steps.checked_rem(ports).unwrap_or(0);
        self.free.rotate_left(usize::try_from(at).unwrap_or(0));
    }

    /// The lane of the media thread with the fewest legs.
    pub(crate) fn idlest(&self) -> Lane {
        let idlest = (0..).zip(&self.used).min_by_key(|(_, used)| **used);
        Lane(idlest.map_or(0, |(thread, _)| thread))
    }

    fn used_by(&mut self, lane: Lane) -> Option<&mut usize> {
        let thread = lane.thread(self.used.len());
        self.used.get_mut(thread)
    }

    pub(crate) fn take(&mut self, lane: Lane, now: Instant) -> Option<u16> {
        if let Some(first) = self.shared {
            let pair = u16::try_from(lane.thread(self.used.len())).ok()?;
            *self.used_by(lane)? += 1;
            return first.checked_add(2 * pair);
        }
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.free.extend(self.resting.pop_front().map(|(_, port)| port));
        }
        let port = self.free.pop_front()?;
        *self.used_by(lane)? += 1;
        Some(port)
    }

    pub(crate) fn give_back(&mut self, lane: Lane, port: u16, now: Instant) {
        if let Some(used) = self.used_by(lane) {
            *used = used.saturating_sub(1);
        }
        if self.shared.is_none() {
            self.resting.push_back((now + self.quarantine, port));
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used.iter().sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_rests_before_it_is_used_again() {
        let mut ports = Ports::new(&(1_001..=1_006), Duration::from_secs(30), 1);
        let t = Instant::from_millis;
        assert_eq!(
            (ports.take(Lane(0), t(0)), ports.take(Lane(0), t(0))),
            (Some(1_002), Some(1_004))
        );
        assert_eq!(ports.take(Lane(0), t(0)), None, "1006 has no 1007 beside it");
        ports.give_back(Lane(0), 1_002, t(1_000));
        assert_eq!(ports.take(Lane(0), t(30_999)), None);
        assert_eq!(ports.take(Lane(0), t(31_000)), Some(1_002));
        assert_eq!(ports.used(), 2);
    }

    #[test]
    fn another_registration_begins_at_other_ports() {
        let first = |epoch| {
            let mut ports = Ports::new(&(20_000..=20_999), Duration::from_secs(30), 1);
            ports.begin_at(Epoch(epoch));
            ports.take(Lane(0), Instant::ZERO)
        };
        let begins: Vec<_> = (1..=4).map(|epoch| first(epoch).unwrap()).collect();
        assert_eq!(begins, [20_000, 20_382, 20_764, 20_146]);
    }

    #[test]
    fn a_shared_port_is_never_used_up_and_never_rests() {
        let mut ports = Ports::shared(1_002, 1);
        let t = Instant::from_millis;
        assert_eq!(
            (ports.take(Lane(0), t(0)), ports.take(Lane(0), t(0))),
            (Some(1_002), Some(1_002))
        );
        ports.give_back(Lane(0), 1_002, t(1));
        assert_eq!((ports.used(), ports.take(Lane(0), t(1)), ports.used()), (1, Some(1_002), 2));
    }

    #[test]
    fn legs_go_to_the_thread_that_has_the_fewest_and_a_shared_port_is_its_own() {
        let mut ports = Ports::shared(1_002, 3);
        let mut given = Vec::new();
        for _ in 0..6 {
            let lane = ports.idlest();
            given.extend(ports.take(lane, Instant::ZERO));
        }
        assert_eq!(given, [1_002, 1_004, 1_006, 1_002, 1_004, 1_006]);
        ports.give_back(Lane(1), 1_004, Instant::ZERO);
        assert_eq!(ports.idlest(), Lane(1));
        assert_eq!(ports.take(Lane(7), Instant::ZERO), Some(1_004), "another POP counts otherwise");
        assert_eq!(ports.used(), 6);
    }
}
