//! One port for all legs: whose packet is it?

use super::*;
use crate::rtp::rtcp;
use crate::view::Block;

const SILENCE: &[u8] = &[0xff; 160];

fn host(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 9, last], port))
}

/// What becomes of a packet of this SSRC from there.
fn say(media: &mut Media, source: SocketAddr, ssrc: u32, n: u32) -> Verdict {
    let mut bytes = packet(Header { ssrc, ..header(0, n) }, SILENCE);
    media.handle_shared_rtp(source, &mut bytes, at(u64::from(n) * 20))
}

fn set(media: &mut Media, leg: LegId, change: impl FnOnce(&mut LegParams)) {
    let mut params = params(Codec::Pcmu, leg.0 as u16);
    change(&mut params);
    media.handle_command(&MediaCommand::SetLeg { leg, params }, at(0));
}

/// Legs 10 and 20 of one call, 30 and 40 of another; their peers are at these ports.
fn two_calls() -> (Media, [LegId; 4]) {
    let mut media = media(7);
    let legs = [10, 20, 30, 40].map(|n| open(&mut media, n, Codec::Pcmu));
    connect(&mut media, legs[0], Far::Leg(legs[1]));
    connect(&mut media, legs[2], Far::Leg(legs[3]));
    (media, legs)
}

fn to(verdict: Verdict) -> LegId {
    let Verdict::Forward { leg, .. } = verdict else { panic!("{verdict:?}") };
    leg
}

#[test]
fn each_address_finds_its_call_and_a_stranger_none() {
    let (mut media, [a, b, c, d]) = two_calls();
    for n in 0..50 {
        for (source, ssrc, far) in [(10, 1, b), (20, 1, a), (30, 1, d), (40, 9, c)] {
            assert_eq!(to(say(&mut media, address(source), ssrc, n)), far);
        }
        let stranger = say(&mut media, host(66, 10), 1, n);
        assert_eq!(stranger, Verdict::Drop(DropReason::WrongSource));
        let other_port = say(&mut media, address(11), 1, n);
        let nobody = Verdict::Drop(DropReason::AmbiguousSource);
        assert_eq!(other_port, nobody, "the host, another port, and an SSRC of three legs");
    }
    assert_eq!(media.counters().dropped(DropReason::WrongSource), 50);
    assert_eq!(media.quality(a).unwrap().lost, 0);
}

#[test]
fn a_new_ssrc_of_the_same_address_is_the_same_leg() {
    let (mut media, [_, b, ..]) = two_calls();
    assert_eq!(to(say(&mut media, address(10), 1, 0)), b);
    assert_eq!(to(say(&mut media, address(10), 2, 1)), b, "a restarted source");
    assert_eq!(to(say(&mut media, address(10), 2, 2)), b);
}

#[test]
fn calls_from_one_address_need_the_ssrcs_that_sdp_named() {
    let (mut media, [a, b, c, d]) = two_calls();
    set(&mut media, a, |p| p.remote_rtp = Some(address(99)));
    set(&mut media, c, |p| p.remote_rtp = Some(address(99)));
    for ssrc in [1, 3] {
        let refused = say(&mut media, address(99), ssrc, 0);
        assert_eq!(refused, Verdict::Drop(DropReason::AmbiguousSource));
    }
    for (leg, ssrc) in [(a, 1), (c, 3)] {
        set(&mut media, leg, |p| {
            (p.remote_rtp, p.remote_ssrc) = (Some(address(99)), Some(ssrc));
        });
    }
    for n in 1..20 {
        assert_eq!(to(say(&mut media, address(99), 1, n)), b);
        assert_eq!(to(say(&mut media, address(99), 3, n)), d);
    }
    // One changes its SSRC without a word: nobody can know which.
    let refused = say(&mut media, address(99), 4, 20);
    assert_eq!(refused, Verdict::Drop(DropReason::AmbiguousSource));
    // The other call ended: now it is clear.
    media.handle_command(&MediaCommand::CloseLeg { leg: c }, at(400));
    assert_eq!(to(say(&mut media, address(99), 4, 21)), b);
}

