//! What a leg measures and tells: RTCP, silence, its last words.

use super::*;
use crate::rtp::rtcp::{self, Rtcp};
use crate::rtp::xr::{self, VoipMetrics};

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

/// What silences are told about a leg, from `from` to `to`.
fn told(media: &mut Media, to: u64) -> Vec<(Instant, SilenceCause)> {
    let mut told = Vec::new();
    while let Some(due) = media.poll_timeout().filter(|&due| due < at(to)) {
        media.handle_timeout(due);
        while media.poll_transmit().is_some() {}
        while let Some(event) = media.poll_event() {
            if let MediaEvent::Silent { since, cause, .. } = event {
                told.push((since, cause));
            }
        }
    }
    told
}

#[test]
fn silence_is_told_once_and_closing_says_goodbye() {
    let mut media = media(6);
    let a = open(&mut media, 10, Codec::Pcmu);
    assert_eq!(told(&mut media, 60_000), [(at(0), SilenceCause::NoPackets)]);
    assert_eq!(media.counters().silences(SilenceCause::NoPackets), 1);
    media.handle_command(&MediaCommand::CloseLeg { leg: a }, at(60_000));
    let Some(MediaTransmit::Rtcp { bytes, .. }) = media.poll_transmit() else { panic!("no BYE") };
    let packets = rtcp::parse(&bytes).unwrap();
    assert!(matches!(packets.last(), Some(Rtcp::Bye { .. })));
    assert!(matches!(media.poll_event(), Some(MediaEvent::LegQuality { last: true, .. })));
    assert_eq!((media.poll_timeout(), media.legs()), (None, 0));
}

#[test]
fn each_silence_has_its_cause() {
    let stranger = SocketAddr::from(([127, 0, 9, 66], 10));
    // Payload type, payload and source of what comes.
    let cases: [(u8, [u8; 160], SocketAddr, Option<SilenceCause>); 5] = [
        (0, [0x42; 160], address(10), None),
        (0, [0xff; 160], address(10), Some(SilenceCause::Muted)),
        (0, [0x42; 160], stranger, Some(SilenceCause::WrongSource)),
        (3, [0x42; 160], address(10), Some(SilenceCause::CodecMismatch)),
        // Whoever is on hold may be silent.
        (0, [0x42; 160], address(10), None),
    ];
    for (n, (payload_type, payload, source, cause)) in cases.into_iter().enumerate() {
        let mut media = media(6);
        let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
        connect(&mut media, a, Far::Leg(b));
        let hold = LegParams { direction: Direction::SendOnly, ..params(Codec::Pcmu, 20) };
        media.handle_command(&MediaCommand::SetLeg { leg: b, params: hold.clone() }, at(0));
        if n == 4 {
            let params = LegParams { remote_rtp: Some(address(10)), ..hold };
            media.handle_command(&MediaCommand::SetLeg { leg: a, params }, at(0));
        }
        let mut causes = Vec::new();
        for n in 0..1_500_u32 {
            let now = u64::from(n) * 20;
            media.handle_rtp(a, source, &mut packet(header(payload_type, n), &payload), at(now));
            causes.extend(told(&mut media, now).into_iter().map(|(_, cause)| cause));
        }
        assert_eq!(causes, Vec::from_iter(cause), "case {n}");
    }
}

/// Sends 20 ms packets of some numbers, each `late` ms, to a leg; runs the timers.
fn speak(media: &mut Media, leg: LegId, numbers: impl Iterator<Item = u32>, late: u64) {
    for n in numbers {
        let now = at(u64::from(n) * 20 + late);
        while media.poll_timeout().is_some_and(|due| due <= now) {
            media.handle_timeout(now);
        }
        let mut packet = packet(header(0, n), &[(n % 90) as u8; 160]);
        media.handle_rtp(leg, address(leg.0 as u16), &mut packet, now);
    }
}

