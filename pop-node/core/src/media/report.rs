//! RTCP of the legs (RFC 3550 §6): it ends here, each side gets our own.

use std::net::SocketAddr;

use bytes::BytesMut;
use proto::id::LegId;
use proto::time::{Duration, Instant};

use super::leg::{FarEnd, Leg, StreamEnd};
use super::monitor::{self, Surroundings};
use super::quality::{Band, PathQuality, SCALE_WIDE};
use super::{
    DropReason, HeardReport, Media, MediaEvent, MediaTransmit, QualityReport, REPORT_INTERVAL,
    Rated, StreamReport,
};
use crate::codec::Codec;
use crate::rtp::rtcp::{self, ReportBlock, Rtcp, SenderInfo};
use crate::rtp::xr::{self, VoipMetrics};
use crate::srtp::SrtpError;

/// NTP format of a time (RFC 3550 §4). We have no wall clock; any steady one will do there.
fn ntp(now: Instant) -> u64 {
    let nanos = now.as_nanos();
    ((nanos / 1_000_000_000) << 32) | (((nanos % 1_000_000_000) << 32) / 1_000_000_000)
}

#[allow(clippy::cast_possible_truncation, reason = "the middle 32 bits are what is meant")]
fn middle(ntp: u64) -> u32 {
    (ntp >> 16) as u32
}

/// Why SRTCP was not opened.
fn of_rtcp(error: SrtpError) -> DropReason {
    match error {
        SrtpError::Malformed => DropReason::MalformedRtcp,
        SrtpError::Replayed => DropReason::SrtcpReplayed,
        SrtpError::Tag => DropReason::SrtcpTag,
        other => DropReason::from(other),
    }
}

impl Media {
    /// A packet on a leg's RTCP socket.
    pub fn handle_rtcp(&mut self, leg: LegId, source: SocketAddr, packet: &[u8], now: Instant) {
        self.counters.rtcp_received += 1;
        if let Err(reason) = self.receive_rtcp(leg, source, packet, now) {
            self.counters.drop(reason);
        }
    }

    fn receive_rtcp(
        &mut self,
        id: LegId,
        source: SocketAddr,
        packet: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let leg = self.legs.get_mut(&id).ok_or(DropReason::UnknownLeg)?;
        let signaled = leg.params.as_ref().and_then(|p| p.remote_rtcp);
        let peer = leg.latch.current().map(|current| current.ip());
        if signaled != Some(source) && peer != Some(source.ip()) {
            return Err(DropReason::WrongSource);
        }
        // Strangers do not use up what the peer may say.
        if !leg.feedback.allows(now) {
            return Err(DropReason::RtcpFlood);
        }
        let opened;
        let packet = match leg.secure.get() {
            None => packet,
            Some(secure) => {
                opened = secure.open_rtcp(packet, now).map_err(of_rtcp)?;
                self.counters.srtcp_opened += 1;
                &opened[..]
            }
        };
        let packets = rtcp::parse(packet).map_err(|_| DropReason::MalformedRtcp)?;
        leg.feedback.address = Some(source);
        let mut lost = None;
        for packet in packets {
            let ours = leg.outgoing.ssrc;
            match packet {
                Rtcp::Report { ssrc, sender, blocks } => {
                    let is_peer = leg.reception.source().is_none_or(|(source, _)| source == ssrc);
                    if let Some(sender) = sender.filter(|_| is_peer) {
                        leg.feedback.sender_report = Some((middle(sender.ntp), now));
                    }
                    for block in blocks.iter().filter(|block| block.ssrc == ours) {
                        feedback(leg, block, now);
                        lost = Some(block.fraction_lost);
                    }
                }
                Rtcp::Extended { voip: Some(voip), .. } if voip.ssrc == ours => {
                    leg.feedback.voip = Some(*voip);
                }
                Rtcp::Extended { .. } | Rtcp::Bye { .. } | Rtcp::Other(_) => {}
            }
        }
        if let Some(fraction) = lost {
            leg.feedback.fraction = Some((fraction, now));
            self.expect_loss(id, fraction);
        }
        Ok(())
    }

