//! Which service a request is for, by the first part of its path (gRPC over HTTP/2, `:path`).

use std::convert::Infallible;
use std::task::{Context, Poll};

use control_core::replica::PEER_MESSAGE_BYTES_MAX;
use proto::control::admin_server::{AdminServer, SERVICE_NAME as ADMIN};
use proto::control::numbers_server::{NumbersServer, SERVICE_NAME as NUMBERS};
use proto::control::pops_server::{PopsServer, SERVICE_NAME as POPS};
use proto::control::routing_server::{RoutingServer, SERVICE_NAME as ROUTING};
use proto::control::watch_server::{SERVICE_NAME as WATCH, WatchServer};
use proto::identity::Kind;
use proto::raft::peer_server::{PeerServer, SERVICE_NAME as PEER};
use tonic::body::Body;
use tonic::codegen::{BoxFuture, Service, http};
use tonic::{Code, Extensions, Status};

use super::{Api, Failure, caller};

/// Largest request of clients: 10,000 numbers and room to spare.
const REQUEST_BYTES_MAX: usize = 2 * 1024 * 1024;

/// All services on one port.
#[derive(Clone)]
pub(super) struct Router {
    admin: AdminServer<Api>,
    numbers: NumbersServer<Api>,
    peer: PeerServer<Api>,
    pops: PopsServer<Api>,
    routing: RoutingServer<Api>,
    watch: WatchServer<Api>,
}

impl Router {
    pub(super) fn new(api: &Api) -> Self {
        let peer_bytes = PEER_MESSAGE_BYTES_MAX + 64 * 1024;
        let bytes = REQUEST_BYTES_MAX;
        Self {
            admin: AdminServer::new(api.clone()).max_decoding_message_size(bytes),
            numbers: NumbersServer::new(api.clone()).max_decoding_message_size(bytes),
            peer: PeerServer::new(api.clone()).max_decoding_message_size(peer_bytes),
            pops: PopsServer::new(api.clone()).max_decoding_message_size(bytes),
            routing: RoutingServer::new(api.clone()).max_decoding_message_size(bytes),
            watch: WatchServer::new(api.clone()).max_decoding_message_size(bytes),
        }
    }
}

impl Service<http::Request<Body>> for Router {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Infallible>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(())) // As all of them always are.
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let service = request.uri().path().trim_start_matches('/').split('/').next();
        match service.unwrap_or_default() {
            ADMIN => self.admin.call(request),
            NUMBERS => self.numbers.call(request),
            PEER => match only_control_nodes(request.extensions()) {
                Ok(()) => self.peer.call(request),
                Err(failure) => refuse(failure),
            },
            POPS => self.pops.call(request),
            ROUTING => self.routing.call(request),
            WATCH => self.watch.call(request),
            _ => {
                let message = "this node has no such service";
                refuse(Failure::new(Code::Unimplemented, "UNKNOWN_SERVICE", message))
            }
        }
    }
}

/// Asked before the body is read: only members may send as much as raft does.
fn only_control_nodes(extensions: &Extensions) -> Result<(), Failure> {
    let identity = caller(extensions)?;
    if identity.kind == Kind::Control { Ok(()) } else { Err(Failure::denied(&identity)) }
}

fn refuse(failure: Failure) -> BoxFuture<http::Response<Body>, Infallible> {
    Box::pin(async move { Ok(Status::from(failure).into_http()) })
}
