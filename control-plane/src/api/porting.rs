//! `Porting`: numbers that come from or go to other carriers.

use control_core::replica::Replica;
use proto::control::porting_server::Porting;
use proto::control::{
    CreatePortOrderRequest, GetPortOrderRequest, ListPortOrdersRequest, ListPortOrdersResponse,
    PortDirection, PortOrder, PortOrderResponse, PortState, RecordPortEventRequest,
};
use proto::raft::{CreatePortOrder, RecordPortEvent, command};
use tonic::Request;

use super::read::{Reads, given, page, paged};
use super::{Answer, Api, Failure, answer, authorise, shelves};

#[tonic::async_trait]
impl Porting for Api {
    async fn create(&self, request: Request<CreatePortOrderRequest>) -> Answer<PortOrderResponse> {
        answer("Porting.Create", async {
            let (caller, mut r) = authorise(request)?;
            let options = r.options.take();
            self.write_port_order(&caller, options, order(r)?).await
        })
        .await
    }

    async fn record_event(
        &self,
        request: Request<RecordPortEventRequest>,
    ) -> Answer<PortOrderResponse> {
        answer("Porting.RecordEvent", async {
            let (caller, r) = authorise(request)?;
            let kind = command::Kind::RecordPortEvent(RecordPortEvent {
                port_order_id: r.port_order_id,
                event: r.event,
                foc_ms: r.foc_ms,
                reason: r.reason,
                expect: r.expect,
            });
            self.write_port_order(&caller, r.options, kind).await
        })
        .await
    }

    async fn get(&self, request: Request<GetPortOrderRequest>) -> Answer<PortOrderResponse> {
        answer("Porting.Get", async {
            let (_, r) = authorise(request)?;
            let look = {
                let id = r.port_order_id.clone();
                move |replica: &Replica| replica.state().port_order(&id)
            };
            let (order, header) = self.0.cluster.read(r.freshness()?, look).await?;
            let missing =
                || Failure::not_found(format!("port order {:?} is not known", r.port_order_id));
            let order = Some(order.ok_or_else(missing)?);
            Ok(PortOrderResponse { header: Some(header), order })
        })
        .await
    }

    async fn list(
        &self,
        request: Request<ListPortOrdersRequest>,
    ) -> Answer<ListPortOrdersResponse> {
        answer("Porting.List", async {
            let (_, r) = authorise(request)?;
            let (freshness, limit) = (r.freshness()?, page(r.page_size, 100, 1_000)?);
            let state = PortState::try_from(r.state)
                .map_err(|_| Failure::invalid(format!("state {} is unknown", r.state)))?;
            let look = move |replica: &Replica| {
                let orders = replica.state().port_orders(given(&r.page_token));
                let wanted = |order: &PortOrder| {
                    (r.tenant.is_empty() || order.tenant == r.tenant)
                        && (state == PortState::Unspecified || order.state() == state)
                };
                paged(orders, wanted, limit, |order| order.port_order_id.clone())
            };
            let ((orders, next_page_token), header) = self.0.cluster.read(freshness, look).await?;
            Ok(ListPortOrdersResponse { header: Some(header), orders, next_page_token })
        })
        .await
    }
}

fn order(r: CreatePortOrderRequest) -> Result<command::Kind, Failure> {
    let incoming = r.direction() == PortDirection::In;
    let mut shelf = r.shelf;
    // Numbers of one order go to one place: the first tells country and type, and the area if it
    // is the only one.
    if incoming && let Some(first) = r.e164.first() {
        let given = shelf.take().unwrap_or_default();
        let mut filled = shelves::filled(&given, &shelves::parse("e164[0]", first)?)?;
        for (at, e164) in r.e164.iter().enumerate().skip(1) {
            let other = shelves::filled(&given, &shelves::parse(&format!("e164[{at}]"), e164)?)?;
            if (&other.country, other.r#type) != (&filled.country, filled.r#type) {
                let message = format!(
                    "e164[{at}] is of another country or type than e164[0]: make an order for \
                     each, or say country and type in shelf"
                );
                return Err(Failure::invalid(message));
            }
            if other.area != filled.area {
                filled.area.clear();
            }
        }
        shelf = Some(filled);
    }
    Ok(command::Kind::CreatePortOrder(CreatePortOrder {
        direction: r.direction,
        tenant: r.tenant,
        e164: r.e164,
        other_carrier: r.other_carrier,
        shelf,
        candidates: r.candidates,
    }))
}
