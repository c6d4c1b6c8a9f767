//! What makes no sense.

use super::routes::wide;
use super::*;

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
