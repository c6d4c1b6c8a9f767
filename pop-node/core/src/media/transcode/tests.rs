use super::*;
use crate::codec::tests::{snr, speech};

fn format(codec: Codec, ptime_ms: u32) -> Format {
    Format { codec, payload_type: codec.offered_payload_type(), ptime_ms, fmtp: None }
}

const EFFORT: Effort = Effort { complexity: 5, affords_extras: true };

struct Run {
    /// What leaves, decoded, and when each packet left, in µs.
    pcm: Vec<i16>,
    left: Vec<u64>,
    stats: TranscodeStats,
    delay: Duration,
}

/// Sends speech through a transcoder. `network` says when packet `n`, sent at the given µs,
/// arrives, if it does.
fn run(
    from: (Codec, u32),
    to: (Codec, u32),
    seconds: usize,
    network: impl Fn(u64, u64) -> Option<u64>,
) -> Run {
    let rate = rates(from.0, to.0).0;
    let pcm = speech(if rate == 8_000 { "hum_en_8k.wav" } else { "hum_en_16k.wav" });
    run_with(from, to, (pcm, EncoderConfig::default()), seconds, network)
}

/// The same with audio and an encoder of one's own.
fn run_with(
    from: (Codec, u32),
    to: (Codec, u32),
    (pcm, config): (Vec<i16>, EncoderConfig),
    seconds: usize,
    network: impl Fn(u64, u64) -> Option<u64>,
) -> Run {
    let rate = rates(from.0, to.0).0;
    let mut encoder = Encoder::new(from.0, rate, config).unwrap();
    let frame = rate as usize / 1_000 * from.1 as usize;
    let mut arrivals = Vec::new();
    let pcm = pcm.iter().copied().cycle().take(rate as usize * seconds).collect::<Vec<_>>();
    for (n, pcm) in pcm.chunks_exact(frame).enumerate() {
        let mut packet = Vec::new();
        encoder.encode(pcm, &mut packet).unwrap();
        let sent = n as u64 * u64::from(from.1) * 1_000;
        if let Some(arrival) = network(n as u64, sent) {
            let timestamp = (n as u32).wrapping_mul(from.0.clock_rate() / 1_000 * from.1);
            arrivals.push((arrival, timestamp.wrapping_sub(5_000), packet));
        }
    }
    arrivals.sort();
    drive(from.0, &format(to.0, to.1), &arrivals)
}

fn drive(from: Codec, to: &Format, arrivals: &[(u64, u32, Vec<u8>)]) -> Run {
    let mut transcoder = Transcoder::new(from, to, EFFORT, false).unwrap();
    let rate = transcoder.encoder.rate();
    let mut decoder = Decoder::new(to.codec, rate).unwrap();
    let mut run = Run {
        pcm: Vec::new(),
        left: Vec::new(),
        stats: TranscodeStats::default(),
        delay: Duration::ZERO,
    };
    let timeouts =
        |transcoder: &mut Transcoder, run: &mut Run, decoder: &mut Decoder, until: u64| {
            while let Some(due) = transcoder.poll_timeout().filter(|due| due.as_micros() <= until) {
                while let Some(encoded) = transcoder.handle_timeout(due) {
                    run.left.push(due.as_micros());
                    decoder.decode(encoded.payload, &mut run.pcm).unwrap();
                }
            }
        };
    let mut late = 0;
    for (at, timestamp, packet) in arrivals {
        timeouts(&mut transcoder, &mut run, &mut decoder, *at);
        let pushed = transcoder.push((*timestamp, false), packet, Instant::from_nanos(at * 1_000));
        late += u64::from(pushed == Err(DropReason::PlayoutLate));
    }
    run.delay = transcoder.delay();
    timeouts(&mut transcoder, &mut run, &mut decoder, u64::MAX);
    assert_eq!(transcoder.poll_timeout(), None, "stops by itself");
    run.stats = transcoder.take_stats();
    run.stats.late += late;
    run
}

