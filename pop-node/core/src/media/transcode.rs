//! Transcoding: playout → decode or conceal → resample → encode. The one place where audio is
//! made.
//!
//! Packets go in when they come; packets come out evenly, one per `ptime`, from `handle_timeout`.
//! What holds the delay at the playout buffer's target is [`stretch`]: a pitch period taken out
//! or put in where that is hardly heard. A sender with a drifting clock needs one every minute or
//! so. After 200 ms without any packet the output stops and starts anew with the next packet, unless
//! the sender said that it pauses: by comfort noise (RFC 3389), or by an Opus packet without voice
//! (DTX). Then noise goes on in its place, for a minute.
//! Where packets carry copies of the ones before (Opus in-band FEC), playout waits for one packet
//! more, so that the copy is there when the loss is to be played.
#![allow(
    clippy::indexing_slicing,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    reason = "audio arithmetic on frames whose length was checked"
)]

use proto::time::{Duration, Instant};

use super::meter::Meter;
use super::playout::{Due, Playout};
use super::quality::Band;
use super::{DropReason, Format};
use crate::codec::complexity::Complexity;
use crate::codec::resample::{Down, Up};
use crate::codec::{
    Codec, CodecError, ComfortNoise, Decoder, Encoder, EncoderConfig, NoiseSuppressor,
    OPUS_PAUSE_BYTES, opus_has_fec, opus_is_pause,
};

/// After this much made-up audio in a row the sender is taken to be silent.
const MADE_UP_MS_MAX: u32 = 200;
/// A pause without any packet ends after this much.
const PAUSE_MS_MAX: u32 = 60_000;
/// Slack may be this far above the target before audio is shortened, or below before stretched.
const ABOVE_MS: i64 = 15;
const BELOW_MS: i64 = 5;
/// This far off the target, shortening and stretching no longer wait for a good place.
const URGENT_MS: i64 = 60;
/// This far behind, packets are given up.
const BEHIND_MS: u32 = 120;
/// Packets between two corrections: slack must be measured over a whole output packet.
const SETTLE_PACKETS: u32 = 8;

/// What the transcoder did, for the counters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct TranscodeStats {
    /// Frames played from their packets.
    pub(super) played: u64,
    /// Frames made up.
    pub(super) concealed: u64,
    /// Lost frames played from their copy in the next packet.
    pub(super) repaired: u64,
    /// Packets too late to be played.
    pub(super) late: u64,
    /// Packets the codec refused.
    pub(super) failed: u64,
    /// Frames of 10 ms whose noise was suppressed, and such that were left as they were.
    pub(super) suppressed: u64,
    pub(super) suppression_skipped: u64,
    /// Level of what was decoded.
    pub(super) meter: Meter,
}

/// A packet that leaves.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Encoded<'a> {
    pub(super) payload: &'a [u8],
    /// Units of the output clock it lasts.
    pub(super) units: u32,
    /// It begins a talkspurt.
    pub(super) first: bool,
}

/// How much CPU a transcoder may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Effort {
    /// Of Opus, 0 to 10.
    pub(super) complexity: u8,
    /// Is there enough to suppress noise?
    pub(super) affords_extras: bool,
}

impl From<Complexity> for Effort {
    fn from(complexity: Complexity) -> Self {
        Self { complexity: complexity.now(), affords_extras: complexity.affords_extras() }
    }
}

#[derive(Debug)]
enum Resampler {
    None,
    Up(Up),
    Down(Down),
}

/// One direction of one call.
#[derive(Debug)]
pub(super) struct Transcoder {
    from: Codec,
    to: Format,
    playout: Playout,
    decoder: Decoder,
    /// For the noise in what is decoded, and whether there is no CPU for that now.
    suppressor: Option<(Box<NoiseSuppressor>, bool)>,
    resampler: Resampler,
    encoder: Encoder,
    /// Decoded, at the decoder's rate.
    decoded: Vec<i16>,
    /// Ready to encode, at the encoder's rate.
    ready: Vec<i16>,
    packet: Vec<u8>,
    ptime: Duration,
    /// When the next packet leaves; `None` while idle.
    next: Option<Instant>,
    first: bool,
    /// Length of the last packet decoded, in samples.
    frame: usize,
    made_up_ms: u32,
    pause: Pause,
    slack: Slack,
    expected_loss: u8,
    /// The encoder may say that there is nothing to send.
    pauses: bool,
    /// Packets carry copies of the ones before: in Opus, or beside it (RFC 2198).
    has_fec: bool,
    has_copies: bool,
    stats: TranscodeStats,
}

