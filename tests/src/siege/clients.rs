//! Clients: each asks one thing at a time, again under the same request id until it is answered or
//! nobody cares, and writes down what it was told.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, Result};
use chaos::rng::Rng;
use proto::control::allocate_number_request::Which;
use proto::control::numbers_client::NumbersClient;
use proto::control::routing_client::RoutingClient;
use proto::control::{
    AllocateNumberRequest, DeleteTrunkRequest, GetNumberRequest, ImportNumbersRequest, ListRequest,
    PutTrunkRequest, ReadConsistency, ReleaseNumberRequest, ResponseHeader, Trunk, WriteOptions,
};
use proto::raft::Reason;
use tonic::transport::Channel;
use tonic::{Code, Status};

use super::Shared;
use super::faults::index;
use super::nodes::ATTEMPT;
use crate::linear::history::UNSEEN;
use crate::linear::{Answer, Request};

/// Numbers come into fashion, and go: new ones each so many seconds.
const FASHION_SECONDS: u64 = 10;
/// So many.
const FASHION: u64 = 6;
/// And two fashions are asked for at once.
const WINDOW: usize = 12;
const TRUNKS: usize = 6;
const TENANTS: [&str; 2] = ["acme", "globex"];
const POOLS: [&str; 2] = ["berlin", "bonn"];
/// Tries after which a client may lose interest.
const TRIES: u32 = 4;

/// Told, with revision and log time; or to be tried again.
type Told = Option<(Answer, (u64, u64))>;

fn number(at: u64) -> String {
    format!("+49309018{at:04}")
}

/// Asks until everything heals, and then until its last question is answered.
pub(super) async fn run(shared: Arc<Shared>, client: usize, seed: u64) {
    let mut rng = Rng::split(seed, &format!("client {client}"));
    let mut count = 0u32;
    while !shared.is_healing() {
        count += 1;
        let value = u32::try_from(client).unwrap_or(0) + count * 100;
        let request = choose(&shared, &mut rng, value);
        let id = format!("siege-{client}-{count}");
        ask(&shared, client, &mut rng, request, id).await;
        tokio::time::sleep(Duration::from_millis(rng.below(40))).await;
    }
}

/// One operation, to its end.
async fn ask(shared: &Shared, client: usize, rng: &mut Rng, request: Request, id: String) {
    let at = shared.history().invoke(client, shared.now(), request.clone(), id.clone());
    let vital = matches!(request, Request::AllocateAny { .. } | Request::Import { .. });
    let mut tries = 0;
    loop {
        tries += 1;
        let node = index(rng, shared.nodes.len());
        if let Some((answer, seen)) = attempt(shared, node, &request, &id).await {
            shared.history().answer(at, shared.now(), answer, seen);
            break;
        }
        if tries > TRIES && !vital && !shared.is_healing() && rng.below(4) == 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20 + rng.below(80))).await;
    }
    // Some ask once more: the outcome must be the same.
    if rng.below(15) == 0 && !request.is_read() {
        let node = index(rng, shared.nodes.len());
        if let Some((answer, seen)) = attempt(shared, node, &request, &id).await {
            shared.history().answer(at, shared.now(), answer, seen);
        }
    }
}

fn choose(shared: &Shared, rng: &mut Rng, value: u32) -> Request {
    let first = shared.began.elapsed().as_secs() / FASHION_SECONDS * FASHION;
    let at = first + rng.below(WINDOW as u64);
    shared.numbers.fetch_max(first + WINDOW as u64, Ordering::Relaxed);
    let (e164, local) = (number(at), rng.below(5) == 0);
    let tenant = TENANTS[index(rng, TENANTS.len())].to_owned();
    let pool = POOLS[index(rng, POOLS.len())].to_owned();
    let id = format!("trunk-{}", index(rng, TRUNKS));
    match rng.below(20) {
        0..=2 => {
            let count = if rng.below(2) == 0 { 1 } else { 3 };
            let last = (at + count).min(first + WINDOW as u64);
            Request::Import { pool, e164: (at..last).map(number).collect(), block: false }
        }
        3..=5 => Request::Allocate { tenant, e164 },
        6 | 7 => Request::AllocateAny { tenant, pool },
        8..=10 => Request::Release { tenant, e164 },
        11..=14 => Request::Get { e164, local },
        15 | 16 => Request::PutTrunk { id, value },
        17 => Request::DeleteTrunk { id },
        _ => Request::GetTrunk { id, local },
    }
}

/// One try at one node.
async fn attempt(shared: &Shared, node: usize, request: &Request, id: &str) -> Told {
    let (channel, stale) = (&shared.nodes[node], shared.stale_reads);
    match tokio::time::timeout(ATTEMPT, call(channel.clone(), request, id, stale)).await {
        Ok(Ok((answer, header))) => {
            let header = header.unwrap_or_default();
            Some((answer, (header.revision, header.log_time_ms)))
        }
        Ok(Err(status)) => refused(request, &status).map(|answer| (answer, (UNSEEN, u64::MAX))),
        Err(_) => None,
    }
}