    /// Tells who encodes for a leg that its peer loses so much, in 1/256.
    fn expect_loss(&mut self, id: LegId, fraction: u8) {
        let percent = u8::try_from((u32::from(fraction) * 100).div_ceil(256)).unwrap_or(100);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let far = match leg.far {
            Some(FarEnd::Leg(far)) => far,
            Some(FarEnd::Stream(_)) => {
                if let Some(transcoder) = &mut leg.outward.transcoder {
                    transcoder.expect_loss(percent);
                }
                return;
            }
            None => return,
        };
        let far = self.legs.get_mut(&far).and_then(|leg| leg.inward.transcoder.as_mut());
        if let Some(transcoder) = far {
            transcoder.expect_loss(percent);
        }
    }

    /// Tells the POP that a relayed stream comes from what is lost of it: on the hop, and of it what
    /// the peer of the leg says it lost. Whoever encodes there makes copies accordingly.
    pub(super) fn tell_loss(&mut self, id: LegId, now: Instant) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some(FarEnd::Stream(end)) = &mut leg.far else { return };
        // What is decoded here is encoded here, too.
        if end.stream.codec != Codec::Opus || leg.outward.transcoder.is_some() {
            return;
        }
        let fresh = leg.feedback.fraction.filter(|(_, said)| now - *said < REPORT_INTERVAL * 3);
        let peer = fresh.map_or(0.0, |(fraction, _)| f64::from(fraction) / 256.0);
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let hop = end
            .monitor
            .point
            .map_or(0.0, |point| point.lost as f64 / (point.lost + point.received).max(1) as f64);
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 100")]
        let percent = ((1.0 - (1.0 - hop) * (1.0 - peer)) * 100.0).ceil().clamp(0.0, 100.0) as u8;
        let is_news =
            percent.abs_diff(end.told_loss) >= LOSS_STEP || (percent == 0) != (end.told_loss == 0);
        if is_news {
            end.told_loss = percent;
            self.events.push(MediaEvent::Lossy { leg: id, percent });
        }
    }

    /// Ends the 5 s of a leg and of its stream, and says what all came to so far.
    pub(super) fn end_point(&mut self, id: LegId, now: Instant) -> Option<Box<QualityReport>> {
        let leg = self.legs.get_mut(&id)?;
        let silence = leg.silence(now);
        let cause = silence.map(|(_, cause)| cause);
        let around = leg.surroundings();
        leg.monitor.end_point(&mut leg.reception, &around, cause, now);
        if leg.monitor.is_news(cause)
            && let Some((since, cause)) = silence
        {
            self.counters.silence(cause);
            self.events.push(MediaEvent::Silent { leg: id, since, cause });
        }
        let mut report = leg.quality();
        let round_trip = match &leg.far {
            Some(FarEnd::Stream(end)) => self.links.get(&end.stream.peer),
            Some(FarEnd::Leg(_)) | None => None,
        };
        let round_trip = round_trip.and_then(|link| link.round_trip);
        report.stream = end_stream_point(leg, round_trip, now);
        report.heard = self.heard(id);
        let points = [
            (Rated::Leg, report.point),
            (Rated::Stream, report.stream.as_ref().and_then(|s| s.point)),
        ];
        for (of, point) in points {
            if let Some(mos) = point.and_then(|point| point.mos) {
                self.counters.rate(of, mos);
            }
        }
        self.counters.lost += report.point.map_or(0, |point| point.lost);
        if let Some(heard) = report.heard.filter(|_| report.point.is_some_and(|p| p.received > 0)) {
            self.counters.rate(Rated::Call, heard.mos);
        }
        Some(Box::new(report))
    }

    /// What the peer of a leg hears: what the leg's far side received and we sent on, less what the
    /// peer says it lost of it.
    pub(super) fn heard(&self, id: LegId) -> Option<HeardReport> {
        let leg = self.legs.get(&id)?;
        let (remote_lost, sent) = (leg.feedback.lost?, leg.outgoing.packets);
        let (around, totals, (late, recovered), jitter) = match leg.far.as_ref()? {
            FarEnd::Leg(far) => {
                let far = self.legs.get(far)?;
                let (totals, jitter) = (far.reception.totals(), far.reception.jitter());
                let fixed = (far.monitor.late, far.monitor.frames.recovered);
                (far.surroundings(), totals, fixed, jitter)
            }
            FarEnd::Stream(end) => {
                let (totals, jitter) = (end.reception.totals(), end.reception.jitter());
                let round_trip = self.links.get(&end.stream.peer).and_then(|l| l.round_trip);
                let around = stream_surroundings(leg, end, round_trip);
                (around, totals, (end.monitor.late, 0), jitter)
            }
        };
        #[allow(clippy::cast_precision_loss, reason = "a ratio")]
        let lost_after = match leg.feedback.voip {
            // Discarded is as good as lost.
            Some(voip) => f64::from(voip.loss_rate) / 256.0 + f64::from(voip.discard_rate) / 256.0,
            None => remote_lost as f64 / sent.max(1) as f64,
        };
        let lost_after = lost_after.min(1.0);
        let loss = 1.0 - (1.0 - monitor::loss(totals, late, recovered)) * (1.0 - lost_after);
        let onward = leg.feedback.round_trip.unwrap_or_default() / 2;
        let jitter = jitter.max(leg.feedback.jitter.unwrap_or_default());
        let playout = PLAYOUT_MIN.max(jitter * 2);
        let narrow = leg.codec().map_or(Band::Narrow, Band::of);
        let band = if narrow == Band::Narrow { narrow } else { around.band };
        let delay = around.delay() + onward + playout;
        let path = PathQuality::of(around.codec, band, delay, loss);
        let path = PathQuality { burst_ratio: totals.burst_ratio(), ..path };
        Some(HeardReport { loss, delay, r_factor: path.r_factor(), mos: path.mos() })
    }

    /// The regular report, or the last one with BYE.
    pub(super) fn send_rtcp(&mut self, id: LegId, bye: bool, now: Instant) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        let Some((dst, mux)) = leg.rtcp_remote() else { return };
        let mut bytes = compound(leg, &self.config.cname, bye, now);
        if let Some(secure) = leg.secure.get() {
            if let Err(reason) = secure.protect(&mut bytes, true) {
                return self.counters.drop(reason);
            }
            self.counters.srtcp_protected += 1;
        }
        self.counters.rtcp_sent += 1;
        self.transmit(MediaTransmit::Rtcp { leg: id, dst, mux, bytes: bytes.freeze() });
    }
}

