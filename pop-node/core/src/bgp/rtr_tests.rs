//! Conversations with RPKI caches.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use proptest::prelude::*;
use proto::time::{Duration, Instant};

use super::*;

const SIN: &str = "233.252.0.1";

struct World {
    rtr: Rtr,
    now: Instant,
    changes: usize,
}

fn record(prefix: &str, asn: u32, announced: bool) -> Pdu {
    let prefix: Prefix = prefix.parse().unwrap();
    Pdu::Record { vrp: Vrp { prefix, max_length: prefix.length(), asn }, announced }
}

const fn state(session: u16, serial: u32) -> State {
    State { session, serial }
}

fn end(session: u16, serial: u32) -> Pdu {
    Pdu::End { state: state(session, serial), timing: Timing::new(Some(900), Some(1_800)) }
}

fn addresses(all: &[&str]) -> Arc<BTreeSet<IpAddr>> {
    Arc::new(all.iter().map(|text| text.parse().unwrap()).collect())
}

impl World {
    fn new() -> Self {
        let now = Instant::from_millis(1_000_000);
        let mut world = Self { rtr: Rtr::new(), now, changes: 0 };
        world.rtr.set_interest(&addresses(&[SIN]), now);
        world
    }

    /// Connected to the first cache, which told serial 7 of session 1: one record.
    fn told() -> Self {
        let mut world = Self::new();
        world.rtr.connect(0, world.now);
        assert_eq!(world.rtr.poll_query(), Some(Query::All));
        world.say(&[Pdu::Response { session: 1 }, record("233.252.0.0/24", 64_999, true)]);
        assert_eq!(world.records(), 0, "before End of Data nothing counts");
        world.say(&[record("198.51.100.0/24", 64_500, true), end(1, 7)]);
        assert_eq!((world.records(), world.changes), (1, 1), "what nobody wants is not kept");
        world
    }

    fn hear(&mut self, pdu: Pdu) -> Result<(), Leave> {
        let version = self.rtr.version();
        let changed = self.rtr.handle(version, pdu, self.now)?;
        self.changes += usize::from(changed);
        Ok(())
    }

    fn say(&mut self, pdus: &[Pdu]) {
        pdus.iter().for_each(|pdu| self.hear(*pdu).unwrap());
    }

    fn wait(&mut self, seconds: u64) -> Result<(), Leave> {
        for _ in 0..seconds {
            self.now += Duration::from_secs(1);
            self.changes += usize::from(self.rtr.expire(self.now));
            self.rtr.handle_timeout(self.now)?;
        }
        Ok(())
    }

    fn records(&self) -> usize {
        self.rtr.report().records
    }
}

#[test]
fn a_change_is_asked_for_when_the_cache_says_so_and_when_it_is_time() {
    let mut world = World::told();
    world.say(&[Pdu::Notify(state(1, 7))]);
    assert_eq!(world.rtr.poll_query(), None, "that is known");
    world.say(&[Pdu::Notify(state(1, 8))]);
    assert_eq!(world.rtr.poll_query(), Some(Query::Since(state(1, 7))));
    world.say(&[
        Pdu::Response { session: 1 },
        record("233.252.0.0/24", 64_999, false),
        record("233.252.0.0/23", 64_998, true),
        record("233.252.0.0/22", 64_997, true),
        // While it tells, there is more.
        Pdu::Notify(state(1, 9)),
        Pdu::Other,
        end(1, 8),
    ]);
    assert_eq!((world.records(), world.changes), (2, 2));
    assert_eq!(world.rtr.poll_query(), Some(Query::Since(state(1, 8))));
    world.say(&[Pdu::Response { session: 1 }, end(1, 9)]);
    assert_eq!(world.changes, 2, "nothing changed");
    world.wait(899).unwrap();
    assert_eq!(world.rtr.poll_query(), None);
    world.wait(1).unwrap();
    assert_eq!(world.rtr.poll_query(), Some(Query::Since(state(1, 9))));
    // It does not remember so far back.
    world.say(&[Pdu::Reset]);
    assert_eq!(world.rtr.poll_query(), Some(Query::All));
    assert_eq!(world.records(), 2, "held until all is told");
}