/// A refusal by the state is an answer; everything else is to be tried again.
fn refused(request: &Request, status: &Status) -> Option<Answer> {
    if status.code() == Code::NotFound && matches!(request, Request::Get { .. }) {
        return Some(Answer::Number(None));
    }
    let reason = status.metadata().get("voxmesh-reason")?.to_str().ok()?;
    let reason = Reason::from_str_name(&format!("REASON_{reason}"))?;
    (!request.is_read()).then_some(Answer::Rejected(reason))
}

async fn call(
    channel: Channel,
    request: &Request,
    id: &str,
    stale: bool,
) -> Result<(Answer, Option<ResponseHeader>), Status> {
    let options = Some(WriteOptions { request_id: id.to_owned(), ..<_>::default() });
    let mut numbers = NumbersClient::new(channel.clone());
    let mut routing = RoutingClient::new(channel);
    let consistency = match request.is_local() || stale {
        true => ReadConsistency::Local.into(),
        false => ReadConsistency::Linearizable.into(),
    };
    Ok(match request.clone() {
        Request::Import { pool, e164, .. } => {
            let request = ImportNumbersRequest { options, pool, e164, ..<_>::default() };
            let told = numbers.import(request).await?.into_inner();
            (Answer::Imported(told.imported), told.header)
        }
        Request::Allocate { tenant, e164 } => {
            allocate(&mut numbers, options, tenant, Which::E164(e164)).await?
        }
        Request::AllocateAny { tenant, pool } => {
            allocate(&mut numbers, options, tenant, Which::AnyOfPool(pool)).await?
        }
        Request::Release { tenant, e164 } => {
            let request = ReleaseNumberRequest { options, e164, tenant, ..<_>::default() };
            let told = numbers.release(request).await?.into_inner();
            (Answer::Number(told.number.map(Into::into)), told.header)
        }
        Request::Get { e164, .. } => {
            let request = GetNumberRequest { consistency, e164, ..<_>::default() };
            let told = numbers.get(request).await?.into_inner();
            (Answer::Number(told.number.map(Into::into)), told.header)
        }
        Request::PutTrunk { id, value } => {
            let trunk = Some(trunk(id, value));
            let request = PutTrunkRequest { options, trunk };
            (Answer::Done, routing.put_trunk(request).await?.into_inner().header)
        }
        Request::DeleteTrunk { id: trunk_id } => {
            let request = DeleteTrunkRequest { options, trunk_id };
            (Answer::Done, routing.delete_trunk(request).await?.into_inner().header)
        }
        Request::AllocateSome { .. }
        | Request::Reserve { .. }
        | Request::Extend { .. }
        | Request::Cancel { .. }
        | Request::AllocateReserved { .. } => {
            return Err(Status::internal("the siege does not ask this yet"));
        }
        Request::GetTrunk { id, .. } => {
            let request = ListRequest { consistency, ..<_>::default() };
            let told = routing.list_trunks(request).await?.into_inner();
            let found = told.trunks.into_iter().find(|trunk| trunk.trunk_id == id);
            (Answer::Trunk(found.map(|trunk| trunk.max_calls)), told.header)
        }
    })
}

fn trunk(trunk_id: String, value: u32) -> Trunk {
    let (pop_ids, host) = (vec!["fra1".into()], "192.0.2.1".into());
    Trunk { trunk_id, pop_ids, host, max_calls: value, ..Trunk::default() }
}

async fn allocate(
    numbers: &mut NumbersClient<Channel>,
    options: Option<WriteOptions>,
    tenant: String,
    which: Which,
) -> Result<(Answer, Option<ResponseHeader>), Status> {
    let request = AllocateNumberRequest { options, tenant, which: Some(which), ..<_>::default() };
    let told = numbers.allocate(request).await?.into_inner();
    Ok((Answer::Number(told.number.map(Into::into)), told.header))
}

/// Everything that was ever asked for, at the end.
pub(super) async fn read_all(shared: &Arc<Shared>) -> Result<()> {
    let numbers = (0..shared.numbers.load(Ordering::Relaxed)).map(number);
    let numbers = numbers.map(|e164| Request::Get { e164, local: false });
    let trunks = (0..TRUNKS).map(|at| format!("trunk-{at}"));
    let trunks = trunks.map(|id| Request::GetTrunk { id, local: false });
    let reads = async {
        let mut rng = Rng::new(1);
        for request in numbers.chain(trunks) {
            ask(shared, 0, &mut rng, request, String::new()).await;
        }
    };
    tokio::time::timeout(super::PATIENCE, reads).await.context("the last reads take too long")
}
