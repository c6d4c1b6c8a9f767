//! `meshctl numbers`

mod args;
mod import;
mod show;

use anyhow::{Result, bail};
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::{
    ActivateNumberRequest, AllocateNumberRequest, BatchAllocateRequest, Block, BlockNumbersRequest,
    CancelReservationRequest, Candidates, DecommissionNumbersRequest, ExtendReservationRequest,
    GetNumberRequest, GetReservationRequest, ImportBlocksRequest, ListAvailableRequest,
    ListBlocksRequest, ListNumbersRequest, ListPoolsRequest, ListReservationsRequest, Number,
    NumberPick, RejectNumberRequest, ReleaseNumberRequest, ReserveNumbersRequest,
    ResumeNumberRequest, SelectCallerIdRequest, SuspendNumberRequest, Tags, TransferNumberRequest,
    UnblockNumbersRequest, UpdateNumberRequest,
};
use serde_json::json;
use tonic::transport::Channel;

pub(crate) use args::Numbers;
use args::{Allocate, ImportBlock, List, One, Range, Reservations, Reserve};
pub(crate) use show::tag_map;

use crate::cli::Write;
use crate::connect::{LIST_BYTES_MAX, Mesh, options};
use crate::docs;
use crate::table::Printer;
use crate::values::{Filter, Pages, Read, State, Type};

/// Numbers and blocks of one page.
const PAGE: u32 = 1_000;
/// Reservations of one page.
const PAGE_SMALL: u32 = 100;

/// Where to ask, and where to print.
type To<'a> = (&'a Mesh, &'a Printer);

fn client(channel: Channel) -> NumbersClient<Channel> {
    NumbersClient::new(channel).max_decoding_message_size(LIST_BYTES_MAX)
}

pub(crate) async fn run(command: Numbers, mesh: &Mesh, printer: &Printer) -> Result<()> {
    let to = (mesh, printer);
    match command {
        Numbers::Import(import) => import::run(import, to).await,
        Numbers::ImportBlock(import) => import_block(import, to).await,
        Numbers::Blocks { filter, pages, read } => blocks(&filter, pages, read, to).await,
        Numbers::Pools(read) => pools(read, to).await,
        Numbers::Allocate(allocate) => give(*allocate, to).await,
        Numbers::Reclaim { number, tenant, to: trunks, write } => {
            let candidates = docs::candidates(&trunks)?;
            let (options, which) = (options(&write), Some(Which::E164(number)));
            let request =
                AllocateNumberRequest { options, tenant, which, candidates, ..<_>::default() };
            allocate_one(request, to).await
        }
        Numbers::Reserve(reserve) => hold(reserve, to).await,
        Numbers::Reservations(command) => reservations(command, to).await,
        Numbers::Get { number, read } => {
            let request = GetNumberRequest { read: read.options(), e164: number, consistency: 0 };
            let ask = async |channel, request| client(channel).get(request).await;
            show::one(mesh.call(request, ask).await?.number, printer)
        }
        Numbers::List(asked) => list(*asked, to).await,
        Numbers::Available { filter, prefix, count, read } => {
            let shelf = Some(filter.shelf());
            let pick = Some(NumberPick { shelf, prefix, count, ..<_>::default() });
            let request = ListAvailableRequest { read: read.options(), pick, consistency: 0 };
            let ask = async |channel, request| client(channel).list_available(request).await;
            show::many(mesh.call(request, ask).await?.numbers, printer)
        }
        Numbers::CallerId { destination, tenant, types, fallback, read } => {
            let request = SelectCallerIdRequest {
                read: read.options(),
                tenant,
                destination,
                types: types.into_iter().map(|one| Type::of(Some(one))).collect(),
                fallback_countries: fallback,
                consistency: 0,
            };
            let ask = async |channel, request| client(channel).select_caller_id(request).await;
            show::one(mesh.call(request, ask).await?.number, printer)
        }
        command => change(command, to).await,
    }
}

