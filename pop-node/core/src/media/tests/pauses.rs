//! Comfort noise (RFC 3389) and redundant audio (RFC 2198) on their way through.

use proto::overlay::{Datagram, FrameKind};

use super::*;
use crate::rtp::red;

/// A and B with the codecs; B takes comfort noise as type 13 or not, A may send redundant audio.
fn pair(codecs: [Codec; 2], comfort_noise: Option<u8>) -> (Media, LegId, LegId) {
    let mut media = media(12);
    let (a, b) = (open(&mut media, 10, codecs[0]), open(&mut media, 20, codecs[1]));
    connect(&mut media, a, Far::Leg(b));
    let near = LegParams { redundant: Some(121), ..params(codecs[0], 10) };
    media.handle_command(&MediaCommand::SetLeg { leg: a, params: near }, at(0));
    let far = LegParams { comfort_noise, ..params(codecs[1], 20) };
    media.handle_command(&MediaCommand::SetLeg { leg: b, params: far }, at(0));
    (media, a, b)
}

#[test]
fn comfort_noise_is_relayed_to_who_takes_it() {
    let (mut media, a, b) = pair([Codec::Pcmu; 2], Some(13));
    let mut last = None;
    for (n, payload_type) in [0, 0, 13, 13, 0].into_iter().enumerate() {
        let payload = if payload_type == 13 { vec![60; 1] } else { vec![1; 160] };
        let mut bytes = packet(header(payload_type, n as u32), &payload);
        let verdict = media.handle_rtp(a, address(10), &mut bytes, at(n as u64 * 20));
        let (leg, _, header, relayed) = forwarded(verdict, &bytes);
        assert_eq!((leg, header.payload_type, relayed), (b, payload_type, payload));
        if let Some((sequence, timestamp)) = last.replace((header.sequence, header.timestamp)) {
            assert_eq!(header.sequence.wrapping_sub(sequence), 1);
            assert_eq!(header.timestamp.wrapping_sub(timestamp), 160);
        }
    }
    assert_eq!(media.quality(a).unwrap().lost, 0);
}

#[test]
fn comfort_noise_crosses_pops_as_its_own_kind() {
    let mut media = media(13);
    let a = open(&mut media, 10, Codec::Pcmu);
    connect(&mut media, a, stream("bbb1", 5, 6, Codec::Pcmu));
    let mut sent = |n: u32| {
        let mut bytes = packet(header(13, n), &[60]);
        media.handle_rtp(a, address(10), &mut bytes, at(u64::from(n) * 20));
        let Some(MediaTransmit::Datagram { bytes, .. }) = media.poll_transmit() else { panic!() };
        bytes
    };
    let both = [sent(0), sent(1)];
    let datagram = Datagram::decode(&both[0]).unwrap();
    let frame = datagram.frames().next().unwrap().unwrap();
    assert_eq!((frame.kind, frame.payload), (FrameKind::ComfortNoise, &[60][..]));
    // And back, to a phone that takes it and one that does not.
    let mut back = media_with_stream();
    for (datagram, (comfort_noise, sent)) in both.iter().zip([(Some(13), true), (None, false)]) {
        let params = LegParams { comfort_noise, ..params(Codec::Pcmu, 10) };
        back.handle_command(&MediaCommand::SetLeg { leg: LegId(10), params }, at(0));
        back.handle_datagram(&pop("aaa1"), datagram, at(5));
        let left = std::iter::from_fn(|| back.poll_transmit())
            .any(|transmit| matches!(transmit, MediaTransmit::Rtp { .. }));
        assert_eq!(left, sent);
    }
    assert_eq!(back.counters().dropped(DropReason::NoComfortNoise), 1);
}

fn media_with_stream() -> Media {
    let mut media = media(14);
    let leg = open(&mut media, 10, Codec::Pcmu);
    connect(&mut media, leg, stream("aaa1", 6, 5, Codec::Pcmu));
    media
}

#[test]
fn comfort_noise_becomes_noise_where_codecs_differ() {
    let (mut media, a, _) = pair([Codec::Pcmu, Codec::Pcma], None);
    let mut heard = 0;
    for n in 0..200_u32 {
        let now = at(u64::from(n) * 20);
        while let Some(due) = media.poll_timeout().filter(|&due| due <= now) {
            media.handle_timeout(due);
        }
        match n {
            0..50 => {
                _ = media.handle_rtp(a, address(10), &mut packet(header(0, n), &[1; 160]), now)
            }
            50 => _ = media.handle_rtp(a, address(10), &mut packet(header(13, n), &[55]), now),
            _ => {}
        }
        while let Some(transmit) = media.poll_transmit() {
            heard += u32::from(matches!(transmit, MediaTransmit::Rtp { .. }));
        }
    }
    assert!((198..=200).contains(&heard), "a packet every 20 ms, all the pause long: {heard}");
    assert_eq!((media.counters().concealed, media.quality(a).unwrap().lost), (0, 0));
}

