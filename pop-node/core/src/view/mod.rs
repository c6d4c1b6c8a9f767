//! The local copy of what the control plane agreed on: POPs, trunks, routes, numbers.
//!
//! A snapshot, then events; each event names the revision before it, so a missed one is seen
//! ([`Gap`]) and the shell begins anew. A call reads only this copy (DESIGN: a call in progress
//! never waits for the control plane). Resources with a key we cannot read are left out and
//! counted, not fatal: a newer control plane may know more than we do.
//!
//! Deliberately absent: any notion of how fresh the copy is. An old view still routes calls.

mod acl;
mod disk;

use std::collections::{BTreeMap, BTreeSet};

use proto::control::change::Kind as ChangeKind;
use proto::control::resource::Kind as ResourceKind;
use proto::control::resource_key::Kind as KeyKind;
use proto::control::{Event, Number, Pop, Resource, Route, Trunk};
use proto::id::{PopId, Revision, RouteId, TrunkId};

pub use acl::{Acl, Block};
pub use disk::DiskError;

/// What the control plane sent.
#[derive(Debug, Clone, PartialEq)]
pub enum ViewUpdate {
    /// Everything, at one revision.
    Snapshot {
        /// Which history the revision belongs to.
        cluster_id: String,
        /// The revision.
        revision: Revision,
        /// All resources.
        resources: Vec<Resource>,
    },
    /// What one revision changed.
    Event(Event),
}

/// An event does not follow what we hold: something was missed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the view is at revision {held}, the event follows {follows}: a new snapshot is needed")]
pub struct Gap {
    /// What we hold.
    pub held: Revision,
    /// What the event follows.
    pub follows: Revision,
}

/// The tables.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct View {
    cluster_id: String,
    revision: Revision,
    pops: BTreeMap<PopId, Pop>,
    trunks: BTreeMap<TrunkId, Trunk>,
    routes: BTreeMap<RouteId, Route>,
    /// Routes again, by prefix; of several with the same prefix the first by id counts.
    prefixes: BTreeMap<String, BTreeSet<RouteId>>,
    numbers: BTreeMap<String, Number>,
    acl: Acl,
    skipped: u64,
}

impl View {
    /// Applies what the control plane sent; on a gap nothing changes.
    pub fn apply(&mut self, update: ViewUpdate) -> Result<Revision, Gap> {
        match update {
            ViewUpdate::Snapshot { cluster_id, revision, resources } => {
                *self = Self { cluster_id, revision, skipped: self.skipped, ..Self::default() };
                resources.into_iter().for_each(|resource| self.put(resource));
            }
            ViewUpdate::Event(event) => self.event(event)?,
        }
        Ok(self.revision)
    }

    fn event(&mut self, event: Event) -> Result<(), Gap> {
        let (held, follows) = (self.revision, Revision(event.prev_revision));
        if Revision(event.revision) <= held {
            // Seen already: a watch may begin with what we have.
            return Ok(());
        }
        if follows != held {
            return Err(Gap { held, follows });
        }
        for change in event.changes {
            match change.kind {
                Some(ChangeKind::Put(resource)) => self.put(resource),
                Some(ChangeKind::Delete(key)) => self.delete(key.kind),
                None => self.skipped += 1,
            }
        }
        self.revision = Revision(event.revision);
        Ok(())
    }

    fn put(&mut self, resource: Resource) {
        match resource.kind {
            Some(ResourceKind::Pop(pop)) => match PopId::new(&pop.pop_id) {
                Ok(id) => _ = self.pops.insert(id, pop),
                Err(_) => self.skipped += 1,
            },
            Some(ResourceKind::Trunk(trunk)) => match TrunkId::new(&trunk.trunk_id) {
                Ok(id) => {
                    self.delete_trunk(&id);
                    self.acl.insert(&id, &trunk);
                    self.trunks.insert(id, trunk);
                }
                Err(_) => self.skipped += 1,
            },
            Some(ResourceKind::Route(route)) => match RouteId::new(&route.route_id) {
                Ok(id) => {
                    self.delete_route(&id);
                    self.prefixes.entry(route.prefix.clone()).or_default().insert(id.clone());
                    self.routes.insert(id, route);
                }
                Err(_) => self.skipped += 1,
            },
            Some(ResourceKind::Number(number)) => {
                self.numbers.insert(number.e164.clone(), number);
            }
            None => self.skipped += 1,
        }
    }

    fn delete(&mut self, key: Option<KeyKind>) {
        let known = match key {
            Some(KeyKind::PopId(id)) => PopId::new(&id).map(|id| self.pops.remove(&id)).is_ok(),
            Some(KeyKind::TrunkId(id)) => {
                TrunkId::new(&id).map(|id| self.delete_trunk(&id)).is_ok()
            }
            Some(KeyKind::RouteId(id)) => {
                RouteId::new(&id).map(|id| self.delete_route(&id)).is_ok()
            }
            Some(KeyKind::E164(e164)) => {
                self.numbers.remove(&e164);
                true
            }
            None => false,
        };
        self.skipped += u64::from(!known);
    }

    fn delete_trunk(&mut self, id: &TrunkId) {
        if let Some(old) = self.trunks.remove(id) {
            self.acl.remove(id, &old);
        }
    }

    fn delete_route(&mut self, id: &RouteId) {
        let Some(old) = self.routes.remove(id) else { return };
        if let Some(ids) = self.prefixes.get_mut(&old.prefix) {
            ids.remove(id);
            if ids.is_empty() {
                self.prefixes.remove(&old.prefix);
            }
        }
    }

