//! What real routers sent by BMP, recorded on loopback, and what is made of it.
//!
//! `fixtures/frr-8.4.4.bmp`: Debian's FRR, AS 65001, pre- and post-policy, with the neighbors
//! 127.0.9.2 (GoBGP, AS 65002: announces, changes, marks, withdraws and announces again
//! 198.51.100.0/24, closes the session, comes back, is killed) and 127.0.9.3 (never there).
//! `fixtures/gobgp-3.10.0.bmp`: the same story as GoBGP tells it.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "test code fails loudly")]

mod mutate;

use std::collections::BTreeSet;
use std::net::IpAddr;

use mutate::Random;
use pop_core::bgp::{
    Bgp, BgpConfig, Drain, Event, Hangup, Message, Neighbor, Prefix, Reason, Reassembly, Session,
};
use pop_node::bgp::Decoder;
use proto::time::{Duration, Instant};

const FRR: &[u8] = include_bytes!("fixtures/frr-8.4.4.bmp");
const GOBGP: &[u8] = include_bytes!("fixtures/gobgp-3.10.0.bmp");
const ADDRESS: &str = "198.51.100.7";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

/// A station behind a stream of bytes.
struct Station {
    bgp: Bgp,
    session: Session,
    stream: Reassembly,
    decoder: Decoder,
    now: Instant,
    story: Vec<String>,
    last: String,
    malformed: u64,
}

impl Station {
    /// The neighbor is the first of two upstreams.
    fn new(neighbor: &str) -> Self {
        let now = Instant::from_millis(10_000_000);
        let router = ip("127.0.9.1");
        let config = BgpConfig {
            routers: vec![router],
            upstreams: vec![vec![Neighbor { router: None, address: ip(neighbor) }], vec![]],
            ..BgpConfig::default()
        };
        let mut bgp = Bgp::new(config, now);
        bgp.set_interest(&BTreeSet::from([ip(ADDRESS)]), now);
        let session = bgp.connect(router, now).unwrap();
        let (stream, decoder) = (Reassembly::default(), Decoder::default());
        Self {
            bgp,
            session,
            stream,
            decoder,
            now,
            story: Vec::new(),
            last: String::new(),
            malformed: 0,
        }
    }

    /// Every message with `between` after the one before; what became of the way is the story.
    fn hear(&mut self, bytes: &[u8], between: Duration) -> Result<(), Hangup> {
        self.stream.buffer().extend_from_slice(bytes);
        let wanted = ip(ADDRESS);
        while let Some(frame) = self.stream.next_frame()? {
            let wants = |prefix: &Prefix| prefix.range().contains(&wanted);
            let kind = frame.kind;
            let message = self.decoder.decode(frame, wants);
            self.malformed += u64::from(matches!(message, Message::Malformed { .. }));
            self.bgp.handle_message(self.session, message, self.now)?;
            self.tell(&format!("{kind:?}"));
            let until = self.now + between;
            while self.now < until {
                self.now += Duration::from_millis(500).min(between);
                self.bgp.handle_timeout(self.now);
                self.tell("later");
            }
        }
        Ok(())
    }

    fn tell(&mut self, after: &str) {
        while let Some(event) = self.bgp.poll_event() {
            let Event::Hint { upstream, hint, .. } = event else { continue };
            let reasons: Vec<&str> = hint.reasons.iter().map(Reason::name).collect();
            let drained = if hint.drain > Drain::No { " drained" } else { "" };
            let told = format!("{upstream}{drained} {} by {:?}", reasons.join("+"), hint.transit);
            if self.last != told {
                self.story.push(format!("{after} {told}"));
                self.last = told;
            }
        }
    }
}

