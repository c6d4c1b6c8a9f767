//! The packet path: what becomes of an RTP packet or an overlay frame.

use std::net::SocketAddr;

use proto::id::{LegId, PopId};
use proto::overlay::{Frame, FrameKind};
use proto::time::Instant;

use super::leg::{Bridge, FarEnd, Kind, Leg};
use super::outgoing::{Feed, Outgoing, Placed};
use super::transcode::{Effort, Encoded, Transcoder};
use super::{
    ARENA_BYTES, DropReason, Format, LegParams, Media, MediaTransmit, Received, Side, Timer,
    Verdict,
};
use crate::codec::Codec;
use crate::rtp::{HEADER_BYTES, Header, Packet, is_rtcp, telephone_event};
use crate::srtp::TRAILER_BYTES_MAX;

/// What fits an Ethernet frame over IPv6 and UDP. More may have been cut by whoever received it.
pub(super) const PACKET_BYTES_MAX: usize = 1_452;

/// Of so many relayed packets the level of one is read.
const METERED: u16 = 64;

/// A received packet or frame, checked.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    pub(super) feed: Feed,
    pub(super) kind: Kind,
    pub(super) sequence: u16,
    pub(super) timestamp: u32,
    pub(super) marker: bool,
    /// Codec of its stream.
    pub(super) codec: Codec,
    /// Later packets of its stream may bring it again.
    pub(super) has_copies: bool,
    /// It was brought so.
    pub(super) is_copy: bool,
    /// Its noise is to be suppressed: it is not relayed as it is.
    pub(super) is_noisy: bool,
}

/// How it leaves.
#[derive(Debug, Clone, Copy)]
pub(super) struct Departure {
    pub(super) placed: Placed,
    pub(super) marker: bool,
    /// Telephone events: the clocks it comes and leaves by.
    clocks: Option<(u32, u32)>,
}

