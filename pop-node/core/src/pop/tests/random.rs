//! People who do anything at any time. Whatever they do, every call ends in exactly one record of
//! the POP it came in at, and nothing is left.

use std::collections::BTreeMap;

use proto::time::Duration;

use super::script::act;
use super::world::World;
use crate::call::{CdrRole, splitmix};

/// Each is about 120 acts; 5,000 were run when this was written.
const SEEDS: u64 = 150;

const ACTS: &[&str] = &[
    "alice calls +6561234567 pcmu,pcma,dtmf",
    "alice calls +6561234567",
    "alice calls +4930901820 opus,pcmu",
    "alice calls +442079460000 pcma",
    "carol calls +41446681800 pcmu,opus",
    "bob calls +6561234567 g722,pcmu sendonly",
    "alice cancels",
    "alice acks",
    "alice acks pcmu",
    "alice hangs up",
    "alice oks",
    "alice reinvites pcmu sendonly",
    "alice reinvites pcma",
    "alice reinvites none",
    "alice rings",
    "alice answers pcmu",
    "alice rejects 491",
    "alice rejects 481",
    "bob tries",
    "bob rings",
    "bob progresses pcmu one",
    "bob answers fork two opus",
    "bob answers pcmu",
    "bob rejects 503",
    "bob rejects 486",
    "bob hangs up",
    "bob oks",
    "bob acks",
    "bob cancels",
    "bob reinvites pcma inactive",
    "carol rings",
    "carol progresses pcma",
    "carol answers pcma",
    "carol answers pcmu recvonly",
    "carol answers none",
    "carol rejects 500",
    "carol rejects 487",
    "carol challenges",
    "carol hangs up",
    "carol oks",
    "carol acks",
    "carol acks opus",
    "carol cancels",
    "carol reinvites pcmu zero",
    "carol reinvites none",
    "carol says INFO",
    "carol presses 5",
    "alice presses 6",
    "alice updates none",
    "alice updates pcmu sendonly",
    "carol updates pcma",
    "alice puts Require 100rel",
    "alice puts Supported timer",
    "alice puts Session-Expires 90",
    "alice puts nothing",
    "alice pracks",
    "bob puts Require 100rel",
    "bob puts RSeq 7",
    "bob puts Session-Expires 90;refresher=uac",
    "bob puts Allow UPDATE",
    "bob puts nothing",
    "bob refuses 481",
    "carol refuses 405",
    "silent fra1 2",
    "silent sin1 2",
    "link down",
    "link up",
    "link up",
    "wait 5ms",
    "wait 10ms",
    "wait 20ms",
    "wait 100ms",
    "wait 600ms",
    "wait 4s",
    "wait 40s",
];

fn live(seed: u64) -> World {
    let mut world = World::new();
    let mut random = seed;
    for _ in 0..120 {
        random = splitmix(random);
        let pick = usize::try_from(random % ACTS.len() as u64).unwrap();
        // Phones refuse what they cannot do now.
        let _ = act(&mut world, &ACTS[pick].split(' ').collect::<Vec<_>>());
    }
    world.wait(Duration::from_secs(300));
    for name in ["alice", "bob", "carol"] {
        // Calls that are still up: their peers forgot them, so the POPs have to be told.
        let _ = act(&mut world, &[name, "hangs", "up"]);
    }
    for pop in ["fra1", "sin1"] {
        act(&mut world, &["shutdown", pop]).unwrap();
    }
    world.wait(Duration::from_secs(300));
    world
}

#[test]
fn every_call_ends_in_one_record_and_nothing_is_left() {
    for seed in 0..SEEDS {
        let world = live(seed);
        let mut billed: BTreeMap<_, u32> = BTreeMap::new();
        for cdr in world.cdrs.iter().filter(|cdr| cdr.role != CdrRole::Egress) {
            *billed.entry(cdr.call_id).or_default() += 1;
        }
        assert!(billed.values().all(|n| *n == 1), "seed {seed}: two records\n{}", world.trace);
        for (id, pop) in &world.pops {
            assert!(
                pop.is_idle(),
                "seed {seed}: {id} has something left\n{}\n{pop:#?}",
                world.trace
            );
            let mine = world.cdrs.iter().filter(|c| c.pop == *id && c.role != CdrRole::Egress);
            let calls = pop.counters().calls_in + pop.counters().calls_refused;
            assert_eq!(mine.count() as u64, calls, "seed {seed}: {id}\n{}", world.trace);
        }
    }
}
