//! Form of tenants, and of what countries ask for.

use proto::control::{
    AddressRule, ComplianceKind, ComplianceRecord, ComplianceStatus, EndUserType, NumberPolicy,
    NumberType, Requirement, Tenant,
};
use proto::raft::command::Kind;

use super::numbers::check_tags;
use super::{Check, label, text};
use crate::state::limits;

const DAY_MS: u64 = 24 * 3_600_000;

pub(super) fn check(kind: &Kind) -> Check {
    match kind {
        Kind::PutTenant(put) => put.tenant.as_ref().map_or(missing("tenant"), check_tenant),
        Kind::DeleteTenant(delete) => label("tenant", &delete.tenant),
        Kind::PutRequirement(put) => {
            put.requirement.as_ref().map_or(missing("requirement"), check_requirement)
        }
        Kind::DeleteRequirement(key) => country("country", &key.country),
        Kind::PutNumberPolicy(put) => put.policy.as_ref().map_or(missing("policy"), check_policy),
        Kind::DeleteNumberPolicy(key) => check_country("country", &key.country),
        Kind::PutComplianceRecord(put) => {
            put.record.as_ref().map_or(missing("record"), check_record)
        }
        Kind::DeleteComplianceRecord(id) => label("record_id", id),
        _ => Err("this version does not know the command".into()),
    }
}

fn missing(name: &str) -> Check {
    Err(format!("{name} is missing"))
}

/// A country, or none. Whether it exists is the shell's knowledge.
pub(super) fn check_country(name: &str, value: &str) -> Check {
    let letters = value.len() == 2 && value.bytes().all(|b| b.is_ascii_uppercase());
    if value.is_empty() || letters || value == "001" {
        return Ok(());
    }
    Err(format!("{name} {value:?} is no ISO 3166-1 code like \"DE\", and not \"001\""))
}

fn country(name: &str, value: &str) -> Check {
    if value.is_empty() {
        return Err(format!("{name} is empty: which country is it about"));
    }
    check_country(name, value)
}

fn check_tenant(tenant: &Tenant) -> Check {
    label("tenant", &tenant.tenant)?;
    known::<EndUserType>("end_user_type", tenant.end_user_type)?;
    check_tags(&tenant.tags)
}

fn known<E: TryFrom<i32>>(name: &str, value: i32) -> Check {
    E::try_from(value).map(|_| ()).map_err(|_| format!("{name} {value} is unknown"))
}

fn check_requirement(requirement: &Requirement) -> Check {
    country("country", &requirement.country)?;
    known::<NumberType>("type", requirement.r#type)?;
    known::<EndUserType>("end_user_type", requirement.end_user_type)?;
    if AddressRule::try_from(requirement.address).unwrap_or_default() == AddressRule::Unspecified {
        return Err("address is none of NONE, ANY, NATIONAL and LOCAL".into());
    }
    at_most("deadline_ms", requirement.deadline_ms, 365 * DAY_MS)?;
    // Notes are prose: lines may be several.
    if requirement.note.len() > 1024 {
        return Err("note is longer than 1024 bytes".into());
    }
    Ok(())
}

fn check_policy(policy: &NumberPolicy) -> Check {
    check_country("country", &policy.country)?;
    known::<NumberType>("type", policy.r#type)?;
    at_most("quarantine_ms", policy.quarantine_ms.unwrap_or_default(), 3_650 * DAY_MS)?;
    at_most("reservation_ms", policy.reservation_ms, limits::RESERVATION_MAX_MS)
}

fn at_most(name: &str, value: u64, most: u64) -> Check {
    if value > most { Err(format!("{name} is {value}: at most {most}")) } else { Ok(()) }
}

fn check_record(record: &ComplianceRecord) -> Check {
    label("record_id", &record.record_id)?;
    label("tenant", &record.tenant)?;
    let kind = ComplianceKind::try_from(record.kind).unwrap_or_default();
    if kind == ComplianceKind::Unspecified {
        return Err("kind is none of BUNDLE, ADDRESS and EMERGENCY_ADDRESS".into());
    }
    let status = ComplianceStatus::try_from(record.status).unwrap_or_default();
    if status == ComplianceStatus::Unspecified {
        return Err("status is none of DRAFT, SUBMITTED, APPROVED, REJECTED and EXPIRED".into());
    }
    country("country", &record.country)?;
    known::<NumberType>("type", record.r#type)?;
    known::<EndUserType>("end_user_type", record.end_user_type)?;
    text("area", &record.area, 64)?;
    if record.content_hash.len() > 64 {
        return Err("content_hash is longer than 64 bytes: a hash, not the document".into());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proto::raft::{PutComplianceRecord, PutRequirement};

    use super::*;

    #[test]
    fn requirements_and_records_say_what_is_wrong() {
        let requirement = |change: fn(&mut Requirement)| {
            let mut requirement = Requirement {
                country: "DE".into(),
                address: AddressRule::Local.into(),
                ..Requirement::default()
            };
            change(&mut requirement);
            let requirement = Some(requirement);
            check(&Kind::PutRequirement(PutRequirement { requirement, expect: None }))
        };
        assert_eq!(requirement(|_| ()), Ok(()));
        assert!(requirement(|r| r.country.clear()).unwrap_err().contains("country"));
        assert!(requirement(|r| r.address = 0).unwrap_err().contains("address"));
        assert!(requirement(|r| r.deadline_ms = u64::MAX).unwrap_err().contains("deadline_ms"));
        assert!(requirement(|r| r.r#type = 77).unwrap_err().contains("type"));
        let record = |change: fn(&mut ComplianceRecord)| {
            let mut record = ComplianceRecord {
                record_id: "b-1".into(),
                tenant: "acme".into(),
                kind: ComplianceKind::Bundle.into(),
                status: ComplianceStatus::Draft.into(),
                country: "DE".into(),
                ..ComplianceRecord::default()
            };
            change(&mut record);
            let record = Some(record);
            check(&Kind::PutComplianceRecord(PutComplianceRecord { record, expect: None }))
        };
        assert_eq!(record(|_| ()), Ok(()));
        assert!(record(|r| r.kind = 0).unwrap_err().contains("kind"));
        assert!(record(|r| r.status = 9).unwrap_err().contains("status"));
        assert!(record(|r| r.content_hash = vec![0; 65]).unwrap_err().contains("hash"));
    }
}