#[test]
fn any_codec_becomes_any_other_with_any_ptime() {
    for from in Codec::ALL {
        for to in Codec::ALL.into_iter().filter(|&to| to != from) {
            for (input, output) in [(20, 20), (10, 20), (20, 10), (20, 40), (60, 20), (40, 60)] {
                let run = run((from, input), (to, output), 3, |_, sent| Some(sent));
                let rate = rates(from, to).1;
                let reference =
                    speech(if rate == 8_000 { "hum_en_8k.wav" } else { "hum_en_16k.wav" });
                let (snr, _) = snr(&reference[..rate as usize * 2], &run.pcm, 400);
                assert!(snr > 7.0, "{from:?} {input} → {to:?} {output}: {snr} dB");
                let even = run.left.windows(2).all(|w| w[1] - w[0] == u64::from(output) * 1_000);
                assert!(even, "{from:?} {input} → {to:?} {output}: uneven");
                assert_eq!(run.stats.failed, 0);
            }
        }
    }
}

#[test]
fn a_clean_path_costs_20_ms_and_changes_nothing() {
    let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), 10, |_, sent| Some(sent));
    assert_eq!(run.left[0], 20_000);
    let (snr, delay) = snr(&speech("hum_en_8k.wav")[..72_000], &run.pcm, 200);
    assert!(snr > 32.0 && delay == 0, "{snr} dB at {delay}");
    // Only the end of the stream is made up.
    assert!(run.stats.concealed <= 11 && run.stats.late == 0, "{:?}", run.stats);
}

/// A sender with voice activity detection: a second of speech, then noise is described once.
#[test]
fn comfort_noise_fills_a_pause_and_nothing_is_concealed() {
    for (from, to) in [(Codec::Pcmu, Codec::Pcma), (Codec::Pcma, Codec::Opus)] {
        let mut transcoder = Transcoder::new(from, &format(to, 20), EFFORT, false).unwrap();
        let rate = transcoder.encoder.rate();
        let mut decoder = Decoder::new(to, rate).unwrap();
        let (mut pcm, mut left) = (Vec::new(), Vec::new());
        let mut until = |transcoder: &mut Transcoder, ms: u64| {
            let end = Instant::from_millis(ms);
            while let Some(due) = transcoder.poll_timeout().filter(|&due| due <= end) {
                while let Some(encoded) = transcoder.handle_timeout(due) {
                    left.push(due.as_micros());
                    decoder.decode(encoded.payload, &mut pcm).unwrap();
                }
            }
        };
        let mut speak = |transcoder: &mut Transcoder, packets: std::ops::Range<u64>| {
            for n in packets {
                until(transcoder, n * 20);
                let now = Instant::from_millis(n * 20);
                match n {
                    50 => transcoder.push_noise(50 * 160, &[50], now).unwrap(),
                    51..200 => {}
                    _ => transcoder.push((n as u32 * 160, false), &[0x20; 160], now).unwrap(),
                }
            }
        };
        speak(&mut transcoder, 0..250);
        assert!(left.windows(2).all(|w| w[1] - w[0] == 20_000), "{from:?}: a gap");
        assert_eq!(left.len(), 249, "{from:?}");
        let stats = transcoder.take_stats();
        assert_eq!((stats.concealed, stats.late, stats.failed), (0, 0, 0), "{from:?}");
        // 2 s in: noise of −50 dBov.
        let noise = &pcm[rate as usize * 2..rate as usize * 3];
        let power = noise.iter().map(|&s| f64::from(s).powi(2)).sum::<f64>() / noise.len() as f64;
        let dbov = 10.0 * (power / 32_768.0_f64.powi(2)).log10();
        assert!((-54.0..-48.0).contains(&dbov), "{from:?}: {dbov}");
    }
}