impl Media {
    /// A packet on a leg's RTP socket; on `Forward` it was rewritten in place.
    pub fn handle_rtp<'a>(
        &mut self,
        leg: LegId,
        source: SocketAddr,
        packet: impl Into<Received<'a>>,
        now: Instant,
    ) -> Verdict {
        match self.receive_rtp(leg, source, packet.into(), now) {
            Ok(verdict) => verdict,
            Err(reason) => {
                self.counters.drop(reason);
                Verdict::Drop(reason)
            }
        }
    }

    fn receive_rtp(
        &mut self,
        id: LegId,
        source: SocketAddr,
        mut received: Received<'_>,
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        if is_rtcp(received.packet()) && leg.params.as_ref().is_some_and(|p| p.rtcp_mux) {
            self.handle_rtcp(id, source, received.packet(), now);
            return Ok(Verdict::Consumed);
        }
        self.counters.rtp_received += 1;
        if received.length > PACKET_BYTES_MAX {
            return Err(DropReason::TooLarge);
        }
        if leg.secure.is_on() {
            received.length = leg.open(source, received.packet_mut(), now)?;
            self.counters.srtp_opened += 1;
        }
        let packet = received.packet();
        let parsed = Packet::parse(packet).map_err(|_| DropReason::MalformedRtp)?;
        let header = parsed.header;
        let (kind, same) = leg.receive(id, source, &header, &mut self.events, now)?;
        let arrival = Arrival {
            feed: Feed::Rtp(leg.connection, header.ssrc),
            kind,
            sequence: header.sequence,
            timestamp: header.timestamp,
            marker: header.marker,
            codec: leg.codec().ok_or(DropReason::NotConnected)?,
            has_copies: matches!(kind, Kind::Redundant(_)),
            is_copy: false,
            is_noisy: leg.params.as_ref().is_some_and(|params| params.suppress_noise),
        };
        if !same && let Some(transcoder) = &mut leg.inward.transcoder {
            transcoder.restart();
        }
        if let Kind::Redundant(missing) = kind {
            let arrival = Arrival { kind: Kind::Audio, ..arrival };
            let payload = parsed.payload_range(packet);
            return self.receive_redundant(id, arrival, missing, (received, payload), now);
        }
        if header.sequence % METERED == 0 && kind == Kind::Audio && leg.inward.transcoder.is_none()
        {
            leg.monitor.sample(arrival.codec, parsed.payload, now);
        }
        match &leg.far {
            None => Err(DropReason::NotConnected),
            Some(FarEnd::Leg(to)) => {
                let (to, payload) = (*to, parsed.payload_range(packet));
                self.relay_to_leg((id, to), arrival, (received, payload), now)
            }
            Some(FarEnd::Stream(_)) => {
                self.relay_to_stream(id, arrival, parsed.payload, now)?;
                Ok(Verdict::Consumed)
            }
        }
    }

    /// From a leg to another leg: in place if relayed.
    pub(super) fn relay_to_leg(
        &mut self,
        (from, to): (LegId, LegId),
        arrival: Arrival,
        (mut received, payload): (Received<'_>, std::ops::Range<usize>),
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let far = self.legs.get_mut(&to).ok_or(DropReason::NotConnected)?;
        let same_codec = far.codec() == Some(arrival.codec) && !arrival.is_noisy;
        let (params, outgoing, dst) = far.sending()?;
        let audio = arrival.kind == Kind::Audio;
        if arrival.kind.is_bridged() && !same_codec {
            let bytes = received.packet().get(payload).unwrap_or_default();
            self.bridge_to_leg(from, to, arrival, bytes, now)?;
            return Ok(Verdict::Consumed);
        }
        let (payload_type, departure) = depart(params, outgoing, arrival, same_codec, now)?;
        let header = Header {
            marker: departure.marker,
            payload_type,
            sequence: departure.placed.sequence,
            timestamp: departure.placed.timestamp,
            ssrc: outgoing.ssrc,
        };
        if audio && params.sent_redundant().is_some() {
            // It grows: not in place.
            let bytes = received.packet().get(payload).unwrap_or_default();
            self.send_rtp(to, dst, header, bytes)?;
            self.drop_bridge(from, Side::Inward);
            return Ok(Verdict::Consumed);
        }
        let payload_bytes = payload.len();
        let packet = received.packet_mut();
        header.rewrite(packet);
        if let (Some((from, to)), Some(payload)) = (departure.clocks, packet.get_mut(payload)) {
            telephone_event::convert_clock(payload, from, to);
        }
        let mut length = received.length;
        if far.secure.is_on() {
            length = far.protect(received.buffer, length)?;
            self.counters.srtp_protected += 1;
        }
        far.outgoing.sent(payload_bytes);
        if audio {
            self.drop_bridge(from, Side::Inward);
        }
        self.counters.rtp_sent += 1;
        Ok(Verdict::Forward { leg: to, dst, length })
    }

    /// From a leg to its stream.
    pub(super) fn relay_to_stream(
        &mut self,
        id: LegId,
        arrival: Arrival,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        let Some(FarEnd::Stream(end)) = &mut leg.far else { return Err(DropReason::NotConnected) };
        let same_codec = end.stream.codec == arrival.codec && !arrival.is_noisy;
        match arrival.kind {
            _ if arrival.kind.is_bridged() && !same_codec => {
                let mut bridge = leg.inward.transcoder.take();
                let effort = self.complexity.into();
                let pushed = bridge_push(&mut bridge, arrival, (&end.format, effort), payload, now);
                if let Some(transcoder) = &mut bridge {
                    transcoder.expect_loss(end.expected_loss);
                }
                self.keep_bridge(id, Side::Inward, bridge);
                return pushed;
            }
            Kind::Event(_) if !end.stream.telephone_event => {
                return Err(DropReason::NoTelephoneEvent);
            }
            Kind::Audio | Kind::Event(_) | Kind::Noise | Kind::Redundant(_) => {}
        }
        let clock_rate = end.stream.codec.clock_rate();
        let departure = place(&mut end.outgoing, arrival, clock_rate, same_codec, now);
        let mut event = [0; 4];
        let frame = Frame {
            stream: end.stream.send,
            sequence: departure.placed.sequence,
            timestamp: departure.placed.timestamp,
            marker: departure.marker,
            kind: match arrival.kind {
                Kind::Audio | Kind::Redundant(_) => FrameKind::Audio,
                Kind::Event(_) => FrameKind::TelephoneEvent,
                Kind::Noise => FrameKind::ComfortNoise,
            },
            payload: converted(payload, departure.clocks, &mut event),
        };
        let link = self.lanes.get_mut(&end.link).ok_or(DropReason::NotConnected)?;
        let due = link.push(&frame, now)?;
        self.counters.frames_sent += 1;
        if due {
            let key = end.link.clone();
            self.send_burst(&key, now);
        }
        if arrival.kind == Kind::Audio {
            self.drop_bridge(id, Side::Inward);
        }
        Ok(())
    }

    pub(super) fn receive_frame(
        &mut self,
        peer: &PopId,
        frame: &Frame<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let id = *self.streams.get(&frame.stream).ok_or(DropReason::UnknownStream)?;
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownStream)?;
        let Some(FarEnd::Stream(end)) = &mut leg.far else {
            return Err(DropReason::UnknownStream);
        };
        if &end.stream.peer != peer {
            return Err(DropReason::WrongPeer);
        }
        let codec = end.stream.codec;
        end.reception.packet(0, frame.sequence);
        if frame.kind != FrameKind::TelephoneEvent {
            end.reception.arrival(frame.timestamp, codec.clock_rate(), now);
        }
        let arrival = Arrival {
            feed: Feed::Overlay(leg.connection),
            kind: match frame.kind {
                FrameKind::Audio => Kind::Audio,
                FrameKind::TelephoneEvent => Kind::Event(codec.clock_rate()),
                FrameKind::ComfortNoise => Kind::Noise,
            },
            sequence: frame.sequence,
            timestamp: frame.timestamp,
            marker: frame.marker,
            codec,
            has_copies: false,
            is_copy: false,
            is_noisy: false,
        };
        let same_codec = leg.codec() == Some(codec);
        let (params, outgoing, dst) = leg.sending()?;
        if arrival.kind.is_bridged() && !same_codec {
            let mut bridge = leg.outward.transcoder.take();
            let params = leg.params.as_ref().ok_or(DropReason::NotConnected)?;
            let effort = self.complexity.into();
            let pushed =
                bridge_push(&mut bridge, arrival, (&params.codec, effort), frame.payload, now);
            self.keep_bridge(id, Side::Outward, bridge);
            return pushed;
        }
        let (payload_type, departure) = depart(params, outgoing, arrival, same_codec, now)?;
        let mut event = [0; 4];
        let payload = converted(frame.payload, departure.clocks, &mut event);
        let header = Header {
            marker: departure.marker,
            payload_type,
            sequence: departure.placed.sequence,
            timestamp: departure.placed.timestamp,
            ssrc: outgoing.ssrc,
        };
        self.send_rtp(id, dst, header, payload)?;
        if arrival.kind == Kind::Audio {
            self.drop_bridge(id, Side::Outward);
        }
        Ok(())
    }

    pub(super) fn send_rtp(
        &mut self,
        leg: LegId,
        dst: SocketAddr,
        header: Header,
        payload: &[u8],
    ) -> Result<(), DropReason> {
        let sender = self.legs.get_mut(&leg).ok_or(DropReason::UnknownLeg)?;
        let (header, payload) = match (&mut sender.before, &sender.params) {
            (Some(before), Some(params)) => before.join(params, header, payload),
            _ => (header, payload),
        };
        let octets = payload.len();
        let bytes = HEADER_BYTES + payload.len() + TRAILER_BYTES_MAX;
        if self.arena.capacity() < bytes {
            self.arena.reserve(ARENA_BYTES.max(bytes));
        }
        header.write(&mut self.arena);
        self.arena.extend_from_slice(payload);
        // In the arena, where there is room for the tag.
        let protected = sender.secure.get().map(|s| s.protect(&mut self.arena, false));
        let packet = self.arena.split();
        if let Some(protected) = protected {
            protected?;
            self.counters.srtp_protected += 1;
        }
        sender.outgoing.sent(octets);
        self.counters.rtp_sent += 1;
        self.transmit(MediaTransmit::Rtp { leg, dst, bytes: packet.freeze() });
        Ok(())
    }

    pub(super) fn bridge_to_leg(
        &mut self,
        from: LegId,
        to: LegId,
        arrival: Arrival,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let mut bridge = self.legs.get_mut(&from).and_then(|leg| leg.inward.transcoder.take());
        let params = self.legs.get(&to).and_then(|leg| leg.params.as_ref());
        let effort = self.complexity.into();
        let pushed = match params {
            Some(params) => {
                bridge_push(&mut bridge, arrival, (&params.codec, effort), payload, now)
            }
            None => Err(DropReason::NotConnected),
        };
        if pushed == Err(DropReason::PlayoutLate)
            && let Some(leg) = self.legs.get_mut(&from)
        {
            leg.monitor.late += 1;
        }
        self.keep_bridge(from, Side::Inward, bridge);
        pushed
    }

    /// Puts a transcoder back and arms its timer.
    fn keep_bridge(&mut self, id: LegId, side: Side, transcoder: Option<Box<Transcoder>>) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let bridge = side_of(leg, side);
        let due = transcoder.as_ref().and_then(|t| t.poll_timeout());
        bridge.transcoder = transcoder;
        if bridge.armed != due {
            if let Some(armed) = bridge.armed.take() {
                self.timers.remove(&(armed, id, Timer::Playout(side)));
            }
            if let Some(due) = due {
                self.timers.insert((due, id, Timer::Playout(side)));
            }
            bridge.armed = due;
        }
    }

    /// Relaying again: the codecs have become the same.
    fn drop_bridge(&mut self, id: LegId, side: Side) {
        if self.legs.get_mut(&id).is_some_and(|leg| side_of(leg, side).transcoder.is_some()) {
            self.keep_bridge(id, side, None);
        }
    }

    /// A transcoder's time has come.
    pub(super) fn run_bridge(&mut self, id: LegId, side: Side, now: Instant) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let bridge = side_of(leg, side);
        bridge.armed = None;
        let Some(mut transcoder) = bridge.transcoder.take() else { return };
        transcoder.set_effort(self.complexity.into());
        while let Some(encoded) = transcoder.handle_timeout(now) {
            self.counters.transcoded += 1;
            let sent = match side {
                Side::Outward => self.generated_to_leg(id, encoded, now),
                Side::Inward => self.generated_inward(id, encoded, now),
            };
            if let Err(reason) = sent {
                self.counters.drop(reason);
            }
        }
        let stats = transcoder.take_stats();
        self.counters.concealed += stats.concealed;
        self.counters.repaired += stats.repaired;
        self.counters.suppressed += stats.suppressed;
        self.counters.suppression_skipped += stats.suppression_skipped;
        for (reason, count) in
            [(DropReason::PlayoutLate, stats.late), (DropReason::CodecFailed, stats.failed)]
        {
            self.counters.drop_many(reason, count);
        }
        let leg = self.legs.get_mut(&id);
        match (side, leg) {
            (Side::Inward, Some(leg)) => leg.monitor.transcoded(&stats, now),
            (Side::Outward, Some(leg)) => {
                if let Some(FarEnd::Stream(end)) = &mut leg.far {
                    end.monitor.transcoded(&stats, now);
                }
            }
            (_, None) => {}
        }
        self.keep_bridge(id, side, Some(transcoder));
    }

    fn generated_inward(
        &mut self,
        id: LegId,
        encoded: Encoded<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        match &mut leg.far {
            None => Err(DropReason::NotConnected),
            Some(FarEnd::Leg(to)) => {
                let to = *to;
                self.generated_to_leg(to, encoded, now)
            }
            Some(FarEnd::Stream(end)) => {
                let placed = end.outgoing.generate(encoded.units, encoded.first, now);
                let frame = Frame {
                    stream: end.stream.send,
                    sequence: placed.sequence,
                    timestamp: placed.timestamp,
                    marker: placed.fresh,
                    kind: FrameKind::Audio,
                    payload: encoded.payload,
                };
                let key = end.link.clone();
                let link = self.lanes.get_mut(&key).ok_or(DropReason::NotConnected)?;
                let due = link.push(&frame, now)?;
                self.counters.frames_sent += 1;
                if due {
                    self.send_burst(&key, now);
                }
                Ok(())
            }
        }
    }

    fn generated_to_leg(
        &mut self,
        id: LegId,
        encoded: Encoded<'_>,
        now: Instant,
    ) -> Result<(), DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::NotConnected)?;
        let (params, outgoing, dst) = leg.sending()?;
        let payload_type = params.codec.payload_type;
        let placed = outgoing.generate(encoded.units, encoded.first, now);
        let header = Header {
            marker: placed.fresh,
            payload_type,
            sequence: placed.sequence,
            timestamp: placed.timestamp,
            ssrc: outgoing.ssrc,
        };
        self.send_rtp(id, dst, header, encoded.payload)
    }
}

