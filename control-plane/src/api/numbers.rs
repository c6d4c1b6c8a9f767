//! `Numbers`: the inventory.

use control_core::replica::Replica;
use control_core::state::NumberQuery;
use proto::control::allocate_number_request::Which;
use proto::control::numbers_server::Numbers;
use proto::control::{
    ActivateNumberRequest, AllocateNumberRequest, AllocateNumberResponse, BatchAllocateRequest,
    BatchAllocateResponse, BlockNumbersRequest, CancelReservationRequest,
    DecommissionNumbersRequest, ExtendReservationRequest, GetNumberRequest, GetNumberResponse,
    GetReservationRequest, ImportBlocksRequest, ImportNumbersRequest, ImportNumbersResponse,
    ListAvailableRequest, ListAvailableResponse, ListBlocksRequest, ListBlocksResponse,
    ListNumbersRequest, ListNumbersResponse, ListPoolsRequest, ListPoolsResponse,
    ListReservationsRequest, ListReservationsResponse, NumberResponse, NumberState,
    NumbersChangedResponse, RejectNumberRequest, ReleaseNumberRequest, ReleaseNumberResponse,
    ReservationResponse, ReserveNumbersRequest, ResumeNumberRequest, SelectCallerIdRequest,
    SelectCallerIdResponse, SuspendNumberRequest, TransferNumberRequest, UnblockNumbersRequest,
    UpdateNumberRequest,
};
use proto::e164::E164;
use proto::raft::{
    AllocateNumber, ImportNumbers, ReleaseNumber, allocate_number, command, outcome,
};
use tonic::Request;

use super::{Answer, Api, Failure, answer, authorise};

/// Numbers of a page, unless asked otherwise.
const PAGE: usize = 1_000;
/// Numbers of a page at most.
const PAGE_MAX: usize = 10_000;

#[tonic::async_trait]
impl Numbers for Api {
    async fn import(
        &self,
        request: Request<ImportNumbersRequest>,
    ) -> Answer<ImportNumbersResponse> {
        answer("Numbers.Import", async {
            let (caller, request) = authorise(request)?;
            let ImportNumbersRequest { options, pool, e164, .. } = request;
            let kind = command::Kind::ImportNumbers(ImportNumbers { pool, e164 });
            let (outcome, header) = self.0.cluster.write(&caller, options, kind).await?;
            let outcome::Kind::Imported(imported) = outcome else {
                return Err(Failure::internal("an import came to something else"));
            };
            Ok(ImportNumbersResponse { header: Some(header), imported })
        })
        .await
    }

    async fn allocate(
        &self,
        request: Request<AllocateNumberRequest>,
    ) -> Answer<AllocateNumberResponse> {
        answer("Numbers.Allocate", async {
            let (caller, request) = authorise(request)?;
            let which = match request.which {
                Some(Which::E164(e164)) => allocate_number::Which::E164(e164),
                Some(Which::AnyOfPool(pool)) => allocate_number::Which::AnyOfPool(pool),
                Some(Which::Any(_)) | None => {
                    return Err(Failure::invalid("name a number or a pool"));
                }
            };
            let (tenant, candidates) = (request.tenant, request.candidates);
            let allocate = AllocateNumber { tenant, which: Some(which), candidates };
            let kind = command::Kind::AllocateNumber(allocate);
            let (outcome, header) = self.0.cluster.write(&caller, request.options, kind).await?;
            let outcome::Kind::Number(number) = outcome else {
                return Err(Failure::internal("an allocation came to something else"));
            };
            Ok(AllocateNumberResponse { header: Some(header), number: Some(number) })
        })
        .await
    }

    async fn release(
        &self,
        request: Request<ReleaseNumberRequest>,
    ) -> Answer<ReleaseNumberResponse> {
        answer("Numbers.Release", async {
            let (caller, request) = authorise(request)?;
            let ReleaseNumberRequest { options, e164, tenant, expect } = request;
            let kind = command::Kind::ReleaseNumber(ReleaseNumber { e164, tenant, expect });
            let (outcome, header) = self.0.cluster.write(&caller, options, kind).await?;
            let outcome::Kind::Number(number) = outcome else {
                return Err(Failure::internal("a release came to something else"));
            };
            Ok(ReleaseNumberResponse { header: Some(header), number: Some(number) })
        })
        .await
    }

