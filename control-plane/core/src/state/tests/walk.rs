//! Every command at every state: the transition table, and nothing else.

use proto::control::{
    AddressRule, Block, ComplianceKind, ComplianceRecord, ComplianceStatus, Expect,
    NumberCompliance, NumberPick, PortDirection, PortEvent, Requirement, Shelf, Tag, Tags,
};
use proto::raft::{
    ActivateNumber, AllocateNumbers, BlockNumbers, CancelReservation, CreatePortOrder,
    DecommissionNumbers, ExtendReservation, ImportBlocks, PutComplianceRecord, PutRequirement,
    RecordPortEvent, RejectNumber, ReserveNumbers, ResumeNumber, SuspendNumber, TransferNumber,
    UnblockNumbers, UpdateNumber,
};

use super::*;

const IT: &str = "+4930901820";

/// In the order of the columns below.
const STATES: [(char, NumberState); 12] = [
    ('0', NumberState::Unspecified),
    ('A', NumberState::Available),
    ('C', NumberState::Active),
    ('Q', NumberState::Quarantine),
    ('R', NumberState::Reserved),
    ('P', NumberState::Pending),
    ('S', NumberState::Suspended),
    ('I', NumberState::PortingIn),
    ('O', NumberState::PortingOut),
    ('T', NumberState::PortedOut),
    ('B', NumberState::Blocked),
    ('D', NumberState::Decommissioned),
];

/// What each command makes of a number in each state; "-" refuses.
///
/// 0 absent, A available, C active, Q quarantine, R reserved, P pending, S suspended, I porting in,
/// O porting out, T ported out, B blocked, D decommissioned.
const TABLE: [(&str, &str); 26] = [
    //                       0ACQRPSIOTBD
    ("import", "A-----------"),
    ("allocate", "-C-C--------"),
    ("allocate for another", "-C----------"),
    ("reserve", "-R----------"),
    ("allocate the reserved", "----C-------"),
    ("allocate it for another", "------------"),
    ("extend", "----R-------"),
    ("cancel", "----A-------"),
    ("activate", "-----C------"),
    ("activate with nothing", "------------"),
    ("reject", "-----A------"),
    ("release", "--Q--AQ-----"),
    ("release by another", "------------"),
    ("suspend", "--S---------"),
    ("resume", "------C-----"),
    ("transfer", "--C---------"),
    ("update", "--C--PSIO---"),
    ("block", "BB----------"),
    ("unblock", "----------A-"),
    ("decommission", "-D-D------D-"),
    ("port in", "I--------I-I"),
    ("port out", "--O---O-----"),
    ("port completed", "-------CT---"),
    ("port cancelled", "-------0C---"),
    ("snapback", "--------CQ--"),
    ("a year passes", "0ACAAASIOTBD"),
];

pub(super) fn shelf(pool: &str) -> Shelf {
    Shelf { pool: pool.into(), country: "DE".into(), ..Shelf::default() }
}

pub(super) fn import_block(first: &str, count: u64, pool: &str) -> Kind {
    let shelf = Some(shelf(pool));
    let block = Block { first: first.into(), count, shelf, ..Block::default() };
    Kind::ImportBlocks(ImportBlocks { blocks: vec![block] })
}

pub(super) fn named(e164: &str) -> Option<NumberPick> {
    Some(NumberPick { e164: vec![e164.into()], ..NumberPick::default() })
}

fn from_reservation(tenant: &str) -> Kind {
    let reservation_id = "res-1".into();
    let (tenant, all) = (tenant.into(), AllocateNumbers::default());
    Kind::AllocateNumbers(AllocateNumbers { tenant, reservation_id, ..all })
}

fn order(direction: PortDirection) -> Kind {
    let shelf = Some(shelf("p"));
    Kind::CreatePortOrder(CreatePortOrder {
        direction: direction.into(),
        tenant: "acme".into(),
        e164: vec![IT.into()],
        shelf,
        ..CreatePortOrder::default()
    })
}

pub(super) fn event(id: &str, event: PortEvent) -> Kind {
    let event = event.into();
    let (port_order_id, rest) = (id.into(), RecordPortEvent::default());
    Kind::RecordPortEvent(RecordPortEvent { port_order_id, event, ..rest })
}

pub(super) fn requirement() -> Kind {
    let requirement = Requirement {
        country: "DE".into(),
        address: AddressRule::None.into(),
        bundle: true,
        ..Requirement::default()
    };
    Kind::PutRequirement(PutRequirement { requirement: Some(requirement), expect: None })
}

