//! Sessions of routers begin, end and begin anew.

use super::*;

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
