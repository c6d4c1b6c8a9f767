//! Reading the inventory.

use control_core::replica::Replica;
use control_core::state::{CallerIdQuery, NumberCounts, NumberQuery};
use proto::control::{
    GetNumberRequest, GetNumberResponse, GetReservationRequest, ListAvailableRequest,
    ListAvailableResponse, ListBlocksRequest, ListBlocksResponse, ListNumbersRequest,
    ListNumbersResponse, ListPoolsRequest, ListPoolsResponse, ListReservationsRequest,
    ListReservationsResponse, NumberState, NumberType, Reservation, ReservationResponse,
    SelectCallerIdRequest, SelectCallerIdResponse, list_pools_response,
};
use proto::numbering;

use super::super::read::{Reads, given, page, paged};
use super::super::{Api, Failure, shelves};

/// Numbers and blocks of a page, unless asked otherwise.
const PAGE: u32 = 1_000;
/// Numbers and blocks of a page at most.
const PAGE_MAX: u32 = 10_000;
/// Free numbers of one look at most.
const AVAILABLE_MAX: u32 = 1_000;
/// Countries to fall back to.
const FALLBACKS_MAX: usize = 16;

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
        let (state, kind) = (state(r.state)?, kind("type", r.r#type)?);
        check_prefix("prefix", &r.prefix)?;
        let look = move |replica: &Replica| {
            let query = NumberQuery {
                pool: given(&r.pool),
                country: given(&r.country),
                area: given(&r.area),
                kind,
                carrier: given(&r.carrier),
                state,
                tenant: given(&r.tenant),
                prefix: given(&r.prefix),
                tag: r.tag.as_ref(),
                after: given(&r.page_token),
                limit,
            };
            replica.state().numbers(query)
        };
        let (found, header) = self.0.cluster.read(freshness, look).await?;
        let (numbers, next_page_token) = (found.numbers, found.next.unwrap_or_default());
        Ok(ListNumbersResponse { header: Some(header), numbers, next_page_token })
    }

    pub(super) async fn list_shelved_blocks(
        &self,
        r: ListBlocksRequest,
    ) -> Result<ListBlocksResponse, Failure> {
        let (freshness, limit) = (r.freshness()?, page(r.page_size, PAGE, PAGE_MAX)?);
        let look = move |replica: &Replica| {
            let filter = r.filter.unwrap_or_default();
            let blocks = replica.state().blocks(&filter, given(&r.page_token));
            paged(blocks, |_| true, limit, |block| block.first.clone())
        };
        let ((blocks, next_page_token), header) = self.0.cluster.read(freshness, look).await?;
        Ok(ListBlocksResponse { header: Some(header), blocks, next_page_token })
    }

    pub(super) async fn count_pools(
        &self,
        r: ListPoolsRequest,
    ) -> Result<ListPoolsResponse, Failure> {
        let look = |replica: &Replica| replica.state().pool_counts();
        let (counts, header) = self.0.cluster.read(r.freshness()?, look).await?;
        let pools = counts.into_iter().map(|(pool, counts)| pool_of(pool, &counts)).collect();
        Ok(ListPoolsResponse { header: Some(header), pools })
    }

    pub(super) async fn look_available(
        &self,
        r: ListAvailableRequest,
    ) -> Result<ListAvailableResponse, Failure> {
        let (freshness, pick) = (r.freshness()?, r.pick.unwrap_or_default());
        if !pick.e164.is_empty() {
            return Err(Failure::invalid("pick.e164 names numbers: ask Get about those"));
        }
        if pick.count > AVAILABLE_MAX {
            let message = format!("pick.count {} is more than {AVAILABLE_MAX}", pick.count);
            return Err(Failure::invalid(message));
        }
        check_prefix("pick.prefix", &pick.prefix)?;
        let look = move |replica: &Replica| {
            let shelf = pick.shelf.unwrap_or_default();
            replica.state().available(&shelf, &pick.prefix, pick.count.max(1) as usize)
        };
        let (numbers, header) = self.0.cluster.read(freshness, look).await?;
        Ok(ListAvailableResponse { header: Some(header), numbers })
    }

    pub(super) async fn get_held(
        &self,
        r: GetReservationRequest,
    ) -> Result<ReservationResponse, Failure> {
        let id = r.reservation_id.clone();
        let look = move |replica: &Replica| replica.state().reservation(&id);
        let (reservation, header) = self.0.cluster.read(r.freshness()?, look).await?;
        let missing = || {
            let id = &r.reservation_id;
            Failure::not_found(format!("reservation {id:?} is not known, or holds nothing more"))
        };
        let reservation = Some(reservation.ok_or_else(missing)?);
        Ok(ReservationResponse { header: Some(header), reservation })
    }

    pub(super) async fn list_held(
        &self,
        r: ListReservationsRequest,
    ) -> Result<ListReservationsResponse, Failure> {
        let (freshness, limit) = (r.freshness()?, page(r.page_size, 100, 1_000)?);
        let look = move |replica: &Replica| {
            let all = replica.state().reservations(given(&r.page_token));
            let wanted = |one: &Reservation| r.tenant.is_empty() || one.tenant == r.tenant;
            paged(all, wanted, limit, |one| one.reservation_id.clone())
        };
        let ((reservations, next_page_token), header) =
            self.0.cluster.read(freshness, look).await?;
        Ok(ListReservationsResponse { header: Some(header), reservations, next_page_token })
    }

    pub(super) async fn choose_caller_id(
        &self,
        r: SelectCallerIdRequest,
    ) -> Result<SelectCallerIdResponse, Failure> {
        let freshness = r.freshness()?;
        let destination = shelves::parse("destination", &r.destination)?;
        let types = r.types.iter().map(|&one| kind("types", one)).collect::<Result<Vec<_>, _>>()?;
        if r.fallback_countries.len() > FALLBACKS_MAX {
            let message = format!("fallback_countries has more than {FALLBACKS_MAX} entries");
            return Err(Failure::invalid(message));
        }
        let home = numbering::classify(&destination).country;
        let look = move |replica: &Replica| {
            let fallbacks = r.fallback_countries.iter().map(String::as_str);
            let query = CallerIdQuery {
                tenant: &r.tenant,
                destination: destination.as_str(),
                countries: std::iter::once(home.as_str()).chain(fallbacks).collect(),
                types: types.into_iter().flatten().collect(),
            };
            replica.state().caller_id(&query)
        };
        let (number, header) = self.0.cluster.read(freshness, look).await?;
        let missing = "this tenant has no active number of these countries and types: allocate \
                       one, or name fallback_countries";
        let number = Some(number.ok_or_else(|| Failure::not_found(missing))?);
        Ok(SelectCallerIdResponse { header: Some(header), number })
    }
}

