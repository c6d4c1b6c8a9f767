//! Noise suppression of speech: RNNoise (a recurrent network over the bands of 10 ms), which works at
//! 48 kHz; other rates are resampled to it and back.
#![allow(clippy::indexing_slicing, reason = "indices are bounded by the lengths set in `new`")]

use std::fmt;
use std::sync::LazyLock;

use nnnoiseless::{DenoiseState, RnnModel};

use super::CodecError;
use super::resample::{Filter, low_pass};

/// Samples of the network's frames, at 48 kHz.
const FRAME: usize = DenoiseState::FRAME_SIZE;
/// Taps of the resampling filter for each step of the higher rate: 55 dB from 0.85 to 1.15 of half
/// the lower rate.
const TAPS_PER_STEP: usize = 24;

/// Weights of the network, shared by all calls.
static MODEL: LazyLock<RnnModel> = LazyLock::new(RnnModel::default);

/// Suppresses the noise of one stream of samples.
pub struct NoiseSuppressor {
    network: Box<DenoiseState<'static>>,
    /// 48 kHz over the rate of the stream.
    factor: usize,
    /// A part of the filter for each step between two samples: what it has at the zeros that would
    /// be there is left out.
    up: Vec<Filter>,
    down: Filter,
    /// At 48 kHz, not a frame yet.
    waiting: Vec<f32>,
    /// The frame before the present one: what the network's output belongs to.
    before: Vec<f32>,
    cleaned: Vec<f32>,
    /// Ready, at the rate of the stream.
    ready: Vec<i16>,
}

impl NoiseSuppressor {
    /// For a mono stream of `rate` samples per second: 8, 16 or 48 kHz.
    pub fn new(rate: u32) -> Result<Self, CodecError> {
        let factor = match rate {
            8_000 => 6,
            16_000 => 3,
            48_000 => 1,
            rate => return Err(CodecError::Suppression(rate)),
        };
        let taps = low_pass(factor, factor * TAPS_PER_STEP + 1);
        let step = |n| Filter::new(taps.iter().skip(n).step_by(factor).copied().collect());
        Ok(Self {
            network: DenoiseState::with_model(&MODEL),
            factor,
            up: (0..factor).map(step).collect(),
            down: Filter::new(taps),
            waiting: Vec::with_capacity(FRAME),
            before: vec![0.0; FRAME],
            cleaned: vec![0.0; FRAME],
            // As many samples leave as come, whatever they are to 10 ms.
            ready: vec![0; FRAME / factor],
        })
    }

    /// How much later what is heard leaves: a frame to fill, one that the network is behind, and
    /// both filters. In milliseconds.
    pub const fn delay_ms(&self) -> u32 {
        match self.factor {
            1 => 20,
            // 2 · 72 samples at 48 kHz; with a factor of 3 half of that.
            _ => 23,
        }
    }

    /// Takes the noise out of `pcm`. With `bypass` only the delay is added: it costs next to nothing,
    /// and what follows stays in time. Gives how many frames of 10 ms were made.
    pub fn process(&mut self, pcm: &mut [i16], bypass: bool) -> u64 {
        let mut frames = 0;
        for &sample in pcm.iter() {
            self.push(sample.into());
            if self.waiting.len() >= FRAME {
                self.frame(bypass);
                frames += 1;
            }
        }
        let length = pcm.len().min(self.ready.len());
        pcm[..length].copy_from_slice(&self.ready[..length]);
        self.ready.drain(..length);
        frames
    }

    /// A sample, as those of 48 kHz that it stands for.
    #[allow(clippy::cast_precision_loss, reason = "6 at most")]
    fn push(&mut self, sample: f32) {
        if self.factor == 1 {
            return self.waiting.push(sample);
        }
        for step in &mut self.up {
            // The zeros between samples would take power away.
            step.push(sample * self.factor as f32);
            self.waiting.push(step.output());
        }
    }

    /// A frame is full.
    fn frame(&mut self, bypass: bool) {
        if bypass {
            self.cleaned.copy_from_slice(&self.before);
        } else {
            self.network.process_frame(&mut self.cleaned, &self.waiting[..FRAME]);
        }
        self.before.copy_from_slice(&self.waiting[..FRAME]);
        self.waiting.clear();
        for (n, &sample) in self.cleaned.iter().enumerate() {
            let sample = if self.factor == 1 {
                sample
            } else {
                self.down.push(sample);
                if n % self.factor != 0 {
                    continue;
                }
                self.down.output()
            };
            #[allow(clippy::cast_possible_truncation, reason = "a float cast to i16 saturates")]
            self.ready.push(sample.round() as i16);
        }
    }
}