/// Why nothing comes and nothing is lost.
#[derive(Debug)]
enum Pause {
    None,
    /// The sender described its background noise.
    Noise(ComfortNoise),
    /// Opus: the decoder knows the background noise.
    Opus,
}

/// The least slack since the last correction.
#[derive(Debug, Clone, Copy, Default)]
struct Slack {
    packets: u32,
    least_ms: i64,
}

/// The rates both codecs work at: Opus takes the other side's.
const fn rates(from: Codec, to: Codec) -> (u32, u32) {
    match (from, to) {
        (Codec::Opus, Codec::Opus) => (48_000, 48_000),
        (Codec::Opus, to) => (to.sample_rate(), to.sample_rate()),
        (from, Codec::Opus) => (from.sample_rate(), from.sample_rate()),
        (from, to) => (from.sample_rate(), to.sample_rate()),
    }
}

/// Our packet length: what was asked for, if the codec can do it.
fn ptime_ms(format: &Format) -> u32 {
    let asked = match format.ptime_ms {
        0 => format.codec.default_ptime_ms(),
        asked => asked,
    };
    match (format.codec, asked) {
        (_, 0..20) => 10,
        // Frames of Opus have 10, 20, 40 or 60 ms (RFC 6716 §2.1.4).
        (Codec::Opus, 20..40) => 20,
        (Codec::Opus, 40..60) => 40,
        (_, asked) => asked.min(60) / 10 * 10,
    }
}

impl Transcoder {
    /// Noise is suppressed or not.
    pub(super) fn new(
        from: Codec,
        to: &Format,
        Effort { complexity, affords_extras }: Effort,
        suppress_noise: bool,
    ) -> Result<Self, CodecError> {
        let (input, output) = rates(from, to.codec);
        let ptime_ms = ptime_ms(to);
        let config = EncoderConfig { complexity, ..EncoderConfig::for_fmtp(to.fmtp.as_deref()) };
        let resampler = match (input, output) {
            (input, output) if input < output => Resampler::Up(Up::default()),
            (input, output) if input > output => Resampler::Down(Down::default()),
            _ => Resampler::None,
        };
        Ok(Self {
            from,
            to: to.clone(),
            playout: Playout::new(from.clock_rate()),
            decoder: Decoder::new(from, input)?,
            suppressor: match suppress_noise {
                true => Some((Box::new(NoiseSuppressor::new(input)?), !affords_extras)),
                false => None,
            },
            resampler,
            encoder: Encoder::new(to.codec, output, config)?,
            decoded: Vec::new(),
            ready: Vec::new(),
            packet: Vec::new(),
            ptime: Duration::from_millis(u64::from(ptime_ms)),
            next: None,
            first: true,
            frame: input as usize / 50,
            made_up_ms: 0,
            pause: Pause::None,
            slack: Slack::default(),
            expected_loss: config.expected_loss,
            pauses: to.codec == Codec::Opus && config.dtx,
            has_fec: false,
            has_copies: false,
            stats: TranscodeStats::default(),
        })
    }

    /// How much CPU there is now.
    pub(super) fn set_effort(&mut self, Effort { complexity, affords_extras }: Effort) {
        self.encoder.set_complexity(complexity);
        if let Some((_, is_skipped)) = &mut self.suppressor {
            *is_skipped = !affords_extras;
        }
    }

    /// See [`Encoder::expect_loss`].
    pub(super) fn expect_loss(&mut self, percent: u8) {
        if std::mem::replace(&mut self.expected_loss, percent) == percent {
            return;
        }
        self.encoder.expect_loss(percent);
    }

