//! Legs whose media is SRTP.

use super::*;
use crate::srtp::{Inbound, KeySource, MasterKey, Outbound, Profile, SrtpKeys, TRAILER_BYTES_MAX};

fn keys(profile: Profile, secret: u8) -> SrtpKeys {
    let mut source = KeySource::new([secret; 32]);
    SrtpKeys { send: source.next(profile), receive: source.next(profile) }
}

fn secured(codec: Codec, port: u16, keys: Option<SrtpKeys>) -> LegParams {
    LegParams { srtp: keys.map(Box::new), ..params(codec, port) }
}

/// Two legs at one POP: what arrives at the first leaves by the second.
fn pair(a: LegParams, b: LegParams) -> (Media, LegId, LegId) {
    let mut media = media(7);
    let (first, second) = (LegId(1), LegId(2));
    for (leg, params) in [(first, a), (second, b)] {
        media.handle_command(&MediaCommand::OpenLeg { leg, local: address(1) }, at(0));
        media.handle_command(&MediaCommand::SetLeg { leg, params }, at(0));
    }
    media.handle_command(&MediaCommand::Connect { leg: first, to: Far::Leg(second) }, at(0));
    (media, first, second)
}

fn sealed(peer: &mut Outbound, plain: &[u8]) -> Vec<u8> {
    let mut buffer = plain.to_vec();
    buffer.resize(plain.len() + TRAILER_BYTES_MAX, 0);
    let length = peer.protect(&mut buffer, plain.len()).unwrap();
    buffer.truncate(length);
    buffer
}

fn peer_of(key: &MasterKey) -> Outbound {
    Outbound::new(key)
}

fn relay(
    media: &mut Media,
    leg: LegId,
    port: u16,
    bytes: &[u8],
    n: u32,
) -> Result<Vec<u8>, Verdict> {
    let mut buffer = bytes.to_vec();
    buffer.resize(bytes.len() + TRAILER_BYTES_MAX, 0);
    let received = Received::new(&mut buffer, bytes.len());
    match media.handle_rtp(leg, address(port), received, at(u64::from(n) * 20)) {
        Verdict::Forward { length, .. } => {
            buffer.truncate(length);
            Ok(buffer)
        }
        other => Err(other),
    }
}

#[test]
fn a_plain_leg_and_a_protected_one_hear_each_other() {
    for profile in Profile::ALL {
        let keys = keys(profile, 1);
        let (mut media, a, b) =
            pair(secured(Codec::Pcmu, 10, None), secured(Codec::Pcmu, 20, Some(keys.clone())));
        let (mut phone, mut ear) = (peer_of(&keys.receive), Inbound::new(&keys.send));
        for n in 0..1_000_u32 {
            let voice = n.to_be_bytes();
            let mut out = relay(&mut media, a, 10, &packet(header(0, n), &voice), n).unwrap();
            let length = ear.open(&mut out).unwrap();
            assert_eq!(Packet::parse(&out[..length]).unwrap().payload, voice);
            if n % 100 == 0 {
                let coming = sealed(&mut phone, &packet(header(0, n), &voice));
                let back = relay(&mut media, b, 20, &coming, n).unwrap();
                assert_eq!(Packet::parse(&back).unwrap().payload, voice);
            }
        }
        assert!(DropReason::ALL.iter().all(|reason| media.counters().dropped(*reason) == 0));
    }
}

#[test]
fn two_protected_legs_have_keys_of_their_own() {
    let (of_a, of_b) = (keys(Profile::AeadAes128Gcm, 1), keys(Profile::AesCm128HmacSha1Tag80, 2));
    let (mut media, a, _) = pair(
        secured(Codec::Pcmu, 10, Some(of_a.clone())),
        secured(Codec::Pcmu, 20, Some(of_b.clone())),
    );
    let coming = sealed(&mut peer_of(&of_a.receive), &packet(header(0, 0), b"voice"));
    let mut out = relay(&mut media, a, 10, &coming, 0).unwrap();
    let length = Inbound::new(&of_b.send).open(&mut out).unwrap();
    assert_eq!(Packet::parse(&out[..length]).unwrap().payload, b"voice");
}

#[test]
fn transcoded_audio_and_events_are_protected_too() {
    let keys = keys(Profile::AesCm128HmacSha1Tag80, 1);
    let (mut media, a, _) =
        pair(secured(Codec::Pcma, 10, None), secured(Codec::Pcmu, 20, Some(keys.clone())));
    let mut ear = Inbound::new(&keys.send);
    let (mut audio, mut events) = (0, 0);
    for n in 0..40_u32 {
        let (kind, bytes) =
            if n == 20 { (101, &[1, 10, 0, 160][..]) } else { (8, &[0x55; 160][..]) };
        if let Ok(mut out) = relay(&mut media, a, 10, &packet(header(kind, n), bytes), n) {
            let length = ear.open(&mut out).unwrap();
            assert_eq!(Packet::parse(&out[..length]).unwrap().payload, [1, 10, 0, 160]);
            events += 1;
        }
        media.handle_timeout(at(u64::from(n) * 20 + 19));
        while let Some(transmit) = media.poll_transmit() {
            if let MediaTransmit::Rtp { bytes, .. } = transmit {
                ear.open(&mut bytes.to_vec()).unwrap();
                audio += 1;
            }
        }
    }
    assert!(audio > 30 && events == 1, "{audio} {events}");
}