impl fmt::Debug for NoiseSuppressor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NoiseSuppressor").field("factor", &self.factor).finish_non_exhaustive()
    }
}

/// Noise to test with.
#[cfg(test)]
pub(crate) mod test_noise {
    /// As a machine hall: random samples, low-passed a little, with an RMS of `level`.
    pub(crate) fn noise(samples: usize, level: f64) -> Vec<f64> {
        let mut seed = 0x2545_f491_4f6c_dd1d_u64;
        let mut before = 0.0;
        let mut random = || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            let white = (seed >> 11) as f64 / (1_u64 << 53) as f64 - 0.5;
            before = 0.6 * before + white;
            before
        };
        let noise: Vec<f64> = (0..samples).map(|_| random()).collect();
        let rms = (noise.iter().map(|s| s * s).sum::<f64>() / samples as f64).sqrt();
        noise.iter().map(|s| s / rms * level).collect()
    }

    /// Speech with so much noise that its SNR is `decibels`.
    pub(crate) fn noisy(pcm: &[i16], decibels: f64) -> Vec<i16> {
        let noise = noise(pcm.len(), rms(pcm) / 10.0_f64.powf(decibels / 20.0));
        pcm.iter().zip(noise).map(|(&s, n)| (f64::from(s) + n) as i16).collect()
    }

    pub(crate) fn rms(pcm: &[i16]) -> f64 {
        (pcm.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / pcm.len() as f64).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::test_noise::{noise, noisy, rms};
    use super::*;
    use crate::codec::tests::{snr, speech};

    fn suppressed(pcm: &[i16], rate: u32, frame: usize, bypass: bool) -> Vec<i16> {
        let mut suppressor = NoiseSuppressor::new(rate).unwrap();
        let mut out = pcm.to_vec();
        out.chunks_mut(frame).for_each(|pcm| _ = suppressor.process(pcm, bypass));
        out
    }

    /// SNR and delay, which is 15 to 30 ms.
    fn aligned(clean: &[i16], out: &[i16], rate: u32) -> (f64, usize) {
        let (from, to) = (rate as usize * 15 / 1_000, rate as usize * 30 / 1_000);
        let (snr, delay) = snr(clean, &out[from..], to - from);
        (snr, delay + from)
    }

    #[test]
    fn speech_in_noise_comes_out_cleaner_at_each_rate() {
        for (name, rate) in
            [("hum_en_8k.wav", 8_000), ("hum_en_16k.wav", 16_000), ("hum_es_48k.wav", 48_000)]
        {
            let clean = &speech(name)[..rate as usize * 4];
            let noisy = noisy(clean, 8.0);
            let before = snr(clean, &noisy, 1).0;
            let out = suppressed(&noisy, rate, rate as usize / 50, false);
            let (after, delay) = aligned(clean, &out, rate);
            assert!(after > before + 3.0, "{rate}: {before:.1} dB before, {after:.1} after");
            let suppressor = NoiseSuppressor::new(rate).unwrap();
            let expected = rate as usize * suppressor.delay_ms() as usize / 1_000;
            assert!(delay.abs_diff(expected) <= rate as usize / 500, "{rate}: {delay} samples");
            // Of noise alone next to nothing is left.
            let level = rms(clean) / 10.0_f64.powf(8.0 / 20.0);
            let alone: Vec<i16> = noise(clean.len(), level).iter().map(|&n| n as i16).collect();
            let left = suppressed(&alone, rate, rate as usize / 50, false);
            let less = 20.0 * (rms(&left[rate as usize * 2..]) / level).log10();
            assert!(less < -12.0, "{rate}: noise alone by {less:.1} dB");
        }
    }

    #[test]
    fn a_bypass_changes_nothing_but_the_time_and_any_length_will_do() {
        for (name, rate, least) in
            [("hum_en_8k.wav", 8_000, 30.0), ("hum_en_48k.wav", 48_000, 80.0)]
        {
            let pcm = &speech(name)[..rate as usize * 2];
            let even = suppressed(pcm, rate, rate as usize / 50, true);
            let (quality, delay) = aligned(pcm, &even, rate);
            assert!(quality > least, "{rate}: {quality} dB at {delay}");
            let odd = suppressed(pcm, rate, 77, true);
            assert_eq!(odd[rate as usize..], even[rate as usize..], "{rate}");
            // In time with what is suppressed: one may follow the other at any frame.
            let cleaned = suppressed(pcm, rate, 77, false);
            assert!(aligned(pcm, &cleaned, rate).1.abs_diff(delay) <= 2, "{rate}");
        }
        assert!(NoiseSuppressor::new(11_025).is_err());
    }
}