#[test]
fn frr_with_its_quirks_is_understood() {
    let mut station = Station::new("127.0.9.2");
    station.hear(FRR, Duration::from_secs(7)).unwrap();
    assert_eq!(station.malformed, 0, "also statistics with a TLV of type 65531");
    let expected = [
        // The AS path came as 65001 65002 64500 64999: FRR prepends its own AS.
        "RouteMonitoring 0  by [64500, 65002]",
        // 64501 instead; told twice, before and after the policy.
        "RouteMonitoring 0 changed by [64501, 65002]",
        "RouteMonitoring 0 drained graceful_shutdown+changed by [64501, 65002]",
        "RouteMonitoring 0 drained withdrawn+changed by []",
        "RouteMonitoring 0 changed by [64500, 65002]",
        // Nine Peer-Downs of one end: one withdrawal, the second in all.
        "PeerDown 0 drained flapping+withdrawn+changed by []",
        "RouteMonitoring 0 drained flapping+withdrawn+changed by [64500, 65002]",
        // When everything is told again.
        "later 0 flapping+changed by [64500, 65002]",
        "PeerDown 0 drained flapping+withdrawn+changed by []",
    ];
    assert_eq!(station.story, expected, "{:#?}", station.story);
    let report = station.bgp.report(station.now);
    let neighbor = &report.routers[0].neighbors[0];
    assert_eq!((neighbor.asn, neighbor.up, neighbor.downs), (65_002, false, 2));
    assert_eq!(report.routers[0].name.as_deref(), Some("edge1"));
    assert_eq!(report.routers[0].unmapped, [ip("127.0.9.3")]);
}

/// FRR's times are those of the boot for what never was up; none is used.
#[test]
fn a_neighbor_that_never_came_up_is_no_flap_in_what_frr_says() {
    let mut station = Station::new("127.0.9.3");
    station.hear(FRR, Duration::from_secs(2)).unwrap();
    assert!(station.story.is_empty(), "{:#?}", station.story);
    let report = station.bgp.report(station.now);
    let neighbor = &report.routers[0].neighbors[0];
    assert_eq!((neighbor.up, neighbor.downs), (false, 0));
}

/// The neighbor is FRR, which sends GoBGP's routes back. GoBGP withdraws nothing before or after Peer-Down, and sends all again after Peer-Up, without
/// End-of-RIB.
#[test]
fn gobgp_is_understood() {
    let mut station = Station::new("127.0.9.1");
    station.hear(GOBGP, Duration::from_secs(7)).unwrap();
    let expected = [
        "RouteMonitoring 0  by [64500, 65001, 65002]",
        "RouteMonitoring 0 changed by [64501, 65001, 65002]",
        "RouteMonitoring 0 drained graceful_shutdown+changed by [64501, 65001, 65002]",
        "RouteMonitoring 0 drained withdrawn+changed by []",
        "RouteMonitoring 0 changed by [64500, 65001, 65002]",
        "PeerDown 0 drained flapping+withdrawn+changed by []",
        "RouteMonitoring 0 flapping+changed by [64500, 65001, 65002]",
    ];
    assert_eq!(station.story, expected, "{:#?}", station.story);
}

/// The first recorded UPDATE that announces our address, with these path attributes instead.
fn with_attributes(attributes: &[u8]) -> Vec<u8> {
    let address = [24, 198, 51, 100];
    let all = messages(FRR);
    let route = all.iter().find(|m| m[5] == 0 && m.ends_with(&address)).unwrap();
    let length = |length: usize| u16::try_from(length).unwrap().to_be_bytes();
    let update = [&[0, 0][..], &length(attributes.len()), attributes, &address].concat();
    let mut message = [&route[..48 + 16], &length(19 + update.len()), &[2], &update].concat();
    let total = u32::try_from(message.len()).unwrap().to_be_bytes();
    message[1..5].copy_from_slice(&total);
    message
}

