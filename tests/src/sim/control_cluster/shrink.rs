//! A failing plan made small: fewer faults, shorter load, fewer clients, as long as the same rule
//! stays broken. Another random number is drawn elsewhere after each cut, so a smaller plan may by
//! chance be a good one; then that cut is not made.

use super::plan::{Plan, SECOND};
use super::run;
use crate::linear::Rule;

/// Runs spent on it at most.
const RUNS_MAX: usize = 150;

/// The smallest plan found that breaks `rule`, and runs spent.
pub fn shrink(plan: &Plan, rule: Rule) -> (Plan, usize) {
    let (mut best, mut runs) = (plan.clone(), 0);
    let mut tries = |candidate: &Plan| {
        runs += 1;
        runs <= RUNS_MAX && run(candidate, false).complaints.iter().any(|c| c.rule == rule)
    };
    loop {
        let smaller = candidates(&best).into_iter().find(|candidate| tries(candidate));
        let Some(smaller) = smaller else { break };
        best = smaller;
    }
    (best, runs.min(RUNS_MAX))
}

fn candidates(plan: &Plan) -> Vec<Plan> {
    let mut found = Vec::new();
    let mut with = |change: &dyn Fn(&mut Plan)| {
        let mut smaller = plan.clone();
        change(&mut smaller);
        found.push(smaller);
    };
    if plan.load > SECOND {
        with(&|plan| {
            plan.load -= SECOND / 2;
            let load = plan.load;
            plan.faults.retain(|(at, _)| *at < load);
            plan.pop_faults.retain(|(at, _)| *at < load);
        });
    }
    for at in 0..plan.faults.len() {
        with(&|plan| _ = plan.faults.remove(at));
    }
    for at in 0..plan.pop_faults.len() {
        with(&|plan| _ = plan.pop_faults.remove(at));
    }
    for at in 0..plan.members.len() {
        with(&|plan| _ = plan.members.remove(at));
    }
    if plan.clients > 1 {
        with(&|plan| plan.clients -= 1);
    }
    if plan.watchers > 0 {
        with(&|plan| plan.watchers -= 1);
    }
    if plan.numbers > 1 {
        with(&|plan| plan.numbers -= 1);
    }
    if plan.crash_at_end {
        with(&|plan| plan.crash_at_end = false);
    }
    let quiet = |plan: &mut Plan| {
        plan.conditions.loss = 0.0;
        plan.conditions.double = 0.0;
        plan.conditions.client_loss = 0.0;
    };
    if plan.conditions.loss + plan.conditions.double + plan.conditions.client_loss > 0.0 {
        with(&quiet);
    }
    found
}