/// The answer may be newer than what asked for it: that is no reason to ask again.
#[test]
fn an_answer_newer_than_the_news_is_the_end_of_it() {
    let mut world = World::told();
    world.say(&[Pdu::Notify(state(1, 8))]);
    assert_eq!(world.rtr.poll_query(), Some(Query::Since(state(1, 7))));
    world.say(&[Pdu::Response { session: 1 }, end(1, 9)]);
    assert_eq!(world.rtr.poll_query(), None);
    world.wait(60).unwrap();
    assert_eq!(world.rtr.poll_query(), None);
}

#[test]
fn a_cache_that_was_old_is_asked_in_the_new_version_a_day_later() {
    let mut world = World::new();
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.handle(0, Pdu::Response { session: 1 }, world.now), Ok(false));
    world.rtr.disconnect(Leave::Closed);
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.version(), 0);
    world.rtr.disconnect(Leave::Closed);
    world.now += Duration::from_secs(24 * 3_600);
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.version(), 1);
}

#[test]
fn what_is_known_outlives_its_cache_until_it_expires() {
    let mut world = World::told();
    world.rtr.disconnect(Leave::Closed);
    world.wait(1_799).unwrap();
    assert_eq!((world.records(), world.rtr.report().cache), (1, None));
    // It is back: only what changed.
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.poll_query(), Some(Query::Since(state(1, 7))));
    world.rtr.disconnect(Leave::Closed);
    world.wait(1).unwrap();
    assert_eq!((world.records(), world.changes), (0, 2));
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.poll_query(), Some(Query::All));
}

#[test]
fn another_cache_is_asked_for_everything() {
    let mut world = World::told();
    world.rtr.disconnect(Leave::Closed);
    world.rtr.connect(1, world.now);
    assert_eq!(world.rtr.poll_query(), Some(Query::All));
    world.say(&[Pdu::Response { session: 1 }, record("233.252.0.0/20", 64_999, true)]);
    assert_eq!(world.records(), 1, "the first one's until the second has told all");
    world.say(&[end(1, 3)]);
    assert_eq!((world.records(), world.changes), (1, 2));
}

#[test]
fn new_addresses_have_everything_asked_again_but_not_all_the_time() {
    let mut world = World::told();
    world.rtr.set_interest(&addresses(&[SIN, "198.51.100.1"]), world.now);
    assert_eq!(world.rtr.poll_query(), None, "it was asked just now");
    world.wait(10).unwrap();
    assert_eq!(world.rtr.poll_query(), Some(Query::All));
    world.say(&[Pdu::Response { session: 1 }]);
    // One more while it tells: not complete for that one.
    world.rtr.set_interest(&addresses(&[SIN, "198.51.100.1", "203.0.113.1"]), world.now);
    world.say(&[record("198.51.100.0/24", 64_500, true), end(1, 7)]);
    world.wait(10).unwrap();
    assert_eq!(world.rtr.poll_query(), Some(Query::All));
    world.say(&[Pdu::Response { session: 1 }, end(1, 7)]);
    world.rtr.set_interest(&addresses(&[SIN]), world.now);
    world.wait(60).unwrap();
    assert_eq!(world.rtr.poll_query(), None, "fewer addresses need nothing");
}

#[test]
fn an_old_cache_is_spoken_to_in_its_version() {
    // By an error report.
    let mut world = World::new();
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.handle(0, Pdu::Error(4), world.now), Err(Leave::Version));
    world.rtr.disconnect(Leave::Version);
    world.rtr.connect(0, world.now);
    assert_eq!((world.rtr.version(), world.rtr.poll_query()), (0, Some(Query::All)));
    assert_eq!(world.rtr.handle(0, Pdu::Error(4), world.now), Err(Leave::Error(4)), "no older one");
    // Or by just answering so.
    let mut world = World::new();
    world.rtr.connect(0, world.now);
    assert_eq!(world.rtr.handle(0, Pdu::Notify(state(9, 9)), world.now), Ok(false), "too early");
    assert_eq!(world.rtr.handle(0, Pdu::Response { session: 1 }, world.now), Ok(false));
    assert_eq!(world.rtr.version(), 0);
    assert_eq!(world.rtr.handle(1, end(1, 1), world.now), Err(Leave::Unexpected));
}

