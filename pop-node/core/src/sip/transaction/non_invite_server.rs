//! Non-INVITE server transaction (RFC 3261 §17.2.2, RFC 4320).

use bytes::Bytes;
use proto::time::Instant;

use super::{Context, ReplyPath, Timer, Timers};
use crate::sip::flow::Flow;

#[derive(Debug)]
enum State {
    /// No response yet.
    Trying,
    /// A provisional response was sent.
    Proceeding { last: Bytes },
    /// A final response was sent and is repeated on demand.
    Completed { response: Bytes },
    /// To be forgotten.
    Terminated,
}

/// The machine.
#[derive(Debug)]
pub(in crate::sip) struct NonInviteServer {
    state: State,
    timers: Timers,
    path: ReplyPath,
}

impl NonInviteServer {
    pub(in crate::sip) fn new(path: ReplyPath, ctx: &Context<'_>) -> Self {
        let mut timers = Timers::default();
        // RFC 4320 §4.2: after 64·T1 the client has given up and a late answer only does harm.
        timers.set(Timer::Unanswered, ctx.after(ctx.values.give_up()));
        Self { state: State::Trying, timers, path }
    }

    /// The request came again.
    pub(in crate::sip) fn handle_repeat(&self, ctx: &mut Context<'_>) {
        ctx.counters.retransmissions_received += 1;
        match &self.state {
            State::Proceeding { last: response } | State::Completed { response } => {
                ctx.resend(self.path.flow, response);
            }
            State::Trying | State::Terminated => {}
        }
    }

    /// The user's response; ignored after a final one. True if it was sent.
    pub(in crate::sip) fn respond(
        &mut self,
        status: u16,
        bytes: Bytes,
        ctx: &mut Context<'_>,
    ) -> bool {
        if !matches!(self.state, State::Trying | State::Proceeding { .. }) {
            return false;
        }
        ctx.send(self.path.flow, &bytes);
        if status < 200 {
            self.state = State::Proceeding { last: bytes };
            return true;
        }
        self.timers.clear();
        // §17.2.2: timer J is zero over reliable transports.
        if self.path.flow.transport.is_reliable() {
            self.state = State::Terminated;
        } else {
            self.timers.set(Timer::J, ctx.after(ctx.values.give_up()));
            self.state = State::Completed { response: bytes };
        }
        true
    }

    pub(in crate::sip) fn handle_timer(&mut self, timer: Timer) {
        if matches!(timer, Timer::J | Timer::Unanswered) {
            self.timers.clear();
            self.state = State::Terminated;
        }
    }

    /// §18.2.2: a response whose connection is gone goes over a new one.
    pub(in crate::sip) fn handle_transport_error(&mut self, failed: &Flow) {
        self.path.fall_back(failed);
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
