//! `Compliance`: what countries ask for, and what tenants have shown.

use control_core::replica::Replica;
use proto::control::compliance_server::Compliance;
use proto::control::{
    ComplianceRecord, DeleteComplianceRecordRequest, DeleteNumberPolicyRequest,
    DeleteRequirementRequest, GetComplianceRecordRequest, GetComplianceRecordResponse,
    ListComplianceRecordsRequest, ListComplianceRecordsResponse, ListComplianceRequest,
    ListNumberPoliciesResponse, ListRequirementsResponse, PutComplianceRecordRequest,
    PutNumberPolicyRequest, PutRequirementRequest, WriteResponse,
};
use proto::numbering::{self, WORLD};
use proto::raft::{
    NumberPolicyKey, PutComplianceRecord, PutNumberPolicy, PutRequirement, RequirementKey, command,
};
use tonic::Request;

use super::read::{Reads, given, page, paged};
use super::{Answer, Api, Failure, answer, authorise};

#[tonic::async_trait]
impl Compliance for Api {
    async fn put_requirement(
        &self,
        request: Request<PutRequirementRequest>,
    ) -> Answer<WriteResponse> {
        answer("Compliance.PutRequirement", async {
            let (caller, r) = authorise(request)?;
            let missing = || Failure::invalid("requirement is missing");
            let requirement = r.requirement.ok_or_else(missing)?;
            known("requirement.country", &requirement.country)?;
            let kind = PutRequirement { requirement: Some(requirement), expect: r.expect };
            self.write(&caller, r.options, command::Kind::PutRequirement(kind)).await
        })
        .await
    }

    async fn delete_requirement(
        &self,
        request: Request<DeleteRequirementRequest>,
    ) -> Answer<WriteResponse> {
        answer("Compliance.DeleteRequirement", async {
            let (caller, r) = authorise(request)?;
            let kind = command::Kind::DeleteRequirement(RequirementKey {
                country: r.country,
                r#type: r.r#type,
                end_user_type: r.end_user_type,
            });
            self.write(&caller, r.options, kind).await
        })
        .await
    }

    async fn list_requirements(
        &self,
        request: Request<ListComplianceRequest>,
    ) -> Answer<ListRequirementsResponse> {
        answer("Compliance.ListRequirements", async {
            let (_, r) = authorise(request)?;
            let freshness = r.freshness()?;
            let look = move |replica: &Replica| {
                let all = replica.state().requirements();
                all.filter(|rule| fits(&r.country, &rule.country)).collect::<Vec<_>>()
            };
            let (requirements, header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListRequirementsResponse { header: Some(header), requirements })
        })
        .await
    }

    async fn put_policy(&self, request: Request<PutNumberPolicyRequest>) -> Answer<WriteResponse> {
        answer("Compliance.PutPolicy", async {
            let (caller, r) = authorise(request)?;
            let policy = r.policy.ok_or_else(|| Failure::invalid("policy is missing"))?;
            if !policy.country.is_empty() {
                known("policy.country", &policy.country)?;
            }
            let kind = PutNumberPolicy { policy: Some(policy), expect: r.expect };
            self.write(&caller, r.options, command::Kind::PutNumberPolicy(kind)).await
        })
        .await
    }

    async fn delete_policy(
        &self,
        request: Request<DeleteNumberPolicyRequest>,
    ) -> Answer<WriteResponse> {
        answer("Compliance.DeletePolicy", async {
            let (caller, r) = authorise(request)?;
            let kind = NumberPolicyKey { country: r.country, r#type: r.r#type };
            self.write(&caller, r.options, command::Kind::DeleteNumberPolicy(kind)).await
        })
        .await
    }

    async fn list_policies(
        &self,
        request: Request<ListComplianceRequest>,
    ) -> Answer<ListNumberPoliciesResponse> {
        answer("Compliance.ListPolicies", async {
            let (_, r) = authorise(request)?;
            let freshness = r.freshness()?;
            let look = move |replica: &Replica| {
                let all = replica.state().number_policies();
                all.filter(|rule| fits(&r.country, &rule.country)).collect::<Vec<_>>()
            };
            let (policies, header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListNumberPoliciesResponse { header: Some(header), policies })
        })
        .await
    }

    async fn put_record(
        &self,
        request: Request<PutComplianceRecordRequest>,
    ) -> Answer<WriteResponse> {
        answer("Compliance.PutRecord", async {
            let (caller, r) = authorise(request)?;
            let record = r.record.ok_or_else(|| Failure::invalid("record is missing"))?;
            known("record.country", &record.country)?;
            let kind = PutComplianceRecord { record: Some(record), expect: r.expect };
            self.write(&caller, r.options, command::Kind::PutComplianceRecord(kind)).await
        })
        .await
    }

    async fn delete_record(
        &self,
        request: Request<DeleteComplianceRecordRequest>,
    ) -> Answer<WriteResponse> {
        answer("Compliance.DeleteRecord", async {
            let (caller, r) = authorise(request)?;
            let kind = command::Kind::DeleteComplianceRecord(r.record_id);
            self.write(&caller, r.options, kind).await
        })
        .await
    }

    async fn get_record(
        &self,
        request: Request<GetComplianceRecordRequest>,
    ) -> Answer<GetComplianceRecordResponse> {
        answer("Compliance.GetRecord", async {
            let (_, r) = authorise(request)?;
            let look = {
                let id = r.record_id.clone();
                move |replica: &Replica| replica.state().compliance_record(&id)
            };
            let (record, header) = self.0.cluster.read(r.freshness()?, look).await?;
            let missing = || Failure::not_found(format!("record {:?} is not known", r.record_id));
            let record = Some(record.ok_or_else(missing)?);
            Ok(GetComplianceRecordResponse { header: Some(header), record })
        })
        .await
    }

    async fn list_records(
        &self,
        request: Request<ListComplianceRecordsRequest>,
    ) -> Answer<ListComplianceRecordsResponse> {
        answer("Compliance.ListRecords", async {
            let (_, r) = authorise(request)?;
            let (freshness, limit) = (r.freshness()?, page(r.page_size, 100, 1_000)?);
            let look = move |replica: &Replica| {
                let all = replica.state().compliance_records(given(&r.page_token));
                let wanted = |one: &ComplianceRecord| fits(&r.tenant, &one.tenant);
                paged(all, wanted, limit, |one| one.record_id.clone())
            };
            let ((records, next_page_token), header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListComplianceRecordsResponse { header: Some(header), records, next_page_token })
        })
        .await
    }
}

/// An empty filter takes all.
fn fits(wanted: &str, value: &str) -> bool {
    wanted.is_empty() || wanted == value
}

/// A country there is, or nobody's.
fn known(name: &str, country: &str) -> Result<(), Failure> {
    if country == WORLD || numbering::country(country).is_some() {
        return Ok(());
    }
    let message = format!("{name} {country:?} is neither an ISO 3166-1 code, like DE, nor {WORLD}");
    Err(Failure::invalid(message))
}
