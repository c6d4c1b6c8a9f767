//! A trunk whose link carries little: Opus at 10 kb/s in packets of 60 ms, each with a copy of the
//! one before (RFC 2198), from one POP that encodes to one that decodes.

use super::*;
use crate::codec::tests::{snr, speech};
use crate::codec::{EncoderConfig, ulaw_decode, ulaw_encode};
use crate::rtp::red::{Block, Blocks};

const RED: u8 = 121;
const PTIME_MS: u32 = 60;

/// The leg to the trunk; `copies` were agreed on or not.
fn trunk(port: u16, copies: bool) -> LegParams {
    let low = EncoderConfig { bitrate: 10_000, ..EncoderConfig::default() };
    let format = params(Codec::Opus, port).codec;
    LegParams {
        codec: Format { ptime_ms: PTIME_MS, fmtp: Some(low.to_fmtp()), ..format },
        redundant: copies.then_some(RED),
        copies: true,
        ..params(Codec::Opus, port)
    }
}

/// A phone with G.711 at port 10, the trunk at port 20.
fn pop(seed: u64, copies: bool) -> (Media, LegId, LegId) {
    let mut media = media(seed);
    let (phone, far) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Opus));
    media.handle_command(&MediaCommand::SetLeg { leg: far, params: trunk(20, copies) }, at(0));
    connect(&mut media, phone, Far::Leg(far));
    (media, phone, far)
}

fn sent_to(media: &mut Media, leg: LegId) -> Vec<Vec<u8>> {
    let sent = std::iter::from_fn(|| media.poll_transmit());
    let sent = sent.filter_map(|transmit| match transmit {
        MediaTransmit::Rtp { leg: to, bytes, .. } if to == leg => Some(bytes.to_vec()),
        _ => None,
    });
    sent.collect()
}

fn voice(n: u32, pcm: &[i16]) -> Vec<u8> {
    let payload: Vec<u8> = pcm.iter().map(|&sample| ulaw_encode(sample)).collect();
    packet(header(0, n), &payload)
}

/// What was heard of speech that crossed the link, packets of which were lost.
struct Heard {
    pcm: Vec<i16>,
    /// Bytes of RTP payload on the link, and how many packets.
    bytes: usize,
    packets: u32,
    concealed: u64,
    repaired: u64,
}

fn cross(copies: bool, is_lost: impl Fn(u32) -> bool) -> Heard {
    let (mut near, phone, out) = pop(21, copies);
    let (mut far, ear, back) = pop(22, copies);
    let mut heard = Heard { pcm: Vec::new(), bytes: 0, packets: 0, concealed: 0, repaired: 0 };
    let pcm = speech("hum_en_8k.wav");
    for (n, frame) in (0..).zip(pcm.chunks_exact(160).take(400)) {
        let now = at(u64::from(n) * 20);
        near.handle_rtp(phone, address(10), &mut voice(n, frame), now);
        near.handle_timeout(now);
        for mut bytes in sent_to(&mut near, out) {
            heard.bytes += bytes.len() - 12;
            heard.packets += 1;
            if !is_lost(heard.packets) {
                far.handle_rtp(back, address(20), &mut bytes, now);
            }
        }
        far.handle_timeout(now);
        for bytes in sent_to(&mut far, ear) {
            let samples = Packet::parse(&bytes).unwrap().payload.to_vec();
            heard.pcm.extend(samples.into_iter().map(ulaw_decode));
        }
    }
    heard.concealed = far.counters().concealed;
    heard.repaired = far.counters().repaired;
    heard
}

#[test]
fn the_link_carries_long_packets_at_a_low_rate() {
    let (with, without) = (cross(true, |_| false), cross(false, |_| false));
    // 8 s of 60 ms each; the last ones are still in the buffer.
    for heard in [&with, &without] {
        assert!((129..=133).contains(&heard.packets), "{}", heard.packets);
        assert!(heard.concealed <= 1, "{}", heard.concealed);
    }
    let rate = |heard: &Heard| heard.bytes * 8 / 8;
    assert!((7_000..12_000).contains(&rate(&without)), "{} b/s", rate(&without));
    let double = rate(&with) as f64 / rate(&without) as f64;
    assert!((1.9..2.2).contains(&double), "{double}");
    let quality = snr(&without.pcm[..32_000], &with.pcm, 800).0;
    assert!(quality > 60.0, "copies change nothing of what is heard: {quality} dB");
}