/// Each has its counter, and none is heard.
#[test]
fn what_is_not_protected_with_the_key_is_dropped() {
    let keys = keys(Profile::AesCm128HmacSha1Tag80, 1);
    let (mut media, a, b) =
        pair(secured(Codec::Pcmu, 10, Some(keys.clone())), secured(Codec::Pcmu, 20, None));
    let mut phone = peer_of(&keys.receive);
    let good = sealed(&mut phone, &packet(header(0, 1), b"voice"));
    assert!(relay(&mut media, a, 10, &good, 1).is_ok());
    let mut changed = sealed(&mut phone, &packet(header(0, 2), b"voice"));
    changed[14] ^= 1;
    let mut refused = |bytes: &[u8], port, reason| {
        let before = media.counters().dropped(reason);
        assert_eq!(relay(&mut media, a, port, bytes, 3), Err(Verdict::Drop(reason)));
        assert_eq!(media.counters().dropped(reason), before + 1);
    };
    refused(&good, 10, DropReason::SrtpReplayed);
    refused(&changed, 10, DropReason::SrtpTag);
    refused(&packet(header(0, 3), &[0; 160]), 10, DropReason::SrtpTag);
    refused(&packet(header(0, 4), &[]), 10, DropReason::MalformedRtp);
    let other = sealed(&mut peer_of(&keys.send), &packet(header(0, 5), b"voice"));
    refused(&other, 10, DropReason::SrtpTag);
    let stranger = SocketAddr::from(([203, 0, 113, 9], 10));
    let good = sealed(&mut phone, &packet(header(0, 6), b"voice"));
    let verdict = media.handle_rtp(a, stranger, &mut good.clone(), at(100));
    assert_eq!(verdict, Verdict::Drop(DropReason::WrongSource));
    assert!(relay(&mut media, a, 10, &good, 7).is_ok(), "refused before its index was taken");
    let plain = packet(header(0, 7), b"voice");
    assert_eq!(relay(&mut media, b, 20, &plain, 8).unwrap().len(), plain.len() + 10);
    let twice = relay(&mut media, b, 20, &packet(header(0, 7), b"other"), 8);
    assert_eq!(twice, Err(Verdict::Drop(DropReason::SrtpReused)));
    assert_eq!(media.quality(a).unwrap().sent, 1, "what was not sent is not reported");
}

#[test]
fn reports_are_protected_and_those_that_are_not_are_dropped() {
    let keys = keys(Profile::AeadAes256Gcm, 1);
    let (mut media, a, _) =
        pair(secured(Codec::Pcmu, 10, Some(keys.clone())), secured(Codec::Pcmu, 20, None));
    let mut phone = peer_of(&keys.receive);
    relay(&mut media, a, 10, &sealed(&mut phone, &packet(header(0, 1), b"voice")), 1).unwrap();
    media.handle_timeout(at(6_000));
    let mut ours = std::iter::from_fn(|| media.poll_transmit()).find_map(|t| match t {
        MediaTransmit::Rtcp { leg, bytes, .. } if leg == a => Some(bytes.to_vec()),
        _ => None,
    });
    let ours = ours.as_mut().unwrap();
    let length = Inbound::new(&keys.send).open_rtcp(ours).unwrap();
    assert!(crate::rtp::rtcp::parse(&ours[..length]).unwrap().len() >= 2);

    let plain = ours[..length].to_vec();
    media.handle_rtcp(a, address(11), &plain, at(6_001));
    assert_eq!(media.counters().dropped(DropReason::SrtcpTag), 1);
    let mut theirs = plain.clone();
    theirs.resize(plain.len() + TRAILER_BYTES_MAX, 0);
    let length = phone.protect_rtcp(&mut theirs, plain.len()).unwrap();
    media.handle_rtcp(a, address(11), &theirs[..length], at(6_002));
    media.handle_rtcp(a, address(11), &theirs[..length], at(6_003));
    media.handle_rtcp(a, address(11), &theirs[..8], at(6_004));
    let dropped = |reason| media.counters().dropped(reason);
    assert_eq!((dropped(DropReason::SrtcpTag), dropped(DropReason::SrtcpReplayed)), (1, 1));
    assert_eq!((dropped(DropReason::SrtpTag), dropped(DropReason::SrtpReplayed)), (0, 0));
    assert_eq!(dropped(DropReason::MalformedRtcp), 1);
    assert_eq!((media.counters().srtcp_opened, media.counters().srtcp_protected), (1, 1));
}

fn set(media: &mut Media, leg: LegId, port: u16, keys: Option<&SrtpKeys>, ms: u64) {
    let params = secured(Codec::Pcmu, port, keys.cloned());
    media.handle_command(&MediaCommand::SetLeg { leg, params }, at(ms));
}

