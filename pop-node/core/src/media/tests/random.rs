//! Anything at any time: nothing panics, nothing is left.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone)]
enum Step {
    Open(u64, u8),
    Connect(u64, u64),
    Stream(u64, u32, u8),
    Disconnect(u64),
    Close(u64),
    Rtp(u64, u8, Vec<u8>),
    Voice(u64, u16, u32, Vec<u8>),
    Rtcp(u64, Vec<u8>),
    Datagram(Vec<u8>),
    Time(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..220);
    prop_oneof![
        (0..4_u64, 0..4_u8).prop_map(|(a, c)| Step::Open(a, c)),
        (0..4_u64, 0..4_u64).prop_map(|(a, b)| Step::Connect(a, b)),
        (0..4_u64, 0..3_u32, 0..4_u8).prop_map(|(a, s, c)| Step::Stream(a, s, c)),
        (0..4_u64).prop_map(Step::Disconnect),
        (0..4_u64).prop_map(Step::Close),
        (0..4_u64, any::<u8>(), bytes()).prop_map(|(a, f, b)| Step::Rtp(a, f, b)),
        (0..4_u64, any::<u16>(), any::<u32>(), bytes())
            .prop_map(|(a, s, t, b)| Step::Voice(a, s, t, b)),
        (0..4_u64, bytes()).prop_map(|(a, b)| Step::Rtcp(a, b)),
        bytes().prop_map(Step::Datagram),
        (0..300_u64).prop_map(Step::Time),
    ]
}

fn apply(media: &mut Media, step: Step, now: Instant) {
    let codec = |n: u8| Codec::ALL[usize::from(n) % 4];
    match step {
        Step::Open(n, c) => {
            open(media, n, codec(c));
        }
        Step::Connect(a, b) => connect(media, LegId(a), Far::Leg(LegId(b))),
        Step::Stream(a, id, c) => connect(media, LegId(a), stream("aaa1", id, id, codec(c))),
        Step::Disconnect(n) => {
            media.handle_command(&MediaCommand::Disconnect { leg: LegId(n) }, now);
        }
        Step::Close(n) => media.handle_command(&MediaCommand::CloseLeg { leg: LegId(n) }, now),
        Step::Rtp(n, flags, mut bytes) => {
            if let Some(first) = bytes.first_mut() {
                *first = 0x80 | flags & 0x3f;
            }
            media.handle_shared_rtp(address(n as u16), &mut bytes.clone(), now);
            media.handle_rtp(LegId(n), address(n as u16), &mut bytes, now);
        }
        Step::Voice(n, sequence, timestamp, payload) => {
            let codec =
                media.legs.get(&LegId(n)).and_then(|leg| leg.codec()).unwrap_or(Codec::Pcmu);
            let payload_type = if sequence % 9 == 0 { 101 } else { codec.offered_payload_type() };
            let header = Header { sequence, timestamp, ..header(payload_type, 0) };
            let mut bytes = packet(header, &payload);
            media.handle_shared_rtp(address(n as u16), &mut bytes.clone(), now);
            media.handle_rtp(LegId(n), address(n as u16), &mut bytes, now);
        }
        Step::Rtcp(n, mut bytes) => {
            if let [first, second, ..] = bytes.as_mut_slice() {
                (*first, *second) = (0x80 | *first & 0x3f, 200 + *second % 4);
            }
            media.handle_shared_rtcp(address(n as u16 + 1), &bytes, now);
            media.handle_rtcp(LegId(n), address(n as u16 + 1), &bytes, now);
        }
        Step::Datagram(mut bytes) => {
            if let Some(first) = bytes.first_mut() {
                *first = 0x10;
            }
            media.handle_datagram(&pop("aaa1"), &bytes, now);
        }
        Step::Time(_) => {}
    }
}

proptest! {
    #[test]
    fn nothing_panics_and_nothing_is_left(steps in prop::collection::vec(step(), 0..120)) {
        let mut media = media(9);
        let mut now = 0;
        for step in steps {
            if let Step::Time(ms) = step {
                now += ms;
                while let Some(due) = media.poll_timeout().filter(|&due| due <= at(now)) {
                    media.handle_timeout(due);
                }
            }
            apply(&mut media, step, at(now));
            while media.poll_transmit().is_some() {}
        }
        for n in 0..4 {
            media.handle_command(&MediaCommand::CloseLeg { leg: LegId(n) }, at(now));
        }
        media.handle_timeout(at(now + 10));
        prop_assert_eq!(media.poll_timeout(), None);
        prop_assert!(media.streams.is_empty() && media.timers.is_empty());
        prop_assert!(media.demux.is_empty());
    }
}
