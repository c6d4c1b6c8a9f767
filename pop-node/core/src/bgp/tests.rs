//! Routers as they behave in the field, told as stories of one router with two upstreams.

use std::collections::BTreeSet;
use std::net::IpAddr;

use proptest::prelude::*;
use proto::time::{Duration, Instant};

use super::*;

const ROUTER: &str = "192.0.2.254";
const OWN: u32 = 65_001;
/// Neighbors by upstream.
const FIRST: &str = "198.51.100.1";
const SECOND: &str = "203.0.113.1";
/// Another POP's address.
const SIN: &str = "233.252.0.1";

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

fn community(text: &str) -> Community {
    text.parse().unwrap()
}

fn peer(address: &str, rib: Rib) -> PeerHeader {
    let key = PeerKey { address: ip(address), distinguisher: 0 };
    PeerHeader { key, rib, asn: 65_002, short_asns: false }
}

fn nlri(prefix: &str) -> Nlri {
    Nlri { prefix: prefix.parse().unwrap(), path_id: 0 }
}

/// The station, its time, and what it told last of each way.
struct World {
    bgp: Bgp,
    now: Instant,
    session: Option<Session>,
    closed: Vec<Hangup>,
    alarms: Vec<Distrust>,
    hints: std::collections::BTreeMap<(u8, IpAddr), Hint>,
    events: usize,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_millis(1_000_000);
        let neighbor = |address: &str| Neighbor { router: None, address: ip(address) };
        let config = BgpConfig {
            routers: vec![ip(ROUTER)],
            upstreams: vec![vec![neighbor(FIRST)], vec![neighbor(SECOND)]],
            policy: Policy {
                drain: vec![community("65010:666")],
                cost: vec![(community("65010:1:7"), 7.0)],
            },
        };
        let mut world = Self {
            bgp: Bgp::new(config, now),
            now,
            session: None,
            closed: Vec::new(),
            alarms: Vec::new(),
            hints: std::collections::BTreeMap::new(),
            events: 0,
        };
        world.interest(&[SIN]);
        world
    }

    /// Both neighbors up, a route by each, everything told.
    fn settled() -> Self {
        let mut world = Self::new();
        world.connect();
        for neighbor in [FIRST, SECOND] {
            world.up(neighbor);
            world.announce(neighbor, "233.252.0.0/24", &[OWN, 65_002, 64_500, 64_999]);
        }
        world.wait(20);
        world
    }

    fn interest(&mut self, addresses: &[&str]) {
        let addresses: BTreeSet<IpAddr> = addresses.iter().map(|text| ip(text)).collect();
        self.bgp.set_interest(&addresses, self.now);
    }

    fn connect(&mut self) {
        self.session = Some(self.bgp.connect(ip(ROUTER), self.now).unwrap());
        self.say(Message::Initiation { name: Some("edge1".to_owned()) });
    }

    fn say(&mut self, message: Message) {
        let session = self.session.unwrap();
        if let Err(why) = self.bgp.handle_message(session, message, self.now) {
            self.closed.push(why);
        }
        self.listen();
    }

    fn listen(&mut self) {
        while let Some(event) = self.bgp.poll_event() {
            match event {
                Event::Close(_, Hangup::Replaced) => {}
                Event::Close(session, why) => {
                    assert_eq!(Some(session), self.session);
                    self.closed.push(why);
                }
                Event::Distrusted { why, .. } => self.alarms.push(why),
                Event::Hint { upstream, address, hint } => {
                    self.events += 1;
                    self.hints.insert((upstream, address), hint);
                }
            }
        }
    }

    fn up(&mut self, neighbor: &str) {
        self.say(Message::PeerUp { peer: peer(neighbor, Rib::AdjInPre), own_asn: OWN });
    }

    fn down(&mut self, neighbor: &str) {
        self.say(Message::PeerDown { peer: peer(neighbor, Rib::AdjInPre) });
    }

    fn routes(&mut self, neighbor: &str, rib: Rib, update: Update) {
        self.say(Message::Routes { peer: peer(neighbor, rib), update });
    }

    fn announce(&mut self, neighbor: &str, prefix: &str, as_path: &[u32]) {
        self.announce_with(neighbor, Rib::AdjInPre, (prefix, as_path, &[]));
    }

    fn announce_with(
        &mut self,
        neighbor: &str,
        rib: Rib,
        (prefix, as_path, communities): (&str, &[u32], &[&str]),
    ) {
        let attributes = Attributes {
            as_path: as_path.to_vec(),
            next_hop: Some(ip(neighbor)),
            communities: communities.iter().map(|text| community(text)).collect(),
        };
        let announced = vec![nlri(prefix)];
        let update = Update { announced, attributes, announced_total: 1, ..Update::default() };
        self.routes(neighbor, rib, update);
    }

    fn withdraw(&mut self, neighbor: &str, rib: Rib, prefix: &str) {
        let withdrawn = vec![nlri(prefix)];
        self.routes(neighbor, rib, Update { withdrawn, withdrawn_total: 1, ..Update::default() });
    }

    fn wait(&mut self, seconds: u64) {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.bgp.handle_timeout(self.now);
            self.listen();
        }
    }

    fn hint(&self, upstream: u8) -> Hint {
        self.hints.get(&(upstream, ip(SIN))).cloned().unwrap_or_default()
    }

    /// In words: what speaks against an upstream.
    fn against(&self, upstream: u8) -> String {
        let hint = self.hint(upstream);
        let reasons: Vec<&str> = hint.reasons.iter().map(Reason::name).collect();
        let flags = [(hint.drain > Drain::No, " drained"), (hint.shaky, " shaky")];
        let flags: String = flags.iter().filter(|(on, _)| *on).map(|(_, text)| *text).collect();
        format!("{:.1}{flags} {}", hint.risk, reasons.join(",")).trim().to_owned()
    }

    fn router(&self) -> RouterReport {
        self.bgp.report(self.now).routers.remove(0)
    }
}

