//! Through one POP: rewriting, telephone events, refusals, latching, a change of codec.

use super::*;
use crate::rtp::telephone_event::Event;

#[test]
fn a_packet_is_relayed_in_place() {
    let mut media = media(1);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    connect(&mut media, b, Far::Leg(a));
    let mut before: Option<Header> = None;
    for n in 0..200 {
        let mut bytes = packet(header(0, n), &[n as u8; 160]);
        let verdict = media.handle_rtp(a, address(10), &mut bytes, at(u64::from(n) * 20));
        let (leg, dst, header, payload) = forwarded(verdict, &bytes);
        assert_eq!((leg, dst, payload), (b, address(20), vec![n as u8; 160]));
        assert_ne!(header.ssrc, 77);
        if let Some(before) = before {
            assert_eq!(header.sequence, before.sequence.wrapping_add(1));
            assert_eq!(header.timestamp, before.timestamp.wrapping_add(160));
            assert_eq!(header.ssrc, before.ssrc);
        }
        before = Some(header);
    }
    let mut back = packet(header(0, 5), &[1; 240]);
    let verdict = media.handle_rtp(b, address(20), &mut back, at(4_000));
    assert_eq!(forwarded(verdict, &back).1, address(10));
    assert_eq!(media.quality(a).unwrap().received, 200);
    assert_eq!(media.poll_event(), Some(MediaEvent::FirstPacket { leg: a }));
    assert_eq!((media.counters().rtp_received, media.counters().rtp_sent), (201, 201));
}

#[test]
fn keys_are_relayed_with_their_own_payload_type_and_clock() {
    let mut media = media(2);
    let (a, b) = (open(&mut media, 10, Codec::Opus), open(&mut media, 20, Codec::Opus));
    let mut other = params(Codec::Opus, 20);
    other.telephone_event = Some(TelephoneEvent { payload_type: 96, clock_rate: 48_000 });
    media.handle_command(&MediaCommand::SetLeg { leg: b, params: other.clone() }, at(0));
    connect(&mut media, a, Far::Leg(b));
    let mut audio = packet(header(111, 0), &[0xf8; 40]);
    let verdict = media.handle_rtp(a, address(10), &mut audio, at(0));
    let audio = forwarded(verdict, &audio).2;
    let mut timestamps = Vec::new();
    for n in 1..4_u32 {
        let event = Event { code: 5, end: n == 3, volume: 10, duration: n as u16 * 160 };
        let header = Header { timestamp: 4_242, ..header(101, n) };
        let mut bytes = packet(header, &event.encode());
        let verdict = media.handle_rtp(a, address(10), &mut bytes, at(u64::from(n) * 20));
        let (_, _, header, payload) = forwarded(verdict, &bytes);
        assert_eq!(header.payload_type, 96);
        assert_eq!(header.sequence, audio.sequence.wrapping_add(n as u16));
        assert_eq!(Event::decode(&payload).unwrap().duration, n as u16 * 960);
        timestamps.push(header.timestamp);
    }
    assert_eq!(timestamps, [audio.timestamp.wrapping_add(960); 3]);
    other.telephone_event = None;
    media.handle_command(&MediaCommand::SetLeg { leg: b, params: other }, at(100));
    let mut bytes = packet(header(101, 4), &[0; 4]);
    let verdict = media.handle_rtp(a, address(10), &mut bytes, at(100));
    assert_eq!(verdict, Verdict::Drop(DropReason::NoTelephoneEvent));
}

#[test]
fn keys_come_with_the_number_of_our_offer_too() {
    let mut media = media(3);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    let mut answered = params(Codec::Pcmu, 10);
    answered.telephone_event = Some(TelephoneEvent { payload_type: 96, clock_rate: 8_000 });
    answered.offered_telephone_event = Some(101);
    media.handle_command(&MediaCommand::SetLeg { leg: a, params: answered }, at(0));
    for (n, number) in [(1, 96), (2, 101)] {
        let event = Event { code: 5, end: false, volume: 10, duration: 160 };
        let mut bytes = packet(header(number, n), &event.encode());
        let verdict = media.handle_rtp(a, address(10), &mut bytes, at(20));
        assert_eq!(forwarded(verdict, &bytes).2.payload_type, 101);
    }
}

