//! The ear: what arrives of one RTP stream, measured as RFC 3550 Appendix A says.
//!
//! It keeps the payloads and decodes them only at the end, so that listening to many calls costs
//! little while they run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::time::Instant;

use super::diary::{Diary, Entry, Spoke};
use super::tape::Index;

/// Payloads kept of one call: one minute at 20 ms. Later packets are only counted.
const KEPT_PACKETS: usize = 3_000;
/// Sequence jumps beyond this are a new stream (RFC 3550 §A.1, MAX_DROPOUT).
const MAX_DROPOUT: i64 = 3_000;
/// Digits kept of one call.
const KEPT_DIGITS: usize = 64;

/// One received packet, parsed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packet<'a> {
    pub(super) ssrc: u32,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) payload_type: u8,
    pub(super) payload: &'a [u8],
}

impl<'a> Packet<'a> {
    /// RFC 3550 §5.1; `None` for what is no RTP.
    pub(super) fn parse(bytes: &'a [u8]) -> Option<Self> {
        let (header, rest) = bytes.split_first_chunk::<12>()?;
        let [first, second, s0, s1, t0, t1, t2, t3, c0, c1, c2, c3] = *header;
        if first >> 6 != 2 {
            return None;
        }
        let csrcs = usize::from(first & 0x0f) * 4;
        let mut payload = rest.get(csrcs..)?;
        if first & 0x10 != 0 {
            let (extension, after) = payload.split_first_chunk::<4>()?;
            let [_, _, l0, l1] = *extension;
            payload = after.get(usize::from(u16::from_be_bytes([l0, l1])) * 4..)?;
        }
        if first & 0x20 != 0 {
            let padding = usize::from(*payload.last()?);
            payload = payload.get(..payload.len().checked_sub(padding)?)?;
        }
        Some(Self {
            ssrc: u32::from_be_bytes([c0, c1, c2, c3]),
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            payload_type: second & 0x7f,
            payload,
        })
    }
}

/// Counters of one stream so far.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Statistics {
    pub(super) received: u64,
    /// Of their payloads.
    pub(super) bytes: u64,
    pub(super) duplicates: u64,
    pub(super) lost: u64,
    pub(super) jitter: Duration,
    pub(super) longest_gap: Duration,
    pub(super) first_packet: Option<Duration>,
}

/// One sending source of the stream.
#[derive(Debug)]
struct Source {
    ssrc: u32,
    /// Extended sequence numbers (RFC 3550 §A.1).
    base: i64,
    highest: i64,
    /// Bit n: `highest - n` has been received.
    window: u128,
    received: u64,
    /// In 1/16 timestamp units, as RFC 3550 §A.8.
    jitter: u64,
    transit: Option<i64>,
}

/// The ear of one call.
#[derive(Debug)]
pub(super) struct Listener {
    payload_type: u8,
    event_type: Option<u8>,
    clock_hz: u32,
    opened: Instant,
    source: Option<Source>,
    /// Sums of sources that came before.
    earlier_lost: u64,
    received: u64,
    bytes: u64,
    duplicates: u64,
    first: Option<Instant>,
    last: Option<Instant>,
    longest_gap: Duration,
    digits: String,
    last_event: Option<u32>,
    /// Received payloads by (source number, extended sequence number).
    kept: BTreeMap<(u32, i64), Bytes>,
    sources: u32,
    diary: Option<Writing>,
}

/// A diary that is being written.
#[derive(Debug)]
struct Writing {
    index: Arc<Index>,
    entries: Vec<Entry>,
    last_voice: Option<Instant>,
}

impl Listener {
    pub(super) fn new(
        payload_type: u8,
        event_type: Option<u8>,
        clock_hz: u32,
        now: Instant,
    ) -> Self {
        Self {
            payload_type,
            event_type,
            clock_hz,
            opened: now,
            source: None,
            earlier_lost: 0,
            received: 0,
            bytes: 0,
            duplicates: 0,
            first: None,
            last: None,
            longest_gap: Duration::ZERO,
            digits: String::new(),
            last_event: None,
            kept: BTreeMap::new(),
            sources: 0,
            diary: None,
        }
    }

    /// Writes down each packet from now on, and keeps no payloads.
    pub(super) fn keep_diary(&mut self, index: Arc<Index>) {
        self.diary = Some(Writing { index, entries: Vec::new(), last_voice: None });
    }

    /// The diary so far; the far side's voice is the one of its index.
    pub(super) fn take_diary(&mut self, spoke: Spoke) -> Option<Diary> {
        self.diary.take().map(|d| Diary { heard: d.entries, index: d.index, spoke })
    }

    /// When a packet of the expected voice was last heard.
    pub(super) fn last_voice(&self) -> Option<Instant> {
        self.diary.as_ref().and_then(|d| d.last_voice)
    }

    /// Payload types from now on: the far side may give others in a new offer.
    pub(super) fn follow(&mut self, payload_type: u8, event_type: Option<u8>) {
        self.payload_type = payload_type;
        self.event_type = event_type;
    }

