//! One direction of the way between two POPs: a queue whose packets get late or lost.
//!
//! A machine without IO: packets and time go in, packets come out when they are due. Same seed,
//! same packets, same losses.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use crate::rng::Rng;

/// How bad the way is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Profile {
    /// One-way delay each packet gets.
    pub delay: Duration,
    /// At most this much more, evenly spread; packets keep their order.
    pub jitter: Duration,
    /// Share of packets lost, 0.0 to 1.0. 1.0 cuts the way.
    pub loss: f64,
    /// Mean length of a loss burst in packets; up to 1.0: losses are independent.
    /// (Gilbert model, as in RFC 3611 §4.7.2's bursts and gaps.)
    pub burst: f64,
    /// Packets under way at once; more are dropped.
    pub queue_packets: usize,
    /// Bytes a second that get through; 0: as many as come.
    pub rate: u64,
}

impl Default for Profile {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: 0.0,
            burst: 1.0,
            queue_packets: 65_536,
            rate: 0,
        }
    }
}

impl Profile {
    /// A clean way with this one-way delay.
    pub fn delayed(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A way that carries nothing.
    pub fn cut() -> Self {
        Self { loss: 1.0, ..Self::default() }
    }
}

/// Why a packet did not arrive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DropReason {
    /// The profile said so.
    Lost,
    /// More packets under way than [`Profile::queue_packets`].
    Overflow,
}

/// What the way did so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Packets that came in.
    pub received: u64,
    /// Their bytes, as far as their sizes are told.
    pub bytes: u64,
    /// Packets that came out.
    pub delivered: u64,
    /// Packets dropped as [`DropReason::Lost`].
    pub lost: u64,
    /// Packets dropped as [`DropReason::Overflow`].
    pub overflowed: u64,
}

/// One direction between two POPs.
#[derive(Debug)]
pub struct Link<T> {
    profile: Profile,
    rng: Rng,
    in_burst: bool,
    queue: VecDeque<(Instant, T)>,
    /// When the last packet has left at the profile's rate.
    free_at: Instant,
    counters: Counters,
}

