//! What holds across registers.

use std::collections::BTreeMap;

use proto::control::NumberState;
use proto::raft::Reason;

use super::history::{Answer, Held, History, NEVER, Operation, Request, UNSEEN};
use super::judge::{Complaint, Rule};

/// All of them.
pub fn check(history: &History, found: &mut Vec<Complaint>) {
    once(history, found);
    owners(history, found);
    generations(history, found);
    revisions(history, found);
    local_reads(history, found);
    whole(history, found);
    ends(history, found);
}

/// A request has one outcome, however often it is asked for.
fn once(history: &History, found: &mut Vec<Complaint>) {
    for (operation, answer) in history.answered() {
        if let Some(other) = operation.echoes.iter().find(|echo| *echo != answer) {
            found.push(Rule::Once.broken(format!(
                "request {} came to {answer:?}, and later to {other:?}",
                operation.request_id
            )));
        }
        if let Answer::Rejected(reason @ (Reason::IdempotencyKeyReused | Reason::Invalid)) = answer
        {
            let id = &operation.request_id;
            found.push(Rule::Once.broken(format!("request {id} is refused with {reason:?}")));
        }
    }
}

/// What mutations made of numbers, as their answers show it.
fn written(history: &History) -> impl Iterator<Item = (&Operation, &Held)> {
    let writes = history.answered().filter(|(operation, _)| !operation.request.is_read());
    writes.flat_map(|(operation, answer)| {
        let held = match answer {
            Answer::Number(Some(held)) => std::slice::from_ref(held),
            Answer::Numbers(list) => list,
            _ => &[],
        };
        held.iter().map(move |held| (operation, held))
    })
}

/// All that was asked for at once, or nothing; and nothing twice.
fn whole(history: &History, found: &mut Vec<Complaint>) {
    let reserved = history.reserved();
    for (operation, answer) in history.answered() {
        let mut got: Vec<&str> = match answer {
            Answer::Numbers(list) => list.iter().map(|held| held.e164.as_str()).collect(),
            Answer::Reservation(reserved) => reserved.e164.iter().map(String::as_str).collect(),
            _ => continue,
        };
        let told = got.len();
        got.sort_unstable();
        got.dedup();
        let named = |e164: &[String]| {
            let mut e164: Vec<&str> = e164.iter().map(String::as_str).collect();
            e164.sort_unstable();
            e164 == got
        };
        let right = match &operation.request {
            Request::AllocateSome { count, .. } => got.len() == *count,
            Request::Reserve { e164, count, .. } if e164.is_empty() => got.len() == *count,
            Request::Reserve { e164, .. } => named(e164),
            request => {
                let held = request.reservation().and_then(|id| reserved.get(id));
                held.is_none_or(|held| named(&held.e164))
            }
        };
        if !right || told != got.len() {
            found.push(Rule::Whole.broken(format!("{:?} came to {answer:?}", operation.request)));
        }
    }
}

/// A state in which something is over does not show it as going on.
fn ends(history: &History, found: &mut Vec<Complaint>) {
    for (operation, answer) in history.answered().filter(|(o, _)| o.request.is_read()) {
        let Answer::Number(Some(held)) = answer else { continue };
        let ends = matches!(held.state(), NumberState::Reserved | NumberState::Quarantine);
        if ends && operation.log_time_ms != u64::MAX && held.until_ms <= operation.log_time_ms {
            found.push(Rule::Expiry.broken(format!(
                "{held:?} was read at log time {}, when it was over",
                operation.log_time_ms
            )));
        }
    }
}

/// No number is acknowledged to two owners without a release between.
fn owners(history: &History, found: &mut Vec<Complaint>) {
    let mut owners: BTreeMap<(&str, u64), (&str, &str)> = BTreeMap::new();
    for (operation, held) in written(history) {
        if held.state() != NumberState::Active {
            continue;
        }
        let owner = (held.tenant.as_str(), operation.request_id.as_str());
        let place = (held.e164.as_str(), held.generation);
        let known = *owners.entry(place).or_insert(owner);
        if known != owner {
            found.push(Rule::Owner.broken(format!(
                "{} of generation {} was given to {} by request {} and to {} by request {}",
                place.0, place.1, known.0, known.1, owner.0, owner.1
            )));
        }
    }
}

