//! What must be true at the end of a run.

use std::collections::BTreeMap;

use pop_core::call::{Cdr, CdrRole, EndCause};
use proto::control::NumberState;
use proto::time::{Duration, Instant};

use super::carrier::{Report, Side};
use super::operator::number;
use super::plan::{CallPlan, Fault};
use super::pop::PopNode;
use super::world::World;

/// A POP that is back refuses calls, without a record, until it is registered anew and has a view.
const BACK: Duration = Duration::from_secs(3);
/// An answer is told to guardians within this: one way and back.
const SETTLES: Duration = Duration::from_millis(500);

/// Two phones of one call, as they tell it.
type Sides<'a> = (&'a CallPlan, Option<&'a Report>, Option<&'a Report>);

/// Every complaint; none is what we want.
pub fn complaints(world: &World) -> Vec<String> {
    let mut found = world.complaints.clone();
    leftovers(world, &mut found);
    records(world, &mut found);
    media(world, &mut found);
    survivors(world, &mut found);
    acknowledged(world, &mut found);
    found
}

/// No call, leg, port, transaction or timer is left.
fn leftovers(world: &World, found: &mut Vec<String>) {
    for PopNode { id, pop, media, sockets, .. } in &world.pops {
        if !pop.is_idle() {
            found.push(format!("{id} is not idle: {:?}", pop.calls()));
        }
        if media.legs() > 0 || !sockets.is_empty() {
            found.push(format!(
                "{id} has {} legs and {} sockets left",
                media.legs(),
                sockets.len()
            ));
        }
        for (what, timer) in [("calls", pop.poll_timeout()), ("media", media.poll_timeout())] {
            if let Some(at) = timer {
                found.push(format!("{id}: a timer of its {what} is left, at {at}"));
            }
        }
    }
    for (region, carrier) in world.carriers.iter().enumerate() {
        if !carrier.is_idle() {
            let what = carrier.waiting();
            found.push(format!("a phone of region {region} waits for something: {what}"));
        }
    }
}

fn sides(world: &World) -> Vec<Sides<'_>> {
    let mut reports: BTreeMap<(usize, Side), &Report> = BTreeMap::new();
    for carrier in &world.carriers {
        reports.extend(carrier.reports().map(|(plan, side, report)| ((plan.number, side), report)));
    }
    let of = |plan: &CallPlan, side| reports.get(&(plan.number, side)).copied();
    let calls = world.plan.calls.iter();
    calls.map(|plan| (plan, of(plan, Side::Caller), of(plan, Side::Callee))).collect()
}

/// Exactly one billing record a call, and it agrees with what the caller saw.
fn records(world: &World, found: &mut Vec<String>) {
    let mut billed: BTreeMap<&str, Vec<&Cdr>> = BTreeMap::new();
    let mut others: BTreeMap<(&str, String), usize> = BTreeMap::new();
    for cdr in &world.cdrs {
        if cdr.role == CdrRole::Egress {
            *others.entry((cdr.to.as_str(), cdr.pop.to_string())).or_default() += 1;
        } else {
            billed.entry(cdr.to.as_str()).or_default().push(cdr);
        }
        // What a BYE should have ended was found dead by asking.
        let dead = [EndCause::DialogLost, EndCause::PeerVanished, EndCause::SessionExpired];
        if dead.contains(&cdr.cause) && world.plan.faults.is_empty() {
            found.push(format!("{} missed a BYE: {:?}", cdr.pop, cdr.cause));
        }
        if cdr.ended < cdr.started || cdr.answered.is_some_and(|at| at > cdr.ended) {
            found.push(format!("a record of {} ends before it begins", cdr.pop));
        }
    }
    for (plan, caller, _) in sides(world) {
        let to = number(plan.to, plan.number);
        let records = billed.remove(to.as_str()).unwrap_or_default();
        let call = plan.number;
        let answered = caller.and_then(|report| report.answered);
        let [record] = records.as_slice() else {
            if records.is_empty()
                && (died_setting_up(world, plan, caller) || turned_away(world, plan, caller))
            {
                continue;
            }
            // A POP that stood still when it had just told its guardians does not know whether they
            // heard: it writes a record, too, rather than none.
            let by_retired = |cdr: &&Cdr| cdr.cause == EndCause::Shutdown;
            if records.len() == 2
                && records.iter().filter(|cdr| by_retired(cdr)).count() == 1
                && (answered.is_some_and(|at| meets_loss(world, plan, at, at + SETTLES))
                    || paused_while_draining(world))
            {
                continue;
            }
            let who: Vec<_> = records
                .iter()
                .map(|cdr| format!("{} {:?} {:?} at {}", cdr.pop, cdr.role, cdr.cause, cdr.ended))
                .collect();
            let who = who.join(", ");
            let (began, ended) = (caller.and_then(|c| c.began), caller.and_then(|c| c.ended));
            let count = records.len();
            found.push(format!(
                "call {call} has {count} billing records: {who}; the caller began {began:?}, had an answer \
                 {answered:?}, ended {ended:?}, of region {}; {:?}",
                plan.from, world.plan.faults
            ));
            continue;
        };
        if answered.is_some() && record.answered.is_none() {
            found.push(format!("call {call} was answered; its record says {:?}", record.cause));
        }
        let silent = caller.is_some_and(|r| r.timed_out && r.answered.is_none() && !r.cancelled);
        if silent {
            found.push(format!("call {call}: the POP never answered the INVITE"));
        }
    }
    let strangers: Vec<_> = billed.values().flatten().map(|cdr| cdr.pop.to_string()).collect();
    if !strangers.is_empty() {
        found.push(format!("records of calls nobody made: {strangers:?}"));
    }
    for ((_, pop), count) in others.iter().filter(|(_, count)| **count > 1) {
        found.push(format!("{pop} wrote {count} egress records of one call"));
    }
}

