//! A reservation as a register: it is made, extended, and ends once.

use proto::raft::Reason;

use super::history::{Answer, Operation, Request};
use super::search::Model;

/// How often one may be extended.
const EXTENSIONS_MAX: u32 = 2;

/// One reservation.
#[derive(Debug, Clone, Copy)]
pub struct ReservationModel;

/// An operation on it.
#[derive(Debug, Clone)]
pub struct ReservationOp {
    /// What was asked.
    pub request: Request,
    /// What was answered, if anything.
    pub answer: Option<Answer>,
    /// Log time at the answer, or later.
    pub log_time_ms: u64,
    /// Log time before the question.
    pub floor_ms: u64,
}

impl ReservationOp {
    /// The part of an operation that concerns a reservation.
    pub fn of(operation: &Operation, floor_ms: u64) -> Self {
        let Operation { request, answer, log_time_ms, .. } = operation;
        let (request, answer) = (request.clone(), answer.clone());
        Self { request, answer, log_time_ms: *log_time_ms, floor_ms }
    }

    /// It was there, and not over.
    fn can_find(&self, live: &Live) -> bool {
        live.until_ms > self.floor_ms
    }

    /// It was over.
    fn can_miss(&self, state: &State) -> bool {
        match state {
            State::Live(live) => live.until_ms <= self.log_time_ms,
            State::Unborn | State::Gone => true,
        }
    }
}

/// One that holds numbers.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Live {
    tenant: String,
    until_ms: u64,
    extensions: u32,
}

/// What it can be.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum State {
    /// Not made yet.
    Unborn,
    /// Until its end comes.
    Live(Live),
    /// Cancelled, or all of it was allocated.
    Gone,
}

impl Model for ReservationModel {
    type State = State;
    type Op = ReservationOp;

    fn initial(&self) -> State {
        State::Unborn
    }

    fn step(&self, state: &State, op: &ReservationOp) -> Vec<State> {
        let after = match (&op.request, &op.answer, state) {
            (_, Some(Answer::Rejected(reason)), _) => {
                refusable(state, op, *reason).then(|| state.clone())
            }
            (Request::Reserve { tenant, .. }, Some(Answer::Reservation(made)), State::Unborn) => {
                let (until_ms, extensions) = (made.until_ms, made.extensions);
                Some(State::Live(Live { tenant: tenant.clone(), until_ms, extensions }))
            }
            (
                Request::Extend { tenant, .. },
                Some(Answer::Reservation(told)),
                State::Live(live),
            ) => {
                let longer = told.until_ms >= live.until_ms;
                let counted = told.extensions == live.extensions + 1;
                let may = counted && told.extensions <= EXTENSIONS_MAX && *tenant == live.tenant;
                let (until_ms, extensions) = (told.until_ms, told.extensions);
                let after = State::Live(Live { until_ms, extensions, ..live.clone() });
                (op.can_find(live) && longer && may).then_some(after)
            }
            (
                Request::Cancel { tenant, .. } | Request::AllocateReserved { tenant, .. },
                Some(Answer::Reservation(_) | Answer::Numbers(_)),
                State::Live(live),
            ) => (op.can_find(live) && *tenant == live.tenant).then_some(State::Gone),
            _ => None,
        };
        after.into_iter().collect()
    }
}

/// Whether the API may refuse this, in this state, for this reason.
fn refusable(state: &State, op: &ReservationOp, reason: Reason) -> bool {
    let (Request::Extend { tenant, .. }
    | Request::Cancel { tenant, .. }
    | Request::AllocateReserved { tenant, .. }) = &op.request
    else {
        return false;
    };
    match (reason, state) {
        (Reason::NotFound, _) => op.can_miss(state),
        (Reason::NotOwner, State::Live(live)) => *tenant != live.tenant && op.can_find(live),
        (Reason::Limit, State::Live(live)) => {
            let extends = matches!(op.request, Request::Extend { .. });
            extends && live.extensions >= EXTENSIONS_MAX && op.can_find(live)
        }
        _ => false,
    }
}
