//! A client of the control plane's public API, as an operator's tool would be.
//!
//! Every write carries one request id through all its attempts, so that a write whose outcome got
//! lost with a node takes effect once. Attempts go round the nodes until the patience ends.

use std::future::Future;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};
use proto::control::admin_client::AdminClient;
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::pops_client::PopsClient;
use proto::control::routing_client::RoutingClient;
use proto::control::{
    AllocateNumberRequest, GetNumberRequest, ImportNumbersRequest, ListNumbersRequest,
    ListNumbersResponse, ListPopsRequest, ListPopsResponse, Number, PutRouteRequest,
    PutTrunkRequest, ReadConsistency, ReleaseNumberRequest, Route, RouteCandidate, StatusRequest,
    StatusResponse, Trunk, WriteOptions,
};
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint, Identity};
use tonic::{Code, Status};

use super::pki::Files;

/// How long one call goes on trying.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// How long one attempt may take before the next node is asked.
const ATTEMPT: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(50);

/// The client. Cheap to share by reference.
#[derive(Debug)]
pub struct Client {
    nodes: Vec<Channel>,
    /// The node that answered last.
    favourite: AtomicUsize,
    patience: Duration,
    requests: AtomicU64,
    prefix: String,
}

impl Client {
    /// Connects lazily to these nodes, as the operator of `tls`.
    pub fn new(nodes: &[SocketAddr], tls: &Files) -> Result<Self> {
        let read = |path: &std::path::Path| {
            std::fs::read(path).with_context(|| format!("cannot read {}", path.display()))
        };
        let tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(read(&tls.ca)?))
            .identity(Identity::from_pem(read(&tls.cert)?, read(&tls.key)?))
            .domain_name(proto::identity::CONTROL_DNS_NAME);
        let nodes = nodes
            .iter()
            .map(|address| {
                let endpoint = Endpoint::from_shared(format!("https://{address}"))?
                    .tls_config(tls.clone())?
                    .connect_timeout(Duration::from_secs(1))
                    .timeout(ATTEMPT);
                Ok(endpoint.connect_lazy())
            })
            .collect::<Result<Vec<_>>>()?;
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_nanos());
        Ok(Self {
            nodes,
            favourite: AtomicUsize::new(0),
            patience: PATIENCE,
            requests: AtomicU64::new(0),
            prefix: format!("lab-{}-{nanos:x}", std::process::id()),
        })
    }

    /// The same client with another patience.
    pub fn with_patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }

    /// A bare channel to one node (by position), for calls this client does not wrap.
    pub fn channel(&self, node: usize) -> Option<Channel> {
        self.nodes.get(node).cloned()
    }

    /// Creates or replaces a trunk.
    pub async fn put_trunk(&self, trunk: Trunk) -> Result<u64> {
        let request = PutTrunkRequest { options: self.options(), trunk: Some(trunk) };
        let answer = self
            .retry("PutTrunk", |c| {
                let request = request.clone();
                async move { RoutingClient::new(c).put_trunk(request).await }
            })
            .await?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Creates or replaces a route.
    pub async fn put_route(&self, route: Route) -> Result<u64> {
        let request = PutRouteRequest { options: self.options(), route: Some(route) };
        let answer = self
            .retry("PutRoute", |c| {
                let request = request.clone();
                async move { RoutingClient::new(c).put_route(request).await }
            })
            .await?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Adds numbers to a pool of the inventory.
    pub async fn import(&self, pool: &str, e164: &[String]) -> Result<u64> {
        let request = ImportNumbersRequest {
            options: self.options(),
            pool: pool.to_owned(),
            e164: e164.to_vec(),
            ..<_>::default()
        };
        let answer = self
            .retry("Import", |c| {
                let request = request.clone();
                async move { NumbersClient::new(c).import(request).await }
            })
            .await?;
        Ok(answer.header.unwrap_or_default().revision)
    }

    /// Gives a tenant this number, or the lowest free one of a pool.
    pub async fn allocate(
        &self,
        tenant: &str,
        which: Which,
        candidates: Vec<RouteCandidate>,
    ) -> Result<(Number, u64)> {
        let request = AllocateNumberRequest {
            options: self.options(),
            tenant: tenant.to_owned(),
            which: Some(which),
            candidates,
            ..<_>::default()
        };
        let answer = self
            .retry("Allocate", |c| {
                let request = request.clone();
                async move { NumbersClient::new(c).allocate(request).await }
            })
            .await?;
        let revision = answer.header.unwrap_or_default().revision;
        Ok((answer.number.context("Allocate answered without a number")?, revision))
    }

    /// Takes a number back from its tenant.
    pub async fn release(&self, tenant: &str, e164: &str) -> Result<Number> {
        let request = ReleaseNumberRequest {
            options: self.options(),
            e164: e164.to_owned(),
            tenant: tenant.to_owned(),
            expect: None,
        };
        let answer = self
            .retry("Release", |c| {
                let request = request.clone();
                async move { NumbersClient::new(c).release(request).await }
            })
            .await?;
        answer.number.context("Release answered without a number")
    }

    /// Reads one number.
    pub async fn number(&self, e164: &str, consistency: ReadConsistency) -> Result<Number> {
        let request =
            GetNumberRequest { consistency: consistency.into(), e164: e164.to_owned(), read: None };
        let answer = self
            .retry("Get", |c| {
                let request = request.clone();
                async move { NumbersClient::new(c).get(request).await }
            })
            .await?;
        answer.number.context("Get answered without a number")
    }

    /// Reads one page of a pool.
    pub async fn numbers(&self, request: ListNumbersRequest) -> Result<ListNumbersResponse> {
        self.retry("List", |c| {
            let request = request.clone();
            async move { NumbersClient::new(c).list(request).await }
        })
        .await
    }

    /// All POPs and whether they are heard.
    pub async fn pops(&self) -> Result<ListPopsResponse> {
        self.retry(
            "List",
            |c| async move { PopsClient::new(c).list(ListPopsRequest::default()).await },
        )
        .await
    }

    /// What one node (by position) says about itself; asked once.
    pub async fn status(&self, node: usize) -> Result<StatusResponse> {
        let channel = self.channel(node).context("no such control node")?;
        Ok(AdminClient::new(channel).status(StatusRequest {}).await?.into_inner())
    }

    fn options(&self) -> Option<WriteOptions> {
        let number = self.requests.fetch_add(1, Ordering::Relaxed);
        Some(WriteOptions { request_id: format!("{}-{number}", self.prefix), ..<_>::default() })
    }

    async fn retry<T, F, Fut>(&self, what: &str, attempt: F) -> Result<T>
    where
        F: Fn(Channel) -> Fut,
        Fut: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let deadline = Instant::now() + self.patience;
        loop {
            let favourite = self.favourite.load(Ordering::Relaxed);
            let Some(node) = self.nodes.get(favourite % self.nodes.len().max(1)) else {
                bail!("no control node to ask");
            };
            let status = match attempt(node.clone()).await {
                Ok(answer) => return Ok(answer.into_inner()),
                Err(status) => status,
            };
            if !is_passing(status.code()) || Instant::now() >= deadline {
                return Err(status).with_context(|| format!("{what} was refused"));
            }
            self.favourite.store((favourite + 1) % self.nodes.len(), Ordering::Relaxed);
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// Errors that another node, or the same one later, may not have.
fn is_passing(code: Code) -> bool {
    matches!(
        code,
        Code::Aborted
            | Code::Cancelled
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
            | Code::Unavailable
            | Code::Unknown
            | Code::Internal
    )
}