/// Packet `n`, which lasts 160 units, with copies of the two before it.
fn redundant(n: u32) -> Vec<u8> {
    let voice = |n: u32| [n as u8; 160];
    let copies = [(320, voice(n.wrapping_sub(2))), (160, voice(n.wrapping_sub(1)))];
    let mut payload = Vec::new();
    red::write(&mut payload, 0, copies.iter().map(|(age, copy)| (*age, &copy[..])), &voice(n));
    packet(header(121, n), &payload)
}

/// All that leaves for B, in order: sequence, timestamp, payload type, first byte.
fn relayed(numbers: impl Iterator<Item = u32>) -> (Media, Vec<(u16, u32, u8, u8)>) {
    let (mut media, a, _) = pair([Codec::Pcmu; 2], None);
    let mut left = Vec::new();
    for n in numbers {
        let mut bytes = redundant(n);
        let before = bytes.len();
        let mut room = Received::new(&mut bytes, before);
        let verdict =
            media.handle_rtp(a, address(10), Received::new(room.buffer, before), at(n.into()));
        let mut leave = |bytes: &[u8]| {
            let Packet { header, payload } = Packet::parse(bytes).unwrap();
            assert_eq!(payload, [payload[0]; 160]);
            left.push((header.sequence, header.timestamp, header.payload_type, payload[0]));
        };
        while let Some(transmit) = media.poll_transmit() {
            if let MediaTransmit::Rtp { bytes, .. } = transmit {
                leave(&bytes);
            }
        }
        let Verdict::Forward { length, .. } = verdict else { panic!("{verdict:?}") };
        leave(&room.packet_mut()[..length]);
    }
    (media, left)
}

#[test]
fn copies_take_the_place_of_what_was_lost() {
    // One, two, and three in a row are lost.
    let lost = [5, 10, 11, 20, 21, 22];
    let (media, left) = relayed((2..40).filter(|n| !lost.contains(n)));
    let heard: Vec<u8> = left.iter().map(|&(.., byte)| byte).collect();
    let expected: Vec<u8> = (2..40).filter(|&n| n != 20).collect();
    assert_eq!(heard, expected, "two copies are in each packet");
    for (n, &(sequence, timestamp, payload_type, byte)) in left.iter().enumerate() {
        let steps = u32::from(byte) - 2;
        assert_eq!(payload_type, 0, "{n}");
        assert_eq!(sequence.wrapping_sub(left[0].0), steps as u16);
        assert_eq!(timestamp.wrapping_sub(left[0].1), steps * 160);
    }
    assert_eq!(media.counters().repaired, 5);
    let quality = media.quality(LegId(10)).unwrap();
    assert_eq!((quality.lost, quality.repaired), (6, 5));
    let (unrepaired, _) = relayed((2..40).filter(|n| !(20..26).contains(n)));
    let bad = unrepaired.quality(LegId(10)).unwrap();
    assert!(quality.mos > bad.mos, "what is repaired is not heard: {} {}", quality.mos, bad.mos);
}

#[test]
fn copies_repair_what_is_transcoded() {
    let heard = |with_copies: bool| {
        let (mut media, a, _) = pair([Codec::Pcmu, Codec::Pcma], None);
        for n in (2..300_u32).filter(|n| n % 10 != 7) {
            let now = at(u64::from(n) * 20);
            while let Some(due) = media.poll_timeout().filter(|&due| due <= now) {
                media.handle_timeout(due);
            }
            let mut bytes =
                if with_copies { redundant(n) } else { packet(header(0, n), &[n as u8; 160]) };
            media.handle_rtp(a, address(10), &mut bytes, now);
            while media.poll_transmit().is_some() {}
        }
        (media.counters().concealed, media.counters().repaired)
    };
    let (concealed, repaired) = heard(true);
    assert_eq!(repaired, 30, "{concealed}");
    // Before the first copy came nobody knew that there would be any.
    assert!(concealed <= 2 && heard(false).0 >= 25, "{concealed} {:?}", heard(false));
}

#[test]
fn padding_behind_redundant_audio_goes() {
    let (mut media, a, b) = pair([Codec::Pcmu; 2], None);
    let mut bytes = redundant(7);
    bytes[0] |= 0x20;
    bytes.extend([0, 0, 0, 4]);
    let Verdict::Forward { leg, length, .. } = media.handle_rtp(a, address(10), &mut bytes, at(0))
    else {
        panic!("not forwarded")
    };
    let packet = Packet::parse(&bytes[..length]).unwrap();
    assert_eq!((leg, packet.header.payload_type, packet.payload), (b, 0, &[7; 160][..]));
}