#[test]
fn a_pause_ends_when_nothing_comes_for_a_minute() {
    let mut transcoder =
        Transcoder::new(Codec::Pcmu, &format(Codec::Pcma, 20), EFFORT, false).unwrap();
    transcoder.push_noise(0, &[], Instant::from_millis(0)).unwrap();
    let mut packets = 0;
    while let Some(due) = transcoder.poll_timeout() {
        packets += u32::from(transcoder.handle_timeout(due).is_some());
    }
    assert!((3_000..3_010).contains(&packets), "{packets}");
}

/// An Opus peer with DTX sends next to nothing while nobody speaks; whoever hears it over G.711
/// gets a packet every 20 ms all the same.
#[test]
fn pauses_of_an_opus_peer_leave_no_gap() {
    let config = EncoderConfig { dtx: true, ..EncoderConfig::default() };
    let mut pcm: Vec<i16> = speech("hum_en_8k.wav")[..16_000].to_vec();
    let mut room = Vec::new();
    ComfortNoise::new(&[65]).make(32_000, &mut room);
    pcm.extend(room);
    pcm.extend_from_slice(&speech("hum_en_8k.wav")[..16_000]);
    let mut encoder = Encoder::new(Codec::Opus, 8_000, config).unwrap();
    let mut arrivals = Vec::new();
    for (n, frame) in pcm.chunks_exact(160).enumerate() {
        let mut packet = Vec::new();
        encoder.encode(frame, &mut packet).unwrap();
        if packet.len() > OPUS_PAUSE_BYTES {
            arrivals.push((n as u64 * 20_000, n as u32 * 960, packet));
        }
    }
    assert!(arrivals.len() < 300, "most of the pause is not sent: {}", arrivals.len());
    let run = drive(Codec::Opus, &format(Codec::Pcmu, 20), &arrivals);
    assert!(run.left.windows(2).all(|w| w[1] - w[0] == 20_000), "a gap");
    assert!(run.left.len() >= 400, "{}", run.left.len());
    // But for the end of the stream.
    assert!(run.stats.concealed <= 12, "{:?}", run.stats);
}

/// Pseudo-random jitter below `max` µs.
fn jitter(n: u64, max: u64) -> u64 {
    (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) % max.max(1)
}

#[test]
fn jitter_and_reordering_are_absorbed_after_a_moment() {
    for max_ms in [10, 40, 100, 180] {
        let network = |n, sent| Some(sent + jitter(n, max_ms * 1_000));
        let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), 40, network);
        let missed = run.stats.late + run.stats.concealed;
        // 97 % of the delays are waited for, and at the beginning fewer.
        assert!(missed < 2_000 / 12, "{max_ms} ms: {:?}", run.stats);
        let gaps: Vec<u64> =
            run.left.windows(2).map(|w| w[1] - w[0]).filter(|&g| g != 20_000).collect();
        assert!(gaps.len() <= 1, "{max_ms} ms: {gaps:?}");
        assert!(run.delay <= Duration::from_millis(200));
        let slack = u64::try_from(run.delay.as_millis()).unwrap();
        assert!(slack <= max_ms + 15, "{max_ms} ms of jitter take {slack} ms");
    }
}

#[test]
fn losses_are_concealed_and_the_rest_stays_in_place() {
    let network = |n, sent| (n % 20 != 7).then_some(sent);
    let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), 10, network);
    assert!((25..=36).contains(&run.stats.concealed), "{:?}", run.stats);
    let (snr, delay) = snr(&speech("hum_en_8k.wav"), &run.pcm, 200);
    assert!(snr > 8.0 && delay == 0, "{snr} dB at {delay}");
}

/// A loss is played from the copy in the packet after it, once such copies were seen.
#[test]
fn copies_repair_losses() {
    let run_of = |expected_loss| {
        let config = EncoderConfig { fec: true, expected_loss, ..EncoderConfig::default() };
        let network = |n, sent| (n % 10 != 7).then_some(sent);
        let speech = speech("hum_en_8k.wav");
        run_with((Codec::Opus, 20), (Codec::Pcmu, 20), (speech, config), 10, network)
    };
    let (without, with) = (run_of(0), run_of(20));
    assert_eq!(without.stats.repaired, 0);
    // In pauses there is nothing to copy.
    assert!(with.stats.repaired >= 30, "{:?}", with.stats);
    assert!(with.stats.concealed + 30 <= without.stats.concealed, "{:?}", with.stats);
    assert_eq!(with.delay - without.delay, Duration::from_millis(20));
}

