//! One leg: its peer's address, what it receives, what it sends, and to what it is joined.

use std::net::SocketAddr;

use proto::id::LegId;
use proto::time::{Duration, Instant};

use super::latch::{Latch, SILENCE, Source};
use super::measure::SilenceCause;
use super::monitor::{Monitor, Surroundings, loss};
use super::outgoing::Outgoing;
use super::quality::{Band, PathQuality};
use super::redundancy::Before;
use super::secure::Security;
use super::transcode::Transcoder;
use super::{DropReason, Events, Format, LegParams, LinkKey, MediaEvent, QualityReport, Stream};
use crate::codec::{COMFORT_NOISE, Codec};
use crate::rtp::xr::VoipMetrics;
use crate::rtp::{Header, Reception};

/// What the payload type says a packet is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Audio,
    /// A telephone event, timed by this clock.
    Event(u32),
    /// A description of comfort noise (RFC 3389).
    Noise,
    /// Audio with copies of audio before it (RFC 2198), and how many packets before it are missing.
    Redundant(u16),
}

impl Kind {
    /// Does a transcoder make something of it?
    pub(super) const fn is_bridged(self) -> bool {
        matches!(self, Self::Audio | Self::Noise)
    }
}

/// What a leg is joined to.
#[derive(Debug)]
pub(super) enum FarEnd {
    Leg(LegId),
    Stream(Box<StreamEnd>),
}

/// The stream a leg sends to another POP.
#[derive(Debug)]
pub(super) struct StreamEnd {
    pub(super) stream: Stream,
    /// What we encode for it.
    pub(super) format: Format,
    pub(super) outgoing: Outgoing,
    /// What comes from there.
    pub(super) reception: Reception,
    pub(super) monitor: Monitor,
    /// Percent of what we send that the far POP says are lost, and what we last told it.
    pub(super) expected_loss: u8,
    pub(super) told_loss: u8,
    /// Where its frames gather.
    pub(super) link: LinkKey,
}

/// A transcoder and the time it is armed for.
#[derive(Debug, Default)]
pub(super) struct Bridge {
    pub(super) transcoder: Option<Box<Transcoder>>,
    pub(super) armed: Option<Instant>,
}

/// What RTCP told us, and when (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Feedback {
    pub(super) address: Option<SocketAddr>,
    /// Middle bits of the peer's NTP time and when that report came.
    pub(super) sender_report: Option<(u32, Instant)>,
    pub(super) lost: Option<u64>,
    /// Share of late, in 1/256, and when that was said.
    pub(super) fraction: Option<(u8, Instant)>,
    pub(super) jitter: Option<Duration>,
    pub(super) round_trip: Option<Duration>,
    /// What the peer says of our voice (RFC 3611).
    pub(super) voip: Option<VoipMetrics>,
    /// The present second's begin and the packets taken in it.
    second: Option<(Instant, u32)>,
}

/// RTCP packets of a leg in a second: RFC 3550 §6.2 has one in five, feedback (RFC 4585) a few more.
const RTCP_PER_SECOND_MAX: u32 = 20;

impl Feedback {
    /// May one more packet be read? A storm costs no more than this.
    pub(super) fn allows(&mut self, now: Instant) -> bool {
        let fresh = |(begin, _): &(Instant, u32)| now - *begin < Duration::from_secs(1);
        let (begin, count) = self.second.filter(fresh).unwrap_or((now, 0));
        self.second = Some((begin, count.saturating_add(1)));
        count < RTCP_PER_SECOND_MAX
    }
}

#[derive(Debug)]
pub(super) struct Leg {
    pub(super) params: Option<LegParams>,
    pub(super) latch: Latch,
    pub(super) reception: Reception,
    pub(super) outgoing: Outgoing,
    pub(super) far: Option<FarEnd>,
    /// Counts connections, so that a stream knows a new feed from an old one.
    pub(super) connection: u64,
    /// From this leg to its far side.
    pub(super) inward: Bridge,
    /// From the overlay to this leg.
    pub(super) outward: Bridge,
    pub(super) feedback: Feedback,
    pub(super) secure: Security,
    /// What is sent again with the next packet, where that was agreed on.
    pub(super) before: Option<Box<Before>>,
    pub(super) monitor: Monitor,
    /// When the last packet came, or the peer was first allowed to send.
    heard: Option<Instant>,
    /// Packets sent at the last sender report.
    pub(super) reported_packets: u64,
    /// When the next report is due.
    pub(super) report: Instant,
    /// When the shared port asks whether the peer is still heard.
    pub(super) look: Option<Instant>,
}