/// Each change of a number has its own generation, and a later one has a higher one.
fn generations(history: &History, found: &mut Vec<Complaint>) {
    let mut changes: BTreeMap<&str, Vec<(&Operation, &Held)>> = BTreeMap::new();
    for (operation, held) in written(history) {
        changes.entry(held.e164.as_str()).or_default().push((operation, held));
    }
    for (e164, mut changes) in changes {
        changes.sort_by_key(|(_, held)| held.generation);
        // A change must not be answered before one of a lower generation is asked for.
        let mut earliest_after = NEVER;
        let mut above: Option<(&Operation, &Held)> = None;
        for (operation, held) in changes.into_iter().rev() {
            let twice = above.is_some_and(|(_, higher)| higher.generation == held.generation);
            if twice || earliest_after < operation.invoked {
                found.push(Rule::Generation.broken(format!(
                    "{e164} reached generation {} by request {}, {} of another request",
                    held.generation,
                    operation.request_id,
                    if twice { "which is also that" } else { "after a higher one" }
                )));
            }
            earliest_after = earliest_after.min(operation.returned);
            above = Some((operation, held));
        }
    }
}

/// Revisions follow real time over all registers: what is answered before another is asked has no
/// higher revision.
fn revisions(history: &History, found: &mut Vec<Complaint>) {
    let counted =
        || history.operations.iter().filter(|o| o.answer.is_some() && o.revision != UNSEEN);
    let mut by_return: Vec<&Operation> = counted().collect();
    by_return.sort_by_key(|operation| operation.returned);
    let mut by_return = by_return.into_iter().peekable();
    let mut highest: Option<&Operation> = None;
    for operation in counted().filter(|o| !o.request.is_local()) {
        while let Some(done) = by_return.next_if(|done| done.returned < operation.invoked) {
            if !done.request.is_local() && highest.is_none_or(|h| h.revision < done.revision) {
                highest = Some(done);
            }
        }
        if let Some(before) = highest.filter(|before| before.revision > operation.revision) {
            found.push(Rule::Stale.broken(format!(
                "{:?} was answered at revision {}, after {:?} had been answered at {}",
                operation.request, operation.revision, before.request, before.revision
            )));
        }
    }
}

/// A local read shows something that was written, by somebody who had asked already.
fn local_reads(history: &History, found: &mut Vec<Complaint>) {
    let mut numbers: BTreeMap<&Held, u64> = BTreeMap::new();
    for (operation, held) in written(history) {
        let invoked = numbers.entry(held).or_insert(operation.invoked);
        *invoked = operation.invoked.min(*invoked);
    }
    let reserved = history.reserved();
    let unknown = history.operations.iter().any(|o| o.answer.is_none() && !o.request.is_read());
    let mut trunks: BTreeMap<(&str, u32), u64> = BTreeMap::new();
    for operation in &history.operations {
        if let Request::PutTrunk { id, value } = &operation.request {
            trunks.entry((id, *value)).or_insert(operation.invoked);
        }
    }
    for (operation, answer) in history.answered().filter(|(o, _)| o.request.is_local()) {
        let known = match (answer, &operation.request) {
            // Who reserves is told no generation.
            (Answer::Number(Some(held)), _) if held.state() == NumberState::Reserved => {
                let made = reserved.get(held.reservation.as_str());
                made.is_some_and(|made| made.e164.contains(&held.e164)) || unknown
            }
            (Answer::Number(Some(held)), _) if held.state() != NumberState::Available => {
                let known = numbers.get(held).is_some_and(|at| *at <= operation.returned);
                known || unknown
            }
            (Answer::Trunk(Some(value)), Request::GetTrunk { id, .. }) => {
                trunks.get(&(id.as_str(), *value)).is_some_and(|at| *at <= operation.returned)
            }
            _ => true,
        };
        if !known {
            found.push(Rule::Local.broken(format!(
                "{:?} read {answer:?}, which nobody had written",
                operation.request
            )));
        }
    }
}

/// How many numbers there must be at the end: a range, when imports without answer may have
/// happened.
pub fn imported(history: &History) -> std::ops::RangeInclusive<u64> {
    let (mut surely, mut perhaps) = (0, 0);
    for operation in &history.operations {
        let Request::Import { e164, .. } = &operation.request else { continue };
        match &operation.answer {
            Some(Answer::Imported(_)) => surely += e164.len() as u64,
            Some(_) => {}
            None => perhaps += e164.len() as u64,
        }
    }
    surely..=surely + perhaps
}
