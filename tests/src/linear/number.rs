//! A number as a register: what a client may see of it.

use proto::control::NumberState;
use proto::raft::Reason;

use super::history::{Answer, Held, Operation, Request, Reserved};
use super::search::Model;

/// One number.
#[derive(Debug, Clone)]
pub struct NumberModel {
    /// Which.
    pub e164: String,
}

/// An operation on it.
#[derive(Debug, Clone)]
pub struct NumberOp {
    /// What was asked.
    pub request: Request,
    /// What was answered, if anything.
    pub answer: Option<Answer>,
    /// Log time at the answer, or later: until then the end of a quarantine or a reservation may
    /// have come.
    pub log_time_ms: u64,
    /// Log time before the question: until then it has.
    pub floor_ms: u64,
}

impl NumberOp {
    /// The part of an operation that concerns a number.
    pub fn of(operation: &Operation, floor_ms: u64) -> Self {
        let Operation { request, answer, log_time_ms, .. } = operation;
        let (request, answer) = (request.clone(), answer.clone());
        Self { request, answer, log_time_ms: *log_time_ms, floor_ms }
    }
}

/// `None`: not in the inventory.
pub type State = Option<Held>;

impl Model for NumberModel {
    type State = State;
    type Op = NumberOp;

    fn initial(&self) -> State {
        None
    }

    fn step(&self, state: &State, op: &NumberOp) -> Vec<State> {
        let mut found = Vec::new();
        for before in moments(state, op.floor_ms, op.log_time_ms) {
            let Some(answer) = &op.answer else {
                // Nobody knows: whatever could have happened.
                let effect = self.effect(&before, &op.request, None);
                found.extend(effect.filter(|after| *after != before));
                continue;
            };
            found.extend(self.answered(&before, &op.request, answer));
        }
        found.dedup();
        found
    }
}

/// Of a release that nobody was told of.
const UNKNOWN: u64 = u64::MAX;

/// Whether a read may show this.
fn fits(state: &State, read: &State) -> bool {
    match (state, read) {
        (Some(held), Some(read)) if held.until_ms == UNKNOWN => {
            Held { until_ms: read.until_ms, ..held.clone() } == *read
        }
        _ => state == read,
    }
}

/// The state, and what time alone can, or must, have made of it.
fn moments(state: &State, floor_ms: u64, log_time_ms: u64) -> Vec<State> {
    let Some(held) = state else { return vec![None] };
    let reserved = held.state() == NumberState::Reserved;
    if !reserved && held.state() != NumberState::Quarantine {
        return vec![state.clone()];
    }
    let over = Some(Held {
        e164: held.e164.clone(),
        state: NumberState::Available.into(),
        generation: held.generation + u64::from(reserved),
        ..Held::default()
    });
    match held.until_ms {
        until if until != UNKNOWN && until <= floor_ms => vec![over],
        until if until == UNKNOWN || until <= log_time_ms => vec![state.clone(), over],
        _ => vec![state.clone()],
    }
}

impl NumberModel {
    fn answered(&self, before: &State, request: &Request, answer: &Answer) -> Option<State> {
        match answer {
            Answer::Rejected(reason) => refusable(before, request, *reason).then(|| before.clone()),
            Answer::Number(read) if request.is_read() => fits(before, read).then(|| read.clone()),
            Answer::Number(Some(shown)) => {
                let after = self.effect(before, request, Some(shown))?;
                (after.as_ref() == Some(shown)).then_some(after)
            }
            Answer::Numbers(list) => {
                let shown = list.iter().find(|held| held.e164 == self.e164)?;
                let after = self.effect(before, request, Some(shown))?;
                (after.as_ref() == Some(shown)).then_some(after)
            }
            Answer::Reservation(reserved) => self.held(before, request, reserved),
            Answer::Imported(_) | Answer::Done => self.effect(before, request, None),
            Answer::Number(None) | Answer::Trunk(_) => None,
        }
    }