/// The library asserts that what it made of an attribute is what the attribute's number says, and
/// keeps as raw bytes what it cannot read: neither is left to it.
#[test]
fn attributes_of_no_use_are_not_read_and_others_must_be_right() {
    let up = messages(FRR).into_iter().filter(|m| m[5] == 3 || m[5] == 4);
    let up: Vec<u8> = up.flatten().copied().collect();
    let heard = |attributes: &[u8]| {
        let mut station = Station::new("127.0.9.2");
        station.hear(&up, Duration::ZERO).unwrap();
        station.hear(&with_attributes(attributes), Duration::ZERO).unwrap();
        let ways = station.bgp.report(station.now).ways;
        (station.malformed, ways.first().map(|way| way.as_path.clone()).unwrap_or_default())
    };
    let good: &[u8] = &[0x40, 2, 10, 2, 2, 0, 0, 0xfd, 0xea, 0, 0, 0xfb, 0xf4];
    assert_eq!(heard(good), (0, vec![65_002, 64_500]));
    let mut random = Random(0x1234_5678_9abc_def1);
    for code in 0..=255_u8 {
        // MP_REACH and MP_UNREACH name routes: they are read, here.
        if [2, 3, 8, 14, 15, 17, 32].contains(&code) {
            continue;
        }
        for _ in 0..40 {
            let value = (0..random.below(40)).map(|_| u8::try_from(random.below(256)).unwrap());
            let value: Vec<u8> = value.collect();
            let length = u8::try_from(value.len()).unwrap();
            let junk = [good, &[0xc0, code, length], &value].concat();
            assert_eq!(heard(&junk), (0, vec![65_002, 64_500]), "{junk:?}");
        }
    }
    // An AS path of an unknown kind, one that is cut, a next hop of three bytes, halves of communities.
    for bad in [
        &[0x40, 2, 6, 9, 1, 0, 0, 0xfd, 0xea][..],
        &[0x40, 2, 5, 2, 1, 0, 0, 0xfd],
        &[good, &[0x40, 3, 3, 1, 2, 3]].concat(),
        &[good, &[0xc0, 8, 2, 0xff, 0xff]].concat(),
        &[good, &[0xc0, 32, 5, 0, 0, 0, 0, 1]].concat(),
    ] {
        assert_eq!(heard(bad).0, 1, "{bad:?}");
    }
}

/// A Peer-Up whose "OPEN" is another message.
#[test]
fn only_an_open_opens() {
    let up = messages(FRR).into_iter().find(|m| m[5] == 3).unwrap();
    for kind in 0..=255 {
        let mut bytes = up.to_vec();
        bytes[48 + 20 + 18] = kind;
        let mut station = Station::new("127.0.9.2");
        station.hear(messages(FRR)[0], Duration::ZERO).unwrap();
        station.hear(&bytes, Duration::ZERO).unwrap();
        assert_eq!(station.malformed, u64::from(kind != 1), "{kind}");
    }
}

/// The messages of a recording, each with its header.
fn messages(mut bytes: &[u8]) -> Vec<&[u8]> {
    let mut found = Vec::new();
    while let Some(header) = bytes.first_chunk::<6>() {
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let (message, rest) = bytes.split_at(usize::try_from(length).unwrap());
        found.push(message);
        bytes = rest;
    }
    found
}

/// Bits flipped, bytes cut out, put in and repeated: each ends in a message, in "malformed", or in a
/// reason to hang up. What a session may keep stays bounded.
#[test]
fn mutated_messages_never_end_the_process() {
    let all = [messages(FRR), messages(GOBGP)].concat();
    let introduction = all[0];
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    let (mut understood, mut malformed) = (0_u64, 0_u64);
    let mut hangups = std::collections::BTreeMap::<&str, u64>::new();
    let mut station = Station::new("127.0.9.2");
    for _ in 0..300_000 {
        let mut bytes = all[random.below(all.len())].to_vec();
        let times = 1 + random.below(4);
        random.mutate(&mut bytes, times, 3);
        // Mostly with a length that fits, or little would be read behind it.
        if random.below(8) > 0 && bytes.len() > 6 {
            let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
            bytes[1..5].copy_from_slice(&length);
        }
        let before = station.malformed;
        let heard = station.hear(&bytes, Duration::ZERO);
        malformed += station.malformed - before;
        match heard {
            Ok(()) => understood += 1,
            Err(why) => *hangups.entry(why.name()).or_default() += 1,
        }
        // What waits for more bytes would swallow the next ones.
        if heard.is_err() || !station.stream.buffer().is_empty() || random.below(1_000) == 0 {
            let session = station.bgp.connect(ip("127.0.9.1"), station.now).unwrap();
            (station.session, station.stream) = (session, Reassembly::default());
            station.decoder = Decoder::default();
            station.hear(introduction, Duration::ZERO).unwrap();
            station.now += Duration::from_millis(1);
        }
        station.story.clear();
    }
    println!("{understood} understood, {malformed} malformed, {hangups:?}");
    assert!(understood > 100_000 && malformed > 10_000, "{understood}, {malformed}");
    assert!(hangups["not_bmp"] > 1_000 && hangups["terminated"] > 0, "{hangups:?}");
}
