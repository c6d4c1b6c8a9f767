//! The mouth: a voice, packet by packet, and digits between its words.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proto::time::Instant;

use super::diary::Spoke;
use super::session::Agreed;
use crate::rng::Rng;

/// Time between packets.
pub(super) const PTIME: Duration = Duration::from_millis(20);
/// Audio packets between two digits, and before the first.
const PAUSE_PACKETS: u32 = 25;
/// Packets of one event, 100 ms; the last one is sent three times (RFC 4733 §2.5.1.4).
const EVENT_PACKETS: u16 = 5;
const EVENT_REPEATS: u16 = 2;

/// The mouth of one call.
#[derive(Debug)]
pub(super) struct Talker {
    tape: Arc<[Bytes]>,
    frame: usize,
    spoke: Spoke,
    payload_type: u8,
    event_type: Option<u8>,
    ssrc: u32,
    sequence: u16,
    timestamp: u32,
    step: u32,
    due: Instant,
    sent: u64,
    digits: VecDeque<u8>,
    pause: u32,
    event: Option<Event>,
}

#[derive(Debug, Clone, Copy)]
struct Event {
    code: u8,
    timestamp: u32,
    packet: u16,
}

impl Talker {
    pub(super) fn new(agreed: &Agreed, tape: Arc<[Bytes]>, rng: &mut Rng, now: Instant) -> Self {
        let [a, b, c, d, e, f, g, h] = rng.next_u64().to_be_bytes();
        Self {
            tape,
            frame: 0,
            spoke: Spoke { from: now, frame: 0 },
            payload_type: agreed.payload_type,
            event_type: agreed.event_type,
            ssrc: u32::from_be_bytes([a, b, c, d]),
            sequence: u16::from_be_bytes([e, f]),
            timestamp: u32::from_be_bytes([g, h, a, b]),
            step: agreed.codec.clock_rate() / 50,
            due: now,
            sent: 0,
            digits: VecDeque::new(),
            pause: PAUSE_PACKETS,
            event: None,
        }
    }

    /// Says digits (`0-9*#A-D`) as telephone events, if the far side takes them.
    pub(super) fn dial(&mut self, digits: &str) {
        let code = |c: char| "0123456789*#ABCD".find(c).and_then(|at| u8::try_from(at).ok());
        if self.event_type.is_some() {
            self.digits.extend(digits.chars().filter_map(code));
        }
    }

    pub(super) const fn due(&self) -> Instant {
        self.due
    }

    pub(super) const fn sent(&self) -> u64 {
        self.sent
    }

    /// Begins anywhere on the tape: who is mistaken for another is found out.
    pub(super) fn scatter(&mut self, rng: &mut Rng) {
        self.frame = usize::try_from(rng.below(self.tape.len() as u64)).unwrap_or(0);
        self.spoke.frame = u16::try_from(self.frame).unwrap_or(0);
    }

    /// The sequence number begins anew after two seconds, as in a call that is long up: who takes it
    /// over must find out (RFC 3711 §3.3.1).
    pub(super) fn wrap_soon(&mut self) {
        self.sequence = u16::MAX - 100;
    }

    /// When it began, and where on the tape.
    pub(super) const fn spoke(&self) -> Spoke {
        self.spoke
    }

    /// Payload types from now on: the far side may give others in a new offer.
    pub(super) fn follow(&mut self, agreed: &Agreed) {
        self.payload_type = agreed.payload_type;
        self.event_type = agreed.event_type;
    }

    /// The next packet, if it is due.
    pub(super) fn poll_packet(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.due {
            return None;
        }
        self.due += PTIME;
        let packet = self.event_packet().unwrap_or_else(|| self.audio_packet());
        self.sequence = self.sequence.wrapping_add(1);
        self.timestamp = self.timestamp.wrapping_add(self.step);
        // The voice goes on under an event, so that what is heard keeps its rhythm.
        self.frame = (self.frame + 1) % self.tape.len().max(1);
        self.sent += 1;
        Some(packet)
    }

    fn audio_packet(&self) -> Vec<u8> {
        let payload = self.tape.get(self.frame).cloned().unwrap_or_default();
        let marker = self.sent == 0;
        self.packet(marker, self.payload_type, self.timestamp, &payload)
    }

    fn event_packet(&mut self) -> Option<Vec<u8>> {
        let event_type = self.event_type?;
        if self.event.is_none() {
            self.pause = self.pause.saturating_sub(1);
            if self.pause > 0 {
                return None;
            }
            let code = self.digits.pop_front()?;
            self.event = Some(Event { code, timestamp: self.timestamp, packet: 0 });
        }
        let mut event = self.event?;
        event.packet += 1;
        let over = event.packet >= EVENT_PACKETS;
        let duration = (event.packet.min(EVENT_PACKETS) * 160).to_be_bytes();
        let volume = if over { 0x80 | 10 } else { 10 };
        let [high, low] = duration;
        let payload = [event.code, volume, high, low];
        let packet = self.packet(event.packet == 1, event_type, event.timestamp, &payload);
        self.event = (event.packet < EVENT_PACKETS + EVENT_REPEATS).then_some(event);
        if self.event.is_none() {
            self.pause = PAUSE_PACKETS;
        }
        Some(packet)
    }

    fn packet(&self, marker: bool, payload_type: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12 + payload.len());
        bytes.push(0x80);
        bytes.push(payload_type | if marker { 0x80 } else { 0 });
        bytes.extend(self.sequence.to_be_bytes());
        bytes.extend(timestamp.to_be_bytes());
        bytes.extend(self.ssrc.to_be_bytes());
        bytes.extend(payload);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use pop_core::codec::Codec;

    use super::*;
    use crate::endpoint::listener::{Listener, Packet};

    #[test]
    fn what_is_said_is_heard_with_its_digits() {
        let agreed = Agreed {
            codec: Codec::Pcmu,
            payload_type: 0,
            event_type: Some(101),
            remote: "127.0.0.1:9".parse().unwrap(),
            wanted: true,
            key: None,
        };
        let tape: Arc<[Bytes]> = (0..10u8).map(|n| Bytes::from(vec![n; 160])).collect();
        let mut mouth = Talker::new(&agreed, tape, &mut Rng::new(1), Instant::ZERO);
        mouth.dial("12#x");
        let mut ear = Listener::new(0, Some(101), 8_000, Instant::ZERO);
        let mut now = Instant::ZERO;
        while now < Instant::from_millis(5_000) {
            while let Some(bytes) = mouth.poll_packet(now) {
                ear.handle_packet(&Packet::parse(&bytes).unwrap(), now);
            }
            now += Duration::from_millis(5);
        }
        let s = ear.statistics(now);
        assert_eq!((mouth.sent(), s.received, s.lost), (250, 250, 0));
        assert_eq!((ear.digits(), s.jitter), ("12#", Duration::ZERO));
        assert_eq!(s.longest_gap, PTIME);
    }
}
