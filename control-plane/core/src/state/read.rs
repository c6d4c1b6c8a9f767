//! Reading the state.

use proto::control::{Pop, Resource, Route, Trunk, resource};
use proto::id::Revision;

use sha2::{Digest, Sha256};

use super::numbers::key::HIGHEST;
use super::numbers::record::takes_calls;
use super::tables::Meta;
use super::{State, Store};
use crate::group::GroupId;

impl<S: Store> State<S> {
    /// Position in the history of resource changes.
    pub fn revision(&self) -> Revision {
        Revision(self.tables.meta_u64(Meta::Revision))
    }

    /// Which group this is the state of.
    pub fn group(&self) -> GroupId {
        GroupId::of_sequence(self.tables.meta_u64(Meta::Sequence))
    }

    /// Log time of the last applied command, Unix ms.
    pub fn log_time_ms(&self) -> u64 {
        self.tables.meta_u64(Meta::LogTime)
    }

    /// Empty until the first command of the cluster.
    pub fn cluster_id(&self) -> String {
        self.tables.meta(Meta::Cluster, |id| String::from_utf8_lossy(id).into_owned())
    }

    /// Who votes.
    pub fn voters(&self) -> Vec<u64> {
        self.conf().voters
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

    /// Every resource that watchers see: POPs, trunks, routes, numbers that take calls.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        let pops = self.pops().map(resource::Kind::Pop);
        let trunks = self.trunks().map(resource::Kind::Trunk);
        let routes = self.routes().map(resource::Kind::Route);
        let numbers = self.touched_in(1, HIGHEST);
        let numbers = numbers.filter(|(_, record)| takes_calls(record.state()));
        let numbers = numbers.filter_map(|(number, record)| {
            Some(self.view(number, self.block_of(number)?.record.shelf, &record))
        });
        let kinds = pops.chain(trunks).chain(routes).chain(numbers.map(resource::Kind::Number));
        kinds.map(|kind| Resource { kind: Some(kind) })
    }

    /// Log time at which the next thing ends by itself.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        self.index.expiries.first().map(|(due_ms, _)| *due_ms)
    }

    /// Hash of all tables: equal on all nodes at the same log index.
    pub fn hash(&self) -> [u8; 32] {
        let (_, chain) = self.audit_head();
        Sha256::new().chain_update(self.tables.hash()).chain_update(chain).finalize().into()
    }

    /// All tables by key, as storage and snapshots hold them.
    pub fn entries(&self) -> impl Iterator<Item = (S::Bytes<'_>, S::Bytes<'_>)> {
        self.tables.entries()
    }

    /// What keeps the records.
    pub fn store(&self) -> &S {
        self.tables.store()
    }

    /// How many entries the tables have.
    pub fn entry_count(&self) -> usize {
        self.tables.len()
    }
}
