//! The voice, and the proof that it arrived.
//!
//! Recordings of a human voice (see `chaos/speech/README.md`) are compiled in, so that the lab
//! needs no files at run time. What arrives is compared by loudness over time, which survives any
//! codec but not silence, another voice or chopped packets.

use std::io::Cursor;

use anyhow::{Context, Result, ensure};

/// Which recording.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Voice {
    /// English.
    English,
    /// Spanish.
    Spanish,
}

impl Voice {
    /// The other one.
    pub const fn other(self) -> Self {
        match self {
            Self::English => Self::Spanish,
            Self::Spanish => Self::English,
        }
    }
}

const FILES: [(Voice, u32, &[u8]); 6] = [
    (Voice::English, 8_000, include_bytes!("../speech/hum_en_8k.wav")),
    (Voice::English, 16_000, include_bytes!("../speech/hum_en_16k.wav")),
    (Voice::English, 48_000, include_bytes!("../speech/hum_en_48k.wav")),
    (Voice::Spanish, 8_000, include_bytes!("../speech/hum_es_8k.wav")),
    (Voice::Spanish, 16_000, include_bytes!("../speech/hum_es_16k.wav")),
    (Voice::Spanish, 48_000, include_bytes!("../speech/hum_es_48k.wav")),
];

/// Ten seconds of a voice, mono, at 8, 16 or 48 kHz.
pub fn samples(voice: Voice, rate_hz: u32) -> Result<Vec<i16>> {
    let file = FILES.iter().find(|(v, r, _)| (*v, *r) == (voice, rate_hz));
    let (_, _, bytes) = file.with_context(|| format!("no recording at {rate_hz} Hz"))?;
    let reader = hound::WavReader::new(Cursor::new(*bytes)).context("a recording is damaged")?;
    let spec = reader.spec();
    ensure!(
        spec.channels == 1 && spec.bits_per_sample == 16 && spec.sample_rate == rate_hz,
        "a recording is not 16 bit mono at {rate_hz} Hz"
    );
    reader.into_samples().collect::<Result<_, _>>().context("a recording is damaged")
}

/// Samples of 10 ms at 8 kHz: the step of the comparison.
const STEP: usize = 80;
/// Steps needed before a likeness means anything: 1.5 s.
const STEPS_MIN: usize = 150;
/// Steps compared at one alignment, 2 s: playout buffers may move the sound now and then.
const WINDOW: usize = 200;
/// How far a window's alignment is looked for around that of the whole, in steps: 1 s.
const SLIP_MAX: usize = 100;

/// How well a sound was recognised.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Likeness {
    /// Correlation of loudness over time at the best alignment, 0.0 to 1.0: mean of windows of
    /// 2 s in which the voice speaks.
    pub correlation: f64,
    /// How far into the (repeating) reference the sound begins, in ms.
    pub offset_ms: u64,
    /// By how much the alignment of the windows differs at most: what playout buffers did.
    pub slip_ms: u64,
}

/// Compares a sound at 8 kHz with a voice that repeats itself without end.
///
/// 0 for silence and for less than 1.5 s; above 0.9 for the same speech through any codec of ours;
/// well under 0.7 for another.
pub fn likeness(sound: &[i16], reference: &[i16]) -> Likeness {
    let heard = envelope(sound);
    let told = envelope(reference);
    if heard.len() < STEPS_MIN || told.is_empty() || flat(&heard) {
        return Likeness::default();
    }
    let whole = best(&heard, &told, 0, told.len());
    let mut found = Vec::new();
    for (index, window) in heard.chunks(WINDOW).enumerate() {
        let expected = told.len() + whole.shift + index * WINDOW - SLIP_MAX;
        let spoken: Vec<f64> =
            told.iter().cycle().skip(expected + SLIP_MAX).take(window.len()).copied().collect();
        // Pauses look like anything; so does the short rest at the end.
        if window.len() < STEPS_MIN || flat(&spoken) {
            continue;
        }
        found.push(best(window, &told, expected, 2 * SLIP_MAX));
    }
    let shifts = || found.iter().map(|f| f.shift);
    let slip = shifts().max().unwrap_or(0) - shifts().min().unwrap_or(0);
    let sum: f64 = found.iter().map(|f| f.correlation.max(0.0)).sum();
    let mean = if found.is_empty() { whole.correlation } else { sum / found.len() as f64 };
    Likeness {
        correlation: mean.clamp(0.0, 1.0),
        offset_ms: whole.shift as u64 * 10,
        slip_ms: slip as u64 * 10,
    }
}