impl Leg {
    pub(super) fn new(outgoing: Outgoing, report: Instant, now: Instant) -> Self {
        Self {
            params: None,
            latch: Latch::default(),
            reception: Reception::default(),
            outgoing,
            far: None,
            connection: 0,
            inward: Bridge::default(),
            outward: Bridge::default(),
            feedback: Feedback::default(),
            secure: Security::default(),
            before: None,
            monitor: Monitor::begin(now),
            heard: None,
            reported_packets: 0,
            report,
            look: None,
        }
    }

    /// When the peer may have moved, if nothing more comes of it.
    pub(super) fn silent_at(&self) -> Option<Instant> {
        self.heard.map(|heard| heard + SILENCE + Duration::from_nanos(1))
    }

    pub(super) fn set(&mut self, params: &LegParams, now: Instant) {
        let received = self.params.as_ref().is_some_and(|p| p.direction.receives());
        if !received && params.direction.receives() {
            self.heard = Some(now);
        }
        self.latch.signal(params.remote_rtp, &params.trusted);
        self.outgoing.set_clock_rate(params.codec.codec.clock_rate());
        self.feedback.address = None;
        self.secure.agree(params.srtp.as_deref(), now);
        let copies = params.sent_redundant().is_some();
        self.before = copies.then(|| self.before.take().unwrap_or_default());
        self.params = Some(params.clone());
    }

    pub(super) fn codec(&self) -> Option<Codec> {
        self.params.as_ref().map(|p| p.codec.codec)
    }

    /// Checks and counts a packet from the peer. Says what it is, and if its source is the same
    /// as before.
    pub(super) fn receive(
        &mut self,
        id: LegId,
        source: SocketAddr,
        header: &Header,
        events: &mut Events,
        now: Instant,
    ) -> Result<(Kind, bool), DropReason> {
        let params = self.params.as_ref().ok_or(DropReason::NotConnected)?;
        // An answer may name other numbers than our offer; what comes has ours (RFC 3264 §6.1).
        let is_event = |event: u8| {
            [Some(event), params.offered_telephone_event].contains(&Some(header.payload_type))
        };
        let is_noise = header.payload_type == COMFORT_NOISE && params.codec.codec != Codec::Opus;
        let kind = match params.telephone_event {
            _ if header.payload_type == params.codec.payload_type => Kind::Audio,
            Some(event) if is_event(event.payload_type) => Kind::Event(event.clock_rate),
            _ if header.payload_type == params.codec.codec.offered_payload_type() => Kind::Audio,
            _ if is_noise => Kind::Noise,
            _ if params.is_redundant(header.payload_type) => {
                Kind::Redundant(self.reception.missing_before(header.ssrc, header.sequence))
            }
            _ => {
                self.monitor.codec_mismatch = Some(now);
                return Err(DropReason::UnknownPayloadType);
            }
        };
        if !params.direction.receives() {
            return Err(DropReason::NotReceiving);
        }
        match self.latch.packet(source, now) {
            Source::Known => {}
            Source::Moved => events.push(MediaEvent::Latched { leg: id, remote: source }),
            Source::Refused => {
                self.monitor.wrong_source = Some(now);
                return Err(DropReason::WrongSource);
            }
        }
        if self.reception.received() == 0 {
            events.push(MediaEvent::FirstPacket { leg: id });
        }
        self.heard = Some(now);
        let same = self.reception.packet(header.ssrc, header.sequence);
        if !matches!(kind, Kind::Event(_)) {
            self.reception.arrival(header.timestamp, params.codec.codec.clock_rate(), now);
        }
        Ok((kind, same))
    }