fn side_of(leg: &mut Leg, side: Side) -> &mut Bridge {
    match side {
        Side::Inward => &mut leg.inward,
        Side::Outward => &mut leg.outward,
    }
}

/// Payload type and place of a packet that leaves by a leg.
pub(super) fn depart(
    params: &LegParams,
    outgoing: &mut Outgoing,
    arrival: Arrival,
    same_codec: bool,
    now: Instant,
) -> Result<(u8, Departure), DropReason> {
    let (payload_type, clock_rate) = match arrival.kind {
        Kind::Audio | Kind::Redundant(_) => {
            (params.codec.payload_type, params.codec.codec.clock_rate())
        }
        Kind::Noise => {
            let payload_type = params.comfort_noise.ok_or(DropReason::NoComfortNoise)?;
            (payload_type, params.codec.codec.clock_rate())
        }
        Kind::Event(_) => {
            let event = params.telephone_event.ok_or(DropReason::NoTelephoneEvent)?;
            (event.payload_type, event.clock_rate)
        }
    };
    Ok((payload_type, place(outgoing, arrival, clock_rate, same_codec, now)))
}

fn place(
    outgoing: &mut Outgoing,
    arrival: Arrival,
    clock_rate: u32,
    same_codec: bool,
    now: Instant,
) -> Departure {
    let Arrival { feed, sequence, timestamp, .. } = arrival;
    match arrival.kind {
        Kind::Audio | Kind::Noise | Kind::Redundant(_) => {
            let placed = outgoing.relay(feed, sequence, timestamp, now);
            Departure { placed, marker: arrival.marker || placed.fresh, clocks: None }
        }
        Kind::Event(from) => {
            let at = (sequence, timestamp);
            let placed = if same_codec {
                outgoing.relay_event(feed, at, from == clock_rate, now)
            } else {
                outgoing.generate_event(timestamp, now)
            };
            Departure { placed, marker: arrival.marker, clocks: Some((from, clock_rate)) }
        }
    }
}

