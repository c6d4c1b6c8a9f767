//! Through two POPs, with and without transcoding.

use bytes::Bytes;
use proto::overlay::Datagram;

use super::*;
use crate::codec::tests::{snr, speech};
use crate::codec::{Decoder, Encoder, EncoderConfig};
use crate::rtp::telephone_event::Event;

/// Two POPs and the time between them.
struct Mesh {
    pops: [(PopId, Media); 2],
    delay: Duration,
    /// Datagrams under way: when they arrive, at which POP, and what.
    under_way: VecDeque<(Instant, usize, Bytes)>,
    /// RTP that left: when, at which POP, and the packet.
    left: Vec<(Instant, usize, Bytes)>,
    datagrams: u64,
}

impl Mesh {
    fn new(delay: Duration) -> Self {
        Self {
            pops: [(pop("aaa1"), media(11)), (pop("bbb1"), media(22))],
            delay,
            under_way: VecDeque::new(),
            left: Vec::new(),
            datagrams: 0,
        }
    }

    fn media(&mut self, n: usize) -> &mut Media {
        &mut self.pops[n].1
    }

    /// Leg `n` at both POPs, joined by a stream that carries `overlay`.
    fn call(&mut self, n: u64, codecs: [Codec; 2], overlay: Codec) {
        let id = n as u32;
        for (here, (peer, codec)) in ["bbb1", "aaa1"].into_iter().zip(codecs).enumerate() {
            let leg = open(self.media(here), n, codec);
            connect(self.media(here), leg, stream(peer, id, id, overlay));
        }
    }

    fn drain(&mut self, now: Instant) {
        for here in 0..2 {
            while let Some(transmit) = self.media(here).poll_transmit() {
                match transmit {
                    MediaTransmit::Datagram { peer, bytes, .. } => {
                        assert_eq!(peer, self.pops[1 - here].0);
                        self.under_way.push_back((now + self.delay, 1 - here, bytes));
                        self.datagrams += 1;
                    }
                    MediaTransmit::Rtp { bytes, .. } => self.left.push((now, here, bytes)),
                    MediaTransmit::Rtcp { .. } => {}
                }
            }
        }
    }

    /// Lets all happen that is due before `until`.
    fn run(&mut self, until: Instant) {
        loop {
            let timer = |n: usize| self.pops[n].1.poll_timeout();
            let arrival = self.under_way.front().map(|d| d.0);
            let next = earlier(earlier(timer(0), timer(1)), arrival);
            let Some(now) = next.filter(|&next| next < until) else { return };
            if arrival == Some(now) {
                let (_, to, bytes) = self.under_way.pop_front().unwrap();
                let from = self.pops[1 - to].0.clone();
                self.media(to).handle_datagram(&from, &bytes, now);
            } else {
                self.media(0).handle_timeout(now);
                self.media(1).handle_timeout(now);
            }
            self.drain(now);
        }
    }

    fn rtp(&mut self, here: usize, leg: u64, mut bytes: Vec<u8>, now: Instant) {
        self.run(now);
        let verdict = self.media(here).handle_rtp(LegId(leg), address(leg as u16), &mut bytes, now);
        assert_eq!(verdict, Verdict::Consumed);
        self.drain(now);
    }
}

/// Speech of `codec` as RTP payloads of 20 ms.
fn payloads(codec: Codec, seconds: usize) -> Vec<Vec<u8>> {
    let file = match codec {
        Codec::Pcmu | Codec::Pcma => "hum_en_8k.wav",
        Codec::G722 => "hum_en_16k.wav",
        Codec::Opus => "hum_en_48k.wav",
    };
    let rate = codec.sample_rate();
    let mut encoder = Encoder::new(codec, rate, EncoderConfig::default()).unwrap();
    let pcm = speech(file);
    let frames = pcm.chunks_exact(rate as usize / 50).take(seconds * 50);
    frames
        .map(|frame| {
            let mut payload = Vec::new();
            encoder.encode(frame, &mut payload).unwrap();
            payload
        })
        .collect()
}

pub(super) fn rtp(codec: Codec, n: usize, payload: &[u8]) -> Vec<u8> {
    let n = n as u32;
    let timestamp = 9_000_u32.wrapping_add(n * codec.clock_rate() / 50);
    packet(Header { timestamp, ..header(codec.offered_payload_type(), n) }, payload)
}