    /// Does it turn `from` into `to` (whatever the payload type)?
    pub(super) fn fits(&self, from: Codec, to: &Format, suppress_noise: bool) -> bool {
        if self.suppressor.is_some() != suppress_noise {
            return false;
        }
        let same = (self.to.codec, self.to.ptime_ms) == (to.codec, to.ptime_ms);
        self.from == from && same && self.to.fmtp == to.fmtp
    }

    /// Counts since the last call.
    pub(super) fn take_stats(&mut self) -> TranscodeStats {
        std::mem::take(&mut self.stats)
    }

    /// Delay now aimed at: the playout buffer's target, and what a packet that leaves waits for
    /// the packets it is made of. (With 40 ms in and 60 ms out the second of each pair of packets
    /// comes 40 ms after the first is due: out − gcd(in, out).)
    pub(super) fn delay(&self) -> Duration {
        let suppression_ms = self.suppressor.as_ref().map_or(0, |(s, _)| s.delay_ms());
        self.wait() + Duration::from_millis(suppression_ms.into())
    }

    /// The same, without what noise suppression adds inside.
    fn wait(&self) -> Duration {
        let (input, output) = (self.frame_ms(), self.ptime.as_millis() as u32);
        let wait_ms = output - gcd(input, output).min(output);
        Duration::from_millis(u64::from(self.playout.target_ms() + wait_ms))
    }

    /// The band it decodes: Opus at 8 kHz is heard as any narrow-band codec.
    pub(super) const fn band(&self) -> Band {
        if self.decoder.rate() < 16_000 || self.encoder.rate() < 16_000 {
            Band::Narrow
        } else {
            Band::Wide
        }
    }

    fn frame_ms(&self) -> u32 {
        self.frame as u32 * 1_000 / self.decoder.rate()
    }

    /// The source of the packets is another: timestamps begin anew.
    pub(super) fn restart(&mut self) {
        self.stop();
    }

    /// Takes a packet; a copy came late on purpose.
    pub(super) fn push(
        &mut self,
        (timestamp, is_copy): (u32, bool),
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let samples = self.decoder.samples(payload).map_err(|_| DropReason::CodecFailed)?;
        self.has_fec |= self.from == Codec::Opus && opus_has_fec(payload);
        if self.has_fec || self.has_copies {
            self.playout.wait_longer(samples as u32 * 1_000 / self.decoder.rate());
        }
        self.pushed(samples, now, |playout| match is_copy {
            false => playout.push(timestamp, payload, now),
            true => playout.push_copy(timestamp, payload, now),
        })
    }

    /// Takes a description of comfort noise (RFC 3389).
    pub(super) fn push_noise(
        &mut self,
        timestamp: u32,
        payload: &[u8],
        now: Instant,
    ) -> Result<(), DropReason> {
        let samples = self.frame;
        self.pushed(samples, now, |playout| playout.push_noise(timestamp, payload, now))
    }

