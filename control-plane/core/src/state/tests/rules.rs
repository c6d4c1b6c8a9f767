//! Numbers, rule by rule.

use proto::control::{
    Block, ComplianceStatus, EndUserType, NumberPick, NumberPolicy, NumberType, PortDirection,
    PortEvent, PortState, Shelf, Tenant,
};
use proto::raft::{
    AllocateNumbers, CreatePortOrder, DeleteTenant, ExtendReservation, ImportBlocks, NumberList,
    PutNumberPolicy, PutTenant, RecordPortEvent, ReserveNumbers,
};

use super::walk::{bundle, event, import_block, named, requirement, shelf, shows};
use super::*;

fn any(tenant: &str, pick: NumberPick) -> Kind {
    let pick = Some(pick);
    Kind::AllocateNumbers(AllocateNumbers { tenant: tenant.into(), pick, ..<_>::default() })
}

fn fit(shelf: Shelf, prefix: &str, count: u32) -> NumberPick {
    NumberPick { shelf: Some(shelf), prefix: prefix.into(), count, ..NumberPick::default() }
}

fn numbers(outcome: &Outcome) -> Vec<String> {
    match &outcome.kind {
        Some(outcome::Kind::Numbers(NumberList { numbers })) => {
            numbers.iter().map(|number| number.e164.clone()).collect()
        }
        other => panic!("no numbers: {other:?}"),
    }
}

fn reserve(tenant: &str, count: u32) -> Kind {
    let pick = Some(fit(Shelf::default(), "", count));
    Kind::ReserveNumbers(ReserveNumbers { tenant: tenant.into(), pick, duration_ms: 0 })
}

#[test]
fn ten_million_numbers_are_one_record() {
    let mut run = Run::new();
    let before = run.state.entry_count();
    assert_eq!(reason(&run.apply(import_block("+49150000000", 10_000_000, "mobile"))), None);
    assert_eq!(run.state.number_counts().of(NumberState::Available), 10_000_000);
    // The block, its shelf, the request, the revision and the audit row.
    assert_eq!(run.state.entry_count() - before, 6);
    assert_eq!(
        numbers(&run.apply(any("acme", fit(shelf("mobile"), "", 2)))),
        ["+49150000000", "+49150000001"]
    );
    let last = fit(shelf("mobile"), "49159999999", 1);
    assert_eq!(numbers(&run.apply(any("acme", last.clone()))), ["+49159999999"]);
    assert_eq!(reason(&run.apply(any("acme", last))), Some(Reason::PoolExhausted));
    assert_eq!(run.state.check_invariants(), Ok(()));
}

