//! 2:1 resampling by a half-band filter: 8 kHz ↔ 16 kHz, the only step transcoding needs.
//!
//! Opus decodes and encodes at the other side's rate itself, so only G.711 ↔ G.722 comes here; and
//! noise suppression, with factors and filters of its own.
#![allow(clippy::indexing_slicing, reason = "indices stay below the filter's length")]

use std::f64::consts::PI;

/// Taps of the half-band filter: 60 dB from 0.29 to 0.21 of the high rate (3.4 to 4.6 kHz at 16).
const TAPS: usize = 47;

/// A filter of finite impulse response.
#[derive(Debug, Clone)]
pub(super) struct Filter {
    taps: Vec<f32>,
    /// A ring written twice, so that the newest samples are always in one piece.
    history: Vec<f32>,
    at: usize,
}

impl Filter {
    pub(super) fn new(taps: Vec<f32>) -> Self {
        let history = vec![0.0; taps.len() * 2];
        Self { taps, history, at: 0 }
    }

    pub(super) fn push(&mut self, sample: f32) {
        let length = self.taps.len();
        self.at = if self.at == 0 { length - 1 } else { self.at - 1 };
        self.history[self.at] = sample;
        self.history[self.at + length] = sample;
    }

    pub(super) fn output(&self) -> f32 {
        let past = &self.history[self.at..self.at + self.taps.len()];
        // Eight sums, so that they can be made at once.
        let mut sums = [0.0_f32; 8];
        let (taps, past) = (self.taps.chunks(8), past.chunks(8));
        for (taps, past) in taps.zip(past) {
            for ((sum, tap), sample) in sums.iter_mut().zip(taps).zip(past) {
                *sum += tap * sample;
            }
        }
        sums.iter().sum()
    }
}

/// Windowed sinc at half of the rate over `factor`, Kaiser window of β 5.65.
pub(super) fn low_pass(factor: usize, taps: usize) -> Vec<f32> {
    let bessel = |x: f64| {
        let mut term = 1.0;
        (1..32).fold(1.0, |sum, k| {
            term *= (x / 2.0 / f64::from(k)).powi(2);
            sum + term
        })
    };
    #[allow(clippy::cast_precision_loss, reason = "a few hundred taps")]
    let (middle, factor) = ((taps - 1) as f64 / 2.0, factor as f64);
    let tap = |n: u32| {
        let x: f64 = f64::from(n) - middle;
        let sinc = if x == 0.0 { 1.0 / factor } else { (PI * x / factor).sin() / (PI * x) };
        sinc * bessel(5.65 * (1.0 - (x / middle).powi(2)).max(0.0).sqrt()) / bessel(5.65)
    };
    let taps: Vec<f64> = (0_u32..).take(taps).map(tap).collect();
    let sum: f64 = taps.iter().sum();
    #[allow(clippy::cast_possible_truncation, reason = "f32 is precise enough for 16-bit audio")]
    taps.iter().map(|tap| (tap / sum) as f32).collect()
}

#[allow(clippy::cast_possible_truncation, reason = "a float cast to i16 saturates")]
fn to_sample(value: f32) -> i16 {
    value.round() as i16
}

/// Doubles the sample rate.
#[derive(Debug, Clone)]
pub struct Up(Filter);

impl Default for Up {
    fn default() -> Self {
        Self(Filter::new(low_pass(2, TAPS)))
    }
}

impl Up {
    /// Appends two samples for each of `input`.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        for &sample in input {
            self.0.push(f32::from(sample) * 2.0);
            out.push(to_sample(self.0.output()));
            self.0.push(0.0);
            out.push(to_sample(self.0.output()));
        }
    }
}

/// Halves the sample rate.
#[derive(Debug, Clone)]
pub struct Down {
    filter: Filter,
    odd: bool,
}

impl Default for Down {
    fn default() -> Self {
        Self { filter: Filter::new(low_pass(2, TAPS)), odd: false }
    }
}

impl Down {
    /// Appends one sample for every two of `input`; an odd one is kept for the next call.
    pub fn process(&mut self, input: &[i16], out: &mut Vec<i16>) {
        for &sample in input {
            self.filter.push(f32::from(sample));
            if self.odd {
                out.push(to_sample(self.filter.output()));
            }
            self.odd = !self.odd;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tone(hz: f64, rate: f64, samples: u32) -> Vec<i16> {
        (0..samples)
            .map(|n| (10_000.0 * (std::f64::consts::TAU * hz * f64::from(n) / rate).sin()) as i16)
            .collect()
    }

    fn level_db(pcm: &[i16]) -> f64 {
        let power = pcm.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / pcm.len() as f64;
        10.0 * (power.max(1e-9) / (10_000.0_f64.powi(2) / 2.0)).log10()
    }

    #[test]
    fn speech_band_passes_flat_and_aliases_do_not() {
        for hz in [100.0, 1_000.0, 3_000.0, 3_400.0] {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            Up::default().process(&tone(hz, 8_000.0, 4_000), &mut up);
            assert!(level_db(&up[200..]).abs() < 0.2, "{hz} up {}", level_db(&up[200..]));
            Down::default().process(&up, &mut down);
            assert!(level_db(&down[200..]).abs() < 0.3, "{hz} down {}", level_db(&down[200..]));
        }
        let mut down = Vec::new();
        Down::default().process(&tone(5_000.0, 16_000.0, 4_000), &mut down);
        assert!(level_db(&down[200..]) < -50.0, "{}", level_db(&down[200..]));
    }
}
