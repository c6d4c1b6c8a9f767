//! What a country asks for, what tenants have shown, and whether that is enough.

use std::ops::Bound;

use proto::control::{
    AddressRule, ComplianceKind, ComplianceRecord, ComplianceStatus, NumberCompliance, NumberState,
    Requirement,
};
use proto::raft::{
    Done, PutComplianceRecord, PutRequirement, Reason, Rejected, RequirementKey, outcome,
};

use super::numbers::index::OwnerKey;
use super::numbers::record::{NumberRecord, ShelfKey};
use super::numbers::store::Found;
use super::quarantine::RULES_MAX;
use super::tables::Record;
use super::{Answer, Index, State, Step, Store, refuse, rejected};

/// A PENDING number goes back after so long.
pub(crate) const DEADLINE_MS: u64 = 30 * 24 * 3_600_000;

/// Most compliance records.
pub(crate) const RECORDS_MAX: u64 = 5_000_000;

/// Most numbers one approval makes ACTIVE.
pub(crate) const APPROVE_MAX: usize = 10_000;

impl Record for Requirement {
    const TABLE: u8 = b'y';
    fn name(&self) -> String {
        name(&self.country, self.r#type, self.end_user_type)
    }
}

fn name(country: &str, kind: i32, end_user_type: i32) -> String {
    format!("{country}\0{kind}\0{end_user_type}")
}

impl Record for ComplianceRecord {
    const TABLE: u8 = b'd';
    fn name(&self) -> String {
        self.record_id.clone()
    }
}

/// Whether a number may be ACTIVE.
pub(super) struct Check<'a> {
    pub tenant: u32,
    pub shelf: u32,
    pub compliance: Option<&'a NumberCompliance>,
    pub now_ms: u64,
}

/// It may not.
pub(super) struct Unmet {
    /// What is missing.
    pub missing: String,
    pub deadline_ms: u64,
}

impl Unmet {
    pub(super) fn refusal(&self, found: &Found) -> Rejected {
        let message = format!("{} and needs {}", found.says(), self.missing);
        rejected(Reason::RequirementsUnmet, message)
    }
}

