//! From what two agents reported of each call to what became of it.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use pop_core::codec::Codec;
use proto::time::Instant;

use super::briefs::{Placed, since};
use super::cast::Cast;
use super::figures::{self, Ear, Fate, Lost, Watch};
use super::file::{Drill, Flow};
use super::records;
use super::timeline::Happened;
use super::verdict::{Account, Event, Run};
use crate::endpoint::{Bye, End, Hold, Report, Side};
use crate::quality;
use crate::wan::Profile;

/// Seconds drawn from before the fault.
const BEFORE: u32 = 3;

/// All that was seen of a run.
#[derive(Clone, Copy)]
pub(super) struct Observed<'a> {
    pub(super) drill: &'a Drill,
    pub(super) cast: &'a Cast,
    pub(super) reports: &'a [Report],
    pub(super) faults: &'a [Instant],
    pub(super) led: Option<&'a str>,
    pub(super) end: Instant,
}

impl Observed<'_> {
    fn fault(&self) -> Instant {
        self.faults.first().copied().unwrap_or(self.end)
    }

    fn watch(&self) -> Watch {
        Watch { fault: self.fault(), end: self.end, two_way: self.drill.verdict.two_way }
    }

    fn touches(&self, flow: &Flow) -> bool {
        self.drill.faults.iter().any(|f| f.touches(flow, &self.drill.mesh, self.led))
    }

    fn side(&self, side: Side, from: &str, to: &str) -> Option<&Report> {
        let mine = |r: &&Report| r.side == side && r.from == from && r.to == to;
        self.reports.iter().find(mine)
    }

    /// A fault that lasts a while excuses calls that were under way when it began.
    fn excuses(&self, placed: Instant, ended: Instant) -> bool {
        let after = self.drill.verdict.new_calls_after;
        let hit = |fault: &Instant| placed <= *fault + after && ended >= *fault;
        !after.is_zero() && self.faults.iter().any(hit)
    }
}

/// The accounts of all calls; records, events and logs come after.
pub(super) fn run(seen: &Observed<'_>, flows: &[Flow], briefs: &[Placed]) -> Result<Run> {
    let mut run = Run::default();
    let mut ears: Vec<[Ear; 2]> = Vec::new();
    for (call, flow) in (0..).zip(flows) {
        let (from, to) = seen.cast.numbers(flow, call)?;
        let sides = [Side::Caller, Side::Callee].map(|side| seen.side(side, &from, &to));
        let touched = seen.touches(flow);
        let [caller, callee] = sides;
        let heard = match (caller, callee) {
            (Some(caller), Some(callee)) => heard(caller, callee),
            _ => [Ear::new(), Ear::new()],
        };
        let ended = sides.iter().any(|side| side.is_none_or(|r| r.ended < seen.end));
        let fate = figures::fate([&heard[0], &heard[1]], ended, seen.watch());
        let moves = sides.iter().flatten().flat_map(|r| &r.moves);
        run.calls.push(Account {
            flow: format!("{} > {}", flow.from, flow.to),
            kind: seen.cast.kind(call),
            touched,
            farewell: farewell(&fate, caller, callee),
            moves: moves.filter(|m| m.answer == 200).count(),
            ends: ends(caller, callee, seen),
            stale: sides.iter().flatten().flat_map(|r| &r.stale).count(),
            fate,
            from,
            to,
        });
        if touched {
            ears.push(heard);
        }
    }
    let both: Vec<[&Ear; 2]> = ears.iter().map(|[a, b]| [a, b]).collect();
    let (codec, profile) = (seen.drill.load.codec, Profile::delayed(seen.drill.mesh.rtt / 2));
    run.seconds = figures::seconds(&both, seen.watch(), BEFORE, |loss| mos(codec, loss, &profile));
    for placed in briefs {
        let numbers = seen.cast.numbers(&placed.flow, placed.call)?;
        let excuse = |placed, ended| seen.excuses(placed, ended);
        run.briefs.push(placed.judge(seen.reports, seen.fault(), excuse, &numbers));
    }
    Ok(run)
}

/// How each side ended, if not as the drill wanted it.
fn ends(caller: Option<&Report>, callee: Option<&Report>, seen: &Observed<'_>) -> Vec<String> {
    [("caller", caller), ("callee", callee)]
        .into_iter()
        .filter_map(|(who, report)| {
            let Some(report) = report else { return Some(format!("{who}: no report")) };
            let at = since(report.ended, seen.fault()) as f64 / 1e3;
            let early = report.ended < seen.end;
            early.then(|| format!("{who}: {:?}, {:?} at {at:.2} s", report.end, report.bye))
        })
        .collect()
}

/// What each side heard of the other.
fn heard(caller: &Report, callee: &Report) -> [Ear; 2] {
    let (Some(a), Some(b)) = (&caller.diary, &callee.diary) else {
        return [Ear::new(), Ear::new()];
    };
    let (a, b) = (a.voice(b.spoke), b.voice(a.spoke));
    [on_hold(&a, &b, caller.hold), on_hold(&b, &a, callee.hold)]
}

