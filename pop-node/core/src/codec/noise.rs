//! Comfort noise (RFC 3389): read, and made for whoever has nothing of the kind.
//!
//! Only the level of the background noise is used, not its spectrum: ours is low-passed a little, as
//! rooms are. The generator is a fixed one, so that equal inputs give equal audio.

/// The static payload type (RFC 3551 §6), at 8 kHz.
pub const COMFORT_NOISE: u8 = 13;
/// The level when none is said: a quiet room.
const DEFAULT_DBOV: u8 = 70;
/// Louder than this is no background noise; a peer that says so means something else.
const LOUDEST_DBOV: u8 = 40;

/// Makes noise of a level.
#[derive(Debug, Clone)]
pub struct ComfortNoise {
    /// White noise has a standard deviation of 1/√3 of this.
    amplitude: f32,
    state: u32,
    before: f32,
}

impl Default for ComfortNoise {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl ComfortNoise {
    /// The noise a payload describes (RFC 3389 §3.1: its first byte is the level in −dBov); whatever
    /// is said, not louder than −40 dBov.
    pub fn new(payload: &[u8]) -> Self {
        let mut noise = Self { amplitude: 0.0, state: 0x1234_5678, before: 0.0 };
        noise.update(payload);
        noise
    }

    /// Another payload: from now on the noise is as it says.
    pub fn update(&mut self, payload: &[u8]) {
        let level = payload.first().map_or(DEFAULT_DBOV, |byte| byte & 0x7f).max(LOUDEST_DBOV);
        let rms = 32_768.0 * 10.0_f32.powf(-f32::from(level) / 20.0);
        // Uniform noise, then the mean of two neighbours: 1/√3 and 1/√2 of its amplitude.
        self.amplitude = rms * 6.0_f32.sqrt();
    }

    /// Appends `samples` of it.
    #[allow(clippy::cast_possible_truncation, reason = "far below full scale")]
    pub fn make(&mut self, samples: usize, pcm: &mut Vec<i16>) {
        for _ in 0..samples {
            self.state = self.state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            // 16 bits, the upper ones: the lower ones repeat soon.
            let random = f32::from((self.state >> 16) as u16) / 32_768.0 - 1.0;
            let white = random * self.amplitude;
            pcm.push(((white + self.before) / 2.0).round() as i16);
            self.before = white;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn rms_dbov(payload: &[u8]) -> f64 {
        let mut pcm = Vec::new();
        ComfortNoise::new(payload).make(16_000, &mut pcm);
        let power = pcm.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / 16_000.0;
        10.0 * (power / 32_768.0_f64.powi(2)).log10()
    }

    #[test]
    fn noise_has_the_level_that_was_said() {
        for level in [40_u8, 50, 60, 70] {
            let made = rms_dbov(&[level, 3, 200]);
            assert!((made + f64::from(level)).abs() < 0.5, "{level}: {made}");
        }
        assert!((rms_dbov(&[]) + 70.0).abs() < 0.5);
        assert!((rms_dbov(&[0]) + 40.0).abs() < 0.5, "nobody is shouted at");
        assert!(rms_dbov(&[127]) < -90.0);
    }

    proptest! {
        #[test]
        fn any_payload_makes_so_many_quiet_samples(payload in prop::collection::vec(any::<u8>(), 0..20), samples in 0..2_000_usize) {
            let mut pcm = vec![7];
            ComfortNoise::new(&payload).make(samples, &mut pcm);
            prop_assert_eq!(pcm.len(), samples + 1);
            prop_assert!(pcm.iter().all(|sample| sample.unsigned_abs() < 1_000));
        }
    }
}
