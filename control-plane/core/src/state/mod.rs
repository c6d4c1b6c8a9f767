//! The replicated state and the only way it changes.
//!
//! [`State::apply`] is total and deterministic: any command at any state gives an outcome, the
//! same on every node. A user error is an outcome. No clock (log time is an argument), RNG, hash
//! order or float. What an outcome says in words is not stored, or a better wording in the next
//! version would make replicas differ; limits and rules here change only behind a feature level.
//!
//! Invariants: one record per number; `generation` never falls; each (principal, request id) has
//! one outcome for seven days; nothing leaves quarantine before its time, except to its last owner.
//!
//! Deliberately not here: checks of form (`crate::command`: they may change with a version) and
//! permissions (the API's, by certificate).

mod access;
mod anew;
pub mod audit;
mod compliance;
mod hash;
mod headline;
pub mod limits;
mod members;
pub(crate) mod numbers;
mod pops;
mod porting;
mod quarantine;
mod read;
mod rehearse;
mod requests;
mod reservations;
mod routes;
pub mod store;
mod tables;
mod tenants;
pub mod tokens;
mod trunks;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use proto::control::{
    AuditRow, Change, ClusterMember, ComplianceRecord, Event, NumberPolicy, Pop, Requirement,
    Resource, ResourceKey, Role, Route, Token, Trunk,
};
use proto::control::{change, resource_key};
use proto::raft::command::Kind;
use proto::raft::{Command, Done, Outcome, Reason, Rejected, outcome};

pub use headline::Headline;
pub(crate) use members::changes_conf;
pub use members::{Conf, MEMBERS_MAX, VOTERS_MAX};
pub use numbers::caller_id::CallerIdQuery;
pub use numbers::counts::NumberCounts;
pub use numbers::search::{NumberPage, NumberQuery};
pub use tables::{TableChange, TableError};

use crate::access::Policy;
use crate::group::GroupId;

use access::BindingRecord;
use numbers::index::NumberIndex;
use numbers::key;
use numbers::record::{BlockRecord, NumberRecord, ShelfRecord};
use porting::PortRecord;
use requests::{RequestName, RequestRecord, Seen};
use reservations::ReservationRecord;
use store::{Memory, Store};
use tables::{AUDIT_TABLE, Digests, META_TABLE, Meta, Record, Row, Tables};
use tenants::TenantRecord;

/// Most expiries one command carries out. More wait for the next command.
const EXPIRIES_PER_COMMAND: usize = 1_000;

/// What applying one command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// For the proposer.
    pub outcome: Outcome,
    /// For storage.
    pub changes: Vec<TableChange>,
    /// For watchers, when a resource changed. May be empty of changes: numbers that are not
    /// ACTIVE count as changed, but are not shown.
    pub event: Option<Event>,
    /// The request was answered before.
    pub repeated: bool,
}

/// The replicated state, in whatever keeps its records.
#[derive(Debug, Clone, Default)]
pub struct State<S = Memory> {
    tables: Tables<S>,
    index: Index,
}

/// What is derived from the tables, for speed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Index {
    numbers: NumberIndex,
    /// By log time.
    expiries: BTreeSet<(u64, Expiry)>,
    /// Principal → request ids remembered.
    requests: BTreeMap<String, u64>,
    /// Trunk → routes and numbers that leave through it.
    trunk_uses: BTreeMap<String, u64>,
    /// Tenant → compliance records.
    compliance_owners: BTreeMap<String, u64>,
    compliance_records: u64,
    port_orders: u64,
    pops: usize,
    trunks: usize,
    routes: usize,
    /// Shared with the API, which asks it for each request.
    policy: Arc<Policy>,
    tokens: usize,
    chain: audit::Chain,
}

/// What ends at its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Expiry {
    /// Rest or deadline of this number.
    Number(u64),
    /// The wait for the agreed date of this port order.
    Port(u64),
    /// What is held by this reservation.
    Reservation(u64),
    /// Record of this name.
    Request(RequestName),
    /// Token of this id.
    Token(u64),
}

