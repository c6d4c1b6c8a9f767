//! Roles and bindings: the tables behind [`Policy`].
//!
//! Bindings that come with the software are in force without a record; removing one leaves a
//! record that says so, so that data directories from before have them too.

use std::sync::Arc;

use prost::Message;
use proto::control::{Binding, Role};
use proto::raft::{Done, Reason, outcome};

use super::tables::Record;
use super::{Answer, State, Step, Store, refuse};
use crate::access::{ADMIN, Policy, is_bootstrap, is_built_in};

/// Most roles of a mesh, those that come with the software included.
pub(crate) const ROLES_MAX: usize = 1_000;
/// Most bindings of a mesh.
pub(crate) const BINDINGS_MAX: usize = 10_000;

/// A binding as it is stored.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BindingRecord {
    #[prost(message, optional, tag = "1")]
    pub binding: Option<Binding>,
    /// It came with the software, and was removed.
    #[prost(bool, tag = "2")]
    pub removed: bool,
}

impl Record for BindingRecord {
    const TABLE: u8 = b'B';
    fn name(&self) -> String {
        // NUL is in no principal and no id.
        let Binding { principal, role_id, tenant, .. } = self.binding.clone().unwrap_or_default();
        format!("{principal}\0{role_id}\0{tenant}")
    }
}

impl Record for Role {
    const TABLE: u8 = b'R';
    fn name(&self) -> String {
        self.role_id.clone()
    }
}

impl<S: Store> State<S> {
    /// All roles and bindings in force.
    pub fn policy(&self) -> &Arc<Policy> {
        &self.index.policy
    }