    pub(super) fn handle_packet(&mut self, packet: &Packet<'_>, now: Instant) {
        let is_event = Some(packet.payload_type) == self.event_type;
        if packet.payload_type != self.payload_type && !is_event {
            return;
        }
        let Some(sequence) = self.sequence(packet) else {
            self.duplicates += 1;
            return;
        };
        self.received += 1;
        self.bytes += packet.payload.len() as u64;
        self.first.get_or_insert(now);
        if let Some(last) = self.last.replace(now) {
            self.longest_gap = self.longest_gap.max(now - last);
        }
        if is_event {
            self.event(packet);
            return;
        }
        self.jitter(packet, now);
        if let Some(diary) = &mut self.diary {
            let places = diary.index.places(packet.payload);
            let place = places.first().copied();
            diary.last_voice = place.map(|_| now).or(diary.last_voice);
            if diary.entries.len() < Diary::ENTRIES_MAX {
                diary.entries.push(Entry { at: now, place });
            }
            return;
        }
        if self.kept.len() < KEPT_PACKETS {
            let payload = Bytes::copy_from_slice(packet.payload);
            self.kept.insert((self.sources, sequence), payload);
        }
    }

    pub(super) fn statistics(&self, now: Instant) -> Statistics {
        let silence = self.last.map_or(Duration::ZERO, |last| now - last);
        let jitter = self.source.as_ref().map_or(0, |s| s.jitter / 16);
        Statistics {
            received: self.received,
            bytes: self.bytes,
            duplicates: self.duplicates,
            lost: self.earlier_lost + self.source.as_ref().map_or(0, Source::lost),
            jitter: Duration::from_micros(jitter * 1_000_000 / u64::from(self.clock_hz.max(1))),
            longest_gap: self.longest_gap.max(silence),
            first_packet: self.first.map(|first| first - self.opened),
        }
    }

    pub(super) fn digits(&self) -> &str {
        &self.digits
    }

    /// The payloads in order of sequence; `None` stands for a lost one.
    pub(super) fn payloads(&self) -> Vec<Option<&Bytes>> {
        let mut all = Vec::with_capacity(self.kept.len());
        let mut previous: Option<(u32, i64)> = None;
        for ((source, sequence), payload) in &self.kept {
            if let Some((s, before)) = previous
                && s == *source
            {
                let lost = usize::try_from(sequence - before - 1).unwrap_or(0);
                // An event's packets are no audio: the gap they leave in the audio is theirs.
                all.extend(std::iter::repeat_n(None, lost.min(50)));
            }
            all.push(Some(payload));
            previous = Some((*source, *sequence));
        }
        all
    }

    /// The extended sequence number; `None` for a duplicate.
    fn sequence(&mut self, packet: &Packet<'_>) -> Option<i64> {
        if let Some(source) = self.source.as_mut().filter(|s| s.ssrc == packet.ssrc) {
            match source.take(packet.sequence) {
                Taken::New(sequence) => return Some(sequence),
                Taken::Again => return None,
                Taken::Jump => {}
            }
        }
        self.earlier_lost += self.source.as_ref().map_or(0, Source::lost);
        self.sources += 1;
        let base = i64::from(packet.sequence);
        self.source = Some(Source {
            ssrc: packet.ssrc,
            base,
            highest: base,
            window: 1,
            received: 1,
            jitter: 0,
            transit: None,
        });
        Some(base)
    }

    /// RFC 3550 §A.8.
    fn jitter(&mut self, packet: &Packet<'_>, now: Instant) {
        let Some(source) = self.source.as_mut() else { return };
        let arrival = now.as_micros().saturating_mul(u64::from(self.clock_hz)) / 1_000_000;
        #[allow(clippy::cast_possible_truncation, reason = "RTP timestamps wrap (RFC 3550 §5.1)")]
        let transit = i64::from((arrival as u32).wrapping_sub(packet.timestamp).cast_signed());
        if let Some(before) = source.transit.replace(transit) {
            let d = transit.abs_diff(before);
            source.jitter = source.jitter + d - ((source.jitter + 8) >> 4);
        }
    }

    /// RFC 4733 §2.5.1: all packets of one event carry its timestamp.
    fn event(&mut self, packet: &Packet<'_>) {
        let Some(code) = packet.payload.first() else { return };
        if self.last_event == Some(packet.timestamp) || self.digits.len() >= KEPT_DIGITS {
            return;
        }
        self.last_event = Some(packet.timestamp);
        if let Some(digit) = "0123456789*#ABCD".chars().nth(usize::from(*code)) {
            self.digits.push(digit);
        }
    }
}

enum Taken {
    New(i64),
    Again,
    Jump,
}