/// What a command comes to.
pub(crate) type Answer = Result<outcome::Kind, Rejected>;

/// Whether a command is carried out.
enum Once {
    First,
    /// Not at all.
    Refused(Rejected),
    /// It was, and came to this.
    Repeated(Box<Outcome>),
}

/// Resource changes of one command.
#[derive(Debug, Default)]
pub(crate) struct Step {
    changes: Vec<Change>,
    changed: bool,
}

impl Step {
    fn put(&mut self, resource: Resource) {
        self.push(change::Kind::Put(resource));
    }

    fn delete(&mut self, key: resource_key::Kind) {
        self.push(change::Kind::Delete(ResourceKey { kind: Some(key) }));
    }

    /// A change that watchers are not shown.
    fn unseen(&mut self) {
        self.changed = true;
    }

    fn push(&mut self, kind: change::Kind) {
        self.changed = true;
        self.changes.push(Change { kind: Some(kind) });
    }
}

impl State {
    /// The state every node of a new cluster begins with, at log index 1.
    pub fn bootstrap(voters: &[u64]) -> Self {
        Self::bootstrap_in(Memory::default(), GroupId::ROOT, voters)
    }

    /// From stored tables or a snapshot.
    pub fn from_tables(
        entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>,
    ) -> Result<Self, TableError> {
        Self::from_tables_in(Memory::default(), entries)
    }
}

impl<S: Store> State<S> {
    /// [`State::bootstrap`] in an empty store, of any group.
    pub fn bootstrap_in(store: S, group: GroupId, voters: &[u64]) -> Self {
        let tables = Tables::load(store, []);
        let mut state = Self { tables, index: Index::default() };
        if group != GroupId::ROOT {
            state.tables.put_meta_u64(Meta::Sequence, group.sequence());
        }
        state.set_conf(&Conf { voters: voters.to_vec(), ..Conf::default() });
        state
    }

    /// [`State::from_tables`] in an empty store.
    pub fn from_tables_in(
        store: S,
        entries: impl IntoIterator<Item = (Vec<u8>, Bytes)>,
    ) -> Result<Self, TableError> {
        let tables = Tables::load(store, entries);
        let index = Index::load(&tables)?;
        Ok(Self { tables, index })
    }

    /// Applies one command of the log.
    pub fn apply(&mut self, log_time_ms: u64, command: &Command) -> Applied {
        let now_ms = log_time_ms.max(self.log_time_ms());
        self.tables.put_meta_u64(Meta::LogTime, now_ms);
        let mut step = Step::default();
        self.expire(now_ms, &mut step);
        let expired = Some(self.tables.take_digests()).filter(|_| step.changed);
        let answer = match self.once(command, now_ms) {
            Once::First => self.execute(command, now_ms, &mut step),
            Once::Refused(rejected) => Err(rejected),
            Once::Repeated(outcome) => {
                let event = self.commit(step);
                expired.iter().for_each(|digests| self.audit_expiry(digests));
                let changes = self.tables.take_changes();
                return Applied { outcome: worded(*outcome), changes, event, repeated: true };
            }
        };
        let event = self.commit(step);
        let kind = answer.unwrap_or_else(outcome::Kind::Rejected);
        let outcome = Outcome { revision: self.revision().0, kind: Some(kind) };
        let digests = self.tables.take_digests();
        expired.iter().for_each(|digests| self.audit_expiry(digests));
        if !command.request_id.is_empty() {
            self.record_unless_refused(command, &outcome, &digests, now_ms);
        } else if event.is_some() && matches!(command.kind, Some(Kind::RecordPops(_))) {
            self.audit(command, &outcome, &digests);
        }
        Applied { outcome, changes: self.tables.take_changes(), event, repeated: false }
    }

    /// What changed outside of `apply`: the beginning.
    pub(crate) fn take_changes(&mut self) -> Vec<TableChange> {
        self.tables.take_changes()
    }

