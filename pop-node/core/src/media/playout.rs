//! The playout buffer: orders packets, decides when each is due, and how much delay that takes.
//!
//! Works in units of the RTP clock. The *transit* of a packet is its arrival minus its timestamp;
//! the smallest of the last seconds is the base, so a drifting sender clock moves the base with
//! it. How far packets come after the base is kept as a histogram; the target delay is its 97 %
//! quantile, between 20 and 200 ms. *Slack* is how long after its earliest possible arrival a
//! packet is fetched: the transcoder holds it at the target by shortening or stretching audio.
//!
//! Deliberately knows no codec and produces no audio.

use std::collections::VecDeque;

use proto::time::{Duration, Instant};

use super::DropReason;

/// Least and most delay the buffer aims at.
pub(super) const TARGET_MS: std::ops::RangeInclusive<u32> = 20..=200;
/// Packets held at most; more is a sender gone wild.
const PACKETS_MAX: usize = 64;
/// A timestamp this far from the expected one begins a new stream.
const JUMP_MS: u32 = 2_000;
/// The base is the minimum of one to two of these.
const BASE_WINDOW: Duration = Duration::from_secs(4);
/// Histogram of delays above the base.
const BIN_MS: u32 = 5;
const BINS: usize = 48;
/// Weight of a new delay: the histogram remembers some 5 s of 20 ms packets, and learns faster
/// from the first ones.
const WEIGHT: f32 = 0.004;
const WEIGHT_FIRST: f32 = 0.1;
const QUANTILE: f32 = 0.97;

