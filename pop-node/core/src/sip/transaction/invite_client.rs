//! INVITE client transaction (RFC 3261 §17.1.1 as corrected by RFC 6026 §8.4).

use bytes::Bytes;
use proto::time::{Duration, Instant};

use super::{Context, Timer, Timers};
use crate::sip::endpoint::FailReason;
use crate::sip::flow::Flow;
use crate::sip::header::HeaderName;
use crate::sip::message::{Method, Request, Response};
use crate::sip::text::Text;
use crate::sip::value::CSeq;

/// Forks whose 2xx are remembered; a network that forks wider gets no ACK for the rest.
const MAX_FORKS: usize = 8;

#[derive(Debug)]
enum State {
    /// No response yet.
    Calling { interval: Duration, cancel_wanted: bool },
    /// A provisional response came.
    Proceeding { cancelled: bool },
    /// A 2xx came; more of it, or of other forks, may follow.
    Accepted { forks: Vec<Fork> },
    /// Another final response came and was acknowledged.
    Completed { ack: Bytes },
    /// To be forgotten.
    Terminated,
}

/// One 2xx with its ACK, once the user has sent it.
#[derive(Debug)]
struct Fork {
    tag: Text,
    ack: Option<(Flow, Bytes)>,
}

/// What a response meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::sip) enum Heard {
    /// New to the user.
    News,
    /// New to the user, and the CANCEL that waited for it may go out now.
    NewsAndCancel,
    /// A retransmission, dealt with.
    Repeat,
}

/// The machine.
#[derive(Debug)]
pub(in crate::sip) struct InviteClient {
    state: State,
    timers: Timers,
    flow: Flow,
    request: Request,
    bytes: Bytes,
    in_dialog: bool,
}

impl InviteClient {
    /// Sends `request`, complete with our Via.
    pub(in crate::sip) fn new(request: Request, flow: Flow, ctx: &mut Context<'_>) -> Self {
        let bytes = request.serialize();
        ctx.send(flow, &bytes);
        let mut timers = Timers::default();
        let interval = ctx.values.t1;
        // §17.1.1.2: timer A only over unreliable transports.
        if !flow.transport.is_reliable() {
            timers.set(Timer::A, ctx.after(interval));
        }
        timers.set(Timer::B, ctx.after(ctx.values.give_up()));
        let state = State::Calling { interval, cancel_wanted: false };
        let in_dialog = request.headers.to_tag().is_some();
        Self { state, timers, flow, request, bytes, in_dialog }
    }

    /// The request had a To tag: a re-INVITE (RFC 3261 §14).
    pub(in crate::sip) const fn is_in_dialog(&self) -> bool {
        self.in_dialog
    }

    pub(in crate::sip) fn handle_response(
        &mut self,
        response: &Response,
        ctx: &mut Context<'_>,
    ) -> Heard {
        match (&mut self.state, response.status) {
            (State::Calling { cancel_wanted, .. }, 100..=199) => {
                let cancel = *cancel_wanted;
                self.timers.clear();
                self.state = State::Proceeding { cancelled: false };
                if cancel { Heard::NewsAndCancel } else { Heard::News }
            }
            (State::Proceeding { .. }, 100..=199) => Heard::News,
            (State::Calling { .. } | State::Proceeding { .. }, 200..=299) => {
                self.timers.clear();
                self.timers.set(Timer::M, ctx.after(ctx.values.give_up()));
                self.state = State::Accepted { forks: Vec::new() };
                // Nothing is built from the request any more: do not keep it until timer M.
                self.bytes = Bytes::new();
                self.request = Request::new(Method::Invite, self.request.uri.clone());
                self.hear_success(response, ctx)
            }
            (State::Accepted { .. }, 200..=299) => self.hear_success(response, ctx),
            (State::Calling { .. } | State::Proceeding { .. }, _) => {
                self.complete(response, ctx);
                Heard::News
            }
            (State::Completed { ack }, 300..) => {
                ctx.counters.retransmissions_received += 1;
                let ack = ack.clone();
                ctx.resend(self.flow, &ack);
                Heard::Repeat
            }
            (State::Accepted { .. } | State::Completed { .. } | State::Terminated, _) => {
                Heard::Repeat
            }
        }
    }

    /// A 2xx: new if its To tag is, else answered with the ACK that its fork got.
    fn hear_success(&mut self, response: &Response, ctx: &mut Context<'_>) -> Heard {
        let State::Accepted { forks } = &mut self.state else { return Heard::Repeat };
        let tag = response.headers.to_tag().unwrap_or_default();
        match forks.iter().find(|fork| fork.tag == tag) {
            Some(fork) => {
                ctx.counters.retransmissions_received += 1;
                if let Some((flow, ack)) = &fork.ack {
                    ctx.resend(*flow, ack);
                }
                Heard::Repeat
            }
            None if forks.len() == MAX_FORKS => Heard::Repeat,
            None => {
                // Nearly always the only one.
                forks.reserve_exact(1);
                forks.push(Fork { tag, ack: None });
                Heard::News
            }
        }
    }

