//! Routes: which trunks a prefix leaves through.

use proto::control::{Resource, Route, resource, resource_key};
use proto::raft::{Done, Reason, outcome};

use super::{Answer, State, Step, Store, refuse};

/// Most routes of a mesh.
pub(crate) const ROUTES_MAX: usize = 1_000_000;

impl<S: Store> State<S> {
    pub(super) fn put_route(&mut self, route: &Route, step: &mut Step) -> Answer {
        self.check_candidates(&route.candidates)?;
        match self.tables.get::<Route>(&route.route_id) {
            Some(old) => self.index.unuse_trunks(&old.candidates),
            None if self.index.routes >= ROUTES_MAX => {
                return refuse(Reason::Limit, format!("there are {ROUTES_MAX} routes already"));
            }
            None => self.index.routes += 1,
        }
        self.index.use_trunks(&route.candidates);
        self.tables.put(route);
        step.put(Resource { kind: Some(resource::Kind::Route(route.clone())) });
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_route(&mut self, route_id: &str, step: &mut Step) -> Answer {
        let Some(old) = self.tables.get::<Route>(route_id) else {
            return refuse(Reason::NotFound, format!("there is no route {route_id}"));
        };
        self.index.routes = self.index.routes.saturating_sub(1);
        self.index.unuse_trunks(&old.candidates);
        self.tables.delete::<Route>(route_id);
        step.delete(resource_key::Kind::RouteId(route_id.into()));
        Ok(outcome::Kind::Done(Done {}))
    }
}
