//! Two links in one process: call streams, datagrams, and whom they refuse.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod common;

use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use common::Authority;
use pop_core::media::MediaConfig;
use pop_core::pop::{CallStream, Initiator, StreamEvent};
use pop_node::clock::Clock;
use pop_node::drops::{Drops, Reason};
use pop_node::link::{Event, Links, Peer, Settings};
use pop_node::media;
use prost::Message as _;
use proto::call::{CallBye, CallMessage, CallProgress, StreamHello, call_message::Kind};
use proto::id::PopId;
use tokio::sync::{mpsc, watch};

const PATIENCE: Duration = Duration::from_secs(30);

struct Pop {
    id: PopId,
    address: SocketAddr,
    links: Links,
    peers: watch::Sender<Vec<Peer>>,
    events: mpsc::Receiver<Event>,
    media: media::Handle,
    drops: Drops,
}

impl Pop {
    fn start(mesh: &Authority, name: &str) -> Self {
        let id = PopId::new(name).unwrap();
        let clock = Clock::start();
        let drops = Drops::default();
        let config = MediaConfig {
            own: proto::overlay::PopTag::of(&id),
            seed: 1,
            flush_delay: Duration::from_millis(1),
            datagram_bytes: 1_150,
            cname: name.to_owned(),
            opus_complexity: None,
        };
        let (media_events, _) = mpsc::channel(16);
        let (media, _) = media::start(config, clock, drops.clone(), media_events).unwrap();
        let socket = UdpSocket::bind("127.0.41.1:0").unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (sender, events) = mpsc::channel(256);
        let (peers, peers_in) = watch::channel(Vec::new());
        let settings = Settings {
            own: id.clone(),
            max_calls: 100,
            events: sender,
            media: media.clone(),
            drops: drops.clone(),
            clock,
        };
        let links = Links::start(mesh.credentials(name), vec![socket], settings, peers_in).unwrap();
        Self { id, address, links, peers, events, media, drops }
    }

    /// As the view would name `other`, under any id.
    fn knows(&self, id: &str, other: &Self) {
        let peer = Peer { id: PopId::new(id).unwrap(), address: other.address.to_string() };
        self.peers.send_replace(vec![peer]);
    }

    async fn event(&mut self) -> Event {
        tokio::time::timeout(PATIENCE, self.events.recv()).await.expect("an event").unwrap()
    }

    async fn up(&mut self, other: &PopId) -> quinn::Connection {
        match self.event().await {
            Event::Up { peer, connection, .. } if peer == *other => connection,
            event => panic!("{event:?} instead of a link to {other}"),
        }
    }

    async fn call(&mut self) -> (CallStream, StreamEvent) {
        match self.event().await {
            Event::Call { stream, event } => (stream, event),
            event => panic!("{event:?} instead of a call event"),
        }
    }
}

fn message(status: u32) -> CallMessage {
    CallMessage { kind: Some(Kind::Progress(CallProgress { status, media: None })) }
}

fn local(peer: &PopId, number: u64) -> CallStream {
    CallStream { peer: peer.clone(), number, initiator: Initiator::Local }
}

/// A linked pair, the lower id first.
async fn pair(mesh: &Authority) -> (Pop, Pop, quinn::Connection) {
    let (mut fra, mut sin) = (Pop::start(mesh, "fra1"), Pop::start(mesh, "sin1"));
    fra.knows("sin1", &sin);
    sin.knows("fra1", &fra);
    let connection = fra.up(&sin.id.clone()).await;
    sin.up(&fra.id.clone()).await;
    (fra, sin, connection)
}

