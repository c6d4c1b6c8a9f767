//! The media thread with real sockets on loopback.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::Duration;

use pop_core::codec::Codec;
use pop_core::media::{
    Direction, Far, Format, Lane, LegParams, MediaCommand, MediaConfig, MediaEvent,
};
use pop_node::clock::Clock;
use pop_node::drops::{Drops, Reason};
use pop_node::media::{self, Faces, Handle, Order, ThreadFigures};
use proto::id::LegId;
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(30);

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 42, last])
}

fn start() -> (Handle, mpsc::Receiver<MediaEvent>, Drops) {
    start_facing(Faces::default())
}

fn start_facing(faces: Faces) -> (Handle, mpsc::Receiver<MediaEvent>, Drops) {
    let config = MediaConfig {
        own: proto::overlay::PopTag(1),
        seed: 1,
        flush_delay: Duration::from_millis(1),
        datagram_bytes: 1_150,
        cname: "test".to_owned(),
        opus_complexity: None,
    };
    let (events, events_in) = mpsc::channel(64);
    let drops = Drops::default();
    let (handle, _thread) =
        media::start_facing(faces, config, Clock::start(), drops.clone(), events).unwrap();
    (handle, events_in, drops)
}

fn order(media: &Handle, command: MediaCommand) {
    media.order(Order::Command(command)).unwrap();
}

fn params(remote: SocketAddr) -> LegParams {
    LegParams {
        remote_rtp: Some(remote),
        remote_rtcp: None,
        remote_ssrc: None,
        trusted: Vec::new(),
        rtcp_mux: false,
        rtcp_xr: false,
        codec: Format { codec: Codec::Pcmu, payload_type: 0, ptime_ms: 20, fmtp: None },
        telephone_event: None,
        offered_telephone_event: None,
        comfort_noise: None,
        redundant: None,
        offered_redundant: None,
        copies: false,
        suppress_noise: false,
        direction: Direction::SendRecv,
        srtp: None,
    }
}

/// A phone on loopback with its leg at the POP.
struct Phone {
    socket: UdpSocket,
    leg: LegId,
    pop: SocketAddr,
}

impl Phone {
    /// Returns when the leg's ports are open.
    async fn new(media: &Handle, leg: u64, pop_ip: IpAddr) -> Self {
        Self::at(media, leg, common::free_pair(pop_ip)).await
    }

    /// The leg has these ports.
    async fn at(media: &Handle, leg: u64, pop: SocketAddr) -> Self {
        let socket = UdpSocket::bind((pop.ip(), 0)).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        let leg = LegId(leg);
        order(media, MediaCommand::OpenLeg { leg, local: pop });
        let params = params(socket.local_addr().unwrap());
        order(media, MediaCommand::SetLeg { leg, params });
        media.status().await.unwrap();
        Self { socket, leg, pop }
    }

    fn say(&self, sequence: u16) {
        let timestamp = u32::from(sequence) * 160;
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&sequence.to_be_bytes());
        packet.extend_from_slice(&timestamp.to_be_bytes());
        packet.extend_from_slice(&[1, 2, 3, 4]);
        packet.extend_from_slice(&[u8::try_from(sequence % 256).unwrap(); 160]);
        self.socket.send_to(&packet, self.pop).unwrap();
    }

    /// The payload of the next packet that comes from our leg.
    fn hear(&self) -> Vec<u8> {
        let mut buffer = [0; 2048];
        let (length, source) = self.socket.recv_from(&mut buffer).expect("a packet");
        assert_eq!(source, self.pop);
        buffer[12..length].to_vec()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_legs_hear_each_other_and_ports_are_closed_after() {
    let (media, mut events, _drops) = start();
    let (anna, ben) = (Phone::new(&media, 1, ip(1)).await, Phone::new(&media, 2, ip(2)).await);
    order(&media, MediaCommand::Connect { leg: anna.leg, to: Far::Leg(ben.leg) });
    assert_eq!(media.status().await.unwrap().legs, 2);
    for sequence in 0..200 {
        anna.say(sequence);
        ben.say(sequence + 1_000);
        assert_eq!(ben.hear(), [u8::try_from(sequence % 256).unwrap(); 160]);
        assert_eq!(anna.hear(), [u8::try_from((sequence + 1_000) % 256).unwrap(); 160]);
    }
    order(&media, MediaCommand::CloseLeg { leg: anna.leg });
    order(&media, MediaCommand::CloseLeg { leg: ben.leg });
    let status = media.status().await.unwrap();
    assert_eq!((status.legs, status.counters.rtp_received), (0, 400));
    // The ports are free again.
    for port in [anna.pop.port(), anna.pop.port() + 1] {
        UdpSocket::bind((ip(1), port)).unwrap();
    }
    let mut last = 0;
    while last < 2 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        last += usize::from(matches!(event, MediaEvent::LegQuality { last: true, .. }));
    }
}

