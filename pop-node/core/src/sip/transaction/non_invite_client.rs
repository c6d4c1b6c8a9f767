//! Non-INVITE client transaction (RFC 3261 §17.1.2).

use bytes::Bytes;
use proto::time::{Duration, Instant};

use super::{Context, Timer, Timers};
use crate::sip::endpoint::FailReason;
use crate::sip::flow::Flow;
use crate::sip::message::Response;

#[derive(Debug)]
enum State {
    /// No response yet.
    Trying { interval: Duration },
    /// A provisional response came: retransmits slow down to T2.
    Proceeding,
    /// A final response came; its retransmits are absorbed.
    Completed,
    /// To be forgotten.
    Terminated,
}

/// The machine.
#[derive(Debug)]
pub(in crate::sip) struct NonInviteClient {
    state: State,
    timers: Timers,
    flow: Flow,
    bytes: Bytes,
}

impl NonInviteClient {
    /// Sends a request, complete with our Via.
    pub(in crate::sip) fn new(bytes: Bytes, flow: Flow, ctx: &mut Context<'_>) -> Self {
        ctx.send(flow, &bytes);
        let mut timers = Timers::default();
        let interval = ctx.values.t1;
        if !flow.transport.is_reliable() {
            timers.set(Timer::E, ctx.after(interval));
        }
        timers.set(Timer::F, ctx.after(ctx.values.give_up()));
        Self { state: State::Trying { interval }, timers, flow, bytes }
    }

    /// True if the response is new to the user.
    pub(in crate::sip) fn handle_response(
        &mut self,
        response: &Response,
        ctx: &mut Context<'_>,
    ) -> bool {
        match self.state {
            State::Trying { .. } | State::Proceeding if response.is_provisional() => {
                self.state = State::Proceeding;
                true
            }
            State::Trying { .. } | State::Proceeding => {
                self.timers.clear();
                if self.flow.transport.is_reliable() {
                    self.state = State::Terminated;
                } else {
                    self.timers.set(Timer::K, ctx.after(ctx.values.t4));
                    self.state = State::Completed;
                }
                true
            }
            State::Completed | State::Terminated => {
                ctx.counters.retransmissions_received += 1;
                false
            }
        }
    }

    pub(in crate::sip) fn handle_timer(
        &mut self,
        timer: Timer,
        ctx: &mut Context<'_>,
    ) -> Option<FailReason> {
        match (timer, &mut self.state) {
            (Timer::E, State::Trying { interval }) => {
                *interval = ctx.values.doubled(*interval);
                let next = *interval;
                ctx.resend(self.flow, &self.bytes);
                self.timers.set(Timer::E, ctx.after(next));
                None
            }
            (Timer::E, State::Proceeding) => {
                ctx.resend(self.flow, &self.bytes);
                self.timers.set(Timer::E, ctx.after(ctx.values.t2));
                None
            }
            (Timer::F, State::Trying { .. } | State::Proceeding) => {
                ctx.counters.timeouts += 1;
                self.terminate();
                Some(FailReason::Timeout)
            }
            (_, State::Completed) => {
                self.terminate();
                None
            }
            (_, State::Trying { .. } | State::Proceeding | State::Terminated) => None,
        }
    }

    /// §17.1.4: fatal until a final response came.
    pub(in crate::sip) fn handle_transport_error(&mut self, failed: &Flow) -> Option<FailReason> {
        let waits = matches!(self.state, State::Trying { .. } | State::Proceeding);
        if waits && self.flow.is_hit_by(failed) {
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
}
