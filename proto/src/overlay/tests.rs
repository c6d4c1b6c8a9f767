//! What is written is read, and damage has a name.

use proptest::prelude::*;

use super::*;
use crate::id::StreamId;

fn header(path_sequence: u16) -> Header {
    Header {
        probe: false,
        lane: 3,
        path: PathId(0x12),
        path_sequence,
        lane_sequence: 65_000,
        send_time_us: 1_000,
        relayed: None,
    }
}

fn any_relayed() -> impl Strategy<Value = Option<Relayed>> {
    prop::option::of((any::<u32>(), any::<u32>()))
        .prop_map(|ends| ends.map(|(from, to)| Relayed { from: PopTag(from), to: PopTag(to) }))
}

fn frame(payload: &[u8]) -> Frame<'_> {
    Frame {
        stream: StreamId(300),
        sequence: 65_535,
        timestamp: 160,
        marker: true,
        kind: FrameKind::Audio,
        payload,
    }
}

#[test]
fn a_full_datagram_says_so_and_starts_anew() {
    let mut builder = Builder::new(400);
    let payload = [7; 160];
    builder.push(&frame(&payload)).unwrap();
    builder.push(&frame(&payload)).unwrap();
    assert_eq!(builder.push(&frame(&payload)), Err(PushError::Full));
    let bytes = builder.finish(&header(9));
    assert!(bytes.len() <= 400);
    let datagram = Datagram::decode(&bytes).unwrap();
    assert_eq!(datagram.header, header(9));
    assert_eq!(datagram.frames().count(), 2);
    assert!(builder.is_empty());
    assert_eq!(builder.push(&frame(&[0; 400])), Err(PushError::TooLong(400)));
}

#[test]
fn damage_is_named() {
    let mut builder = Builder::new(400);
    builder.push(&frame(&[1, 2, 3])).unwrap();
    let good = builder.finish(&header(0));
    assert_eq!(Datagram::decode(&good[..11]), Err(DecodeError::Truncated));
    assert_eq!(Datagram::decode(&[0x10; 12]), Err(DecodeError::Version(1)));
    assert_eq!(Datagram::decode(&[0x22; 12]), Err(DecodeError::Flags(2)));
    let cut = Datagram::decode(&good[..good.len() - 1]).unwrap();
    assert_eq!(cut.frames().collect::<Vec<_>>(), [Err(DecodeError::Truncated)]);
    let mut huge = good[..HEADER_BYTES].to_vec();
    huge.extend([0xff; 5]);
    let huge = Datagram::decode(&huge).unwrap();
    assert_eq!(huge.frames().collect::<Vec<_>>(), [Err(DecodeError::Varint)]);
}

prop_compose! {
    fn any_heard()(
        path: u16, silent: bool, used: bool, received: u32, lost: u32, jitter_us: u32,
        queueing_us: u32, burst: u16,
    ) -> Heard {
        let path = PathId(path);
        Heard { path, silent, used, received, lost, jitter_us, queueing_us, burst }
    }
}

prop_compose! {
    fn any_frame()(
        stream: u32, sequence: u16, timestamp: u32, marker: bool, kind in 0u8..3,
        payload in prop::collection::vec(any::<u8>(), 0..400),
    ) -> (u32, u16, u32, bool, u8, Vec<u8>) {
        (stream, sequence, timestamp, marker, kind, payload)
    }
}

proptest! {
    #[test]
    fn what_is_pushed_comes_out(frames in prop::collection::vec(any_frame(), 0..6), seq: u16, relayed in any_relayed()) {
        let mut builder = Builder::new(4_000);
        let frames: Vec<Frame<'_>> = frames.iter().map(|(s, q, t, m, k, p)| Frame {
            stream: StreamId(*s), sequence: *q, timestamp: *t, marker: *m,
            kind: FrameKind::from_code(*k).unwrap(), payload: p,
        }).collect();
        let header = Header { relayed, ..header(seq) };
        let mut bytes = header.encoded_bytes();
        for frame in &frames {
            builder.push(frame).unwrap();
            bytes += frame.encoded_bytes();
        }
        let datagram = builder.finish(&header);
        prop_assert_eq!(datagram.len(), bytes);
        let read: Result<Vec<_>, _> = Datagram::decode(&datagram).unwrap().frames().collect();
        prop_assert_eq!(read.unwrap(), frames);
    }

    #[test]
    fn a_copy_differs_in_its_header_only(payload in prop::collection::vec(any::<u8>(), 0..300), relayed in any_relayed()) {
        let mut builder = Builder::new(600);
        builder.push(&frame(&payload)).unwrap();
        let original = builder.finish(&header(1));
        let second = Header { path: PathId(0x21), relayed, ..header(7) };
        let copy = second.readdress(&Datagram::decode(&original).unwrap());
        let copy = Datagram::decode(&copy).unwrap();
        prop_assert_eq!(copy.header, second);
        let frames: Vec<_> = copy.frames().collect();
        prop_assert_eq!(frames, [Ok(frame(&payload))]);
    }

    #[test]
    fn a_probe_comes_out_as_it_went_in(
        interval_ms: u16, echo in prop::option::of((any::<u16>(), 0..u32::MAX)),
        heard in prop::collection::vec(any_heard(), 0..40), relayed in any_relayed(),
    ) {
        let probe = Probe { interval_ms, echo, heard };
        let bytes = probe.encode(&Header { relayed, ..header(5) });
        let datagram = Datagram::decode(&bytes).unwrap();
        prop_assert_eq!(datagram.frames().count(), 0);
        let mut sent = probe;
        sent.heard.truncate(probe::REPORTS_MAX);
        prop_assert_eq!(datagram.probe(), Some(Ok(sent)));
        for cut in HEADER_BYTES..bytes.len() {
            let cut = Datagram::decode(&bytes[..cut]);
            let refused = cut.is_err() || cut.unwrap().probe().unwrap().is_err();
            prop_assert!(refused);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
        if let Ok(datagram) = Datagram::decode(&bytes) {
            let frames: Vec<_> = datagram.frames().collect();
            prop_assert!(frames.len() <= bytes.len());
            let _ = datagram.probe();
        }
    }
}