#[derive(Debug, Default)]
struct Slot {
    timestamp: i64,
    payload: Vec<u8>,
    is_noise: bool,
}

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due<'a> {
    /// The packet.
    Packet(&'a [u8]),
    /// A description of comfort noise (RFC 3389), good until the next packet.
    Noise(&'a [u8]),
    /// Nothing: it was lost, or is late. Known is how much is missing until the next packet, and
    /// that packet if it is here.
    Missing {
        /// Units until the next packet's timestamp.
        gap: Option<u32>,
        /// The next packet.
        next: Option<&'a [u8]>,
    },
}

/// Buffer and schedule of one stream.
#[derive(Debug)]
pub(super) struct Playout {
    clock_rate: u32,
    slots: VecDeque<Slot>,
    /// Buffers for reuse.
    spare: Vec<Vec<u8>>,
    /// Timestamp heard last, as it came and unwrapped.
    heard: Option<(u32, i64)>,
    /// What is to be played next, unwrapped; `None` while idle.
    next: Option<i64>,
    base: Base,
    histogram: [f32; BINS],
    weight: f32,
    /// Wanted beyond what jitter asks for.
    longer_ms: u32,
}

impl Playout {
    pub(super) fn new(clock_rate: u32) -> Self {
        let mut histogram = [0.0; BINS];
        histogram[0] = 1.0;
        Self {
            clock_rate,
            slots: VecDeque::with_capacity(8),
            spare: Vec::new(),
            heard: None,
            next: None,
            base: Base::default(),
            histogram,
            weight: WEIGHT_FIRST,
            longer_ms: 0,
        }
    }

    fn units(&self, now: Instant) -> i64 {
        let units = u128::from(now.as_nanos()) * u128::from(self.clock_rate) / 1_000_000_000;
        i64::try_from(units).unwrap_or(i64::MAX)
    }

    fn ms(&self, ms: u32) -> i64 {
        i64::from(self.clock_rate / 1_000) * i64::from(ms)
    }

    /// Takes a packet.
    pub(super) fn push(
        &mut self,
        timestamp: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.insert(timestamp, (payload, false), 0, now)
    }

    /// Takes a copy of a lost packet, which a later one brought: that it comes as late as is waited
    /// for such (see [`Self::wait_longer`]) says nothing of the network.
    pub(super) fn push_copy(
        &mut self,
        timestamp: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.insert(timestamp, (payload, false), self.longer_ms, now)
    }

    /// Takes a description of comfort noise.
    pub(super) fn push_noise(
        &mut self,
        timestamp: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        self.insert(timestamp, (payload, true), 0, now)
    }

    fn insert(
        &mut self,
        timestamp: u32,
        (payload, is_noise): (&[u8], bool),
        excused_ms: u32,
        now: Instant,
    ) -> Result<(), DropReason> {
        let extended = self.unwrap(timestamp);
        let transit = self.units(now) - extended;
        let above = self.base.above(transit, now);
        self.record((above - self.ms(excused_ms)).max(0));
        if self.next.is_some_and(|next| extended < next) {
            return Err(DropReason::PlayoutLate);
        }
        let at = self.slots.iter().rposition(|slot| slot.timestamp <= extended);
        if at.and_then(|at| self.slots.get(at)).is_some_and(|slot| slot.timestamp == extended) {
            return Err(DropReason::PlayoutDuplicate);
        }
        if self.slots.len() >= PACKETS_MAX {
            return Err(DropReason::PlayoutFull);
        }
        let mut buffer = self.spare.pop().unwrap_or_default();
        buffer.extend_from_slice(payload);
        let slot = Slot { timestamp: extended, payload: buffer, is_noise };
        self.slots.insert(at.map_or(0, |at| at + 1), slot);
        Ok(())
    }

    fn unwrap(&mut self, timestamp: u32) -> i64 {
        let extended = match self.heard {
            None => i64::from(timestamp),
            Some((before, extended)) => {
                let ahead = i64::from(timestamp.wrapping_sub(before).cast_signed());
                if ahead.abs() > self.ms(JUMP_MS) && self.next.is_some() {
                    self.clear();
                }
                extended + ahead
            }
        };
        self.heard = Some((timestamp, extended));
        extended
    }

    fn record(&mut self, above: i64) {
        let bin = usize::try_from(above / self.ms(BIN_MS).max(1)).unwrap_or(0).min(BINS - 1);
        let new = self.weight;
        self.weight = (new * (1.0 - WEIGHT_FIRST / 2.0)).max(WEIGHT);
        for (n, weight) in self.histogram.iter_mut().enumerate() {
            *weight = *weight * (1.0 - new) + if n == bin { new } else { 0.0 };
        }
    }

    /// Milliseconds of delay the buffer aims at.
    pub(super) fn target_ms(&self) -> u32 {
        let mut sum = 0.0;
        let bins = self.histogram.iter().take_while(|&&weight| {
            sum += weight;
            sum < QUANTILE
        });
        let bins = u32::try_from(bins.count()).unwrap_or(0);
        let target = ((bins + 1) * BIN_MS).max(*TARGET_MS.start()) + self.longer_ms;
        target.min(*TARGET_MS.end())
    }

    /// Waits so much longer than jitter asks for: what repairs a loss comes after it.
    pub(super) fn wait_longer(&mut self, ms: u32) {
        self.longer_ms = ms.min(*TARGET_MS.end());
    }

    /// Begins to play with the earliest packet here. False if there is none.
    pub(super) fn start(&mut self) -> bool {
        self.next = self.slots.front().map(|slot| slot.timestamp);
        self.next.is_some()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.next.is_none()
    }

    /// Forgets packets and position, and what delay was normal: after a pause it may be another.
    pub(super) fn clear(&mut self) {
        while self.slots.pop_front().is_some() {}
        self.next = None;
        self.base = Base::default();
    }

    /// How many milliseconds after its earliest arrival what is next would be fetched now.
    pub(super) fn slack_ms(&self, now: Instant) -> i64 {
        match (self.next, self.base.minimum) {
            (Some(next), Some(base)) => (self.units(now) - next - base) / self.ms(1).max(1),
            _ => 0,
        }
    }

    /// What is due next.
    pub(super) fn due(&self) -> Due<'_> {
        match (self.slots.front(), self.next) {
            (Some(slot), Some(next)) if slot.timestamp <= next => match slot.is_noise {
                false => Due::Packet(&slot.payload),
                true => Due::Noise(&slot.payload),
            },
            (Some(slot), Some(next)) => Due::Missing {
                gap: u32::try_from(slot.timestamp - next).ok(),
                next: Some(&slot.payload[..]).filter(|_| !slot.is_noise),
            },
            _ => Due::Missing { gap: None, next: None },
        }
    }

    /// The packet that was due is played: `units` of the clock.
    pub(super) fn played(&mut self, units: u32) {
        if let Some(slot) = self.slots.pop_front() {
            self.next = Some(slot.timestamp + i64::from(units));
            self.recycle(slot);
        }
        self.drop_overtaken();
    }

    /// What was missing is given up: `units` of the clock.
    pub(super) fn skipped(&mut self, units: u32) {
        self.next = self.next.map(|next| next + i64::from(units));
        self.drop_overtaken();
    }

    /// Packets a jump or an overlap left behind.
    fn drop_overtaken(&mut self) {
        while let (Some(slot), Some(next)) = (self.slots.front(), self.next)
            && slot.timestamp < next
            && self.slots.len() > 1
            && self.slots.get(1).is_some_and(|second| second.timestamp <= next)
            && let Some(slot) = self.slots.pop_front()
        {
            self.recycle(slot);
        }
    }

    /// Gives up packets that are more than `ms` behind schedule; says how many.
    pub(super) fn catch_up(&mut self, ms: u32, now: Instant) -> u64 {
        let excess = self.slack_ms(now) - i64::from(self.target_ms() + ms);
        let Some(next) = self.next.filter(|_| excess > 0) else { return 0 };
        let until = next + excess * self.ms(1) + self.ms(ms);
        let mut dropped = 0;
        while self.slots.len() > 1
            && self.slots.get(1).is_some_and(|second| second.timestamp <= until)
            && let Some(slot) = self.slots.pop_front()
        {
            self.recycle(slot);
            dropped += 1;
        }
        self.next = self.slots.front().map(|slot| slot.timestamp).or(self.next);
        dropped
    }

    fn recycle(&mut self, mut slot: Slot) {
        slot.payload.clear();
        if self.spare.len() < PACKETS_MAX {
            self.spare.push(slot.payload);
        }
    }
}

