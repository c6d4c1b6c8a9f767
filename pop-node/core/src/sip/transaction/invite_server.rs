//! INVITE server transaction (RFC 3261 §17.2.1 as corrected by RFC 6026 §8.5, §8.7), and the
//! retransmissions of its user: the 2xx (§13.3.1.4), the reliable provisional (RFC 3262 §3).

use bytes::Bytes;
use proto::time::{Duration, Instant};

use super::{Context, ReplyPath, Timer, Timers};
use crate::sip::flow::Flow;

#[derive(Debug)]
enum State {
    /// No final response yet; the last provisional one is repeated on demand, and by itself until
    /// its PRACK comes if it is reliable.
    Proceeding { last: Bytes, cancelled: bool, reliable: Option<Reliable> },
    /// A 2xx was sent and is repeated until its ACK comes.
    Accepted { response: Bytes, interval: Duration, acked: bool },
    /// A 3xx–6xx was sent and is repeated until its ACK comes.
    Completed { response: Bytes, interval: Duration },
    /// The ACK came; repeats of it are absorbed.
    Confirmed,
    /// To be forgotten.
    Terminated,
}

/// A provisional response that waits for its PRACK.
#[derive(Debug)]
struct Reliable {
    rseq: u32,
    response: Bytes,
    interval: Duration,
}

/// What never came, and the user must hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sip) enum Missing {
    /// The ACK to our 2xx.
    Ack,
    /// The PRACK to our reliable provisional response.
    Prack,
}

/// The machine.
#[derive(Debug)]
pub(in crate::sip) struct InviteServer {
    state: State,
    timers: Timers,
    path: ReplyPath,
}

impl InviteServer {
    /// Sends `trying`, the 100, at once: routing may take longer than 200 ms (§17.2.1).
    pub(in crate::sip) fn new(trying: Bytes, path: ReplyPath, ctx: &mut Context<'_>) -> Self {
        ctx.send(path.flow, &trying);
        let state = State::Proceeding { last: trying, cancelled: false, reliable: None };
        Self { state, timers: Timers::default(), path }
    }

    /// The INVITE came again.
    pub(in crate::sip) fn handle_repeat(&self, ctx: &mut Context<'_>) {
        ctx.counters.retransmissions_received += 1;
        match &self.state {
            State::Proceeding { last: response, .. } | State::Completed { response, .. } => {
                ctx.resend(self.path.flow, response);
            }
            // RFC 6026 §7.1: absorbed; the 2xx has its own clock.
            State::Accepted { .. } | State::Confirmed | State::Terminated => {}
        }
    }

    /// The user's response; ignored after a final one. True if it was sent.
    pub(in crate::sip) fn respond(
        &mut self,
        status: u16,
        bytes: Bytes,
        ctx: &mut Context<'_>,
    ) -> bool {
        let State::Proceeding { last, .. } = &mut self.state else { return false };
        ctx.send(self.path.flow, &bytes);
        let interval = ctx.values.t1;
        if status >= 200 {
            // RFC 3262 §3: a final response ends the repeats of a provisional one.
            self.timers.clear();
        }
        match status {
            100..=199 => *last = bytes,
            200..=299 => {
                // §13.3.1.4: also over reliable transports, the loss may be behind a proxy.
                self.timers.set(Timer::Success, ctx.after(interval));
                self.timers.set(Timer::L, ctx.after(ctx.values.give_up()));
                self.state = State::Accepted { response: bytes, interval, acked: false };
            }
            _ => {
                if !self.path.flow.transport.is_reliable() {
                    self.timers.set(Timer::G, ctx.after(interval));
                }
                self.timers.set(Timer::H, ctx.after(ctx.values.give_up()));
                self.state = State::Completed { response: bytes, interval };
            }
        }
        true
    }

    /// The user's provisional response with this RSeq, repeated until [`Self::acknowledge`]. One at
    /// a time (RFC 3262 §3): false if another one waits, or a final one was sent.
    pub(in crate::sip) fn respond_reliably(
        &mut self,
        rseq: u32,
        bytes: Bytes,
        ctx: &mut Context<'_>,
    ) -> bool {
        let State::Proceeding { last, reliable: reliable @ None, .. } = &mut self.state else {
            return false;
        };
        ctx.send(self.path.flow, &bytes);
        let interval = ctx.values.t1;
        *last = bytes.clone();
        *reliable = Some(Reliable { rseq, response: bytes, interval });
        self.timers.set(Timer::Reliable, ctx.after(interval));
        self.timers.set(Timer::PrackMissing, ctx.after(ctx.values.give_up()));
        true
    }

    /// A PRACK for this RSeq came: true if it is the one that waits.
    pub(in crate::sip) fn acknowledge(&mut self, acknowledged: u32) -> bool {
        let State::Proceeding { reliable, .. } = &mut self.state else { return false };
        if reliable.as_ref().is_none_or(|reliable| reliable.rseq != acknowledged) {
            return false;
        }
        *reliable = None;
        self.timers.cancel(Timer::Reliable);
        self.timers.cancel(Timer::PrackMissing);
        true
    }

