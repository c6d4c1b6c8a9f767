//! `Routing`: trunks and routes.

use control_core::replica::Replica;
use proto::control::routing_server::Routing;
use proto::control::{
    DeleteRouteRequest, DeleteTrunkRequest, ListRequest, ListRoutesResponse, ListTrunksResponse,
    PutRouteRequest, PutTrunkRequest, Route, Trunk, WriteOptions, WriteResponse,
};
use proto::identity::{Identity, Kind};
use proto::raft::command;
use tonic::Request;

use super::{Answer, Api, Failure, answer, authorise};

#[tonic::async_trait]
impl Routing for Api {
    async fn put_trunk(&self, request: Request<PutTrunkRequest>) -> Answer<WriteResponse> {
        answer("Routing.PutTrunk", async {
            let (caller, request) = authorise(request, &[])?;
            let trunk = request.trunk.ok_or_else(|| Failure::invalid("trunk is missing"))?;
            self.write(&caller, request.options, command::Kind::PutTrunk(trunk)).await
        })
        .await
    }

    async fn delete_trunk(&self, request: Request<DeleteTrunkRequest>) -> Answer<WriteResponse> {
        answer("Routing.DeleteTrunk", async {
            let (caller, request) = authorise(request, &[])?;
            let kind = command::Kind::DeleteTrunk(request.trunk_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }

    async fn list_trunks(&self, request: Request<ListRequest>) -> Answer<ListTrunksResponse> {
        answer("Routing.ListTrunks", async {
            let (_, request) = authorise(request, &[Kind::Pop])?;
            let look = |replica: &Replica| replica.state().trunks().collect::<Vec<Trunk>>();
            let (trunks, header) = self.0.cluster.read(request.consistency(), look).await?;
            Ok(ListTrunksResponse { header: Some(header), trunks })
        })
        .await
    }

    async fn put_route(&self, request: Request<PutRouteRequest>) -> Answer<WriteResponse> {
        answer("Routing.PutRoute", async {
            let (caller, request) = authorise(request, &[])?;
            let route = request.route.ok_or_else(|| Failure::invalid("route is missing"))?;
            self.write(&caller, request.options, command::Kind::PutRoute(route)).await
        })
        .await
    }

    async fn delete_route(&self, request: Request<DeleteRouteRequest>) -> Answer<WriteResponse> {
        answer("Routing.DeleteRoute", async {
            let (caller, request) = authorise(request, &[])?;
            let kind = command::Kind::DeleteRoute(request.route_id);
            self.write(&caller, request.options, kind).await
        })
        .await
    }

    async fn list_routes(&self, request: Request<ListRequest>) -> Answer<ListRoutesResponse> {
        answer("Routing.ListRoutes", async {
            let (_, request) = authorise(request, &[Kind::Pop])?;
            let look = |replica: &Replica| replica.state().routes().collect::<Vec<Route>>();
            let (routes, header) = self.0.cluster.read(request.consistency(), look).await?;
            Ok(ListRoutesResponse { header: Some(header), routes })
        })
        .await
    }
}

impl Api {
    async fn write(
        &self,
        caller: &Identity,
        options: Option<WriteOptions>,
        kind: command::Kind,
    ) -> Result<WriteResponse, Failure> {
        let (_, header) = self.0.cluster.write(caller, options, kind).await?;
        Ok(WriteResponse { header: Some(header) })
    }
}
