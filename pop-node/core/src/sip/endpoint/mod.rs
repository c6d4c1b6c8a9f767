//! The transaction layer of one POP (RFC 3261 §17, §18.2; RFC 6026).
//!
//! Feed it messages and time, then drain events and transmits. It owns everything that can be
//! decided without knowing calls: retransmission, matching, 100 Trying, CANCEL, the ACK to
//! failures, and the refusal of bad requests. What is a number, a trunk, a dialog is its user's.
//! Bounds: `Config::max_transactions`; the queues hold what one input caused and are drained by
//! the user after each.

mod keys;
mod receive;
mod tokens;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;

use bytes::Bytes;
use proto::time::Instant;

use self::keys::{AckKey, ClientKey, MergeKey, ServerKey};
use self::tokens::Tokens;
use super::counters::Counters;
use super::flow::Flow;
use super::header::HeaderName;
use super::message::{Method, Request, Response};
use super::text::Text;
use super::transaction::{
    Context, InviteClient, InviteServer, Missing, NonInviteClient, NonInviteServer, TimerValues,
};
use super::value::{MAGIC_COOKIE, Via};

/// A client transaction of ours. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClientTx(u64);

/// A server transaction. Numbers are never reused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerTx(u64);

/// How an endpoint is set up.
#[derive(Clone, Debug)]
pub struct Config {
    /// Timer base values.
    pub timers: TimerValues,
    /// Seed of branches, tags and tokens; secret, different at each start.
    pub seed: u64,
    /// Most transactions alive at once; above it new requests get 503. Each costs about 3 KiB.
    pub max_transactions: usize,
    /// User-Agent and Server header; none if empty.
    pub user_agent: Text,
    /// Option tags that may stand in Require.
    pub supported: Vec<Text>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            timers: TimerValues::default(),
            seed: 0,
            max_transactions: 50_000,
            user_agent: Text::default(),
            supported: Vec::new(),
        }
    }
}

/// Too many transactions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("too many SIP transactions")]
pub struct Overloaded;

/// Why a client transaction ended without a final response.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FailReason {
    /// Timer B, F, or no answer to a cancelled INVITE: treat as 408 (RFC 3261 §8.1.3.1).
    Timeout,
    /// The transport failed: treat as 503 (RFC 3261 §8.1.3.1).
    Transport,
}

/// What the transaction user must know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A new request, never ACK or CANCEL. An INVITE has been answered 100 already.
    Request {
        /// Answer with [`Endpoint::respond`].
        tx: ServerTx,
        /// Where it came from.
        flow: Flow,
        /// The request; its topmost Via is stamped.
        request: Request,
    },
    /// The caller cancelled: answer the INVITE `tx` with 487. The CANCEL has been answered.
    Cancelled {
        /// The INVITE's transaction.
        tx: ServerTx,
    },
    /// The ACK to the 2xx of `tx`, once.
    Ack {
        /// The INVITE's transaction.
        tx: ServerTx,
        /// Where it came from.
        flow: Flow,
        /// The ACK, perhaps with the answer SDP.
        request: Request,
    },
    /// A response, provisional or final. A 2xx to INVITE must be answered with
    /// [`Endpoint::send_ack`]; the 2xx of another fork comes as a further event.
    Response {
        /// The transaction.
        tx: ClientTx,
        /// The response.
        response: Response,
    },
    /// No final response will come.
    ClientFailed {
        /// The transaction.
        tx: ClientTx,
        /// Why.
        reason: FailReason,
    },
    /// Our 2xx to the INVITE of `tx` was never acknowledged: send BYE (RFC 3261 §13.3.1.4).
    AckMissing {
        /// The INVITE's transaction.
        tx: ServerTx,
    },
    /// Our reliable provisional response to the INVITE of `tx` was never acknowledged: refuse the
    /// INVITE with 5xx (RFC 3262 §3).
    PrackMissing {
        /// The INVITE's transaction.
        tx: ServerTx,
    },
}

