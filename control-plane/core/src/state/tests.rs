use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;
use proto::control::{Number, NumberState, Pop, Route, RouteCandidate, Trunk};
use proto::id::Revision;
use proto::raft::{AdvanceClock, AllocateNumber, ImportNumbers, ReleaseNumber, allocate_number};

use super::numbers::QUARANTINE_MS;
use super::requests::REQUEST_KEPT_MS;
use super::*;

const DAY: u64 = 24 * 3_600_000;

struct Run {
    state: State,
    now: u64,
    next: u32,
}

impl Run {
    fn new() -> Self {
        Self { state: State::bootstrap(&[1, 2, 3]), now: 1_000, next: 0 }
    }

    fn apply(&mut self, kind: Kind) -> Outcome {
        self.next += 1;
        let id = format!("r{}", self.next);
        self.request(&id, kind).outcome
    }

    fn request(&mut self, id: &str, kind: Kind) -> Applied {
        self.now += 1;
        let command =
            Command { request_id: id.into(), principal: "operator/anna".into(), kind: Some(kind) };
        self.state.apply(self.now, &command)
    }

    fn clock(&mut self, now: u64) -> Applied {
        self.now = now;
        let kind = Some(Kind::AdvanceClock(AdvanceClock {}));
        self.state.apply(now, &Command { kind, ..Command::default() })
    }

    fn number(&self, e164: &str) -> Number {
        self.state.number(e164).expect("in the inventory")
    }
}

fn import(pool: &str, e164: &[&str]) -> Kind {
    let e164 = e164.iter().map(|n| (*n).to_owned()).collect();
    Kind::ImportNumbers(ImportNumbers { pool: pool.into(), e164 })
}

fn allocate(tenant: &str, e164: &str) -> Kind {
    let which = Some(allocate_number::Which::E164(e164.into()));
    Kind::AllocateNumber(AllocateNumber { tenant: tenant.into(), which, candidates: vec![] })
}

fn allocate_any(tenant: &str, pool: &str) -> Kind {
    let which = Some(allocate_number::Which::AnyOfPool(pool.into()));
    Kind::AllocateNumber(AllocateNumber { tenant: tenant.into(), which, candidates: vec![] })
}

fn release(tenant: &str, e164: &str) -> Kind {
    Kind::ReleaseNumber(ReleaseNumber { tenant: tenant.into(), e164: e164.into(), expect: None })
}

fn trunk(id: &str) -> Kind {
    Kind::PutTrunk(Trunk { trunk_id: id.into(), ..Trunk::default() })
}

fn route(id: &str, trunk_id: &str) -> Kind {
    let candidates =
        vec![RouteCandidate { trunk_id: trunk_id.into(), ..RouteCandidate::default() }];
    Kind::PutRoute(Route { route_id: id.into(), prefix: "49".into(), candidates })
}

fn reason(outcome: &Outcome) -> Option<Reason> {
    match &outcome.kind {
        Some(outcome::Kind::Rejected(rejected)) => Some(rejected.reason()),
        _ => None,
    }
}

fn allocated(outcome: &Outcome) -> String {
    match &outcome.kind {
        Some(outcome::Kind::Number(number)) => number.e164.clone(),
        other => panic!("no number: {other:?}"),
    }
}

#[test]
fn numbers_go_round() {
    let mut run = Run::new();
    run.apply(import("p", &["+3", "+1", "+2"]));
    assert_eq!(allocated(&run.apply(allocate_any("acme", "p"))), "+1", "the lowest");
    assert_eq!(allocated(&run.apply(allocate("acme", "+3"))), "+3");
    assert_eq!(reason(&run.apply(allocate("bob", "+3"))), Some(Reason::NumberAllocated));
    assert_eq!(reason(&run.apply(release("bob", "+3"))), Some(Reason::NotOwner));
    let released_at = run.now + 1;
    run.apply(release("acme", "+3"));
    let resting = run.number("+3");
    assert_eq!(resting.state(), NumberState::Quarantine);
    assert_eq!(resting.quarantine_until_ms, released_at + QUARANTINE_MS);
    assert_eq!(resting.generation, 2);
    assert_eq!(reason(&run.apply(release("acme", "+3"))), Some(Reason::IllegalTransition));
    assert_eq!(reason(&run.apply(allocate("bob", "+3"))), Some(Reason::IllegalTransition));
    assert_eq!(allocated(&run.apply(allocate_any("bob", "p"))), "+2");
    assert_eq!(reason(&run.apply(allocate_any("bob", "p"))), Some(Reason::PoolExhausted));
    run.clock(released_at + QUARANTINE_MS - 1);
    assert_eq!(run.number("+3").state(), NumberState::Quarantine);
    run.clock(released_at + QUARANTINE_MS);
    let free = run.number("+3");
    assert_eq!((free.state(), free.tenant.as_str()), (NumberState::Available, ""));
    assert_eq!(allocated(&run.apply(allocate_any("bob", "p"))), "+3");
    assert_eq!(run.number("+3").generation, 3);
}