/// B hears what A lost, and what the hop lost; each POP knows its part.
#[test]
fn a_stream_is_measured_where_it_arrives() {
    let mut mesh = Mesh::new(Duration::from_millis(40));
    mesh.call(7, [Codec::Pcmu, Codec::Pcmu], Codec::Pcmu);
    for (n, payload) in payloads(Codec::Pcmu, 8).iter().enumerate() {
        if n % 10 != 3 {
            mesh.rtp(0, 7, rtp(Codec::Pcmu, n, payload), at(n as u64 * 20));
        }
        if n % 20 == 15 {
            mesh.under_way.pop_back().unwrap();
        }
    }
    mesh.run(at(8_500));
    let reports = |media: &mut Media| {
        std::iter::from_fn(|| media.poll_event())
            .filter_map(|event| match event {
                MediaEvent::LegQuality { report, .. } => Some(report),
                _ => None,
            })
            .collect::<Vec<_>>()
    };
    let [a, b] = [0, 1].map(|n| {
        let media = mesh.media(n);
        media.handle_command(&MediaCommand::CloseLeg { leg: LegId(7) }, at(8_500));
        reports(media)
    });
    let (a, b) = (a.last().unwrap(), b.last().unwrap());
    let stream = b.stream.as_ref().unwrap();
    assert_eq!((a.lost, stream.lost, b.lost), (40, 60, 0));
    assert_eq!((stream.peer.as_str(), stream.received), ("aaa1", 340));
    assert!(stream.mos < a.mos && a.mos < 4.0, "{} {}", stream.mos, a.mos);
    assert!(stream.summary.worst().unwrap().mos.unwrap() < 3.9);
}

/// A long way between the POPs is heard, and rated.
#[test]
fn the_way_between_the_pops_counts_as_delay() {
    let rated = |round_trip: Option<u64>| {
        let mut mesh = Mesh::new(Duration::from_millis(40));
        mesh.call(7, [Codec::Pcmu, Codec::Pcmu], Codec::Pcmu);
        if let Some(ms) = round_trip {
            mesh.media(1).handle_round_trip(&pop("aaa1"), Duration::from_millis(ms));
        }
        for (n, payload) in payloads(Codec::Pcmu, 6).iter().enumerate() {
            mesh.rtp(0, 7, rtp(Codec::Pcmu, n, payload), at(n as u64 * 20));
        }
        mesh.run(at(6_500));
        let events = std::iter::from_fn(|| mesh.media(1).poll_event());
        let reports = events.filter_map(|event| match event {
            MediaEvent::LegQuality { report, .. } => report.stream,
            _ => None,
        });
        let stream = reports.last().unwrap();
        (stream.mos, stream.point.unwrap().round_trip)
    };
    let (unknown, none) = rated(None);
    let (near, _) = rated(Some(40));
    let (far, round_trip) = rated(Some(500));
    assert_eq!((none, round_trip), (None, Some(Duration::from_millis(500))));
    assert!(unknown >= near && near > far + 0.2, "{unknown} {near} {far}");
}

#[test]
fn what_the_far_peer_wants_is_encoded_at_the_first_pop() {
    let bytes = |ptime_ms, fmtp: Option<&str>| {
        let mut mesh = Mesh::new(Duration::from_millis(40));
        mesh.call(7, [Codec::Pcmu, Codec::Opus], Codec::Opus);
        let Far::Stream(stream) = stream("bbb1", 7, 7, Codec::Opus) else { unreachable!() };
        let stream = Stream { ptime_ms, fmtp: fmtp.map(str::to_owned), ..stream };
        connect(mesh.media(0), LegId(7), Far::Stream(stream));
        for (n, payload) in payloads(Codec::Pcmu, 4).iter().enumerate() {
            mesh.rtp(0, 7, rtp(Codec::Pcmu, n, payload), at(n as u64 * 20));
        }
        mesh.run(at(4_000));
        let to_b = mesh.left.iter().filter(|(_, here, _)| *here == 1);
        let sizes: Vec<usize> = to_b.map(|(.., bytes)| bytes.len()).collect();
        (sizes.len(), sizes.iter().sum::<usize>())
    };
    let (packets, all) = bytes(0, None);
    let (longer, fewer) = bytes(60, Some("maxaveragebitrate=9000"));
    assert!((190..=200).contains(&packets) && (62..=67).contains(&longer), "{packets} {longer}");
    assert!(fewer * 2 < all, "{fewer} of {all}");
}