/// Percent by which loss must have changed to be worth telling.
const LOSS_STEP: u8 = 2;

/// What our playout buffer waits at most.
const PLAYOUT_MAX_MS: u16 = 200;

/// What a phone's playout buffer is taken to hold at least.
const PLAYOUT_MIN: Duration = Duration::from_millis(20);

/// `round_trip`: of the path between the POPs.
fn stream_surroundings(leg: &Leg, end: &StreamEnd, round_trip: Option<Duration>) -> Surroundings {
    let transcoder = leg.outward.transcoder.as_ref();
    let codec = end.stream.codec;
    Surroundings {
        codec,
        band: transcoder.map_or(Band::of(codec), |transcoder| transcoder.band()),
        round_trip,
        playout: transcoder.map_or(Duration::ZERO, |transcoder| transcoder.delay()),
    }
}

fn end_stream_point(
    leg: &mut Leg,
    round_trip: Option<Duration>,
    now: Instant,
) -> Option<StreamReport> {
    let Some(FarEnd::Stream(end)) = &leg.far else { return None };
    let around = stream_surroundings(leg, end, round_trip);
    let Some(FarEnd::Stream(end)) = &mut leg.far else { return None };
    let StreamEnd { reception, monitor, stream, .. } = &mut **end;
    monitor.end_point(reception, &around, None, now);
    let (totals, jitter) = (reception.totals(), reception.jitter());
    let path = around.rate(monitor::loss(totals, monitor.late, 0), totals.burst_ratio(), jitter);
    Some(StreamReport {
        peer: stream.peer.clone(),
        received: totals.received,
        lost: totals.lost(),
        late: monitor.late,
        burst_ratio: totals.burst_ratio(),
        jitter,
        played: monitor.frames.played,
        concealed: monitor.frames.concealed,
        r_factor: path.r_factor(),
        mos: path.mos(),
        point: monitor.point,
        summary: monitor.summary.clone(),
    })
}

