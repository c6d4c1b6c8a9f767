//! Routes come, change and go.

use super::*;

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

/// Addresses of interest `233.252.0.0` and up, and a default route to all of them.
pub(super) fn wide(addresses: u8) -> World {
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
