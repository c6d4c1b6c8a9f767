//! `Enrollment`: a join token becomes a certificate, a certificate the next one.
//!
//! A wrong token costs a read, never a write: strangers must not fill the log.

use control_core::replica::Replica;
use control_core::state::tokens::token_id;
use proto::control::enrollment_server::Enrollment;
use proto::control::{
    CertificateResponse, JoinRequest, Member, MemberRole, RenewRequest, Token, WriteOptions,
};
use proto::identity::Identity;
use proto::raft::{RedeemToken, command, outcome};
use sha2::{Digest, Sha256};
use tonic::{Code, Request};

use super::read::Freshness;
use super::{Answer, Api, Failure, answer, authorise};
use crate::pki::{Requested, SignError};

#[tonic::async_trait]
impl Enrollment for Api {
    async fn join(&self, request: Request<JoinRequest>) -> Answer<CertificateResponse> {
        answer("Enrollment.Join", async {
            self.issuing()?;
            let JoinRequest { secret, csr } = request.into_inner();
            let requested = Requested::read(&csr)?;
            let secret_sha256 = Sha256::digest(&secret).to_vec();
            let key_sha256 = requested.key_sha256();
            self.look_at_token(&secret_sha256, &key_sha256).await?;
            let token = self.redeem(secret_sha256, key_sha256).await?;
            let identity = identity_of(&self.0.mesh, &token)?;
            tracing::info!(
                identity = identity.to_uri(),
                token = token.token_id,
                "a machine joined"
            );
            self.certificate(&identity, &requested)
        })
        .await
    }

    async fn renew(&self, request: Request<RenewRequest>) -> Answer<CertificateResponse> {
        answer("Enrollment.Renew", async {
            let (caller, request) = authorise(request)?;
            let requested = Requested::read(&request.csr)?;
            let answer = self.certificate(&caller, &requested)?;
            tracing::info!(identity = caller.to_uri(), "a certificate was renewed");
            Ok(answer)
        })
        .await
    }
}

impl Api {
    /// Refuses what cannot be redeemed, without writing.
    async fn look_at_token(&self, secret_sha256: &[u8], key: &[u8]) -> Result<(), Failure> {
        let id = token_id(secret_sha256);
        let look = move |replica: &Replica| replica.state().token(&id);
        let (token, header) = self.0.cluster.read(Freshness::Linearizable, look).await?;
        let refused =
            |reason: &str, message: &str| Failure::new(Code::PermissionDenied, reason, message);
        let token = token.filter(|token| token.secret_sha256 == secret_sha256).ok_or_else(|| {
            refused("TOKEN_UNKNOWN", "this token is unknown here: it was revoked, has long expired, or is of another mesh")
        })?;
        if header.log_time_ms >= token.expires_ms {
            return Err(refused("TOKEN_EXPIRED", "this token expired: have a new one made"));
        }
        if token.used_ms > 0 && token.key_sha256 != key {
            return Err(refused("TOKEN_USED", "this token was used already: have a new one made"));
        }
        Ok(())
    }

    async fn redeem(&self, secret_sha256: Vec<u8>, key_sha256: Vec<u8>) -> Result<Token, Failure> {
        let principal = format!("token/{}", token_id(&secret_sha256));
        // The same machine asking again gets the same answer.
        let request_id = format!("join-{}", token_id(&key_sha256));
        let kind = command::Kind::RedeemToken(RedeemToken { secret_sha256, key_sha256 });
        let options = Some(WriteOptions { request_id, ..<_>::default() });
        match self.0.cluster.write_as(principal, options, kind).await? {
            (outcome::Kind::Token(token), _) => Ok(token),
            _ => Err(Failure::internal("a token came to something else")),
        }
    }

    fn certificate(
        &self,
        identity: &Identity,
        requested: &Requested,
    ) -> Result<CertificateResponse, Failure> {
        let issuing = self.issuing()?;
        let members = self.0.cluster.driver().members().borrow().clone();
        let members = members.iter().filter(|m| m.role() != MemberRole::Removed).map(|m| Member {
            node_id: m.node_id,
            address: m.address.clone(),
            region: m.region.clone(),
            ..Member::default()
        });
        Ok(CertificateResponse {
            certificate_pem: issuing.authority.sign(identity, requested, issuing.config.days)?,
            ca_pem: issuing.ca_pem.clone(),
            identity: identity.to_uri(),
            members: members.collect(),
        })
    }
}

fn identity_of(mesh: &str, token: &Token) -> Result<Identity, Failure> {
    let kind = token.kind.parse().ok();
    let identity = kind.and_then(|kind| Identity::new(mesh, &token.region, kind, &token.name).ok());
    identity.ok_or_else(|| Failure::internal("a token names no identity"))
}

impl From<SignError> for Failure {
    fn from(error: SignError) -> Self {
        match error {
            SignError::Request(_) => Self::invalid(error.to_string()),
            SignError::Authority(_) => Self::internal("the authority cannot sign"),
        }
    }
}