/// Media flowed both ways in calls nothing disturbed, and never into a wrong ear.
fn media(world: &World, found: &mut Vec<String>) {
    for (plan, caller, callee) in sides(world) {
        let (Some(caller), Some(callee)) = (caller, callee) else { continue };
        let call = plan.number;
        for report in [caller, callee] {
            if report.foreign > 0 {
                found.push(format!("call {call} heard {} packets of others", report.foreign));
            }
        }
        let (Some(from), Some(_)) = (caller.answered, callee.answered) else { continue };
        let Some(until) = caller.quiet.into_iter().chain(callee.quiet).min() else { continue };
        // A call that was put on hold is silent for a while.
        let usual = plan.hold_after.is_none() && until - from >= Duration::from_secs(1);
        if !usual || is_disturbed(world, plan, from, until) {
            continue;
        }
        // Both talk, 50 packets a second; the first and the last ones may meet nobody.
        let talked = (until - from).as_millis() as f64 / 20.0 - 15.0;
        let conditions = world.plan.conditions;
        let lost = conditions.far_loss + 2.0 * conditions.near_loss;
        let due = talked * (0.98 - 2.0 * lost);
        for (who, heard) in [("caller", caller.received), ("callee", callee.received)] {
            if (heard as f64) < due {
                found.push(format!(
                    "call {call} of {} and {}, {from} to {until}: the {who} heard {heard} packets, \
                     {due:.0} are due; {:?}",
                    plan.from, plan.to, world.plan.faults
                ));
            }
        }
    }
}

/// POPs died or stood still while it was set up, or ended.
fn meets_loss(world: &World, plan: &CallPlan, from: Instant, until: Instant) -> bool {
    world.plan.faults.iter().any(|(at, fault)| match fault {
        Fault::KillPop(region, _, lasts) | Fault::PausePop(region, _, lasts) => {
            [plan.from, plan.to].contains(region) && *at < until && *at + *lasts > from
        }
        _ => false,
    })
}

/// The POP the caller reached stood still or died before it could tell a guardian of an answer: its
/// record died with it.
fn died_setting_up(world: &World, plan: &CallPlan, caller: Option<&Report>) -> bool {
    let Some(began) = caller.and_then(|report| report.began) else { return false };
    let answered = caller.and_then(|report| report.answered);
    let until = answered.map_or(began + Duration::from_secs(70), |at| at + SETTLES);
    world.plan.faults.iter().any(|(at, fault)| match fault {
        Fault::KillPop(region, _, lasts) => {
            *region == plan.from && *at < until && *at + *lasts + BACK > began
        }
        // What it never heard of.
        Fault::PausePop(region, _, lasts) => {
            *region == plan.from && answered.is_none() && *at < until && *at + *lasts + BACK > began
        }
        _ => false,
    })
}

