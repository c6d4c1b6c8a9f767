//! Random commands against the inventory on paper ([`super::reference`]).

use std::collections::BTreeSet;

use proto::control::{
    Block, ComplianceStatus, Expect, NumberPick, PortDirection, PortEvent, Requirement, Shelf,
    Tenant,
};
use proto::raft::{
    ActivateNumber, AllocateNumbers, BlockNumbers, CancelReservation, CreatePortOrder,
    DecommissionNumbers, ExtendReservation, ImportBlocks, NumberList, PutRequirement, PutTenant,
    RecordPortEvent, RejectNumber, ReserveNumbers, ResumeNumber, SuspendNumber, TransferNumber,
    UnblockNumbers,
};

use super::reference::{Paper, QUOTA, Result};
use super::walk::{bundle, shows};
use super::*;

#[derive(Debug, Clone)]
enum Op {
    Import(u64, u64, u8),
    Named(u8, Vec<u64>, bool),
    Any(u8, u8, usize, bool),
    Reserve(u8, u8, usize),
    TakeReserved(u8, u64, bool),
    Extend(u8, u64),
    Cancel(u8, u64),
    Release(u8, u64, u64),
    Suspend(u64, bool),
    Transfer(u8, u8, u64),
    Activate(u8, u64),
    Reject(u64),
    Judge(u8, bool),
    Block(u64, u64, u8),
    Unblock(u64, u64),
    Decommission(u64, u64),
    PortIn(u8, BTreeSet<u64>, u8),
    PortOut(u8, BTreeSet<u64>),
    Event(u64, i32, u64),
    Wait(u64),
    /// Sends the request made so many requests ago again.
    Again(usize),
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    // Across 99 → 100, where numbers get a digit more.
    let (n, t, p, id) = (|| 92u64..106, || 0u8..3, || 0u8..2, || 1u64..6);
    let few = || proptest::collection::btree_set(n(), 1..4);
    let wait =
        prop_oneof![Just(1), Just(20 * 60_000), Just(DAY), Just(29 * DAY), Just(QUARANTINE_MS)];
    let inventory = prop_oneof![
        6 => (n(), 0u64..9, p()).prop_map(|(n, c, p)| Op::Import(n, c, p)),
        2 => (n(), 1u64..4, p()).prop_map(|(n, c, p)| Op::Block(n, c, p)),
        2 => (n(), 1u64..4).prop_map(|(n, c)| Op::Unblock(n, c)),
        2 => (n(), 1u64..4).prop_map(|(n, c)| Op::Decommission(n, c)),
        3 => (t(), any::<bool>()).prop_map(|(t, yes)| Op::Judge(t, yes)),
        4 => wait.prop_map(Op::Wait),
        2 => (1usize..8).prop_map(Op::Again),
    ];
    let give = prop_oneof![
        4 => (t(), few(), any::<bool>())
            .prop_map(|(t, n, s)| Op::Named(t, n.into_iter().collect(), s)),
        6 => (t(), p(), 1usize..4, any::<bool>()).prop_map(|(t, p, c, s)| Op::Any(t, p, c, s)),
        4 => (t(), p(), 1usize..4).prop_map(|(t, p, c)| Op::Reserve(t, p, c)),
        4 => (t(), id(), any::<bool>()).prop_map(|(t, id, s)| Op::TakeReserved(t, id, s)),
        2 => (t(), id()).prop_map(|(t, id)| Op::Extend(t, id)),
        2 => (t(), id()).prop_map(|(t, id)| Op::Cancel(t, id)),
    ];
    let own = prop_oneof![
        6 => (t(), n(), prop_oneof![3 => Just(0u64), 1 => 1u64..4])
            .prop_map(|(t, n, g)| Op::Release(t, n, g)),
        4 => (n(), any::<bool>()).prop_map(|(n, resume)| Op::Suspend(n, resume)),
        3 => (t(), t(), n()).prop_map(|(t, to, n)| Op::Transfer(t, to, n)),
        3 => (t(), n()).prop_map(|(t, n)| Op::Activate(t, n)),
        1 => n().prop_map(Op::Reject),
    ];
    let port = prop_oneof![
        2 => (t(), few(), p()).prop_map(|(t, n, p)| Op::PortIn(t, n, p)),
        3 => (t(), proptest::collection::btree_set(n(), 1..3)).prop_map(|(t, n)| Op::PortOut(t, n)),
        8 => (id(), 1i32..8, prop_oneof![Just(DAY), Just(200 * DAY)])
            .prop_map(|(id, event, foc)| Op::Event(id, event, foc)),
    ];
    proptest::collection::vec(prop_oneof![3 => inventory, 3 => give, 3 => own, 2 => port], 1..90)
}

