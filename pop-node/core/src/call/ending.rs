//! The last transaction of a dialog whose call is over: our BYE.
//!
//! A UAS may not send BYE before its 2xx is acknowledged or given up (RFC 3261 §15), so a call that
//! ends in between waits for that first. Trunks may challenge a BYE like any request.

use proto::time::Instant;

use super::{Half, Input, State, is_of, plain};
use crate::pop::core::Core;
use crate::pop::index::Handle;
use crate::sip::{ClientTx, Dialog, FailReason, HeaderName, Method, Request, Response, ServerTx};

#[derive(Debug)]
pub(crate) struct Ending {
    dialog: Dialog,
    /// `Reason` of the BYE (RFC 3326).
    reason: Option<String>,
    wait: Wait,
}

#[derive(Debug)]
enum Wait {
    Ack(ServerTx),
    Bye {
        tx: ClientTx,
        request: Box<Request>,
        challenged: bool,
        /// Sent over a new connection already.
        moved: bool,
    },
}

/// Ends a dialog: at once, or when the ACK to the 2xx of `unacknowledged` came.
pub(super) fn end(
    dialog: Dialog,
    unacknowledged: Option<ServerTx>,
    reason: Option<String>,
    half: &mut Half,
    core: &mut Core,
    now: Instant,
) -> State {
    match unacknowledged {
        Some(tx) => State::Ending(Box::new(Ending { dialog, reason, wait: Wait::Ack(tx) })),
        None => bye(dialog, reason, half, core, now),
    }
}

fn bye(
    mut dialog: Dialog,
    reason: Option<String>,
    half: &mut Half,
    core: &mut Core,
    now: Instant,
) -> State {
    let mut request = dialog.request(Method::Bye);
    if let Some(reason) = &reason {
        request.headers.push(HeaderName::Reason, reason.as_str());
    }
    let flow = half.leg.dialog_flow(&dialog, core, now);
    let Some(tx) = core.request(half.key, request.clone(), flow, now) else { return State::Over };
    let wait = Wait::Bye { tx, request: Box::new(request), challenged: false, moved: false };
    State::Ending(Box::new(Ending { dialog, reason, wait }))
}

impl Ending {
    pub(super) fn handle(
        self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match (input, &self.wait) {
            (Input::Ack { tx, .. } | Input::AckMissing { tx }, Wait::Ack(waited))
                if tx == *waited =>
            {
                bye(self.dialog, self.reason, half, core, now)
            }
            (Input::Failed { tx, reason: FailReason::Transport }, Wait::Bye { tx: sent, .. })
                if tx == *sent =>
            {
                self.moved(half, core, now)
            }
            (Input::Failed { tx, .. }, Wait::Bye { tx: sent, .. }) if tx == *sent => State::Over,
            (Input::Response { tx, response }, Wait::Bye { tx: sent, .. })
                if tx == *sent && response.is_final() =>
            {
                self.answered(&response, half, core, now)
            }
            (Input::Request { tx, request, .. }, _) => {
                let crossing = request.method == Method::Bye && is_of(&self.dialog, &request);
                let status = if crossing { 200 } else { 481 };
                core.respond(tx, plain(&request, status), now);
                // Whoever says BYE will not send the ACK we wait for.
                let done = crossing && matches!(self.wait, Wait::Ack(_));
                if done { State::Over } else { State::Ending(self) }
            }
            (
                Input::Ack { .. }
                | Input::AckMissing { .. }
                | Input::Cancelled { .. }
                | Input::Failed { .. }
                | Input::Far(_)
                | Input::FarLost
                | Input::Kept
                | Input::LinkUp
                | Input::Moved
                | Input::Opened
                | Input::PortTaken
                | Input::PrackMissing { .. }
                | Input::Resolved(_)
                | Input::Response { .. }
                | Input::Shutdown
                | Input::Silent
                | Input::Timeout,
                _,
            ) => State::Ending(self),
        }
    }

    /// The connection died: once more over a new one.
    fn moved(mut self: Box<Self>, half: &mut Half, core: &mut Core, now: Instant) -> State {
        let Wait::Bye { request, challenged, moved: false, .. } = self.wait else {
            return State::Over;
        };
        if !half.leg.reconnect(&self.dialog, core, now) {
            return State::Over;
        }
        let mut request = request;
        self.dialog.renumber(&mut request);
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        let Some(tx) = core.request(half.key, (*request).clone(), flow, now) else {
            return State::Over;
        };
        self.wait = Wait::Bye { tx, request, challenged, moved: true };
        State::Ending(self)
    }

    fn answered(
        mut self: Box<Self>,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Wait::Bye { request, challenged: false, tx, moved } = &self.wait else {
            return State::Over;
        };
        let moved = *moved;
        if !matches!(response.status, 401 | 407) {
            return State::Over;
        }
        let Some(again) = half.leg.authorized(request, response, core) else { return State::Over };
        core.index.remove(&Handle::Client(*tx));
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        let Some(tx) = core.request(half.key, again.clone(), flow, now) else {
            return State::Over;
        };
        self.wait = Wait::Bye { tx, request: Box::new(again), challenged: true, moved };
        State::Ending(self)
    }
}
