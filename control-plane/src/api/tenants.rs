//! `Tenants`: who owns numbers, and how many.

use proto::control::tenants_server::Tenants;
use proto::control::{
    DeleteTenantRequest, GetTenantRequest, ListTenantsRequest, ListTenantsResponse,
    PutTenantRequest, TenantResponse, WriteResponse,
};
use proto::raft::{DeleteTenant, PutTenant, command};
use tonic::Request;

use super::read::later;
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
            let _ = authorise(request)?;
            later()
        })
        .await
    }

    async fn list(&self, request: Request<ListTenantsRequest>) -> Answer<ListTenantsResponse> {
        answer("Tenants.List", async {
            let _ = authorise(request)?;
            later()
        })
        .await
    }
}