/// The payload of an event in the clock it leaves by; `event` holds it if it had to change.
fn converted<'a>(
    payload: &'a [u8],
    clocks: Option<(u32, u32)>,
    event: &'a mut [u8; 4],
) -> &'a [u8] {
    match (clocks, payload.first_chunk::<4>()) {
        (Some((from, to)), Some(first)) if from != to => {
            *event = *first;
            telephone_event::convert_clock(event, from, to);
            event
        }
        _ => payload,
    }
}

/// Gives a packet to the transcoder between two formats, making it if there is none.
fn bridge_push(
    bridge: &mut Option<Box<Transcoder>>,
    arrival: Arrival,
    (to, effort): (&Format, Effort),
    payload: &[u8],
    now: Instant,
) -> Result<(), DropReason> {
    let (from, is_noisy) = (arrival.codec, arrival.is_noisy);
    if !bridge.as_ref().is_some_and(|transcoder| transcoder.fits(from, to, is_noisy)) {
        let transcoder =
            Transcoder::new(from, to, effort, is_noisy).map_err(|_| DropReason::CodecFailed)?;
        *bridge = Some(Box::new(transcoder));
    }
    match bridge {
        Some(transcoder) if arrival.kind == Kind::Noise => {
            transcoder.push_noise(arrival.timestamp, payload, now)
        }
        Some(transcoder) => {
            if arrival.has_copies {
                transcoder.expect_copies();
            }
            transcoder.push((arrival.timestamp, arrival.is_copy), payload, now)
        }
        None => Err(DropReason::CodecFailed),
    }
}