#[test]
fn every_five_seconds_become_a_point_and_the_worst_is_remembered() {
    let mut media = media(7);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    speak(&mut media, a, 0..500, 0);
    // Runs of four: much burstier than chance.
    speak(&mut media, a, (500..1_000).filter(|n| n % 40 >= 4), 0);
    // The way becomes 30 ms longer.
    speak(&mut media, a, 1_000..2_000, 30);
    media.handle_command(&MediaCommand::CloseLeg { leg: a }, at(40_100));
    let mut points = Vec::new();
    let mut last_report = None;
    while let Some(event) = media.poll_event() {
        if let MediaEvent::LegQuality { leg, report, last } = event
            && leg == a
        {
            points.extend(report.point);
            last_report = last.then_some(report).or(last_report);
        }
    }
    assert!((8..=10).contains(&points.len()), "{}", points.len());
    assert_eq!(points.iter().map(|p| p.received).sum::<u64>(), 2_000 - 12 * 4);
    let worst = points.iter().max_by_key(|p| p.lost).unwrap();
    assert!(worst.burst_ratio > 3.0 && worst.mos.unwrap() < 4.0, "{worst:?}");
    assert_eq!(points[0].delay_change, Some(0));
    assert_eq!(points.last().unwrap().delay_change, Some(30_000));
    assert!(points[0].level.unwrap().rms_dbov > -30.0);
    let report = last_report.unwrap();
    assert_eq!((report.lost, report.burst_ratio > 3.0), (48, true));
    let (least, median) = (report.summary.worst().unwrap(), report.summary.median_mos().unwrap());
    assert!(least.mos.unwrap() < 4.0 && (4.3..4.5).contains(&median), "{least:?} {median}");
    assert_eq!(media.counters().ratings(Rated::Leg, Rating::Good), points.len() as u64 - 2);
    assert_eq!(media.counters().lost, 48);
}

#[test]
fn what_the_peer_hears_is_the_whole_way() {
    let mut media = media(8);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    // A tenth is lost before us, and B says that it lost a fifth of the rest.
    speak(&mut media, a, (0..240).filter(|n| n % 10 != 5), 0);
    assert_eq!(media.quality(b).unwrap().heard, None);
    let ssrc = (0..200).find_map(|n| {
        let mut bytes = packet(header(0, 240 + n), &[0; 160]);
        match media.handle_rtp(a, address(10), &mut bytes, at(4_800)) {
            Verdict::Forward { .. } => Some(Packet::parse(&bytes).unwrap().header.ssrc),
            _ => None,
        }
    });
    let block =
        rtcp::ReportBlock { ssrc: ssrc.unwrap(), cumulative_lost: 43, ..Default::default() };
    let mut answer = Vec::new();
    rtcp::write_report(&mut answer, 88, None, Some(block));
    media.handle_rtcp(b, address(21), &answer, at(4_810));
    let heard = media.quality(b).unwrap().heard.unwrap();
    assert!((0.27..0.29).contains(&heard.loss), "{heard:?}");
    let alone = media.quality(a).unwrap();
    assert!(heard.mos < alone.mos - 0.3, "{} {}", heard.mos, alone.mos);
    assert_eq!(media.quality(a).unwrap().heard, None, "A says nothing");
}

#[test]
fn who_offers_extended_reports_gets_them_and_is_heard() {
    let mut media = media(9);
    let (a, b) = (open(&mut media, 10, Codec::Pcmu), open(&mut media, 20, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    let params = LegParams { rtcp_xr: true, ..params(Codec::Pcmu, 10) };
    media.handle_command(&MediaCommand::SetLeg { leg: a, params }, at(0));
    for leg in [a, b] {
        speak(&mut media, leg, (0..300).filter(|n| n % 100 < 90), 0);
    }
    let mut voip = None;
    while let Some(transmit) = media.poll_transmit() {
        let MediaTransmit::Rtcp { leg, bytes, .. } = transmit else { continue };
        for packet in rtcp::parse(&bytes).unwrap() {
            if let Rtcp::Extended { ssrc, voip: Some(block) } = packet {
                assert_eq!((leg, block.ssrc), (a, 77), "B did not ask for any");
                voip = Some((ssrc, *block));
            }
        }
    }
    let (ours, block) = voip.expect("an extended report in 6 s");
    assert!((20..=30).contains(&block.loss_rate) && block.burst_density > 200, "{block:?}");
    assert!(block.mos_lq.unwrap() < 40 && block.r_factor.unwrap() < 80, "{block:?}");
    assert!(block.signal_dbm0.is_some_and(|level| level > -30), "{block:?}");
    // And what the peer says of us is kept, if it is of us.
    for (ssrc, discard_rate) in [(ours + 1, 99), (ours, 64)] {
        let theirs = VoipMetrics { ssrc, discard_rate, loss_rate: 0, ..block };
        let mut bytes = Vec::new();
        let block = rtcp::ReportBlock { ssrc, ..Default::default() };
        rtcp::write_report(&mut bytes, 77, None, Some(block));
        xr::write_voip_metrics(&mut bytes, 77, &theirs);
        media.handle_rtcp(a, address(11), &bytes, at(6_000));
    }
    let quality = media.quality(a).unwrap();
    assert_eq!(quality.remote.unwrap().discard_rate, 64);
    let heard = quality.heard.unwrap();
    assert!((0.30..0.31).contains(&heard.loss), "20 of 290 before us, a quarter after: {heard:?}");
}
