use std::collections::BTreeMap;

use proptest::prelude::*;
use proto::control::{Number, NumberState, Pop, Route, RouteCandidate, Trunk};
use proto::id::Revision;
use proto::raft::record_pops::Found;
use proto::raft::{
    AdvanceClock, AllocateNumber, ImportNumbers, PopEpoch, RecordPops, ReleaseNumber, SteerPop,
    allocate_number,
};

use super::quarantine::QUARANTINE_MS;
use super::requests::REQUEST_KEPT_MS;
use super::*;

mod model;
mod reads;
mod reference;
mod rules;
mod walk;

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
    run.apply(allocate("acme", "+1"));
    run.apply(trunk("t"));
    let owned = |(k, v): (&[u8], &[u8])| (k.to_vec(), Bytes::copy_from_slice(v));
    let entries: Vec<_> = run.state.entries().map(owned).collect();
    assert_eq!(State::from_tables(entries.clone()).unwrap().hash(), run.state.hash());
    let with = |key: &[u8], like: &[u8]| {
        let value = entries.iter().find(|(k, _)| k.starts_with(like)).unwrap().1.clone();
        State::from_tables(entries.iter().cloned().chain([(key.to_vec(), value)]))
    };
    assert!(with(b"tu", b"tt").is_err(), "a record under another's name");
    assert!(with(b"n\0\0\0\0\0\0\0\x09", b"n").is_err(), "a number in no block");
    assert!(with(b"n1", b"n").is_err(), "no number");
    assert!(with(b"b1", b"b").is_err(), "no block");
    assert!(State::from_tables([(b"zz".to_vec(), Bytes::new())]).is_err(), "a newer table");
}

proptest! {
    /// Whatever is in the log, apply answers.
    #[test]
    fn apply_is_total(commands in proptest::collection::vec(arbitrary_command(), 1..40)) {
        let mut state: State = State::default();
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
        (0u8..16, text.clone(), text.clone(), candidates).prop_map(|(k, a, b, candidates)| {
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
                13 => {
                    let found = Found { pop_id: a.clone(), epoch: 1, expired: b.is_empty() };
                    let fenced = vec![PopEpoch { pop_id: a, epoch: 2 }; b.len().min(2)];
                    Kind::RecordPops(RecordPops { found: vec![found], fenced })
                }
                14 => {
                    Kind::SteerPop(SteerPop { pop_id: a, cordoned: b.is_empty(), draining: true })
                }
                _ => return None,
            })
        });
    let time = prop_oneof![0..5_000u64, any::<u64>()];
    (time, text.clone(), text, kind).prop_map(|(time, request_id, principal, kind)| {
        (time, Command { request_id, principal, kind })
    })
}