#[test]
fn a_peer_behind_nat_is_found_when_only_one_can_be_meant() {
    let (mut media, [a, b, c, _]) = two_calls();
    set(&mut media, a, behind_nat);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 1)), b);
    let second = say(&mut media, host(50, 4_001), 1, 2);
    assert_eq!(second, Verdict::Drop(DropReason::WrongSource), "locked");
    // It moves: the same SSRC from another port, after silence.
    assert_eq!(to(say(&mut media, host(50, 4_001), 1, 400)), b);
    // Two wait for that host: a packet of neither's SSRC is nobody's.
    set(&mut media, c, behind_nat);
    let e = open(&mut media, 60, Codec::Pcmu);
    set(&mut media, e, behind_nat);
    let refused = say(&mut media, host(50, 4_002), 8, 401);
    assert_eq!(refused, Verdict::Drop(DropReason::AmbiguousSource));
    set(&mut media, e, |p| {
        behind_nat(p);
        p.remote_ssrc = Some(8);
    });
    connect(&mut media, e, Far::Leg(c));
    assert_eq!(to(say(&mut media, host(50, 4_002), 8, 402)), c);
}

fn behind_nat(params: &mut LegParams) {
    params.trusted = vec![Block::host(host(50, 0).ip())];
}

#[test]
fn a_peer_behind_nat_keeps_its_leg_when_its_ssrc_changes() {
    let (mut media, [a, b, c, _]) = two_calls();
    set(&mut media, a, behind_nat);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    // Another call of the same trunk waits: hold music of the first must not come into it.
    set(&mut media, c, behind_nat);
    assert_eq!(to(say(&mut media, host(50, 4_000), 2, 1)), b);
    assert_eq!(media.quality(c).unwrap().received, 0);
}

#[test]
fn a_silent_peer_behind_nat_may_come_back_as_another() {
    let (mut media, [a, b, ..]) = two_calls();
    set(&mut media, a, behind_nat);
    let both_new = |media: &mut Media, n| say(media, host(50, 4_009), 2, n);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    media.handle_timeout(at(2_900));
    let nobody = Verdict::Drop(DropReason::WrongSource);
    assert_eq!(both_new(&mut media, 145), nobody, "it may still be where it was");
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 146)), b);
    media.handle_timeout(at(5_000));
    assert_eq!(both_new(&mut media, 250), nobody, "heard after the first look");
    media.handle_timeout(at(6_000));
    // It only paused: then nobody else is it.
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 301)), b);
    assert_eq!(both_new(&mut media, 302), nobody);
    media.handle_timeout(at(9_100));
    assert_eq!(to(both_new(&mut media, 456)), b);
    assert_eq!(to(both_new(&mut media, 457)), b);
    media.handle_command(&MediaCommand::CloseLeg { leg: a }, at(9_200));
    assert_eq!(media.timers.len(), 3, "reports of the others only");
}

#[test]
fn a_first_packet_with_a_false_source_takes_nobodys_place() {
    let (mut media, [a, b, ..]) = two_calls();
    set(&mut media, a, |p| p.remote_ssrc = Some(1));
    let refused = Verdict::Drop(DropReason::WrongSource);
    assert_eq!(say(&mut media, host(66, 10), 1, 0), refused, "the SSRC is no password");
    assert_eq!(to(say(&mut media, address(10), 1, 1)), b);
    for n in 2..10 {
        assert_eq!(say(&mut media, host(66, 10), 1, n), refused);
        assert_eq!(to(say(&mut media, address(10), 1, n)), b);
    }
    assert_eq!(media.quality(a).unwrap().received, 9);
}