    /// Opens a packet from the peer, if its media is protected; gives its length.
    pub(super) fn open(
        &mut self,
        source: SocketAddr,
        packet: &mut [u8],
        now: Instant,
    ) -> Result<usize, DropReason> {
        let Some(secure) = self.secure.get() else { return Ok(packet.len()) };
        // Strangers shall not cost us a tag each.
        if !self.latch.may_be_at(source.ip()) {
            return Err(DropReason::WrongSource);
        }
        Ok(secure.open(packet, now)?)
    }

    /// Protects a packet for the peer, if its media is; gives its length.
    pub(super) fn protect(
        &mut self,
        buffer: &mut [u8],
        length: usize,
    ) -> Result<usize, DropReason> {
        let Some(secure) = self.secure.get() else { return Ok(length) };
        Ok(secure.protect_in_place(buffer, length)?)
    }

    /// What it takes to send RTP to the peer.
    pub(super) fn sending(
        &mut self,
    ) -> Result<(&LegParams, &mut Outgoing, SocketAddr), DropReason> {
        let params = self.params.as_ref().ok_or(DropReason::NotConnected)?;
        if !params.direction.sends() {
            return Err(DropReason::NotSending);
        }
        let remote = self.latch.current().ok_or(DropReason::NoRemote)?;
        Ok((params, &mut self.outgoing, remote))
    }

    /// Where RTCP goes, and if from the RTP port.
    pub(super) fn rtcp_remote(&self) -> Option<(SocketAddr, bool)> {
        let params = self.params.as_ref()?;
        let rtp = self.latch.current()?;
        if params.rtcp_mux {
            return Some((rtp, true));
        }
        let next = SocketAddr::new(rtp.ip(), rtp.port().checked_add(1)?);
        let signaled = params.remote_rtcp.filter(|_| self.latch.is_as_signaled());
        Some((self.feedback.address.or(signaled).unwrap_or(next), false))
    }

    /// Since when and why nothing is heard from the peer, if for long.
    pub(super) fn silence(&self, now: Instant) -> Option<(Instant, SilenceCause)> {
        let receives = self.params.as_ref().is_some_and(|p| p.direction.receives());
        self.monitor.silence(self.heard.filter(|_| receives)?, now)
    }

    /// What the rating of what the leg receives depends on.
    pub(super) fn surroundings(&self) -> Surroundings {
        let codec = self.codec().unwrap_or(Codec::Pcmu);
        let transcoder = self.inward.transcoder.as_ref();
        Surroundings {
            codec,
            band: transcoder.map_or(Band::of(codec), |transcoder| transcoder.band()),
            round_trip: self.feedback.round_trip,
            playout: transcoder.map_or(Duration::ZERO, |transcoder| transcoder.delay()),
        }
    }

    /// How what the leg received rates, from the beginning.
    pub(super) fn path(&self) -> PathQuality {
        let (totals, jitter) = (self.reception.totals(), self.reception.jitter());
        let loss = loss(totals, self.monitor.late, self.monitor.frames.recovered);
        self.surroundings().rate(loss, totals.burst_ratio(), jitter)
    }

    pub(super) fn quality(&self) -> QualityReport {
        let (totals, jitter, around) =
            (self.reception.totals(), self.reception.jitter(), self.surroundings());
        let late = self.monitor.late;
        let path = self.path();
        QualityReport {
            codec: self.codec(),
            received: totals.received,
            sent: self.outgoing.packets,
            lost: totals.lost(),
            late,
            burst_ratio: totals.burst_ratio(),
            jitter,
            remote_lost: self.feedback.lost,
            remote_jitter: self.feedback.jitter,
            round_trip: self.feedback.round_trip,
            remote: self.feedback.voip,
            playout_delay: around.playout,
            played: self.monitor.frames.played,
            concealed: self.monitor.frames.concealed,
            repaired: self.monitor.frames.repaired + self.monitor.frames.recovered,
            level: self.monitor.level(),
            band: around.band,
            r_factor: path.r_factor(),
            mos: path.mos(),
            point: self.monitor.point,
            summary: self.monitor.summary.clone(),
            stream: None,
            heard: None,
        }
    }
}
