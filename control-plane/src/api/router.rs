//! Which service a request is for, by the first part of its path (gRPC over HTTP/2, `:path`).

use std::convert::Infallible;
use std::task::{Context, Poll};

use control_core::replica::PEER_MESSAGE_BYTES_MAX;
use proto::control::access_server::{AccessServer, SERVICE_NAME as ACCESS};
use proto::control::admin_server::{AdminServer, SERVICE_NAME as ADMIN};
use proto::control::audit_server::{AuditServer, SERVICE_NAME as AUDIT};
use proto::control::cluster_server::{ClusterServer, SERVICE_NAME as CLUSTER};
use proto::control::compliance_server::{ComplianceServer, SERVICE_NAME as COMPLIANCE};
use proto::control::enrollment_server::{EnrollmentServer, SERVICE_NAME as ENROLLMENT};
use proto::control::numbers_server::{NumbersServer, SERVICE_NAME as NUMBERS};
use proto::control::pops_server::{PopsServer, SERVICE_NAME as POPS};
use proto::control::porting_server::{PortingServer, SERVICE_NAME as PORTING};
use proto::control::routing_server::{RoutingServer, SERVICE_NAME as ROUTING};
use proto::control::tenants_server::{SERVICE_NAME as TENANTS, TenantsServer};
use proto::control::tokens_server::{SERVICE_NAME as TOKENS, TokensServer};
use proto::control::watch_server::{SERVICE_NAME as WATCH, WatchServer};
use proto::raft::peer_server::{PeerServer, SERVICE_NAME as PEER};
use tokio::sync::watch::Receiver;
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Code, Status};

use super::{Api, Failure, caller};
use crate::access::{self, Gate, Needs};
use crate::driver::Progress;

/// Largest request of clients: 10,000 numbers and room to spare.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// All services on one port.
#[derive(Clone)]
pub(super) struct Router {
    admin: AdminServer<Api>,
    cluster: ClusterServer<Api>,
    compliance: ComplianceServer<Api>,
    numbers: NumbersServer<Api>,
    peer: PeerServer<Api>,
    pops: PopsServer<Api>,
    porting: PortingServer<Api>,
    routing: RoutingServer<Api>,
    tenants: TenantsServer<Api>,
    watch: WatchServer<Api>,
    access: AccessServer<Api>,
    audit: AuditServer<Api>,
    enrollment: EnrollmentServer<Api>,
    tokens: TokensServer<Api>,
    progress: Receiver<Progress>,
}

impl Router {
    pub(super) fn new(api: &Api) -> Self {
        let peer_bytes = PEER_MESSAGE_BYTES_MAX + 64 * 1024;
        let bytes = REQUEST_BYTES_MAX;
        Self {
            admin: AdminServer::new(api.clone()).max_decoding_message_size(bytes),
            cluster: ClusterServer::new(api.clone()).max_decoding_message_size(bytes),
            compliance: ComplianceServer::new(api.clone()).max_decoding_message_size(bytes),
            numbers: NumbersServer::new(api.clone()).max_decoding_message_size(bytes),
            peer: PeerServer::new(api.clone()).max_decoding_message_size(peer_bytes),
            pops: PopsServer::new(api.clone()).max_decoding_message_size(bytes),
            porting: PortingServer::new(api.clone()).max_decoding_message_size(bytes),
            routing: RoutingServer::new(api.clone()).max_decoding_message_size(bytes),
            tenants: TenantsServer::new(api.clone()).max_decoding_message_size(bytes),
            watch: WatchServer::new(api.clone()).max_decoding_message_size(bytes),
            access: AccessServer::new(api.clone()).max_decoding_message_size(bytes),
            audit: AuditServer::new(api.clone()).max_decoding_message_size(bytes),
            enrollment: EnrollmentServer::new(api.clone())
                .max_decoding_message_size(JOIN_BYTES_MAX),
            tokens: TokensServer::new(api.clone()).max_decoding_message_size(bytes),
            progress: api.0.cluster.driver().progress(),
        }
    }

    /// Asked before the body is read: nobody sends megabytes to be told no.
    fn admit(&self, request: &mut http::Request<Body>) -> Result<(), Failure> {
        let row = access::row(request.uri().path()).ok_or_else(|| {
            let message = "this node has no such method: it may be older than you";
            Failure::new(Code::Unimplemented, "UNKNOWN_METHOD", message)
        })?;
        if matches!(row.needs, Needs::Nothing) {
            return Ok(());
        }
        let caller = caller(request.extensions())?;
        let gate = Gate::new(row, self.progress.borrow().policy.clone());
        gate.admit(&caller)?;
        request.extensions_mut().insert(gate);
        Ok(())
    }
}

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // As all of them always are.
    }

    fn call(&mut self, mut request: http::Request<Body>) -> Self::Future {
        if let Err(failure) = self.admit(&mut request) {
            return refuse(failure);
        }
        let service = request.uri().path().trim_start_matches('/').split('/').next();
        match service.unwrap_or_default() {
            ADMIN => self.admin.call(request),
            CLUSTER => self.cluster.call(request),
            COMPLIANCE => self.compliance.call(request),
            NUMBERS => self.numbers.call(request),
            PEER => self.peer.call(request),
            ACCESS => self.access.call(request),
            AUDIT => self.audit.call(request),
            ENROLLMENT => self.enrollment.call(request),
            TOKENS => self.tokens.call(request),
            POPS => self.pops.call(request),
            PORTING => self.porting.call(request),
            ROUTING => self.routing.call(request),
            TENANTS => self.tenants.call(request),
            WATCH => self.watch.call(request),
            _ => {
                let message = "this node has no such service";
                refuse(Failure::new(Code::Unimplemented, "UNKNOWN_SERVICE", message))
            }
        }
    }
}

/// What somebody without a certificate may ask: to be let in.
#[derive(Clone)]
pub(super) struct JoinRouter(EnrollmentServer<Api>);

/// The only path of the join address.
const JOIN: &str = "/voxmesh.control.v1.Enrollment/Join";
/// A secret and a certificate request are far smaller.
const JOIN_BYTES_MAX: usize = 16 * 1024;

impl JoinRouter {
    pub(super) fn new(api: &Api) -> Self {
        Self(EnrollmentServer::new(api.clone()).max_decoding_message_size(JOIN_BYTES_MAX))
    }
}

impl Service<http::Request<Body>> for JoinRouter {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // As it always is.
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        if request.uri().path() == JOIN {
            return self.0.call(request);
        }
        let message = "this address only lets new machines in: the API has another port";
        refuse(Failure::new(Code::Unauthenticated, "NO_IDENTITY", message))
    }
}

fn refuse(failure: Failure) -> BoxFuture<http::Response<Body>, Infallible> {
    Box::pin(async move { Ok(Status::from(failure).into_http()) })
}
