//! `Numbers`: the inventory.

use control_core::replica::Replica;
use control_core::state::NumberQuery;
use proto::control::allocate_number_request::Which;
use proto::control::numbers_server::Numbers;
use proto::control::{
    AllocateNumberRequest, AllocateNumberResponse, GetNumberRequest, GetNumberResponse,
    ImportNumbersRequest, ImportNumbersResponse, ListNumbersRequest, ListNumbersResponse,
    NumberState, ReleaseNumberRequest, ReleaseNumberResponse,
};
use proto::e164::E164;
use proto::identity::Kind;
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
            let (caller, request) = authorise(request, &[])?;
            let ImportNumbersRequest { options, pool, e164 } = request;
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
            let (caller, request) = authorise(request, &[])?;
            let which = match request.which {
                Some(Which::E164(e164)) => allocate_number::Which::E164(e164),
                Some(Which::AnyOfPool(pool)) => allocate_number::Which::AnyOfPool(pool),
                None => return Err(Failure::invalid("name a number or a pool")),
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
            let (caller, request) = authorise(request, &[])?;
            let ReleaseNumberRequest { options, e164, tenant } = request;
            let kind = command::Kind::ReleaseNumber(ReleaseNumber { e164, tenant });
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
            let (_, request) = authorise(request, &[Kind::Pop])?;
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
            let (_, request) = authorise(request, &[Kind::Pop])?;
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