    pub(super) fn put_role(&mut self, role: &Role, step: &mut Step) -> Answer {
        if is_built_in(&role.role_id) {
            let message =
                format!("role {} comes with the software: choose another id", role.role_id);
            return refuse(Reason::AlreadyExists, message);
        }
        let (roles, _) = self.index.policy.sizes();
        if roles >= ROLES_MAX && !self.index.policy.has_role(&role.role_id) {
            return refuse(Reason::Limit, format!("there are {ROLES_MAX} roles already"));
        }
        let role = Role { built_in: false, ..role.clone() };
        self.tables.put(&role);
        Arc::make_mut(&mut self.index.policy).put_role(&role);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_role(&mut self, role_id: &str, step: &mut Step) -> Answer {
        if is_built_in(role_id) {
            return refuse(Reason::InUse, format!("role {role_id} comes with the software"));
        }
        if !self.index.policy.has_role(role_id) {
            return refuse(Reason::NotFound, format!("there is no role {role_id}"));
        }
        let bindings = self.index.policy.bindings_of(role_id);
        if bindings > 0 {
            let message = format!("{bindings} bindings give role {role_id}: unbind them first");
            return refuse(Reason::InUse, message);
        }
        self.tables.delete::<Role>(role_id);
        Arc::make_mut(&mut self.index.policy).delete_role(role_id);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn bind(&mut self, binding: &Binding, step: &mut Step) -> Answer {
        let policy = &self.index.policy;
        if !policy.has_role(&binding.role_id) {
            let message = format!("there is no role {}: create it first", binding.role_id);
            return refuse(Reason::NotFound, message);
        }
        let (_, bindings) = policy.sizes();
        if bindings >= BINDINGS_MAX && !policy.is_bound(binding) {
            return refuse(Reason::Limit, format!("there are {BINDINGS_MAX} bindings already"));
        }
        let binding = Binding { built_in: false, ..binding.clone() };
        Arc::make_mut(&mut self.index.policy).bind(&binding);
        let record = BindingRecord { binding: Some(binding), removed: false };
        self.tables.put(&record);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn unbind(&mut self, binding: &Binding, step: &mut Step) -> Answer {
        let policy = &self.index.policy;
        if !policy.is_bound(binding) {
            let message = format!("{} is not bound to {}", binding.principal, binding.role_id);
            return refuse(Reason::NotFound, message);
        }
        if binding.role_id == ADMIN && policy.bindings_of(ADMIN) == 1 {
            let message = "this is the last binding to role admin, nobody could give rights any \
                           more: bind another principal to it first";
            return refuse(Reason::InUse, message);
        }
        let binding = Binding { built_in: false, ..binding.clone() };
        Arc::make_mut(&mut self.index.policy).unbind(&binding);
        let removed = is_bootstrap(&binding);
        let record = BindingRecord { binding: Some(binding), removed: true };
        if removed {
            self.tables.put(&record);
        } else {
            self.tables.delete::<BindingRecord>(&record.name());
        }
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }
}

impl super::Index {
    pub(super) fn load_role(&mut self, role: &Role) {
        Arc::make_mut(&mut self.policy).put_role(role);
    }

    pub(super) fn load_binding(&mut self, record: &BindingRecord) {
        let policy = Arc::make_mut(&mut self.policy);
        match (&record.binding, record.removed) {
            (Some(binding), true) => policy.unbind(binding),
            (Some(binding), false) => policy.bind(binding),
            (None, _) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use proto::raft::command::Kind;
    use proto::raft::{Command, Outcome};

    use super::*;

    fn apply(state: &mut State, request_id: &str, kind: Kind) -> Outcome {
        let principal = "operator/anna".into();
        let command = Command { request_id: request_id.into(), principal, kind: Some(kind) };
        state.apply(1, &command).outcome
    }

    fn reason(outcome: Outcome) -> Option<Reason> {
        match outcome.kind {
            Some(outcome::Kind::Rejected(rejected)) => Some(rejected.reason()),
            _ => None,
        }
    }

    fn binding(principal: &str, role_id: &str) -> Binding {
        Binding { principal: principal.into(), role_id: role_id.into(), ..Binding::default() }
    }

    #[test]
    fn roles_and_bindings_come_and_go_and_survive_a_reload() {
        let mut s = State::bootstrap(&[1]);
        let role = Role { role_id: "german".into(), ..Role::default() };
        assert_eq!(reason(apply(&mut s, "1", Kind::PutRole(role.clone()))), None);
        let missing = Kind::Bind(binding("service/a", "nobody"));
        assert_eq!(reason(apply(&mut s, "2", missing)), Some(Reason::NotFound));
        assert_eq!(reason(apply(&mut s, "3", Kind::Bind(binding("service/a", "german")))), None);
        let used = Kind::DeleteRole("german".into());
        assert_eq!(reason(apply(&mut s, "4", used)), Some(Reason::InUse));
        let built_in = Role { role_id: ADMIN.into(), ..role };
        assert_eq!(
            reason(apply(&mut s, "5", Kind::PutRole(built_in))),
            Some(Reason::AlreadyExists)
        );
        assert_eq!(reason(apply(&mut s, "6", Kind::Unbind(binding("pop/*", "pop")))), None);
        let copy = State::from_tables(
            s.tables.entries().map(|(k, v)| (k.to_vec(), bytes::Bytes::copy_from_slice(v))),
        );
        let copy = copy.unwrap();
        assert_eq!(copy.policy(), s.policy());
        assert!(copy.policy().check("pop/fra1", "register", "pops/fra1").is_none());
        assert_eq!(reason(apply(&mut s, "7", Kind::Unbind(binding("service/a", "german")))), None);
        assert_eq!(reason(apply(&mut s, "8", Kind::DeleteRole("german".into()))), None);
    }

    #[test]
    fn the_last_administrator_stays() {
        let mut s = State::bootstrap(&[1]);
        let all = binding("operator/*", ADMIN);
        assert_eq!(reason(apply(&mut s, "1", Kind::Unbind(all.clone()))), Some(Reason::InUse));
        assert_eq!(reason(apply(&mut s, "2", Kind::Bind(binding("operator/anna", ADMIN)))), None);
        assert_eq!(reason(apply(&mut s, "3", Kind::Unbind(all))), None);
        assert!(s.policy().check("operator/bob", "read", "trunks/a").is_none());
        assert!(s.policy().check("operator/anna", "read", "trunks/a").is_some());
        let last = Kind::Unbind(binding("operator/anna", ADMIN));
        assert_eq!(reason(apply(&mut s, "4", last)), Some(Reason::InUse));
    }
}
