//! Routes whose origin RPKI knows.

use std::sync::Arc;

use super::*;

/// The route of [`World::settled`] is from AS 64999.
const OWNER: u32 = 64_999;
const THIEF: u32 = 64_666;

impl World {
    /// RPKI allows these prefixes, so long, from these ASes.
    fn allow(&mut self, all: &[(&str, u8, u32)]) {
        let mut vrps = Vrps::new(Arc::new(BTreeSet::from([ip(SIN)])));
        for (prefix, max_length, asn) in all {
            let (prefix, max_length) = (prefix.parse().unwrap(), *max_length);
            vrps.change(Vrp { prefix, max_length, asn: *asn }, true);
        }
        self.bgp.set_vrps(Arc::new(vrps), self.now);
        self.listen();
    }

    fn validity(&self, upstream: usize) -> Validity {
        self.bgp.report(self.now).ways[upstream].validity
    }
}

#[test]
fn a_stolen_route_is_left_for_an_upstream_that_has_another() {
    let mut world = World::settled();
    world.allow(&[("233.252.0.0/24", 24, OWNER)]);
    assert_eq!((world.validity(0), world.validity(1)), (Validity::Valid, Validity::Valid));
    assert_eq!((world.against(0).as_str(), world.against(1).as_str()), ("0.0", "0.0"));
    // More specific, so the first upstream sends there.
    world.announce(FIRST, "233.252.0.0/25", &[OWN, 65_002, THIEF]);
    assert_eq!(world.validity(0), Validity::Invalid);
    let hint = world.hint(0);
    assert_eq!(hint.drain, Drain::Invalid);
    let words: Vec<String> = hint.reasons.iter().map(|why| why.sentence(world.now)).collect();
    assert!(words.contains(
        &"its route to 233.252.0.0/25 is from AS64666, which RPKI does not allow".to_owned()
    ));
    assert_eq!(world.hint(1).drain, Drain::No);
    world.withdraw(FIRST, Rib::AdjInPre, "233.252.0.0/25");
    assert_eq!((world.validity(0), world.hint(0).drain), (Validity::Valid, Drain::No));
}

/// Also if what RPKI says is wrong: then it says so of all.
#[test]
fn what_is_not_allowed_by_any_upstream_is_left_to_measurement() {
    let mut world = World::settled();
    world.allow(&[("233.252.0.0/24", 24, THIEF)]);
    for upstream in [0, 1] {
        assert_eq!(world.validity(usize::from(upstream)), Validity::Invalid);
        assert_eq!(world.against(upstream), "0.0 rpki_invalid");
    }
    // Without a route is worse than with a doubtful one.
    world.withdraw(SECOND, Rib::AdjInPre, "233.252.0.0/24");
    assert_eq!(world.hint(1).drain, Drain::Withdrawn);
    assert_eq!(world.hint(0).drain, Drain::No);
    world.allow(&[]);
    assert_eq!((world.validity(0), world.against(0).as_str()), (Validity::NotFound, "0.0"));
}

#[test]
fn an_upstream_of_which_nothing_is_known_is_better_than_a_stolen_route() {
    let mut world = World::new();
    world.connect();
    world.up(FIRST);
    world.announce(FIRST, "233.252.0.0/24", &[OWN, 65_002, THIEF]);
    world.wait(20);
    world.allow(&[("233.252.0.0/24", 24, OWNER)]);
    assert_eq!(world.hint(0).drain, Drain::Invalid);
    assert_eq!(world.validity(1), Validity::NotFound);
}
