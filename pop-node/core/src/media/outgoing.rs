//! An RTP stream we send: one SSRC whose sequence numbers and timestamps go on without a break,
//! whatever feeds it (relayed packets of changing sources, a transcoder, telephone events).

use proto::time::Instant;

/// As RFC 3550 A.1: beyond these a sequence number is a restarted source.
const MAX_DROPOUT: u16 = 3_000;
const MAX_MISORDER: u16 = 100;

/// Where a packet stands in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placed {
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    /// The first of its source: a break the receiver should know of (marker).
    pub(super) fresh: bool,
}

/// Who feeds the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Feed {
    /// A leg's RTP: its connection number and SSRC.
    Rtp(u64, u32),
    /// Overlay frames: the connection number.
    Overlay(u64),
}

#[derive(Debug, Clone, Copy)]
struct Source {
    feed: Feed,
    highest: u16,
    sequence_offset: u16,
    timestamp_offset: u32,
}

/// State of the stream.
#[derive(Debug)]
pub(super) struct Outgoing {
    pub(super) ssrc: u32,
    clock_rate: u32,
    /// Highest sequence number sent.
    sequence: u16,
    /// Newest audio: its timestamp, units it lasts, and when it was sent.
    timestamp: u32,
    units: u32,
    sent_at: Option<Instant>,
    source: Option<Source>,
    /// The telephone event going on: timestamps it came and leaves with.
    event: Option<(u32, u32)>,
    pub(super) packets: u64,
    pub(super) octets: u64,
}

impl Outgoing {
    /// `random` gives SSRC, first sequence number and first timestamp (RFC 3550 §5.1).
    pub(super) fn new(clock_rate: u32, mut random: impl FnMut() -> u64) -> Self {
        let [a, b, c, d, e, f, g, h] = random().to_be_bytes();
        // Below 2^15, so that the first wrap is not at once (RFC 3711 §3.3.1 has the reason).
        let sequence = u16::from_be_bytes([e, f]) >> 1;
        let [i, j, ..] = random().to_be_bytes();
        Self {
            ssrc: u32::from_be_bytes([a, b, c, d]),
            clock_rate,
            sequence,
            timestamp: u32::from_be_bytes([g, h, i, j]),
            units: clock_rate / 50,
            sent_at: None,
            source: None,
            event: None,
            packets: 0,
            octets: 0,
        }
    }

    /// The codec changed.
    pub(super) fn set_clock_rate(&mut self, clock_rate: u32) {
        if self.clock_rate != clock_rate {
            self.clock_rate = clock_rate;
            self.units = clock_rate / 50;
            self.source = None;
            self.event = None;
        }
    }

    pub(super) const fn clock_rate(&self) -> u32 {
        self.clock_rate
    }

    /// The timestamp that belongs to `now`: after all that was sent.
    pub(super) fn time(&self, now: Instant) -> u32 {
        let Some(sent_at) = self.sent_at else { return self.timestamp };
        let elapsed = (now - sent_at).as_micros() * u128::from(self.clock_rate) / 1_000_000;
        #[allow(clippy::cast_possible_truncation, reason = "timestamps wrap at 32 bits")]
        let elapsed = elapsed as u32;
        self.timestamp.wrapping_add(elapsed.max(self.units))
    }

    /// Places a relayed packet: at a constant offset from its source.
    pub(super) fn relay(
        &mut self,
        feed: Feed,
        sequence: u16,
        timestamp: u32,
        now: Instant,
    ) -> Placed {
        let (placed, newest) = self.map(feed, sequence, timestamp, now);
        if newest {
            self.timestamp = placed.timestamp;
            self.sent_at = Some(now);
        }
        placed
    }

    /// Places a relayed telephone event packet. `same_clock`: its timestamp counts as the audio's.
    pub(super) fn relay_event(
        &mut self,
        feed: Feed,
        (sequence, timestamp): (u16, u32),
        same_clock: bool,
        now: Instant,
    ) -> Placed {
        let (placed, _) = self.map(feed, sequence, timestamp, now);
        if same_clock {
            return placed;
        }
        Placed { timestamp: self.event_timestamp(timestamp, now), ..placed }
    }

    fn map(&mut self, feed: Feed, sequence: u16, timestamp: u32, now: Instant) -> (Placed, bool) {
        let known = self.source.filter(|source| {
            let ahead = sequence.wrapping_sub(source.highest);
            let jump = MAX_DROPOUT..=u16::MAX - MAX_MISORDER;
            source.feed == feed && !jump.contains(&ahead)
        });
        let mut source = known.unwrap_or_else(|| Source {
            feed,
            highest: sequence,
            sequence_offset: self.sequence.wrapping_add(1).wrapping_sub(sequence),
            timestamp_offset: self.time(now).wrapping_sub(timestamp),
        });
        if sequence.wrapping_sub(source.highest) < MAX_DROPOUT {
            source.highest = sequence;
        }
        self.source = Some(source);
        let placed = Placed {
            sequence: sequence.wrapping_add(source.sequence_offset),
            timestamp: timestamp.wrapping_add(source.timestamp_offset),
            fresh: known.is_none(),
        };
        let newest = placed.sequence.wrapping_sub(self.sequence).cast_signed() > 0;
        if newest {
            self.sequence = placed.sequence;
        }
        (placed, newest)
    }