#[test]
fn copies_repair_what_the_link_loses() {
    // One in five, never two in a row.
    let lost = |n: u32| n % 5 == 3;
    let clean = cross(true, |_| false);
    let (with, without) = (cross(true, lost), cross(false, lost));
    assert!(with.repaired >= 25 && with.concealed <= 3, "{} {}", with.repaired, with.concealed);
    assert!(without.repaired == 0 && without.concealed >= 18, "{}", without.concealed);
    let like_clean = |heard: &Heard| snr(&clean.pcm[8_000..48_000], &heard.pcm[8_000..], 1_600).0;
    let (with, without) = (like_clean(&with), like_clean(&without));
    assert!(with > without + 6.0, "with copies {with} dB, without {without} dB");
}

#[test]
fn a_key_pressed_and_a_pause_leave_the_copies_in_order() {
    let (mut media, phone, out) = pop(23, true);
    let pcm = speech("hum_en_8k.wav");
    let (mut events, mut left) = (Vec::new(), Vec::new());
    let mut sequence = 0_u32;
    for (n, frame) in (0..).zip(pcm.chunks_exact(160).take(300)) {
        let now = at(u64::from(n) * 20);
        let mut bytes = match n {
            // A key for 200 ms, then nothing for a second.
            100..110 => {
                let mut event = Header { timestamp: header(101, 100).timestamp, ..header(101, 0) };
                event.sequence = header(101, sequence).sequence;
                packet(event, &[5, 10, 0, ((n - 99) * 16) as u8])
            }
            150..200 => Vec::new(),
            _ => {
                let voice = voice(n, frame);
                let mut head = header(0, n);
                head.sequence = header(0, sequence).sequence;
                packet(head, &voice[12..])
            }
        };
        if !bytes.is_empty() {
            sequence += 1;
            match media.handle_rtp(phone, address(10), &mut bytes, now) {
                Verdict::Forward { .. } => {
                    let event = Packet::parse(&bytes).unwrap();
                    events.push((event.header.payload_type, event.payload[0], n));
                    left.push((event.header.sequence, event.header.timestamp, None));
                }
                Verdict::Consumed => {}
                dropped @ Verdict::Drop(_) => panic!("{n}: {dropped:?}"),
            }
        }
        media.handle_timeout(now);
        for bytes in sent_to(&mut media, out) {
            let Packet { header, payload } = Packet::parse(&bytes).unwrap();
            assert_eq!(header.payload_type, RED);
            let blocks = Blocks::parse(payload).unwrap();
            let of = |block: &Block| payload[block.range.clone()].to_vec();
            let copy = blocks.copies().first().map(|copy| (u32::from(copy.age), of(copy)));
            let newest = of(blocks.newest().unwrap());
            left.push((header.sequence, header.timestamp, Some((newest, copy, header.marker))));
        }
    }
    assert_eq!(events, (100..110).map(|n| (101, 5, n)).collect::<Vec<_>>());
    let mut copies = 0;
    for pair in left.windows(2) {
        let ((before, then, audio), (sequence, timestamp, next)) = (&pair[0], &pair[1]);
        assert_eq!(sequence.wrapping_sub(*before), 1, "one stream, whatever it carries");
        let Some((_, copy, marker)) = next else { continue };
        match (audio, copy) {
            (Some((before, ..)), Some((age, copy))) => {
                assert_eq!((*age, copy), (timestamp.wrapping_sub(*then), before));
                assert_eq!(*age, 48 * PTIME_MS);
                copies += 1;
            }
            (None, copy) => assert_eq!(*copy, None, "the packet before was a key"),
            (Some(_), None) => assert!(*marker, "only a talkspurt begins without"),
        }
    }
    assert!(copies > 60, "{copies}");
}

/// Relayed Opus, too; not what is richer than the link was said to carry.
#[test]
fn relayed_audio_gets_copies_while_it_is_small() {
    let mut media = media(24);
    let (a, b) = (open(&mut media, 10, Codec::Opus), open(&mut media, 20, Codec::Opus));
    media.handle_command(&MediaCommand::SetLeg { leg: b, params: trunk(20, true) }, at(0));
    connect(&mut media, a, Far::Leg(b));
    let mut types = Vec::new();
    for (n, length) in [75, 75, 75, 200, 75, 75].into_iter().enumerate() {
        let n = n as u32;
        let head = Header { timestamp: n * 2_880, ..header(111, n) };
        let mut bytes = packet(head, &vec![n as u8; length]);
        let verdict = media.handle_rtp(a, address(10), &mut bytes, at(u64::from(n) * 60));
        assert_eq!(verdict, Verdict::Consumed);
        for bytes in sent_to(&mut media, b) {
            let sent = Packet::parse(&bytes).unwrap();
            types.push((sent.header.payload_type, sent.payload.len()));
        }
    }
    let joined = |copy: usize, newest: usize| (RED, 5 + copy + newest);
    assert_eq!(
        types,
        [(RED, 76), joined(75, 75), joined(75, 75), joined(75, 200), (RED, 76), joined(75, 75)]
    );
}