fn state(asked: i32) -> Result<Option<NumberState>, Failure> {
    let state = NumberState::try_from(asked)
        .map_err(|_| Failure::invalid(format!("state {asked} is unknown")))?;
    Ok((state != NumberState::Unspecified).then_some(state))
}

fn kind(name: &str, asked: i32) -> Result<Option<NumberType>, Failure> {
    let kind = NumberType::try_from(asked)
        .map_err(|_| Failure::invalid(format!("{name} {asked} is unknown")))?;
    Ok((kind != NumberType::Unspecified).then_some(kind))
}

fn check_prefix(name: &str, prefix: &str) -> Result<(), Failure> {
    if prefix.len() <= 15 && prefix.bytes().all(|b| b.is_ascii_digit()) {
        return Ok(());
    }
    Err(Failure::invalid(format!("{name} needs 0 to 15 digits, without \"+\"")))
}

fn pool_of(pool: String, counts: &NumberCounts) -> list_pools_response::Pool {
    let states = (1..).map_while(|state| NumberState::try_from(state).ok());
    let count = |state: NumberState| list_pools_response::Count {
        state: state.into(),
        numbers: counts.of(state),
    };
    let states = states.map(count).filter(|count| count.numbers > 0).collect();
    list_pools_response::Pool { pool, numbers: counts.total(), states }
}