/// An alignment: `shift` steps after where the search began.
struct Found {
    correlation: f64,
    shift: usize,
}

fn best(heard: &[f64], told: &[f64], from: usize, count: usize) -> Found {
    (0..count)
        .map(|shift| Found { correlation: correlation(heard, told, from + shift), shift })
        .max_by(|a, b| a.correlation.total_cmp(&b.correlation))
        .unwrap_or(Found { correlation: 0.0, shift: 0 })
}

/// Loudness of each step in dB over a floor of about −60 dBov, so that codec noise in pauses
/// weighs nothing.
fn envelope(sound: &[i16]) -> Vec<f64> {
    const FLOOR: f64 = 1_000.0;
    let loudness = |step: &[i16]| {
        let energy: f64 = step.iter().map(|s| f64::from(*s) * f64::from(*s)).sum();
        10.0 * (energy / step.len() as f64 + FLOOR).log10()
    };
    sound.chunks_exact(STEP).map(loudness).collect()
}

/// Without variation there is no speech, however loud.
fn flat(envelope: &[f64]) -> bool {
    let mean = envelope.iter().sum::<f64>() / envelope.len() as f64;
    let variance = envelope.iter().map(|x| (x - mean).powi(2)).sum::<f64>();
    variance / (envelope.len() as f64) < 4.0
}

fn correlation(heard: &[f64], told: &[f64], from: usize) -> f64 {
    let n = heard.len() as f64;
    let (mut a, mut b, mut aa, mut bb, mut ab) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for (x, y) in heard.iter().zip(told.iter().cycle().skip(from % told.len().max(1))) {
        a += x;
        b += y;
        aa += x * x;
        bb += y * y;
        ab += x * y;
    }
    let spread = ((aa - a * a / n) * (bb - b * b / n)).sqrt();
    if spread > 0.0 { (ab - a * b / n) / spread } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn english() -> Vec<i16> {
        samples(Voice::English, 8_000).unwrap()
    }

    #[test]
    fn all_recordings_are_ten_seconds_of_speech() {
        for (voice, rate, _) in FILES {
            let samples = samples(voice, rate).unwrap();
            let seconds = samples.len() as f64 / f64::from(rate);
            assert!((9.5..11.5).contains(&seconds), "{voice:?} {rate}: {seconds} s");
            assert!(samples.iter().any(|s| s.abs() > 3_000));
        }
        assert!(samples(Voice::English, 44_100).is_err());
    }

    #[test]
    fn the_same_speech_is_recognised_wherever_it_begins() {
        let told = english();
        let heard: Vec<i16> = told.iter().cycle().skip(24_000).take(64_000).copied().collect();
        let found = likeness(&heard, &told);
        assert!(found.correlation > 0.999, "{found:?}");
        assert_eq!(found.offset_ms, 3_000);
        // Half as loud, noisy, and between two steps.
        let mut rng = crate::rng::Rng::new(1);
        let heard: Vec<i16> = heard
            .iter()
            .skip(37)
            .map(|s| s / 2 + i16::try_from(rng.below(60)).unwrap() - 30)
            .collect();
        assert!(likeness(&heard, &told).correlation > 0.95);
    }

    #[test]
    fn silence_tone_and_strangers_are_not_recognised() {
        let told = english();
        assert_eq!(likeness(&vec![0; 80_000], &told).correlation, 0.0);
        let tone: Vec<i16> = (0..80_000).map(|n| if n % 16 < 8 { 4_000 } else { -4_000 }).collect();
        assert_eq!(likeness(&tone, &told).correlation, 0.0);
        let spanish = samples(Voice::Spanish, 8_000).unwrap();
        let stranger = likeness(&spanish, &told).correlation;
        assert!(stranger < 0.7, "{stranger}");
        assert_eq!(likeness(&told[..8_000], &told).correlation, 0.0);
    }

    #[test]
    fn a_moved_playout_is_still_the_voice() {
        let told = english();
        let mut heard: Vec<i16> = told.iter().chain(&told).take(100_000).copied().collect();
        heard.drain(30_000..30_800);
        heard.splice(60_000..60_000, vec![0; 1_600]);
        let found = likeness(&heard, &told);
        assert!(found.correlation > 0.85, "{found:?}");
        assert!((100..=300).contains(&found.slip_ms), "{found:?}");
    }

    #[test]
    fn chopped_speech_is_not_taken_for_whole() {
        let told = english();
        let mut heard = told.clone();
        for second in heard.chunks_mut(3_200) {
            second[..1_600].fill(0);
        }
        assert!(likeness(&heard, &told).correlation < 0.8);
    }
}