#[test]
fn pauses_are_not_sent_to_who_wants_none() {
    let mut to = format(Codec::Opus, 20);
    to.fmtp = Some("usedtx=1".into());
    let packet = [crate::codec::ulaw_encode(0); 160];
    let arrivals: Vec<_> =
        (0..100_u32).map(|n| (u64::from(n) * 20_000, n * 160, packet.to_vec())).collect();
    let run = drive(Codec::Pcmu, &to, &arrivals);
    assert!((1..60).contains(&run.left.len()), "{} packets", run.left.len());
}

#[test]
fn a_drifting_sender_is_followed() {
    for ppm in [-300_i64, 300] {
        let network = |_, sent: u64| {
            let drift = i64::try_from(sent).unwrap() * ppm / 1_000_000;
            Some(sent.saturating_add_signed(drift))
        };
        let seconds = 120;
        let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), seconds, network);
        assert!(run.stats.late + run.stats.concealed <= 14, "{ppm} ppm: {:?}", run.stats);
        // 300 ppm of 120 s are 36 ms; the output goes on for 200 ms after the end.
        let (sent, left) = (seconds as i64 * 1_000_000, *run.left.last().unwrap() as i64);
        let lag = left - (sent + sent * ppm / 1_000_000);
        assert!((180_000..=260_000).contains(&lag), "{ppm} ppm: {lag} µs");
    }
}

#[test]
fn a_pause_stops_the_output_and_a_new_delay_is_taken_up() {
    let network = |n: u64, sent| match n {
        0..100 => Some(sent),
        100..150 => None,
        _ => Some(sent + 300_000),
    };
    let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), 6, network);
    let gaps: Vec<u64> =
        run.left.windows(2).map(|w| w[1] - w[0]).filter(|&g| g != 20_000).collect();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    assert!(run.stats.concealed <= 22 && run.stats.late == 0, "{:?}", run.stats);
}

#[test]
fn a_stall_is_caught_up_with() {
    // 400 ms come at once after a stall, as over a radio link.
    let network = |n: u64, sent| match n {
        100..120 => Some(2_400_000 + n),
        _ => Some(sent),
    };
    let run = run((Codec::Pcma, 20), (Codec::Pcmu, 20), 8, network);
    let last = *run.left.last().unwrap();
    assert!(last < 8_000_000 + 250_000, "{last}");
}

#[test]
fn garbage_is_refused_or_counted() {
    let mut transcoder =
        Transcoder::new(Codec::Opus, &format(Codec::Pcmu, 20), EFFORT, false).unwrap();
    for n in 0..2_000_u64 {
        let payload: Vec<u8> = (0..n % 40).map(|k| (jitter(n * 64 + k, 256)) as u8).collect();
        let _ = transcoder.push(
            (jitter(n, 1 << 31) as u32, n % 3 == 0),
            &payload,
            Instant::from_millis(n * 7),
        );
        while transcoder.handle_timeout(Instant::from_millis(n * 7)).is_some() {}
    }
}

#[test]
fn asked_packet_lengths_become_possible_ones() {
    for (codec, asked, ours) in [
        (Codec::Pcmu, 0, 20),
        (Codec::Pcmu, 30, 30),
        (Codec::Pcmu, 5, 10),
        (Codec::Pcmu, 500, 60),
        (Codec::Opus, 30, 20),
        (Codec::Opus, 50, 40),
        (Codec::Opus, 120, 60),
    ] {
        assert_eq!(ptime_ms(&format(codec, asked)), ours);
    }
}
