//! Redundant audio of a leg (RFC 2198). What comes: copies take the place of packets that were lost,
//! and what goes on is a packet as any other. What leaves, where the trunk asks for it: each packet
//! with a copy of the one before.

use std::ops::Range;

use proto::id::LegId;
use proto::time::Instant;

use super::leg::FarEnd;
use super::relay::{Arrival, depart};
use super::{DropReason, LegParams, Media, Received, Verdict};
use crate::codec::Codec;
use crate::rtp::Header;
use crate::rtp::red::{self, Block, Blocks};

/// Audio is sent twice only up to this bit rate: a peer that was asked for less and sends more shall
/// not cost double.
const COPIED_BITRATE_MAX: usize = 16_000;

/// The packet of audio before, on its way out.
#[derive(Debug, Default)]
pub(super) struct Before {
    sequence: u16,
    timestamp: u32,
    /// Empty: there is none.
    payload: Vec<u8>,
    /// A payload with its copy, to be sent.
    joined: Vec<u8>,
}

impl Before {
    /// The packet as it leaves: with a copy of the one right before it. What begins a talkspurt has
    /// none, and what is no audio (a telephone event) stays as it is.
    pub(super) fn join<'a>(
        &'a mut self,
        params: &LegParams,
        header: Header,
        payload: &'a [u8],
    ) -> (Header, &'a [u8]) {
        let format = &params.codec;
        let Some(redundant) = params.sent_redundant() else { return (header, payload) };
        if header.payload_type != format.payload_type {
            return (header, payload);
        }
        let age = header.timestamp.wrapping_sub(self.timestamp);
        let follows = header.sequence == self.sequence.wrapping_add(1) && !header.marker;
        let is_cheap = self.payload.len() * 8 * format.codec.clock_rate() as usize
            <= COPIED_BITRATE_MAX * age as usize;
        let copy = Some((age, &self.payload[..]));
        let copy = copy.filter(|(_, copy)| follows && is_cheap && !copy.is_empty());
        let header = Header { payload_type: redundant, ..header };
        self.joined.clear();
        // Also without a copy: who plays it knows from the first packet that copies will come.
        red::write(&mut self.joined, format.payload_type, copy.into_iter(), payload);
        (self.sequence, self.timestamp) = (header.sequence, header.timestamp);
        self.payload.clear();
        self.payload.extend_from_slice(payload);
        (header, &self.joined)
    }
}

impl Media {
    /// A packet with copies, `missing` packets after the one before it.
    pub(super) fn receive_redundant(
        &mut self,
        id: LegId,
        arrival: Arrival,
        missing: u16,
        (mut received, payload): (Received<'_>, Range<usize>),
        now: Instant,
    ) -> Result<Verdict, DropReason> {
        let bytes = received.packet().get(payload.clone()).unwrap_or_default();
        let blocks = Blocks::parse(bytes).map_err(|_| DropReason::MalformedRedundancy)?;
        let newest = blocks.newest().ok_or(DropReason::MalformedRedundancy)?;
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        let format = leg.params.as_ref().map(|params| params.codec.payload_type);
        let ours = arrival.codec.offered_payload_type();
        let is_audio =
            |block: &Block| Some(block.payload_type) == format || block.payload_type == ours;
        if !is_audio(newest) {
            return Err(DropReason::UnknownPayloadType);
        }
        let copies = blocks.copies().iter().filter(|copy| is_audio(copy));
        let unit = unit(arrival.codec, &blocks);
        for copy in copies {
            let before = u16::try_from(u32::from(copy.age) / unit).unwrap_or(0);
            let fits = u32::from(copy.age) % unit == 0 && (1..=missing).contains(&before);
            let audio = bytes.get(copy.range.clone()).filter(|audio| fits && !audio.is_empty());
            if let Some(audio) = audio {
                let arrival = Arrival {
                    sequence: arrival.sequence.wrapping_sub(before),
                    timestamp: arrival.timestamp.wrapping_sub(u32::from(copy.age)),
                    marker: false,
                    is_copy: true,
                    ..arrival
                };
                self.recover(id, arrival, audio, now)?;
            }
        }
        if newest.range.is_empty() {
            return Ok(Verdict::Consumed);
        }
        let part = payload.start + newest.range.start..payload.start + newest.range.end;
        let payload = payload.start..payload.start + part.len();
        received.keep(payload.start, part);
        let leg = self.legs.get(&id).ok_or(DropReason::UnknownLeg)?;
        match &leg.far {
            None => Err(DropReason::NotConnected),
            Some(FarEnd::Leg(to)) => {
                self.relay_to_leg((id, *to), arrival, (received, payload), now)
            }
            Some(FarEnd::Stream(_)) => {
                let audio = received.packet().get(payload).unwrap_or_default();
                self.relay_to_stream(id, arrival, audio, now)?;
                Ok(Verdict::Consumed)
            }
        }
    }

    /// Sends a copy on in place of the packet that was lost.
    fn recover(
        &mut self,
        id: LegId,
        arrival: Arrival,
        audio: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        leg.monitor.frames.recovered += 1;
        self.counters.repaired += 1;
        let to = match &leg.far {
            None => return Err(DropReason::NotConnected),
            Some(FarEnd::Stream(_)) => return self.relay_to_stream(id, arrival, audio, now),
            Some(FarEnd::Leg(to)) => *to,
        };
        let far = self.legs.get_mut(&to).ok_or(DropReason::NotConnected)?;
        if far.codec() != Some(arrival.codec) || arrival.is_noisy {
            return self.bridge_to_leg(id, to, arrival, audio, now);
        }
        let (params, outgoing, dst) = far.sending()?;
        let (payload_type, departure) = depart(params, outgoing, arrival, true, now)?;
        let header = Header {
            marker: departure.marker,
            payload_type,
            sequence: departure.placed.sequence,
            timestamp: departure.placed.timestamp,
            ssrc: outgoing.ssrc,
        };
        self.send_rtp(to, dst, header, audio)
    }
}

/// How long a packet lasts, in units of the clock: what copies are older by, or multiples of it.
fn unit(codec: Codec, blocks: &Blocks) -> u32 {
    let newest = blocks.newest().map_or(0, |newest| newest.range.len());
    let units = match codec {
        // All of these have a byte per unit.
        Codec::Pcmu | Codec::Pcma | Codec::G722 => u32::try_from(newest).unwrap_or(0),
        Codec::Opus => blocks.copies().iter().map(|copy| u32::from(copy.age)).min().unwrap_or(0),
    };
    units.max(1)
}
