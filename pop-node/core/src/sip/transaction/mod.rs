//! The transaction machines of RFC 3261 §17 and RFC 6026, one file each.
//!
//! A machine sends through its [`Context`], says by return value what its user must hear, and
//! keeps its own timers. It knows nothing of other transactions: matching is the endpoint's.

mod invite_client;
mod invite_server;
mod non_invite_client;
mod non_invite_server;

use std::collections::VecDeque;

use bytes::Bytes;
use proto::time::{Duration, Instant};

use super::counters::Counters;
use super::endpoint::Transmit;
use super::flow::Flow;

pub(super) use invite_client::{Heard, InviteClient};
pub(super) use invite_server::{InviteServer, Missing};
pub(super) use non_invite_client::NonInviteClient;
pub(super) use non_invite_server::NonInviteServer;

/// The timers of RFC 3261 §17 (table 4), RFC 6026 §7, and three guards of ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Timer {
    /// INVITE request retransmit, unreliable transports only (§17.1.1.2).
    A,
    /// INVITE client timeout (§17.1.1.2).
    B,
    /// Wait for response retransmits to an INVITE (§17.1.1.2).
    D,
    /// Non-INVITE request retransmit (§17.1.2.2).
    E,
    /// Non-INVITE client timeout (§17.1.2.2).
    F,
    /// INVITE final response retransmit (§17.2.1).
    G,
    /// Wait for ACK (§17.2.1).
    H,
    /// Wait for ACK retransmits (§17.2.1).
    I,
    /// Wait for non-INVITE request retransmits (§17.2.2).
    J,
    /// Wait for response retransmits (§17.1.2.2).
    K,
    /// Wait for accepted INVITE retransmits and for the ACK to the 2xx (RFC 6026 §7.1).
    L,
    /// Wait for 2xx retransmits (RFC 6026 §7.2).
    M,
    /// Reliable provisional response, repeated until its PRACK comes (RFC 3262 §3).
    Reliable,
    /// It never came (RFC 3262 §3).
    PrackMissing,
    /// 2xx retransmit until the ACK comes (§13.3.1.4).
    Success,
    /// A cancelled INVITE that gets no final response (§9.1).
    Cancelled,
    /// A non-INVITE request that our own user never answers: the client has given up (RFC 4320).
    Unanswered,
}

/// The base values (RFC 3261 §17, table 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TimerValues {
    /// Round-trip estimate; default 500 ms.
    pub t1: Duration,
    /// Longest retransmit interval; default 4 s.
    pub t2: Duration,
    /// Longest life of a message in the network; default 5 s.
    pub t4: Duration,
}

impl Default for TimerValues {
    fn default() -> Self {
        Self {
            t1: Duration::from_millis(500),
            t2: Duration::from_secs(4),
            t4: Duration::from_secs(5),
        }
    }
}

impl TimerValues {
    /// 64·T1: timers B, F, H, J, L, M.
    pub(super) const fn give_up(&self) -> Duration {
        self.t1.saturating_mul(64)
    }

    /// Timer D: at least 32 s (§17.1.1.2), less only if the whole clock is scaled down.
    const fn invite_linger(&self) -> Duration {
        self.give_up()
    }

    /// The next retransmit interval: doubled, at most T2.
    fn doubled(&self, interval: Duration) -> Duration {
        interval.saturating_mul(2).min(self.t2)
    }
}

/// The running timers of one transaction: at most three.
#[derive(Clone, Debug, Default)]
pub(super) struct Timers(Vec<(Timer, Instant)>);

impl Timers {
    pub(super) fn set(&mut self, timer: Timer, at: Instant) {
        self.cancel(timer);
        self.0.push((timer, at));
    }

    pub(super) fn cancel(&mut self, timer: Timer) {
        self.0.retain(|(running, _)| *running != timer);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().map(|(_, at)| *at).min()
    }

    /// Takes the earliest timer that is due; of two at once, the first in the alphabet: a last
    /// retransmit still goes out.
    pub(super) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        let (timer, _) =
            self.0.iter().filter(|(_, at)| *at <= now).min_by_key(|(timer, at)| (*at, *timer))?;
        let timer = *timer;
        self.cancel(timer);
        Some(timer)
    }
}

/// What a machine needs to act: time, timer values, and the way out.
pub(super) struct Context<'a> {
    pub(super) values: &'a TimerValues,
    pub(super) now: Instant,
    pub(super) transmits: &'a mut VecDeque<Transmit>,
    pub(super) counters: &'a mut Counters,
}

impl Context<'_> {
    pub(super) fn send(&mut self, flow: Flow, bytes: &Bytes) {
        self.transmits.push_back(Transmit { flow, bytes: bytes.clone() });
    }

    pub(super) fn resend(&mut self, flow: Flow, bytes: &Bytes) {
        self.counters.retransmissions_sent += 1;
        self.send(flow, bytes);
    }

    pub(super) fn after(&self, delay: Duration) -> Instant {
        self.now + delay
    }
}

/// Where the responses of a server transaction go (§18.2.2).
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyPath {
    pub(super) flow: Flow,
    /// A new connection to the sent-by port, if that of `flow` is gone.
    pub(super) fallback: Option<Flow>,
}

impl ReplyPath {
    /// Takes the fallback; `false` if there is none left.
    fn fall_back(&mut self, failed: &Flow) -> bool {
        match self.fallback.take() {
            Some(fallback) if self.flow.is_hit_by(failed) => {
                self.flow = fallback;
                true
            }
            other => {
                self.fallback = other;
                false
            }
        }
    }
}
