//! What happens in a run: drawn from its seed before it begins, and nothing else.

use chaos::rng::Rng;
use proto::time::{Duration, Instant};

use super::net::{Conditions, PAIRS, Pair, REGIONS};

/// One call.
#[derive(Debug, Clone)]
pub struct CallPlan {
    pub number: usize,
    pub at: Instant,
    /// Region of the caller.
    pub from: usize,
    /// Region of the callee.
    pub to: usize,
    pub callee: Callee,
    pub end: End,
    /// The callee takes PCMA only, so that the mesh must transcode.
    pub transcoded: bool,
    /// The caller puts the callee on hold for a second, this long after the answer.
    pub hold_after: Option<Duration>,
}

/// What the callee does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Callee {
    /// Rings so long, then answers.
    Answers(Duration),
    /// 486.
    Busy,
    /// Rings for ever.
    Rings,
}

/// How the call ends, if answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The caller cancels this long after the INVITE; may cross the answer.
    Cancel(Duration),
    /// The caller hangs up this long after the answer.
    Caller(Duration),
    /// The callee hangs up this long after the answer.
    Callee(Duration),
}

/// Something breaks, and heals.
#[derive(Debug, Clone, Copy)]
pub enum Fault {
    /// Two POPs do not reach each other.
    Cut(Pair, Duration),
    /// Two control nodes do not reach each other.
    CutRaft(Pair, Duration),
    /// A control node dies and comes back with what its disk has.
    Crash(usize, Duration),
    /// All of them.
    CrashAll(Duration),
    /// A POP's process dies; the verdict comes so long after, and a new process so long after.
    KillPop(usize, Duration, Duration),
    /// It stands still.
    PausePop(usize, Duration, Duration),
    /// It is drained, and so long after takes calls again.
    Drain(usize, Duration),
}

/// A bug put in on purpose: the checkers must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutation {
    /// Every seventh CDR is dropped.
    LoseCdrs,
    /// Every seventh CDR is written twice.
    DoubleCdrs,
    /// POPs do not see the BYE of a callee.
    DeafToBye,
    /// Every fifth overlay datagram is lost, on a network that is said to be clean.
    LoseDatagrams,
    /// All control nodes crash, and their disks have lost what they said was durable.
    ForgetfulDisk,
    /// The media plane is not told that legs close.
    LeakLegs,
}

/// A run.
#[derive(Debug, Clone)]
pub struct Plan {
    pub seed: u64,
    pub conditions: Conditions,
    pub calls: Vec<CallPlan>,
    pub faults: Vec<(Instant, Fault)>,
    /// Numbers the operator allocates, spread over the run.
    pub allocations: usize,
    pub mutation: Option<Mutation>,
}

/// Provisioning is over, calls begin.
pub const FIRST_CALL: Instant = Instant::from_millis(8_000);
const CALLS: usize = 40;
/// Calls begin within this time.
const SPREAD_MS: u64 = 40_000;

impl Plan {
    /// Calls over a clean network; nothing breaks.
    pub fn calm(seed: u64) -> Self {
        let mut rng = Rng::split(seed, "plan");
        let calls = (0..CALLS).map(|number| call(number, &mut rng)).collect();
        let conditions = Conditions { far_loss: 0.0, near_loss: 0.0 };
        Self { seed, conditions, calls, faults: Vec::new(), allocations: 20, mutation: None }
    }

    /// Loss everywhere, ways cut, control nodes crashing.
    pub fn stormy(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let mut rng = Rng::split(seed, "faults");
        plan.conditions = Conditions { far_loss: 0.02, near_loss: 0.02 };
        for _ in 0..6 {
            let at = FIRST_CALL + Duration::from_millis(rng.below(SPREAD_MS));
            let lasts = Duration::from_millis(500 + rng.below(9_000));
            let ends = PAIRS.get(pick(&mut rng, PAIRS.len())).copied().unwrap_or((0, 1));
            let fault = match rng.below(8) {
                0..=2 => Fault::Cut(ends, lasts),
                3..=4 => Fault::CutRaft(ends, lasts),
                5..=6 => Fault::Crash(pick(&mut rng, REGIONS), lasts),
                _ => Fault::CrashAll(lasts),
            };
            plan.faults.push((at, fault));
        }
        plan
    }