#[test]
fn speech_crosses_two_pops_untouched_and_at_once() {
    let mut mesh = Mesh::new(Duration::from_millis(40));
    mesh.call(7, [Codec::Pcmu, Codec::Pcmu], Codec::Pcmu);
    let sent = payloads(Codec::Pcmu, 3);
    for (n, payload) in sent.iter().enumerate() {
        let now = at(n as u64 * 20);
        mesh.rtp(0, 7, rtp(Codec::Pcmu, n, payload), now);
    }
    mesh.run(at(4_000));
    assert_eq!(mesh.left.len(), sent.len());
    let first = Packet::parse(&mesh.left[0].2).unwrap().header;
    for (n, ((when, here, bytes), payload)) in mesh.left.iter().zip(&sent).enumerate() {
        let packet = Packet::parse(bytes).unwrap();
        assert_eq!((*here, packet.payload), (1, payload.as_slice()));
        assert_eq!(*when, at(n as u64 * 20 + 40), "one call alone never waits");
        assert_eq!(packet.header.sequence, first.sequence.wrapping_add(n as u16));
        assert_eq!(packet.header.timestamp, first.timestamp.wrapping_add(n as u32 * 160));
    }
    let (peer, stats) = mesh.pops[1].1.links().next().unwrap();
    assert_eq!((peer, stats.received, stats.lost), (&pop("aaa1"), 150, 0));
    assert_eq!(stats.queueing, Duration::ZERO);
}

#[test]
fn speech_is_transcoded_both_ways_at_the_first_pop() {
    for (caller, callee) in
        [(Codec::Opus, Codec::Pcmu), (Codec::G722, Codec::Pcma), (Codec::Opus, Codec::G722)]
    {
        let mut mesh = Mesh::new(Duration::from_millis(10));
        mesh.call(7, [caller, callee], callee);
        let (there, back) = (payloads(caller, 4), payloads(callee, 4));
        for (n, (there, back)) in there.iter().zip(&back).enumerate() {
            mesh.rtp(0, 7, rtp(caller, n, there), at(n as u64 * 20));
            mesh.rtp(1, 7, rtp(callee, n, back), at(n as u64 * 20 + 3));
        }
        mesh.run(at(4_500));
        for (here, codec, first_ms) in [(1, callee, 30), (0, caller, 33)] {
            let rate = if callee == Codec::G722 { 16_000 } else { 8_000 };
            let rate = if codec == Codec::G722 { 16_000 } else { rate };
            let mut decoder = Decoder::new(codec, rate).unwrap();
            let mut pcm = Vec::new();
            let out: Vec<_> = mesh.left.iter().filter(|left| left.1 == here).collect();
            for pair in out.windows(2) {
                let header = |n: usize| Packet::parse(&pair[n].2).unwrap().header;
                assert_eq!(pair[1].0 - pair[0].0, Duration::from_millis(20), "even spacing");
                assert_eq!(header(1).sequence, header(0).sequence.wrapping_add(1));
                let units = codec.clock_rate() / 50;
                assert_eq!(header(1).timestamp, header(0).timestamp.wrapping_add(units));
            }
            for (_, _, bytes) in &out {
                decoder.decode(Packet::parse(bytes).unwrap().payload, &mut pcm).unwrap();
            }
            assert_eq!(out[0].0, at(first_ms), "{caller:?} {callee:?} at {here}");
            let reference = speech(if rate == 8_000 { "hum_en_8k.wav" } else { "hum_en_16k.wav" });
            let (snr, delay) = snr(&reference[..rate as usize * 3], &pcm, 400);
            assert!(snr > 7.0, "{caller:?} {callee:?} at {here}: {snr} dB");
            assert!(delay as u32 * 1_000 / rate < 20, "{caller:?} {callee:?}: {delay}");
        }
        assert_eq!(mesh.pops[0].1.counters().dropped(DropReason::PlayoutLate), 0);
    }
}

#[test]
fn keys_cross_transcoding() {
    let mut mesh = Mesh::new(Duration::from_millis(10));
    mesh.call(7, [Codec::Opus, Codec::Pcmu], Codec::Pcmu);
    for (n, payload) in payloads(Codec::Opus, 1).iter().enumerate() {
        mesh.rtp(0, 7, rtp(Codec::Opus, n, payload), at(n as u64 * 20));
    }
    for n in 0..3_u32 {
        let event = Event { code: 11, end: n == 2, volume: 10, duration: 160 + n as u16 * 160 };
        let header = Header { timestamp: 60_000, ..header(101, 50 + n) };
        mesh.rtp(0, 7, packet(header, &event.encode()), at(1_000 + u64::from(n) * 20));
    }
    mesh.run(at(1_400));
    let out: Vec<_> = mesh.left.iter().map(|left| Packet::parse(&left.2).unwrap()).collect();
    let events: Vec<_> = out.iter().filter(|p| p.header.payload_type == 101).collect();
    assert_eq!(events.len(), 3);
    assert!(events.iter().all(|e| e.header.timestamp == events[0].header.timestamp));
    assert_eq!(Event::decode(events[2].payload).unwrap().digit(), Some('#'));
    let sequences: Vec<u16> = out.iter().map(|p| p.header.sequence).collect();
    assert!(sequences.windows(2).all(|w| w[1] == w[0].wrapping_add(1)));
}

