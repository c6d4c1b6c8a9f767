//! Media ports: even ones for RTP, the next odd one for RTCP (RFC 3550 §11).
//!
//! Or one pair for all legs: then the media plane tells them apart, and late packets, too.
//!
//! The port that rested longest is used next, and none before its quarantine is over: late packets
//! of the old call must not be heard in the new one.

use std::collections::VecDeque;
use std::ops::RangeInclusive;

use proto::time::{Duration, Instant};

/// All media ports of a POP.
#[derive(Debug)]
pub(crate) struct Ports {
    free: VecDeque<u16>,
    resting: VecDeque<(Instant, u16)>,
    quarantine: Duration,
    used: usize,
    shared: Option<u16>,
}

impl Ports {
    pub(crate) fn new(range: &RangeInclusive<u16>, quarantine: Duration) -> Self {
        let pairs = range.clone().filter(|port| port % 2 == 0 && range.contains(&(port | 1)));
        Self { free: pairs.collect(), resting: VecDeque::new(), quarantine, used: 0, shared: None }
    }

    /// All legs get this one.
    pub(crate) fn shared(port: u16) -> Self {
        let (free, resting) = (VecDeque::new(), VecDeque::new());
        Self { free, resting, quarantine: Duration::ZERO, used: 0, shared: Some(port) }
    }

    pub(crate) fn take(&mut self, now: Instant) -> Option<u16> {
        if self.shared.is_some() {
            self.used += 1;
            return self.shared;
        }
        while self.resting.front().is_some_and(|(until, _)| *until <= now) {
            self.free.extend(self.resting.pop_front().map(|(_, port)| port));
        }
        let port = self.free.pop_front()?;
        self.used += 1;
        Some(port)
    }

    pub(crate) fn give_back(&mut self, port: u16, now: Instant) {
        self.used = self.used.saturating_sub(1);
        if self.shared.is_none() {
            self.resting.push_back((now + self.quarantine, port));
        }
    }

    pub(crate) fn used(&self) -> usize {
        self.used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_rests_before_it_is_used_again() {
        let mut ports = Ports::new(&(1_001..=1_006), Duration::from_secs(30));
        let t = Instant::from_millis;
        assert_eq!((ports.take(t(0)), ports.take(t(0))), (Some(1_002), Some(1_004)));
        assert_eq!(ports.take(t(0)), None, "1006 has no 1007 beside it");
        ports.give_back(1_002, t(1_000));
        assert_eq!(ports.take(t(30_999)), None);
        assert_eq!(ports.take(t(31_000)), Some(1_002));
        assert_eq!(ports.used(), 2);
    }

    #[test]
    fn a_shared_port_is_never_used_up_and_never_rests() {
        let mut ports = Ports::shared(1_002);
        let t = Instant::from_millis;
        assert_eq!((ports.take(t(0)), ports.take(t(0))), (Some(1_002), Some(1_002)));
        ports.give_back(1_002, t(1));
        assert_eq!((ports.used(), ports.take(t(1)), ports.used()), (1, Some(1_002), 2));
    }
}