    fn once(&self, command: &Command, now_ms: u64) -> Once {
        if command.request_id.is_empty() {
            return match &command.kind {
                Some(
                    Kind::AdvanceClock(_)
                    | Kind::FoundMembers(_)
                    | Kind::HashCheck(_)
                    | Kind::InitCluster(_)
                    | Kind::RecordPops(_)
                    | Kind::SetFeatureLevel(_),
                ) => Once::First,
                _ => Once::Refused(rejected(Reason::Invalid, "request_id is missing")),
            };
        }
        match self.seen(command, now_ms) {
            Seen::New => match self.check_requests_limit(&command.principal) {
                Ok(()) => Once::First,
                Err(rejected) => Once::Refused(rejected),
            },
            Seen::Same(outcome) => Once::Repeated(outcome),
            Seen::Other => Once::Refused(rejected(
                Reason::IdempotencyKeyReused,
                "this request_id was used for a different request: choose a new one",
            )),
        }
    }

    /// Everything is remembered and audited but the refusal to look at it at all.
    fn record_unless_refused(
        &mut self,
        command: &Command,
        outcome: &Outcome,
        digests: &Digests,
        now_ms: u64,
    ) {
        let reason = match &outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => rejected.reason(),
            _ => Reason::Unspecified,
        };
        let refused = reason == Reason::IdempotencyKeyReused
            || (reason == Reason::Limit && self.check_requests_limit(&command.principal).is_err());
        if !refused {
            self.audit(command, outcome, digests);
            self.remember(command, &wordless(outcome), now_ms);
        }
    }

    fn execute(&mut self, command: &Command, now_ms: u64, step: &mut Step) -> Answer {
        match &command.kind {
            Some(Kind::RegisterPop(pop)) => self.register_pop(pop, step),
            Some(Kind::RecordPops(record)) => self.record_pops(record, step),
            Some(Kind::SteerPop(steer)) => self.steer_pop(steer, step),
            Some(Kind::PutTrunk(trunk)) => self.put_trunk(trunk, step),
            Some(Kind::DeleteTrunk(trunk_id)) => self.delete_trunk(trunk_id, step),
            Some(Kind::PutRoute(route)) => self.put_route(route, step),
            Some(Kind::DeleteRoute(route_id)) => self.delete_route(route_id, step),
            Some(Kind::PutRole(role)) => self.put_role(role, step),
            Some(Kind::DeleteRole(role_id)) => self.delete_role(role_id, step),
            Some(Kind::Bind(binding)) => self.bind(binding, step),
            Some(Kind::Unbind(binding)) => self.unbind(binding, step),
            Some(Kind::ChangeMembers(change)) => self.change_members(change),
            Some(Kind::FoundMembers(found)) => self.found_members(found),
            Some(Kind::SetFeatureLevel(level)) => self.set_feature_level(*level),
            Some(Kind::CreateToken(create)) => {
                self.create_token(create, &command.principal, now_ms, step)
            }
            Some(Kind::RedeemToken(redeem)) => self.redeem_token(redeem, now_ms, step),
            Some(Kind::RevokeToken(token_id)) => self.revoke_token(token_id, step),
            // Only audited.
            Some(Kind::RecordReads(_)) => Ok(outcome::Kind::Done(Done {})),
            Some(Kind::InitCluster(id)) => self.init_cluster(id),
            // Log time moved on already; the hash is compared by the replica.
            Some(Kind::AdvanceClock(_) | Kind::HashCheck(_)) => Ok(outcome::Kind::Done(Done {})),
            Some(kind) => self.execute_number(kind, now_ms, step),
            None => refuse(Reason::Invalid, "the command is empty"),
        }
    }

    /// Numbers, tenants, porting, compliance.
    fn execute_number(&mut self, kind: &Kind, now_ms: u64, step: &mut Step) -> Answer {
        match kind {
            Kind::ImportNumbers(import) => self.import_numbers(import, now_ms, step),
            Kind::ImportBlocks(import) => self.import_blocks(import, now_ms, step),
            Kind::AllocateNumber(allocate) => self.allocate_number(allocate, now_ms, step),
            Kind::AllocateNumbers(allocate) => self.allocate_numbers(allocate, now_ms, step),
            Kind::ReserveNumbers(reserve) => self.reserve_numbers(reserve, now_ms, step),
            Kind::ExtendReservation(extend) => self.extend_reservation(extend, now_ms, step),
            Kind::CancelReservation(cancel) => self.cancel_reservation(cancel, now_ms, step),
            Kind::ActivateNumber(activate) => self.activate_number(activate, now_ms, step),
            Kind::RejectNumber(reject) => self.reject_number(reject, now_ms, step),
            Kind::ReleaseNumber(release) => self.release_number(release, now_ms, step),
            Kind::SuspendNumber(suspend) => self.suspend_number(suspend, now_ms, step),
            Kind::ResumeNumber(resume) => self.resume_number(resume, now_ms, step),
            Kind::TransferNumber(transfer) => self.transfer_number(transfer, now_ms, step),
            Kind::UpdateNumber(update) => self.update_number(update, now_ms, step),
            Kind::BlockNumbers(block) => self.block_numbers(block, now_ms, step),
            Kind::UnblockNumbers(unblock) => self.unblock_numbers(unblock, now_ms, step),
            Kind::DecommissionNumbers(numbers) => self.decommission_numbers(numbers, now_ms, step),
            Kind::CreatePortOrder(create) => self.create_port_order(create, now_ms, step),
            Kind::RecordPortEvent(event) => self.record_port_event(event, now_ms, step),
            Kind::PutTenant(put) => self.put_tenant(put, step),
            Kind::DeleteTenant(delete) => self.delete_tenant(delete, step),
            Kind::PutRequirement(put) => self.put_requirement(put, step),
            Kind::DeleteRequirement(key) => self.delete_requirement(key, step),
            Kind::PutNumberPolicy(put) => self.put_number_policy(put, step),
            Kind::DeleteNumberPolicy(key) => self.delete_number_policy(key, step),
            Kind::PutComplianceRecord(put) => self.put_compliance_record(put, now_ms, step),
            Kind::DeleteComplianceRecord(id) => self.delete_compliance_record(id, step),
            _ => refuse(Reason::Invalid, "this version does not know the command"),
        }
    }

    fn init_cluster(&mut self, id: &str) -> Answer {
        if !self.tables.meta(Meta::Cluster, <[u8]>::is_empty) {
            return refuse(Reason::AlreadyExists, "the cluster has an id already");
        }
        self.tables.put_meta(Meta::Cluster, id.as_bytes().to_vec());
        Ok(outcome::Kind::Done(Done {}))
    }

    /// Ends what is due, oldest first, ties by name.
    fn expire(&mut self, now_ms: u64, step: &mut Step) {
        let mut work = 0;
        while work < EXPIRIES_PER_COMMAND {
            let Some((due_ms, expiry)) = self.index.expiries.first().copied() else { return };
            if due_ms > now_ms {
                return;
            }
            work += self.end(&expiry, now_ms, step).max(1);
            // Gone with its record; said again so that this loop ends whatever the tables hold.
            self.index.expiries.remove(&(due_ms, expiry));
        }
    }

    /// Ends one thing; says how many records it touched.
    fn end(&mut self, expiry: &Expiry, now_ms: u64, step: &mut Step) -> usize {
        match expiry {
            Expiry::Number(number) => self.end_number(*number, step),
            Expiry::Port(order) => return self.end_port(*order, now_ms, step),
            Expiry::Reservation(seq) => return self.end_reservation(*seq, step),
            Expiry::Request(name) => self.forget(name),
            Expiry::Token(id) => {
                self.forget_token(&tokens::name(*id));
                step.unseen();
            }
        }
        1
    }

    fn commit(&mut self, step: Step) -> Option<Event> {
        if !step.changed {
            return None;
        }
        let prev_revision = self.revision().0;
        let revision = prev_revision.saturating_add(1);
        self.tables.put_meta_u64(Meta::Revision, revision);
        Some(Event { prev_revision, revision, changes: step.changes })
    }
}

