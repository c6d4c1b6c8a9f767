//! AVAILABLE, RESERVED, QUARANTINE → ACTIVE or PENDING.

use proto::control::{NumberCompliance, NumberPick, NumberState, RouteCandidate, Shelf, Tag};
use proto::raft::{
    AllocateNumber, AllocateNumbers, NumberList, Reason, Rejected, allocate_number, outcome,
};

use super::record::{NumberRecord, in_use};
use super::store::Found;
use crate::state::compliance::Check;
use crate::state::{Answer, State, Step, Store, refuse, rejected};

/// What the numbers get with their owner.
struct Grant<'a> {
    tenant: &'a str,
    candidates: &'a [RouteCandidate],
    tags: &'a [Tag],
    compliance: Option<&'a NumberCompliance>,
}

impl<S: Store> State<S> {
    /// One number.
    pub(crate) fn allocate_number(
        &mut self,
        allocate: &AllocateNumber,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let pick = match &allocate.which {
            Some(allocate_number::Which::E164(e164)) => {
                NumberPick { e164: vec![e164.clone()], ..NumberPick::default() }
            }
            Some(allocate_number::Which::AnyOfPool(pool)) => {
                let shelf = Some(Shelf { pool: pool.clone(), ..Shelf::default() });
                NumberPick { shelf, ..NumberPick::default() }
            }
            None => return refuse(Reason::Invalid, "neither a number nor a pool is named"),
        };
        let allocate = AllocateNumbers {
            tenant: allocate.tenant.clone(),
            pick: Some(pick),
            candidates: allocate.candidates.clone(),
            ..AllocateNumbers::default()
        };
        match self.allocate_numbers(&allocate, now_ms, step)? {
            outcome::Kind::Numbers(NumberList { mut numbers }) if numbers.len() == 1 => {
                Ok(outcome::Kind::Number(numbers.remove(0)))
            }
            other => Ok(other),
        }
    }

    /// Several, all or none.
    pub(crate) fn allocate_numbers(
        &mut self,
        allocate: &AllocateNumbers,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        self.check_candidates(&allocate.candidates)?;
        let grant = Grant {
            tenant: &allocate.tenant,
            candidates: &allocate.candidates,
            tags: &allocate.tags,
            compliance: allocate.compliance.as_ref(),
        };
        let picked = if allocate.reservation_id.is_empty() {
            let picked = self.pick(allocate.pick.as_ref(), now_ms, step)?;
            if let [one] = picked.as_slice() {
                one.must_match(allocate.expect.as_ref())?;
            }
            picked.iter().try_for_each(|found| self.may_have(found, grant.tenant))?;
            picked
        } else {
            let named = allocate.pick.as_ref().map(|pick| pick.e164.as_slice());
            self.reserved(
                &allocate.reservation_id,
                grant.tenant,
                named.unwrap_or_default(),
                now_ms,
            )?
        };
        self.grant(&grant, &picked, now_ms, step)
    }

    /// Whether a number with no reservation named may become this tenant's.
    fn may_have(&self, found: &Found, tenant: &str) -> Result<(), Rejected> {
        let last_owner = found.record.tenant != 0 && self.tenant_id(tenant) == found.record.tenant;
        match found.state() {
            NumberState::Available => Ok(()),
            // The last owner may have it back; everybody else waits.
            NumberState::Quarantine if last_owner => Ok(()),
            state if in_use(state) => {
                let whose = if last_owner { "of this tenant already" } else { "of another tenant" };
                let message = format!("{}, {whose}: choose another", found.says());
                Err(rejected(Reason::NumberAllocated, message))
            }
            _ => found.must_be(&[NumberState::Available], "allocated"),
        }
    }

    fn grant(
        &mut self,
        grant: &Grant<'_>,
        picked: &[Found],
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let tenant = self.tenant_slot(grant.tenant)?;
        let reserved = picked.iter().filter(|f| f.state() == NumberState::Reserved).count();
        self.check_quota(tenant, picked.len(), 0)?;
        let untouched = picked.iter().filter(|found| !found.touched).count();
        self.check_room(0, 0, untouched as u64)?;
        self.check_compliance(tenant, grant.compliance)?;
        let mut records = Vec::with_capacity(picked.len());
        for found in picked {
            records.push(self.granted(grant, tenant, found, now_ms)?);
        }
        self.enter_tenant(grant.tenant, tenant);
        if reserved > 0 {
            self.take_from_reservations(picked);
        }
        let mut numbers = Vec::with_capacity(picked.len());
        for (found, record) in picked.iter().zip(records) {
            numbers.push(self.write_and_view(found, record, step));
        }
        Ok(outcome::Kind::Numbers(NumberList { numbers }))
    }

    /// The record a number gets: ACTIVE, or PENDING while something is missing.
    fn granted(
        &self,
        grant: &Grant<'_>,
        tenant: u32,
        found: &Found,
        now_ms: u64,
    ) -> Result<NumberRecord, Rejected> {
        let record = NumberRecord {
            tenant,
            candidates: grant.candidates.to_vec(),
            tags: sorted(grant.tags),
            compliance: grant.compliance.filter(|c| **c != NumberCompliance::default()).cloned(),
            ..found.record.moved(NumberState::Active)
        };
        let check = Check { tenant, shelf: found.shelf, compliance: grant.compliance, now_ms };
        match self.unmet(&check) {
            None => Ok(record),
            // QUARANTINE → PENDING does not exist.
            Some(unmet) if found.state() == NumberState::Quarantine => Err(unmet.refusal(found)),
            Some(unmet) => Ok(NumberRecord {
                state: NumberState::Pending.into(),
                until_ms: now_ms.saturating_add(unmet.deadline_ms),
                ..record
            }),
        }
    }
}

/// Tags in the order they are kept in: by key, of one key the last.
pub(crate) fn sorted(tags: &[Tag]) -> Vec<Tag> {
    let by_key: std::collections::BTreeMap<&str, &Tag> =
        tags.iter().map(|tag| (tag.key.as_str(), tag)).collect();
    by_key.into_values().cloned().collect()
}