/// Bytes to send.
#[derive(Clone, PartialEq, Eq)]
pub struct Transmit {
    /// Where to.
    pub flow: Flow,
    /// One message.
    pub bytes: Bytes,
}

impl fmt::Debug for Transmit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = self.bytes.split(|b| *b == b' ').next().unwrap_or_default();
        let word = String::from_utf8_lossy(word);
        write!(f, "Transmit({word}…, {} B to {:?})", self.bytes.len(), self.flow)
    }
}

#[derive(Debug)]
enum Client {
    Invite(Box<InviteClient>),
    Other(NonInviteClient),
}

#[derive(Debug)]
struct ClientEntry {
    machine: Client,
    key: ClientKey,
    /// A CANCEL: its outcome concerns nobody.
    hidden: bool,
    armed: Option<Instant>,
}

#[derive(Debug)]
enum Server {
    Invite(InviteServer),
    Other(NonInviteServer),
}

#[derive(Debug)]
struct ServerEntry {
    machine: Server,
    key: ServerKey,
    merge: Option<MergeKey>,
    ack: Option<AckKey>,
    /// The tag we put on To, the same in all responses.
    local_tag: Option<Text>,
    armed: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Owner {
    Client(ClientTx),
    Server(ServerTx),
}

/// What machines write to.
#[derive(Debug)]
struct Outbox {
    values: TimerValues,
    transmits: VecDeque<Transmit>,
    counters: Counters,
}

impl Outbox {
    const fn context(&mut self, now: Instant) -> Context<'_> {
        Context {
            values: &self.values,
            now,
            transmits: &mut self.transmits,
            counters: &mut self.counters,
        }
    }
}

/// The transaction layer: feed messages and time, then drain events and transmits.
#[derive(Debug)]
pub struct Endpoint {
    max_transactions: usize,
    user_agent: Text,
    supported: Vec<Text>,
    tokens: Tokens,
    numbered: u64,
    clients: BTreeMap<ClientTx, ClientEntry>,
    client_keys: BTreeMap<ClientKey, ClientTx>,
    /// Boxed: a map's nodes are half empty.
    servers: BTreeMap<ServerTx, Box<ServerEntry>>,
    server_keys: BTreeMap<ServerKey, ServerTx>,
    merges: BTreeMap<MergeKey, ServerTx>,
    acks: BTreeMap<AckKey, ServerTx>,
    /// The next deadline of every transaction that has one.
    deadlines: BTreeSet<(Instant, Owner)>,
    events: VecDeque<Event>,
    out: Outbox,
}

