//! Noise suppression of what comes from a trunk.

use super::*;
use crate::codec::denoise_tests::noisy;
use crate::codec::tests::{snr, speech};
use crate::codec::{ulaw_decode, ulaw_encode};

/// A noisy caller at port 10, another phone at port 20, both with G.711.
fn pair(suppress_noise: bool) -> (Media, LegId, LegId) {
    let mut media = media(31);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    let params = LegParams { suppress_noise, ..params(Codec::Pcmu, 10) };
    media.handle_command(&MediaCommand::SetLeg { leg: a, params }, at(0));
    connect(&mut media, a, Far::Leg(b));
    (media, a, b)
}

/// What B hears of A, at a load of the media thread.
fn heard(pcm: &[i16], suppress_noise: bool, load: f64) -> (Media, Vec<i16>) {
    let (mut media, a, _) = pair(suppress_noise);
    for _ in 0..4 {
        media.handle_load(load);
    }
    let mut heard = Vec::new();
    for (n, frame) in (0..).zip(pcm.chunks_exact(160)) {
        let payload: Vec<u8> = frame.iter().map(|&sample| ulaw_encode(sample)).collect();
        let mut bytes = packet(header(0, n), &payload);
        let now = at(u64::from(n) * 20);
        let verdict = media.handle_rtp(a, address(10), &mut bytes, now);
        media.handle_timeout(now);
        let made = std::iter::from_fn(|| media.poll_transmit()).filter_map(|t| match t {
            MediaTransmit::Rtp { bytes, .. } => Some(bytes.to_vec()),
            _ => None,
        });
        let relayed = matches!(verdict, Verdict::Forward { .. }).then_some(bytes);
        for bytes in made.chain(relayed) {
            heard.extend(Packet::parse(&bytes).unwrap().payload.iter().map(|&b| ulaw_decode(b)));
        }
    }
    (media, heard)
}

#[test]
fn a_noisy_caller_is_heard_cleaner_and_only_when_that_was_asked_for() {
    let clean = &speech("hum_en_8k.wav")[..48_000];
    let pcm = noisy(clean, 8.0);
    let quality = |heard: &[i16]| snr(&clean[..40_000], heard, 800).0;
    let (media, relayed) = heard(&pcm, false, 0.1);
    assert_eq!((media.counters().transcoded, media.counters().suppressed), (0, 0));
    let (media, suppressed) = heard(&pcm, true, 0.1);
    let (before, after) = (quality(&relayed), quality(&suppressed));
    assert!(after > before + 3.0, "{before:.1} dB before, {after:.1} dB after");
    assert!(media.counters().suppressed > 580 && media.counters().suppression_skipped == 0);
    assert_eq!(media.counters().concealed, 0, "as many samples leave as come");
    // 20 ms of playout, and what suppression adds.
    assert_eq!(media.quality(LegId(10)).unwrap().playout_delay, Duration::from_millis(43));
}

#[test]
fn a_busy_thread_leaves_the_noise() {
    let clean = &speech("hum_en_8k.wav")[..24_000];
    let (media, heard) = heard(&noisy(clean, 8.0), true, 0.95);
    assert_eq!(media.counters().suppressed, 0);
    assert!(media.counters().suppression_skipped > 280);
    let (quality, _) = snr(&noisy(clean, 8.0)[..16_000], &heard, 800);
    assert!(quality > 25.0, "as it came: {quality} dB");
}

/// Keys are not audio, and the other direction is nobody's business.
#[test]
fn keys_pass_and_the_other_direction_is_relayed() {
    let (mut media, a, b) = pair(true);
    for n in 0..20_u32 {
        let now = at(u64::from(n) * 20);
        let mut voice = packet(header(0, n), &[0xff; 160]);
        assert_eq!(media.handle_rtp(a, address(10), &mut voice, now), Verdict::Consumed);
        let mut back = packet(header(0, n), &[0xff; 160]);
        assert!(matches!(
            media.handle_rtp(b, address(20), &mut back, now),
            Verdict::Forward { leg, .. } if leg == a
        ));
        media.handle_timeout(now);
    }
    let mut key = packet(Header { timestamp: 7, ..header(101, 20) }, &[5, 10, 0, 160]);
    let verdict = media.handle_rtp(a, address(10), &mut key, at(401));
    let (leg, _, header, payload) = forwarded(verdict, &key);
    assert_eq!((leg, header.payload_type, payload), (b, 101, vec![5, 10, 0, 160]));
    let last = std::iter::from_fn(|| media.poll_transmit()).filter_map(|t| match t {
        MediaTransmit::Rtp { bytes, .. } => Some(Packet::parse(&bytes).unwrap().header.sequence),
        _ => None,
    });
    assert_eq!(header.sequence, last.last().unwrap().wrapping_add(1), "one stream");
}
