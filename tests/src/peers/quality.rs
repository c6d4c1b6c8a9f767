//! How good a recording sounds: PESQ (ITU-T P.862, narrow-band), by the reference implementation.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use chaos::speech::{Voice, samples};

/// PESQ of `recording` (any rate, mono) against a voice of ours; 4.5 is undamaged.
pub fn pesq(voice: Voice, recording: &Path) -> Result<f64> {
    let narrow = recording.with_extension("8k.wav");
    let reference = recording.with_extension("reference.wav");
    write_wav(&reference, 8_000, samples(voice, 8_000)?)?;
    let converted = Command::new("sox")
        .arg(recording)
        .args(["-r", "8000", "-c", "1", "-b", "16"])
        .arg(&narrow)
        .output()
        .context("cannot start sox: install it (tests/run does)")?;
    if !converted.status.success() {
        bail!("sox cannot read {}: {}", recording.display(), text(&converted.stderr));
    }
    let scored = Command::new(python())
        .arg(crate::root().join("tests/tools/pesq_score.py"))
        .args([&reference, &narrow])
        .output()
        .with_context(|| {
            format!("cannot start {}: `tests/run e2e` makes it", python().display())
        })?;
    if !scored.status.success() {
        bail!("PESQ of {} failed: {}", recording.display(), text(&scored.stderr));
    }
    let answer = text(&scored.stdout);
    let score = answer.split_whitespace().next().and_then(|s| s.parse().ok());
    score.with_context(|| format!("PESQ said '{answer}'"))
}

/// The Python that has `pesq`; `tests/run` makes it under the target directory.
fn python() -> PathBuf {
    let made = std::env::var_os("VOXMESH_PESQ").map(PathBuf::from);
    made.unwrap_or_else(|| crate::root().join("target/tools/pesq/bin/python"))
}

/// The samples of a recording, mono.
pub fn read_wav(path: &Path) -> Result<Vec<i16>> {
    let file =
        hound::WavReader::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let samples = file.into_samples().collect::<hound::Result<_>>();
    samples.with_context(|| format!("{} is damaged", path.display()))
}

/// 16 bit, mono.
pub(crate) fn write_wav(path: &Path, rate_hz: u32, sound: Vec<i16>) -> Result<()> {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: rate_hz,
        bits_per_sample: 16,
        sample_format: hound::SampleFormat::Int,
    };
    let mut file = hound::WavWriter::create(path, spec)
        .with_context(|| format!("cannot write {}", path.display()))?;
    sound.into_iter().try_for_each(|sample| file.write_sample(sample))?;
    Ok(file.finalize()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}