fn e164(n: u64) -> String {
    format!("+{n}")
}

fn tenant(t: u8) -> String {
    format!("tenant-{t}")
}

fn shelf(p: u8) -> Option<Shelf> {
    let country = ["FR", "DE"][usize::from(p)].into();
    Some(Shelf { pool: format!("pool-{p}"), country, ..Shelf::default() })
}

fn pick(p: u8, count: usize) -> Option<NumberPick> {
    let count = u32::try_from(count).unwrap();
    Some(NumberPick { shelf: shelf(p), count, ..NumberPick::default() })
}

fn allocate(t: u8, pick: Option<NumberPick>, reservation: Option<u64>, shown: bool) -> Kind {
    Kind::AllocateNumbers(AllocateNumbers {
        tenant: tenant(t),
        pick,
        reservation_id: reservation.map(|id| format!("res-{id}")).unwrap_or_default(),
        compliance: shown.then(|| shows(&format!("b-{t}")).unwrap()),
        ..AllocateNumbers::default()
    })
}

fn port(t: u8, direction: PortDirection, numbers: &BTreeSet<u64>, p: Option<u8>) -> Kind {
    Kind::CreatePortOrder(CreatePortOrder {
        direction: direction.into(),
        tenant: tenant(t),
        e164: numbers.iter().map(|n| e164(*n)).collect(),
        shelf: p.and_then(shelf),
        ..CreatePortOrder::default()
    })
}

fn command(op: &Op) -> Option<Kind> {
    let count = |count: u64| u32::try_from(count).unwrap();
    Some(match op.clone() {
        Op::Import(first, count, p) => {
            let (first, shelf) = (e164(first), shelf(p));
            let block = Block { first, count, shelf, ..Block::default() };
            Kind::ImportBlocks(ImportBlocks { blocks: vec![block] })
        }
        Op::Named(t, numbers, shown) => {
            let e164 = numbers.into_iter().map(e164).collect();
            allocate(t, Some(NumberPick { e164, ..NumberPick::default() }), None, shown)
        }
        Op::Any(t, p, count, shown) => allocate(t, pick(p, count), None, shown),
        Op::Reserve(t, p, count) => Kind::ReserveNumbers(ReserveNumbers {
            tenant: tenant(t),
            pick: pick(p, count),
            duration_ms: 0,
        }),
        Op::TakeReserved(t, id, shown) => allocate(t, None, Some(id), shown),
        Op::Extend(t, id) => {
            let (reservation_id, tenant) = (format!("res-{id}"), tenant(t));
            Kind::ExtendReservation(ExtendReservation { reservation_id, tenant, duration_ms: 0 })
        }
        Op::Cancel(t, id) => {
            let (reservation_id, tenant) = (format!("res-{id}"), tenant(t));
            Kind::CancelReservation(CancelReservation { reservation_id, tenant })
        }
        Op::Release(t, n, generation) => {
            let expect = Some(Expect { generation, etag: String::new() });
            Kind::ReleaseNumber(ReleaseNumber { e164: e164(n), tenant: tenant(t), expect })
        }
        Op::Suspend(n, true) => Kind::ResumeNumber(ResumeNumber { e164: e164(n), expect: None }),
        Op::Suspend(n, false) => {
            Kind::SuspendNumber(SuspendNumber { e164: e164(n), ..SuspendNumber::default() })
        }
        Op::Transfer(t, to, n) => Kind::TransferNumber(TransferNumber {
            e164: e164(n),
            from_tenant: tenant(t),
            to_tenant: tenant(to),
            ..TransferNumber::default()
        }),
        Op::Activate(t, n) => {
            let (e164, compliance) = (e164(n), shows(&format!("b-{t}")));
            let activate = ActivateNumber { e164, tenant: tenant(t), compliance, expect: None };
            Kind::ActivateNumber(activate)
        }
        Op::Reject(n) => Kind::RejectNumber(RejectNumber { e164: e164(n), expect: None }),
        Op::Judge(t, yes) => {
            let status = if yes { ComplianceStatus::Approved } else { ComplianceStatus::Rejected };
            bundle(&format!("b-{t}"), &tenant(t), status)
        }
        Op::Block(n, c, p) => {
            let (e164, count, shelf) = (e164(n), count(c), shelf(p));
            Kind::BlockNumbers(BlockNumbers { e164, count, shelf, ..BlockNumbers::default() })
        }
        Op::Unblock(n, c) => {
            let (e164, count) = (e164(n), count(c));
            Kind::UnblockNumbers(UnblockNumbers { e164, count, expect: None })
        }
        Op::Decommission(n, c) => {
            let (e164, count) = (e164(n), count(c));
            Kind::DecommissionNumbers(DecommissionNumbers { e164, count, expect: None })
        }
        Op::PortIn(t, numbers, p) => port(t, PortDirection::In, &numbers, Some(p)),
        Op::PortOut(t, numbers) => port(t, PortDirection::Out, &numbers, None),
        Op::Event(id, event, foc_ms) => {
            let (port_order_id, rest) = (format!("port-{id}"), RecordPortEvent::default());
            Kind::RecordPortEvent(RecordPortEvent { port_order_id, event, foc_ms, ..rest })
        }
        Op::Wait(_) | Op::Again(_) => return None,
    })
}