#[test]
fn shelves_filter_what_is_chosen() {
    let mut run = Run::new();
    let kinds = [NumberType::Local, NumberType::Mobile, NumberType::TollFree];
    for (at, kind) in kinds.into_iter().enumerate() {
        let shelf = Shelf {
            pool: "p".into(),
            country: "DE".into(),
            area: format!("area-{at}"),
            r#type: kind.into(),
            carrier: format!("carrier-{}", at % 2),
        };
        let first = format!("+49{}0000", at + 1);
        let block = Block { first, count: 3, shelf: Some(shelf), ..Block::default() };
        run.apply(Kind::ImportBlocks(ImportBlocks { blocks: vec![block] }));
    }
    let of = |change: &dyn Fn(&mut Shelf)| {
        let mut shelf = Shelf::default();
        change(&mut shelf);
        fit(shelf, "", 1)
    };
    let mobile = of(&|s| s.r#type = NumberType::Mobile.into());
    assert_eq!(numbers(&run.apply(any("acme", mobile))), ["+4920000"]);
    let area = of(&|s| s.area = "area-2".into());
    assert_eq!(numbers(&run.apply(any("acme", area))), ["+4930000"]);
    let carrier = of(&|s| s.carrier = "carrier-0".into());
    assert_eq!(numbers(&run.apply(any("acme", carrier))), ["+4910000"]);
    let nowhere = of(&|s| s.country = "FR".into());
    assert_eq!(reason(&run.apply(any("acme", nowhere))), Some(Reason::PoolExhausted));
    // Across shelves, all or none.
    assert_eq!(
        reason(&run.apply(any("acme", fit(Shelf::default(), "", 7)))),
        Some(Reason::PoolExhausted)
    );
    assert_eq!(numbers(&run.apply(any("acme", fit(Shelf::default(), "", 6)))).len(), 6);
}

#[test]
fn blocks_do_not_overlap() {
    let mut run = Run::new();
    run.apply(import_block("+4930100", 100, "p"));
    for (first, count) in [("+4930100", 1), ("+4930199", 1), ("+4930050", 51), ("+4930000", 1_000)]
    {
        let outcome = run.apply(import_block(first, count, "p"));
        assert_eq!(reason(&outcome), Some(Reason::AlreadyExists), "{first} {count}");
    }
    for (first, count) in [("+9999", 2), ("+49", 0), ("x", 1), ("+1", u64::MAX)] {
        let outcome = run.apply(import_block(first, count, "p"));
        assert_eq!(reason(&outcome), Some(Reason::Invalid), "{first} {count}");
    }
    let two = ["+4930200", "+4930205"].map(|first| Block {
        first: first.into(),
        count: 6,
        ..Block::default()
    });
    let twice = Kind::ImportBlocks(ImportBlocks { blocks: two.to_vec() });
    assert_eq!(reason(&run.apply(twice)), Some(Reason::Invalid));
    assert_eq!(reason(&run.apply(import_block("+4930050", 50, "p"))), None);
    assert_eq!(reason(&run.apply(import_block("+4930200", 1, "q"))), None);
    assert_eq!(run.state.number_counts().total(), 151);
}

#[test]
fn a_returned_number_comes_again_after_its_rest_and_to_another_shelf() {
    let mut run = Run::new();
    run.apply(import_block("+4930100", 100, "p"));
    let decommission = |e164: &str, count| {
        let e164 = e164.into();
        Kind::DecommissionNumbers(proto::raft::DecommissionNumbers { e164, count, expect: None })
    };
    assert_eq!(reason(&run.apply(decommission("+4930150", 10))), None);
    assert_eq!(reason(&run.apply(import_block("+4930150", 10, "q"))), Some(Reason::AlreadyExists));
    run.clock(run.now + QUARANTINE_MS);
    assert_eq!(reason(&run.apply(import_block("+4930149", 2, "q"))), Some(Reason::AlreadyExists));
    assert_eq!(reason(&run.apply(import_block("+4930150", 10, "q"))), None);
    assert_eq!(run.state.check_invariants(), Ok(()));
    assert_eq!(run.number("+4930155").pool, "q");
    assert_eq!(
        (run.number("+4930149").pool, run.number("+4930160").pool),
        ("p".into(), "p".into())
    );
    assert_eq!(run.state.number_counts().of(NumberState::Available), 100);
    assert_eq!(run.state.blocks(&Shelf::default(), None).count(), 3);
}

#[test]
fn reservations_end_are_extended_twice_and_are_allocated_in_part() {
    let mut run = Run::new();
    run.apply(import_block("+4930100", 5, "p"));
    run.apply(reserve("acme", 3));
    let until = run.now + quarantine::RESERVATION_MS;
    let held = run.state.reservation("res-1").expect("held");
    assert_eq!((held.until_ms, held.e164.len()), (until, 3));
    assert_eq!(run.number("+4930101").until_ms, until);
    let part = AllocateNumbers {
        tenant: "acme".into(),
        pick: named("+4930101"),
        reservation_id: "res-1".into(),
        ..AllocateNumbers::default()
    };
    let outcome = run.apply(Kind::AllocateNumbers(part.clone()));
    assert_eq!(numbers(&outcome), ["+4930101"]);
    assert_eq!(run.number("+4930101").generation, 1, "its owner is who held it");
    let outcome = run.apply(Kind::AllocateNumbers(part));
    assert_eq!(reason(&outcome), Some(Reason::IllegalTransition), "not held any more");
    let extend = |duration_ms| {
        let (reservation_id, tenant) = ("res-1".into(), "acme".into());
        Kind::ExtendReservation(ExtendReservation { reservation_id, tenant, duration_ms })
    };
    assert_eq!(reason(&run.apply(extend(8 * DAY))), Some(Reason::Invalid));
    assert_eq!(reason(&run.apply(extend(DAY))), None);
    assert_eq!(reason(&run.apply(extend(0))), None);
    assert_eq!(reason(&run.apply(extend(0))), Some(Reason::Limit));
    assert_eq!(run.state.reservation("res-1").unwrap().until_ms, run.now - 2 + DAY, "no shorter");
    run.clock(run.now + DAY);
    assert_eq!(run.number("+4930100").state(), NumberState::Available);
    assert_eq!(run.state.reservation("res-1"), None);
    assert_eq!(run.state.check_invariants(), Ok(()));
}

#[test]
fn quotas_hold() {
    let mut run = Run::new();
    run.apply(import_block("+4930100", 9, "p"));
    let tenant =
        Tenant { tenant: "acme".into(), max_numbers: 2, max_reserved: 1, ..Tenant::default() };
    run.apply(Kind::PutTenant(PutTenant { tenant: Some(tenant), expect: None }));
    assert_eq!(reason(&run.apply(reserve("acme", 2))), Some(Reason::Quota));
    assert_eq!(reason(&run.apply(reserve("acme", 1))), None);
    let three = fit(Shelf::default(), "", 3);
    assert_eq!(reason(&run.apply(any("acme", three.clone()))), Some(Reason::Quota));
    assert_eq!(reason(&run.apply(any("bob", three))), None, "others have none");
    assert_eq!(numbers(&run.apply(any("acme", fit(Shelf::default(), "", 2)))).len(), 2);
    let tenant = run.state.tenant("acme").unwrap();
    assert_eq!((tenant.numbers, tenant.reserved), (2, 1));
    let delete = || DeleteTenant { tenant: "acme".into(), expect: None };
    assert_eq!(reason(&run.apply(Kind::DeleteTenant(delete()))), Some(Reason::InUse));
    assert_eq!(run.state.tenants(Some("acme")).map(|t| t.tenant).collect::<Vec<_>>(), ["bob"]);
}

#[test]
fn policies_are_looked_up_from_exact_to_general() {
    let mut run = Run::new();
    let policy = |country: &str, kind: NumberType, days: u64| {
        let policy = NumberPolicy {
            country: country.into(),
            r#type: kind.into(),
            quarantine_ms: Some(days * DAY),
            ..NumberPolicy::default()
        };
        Kind::PutNumberPolicy(PutNumberPolicy { policy: Some(policy), expect: None })
    };
    run.apply(import_block("+4930100", 9, "p"));
    let rests = |run: &mut Run| {
        run.apply(allocate_any("acme", "p"));
        let owner = "+4930100";
        run.apply(release("acme", owner));
        let number = run.number(owner);
        run.apply(allocate("acme", owner));
        run.apply(release("acme", owner));
        let rest = number.quarantine_until_ms - (run.now - 2);
        run.clock(run.now + 400 * DAY);
        rest / DAY
    };
    assert_eq!(rests(&mut run), 45);
    for (kind, days) in [
        (policy("", NumberType::Unspecified, 10), 10),
        (policy("DE", NumberType::Unspecified, 20), 20),
        (policy("FR", NumberType::Unspecified, 30), 20),
        (policy("DE", NumberType::Mobile, 40), 20),
        (policy("DE", NumberType::Unspecified, 0), 0),
    ] {
        assert_eq!(reason(&run.apply(kind.clone())), None);
        assert_eq!(rests(&mut run), days, "{kind:?}");
    }
}

#[test]
fn pending_numbers_become_active_when_the_record_is_approved_and_go_back_in_time() {
    let mut run = Run::new();
    run.apply(import_block("+4930100", 9, "p"));
    run.apply(requirement());
    run.apply(bundle("b", "acme", ComplianceStatus::Submitted));
    let ask = |e164: &str, id: &str| {
        Kind::AllocateNumbers(AllocateNumbers {
            tenant: "acme".into(),
            pick: named(e164),
            compliance: shows(id),
            ..AllocateNumbers::default()
        })
    };
    assert_eq!(reason(&run.apply(ask("+4930100", "b"))), None);
    assert_eq!(reason(&run.apply(ask("+4930101", ""))), None);
    assert_eq!(reason(&run.apply(ask("+4930102", "none"))), Some(Reason::NotFound));
    assert_eq!(run.number("+4930100").state(), NumberState::Pending);
    let delete = Kind::DeleteComplianceRecord("b".into());
    assert_eq!(reason(&run.apply(delete)), Some(Reason::InUse));
    run.apply(bundle("b", "acme", ComplianceStatus::Approved));
    assert_eq!(run.number("+4930100").state(), NumberState::Active);
    assert_eq!(run.number("+4930101").state(), NumberState::Pending, "it shows nothing");
    run.clock(run.now + 31 * DAY);
    assert_eq!(run.number("+4930101").state(), NumberState::Available);
    assert_eq!(
        reason(&run.apply(bundle("b", "bob", ComplianceStatus::Draft))),
        Some(Reason::AlreadyExists)
    );
    assert_eq!(run.state.check_invariants(), Ok(()));
    // Requirements of businesses do not bind individuals.
    let tenant = Tenant {
        tenant: "acme".into(),
        end_user_type: EndUserType::Individual.into(),
        ..Tenant::default()
    };
    run.apply(Kind::PutTenant(PutTenant { tenant: Some(tenant), expect: None }));
    run.apply(ask("+4930103", ""));
    assert_eq!(run.number("+4930103").state(), NumberState::Pending, "those of everybody do");
}

#[test]
fn ports_follow_the_carriers() {
    let mut run = Run::new();
    let e164 = vec!["+4940100".to_owned(), "+4940101".to_owned(), "+4940200".to_owned()];
    let create = CreatePortOrder {
        direction: PortDirection::In.into(),
        tenant: "acme".into(),
        e164,
        shelf: Some(shelf("ported")),
        ..CreatePortOrder::default()
    };
    assert_eq!(reason(&run.apply(Kind::CreatePortOrder(create.clone()))), None);
    assert_eq!(
        reason(&run.apply(Kind::CreatePortOrder(create.clone()))),
        Some(Reason::IllegalTransition)
    );
    assert_eq!(run.state.blocks(&Shelf::default(), None).count(), 2, "neighbours share one");
    let id = "port-1";
    let state = |run: &Run| run.state.port_order(id).unwrap().state();
    let foc = |foc_ms| {
        let event = PortEvent::FocConfirmed.into();
        let (port_order_id, rest) = (id.into(), RecordPortEvent::default());
        Kind::RecordPortEvent(RecordPortEvent { port_order_id, event, foc_ms, ..rest })
    };
    assert_eq!(
        reason(&run.apply(event(id, PortEvent::Completed))),
        Some(Reason::IllegalTransition)
    );
    assert_eq!(reason(&run.apply(event(id, PortEvent::Submitted))), None);
    assert_eq!(reason(&run.apply(event(id, PortEvent::Exception))), None);
    assert_eq!(reason(&run.apply(foc(7 * DAY))), Some(Reason::IllegalTransition));
    assert_eq!(reason(&run.apply(event(id, PortEvent::Submitted))), None);
    assert_eq!(reason(&run.apply(foc(0))), Some(Reason::Invalid));
    assert_eq!(reason(&run.apply(foc(7 * DAY))), None);
    assert_eq!(run.number("+4940100").until_ms, 7 * DAY);
    assert_eq!(run.state.check_invariants(), Ok(()));
    run.clock(7 * DAY);
    assert_eq!(state(&run), PortState::Completed);
    for e164 in &create.e164 {
        let number = run.number(e164);
        assert_eq!((number.state(), number.generation), (NumberState::Active, 1));
    }
    assert_eq!(run.state.port_order(id).unwrap().history.len(), 5);
    assert_eq!(run.state.resources().count(), 3);
    // One of them leaves again, and comes back.
    let out = CreatePortOrder {
        direction: PortDirection::Out.into(),
        e164: vec!["+4940101".into()],
        ..create
    };
    run.apply(Kind::CreatePortOrder(out));
    assert_eq!(run.state.resources().count(), 3, "calls go on until it left");
    run.apply(event("port-2", PortEvent::Submitted));
    run.apply(event("port-2", PortEvent::Completed));
    assert_eq!(run.state.resources().count(), 2);
    run.apply(event("port-2", PortEvent::Snapback));
    let number = run.number("+4940101");
    assert_eq!((number.state(), number.tenant.as_str()), (NumberState::Quarantine, "acme"));
    assert_eq!(run.state.check_invariants(), Ok(()));
    assert_eq!(run.state.port_orders(Some("port-1")).count(), 1);
}