#[test]
fn a_steady_feed_speaks_against_nothing_and_tells_the_ases_between() {
    let mut world = World::settled();
    assert_eq!((world.against(0).as_str(), world.against(1).as_str()), ("0.0", "0.0"));
    assert_eq!(
        *world.hint(0).transit,
        [64_500, 65_002],
        "without our own AS and the destination's"
    );
    let events = world.events;
    world.wait(3_600);
    assert_eq!(world.events, events, "and then there is nothing to say");
    let report = world.bgp.report(world.now);
    assert_eq!(report.ways.len(), 2);
    assert_eq!(report.ways[0].as_path, [65_002, 64_500, 64_999]);
    assert_eq!((report.route_changes, report.withdrawals), (0, 0));
}

#[test]
fn a_withdrawn_route_is_left_at_once_and_taken_again_when_it_is_back() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    assert_eq!(world.hint(0).drain, Drain::Withdrawn);
    assert_eq!(world.against(1), "0.0");
    world.wait(60);
    world.announce(FIRST, "233.252.0.0/24", &[OWN, 65_002, 64_500, 64_999]);
    assert_eq!(world.against(0), "0.0", "the same way as before: one withdrawal is no flapping");
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    world.announce(FIRST, "233.252.0.0/24", &[OWN, 65_002, 64_500, 64_999]);
    assert_eq!(world.against(0), "4.0 flapping");
    world.wait(601);
    assert_eq!(world.against(0), "0.0");
}

#[test]
fn what_all_upstreams_withdraw_is_left_to_measurement() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    world.withdraw(SECOND, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 shaky withdrawn");
    assert_eq!(world.against(1), "0.0 shaky withdrawn");
    world.wait(61);
    assert_eq!(world.against(1), "0.0 withdrawn", "copies for a minute are enough");
    world.announce(SECOND, "233.252.0.0/24", &[OWN, 65_002, 64_500, 64_999]);
    assert_eq!(world.against(0), "0.0 drained withdrawn");
}

#[test]
fn a_less_specific_route_takes_over_and_is_another_way() {
    let mut world = World::new();
    world.connect();
    world.up(FIRST);
    world.announce(FIRST, "0.0.0.0/0", &[65_002]);
    world.announce(FIRST, "233.252.0.0/24", &[65_002, 64_999]);
    world.wait(20);
    assert_eq!(world.bgp.report(world.now).ways[0].prefix, Some("233.252.0.0/24".parse().unwrap()));
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "5.0 shaky changed");
    world.wait(60);
    assert_eq!(world.against(0), "3.8 changed");
    world.wait(90);
    assert_eq!(world.against(0), "2.5 changed", "half of it after 150 s");
    world.wait(600);
    assert_eq!(world.against(0), "0.0");
}