#[test]
fn many_calls_share_datagrams_and_none_waits_long() {
    let mut mesh = Mesh::new(Duration::ZERO);
    let calls = 100;
    for n in 0..calls {
        mesh.call(1_000 + n, [Codec::Pcma, Codec::Pcma], Codec::Pcma);
    }
    let mut sent = Vec::new();
    for frame in 0..50_u64 {
        for n in 0..calls {
            let now = Instant::from_nanos((frame * 20_000 + n * 200) * 1_000);
            mesh.rtp(0, 1_000 + n, rtp(Codec::Pcma, frame as usize, &[0x55; 160]), now);
            sent.push(now);
        }
    }
    mesh.run(at(2_000));
    assert_eq!(mesh.left.len(), sent.len());
    let longest = mesh.left.iter().zip(&sent).map(|(left, &sent)| left.0 - sent).max().unwrap();
    assert!(longest <= Duration::from_millis(2), "{longest:?}");
    // 5,000 frames of 170 bytes, ten in each burst, six to a datagram: two datagrams each 2 ms.
    assert!(mesh.datagrams <= 1_001, "{}", mesh.datagrams);
    let bytes = mesh.pops[0].1.counters();
    assert_eq!((bytes.frames_sent, bytes.datagrams_sent), (5_000, mesh.datagrams));
}

#[test]
fn a_stream_is_only_its_peers() {
    let mut mesh = Mesh::new(Duration::ZERO);
    mesh.call(7, [Codec::Pcmu, Codec::Pcmu], Codec::Pcmu);
    let mut bytes = rtp(Codec::Pcmu, 0, &[0; 160]);
    mesh.media(0).handle_rtp(LegId(7), address(7), &mut bytes, at(0));
    let Some(MediaTransmit::Datagram { bytes, .. }) = mesh.media(0).poll_transmit() else {
        panic!("no datagram")
    };
    let media = mesh.media(1);
    media.handle_datagram(&pop("evil"), &bytes, at(1));
    media.handle_datagram(&pop("aaa1"), &bytes, at(1));
    media.handle_datagram(&pop("aaa1"), &bytes, at(2));
    media.handle_datagram(&pop("aaa1"), &bytes[..20], at(2));
    assert!(matches!(media.poll_transmit(), Some(MediaTransmit::Rtp { .. })));
    assert_eq!(media.poll_transmit(), None);
    media.handle_command(&MediaCommand::CloseLeg { leg: LegId(7) }, at(3));
    let counters = media.counters();
    assert_eq!(counters.dropped(DropReason::WrongPeer), 1);
    assert_eq!(counters.dropped(DropReason::DuplicateDatagram), 2);
    assert_eq!(Datagram::decode(&bytes).unwrap().frames().count(), 1);
}

#[test]
fn lanes_of_one_peer_count_by_themselves() {
    let (mut here, mut there) = (media(11), media(22));
    for lane in [0, 5] {
        let Far::Stream(stream) = stream("bbb1", lane, lane, Codec::Pcmu) else { unreachable!() };
        let lane = Lane(lane as u8);
        let leg = open(&mut here, 10 + u64::from(lane.0), Codec::Pcmu);
        connect(&mut here, leg, Far::Stream(Stream { lane, ..stream }));
    }
    let mut sequences: BTreeMap<u8, Vec<u16>> = BTreeMap::new();
    for n in 0..30 {
        let now = at(20 * n);
        for port in [10, 15] {
            let mut bytes = packet(header(0, n as u32), &[0xff; 160]);
            let verdict = here.handle_rtp(LegId(port), address(port as u16), &mut bytes, now);
            assert_eq!(verdict, Verdict::Consumed);
        }
        here.handle_timeout(now + Duration::from_millis(2));
        while let Some(transmit) = here.poll_transmit() {
            let MediaTransmit::Datagram { bytes, .. } = transmit else { continue };
            let sent = Datagram::decode(&bytes).unwrap().header;
            assert_eq!(sent.lane, proto::overlay::lane(&bytes));
            sequences.entry(sent.lane).or_default().push(sent.path_sequence);
            there.handle_datagram(&pop("aaa1"), &bytes, now);
        }
    }
    assert_eq!(sequences.keys().collect::<Vec<_>>(), [&0, &5]);
    for sent in sequences.values() {
        assert_eq!(sent.len(), 30);
        assert!(sent.windows(2).all(|pair| pair[1] == pair[0].wrapping_add(1)));
    }
    let received: Vec<_> = there.links().map(|(_, stats)| (stats.received, stats.lost)).collect();
    assert_eq!(received, [(60, 0)], "each lane's gaps by themselves");
    let sent: Vec<_> = here.links().map(|(_, stats)| stats.sent).collect();
    assert_eq!(sent, [60]);
}
