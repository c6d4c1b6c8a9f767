//! What is measured of one received stream (a leg's RTP, or a stream of another POP) and how it
//! rates.

use proto::time::{Duration, Instant};

use super::measure::{Point, SilenceCause, Summary};
use super::meter::{Level, Meter};
use super::quality::{Band, PathQuality};
use super::transcode::TranscodeStats;
use crate::codec::Codec;
use crate::rtp::{Reception, Totals};

/// Silence worth telling.
const SILENT: Duration = Duration::from_secs(10);
/// Speech of a packet is spoken before it is sent, and a codec looks ahead.
const PACKET: Duration = Duration::from_millis(20);

/// Frames of a decoder.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Frames {
    /// Packets sent on from the copies in later ones (RFC 2198).
    pub(super) recovered: u64,
    pub(super) played: u64,
    pub(super) concealed: u64,
    pub(super) repaired: u64,
}

/// What a rating depends on besides what was received.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings {
    pub(super) codec: Codec,
    pub(super) band: Band,
    pub(super) round_trip: Option<Duration>,
    /// Playout here; zero where packets are relayed.
    pub(super) playout: Duration,
}

impl Surroundings {
    /// From the peer's mouth to what leaves here.
    pub(super) fn delay(&self) -> Duration {
        self.round_trip.unwrap_or_default() / 2 + PACKET + self.playout
    }

    /// How losses and delay rate, as if heard here. Where packets are relayed, whoever plays them
    /// is taken to wait two jitters.
    pub(super) fn rate(&self, loss: f64, burst_ratio: f64, jitter: Duration) -> PathQuality {
        let playout = if self.playout.is_zero() { jitter * 2 } else { Duration::ZERO };
        let path = PathQuality::of(self.codec, self.band, self.delay() + playout, loss);
        PathQuality { burst_ratio, ..path }
    }
}

/// The state.
#[derive(Debug, Default)]
pub(super) struct Monitor {
    /// Packets that came too late to be played.
    pub(super) late: u64,
    pub(super) frames: Frames,
    pub(super) summary: Summary,
    /// The latest point.
    pub(super) point: Option<Point>,
    meter: Meter,
    /// Of all before.
    level: Option<Level>,
    /// Since when the audio is digital silence.
    quiet: Option<Instant>,
    /// The last packets from a wrong source, and of a wrong payload type.
    pub(super) wrong_source: Option<Instant>,
    pub(super) codec_mismatch: Option<Instant>,
    told: Option<SilenceCause>,
    ended: Option<Instant>,
    before: (Totals, u64, Frames),
}

/// Share of what was expected that was not there to be played.
#[allow(clippy::cast_precision_loss, reason = "a ratio")]
pub(super) fn loss(totals: Totals, late: u64, recovered: u64) -> f64 {
    ((totals.lost() + late).saturating_sub(recovered) as f64 / totals.expected.max(1) as f64)
        .min(1.0)
}

impl Monitor {
    /// A stream that begins now.
    pub(super) fn begin(now: Instant) -> Self {
        Self { ended: Some(now), ..Self::default() }
    }

    /// What a transcoder made of the stream.
    pub(super) fn transcoded(&mut self, stats: &TranscodeStats, now: Instant) {
        self.late += stats.late;
        self.frames.played += stats.played;
        self.frames.concealed += stats.concealed;
        self.frames.repaired += stats.repaired;
        self.heard(stats.meter, now);
    }

    /// Reads the level of a relayed packet in passing.
    pub(super) fn sample(&mut self, codec: Codec, payload: &[u8], now: Instant) {
        let mut meter = Meter::default();
        meter.relayed(codec, payload);
        self.heard(meter, now);
    }

    fn heard(&mut self, meter: Meter, now: Instant) {
        if meter.is_empty() {
            return;
        }
        if meter.is_silent() {
            self.quiet.get_or_insert(now);
        } else {
            self.quiet = None;
        }
        self.meter.add(meter);
    }

    /// Since when and why nothing is heard, if for long. `heard`: the last packet, or when the
    /// peer was first allowed to send.
    pub(super) fn silence(&self, heard: Instant, now: Instant) -> Option<(Instant, SilenceCause)> {
        if now - heard < SILENT {
            let quiet = self.quiet.filter(|&quiet| now - quiet >= SILENT)?;
            return Some((quiet, SilenceCause::Muted));
        }
        let lately = |at: Option<Instant>| at.is_some_and(|at| at >= heard && now - at < SILENT);
        let cause = match () {
            () if lately(self.codec_mismatch) => SilenceCause::CodecMismatch,
            () if lately(self.wrong_source) => SilenceCause::WrongSource,
            () => SilenceCause::NoPackets,
        };
        Some((heard, cause))
    }

    /// Is this silence news?
    pub(super) fn is_news(&mut self, cause: Option<SilenceCause>) -> bool {
        std::mem::replace(&mut self.told, cause) != cause && cause.is_some()
    }

    /// Ends a point.
    pub(super) fn end_point(
        &mut self,
        reception: &mut Reception,
        around: &Surroundings,
        silence: Option<SilenceCause>,
        now: Instant,
    ) {
        let (totals, late, frames) = (reception.totals(), self.late, self.frames);
        let (totals_before, late_before, frames_before) =
            std::mem::replace(&mut self.before, (totals, late, frames));
        let part = totals.since(totals_before);
        let (late, jitter) = (late - late_before, reception.jitter());
        let recovered = frames.recovered - frames_before.recovered;
        let rated = (part.expected > 0)
            .then(|| around.rate(loss(part, late, recovered), part.burst_ratio(), jitter));
        self.level = self.meter.level().or(self.level);
        let point = Point {
            end: now,
            length: now - self.ended.replace(now).unwrap_or(now),
            received: part.received,
            lost: part.lost(),
            late,
            burst_ratio: part.burst_ratio(),
            jitter,
            delay_change: reception.delay_change(),
            round_trip: around.round_trip,
            played: frames.played - frames_before.played,
            concealed: frames.concealed - frames_before.concealed,
            level: std::mem::take(&mut self.meter).level(),
            silence,
            r_factor: rated.map(|path| path.r_factor()),
            mos: rated.map(|path| path.mos()),
        };
        self.summary.add(&point);
        self.point = Some(point);
    }

    /// The latest level measured.
    pub(super) fn level(&self) -> Option<Level> {
        self.meter.level().or(self.level)
    }
}
