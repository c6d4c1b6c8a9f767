//! Reading the state.

use bytes::Bytes;
use proto::control::{Number, NumberState, Pop, Resource, Route, Trunk, resource};
use proto::id::Revision;

use super::State;
use super::tables::Meta;

/// Which numbers to list, in order of E.164.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberQuery<'a> {
    /// Only this pool.
    pub pool: Option<&'a str>,
    /// Only this state.
    pub state: Option<NumberState>,
    /// Only numbers after this one ("+" and digits).
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
}

/// Numbers by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberCounts {
    /// Free to allocate.
    pub available: u64,
    /// Owned.
    pub active: u64,
    /// Resting.
    pub quarantine: u64,
}

impl State {
    /// Position in the history of resource changes.
    pub fn revision(&self) -> Revision {
        Revision(self.tables.meta_u64(Meta::Revision))
    }

    /// Log time of the last applied command, Unix ms.
    pub fn log_time_ms(&self) -> u64 {
        self.tables.meta_u64(Meta::LogTime)
    }

    /// Empty until the first command of the cluster.
    pub fn cluster_id(&self) -> String {
        String::from_utf8_lossy(self.tables.meta(Meta::Cluster)).into_owned()
    }

    /// Raft voters this cluster began with.
    pub fn voters(&self) -> Vec<u64> {
        let bytes = self.tables.meta(Meta::Voters).chunks_exact(8);
        bytes.filter_map(|id| Some(u64::from_le_bytes(id.try_into().ok()?))).collect()
    }

    /// A POP.
    pub fn pop(&self, pop_id: &str) -> Option<Pop> {
        self.tables.get(pop_id)
    }

    /// All POPs, by id.
    pub fn pops(&self) -> impl Iterator<Item = Pop> + '_ {
        self.tables.scan(None)
    }

    /// A trunk.
    pub fn trunk(&self, trunk_id: &str) -> Option<Trunk> {
        self.tables.get(trunk_id)
    }

    /// All trunks, by id.
    pub fn trunks(&self) -> impl Iterator<Item = Trunk> + '_ {
        self.tables.scan(None)
    }

    /// A route.
    pub fn route(&self, route_id: &str) -> Option<Route> {
        self.tables.get(route_id)
    }

    /// All routes, by id.
    pub fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        self.tables.scan(None)
    }

    /// A number ("+" and digits).
    pub fn number(&self, e164: &str) -> Option<Number> {
        self.tables.get(e164)
    }

    /// Numbers, by E.164.
    pub fn numbers(&self, query: NumberQuery<'_>) -> Vec<Number> {
        self.tables
            .scan::<Number>(query.after)
            .filter(|number| query.pool.is_none_or(|pool| number.pool == pool))
            .filter(|number| query.state.is_none_or(|state| number.state() == state))
            .take(query.limit)
            .collect()
    }

    /// How many numbers are in each state.
    pub fn number_counts(&self) -> NumberCounts {
        self.index.counts
    }

    /// Every resource that watchers see: POPs, trunks, routes, ACTIVE numbers.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        let pops = self.pops().map(resource::Kind::Pop);
        let trunks = self.trunks().map(resource::Kind::Trunk);
        let routes = self.routes().map(resource::Kind::Route);
        let active = self.index.active.iter().filter_map(|e164| self.number(e164));
        let kinds = pops.chain(trunks).chain(routes).chain(active.map(resource::Kind::Number));
        kinds.map(|kind| Resource { kind: Some(kind) })
    }

    /// Log time at which the next thing ends by itself.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.index.expiries.first().map(|(due_ms, _)| *due_ms)
    }

    /// Hash of all tables: equal on all nodes at the same log index.
    pub fn hash(&self) -> [u8; 32] {
        self.tables.hash()
    }

    /// All tables by key, as storage and snapshots hold them.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&Vec<u8>, &Bytes)> {
        self.tables.entries()
    }
}
