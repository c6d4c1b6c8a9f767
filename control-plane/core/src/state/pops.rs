//! POPs: who they are, where they are reached, and their epoch.

use proto::control::{Pop, Resource, resource};
use proto::raft::{Done, Reason, RecordPops, SteerPop, outcome};

use super::{Answer, State, Step, Store, refuse};

/// Most POPs of a mesh.
pub(crate) const POPS_MAX: usize = 10_000;

impl<S: Store> State<S> {
    /// Enters or renews a POP. Its epoch grows, so that peers refuse a process of before.
    pub(super) fn register_pop(&mut self, pop: &Pop, step: &mut Step) -> Answer {
        let known = self.tables.get::<Pop>(&pop.pop_id);
        let epoch = match &known {
            Some(known) => known.epoch.saturating_add(1),
            None if self.index.pops >= POPS_MAX => {
                return refuse(Reason::Limit, format!("there are {POPS_MAX} POPs already"));
            }
            None => {
                self.index.pops += 1;
                1
            }
        };
        // What operators said of it stays; a new epoch is a new life.
        let (cordoned, draining) = known.map_or((false, false), |pop| (pop.cordoned, pop.draining));
        let (expired, fenced) = (false, false);
        let pop = Pop { epoch, expired, fenced, cordoned, draining, ..pop.clone() };
        self.tables.put(&pop);
        step.put(Resource { kind: Some(resource::Kind::Pop(pop.clone())) });
        Ok(outcome::Kind::Pop(pop))
    }

    /// What an operator wants of it; a registration does not change that.
    pub(super) fn steer_pop(&mut self, steer: &SteerPop, step: &mut Step) -> Answer {
        let Some(known) = self.tables.get::<Pop>(&steer.pop_id) else {
            return refuse(Reason::NotFound, format!("there is no POP \"{}\"", steer.pop_id));
        };
        let draining = steer.draining;
        let pop = Pop { cordoned: steer.cordoned || draining, draining, ..known.clone() };
        if pop != known {
            self.tables.put(&pop);
            step.put(Resource { kind: Some(resource::Kind::Pop(pop.clone())) });
        }
        Ok(outcome::Kind::Pop(pop))
    }