/// What it comes to on paper: the numbers it chose, or why not.
fn on_paper(paper: &mut Paper, op: &Op) -> Result<Vec<u64>> {
    use NumberState::{Available, Blocked, Decommissioned, Quarantine};
    let spans = |n: u64, c: u64| n.to_string().len() != (n + c - 1).to_string().len();
    match op.clone() {
        Op::Any(t, p, count, shown) => return paper.any(t, p, count, shown),
        Op::Reserve(t, p, count) => return paper.reserve(t, p, count),
        Op::TakeReserved(t, id, shown) => return paper.take_reserved(t, id, shown),
        Op::Block(n, c, _) | Op::Unblock(n, c) | Op::Decommission(n, c) if spans(n, c) => {
            Err(Reason::Invalid)
        }
        Op::Import(first, count, p) => paper.import(first, count, p),
        Op::Named(t, numbers, shown) => paper.named(t, &numbers, shown),
        Op::Extend(t, id) => paper.extend(t, id),
        Op::Cancel(t, id) => paper.cancel(t, id),
        Op::Release(t, n, generation) => paper.release(t, n, generation),
        Op::Suspend(n, resume) => paper.suspend(n, resume),
        Op::Transfer(t, to, n) => paper.transfer(t, to, n),
        Op::Activate(t, n) => paper.activate(t, n),
        Op::Reject(n) => paper.reject(n),
        Op::Judge(t, yes) => {
            paper.judge(t, yes);
            Ok(())
        }
        Op::Block(n, c, p) => paper.block(n, c, p),
        Op::Unblock(n, c) => paper.run((n, c), &[Blocked], Available),
        Op::Decommission(n, c) => {
            paper.run((n, c), &[Available, Quarantine, Blocked], Decommissioned)
        }
        Op::PortIn(t, numbers, p) => paper.port_in(t, &numbers, p),
        Op::PortOut(t, numbers) => paper.port_out(t, &numbers),
        Op::Event(id, event, foc) => {
            paper.event(id, PortEvent::try_from(event).unwrap_or_default(), foc)
        }
        Op::Wait(_) | Op::Again(_) => Ok(()),
    }
    .map(|()| Vec::new())
}

/// A mesh with the rules the paper knows.
fn beginning(state: &mut State) -> u64 {
    let requirement =
        Some(Requirement { country: "DE".into(), bundle: true, ..Requirement::default() });
    let (numbers, reserved) = QUOTA;
    let two = Some(Tenant {
        tenant: tenant(2),
        max_numbers: numbers as u64,
        max_reserved: reserved as u64,
        ..Tenant::default()
    });
    let rules = [
        Kind::PutRequirement(PutRequirement { requirement, expect: None }),
        Kind::PutTenant(PutTenant { tenant: two, expect: None }),
    ];
    let bundles = (0..3).map(|t| bundle(&format!("b-{t}"), &tenant(t), ComplianceStatus::Draft));
    for (at, kind) in (1_000..).zip(rules.into_iter().chain(bundles)) {
        let principal = "operator/anna".into();
        let command = Command { request_id: format!("b{at}"), principal, kind: Some(kind) };
        assert_eq!(reason(&state.apply(at, &command).outcome), None);
    }
    state.log_time_ms()
}