    /// A CANCEL came: true if the user must hear of it (§9.2: no effect after a final response).
    pub(in crate::sip) const fn handle_cancel(&mut self) -> bool {
        match &mut self.state {
            State::Proceeding { cancelled, .. } if !*cancelled => {
                *cancelled = true;
                true
            }
            State::Proceeding { .. }
            | State::Accepted { .. }
            | State::Completed { .. }
            | State::Confirmed
            | State::Terminated => false,
        }
    }

    /// The ACK to a 3xx–6xx, which belongs to this transaction (§17.2.1).
    pub(in crate::sip) fn handle_ack(&mut self, ctx: &mut Context<'_>) {
        if !matches!(self.state, State::Completed { .. }) {
            ctx.counters.retransmissions_received += 1;
            return;
        }
        self.timers.clear();
        if self.path.flow.transport.is_reliable() {
            self.state = State::Terminated;
        } else {
            self.timers.set(Timer::I, ctx.after(ctx.values.t4));
            self.state = State::Confirmed;
        }
    }

    /// The ACK to the 2xx, which is a transaction of its own: true the first time.
    pub(in crate::sip) const fn is_first_ack(&self) -> bool {
        matches!(self.state, State::Accepted { acked: false, .. })
    }

    /// Stops the 2xx.
    pub(in crate::sip) fn handle_success_ack(&mut self) {
        if let State::Accepted { response, acked, .. } = &mut self.state {
            *acked = true;
            // Only the memory of the INVITE's key is needed until timer L.
            *response = Bytes::new();
            self.timers.cancel(Timer::Success);
        }
    }

    /// What the user must be told never came.
    pub(in crate::sip) fn handle_timer(
        &mut self,
        timer: Timer,
        ctx: &mut Context<'_>,
    ) -> Option<Missing> {
        match (timer, &mut self.state) {
            (Timer::Reliable, State::Proceeding { reliable: Some(reliable), .. }) => {
                // RFC 3262 §3: doubles, without the cap of T2.
                reliable.interval = reliable.interval.saturating_mul(2);
                let next = reliable.interval;
                ctx.resend(self.path.flow, &reliable.response);
                self.timers.set(Timer::Reliable, ctx.after(next));
                None
            }
            (Timer::PrackMissing, State::Proceeding { reliable: reliable @ Some(_), .. }) => {
                *reliable = None;
                self.timers.cancel(Timer::Reliable);
                Some(Missing::Prack)
            }
            (Timer::Success, State::Accepted { response, interval, acked: false }) => {
                *interval = ctx.values.doubled(*interval);
                let next = *interval;
                ctx.resend(self.path.flow, response);
                self.timers.set(Timer::Success, ctx.after(next));
                None
            }
            (Timer::G, State::Completed { response, interval }) => {
                *interval = ctx.values.doubled(*interval);
                let next = *interval;
                ctx.resend(self.path.flow, response);
                self.timers.set(Timer::G, ctx.after(next));
                None
            }
            (Timer::H, State::Completed { .. }) => {
                ctx.counters.acks_missing += 1;
                self.terminate();
                None
            }
            (Timer::L, State::Accepted { acked, .. }) => {
                let missing = !*acked;
                ctx.counters.acks_missing += u64::from(missing);
                self.terminate();
                missing.then_some(Missing::Ack)
            }
            (_, State::Confirmed) => {
                self.terminate();
                None
            }
            (
                _,
                State::Proceeding { .. }
                | State::Accepted { .. }
                | State::Completed { .. }
                | State::Terminated,
            ) => None,
        }
    }

    /// §18.2.2: a response whose connection is gone goes over a new one.
    pub(in crate::sip) fn handle_transport_error(&mut self, failed: &Flow, ctx: &mut Context<'_>) {
        if !self.path.fall_back(failed) {
            return;
        }
        match &self.state {
            State::Accepted { response, acked: false, .. }
            | State::Completed { response, .. }
            | State::Proceeding { reliable: Some(Reliable { response, .. }), .. } => {
                ctx.resend(self.path.flow, response);
            }
            State::Proceeding { .. }
            | State::Accepted { .. }
            | State::Confirmed
            | State::Terminated => {}
        }
    }

    fn terminate(&mut self) {
        self.timers.clear();
        self.state = State::Terminated;
    }

    pub(in crate::sip) const fn is_terminated(&self) -> bool {
        matches!(self.state, State::Terminated)
    }

    pub(in crate::sip) fn next_timeout(&self) -> Option<Instant> {
        self.timers.next()
    }

    pub(in crate::sip) fn take_due(&mut self, now: Instant) -> Option<Timer> {
        self.timers.take_due(now)
    }
}
