//! `Tenants`: who owns numbers, and how many.

use control_core::replica::Replica;
use proto::control::tenants_server::Tenants;
use proto::control::{
    DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse,
    PutTenantRequest, TenantResponse, WriteResponse,
};
use proto::raft::{DeleteTenant, PutTenant, command};
use tonic::Request;

use super::read::{Reads, given, page, paged};
use super::{Answer, Api, Failure, answer, authorise};

#[tonic::async_trait]
impl Tenants for Api {
    async fn put(&self, request: Request<PutTenantRequest>) -> Answer<TenantResponse> {
        answer("Tenants.Put", async {
            let (caller, r) = authorise(request)?;
            let tenant = Some(r.tenant.ok_or_else(|| Failure::invalid("tenant is missing"))?);
            let kind = command::Kind::PutTenant(PutTenant { tenant, expect: r.expect });
            self.write_tenant(&caller, r.options, kind).await
        })
        .await
    }

    async fn delete(&self, request: Request<DeleteTenantRequest>) -> Answer<WriteResponse> {
        answer("Tenants.Delete", async {
            let (caller, r) = authorise(request)?;
            let kind = DeleteTenant { tenant: r.tenant, expect: r.expect };
            self.write(&caller, r.options, command::Kind::DeleteTenant(kind)).await
        })
        .await
    }

    async fn get(&self, request: Request<GetTenantRequest>) -> Answer<TenantResponse> {
        answer("Tenants.Get", async {
            let (_, r) = authorise(request)?;
            let look = {
                let tenant = r.tenant.clone();
                move |replica: &Replica| replica.state().tenant(&tenant)
            };
            let (tenant, header) = self.0.cluster.read(r.freshness()?, look).await?;
            let missing = || Failure::not_found(format!("tenant {:?} is not known", r.tenant));
            let tenant = Some(tenant.ok_or_else(missing)?);
            Ok(TenantResponse { header: Some(header), tenant })
        })
        .await
    }

    async fn list(&self, request: Request<ListTenantsRequest>) -> Answer<ListTenantsResponse> {
        answer("Tenants.List", async {
            let (_, r) = authorise(request)?;
            let (freshness, limit) = (r.freshness()?, page(r.page_size, 100, 1_000)?);
            let look = move |replica: &Replica| {
                let tenants = replica.state().tenants(given(&r.page_token));
                paged(tenants, |_| true, limit, |tenant| tenant.tenant.clone())
            };
            let ((tenants, next_page_token), header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListTenantsResponse { header: Some(header), tenants, next_page_token })
        })
        .await
    }
}