impl<T> Link<T> {
    /// A link whose losses and delays depend on `seed` alone.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self {
            profile,
            rng: Rng::new(seed),
            in_burst: false,
            queue: VecDeque::new(),
            free_at: Instant::from_nanos(0),
            counters: Counters::default(),
        }
    }

    /// A packet enters. It comes out of [`Link::poll_deliver`] when it is due. Its size counts for
    /// nothing: see [`Link::handle_sized`].
    pub fn handle_packet(&mut self, packet: T, now: Instant) -> Result<(), DropReason> {
        self.handle_sized(packet, 0, now)
    }

    /// A packet of this many bytes enters.
    pub fn handle_sized(&mut self, packet: T, bytes: u64, now: Instant) -> Result<(), DropReason> {
        self.counters.received += 1;
        self.counters.bytes += bytes;
        if self.loses() {
            self.counters.lost += 1;
            return Err(DropReason::Lost);
        }
        if self.queue.len() >= self.profile.queue_packets {
            self.counters.overflowed += 1;
            return Err(DropReason::Overflow);
        }
        let jitter = self.profile.jitter.mul_f64(self.rng.next_f64());
        let nanos = bytes.saturating_mul(1_000_000_000).checked_div(self.profile.rate);
        self.free_at = self.free_at.max(now) + Duration::from_nanos(nanos.unwrap_or(0));
        let due = self.free_at + self.profile.delay + jitter;
        let due = self.queue.back().map_or(due, |(last, _)| due.max(*last));
        self.queue.push_back((due, packet));
        Ok(())
    }

    /// When the next packet is due.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.queue.front().map(|(due, _)| *due)
    }

    /// The next packet that is due.
    pub fn poll_deliver(&mut self, now: Instant) -> Option<T> {
        let (due, _) = self.queue.front()?;
        if *due > now {
            return None;
        }
        self.counters.delivered += 1;
        self.queue.pop_front().map(|(_, packet)| packet)
    }

    /// How bad it is.
    pub const fn profile(&self) -> Profile {
        self.profile
    }

    /// The way gets better or worse. Packets under way arrive as they would have.
    pub fn set_profile(&mut self, profile: Profile) {
        self.profile = profile;
    }

    /// What happened so far.
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn loses(&mut self) -> bool {
        let Profile { loss, burst, .. } = self.profile;
        let draw = self.rng.next_f64();
        if loss <= 0.0 || loss >= 1.0 || burst <= 1.0 {
            self.in_burst = draw < loss;
            return self.in_burst;
        }
        // Two states: leaving the lossy one with 1/burst, entering it so that the share fits.
        let leave = 1.0 / burst;
        let enter = (loss * leave / (1.0 - loss)).min(1.0);
        self.in_burst = if self.in_burst { draw >= leave } else { draw < enter };
        self.in_burst
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    /// Sends one packet a millisecond and returns (number, ms of arrival).
    fn run(profile: Profile, seed: u64, packets: u64) -> Vec<(u64, u64)> {
        let mut link = Link::new(profile, seed);
        let mut out = Vec::new();
        for t in 0..packets + 1_000 {
            if t < packets {
                let _dropped = link.handle_packet(t, ms(t));
            }
            while let Some(p) = link.poll_deliver(ms(t)) {
                out.push((p, t));
            }
        }
        assert_eq!(link.poll_timeout(), None);
        let c = link.counters();
        assert_eq!(c.received, c.delivered + c.lost + c.overflowed);
        out
    }

    #[test]
    fn a_clean_link_delays_and_keeps_order() {
        let out = run(Profile::delayed(Duration::from_millis(40)), 1, 500);
        assert_eq!(out, (0..500).map(|n| (n, n + 40)).collect::<Vec<_>>());
    }

    #[test]
    fn jitter_stays_in_bounds_and_never_reorders() {
        let profile = Profile {
            jitter: Duration::from_millis(15),
            ..Profile::delayed(Duration::from_millis(30))
        };
        let out = run(profile, 2, 5_000);
        assert_eq!(out.len(), 5_000);
        assert!(out.windows(2).all(|w| w[0].0 < w[1].0 && w[0].1 <= w[1].1));
        assert!(out.iter().all(|(n, t)| (30..=46).contains(&(t - n))));
        assert!(out.iter().any(|(n, t)| t - n > 40) && out.iter().any(|(n, t)| t - n < 36));
    }

    #[test]
    fn same_seed_same_losses_other_seed_others() {
        let profile = Profile { loss: 0.1, jitter: Duration::from_millis(9), ..Profile::default() };
        assert_eq!(run(profile, 3, 2_000), run(profile, 3, 2_000));
        assert_ne!(run(profile, 3, 2_000), run(profile, 4, 2_000));
    }

    #[test]
    fn loss_share_fits_alone_and_in_bursts() {
        for burst in [1.0, 4.0] {
            let profile = Profile { loss: 0.05, burst, ..Profile::default() };
            let out = run(profile, 5, 100_000);
            let lost = 100_000 - out.len();
            assert!((4_400..5_600).contains(&lost), "burst {burst}: {lost} lost");
            let gaps = out.windows(2).filter(|w| w[1].0 > w[0].0 + 1).count();
            let mean = lost as f64 / gaps as f64;
            assert!((mean - burst).abs() < 0.4, "burst {burst}: mean {mean}");
        }
    }

    #[test]
    fn a_cut_link_carries_nothing_and_heals() {
        let mut link = Link::new(Profile::cut(), 6);
        assert_eq!(link.handle_packet((), ms(0)), Err(DropReason::Lost));
        link.set_profile(Profile::default());
        assert_eq!(link.handle_packet((), ms(1)), Ok(()));
        assert_eq!(link.poll_deliver(ms(1)), Some(()));
    }

    #[test]
    fn a_rate_spreads_a_burst() {
        let profile = Profile { rate: 100_000, ..Profile::delayed(Duration::from_millis(5)) };
        let mut link = Link::new(profile, 8);
        for n in 0..10 {
            link.handle_sized(n, 1_000, ms(0)).unwrap();
        }
        let mut arrived = Vec::new();
        while let Some(due) = link.poll_timeout() {
            arrived.push((due, link.poll_deliver(due).unwrap()));
        }
        let expected: Vec<_> = (0..10).map(|n| (ms(10 * (n + 1) + 5), n)).collect();
        assert_eq!(arrived, expected);
        link.handle_sized(10, 1_000, ms(500)).unwrap();
        assert_eq!(link.poll_timeout(), Some(ms(515)), "an idle way saves nothing up");
    }

    #[test]
    fn the_queue_is_bounded() {
        let profile = Profile { queue_packets: 3, ..Profile::delayed(Duration::from_secs(1)) };
        let mut link = Link::new(profile, 7);
        let kept = (0..10).filter(|n| link.handle_packet(*n, ms(0)).is_ok()).count();
        assert_eq!((kept, link.counters().overflowed), (3, 7));
    }
}