/// Four phones, two calls, one port: each hears its own call.
async fn two_calls_on_one_port(at: IpAddr) {
    let pop = common::free_pair(at);
    let (media, _events, drops) = start_facing(Faces { shared: Some(pop), ..Faces::default() });
    let mut phones = Vec::new();
    for leg in 1..=4 {
        phones.push(Phone::at(&media, leg, pop).await);
    }
    for (leg, far) in [(1, 2), (3, 4)] {
        order(&media, MediaCommand::Connect { leg: LegId(leg), to: Far::Leg(LegId(far)) });
    }
    media.status().await.unwrap();
    // More than a batch at once, then each hears all of its call, in order.
    let word = |phone: usize, n: u16| 40 * u16::try_from(phone).unwrap() + n;
    for n in 0..40 {
        phones.iter().enumerate().for_each(|(phone, p)| p.say(word(phone, n)));
    }
    for (phone, far) in [(0, 1), (1, 0), (2, 3), (3, 2)] {
        for n in 0..40 {
            assert_eq!(phones[phone].hear(), [word(far, n).to_le_bytes()[0]; 160]);
        }
    }
    let stranger = UdpSocket::bind((at, 0)).unwrap();
    let rtcp = SocketAddr::new(at, pop.port() + 1);
    for to in [pop, rtcp] {
        stranger.send_to(&[0x80; 172], to).unwrap();
        stranger.send_to(&[], to).unwrap();
    }
    // A peer that is gone answers by ICMP: the others' packets go on.
    let gone = phones.remove(3);
    drop(gone.socket);
    for n in 0..40 {
        phones[2].say(1_000 + n);
        phones[0].say(1_000 + n);
        assert_eq!(phones[1].hear(), [(1_000 + n).to_le_bytes()[0]; 160]);
    }
    (1..=4).for_each(|leg| order(&media, MediaCommand::CloseLeg { leg: LegId(leg) }));
    assert_eq!(media.status().await.unwrap().legs, 0);
    assert_eq!(drops.get(Reason::MediaBindFailed), 0);
}