#[test]
fn a_new_address_in_sdp_makes_a_leg_wait_again() {
    let (mut media, [a, b, ..]) = two_calls();
    set(&mut media, a, behind_nat);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    set(&mut media, a, |p| {
        behind_nat(p);
        p.remote_rtp = Some(host(50, 5_000));
    });
    assert_eq!(to(say(&mut media, host(50, 6_000), 7, 1)), b, "from behind NAT, as before");
}

#[test]
fn a_claimed_address_silences_nobody() {
    let (mut media, [a, b, c, _]) = two_calls();
    let trusted = |p: &mut LegParams| {
        p.remote_rtp = Some(host(50, 4_000));
        behind_nat(p);
    };
    set(&mut media, a, trusted);
    // Another trunk's SDP names the same address, which that trunk is not known for.
    set(&mut media, c, |p| p.remote_rtp = Some(host(50, 4_000)));
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    assert_eq!(to(say(&mut media, host(50, 4_000), 2, 1)), b, "a new source, too");
}

#[test]
fn too_many_that_wait_are_not_guessed_among() {
    let mut media = media(7);
    for n in 100..200 {
        let leg = open(&mut media, n, Codec::Pcmu);
        if n == 100 {
            set(&mut media, leg, behind_nat);
        }
    }
    let refused = say(&mut media, host(50, 4_000), 1, 0);
    assert_eq!(refused, Verdict::Drop(DropReason::AmbiguousSource));
}

#[test]
fn late_packets_of_an_ended_call_are_not_heard_in_the_next() {
    let (mut media, [a, b, c, d]) = two_calls();
    set(&mut media, a, behind_nat);
    assert_eq!(to(say(&mut media, host(50, 4_000), 1, 0)), b);
    media.handle_command(&MediaCommand::CloseLeg { leg: a }, at(100));
    set(&mut media, c, behind_nat);
    let late = say(&mut media, host(50, 4_000), 1, 6);
    assert_eq!(late, Verdict::Drop(DropReason::WrongSource));
    assert_eq!(to(say(&mut media, host(50, 4_000), 2, 7)), d, "a new call of the same phone");
}

#[test]
fn rtcp_finds_its_leg_by_ssrc_or_by_the_address_sdp_named() {
    let (mut media, [a, _, c, _]) = two_calls();
    let report = |ssrc| {
        let mut bytes = Vec::new();
        rtcp::write_report(&mut bytes, ssrc, None, None);
        bytes
    };
    say(&mut media, address(10), 1, 0);
    media.handle_shared_rtcp(address(11), &report(1), at(1));
    assert_eq!(media.legs.get(&a).unwrap().feedback.address, Some(address(11)));
    set(&mut media, c, |p| p.remote_rtcp = Some(address(31)));
    media.handle_shared_rtcp(address(31), &report(5), at(2));
    assert_eq!(media.legs.get(&c).unwrap().feedback.address, Some(address(31)));
    media.handle_shared_rtcp(host(66, 11), &report(1), at(3));
    media.handle_shared_rtcp(host(66, 11), &report(6), at(4));
    assert_eq!(media.counters().dropped(DropReason::WrongSource), 2);
    media.handle_shared_rtcp(address(11), &[0x80, 200, 0], at(5));
    assert_eq!(media.counters().dropped(DropReason::MalformedRtcp), 1);
    // Multiplexed with RTP (RFC 5761).
    assert_eq!(media.handle_shared_rtp(address(10), &mut report(1), at(6)), Verdict::Consumed);
    assert_eq!(media.counters().rtcp_received, 6);
}

#[test]
fn nothing_is_left_when_all_legs_are_closed() {
    let (mut media, legs) = two_calls();
    (0..4).for_each(|n| {
        say(&mut media, address(n * 10), u32::from(n), 0);
    });
    set(&mut media, legs[0], |p| p.remote_ssrc = Some(99));
    for leg in legs {
        media.handle_command(&MediaCommand::CloseLeg { leg }, at(1));
    }
    assert!(media.demux.is_empty(), "{:?}", media.demux);
}