pub(super) fn bundle(id: &str, tenant: &str, status: ComplianceStatus) -> Kind {
    let record = ComplianceRecord {
        record_id: id.into(),
        tenant: tenant.into(),
        kind: ComplianceKind::Bundle.into(),
        status: status.into(),
        country: "DE".into(),
        ..ComplianceRecord::default()
    };
    Kind::PutComplianceRecord(PutComplianceRecord { record: Some(record), expect: None })
}

pub(super) fn shows(bundle_id: &str) -> Option<NumberCompliance> {
    let bundle_id = bundle_id.into();
    Some(NumberCompliance { bundle_id, ..NumberCompliance::default() })
}

fn suspend() -> Kind {
    Kind::SuspendNumber(SuspendNumber { e164: IT.into(), reason: "abuse".into(), expect: None })
}

fn decommission() -> Kind {
    Kind::DecommissionNumbers(DecommissionNumbers { e164: IT.into(), count: 1, expect: None })
}

fn block() -> Kind {
    let shelf = Some(shelf("p"));
    let reason = "test".into();
    Kind::BlockNumbers(BlockNumbers { e164: IT.into(), count: 0, reason, shelf, expect: None })
}

fn reserve() -> Kind {
    let (tenant, pick) = ("acme".into(), named(IT));
    Kind::ReserveNumbers(ReserveNumbers { tenant, pick, duration_ms: 0 })
}

/// A mesh whose number is in this state, of acme where it is somebody's.
fn world(state: NumberState) -> Run {
    let mut run = Run::new();
    let (import, allocate) = (import_block(IT, 1, "p"), allocate("acme", IT));
    let (port_in, port_out) = (order(PortDirection::In), order(PortDirection::Out));
    let submitted = event("port-1", PortEvent::Submitted);
    let steps = match state {
        NumberState::Unspecified => vec![],
        NumberState::Available => vec![import],
        NumberState::Active => vec![import, allocate],
        NumberState::Quarantine => vec![import, allocate, release("acme", IT)],
        NumberState::Reserved => vec![import, reserve()],
        NumberState::Pending => vec![import, requirement(), allocate],
        NumberState::Suspended => vec![import, allocate, suspend()],
        NumberState::PortingIn => vec![port_in, submitted],
        NumberState::PortingOut => vec![import, allocate, port_out, submitted],
        NumberState::PortedOut => {
            let completed = event("port-1", PortEvent::Completed);
            vec![import, allocate, port_out, submitted, completed]
        }
        NumberState::Blocked => vec![import, block()],
        NumberState::Decommissioned => vec![import, decommission()],
    };
    for step in steps.into_iter().chain([bundle("b", "acme", ComplianceStatus::Approved)]) {
        assert_eq!(reason(&run.apply(step.clone())), None, "{step:?}");
    }
    let is = run.state.number(IT).map_or(NumberState::Unspecified, |number| number.state());
    assert_eq!(is, state);
    run
}

fn command(name: &str) -> Kind {
    let e164 = || IT.to_owned();
    let (acme, bob) = (|| "acme".to_owned(), || "bob".to_owned());
    let activate = |compliance| {
        Kind::ActivateNumber(ActivateNumber {
            e164: e164(),
            tenant: acme(),
            compliance,
            expect: None,
        })
    };
    match name {
        "import" => import_block(IT, 1, "p"),
        "allocate" => allocate("acme", IT),
        "allocate for another" => allocate("bob", IT),
        "reserve" => reserve(),
        "allocate the reserved" => from_reservation("acme"),
        "allocate it for another" => from_reservation("bob"),
        "extend" => Kind::ExtendReservation(ExtendReservation {
            reservation_id: "res-1".into(),
            tenant: acme(),
            duration_ms: 0,
        }),
        "cancel" => Kind::CancelReservation(CancelReservation {
            reservation_id: "res-1".into(),
            tenant: acme(),
        }),
        "activate" => activate(shows("b")),
        "activate with nothing" => activate(None),
        "reject" => Kind::RejectNumber(RejectNumber { e164: e164(), expect: None }),
        "release" => release("acme", IT),
        "release by another" => release("bob", IT),
        "suspend" => suspend(),
        "resume" => Kind::ResumeNumber(ResumeNumber { e164: e164(), expect: None }),
        "transfer" => Kind::TransferNumber(TransferNumber {
            e164: e164(),
            from_tenant: acme(),
            to_tenant: bob(),
            ..TransferNumber::default()
        }),
        "update" => Kind::UpdateNumber(UpdateNumber {
            e164: e164(),
            tenant: acme(),
            tags: Some(Tags { tags: vec![Tag { key: "desk".into(), value: "1".into() }] }),
            ..UpdateNumber::default()
        }),
        "block" => block(),
        "unblock" => Kind::UnblockNumbers(UnblockNumbers { e164: e164(), count: 1, expect: None }),
        "decommission" => decommission(),
        "port in" => order(PortDirection::In),
        "port out" => order(PortDirection::Out),
        "port completed" => event("port-1", PortEvent::Completed),
        "port cancelled" => event("port-1", PortEvent::Cancelled),
        "snapback" => event("port-1", PortEvent::Snapback),
        other => panic!("no command {other}"),
    }
}

