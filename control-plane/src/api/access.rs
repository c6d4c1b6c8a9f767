//! `Access`: roles and bindings.

use std::sync::Arc;

use control_core::access::{Policy, VERBS};
use control_core::replica::Replica;
use proto::control::access_server::Access;
use proto::control::{
    BindRequest, DeleteRoleRequest, ExplainRequest, ExplainResponse, ListAccessRequest,
    ListAccessResponse, PutRoleRequest, WriteResponse,
};
use proto::raft::command;
use tonic::Request;

use super::read::{Freshness, Reads};
use super::{Answer, Api, Failure, answer, authorise};

#[tonic::async_trait]
impl Access for Api {
    async fn put_role(&self, request: Request<PutRoleRequest>) -> Answer<WriteResponse> {
        answer("Access.PutRole", async {
            let (caller, request) = authorise(request)?;
            let role = request.role.ok_or_else(|| Failure::invalid("role is missing"))?;
            self.write(&caller, request.options, command::Kind::PutRole(role)).await
        })
        .await
    }

    async fn delete_role(&self, request: Request<DeleteRoleRequest>) -> Answer<WriteResponse> {
        answer("Access.DeleteRole", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::DeleteRole(request.role_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }

    async fn bind(&self, request: Request<BindRequest>) -> Answer<WriteResponse> {
        answer("Access.Bind", async {
            let (caller, request) = authorise(request)?;
            let binding = request.binding.ok_or_else(|| Failure::invalid("binding is missing"))?;
            self.write(&caller, request.options, command::Kind::Bind(binding)).await
        })
        .await
    }

    async fn unbind(&self, request: Request<BindRequest>) -> Answer<WriteResponse> {
        answer("Access.Unbind", async {
            let (caller, request) = authorise(request)?;
            let binding = request.binding.ok_or_else(|| Failure::invalid("binding is missing"))?;
            self.write(&caller, request.options, command::Kind::Unbind(binding)).await
        })
        .await
    }

    async fn list(&self, request: Request<ListAccessRequest>) -> Answer<ListAccessResponse> {
        answer("Access.List", async {
            let (_, request) = authorise(request)?;
            let look = |replica: &Replica| replica.state().policy().clone();
            let (policy, header) = self.0.cluster.read(request.freshness()?, look).await?;
            let policy: Arc<Policy> = policy;
            Ok(ListAccessResponse {
                header: Some(header),
                roles: policy.roles().collect(),
                bindings: policy.bindings().collect(),
                verbs: VERBS.iter().map(|(verb, what)| format!("{verb}: {what}")).collect(),
            })
        })
        .await
    }

    async fn explain(&self, request: Request<ExplainRequest>) -> Answer<ExplainResponse> {
        answer("Access.Explain", async {
            let (_, request) = authorise(request)?;
            let ExplainRequest { principal, verb, resource } = request;
            if !VERBS.iter().any(|(known, _)| *known == verb) {
                let known: Vec<&str> = VERBS.iter().map(|(verb, _)| *verb).collect();
                let message = format!("verb {verb:?} is none of {}", known.join(", "));
                return Err(Failure::invalid(message));
            }
            let look = |replica: &Replica| replica.state().policy().clone();
            let (policy, header) = self.0.cluster.read(Freshness::Linearizable, look).await?;
            let policy: Arc<Policy> = policy;
            let allowed = policy.check(&principal, &verb, &resource);
            let why = allowed.as_ref().map_or_else(
                || format!("no role bound to \"{principal}\" grants {verb} on \"{resource}\""),
                ToString::to_string,
            );
            let allowed = allowed.is_some();
            Ok(ExplainResponse { header: Some(header), allowed, why })
        })
        .await
    }
}
