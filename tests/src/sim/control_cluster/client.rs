//! What clients ask, and how a command becomes an answer.

use chaos::rng::Rng;
use control_core::state::State;
use proto::control::{Block, NumberPick, Shelf, Trunk};
use proto::raft::allocate_number::Which;
use proto::raft::command::Kind;
use proto::raft::{
    AllocateNumber, AllocateNumbers, CancelReservation, Command, ExtendReservation, ImportBlocks,
    ImportNumbers, ReleaseNumber, ReserveNumbers, outcome,
};

use super::plan::{MS, Micros, Plan, below};
use super::world::{Due, Phase, World};
use crate::linear::{Answer, History, Request, Reserved};

const TENANTS: [&str; 3] = ["acme", "globex", "initech"];
const POOLS: [&str; 2] = ["berlin", "bonn"];

/// A number of the run.
pub fn number(at: usize) -> String {
    format!("+49309018{at:04}")
}

/// A trunk of the run.
pub fn trunk(at: usize) -> String {
    format!("trunk-{at}")
}

/// What to ask next.
pub fn choose(rng: &mut Rng, plan: &Plan, history: &History) -> Request {
    let tenant = TENANTS[below(rng, TENANTS.len())].to_owned();
    let e164 = number(below(rng, plan.numbers));
    let pool = POOLS[below(rng, POOLS.len())].to_owned();
    let id = trunk(below(rng, plan.trunks));
    let local = rng.below(4) == 0;
    let value = history.operations.len() as u32;
    match rng.below(27) {
        0 | 1 => import(rng, plan),
        2..=4 => Request::Allocate { tenant, e164 },
        5 | 6 => Request::AllocateAny { tenant, pool },
        7 => Request::AllocateSome { tenant, pool, count: 2 + below(rng, 2) },
        8..=10 => Request::Release { tenant, e164 },
        11..=14 => Request::Get { e164, local },
        15 | 16 => Request::PutTrunk { id, value },
        17 => Request::DeleteTrunk { id },
        18 | 19 => Request::GetTrunk { id, local },
        20..=22 => reserve(rng, plan, tenant, pool),
        _ => reserved(rng, history).unwrap_or(Request::Get { e164, local }),
    }
}

fn import(rng: &mut Rng, plan: &Plan) -> Request {
    let first = below(rng, plan.numbers);
    let count = if rng.below(2) == 0 { 1 } else { 3 };
    let e164 = (first..plan.numbers).take(count).map(number).collect();
    let pool = POOLS[below(rng, POOLS.len())].to_owned();
    Request::Import { pool, e164, block: rng.below(2) == 0 }
}

fn reserve(rng: &mut Rng, plan: &Plan, tenant: String, pool: String) -> Request {
    let count = 1 + below(rng, 2);
    let duration_ms = 50 + rng.below(2_500);
    let first = below(rng, plan.numbers);
    let e164: Vec<String> = match rng.below(2) {
        0 => (first..plan.numbers).take(count).map(number).collect(),
        _ => Vec::new(),
    };
    Request::Reserve { tenant, pool, e164, count, duration_ms }
}

/// Something with one of the last reservations, mostly by whose it is.
fn reserved(rng: &mut Rng, history: &History) -> Option<Request> {
    let made = history.operations.iter().rev().filter_map(|o| match (&o.request, &o.answer) {
        (Request::Reserve { tenant, .. }, Some(Answer::Reservation(made))) => {
            Some((tenant.clone(), made.id.clone()))
        }
        _ => None,
    });
    let mut last: Vec<(String, String)> = made.take(3).collect();
    if last.is_empty() {
        return None;
    }
    let (tenant, id) = last.swap_remove(below(rng, last.len()));
    let other = TENANTS[below(rng, TENANTS.len())].to_owned();
    let tenant = if rng.below(8) == 0 { other } else { tenant };
    Some(match rng.below(4) {
        0 => Request::Extend { tenant, id, duration_ms: 50 + rng.below(2_500) },
        1 => Request::Cancel { tenant, id },
        _ => Request::AllocateReserved { tenant, id },
    })
}

