//! Reading the inventory.
#![expect(clippy::unused_async, reason = "until the state can be asked for all of it")]

use super::super::read::{Reads, given, later, page};
use super::super::{Api, Failure, shelves};
use control_core::replica::Replica;
use control_core::state::NumberQuery;
use proto::control::{
    GetNumberRequest, GetNumberResponse, GetReservationRequest, ListAvailableRequest,
    ListAvailableResponse, ListBlocksRequest, ListBlocksResponse, ListNumbersRequest,
    ListNumbersResponse, ListPoolsRequest, ListPoolsResponse, ListReservationsRequest,
    ListReservationsResponse, NumberState, NumberType, ReservationResponse, SelectCallerIdRequest,
    SelectCallerIdResponse,
};

/// Numbers and blocks of a page, unless asked otherwise.
const PAGE: u32 = 1_000;
/// Numbers and blocks of a page at most.
const PAGE_MAX: u32 = 10_000;

impl Api {
    pub(super) async fn get_number(
        &self,
        r: GetNumberRequest,
    ) -> Result<GetNumberResponse, Failure> {
        let (freshness, e164) = (r.freshness()?, shelves::parse("e164", &r.e164)?);
        let look = move |replica: &Replica| replica.state().number(e164.as_str());
        let (number, header) = self.0.cluster.read(freshness, look).await?;
        let number = number.ok_or_else(|| {
            Failure::not_found("this number is not in the inventory: import it first")
        })?;
        Ok(GetNumberResponse { header: Some(header), number: Some(number) })
    }

    pub(super) async fn list_numbers(
        &self,
        r: ListNumbersRequest,
    ) -> Result<ListNumbersResponse, Failure> {
        let (freshness, limit) = (r.freshness()?, page(r.page_size, PAGE, PAGE_MAX)?);
        let state = NumberState::try_from(r.state)
            .map_err(|_| Failure::invalid(format!("state {} is unknown", r.state)))?;
        let look = move |replica: &Replica| {
            let query = NumberQuery {
                pool: given(&r.pool),
                state: (state != NumberState::Unspecified).then_some(state),
                country: given(&r.country),
                area: given(&r.area),
                kind: NumberType::try_from(r.r#type).ok().filter(|kind| *kind as i32 != 0),
                carrier: given(&r.carrier),
                prefix: given(&r.prefix),
                tenant: given(&r.tenant),
                tag: r.tag.as_ref(),
                after: given(&r.page_token),
                limit,
            };
            replica.state().numbers(query)
        };
        let (page, header) = self.0.cluster.read(freshness, look).await?;
        let (numbers, next_page_token) = (page.numbers, page.next.unwrap_or_default());
        Ok(ListNumbersResponse { header: Some(header), numbers, next_page_token })
    }

    pub(super) async fn blocks_page(
        &self,
        _: ListBlocksRequest,
    ) -> Result<ListBlocksResponse, Failure> {
        later()
    }

    pub(super) async fn pools(&self, _: ListPoolsRequest) -> Result<ListPoolsResponse, Failure> {
        later()
    }

    pub(super) async fn available(
        &self,
        _: ListAvailableRequest,
    ) -> Result<ListAvailableResponse, Failure> {
        later()
    }

    pub(super) async fn reservation(
        &self,
        _: GetReservationRequest,
    ) -> Result<ReservationResponse, Failure> {
        later()
    }

    pub(super) async fn reservations(
        &self,
        _: ListReservationsRequest,
    ) -> Result<ListReservationsResponse, Failure> {
        later()
    }

    pub(super) async fn caller_id(
        &self,
        _: SelectCallerIdRequest,
    ) -> Result<SelectCallerIdResponse, Failure> {
        later()
    }
}
