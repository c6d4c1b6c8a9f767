//! Small histories, good and bad.

use super::search::{Call, Model, Stuck, linearize};
use super::*;
use crate::linear::history::NEVER;
use proto::control::{Event, NumberState};
use proto::raft::Reason;

mod held;

/// A register of numbers.
struct Plain;

#[derive(Debug, Clone, Copy)]
enum Op {
    Write(u8),
    Read(u8),
}

impl Model for Plain {
    type State = u8;
    type Op = Op;

    fn initial(&self) -> u8 {
        0
    }

    fn step(&self, state: &u8, op: &Op) -> Vec<u8> {
        match op {
            Op::Write(value) => vec![*value],
            Op::Read(value) if value == state => vec![*state],
            Op::Read(_) => Vec::new(),
        }
    }
}

fn plain(calls: &[(u64, u64, Op)]) -> Result<Vec<usize>, Stuck> {
    let call = |(invoked, returned, op): &(u64, u64, Op)| Call {
        invoked: *invoked,
        returned: *returned,
        op: *op,
    };
    linearize(&Plain, &calls.iter().map(call).collect::<Vec<_>>())
}

#[test]
fn finds_the_order_or_proves_that_there_is_none() {
    use Op::{Read, Write};
    assert_eq!(plain(&[]), Ok(vec![]));
    assert_eq!(plain(&[(0, 1, Write(1)), (2, 3, Read(1))]), Ok(vec![0, 1]));
    assert!(plain(&[(0, 1, Write(1)), (2, 3, Read(0))]).is_err(), "stale");
    // Concurrent: both orders.
    assert_eq!(plain(&[(0, 9, Write(1)), (2, 3, Read(0))]), Ok(vec![1, 0]));
    assert_eq!(plain(&[(0, 9, Write(1)), (2, 3, Read(1))]), Ok(vec![0, 1]));
    // Two readers see two writes in different orders.
    let writes = [(0, 20, Write(1)), (0, 20, Write(2))];
    let readers = |a: [u8; 2], b: [u8; 2]| {
        let mut calls = writes.to_vec();
        calls.extend([
            (1, 2, Read(a[0])),
            (1, 2, Read(b[0])),
            (3, 4, Read(a[1])),
            (3, 4, Read(b[1])),
        ]);
        plain(&calls)
    };
    assert!(readers([1, 2], [1, 2]).is_ok());
    assert!(readers([1, 2], [2, 1]).is_err());
    // Pending: may have happened late, early or never.
    assert!(plain(&[(0, NEVER, Write(1)), (5, 6, Read(0)), (7, 8, Read(1))]).is_ok());
    assert!(plain(&[(0, NEVER, Write(1)), (5, 6, Read(0))]).is_ok());
    assert!(plain(&[(0, NEVER, Write(1)), (5, 6, Read(1)), (7, 8, Read(0))]).is_err());
}

/// Against trying all orders.
#[test]
fn agrees_with_brute_force() {
    let mut rng = chaos::rng::Rng::new(7);
    let (mut good, mut bad) = (0, 0);
    for _ in 0..3_000 {
        let mut calls: Vec<(u64, u64, Op)> = (0..6)
            .map(|_| {
                let invoked = rng.below(12);
                let returned = if rng.below(5) == 0 { NEVER } else { invoked + 1 + rng.below(6) };
                let value = rng.below(3) as u8;
                let read = rng.below(2) == 0 && returned != NEVER;
                (invoked, returned, if read { Op::Read(value) } else { Op::Write(value) })
            })
            .collect();
        calls.sort_by_key(|call| call.0);
        let expected = brute(&calls, &mut Vec::new(), 0);
        assert_eq!(plain(&calls).is_ok(), expected, "{calls:?}");
        if expected { good += 1 } else { bad += 1 }
    }
    assert!(good > 300 && bad > 300, "{good} {bad}");
}

fn brute(calls: &[(u64, u64, Op)], order: &mut Vec<usize>, state: u8) -> bool {
    if calls.iter().enumerate().all(|(at, call)| order.contains(&at) || call.1 == NEVER) {
        return true;
    }
    for (at, call) in calls.iter().enumerate() {
        let left = |other: &usize| !order.contains(other) && *other != at;
        let early = (0..calls.len()).filter(left).any(|other| calls[other].1 < call.0);
        if order.contains(&at) || early {
            continue;
        }
        for next in Plain.step(&state, &call.2) {
            order.push(at);
            let found = brute(calls, order, next);
            order.pop();
            if found {
                return true;
            }
        }
    }
    false
}

/// A history built by hand: one step of time per call.
#[derive(Default)]
struct Script {
    history: History,
    now: u64,
    revision: u64,
}

fn number(state: NumberState, tenant: &str, generation: u64, until_ms: u64) -> Held {
    let (e164, tenant) = ("+4930".into(), tenant.into());
    Held { e164, state: state.into(), tenant, generation, until_ms, ..Held::default() }
}

fn allocate(tenant: &str) -> Request {
    Request::Allocate { tenant: tenant.into(), e164: "+4930".into() }
}

fn get(local: bool) -> Request {
    Request::Get { e164: "+4930".into(), local }
}

impl Script {
    fn new() -> Self {
        let mut script = Self::default();
        let import = Request::Import { pool: "p".into(), e164: vec!["+4930".into()], block: false };
        script.run(import, Answer::Imported(1));
        script
    }

