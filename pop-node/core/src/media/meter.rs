//! Level and clipping of a voice: of all that is decoded, and of some packets of what is relayed.

use crate::codec::{Codec, alaw_decode, ulaw_decode};

/// Samples up to this are silence: −66 dBov, above the idle codes of both laws of G.711.
const SILENT_PEAK: u16 = 16;
/// Samples from this on are clipped: the largest codes of both laws stand for it.
const CLIPPED_PEAK: u16 = 32_000;
/// Of a relayed packet each so many samples are looked at.
const STRIDE: usize = 4;

/// How loud a voice is. dBov is relative to full scale (a square wave of it has 0).
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Level {
    /// Mean power in dBov.
    pub rms_dbov: f64,
    /// Loudest sample in dBov.
    pub peak_dbov: f64,
    /// Share of the samples that are clipped, 0 to 1.
    pub clipped: f64,
}

/// Sums of samples.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Meter {
    samples: u64,
    squares: u64,
    clipped: u64,
    peak: u16,
}

impl Meter {
    /// Adds decoded audio.
    pub(super) fn decoded(&mut self, pcm: &[i16]) {
        self.add_all(pcm.iter().copied());
    }

    /// Adds a relayed packet, if its codec can be read in passing.
    pub(super) fn relayed(&mut self, codec: Codec, payload: &[u8]) {
        let some = payload.iter().step_by(STRIDE);
        match codec {
            Codec::Pcmu => self.add_all(some.map(|&byte| ulaw_decode(byte))),
            Codec::Pcma => self.add_all(some.map(|&byte| alaw_decode(byte))),
            Codec::G722 | Codec::Opus => {}
        }
    }

    fn add_all(&mut self, samples: impl Iterator<Item = i16>) {
        for sample in samples {
            let size = sample.unsigned_abs();
            self.samples += 1;
            self.squares += u64::from(size) * u64::from(size);
            self.clipped += u64::from(size >= CLIPPED_PEAK);
            self.peak = self.peak.max(size);
        }
    }

    /// Adds what another has measured.
    pub(super) fn add(&mut self, other: Self) {
        self.samples += other.samples;
        self.squares = self.squares.saturating_add(other.squares);
        self.clipped += other.clipped;
        self.peak = self.peak.max(other.peak);
    }

    /// Nothing measured?
    pub(super) const fn is_empty(&self) -> bool {
        self.samples == 0
    }

    /// Digital silence, and nothing else?
    pub(super) const fn is_silent(&self) -> bool {
        self.peak <= SILENT_PEAK
    }

    /// The level, if anything was measured. Silence has −100 dBov.
    #[allow(clippy::cast_precision_loss, reason = "a level")]
    pub(super) fn level(&self) -> Option<Level> {
        let dbov = |ratio: f64| (10.0 * ratio.log10()).max(-100.0);
        let full = 32_768.0_f64 * 32_768.0;
        (self.samples > 0).then(|| Level {
            rms_dbov: dbov(self.squares as f64 / self.samples as f64 / full),
            peak_dbov: dbov(f64::from(self.peak) * f64::from(self.peak) / full),
            clipped: self.clipped as f64 / self.samples as f64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{alaw_encode, ulaw_encode};

    fn tone(peak: f64) -> Vec<i16> {
        (0..800).map(|n| (peak * (f64::from(n) * 0.37).sin()) as i16).collect()
    }

    #[test]
    fn a_tone_has_its_level_decoded_or_in_passing() {
        let pcm = tone(16_384.0);
        let ulaw: Vec<u8> = pcm.iter().map(|&s| ulaw_encode(s)).collect();
        let alaw: Vec<u8> = pcm.iter().map(|&s| alaw_encode(s)).collect();
        let mut meters = [Meter::default(); 3];
        meters[0].decoded(&pcm);
        meters[1].relayed(Codec::Pcmu, &ulaw);
        meters[2].relayed(Codec::Pcma, &alaw);
        for meter in meters {
            let level = meter.level().unwrap();
            // Half of full scale, and a sine: 6 and 3 dB below.
            assert!((level.rms_dbov + 9.03).abs() < 0.3, "{level:?}");
            assert!((level.peak_dbov + 6.02).abs() < 0.3, "{level:?}");
            assert!(!meter.is_silent() && level.clipped == 0.0);
        }
    }

    #[test]
    fn silence_and_clipping_are_seen() {
        let mut meter = Meter::default();
        assert_eq!((meter.level(), meter.is_empty()), (None, true));
        meter.relayed(Codec::Opus, &[1; 80]);
        assert!(meter.is_empty(), "Opus cannot be read in passing");
        meter.relayed(Codec::Pcmu, &[0xff; 160]);
        meter.relayed(Codec::Pcma, &[0xd5; 160]);
        assert!(meter.is_silent() && meter.level().unwrap().rms_dbov < -66.0);
        let mut loud = Meter::default();
        let square: Vec<u8> =
            (0..160).map(|n| ulaw_encode(if n % 20 < 10 { i16::MAX } else { 0 })).collect();
        loud.relayed(Codec::Pcmu, &square);
        meter.add(loud);
        assert!(!meter.is_silent());
        assert!((loud.level().unwrap().clipped - 0.5).abs() < 0.1);
    }
}
