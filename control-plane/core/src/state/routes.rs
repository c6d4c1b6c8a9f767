//! Routes: which trunks a prefix leaves through.

use proto::control::{Resource, Route, resource, resource_key};
use proto::raft::{Outcome, Reason};

use super::{State, Step, done, rejected};

/// Most routes of a mesh.
pub(crate) const ROUTES_MAX: usize = 1_000_000;

impl State {
    pub(super) fn put_route(&mut self, route: &Route, step: &mut Step) -> Outcome {
        if let Err(outcome) = self.check_candidates(&route.candidates) {
            return outcome;
        }
        match self.tables.get::<Route>(&route.route_id) {
            Some(old) => self.index.unuse_trunks(&old.candidates),
            None if self.index.routes >= ROUTES_MAX => {
                return rejected(Reason::Limit, format!("there are {ROUTES_MAX} routes already"));
            }
            None => self.index.routes += 1,
        }
        self.index.use_trunks(&route.candidates);
        self.tables.put(route);
        step.put(Resource { kind: Some(resource::Kind::Route(route.clone())) });
        done()
    }

    pub(super) fn delete_route(&mut self, route_id: &str, step: &mut Step) -> Outcome {
        let Some(old) = self.tables.get::<Route>(route_id) else {
            return rejected(Reason::NotFound, format!("there is no route {route_id}"));
        };
        self.index.routes = self.index.routes.saturating_sub(1);
        self.index.unuse_trunks(&old.candidates);
        self.tables.delete::<Route>(route_id);
        step.delete(resource_key::Kind::RouteId(route_id.into()));
        done()
    }
}
