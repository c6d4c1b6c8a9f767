//! `Routing`: trunks and routes.

use control_core::replica::Replica;
use proto::control::routing_server::Routing;
use proto::control::{
    DeleteRouteRequest, DeleteTrunkRequest, ListRequest, ListRoutesResponse, ListTrunksResponse,
    PutRouteRequest, PutTrunkRequest, Route, Trunk, WriteOptions, WriteResponse,
};
use proto::identity::Identity;
use proto::raft::command;
use tonic::Request;

use super::{Answer, Api, Failure, answer, authorise};
use crate::access::Gate;

#[tonic::async_trait]
impl Routing for Api {
    async fn put_trunk(&self, request: Request<PutTrunkRequest>) -> Answer<WriteResponse> {
        answer("Routing.PutTrunk", async {
            let (caller, request) = authorise(request)?;
            let trunk = request.trunk.ok_or_else(|| Failure::invalid("trunk is missing"))?;
            self.write(&caller, request.options, command::Kind::PutTrunk(trunk)).await
        })
        .await
    }

    async fn delete_trunk(&self, request: Request<DeleteTrunkRequest>) -> Answer<WriteResponse> {
        answer("Routing.DeleteTrunk", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::DeleteTrunk(request.trunk_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }

    async fn list_trunks(&self, request: Request<ListRequest>) -> Answer<ListTrunksResponse> {
        answer("Routing.ListTrunks", async {
            let gate = request.extensions().get::<Gate>().cloned();
            let (caller, request) = authorise(request)?;
            let look = |replica: &Replica| replica.state().trunks().collect::<Vec<Trunk>>();
            let (mut trunks, header) = self.0.cluster.read(request.consistency(), look).await?;
            let revealed = gate.is_some_and(|gate| gate.check(&caller, "reveal", "trunks").is_ok());
            if !revealed {
                trunks.iter_mut().for_each(hide_passwords);
            }
            Ok(ListTrunksResponse { header: Some(header), trunks })
        })
        .await
    }

    async fn put_route(&self, request: Request<PutRouteRequest>) -> Answer<WriteResponse> {
        answer("Routing.PutRoute", async {
            let (caller, request) = authorise(request)?;
            let route = request.route.ok_or_else(|| Failure::invalid("route is missing"))?;
            self.write(&caller, request.options, command::Kind::PutRoute(route)).await
        })
        .await
    }

    async fn delete_route(&self, request: Request<DeleteRouteRequest>) -> Answer<WriteResponse> {
        answer("Routing.DeleteRoute", async {
            let (caller, request) = authorise(request)?;
            let kind = command::Kind::DeleteRoute(request.route_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }

    async fn list_routes(&self, request: Request<ListRequest>) -> Answer<ListRoutesResponse> {
        answer("Routing.ListRoutes", async {
            let (_, request) = authorise(request)?;
            let look = |replica: &Replica| replica.state().routes().collect::<Vec<Route>>();
            let (routes, header) = self.0.cluster.read(request.consistency(), look).await?;
            Ok(ListRoutesResponse { header: Some(header), routes })
        })
        .await
    }
}

fn hide_passwords(trunk: &mut Trunk) {
    for auth in [&mut trunk.outbound_auth, &mut trunk.inbound_auth].into_iter().flatten() {
        auth.password.clear();
    }
}

impl Api {
    pub(super) async fn write(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<WriteResponse, Failure> {
        let (_, header) = self.0.cluster.write(caller, options, kind).await?;
        Ok(WriteResponse { header: Some(header) })
    }
}