#[test]
fn the_last_owner_may_have_its_number_back() {
    let mut run = Run::new();
    run.apply(import("p", &["+1"]));
    run.apply(allocate("acme", "+1"));
    run.apply(release("acme", "+1"));
    assert_eq!(allocated(&run.apply(allocate("acme", "+1"))), "+1");
    let number = run.number("+1");
    assert_eq!((number.state(), number.generation), (NumberState::Active, 3));
    run.clock(100 * DAY);
    assert_eq!(run.number("+1").state(), NumberState::Active, "no rest is left to end");
}

#[test]
fn imports_are_all_or_nothing() {
    let mut run = Run::new();
    run.apply(import("p", &["+1"]));
    let before = run.state.number_counts();
    assert_eq!(reason(&run.apply(import("p", &["+2", "+1"]))), Some(Reason::AlreadyExists));
    assert_eq!(reason(&run.apply(import("p", &["+2", "+2"]))), Some(Reason::Invalid));
    assert_eq!(run.state.number_counts(), before);
    assert_eq!(run.state.number("+2"), None);
}

#[test]
fn a_request_counts_once() {
    let mut run = Run::new();
    run.apply(import("p", &["+1", "+2"]));
    let first = run.request("same", allocate_any("acme", "p"));
    let revision = run.state.revision();
    let again = run.request("same", allocate_any("acme", "p"));
    assert_eq!(again.outcome, first.outcome);
    assert!(again.repeated && again.event.is_none());
    assert_eq!(run.state.revision(), revision);
    let other = run.request("same", allocate_any("bob", "p"));
    assert_eq!(reason(&other.outcome), Some(Reason::IdempotencyKeyReused));
    // Refusals count too; only their words are not kept.
    let refused = run.request("refused", allocate("bob", "+1"));
    run.apply(release("acme", "+1"));
    let again = run.request("refused", allocate("bob", "+1"));
    assert_eq!(reason(&again.outcome), reason(&refused.outcome));
    assert_eq!(again.outcome.revision, refused.outcome.revision);
    assert!(again.repeated);
    // Another principal's id is another id.
    let command = Command {
        request_id: "same".into(),
        principal: "operator/bob".into(),
        kind: Some(allocate_any("bob", "p")),
    };
    assert_eq!(allocated(&run.state.apply(run.now, &command).outcome), "+2");
}

#[test]
fn requests_are_forgotten_after_seven_days_of_log_time() {
    let mut run = Run::new();
    run.apply(import("p", &["+1", "+2"]));
    let made = run.now + 1;
    run.request("same", allocate_any("acme", "p"));
    run.now = made + REQUEST_KEPT_MS - 2;
    assert!(run.request("same", allocate_any("acme", "p")).repeated);
    run.now = made + REQUEST_KEPT_MS;
    assert_eq!(allocated(&run.request("same", allocate_any("acme", "p")).outcome), "+2");
    run.clock(made + 3 * REQUEST_KEPT_MS);
    assert!(run.state.index.requests.is_empty());
    let requests = run.state.tables.scan::<RequestRecord>(None).count();
    assert_eq!((requests, run.state.next_expiry_ms()), (0, None));
}

#[test]
fn pops_get_a_new_epoch_each_time() {
    let mut run = Run::new();
    let pop = Pop { pop_id: "fra1".into(), epoch: 77, ..Pop::default() };
    let epoch = |outcome: Outcome| match outcome.kind {
        Some(outcome::Kind::Pop(pop)) => pop.epoch,
        other => panic!("no POP: {other:?}"),
    };
    assert_eq!(epoch(run.request("a", Kind::RegisterPop(pop.clone())).outcome), 1);
    assert_eq!(epoch(run.request("a", Kind::RegisterPop(pop.clone())).outcome), 1, "a retry");
    assert_eq!(epoch(run.request("b", Kind::RegisterPop(pop)).outcome), 2);
    assert_eq!(run.state.pops().count(), 1);
}