/// What changes the state of a number that is there.
async fn change(command: Numbers, to: To<'_>) -> Result<()> {
    let (mesh, printer) = to;
    let number = match command {
        Numbers::Activate { number: e164, tenant, shown, expected, write } => {
            let (options, compliance) = (options(&write), shown.compliance());
            let expect = expected.expect();
            let request = ActivateNumberRequest { options, e164, tenant, compliance, expect };
            mesh.call(request, async |channel, r| client(channel).activate(r).await).await?.number
        }
        Numbers::Reject(One { number: e164, expected, write }) => {
            let (options, expect) = (options(&write), expected.expect());
            let request = RejectNumberRequest { options, e164, expect };
            mesh.call(request, async |channel, r| client(channel).reject(r).await).await?.number
        }
        Numbers::Release { number: e164, tenant, expected, write } => {
            let (options, expect) = (options(&write), expected.expect());
            let request = ReleaseNumberRequest { options, e164, tenant, expect };
            mesh.call(request, async |channel, r| client(channel).release(r).await).await?.number
        }
        Numbers::Transfer { number: e164, from, to, shown, expected, write } => {
            let request = TransferNumberRequest {
                options: options(&write),
                e164,
                from_tenant: from,
                to_tenant: to,
                expect: expected.expect(),
                compliance: shown.compliance(),
            };
            mesh.call(request, async |channel, r| client(channel).transfer(r).await).await?.number
        }
        Numbers::Suspend { reason, one: One { number: e164, expected, write } } => {
            let (options, expect) = (options(&write), expected.expect());
            let request = SuspendNumberRequest { options, e164, reason, expect };
            mesh.call(request, async |channel, r| client(channel).suspend(r).await).await?.number
        }
        Numbers::Resume(One { number: e164, expected, write }) => {
            let (options, expect) = (options(&write), expected.expect());
            let request = ResumeNumberRequest { options, e164, expect };
            mesh.call(request, async |channel, r| client(channel).resume(r).await).await?.number
        }
        Numbers::Update { number: e164, tenant, to, tag, expected, write } => {
            let candidates = to.map(|to| docs::candidates(&to)).transpose()?;
            let request = UpdateNumberRequest {
                options: options(&write),
                e164,
                tenant,
                candidates: candidates.map(|candidates| Candidates { candidates }),
                tags: tag.map(|tags| Tags { tags }),
                expect: expected.expect(),
            };
            mesh.call(request, async |channel, r| client(channel).update(r).await).await?.number
        }
        command => return change_range(command, to).await,
    };
    show::one(number, printer)
}

/// What changes a range.
async fn change_range(command: Numbers, (mesh, printer): To<'_>) -> Result<()> {
    let (changed, done) = match command {
        Numbers::Block { reason, range, filter } => {
            let Range { number: e164, count, expected, write } = range;
            let (options, expect) = (options(&write), expected.expect());
            let shelf = (!filter.is_empty()).then(|| filter.shelf());
            let request = BlockNumbersRequest { options, e164, count, reason, shelf, expect };
            let ask = async |channel, request| client(channel).block(request).await;
            (mesh.call(request, ask).await?.changed, "blocked")
        }
        Numbers::Unblock(Range { number: e164, count, expected, write }) => {
            let (options, expect) = (options(&write), expected.expect());
            let request = UnblockNumbersRequest { options, e164, count, expect };
            let ask = async |channel, request| client(channel).unblock(request).await;
            (mesh.call(request, ask).await?.changed, "unblocked")
        }
        Numbers::Decommission(Range { number: e164, count, expected, write }) => {
            let (options, expect) = (options(&write), expected.expect());
            let request = DecommissionNumbersRequest { options, e164, count, expect };
            let ask = async |channel, request| client(channel).decommission(request).await;
            (mesh.call(request, ask).await?.changed, "decommissioned")
        }
        // `run` and `change` carry out the others.
        _ => return Ok(()),
    };
    printer.done(&json!({ "changed": changed }), &format!("{changed} numbers {done}"))
}

async fn import_block(import: ImportBlock, (mesh, printer): To<'_>) -> Result<()> {
    let ImportBlock { first, count, shelf, tag, write } = import;
    let (shelf, imported_ms) = (Some(shelf.shelf()), 0);
    let blocks = vec![Block { first, count, shelf, tags: tag, imported_ms }];
    let request = ImportBlocksRequest { options: options(&write), blocks };
    let ask = async |channel, request| client(channel).import_blocks(request).await;
    let imported = mesh.call(request, ask).await?.imported;
    printer.done(&json!({ "imported": imported }), &format!("{imported} numbers imported"))
}

async fn allocate_one(request: AllocateNumberRequest, (mesh, printer): To<'_>) -> Result<()> {
    let ask = async |channel, request| client(channel).allocate(request).await;
    show::one(mesh.call(request, ask).await?.number, printer)
}

/// Allocates: a single one with the plain request, several with the batch.
async fn give(asked: Allocate, to: To<'_>) -> Result<()> {
    let candidates = docs::candidates(&asked.to)?;
    let mut filter = asked.filter.clone();
    filter.pool = asked.any.clone().or(filter.pool);
    let pick = pick(asked.numbers, &filter, asked.prefix, asked.count)?;
    let (options, tenant, tags) = (options(&asked.write), asked.tenant, asked.tag);
    let (compliance, expect) = (asked.shown.compliance(), asked.expected.expect());
    if asked.reservation.is_none() && pick.e164.len() <= 1 && pick.count <= 1 {
        let which = Some(match pick.e164.first() {
            Some(e164) => Which::E164(e164.clone()),
            None => Which::Any(pick),
        });
        let request =
            AllocateNumberRequest { options, tenant, which, candidates, tags, compliance, expect };
        return allocate_one(request, to).await;
    }
    if expect.is_some() {
        bail!("--if-generation and --if-etag are about one number: allocate one");
    }
    let reservation_id = asked.reservation.unwrap_or_default();
    let named = !reservation_id.is_empty() && pick.e164.is_empty();
    let pick = (!named).then_some(pick);
    let request = BatchAllocateRequest {
        options,
        tenant,
        pick,
        reservation_id,
        candidates,
        tags,
        compliance,
    };
    let (mesh, printer) = to;
    let ask = async |channel, request| client(channel).batch_allocate(request).await;
    show::many(mesh.call(request, ask).await?.numbers, printer)
}

