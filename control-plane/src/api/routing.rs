//! `Routing`: trunks and routes.

use control_core::replica::Replica;
use proto::control::routing_server::Routing;
use proto::control::{
    DeleteRouteRequest, DeleteTrunkRequest, ListRequest, ListRoutesResponse, ListTrunksResponse,
    PutRouteRequest, PutTrunkRequest, Route, Trunk, WriteResponse,
};
use proto::raft::command;
use tonic::Request;

use super::read::{Reads, page};
use super::{Answer, Api, Failure, answer, authorise};
use crate::access::Gate;

/// Entries of a page at most.
const PAGE_MAX: u32 = 10_000;

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
            let (freshness, asked) = (request.freshness()?, Page::of(request)?);
            let look = move |replica: &Replica| {
                asked.cut(replica.state().trunks(), |trunk: &Trunk| &trunk.trunk_id)
            };
            let ((mut trunks, next_page_token), header) =
                self.0.cluster.read(freshness, look).await?;
            let revealed = gate.is_some_and(|gate| gate.check(&caller, "reveal", "trunks").is_ok());
            if !revealed {
                trunks.iter_mut().for_each(hide_passwords);
            } else if trunks.iter().any(has_passwords) {
                self.0.reads.note(&caller, "trunks/passwords");
            }
            Ok(ListTrunksResponse { header: Some(header), trunks, next_page_token })
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
            let (freshness, asked) = (request.freshness()?, Page::of(request)?);
            let look = move |replica: &Replica| {
                asked.cut(replica.state().routes(), |route: &Route| &route.route_id)
            };
            let ((routes, next_page_token), header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListRoutesResponse { header: Some(header), routes, next_page_token })
        })
        .await
    }
}

fn has_passwords(trunk: &Trunk) -> bool {
    trunk.outbound_auth.is_some() || trunk.inbound_auth.is_some()
}

fn hide_passwords(trunk: &mut Trunk) {
    for auth in [&mut trunk.outbound_auth, &mut trunk.inbound_auth].into_iter().flatten() {
        auth.password.clear();
    }
}

/// Which entries, by id.
struct Page {
    after: String,
    limit: usize,
}

impl Page {
    /// Without a size, all: as clients ask that know no pages.
    fn of(request: ListRequest) -> Result<Self, Failure> {
        let limit = match request.page_size {
            0 => usize::MAX,
            asked => page(asked, asked, PAGE_MAX)?,
        };
        Ok(Self { after: request.page_token, limit })
    }

    /// The entries of the page, and where the next one begins; empty: nowhere.
    fn cut<T>(&self, all: impl Iterator<Item = T>, id: impl Fn(&T) -> &String) -> (Vec<T>, String) {
        let mut rest = all.skip_while(|entry| !self.after.is_empty() && *id(entry) <= self.after);
        let entries: Vec<T> = rest.by_ref().take(self.limit).collect();
        let more = rest.next().and(entries.last());
        let next = more.map(|last| id(last).clone()).unwrap_or_default();
        (entries, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(count: usize, page_size: u32) -> Vec<Vec<String>> {
        let all: Vec<String> = (0..count).map(|n| format!("t{n:02}")).collect();
        let (mut pages, mut page_token) = (Vec::new(), String::new());
        loop {
            let request = ListRequest { page_size, page_token, ..<_>::default() };
            let (entries, next) =
                Page::of(request).unwrap().cut(all.iter().cloned(), |entry: &String| entry);
            pages.push(entries);
            if next.is_empty() {
                assert_eq!(pages.concat(), all, "all of them, once, in order");
                return pages;
            }
            page_token = next;
        }
    }

    #[test]
    fn pages_hold_everything_once() {
        assert_eq!(walk(0, 3).len(), 1);
        assert_eq!(walk(7, 3).len(), 3);
        assert_eq!(walk(6, 3).len(), 2, "no empty page at the end");
        assert_eq!(walk(7, 0).len(), 1, "all at once, as before there were pages");
        let request = ListRequest { page_size: PAGE_MAX + 1, ..<_>::default() };
        assert!(Page::of(request).err().unwrap().message.contains("page_size"));
    }
}