#[test]
fn trunks_in_use_stay() {
    let mut run = Run::new();
    assert_eq!(reason(&run.apply(route("r", "t"))), Some(Reason::NotFound));
    run.apply(trunk("t"));
    run.apply(trunk("u"));
    run.apply(route("r", "t"));
    assert_eq!(reason(&run.apply(Kind::DeleteTrunk("t".into()))), Some(Reason::InUse));
    run.apply(route("r", "u"));
    assert_eq!(reason(&run.apply(Kind::DeleteTrunk("t".into()))), None);
    run.apply(Kind::DeleteRoute("r".into()));
    assert_eq!(reason(&run.apply(Kind::DeleteTrunk("u".into()))), None);
    assert_eq!(reason(&run.apply(Kind::DeleteTrunk("u".into()))), Some(Reason::NotFound));
    assert_eq!(run.state.index.trunk_uses, BTreeMap::new());
}

#[test]
fn watchers_see_active_numbers_and_every_revision() {
    let mut run = Run::new();
    let kinds = |applied: Applied| {
        let event = applied.event.expect("a change");
        assert_eq!(event.prev_revision + 1, event.revision);
        event.changes.into_iter().filter_map(|c| c.kind).collect::<Vec<_>>()
    };
    let imported = run.request("a", import("p", &["+1"]));
    assert_eq!(kinds(imported), [], "an inventory is not shown");
    let active = kinds(run.request("b", allocate("acme", "+1")));
    assert!(matches!(active.as_slice(), [change::Kind::Put(_)]));
    let released = kinds(run.request("c", release("acme", "+1")));
    assert!(matches!(released.as_slice(), [change::Kind::Delete(_)]));
    assert!(run.request("d", allocate_any("acme", "p")).event.is_none(), "refused");
    assert_eq!(run.state.revision(), Revision(3));
    assert_eq!(run.state.resources().count(), 0);
}

#[test]
fn the_cluster_gets_one_id() {
    let mut run = Run::new();
    let init =
        |id: &str| Command { kind: Some(Kind::InitCluster(id.into())), ..Command::default() };
    run.state.apply(5, &init("a"));
    assert_eq!(reason(&run.state.apply(6, &init("b")).outcome), Some(Reason::AlreadyExists));
    assert_eq!(run.state.cluster_id(), "a");
}

#[test]
fn log_time_never_goes_back_and_damage_is_noticed() {
    let mut run = Run::new();
    run.clock(500);
    run.clock(400);
    assert_eq!(run.state.log_time_ms(), 500);
    run.apply(import("p", &["+1"]));
    let mut entries: Vec<_> = run.state.entries().map(|(k, v)| (k.clone(), v.clone())).collect();
    assert_eq!(State::from_tables(entries.clone()).unwrap().hash(), run.state.hash());
    entries.push((b"n+2".to_vec(), entries.last().unwrap().1.clone()));
    assert!(State::from_tables(entries).is_err(), "a record under another's name");
    assert!(State::from_tables([(b"zz".to_vec(), Bytes::new())]).is_err(), "a newer table");
}

// ---------------------------------------------------------------- against a model

/// The inventory as a child would write it down.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Known {
    Free,
    Owned(String),
    Resting(String, u64),
}

#[derive(Debug, Clone)]
enum Op {
    Import(Vec<u8>, u8),
    Specific(u8, u8),
    Any(u8, u8),
    Release(u8, u8),
    Wait(u64),
    /// Sends the request made so many requests ago again.
    Again(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let number = 0u8..12;
    let op = prop_oneof![
        2 => (proptest::collection::vec(number.clone(), 1..4), 0u8..2)
            .prop_map(|(n, p)| Op::Import(n, p)),
        4 => (0u8..3, number.clone()).prop_map(|(t, n)| Op::Specific(t, n)),
        4 => (0u8..3, 0u8..2).prop_map(|(t, p)| Op::Any(t, p)),
        4 => (0u8..3, number).prop_map(|(t, n)| Op::Release(t, n)),
        2 => prop_oneof![Just(1), Just(DAY), Just(44 * DAY), Just(QUARANTINE_MS)].prop_map(Op::Wait),
        2 => (1usize..6).prop_map(Op::Again),
    ];
    proptest::collection::vec(op, 1..60)
}

fn e164(n: u8) -> String {
    format!("+49301{n:02}")
}

fn tenant(t: u8) -> String {
    format!("tenant-{t}")
}

fn pool(p: u8) -> String {
    format!("pool-{p}")
}

#[derive(Debug, Clone, Default)]
struct Model {
    now: u64,
    numbers: BTreeMap<String, (Known, String)>,
}

impl Model {
    fn advance(&mut self, now: u64) {
        self.now = now;
        for (known, _) in self.numbers.values_mut() {
            if matches!(known, Known::Resting(_, until) if *until <= now) {
                *known = Known::Free;
            }
        }
    }