    fn pushed(
        &mut self,
        samples: usize,
        now: Instant,
        push: impl FnOnce(&mut Playout) -> Result<(), DropReason>,
    ) -> Result<(), DropReason> {
        let was_playing = !self.playout.is_idle();
        let pushed = push(&mut self.playout);
        // The first packet, or the first after a jump of the timestamp.
        let begins = self.playout.is_idle() && (was_playing || self.next.is_none());
        if begins && pushed.is_ok() {
            self.frame = samples;
            self.first = true;
            self.next = Some(now + self.wait());
        }
        pushed
    }

    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        self.next
    }

    /// The next packet if it is time. Call until `None`.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Encoded<'_>> {
        let due = self.next.filter(|&due| due <= now)?;
        // Woken far too late: go on from here instead of sending a burst.
        let due = if now - due > Duration::from_millis(100) { now } else { due };
        if self.playout.is_idle() && !self.playout.start() {
            self.stop();
            return None;
        }
        let samples = (self.encoder.rate() as usize / 1_000) * self.ptime.as_millis() as usize;
        while self.ready.len() < samples {
            if !self.produce(due) {
                self.stop();
                return None;
            }
        }
        self.next = Some(due + self.ptime);
        self.packet.clear();
        let encoded = self.encoder.encode(&self.ready[..samples], &mut self.packet);
        self.ready.drain(..samples);
        if encoded.is_err() {
            self.stats.failed += 1;
            return None;
        }
        if self.pauses && self.packet.len() <= OPUS_PAUSE_BYTES {
            // What comes next begins a talkspurt (RFC 7587 §3.1.3).
            self.first = true;
            return None;
        }
        let units = self.to.codec.clock_rate() / 1_000 * self.ptime.as_millis() as u32;
        let first = std::mem::replace(&mut self.first, false);
        Some(Encoded { payload: &self.packet, units, first })
    }

    fn stop(&mut self) {
        self.next = None;
        self.ready.clear();
        self.playout.clear();
        self.made_up_ms = 0;
        self.pause = Pause::None;
        self.slack = Slack::default();
    }

    /// Copies of lost packets come in later ones: waits for one packet more.
    pub(super) fn expect_copies(&mut self) {
        self.has_copies = true;
    }

    /// Adds what is due to `ready`; false if the sender fell silent.
    fn produce(&mut self, now: Instant) -> bool {
        let given_up = self.playout.catch_up(BEHIND_MS, now);
        self.stats.late += given_up;
        let slack_ms = self.playout.slack_ms(now);
        let target_ms = i64::from(self.playout.target_ms());
        self.decoded.clear();
        match self.playout.due() {
            Due::Packet(payload) => {
                let pauses = self.from == Codec::Opus && opus_is_pause(payload);
                self.pause = if pauses { Pause::Opus } else { Pause::None };
                let decoded = self.decoder.decode(payload, &mut self.decoded);
                let samples = decoded.unwrap_or(self.frame);
                if decoded.is_err() {
                    self.stats.failed += 1;
                    self.decoder.conceal(samples, None, &mut self.decoded);
                }
                self.stats.played += u64::from(decoded.is_ok());
                self.stats.meter.decoded(&self.decoded);
                self.frame = samples;
                self.made_up_ms = 0;
                self.playout.played(self.units(samples));
                self.hold(slack_ms - target_ms);
            }
            Due::Noise(payload) => {
                let mut noise = match std::mem::replace(&mut self.pause, Pause::None) {
                    Pause::Noise(noise) => noise,
                    Pause::None | Pause::Opus => ComfortNoise::default(),
                };
                noise.update(payload);
                self.pause = Pause::Noise(noise);
                self.made_up_ms = 0;
                self.fill_pause(self.frame);
                self.playout.played(self.units(self.frame));
            }
            Due::Missing { gap, .. } if !matches!(self.pause, Pause::None) => {
                let units = gap.unwrap_or(u32::MAX).min(self.units(self.frame));
                let samples = self.samples(units);
                self.fill_pause(samples);
                self.made_up_ms += samples as u32 * 1_000 / self.decoder.rate();
                self.playout.skipped(units);
                if gap.is_none() && self.made_up_ms > PAUSE_MS_MAX {
                    return false;
                }
            }
            Due::Missing { gap, next } => {
                let units = gap.map_or(u32::MAX, |gap| gap).min(self.units(self.frame));
                let samples = self.samples(units);
                let next = next.filter(|_| gap == Some(units));
                let is_copy = self.has_fec && next.is_some_and(opus_has_fec);
                self.decoder.conceal(samples, next, &mut self.decoded);
                match is_copy {
                    true => self.stats.repaired += 1,
                    false => self.stats.concealed += 1,
                }
                self.made_up_ms += samples as u32 * 1_000 / self.decoder.rate();
                // Below the target it may just be late: wait for it, and the delay grows.
                if is_copy || slack_ms >= target_ms - BELOW_MS {
                    self.playout.skipped(units);
                }
                if gap.is_none() && self.made_up_ms > MADE_UP_MS_MAX {
                    return false;
                }
            }
        }
        self.prepare();
        !self.decoded.is_empty()
    }

    /// Makes what was decoded ready to be encoded: without its noise, at the encoder's rate.
    fn prepare(&mut self) {
        if let Some((suppressor, is_skipped)) = &mut self.suppressor {
            let frames = suppressor.process(&mut self.decoded, *is_skipped);
            match is_skipped {
                true => self.stats.suppression_skipped += frames,
                false => self.stats.suppressed += frames,
            }
        }
        match &mut self.resampler {
            Resampler::None => self.ready.extend_from_slice(&self.decoded),
            Resampler::Up(up) => up.process(&self.decoded, &mut self.ready),
            Resampler::Down(down) => down.process(&self.decoded, &mut self.ready),
        }
    }

    /// Decodes what is heard while the sender pauses.
    fn fill_pause(&mut self, samples: usize) {
        match &mut self.pause {
            Pause::Noise(noise) => {
                noise.make(samples, &mut self.decoded);
                self.decoder.played_instead(&mut self.decoded);
            }
            Pause::None | Pause::Opus => self.decoder.conceal(samples, None, &mut self.decoded),
        }
    }

    fn units(&self, samples: usize) -> u32 {
        (samples as u64 * u64::from(self.from.clock_rate()) / u64::from(self.decoder.rate())) as u32
    }

    fn samples(&self, units: u32) -> usize {
        let rate = u64::from(self.decoder.rate());
        let samples = u64::from(units) * rate / u64::from(self.from.clock_rate());
        // Opus makes up multiples of 2.5 ms; never nothing.
        (samples as usize).max(self.decoder.rate() as usize / 400)
    }

    /// Corrects the delay by a pitch period of the packet just decoded, where that is due.
    fn hold(&mut self, off_ms: i64) {
        let slack = &mut self.slack;
        slack.least_ms = if slack.packets == 0 { off_ms } else { slack.least_ms.min(off_ms) };
        slack.packets += 1;
        let urgent = slack.least_ms.abs() > URGENT_MS;
        if slack.packets < SETTLE_PACKETS && !urgent {
            return;
        }
        let shorten = slack.least_ms > ABOVE_MS;
        if !shorten && slack.least_ms >= -BELOW_MS {
            *slack = Slack::default();
            return;
        }
        if stretch(&mut self.decoded, self.decoder.rate(), shorten, urgent) {
            *slack = Slack::default();
        }
    }
}

const fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// Takes a pitch period (2.5 to 10 ms) out of `pcm`, or doubles one, cross-faded. Only where the
/// period is clear or the audio quiet, unless `urgent`. False if nothing was done.
fn stretch(pcm: &mut Vec<i16>, rate: u32, shorten: bool, urgent: bool) -> bool {
    let (low, high) = (rate as usize / 400, (rate as usize / 100).min(pcm.len() / 2));
    let window = pcm.len().saturating_sub(high);
    if low >= high {
        return false;
    }
    let score = |lag: usize| {
        let (mut cross, mut a2, mut b2) = (0.0_f32, 1.0_f32, 1.0_f32);
        for (&a, &b) in pcm[..window].iter().zip(&pcm[lag..]) {
            let (a, b) = (f32::from(a), f32::from(b));
            (cross, a2, b2) = (cross + a * b, a2 + a * a, b2 + b * b);
        }
        cross / (a2 * b2).sqrt()
    };
    let lags = (low..=high).map(|lag| (score(lag), lag));
    let Some((score, lag)) = lags.max_by(|a, b| a.0.total_cmp(&b.0)) else { return false };
    let power = pcm.iter().map(|&s| f32::from(s).powi(2)).sum::<f32>() / pcm.len() as f32;
    if score < 0.8 && power > 200.0_f32.powi(2) && !urgent {
        return false;
    }
    // Goes from `a` to `b` over one period.
    let fade = |a: &[i16], b: &[i16]| -> Vec<i16> {
        let weight = |n: usize| (n + 1) as f32 / (lag + 1) as f32;
        let mix = |(n, (&a, &b)): (usize, (&i16, &i16))| {
            (f32::from(a) * (1.0 - weight(n)) + f32::from(b) * weight(n)).round() as i16
        };
        a.iter().zip(b).enumerate().map(mix).collect()
    };
    let (first, second) = (&pcm[..lag], &pcm[lag..lag * 2]);
    if shorten {
        let mixed = fade(first, second);
        pcm.splice(..lag * 2, mixed);
    } else {
        let mixed = fade(second, first);
        pcm.splice(lag..lag, mixed);
    }
    true
}

#[cfg(test)]
mod tests;
