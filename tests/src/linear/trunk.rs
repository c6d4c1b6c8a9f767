//! A trunk as a plain register.

use proto::raft::Reason;

use super::history::{Answer, Operation, Request};
use super::search::Model;

/// One trunk.
#[derive(Debug, Clone, Copy)]
pub struct TrunkModel;

/// An operation on it.
#[derive(Debug, Clone)]
pub struct TrunkOp {
    /// What was asked.
    pub request: Request,
    /// What was answered, if anything.
    pub answer: Option<Answer>,
}

impl TrunkOp {
    /// The part of an operation that concerns a trunk.
    pub fn of(operation: &Operation) -> Self {
        Self { request: operation.request.clone(), answer: operation.answer.clone() }
    }
}

impl Model for TrunkModel {
    type State = Option<u32>;
    type Op = TrunkOp;

    fn initial(&self) -> Option<u32> {
        None
    }

    fn step(&self, state: &Option<u32>, op: &TrunkOp) -> Vec<Option<u32>> {
        let after = match (&op.request, &op.answer) {
            (Request::PutTrunk { value, .. }, None | Some(Answer::Done)) => Some(Some(*value)),
            (Request::DeleteTrunk { .. }, None | Some(Answer::Done)) => state.map(|_| None),
            (Request::DeleteTrunk { .. }, Some(Answer::Rejected(Reason::NotFound))) => {
                state.is_none().then_some(None)
            }
            (Request::GetTrunk { .. }, Some(Answer::Trunk(read))) => {
                (read == state).then_some(*state)
            }
            _ => None,
        };
        after.into_iter().collect()
    }
}
