//! Planted bugs of what is asked of the state and what clients are told of it.

use std::collections::BTreeMap;

use proto::control::NumberState;
use proto::raft::command::Kind;
use proto::raft::{Command, Reason};

use super::plan::{Mutant, Plan};
use super::world::World;
use crate::linear::{Answer, Request};

/// Reservations last so many times longer than is told.
const TIMES: u64 = 8;

/// When reservations were said to end.
#[derive(Debug, Default)]
pub struct Promises(BTreeMap<String, u64>);

impl Promises {
    /// What a read shows, with the end that was told.
    pub fn shown(&self, answer: Answer) -> Answer {
        match answer {
            Answer::Number(Some(mut held)) if held.state() == NumberState::Reserved => {
                if let Some(until_ms) = self.0.get(&held.reservation) {
                    held.until_ms = *until_ms;
                }
                Answer::Number(Some(held))
            }
            other => other,
        }
    }
}

impl Plan {
    /// A client's command as a planted bug makes it.
    pub fn bent(&self, mut command: Command) -> Command {
        match (self.mutant, &mut command.kind) {
            (Some(Mutant::HeldTooLong), Some(Kind::ReserveNumbers(reserve))) => {
                reserve.duration_ms *= TIMES;
            }
            (Some(Mutant::PartOfMany), Some(Kind::AllocateNumbers(allocate))) => {
                if let Some(pick) = allocate.pick.as_mut().filter(|pick| pick.count > 1) {
                    pick.count -= 1;
                }
            }
            _ => {}
        }
        command
    }
}

impl World {
    /// An answer as a planted bug tells it.
    pub fn bend(&mut self, attempt: u64, answer: Answer) -> Answer {
        let Some(operation) = self.attempts.get(&attempt).map(|known| known.operation) else {
            return answer;
        };
        let request = &self.history.operations[operation].request;
        match (self.plan.mutant, request, answer) {
            (
                Some(Mutant::HeldTooLong),
                Request::Reserve { duration_ms, .. },
                Answer::Reservation(mut made),
            ) => {
                made.until_ms -= duration_ms * (TIMES - 1);
                self.promises.0.insert(made.id.clone(), made.until_ms);
                Answer::Reservation(made)
            }
            (Some(Mutant::HeldTooLong), Request::Extend { .. }, Answer::Reservation(told)) => {
                self.promises.0.remove(&told.id);
                Answer::Reservation(told)
            }
            (Some(Mutant::PartOfMany), Request::AllocateSome { .. }, Answer::Numbers(_))
                if operation % 2 == 0 =>
            {
                Answer::Rejected(Reason::PoolExhausted)
            }
            (_, _, answer) => answer,
        }
    }
}