impl Endpoint {
    /// An idle endpoint.
    pub fn new(config: Config, _now: Instant) -> Self {
        // A zero interval would retransmit forever without time passing.
        let tick = proto::time::Duration::from_millis(1);
        let TimerValues { t1, t2, t4 } = config.timers;
        let values = TimerValues { t1: t1.max(tick), t2: t2.max(tick), t4: t4.max(tick) };
        Self {
            max_transactions: config.max_transactions,
            user_agent: config.user_agent,
            supported: config.supported,
            tokens: Tokens::new(config.seed),
            numbered: 0,
            clients: BTreeMap::new(),
            client_keys: BTreeMap::new(),
            servers: BTreeMap::new(),
            server_keys: BTreeMap::new(),
            merges: BTreeMap::new(),
            acks: BTreeMap::new(),
            deadlines: BTreeSet::new(),
            events: VecDeque::new(),
            out: Outbox { values, transmits: VecDeque::new(), counters: Counters::default() },
        }
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.out.transmits.pop_front()
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// What happened since the start.
    pub const fn counters(&self) -> &Counters {
        &self.out.counters
    }

    /// Transactions alive.
    pub fn transactions(&self) -> usize {
        self.clients.len() + self.servers.len()
    }

    /// True if no transaction is alive and nothing waits to be drained.
    pub fn is_idle(&self) -> bool {
        self.transactions() == 0 && self.events.is_empty() && self.out.transmits.is_empty()
    }

    /// A fresh unguessable token of 16 hex digits for tags, Call-IDs and cnonces.
    pub fn new_token(&mut self) -> Text {
        self.tokens.text()
    }

    /// Starts a client transaction. The request has no Via for us yet; never ACK or CANCEL.
    /// Max-Forwards is added if absent (70).
    pub fn request(
        &mut self,
        request: Request,
        flow: Flow,
        now: Instant,
    ) -> Result<ClientTx, Overloaded> {
        debug_assert!(!matches!(request.method, Method::Ack | Method::Cancel));
        if self.transactions() >= self.max_transactions {
            return Err(Overloaded);
        }
        let mut request = request;
        let branch = self.push_via(&mut request, &flow);
        let key = (branch, request.method.clone());
        Ok(self.start_client(request, key, flow, now))
    }

    fn start_client(
        &mut self,
        request: Request,
        key: ClientKey,
        flow: Flow,
        now: Instant,
    ) -> ClientTx {
        self.numbered += 1;
        let tx = ClientTx(self.numbered);
        let hidden = request.method == Method::Cancel;
        self.out.counters.requests_sent += 1;
        let mut ctx = self.out.context(now);
        let machine = if request.method == Method::Invite {
            Client::Invite(Box::new(InviteClient::new(request, flow, &mut ctx)))
        } else {
            Client::Other(NonInviteClient::new(request.serialize(), flow, &mut ctx))
        };
        self.client_keys.insert(key.clone(), tx);
        self.clients.insert(tx, ClientEntry { machine, key, hidden, armed: None });
        self.settle_client(tx);
        tx
    }

    /// Cancels an INVITE: sends CANCEL at once, or after the first provisional response, or not at
    /// all if a final one came (RFC 3261 §9.1). Its outcome still comes: 487, a 2xx that won the
    /// race (ACK and BYE it), or `ClientFailed`.
    pub fn cancel(&mut self, tx: ClientTx, now: Instant) {
        let Some(ClientEntry { machine: Client::Invite(invite), key, .. }) =
            self.clients.get_mut(&tx)
        else {
            return;
        };
        if !invite.cancel(&self.out.context(now)) {
            return;
        }
        // A CANCEL ends work, so no bound holds it back.
        let (request, flow) = (invite.cancel_request(), invite.flow());
        let key = (key.0.clone(), Method::Cancel);
        self.settle_client(tx);
        self.start_client(request, key, flow, now);
    }

    /// Is `tx` an INVITE that was sent in a dialog (RFC 3261 §14)?
    pub fn is_in_dialog(&self, tx: ClientTx) -> bool {
        let client = self.clients.get(&tx);
        client.is_some_and(
            |entry| matches!(&entry.machine, Client::Invite(invite) if invite.is_in_dialog()),
        )
    }

    /// Sends the ACK to a 2xx for INVITE `tx`, and again for each retransmitted 2xx.
    pub fn send_ack(&mut self, tx: ClientTx, ack: Request, flow: Flow, now: Instant) {
        let mut ack = ack;
        self.push_via(&mut ack, &flow);
        let bytes = ack.serialize();
        self.out.context(now).send(flow, &bytes);
        let tag = ack.headers.to_tag().unwrap_or_default();
        if let Some(ClientEntry { machine: Client::Invite(invite), .. }) = self.clients.get_mut(&tx)
        {
            invite.store_ack(&tag, flow, &bytes);
        }
    }

    /// Puts our Via on top; returns its branch.
    fn push_via(&mut self, request: &mut Request, flow: &Flow) -> Text {
        let branch = Text::from(format!("{MAGIC_COOKIE}{}", self.tokens.draw()));
        let headers = &mut request.headers;
        if !headers.has(&HeaderName::MaxForwards) {
            headers.push_front(HeaderName::MaxForwards, 70);
        }
        headers.push_front(HeaderName::Via, &Via::ours(flow, branch.clone()));
        if !self.user_agent.is_empty() && !headers.has(&HeaderName::UserAgent) {
            headers.push(HeaderName::UserAgent, self.user_agent.clone());
        }
        branch
    }

    /// Answers a request. A To tag is added to anything but 100 if the response has none. A
    /// response to a finished or unknown transaction is ignored. 2xx to INVITE is retransmitted
    /// until the ACK comes.
    pub fn respond(&mut self, tx: ServerTx, response: Response, now: Instant) {
        let Some(response) = self.complete(tx, response) else { return };
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let bytes = response.serialize();
        let mut ctx = self.out.context(now);
        match &mut entry.machine {
            Server::Invite(invite) => {
                if invite.respond(response.status, bytes, &mut ctx)
                    && response.is_success()
                    && let Some(key) = AckKey::of_success(&response)
                {
                    entry.ack = Some(key.clone());
                    self.acks.insert(key, tx);
                }
            }
            Server::Other(other) => {
                other.respond(response.status, bytes, &mut ctx);
            }
        }
        self.settle_server(tx);
    }

    /// With our tag and name; `None` if there is no such transaction.
    fn complete(&mut self, tx: ServerTx, mut response: Response) -> Option<Response> {
        let entry = self.servers.get_mut(&tx)?;
        if response.status > 100 {
            let given = response.headers.to_tag().or_else(|| entry.local_tag.take());
            let tag = given.unwrap_or_else(|| self.tokens.text());
            response = response.with_to_tag(&tag);
            entry.local_tag = Some(tag);
        }
        add_server(&mut response, &self.user_agent);
        Some(response)
    }

    /// Sends a provisional response to an INVITE reliably (RFC 3262 §3): with Require and `rseq`,
    /// and again until [`Self::acknowledge`]. One at a time; false if it was not sent.
    pub fn respond_reliably(
        &mut self,
        tx: ServerTx,
        response: Response,
        rseq: u32,
        now: Instant,
    ) -> bool {
        let Some(mut response) = self.complete(tx, response) else { return false };
        response.headers.push(HeaderName::Require, "100rel");
        response.headers.push(HeaderName::RSeq, rseq);
        let Some(ServerEntry { machine: Server::Invite(invite), .. }) =
            self.servers.get_mut(&tx).map(Box::as_mut)
        else {
            return false;
        };
        let sent = invite.respond_reliably(rseq, response.serialize(), &mut self.out.context(now));
        self.settle_server(tx);
        sent
    }

    /// A PRACK for `rseq` of the INVITE of `tx` came: true if that response waits for it. Answer
    /// the PRACK 200, else 481.
    pub fn acknowledge(&mut self, tx: ServerTx, rseq: u32) -> bool {
        let Some(ServerEntry { machine: Server::Invite(invite), .. }) =
            self.servers.get_mut(&tx).map(Box::as_mut)
        else {
            return false;
        };
        let acknowledged = invite.acknowledge(rseq);
        self.settle_server(tx);
        acknowledged
    }

    /// A send on `flow` failed, or its connection died.
    pub fn handle_transport_error(&mut self, flow: Flow, now: Instant) {
        let clients: Vec<ClientTx> = self.clients.keys().copied().collect();
        for tx in clients {
            let Some(entry) = self.clients.get_mut(&tx) else { continue };
            let failed = match &mut entry.machine {
                Client::Invite(invite) => invite.handle_transport_error(&flow),
                Client::Other(other) => other.handle_transport_error(&flow),
            };
            if let Some(reason) = failed {
                self.out.counters.transport_errors += 1;
                self.fail_client(tx, reason);
            }
        }
        let servers: Vec<ServerTx> = self.servers.keys().copied().collect();
        for tx in servers {
            let Some(entry) = self.servers.get_mut(&tx) else { continue };
            match &mut entry.machine {
                Server::Invite(invite) => {
                    invite.handle_transport_error(&flow, &mut self.out.context(now));
                }
                Server::Other(other) => other.handle_transport_error(&flow),
            }
            self.settle_server(tx);
        }
    }

    /// Fires all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((at, owner)) = self.deadlines.first().copied()
            && at <= now
        {
            match owner {
                Owner::Client(tx) => self.fire_client(tx, now),
                Owner::Server(tx) => self.fire_server(tx, now),
            }
        }
    }

