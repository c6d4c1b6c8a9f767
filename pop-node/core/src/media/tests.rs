//! Stories of packets: through one POP, through two, with and without transcoding.

use std::net::SocketAddr;

use bytes::Bytes;
use proptest::prelude::*;
use proto::overlay::Datagram;

use super::*;
use crate::codec::tests::{snr, speech};
use crate::codec::{Codec, Decoder, Encoder, EncoderConfig};
use crate::rtp::rtcp::{self, Rtcp};
use crate::rtp::telephone_event::Event;
use crate::rtp::{Header, Packet};

const EVENT: TelephoneEvent = TelephoneEvent { payload_type: 101, clock_rate: 8_000 };

fn at(ms: u64) -> Instant {
    Instant::from_millis(ms)
}

fn address(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 9, 1], port))
}

fn pop(name: &str) -> PopId {
    PopId::new(name).unwrap()
}

fn media(seed: u64) -> Media {
    let flush_delay = Duration::from_millis(2);
    let cname = "voice@test".into();
    Media::new(MediaConfig { seed, flush_delay, datagram_bytes: 1_160, cname }, at(0))
}

fn params(codec: Codec, port: u16) -> LegParams {
    LegParams {
        remote_rtp: Some(address(port)),
        remote_rtcp: None,
        trusted: Vec::new(),
        rtcp_mux: false,
        codec: Format {
            codec,
            payload_type: codec.offered_payload_type(),
            ptime_ms: 20,
            fmtp: None,
        },
        telephone_event: Some(EVENT),
        offered_telephone_event: None,
        direction: Direction::SendRecv,
    }
}

/// Opens leg `n` whose peer is at port `n`.
fn open(media: &mut Media, n: u64, codec: Codec) -> LegId {
    let leg = LegId(n);
    media.handle_command(&MediaCommand::OpenLeg { leg, local: address(1) }, at(0));
    let params = params(codec, n as u16);
    media.handle_command(&MediaCommand::SetLeg { leg, params }, at(0));
    leg
}

fn connect(media: &mut Media, leg: LegId, to: Far) {
    media.handle_command(&MediaCommand::Connect { leg, to }, at(0));
}

fn stream(peer: &str, send: u32, receive: u32, codec: Codec) -> Far {
    Far::Stream(Stream {
        peer: pop(peer),
        send: StreamId(send),
        receive: StreamId(receive),
        codec,
        telephone_event: true,
    })
}

fn packet(header: Header, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    header.write(&mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

fn header(payload_type: u8, n: u32) -> Header {
    Header {
        marker: n == 0,
        payload_type,
        sequence: 65_500_u16.wrapping_add(n as u16),
        timestamp: (u32::MAX - 2_000).wrapping_add(n * 160),
        ssrc: 77,
    }
}

fn forwarded(verdict: Verdict, packet: &[u8]) -> (LegId, SocketAddr, Header, Vec<u8>) {
    let Verdict::Forward { leg, dst } = verdict else { panic!("{verdict:?}") };
    let packet = Packet::parse(packet).unwrap();
    (leg, dst, packet.header, packet.payload.to_vec())
}

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
        (drop(&mut media, a, 10, packet(header(13, 1), &[0])), DropReason::UnknownPayloadType),
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
    assert_eq!(back, Verdict::Forward { leg: a, dst: address(4_444) });
    assert_eq!(send(&mut media, a, 5_555, 2), Verdict::Drop(DropReason::WrongSource));
}

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
                    MediaTransmit::Datagram { peer, bytes } => {
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

fn rtp(codec: Codec, n: usize, payload: &[u8]) -> Vec<u8> {
    let n = n as u32;
    let timestamp = 9_000_u32.wrapping_add(n * codec.clock_rate() / 50);
    packet(Header { timestamp, ..header(codec.offered_payload_type(), n) }, payload)
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
    // 5,000 frames of 170 bytes: six to a datagram would be 834.
    assert!(mesh.datagrams <= 1_000, "{}", mesh.datagrams);
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
            media.handle_rtp(LegId(n), address(n as u16), &mut bytes, now);
        }
        Step::Voice(n, sequence, timestamp, payload) => {
            let codec = media.legs.get(&LegId(n)).and_then(Leg::codec).unwrap_or(Codec::Pcmu);
            let payload_type = if sequence % 9 == 0 { 101 } else { codec.offered_payload_type() };
            let header = Header { sequence, timestamp, ..header(payload_type, 0) };
            let mut bytes = packet(header, &payload);
            media.handle_rtp(LegId(n), address(n as u16), &mut bytes, now);
        }
        Step::Rtcp(n, mut bytes) => {
            if let [first, second, ..] = bytes.as_mut_slice() {
                (*first, *second) = (0x80 | *first & 0x3f, 200 + *second % 4);
            }
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
    }
}
