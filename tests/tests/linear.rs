//! The control plane in virtual time, under faults, judged for linearizability. `cargo sim`.
//!
//! `SCHEDULES=100000 cargo sim schedules` runs so many; `SEED=7 cargo sim schedules` repeats one and tells what
//! happened, line by line, with its smallest form if it fails.
#![allow(clippy::indexing_slicing, clippy::print_stdout, reason = "a test may panic and speak")]

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use tests::sim::control_cluster::{Plan, Report, run, shrink};

/// Schedules a usual run goes through.
const SCHEDULES: u64 = 2_000;
/// Lines of a failing run that are shown; all of them with `SEED`.
const LINES: usize = 60;

fn given(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// What went wrong, for people: the seed, the rules, the last lines, the smallest plan.
fn explain(plan: &Plan, report: &Report) -> String {
    let complaints: Vec<String> = report.complaints.iter().map(ToString::to_string).collect();
    let (small, runs) = shrink(plan, report.complaints[0].rule);
    let lines = run(&small, true).lines;
    let tail = lines[lines.len().saturating_sub(LINES)..].join("\n");
    format!(
        "SEED={}:\n  {}\n\nsmallest after {runs} runs: {small:#?}\nits last events:\n{tail}",
        plan.seed,
        complaints.join("\n  ")
    )
}

#[test]
fn schedules_are_linearizable() {
    if let Some(seed) = given("SEED") {
        let plan = Plan::draw(seed);
        let report = run(&plan, true);
        println!("{plan:#?}");
        report.lines.iter().for_each(|line| println!("{line}"));
        assert!(report.complaints.is_empty(), "{}", explain(&plan, &report));
        return;
    }
    let schedules = given("SCHEDULES").unwrap_or(SCHEDULES);
    // Half of them are the same every time, half are new.
    let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
    let base = 1_000_000 + u64::try_from(nanos % 1_000_000_007).unwrap_or(0) * 1_000;
    let (began, mut sum) = (Instant::now(), [0u64; 7]);
    for at in 0..schedules {
        let seed = if at < SCHEDULES / 2 { at + 1 } else { base + at };
        let plan = Plan::draw(seed);
        let report = run(&plan, false);
        assert!(report.complaints.is_empty(), "{}", explain(&plan, &report));
        let counts = report.counts;
        let these = [
            report.answered as u64,
            counts.retried,
            counts.repeated,
            counts.snapshots,
            counts.leaders,
            counts.virtual_ms,
            counts.members,
        ];
        sum.iter_mut().zip(these).for_each(|(sum, this)| *sum += this);
    }
    let [answered, retried, repeated, snapshots, leaders, virtual_ms, members] = sum;
    println!(
        "{schedules} schedules in {:.1?} ({} s of virtual time): {answered} operations answered, \
         {retried} retried, {repeated} outcomes repeated, {snapshots} snapshots installed, \
         {leaders} leaders elected, {members} changes of members; new seeds from {base}",
        began.elapsed(),
        virtual_ms / 1_000,
    );
    // A run in which nothing happened proves nothing.
    assert!(answered > schedules * 20 && retried > schedules && snapshots > schedules / 10);
    assert!(members > schedules / 2, "{members} changes of members");
    assert!(repeated > schedules / 10 && leaders > schedules * 2);
}

#[test]
fn same_seed_same_trace() {
    for seed in [1, 2, 3, 40_000] {
        let (first, second) = (run(&Plan::draw(seed), false), run(&Plan::draw(seed), true));
        assert_eq!(first.digest, second.digest, "SEED={seed}");
        assert_ne!(first.digest, run(&Plan::draw(seed + 1), false).digest);
    }
}
