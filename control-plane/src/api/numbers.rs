//! `Numbers`: the inventory.
//!
//! Country, area and type of what comes in, and the country of a destination, are told here by
//! the numbering plans; see `shelves`.

mod reads;

use proto::control::allocate_number_request::Which;
use proto::control::numbers_server::Numbers;
use proto::control::{
    ActivateNumberRequest, AllocateNumberRequest, AllocateNumberResponse, BatchAllocateRequest,
    BatchAllocateResponse, BlockNumbersRequest, CancelReservationRequest,
    DecommissionNumbersRequest, ExtendReservationRequest, GetNumberRequest, GetNumberResponse,
    GetReservationRequest, ImportBlocksRequest, ImportNumbersRequest, ImportNumbersResponse,
    ListAvailableRequest, ListAvailableResponse, ListBlocksRequest, ListBlocksResponse,
    ListNumbersRequest, ListNumbersResponse, ListPoolsRequest, ListPoolsResponse,
    ListReservationsRequest, ListReservationsResponse, NumberPick, NumberResponse,
    NumbersChangedResponse, RejectNumberRequest, ReleaseNumberRequest, ReleaseNumberResponse,
    ReservationResponse, ReserveNumbersRequest, ResumeNumberRequest, SelectCallerIdRequest,
    SelectCallerIdResponse, SuspendNumberRequest, TransferNumberRequest, UnblockNumbersRequest,
    UpdateNumberRequest,
};
use proto::raft::{
    ActivateNumber, AllocateNumber, AllocateNumbers, BlockNumbers, CancelReservation,
    DecommissionNumbers, ExtendReservation, ImportBlocks, RejectNumber, ReleaseNumber,
    ReserveNumbers, ResumeNumber, SuspendNumber, TransferNumber, UnblockNumbers, UpdateNumber,
    allocate_number, command,
};
use tonic::Request;

use super::{Answer, Api, Failure, answer, authorise, shelves};

#[tonic::async_trait]
impl Numbers for Api {
    async fn import(
        &self,
        request: Request<ImportNumbersRequest>,
    ) -> Answer<ImportNumbersResponse> {
        answer("Numbers.Import", async {
            let (caller, mut r) = authorise(request)?;
            let options = r.options.take();
            // Up to 10,000 numbers to look up: not on a thread that serves others.
            let blocks = tokio::task::spawn_blocking(move || shelves::runs(r)).await;
            let blocks = blocks.map_err(|_| Failure::internal("the numbers were not read"))??;
            let kind = command::Kind::ImportBlocks(ImportBlocks { blocks });
            let (header, imported) = self.write_import(&caller, options, kind).await?;
            Ok(ImportNumbersResponse { header: Some(header), imported })
        })
        .await
    }

    async fn import_blocks(
        &self,
        request: Request<ImportBlocksRequest>,
    ) -> Answer<ImportNumbersResponse> {
        answer("Numbers.ImportBlocks", async {
            let (caller, r) = authorise(request)?;
            let blocks = tokio::task::spawn_blocking(move || shelves::blocks(r.blocks)).await;
            let blocks = blocks.map_err(|_| Failure::internal("the blocks were not read"))??;
            let kind = command::Kind::ImportBlocks(ImportBlocks { blocks });
            let (header, imported) = self.write_import(&caller, r.options, kind).await?;
            Ok(ImportNumbersResponse { header: Some(header), imported })
        })
        .await
    }

    async fn allocate(
        &self,
        request: Request<AllocateNumberRequest>,
    ) -> Answer<AllocateNumberResponse> {
        answer("Numbers.Allocate", async {
            let (caller, mut r) = authorise(request)?;
            let options = r.options.take();
            let done = self.write_number(&caller, options, allocation(r)?).await?;
            Ok(AllocateNumberResponse { header: done.header, number: done.number })
        })
        .await
    }

    async fn batch_allocate(
        &self,
        request: Request<BatchAllocateRequest>,
    ) -> Answer<BatchAllocateResponse> {
        answer("Numbers.BatchAllocate", async {
            let (caller, r) = authorise(request)?;
            let kind = command::Kind::AllocateNumbers(AllocateNumbers {
                tenant: r.tenant,
                pick: r.pick,
                reservation_id: r.reservation_id,
                candidates: r.candidates,
                tags: r.tags,
                compliance: r.compliance,
                expect: None,
            });
            let (header, numbers) = self.write_numbers(&caller, r.options, kind).await?;
            Ok(BatchAllocateResponse { header: Some(header), numbers })
        })
        .await
    }

