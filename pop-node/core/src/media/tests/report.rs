//! What a leg measures and tells: RTCP, silence, its last words.

use super::*;
use crate::rtp::rtcp::{self, Rtcp};

#[test]
fn rtcp_ends_here_and_measures_the_round_trip() {
    let mut media = media(5);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    for n in (0..400_u32).filter(|n| n % 10 != 3) {
        let now = at(u64::from(n) * 20);
        if media.poll_timeout().is_some_and(|due| due <= now) {
            media.handle_timeout(now);
        }
        for (leg, port) in [(a, 10), (b, 20)] {
            media.handle_rtp(leg, address(port), &mut packet(header(0, n), &[0; 160]), now);
        }
    }
    let Some(MediaTransmit::Rtcp { leg, dst, mux: false, bytes }) = media.poll_transmit() else {
        panic!("no report after 5 s")
    };
    assert_eq!(dst, address(leg.0 as u16 + 1));
    let packets = rtcp::parse(&bytes).unwrap();
    let Rtcp::Report { ssrc, sender: Some(sender), blocks } = &packets[0] else { panic!() };
    assert_eq!((blocks.len(), blocks[0].ssrc), (1, 77));
    assert!((22..=28).contains(&blocks[0].fraction_lost), "{:?}", blocks[0]);
    // The peer answers 100 ms after it got our report, which took 30 ms, as its answer does.
    let sent = at((sender.ntp >> 32) * 1_000 + (((sender.ntp & 0xffff_ffff) * 1_000) >> 32));
    let block = rtcp::ReportBlock {
        ssrc: *ssrc,
        cumulative_lost: 3,
        jitter: 80,
        last_sr: (sender.ntp >> 16) as u32,
        delay_since_last_sr: 6_554,
        ..Default::default()
    };
    let mut answer = Vec::new();
    rtcp::write_report(&mut answer, 77, None, Some(block));
    media.handle_rtcp(leg, dst, &answer, sent + Duration::from_millis(160));
    let quality = media.quality(leg).unwrap();
    let round_trip = quality.round_trip.unwrap().as_millis();
    assert!((58..=62).contains(&round_trip), "{round_trip}");
    assert_eq!((quality.remote_lost, quality.lost), (Some(3), 40));
    assert_eq!(quality.remote_jitter, Some(Duration::from_millis(10)));
    assert!((3.0..3.7).contains(&quality.mos), "{}", quality.mos);
    media.handle_rtcp(leg, SocketAddr::from(([1, 2, 3, 4], 5)), &answer, at(8_000));
    media.handle_rtcp(leg, dst, &[0x80], at(8_000));
    assert_eq!(media.counters().dropped(DropReason::WrongSource), 1);
    assert_eq!(media.counters().dropped(DropReason::MalformedRtcp), 1);
}

#[test]
fn silence_is_told_once_and_closing_says_goodbye() {
    let mut media = media(6);
    let a = open(&mut media, 10, Codec::Pcmu);
    let mut silences = 0;
    while let Some(due) = media.poll_timeout().filter(|&due| due < at(60_000)) {
        media.handle_timeout(due);
        while let Some(event) = media.poll_event() {
            silences += u32::from(event == MediaEvent::Silent { leg: a, since: at(0) });
        }
    }
    assert_eq!(silences, 1);
    while media.poll_transmit().is_some() {}
    media.handle_command(&MediaCommand::CloseLeg { leg: a }, at(60_000));
    let Some(MediaTransmit::Rtcp { bytes, .. }) = media.poll_transmit() else { panic!("no BYE") };
    let packets = rtcp::parse(&bytes).unwrap();
    assert!(matches!(packets.last(), Some(Rtcp::Bye { .. })));
    assert!(matches!(media.poll_event(), Some(MediaEvent::LegQuality { last: true, .. })));
    assert_eq!((media.poll_timeout(), media.legs()), (None, 0));
}