    /// What a leader found. A POP that registered anew meanwhile is not meant; an epoch that is
    /// fenced neither returns nor is fenced again.
    pub(super) fn record_pops(&mut self, record: &RecordPops, step: &mut Step) -> Answer {
        let mut changed: Vec<Pop> = Vec::new();
        let fences = record.fenced.iter().map(|pop| (&pop.pop_id, pop.epoch, true, true));
        let found = record.found.iter().map(|pop| (&pop.pop_id, pop.epoch, pop.expired, false));
        for (pop_id, epoch, expired, fenced) in fences.chain(found) {
            let known = self.tables.get::<Pop>(pop_id);
            let meant = |pop: &Pop| {
                let news = pop.expired != expired || fenced;
                pop.epoch == epoch && !pop.fenced && news
            };
            let Some(pop) = known.filter(meant) else { continue };
            let pop = Pop { expired, fenced, ..pop };
            self.tables.put(&pop);
            changed.push(pop);
        }
        for pop in changed {
            step.put(Resource { kind: Some(resource::Kind::Pop(pop)) });
        }
        Ok(outcome::Kind::Done(Done {}))
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::command::Kind;
    use proto::raft::record_pops::Found;
    use proto::raft::{Command, Outcome, PopEpoch};

    use super::*;
    use crate::state::Applied;

    fn register(state: &mut State, request: &str) -> u64 {
        // What a client says of it counts for nothing.
        let said = Pop {
            expired: true,
            fenced: true,
            cordoned: true,
            draining: true,
            epoch: 77,
            ..Pop::default()
        };
        let pop = Pop { pop_id: "fra1".into(), ..said };
        let command = Command {
            request_id: request.into(),
            principal: "pop/fra1".into(),
            kind: Some(Kind::RegisterPop(pop)),
        };
        match state.apply(1, &command).outcome.kind {
            Some(outcome::Kind::Pop(pop)) if !pop.expired => pop.epoch,
            other => panic!("{other:?}"),
        }
    }

    fn record(state: &mut State, epoch: u64, expired: bool) -> Applied {
        let found =
            ["nowhere", "fra1"].map(|pop_id| Found { pop_id: pop_id.into(), epoch, expired });
        let found = found.to_vec();
        let kind = Some(Kind::RecordPops(RecordPops { found, ..RecordPops::default() }));
        let principal = "control/1".into();
        state.apply(2, &Command { principal, kind, ..Command::default() })
    }

    #[test]
    fn only_the_epoch_that_is_meant_expires_and_returns_once() {
        let mut state = State::bootstrap(&[1]);
        let epoch = register(&mut state, "r1");
        let before = (state.revision().0, state.audit_head().0);
        let done = record(&mut state, epoch, true);
        assert!(matches!(done.outcome, Outcome { kind: Some(outcome::Kind::Done(_)), .. }));
        let event = done.event.unwrap();
        assert_eq!(
            (event.prev_revision, event.revision, event.changes.len()),
            (before.0, before.0 + 1, 1)
        );
        assert!(state.pop("fra1").unwrap().expired);
        let row = state.audit_rows(before.1).next().unwrap();
        assert_eq!((row.principal.as_str(), row.action.as_str()), ("control/1", "record_pops"));
        assert!(record(&mut state, epoch, true).event.is_none(), "it is no news");
        assert!(record(&mut state, epoch, false).event.is_some());
        assert!(record(&mut state, epoch, true).event.is_some());
        // A new registration is a new life, and the old one's end does not touch it.
        assert_eq!(register(&mut state, "r2"), epoch + 1);
        assert!(!state.pop("fra1").unwrap().expired);
        assert!(record(&mut state, epoch, true).event.is_none());
        assert_eq!(state.audit_head().0, before.1 + 4);
    }

    fn fence(state: &mut State, epoch: u64) -> Applied {
        let fenced = vec![PopEpoch { pop_id: "fra1".into(), epoch }];
        let kind = Some(Kind::RecordPops(RecordPops { fenced, ..RecordPops::default() }));
        let principal = "control/1".into();
        state.apply(3, &Command { principal, kind, ..Command::default() })
    }

    #[test]
    fn a_fenced_epoch_never_returns_and_a_registration_is_a_new_life() {
        let mut state = State::bootstrap(&[1]);
        let epoch = register(&mut state, "r1");
        assert!(fence(&mut state, epoch + 1).event.is_none(), "no such epoch");
        for (expired, life) in [(false, "r2"), (true, "r3")] {
            let epoch = state.pop("fra1").unwrap().epoch;
            assert_eq!(record(&mut state, epoch, expired).event.is_some(), expired);
            assert_eq!(fence(&mut state, epoch).event.unwrap().changes.len(), 1);
            let row = state.audit_rows(state.audit_head().0 - 1).next().unwrap();
            assert_eq!(row.resource, "pops/fra1 fenced");
            let pop = state.pop("fra1").unwrap();
            assert!(pop.fenced && pop.expired, "whoever is over expired");
            // Nothing that is found of it later changes that.
            assert!(record(&mut state, epoch, false).event.is_none());
            assert!(record(&mut state, epoch, true).event.is_none());
            assert!(fence(&mut state, epoch).event.is_none());
            assert_eq!(state.pop("fra1"), Some(pop));
            assert_eq!(register(&mut state, life), epoch + 1);
            let pop = state.pop("fra1").unwrap();
            assert!(!pop.fenced && !pop.expired);
            assert!(fence(&mut state, epoch).event.is_none(), "of before");
        }
    }

    fn steer(state: &mut State, request: &str, cordoned: bool, draining: bool) -> Applied {
        let steer = SteerPop { pop_id: "fra1".into(), cordoned, draining };
        let (request_id, principal) = (request.into(), "operator/anna".into());
        state.apply(4, &Command { request_id, principal, kind: Some(Kind::SteerPop(steer)) })
    }

    #[test]
    fn what_an_operator_wants_outlives_the_process() {
        let mut state = State::bootstrap(&[1]);
        let refused = steer(&mut state, "s0", true, false);
        let Some(outcome::Kind::Rejected(refused)) = refused.outcome.kind else { panic!() };
        assert!(refused.reason() == Reason::NotFound && refused.message.contains("\"fra1\""));
        let epoch = register(&mut state, "r1");
        let wants = |state: &State| {
            let pop = state.pop("fra1").unwrap();
            (pop.cordoned, pop.draining)
        };
        for (at, (asked, wanted)) in [
            ((true, false), (true, false)),
            ((true, true), (true, true)),
            ((false, true), (true, true)),
            ((true, false), (true, false)),
            ((false, false), (false, false)),
            ((true, true), (true, true)),
        ]
        .into_iter()
        .enumerate()
        {
            let before = wants(&state);
            let done = steer(&mut state, &format!("s{}", at + 1), asked.0, asked.1);
            assert!(matches!(done.outcome.kind, Some(outcome::Kind::Pop(_))));
            assert_eq!((wants(&state), done.event.is_some()), (wanted, wanted != before));
        }
        // Not what happens to its processes.
        record(&mut state, epoch, true);
        fence(&mut state, epoch);
        assert_eq!(wants(&state), (true, true));
        register(&mut state, "r2");
        assert_eq!(wants(&state), (true, true));
    }
}
