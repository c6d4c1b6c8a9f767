//! Whatever a router says.

use proptest::prelude::*;

use super::*;

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
