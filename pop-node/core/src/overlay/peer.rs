//! One path as both ends measure it.

use std::collections::VecDeque;

use proto::overlay::{Heard, Probe};
use proto::time::{Duration, Instant};

use super::choice::Candidate;
use super::health::{Health, HealthTracker};
use super::route::Hop;
use super::stats::{LinkStats, PathStats};
use crate::bgp::Hint;

/// Probes whose send time is remembered.
const SENT_MAX: usize = 64;
/// Reports of the far end remembered: 10 s of four a second, and more of a suspect.
const TOLD_MAX: usize = 128;
/// Loss is looked at over the last one of these that saw enough.
const WINDOWS: [Duration; 4] = [
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(4),
    Duration::from_secs(10),
];
/// Datagrams that are enough: some 500 packets, or a few probes when there is nothing else.
const ENOUGH: u32 = 100;
/// Probes may come later than announced by this share, and by what follows.
const PATIENCE: f64 = 1.4;
const PATIENCE_MIN: Duration = Duration::from_millis(25);
/// A report this much younger than our own suspicion refutes it.
const REFUTES: Duration = Duration::from_millis(150);
/// Heard so lately a path is there. Beside a suspect all are probed several times as often, and a
/// suspect is given up after twice as long: what is not fresh then died with it.
const FRESH: Duration = Duration::from_millis(400);

/// What the far end said of our direction.
#[derive(Debug, Clone, Copy)]
struct Told {
    at: Instant,
    heard: Heard,
}

#[derive(Debug)]
pub(super) struct Path {
    pub(super) hop: Hop,
    /// Its connection is there.
    pub(super) up: bool,
    /// We want to know this way through another POP; else only the peer does.
    pub(super) chosen: bool,
    pub(super) health: HealthTracker,
    /// What speaks against it from outside of the measurements.
    pub(super) against: Hint,
    /// Probes that came.
    probes: PathStats,
    /// Media that came since the path is up, as the media threads count it.
    media: LinkStats,
    media_before: LinkStats,
    pub(super) heard_at: Option<Instant>,
    expected_within: Duration,
    /// Nothing came in time; since when.
    pub(super) silent: Option<Instant>,
    /// The probe to echo: sequence and when it came.
    echo: Option<(u16, Instant)>,
    told: VecDeque<Told>,
    pub(super) used_by_peer: bool,
    rtt: Option<Duration>,
    sent: VecDeque<(u16, Instant)>,
    sequence: u16,
    pub(super) next_probe: Instant,
    /// Between probes, by the part the path plays.
    pub(super) interval: Duration,
}

impl Path {
    pub(super) fn new(hop: Hop, now: Instant) -> Self {
        Self {
            hop,
            up: true,
            chosen: false,
            health: HealthTracker::default(),
            against: Hint::default(),
            probes: PathStats::default(),
            media: LinkStats::default(),
            media_before: LinkStats::default(),
            heard_at: None,
            expected_within: Duration::from_secs(2),
            silent: None,
            echo: None,
            told: VecDeque::new(),
            used_by_peer: false,
            rtt: None,
            sent: VecDeque::new(),
            sequence: 0,
            next_probe: now,
            interval: Duration::from_secs(1),
        }
    }

    /// The connection is new: nothing that was measured on the one before counts.
    pub(super) fn renew(&mut self, now: Instant) {
        let (hop, against, media) = (self.hop.clone(), self.against.clone(), self.media);
        let health = self.health.clone();
        *self = Self { against, media_before: media, media, health, ..Self::new(hop, now) };
    }

    /// What BGP says of it. True if its route is another one: then what was measured of our
    /// direction was measured elsewhere. That it is there, and what comes from the peer, stays.
    pub(super) fn hold_against(&mut self, hint: Hint) -> bool {
        let another = hint.changed > self.against.changed;
        self.against = hint;
        if another {
            self.rtt = None;
            self.sent.clear();
            // The last report is what the next ones are compared with.
            self.told.drain(..self.told.len().saturating_sub(1));
        }
        another
    }

    // Receiving.

    pub(super) fn hear(&mut self, sequence: u16, sent_us: u32, probe: &Probe, now: Instant) {
        if !self.probes.received(sequence, sent_us, now) {
            return;
        }
        self.heard_at = Some(now);
        self.silent = None;
        self.echo = Some((sequence, now));
        self.expected_within = Duration::from_millis(u64::from(probe.interval_ms.max(1)));
        if let Some((echoed, ago_us)) = probe.echo {
            self.measure(echoed, Duration::from_micros(u64::from(ago_us)), now);
        }
    }

    fn measure(&mut self, echoed: u16, held: Duration, now: Instant) {
        let sent = self.sent.iter().find(|(sequence, _)| *sequence == echoed);
        let Some(&(_, at)) = sent else { return };
        let sample = (now - at).saturating_sub(held);
        // RFC 6298: an eighth of the difference.
        self.rtt = Some(self.rtt.map_or(sample, |rtt| (rtt * 7 + sample) / 8));
    }

    /// The far end speaks of our direction.
    pub(super) fn tell(&mut self, heard: Heard, now: Instant) {
        self.used_by_peer = heard.used;
        if self.told.len() >= TOLD_MAX {
            self.told.pop_front();
        }
        self.told.push_back(Told { at: now, heard });
    }