#[test]
fn another_as_path_next_hop_or_community_is_another_way_and_a_repetition_is_none() {
    let path: &[u32] = &[65_002, 64_500, 64_999];
    for (as_path, communities, expected) in [
        (&[OWN, 65_002, 64_500, 64_999][..], &[][..], "0.0"),
        (path, &[], "0.0"),
        (&[65_002, 64_501, 64_999], &[], "5.0 shaky changed"),
        (&[65_002, 65_002, 64_500, 64_999], &[], "5.0 shaky changed"),
        (path, &["65002:70"], "5.0 shaky changed"),
    ] {
        let mut world = World::settled();
        for _ in 0..3 {
            let route = ("233.252.0.0/24", as_path, communities);
            world.announce_with(FIRST, Rib::AdjInPre, route);
        }
        assert_eq!(world.against(0), expected, "{as_path:?} {communities:?}");
    }
}

#[test]
fn communities_drain_and_cost() {
    for (mark, expected) in [
        ("65535:0", "5.0 drained shaky graceful_shutdown,changed"),
        ("65010:666", "5.0 drained shaky drain_community,changed"),
        ("65010:1:7", "12.0 shaky cost_community,changed"),
    ] {
        let mut world = World::settled();
        let path: &[u32] = &[65_002, 64_500, 64_999];
        world.announce_with(FIRST, Rib::AdjInPre, ("233.252.0.0/24", path, &[mark]));
        assert_eq!(world.against(0), expected);
        assert_ne!(world.hint(0).drain, Drain::Withdrawn, "it still carries");
        world.wait(700);
        world.announce_with(FIRST, Rib::AdjInPre, ("233.252.0.0/24", path, &[]));
        assert_eq!(world.against(0), "5.0 shaky changed", "the mark is gone");
    }
}

#[test]
fn a_neighbor_that_goes_down_takes_its_routes_with_it_once() {
    let mut world = World::settled();
    for _ in 0..20 {
        world.down(FIRST);
        world.wait(2);
    }
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    assert_eq!(world.router().neighbors[0].downs, 1, "repeated by the router at each retry");
    assert_eq!(world.bgp.report(world.now).withdrawals, 1);
    world.up(FIRST);
    world.announce(FIRST, "0.0.0.0/0", &[65_002]);
    assert_eq!(world.against(0), "0.0 drained withdrawn", "not all is told yet");
    world.announce(FIRST, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
    world.wait(10);
    assert_eq!(world.against(0), "0.0", "the same way as before");
}

#[test]
fn a_neighbor_that_never_was_up_is_no_flap_and_speaks_against_nothing() {
    let mut world = World::new();
    world.connect();
    for _ in 0..100 {
        world.down(FIRST);
        world.wait(1);
    }
    assert_eq!(world.against(0), "0.0");
    let report = world.router();
    assert_eq!((report.neighbors[0].downs, report.neighbors[0].up), (0, false));
}

#[test]
fn what_the_router_accepted_counts_before_what_it_received() {
    let mut world = World::settled();
    let path: &[u32] = &[65_002, 64_500, 64_999];
    world.announce_with(FIRST, Rib::AdjInPost, ("233.252.0.0/24", path, &[]));
    world.wait(10);
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0");
    world.withdraw(FIRST, Rib::AdjInPost, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 drained withdrawn");
}

#[test]
fn withdrawals_of_a_table_that_announces_nothing_are_made_up() {
    let mut world = World::settled();
    let path: &[u32] = &[65_002, 64_500, 64_999];
    world.announce_with(FIRST, Rib::AdjInPost, ("233.252.0.0/24", path, &[]));
    world.wait(10);
    // The router begins anew, and no longer keeps a pre-policy table.
    world.connect();
    world.up(FIRST);
    world.announce_with(FIRST, Rib::AdjInPost, ("233.252.0.0/24", path, &[]));
    for _ in 0..200 {
        world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    }
    world.wait(10);
    assert_eq!(world.against(0), "0.0");
    // With nothing else to go by, the feed is of no use, and says so.
    let mut world = World::settled();
    world.connect();
    world.up(FIRST);
    for _ in 0..200 {
        world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    }
    assert_eq!(world.router().state, FeedState::MadeUp);
    assert_eq!(world.against(0), "0.0");
    world.wait(10);
    assert_eq!(world.against(0), "0.0");
}

#[test]
fn a_lost_feed_is_held_for_a_minute_and_then_forgotten() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    world.bgp.disconnect(world.session.unwrap(), world.now);
    assert_eq!(world.router().state, FeedState::Lost);
    world.wait(58);
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    world.wait(3);
    assert_eq!((world.against(0).as_str(), world.against(1).as_str()), ("0.0", "0.0"));
    assert!(world.hint(1).transit.is_empty());
    assert_eq!(world.bgp.report(world.now).route_changes, 0);
    // It comes back with another way: nothing to compare it with.
    world.connect();
    world.up(FIRST);
    world.announce(FIRST, "233.252.0.0/24", &[65_002, 7, 64_999]);
    world.wait(10);
    assert_eq!(world.against(0), "0.0");
}

#[test]
fn a_feed_that_comes_and_goes_confirms_nothing() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    // A router that dies again before it has told anything.
    for _ in 0..9 {
        world.bgp.disconnect(world.session.unwrap(), world.now);
        world.wait(7);
        world.connect();
        world.wait(1);
    }
    world.bgp.disconnect(world.session.unwrap(), world.now);
    world.wait(1);
    assert_eq!((world.against(0).as_str(), world.against(1).as_str()), ("0.0", "0.0"));
}