    /// What an operation on the reservation that holds it makes of it.
    fn held(&self, before: &State, request: &Request, told: &Reserved) -> Option<State> {
        let number = before.as_ref()?;
        let holds = number.state() == NumberState::Reserved && number.reservation == told.id;
        match request {
            Request::Reserve { tenant, .. } if number.state() == NumberState::Available => {
                Some(Some(Held {
                    e164: self.e164.clone(),
                    state: NumberState::Reserved.into(),
                    tenant: tenant.clone(),
                    generation: number.generation + 1,
                    until_ms: told.until_ms,
                    reservation: told.id.clone(),
                }))
            }
            Request::Extend { .. } if holds => {
                Some(Some(Held { until_ms: told.until_ms, ..number.clone() }))
            }
            Request::Cancel { .. } if holds => Some(Some(Held {
                e164: self.e164.clone(),
                state: NumberState::Available.into(),
                generation: number.generation + 1,
                ..Held::default()
            })),
            _ => None,
        }
    }

    /// What a successful operation makes of it. Its answer gives what only the server knows: until
    /// when a quarantine lasts.
    fn effect(&self, before: &State, request: &Request, shown: Option<&Held>) -> Option<State> {
        let held = |state: NumberState, tenant: &str, generation, until_ms| {
            let (e164, tenant) = (self.e164.clone(), tenant.to_owned());
            let reservation = String::new();
            Some(Some(Held {
                e164,
                state: state.into(),
                tenant,
                generation,
                until_ms,
                reservation,
            }))
        };
        match (request, before) {
            (Request::Import { .. }, None) => held(NumberState::Available, "", 0, 0),
            (
                Request::Allocate { tenant, .. }
                | Request::AllocateAny { tenant, .. }
                | Request::AllocateSome { tenant, .. },
                Some(number),
            ) => {
                let any = !matches!(request, Request::Allocate { .. });
                let own = number.state() == NumberState::Quarantine && number.tenant == *tenant;
                let free = number.state() == NumberState::Available || (own && !any);
                let generation = number.generation + 1;
                if free { held(NumberState::Active, tenant, generation, 0) } else { None }
            }
            (Request::AllocateReserved { tenant, id }, Some(number)) => {
                let holds = number.state() == NumberState::Reserved
                    && number.tenant == *tenant
                    && number.reservation == *id;
                if holds { held(NumberState::Active, tenant, number.generation, 0) } else { None }
            }
            (Request::Release { tenant, .. }, Some(number)) => {
                let owner = number.state() == NumberState::Active && number.tenant == *tenant;
                let until_ms = shown.map_or(UNKNOWN, |shown| shown.until_ms);
                let generation = number.generation + 1;
                if owner {
                    held(NumberState::Quarantine, tenant, generation, until_ms)
                } else {
                    None
                }
            }
            _ => None,
        }
    }
}

/// Whether the API may refuse this, in this state, for this reason.
fn refusable(before: &State, request: &Request, reason: Reason) -> bool {
    let Some(number) = before else {
        return reason == Reason::NotFound && !matches!(request, Request::Import { .. });
    };
    let state = number.state();
    match (request, reason) {
        (Request::Import { e164, .. }, Reason::AlreadyExists) => e164.len() == 1,
        (Request::Allocate { .. }, Reason::NumberAllocated) => state == NumberState::Active,
        (Request::Allocate { tenant, .. }, Reason::IllegalTransition) => {
            let rests = state == NumberState::Quarantine && number.tenant != *tenant;
            rests || state == NumberState::Reserved
        }
        (Request::Reserve { .. }, Reason::IllegalTransition) => state != NumberState::Available,
        (Request::Release { .. }, Reason::IllegalTransition) => state != NumberState::Active,
        (Request::Release { tenant, .. }, Reason::NotOwner) => {
            state == NumberState::Active && number.tenant != *tenant
        }
        _ => false,
    }
}