    fn ask(&mut self, request: Request) -> usize {
        self.now += 1;
        self.history.invoke(0, self.now, request, format!("r{}", self.now))
    }

    fn told(&mut self, at: usize, answer: Answer) {
        self.now += 1;
        self.revision += 1;
        self.history.answer(at, self.now, answer, (self.revision, self.now));
    }

    fn run(&mut self, request: Request, answer: Answer) -> usize {
        let at = self.ask(request);
        self.told(at, answer);
        at
    }

    fn broken(&self) -> Vec<Rule> {
        let mut rules: Vec<_> = judge(&self.history, &[]).iter().map(|c| c.rule).collect();
        rules.sort();
        rules.dedup();
        rules
    }
}

fn shows(held: Held) -> Answer {
    Answer::Number(Some(held))
}

#[test]
fn a_life_of_a_number() {
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.run(allocate("other"), Answer::Rejected(Reason::NumberAllocated));
    let release = Request::Release { tenant: "acme".into(), e164: "+4930".into() };
    s.run(release, shows(number(NumberState::Quarantine, "acme", 2, 11)));
    s.run(allocate("other"), Answer::Rejected(Reason::IllegalTransition));
    assert_eq!(s.now, 10);
    // From log time 11 on it is free.
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 3, 0)));
    s.run(get(false), shows(number(NumberState::Active, "other", 3, 0)));
    s.run(get(true), shows(number(NumberState::Active, "acme", 1, 0)));
    assert_eq!(s.broken(), []);
}

#[test]
fn two_owners() {
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 1, 0)));
    assert_eq!(s.broken(), [Rule::Number, Rule::Owner, Rule::Generation]);
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 2, 0)));
    assert_eq!(s.broken(), [Rule::Number], "without a release between");
}

#[test]
fn out_of_quarantine_early() {
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    let release = Request::Release { tenant: "acme".into(), e164: "+4930".into() };
    s.run(release, shows(number(NumberState::Quarantine, "acme", 2, 1_000)));
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 3, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
}

#[test]
fn stale_and_invented_reads() {
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.run(get(false), shows(number(NumberState::Available, "", 0, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
    let mut s = Script::new();
    s.run(get(true), shows(number(NumberState::Active, "nobody", 1, 0)));
    assert_eq!(s.broken(), [Rule::Local]);
    // Another register, but an older revision.
    let mut s = Script::new();
    let at = s.ask(Request::GetTrunk { id: "t".into(), local: false });
    s.history.answer(at, s.now + 1, Answer::Trunk(None), (0, 0));
    assert_eq!(s.broken(), [Rule::Stale]);
}

#[test]
fn a_lost_write_and_one_of_unknown_fate() {
    let mut s = Script::new();
    s.ask(allocate("acme"));
    s.run(get(false), shows(number(NumberState::Available, "", 0, 0)));
    s.run(get(false), shows(number(NumberState::Active, "acme", 1, 0)));
    assert_eq!(s.broken(), []);
    s.run(get(false), shows(number(NumberState::Available, "", 0, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
}

#[test]
fn a_release_nobody_was_told_of() {
    let mut s = Script::new();
    s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.ask(Request::Release { tenant: "acme".into(), e164: "+4930".into() });
    s.run(get(false), shows(number(NumberState::Quarantine, "acme", 2, 1_000)));
    assert_eq!(s.broken(), []);
    s.run(get(false), shows(number(NumberState::Quarantine, "acme", 2, 1_001)));
    assert_eq!(s.broken(), [Rule::Number], "known since the first read");
}

#[test]
fn a_request_with_two_outcomes() {
    let mut s = Script::new();
    let at = s.run(allocate("acme"), shows(number(NumberState::Active, "acme", 1, 0)));
    s.told(at, shows(number(NumberState::Active, "acme", 1, 0)));
    assert_eq!(s.broken(), []);
    s.told(at, Answer::Rejected(Reason::NumberAllocated));
    assert_eq!(s.broken(), [Rule::Once]);
}

#[test]
fn watchers() {
    let event = |prev_revision, revision| {
        Seen::Event(Event { prev_revision, revision, changes: Vec::new() })
    };
    let start = |revision| Seen::Snapshot { revision, resources: Vec::new() };
    let broken = |seen: Vec<Seen>| judge(&History::default(), &[Feed { seen }]).len();
    assert_eq!(broken(vec![start(0), event(0, 1), event(1, 2), start(5), event(5, 6)]), 0);
    assert_eq!(broken(vec![start(0), event(0, 1), event(2, 3)]), 1, "a gap");
    assert_eq!(broken(vec![start(0), event(0, 1), event(0, 1)]), 1, "twice");
    assert_eq!(broken(vec![start(3), start(2)]), 1, "back");
    let trunk = proto::control::Trunk { trunk_id: "t".into(), ..<_>::default() };
    let trunk = proto::control::resource::Kind::Trunk(trunk);
    let resources = vec![proto::control::Resource { kind: Some(trunk) }];
    let full = Seen::Snapshot { revision: 1, resources };
    assert_eq!(broken(vec![start(0), event(0, 1), full.clone()]), 1, "from where?");
    assert_eq!(broken(vec![full, event(1, 2)]), 0);
}
