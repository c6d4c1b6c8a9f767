//! Tenants: a small id for each name, quotas, and what counts against them.

use std::collections::btree_map::Entry;

use prost::Message;
use proto::control::{EndUserType, Expect, Tag, Tenant};
use proto::raft::{DeleteTenant, Done, PutTenant, Reason, Rejected, outcome};

use super::numbers::allocate::sorted;
use super::tables::Row;
use super::{Answer, State, Step, Store, refuse, rejected};

/// Most tenants, ever.
pub(crate) const TENANTS_MAX: usize = 1_000_000;

/// A tenant, by name. Stays for ever: number records hold its id.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct TenantRecord {
    #[prost(uint32, tag = "1")]
    pub id: u32,
    #[prost(enumeration = "EndUserType", tag = "2")]
    pub end_user_type: i32,
    #[prost(uint64, tag = "3")]
    pub max_numbers: u64,
    #[prost(uint64, tag = "4")]
    pub max_reserved: u64,
    #[prost(message, repeated, tag = "5")]
    pub tags: Vec<Tag>,
    #[prost(string, tag = "6")]
    pub etag: String,
}

impl Row for TenantRecord {
    const BYTE: u8 = b'u';
}

impl<S: Store> State<S> {
    /// A tenant that was entered or owns numbers.
    pub fn tenant(&self, name: &str) -> Option<Tenant> {
        let record = self.tables.get::<TenantRecord>(name)?;
        let tenant = self.tenant_view(name, record);
        (!tenant.etag.is_empty() || tenant.numbers > 0 || tenant.reserved > 0).then_some(tenant)
    }

    /// Tenants by name, after `after`.
    pub fn tenants(&self, after: Option<&str>) -> impl Iterator<Item = Tenant> + '_ {
        let from = after
            .map_or(std::ops::Bound::Unbounded, |name| std::ops::Bound::Excluded(name.as_bytes()));
        let records = self.tables.range::<TenantRecord>(from, std::ops::Bound::Unbounded);
        records.filter_map(|(name, _)| self.tenant(std::str::from_utf8(&name).ok()?))
    }

    fn tenant_view(&self, name: &str, record: TenantRecord) -> Tenant {
        let usage = self.index.numbers.usage.get(&record.id).copied().unwrap_or_default();
        Tenant {
            tenant: name.to_owned(),
            end_user_type: record.end_user_type,
            max_numbers: record.max_numbers,
            max_reserved: record.max_reserved,
            tags: record.tags,
            numbers: usage.numbers,
            reserved: usage.reserved,
            etag: record.etag,
        }
    }

    /// 0: no number was ever of this tenant.
    pub(super) fn tenant_id(&self, name: &str) -> u32 {
        self.tables.get::<TenantRecord>(name).map_or(0, |record| record.id)
    }

    /// Empty for 0.
    pub(super) fn tenant_name(&self, id: u32) -> String {
        self.index.numbers.tenants.get(&id).cloned().unwrap_or_default()
    }

    pub(super) fn tenant_record(&self, id: u32) -> Option<TenantRecord> {
        self.tables.get(self.index.numbers.tenants.get(&id)?)
    }

    /// The id of a tenant, or the one it would get.
    pub(super) fn tenant_slot(&self, name: &str) -> Result<u32, Rejected> {
        if name.is_empty() {
            return Err(rejected(Reason::Invalid, "tenant is missing"));
        }
        match self.tenant_id(name) {
            0 if self.index.numbers.tenants.len() >= TENANTS_MAX => {
                Err(rejected(Reason::Limit, format!("there were {TENANTS_MAX} tenants already")))
            }
            0 => Ok(u32::try_from(self.index.numbers.tenants.len()).unwrap_or(u32::MAX) + 1),
            id => Ok(id),
        }
    }

    /// Makes sure of what [`Self::tenant_slot`] said.
    pub(super) fn enter_tenant(&mut self, name: &str, id: u32) {
        if let Entry::Vacant(place) = self.index.numbers.tenants.entry(id) {
            place.insert(name.to_owned());
            self.tables.put_at(name, &TenantRecord { id, ..TenantRecord::default() });
        }
    }

    /// Whether so many more in use and reserved are within the tenant's quotas.
    pub(super) fn check_quota(
        &self,
        tenant: u32,
        numbers: usize,
        reserved: usize,
    ) -> Result<(), Rejected> {
        let Some(record) = self.tenant_record(tenant) else { return Ok(()) };
        let usage = self.index.numbers.usage.get(&tenant).copied().unwrap_or_default();
        let check = |what: &str, has: u64, more: usize, most: u64| {
            if most == 0 || more == 0 || has.saturating_add(more as u64) <= most {
                return Ok(());
            }
            let message =
                format!("the tenant has {has} numbers {what}, {more} more are above {most}");
            Err(rejected(Reason::Quota, message))
        };
        check("in use", usage.numbers, numbers, record.max_numbers)?;
        check("reserved", usage.reserved, reserved, record.max_reserved)
    }

    pub(super) fn put_tenant(&mut self, put: &PutTenant, step: &mut Step) -> Answer {
        let Some(tenant) = &put.tenant else {
            return refuse(Reason::Invalid, "tenant is missing");
        };
        let id = self.tenant_slot(&tenant.tenant)?;
        let old = self.tables.get::<TenantRecord>(&tenant.tenant);
        self.must_match_etag(put.expect.as_ref(), old.as_ref().map(|old| old.etag.as_str()))?;
        self.enter_tenant(&tenant.tenant, id);
        let record = TenantRecord {
            id,
            end_user_type: tenant.end_user_type,
            max_numbers: tenant.max_numbers,
            max_reserved: tenant.max_reserved,
            tags: sorted(&tenant.tags),
            etag: self.next_etag(),
        };
        self.tables.put_at(&tenant.tenant, &record);
        step.unseen();
        Ok(outcome::Kind::Tenant(self.tenant_view(&tenant.tenant, record)))
    }

    pub(super) fn delete_tenant(&mut self, delete: &DeleteTenant, step: &mut Step) -> Answer {
        let name = &delete.tenant;
        let Some(record) = self.tables.get::<TenantRecord>(name) else {
            return refuse(Reason::NotFound, format!("there is no tenant {name}"));
        };
        if record.etag.is_empty() {
            return refuse(Reason::NotFound, format!("tenant {name} was not entered"));
        }
        self.must_match_etag(delete.expect.as_ref(), Some(&record.etag))?;
        let index = &self.index.numbers;
        let has_records = self.index.compliance_owners.contains_key(name);
        if index.usage.contains_key(&record.id) || has_records {
            let message = format!(
                "tenant {name} has numbers or compliance records: release and delete them first"
            );
            return refuse(Reason::InUse, message);
        }
        self.tables.put_at(name, &TenantRecord { id: record.id, ..TenantRecord::default() });
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    /// Of what is written by this command.
    pub(super) fn next_etag(&self) -> String {
        self.revision().0.saturating_add(1).to_string()
    }

    /// Refuses what is not what the caller believes.
    pub(super) fn must_match_etag(
        &self,
        expect: Option<&Expect>,
        etag: Option<&str>,
    ) -> Result<(), Rejected> {
        let expected = expect.map(|expect| expect.etag.as_str()).unwrap_or_default();
        if expected.is_empty() || Some(expected) == etag {
            return Ok(());
        }
        let message = "it changed since it was read, or is gone: read it again";
        Err(rejected(Reason::Conflict, message))
    }
}