/// What the peer says of what we send.
fn feedback(leg: &mut Leg, block: &ReportBlock, now: Instant) {
    leg.feedback.lost = Some(u64::try_from(block.cumulative_lost).unwrap_or(0));
    let rate = u64::from(leg.outgoing.clock_rate().max(1));
    leg.feedback.jitter = Some(Duration::from_micros(u64::from(block.jitter) * 1_000_000 / rate));
    if block.last_sr != 0 {
        let elapsed = middle(ntp(now))
            .wrapping_sub(block.last_sr)
            .wrapping_sub(block.delay_since_last_sr)
            .cast_signed();
        // Negative by rounding, or a peer that cannot count.
        let micros = (u64::from(elapsed.max(0).unsigned_abs()) * 1_000_000) >> 16;
        if micros < 30_000_000 {
            leg.feedback.round_trip = Some(Duration::from_micros(micros));
        }
    }
}

/// What we say of the peer's voice.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "scaled to the fields of the block"
)]
fn voip_metrics(leg: &Leg, ssrc: u32) -> VoipMetrics {
    let report = leg.quality();
    let bursts = leg.reception.bursts();
    let expected = leg.reception.expected().max(1) as f64;
    let share = |part: u64| (part as f64 / expected * 256.0).min(255.0) as u8;
    let ms = |time: Duration| u16::try_from(time.as_millis()).unwrap_or(u16::MAX);
    // 20 ms each, as nearly all packets are.
    let packets = |n: u64| u16::try_from(n.saturating_mul(20)).unwrap_or(u16::MAX);
    let narrow = match report.band {
        Band::Narrow => report.r_factor,
        Band::Wide => report.r_factor / SCALE_WIDE,
    };
    let listening = PathQuality { delay: Duration::ZERO, ..leg.path() };
    let tenths = |mos: f64| (mos * 10.0).round().clamp(10.0, 50.0) as u8;
    VoipMetrics {
        ssrc,
        loss_rate: share(report.lost),
        discard_rate: share(report.late),
        burst_density: bursts.burst_density,
        gap_density: bursts.gap_density,
        burst_ms: packets(bursts.burst_packets),
        gap_ms: packets(bursts.gap_packets),
        round_trip_ms: report.round_trip.map_or(0, ms),
        end_system_ms: ms(report.playout_delay),
        // 0 dBm0 is 3.14 dB below a sine of full scale, and that 3 dB below full scale.
        signal_dbm0: report.level.map(|level| (level.rms_dbov + 6.15).clamp(-100.0, 0.0) as i8),
        r_factor: Some(narrow.clamp(0.0, 100.0) as u8),
        mos_lq: Some(tenths(listening.mos())),
        mos_cq: Some(tenths(report.mos)),
        playout_ms: ms(report.playout_delay),
        playout_max_ms: PLAYOUT_MAX_MS,
    }
}

fn compound(leg: &mut Leg, cname: &str, bye: bool, now: Instant) -> BytesMut {
    let sent = leg.outgoing.packets;
    #[allow(clippy::cast_possible_truncation, reason = "the counts wrap at 32 bits")]
    let sender = (sent != leg.reported_packets).then(|| SenderInfo {
        ntp: ntp(now),
        rtp_timestamp: leg.outgoing.time(now),
        packets: sent as u32,
        octets: leg.outgoing.octets as u32,
    });
    leg.reported_packets = sent;
    let block = leg.reception.source().map(|(ssrc, highest_sequence)| {
        let interval = leg.reception.interval();
        let (last_sr, delay) = leg.feedback.sender_report.map_or((0, 0), |(middle, at)| {
            let delay = (now - at).as_micros() * 65_536 / 1_000_000;
            (middle, u32::try_from(delay).unwrap_or(u32::MAX))
        });
        ReportBlock {
            ssrc,
            fraction_lost: interval.fraction_lost(),
            cumulative_lost: i32::try_from(leg.reception.lost()).unwrap_or(i32::MAX),
            highest_sequence,
            jitter: leg.reception.jitter_units(),
            last_sr,
            delay_since_last_sr: delay,
        }
    });
    let mut bytes = BytesMut::with_capacity(160);
    rtcp::write_report(&mut bytes, leg.outgoing.ssrc, sender, block);
    rtcp::write_cname(&mut bytes, leg.outgoing.ssrc, cname);
    if let (true, Some(block)) = (leg.params.as_ref().is_some_and(|p| p.rtcp_xr), block) {
        let voip = voip_metrics(leg, block.ssrc);
        xr::write_voip_metrics(&mut bytes, leg.outgoing.ssrc, &voip);
    }
    if bye {
        rtcp::write_bye(&mut bytes, leg.outgoing.ssrc);
    }
    bytes
}