impl Index {
    /// From the tables alone.
    fn load<S: Store>(tables: &Tables<S>) -> Result<Self, TableError> {
        let mut index = Self::default();
        let mut due = Vec::new();
        for (entry, (key, value)) in tables.entries().enumerate() {
            let (key, value) = (key.as_ref(), value.as_ref());
            let table = key.first().copied().map_or('?', char::from);
            index.load_entry(key, value, &mut due).ok_or(TableError { table, entry })?;
        }
        index.load_numbers(tables, &mut due)?;
        index.expiries = due.into_iter().collect();
        Ok(index)
    }

    /// Takes one stored entry in; `None` when it does not decode or is not under its own name.
    /// What ends by itself goes to `due`.
    fn load_entry(&mut self, key: &[u8], value: &[u8], due: &mut Vec<(u64, Expiry)>) -> Option<()> {
        let (table, name) = key.split_first()?;
        match *table {
            META_TABLE => {}
            AUDIT_TABLE => self.load_audit(AuditRow::decode(value).ok()?),
            // See `load_numbers`.
            BlockRecord::BYTE | NumberRecord::BYTE | ShelfRecord::BYTE | TenantRecord::BYTE => {}
            ComplianceRecord::TABLE => self.add_compliance_record(&record(name, value)?),
            NumberPolicy::TABLE => drop(record::<NumberPolicy>(name, value)?),
            Requirement::TABLE => drop(record::<Requirement>(name, value)?),
            PortRecord::BYTE => {
                let seq = key::from_bytes(name)?;
                self.port_orders += 1;
                due.extend(PortRecord::decode(value).ok()?.expiry(seq));
            }
            ReservationRecord::BYTE => {
                let seq = key::from_bytes(name)?;
                let until_ms = ReservationRecord::decode(value).ok()?.until_ms;
                due.push((until_ms, Expiry::Reservation(seq)));
            }
            ClusterMember::TABLE => {
                record::<ClusterMember>(name, value)?;
            }
            Pop::TABLE => {
                record::<Pop>(name, value)?;
                self.pops += 1;
            }
            Token::TABLE => due.push(self.count_token(&record(name, value)?)?),
            Role::TABLE => self.load_role(&record(name, value)?),
            BindingRecord::TABLE => self.load_binding(&record(name, value)?),
            RequestRecord::BYTE => {
                let request = RequestRecord::decode(value).ok()?;
                due.push((request.kept_until_ms, Expiry::Request(name.try_into().ok()?)));
                self.count_request(&request.principal);
            }
            Route::TABLE => {
                self.use_trunks(&record::<Route>(name, value)?.candidates);
                self.routes += 1;
            }
            Trunk::TABLE => {
                record::<Trunk>(name, value)?;
                self.trunks += 1;
            }
            _ => return None,
        }
        Some(())
    }
}

fn record<R: Record>(name: &[u8], value: &[u8]) -> Option<R> {
    R::decode(value).ok().filter(|record| record.name().as_bytes() == name)
}

fn rejected(reason: Reason, message: impl Into<String>) -> Rejected {
    Rejected { reason: reason.into(), message: message.into() }
}

fn refuse(reason: Reason, message: impl Into<String>) -> Answer {
    Err(rejected(reason, message))
}

/// As it is stored.
fn wordless(outcome: &Outcome) -> Outcome {
    let mut outcome = outcome.clone();
    if let Some(outcome::Kind::Rejected(rejected)) = &mut outcome.kind {
        rejected.message.clear();
    }
    outcome
}

/// A stored outcome for people.
fn worded(mut outcome: Outcome) -> Outcome {
    if let Some(outcome::Kind::Rejected(rejected)) = &mut outcome.kind {
        let reason = rejected.reason().as_str_name();
        let reason = reason.strip_prefix("REASON_").unwrap_or(reason);
        rejected.message =
            format!("this request_id was answered before with {reason}: choose a new one");
    }
    outcome
}

#[cfg(test)]
mod tests;
