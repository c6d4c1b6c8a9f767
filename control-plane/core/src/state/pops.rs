//! POPs: who they are, where they are reached, and their epoch.

use proto::control::{Pop, Resource, resource};
use proto::raft::{Reason, outcome};

use super::{Answer, State, Step, Store, refuse};

/// Most POPs of a mesh.
pub(crate) const POPS_MAX: usize = 10_000;

impl<S: Store> State<S> {
    /// Enters or renews a POP. Its epoch grows, so that peers refuse a process of before.
    pub(super) fn register_pop(&mut self, pop: &Pop, step: &mut Step) -> Answer {
        let epoch = match self.tables.get::<Pop>(&pop.pop_id) {
            Some(known) => known.epoch.saturating_add(1),
            None if self.index.pops >= POPS_MAX => {
                return refuse(Reason::Limit, format!("there are {POPS_MAX} POPs already"));
            }
            None => {
                self.index.pops += 1;
                1
            }
        };
        let pop = Pop { epoch, ..pop.clone() };
        self.tables.put(&pop);
        step.put(Resource { kind: Some(resource::Kind::Pop(pop.clone())) });
        Ok(outcome::Kind::Pop(pop))
    }
}