/// What was on its way when the keys changed is heard, for two seconds; once.
#[test]
fn packets_of_the_old_key_are_opened_for_a_while() {
    for profile in [Profile::AesCm128HmacSha1Tag80, Profile::AeadAes128Gcm] {
        let (old, new) = (keys(profile, 1), keys(profile, 9));
        let (mut media, a, _) =
            pair(secured(Codec::Pcmu, 10, Some(old.clone())), secured(Codec::Pcmu, 20, None));
        let (mut before, mut after) = (peer_of(&old.receive), peer_of(&new.receive));
        let late: Vec<_> = (0..4_u32)
            .map(|n| sealed(&mut before, &packet(header(0, n), &n.to_be_bytes())))
            .collect();
        let mut report = vec![0x80, 201, 0, 1, 0, 0, 0, 77];
        report.resize(8 + TRAILER_BYTES_MAX, 0);
        let length = before.protect_rtcp(&mut report, 8).unwrap();
        relay(&mut media, a, 10, &late[0], 0).unwrap();
        set(&mut media, a, 10, Some(&new), 20);
        let first = sealed(&mut after, &packet(header(0, 5), b"new!"));
        relay(&mut media, a, 10, &first, 5).unwrap();
        let heard = relay(&mut media, a, 10, &late[1], 6).unwrap();
        assert_eq!(Packet::parse(&heard).unwrap().payload, 1_u32.to_be_bytes());
        media.handle_rtcp(a, address(11), &report[..length], at(140));
        assert_eq!(media.counters().srtcp_opened, 1);
        let again = relay(&mut media, a, 10, &late[1], 7);
        assert!(again.is_err(), "{again:?}");
        // 100 · 20 ms: the last moment is 2,020.
        assert!(relay(&mut media, a, 10, &late[2], 101).is_ok());
        let tag = Err(Verdict::Drop(DropReason::SrtpTag));
        assert_eq!(relay(&mut media, a, 10, &late[3], 102), tag);
        let next = sealed(&mut after, &packet(header(0, 6), b"new!"));
        relay(&mut media, a, 10, &next, 103).unwrap();
    }
}

/// Forks of one offer take its keys in turns, one of them plain: a key that returns goes on.
#[test]
fn a_key_of_ours_that_returns_does_not_begin_again() {
    let (first, second) =
        (keys(Profile::AesCm128HmacSha1Tag80, 1), keys(Profile::AeadAes128Gcm, 2));
    let (mut media, a, b) =
        pair(secured(Codec::Pcmu, 10, None), secured(Codec::Pcmu, 20, Some(first.clone())));
    let mut ear = Inbound::new(&first.send);
    let ten = packet(header(0, 10), b"x");
    ear.open(&mut relay(&mut media, a, 10, &ten, 10).unwrap()).unwrap();
    for between in [Some(&second), None] {
        set(&mut media, b, 20, between, 300);
        set(&mut media, b, 20, Some(&first), 310);
        let again = relay(&mut media, a, 10, &ten, 16);
        assert_eq!(again, Err(Verdict::Drop(DropReason::SrtpReused)));
    }
    let mut next = relay(&mut media, a, 10, &packet(header(0, 11), b"y"), 17).unwrap();
    ear.open(&mut next).unwrap();
    // Its reports go on, too.
    let mut reports = Vec::new();
    for ms in [6_000, 12_000] {
        media.handle_timeout(at(ms));
        reports.extend(std::iter::from_fn(|| media.poll_transmit()).filter_map(|t| match t {
            MediaTransmit::Rtcp { leg, bytes, .. } if leg == b => Some(bytes.to_vec()),
            _ => None,
        }));
        for key in [&second, &first] {
            set(&mut media, b, 20, Some(key), ms + 1);
        }
    }
    assert!(reports.len() >= 2);
    for report in &mut reports {
        ear.open_rtcp(report).unwrap();
    }
}

/// A re-INVITE that says the same keys again must not begin at index 0; a new key does.
#[test]
fn keys_said_again_go_on_and_new_ones_begin() {
    let old = keys(Profile::AesCm128HmacSha1Tag80, 1);
    let (mut media, a, b) =
        pair(secured(Codec::Pcmu, 10, None), secured(Codec::Pcmu, 20, Some(old.clone())));
    let mut ear = Inbound::new(&old.send);
    for n in 0..100 {
        ear.open(&mut relay(&mut media, a, 10, &packet(header(0, n), b"x"), n).unwrap()).unwrap();
    }
    let set = |media: &mut Media, keys: &SrtpKeys| {
        let params = secured(Codec::Pcmu, 20, Some(keys.clone()));
        media.handle_command(&MediaCommand::SetLeg { leg: b, params }, at(2_000));
    };
    set(&mut media, &old);
    assert!(relay(&mut media, a, 10, &packet(header(0, 50), b"y"), 101).is_err());
    ear.open(&mut relay(&mut media, a, 10, &packet(header(0, 102), b"y"), 102).unwrap()).unwrap();
    let new = keys(Profile::AeadAes128Gcm, 9);
    set(&mut media, &new);
    let mut out = relay(&mut media, a, 10, &packet(header(0, 103), b"z"), 103).unwrap();
    assert!(Inbound::new(&new.send).open(&mut out).is_ok());
}
