//! Bad input, one kind after the other, while another call goes on: each has its counter and its
//! effect, and the other call hears nothing of it.

use super::*;
use crate::rtp::rtcp;

/// What one bad sender may do, and what becomes of it.
struct Case {
    name: &'static str,
    /// The packets, in order, and where they come from.
    packets: fn() -> Vec<(SocketAddr, Vec<u8>)>,
    on_rtcp: bool,
    /// What is counted, and how often.
    counted: Option<(DropReason, u64)>,
    /// How many reach the far side.
    heard: usize,
}

const VOICE: [u8; 160] = [0xff; 160];

fn voice(n: u32) -> Vec<u8> {
    packet(header(0, n), &VOICE)
}

fn from_peer(packets: impl IntoIterator<Item = Vec<u8>>) -> Vec<(SocketAddr, Vec<u8>)> {
    packets.into_iter().map(|bytes| (address(10), bytes)).collect()
}

fn report() -> Vec<u8> {
    let mut bytes = Vec::new();
    rtcp::write_report(&mut bytes, 77, None, None);
    bytes
}

const CASES: &[Case] = &[
    Case {
        name: "a wrong source",
        packets: || (0..5).map(|n| (SocketAddr::from(([127, 0, 9, 66], 10)), voice(n))).collect(),
        on_rtcp: false,
        counted: Some((DropReason::WrongSource, 5)),
        heard: 0,
    },
    Case {
        name: "the SSRC of another call's peer",
        packets: || from_peer((0..5).map(|n| packet(Header { ssrc: 88, ..header(0, n) }, &VOICE))),
        on_rtcp: false,
        counted: None,
        heard: 5,
    },
    Case {
        name: "two sources that alternate at one address",
        packets: || {
            from_peer((0..6).map(|n| packet(Header { ssrc: 77 + n % 2, ..header(0, n) }, &VOICE)))
        },
        on_rtcp: false,
        counted: None,
        heard: 6,
    },
    Case {
        name: "jumps of the sequence number",
        packets: || {
            let jump = |(n, sequence)| packet(Header { sequence, ..header(0, n) }, &VOICE);
            from_peer((0..).zip([1, 40_000, 2, 65_535, 0, 30_000]).map(jump))
        },
        on_rtcp: false,
        counted: None,
        heard: 6,
    },
    Case {
        name: "another packet time in the middle",
        packets: || {
            let frame = |n: u32| packet(header(0, n), &[0xff; 480][..80 * (1 + n as usize % 6)]);
            from_peer((0..12).map(frame))
        },
        on_rtcp: false,
        counted: None,
        heard: 12,
    },
    Case {
        name: "payload types nobody agreed on",
        packets: || from_peer([3, 8, 14, 72, 96, 127].map(|pt| packet(header(pt, 1), &VOICE))),
        on_rtcp: false,
        counted: Some((DropReason::UnknownPayloadType, 6)),
        heard: 0,
    },
    Case {
        name: "another codec without an agreement, and back",
        packets: || {
            from_peer((0..60).map(|n| {
                let payload_type = if (20..40).contains(&n) { 8 } else { 0 };
                packet(header(payload_type, n), &VOICE)
            }))
        },
        on_rtcp: false,
        counted: Some((DropReason::UnknownPayloadType, 20)),
        heard: 40,
    },
    Case {
        name: "comfort noise for a phone that takes none",
        packets: || from_peer((0..6).map(|n| packet(header(13, n), &[60]))),
        on_rtcp: false,
        counted: Some((DropReason::NoComfortNoise, 6)),
        heard: 0,
    },
    Case {
        name: "redundant audio that lies",
        packets: || {
            let lies: [&[u8]; 5] =
                [&[], &[0x80], &[0x80, 0, 4, 9, 0, 1], &[0x80; 64], &[0x80, 0, 0xff, 0xff, 0]];
            let lie = |(n, lie): (u32, &&[u8])| packet(header(121, n), lie);
            from_peer((0..).zip(&lies).map(lie).collect::<Vec<_>>())
        },
        on_rtcp: false,
        counted: Some((DropReason::MalformedRedundancy, 5)),
        heard: 0,
    },
    Case {
        name: "redundant audio of a format nobody agreed on",
        packets: || from_peer((0..5).map(|n| packet(header(121, n), &[9, 1, 2, 3]))),
        on_rtcp: false,
        counted: Some((DropReason::UnknownPayloadType, 5)),
        heard: 0,
    },
    Case {
        name: "packets cut short",
        packets: || from_peer((0..12).map(|length| voice(1)[..length].to_vec())),
        on_rtcp: false,
        counted: Some((DropReason::MalformedRtp, 12)),
        heard: 0,
    },
    Case {
        name: "a header that says more than there is",
        packets: || {
            from_peer([0x8f, 0x90, 0xa0].map(|flags| {
                let mut bytes = packet(header(0, 1), &[0xff; 4]);
                bytes[0] = flags;
                bytes
            }))
        },
        on_rtcp: false,
        counted: Some((DropReason::MalformedRtp, 3)),
        heard: 0,
    },
    Case {
        name: "oversize packets",
        packets: || from_peer([1_441, 2_036].map(|n| packet(header(0, 1), &vec![0; n]))),
        on_rtcp: false,
        counted: Some((DropReason::TooLarge, 2)),
        heard: 0,
    },
    Case {
        name: "a storm of RTCP",
        packets: || from_peer((0..1_000).map(|_| report())),
        on_rtcp: true,
        counted: Some((DropReason::RtcpFlood, 980)),
        heard: 0,
    },
    Case {
        name: "RTCP that lies about its length",
        packets: || from_peer([vec![0x81, 200, 0, 1, 0, 0, 0, 0], vec![0x80; 7]]),
        on_rtcp: true,
        counted: Some((DropReason::MalformedRtcp, 2)),
        heard: 0,
    },
    Case {
        name: "a storm of a stranger's RTCP, then a report of the peer",
        packets: || {
            let mut all = vec![(SocketAddr::from(([127, 0, 9, 66], 11)), report()); 1_000];
            all.push((address(11), report()));
            all
        },
        on_rtcp: true,
        counted: Some((DropReason::WrongSource, 1_000)),
        heard: 0,
    },
];