    /// The history the revision belongs to; empty before the first snapshot.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    /// What we hold; 0 before the first snapshot.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Resources left out because their key does not parse.
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    /// A POP.
    pub fn pop(&self, id: &PopId) -> Option<&Pop> {
        self.pops.get(id)
    }

    /// An operator wants this POP to take no new calls.
    pub fn is_cordoned(&self, id: &PopId) -> bool {
        self.pops.get(id).is_some_and(|pop| pop.cordoned || pop.draining)
    }

    /// All POPs, by id.
    pub fn pops(&self) -> impl Iterator<Item = (&PopId, &Pop)> {
        self.pops.iter()
    }

    /// A trunk.
    pub fn trunk(&self, id: &TrunkId) -> Option<&Trunk> {
        self.trunks.get(id)
    }

    /// All trunks, by id.
    pub fn trunks(&self) -> impl Iterator<Item = (&TrunkId, &Trunk)> {
        self.trunks.iter()
    }

    /// All routes, by id.
    pub fn routes(&self) -> impl Iterator<Item = (&RouteId, &Route)> {
        self.routes.iter()
    }

    /// The route with exactly this prefix.
    pub fn route_by_prefix(&self, prefix: &str) -> Option<&Route> {
        self.routes.get(self.prefixes.get(prefix)?.first()?)
    }

    /// A number of the inventory, by `+` and digits.
    pub fn number(&self, e164: &str) -> Option<&Number> {
        self.numbers.get(e164)
    }

    /// How many numbers.
    pub fn numbers(&self) -> usize {
        self.numbers.len()
    }

    /// Who may call from where.
    pub fn acl(&self) -> &Acl {
        &self.acl
    }
}

#[cfg(test)]
mod tests {
    use proto::control::{Change, ResourceKey};

    use super::*;

    fn put(kind: ResourceKind) -> Change {
        Change { kind: Some(ChangeKind::Put(Resource { kind: Some(kind) })) }
    }

    fn trunk(id: &str) -> ResourceKind {
        ResourceKind::Trunk(Trunk { trunk_id: id.to_owned(), ..Trunk::default() })
    }

    fn route(id: &str, prefix: &str) -> ResourceKind {
        let prefix = prefix.to_owned();
        ResourceKind::Route(Route { route_id: id.to_owned(), prefix, candidates: Vec::new() })
    }

    fn event(prev_revision: u64, revision: u64, changes: Vec<Change>) -> ViewUpdate {
        ViewUpdate::Event(Event { prev_revision, revision, changes })
    }

    fn snapshot(revision: u64) -> ViewUpdate {
        let resource = |kind| Resource { kind: Some(kind) };
        ViewUpdate::Snapshot {
            cluster_id: "c1".to_owned(),
            revision: Revision(revision),
            resources: vec![resource(trunk("carrier")), resource(route("de", "49"))],
        }
    }

    #[test]
    fn events_follow_or_nothing_changes() {
        let mut view = View::default();
        assert_eq!(view.apply(snapshot(7)), Ok(Revision(7)));
        assert_eq!(view.apply(event(7, 9, vec![put(trunk("pbx"))])), Ok(Revision(9)));
        assert_eq!(view.apply(event(7, 9, vec![put(trunk("again"))])), Ok(Revision(9)));
        let before = view.clone();
        let gap = Gap { held: Revision(9), follows: Revision(10) };
        assert_eq!(view.apply(event(10, 11, vec![put(trunk("x"))])), Err(gap));
        assert_eq!(view, before);
        assert_eq!(view.trunks().count(), 2);
    }

    #[test]
    fn a_route_that_moves_leaves_its_prefix() {
        let mut view = View::default();
        view.apply(snapshot(1)).unwrap();
        view.apply(event(1, 2, vec![put(route("de", "4930")), put(route("b", "4930"))])).unwrap();
        assert!(view.route_by_prefix("49").is_none());
        assert_eq!(view.route_by_prefix("4930").unwrap().route_id, "b");
        let key = ResourceKey { kind: Some(KeyKind::RouteId("b".to_owned())) };
        view.apply(event(2, 3, vec![Change { kind: Some(ChangeKind::Delete(key)) }])).unwrap();
        assert_eq!(view.route_by_prefix("4930").unwrap().route_id, "de");
    }

    #[test]
    fn unreadable_keys_are_left_out_and_counted() {
        let mut view = View::default();
        view.apply(event(0, 1, vec![put(trunk("Not A Label")), Change { kind: None }])).unwrap();
        assert_eq!((view.trunks().count(), view.skipped()), (0, 2));
    }

    #[test]
    fn the_disk_copy_round_trips_and_damage_is_seen() {
        let mut view = View::default();
        view.apply(snapshot(7)).unwrap();
        let bytes = view.encode();
        assert_eq!(View::decode(&bytes).unwrap(), view);
        assert_eq!(View::decode(b"something else"), Err(DiskError::Mark));
        for cut in [8, 20, bytes.len() - 1] {
            assert_eq!(View::decode(&bytes[..cut]), Err(DiskError::Hash));
        }
        let mut flipped = bytes.clone();
        *flipped.last_mut().unwrap() ^= 1;
        assert_eq!(View::decode(&flipped), Err(DiskError::Hash));
    }
}
