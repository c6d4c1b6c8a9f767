//! What is lost behind one POP is known to the one that encodes.

use proto::overlay::{Datagram, Frame, FrameKind};

use super::*;
use crate::codec::opus_has_fec;
use crate::codec::tests::speech;
use crate::codec::ulaw_encode;
use crate::rtp::rtcp::{self, ReportBlock};

/// What was told of losses since.
fn told(media: &mut Media) -> Vec<u8> {
    let events = std::iter::from_fn(|| media.poll_event());
    let told = events.filter_map(|event| match event {
        MediaEvent::Lossy { percent, .. } => Some(percent),
        _ => None,
    });
    told.collect()
}

/// Three reports of a leg that relays a stream: its peer says in RTCP what it loses (of 256), and one
/// in `hop` frames is lost before.
fn three_reports(codec: Codec, fraction: u8, hop: u16) -> Vec<Vec<u8>> {
    let mut media = media(41);
    let leg = open(&mut media, 10, codec);
    connect(&mut media, leg, stream("bbb1", 6, 5, codec));
    let mut sequence = 0_u16;
    let mut reports = Vec::new();
    for report in 1..=3_u64 {
        let mut ssrc = 0;
        for _ in 0..250 {
            sequence += 1;
            let now = at(u64::from(sequence) * 20);
            media.handle_timeout(now);
            if !sequence.is_multiple_of(hop) {
                let frame = Frame {
                    stream: StreamId(5),
                    sequence,
                    timestamp: u32::from(sequence) * 960,
                    marker: false,
                    kind: FrameKind::Audio,
                    payload: &[9; 40],
                };
                media.receive_frame(&pop("bbb1"), &frame, now).unwrap();
            }
            while let Some(transmit) = media.poll_transmit() {
                if let MediaTransmit::Rtp { bytes, .. } = transmit {
                    ssrc = Packet::parse(&bytes).unwrap().header.ssrc;
                }
            }
        }
        let fraction_lost = if report == 3 { 0 } else { fraction };
        let block = ReportBlock { ssrc, fraction_lost, ..Default::default() };
        let mut bytes = Vec::new();
        rtcp::write_report(&mut bytes, 77, None, Some(block));
        media.handle_rtcp(leg, address(11), &bytes, at(report * 5_000 + 1));
        // The next report of the leg is due by now.
        let due = at(report * 5_000 + 700);
        media.handle_timeout(due);
        reports.push(told(&mut media));
    }
    reports
}

#[test]
fn losses_are_told_when_they_change() {
    // 26/256 are 11 %, rounded up; then nothing new; then the peer hears all.
    assert_eq!(three_reports(Codec::Opus, 26, u16::MAX), [vec![11], vec![], vec![0]]);
    // The hop's count, too: one in ten before, a tenth of the rest after.
    let both = three_reports(Codec::Opus, 26, 10);
    assert!(matches!(both[0][..], [19..=21]), "{both:?}");
    assert!(both[1].is_empty() && matches!(both[2][..], [10 | 11]), "{both:?}");
    // Only of Opus, which has copies.
    assert_eq!(three_reports(Codec::Pcmu, 26, 10), [vec![], vec![], vec![]]);
}

/// Percent of the packets with copies in what is encoded for a far peer.
fn copies(expected: Option<u8>, fmtp: &str) -> usize {
    let mut media = media(42);
    let leg = open(&mut media, 10, Codec::Pcmu);
    let Far::Stream(far) = stream("bbb1", 6, 5, Codec::Opus) else { unreachable!() };
    connect(&mut media, leg, Far::Stream(Stream { fmtp: Some(fmtp.to_owned()), ..far }));
    if let Some(percent) = expected {
        media.handle_command(&MediaCommand::ExpectLoss { leg, percent }, at(0));
    }
    let (mut all, mut with) = (0, 0);
    for (n, frame) in (0..).zip(speech("hum_en_8k.wav").chunks_exact(160).take(300)) {
        let payload: Vec<u8> = frame.iter().map(|&sample| ulaw_encode(sample)).collect();
        let now = at(u64::from(n) * 20);
        media.handle_rtp(leg, address(10), &mut packet(header(0, n), &payload), now);
        media.handle_timeout(now);
        while let Some(transmit) = media.poll_transmit() {
            let MediaTransmit::Datagram { bytes, .. } = transmit else { continue };
            for frame in Datagram::decode(&bytes).unwrap().frames() {
                all += 1;
                with += usize::from(opus_has_fec(frame.unwrap().payload));
            }
        }
    }
    with * 100 / usize::max(all, 1)
}

#[test]
fn who_encodes_makes_copies_as_the_far_pop_says() {
    let fmtp = "maxaveragebitrate=24000;useinbandfec=1";
    assert_eq!((copies(None, fmtp), copies(Some(0), fmtp)), (0, 0));
    let with = copies(Some(10), fmtp);
    assert!(with > 40, "{with} %");
    assert_eq!(copies(Some(10), "maxaveragebitrate=24000"), 0, "the peer could not read them");
}
