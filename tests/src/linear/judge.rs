//! The verdict over one history.

use std::collections::BTreeMap;
use std::fmt;

use super::feed::{self, Feed};
use super::history::{Answer, History, Operation, Request, Reserved};
use super::number::{NumberModel, NumberOp};
use super::reservation::{ReservationModel, ReservationOp};
use super::rules;
use super::search::{Call, Model, Stuck, linearize};
use super::trunk::{TrunkModel, TrunkOp};

/// What can be broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
    /// A number behaves as one register.
    Number,
    /// A trunk does.
    Trunk,
    /// A reservation does.
    Reservation,
    /// All that was asked for at once, or nothing.
    Whole,
    /// What ends by log time has ended when that is reached.
    Expiry,
    /// No number has two owners.
    Owner,
    /// Generations grow.
    Generation,
    /// Once per request id.
    Once,
    /// What was acknowledged is seen by everybody who asks later.
    Stale,
    /// A local read may be old, not invented.
    Local,
    /// Watchers see every event, once, in order.
    Watch,
    /// Replicas at the same log index are equal.
    Replicas,
    /// One leader per term.
    Leaders,
    /// Log time does not go back.
    LogTime,
    /// Nothing is lost or invented in the inventory.
    Counts,
    /// A replica that was not attacked stops itself, or cannot start from its own disk.
    Halt,
    /// A POP that a majority of the nodes hears does not expire.
    Liveness,
    /// Once everything is well again, everything is answered.
    Progress,
}

impl Rule {
    /// This rule is broken.
    pub const fn broken(self, what: String) -> Complaint {
        Complaint { rule: self, what }
    }
}

/// A rule and how it was broken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Complaint {
    /// Which.
    pub rule: Rule,
    /// How.
    pub what: String,
}

impl fmt::Display for Complaint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{:?}] {}", self.rule, self.what)
    }
}

/// Everything wrong with what clients and watchers saw; nothing is what we want.
pub fn judge(history: &History, feeds: &[Feed]) -> Vec<Complaint> {
    let mut found = Vec::new();
    rules::check(history, &mut found);
    feed::check(feeds, &mut found);
    registers(history, &mut found);
    found
}

fn registers(history: &History, found: &mut Vec<Complaint>) {
    let (mut numbers, mut trunks) = (BTreeMap::new(), BTreeMap::new());
    let mut reservations = BTreeMap::new();
    let (floors, reserved) = (history.floors(), history.reserved());
    let all = history.operations.iter().zip(floors);
    for (operation, floor_ms) in all.filter(|(o, _)| !o.request.is_local()) {
        for e164 in touched(operation, &reserved) {
            let calls: &mut Vec<_> = numbers.entry(e164).or_default();
            calls.push(call(operation, NumberOp::of(operation, floor_ms)));
        }
        if let Some(id) = reservation(operation) {
            let calls: &mut Vec<_> = reservations.entry(id).or_default();
            calls.push(call(operation, ReservationOp::of(operation, floor_ms)));
        }
        if let Request::PutTrunk { id, .. }
        | Request::DeleteTrunk { id }
        | Request::GetTrunk { id, .. } = &operation.request
        {
            let calls: &mut Vec<_> = trunks.entry(id.as_str()).or_default();
            calls.push(call(operation, TrunkOp::of(operation)));
        }
    }
    for (e164, calls) in numbers {
        let model = NumberModel { e164: e164.to_owned() };
        complain(Rule::Number, e164, &model, &calls, found);
    }
    for (id, calls) in reservations {
        complain(Rule::Reservation, id, &ReservationModel, &calls, found);
    }
    for (id, calls) in trunks {
        complain(Rule::Trunk, id, &TrunkModel, &calls, found);
    }
}

/// The reservation an operation made or names.
fn reservation(operation: &Operation) -> Option<&str> {
    match (&operation.request, &operation.answer) {
        (Request::Reserve { .. }, Some(Answer::Reservation(made))) => Some(&made.id),
        (request, _) => request.reservation(),
    }
}

fn call<Op>(operation: &Operation, op: Op) -> Call<Op> {
    Call { invoked: operation.invoked, returned: operation.returned, op }
}

fn complain<M: Model>(
    rule: Rule,
    name: &str,
    model: &M,
    calls: &[Call<M::Op>],
    found: &mut Vec<Complaint>,
) {
    match linearize(model, calls) {
        Ok(_) => {}
        Err(Stuck::No(why)) => {
            found.push(rule.broken(format!("{name} is not linearizable: {why}")));
        }
        Err(Stuck::TooWide(steps)) => {
            found.push(rule.broken(format!("{name}: no verdict within {steps} steps")));
        }
    }
}

/// The numbers an operation is judged by. One that says something about several only, or about a
/// whole pool, is left to the other rules; so is what a reservation refuses.
fn touched<'a>(operation: &'a Operation, reserved: &BTreeMap<&str, &'a Reserved>) -> Vec<&'a str> {
    let names = |e164: &'a [String]| e164.iter().map(String::as_str).collect();
    match (&operation.request, &operation.answer) {
        (
            Request::Import { e164, .. } | Request::Reserve { e164, .. },
            Some(Answer::Rejected(_)),
        ) if e164.len() > 1 => Vec::new(),
        (Request::Import { e164, .. }, _) => names(e164),
        (Request::Reserve { .. }, Some(Answer::Reservation(made))) => names(&made.e164),
        (Request::Reserve { e164, .. }, Some(Answer::Rejected(_))) => names(e164),
        (
            Request::Allocate { e164, .. }
            | Request::Release { e164, .. }
            | Request::Get { e164, .. },
            _,
        ) => vec![e164],
        (Request::AllocateAny { .. }, Some(Answer::Number(Some(held)))) => vec![&held.e164],
        (Request::AllocateSome { .. }, Some(Answer::Numbers(list))) => {
            list.iter().map(|held| held.e164.as_str()).collect()
        }
        (request, Some(Answer::Reservation(_) | Answer::Numbers(_))) => {
            let held = request.reservation().and_then(|id| reserved.get(id));
            held.map_or_else(Vec::new, |held| names(&held.e164))
        }
        _ => Vec::new(),
    }
}