    /// What it comes to: a number, or why not.
    fn act(&mut self, op: &Op) -> Result<Option<String>, Reason> {
        match op {
            Op::Import(numbers, p) => {
                let all: BTreeSet<_> = numbers.iter().map(|n| e164(*n)).collect();
                // In order of the request, whichever fault comes first.
                let mut seen = BTreeSet::new();
                for n in numbers {
                    if self.numbers.contains_key(&e164(*n)) {
                        return Err(Reason::AlreadyExists);
                    }
                    if !seen.insert(n) {
                        return Err(Reason::Invalid);
                    }
                }
                self.numbers.extend(all.into_iter().map(|n| (n, (Known::Free, pool(*p)))));
                Ok(None)
            }
            Op::Specific(t, n) => {
                let e164 = e164(*n);
                match self.numbers.get_mut(&e164) {
                    None => Err(Reason::NotFound),
                    Some((Known::Owned(_), _)) => Err(Reason::NumberAllocated),
                    Some((Known::Resting(last, _), _)) if *last != tenant(*t) => {
                        Err(Reason::IllegalTransition)
                    }
                    Some((known, _)) => {
                        *known = Known::Owned(tenant(*t));
                        Ok(Some(e164))
                    }
                }
            }
            Op::Any(t, p) => {
                let free = |(_, (known, in_pool)): &(&String, &mut (Known, String))| {
                    *known == Known::Free && *in_pool == pool(*p)
                };
                let (e164, entry) =
                    self.numbers.iter_mut().find(free).ok_or(Reason::PoolExhausted)?;
                entry.0 = Known::Owned(tenant(*t));
                Ok(Some(e164.clone()))
            }
            Op::Release(t, n) => match self.numbers.get_mut(&e164(*n)) {
                None => Err(Reason::NotFound),
                Some((Known::Owned(owner), _)) if *owner != tenant(*t) => Err(Reason::NotOwner),
                Some((known @ Known::Owned(_), _)) => {
                    *known = Known::Resting(tenant(*t), self.now + QUARANTINE_MS);
                    Ok(Some(e164(*n)))
                }
                Some(_) => Err(Reason::IllegalTransition),
            },
            Op::Wait(_) | Op::Again(_) => Ok(None),
        }
    }
}

fn kind(op: &Op) -> Option<Kind> {
    match op {
        Op::Import(numbers, p) => {
            let e164 = numbers.iter().map(|n| e164(*n)).collect();
            Some(Kind::ImportNumbers(ImportNumbers { pool: pool(*p), e164 }))
        }
        Op::Specific(t, n) => Some(allocate(&tenant(*t), &e164(*n))),
        Op::Any(t, p) => Some(allocate_any(&tenant(*t), &pool(*p))),
        Op::Release(t, n) => Some(release(&tenant(*t), &e164(*n))),
        Op::Wait(_) | Op::Again(_) => None,
    }
}

fn compare(state: &State, model: &Model) {
    let numbers = state.numbers(NumberQuery { limit: usize::MAX, ..NumberQuery::default() });
    assert_eq!(numbers.len(), model.numbers.len());
    for number in numbers {
        let (known, in_pool) = &model.numbers[&number.e164];
        let is = match number.state() {
            NumberState::Available => Known::Free,
            NumberState::Active => Known::Owned(number.tenant),
            NumberState::Quarantine => Known::Resting(number.tenant, number.quarantine_until_ms),
            other => panic!("a number in {other:?}"),
        };
        assert_eq!((&is, &number.pool), (known, in_pool));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    /// The state does what the model says, twice the same, and its indices, hash and stored form
    /// agree with its tables after every step.
    #[test]
    fn apply_follows_the_model(ops in ops()) {
        let mut state = State::bootstrap(&[1]);
        let mut stored: BTreeMap<Vec<u8>, Bytes> = BTreeMap::new();
        stored.extend(state.take_changes().into_iter().filter_map(|c| Some((c.key, c.value?))));
        let mut twin = state.clone();
        let mut model = Model { now: 1_000, ..Model::default() };
        let mut made: Vec<(Command, Outcome, u64)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let wait = if let Op::Wait(ms) = op { *ms } else { 1 };
            model.advance(model.now + wait);
            let again = if let Op::Again(back) = op {
                made.len().checked_sub(*back).map(|i| made[i].clone())
            } else {
                None
            };
            let command = match &again {
                Some((command, _, _)) => command.clone(),
                None => Command {
                    request_id: if kind(op).is_some() { format!("r{at}") } else { String::new() },
                    principal: "operator/anna".into(),
                    kind: kind(op).or(Some(Kind::AdvanceClock(AdvanceClock {}))),
                },
            };
            let applied = state.apply(model.now, &command);
            prop_assert_eq!(&twin.apply(model.now, &command), &applied);
            prop_assert_eq!(state.hash(), twin.hash());
            match &again {
                Some((_, first, when)) if when + REQUEST_KEPT_MS > model.now => {
                    prop_assert!(applied.repeated);
                    prop_assert_eq!(reason(&applied.outcome), reason(first));
                    prop_assert_eq!(applied.outcome.revision, first.revision);
                }
                Some(_) => return Ok(()), // forgotten: the model does not know what it was
                None => {
                    let expected = model.act(op);
                    prop_assert_eq!(reason(&applied.outcome), expected.clone().err());
                    if let (Ok(Some(e164)), Some(outcome::Kind::Number(n))) =
                        (expected, &applied.outcome.kind)
                    {
                        prop_assert_eq!(&n.e164, &e164);
                    }
                    if kind(op).is_some() {
                        made.push((command, applied.outcome.clone(), model.now));
                    }
                }
            }
            for change in applied.changes {
                match change.value {
                    Some(value) => stored.insert(change.key, value),
                    None => stored.remove(&change.key),
                };
            }
            compare(&state, &model);
            let copy = State::from_tables(stored.clone()).expect("what was stored loads");
            prop_assert_eq!(copy.hash(), state.hash());
            prop_assert_eq!(&copy.index, &state.index);
        }
    }

    /// Whatever is in the log, apply answers.
    #[test]
    fn apply_is_total(commands in proptest::collection::vec(arbitrary_command(), 1..40)) {
        let mut state = State::default();
        for (time, command) in commands {
            let revision = state.revision();
            let applied = state.apply(time, &command);
            let moved = state.revision().0 - revision.0;
            prop_assert_eq!(moved, u64::from(applied.event.is_some()));
        }
    }
}

fn arbitrary_command() -> impl Strategy<Value = (u64, Command)> {
    let text = prop_oneof![Just(String::new()), "[a-c]", "\\PC{0,8}"];
    let small = text.clone();
    let candidates = proptest::collection::vec(
        small.prop_map(|trunk_id| RouteCandidate { trunk_id, priority: 0, weight: u32::MAX }),
        0..3,
    );
    let kind =
        (0u8..14, text.clone(), text.clone(), candidates).prop_map(|(k, a, b, candidates)| {
            Some(match k {
                0 => Kind::RegisterPop(Pop { pop_id: a, epoch: u64::MAX, ..Pop::default() }),
                1 => Kind::PutTrunk(Trunk { trunk_id: a, ..Trunk::default() }),
                2 => Kind::DeleteTrunk(a),
                3 => Kind::PutRoute(Route { route_id: a, prefix: b, candidates }),
                4 => Kind::DeleteRoute(a),
                5 => Kind::ImportNumbers(ImportNumbers { pool: a, e164: vec![b] }),
                6 | 7 => Kind::AllocateNumber(AllocateNumber {
                    tenant: a,
                    which: Some(allocate_number::Which::E164(b)),
                    candidates,
                }),
                8 => Kind::AllocateNumber(AllocateNumber {
                    tenant: a,
                    which: Some(allocate_number::Which::AnyOfPool(b)),
                    candidates,
                }),
                9 => Kind::AllocateNumber(AllocateNumber { tenant: a, which: None, candidates }),
                10 => Kind::ReleaseNumber(ReleaseNumber { tenant: a, e164: b, expect: None }),
                11 => Kind::InitCluster(a),
                12 => Kind::AdvanceClock(AdvanceClock {}),
                _ => return None,
            })
        });
    let time = prop_oneof![0..5_000u64, any::<u64>()];
    (time, text.clone(), text, kind).prop_map(|(time, request_id, principal, kind)| {
        (time, Command { request_id, principal, kind })
    })
}