fn pick(e164: Vec<String>, filter: &Filter, prefix: String, count: u32) -> Result<NumberPick> {
    if !e164.is_empty() && !filter.is_empty() {
        bail!("numbers are named: leave --pool, --country, --area, --type and --carrier away");
    }
    let count = if e164.is_empty() { count } else { 0 };
    let shelf = (!filter.is_empty()).then(|| filter.shelf());
    Ok(NumberPick { e164, shelf, prefix, count })
}

async fn hold(asked: Reserve, (mesh, printer): To<'_>) -> Result<()> {
    let pick = Some(pick(asked.numbers, &asked.filter, asked.prefix, asked.count)?);
    let (options, tenant) = (options(&asked.write), asked.tenant);
    let duration_ms = asked.duration.unwrap_or_default();
    let request = ReserveNumbersRequest { options, tenant, pick, duration_ms };
    let ask = async |channel, request| client(channel).reserve(request).await;
    show::reservation(mesh.call(request, ask).await?.reservation, printer)
}

async fn reservations(command: Reservations, (mesh, printer): To<'_>) -> Result<()> {
    let answer = match command {
        Reservations::List { tenant, pages, read } => {
            return list_reservations(&tenant, pages, read, (mesh, printer)).await;
        }
        Reservations::Get { id: reservation_id, read } => {
            let read = read.options();
            let request = GetReservationRequest { reservation_id, read, consistency: 0 };
            let ask = async |channel, request| client(channel).get_reservation(request).await;
            mesh.call(request, ask).await?
        }
        Reservations::Extend { id: reservation_id, tenant, duration, write } => {
            let (options, duration_ms) = (options(&write), duration.unwrap_or_default());
            let request = ExtendReservationRequest { options, reservation_id, tenant, duration_ms };
            let ask = async |channel, request| client(channel).extend_reservation(request).await;
            mesh.call(request, ask).await?
        }
        Reservations::Cancel { id: reservation_id, tenant, write } => {
            let options = options(&write);
            let request = CancelReservationRequest { options, reservation_id, tenant };
            let ask = async |channel, request| client(channel).cancel_reservation(request).await;
            mesh.call(request, ask).await?
        }
    };
    show::reservation(answer.reservation, printer)
}

async fn list_reservations(
    tenant: &str,
    pages: Pages,
    read: Read,
    (mesh, printer): To<'_>,
) -> Result<()> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < pages.limit() {
        let request = ListReservationsRequest {
            read: read.options(),
            tenant: tenant.to_owned(),
            page_size: pages.next(found.len(), PAGE_SMALL),
            page_token,
            consistency: 0,
        };
        let ask = async |channel, request| client(channel).list_reservations(request).await;
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.reservations);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    show::reservations(found, printer)
}

async fn list(asked: List, (mesh, printer): To<'_>) -> Result<()> {
    let (shelf, pages) = (asked.filter.shelf(), asked.pages);
    let (mut found, mut page_token) = (Vec::<Number>::new(), String::new());
    while found.len() < pages.limit() {
        let request = ListNumbersRequest {
            read: asked.read.options(),
            pool: shelf.pool.clone(),
            state: State::of(asked.state),
            page_size: pages.next(found.len(), PAGE),
            page_token,
            country: shelf.country.clone(),
            area: shelf.area.clone(),
            r#type: shelf.r#type,
            carrier: shelf.carrier.clone(),
            prefix: asked.prefix.clone(),
            tenant: asked.tenant.clone(),
            tag: asked.tag.clone(),
            consistency: 0,
        };
        let ask = async |channel, request| client(channel).list(request).await;
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.numbers);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    show::many(found, printer)
}

async fn blocks(filter: &Filter, pages: Pages, read: Read, (mesh, printer): To<'_>) -> Result<()> {
    let (mut found, mut page_token) = (Vec::new(), String::new());
    while found.len() < pages.limit() {
        let request = ListBlocksRequest {
            read: read.options(),
            filter: Some(filter.shelf()),
            page_size: pages.next(found.len(), PAGE),
            page_token,
            consistency: 0,
        };
        let ask = async |channel, request| client(channel).list_blocks(request).await;
        let answer = mesh.call(request, ask).await?;
        found.extend(answer.blocks);
        page_token = answer.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    show::blocks(found, printer)
}

async fn pools(read: Read, (mesh, printer): To<'_>) -> Result<()> {
    let request = ListPoolsRequest { read: read.options(), consistency: 0 };
    let ask = async |channel, request| client(channel).list_pools(request).await;
    show::pools(mesh.call(request, ask).await?.pools, printer)
}

/// For requests that repeat themselves: the given id, or none.
fn given_id(write: &Write) -> Option<&str> {
    write.request_id.as_deref()
}