    fn fire_client(&mut self, tx: ClientTx, now: Instant) {
        let Some(entry) = self.clients.get_mut(&tx) else { return };
        let ctx = &mut self.out.context(now);
        let failed = match &mut entry.machine {
            Client::Invite(invite) => {
                invite.take_due(now).and_then(|timer| invite.handle_timer(timer, ctx))
            }
            Client::Other(other) => {
                other.take_due(now).and_then(|timer| other.handle_timer(timer, ctx))
            }
        };
        match failed {
            Some(reason) => self.fail_client(tx, reason),
            None => self.settle_client(tx),
        }
    }

    fn fire_server(&mut self, tx: ServerTx, now: Instant) {
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        match &mut entry.machine {
            Server::Invite(invite) => {
                let ctx = &mut self.out.context(now);
                let due = invite.take_due(now);
                match due.and_then(|timer| invite.handle_timer(timer, ctx)) {
                    Some(Missing::Ack) => self.events.push_back(Event::AckMissing { tx }),
                    Some(Missing::Prack) => self.events.push_back(Event::PrackMissing { tx }),
                    None => {}
                }
            }
            Server::Other(other) => {
                if let Some(timer) = other.take_due(now) {
                    other.handle_timer(timer);
                }
            }
        }
        self.settle_server(tx);
    }

