//! Packets on the one media port that all legs share: found by [`demux`](super::demux), then as
//! if they had come to a port of the leg.

use std::net::SocketAddr;

use proto::id::LegId;
use proto::time::Instant;

use super::demux::Owner;
use super::{DropReason, Media, Received, Timer, Verdict};
use crate::rtp::is_rtcp;

/// The SSRC of an RTP packet (RFC 3550 §5.1), of the sender of an RTCP packet (§6.4).
fn ssrc(packet: &[u8], at: usize) -> Option<u32> {
    packet.get(at..)?.first_chunk().map(|bytes| u32::from_be_bytes(*bytes))
}

impl Media {
    /// A packet on the shared RTP port; on `Forward` it was rewritten in place.
    pub fn handle_shared_rtp<'a>(
        &mut self,
        source: SocketAddr,
        packet: impl Into<Received<'a>>,
        now: Instant,
    ) -> Verdict {
        let packet = packet.into();
        if is_rtcp(packet.packet()) {
            self.handle_shared_rtcp(source, packet.packet(), now);
            return Verdict::Consumed;
        }
        let Some(ssrc) = ssrc(packet.packet(), 8) else {
            return self.refuse(DropReason::MalformedRtp);
        };
        if let Some(Owner { leg, heard }) = self.demux.known(source, ssrc) {
            let verdict = self.handle_rtp(leg, source, packet, now);
            if !heard {
                self.hear(leg, source, ssrc);
            }
            return verdict;
        }
        let trusts = |leg| self.legs.get(&leg).is_some_and(|leg| leg.latch.may_be_at(source.ip()));
        match self.demux.new_stream((source, ssrc), trusts, now) {
            Err(reason) => self.refuse(reason),
            Ok(leg) => {
                let verdict = self.handle_rtp(leg, source, packet, now);
                self.hear(leg, source, ssrc);
                verdict
            }
        }
    }

    /// The stream is the leg's from now on, if the leg took its packet.
    fn hear(&mut self, id: LegId, source: SocketAddr, ssrc: u32) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let taken = leg.latch.current() == Some(source)
            && leg.reception.source().is_some_and(|(heard, _)| heard == ssrc);
        if taken {
            self.demux.heard(id, source, ssrc);
            if leg.look.is_none() {
                leg.look = leg.silent_at();
                self.timers.extend(leg.look.map(|at| (at, id, Timer::Silence)));
            }
        }
    }

    /// A leg that is silent for so long that its peer may have moved waits for a stream again.
    pub(super) fn look_for_silence(&mut self, id: LegId, now: Instant) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.look = leg.silent_at().filter(|at| *at > now);
        match leg.look {
            Some(at) => drop(self.timers.insert((at, id, Timer::Silence))),
            None => self.demux.wait_again(id),
        }
    }

    /// A packet on the shared RTCP port.
    pub fn handle_shared_rtcp(&mut self, source: SocketAddr, packet: &[u8], now: Instant) {
        let leg = match ssrc(packet, 4) {
            Some(ssrc) => self.demux.rtcp(source, ssrc),
            None => Err(DropReason::MalformedRtcp),
        };
        match leg {
            Ok(leg) => self.handle_rtcp(leg, source, packet, now),
            Err(reason) => {
                self.counters.rtcp_received += 1;
                self.counters.drop(reason);
            }
        }
    }

    fn refuse(&mut self, reason: DropReason) -> Verdict {
        self.counters.rtp_received += 1;
        self.counters.drop(reason);
        Verdict::Drop(reason)
    }
}
