//! What a command would come to, with nothing changed: `apply` over an [`Overlay`].
//!
//! The overlay costs nothing by itself. Of the indices, what `apply` does not read is left out, or
//! each rehearsal would copy an entry for every number and request.

use std::collections::BTreeMap;
use std::ops::Bound;

use proto::control::NumberState;
use proto::raft::command::Kind;
use proto::raft::{Command, Outcome};

use super::numbers::index::{NumberIndex, OwnerKey};
use super::numbers::owners::Owners;
use super::store::Overlay;
use super::{EXPIRIES_PER_COMMAND, Index, State, Store};
use crate::state::compliance::APPROVE_MAX;

impl<S: Store> State<S> {
    /// The outcome [`State::apply`] would have at this log time; a request id that was used answers
    /// what it answered. What ends by itself until then has ended.
    pub fn rehearse(&self, log_time_ms: u64, command: &Command) -> Outcome {
        let tables = self.tables.overlay();
        let index = self.index_for(log_time_ms.max(self.log_time_ms()), command);
        State::<Overlay<'_, S>> { tables, index }.apply(log_time_ms, command).outcome
    }

    fn index_for(&self, now_ms: u64, command: &Command) -> Index {
        let all = &self.index;
        let due = all.expiries.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        Index {
            numbers: self.numbers_for(command),
            expiries: due.take(EXPIRIES_PER_COMMAND).copied().collect(),
            requests: all.requests.clone(),
            trunk_uses: all.trunk_uses.clone(),
            compliance_owners: all.compliance_owners.clone(),
            compliance_records: all.compliance_records,
            port_orders: all.port_orders,
            pops: all.pops,
            trunks: all.trunks,
            routes: all.routes,
            policy: all.policy.clone(),
            tokens: all.tokens,
            chain: all.chain.clone(),
        }
    }

    fn numbers_for(&self, command: &Command) -> NumberIndex {
        let all = &self.index.numbers;
        // Owners are read when a record makes PENDING numbers of its tenant ACTIVE, uses of a
        // compliance record when it is deleted.
        let mut owners = Owners::default();
        let mut compliance_uses = BTreeMap::new();
        match &command.kind {
            Some(Kind::PutComplianceRecord(put)) => {
                let tenant = put.record.as_ref().map_or(0, |r| self.tenant_id(&r.tenant));
                let (first, last) =
                    OwnerKey::tenant_state(tenant, NumberState::Pending).into_inner();
                let pending = all.owners.range(Bound::Included(first), last);
                let pending = pending.take(APPROVE_MAX + EXPIRIES_PER_COMMAND);
                pending.for_each(|key| owners.insert(key));
            }
            Some(Kind::DeleteComplianceRecord(id)) => {
                let uses = all.compliance_uses.get_key_value(id);
                compliance_uses.extend(uses.map(|(id, uses)| (id.clone(), *uses)));
            }
            _ => {}
        }
        NumberIndex {
            shelves: all.shelves.clone(),
            shelf_keys: all.shelf_keys.clone(),
            tenants: all.tenants.clone(),
            free: all.free.clone(),
            counts: all.counts.clone(),
            owners,
            usage: all.usage.clone(),
            compliance_uses,
            blocks: all.blocks,
            inventory: all.inventory,
            touched: all.touched,
        }
    }
}