/// A POP that is cordoned refuses calls, without a record.
fn turned_away(world: &World, plan: &CallPlan, caller: Option<&Report>) -> bool {
    let Some((began, 503)) = caller.and_then(|report| report.began.zip(report.status)) else {
        return false;
    };
    let drains = |at: Instant, lasts| at < began && at + lasts + BACK > began;
    world.plan.faults.iter().any(|(at, fault)| {
        matches!(fault, Fault::Drain(region, lasts) if *region == plan.from && drains(*at, *lasts))
    })
}

/// A POP that takes calls of a drained one stands still: of those that just came it does not know
/// whether guardians heard of them, either.
fn paused_while_draining(world: &World) -> bool {
    let faults = &world.plan.faults;
    faults.iter().any(|(at, fault)| {
        let during = |drained: Instant| drained <= *at && *at <= drained + Duration::from_secs(2);
        matches!(fault, Fault::PausePop(..))
            && faults.iter().any(|(at, f)| matches!(f, Fault::Drain(..)) && during(*at))
    })
}

/// A POP was drained while it was up.
fn meets_drain(world: &World, plan: &CallPlan, from: Instant, until: Instant) -> bool {
    world.plan.faults.iter().any(|(at, fault)| {
        let ours = |region: &usize| [plan.from, plan.to].contains(region);
        matches!(fault, Fault::Drain(region, _) if ours(region) && *at < until && *at > from)
    })
}

/// No answered call is lost with its POP, or when it is drained: it ends when one of its phones hangs up, and not before.
fn survivors(world: &World, found: &mut Vec<String>) {
    for (plan, caller, callee) in sides(world) {
        let (Some(caller), Some(callee)) = (caller, callee) else { continue };
        let (Some(answered), Some(_)) = (caller.answered, callee.answered) else { continue };
        let Some(quiet) = caller.quiet.into_iter().chain(callee.quiet).min() else { continue };
        let settled = answered + SETTLES;
        let meets =
            meets_loss(world, plan, settled, quiet) || meets_drain(world, plan, settled, quiet);
        let lost = meets && !meets_loss(world, plan, answered, settled);
        let hung_up = caller.hung_up.into_iter().chain(callee.hung_up).min();
        if lost && hung_up.is_none_or(|at| at > quiet) {
            found.push(format!("call {} was lost at {quiet}, {answered} answered", plan.number));
        }
    }
}

/// A cut between its POPs while it was up, or shortly before.
fn is_disturbed(world: &World, plan: &CallPlan, from: Instant, until: Instant) -> bool {
    world.plan.faults.iter().any(|(at, fault)| match fault {
        Fault::Cut(ends, lasts) => {
            let ours = super::net::pair(plan.from, plan.to) == *ends;
            ours && *at < until && *at + *lasts + Duration::from_secs(5) > from
        }
        Fault::KillPop(region, _, lasts) | Fault::PausePop(region, _, lasts) => {
            let ours = [plan.from, plan.to].contains(region);
            ours && *at < until && *at + *lasts + Duration::from_secs(5) > from
        }
        Fault::Drain(region, lasts) => {
            let ours = [plan.from, plan.to].contains(region);
            ours && *at < until && *at + *lasts + Duration::from_secs(5) > from
        }
        Fault::CutRaft(..) | Fault::Crash(..) | Fault::CrashAll(_) => false,
    })
}

/// What was acknowledged is there, on every replica, once; replicas and views are equal.
fn acknowledged(world: &World, found: &mut Vec<String>) {
    if !world.operator.is_done() {
        found.push("the operator still waits for an acknowledgement".into());
    }
    found.extend(world.operator.refused.iter().map(|why| format!("refused: {why}")));
    let mut owners: BTreeMap<&str, &str> = BTreeMap::new();
    for (e164, tenant) in &world.operator.acknowledged {
        if let Some(other) = owners.insert(e164, tenant) {
            found.push(format!("a number was given to {other} and to {tenant}"));
        }
    }
    let mut hashes = Vec::new();
    for node in &world.control {
        let Some(replica) = &node.replica else {
            found.push(format!("control node {} is not running at the end", node.index));
            continue;
        };
        let state = replica.state();
        hashes.push(state.hash());
        for (e164, tenant) in &world.operator.acknowledged {
            let number = state.number(e164);
            let kept =
                number.is_some_and(|n| n.state() == NumberState::Active && n.tenant == *tenant);
            if !kept {
                found.push(format!("control node {} lost an allocation of {tenant}", node.index));
            }
        }
    }
    if hashes.windows(2).any(|pair| pair.first() != pair.last()) {
        found.push("replicas differ".into());
    }
    if !world.views_agree() {
        found.push("a POP's view is behind".into());
    }
}