/// The command of a mutation.
pub fn command(request: &Request, request_id: &str) -> Option<Command> {
    let kind = match request.clone() {
        Request::Import { pool, e164, block: false } => {
            Kind::ImportNumbers(ImportNumbers { pool, e164 })
        }
        Request::Import { pool, e164, block: true } => {
            let (first, count) = (e164.first().cloned().unwrap_or_default(), e164.len() as u64);
            let block = Block { first, count, shelf: shelf(pool), ..Block::default() };
            Kind::ImportBlocks(ImportBlocks { blocks: vec![block] })
        }
        Request::Allocate { tenant, e164 } => allocate(tenant, Which::E164(e164)),
        Request::AllocateAny { tenant, pool } => allocate(tenant, Which::AnyOfPool(pool)),
        Request::AllocateSome { tenant, pool, count } => {
            let pick = Some(pick(Vec::new(), pool, count));
            Kind::AllocateNumbers(AllocateNumbers { tenant, pick, ..<_>::default() })
        }
        Request::Reserve { tenant, pool, e164, count, duration_ms } => {
            let pick = Some(pick(e164, pool, count));
            Kind::ReserveNumbers(ReserveNumbers { tenant, pick, duration_ms })
        }
        Request::Extend { tenant, id: reservation_id, duration_ms } => {
            Kind::ExtendReservation(ExtendReservation { reservation_id, tenant, duration_ms })
        }
        Request::Cancel { tenant, id: reservation_id } => {
            Kind::CancelReservation(CancelReservation { reservation_id, tenant })
        }
        Request::AllocateReserved { tenant, id: reservation_id } => {
            Kind::AllocateNumbers(AllocateNumbers { tenant, reservation_id, ..<_>::default() })
        }
        Request::Release { tenant, e164 } => {
            Kind::ReleaseNumber(ReleaseNumber { e164, tenant, ..ReleaseNumber::default() })
        }
        Request::PutTrunk { id, value } => Kind::PutTrunk(Trunk {
            trunk_id: id,
            pop_ids: vec!["fra1".into()],
            host: "192.0.2.1".into(),
            max_calls: value,
            ..Trunk::default()
        }),
        Request::DeleteTrunk { id } => Kind::DeleteTrunk(id),
        Request::Get { .. } | Request::GetTrunk { .. } => return None,
    };
    let (request_id, principal) = (request_id.to_owned(), "operator/anna".to_owned());
    Some(Command { request_id, principal, kind: Some(kind) })
}

fn shelf(pool: String) -> Option<Shelf> {
    Some(Shelf { pool, ..Shelf::default() })
}

/// Named numbers, or any of a pool.
fn pick(e164: Vec<String>, pool: String, count: usize) -> NumberPick {
    match e164.is_empty() {
        true => NumberPick { shelf: shelf(pool), count: count as u32, ..<_>::default() },
        false => NumberPick { e164, ..<_>::default() },
    }
}

fn allocate(tenant: String, which: Which) -> Kind {
    Kind::AllocateNumber(AllocateNumber { tenant, which: Some(which), candidates: Vec::new() })
}

/// What an outcome tells a client.
pub fn answer(kind: Option<outcome::Kind>) -> Answer {
    match kind {
        Some(outcome::Kind::Number(number)) => Answer::Number(Some(number.into())),
        Some(outcome::Kind::Numbers(list)) => {
            Answer::Numbers(list.numbers.into_iter().map(Into::into).collect())
        }
        Some(outcome::Kind::Reservation(reservation)) => Answer::Reservation(Reserved {
            id: reservation.reservation_id,
            e164: reservation.e164,
            until_ms: reservation.until_ms,
            extensions: reservation.extensions,
        }),
        Some(outcome::Kind::Imported(count)) => Answer::Imported(count),
        Some(outcome::Kind::Rejected(rejected)) => Answer::Rejected(rejected.reason()),
        _ => Answer::Done,
    }
}

/// What a read finds.
pub fn look(state: &State, request: &Request) -> Answer {
    match request {
        Request::GetTrunk { id, .. } => Answer::Trunk(state.trunk(id).map(|t| t.max_calls)),
        Request::Get { e164, .. } => Answer::Number(state.number(e164).map(Into::into)),
        _ => Answer::Done,
    }
}

/// What is read of a run at its end: everything, linearizably.
pub fn last_reads(plan: &Plan) -> Vec<Request> {
    let numbers = (0..plan.numbers).map(|n| Request::Get { e164: number(n), local: false });
    let trunks = (0..plan.trunks).map(|t| Request::GetTrunk { id: trunk(t), local: false });
    numbers.chain(trunks).collect()
}