/// A call on each of two threads; each thread has its own port, and its own legs only.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_lives_on_one_thread() {
    let first = common::free_pairs(ip(9), 2);
    let faces = Faces { shared: Some(first), threads: 2, ..Faces::default() };
    let (media, _events, _drops) = start_facing(faces);
    for lane in [Lane(0), Lane(1), Lane(3)] {
        let port = first.port() + 2 * u16::from(lane.0 % 2);
        let at = SocketAddr::new(first.ip(), port);
        let anna = Phone::at(&media, lane.leg(1).0, at).await;
        let ben = Phone::at(&media, lane.leg(2).0, at).await;
        order(&media, MediaCommand::Connect { leg: anna.leg, to: Far::Leg(ben.leg) });
        media.status().await.unwrap();
        for sequence in 0..50 {
            anna.say(sequence);
            assert_eq!(ben.hear(), [sequence.to_le_bytes()[0]; 160]);
        }
    }
    let status = media.status().await.unwrap();
    let of = |legs, rtp_received| ThreadFigures { legs, rtp_received };
    assert_eq!(status.threads, [of(2, 50), of(4, 100)]);
    assert_eq!((status.legs, status.counters.rtp_sent), (6, 150));
    media.order(Order::Stop).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_on_one_port_hear_only_their_own() {
    two_calls_on_one_port(ip(7)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_over_ipv6_are_relayed_on_one_port_or_on_many() {
    let here = IpAddr::from(std::net::Ipv6Addr::LOCALHOST);
    two_calls_on_one_port(here).await;
    let (media, _events, _drops) = start();
    let (anna, ben) = (Phone::new(&media, 1, here).await, Phone::new(&media, 2, here).await);
    order(&media, MediaCommand::Connect { leg: anna.leg, to: Far::Leg(ben.leg) });
    media.status().await.unwrap();
    for sequence in 0..20 {
        anna.say(sequence);
        assert_eq!(ben.hear(), [sequence.to_le_bytes()[0]; 160]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_shared_port_is_named_before_anything_runs() {
    let pop = common::free_pair(ip(8));
    let _other_program = UdpSocket::bind((pop.ip(), pop.port() + 1)).unwrap();
    let (events, _events_in) = mpsc::channel(1);
    let config = MediaConfig {
        own: proto::overlay::PopTag(1),
        seed: 1,
        flush_delay: Duration::from_millis(1),
        datagram_bytes: 1_150,
        cname: "test".to_owned(),
        opus_complexity: None,
    };
    let faces = Faces { shared: Some(pop), ..Faces::default() };
    let refused = media::start_facing(faces, config, Clock::start(), Drops::default(), events);
    let text = refused.map(|_| ()).unwrap_err().to_string();
    assert!(text.contains("shared media port") && text.contains(&pop.to_string()), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_is_not_lost_between_socket_and_core() {
    let (media, _events, _drops) = start();
    let (anna, ben) = (Phone::new(&media, 1, ip(3)).await, Phone::new(&media, 2, ip(4)).await);
    order(&media, MediaCommand::Connect { leg: anna.leg, to: Far::Leg(ben.leg) });
    media.status().await.unwrap();
    // More than one turn reads from a socket; epoll tells of it only once.
    (0..100).for_each(|sequence| anna.say(sequence));
    for _ in 0..100 {
        ben.hear();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_counted_and_a_taken_port_is_too() {
    let (media, mut events, drops) = start();
    let anna = Phone::new(&media, 1, ip(5)).await;
    for length in [0, 1, 11, 2_000, 9_000] {
        anna.socket.send_to(&vec![0xff; length], anna.pop).unwrap();
    }
    let rtcp = SocketAddr::new(anna.pop.ip(), anna.pop.port() + 1);
    anna.socket.send_to(&[0xff; 40], rtcp).unwrap();
    order(&media, MediaCommand::OpenLeg { leg: LegId(9), local: anna.pop });
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let counters = media.status().await.unwrap().counters;
        let dropped: u64 =
            pop_core::media::DropReason::ALL.iter().map(|r| counters.dropped(*r)).sum();
        if dropped >= 6 {
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "only {dropped} drops were counted");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(drops.get(Reason::MediaBindFailed), 1);
    // The calls are told which ports are theirs and which are not.
    let mut told = Vec::new();
    while told.len() < 2 {
        let event = tokio::time::timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        if matches!(event, MediaEvent::Opened { .. } | MediaEvent::PortTaken { .. }) {
            told.push(event);
        }
    }
    // In one turn or two, so in either order: they are of different legs.
    assert!(told.contains(&MediaEvent::Opened { leg: LegId(1) }), "{told:?}");
    assert!(told.contains(&MediaEvent::PortTaken { leg: LegId(9) }), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_thread_ends_by_order() {
    let config = MediaConfig {
        own: proto::overlay::PopTag(1),
        seed: 1,
        flush_delay: Duration::from_millis(1),
        datagram_bytes: 1_150,
        cname: "test".to_owned(),
        opus_complexity: None,
    };
    let (events, _events_in) = mpsc::channel(1);
    let (handle, threads) = media::start(config, Clock::start(), Drops::default(), events).unwrap();
    handle.order(Order::Stop).unwrap();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
    assert!(handle.status().await.is_none());
}