    /// §17.1.1.2: a 3xx–6xx is acknowledged here, and again until timer D.
    fn complete(&mut self, response: &Response, ctx: &mut Context<'_>) {
        let ack = self.non_2xx_ack(response).serialize();
        ctx.send(self.flow, &ack);
        self.timers.clear();
        if self.flow.transport.is_reliable() {
            self.state = State::Terminated;
        } else {
            self.timers.set(Timer::D, ctx.after(ctx.values.invite_linger()));
            self.state = State::Completed { ack };
        }
    }

    /// Remembers the user's ACK for the fork it belongs to.
    pub(in crate::sip) fn store_ack(&mut self, tag: &Text, flow: Flow, bytes: &Bytes) {
        if let State::Accepted { forks } = &mut self.state
            && let Some(fork) = forks.iter_mut().find(|fork| fork.tag == *tag)
        {
            fork.ack = Some((flow, bytes.clone()));
        }
    }

    /// Asks for a CANCEL: true if it may be sent now. §9.1: not before a provisional response.
    pub(in crate::sip) fn cancel(&mut self, ctx: &Context<'_>) -> bool {
        match &mut self.state {
            State::Calling { cancel_wanted, .. } => {
                *cancel_wanted = true;
                false
            }
            State::Proceeding { cancelled } if !*cancelled => {
                *cancelled = true;
                // §9.1: 64·T1 after the CANCEL the transaction counts as cancelled.
                self.timers.set(Timer::Cancelled, ctx.after(ctx.values.give_up()));
                true
            }
            State::Proceeding { .. }
            | State::Accepted { .. }
            | State::Completed { .. }
            | State::Terminated => false,
        }
    }

    pub(in crate::sip) fn handle_timer(
        &mut self,
        timer: Timer,
        ctx: &mut Context<'_>,
    ) -> Option<FailReason> {
        match (timer, &mut self.state) {
            (Timer::A, State::Calling { interval, .. }) => {
                // §17.1.1.2: doubles without the cap of T2.
                *interval = interval.saturating_mul(2);
                let next = *interval;
                ctx.resend(self.flow, &self.bytes);
                self.timers.set(Timer::A, ctx.after(next));
                None
            }
            (Timer::B, State::Calling { .. }) | (Timer::Cancelled, State::Proceeding { .. }) => {
                ctx.counters.timeouts += 1;
                self.terminate();
                Some(FailReason::Timeout)
            }
            // D and M end the wait; nothing else runs in these states.
            (_, State::Accepted { .. } | State::Completed { .. }) => {
                self.terminate();
                None
            }
            (_, State::Calling { .. } | State::Proceeding { .. } | State::Terminated) => None,
        }
    }

    /// §17.1.4, figure 5: fatal only while nothing has been heard; later the far end can still
    /// reach us by a connection of its own.
    pub(in crate::sip) fn handle_transport_error(&mut self, failed: &Flow) -> Option<FailReason> {
        if self.flow.is_hit_by(failed) && matches!(self.state, State::Calling { .. }) {
            self.terminate();
            return Some(FailReason::Transport);
        }
        None
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

    pub(in crate::sip) const fn flow(&self) -> Flow {
        self.flow
    }

    /// The CANCEL for this INVITE, with its Via (§9.1).
    pub(in crate::sip) fn cancel_request(&self) -> Request {
        let mut cancel = self.follow_up(Method::Cancel);
        cancel.headers.copy(&HeaderName::To, &self.request.headers);
        cancel
    }

    /// The ACK to a 3xx–6xx (§17.1.1.3): To is the response's.
    fn non_2xx_ack(&self, response: &Response) -> Request {
        let mut ack = self.follow_up(Method::Ack);
        ack.headers.copy(&HeaderName::To, &response.headers);
        ack
    }

    /// What ACK and CANCEL share with the INVITE: Request-URI, topmost Via, Route, From, Call-ID
    /// and the CSeq number.
    fn follow_up(&self, method: Method) -> Request {
        let from = &self.request.headers;
        let mut request = Request::new(method.clone(), self.request.uri.clone());
        let headers = &mut request.headers;
        if let Some(via) = from.get(&HeaderName::Via) {
            headers.push(HeaderName::Via, via.clone());
        }
        headers.copy(&HeaderName::Route, from);
        headers.push(HeaderName::MaxForwards, 70);
        headers.copy(&HeaderName::From, from);
        headers.copy(&HeaderName::CallId, from);
        if let Some(CSeq { number, .. }) = from.cseq() {
            headers.push(HeaderName::CSeq, &CSeq { number, method });
        }
        request
    }
}