    /// Places a packet made here that lasts `units`; `first` after a pause.
    pub(super) fn generate(&mut self, units: u32, first: bool, now: Instant) -> Placed {
        let fresh = first || self.source.take().is_some() || self.sent_at.is_none();
        let timestamp =
            if fresh { self.time(now) } else { self.timestamp.wrapping_add(self.units) };
        self.sequence = self.sequence.wrapping_add(1);
        (self.timestamp, self.units, self.sent_at) = (timestamp, units, Some(now));
        Placed { sequence: self.sequence, timestamp, fresh }
    }

    /// Places a telephone event packet among packets made here.
    pub(super) fn generate_event(&mut self, timestamp: u32, now: Instant) -> Placed {
        self.sequence = self.sequence.wrapping_add(1);
        let timestamp = self.event_timestamp(timestamp, now);
        Placed { sequence: self.sequence, timestamp, fresh: false }
    }

    /// All packets of one event have its first one's timestamp (RFC 4733 §2.2).
    fn event_timestamp(&mut self, timestamp: u32, now: Instant) -> u32 {
        match self.event {
            Some((before, placed)) if before == timestamp => placed,
            _ => {
                let placed = self.time(now);
                self.event = Some((timestamp, placed));
                placed
            }
        }
    }

    /// Counts a packet sent.
    pub(super) fn sent(&mut self, payload_bytes: usize) {
        self.packets += 1;
        self.octets += payload_bytes as u64;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn outgoing() -> Outgoing {
        let mut n = 0x1234_5678_ffff_fff0;
        Outgoing::new(8_000, move || {
            n += 1;
            n
        })
    }

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn a_relayed_stream_keeps_its_spacing_and_a_new_source_continues() {
        let mut out = outgoing();
        let first = out.relay(Feed::Rtp(1, 7), 65_534, u32::MAX - 100, at(0));
        assert!(first.fresh);
        for n in 1..5_u16 {
            let timestamp = (u32::MAX - 100).wrapping_add(u32::from(n) * 160);
            let sequence = 65_534_u16.wrapping_add(n);
            let placed = out.relay(Feed::Rtp(1, 7), sequence, timestamp, at(20 * u64::from(n)));
            assert_eq!(placed.sequence, first.sequence.wrapping_add(n));
            assert_eq!(placed.timestamp, first.timestamp.wrapping_add(u32::from(n) * 160));
        }
        let next = out.relay(Feed::Rtp(1, 8), 1, 1, at(1_080));
        assert!(next.fresh);
        assert_eq!(next.sequence, first.sequence.wrapping_add(5));
        assert_eq!(next.timestamp, first.timestamp.wrapping_add(640 + 8_000));
        let restarted = out.relay(Feed::Rtp(1, 8), 30_000, 99, at(1_081));
        assert_eq!(restarted.sequence, next.sequence.wrapping_add(1));
        assert_eq!(restarted.timestamp, next.timestamp.wrapping_add(160));
    }

    #[test]
    fn reordered_packets_keep_their_place() {
        let mut out = outgoing();
        let base = out.relay(Feed::Overlay(1), 10, 1_600, at(0)).sequence;
        assert_eq!(out.relay(Feed::Overlay(1), 12, 1_920, at(40)).sequence, base.wrapping_add(2));
        assert_eq!(out.relay(Feed::Overlay(1), 11, 1_760, at(41)).sequence, base.wrapping_add(1));
        assert_eq!(out.generate(160, false, at(60)).sequence, base.wrapping_add(3));
    }

    #[test]
    fn events_share_one_timestamp_and_the_sequence() {
        let mut out = outgoing();
        let audio = out.generate(160, true, at(0));
        let event = out.generate_event(5_555, at(30));
        assert_eq!(event.sequence, audio.sequence.wrapping_add(1));
        assert_eq!(event.timestamp, audio.timestamp.wrapping_add(240));
        assert_eq!(out.generate_event(5_555, at(80)).timestamp, event.timestamp);
        assert_ne!(out.generate_event(6_666, at(200)).timestamp, event.timestamp);
        let next = out.generate(160, false, at(20));
        assert_eq!(next.timestamp, audio.timestamp.wrapping_add(160));
    }

    proptest! {
        #[test]
        fn each_new_source_begins_right_after_what_was_sent(
            steps in prop::collection::vec((0..3_u32, any::<u16>(), any::<u32>(), any::<bool>()), 1..100),
        ) {
            let mut out = outgoing();
            for (n, (ssrc, sequence, timestamp, relayed)) in steps.into_iter().enumerate() {
                let (before, now) = (out.sequence, at(n as u64 * 20));
                let placed = if relayed {
                    out.relay(Feed::Rtp(1, ssrc), sequence, timestamp, now)
                } else {
                    out.generate(160, false, now)
                };
                if placed.fresh || !relayed {
                    prop_assert_eq!(placed.sequence, before.wrapping_add(1));
                }
                prop_assert!(out.sequence.wrapping_sub(before).cast_signed() >= 0);
            }
        }
    }
}