/// The smallest transit of the last seconds.
#[derive(Debug, Clone, Copy, Default)]
struct Base {
    window: Option<(Instant, i64)>,
    previous: Option<i64>,
    minimum: Option<i64>,
}

impl Base {
    fn above(&mut self, transit: i64, now: Instant) -> i64 {
        let (since, smallest) = self.window.unwrap_or((now, transit));
        if now - since > BASE_WINDOW {
            self.previous = Some(smallest);
            self.window = Some((now, transit));
        } else {
            self.window = Some((since, smallest.min(transit)));
        }
        let minimum = smallest.min(transit).min(self.previous.unwrap_or(transit));
        self.minimum = Some(minimum);
        transit - minimum
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn packets_come_out_in_order_across_the_wrap() {
        let mut playout = Playout::new(8_000);
        let start = u32::MAX - 200;
        for (n, ms) in [(0_u32, 0), (2, 38), (1, 40), (3, 60), (3, 61)] {
            let pushed = playout.push(start.wrapping_add(n * 160), &[n as u8], at(ms));
            assert_eq!(pushed.is_err(), ms == 61);
        }
        assert!(playout.is_idle() && playout.start());
        for n in 0..4 {
            assert_eq!(playout.due(), Due::Packet(&[n]));
            playout.played(160);
        }
        assert_eq!(playout.due(), Due::Missing { gap: None, next: None });
        playout.skipped(160);
        let late = playout.push(start.wrapping_add(4 * 160), &[4], at(99));
        assert_eq!(late, Err(DropReason::PlayoutLate));
        playout.push(start.wrapping_add(6 * 160), &[6], at(120)).unwrap();
        assert_eq!(playout.due(), Due::Missing { gap: Some(160), next: Some(&[6]) });
    }

    #[test]
    fn the_target_follows_jitter_and_is_bounded() {
        let mut playout = Playout::new(48_000);
        let run = |playout: &mut Playout, jitter: u64, from: u64| {
            for n in from..from + 600 {
                let late = n * 7_919 % (jitter + 1);
                let _ = playout.push((n * 960) as u32, &[0], at(n * 20 + late));
                playout.start();
                playout.played(960);
            }
        };
        run(&mut playout, 0, 0);
        assert_eq!(playout.target_ms(), 20);
        run(&mut playout, 80, 600);
        assert!((70..=85).contains(&playout.target_ms()), "{}", playout.target_ms());
        run(&mut playout, 2_000, 1_200);
        assert_eq!(playout.target_ms(), 200);
        run(&mut playout, 0, 1_800);
        run(&mut playout, 0, 2_400);
        assert_eq!(playout.target_ms(), 20);
    }

    #[test]
    fn a_backlog_is_cut() {
        let mut playout = Playout::new(8_000);
        playout.push(0, &[0], at(0)).unwrap();
        playout.start();
        for n in 1..30_u8 {
            playout.push(u32::from(n) * 160, &[n], at(600)).unwrap();
        }
        assert!(playout.slack_ms(at(600)) >= 560, "{}", playout.slack_ms(at(600)));
        assert!(playout.catch_up(100, at(600)) >= 15);
        let target_ms = i64::from(playout.target_ms());
        assert!(playout.slack_ms(at(600)) <= target_ms + 20, "{}", playout.slack_ms(at(600)));
    }

    proptest! {
        #[test]
        fn anything_pushed_stays_bounded(
            packets in prop::collection::vec((any::<u32>(), 0..500_u64, 0..4_u8), 0..300),
        ) {
            let mut playout = Playout::new(8_000);
            let mut now = 0;
            for (timestamp, later, action) in packets {
                now += later;
                let _ = playout.push(timestamp, &[1, 2, 3], at(now));
                match action {
                    0 => { playout.start(); }
                    1 => playout.played(160),
                    2 => playout.skipped(timestamp % 2_000),
                    _ => { playout.catch_up(100, at(now)); }
                }
                let _ = (playout.due(), playout.slack_ms(at(now)));
                prop_assert!(playout.slots.len() <= PACKETS_MAX);
                prop_assert!(TARGET_MS.contains(&playout.target_ms()));
            }
        }
    }
}