/// What counts of an ear whose side has the other on hold: meanwhile only the other one can hear. A
/// call that is never taken back has a deaf side.
fn on_hold(ear: &Ear, other: &Ear, hold: Option<Hold>) -> Ear {
    let Some(Hold { from, until: Some(until) }) = hold else { return ear.clone() };
    let held = |at: &&Instant| (from..until).contains(*at);
    let mut all: Ear = ear.iter().filter(|at| !held(at)).copied().collect();
    all.extend(other.iter().filter(held));
    all.sort_unstable();
    all
}

fn mos(codec: Codec, loss: f64, profile: &Profile) -> f64 {
    if loss >= 1.0 { 1.0 } else { quality::mos(codec, loss, Duration::ZERO, profile) }
}

/// What is wrong with the end of a preserved call.
fn farewell(fate: &Fate, caller: Option<&Report>, callee: Option<&Report>) -> Option<String> {
    if fate.lost.is_some_and(|lost| lost == Lost::Ended) {
        return None;
    }
    let (Some(caller), Some(callee)) = (caller, callee) else {
        return Some("a side is missing".into());
    };
    let ((Some(Bye::Sent(sent)), other) | (other, Some(Bye::Sent(sent)))) =
        (caller.bye, callee.bye)
    else {
        return Some("nobody said BYE".into());
    };
    match (sent, other) {
        (None, _) => Some("the BYE was not answered".into()),
        (Some(status), _) if !(200..300).contains(&status) => {
            Some(format!("the BYE was answered with {status}"))
        }
        (Some(_), Some(Bye::Received(_)))
            if [caller, callee].iter().all(|r| r.end == End::Completed) =>
        {
            None
        }
        (Some(_), _) => Some("the BYE did not reach the other side".into()),
    }
}

/// Complaints about records of calls that were answered.
pub(super) fn records(
    seen: &Observed<'_>,
    flows: &[Flow],
    briefs: &[Placed],
    data: &Path,
    pops: &[String],
) -> Result<Vec<String>> {
    let book = records::read(data, pops)?;
    let mut answered = Vec::new();
    for (call, flow) in (0..).zip(flows) {
        answered.push((seen.cast.numbers(flow, call)?.0, 1));
    }
    for placed in briefs.iter().filter(|placed| placed.answered.is_some()) {
        answered.push((seen.cast.numbers(&placed.flow, placed.call)?.0, placed.tries.len()));
    }
    Ok(records::complaints(&book, answered.iter().map(|(from, tries)| (from.as_str(), *tries))))
}

/// Puts what happened, and re-INVITEs, on the clock of the fault.
pub(super) fn events(run: &mut Run, seen: &Observed<'_>, notes: Vec<Happened>) {
    let fault = seen.fault();
    let note = |h: Happened| Event { at_ms: since(h.at, fault), who: h.who, what: h.what };
    run.events = notes.into_iter().map(note).collect();
    let mut moves: Vec<(Instant, std::net::IpAddr, u16)> = Vec::new();
    for report in seen.reports {
        moves.extend(report.moves.iter().map(|m| (m.at, m.from.ip(), m.answer)));
    }
    for (report, stale) in seen.reports.iter().flat_map(|r| r.stale.iter().map(move |s| (r, s))) {
        run.events.push(Event {
            at_ms: since(stale.at, fault),
            who: "carriers".into(),
            what: format!("late {} from {} for {}", stale.method, stale.from.ip(), report.to),
        });
    }
    moves.sort_unstable();
    for address in moves.iter().map(|m| m.1).collect::<std::collections::BTreeSet<_>>() {
        let of: Vec<_> = moves.iter().filter(|m| m.1 == address && m.0 >= fault).collect();
        let (Some(first), Some(last)) = (of.first(), of.last()) else { continue };
        let event = |at, what| Event { at_ms: since(at, fault), who: "carriers".into(), what };
        run.events.push(event(first.0, format!("first re-INVITE from {address}")));
        let what = format!("last of {} re-INVITEs from {address}", of.len());
        run.events.push(event(last.0, what));
    }
    run.events.sort_by_key(|event| event.at_ms);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_side_on_hold_is_judged_by_the_one_that_hears() {
        let ms = Instant::from_millis;
        let ear = |spans: &[(u64, u64)]| -> Ear {
            spans.iter().flat_map(|(from, to)| (*from..*to).step_by(20)).map(ms).collect()
        };
        let hold = |until: Option<u64>| Some(Hold { from: ms(1_000), until: until.map(ms) });
        // Held from 1 s to 8 s; the fault silenced it from 3 s to 5 s.
        let (deaf, held) = (ear(&[(0, 1_000), (8_000, 9_000)]), ear(&[(0, 3_000), (5_000, 9_000)]));
        assert_eq!(on_hold(&deaf, &held, hold(Some(8_000))), held);
        assert_eq!(on_hold(&deaf, &held, hold(None)), deaf);
        assert_eq!(on_hold(&deaf, &held, None), deaf);
        // Back, and nothing is heard.
        let never = on_hold(&ear(&[(0, 1_000)]), &held, hold(Some(8_000)));
        assert_eq!(never.last(), Some(&ms(7_980)));
    }
}
