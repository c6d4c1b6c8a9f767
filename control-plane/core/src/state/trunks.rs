//! Trunks: connections to carriers and PBXs.

use proto::control::{Resource, RouteCandidate, Trunk, resource, resource_key};
use proto::raft::{Done, Reason, Rejected, outcome};

use super::{Answer, State, Step, Store, refuse, rejected};

/// Most trunks of a mesh.
pub(crate) const TRUNKS_MAX: usize = 100_000;

impl<S: Store> State<S> {
    pub(super) fn put_trunk(&mut self, trunk: &Trunk, step: &mut Step) -> Answer {
        if !self.tables.contains::<Trunk>(&trunk.trunk_id) {
            if self.index.trunks >= TRUNKS_MAX {
                return refuse(Reason::Limit, format!("there are {TRUNKS_MAX} trunks already"));
            }
            self.index.trunks += 1;
        }
        self.tables.put(trunk);
        step.put(Resource { kind: Some(resource::Kind::Trunk(trunk.clone())) });
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_trunk(&mut self, trunk_id: &str, step: &mut Step) -> Answer {
        if !self.tables.contains::<Trunk>(trunk_id) {
            return refuse(Reason::NotFound, format!("there is no trunk {trunk_id}"));
        }
        if let Some(uses) = self.index.trunk_uses.get(trunk_id) {
            let message = format!(
                "{uses} routes and numbers leave through trunk {trunk_id}: change them first"
            );
            return refuse(Reason::InUse, message);
        }
        self.index.trunks = self.index.trunks.saturating_sub(1);
        self.tables.delete::<Trunk>(trunk_id);
        step.delete(resource_key::Kind::TrunkId(trunk_id.into()));
        Ok(outcome::Kind::Done(Done {}))
    }

    /// All trunks of these candidates exist.
    pub(super) fn check_candidates(&self, candidates: &[RouteCandidate]) -> Result<(), Rejected> {
        match candidates.iter().find(|c| !self.tables.contains::<Trunk>(&c.trunk_id)) {
            None => Ok(()),
            Some(c) => Err(rejected(
                Reason::NotFound,
                format!("there is no trunk {}: create it first", c.trunk_id),
            )),
        }
    }
}

impl super::Index {
    pub(super) fn use_trunks(&mut self, candidates: &[RouteCandidate]) {
        for candidate in candidates {
            *self.trunk_uses.entry(candidate.trunk_id.clone()).or_default() += 1;
        }
    }

    pub(super) fn unuse_trunks(&mut self, candidates: &[RouteCandidate]) {
        for candidate in candidates {
            if let Some(uses) = self.trunk_uses.get_mut(&candidate.trunk_id) {
                *uses = uses.saturating_sub(1);
                if *uses == 0 {
                    self.trunk_uses.remove(&candidate.trunk_id);
                }
            }
        }
    }
}
