//! The transaction layer of one POP.

use std::collections::VecDeque;
use std::fmt;

use bytes::Bytes;
use proto::time::Instant;

use super::counters::Counters;
use super::flow::Flow;
use super::message::{Request, Response};
use super::text::Text;
use super::transaction::TimerValues;

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
    /// [`Endpoint::send_ack`]; a second 2xx of another fork comes as a further event.
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

/// The transaction layer: feed messages and time, then drain events and transmits.
#[derive(Debug)]
pub struct Endpoint {
    config: Config,
    counters: Counters,
    events: VecDeque<Event>,
    transmits: VecDeque<Transmit>,
    next: u64,
}

impl Endpoint {
    /// An idle endpoint.
    pub fn new(config: Config, now: Instant) -> Self {
        let _ = now;
        Self {
            config,
            counters: Counters::default(),
            events: VecDeque::new(),
            transmits: VecDeque::new(),
            next: 0,
        }
    }

    /// Takes one received message.
    pub fn handle_message(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        let _ = (flow, bytes, now);
    }

    /// A send on `flow`, or its connection, failed.
    pub fn handle_transport_error(&mut self, flow: Flow, now: Instant) {
        let _ = (flow, now);
    }

    /// Fires all timers that are due.
    pub fn handle_timeout(&mut self, now: Instant) {
        let _ = now;
    }

    /// The earliest deadline.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The next bytes to send.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// Starts a client transaction. The request has no Via for us yet; never ACK or CANCEL.
    /// Max-Forwards is added if absent (70).
    pub fn request(
        &mut self,
        request: Request,
        flow: Flow,
        now: Instant,
    ) -> Result<ClientTx, Overloaded> {
        let _ = (request, flow, now, self.config.max_transactions);
        self.next += 1;
        Ok(ClientTx(self.next))
    }

    /// Cancels an INVITE: sends CANCEL at once, or after the first provisional response, or not at
    /// all if a final one came (RFC 3261 §9.1). Its outcome still comes: 487, a 2xx that won the
    /// race (ACK and BYE it), or `ClientFailed`.
    pub fn cancel(&mut self, tx: ClientTx, now: Instant) {
        let _ = (tx, now);
    }

    /// Answers a request. A To tag is added to anything but 100 if the response has none. A final
    /// response to a finished or unknown transaction is ignored. 2xx to INVITE is retransmitted
    /// until the ACK comes.
    pub fn respond(&mut self, tx: ServerTx, response: Response, now: Instant) {
        let _ = (tx, response, now);
    }

    /// Sends the ACK to a 2xx for INVITE `tx`, and again for each retransmitted 2xx.
    pub fn send_ack(&mut self, tx: ClientTx, ack: Request, flow: Flow, now: Instant) {
        let _ = (tx, ack, flow, now);
    }

    /// A fresh unguessable token for tags, Call-IDs and cnonces.
    pub fn new_token(&mut self) -> Text {
        self.next += 1;
        Text::from(format!("{:016x}", self.next))
    }

    /// What happened since the start.
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Transactions alive.
    pub fn transactions(&self) -> usize {
        0
    }

    /// True if no transaction is alive and nothing waits to be drained.
    pub fn is_idle(&self) -> bool {
        self.transactions() == 0 && self.events.is_empty() && self.transmits.is_empty()
    }
}