impl Source {
    fn take(&mut self, sequence: u16) -> Taken {
        #[allow(clippy::cast_possible_truncation, reason = "the low 16 bits are meant")]
        let step = i64::from(sequence.wrapping_sub(self.highest as u16).cast_signed());
        if step.abs() > MAX_DROPOUT {
            return Taken::Jump;
        }
        let extended = self.highest + step;
        if step > 0 {
            let shift = u32::try_from(step).unwrap_or(u32::MAX);
            self.window = self.window.checked_shl(shift).unwrap_or(0) | 1;
            self.highest = extended;
        } else {
            let Some(bit) = 1u128.checked_shl(u32::try_from(-step).unwrap_or(u32::MAX)) else {
                return Taken::Again;
            };
            if self.window & bit != 0 {
                return Taken::Again;
            }
            self.window |= bit;
            self.base = self.base.min(extended);
        }
        self.received += 1;
        Taken::New(extended)
    }

    fn lost(&self) -> u64 {
        let expected = u64::try_from(self.highest - self.base + 1).unwrap_or(0);
        expected.saturating_sub(self.received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packet(sequence: u16, timestamp: u32) -> Packet<'static> {
        Packet { ssrc: 1, sequence, timestamp, payload_type: 0, payload: b"x" }
    }

    fn ms(n: u64) -> Instant {
        Instant::from_millis(n)
    }

    #[test]
    fn parses_extension_padding_and_refuses_junk() {
        let mut bytes = vec![0xb1, 0x80, 0, 7, 0, 0, 0, 9, 0, 0, 0, 5, 1, 1, 1, 1];
        bytes.extend([0, 0, 0, 1, 9, 9, 9, 9]);
        bytes.extend([42, 43, 0, 2]);
        let p = Packet::parse(&bytes).unwrap();
        assert_eq!((p.sequence, p.timestamp, p.ssrc, p.payload_type), (7, 9, 5, 0));
        assert_eq!(p.payload, [42, 43]);
        for cut in 0..bytes.len() {
            let _no_panic = Packet::parse(&bytes[..cut]);
        }
        assert!(Packet::parse(&[0; 40]).is_none());
    }

    #[test]
    fn counts_across_the_wrap_with_loss_reorder_and_duplicates() {
        let mut ear = Listener::new(0, None, 8_000, ms(0));
        let order: [u16; 8] = [65_533, 65_534, 0, 65_535, 0, 2, 3, 2];
        for (n, sequence) in order.into_iter().enumerate() {
            ear.handle_packet(&packet(sequence, 0), ms(n as u64 * 20));
        }
        let s = ear.statistics(ms(140));
        assert_eq!((s.received, s.lost, s.duplicates), (6, 1, 2));
        let kept: Vec<bool> = ear.payloads().iter().map(Option::is_some).collect();
        assert_eq!(kept, [true, true, true, true, false, true, true]);
    }

    #[test]
    fn jitter_follows_the_rfc_and_a_steady_stream_has_none() {
        let mut steady = Listener::new(0, None, 8_000, ms(0));
        let mut shaky = Listener::new(0, None, 8_000, ms(0));
        for n in 0..200u16 {
            let p = packet(n, u32::from(n) * 160);
            let t = u64::from(n) * 20;
            steady.handle_packet(&p, ms(t));
            shaky.handle_packet(&p, ms(t + u64::from(n % 2) * 8));
        }
        assert_eq!(steady.statistics(ms(3_980)).jitter, Duration::ZERO);
        let jitter = shaky.statistics(ms(3_988)).jitter;
        assert!((7..=8).contains(&jitter.as_millis()), "{jitter:?}");
    }

    #[test]
    fn silence_at_the_end_is_a_gap_too() {
        let mut ear = Listener::new(0, None, 8_000, ms(100));
        ear.handle_packet(&packet(1, 0), ms(130));
        ear.handle_packet(&packet(2, 160), ms(150));
        let s = ear.statistics(ms(5_150));
        assert_eq!(s.longest_gap, Duration::from_secs(5));
        assert_eq!(s.first_packet, Some(Duration::from_millis(30)));
    }

    #[test]
    fn a_new_source_begins_anew_and_keeps_earlier_losses() {
        let mut ear = Listener::new(0, None, 8_000, ms(0));
        for sequence in [10, 12] {
            ear.handle_packet(&packet(sequence, 0), ms(0));
        }
        for sequence in [40_000, 40_001] {
            let p = Packet { ssrc: 2, ..packet(sequence, 0) };
            ear.handle_packet(&p, ms(0));
        }
        let s = ear.statistics(ms(0));
        assert_eq!((s.received, s.lost), (4, 1));
    }

    #[test]
    fn an_event_is_one_digit_however_often_it_is_sent() {
        let mut ear = Listener::new(0, Some(101), 8_000, ms(0));
        for (sequence, (code, timestamp)) in
            (1..).zip([(5u8, 100), (5, 100), (5, 100), (11, 900), (11, 900), (5, 2_000)])
        {
            let payload = [code, 10, 0, 160];
            let p = Packet { payload_type: 101, payload: &payload, ..packet(sequence, timestamp) };
            ear.handle_packet(&p, ms(0));
        }
        assert_eq!(ear.digits(), "5#5");
        assert_eq!(ear.statistics(ms(0)).lost, 0);
    }
}
