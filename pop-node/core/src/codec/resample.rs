//! 2:1 resampling by a half-band filter: 8 kHz ↔ 16 kHz, the only step transcoding needs.
//!
//! Opus decodes and encodes at the other side's rate itself, so only G.711 ↔ G.722 comes here.
#![allow(clippy::indexing_slicing, reason = "indices are taken modulo the fixed filter length")]

/// Taps of the half-band filter: 60 dB from 0.29 to 0.21 of the high rate (3.4 to 4.6 kHz at 16).
const TAPS: usize = 47;
const HISTORY: usize = 64;

#[derive(Debug, Clone)]
struct Filter {
    taps: [f32; TAPS],
    history: [f32; HISTORY],
    at: usize,
}

impl Filter {
    fn new() -> Self {
        Self { taps: half_band(), history: [0.0; HISTORY], at: 0 }
    }

    fn push(&mut self, sample: f32) {
        self.at = (self.at + 1) % HISTORY;
        self.history[self.at] = sample;
    }

    fn output(&self) -> f32 {
        let past = |n: usize| self.history[(self.at + HISTORY - n) % HISTORY];
        self.taps.iter().enumerate().map(|(n, tap)| tap * past(n)).sum()
    }
}

/// Windowed sinc at a quarter of the rate, Kaiser window of β 5.65.
fn half_band() -> [f32; TAPS] {
    use std::f64::consts::PI;
    let bessel = |x: f64| {
        let mut term = 1.0;
        (1..32).fold(1.0, |sum, k| {
            term *= (x / 2.0 / f64::from(k)).powi(2);
            sum + term
        })
    };
    let middle = f64::from(TAPS as u32 - 1) / 2.0;
    let mut n = -1.0;
    let taps = [0.0_f64; TAPS].map(|_| {
        n += 1.0;
        let x: f64 = n - middle;
        let sinc = if x == 0.0 { 0.5 } else { (PI * x / 2.0).sin() / (PI * x) };
        sinc * bessel(5.65 * (1.0 - (x / middle).powi(2)).max(0.0).sqrt()) / bessel(5.65)
    });
    let sum: f64 = taps.iter().sum();
    #[allow(clippy::cast_possible_truncation, reason = "f32 is precise enough for 16-bit audio")]
    taps.map(|tap| (tap / sum) as f32)
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
        Self(Filter::new())
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
        Self { filter: Filter::new(), odd: false }
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