#[test]
fn each_refusal_has_its_reason() {
    let mut media = media(3);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    let drop = |media: &mut Media, leg, port, mut bytes: Vec<u8>| match media.handle_rtp(
        leg,
        address(port),
        &mut bytes,
        at(1),
    ) {
        Verdict::Drop(reason) => Some(reason),
        _ => None,
    };
    let good = packet(header(0, 1), &[0; 160]);
    let reasons = [
        (drop(&mut media, LegId(9), 10, good.clone()), DropReason::UnknownLeg),
        (drop(&mut media, a, 10, vec![0; 4]), DropReason::MalformedRtp),
        (drop(&mut media, a, 10, packet(header(14, 1), &[0])), DropReason::UnknownPayloadType),
        (drop(&mut media, a, 10, vec![0x80, 200, 0, 0]), DropReason::MalformedRtp),
        (drop(&mut media, a, 10, good.clone()), DropReason::NotConnected),
    ];
    for (reason, expected) in reasons {
        assert_eq!(reason, Some(expected));
    }
    connect(&mut media, a, Far::Leg(b));
    assert_eq!(drop(&mut media, a, 10, good.clone()), None);
    assert_eq!(drop(&mut media, a, 11, good.clone()), Some(DropReason::WrongSource));
    let hold = |direction| LegParams { direction, ..params(Codec::Pcmu, 20) };
    let set = |media: &mut Media, leg, direction, port| {
        let params = LegParams { remote_rtp: Some(address(port)), ..hold(direction) };
        media.handle_command(&MediaCommand::SetLeg { leg, params }, at(2));
    };
    set(&mut media, b, Direction::RecvOnly, 20);
    assert_eq!(drop(&mut media, a, 10, good.clone()), Some(DropReason::NotSending));
    set(&mut media, a, Direction::SendOnly, 10);
    assert_eq!(drop(&mut media, a, 10, good.clone()), Some(DropReason::NotReceiving));
    set(&mut media, a, Direction::SendRecv, 10);
    set(&mut media, b, Direction::SendRecv, 0);
    assert_eq!(drop(&mut media, a, 10, good.clone()), Some(DropReason::NoRemote));
    media.handle_command(&MediaCommand::Disconnect { leg: b }, at(3));
    assert_eq!(drop(&mut media, a, 10, good), Some(DropReason::NotConnected));
    assert_eq!(media.counters().dropped(DropReason::NotConnected), 2);
    let all: u64 = DropReason::ALL.iter().map(|&r| media.counters().dropped(r)).sum();
    assert_eq!(all, 10);
}

#[test]
fn the_address_moves_once_and_a_stranger_is_refused() {
    let mut media = media(4);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    let send = |media: &mut Media, leg, port, n| {
        media.handle_rtp(leg, address(port), &mut packet(header(0, n), &[0; 160]), at(20))
    };
    send(&mut media, a, 4_444, 1);
    assert_eq!(media.poll_event(), Some(MediaEvent::Latched { leg: a, remote: address(4_444) }));
    let back = send(&mut media, b, 20, 1);
    assert!(matches!(back, Verdict::Forward { leg, dst, .. } if (leg, dst) == (a, address(4_444))));
    assert_eq!(send(&mut media, a, 5_555, 2), Verdict::Drop(DropReason::WrongSource));
}

#[test]
fn a_codec_change_in_a_call_goes_on_in_the_same_stream() {
    let mut media = media(7);
    let (a, b) = (open(&mut media, 10, Codec::Pcma), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    let mut out: Vec<Header> = Vec::new();
    for n in 0..150_u32 {
        let now = at(u64::from(n) * 20);
        while let Some(due) = media.poll_timeout().filter(|&due| due <= now) {
            media.handle_timeout(due);
        }
        if n == 50 || n == 100 {
            let codec = if n == 50 { Codec::Pcma } else { Codec::Pcmu };
            let params = params(codec, 20);
            media.handle_command(&MediaCommand::SetLeg { leg: b, params }, now);
        }
        while let Some(transmit) = media.poll_transmit() {
            if let MediaTransmit::Rtp { bytes, .. } = transmit {
                out.push(Packet::parse(&bytes).unwrap().header);
            }
        }
        let mut bytes = packet(header(8, n), &[0xd5; 160]);
        match media.handle_rtp(a, address(10), &mut bytes, now) {
            Verdict::Forward { .. } => out.push(Packet::parse(&bytes).unwrap().header),
            verdict => assert_eq!(verdict, Verdict::Consumed),
        }
    }
    assert!(out.len() > 140, "{}", out.len());
    for pair in out.windows(2) {
        assert_eq!(pair[1].sequence, pair[0].sequence.wrapping_add(1));
        let ahead = pair[1].timestamp.wrapping_sub(pair[0].timestamp);
        assert!((160..=480).contains(&ahead), "{ahead}");
        assert_eq!(pair[1].ssrc, pair[0].ssrc);
    }
    let types: Vec<u8> = out.iter().map(|h| h.payload_type).collect();
    assert_eq!((types[0], types[70], types[140]), (0, 8, 0));
}