/// The packets of the other call: all of them, in order, none changed.
struct Other {
    shared: bool,
    leg: LegId,
    far: LegId,
    last: Option<Header>,
    n: u32,
}

impl Other {
    fn goes_on(&mut self, media: &mut Media, name: &str) {
        let mut bytes = packet(Header { ssrc: 88, ..header(0, self.n) }, &[self.n as u8; 160]);
        let here = (self.leg, address(30));
        let verdict = give(media, self.shared, here, &mut bytes, at(20));
        let (leg, dst, header, payload) = forwarded(verdict, &bytes);
        assert_eq!((leg, dst), (self.far, address(40)), "{name}");
        assert_eq!(payload, [self.n as u8; 160], "{name}");
        if let Some(last) = self.last.replace(header) {
            let step = header.sequence.wrapping_sub(last.sequence);
            assert_eq!((header.ssrc, step), (last.ssrc, 1), "{name}");
            assert_eq!(header.timestamp.wrapping_sub(last.timestamp), 160, "{name}");
        }
        self.n += 1;
    }
}

/// A packet for leg `leg`, on a port of its own or on the shared one.
fn give(
    media: &mut Media,
    shared: bool,
    (leg, source): (LegId, SocketAddr),
    bytes: &mut Vec<u8>,
    now: Instant,
) -> Verdict {
    if shared {
        media.handle_shared_rtp(source, bytes, now)
    } else {
        media.handle_rtp(leg, source, bytes, now)
    }
}

fn suffer(case: &Case, shared: bool) {
    let mut media = media(3);
    let [a, b, c, d] = [10, 20, 30, 40].map(|n| open(&mut media, n, Codec::Pcmu));
    connect(&mut media, a, Far::Leg(b));
    connect(&mut media, c, Far::Leg(d));
    let params = LegParams { redundant: Some(121), ..params(Codec::Pcmu, 10) };
    media.handle_command(&MediaCommand::SetLeg { leg: a, params }, at(0));
    let mut other = Other { shared, leg: c, far: d, last: None, n: 0 };
    let (mut heard, mut last): (usize, Option<Header>) = (0, None);
    if shared && case.on_rtcp {
        // Before it is heard nobody's RTCP is its peer's.
        let _forward = give(&mut media, shared, (a, address(10)), &mut voice(499), at(0));
    }
    for (n, (source, mut bytes)) in (case.packets)().into_iter().enumerate() {
        let now = at(n as u64 % 900);
        if case.on_rtcp {
            if shared {
                media.handle_shared_rtcp(source, &bytes, now);
            } else {
                media.handle_rtcp(a, source, &bytes, now);
            }
        } else if let verdict @ Verdict::Forward { .. } =
            give(&mut media, shared, (a, source), &mut bytes, now)
        {
            let (leg, dst, header, _) = forwarded(verdict, &bytes);
            assert_eq!((leg, dst), (b, address(20)), "{}", case.name);
            let ssrc = last.replace(header).map_or(header.ssrc, |last| last.ssrc);
            assert_eq!(header.ssrc, ssrc, "{}: one SSRC leaves, whatever comes", case.name);
            heard += 1;
        }
        other.goes_on(&mut media, case.name);
    }
    assert_eq!(heard, case.heard, "{}", case.name);
    if shared && case.on_rtcp {
        // Bytes that name no sender are nobody's, before they are malformed.
        let dropped = |reason| media.counters().dropped(reason);
        let all: u64 = DropReason::ALL.iter().map(|reason| dropped(*reason)).sum();
        let (reason, times) = case.counted.unwrap_or((DropReason::WrongSource, 0));
        let strange = dropped(DropReason::WrongSource);
        let known = if reason == DropReason::WrongSource { 0 } else { dropped(reason) };
        assert_eq!((all, known + strange), (times, times), "{}", case.name);
    }
    for reason in DropReason::ALL.iter().filter(|_| !(shared && case.on_rtcp)) {
        let times = case.counted.filter(|(counted, _)| counted == reason).map_or(0, |(_, n)| n);
        assert_eq!(media.counters().dropped(*reason), times, "{}: {reason:?}", case.name);
    }
    assert_eq!(media.quality(c).unwrap().lost, 0, "{}", case.name);
    // And the call itself goes on.
    let mut bytes = packet(header(0, 500), &VOICE);
    let verdict = give(&mut media, shared, (a, address(10)), &mut bytes, at(2_000));
    assert_eq!(forwarded(verdict, &bytes).0, b, "{}", case.name);
}

#[test]
fn each_kind_has_its_counter_and_no_other_call_hears_it() {
    CASES.iter().for_each(|case| suffer(case, false));
}

#[test]
fn the_shared_port_suffers_no_more() {
    CASES.iter().for_each(|case| suffer(case, true));
}