#[test]
fn every_command_at_every_state() {
    for (name, row) in TABLE {
        for ((_, state), expected) in STATES.into_iter().zip(row.chars()) {
            let mut run = world(state);
            let before = run.state.number(IT);
            let outcome = if name == "a year passes" {
                run.clock(run.now + 365 * DAY).outcome
            } else {
                run.apply(command(name))
            };
            let after = run.state.number(IT);
            let at = format!("{name} at {state:?}: {outcome:?}");
            run.state.check_invariants().unwrap_or_else(|broken| panic!("{at}: {broken}"));
            if expected == '-' {
                assert!(reason(&outcome).is_some(), "{at}");
                assert_eq!(after, before, "{at}");
                continue;
            }
            assert_eq!(reason(&outcome), None, "{at}");
            let is = after.as_ref().map_or(NumberState::Unspecified, |number| number.state());
            let letter = STATES.iter().find(|(_, state)| *state == is).unwrap().0;
            assert_eq!(letter, expected, "{at}");
            let (Some(before), Some(after)) = (before, after) else { continue };
            let changed = owner(&before) != owner(&after);
            assert_eq!(after.generation, before.generation + u64::from(changed), "{at}");
        }
    }
}

fn owner(number: &Number) -> Option<&str> {
    use NumberState::{Active, Pending, PortingIn, PortingOut, Reserved, Suspended};
    let owned = [Active, Pending, PortingIn, PortingOut, Reserved, Suspended];
    owned.contains(&number.state()).then_some(number.tenant.as_str())
}

#[test]
fn a_refusal_names_state_and_generation() {
    for (_, state) in STATES.into_iter().skip(1) {
        let mut run = world(state);
        let generation = run.number(IT).generation;
        for name in ["resume", "unblock", "reject", "suspend", "allocate for another"] {
            let Some(outcome::Kind::Rejected(rejected)) = run.apply(command(name)).kind else {
                run = world(state);
                continue;
            };
            if [Reason::IllegalTransition, Reason::NumberAllocated].contains(&rejected.reason()) {
                let says = &rejected.message;
                assert!(says.contains(&format!("(generation {generation})")), "{says}");
                let name = state.as_str_name().replace("NUMBER_STATE_", "");
                assert!(says.contains(&name), "{says}");
                assert!(!says.contains(IT), "{says}");
            } else {
                panic!("{name} at {state:?}: {rejected:?}");
            }
        }
    }
}

#[test]
fn an_old_generation_cannot_write() {
    let mut run = Run::new();
    run.apply(import_block(IT, 1, "p"));
    run.apply(allocate("acme", IT));
    let old = run.number(IT);
    let expecting = |generation: u64, etag: &str| {
        let expect = Some(Expect { generation, etag: etag.into() });
        Kind::ReleaseNumber(ReleaseNumber { e164: IT.into(), tenant: "acme".into(), expect })
    };
    run.apply(command("update"));
    assert_eq!(reason(&run.apply(expecting(0, &old.etag))), Some(Reason::Conflict), "changed");
    run.apply(release("acme", IT));
    run.apply(allocate("acme", IT));
    assert_eq!(reason(&run.apply(expecting(old.generation, ""))), Some(Reason::Conflict));
    let now = run.number(IT);
    assert_eq!(reason(&run.apply(expecting(now.generation, &now.etag))), None);
}

#[test]
fn generations_outlive_a_number() {
    let mut run = world(NumberState::PortingIn);
    let first = run.number(IT).generation;
    run.apply(command("port cancelled"));
    assert_eq!(run.state.number(IT), None);
    run.apply(import_block(IT, 1, "p"));
    run.apply(allocate("bob", IT));
    assert!(run.number(IT).generation > first);
}
