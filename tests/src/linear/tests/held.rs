//! Reservations, and several numbers at once.

use super::*;
use crate::linear::Reserved;

const ID: &str = "res-1";

fn reserve(count: usize) -> Request {
    let (tenant, pool) = ("acme".into(), "p".into());
    Request::Reserve { tenant, pool, e164: Vec::new(), count, duration_ms: 5 }
}

fn holds(until_ms: u64, extensions: u32) -> Answer {
    let e164 = vec!["+4930".into()];
    Answer::Reservation(Reserved { id: ID.into(), e164, until_ms, extensions })
}

fn held(until_ms: u64) -> Held {
    Held { reservation: ID.into(), ..number(NumberState::Reserved, "acme", 1, until_ms) }
}

fn taken(tenant: &str) -> (Request, Answer) {
    let request = Request::AllocateReserved { tenant: tenant.into(), id: ID.into() };
    (request, Answer::Numbers(vec![number(NumberState::Active, tenant, 1, 0)]))
}

fn extend() -> Request {
    Request::Extend { tenant: "acme".into(), id: ID.into(), duration_ms: 5 }
}

/// Log time is the script's time: the reservation is told at 4, and the read at 6.
fn reserved(until_ms: u64) -> Script {
    let mut s = Script::new();
    s.run(reserve(1), holds(until_ms, 0));
    s
}

#[test]
fn a_life_of_a_reservation() {
    let mut s = reserved(100);
    s.run(get(false), shows(held(100)));
    s.run(allocate("other"), Answer::Rejected(Reason::IllegalTransition));
    s.run(extend(), holds(200, 1));
    s.run(get(true), shows(held(200)));
    let (request, answer) = taken("acme");
    s.run(request.clone(), answer);
    s.run(request, Answer::Rejected(Reason::NotFound));
    s.run(get(false), shows(number(NumberState::Active, "acme", 1, 0)));
    assert_eq!(s.broken(), []);
}

#[test]
fn one_that_ended_by_itself() {
    let mut s = reserved(5);
    s.run(get(false), shows(number(NumberState::Available, "", 2, 0)));
    s.run(extend(), Answer::Rejected(Reason::NotFound));
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 3, 0)));
    assert_eq!(s.broken(), []);
}

#[test]
fn one_that_ends_too_early_or_too_late() {
    let mut s = reserved(100);
    s.run(get(false), shows(number(NumberState::Available, "", 2, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
    let mut s = reserved(5);
    s.run(get(false), shows(held(5)));
    assert_eq!(s.broken(), [Rule::Expiry], "read at log time 6");
    let mut s = reserved(5);
    s.run(get(false), shows(number(NumberState::Available, "", 2, 0)));
    let (request, answer) = taken("acme");
    s.run(request, answer);
    assert_eq!(s.broken(), [Rule::Number, Rule::Reservation]);
    let mut s = reserved(5);
    s.run(extend(), holds(50, 1));
    s.run(extend(), holds(60, 2));
    s.run(extend(), holds(70, 3));
    assert_eq!(s.broken(), [Rule::Reservation], "too often");
}

#[test]
fn one_of_somebody_else() {
    let mut s = reserved(100);
    let (request, answer) = taken("other");
    s.run(request.clone(), Answer::Rejected(Reason::NotOwner));
    assert_eq!(s.broken(), []);
    s.run(request, answer);
    assert_eq!(s.broken(), [Rule::Number, Rule::Reservation]);
    let mut s = reserved(100);
    s.run(allocate("other"), shows(number(NumberState::Active, "other", 2, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
    let mut s = reserved(100);
    let two = Answer::Reservation(Reserved {
        id: "res-2".into(),
        e164: vec!["+4930".into()],
        until_ms: 100,
        extensions: 0,
    });
    s.run(reserve(1), two);
    assert_eq!(s.broken(), [Rule::Number], "held twice");
}

#[test]
fn a_part_of_several() {
    let some = |count| Request::AllocateSome { tenant: "acme".into(), pool: "p".into(), count };
    let one = || Answer::Numbers(vec![number(NumberState::Active, "acme", 1, 0)]);
    let mut s = Script::new();
    s.run(some(1), one());
    assert_eq!(s.broken(), []);
    let mut s = Script::new();
    s.run(some(2), one());
    assert_eq!(s.broken(), [Rule::Whole]);
    // Told of nothing, done in part.
    let mut s = Script::new();
    s.run(some(2), Answer::Rejected(Reason::PoolExhausted));
    assert_eq!(s.broken(), []);
    s.run(get(false), shows(number(NumberState::Active, "acme", 1, 0)));
    assert_eq!(s.broken(), [Rule::Number]);
    let mut s = Script::new();
    s.run(reserve(2), holds(100, 0));
    assert_eq!(s.broken(), [Rule::Whole]);
}
