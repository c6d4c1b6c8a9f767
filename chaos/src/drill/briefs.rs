//! Calls that come and go during a drill, by callers that follow SRV records: a way in that does
//! not answer, or says 503, is left for the next one (RFC 3263 §4.3), sooner than a transaction
//! would end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::Result;
use proto::time::Instant;

use super::cast::{BRIEF_FROM, Cast, is_standing};
use super::file::{Flow, NewCalls};
use super::verdict::Brief;
use crate::endpoint::{self, Bye, End, Live, Report, Side};

/// How long a caller waits for a way in to say that it rings.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long for the answer, once it rings.
const RINGING: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_millis(25);
/// Share of the other side's packets that both sides of a short call must hear.
const HEARD_MIN: f64 = 0.8;

/// One of them.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) call: u32,
    pub(super) flow: Flow,
    pub(super) at: Instant,
    /// Ways in that were tried, and the agent's number of each try.
    pub(super) tries: Vec<(String, u64)>,
    tried_at: Instant,
    /// When the answer came.
    pub(super) answered: Option<Instant>,
    given_up: bool,
}

/// Places calls until `stop`; all that were placed.
pub(super) async fn place(
    cast: Arc<Cast>,
    flows: Vec<Flow>,
    new: NewCalls,
    stop: Arc<AtomicBool>,
) -> Result<Vec<Placed>> {
    let began = endpoint::now();
    let every = Duration::from_secs_f64(1.0 / new.per_second);
    let mut all: Vec<Placed> = Vec::new();
    let mut open: Vec<usize> = Vec::new();
    let mut stopped_at = None;
    loop {
        let now = endpoint::now();
        let stopped = stop.load(Ordering::Relaxed);
        while !stopped && now - began >= every * u32::try_from(all.len()).unwrap_or(u32::MAX) {
            let Some(flow) = flows.get(all.len() % flows.len().max(1)) else { break };
            let call = BRIEF_FROM + u32::try_from(all.len()).unwrap_or(u32::MAX - BRIEF_FROM);
            let way = cast.ways_in(&flow.from).into_iter().next().unwrap_or_default();
            let number = cast.dial(flow, call, &way, Some(new.talk))?;
            open.push(all.len());
            all.push(Placed {
                call,
                flow: flow.clone(),
                at: now,
                tries: vec![(way, number)],
                tried_at: now,
                answered: None,
                given_up: false,
            });
        }
        let live = cast.live();
        for index in &open {
            if let Some(placed) = all.get_mut(*index) {
                placed.look(&cast, &live, now, new.talk)?;
            }
        }
        open.retain(|i| all.get(*i).is_some_and(|p| p.answered.is_none() && !p.given_up));
        // Those that talk are let finish, and their BYE be answered.
        let talking = live.iter().any(|(to, sides)| !is_standing(to) && is_up(sides));
        if stopped && open.is_empty() {
            let since = *stopped_at.get_or_insert(now);
            if !talking || now - since > new.talk + RINGING {
                return Ok(all);
            }
        }
        tokio::time::sleep(TICK).await;
    }
}

fn is_up(sides: &[Option<Live>; 2]) -> bool {
    sides.iter().flatten().any(|live| live.codec.is_some())
}

impl Placed {
    /// Takes note of the answer, or tries the next way in.
    fn look(
        &mut self,
        cast: &Cast,
        live: &BTreeMap<String, [Option<Live>; 2]>,
        now: Instant,
        talk: Duration,
    ) -> Result<()> {
        let Some((_, number)) = self.tries.last().cloned() else { return Ok(()) };
        let (from, to) = cast.numbers(&self.flow, self.call)?;
        let caller = live.get(&to).and_then(|sides| sides[0].as_ref());
        if caller.is_some_and(|caller| caller.number == number && caller.codec.is_some()) {
            self.answered = Some(now);
            return Ok(());
        }
        // A call may be answered and over between two looks.
        let over =
            cast.reports()?.iter().any(|report| report.from == from && report.number == number);
        let rings = live.get(&to).is_some_and(|sides| sides[1].is_some());
        let patience = if rings { RINGING } else { PATIENCE };
        if over {
            let answered = cast.reports()?.iter().find_map(|report| {
                (report.from == from && report.number == number).then_some(report.answered)?
            });
            if answered.is_some() {
                self.answered = answered;
                return Ok(());
            }
        } else if now - self.tried_at < patience {
            return Ok(());
        } else {
            cast.hang_up(&self.flow.from, number)?;
        }
        match cast.ways_in(&self.flow.from).get(self.tries.len()) {
            Some(way) => {
                let number = cast.dial(&self.flow, self.call, way, Some(talk))?;
                self.tries.push((way.clone(), number));
                self.tried_at = now;
            }
            None => self.given_up = true,
        }
        Ok(())
    }

    /// What became of it; `under_way`: whether a fault excuses what was up between two instants.
    pub(super) fn judge(
        &self,
        reports: &[Report],
        fault: Instant,
        excuse: impl Fn(Instant, Instant) -> bool,
        numbers: &(String, String),
    ) -> Brief {
        let (from, to) = numbers;
        let tried =
            |report: &&Report| self.tries.iter().any(|(_, number)| *number == report.number);
        let caller = reports
            .iter()
            .filter(|r| r.side == Side::Caller && r.from == *from)
            .filter(tried)
            .find(|r| r.answered.is_some() && r.diary.is_some());
        let callee = reports.iter().filter(|r| r.side == Side::Callee && r.to == *to);
        let callee = callee.filter(|r| r.answered.is_some()).max_by_key(|r| r.ended);
        let ended = caller.map_or(self.tried_at + RINGING, |r| r.ended);
        Brief {
            placed_ms: since(self.at, fault),
            flow: format!("{} > {}", self.flow.from, self.flow.to),
            set_up: caller.and_then(|r| r.answered).map(|at| at - self.at),
            wrong: wrong(caller, callee, self),
            excused: excuse(self.at, ended),
        }
    }
}

/// Milliseconds from `fault` to `at`, negative before it.
pub(super) fn since(at: Instant, fault: Instant) -> i64 {
    let ms = |d: Duration| i64::try_from(d.as_millis()).unwrap_or(i64::MAX);
    ms(at - fault) - ms(fault - at)
}

fn wrong(caller: Option<&Report>, callee: Option<&Report>, placed: &Placed) -> Option<String> {
    let ways: Vec<&str> = placed.tries.iter().map(|(way, _)| way.as_str()).collect();
    let Some(caller) = caller else {
        return Some(format!("not answered by way of {}", ways.join(", ")));
    };
    let Some(callee) = callee else { return Some("the called side knows no such call".into()) };
    if caller.end != End::Completed || !matches!(caller.bye, Some(Bye::Sent(Some(_)))) {
        return Some(format!("the caller's end: {:?}, {:?}", caller.end, caller.bye));
    }
    let (Some(a), Some(b)) = (&caller.diary, &callee.diary) else {
        return Some("no sound".into());
    };
    let spoken = (caller.ended - caller.answered.unwrap_or_default()).as_secs_f64() * 50.0;
    let heard = [a.voice(b.spoke).len(), b.voice(a.spoke).len()];
    let least = heard.into_iter().min().unwrap_or(0) as f64;
    (least < spoken * HEARD_MIN).then(|| format!("{least} of {spoken:.0} packets heard"))
}