#[test]
fn what_is_no_longer_of_interest_is_not_held_against_anybody() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    world.interest(&[]);
    world.listen();
    assert_eq!(world.hint(0), Hint::default());
}

#[test]
fn a_drain_ends_with_the_table_that_asked_for_it() {
    let mut world = World::settled();
    let path: &[u32] = &[OWN, 65_002, 64_500, 64_999];
    let shutdown = ("233.252.0.0/24", path, ["65535:0"].as_slice());
    world.announce_with(FIRST, Rib::AdjInPre, shutdown);
    // So long that nothing else has the way looked at again.
    world.wait(3_600);
    assert!(world.against(0).contains("drained"), "{}", world.against(0));
    world.bgp.disconnect(world.session.unwrap(), world.now);
    world.connect();
    world.up(FIRST);
    for n in 0..200 {
        world.withdraw(FIRST, Rib::AdjInPre, &format!("233.252.0.{}/32", n % 2 + 1));
    }
    world.wait(70);
    assert!(!world.against(0).contains("drained"), "{}", world.against(0));
}

#[test]
fn a_feed_that_begins_anew_changes_only_what_is_different() {
    let mut world = World::settled();
    world.announce(FIRST, "233.252.0.0/16", &[65_002, 64_500]);
    world.wait(5);
    world.bgp.disconnect(world.session.unwrap(), world.now);
    world.wait(5);
    let events = world.events;
    world.connect();
    for neighbor in [FIRST, SECOND] {
        world.up(neighbor);
        world.announce(neighbor, "0.0.0.0/0", &[65_002]);
        world.announce(neighbor, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
    }
    world.wait(400);
    assert_eq!(world.events, events, "the same ways as before");
    // The first upstream's route went while nobody listened: it is not told again.
    world.connect();
    world.up(FIRST);
    world.announce(FIRST, "198.18.0.0/15", &[65_002]);
    world.up(SECOND);
    world.announce(SECOND, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
    assert_eq!(world.against(0), "0.0", "held until everything is told");
    world.wait(6);
    assert_eq!(world.against(0), "0.0 drained withdrawn");
}

#[test]
fn a_neighbor_that_a_new_session_does_not_know_is_forgotten() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    world.connect();
    world.up(SECOND);
    world.announce(SECOND, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
    world.wait(299);
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    world.wait(2);
    assert_eq!(world.against(0), "0.0", "no neighbor of it: nothing is known");
    assert_eq!(world.router().neighbors.len(), 1);
}

#[test]
fn new_addresses_of_interest_make_routers_send_all_again() {
    let mut world = World::settled();
    world.interest(&[SIN, "233.252.1.1"]);
    world.wait(5);
    world.interest(&[SIN, "233.252.1.1", "233.252.2.1"]);
    world.wait(4);
    assert!(world.closed.is_empty(), "they wait for company");
    world.wait(2);
    assert_eq!(world.closed, [Hangup::AskedAgain]);
    world.connect();
    for neighbor in [FIRST, SECOND] {
        world.up(neighbor);
        world.announce(neighbor, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
        world.announce(neighbor, "233.252.1.0/24", &[65_002, 64_500, 64_999]);
    }
    world.wait(10);
    let known = |world: &World| {
        let report = world.bgp.report(world.now);
        report.ways.iter().filter(|way| way.prefix.is_some()).count()
    };
    assert_eq!(known(&world), 4);
    assert_eq!(world.against(0), "0.0");
    world.interest(&["233.252.1.1"]);
    assert_eq!((known(&world), world.router().neighbors[0].routes), (2, 1));
    // No more than once in five minutes.
    world.interest(&["233.252.1.1", SIN]);
    world.wait(270);
    assert_eq!(world.closed.len(), 1);
    world.wait(30);
    assert_eq!(world.closed.len(), 2);
}

#[test]
fn a_dump_is_over_when_messages_become_few() {
    let mut world = World::new();
    world.connect();
    world.up(FIRST);
    let other = Update { announced_total: 1, ..Update::default() };
    for _ in 0..30 {
        for _ in 0..200 {
            world.routes(FIRST, Rib::AdjInPre, other.clone());
        }
        world.wait(1);
    }
    assert!(!world.router().neighbors[0].settled);
    world.wait(11);
    assert!(world.router().neighbors[0].settled);
    // A full table that never rests.
    let mut world = World::new();
    world.connect();
    world.up(FIRST);
    for _ in 0..310 {
        for _ in 0..200 {
            world.routes(FIRST, Rib::AdjInPre, other.clone());
        }
        world.wait(1);
    }
    assert!(world.router().neighbors[0].settled);
}

#[test]
fn sessions_end_with_a_reason() {
    let mut world = World::new();
    assert_eq!(world.bgp.connect(ip("192.0.2.253"), world.now), Err(Hangup::Unknown));
    world.session = Some(world.bgp.connect(ip(ROUTER), world.now).unwrap());
    world.up(FIRST);
    assert_eq!(world.closed, [Hangup::NotIntroduced]);
    world.say(Message::Initiation { name: None });
    assert_eq!(world.closed.pop(), Some(Hangup::Replaced), "that one is over");
    world.connect();
    world.say(Message::Termination);
    assert_eq!(world.closed.pop(), Some(Hangup::Terminated));
    assert_eq!(world.router().state, FeedState::Lost);
    world.connect();
    let older = world.session.unwrap();
    let session = world.bgp.connect(ip(ROUTER), world.now).unwrap();
    assert_eq!(world.bgp.poll_event(), Some(Event::Close(older, Hangup::Replaced)));
    world.bgp.disconnect(older, world.now);
    world.session = Some(session);
    assert_eq!(world.router().state, FeedState::Up, "what ended is not the new one");
}

#[test]
fn tables_and_neighbors_that_say_nothing_of_a_way_are_counted() {
    let mut world = World::settled();
    let path: &[u32] = &[1, 2, 3];
    for rib in [Rib::AdjOut, Rib::Local, Rib::Unknown] {
        world.announce_with(FIRST, rib, ("233.252.0.0/24", path, &[]));
    }
    world.announce("198.51.100.77", "233.252.0.0/24", path);
    world.down(SECOND);
    world.announce(SECOND, "233.252.0.0/24", path);
    world.say(Message::Other);
    assert_eq!(world.against(0), "0.0");
    let report = world.router();
    let ignored: Vec<_> = report.ignored.iter().map(|(why, n)| (why.name(), *n)).collect();
    assert_eq!(
        ignored,
        [
            ("adj_rib_out", 1),
            ("before_peer_up", 1),
            ("loc_rib", 1),
            ("other", 1),
            ("other_neighbor", 1),
            ("unknown_peer_type", 1)
        ]
    );
    assert_eq!(report.unmapped, [ip("198.51.100.77")]);
    assert_eq!(report.name.as_deref(), Some("edge1"));
}

#[test]
fn a_table_is_bounded() {
    let mut world = World::new();
    world.connect();
    world.up(FIRST);
    let all = (0..400).flat_map(|at| (0..100).map(move |path_id| (at, path_id)));
    world.interest(&["10.0.0.1"]);
    let lengths: Vec<String> =
        (1..=32).map(|bits| Prefix::new(ip("10.0.0.1"), bits).unwrap().to_string()).collect();
    for (at, path_id) in all {
        let Some(prefix) = lengths.get(at) else { break };
        let announced = vec![Nlri { path_id, ..nlri(prefix) }];
        let update = Update { announced, announced_total: 1, ..Update::default() };
        world.routes(FIRST, Rib::AdjInPre, update);
    }
    let report = world.router();
    assert_eq!(report.neighbors[0].routes, 32 * 64);
    assert_eq!(report.ignored[&Ignored::NoRoom], 32 * 36);
}

#[test]
fn what_cannot_be_read_makes_a_table_worthless_until_it_is_told_anew() {
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.against(0), "0.0 drained withdrawn");
    // Of whom nobody cares, or nobody can tell.
    world.say(Message::Malformed { peer: None });
    world.say(Message::Malformed { peer: Some(peer("198.51.100.77", Rib::AdjInPre)) });
    world.say(Message::Malformed { peer: Some(peer(FIRST, Rib::AdjOut)) });
    assert_eq!((world.router().state, world.alarms.len()), (FeedState::Up, 0));
    let malformed = Message::Malformed { peer: Some(peer(FIRST, Rib::AdjInPre)) };
    world.say(malformed.clone());
    world.say(malformed.clone());
    assert_eq!(
        (world.against(0).as_str(), world.alarms.as_slice()),
        ("0.0", &[Distrust::Malformed][..])
    );
    assert_eq!(world.router().state, FeedState::Distrusted);
    let (why, since) = world.router().neighbors[0].distrust.unwrap();
    assert_eq!((why, since), (Distrust::Malformed, world.now));
    assert_eq!(
        (world.router().ignored[&Ignored::Malformed], world.router().distrusts[&why]),
        (5, 1)
    );
    // What comes after it is no table.
    world.announce(FIRST, "233.252.0.0/24", &[65_002, 1, 64_999]);
    assert_eq!(world.router().ignored[&Ignored::Distrusted], 1);
    assert!(world.hint(0).transit.is_empty());
    world.wait(2);
    assert_eq!(world.closed, [Hangup::Distrusted], "the router is to send all again");
    world.connect();
    assert_eq!(world.router().state, FeedState::Distrusted, "not yet");
    for neighbor in [FIRST, SECOND] {
        world.up(neighbor);
        world.announce(neighbor, "233.252.0.0/24", &[65_002, 64_500, 64_999]);
    }
    world.wait(20);
    assert_eq!((world.router().state, world.hint(0).transit.len()), (FeedState::Up, 2));
    assert_eq!(world.against(0), "0.0", "nothing to compare it with");
    // Once in five minutes at most, and forgiven if the BGP session begins anew before.
    world.say(malformed);
    world.wait(200);
    assert_eq!(world.closed.len(), 1);
    world.wait(100);
    assert_eq!(world.closed.len(), 2);
}

#[test]
fn a_peer_up_that_cannot_be_read_is_no_neighbor_without_routes() {
    let mut world = World::new();
    world.connect();
    world.say(Message::Malformed { peer: Some(peer(FIRST, Rib::AdjInPre)) });
    world.announce(FIRST, "233.252.0.0/24", &[65_002]);
    assert_eq!(world.router().state, FeedState::Distrusted);
    world.up(FIRST);
    assert_eq!(world.router().state, FeedState::Up);
}

/// Addresses of interest `233.252.0.0` and up, and a default route to all of them.
fn wide(addresses: u8) -> World {
    let mut world = World::settled();
    let all: Vec<String> = (0..addresses).map(|n| format!("233.252.0.{n}")).collect();
    world.interest(&all.iter().map(String::as_str).collect::<Vec<_>>());
    world.wait(11);
    world.connect();
    for neighbor in [FIRST, SECOND] {
        world.up(neighbor);
        world.announce(neighbor, "0.0.0.0/0", &[65_002]);
    }
    world.wait(20);
    world
}

#[test]
fn wide_prefixes_are_judged_in_turns_and_only_if_they_changed() {
    let mut world = wide(250);
    let now = world.now;
    let default = |hop| {
        let attributes = Attributes { as_path: vec![65_002, hop], ..Attributes::default() };
        let announced = vec![nlri("0.0.0.0/0")];
        let update = Update { announced, attributes, announced_total: 1, ..Update::default() };
        Message::Routes { peer: peer(FIRST, Rib::AdjInPre), update }
    };
    let session = world.session.unwrap();
    let changes = world.bgp.report(now).route_changes;
    // A thousand changes at once are one, and not all addresses are looked at in one turn.
    world.bgp.handle_messages(session, (0..1_000).map(default), now).unwrap();
    let told = |world: &mut World| {
        let before = world.events;
        world.listen();
        world.events - before
    };
    assert_eq!(told(&mut world), 128);
    assert!(world.bgp.poll_timeout() <= now, "the rest is due at once");
    world.bgp.handle_timeout(now);
    assert_eq!(told(&mut world), 122);
    assert!(world.bgp.poll_timeout() > now);
    assert_eq!(world.bgp.report(now).route_changes - changes, 250);
    // Said again, it is nothing.
    world.bgp.handle_messages(session, (0..1_000).map(|_| default(999)), now).unwrap();
    assert!(world.bgp.poll_timeout() > now);
    assert_eq!(told(&mut world), 0);
    // Who changes it all the time does not keep the last address from being looked at.
    let later = now + Duration::from_millis(1);
    for hop in 0..2 {
        world.bgp.handle_messages(session, [default(hop)], later).unwrap();
    }
    world.listen();
    let last = world.hints[&(0, ip("233.252.0.249"))].clone();
    assert_eq!(last.changed, Some(later));
}

#[test]
fn flaps_are_those_of_the_way_in_use() {
    let mut world = World::settled();
    // Behind the route in use another one comes and goes.
    for _ in 0..5 {
        world.announce(FIRST, "233.252.0.0/16", &[65_002]);
        world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/16");
        world.wait(1);
    }
    assert_eq!(world.against(0), "0.0");
    // That in use does, twice within one batch: seen by its count.
    let path: &[u32] = &[OWN, 65_002, 64_500, 64_999];
    let messages = [false, true, false, true].map(|announce| {
        let attributes = Attributes {
            as_path: path.to_vec(),
            next_hop: Some(ip(FIRST)),
            ..Attributes::default()
        };
        let list = vec![nlri("233.252.0.0/24")];
        let update = if announce {
            Update { announced: list, attributes, announced_total: 1, ..Update::default() }
        } else {
            Update { withdrawn: list, withdrawn_total: 1, ..Update::default() }
        };
        Message::Routes { peer: peer(FIRST, Rib::AdjInPre), update }
    });
    world.bgp.handle_messages(world.session.unwrap(), messages, world.now).unwrap();
    world.listen();
    assert_eq!((world.against(0).as_str(), world.against(1).as_str()), ("4.0 flapping", "0.0"));
}

/// Twenty addresses, a /32 to each by both neighbors, everything told.
fn many(path: &[u32]) -> World {
    let mut world = wide(20);
    for n in 0..20 {
        for neighbor in [FIRST, SECOND] {
            world.announce(neighbor, &format!("233.252.0.{n}/32"), path);
        }
    }
    // No window that this is a change in.
    world.wait(700);
    assert_eq!(world.router().state, FeedState::Up);
    world
}

#[test]
fn routes_that_all_change_at_once_are_not_believed() {
    let path = [65_002, 64_500, 64_999];
    for (then, many_of, expected) in [
        ([65_002, 64_500, 666].as_slice(), 20, Some(Distrust::OriginsChanged)),
        (&[65_002, 64_500, 7, 8, 64_999], 20, Some(Distrust::LengthsChanged)),
        // Another way of the same length, or some of them: that happens.
        (&[65_002, 64_501, 64_999], 20, None),
        (&[65_002, 64_500, 666], 12, None),
    ] {
        let mut world = many(&path);
        for n in 0..many_of {
            world.announce(FIRST, &format!("233.252.0.{n}/32"), then);
        }
        assert_eq!(world.alarms.first().copied(), expected, "{then:?}");
        let state = expected.map_or(FeedState::Up, |_| FeedState::Distrusted);
        assert_eq!(world.router().state, state);
        let against: Vec<_> = world.hints.values().filter(|hint| hint.risk > 0.0).collect();
        assert_eq!(against.is_empty(), expected.is_some(), "{against:?}");
        if expected.is_some() {
            world.wait(2);
            assert_eq!(world.closed.last(), Some(&Hangup::Distrusted));
        }
    }
    // One by one, in an hour: the network changes.
    let mut world = many(&path);
    for n in 0..20 {
        world.announce(FIRST, &format!("233.252.0.{n}/32"), &[65_002, 64_500, 666]);
        world.wait(180);
    }
    assert!(world.alarms.is_empty());
}

#[test]
fn a_table_that_begins_to_do_nothing_but_withdraw_is_not_believed() {
    let other = Update { withdrawn_total: 1, ..Update::default() };
    // More than it ever announced.
    let mut world = World::settled();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    for _ in 0..98 {
        world.routes(FIRST, Rib::AdjInPre, other.clone());
    }
    assert_eq!((world.alarms.len(), world.against(0).as_str()), (0, "0.0 drained withdrawn"));
    world.routes(FIRST, Rib::AdjInPre, other.clone());
    assert_eq!(world.alarms, [Distrust::OnlyWithdraws]);
    assert_eq!(world.against(0), "0.0", "left to measurement");
    // A large table that loses its upstreams withdraws each route once: that is to be left.
    let full = Update { announced_total: 10_000, ..Update::default() };
    let large = || {
        let mut world = World::new();
        world.connect();
        for neighbor in [FIRST, SECOND] {
            world.up(neighbor);
            world.announce(neighbor, "233.252.0.0/24", &[65_002]);
            world.routes(neighbor, Rib::AdjInPre, full.clone());
        }
        world.wait(20);
        world
    };
    let mut world = large();
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/24");
    let most = Update { withdrawn_total: 10_000, ..Update::default() };
    world.routes(FIRST, Rib::AdjInPre, most);
    world.wait(120);
    assert_eq!((world.alarms.len(), world.against(0).as_str()), (0, "0.0 drained withdrawn"));
    // One that does so for ever is configured wrongly; an announcement between is as usual.
    for (announced, expected) in [(0, 1), (1, 0)] {
        let mut world = large();
        for second in 0..300 {
            world.routes(FIRST, Rib::AdjInPre, other.clone());
            if second % 30 == 0 {
                let one = Update { announced_total: announced, ..Update::default() };
                world.routes(FIRST, Rib::AdjInPre, one);
            }
            world.wait(1);
        }
        assert_eq!(world.alarms.len(), expected, "{announced}");
    }
}

#[test]
fn ipv6_and_add_path_routes_are_routes() {
    let mut world = World::new();
    world.interest(&["2001:db8:9::1"]);
    world.connect();
    world.up(FIRST);
    let nlri = |path_id| Nlri { path_id, ..nlri("2001:db8::/32") };
    for (path_id, length) in [(1, 4), (2, 2), (3, 3)] {
        let as_path = (0..length).map(|n| 65_000 + path_id * 10 + n).collect();
        let attributes = Attributes { as_path, ..Attributes::default() };
        let announced = vec![nlri(path_id)];
        let update = Update { announced, attributes, announced_total: 1, ..Update::default() };
        world.routes(FIRST, Rib::AdjInPre, update);
    }
    world.wait(10);
    let as_path = |world: &World| world.bgp.report(world.now).ways[0].as_path.clone();
    assert_eq!(as_path(&world), [65_020, 65_021], "the shortest of three");
    let withdrawn = vec![nlri(2)];
    let update = Update { withdrawn, withdrawn_total: 1, ..Update::default() };
    world.routes(FIRST, Rib::AdjInPre, update);
    assert_eq!(as_path(&world).len(), 3);
}

fn any_message() -> impl Strategy<Value = Message> {
    let prefixes = ["0.0.0.0/0", "233.252.0.0/16", "233.252.0.0/24", "198.18.0.0/15"];
    let prefix = proptest::sample::select(prefixes.to_vec());
    let neighbor = proptest::sample::select(vec![FIRST, SECOND]);
    let rib = proptest::sample::select(vec![Rib::AdjInPre, Rib::AdjInPost, Rib::AdjOut]);
    let routes = (neighbor.clone(), rib, prefix, any::<bool>(), 1_u32..5).prop_map(
        |(neighbor, rib, prefix, announce, hop)| {
            let list = vec![nlri(prefix)];
            let as_path = vec![65_002, hop];
            let attributes = Attributes { as_path, ..Attributes::default() };
            let update = if announce {
                Update { announced: list, attributes, announced_total: 1, ..Update::default() }
            } else {
                Update { withdrawn: list, withdrawn_total: 1, ..Update::default() }
            };
            Message::Routes { peer: peer(neighbor, rib), update }
        },
    );
    let up = |neighbor| Message::PeerUp { peer: peer(neighbor, Rib::AdjInPre), own_asn: OWN };
    let down = |neighbor| Message::PeerDown { peer: peer(neighbor, Rib::AdjInPre) };
    prop_oneof![
        8 => routes,
        1 => neighbor.clone().prop_map(up),
        1 => neighbor.prop_map(down),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever routers say: what is told last is what is so, both ways are never drained for
    /// being withdrawn, and a feed that is gone speaks against nothing.
    #[test]
    fn hints_follow_the_feed(
        messages in proptest::collection::vec((any_message(), 0_u64..8), 1..80),
        again in any::<bool>(),
    ) {
        let mut world = World::new();
        world.connect();
        for (message, wait) in messages {
            world.say(message);
            world.wait(wait);
            let withdrawn = |upstream| world.hint(upstream).drain == Drain::Withdrawn;
            prop_assert!(!(withdrawn(0) && withdrawn(1)));
        }
        if again {
            world.connect();
            world.wait(5);
        }
        for way in world.bgp.report(world.now).ways {
            let told = world.hints.get(&(way.upstream, way.address)).cloned().unwrap_or_default();
            prop_assert!(!way.hint.differs(&told));
        }
        world.bgp.disconnect(world.session.unwrap(), world.now);
        world.wait(720);
        for upstream in 0..2 {
            prop_assert_eq!(world.hint(upstream), Hint::default());
        }
    }
}
