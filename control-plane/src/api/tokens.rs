//! `Tokens`: join tokens are made, listed and revoked; `enrollment` takes them.

use control_core::replica::Replica;
use proto::control::tokens_server::Tokens;
use proto::control::{
    CreateTokenRequest, CreateTokenResponse, ListTokensRequest, ListTokensResponse,
    RevokeTokenRequest, Token, WriteResponse,
};
use proto::raft::{CreateToken, command, outcome};
use tonic::Request;

use super::read::Reads as _;
use super::{Answer, Api, Failure, Issuing, answer, authorise};

#[tonic::async_trait]
impl Tokens for Api {
    async fn create(&self, request: Request<CreateTokenRequest>) -> Answer<CreateTokenResponse> {
        answer("Tokens.Create", async {
            let (caller, request) = authorise(request)?;
            let issuing = self.issuing()?;
            let region = self.region_of(&request).await?;
            let CreateTokenRequest { options, kind, name, ttl_ms, secret_sha256, .. } = request;
            let token = Token { kind, name, region, secret_sha256, ..Token::default() };
            let create = CreateToken { token: Some(token), ttl_ms };
            let kind = command::Kind::CreateToken(create);
            let (outcome, header) = self.0.cluster.write(&caller, options, kind).await?;
            let outcome::Kind::Token(token) = outcome else {
                return Err(Failure::internal("a new token came to something else"));
            };
            Ok(CreateTokenResponse {
                header: Some(header),
                token: Some(token),
                mesh: self.0.mesh.clone(),
                ca_sha256: issuing.authority.sha256(),
                endpoints: issuing.config.advertise.clone(),
            })
        })
        .await
    }

    async fn list(&self, request: Request<ListTokensRequest>) -> Answer<ListTokensResponse> {
        answer("Tokens.List", async {
            let (_, request) = authorise(request)?;
            let look = |replica: &Replica| {
                let public = |token| Token { secret_sha256: Vec::new(), ..token };
                replica.state().tokens().map(public).collect::<Vec<_>>()
            };
            let (tokens, header) = self.0.cluster.read(request.freshness()?, look).await?;
            Ok(ListTokensResponse { header: Some(header), tokens })
        })
        .await
    }

    async fn revoke(&self, request: Request<RevokeTokenRequest>) -> Answer<WriteResponse> {
        answer("Tokens.Revoke", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::RevokeToken(request.token_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }
}

impl Api {
    /// What this node issues certificates with.
    pub(super) fn issuing(&self) -> Result<&Issuing, Failure> {
        self.0.issuing.as_ref().ok_or_else(|| {
            let message =
                "this node issues no certificates: ask one with [ca] in its configuration";
            Failure::unavailable("NO_AUTHORITY", message)
        })
    }

    /// A POP that is known stays where it is.
    async fn region_of(&self, request: &CreateTokenRequest) -> Result<String, Failure> {
        if !request.region.is_empty() || request.kind != "pop" {
            return Ok(request.region.clone());
        }
        let name = request.name.clone();
        let look = move |replica: &Replica| replica.state().pop(&name);
        let pop = self.0.cluster.driver().query(look).await?;
        pop.map(|pop| pop.region).ok_or_else(|| {
            let message = format!("region is empty, and there is no POP {} yet", request.name);
            Failure::invalid(message)
        })
    }
}
