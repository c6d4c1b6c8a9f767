//! The whole mesh in virtual time. `cargo sim`; `SEED=… cargo sim` repeats one run.
#![allow(clippy::indexing_slicing, clippy::print_stdout, reason = "a test may panic and speak")]

use std::time::{SystemTime, UNIX_EPOCH};

use tests::sim::{Mutation, Plan, World, check};

/// Seeds that run every time: each found something once, or is there to find it again.
const SEEDS: &[u64] = &[1, 2, 3, 4, 5, 6, 7, 8];

/// The given seed, or the fixed ones and a new one.
fn seeds() -> Vec<u64> {
    if let Some(seed) = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok()) {
        return vec![seed];
    }
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let random = u64::try_from(nanos % 1_000_000_007).unwrap_or(0);
    println!("random seed {random}; SEED={random} cargo sim repeats it");
    SEEDS.iter().copied().chain([random]).collect()
}

fn run(plan: Plan) -> (World, Vec<String>) {
    let mut world = World::new(plan);
    world.run();
    let complaints = check::complaints(&world);
    (world, complaints)
}

fn assert_good(kind: &str, plan: Plan) {
    let seed = plan.seed;
    let (world, complaints) = run(plan);
    let (lines, digest) = (world.trace.lines(), world.trace.digest());
    println!("{kind} seed {seed}: {} of virtual time, {lines} events, trace {digest}", world.now);
    assert!(complaints.is_empty(), "{kind}, SEED={seed}:\n  {}", complaints.join("\n  "));
}

#[test]
fn calm_weather() {
    for seed in seeds() {
        assert_good("calm", Plan::calm(seed));
    }
}

#[test]
fn stormy_weather() {
    for seed in seeds() {
        assert_good("stormy", Plan::stormy(seed));
    }
}

#[test]
fn pops_die() {
    let one = std::env::var("SEED").is_ok();
    for seed in seeds().into_iter().take(if one { 1 } else { SEEDS.len() }) {
        assert_good("deadly", Plan::deadly(seed));
    }
}

#[test]
fn pops_are_drained() {
    let one = std::env::var("SEED").is_ok();
    for seed in seeds().into_iter().take(if one { 1 } else { SEEDS.len() }) {
        assert_good("steered", Plan::steered(seed));
    }
}

#[test]
fn same_seed_same_trace() {
    let seed = seeds().first().copied().unwrap_or(1);
    let (first, _) = run(Plan::stormy(seed));
    let (second, _) = run(Plan::stormy(seed));
    assert_eq!(first.trace.digest(), second.trace.digest(), "SEED={seed}");
    let (other, _) = run(Plan::stormy(seed + 1));
    assert_ne!(first.trace.digest(), other.trace.digest(), "another seed, another run");
}

/// A simulation that cannot fail proves nothing: each bug put in on purpose must be seen.
#[test]
fn checkers_see_bugs() {
    let bugs = [
        (Mutation::LoseCdrs, "billing records"),
        (Mutation::DoubleCdrs, "billing records"),
        (Mutation::DeafToBye, "missed a BYE"),
        (Mutation::LoseDatagrams, "packets"),
        (Mutation::LeakLegs, "legs"),
        (Mutation::ForgetfulDisk, "lost an allocation"),
    ];
    for (bug, word) in bugs {
        let (_, complaints) = run(Plan::calm(1).with(bug));
        println!("{bug:?}: {:?}", complaints.first());
        assert!(complaints.iter().any(|c| c.contains(word)), "{bug:?} went unseen: {complaints:?}");
    }
}