impl<S: Store> State<S> {
    /// The requirements, by country, type and end user type.
    pub fn requirements(&self) -> impl Iterator<Item = Requirement> + '_ {
        self.tables.scan(None)
    }

    /// A compliance record.
    pub fn compliance_record(&self, record_id: &str) -> Option<ComplianceRecord> {
        self.tables.get(record_id)
    }

    /// Compliance records by id, after `after`.
    pub fn compliance_records(
        &self,
        after: Option<&str>,
    ) -> impl Iterator<Item = ComplianceRecord> + '_ {
        self.tables.scan(after.map(str::as_bytes))
    }

    pub(super) fn put_requirement(&mut self, put: &PutRequirement, step: &mut Step) -> Answer {
        let Some(requirement) = &put.requirement else {
            return refuse(Reason::Invalid, "requirement is missing");
        };
        let old = self.tables.get::<Requirement>(requirement.name());
        self.must_match_etag(put.expect.as_ref(), old.as_ref().map(|old| old.etag.as_str()))?;
        if old.is_none() && self.requirements().nth(RULES_MAX).is_some() {
            return refuse(Reason::Limit, format!("there are {RULES_MAX} requirements already"));
        }
        self.tables.put(&Requirement { etag: self.next_etag(), ..requirement.clone() });
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_requirement(&mut self, key: &RequirementKey, step: &mut Step) -> Answer {
        let name = name(&key.country, key.r#type, key.end_user_type);
        if !self.tables.contains::<Requirement>(&name) {
            let message = "there is no requirement for this country, type and end user type";
            return refuse(Reason::NotFound, message);
        }
        self.tables.delete::<Requirement>(&name);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn put_compliance_record(
        &mut self,
        put: &PutComplianceRecord,
        now_ms: u64,
        step: &mut Step,
    ) -> Answer {
        let Some(record) = &put.record else {
            return refuse(Reason::Invalid, "record is missing");
        };
        let old = self.tables.get::<ComplianceRecord>(&record.record_id);
        self.must_match_etag(put.expect.as_ref(), old.as_ref().map(|old| old.etag.as_str()))?;
        match &old {
            Some(old) if old.tenant != record.tenant || old.kind != record.kind => {
                let message = format!(
                    "record {} is of another tenant or kind: choose a new id",
                    record.record_id
                );
                return refuse(Reason::AlreadyExists, message);
            }
            Some(_) => {}
            None if self.index.compliance_records >= RECORDS_MAX => {
                return refuse(Reason::Limit, format!("there are {RECORDS_MAX} records already"));
            }
            None => {}
        }
        let id = self.tenant_slot(&record.tenant)?;
        self.enter_tenant(&record.tenant, id);
        if old.is_none() {
            self.index.add_compliance_record(record);
        }
        self.tables.put(&ComplianceRecord { etag: self.next_etag(), ..record.clone() });
        step.unseen();
        if record.status() == ComplianceStatus::Approved {
            self.approve(id, now_ms, step);
        }
        Ok(outcome::Kind::Done(Done {}))
    }

    pub(super) fn delete_compliance_record(&mut self, record_id: &str, step: &mut Step) -> Answer {
        let Some(record) = self.tables.get::<ComplianceRecord>(record_id) else {
            return refuse(Reason::NotFound, format!("there is no record {record_id}"));
        };
        if let Some(uses) = self.index.numbers.compliance_uses.get(record_id) {
            let message = format!("{uses} numbers refer to record {record_id}: change them first");
            return refuse(Reason::InUse, message);
        }
        self.index.remove_compliance_record(&record);
        self.tables.delete::<ComplianceRecord>(record_id);
        step.unseen();
        Ok(outcome::Kind::Done(Done {}))
    }

    /// PENDING numbers of a tenant that have all they need become ACTIVE.
    fn approve(&mut self, tenant: u32, now_ms: u64, step: &mut Step) {
        let (first, last) = OwnerKey::tenant_state(tenant, NumberState::Pending).into_inner();
        let owners = &self.index.numbers.owners;
        let pending = owners.range(Bound::Included(first), last).take(APPROVE_MAX);
        let numbers: Vec<u64> = pending.map(|key| key.1).collect();
        for number in numbers {
            let Some(found) = self.look_up(number) else { continue };
            let compliance = found.record.compliance.as_ref();
            let check = Check { tenant, shelf: found.shelf, compliance, now_ms };
            if self.unmet(&check).is_none() {
                let record = NumberRecord {
                    state: NumberState::Active.into(),
                    until_ms: 0,
                    ..found.record.clone()
                };
                self.write_number(&found, record, step);
            }
        }
    }

    /// The records a request names are there, of this tenant, and what it says they are.
    pub(super) fn check_compliance(
        &self,
        tenant: u32,
        given: Option<&NumberCompliance>,
    ) -> Result<(), Rejected> {
        let Some(given) = given else { return Ok(()) };
        let named = [
            (&given.bundle_id, ComplianceKind::Bundle),
            (&given.address_id, ComplianceKind::Address),
            (&given.emergency_address_id, ComplianceKind::EmergencyAddress),
        ];
        for (id, kind) in named.into_iter().filter(|(id, _)| !id.is_empty()) {
            let record = self.tables.get::<ComplianceRecord>(id);
            let Some(record) = record.filter(|record| record.kind() == kind) else {
                let kind = kind.as_str_name().replace("COMPLIANCE_KIND_", "");
                let message = format!("there is no {kind} {id}: put the record first");
                return Err(rejected(Reason::NotFound, message));
            };
            if self.tenant_id(&record.tenant) != tenant {
                let message = format!("record {id} is of another tenant");
                return Err(rejected(Reason::NotOwner, message));
            }
        }
        Ok(())
    }

    /// What a number needs and does not have; `None` when nothing.
    pub(super) fn unmet(&self, check: &Check<'_>) -> Option<Unmet> {
        let shelf = self.index.numbers.shelf(check.shelf)?;
        let end_user_type = self.tenant_record(check.tenant).map_or(0, |t| t.end_user_type);
        let rule = self.requirement(shelf, end_user_type)?;
        let none = NumberCompliance::default();
        let given = check.compliance.unwrap_or(&none);
        let approved = |id: &str, kind: ComplianceKind| {
            self.tables.get::<ComplianceRecord>(id).filter(|record| {
                record.kind() == kind
                    && record.status() == ComplianceStatus::Approved
                    && (record.valid_until_ms == 0 || record.valid_until_ms > check.now_ms)
            })
        };
        let mut missing = Vec::new();
        let fits_bundle = |b: &ComplianceRecord| {
            b.country == shelf.country && (b.r#type == 0 || b.r#type == shelf.kind)
        };
        let bundle = approved(&given.bundle_id, ComplianceKind::Bundle);
        if rule.bundle && !bundle.is_some_and(|b| fits_bundle(&b)) {
            missing.push("an approved bundle of its country and type");
        }
        let address = approved(&given.address_id, ComplianceKind::Address);
        let in_country = address.as_ref().is_some_and(|a| a.country == shelf.country);
        let in_area = in_country && address.as_ref().is_some_and(|a| a.area == shelf.area);
        match rule.address() {
            AddressRule::Any if address.is_none() => missing.push("an approved address"),
            AddressRule::National if !in_country => {
                missing.push("an approved address in its country");
            }
            AddressRule::Local if !in_area => missing.push("an approved address in its area"),
            _ => {}
        }
        let emergency = approved(&given.emergency_address_id, ComplianceKind::EmergencyAddress);
        if rule.emergency_address && emergency.is_none_or(|e| e.country != shelf.country) {
            missing.push("a validated emergency address in its country");
        }
        if missing.is_empty() {
            return None;
        }
        let deadline_ms = if rule.deadline_ms == 0 { DEADLINE_MS } else { rule.deadline_ms };
        Some(Unmet { missing: missing.join(", "), deadline_ms })
    }

    /// The most exact requirement of a country; type counts more than end user type.
    fn requirement(&self, shelf: &ShelfKey, end_user_type: i32) -> Option<Requirement> {
        let kinds = [(shelf.kind, end_user_type), (shelf.kind, 0), (0, end_user_type), (0, 0)];
        kinds.into_iter().find_map(|(kind, end_user_type)| {
            self.tables.get(name(&shelf.country, kind, end_user_type))
        })
    }
}

impl Index {
    pub(super) fn add_compliance_record(&mut self, record: &ComplianceRecord) {
        self.compliance_records += 1;
        *self.compliance_owners.entry(record.tenant.clone()).or_default() += 1;
    }

    fn remove_compliance_record(&mut self, record: &ComplianceRecord) {
        self.compliance_records = self.compliance_records.saturating_sub(1);
        if let Some(count) = self.compliance_owners.get_mut(&record.tenant) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.compliance_owners.remove(&record.tenant);
            }
        }
    }
}