fn compare(state: &State, paper: &Paper) {
    state.check_invariants().unwrap();
    let page = state.numbers(NumberQuery { limit: usize::MAX, ..NumberQuery::default() });
    let listed: Vec<String> = page.numbers.iter().map(|number| number.e164.clone()).collect();
    assert_eq!(listed, paper.lines.keys().map(|n| e164(*n)).collect::<Vec<_>>());
    for (number, line) in page.numbers.into_iter().zip(paper.lines.values()) {
        let is = (number.state(), number.tenant.as_str(), number.generation, number.pool.as_str());
        let (owner, pool) =
            (line.tenant.map(tenant).unwrap_or_default(), format!("pool-{}", line.pool));
        assert_eq!(is, (line.state, owner.as_str(), line.generation, pool.as_str()), "{number:?}");
        let until = match line.state {
            NumberState::Reserved => paper.held[&line.paper].until,
            NumberState::PortingIn => {
                let order = &paper.orders[&line.paper];
                if order.step == 3 { order.foc } else { 0 }
            }
            _ => line.until,
        };
        assert_eq!(number.until_ms, until, "{number:?}");
    }
    assert_eq!(state.reservations(None).count(), paper.held.len());
}

fn chosen(outcome: &Outcome) -> Vec<String> {
    match &outcome.kind {
        Some(outcome::Kind::Numbers(NumberList { numbers })) => {
            numbers.iter().map(|number| number.e164.clone()).collect()
        }
        Some(outcome::Kind::Reservation(held)) => held.e164.clone(),
        _ => Vec::new(),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    /// The state does what the paper says, twice the same, and its indices, hash and stored form
    /// agree with its tables after every step.
    #[test]
    fn apply_follows_the_paper(ops in ops()) {
        let mut state = State::bootstrap(&[1]);
        let mut stored: BTreeMap<Vec<u8>, Bytes> = BTreeMap::new();
        let mut paper = Paper { now: beginning(&mut state), ..Paper::default() };
        let own = |(key, value): (&[u8], &[u8])| (key.to_vec(), Bytes::copy_from_slice(value));
        stored.extend(state.entries().map(own));
        let mut twin = State::from_tables(stored.clone()).expect("what was stored loads");
        let mut made: Vec<(Command, Outcome, u64)> = Vec::new();
        for (at, op) in ops.iter().enumerate() {
            let wait = if let Op::Wait(ms) = op { *ms } else { 1 };
            paper.advance(paper.now + wait);
            let again = match op {
                Op::Again(back) => made.len().checked_sub(*back).map(|i| made[i].clone()),
                _ => None,
            };
            let fresh = || {
                let kind = command(op).or(Some(Kind::AdvanceClock(AdvanceClock {})));
                let id = if command(op).is_some() { format!("r{at}") } else { String::new() };
                Command { request_id: id, principal: "operator/anna".into(), kind }
            };
            let asked = again.as_ref().map_or_else(fresh, |(command, _, _)| command.clone());
            let applied = state.apply(paper.now, &asked);
            prop_assert_eq!(&twin.apply(paper.now, &asked), &applied);
            prop_assert_eq!(state.hash(), twin.hash());
            match &again {
                Some((_, first, when)) if when + REQUEST_KEPT_MS > paper.now => {
                    prop_assert!(applied.repeated);
                    prop_assert_eq!(reason(&applied.outcome), reason(first));
                    if reason(first).is_none() {
                        prop_assert_eq!(&applied.outcome, first);
                    }
                }
                Some(_) => return Ok(()), // forgotten: the paper does not know what it was
                None => {
                    let expected = on_paper(&mut paper, op);
                    prop_assert_eq!(reason(&applied.outcome), expected.clone().err(), "{:?}", op);
                    if let Op::Any(..) | Op::Reserve(..) | Op::TakeReserved(..) = op {
                        let numbers = expected.unwrap_or_default().into_iter().map(e164);
                        prop_assert_eq!(chosen(&applied.outcome), numbers.collect::<Vec<_>>());
                    }
                    if command(op).is_some() {
                        made.push((asked, applied.outcome.clone(), paper.now));
                    }
                }
            }
            for change in applied.changes {
                match change.value {
                    Some(value) => stored.insert(change.key, value),
                    None => stored.remove(&change.key),
                };
            }
            compare(&state, &paper);
            let copy = State::from_tables(stored.clone()).expect("what was stored loads");
            prop_assert_eq!(copy.hash(), state.hash());
            prop_assert_eq!(&copy.index, &state.index);
        }
    }
}