#[test]
fn a_cache_that_owes_an_answer_is_left() {
    let mut world = World::new();
    world.rtr.connect(0, world.now);
    assert_eq!(world.wait(60), Err(Leave::Silent));
    world.rtr.disconnect(Leave::Silent);
    world.rtr.connect(0, world.now);
    world.say(&[Pdu::Response { session: 1 }]);
    // A word each 30 s, and never an end.
    let left = (0..30).try_for_each(|_| {
        world.wait(30)?;
        world.hear(record("233.252.0.0/24", 64_999, true))
    });
    assert_eq!((left, world.records()), (Err(Leave::Silent), 0));
    // Without a debt it may say nothing.
    World::told().wait(800).unwrap();
}

#[test]
fn what_does_not_belong_there_ends_the_session() {
    for (pdus, why) in [
        (&[record("233.252.0.0/24", 1, true)][..], Leave::Unexpected),
        (&[end(1, 8)], Leave::Unexpected),
        (&[Pdu::Response { session: 1 }], Leave::Unexpected),
        (&[Pdu::Reset], Leave::Unexpected),
        (&[Pdu::Error(2)], Leave::Error(2)),
        // Another session than the one that changes were asked of.
        (&[Pdu::Notify(state(1, 8)), Pdu::Response { session: 2 }], Leave::Unexpected),
        (&[Pdu::Notify(state(1, 8)), Pdu::Response { session: 1 }, end(2, 8)], Leave::Unexpected),
    ] {
        let mut world = World::told();
        let heard = pdus.iter().try_for_each(|pdu| world.hear(*pdu));
        assert_eq!((heard, world.records()), (Err(why), 1), "{pdus:?}");
        world.rtr.disconnect(why);
        world.rtr.connect(0, world.now);
        assert_eq!(world.rtr.poll_query(), Some(Query::All), "nothing of it is sure");
    }
}

#[test]
fn a_cache_that_tells_too_much_is_left() {
    let mut world = World::new();
    world.rtr.connect(0, world.now);
    world.say(&[Pdu::Response { session: 1 }]);
    let left = (0..=65_536).try_for_each(|asn| world.hear(record("233.252.0.0/24", asn, true)));
    assert_eq!(left, Err(Leave::TooMany));
    assert_eq!(world.records(), 0);
}

#[test]
fn times_are_brought_into_their_bounds() {
    let seconds = |timing: Timing| (timing.refresh.as_secs(), timing.expire.as_secs());
    assert_eq!(seconds(Timing::new(None, None)), (3_600, 7_200));
    assert_eq!(seconds(Timing::new(Some(0), Some(0))), (1, 600));
    assert_eq!(seconds(Timing::new(Some(u32::MAX), Some(u32::MAX))), (86_400, 172_800));
    assert_eq!(
        seconds(Timing::new(Some(3_600), Some(600))),
        (300, 600),
        "asked before that is over"
    );
}

fn any_pdu() -> impl Strategy<Value = Pdu> {
    let states = || (0_u16..3, 0_u32..4).prop_map(|(session, serial)| state(session, serial));
    let prefixes = prop_oneof![Just("233.252.0.0/24"), Just("233.252.0.0/16"), Just("10.0.0.0/8")];
    prop_oneof![
        states().prop_map(Pdu::Notify),
        (0_u16..3).prop_map(|session| Pdu::Response { session }),
        (prefixes, 0_u32..3, any::<bool>())
            .prop_map(|(p, asn, announced)| record(p, asn, announced)),
        states().prop_map(|state| end(state.session, state.serial)),
        Just(Pdu::Reset),
        (0_u16..9).prop_map(Pdu::Error),
        Just(Pdu::Other),
    ]
}

proptest! {
    /// Whatever is said: nothing counts but by an End of Data, and a query is never sent twice at once.
    #[test]
    fn only_the_end_of_an_answer_changes_anything(
        pdus in proptest::collection::vec((any_pdu(), 0_u64..40), 1..80),
    ) {
        let mut world = World::told();
        for (pdu, seconds) in pdus {
            let before = world.rtr.vrps().clone();
            let heard = world.hear(pdu);
            if !matches!(pdu, Pdu::End { .. }) {
                prop_assert_eq!(&before, world.rtr.vrps());
            }
            let left = heard.and_then(|()| world.wait(seconds));
            if let Err(why) = left {
                world.rtr.disconnect(why);
                prop_assert_eq!(world.rtr.poll_query(), None);
                world.rtr.connect(0, world.now);
            }
            world.rtr.poll_query();
        }
    }
}
