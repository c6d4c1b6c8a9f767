//! Redundant audio from a leg (RFC 2198): copies take the place of packets that were lost, and what
//! goes on is a packet as any other.

use std::ops::Range;

use proto::id::LegId;
use proto::time::Instant;

use super::leg::FarEnd;
use super::relay::{Arrival, depart};
use super::{DropReason, Media, Received, Verdict};
use crate::codec::Codec;
use crate::rtp::Header;
use crate::rtp::red::{Block, Blocks};

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
        if let Some(transcoder) = &mut leg.inward.transcoder {
            transcoder.expect_copies();
        }
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
        if far.codec() != Some(arrival.codec) {
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