#[tokio::test(flavor = "multi_thread")]
async fn call_messages_go_both_ways_and_streams_end_in_order() {
    let mesh = Authority::new("demo");
    let (mut fra, mut sin, _connection) = pair(&mesh).await;
    let ours = local(&sin.id, 1);
    let outbox = fra.links.open(ours.clone());
    // Sent before the stream is open: kept.
    assert!(outbox.send(message(100)));
    assert_eq!(fra.call().await, (ours.clone(), StreamEvent::Opened));
    let (theirs, back) = match sin.event().await {
        Event::Accepted { stream, outbox } => (stream, outbox),
        event => panic!("{event:?}"),
    };
    assert_eq!((&theirs.peer, theirs.initiator), (&fra.id, Initiator::Remote));
    assert_eq!(sin.call().await, (theirs.clone(), StreamEvent::Opened));
    assert_eq!(sin.call().await, (theirs.clone(), StreamEvent::Message(message(100))));
    for status in [180, 183] {
        assert!(back.send(message(status)));
        let expected = (ours.clone(), StreamEvent::Message(message(status)));
        assert_eq!(fra.call().await, expected);
    }
    // The last message arrives before the end does.
    let bye = CallMessage { kind: Some(Kind::Bye(CallBye::default())) };
    assert!(outbox.send(bye.clone()));
    drop(outbox);
    assert_eq!(sin.call().await, (theirs.clone(), StreamEvent::Message(bye)));
    assert_eq!(sin.call().await, (theirs, StreamEvent::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn datagrams_reach_the_media_thread_of_the_peer() {
    let mesh = Authority::new("demo");
    let (_fra, sin, connection) = pair(&mesh).await;
    let mut builder = proto::overlay::Builder::new(1_150);
    let payload = [7; 160];
    let frame = proto::overlay::Frame {
        stream: proto::id::StreamId(5),
        sequence: 1,
        timestamp: 160,
        marker: false,
        kind: proto::overlay::FrameKind::Audio,
        payload: &payload,
    };
    builder.push(&frame).unwrap();
    let header = proto::overlay::Header {
        probe: false,
        lane: 0,
        path: proto::overlay::PathId::default(),
        path_sequence: 1,
        lane_sequence: 1,
        send_time_us: 0,
        relayed: None,
    };
    connection.send_datagram(builder.finish(&header)).unwrap();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sin.media.status().await.unwrap().counters.datagrams_received == 0 {
        assert!(tokio::time::Instant::now() < deadline, "no datagram arrived");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_pop_stops_its_streams_fail_and_the_link_comes_back_with_it() {
    let mesh = Authority::new("demo");
    let (mut fra, sin, connection) = pair(&mesh).await;
    let ours = local(&sin.id, 1);
    let outbox = fra.links.open(ours.clone());
    assert_eq!(fra.call().await, (ours.clone(), StreamEvent::Opened));
    sin.links.shutdown().await;
    let (mut failed, mut down) = (false, false);
    while !(failed && down) {
        match fra.event().await {
            Event::Call { stream, event } => {
                assert_eq!((stream, event), (ours.clone(), StreamEvent::Failed));
                failed = true;
            }
            Event::Down { peer, connection: gone, .. } => {
                assert_eq!((peer, gone), (sin.id.clone(), connection.stable_id()));
                down = true;
            }
            event => panic!("{event:?}"),
        }
    }
    drop(outbox);
    let again = Pop::start(&mesh, "sin1");
    fra.knows("sin1", &again);
    fra.up(&again.id.clone()).await;
}

/// Two processes with one name: the older one, once fenced, leaves the links to the newer.
#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_pop_closes_its_links_and_dials_no_more() {
    let mesh = Authority::new("demo");
    let (mut old, mut sin, connection) = pair(&mesh).await;
    old.links.fence();
    let Event::Down { peer, .. } = sin.event().await else { panic!("the link is up still") };
    assert_eq!(peer, old.id);
    let Event::Down { connection: gone, .. } = old.event().await else { panic!("still up") };
    assert_eq!(gone, connection.stable_id());
    let mut new = Pop::start(&mesh, "fra1");
    new.knows("sin1", &sin);
    new.up(&sin.id.clone()).await;
    sin.up(&new.id.clone()).await;
    // Longer than the first redials would take.
    let more = tokio::time::timeout(Duration::from_secs(1), sin.events.recv()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_wrong_names_are_refused() {
    let (mesh, other) = (Authority::new("demo"), Authority::new("other"));
    let (fra, mut sin) = (Pop::start(&mesh, "fra1"), Pop::start(&mesh, "sin1"));
    let stranger = Pop::start(&other, "iad1");
    // The view says sin2, the certificate sin1.
    fra.knows("sin2", &sin);
    // Another mesh's POP dials.
    stranger.knows("sin1", &sin);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while sin.drops.get(Reason::LinkRefused) < 4 {
        assert!(tokio::time::Instant::now() < deadline, "nobody was refused");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(sin.events.try_recv().is_err(), "a refused link came up");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_lower_id_dials() {
    let mesh = Authority::new("demo");
    let (fra, mut sin) = (Pop::start(&mesh, "fra1"), Pop::start(&mesh, "sin1"));
    // Only the higher one knows the lower: nobody may dial.
    sin.knows("fra1", &fra);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert!(sin.events.try_recv().is_err());
    assert_eq!(fra.drops.get(Reason::LinkRefused), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_a_call_stream_fails_it_alone() {
    let mesh = Authority::new("demo");
    let (_fra, mut sin, connection) = pair(&mesh).await;
    // Before a hello nobody is told of it.
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    send.write_all(&[0xff; 64]).await.unwrap();
    let (mut send, _receive) = hello(&connection, 1, 0).await;
    let Event::Accepted { stream, outbox: _outbox } = sin.event().await else { panic!() };
    assert_eq!(sin.call().await, (stream.clone(), StreamEvent::Opened));
    send.write_all(&[0xff; 64]).await.unwrap();
    assert_eq!(sin.call().await, (stream, StreamEvent::Failed));
    assert_eq!(sin.drops.get(Reason::CallStreamMalformed), 2);
    assert!(connection.close_reason().is_none());
}

/// A way to a POP that can be cut without anyone being told.
struct Wire {
    front: SocketAddr,
    cut: Arc<AtomicBool>,
}

impl Wire {
    async fn to(target: SocketAddr) -> Self {
        let front = tokio::net::UdpSocket::bind("127.0.41.1:0").await.unwrap();
        let back = tokio::net::UdpSocket::bind("127.0.41.1:0").await.unwrap();
        let wire = Self { front: front.local_addr().unwrap(), cut: Arc::default() };
        let cut = wire.cut.clone();
        tokio::spawn(async move {
            let (mut forth, mut home) = ([0; 2_048], [0; 2_048]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((length, from)) = front.recv_from(&mut forth) => {
                        client = Some(from);
                        if !cut.load(Ordering::Relaxed) {
                            back.send_to(&forth[..length], target).await.unwrap();
                        }
                    }
                    Ok((length, _)) = back.recv_from(&mut home) => {
                        if let Some(client) = client.filter(|_| !cut.load(Ordering::Relaxed)) {
                            front.send_to(&home[..length], client).await.unwrap();
                        }
                    }
                }
            }
        });
        wire
    }
}

/// fra1 and sin1 with two ways between them, both up.
async fn two_ways(mesh: &Authority) -> (Pop, Pop, [Wire; 2]) {
    let (mut fra, mut sin) = (Pop::start(mesh, "fra1"), Pop::start(mesh, "sin1"));
    let wires = [Wire::to(sin.address).await, Wire::to(sin.address).await];
    let address = format!("{},{}", wires[0].front, wires[1].front);
    fra.peers.send_replace(vec![Peer { id: sin.id.clone(), address }]);
    for (pop, peer) in [(&mut fra, sin.id.clone()), (&mut sin, PopId::new("fra1").unwrap())] {
        pop.up(&peer).await;
        pop.up(&peer).await;
    }
    (fra, sin, wires)
}

/// The next event of a call stream; links may come and go meanwhile.
async fn next_call(pop: &mut Pop) -> (CallStream, StreamEvent) {
    loop {
        if let Event::Call { stream, event } = pop.event().await {
            return (stream, event);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_stream_goes_on_when_its_path_is_cut() {
    let mesh = Authority::new("demo");
    let (mut fra, mut sin, wires) = two_ways(&mesh).await;
    let ours = local(&sin.id, 1);
    let outbox = fra.links.open(ours.clone());
    assert!(outbox.send(message(100)));
    assert_eq!(next_call(&mut fra).await, (ours.clone(), StreamEvent::Opened));
    let Event::Accepted { stream: theirs, outbox: back } = sin.event().await else { panic!() };
    for event in [StreamEvent::Opened, StreamEvent::Message(message(100))] {
        assert_eq!(next_call(&mut sin).await, (theirs.clone(), event));
    }
    for (cut, wire) in wires.iter().enumerate() {
        wires.iter().for_each(|wire| wire.cut.store(false, Ordering::Relaxed));
        wire.cut.store(true, Ordering::Relaxed);
        for n in 0..3 {
            let status = 180 + u32::try_from(cut).unwrap() * 10 + n;
            assert!(outbox.send(message(status)) && back.send(message(status + 100)));
            let theirs = (theirs.clone(), StreamEvent::Message(message(status)));
            assert_eq!(next_call(&mut sin).await, theirs);
            let ours = (ours.clone(), StreamEvent::Message(message(status + 100)));
            assert_eq!(next_call(&mut fra).await, ours);
        }
        // The path that was cut must be good again before the other one goes.
        wire.cut.store(false, Ordering::Relaxed);
        let deadline = tokio::time::Instant::now() + PATIENCE * 2;
        while !all_good(&fra).await || !all_good(&sin).await {
            pause(&fra, deadline).await;
        }
    }
    let bye = CallMessage { kind: Some(Kind::Bye(CallBye::default())) };
    assert!(outbox.send(bye.clone()));
    drop(outbox);
    assert_eq!(next_call(&mut sin).await, (theirs.clone(), StreamEvent::Message(bye)));
    assert_eq!(next_call(&mut sin).await, (theirs, StreamEvent::Closed));
}

/// Whoever ends a call on a path that takes nothing any more: the other side hears it on another.
#[tokio::test(flavor = "multi_thread")]
async fn the_last_words_of_a_call_survive_their_path() {
    let mesh = Authority::new("demo");
    for caller_ends in [true, false] {
        let (mut fra, mut sin, wires) = two_ways(&mesh).await;
        let ours = local(&sin.id, 1);
        let outbox = fra.links.open(ours.clone());
        assert!(outbox.send(message(100)));
        assert_eq!(next_call(&mut fra).await, (ours.clone(), StreamEvent::Opened));
        let Event::Accepted { stream: theirs, outbox: back } = sin.event().await else { panic!() };
        for event in [StreamEvent::Opened, StreamEvent::Message(message(100))] {
            assert_eq!(next_call(&mut sin).await, (theirs.clone(), event));
        }
        let used = primary(&fra).await;
        let first = usize::from(used != proto::overlay::PathId::direct(0, 0));
        wires[first].cut.store(true, Ordering::Relaxed);
        let (last, hearer, name) =
            if caller_ends { (outbox, &mut sin, theirs) } else { (back, &mut fra, ours) };
        let bye = CallMessage { kind: Some(Kind::Bye(CallBye::default())) };
        assert!(last.send(bye.clone()));
        drop(last);
        assert_eq!(next_call(hearer).await, (name.clone(), StreamEvent::Message(bye)));
        assert_eq!(next_call(hearer).await, (name, StreamEvent::Closed));
    }
}

/// Opens a QUIC stream and says hello.
async fn hello(
    connection: &quinn::Connection,
    attempt: u32,
    received: u32,
) -> (quinn::SendStream, quinn::RecvStream) {
    let hello =
        StreamHello { session: vec![7; 16], number: 1, attempt, received, ..Default::default() };
    let hello = CallMessage { kind: Some(Kind::Hello(hello)) };
    let (mut send, receive) = connection.open_bi().await.unwrap();
    send.write_all(&hello.encode_length_delimited_to_vec()).await.unwrap();
    (send, receive)
}

/// The code the peer resets the QUIC stream with.
async fn reset((_, mut receive): (quinn::SendStream, quinn::RecvStream)) -> u64 {
    loop {
        match receive.read_chunk(1_000, true).await {
            Ok(Some(_)) => {}
            Err(quinn::ReadError::Reset(code)) => return code.into_inner(),
            other => panic!("{other:?} instead of a reset"),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_attempts_to_resume_a_call_stream_the_newest_counts() {
    const ABANDONED: u64 = 1;
    const MOVED: u64 = 2;
    let mesh = Authority::new("demo");
    let (_fra, mut sin, connection) = pair(&mesh).await;
    let first = hello(&connection, 1, 0).await;
    let Event::Accepted { stream, outbox: _outbox } = sin.event().await else { panic!() };
    assert_eq!(sin.call().await, (stream.clone(), StreamEvent::Opened));
    let mut third = hello(&connection, 3, 0).await;
    assert_eq!(reset(first).await, MOVED);
    // Sent before, heard after: it takes nothing away from the newer one.
    assert_eq!(reset(hello(&connection, 2, 0).await).await, MOVED);
    third.0.write_all(&message(180).encode_length_delimited_to_vec()).await.unwrap();
    assert_eq!(sin.call().await, (stream.clone(), StreamEvent::Message(message(180))));
    third.0.finish().unwrap();
    assert_eq!(sin.call().await, (stream, StreamEvent::Closed));
    // What is over does not begin again, however late an attempt comes.
    assert_eq!(reset(hello(&connection, 4, 0).await).await, ABANDONED);
    assert!(sin.events.try_recv().is_err());
    assert_eq!(sin.drops.get(Reason::CallStreamMalformed), 0);
}

/// The address of an upstream leaves the view while a call stream is on it.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_stream_goes_on_when_its_upstream_is_taken_out_of_the_view() {
    let mesh = Authority::new("demo");
    let (fra, mut sin, wires) = two_ways(&mesh).await;
    let second = proto::overlay::PathId::direct(0, 1);
    wires[0].cut.store(true, Ordering::Relaxed);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while primary(&fra).await != second || primary(&sin).await != second {
        pause(&fra, deadline).await;
    }
    wires[0].cut.store(false, Ordering::Relaxed);
    while !all_good(&fra).await || !all_good(&sin).await {
        pause(&fra, deadline).await;
    }
    let ours = local(&sin.id, 1);
    let outbox = fra.links.open(ours.clone());
    assert!(outbox.send(message(100)));
    let (theirs, _back) = loop {
        if let Event::Accepted { stream, outbox } = sin.event().await {
            break (stream, outbox);
        }
    };
    for event in [StreamEvent::Opened, StreamEvent::Message(message(100))] {
        assert_eq!(next_call(&mut sin).await, (theirs.clone(), event));
    }
    let address = wires[0].front.to_string();
    fra.peers.send_replace(vec![Peer { id: sin.id.clone(), address }]);
    while !matches!(sin.event().await, Event::Down { .. }) {}
    assert!(outbox.send(message(180)));
    assert_eq!(next_call(&mut sin).await, (theirs, StreamEvent::Message(message(180))));
}

/// Until one looks again at what has to become so before `deadline`.
async fn pause(pop: &Pop, deadline: tokio::time::Instant) {
    assert!(tokio::time::Instant::now() < deadline, "{:?}", pop.links.paths().await);
    tokio::time::sleep(Duration::from_millis(20)).await;
}

async fn primary(pop: &Pop) -> Option<proto::overlay::PathId> {
    let report = pop.links.paths().await.unwrap();
    report.first()?.route.as_ref().map(|route| route.primary.path)
}

async fn all_good(pop: &Pop) -> bool {
    let report = pop.links.paths().await.unwrap();
    let mut paths = report.iter().flat_map(|peer| &peer.paths);
    paths.all(|path| path.sending.health == pop_core::overlay::Health::Good)
}