    fn fail_client(&mut self, tx: ClientTx, reason: FailReason) {
        let hidden = self.clients.get(&tx).is_none_or(|entry| entry.hidden);
        self.settle_client(tx);
        if !hidden {
            self.events.push_back(Event::ClientFailed { tx, reason });
        }
    }

    /// After every change of a client machine: forget it if it ended, else note its next deadline.
    fn settle_client(&mut self, tx: ClientTx) {
        let Some(entry) = self.clients.get_mut(&tx) else { return };
        let (ended, next) = match &entry.machine {
            Client::Invite(invite) => (invite.is_terminated(), invite.next_timeout()),
            Client::Other(other) => (other.is_terminated(), other.next_timeout()),
        };
        let before = std::mem::replace(&mut entry.armed, next);
        rearm(&mut self.deadlines, Owner::Client(tx), before, next);
        if ended && let Some(entry) = self.clients.remove(&tx) {
            self.client_keys.remove(&entry.key);
        }
    }

    /// The same for a server machine.
    fn settle_server(&mut self, tx: ServerTx) {
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let (ended, next) = match &entry.machine {
            Server::Invite(invite) => (invite.is_terminated(), invite.next_timeout()),
            Server::Other(other) => (other.is_terminated(), other.next_timeout()),
        };
        let before = std::mem::replace(&mut entry.armed, next);
        rearm(&mut self.deadlines, Owner::Server(tx), before, next);
        if ended && let Some(entry) = self.servers.remove(&tx) {
            self.server_keys.remove(&entry.key);
            if let Some(merge) = entry.merge {
                self.merges.remove(&merge);
            }
            if let Some(ack) = entry.ack {
                self.acks.remove(&ack);
            }
        }
    }
}

fn rearm(
    deadlines: &mut BTreeSet<(Instant, Owner)>,
    owner: Owner,
    before: Option<Instant>,
    next: Option<Instant>,
) {
    if before == next {
        return;
    }
    if let Some(at) = before {
        deadlines.remove(&(at, owner));
    }
    if let Some(at) = next {
        deadlines.insert((at, owner));
    }
}

fn add_server(response: &mut Response, name: &Text) {
    if !name.is_empty() && !response.headers.has(&HeaderName::Server) {
        response.headers.push(HeaderName::Server, name.clone());
    }
}