/// A client: one operation at a time.
pub struct Client {
    /// Its operation, while open.
    pub open: Option<usize>,
    /// Tries of it.
    pub tries: u32,
    /// Names the timer that counts.
    pub timer: u64,
}

/// A try under way: which operation, asked how often it was passed on.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    pub operation: usize,
    pub passed_on: u32,
}

/// Whether an operation may be left alone: one nobody can tell the numbers of may not.
pub fn may_give_up(history: &History, operation: usize) -> bool {
    let one = |request: &Request| match request {
        Request::AllocateAny { .. }
        | Request::AllocateSome { .. }
        | Request::Import { .. }
        | Request::Reserve { .. } => false,
        request => request.reservation().is_none(),
    };
    history.operations.get(operation).is_some_and(|o| one(&o.request))
}

/// A try without answer is repeated after this, and up to as much more.
const TRY: Micros = 300 * MS;
/// An operation that may be left alone is, after so many tries, sometimes.
const TRIES: u32 = 3;

impl World {
    /// A client's timer: time for the next try, or the next operation.
    pub fn wake(&mut self, client: usize, timer: u64) {
        if self.clients[client].timer != timer {
            return;
        }
        if self.clients[client].open.is_some() {
            return self.again(client);
        }
        if self.passes_ms.is_some() {
            return self.rest(client, self.plan.think);
        }
        let request = match self.phase {
            Phase::Load => choose(&mut self.rng, &self.plan, &self.history),
            Phase::Reading => match self.to_read.pop() {
                Some(request) => request,
                None => return,
            },
            Phase::Healing | Phase::Done => return,
        };
        let id = format!("request-{}", self.history.operations.len());
        let operation = self.history.invoke(client, self.now, request, id);
        self.clients[client].open = Some(operation);
        self.clients[client].tries = 0;
        self.again(client);
    }

    fn again(&mut self, client: usize) {
        let Some(operation) = self.clients[client].open else { return };
        self.clients[client].tries += 1;
        let tries = self.clients[client].tries;
        if tries > TRIES && may_give_up(&self.history, operation) && self.rng.below(4) == 0 {
            self.clients[client].open = None;
            return self.rest(client, self.plan.think);
        }
        if tries == 2 {
            self.counts.retried += 1;
        }
        self.send(operation);
        self.rest(client, TRY + TRY);
    }

    /// The client's timer goes off within `most`, not before half of it.
    pub fn rest(&mut self, client: usize, most: Micros) {
        let place = &mut self.clients[client];
        place.timer += 1;
        let timer = place.timer;
        let at = self.now + most / 2 + self.rng.below(most / 2 + 1);
        self.push(at, Due::Wake { client, timer });
    }

    /// One try of an operation, at any node.
    pub fn send(&mut self, operation: usize) {
        let node = below(&mut self.rng, self.plan.nodes);
        self.tries += 1;
        let attempt = self.tries;
        self.attempts.insert(attempt, Attempt { operation, passed_on: 0 });
        if let Some(at) = self.links.client(self.now) {
            self.push(at, Due::Asked { node, attempt });
        }
    }

    /// An answer arrives.
    pub fn told(&mut self, attempt: u64, answer: Option<(Answer, u64, u64)>) {
        let Some(Attempt { operation, .. }) = self.attempts.get(&attempt).copied() else { return };
        let client = self.history.operations[operation].client;
        let Some((answer, revision, log_time_ms)) = answer else {
            if self.clients[client].open == Some(operation) {
                self.rest(client, 60 * MS);
            }
            return;
        };
        let first = self.history.answer(operation, self.now, answer, (revision, log_time_ms));
        if first && self.clients[client].open == Some(operation) {
            self.clients[client].open = None;
            self.rest(client, self.plan.think);
        }
        let read = self.history.operations[operation].request.is_read();
        if !first && !read {
            self.counts.repeated += 1;
        }
        // Some ask again later: the outcome must be the same.
        if first && !read && self.rng.below(12) == 0 {
            let at = self.now + self.rng.below(3_000 * MS);
            self.push(at, Due::Echo { operation });
        }
    }
}
