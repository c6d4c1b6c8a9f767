use proptest::prelude::*;

use super::*;

/// Human speech, ten seconds, at 8, 16 or 48 kHz.
pub(crate) fn speech(name: &str) -> Vec<i16> {
    let path =
        std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../chaos/speech").join(name);
    let mut reader = hound::WavReader::open(&path).unwrap_or_else(|e| panic!("{path:?}: {e}"));
    reader.samples::<i16>().map(Result::unwrap).collect()
}

/// The SNR in dB of `out` against `reference` at the best delay and gain, over the overlap.
/// Returns it with the delay in samples.
pub(crate) fn snr(reference: &[i16], out: &[i16], delay_max: usize) -> (f64, usize) {
    let score = |delay: usize| {
        let (mut cross, mut power, mut energy) = (0.0, 0.0, 0.0);
        for (&r, &o) in reference.iter().zip(out.iter().skip(delay)) {
            cross += f64::from(r) * f64::from(o);
            power += f64::from(r).powi(2);
            energy += f64::from(o).powi(2);
        }
        cross / (power * energy).sqrt().max(1.0)
    };
    let best = (0..delay_max).map(|d| (score(d), d));
    let (correlation, delay) = best.max_by(|a, b| a.0.total_cmp(&b.0)).unwrap();
    (-10.0 * (1.0 - correlation * correlation).max(1e-9).log10(), delay)
}

fn round_trip(
    codec: Codec,
    rate: u32,
    pcm: &[i16],
    ptime_ms: usize,
    lost: fn(usize) -> bool,
) -> Vec<i16> {
    let mut encoder = Encoder::new(codec, rate, EncoderConfig::default()).unwrap();
    let mut decoder = Decoder::new(codec, rate).unwrap();
    let frame = rate as usize * ptime_ms / 1_000;
    let mut out = Vec::new();
    for (n, pcm) in pcm.chunks_exact(frame).enumerate() {
        let mut packet = Vec::new();
        encoder.encode(pcm, &mut packet).unwrap();
        if lost(n) {
            decoder.conceal(frame, None, &mut out);
        } else {
            assert_eq!(decoder.samples(&packet), Ok(frame));
            assert_eq!(decoder.decode(&packet, &mut out), Ok(frame));
        }
    }
    out
}

#[test]
fn every_codec_carries_speech() {
    let (narrow, wide) = (speech("hum_en_8k.wav"), speech("hum_en_16k.wav"));
    for (codec, rate, at_least) in [
        (Codec::Pcmu, 8_000, 33.0),
        (Codec::Pcma, 8_000, 33.0),
        (Codec::G722, 16_000, 19.0),
        (Codec::Opus, 8_000, 8.0),
        (Codec::Opus, 16_000, 8.0),
    ] {
        let pcm = if rate == 8_000 { &narrow } else { &wide };
        for ptime_ms in [10, 20, 40, 60] {
            let out = round_trip(codec, rate, &pcm[..rate as usize * 3], ptime_ms, |_| false);
            let (snr, delay) = snr(pcm, &out, 400);
            assert!(snr > at_least, "{codec:?} {rate} {ptime_ms} ms: {snr} dB at {delay}");
        }
    }
}

/// Mean difference of frame levels in dB, over the frames that were lost.
fn level_error(clean: &[i16], out: &[i16], frame: usize, lost: fn(usize) -> bool) -> f64 {
    let level = |pcm: &[i16]| {
        let power: f64 = pcm.iter().map(|&s| f64::from(s).powi(2)).sum();
        10.0 * (power / frame as f64 + 100.0).log10()
    };
    let frames = clean.chunks_exact(frame).zip(out.chunks_exact(frame)).enumerate();
    let errors: Vec<f64> =
        frames.filter(|(n, _)| lost(*n)).map(|(_, (a, b))| (level(a) - level(b)).abs()).collect();
    errors.iter().sum::<f64>() / errors.len() as f64
}

#[test]
fn losses_are_filled_with_what_was_heard() {
    let (narrow, wide) = (speech("hum_en_8k.wav"), speech("hum_en_16k.wav"));
    let lost = |n: usize| n % 20 == 7;
    for (codec, rate) in [(Codec::Pcmu, 8_000), (Codec::G722, 16_000), (Codec::Opus, 8_000)] {
        let pcm = if rate == 8_000 { &narrow } else { &wide };
        let clean = round_trip(codec, rate, pcm, 20, |_| false);
        let concealed = round_trip(codec, rate, pcm, 20, lost);
        let frame = rate as usize / 50;
        let ours = level_error(&clean, &concealed, frame, lost);
        let silence = level_error(&clean, &vec![0; clean.len()], frame, lost);
        assert!(ours < silence / 4.0, "{codec:?}: {ours} dB, silence {silence} dB");
    }
}

#[test]
fn rates_and_frames_a_codec_cannot_do_are_refused() {
    assert!(Decoder::new(Codec::Pcmu, 16_000).is_err());
    assert!(Encoder::new(Codec::Opus, 44_100, EncoderConfig::default()).is_err());
    let mut encoder = Encoder::new(Codec::Opus, 8_000, EncoderConfig::default()).unwrap();
    let mut out = vec![1];
    assert_eq!(encoder.encode(&[0; 240], &mut out), Err(CodecError::Frame(240)));
    assert_eq!(encoder.encode(&[], &mut out), Err(CodecError::Frame(0)));
    assert_eq!(out, [1]);
    let mut encoder = Encoder::new(Codec::G722, 16_000, EncoderConfig::default()).unwrap();
    assert_eq!(encoder.encode(&[0; 321], &mut out), Err(CodecError::Frame(321)));
}

#[test]
fn names_and_numbers_agree() {
    for codec in Codec::ALL {
        assert_eq!(Codec::from_name(&codec.name().to_lowercase()), Some(codec));
        assert_eq!(Codec::try_from(proto::call::Codec::from(codec)), Ok(codec));
        if let Some(payload_type) = codec.static_payload_type() {
            assert_eq!(Codec::from_static_payload_type(payload_type), Some(codec));
        }
    }
}

proptest! {
    #[test]
    fn any_payload_decodes_or_fails(
        payloads in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300)), 0..6),
        which in 0..5_usize,
    ) {
        let (codec, rate) = [
            (Codec::Pcmu, 8_000), (Codec::Pcma, 8_000), (Codec::G722, 16_000),
            (Codec::Opus, 8_000), (Codec::Opus, 48_000),
        ][which];
        let mut decoder = Decoder::new(codec, rate).unwrap();
        let mut pcm = Vec::new();
        for (lost, payload) in &payloads {
            let before = pcm.len();
            if *lost {
                decoder.conceal(payload.len(), Some(payload), &mut pcm);
                prop_assert_eq!(pcm.len(), before + payload.len());
            } else {
                let done = decoder.decode(payload, &mut pcm).unwrap_or(0);
                prop_assert_eq!(pcm.len(), before + done);
            }
        }
    }
}
