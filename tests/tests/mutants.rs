//! Tests of the tests: each bug planted in the simulated control plane must be seen. `cargo sim`.
#![allow(clippy::print_stdout, reason = "a test may speak")]

use tests::linear::Rule;
use tests::sim::control_cluster::{Mutant, Plan, run};

/// Seeds a bug may stay unseen.
const SEEDS: u64 = 4_000;

/// Rules of which one must be broken.
const fn expected(mutant: Mutant) -> &'static [Rule] {
    match mutant {
        Mutant::ReadsAskNobody => &[Rule::Number, Rule::Trunk, Rule::Stale],
        Mutant::AckBeforeDurable | Mutant::SkipSync => {
            &[Rule::Number, Rule::Trunk, Rule::Owner, Rule::Replicas, Rule::Halt, Rule::Watch]
        }
        Mutant::NoDedupe => &[Rule::Once, Rule::Number, Rule::Generation],
        Mutant::HardStateLate => &[Rule::Halt, Rule::Leaders, Rule::Replicas],
        Mutant::VoteForgotten => &[Rule::Leaders, Rule::Halt],
        Mutant::WatchDropsEvent => &[Rule::Watch],
        Mutant::SnapshotWithoutRequests | Mutant::LocalPick => &[Rule::Replicas],
        Mutant::OwnEarsOnly => &[Rule::Liveness],
        Mutant::HeldTooLong => &[Rule::Number, Rule::Reservation, Rule::Expiry],
        Mutant::PartOfMany => &[Rule::Number, Rule::Whole, Rule::Local],
        Mutant::CrossedAnswers => &[Rule::Number, Rule::Owner, Rule::Once, Rule::Generation],
    }
}

/// The first seed with which a bug is seen, and how.
fn seen(mutant: Mutant, rules: &[Rule], blind: bool) -> String {
    let found = (1..=SEEDS).find_map(|seed| {
        let plan = Plan::draw(seed).with(mutant);
        let report = run(&if blind { plan.blind() } else { plan }, false);
        let mut complaints = report.complaints.into_iter();
        complaints.find(|c| rules.contains(&c.rule)).map(|c| (seed, c))
    });
    let Some((seed, complaint)) = found else { panic!("{mutant:?} went unseen") };
    let what: String = complaint.to_string().chars().take(160).collect();
    format!("{mutant:?}: seed {seed}: {what}")
}

#[test]
fn planted_bugs_are_seen() {
    for mutant in Mutant::ALL {
        println!("{}", seen(mutant, expected(mutant), false));
    }
}

/// What real processes are judged by is enough for most of them.
#[test]
fn clients_alone_see_them() {
    use Rule::{Expiry, Generation, Number, Once, Owner, Reservation, Stale, Trunk, Watch, Whole};
    for mutant in [
        Mutant::ReadsAskNobody,
        Mutant::AckBeforeDurable,
        Mutant::SkipSync,
        Mutant::NoDedupe,
        Mutant::WatchDropsEvent,
        Mutant::LocalPick,
        Mutant::SnapshotWithoutRequests,
        Mutant::HeldTooLong,
        Mutant::PartOfMany,
    ] {
        let rules =
            [Expiry, Generation, Number, Once, Owner, Reservation, Stale, Trunk, Watch, Whole];
        println!("{}", seen(mutant, &rules, true));
    }
}