    /// POPs die and stand still, one at a time, under calls that last; control nodes crash.
    pub fn deadly(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let mut rng = Rng::split(seed, "deaths");
        plan.prolong(&mut rng);
        let mut at = FIRST_CALL + Duration::from_millis(3_000 + rng.below(6_000));
        for _ in 0..2 {
            let region = pick(&mut rng, REGIONS);
            let verdict = Duration::from_millis(700 + rng.below(2_500));
            let lasts = Duration::from_millis(6_000 + rng.below(4_000));
            let fault = match rng.below(2) {
                0 => Fault::KillPop(region, verdict, lasts),
                _ => Fault::PausePop(region, verdict, lasts),
            };
            plan.faults.push((at, fault));
            if rng.below(3) == 0 {
                let crash = Fault::Crash(pick(&mut rng, REGIONS), Duration::from_millis(2_500));
                plan.faults.push((at, crash));
            }
            // The one before is back, and its calls have settled.
            at += lasts + Duration::from_millis(8_000 + rng.below(4_000));
        }
        plan
    }

    /// POPs are drained under calls that last, while ways between POPs are cut, and POPs die.
    pub fn steered(seed: u64) -> Self {
        let mut plan = Self::calm(seed);
        let mut rng = Rng::split(seed, "drains");
        plan.prolong(&mut rng);
        let mut at = FIRST_CALL + Duration::from_millis(3_000 + rng.below(4_000));
        for _ in 0..3 {
            let region = pick(&mut rng, REGIONS);
            let lasts = Duration::from_millis(3_000 + rng.below(6_000));
            plan.faults.push((at, Fault::Drain(region, lasts)));
            let during = at + Duration::from_millis(rng.below(2_000));
            match rng.below(4) {
                0 => {
                    let ends = PAIRS.get(pick(&mut rng, PAIRS.len())).copied().unwrap_or((0, 1));
                    let cut = Duration::from_millis(200 + rng.below(6_000));
                    plan.faults.push((during, Fault::Cut(ends, cut)));
                }
                1 => {
                    let verdict = Duration::from_millis(700 + rng.below(2_500));
                    let dead = Duration::from_millis(6_000 + rng.below(2_000));
                    let victim = pick(&mut rng, REGIONS);
                    let fault = match rng.below(2) {
                        0 => Fault::KillPop(victim, verdict, dead),
                        _ => Fault::PausePop(victim, verdict, dead),
                    };
                    plan.faults.push((during, fault));
                }
                _ => {}
            }
            at += Duration::from_millis(12_000 + rng.below(3_000));
        }
        plan
    }

    /// Calls are up when something happens to their POPs.
    fn prolong(&mut self, rng: &mut Rng) {
        for call in &mut self.calls {
            let longer = Duration::from_millis(4_000 + rng.below(20_000));
            match &mut call.end {
                End::Caller(after) | End::Callee(after) => *after += longer,
                End::Cancel(_) => {}
            }
        }
    }

    #[must_use]
    pub fn with(mut self, mutation: Mutation) -> Self {
        self.mutation = Some(mutation);
        if mutation == Mutation::ForgetfulDisk {
            let all = Fault::CrashAll(Duration::from_secs(1));
            self.faults.push((FIRST_CALL + Duration::from_millis(SPREAD_MS), all));
        }
        self
    }

    /// When the last planned thing is over.
    pub fn ends(&self) -> Instant {
        FIRST_CALL + Duration::from_millis(SPREAD_MS + 20_000)
    }
}

fn pick(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).unwrap_or(0)
}

fn call(number: usize, rng: &mut Rng) -> CallPlan {
    let ms = |rng: &mut Rng, from: u64, to: u64| Duration::from_millis(from + rng.below(to - from));
    let at = FIRST_CALL + ms(rng, 0, SPREAD_MS);
    let (from, to) = (pick(rng, REGIONS), pick(rng, REGIONS));
    let callee = match rng.below(10) {
        0 => Callee::Busy,
        1 => Callee::Rings,
        _ => Callee::Answers(ms(rng, 1, 2_000)),
    };
    let end = match rng.below(10) {
        0 | 1 => End::Cancel(ms(rng, 1, 2_500)),
        2..=5 => End::Callee(ms(rng, 1_500, 8_000)),
        _ => End::Caller(ms(rng, 1_500, 8_000)),
    };
    // Who rings for ever is cancelled.
    let end = if callee == Callee::Rings { End::Cancel(ms(rng, 500, 5_000)) } else { end };
    let transcoded = rng.below(4) == 0;
    let hold_after = (rng.below(5) == 0).then(|| ms(rng, 200, 1_200));
    CallPlan { number, at, from, to, callee, end, transcoded, hold_after }
}
