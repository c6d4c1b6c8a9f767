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
        let flags = [(hint.drained, " drained"), (hint.shaky, " shaky")];
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
    for path_id in 0..20_000 {
        let announced = vec![Nlri { path_id, ..nlri("233.252.0.0/24") }];
        let update = Update { announced, announced_total: 1, ..Update::default() };
        world.routes(FIRST, Rib::AdjInPre, update);
    }
    let report = world.router();
    assert_eq!(report.neighbors[0].routes, 16_384);
    assert_eq!(report.ignored[&Ignored::NoRoom], 20_000 - 16_384);
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
            prop_assert!(!(world.hint(0).drained && world.hint(1).drained));
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