    async fn reserve(
        &self,
        request: Request<ReserveNumbersRequest>,
    ) -> Answer<ReservationResponse> {
        answer("Numbers.Reserve", async {
            let (caller, r) = authorise(request)?;
            let (tenant, pick, duration_ms) = (r.tenant, r.pick, r.duration_ms);
            let kind = command::Kind::ReserveNumbers(ReserveNumbers { tenant, pick, duration_ms });
            self.write_reservation(&caller, r.options, kind).await
        })
        .await
    }

    async fn extend_reservation(
        &self,
        request: Request<ExtendReservationRequest>,
    ) -> Answer<ReservationResponse> {
        answer("Numbers.ExtendReservation", async {
            let (caller, r) = authorise(request)?;
            let kind = command::Kind::ExtendReservation(ExtendReservation {
                reservation_id: r.reservation_id,
                tenant: r.tenant,
                duration_ms: r.duration_ms,
            });
            self.write_reservation(&caller, r.options, kind).await
        })
        .await
    }

    async fn cancel_reservation(
        &self,
        request: Request<CancelReservationRequest>,
    ) -> Answer<ReservationResponse> {
        answer("Numbers.CancelReservation", async {
            let (caller, r) = authorise(request)?;
            let (reservation_id, tenant) = (r.reservation_id, r.tenant);
            let kind = CancelReservation { reservation_id, tenant };
            let kind = command::Kind::CancelReservation(kind);
            self.write_reservation(&caller, r.options, kind).await
        })
        .await
    }

    async fn activate(&self, request: Request<ActivateNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Activate", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = command::Kind::ActivateNumber(ActivateNumber {
                e164: r.e164,
                tenant: r.tenant,
                compliance: r.compliance,
                expect: r.expect,
            });
            self.write_number(&caller, r.options, kind).await
        })
        .await
    }

    async fn reject(&self, request: Request<RejectNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Reject", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = RejectNumber { e164: r.e164, expect: r.expect };
            self.write_number(&caller, r.options, command::Kind::RejectNumber(kind)).await
        })
        .await
    }

    async fn release(
        &self,
        request: Request<ReleaseNumberRequest>,
    ) -> Answer<ReleaseNumberResponse> {
        answer("Numbers.Release", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = ReleaseNumber { e164: r.e164, tenant: r.tenant, expect: r.expect };
            let kind = command::Kind::ReleaseNumber(kind);
            let done = self.write_number(&caller, r.options, kind).await?;
            Ok(ReleaseNumberResponse { header: done.header, number: done.number })
        })
        .await
    }

    async fn suspend(&self, request: Request<SuspendNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Suspend", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = SuspendNumber { e164: r.e164, reason: r.reason, expect: r.expect };
            self.write_number(&caller, r.options, command::Kind::SuspendNumber(kind)).await
        })
        .await
    }

    async fn resume(&self, request: Request<ResumeNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Resume", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = ResumeNumber { e164: r.e164, expect: r.expect };
            self.write_number(&caller, r.options, command::Kind::ResumeNumber(kind)).await
        })
        .await
    }

    async fn transfer(&self, request: Request<TransferNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Transfer", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = command::Kind::TransferNumber(TransferNumber {
                e164: r.e164,
                from_tenant: r.from_tenant,
                to_tenant: r.to_tenant,
                compliance: r.compliance,
                expect: r.expect,
            });
            self.write_number(&caller, r.options, kind).await
        })
        .await
    }

    async fn update(&self, request: Request<UpdateNumberRequest>) -> Answer<NumberResponse> {
        answer("Numbers.Update", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = command::Kind::UpdateNumber(UpdateNumber {
                e164: r.e164,
                tenant: r.tenant,
                candidates: r.candidates,
                tags: r.tags,
                expect: r.expect,
            });
            self.write_number(&caller, r.options, kind).await
        })
        .await
    }

    async fn block(&self, request: Request<BlockNumbersRequest>) -> Answer<NumbersChangedResponse> {
        answer("Numbers.Block", async {
            let (caller, r) = authorise(request)?;
            let first = shelves::parse("e164", &r.e164)?;
            let shelf = r.shelf.map(|given| shelves::filled(&given, &first)).transpose()?;
            let kind = command::Kind::BlockNumbers(BlockNumbers {
                e164: r.e164,
                count: r.count,
                reason: r.reason,
                shelf,
                expect: r.expect,
            });
            self.write_range(&caller, r.options, kind).await
        })
        .await
    }

    async fn unblock(
        &self,
        request: Request<UnblockNumbersRequest>,
    ) -> Answer<NumbersChangedResponse> {
        answer("Numbers.Unblock", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = UnblockNumbers { e164: r.e164, count: r.count, expect: r.expect };
            self.write_range(&caller, r.options, command::Kind::UnblockNumbers(kind)).await
        })
        .await
    }

    async fn decommission(
        &self,
        request: Request<DecommissionNumbersRequest>,
    ) -> Answer<NumbersChangedResponse> {
        answer("Numbers.Decommission", async {
            let (caller, r) = authorise(request)?;
            shelves::parse("e164", &r.e164)?;
            let kind = DecommissionNumbers { e164: r.e164, count: r.count, expect: r.expect };
            self.write_range(&caller, r.options, command::Kind::DecommissionNumbers(kind)).await
        })
        .await
    }

    async fn get(&self, request: Request<GetNumberRequest>) -> Answer<GetNumberResponse> {
        answer("Numbers.Get", async {
            let (_, r) = authorise(request)?;
            self.get_number(r).await
        })
        .await
    }

    async fn list(&self, request: Request<ListNumbersRequest>) -> Answer<ListNumbersResponse> {
        answer("Numbers.List", async {
            let (_, r) = authorise(request)?;
            self.list_numbers(r).await
        })
        .await
    }

    async fn list_blocks(&self, request: Request<ListBlocksRequest>) -> Answer<ListBlocksResponse> {
        answer("Numbers.ListBlocks", async {
            let (_, r) = authorise(request)?;
            self.list_shelved_blocks(r).await
        })
        .await
    }

    async fn list_pools(&self, request: Request<ListPoolsRequest>) -> Answer<ListPoolsResponse> {
        answer("Numbers.ListPools", async {
            let (_, r) = authorise(request)?;
            self.count_pools(r).await
        })
        .await
    }

    async fn list_available(
        &self,
        request: Request<ListAvailableRequest>,
    ) -> Answer<ListAvailableResponse> {
        answer("Numbers.ListAvailable", async {
            let (_, r) = authorise(request)?;
            self.look_available(r).await
        })
        .await
    }

    async fn get_reservation(
        &self,
        request: Request<GetReservationRequest>,
    ) -> Answer<ReservationResponse> {
        answer("Numbers.GetReservation", async {
            let (_, r) = authorise(request)?;
            self.get_held(r).await
        })
        .await
    }

    async fn list_reservations(
        &self,
        request: Request<ListReservationsRequest>,
    ) -> Answer<ListReservationsResponse> {
        answer("Numbers.ListReservations", async {
            let (_, r) = authorise(request)?;
            self.list_held(r).await
        })
        .await
    }

    async fn select_caller_id(
        &self,
        request: Request<SelectCallerIdRequest>,
    ) -> Answer<SelectCallerIdResponse> {
        answer("Numbers.SelectCallerId", async {
            let (_, r) = authorise(request)?;
            self.choose_caller_id(r).await
        })
        .await
    }
}