    /// Totals of the media threads.
    pub(super) fn count_media(&mut self, totals: LinkStats) {
        self.media = totals;
    }

    /// Should the next probe have come by now?
    pub(super) fn due(&self) -> Option<Instant> {
        let jitter = self.probes.stats().jitter;
        let patience = self.expected_within.mul_f64(PATIENCE) + jitter * 4 + PATIENCE_MIN;
        Some(self.heard_at? + patience)
    }

    /// What came is late because we were: nobody is to blame.
    pub(super) fn forgive(&mut self, late: Duration, now: Instant) {
        if let Some(heard) = &mut self.heard_at {
            *heard = (*heard + late).min(now);
        }
    }

    pub(super) fn received(&self) -> LinkStats {
        let media = &self.media;
        let before = &self.media_before;
        let since = LinkStats {
            received: media.received.saturating_sub(before.received),
            lost: media.lost.saturating_sub(before.lost),
            bursts: media.bursts.saturating_sub(before.bursts),
            ..*media
        };
        self.probes.stats().with(since)
    }

    #[allow(clippy::cast_possible_truncation, reason = "totals wrap on the wire")]
    pub(super) fn report(&self, used: bool) -> Heard {
        let totals = self.received();
        let micros = |duration: Duration| u32::try_from(duration.as_micros()).unwrap_or(u32::MAX);
        Heard {
            path: self.hop.path,
            silent: self.silent.is_some(),
            used,
            received: totals.received as u32,
            lost: totals.lost as u32,
            jitter_us: micros(totals.jitter),
            queueing_us: micros(totals.queueing),
            burst: totals.bursts as u16,
        }
    }

    // Sending.

    /// Sequence and echo of the next probe.
    pub(super) fn send(&mut self, now: Instant) -> (u16, Option<(u16, u32)>) {
        self.sequence = self.sequence.wrapping_add(1);
        if self.sent.len() >= SENT_MAX {
            self.sent.pop_front();
        }
        self.sent.push_back((self.sequence, now));
        let ago = |at: Instant| u32::try_from((now - at).as_micros()).unwrap_or(u32::MAX - 1);
        (self.sequence, self.echo.map(|(sequence, at)| (sequence, ago(at))))
    }

    /// Does it look silent towards the peer? Our own hearing is a hint until the peer speaks.
    fn silent_there(&self) -> bool {
        let told = self.told.back();
        if told.is_some_and(|told| told.heard.silent) {
            return true;
        }
        self.silent.is_some_and(|since| told.is_none_or(|told| told.at < since + REFUTES))
    }

    pub(super) fn observe(&mut self, now: Instant) {
        if self.up {
            let measured = self.rtt.is_some() && !self.told.is_empty();
            let silent = self.silent_there();
            self.health.observe(measured, silent, now);
        } else {
            self.health.lost(now);
        }
    }

    /// Lost share and bursts of what we sent, by the far end's reports.
    fn loss(&self, now: Instant) -> (f64, u32) {
        let Some(last) = self.told.back() else { return (0.0, 0) };
        let mut loss = 0.0;
        for window in WINDOWS {
            let Some((received, lost)) = self.since(last, window, now) else { continue };
            let total = received.saturating_add(lost);
            loss = if total == 0 { 0.0 } else { f64::from(lost) / f64::from(total) };
            if total >= ENOUGH {
                break;
            }
        }
        let oldest = self.told.iter().find(|told| now - told.at <= Duration::from_secs(10));
        let bursts = oldest.map_or(0, |told| last.heard.burst.wrapping_sub(told.heard.burst));
        // A far end that began anew counts from zero.
        (loss, u32::from(if bursts > u16::MAX / 2 { 0 } else { bursts }))
    }

    fn since(&self, last: &Told, window: Duration, now: Instant) -> Option<(u32, u32)> {
        let first = self.told.iter().rev().find(|told| now - told.at >= window);
        let first = first.or(self.told.front())?;
        let received = last.heard.received.wrapping_sub(first.heard.received);
        // Losses shrink when late datagrams come.
        let lost = last.heard.lost.wrapping_sub(first.heard.lost);
        let sane = |value: u32| if value > u32::MAX / 2 { 0 } else { value };
        Some((sane(received), sane(lost)))
    }

    pub(super) const fn rtt(&self) -> Option<Duration> {
        self.rtt
    }

    pub(super) fn candidate(&self, now: Instant) -> Candidate {
        let (loss, bursts) = self.loss(now);
        let told = self.told.back().map(|told| told.heard).unwrap_or_default();
        Candidate {
            hop: self.hop.clone(),
            health: self.health.health(),
            heard: self.up && self.heard_at.is_some() && self.health.is_clear(),
            fresh: self.up && self.heard_at.is_some_and(|at| now - at <= FRESH),
            rtt: self.rtt,
            jitter: Duration::from_micros(u64::from(told.jitter_us)),
            queueing: Duration::from_micros(u64::from(told.queueing_us)),
            loss,
            bursts,
            risk: self.against.risk,
            shaky: self.against.shaky,
            drain: self.against.drain,
            transit: self.against.transit.clone(),
        }
    }

    pub(super) const fn is_usable(&self) -> bool {
        self.up && matches!(self.health.health(), Health::Good | Health::Unmeasured)
    }
}