    async fn get(&self, request: Request<GetNumberRequest>) -> Answer<GetNumberResponse> {
        answer("Numbers.Get", async {
            let (_, request) = authorise(request)?;
            let consistency = request.consistency();
            let e164 = E164::parse(&request.e164)
                .map_err(|error| Failure::invalid(format!("e164 {error}")))?;
            let look = move |replica: &Replica| replica.state().number(e164.as_str());
            let (number, header) = self.0.cluster.read(consistency, look).await?;
            let number = number.ok_or_else(|| {
                Failure::not_found("this number is not in the inventory: import it first")
            })?;
            Ok(GetNumberResponse { header: Some(header), number: Some(number) })
        })
        .await
    }

    async fn list(&self, request: Request<ListNumbersRequest>) -> Answer<ListNumbersResponse> {
        answer("Numbers.List", async {
            let (_, request) = authorise(request)?;
            let (consistency, state) = (request.consistency(), request.state());
            let limit = page(request.page_size)?;
            let look = move |replica: &Replica| {
                let query = NumberQuery {
                    pool: given(&request.pool),
                    state: (state != NumberState::Unspecified).then_some(state),
                    after: given(&request.page_token),
                    limit,
                };
                replica.state().numbers(query)
            };
            let (numbers, header) = self.0.cluster.read(consistency, look).await?;
            // A full page may be the last one; then the next is empty.
            let last = numbers.last().filter(|_| numbers.len() >= limit);
            let next_page_token = last.map(|number| number.e164.clone()).unwrap_or_default();
            Ok(ListNumbersResponse { header: Some(header), numbers, next_page_token })
        })
        .await
    }

    async fn import_blocks(
        &self,
        _: Request<ImportBlocksRequest>,
    ) -> Answer<ImportNumbersResponse> {
        later()
    }

    async fn list_blocks(&self, _: Request<ListBlocksRequest>) -> Answer<ListBlocksResponse> {
        later()
    }

    async fn list_pools(&self, _: Request<ListPoolsRequest>) -> Answer<ListPoolsResponse> {
        later()
    }

    async fn batch_allocate(
        &self,
        _: Request<BatchAllocateRequest>,
    ) -> Answer<BatchAllocateResponse> {
        later()
    }

    async fn reserve(&self, _: Request<ReserveNumbersRequest>) -> Answer<ReservationResponse> {
        later()
    }

    async fn extend_reservation(
        &self,
        _: Request<ExtendReservationRequest>,
    ) -> Answer<ReservationResponse> {
        later()
    }

    async fn cancel_reservation(
        &self,
        _: Request<CancelReservationRequest>,
    ) -> Answer<ReservationResponse> {
        later()
    }

    async fn get_reservation(
        &self,
        _: Request<GetReservationRequest>,
    ) -> Answer<ReservationResponse> {
        later()
    }

    async fn list_reservations(
        &self,
        _: Request<ListReservationsRequest>,
    ) -> Answer<ListReservationsResponse> {
        later()
    }

    async fn activate(&self, _: Request<ActivateNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn reject(&self, _: Request<RejectNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn suspend(&self, _: Request<SuspendNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn resume(&self, _: Request<ResumeNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn transfer(&self, _: Request<TransferNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn update(&self, _: Request<UpdateNumberRequest>) -> Answer<NumberResponse> {
        later()
    }

    async fn block(&self, _: Request<BlockNumbersRequest>) -> Answer<NumbersChangedResponse> {
        later()
    }

    async fn unblock(&self, _: Request<UnblockNumbersRequest>) -> Answer<NumbersChangedResponse> {
        later()
    }

    async fn decommission(
        &self,
        _: Request<DecommissionNumbersRequest>,
    ) -> Answer<NumbersChangedResponse> {
        later()
    }

    async fn list_available(
        &self,
        _: Request<ListAvailableRequest>,
    ) -> Answer<ListAvailableResponse> {
        later()
    }

    async fn select_caller_id(
        &self,
        _: Request<SelectCallerIdRequest>,
    ) -> Answer<SelectCallerIdResponse> {
        later()
    }
}

/// The schema is ahead of this shell.
fn later<T>() -> Answer<T> {
    Err(tonic::Status::unimplemented("this version does not offer it yet"))
}

fn given(text: &str) -> Option<&str> {
    (!text.is_empty()).then_some(text)
}

fn page(asked: u32) -> Result<usize, Failure> {
    match usize::try_from(asked).unwrap_or(usize::MAX) {
        0 => Ok(PAGE),
        asked if asked <= PAGE_MAX => Ok(asked),
        _ => Err(Failure::invalid(format!("page_size is more than {PAGE_MAX}"))),
    }
}
