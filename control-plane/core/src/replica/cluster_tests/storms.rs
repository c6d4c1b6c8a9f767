//! Storms: everything at once, and nothing acknowledged is lost.

use sha2::Digest;

use super::load::{check, load, repeat_all};
use super::sim::{CALM, Faults, NODES, STORM, Sim};
use crate::replica::Role;

fn run(seed: u64, steps: u64) -> (Sim, [u8; 32]) {
    run_in(seed, steps, STORM)
}

fn run_in(seed: u64, steps: u64, faults: Faults) -> (Sim, [u8; 32]) {
    let mut sim = Sim::new(seed, faults);
    load(&mut sim, steps);
    sim.settle();
    check(&mut sim);
    repeat_all(&mut sim);
    let trace = sim.trace.clone().finalize().into();
    (sim, trace)
}

#[test]
fn a_calm_cluster_elects_and_agrees() {
    let mut sim = Sim::new(1, CALM);
    load(&mut sim, 400);
    sim.settle();
    check(&mut sim);
    let leaders = NODES.iter().filter(|id| sim.replica(**id).status().role == Role::Leader);
    assert_eq!(leaders.count(), 1);
    assert!(sim.reads_done > 5);
    assert_eq!(sim.replica(1).counters().elected + sim.replica(2).counters().elected, 1);
    assert!(!sim.replica(3).state().cluster_id().is_empty());
}

#[test]
fn storms_lose_nothing() {
    let (mut elections, mut snapshots, mut reads) = (0, 0, 0);
    for seed in 0..12 {
        let (sim, _) = run(seed, 1_200);
        for id in NODES {
            elections += sim.replica(id).counters().elected;
            snapshots += sim.replica(id).counters().snapshots_installed;
        }
        reads += sim.reads_done;
        assert_eq!(sim.stale_reads, 0, "seed {seed}");
    }
    // A storm that disturbs nothing proves nothing.
    assert!(elections > 12, "{elections} elections");
    assert!(snapshots > 3, "{snapshots} snapshots");
    assert!(reads > 100, "{reads} reads");
}

/// A node whose disk lost what it acknowledged comes back, and nothing acknowledged is lost.
#[test]
fn damaged_disks_lose_nothing() {
    let mut rotten = 0;
    for seed in 100..112 {
        let (sim, _) = run_in(seed, 1_200, Faults { crash: 12, rot: 60, ..STORM });
        assert!(sim.nodes.values().all(|node| node.lost.is_none()), "seed {seed}: not repaired");
        assert_eq!(sim.stale_reads, 0, "seed {seed}");
        rotten += sim.rotten;
    }
    assert!(rotten > 20, "{rotten} disks lost something");
}

#[test]
fn the_same_seed_gives_the_same_trace() {
    assert_eq!(run(77, 600).1, run(77, 600).1);
    assert_ne!(run(77, 600).1, run(78, 600).1);
}