/// The command that says least: nodes of the version before know the first one.
fn allocation(r: AllocateNumberRequest) -> Result<command::Kind, Failure> {
    let AllocateNumberRequest { tenant, which, candidates, tags, compliance, expect, .. } = r;
    let which = which.ok_or_else(|| {
        Failure::invalid("which is not set: name a number (e164), a pool (any_of_pool) or any")
    })?;
    let plain = tags.is_empty() && compliance.is_none() && expect.is_none();
    let pick = match which {
        Which::E164(e164) if plain => {
            shelves::parse("e164", &e164)?;
            let which = Some(allocate_number::Which::E164(e164));
            return Ok(command::Kind::AllocateNumber(AllocateNumber { tenant, which, candidates }));
        }
        Which::AnyOfPool(pool) if plain => {
            let which = Some(allocate_number::Which::AnyOfPool(pool));
            return Ok(command::Kind::AllocateNumber(AllocateNumber { tenant, which, candidates }));
        }
        Which::E164(e164) => {
            shelves::parse("e164", &e164)?;
            NumberPick { e164: vec![e164], ..<_>::default() }
        }
        Which::AnyOfPool(pool) => {
            let shelf = Some(proto::control::Shelf { pool, ..<_>::default() });
            NumberPick { shelf, ..<_>::default() }
        }
        Which::Any(pick) if !pick.e164.is_empty() => {
            return Err(Failure::invalid("any.e164 names numbers: name one in e164 instead"));
        }
        Which::Any(pick) if pick.count > 1 => {
            return Err(Failure::invalid("any.count is above 1: use BatchAllocate for several"));
        }
        Which::Any(pick) => pick,
    };
    Ok(command::Kind::AllocateNumbers(AllocateNumbers {
        tenant,
        pick: Some(pick),
        reservation_id: String::new(),
        candidates,
        tags,
        compliance,
        expect,
    }))
}
