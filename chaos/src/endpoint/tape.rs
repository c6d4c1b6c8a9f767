//! The voice, encoded once per codec and shared by all calls; and back to sound.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Result;
use bytes::Bytes;
use pop_core::codec::resample::Down;
use pop_core::codec::{Codec, Decoder, Encoder, EncoderConfig};

use crate::speech::{self, Voice};

/// Rate of the sound that [`play`] makes.
pub const RATE_HZ: u32 = 8_000;

type Frames = Arc<[Bytes]>;

static TAPES: Mutex<BTreeMap<(Voice, Codec), Frames>> = Mutex::new(BTreeMap::new());
static INDICES: Mutex<BTreeMap<(Voice, Codec), Arc<Index>>> = Mutex::new(BTreeMap::new());

/// Which frames of a tape a payload may be: pauses look alike.
#[derive(Debug)]
pub struct Index {
    frames: BTreeMap<Bytes, Arc<[u16]>>,
    /// By place.
    alike: Vec<Arc<[u16]>>,
    length: u16,
}

impl Index {
    /// Places on the tape that hold exactly this payload; none: it is not of this tape.
    pub fn places(&self, payload: &[u8]) -> &[u16] {
        self.frames.get(payload).map_or(&[], |places| places)
    }

    /// All places that hold what this one holds.
    pub fn alike(&self, place: u16) -> &[u16] {
        self.alike.get(usize::from(place)).map_or(&[], |places| places)
    }

    /// Frames of the tape.
    pub const fn length(&self) -> u16 {
        self.length
    }
}

/// The index of a tape, made once.
pub fn index(voice: Voice, codec: Codec) -> Result<Arc<Index>> {
    let mut indices = INDICES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(index) = indices.get(&(voice, codec)) {
        return Ok(Arc::clone(index));
    }
    let tape = frames(voice, codec)?;
    let mut places: BTreeMap<Bytes, Vec<u16>> = BTreeMap::new();
    for (place, payload) in (0..).zip(tape.iter()) {
        places.entry(payload.clone()).or_default().push(place);
    }
    let length = u16::try_from(tape.len())?;
    let frames: BTreeMap<Bytes, Arc<[u16]>> =
        places.into_iter().map(|(payload, at)| (payload, at.into())).collect();
    let alike = tape.iter().filter_map(|payload| frames.get(payload).cloned()).collect();
    let index = Arc::new(Index { frames, alike, length });
    indices.insert((voice, codec), Arc::clone(&index));
    Ok(index)
}

/// Encodes everything that calls may need, so that no call waits for it.
pub fn warm_up() -> Result<()> {
    for voice in [Voice::English, Voice::Spanish] {
        for codec in Codec::ALL {
            frames(voice, codec)?;
        }
    }
    Ok(())
}

/// A voice in frames of 20 ms.
pub fn frames(voice: Voice, codec: Codec) -> Result<Frames> {
    let mut tapes = TAPES.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(frames) = tapes.get(&(voice, codec)) {
        return Ok(Arc::clone(frames));
    }
    let frames: Frames = encode(voice, codec)?.into();
    tapes.insert((voice, codec), Arc::clone(&frames));
    Ok(frames)
}

fn encode(voice: Voice, codec: Codec) -> Result<Vec<Bytes>> {
    encode_as(voice, codec, codec.sample_rate(), EncoderConfig::default())
}

/// A voice in frames of 20 ms, encoded from `rate_hz` as told (only Opus has choices).
pub fn encode_as(
    voice: Voice,
    codec: Codec,
    rate_hz: u32,
    config: EncoderConfig,
) -> Result<Vec<Bytes>> {
    let samples = speech::samples(voice, rate_hz)?;
    let mut encoder = Encoder::new(codec, rate_hz, config)?;
    // A rest shorter than a frame is left out: 20 ms of ten seconds.
    samples
        .chunks_exact(frame_samples(rate_hz))
        .map(|frame| {
            let mut payload = Vec::new();
            encoder.encode(frame, &mut payload)?;
            Ok(Bytes::from(payload))
        })
        .collect()
}

/// Decodes payloads of 20 ms, concealing what is lost (`None`) or damaged.
pub fn play(codec: Codec, payloads: &[Option<Bytes>]) -> Result<Vec<i16>> {
    // Opus decodes to any of its rates; G.722 has only one.
    let rate_hz = if codec == Codec::Opus { RATE_HZ } else { codec.sample_rate() };
    let mut decoder = Decoder::new(codec, rate_hz)?;
    let mut sound = Vec::new();
    for payload in payloads {
        let decoded = payload.as_ref().and_then(|p| decoder.decode(p, &mut sound).ok());
        if decoded.is_none() {
            decoder.conceal(frame_samples(rate_hz), None, &mut sound);
        }
    }
    if rate_hz == RATE_HZ {
        return Ok(sound);
    }
    let mut halved = Vec::with_capacity(sound.len() / 2);
    Down::default().process(&sound, &mut halved);
    Ok(halved)
}

/// 20 ms.
const fn frame_samples(rate_hz: u32) -> usize {
    rate_hz as usize / 50
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_codec_carries_the_voice_and_the_ear_knows_it() {
        for codec in Codec::ALL {
            for voice in [Voice::English, Voice::Spanish] {
                let told = speech::samples(voice, RATE_HZ).unwrap();
                let frames = frames(voice, codec).unwrap();
                assert!(frames.len() >= 490, "{codec:?}: {}", frames.len());
                let payloads: Vec<_> = frames.iter().cloned().map(Some).collect();
                let sound = play(codec, &payloads).unwrap();
                assert!(sound.len().abs_diff(told.len()) < 400, "{codec:?}: {}", sound.len());
                let likeness = speech::likeness(&sound, &told);
                assert!(likeness.correlation > 0.95, "{codec:?} {voice:?}: {likeness:?}");
                let other = speech::samples(voice.other(), RATE_HZ).unwrap();
                let stranger = speech::likeness(&sound, &other);
                assert!(stranger.correlation < 0.7, "{codec:?} {voice:?}: {stranger:?}");
            }
        }
    }

    #[test]
    fn losses_are_concealed_and_keep_the_rhythm() {
        for codec in Codec::ALL {
            let frames = frames(Voice::English, codec).unwrap();
            let lossy: Vec<_> =
                (0..).zip(frames.iter()).map(|(n, f)| (n % 20 != 7).then(|| f.clone())).collect();
            let sound = play(codec, &lossy).unwrap();
            let told = speech::samples(Voice::English, RATE_HZ).unwrap();
            let likeness = speech::likeness(&sound, &told);
            assert!(likeness.correlation > 0.85, "{codec:?}: {likeness:?}");
        }
    }
}
