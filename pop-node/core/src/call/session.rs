//! An answered call, the same on both halves: BYE from either side, re-INVITE, UPDATE and INFO
//! through to the other.

use proto::call::call_message::Kind;
use proto::time::{Duration, Instant, earlier};

use super::adopt::{JUMPS_MAX, Move, jump};
use super::capsule::Name;
use super::info::Infos;
use super::liveness::Liveness;
use super::reinvite::Exchange;
use super::{EndCause, Half, Input, State, ending, is_of, other_request, plain, reason, status};
use crate::media::Direction;
use crate::pop::Refusal;
use crate::pop::core::Core;
use crate::sip::{Dialog, Method, Request, ServerTx, Transport};

#[derive(Debug)]
pub(crate) struct Session {
    pub(super) dialog: Dialog,
    /// What the far party itself wants, by its latest offer: what we say when we must offer in its
    /// name. Its answers do not count, they only mirror a hold of this side.
    pub(super) wish: Direction,
    pub(super) exchange: Exchange,
    pub(super) liveness: Liveness,
    pub(super) infos: Infos,
    /// The peer still believes the leg to be at another POP.
    pub(super) moving: Option<Box<Move>>,
    /// The other half is out of reach until then, or lost.
    pub(super) orphaned: Option<Instant>,
}

/// The other half may come back, or be taken over, within this.
const ORPHAN: Duration = Duration::from_secs(60);

impl Session {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let own = earlier(self.exchange.deadline(), self.liveness.deadline());
        earlier(own, earlier(self.moving_at(), self.orphaned))
    }

    pub(super) fn handle(
        mut self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match input {
            Input::Ack { tx, request } => self.acknowledged(tx, &request, half, core, now),
            Input::AckMissing { tx } => {
                if self.exchange.unacknowledged() != Some(tx) {
                    return State::Talking(self);
                }
                self.exchange = Exchange::Idle;
                self.end(EndCause::AckMissing, 408, half, core, now)
            }
            Input::Cancelled { tx } => {
                self.cancelled(tx, core, now);
                State::Talking(self)
            }
            Input::Failed { tx, reason } if self.liveness.is_asking(tx) => {
                self.untold(reason, half, core, now)
            }
            Input::Failed { tx, .. } if self.infos.is_sent(tx) => {
                self.info_answered(None, half, core, now);
                State::Talking(self)
            }
            Input::Failed { tx, reason } => self.reinvite_failed(tx, reason, half, core, now),
            Input::Far(kind) => self.far(kind, half, core, now),
            Input::FarLost => {
                half.drop_link(core);
                if self.moving.is_none() && !core.guard.holds(Name::of(half).other()) {
                    return self.end(EndCause::LinkLost, 503, half, core, now);
                }
                self.orphaned.get_or_insert(now + ORPHAN);
                State::Talking(self)
            }
            Input::Kept => {
                self.call_back(half, core, now);
                State::Talking(self)
            }
            Input::Moved => self.leave(half, core, now),
            Input::Request { tx, flow, request } => {
                if flow.transport == Transport::Tcp && is_of(&self.dialog, &request) {
                    // The peer has a new connection: the old one may be dead.
                    half.leg.flow = flow;
                }
                self.request(tx, &request, half, core, now)
            }
            Input::Response { tx, response } if self.liveness.is_asking(tx) => {
                self.told(&response, half, core, now)
            }
            Input::Response { tx, response } if self.infos.is_sent(tx) => {
                self.info_answered(Some(response.status), half, core, now);
                State::Talking(self)
            }
            Input::Response { tx, response } => self.response(tx, &response, half, core, now),
            Input::Shutdown => self.end_here(EndCause::Shutdown, 503, half, core, now),
            Input::Silent => {
                self.liveness.doubt(half, core, now);
                State::Talking(self)
            }
            Input::Timeout => self.timed(half, core, now),
            Input::Opened => self.port_opened(true, half, core, now),
            Input::PortTaken => self.port_opened(false, half, core, now),
            Input::LinkUp | Input::PrackMissing { .. } | Input::Resolved(_) => State::Talking(self),
        }
    }

    fn timed(self: Box<Self>, half: &mut Half, core: &mut Core, now: Instant) -> State {
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if is_due(self.exchange.deadline()) {
            self.timeout(half, core, now)
        } else if is_due(self.moving_at()) {
            self.call_over(half, core, now)
        } else if is_due(self.orphaned) {
            self.end(EndCause::LinkLost, 503, half, core, now)
        } else {
            self.look_after(half, core, now)
        }
    }

    fn request(
        mut self: Box<Self>,
        tx: ServerTx,
        request: &Request,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if !is_of(&self.dialog, request) {
            core.counters.refuse(Refusal::NoDialog);
            core.respond(tx, plain(request, 481), now);
            return State::Talking(self);
        }
        self.liveness.seen(half, core, now);
        if request.method == Method::Invite
            || (request.method == Method::Update && !request.body.is_empty())
        {
            return self.invited(tx, request, half, core, now);
        }
        if self.dialog.accept_request(request).is_err() {
            core.respond(tx, plain(request, 500), now);
            return State::Talking(self);
        }
        if request.method == Method::Bye {
            core.respond(tx, plain(request, 200), now);
            self.exchange.refuse_pending(core, now);
            self.over_here(200, half, core, now);
            half.part_with_bye(0, "", core);
            half.finish(half.near_hung_up(), 200, core, now);
            return State::Over;
        }
        let response = match request.method {
            Method::Update => self.refreshed_by_peer(request, half, core, now),
            Method::Info => self.informed(request, half, core),
            _ => other_request(request),
        };
        core.respond(tx, response, now);
        State::Talking(self)
    }

    fn far(
        mut self: Box<Self>,
        kind: Kind,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match kind {
            Kind::Bye(bye) => {
                let cause = half.far_ended(&bye);
                self.over_here(200, half, core, now);
                half.drop_link(core);
                let told = (bye.status != 0).then(|| reason(status(bye.status, 500), &bye.reason));
                self.close(cause, told, half, core, now)
            }
            // It crossed our answer: a hang-up like any other.
            Kind::Cancel(_) => {
                self.over_here(200, half, core, now);
                half.drop_link(core);
                self.close(EndCause::CallerCancelled, None, half, core, now)
            }
            Kind::Update(update) => {
                self.update(update.media.unwrap_or_default(), half, core, now);
                State::Talking(self)
            }
            Kind::UpdateAnswer(answer) => {
                self.updated(&answer.media.unwrap_or_default(), half, core, now);
                State::Talking(self)
            }
            Kind::UpdateReject(reject) => {
                self.update_rejected(status(reject.status, 488), core, now);
                State::Talking(self)
            }
            Kind::Info(info) => {
                self.inform(info, half, core, now);
                State::Talking(self)
            }
            Kind::Moved(_) => self.leave(half, core, now),
            Kind::Rejoin(_) => {
                self.orphaned = None;
                State::Talking(self)
            }
            Kind::Setup(_)
            | Kind::Guard(_)
            | Kind::Progress(_)
            | Kind::Answer(_)
            | Kind::Reject(_)
            | Kind::Hello(_)
            | Kind::Loss(_)
            | Kind::Ack(_) => {
                core.counters.refuse(Refusal::BadPeerMessage);
                State::Talking(self)
            }
        }
    }

    /// Ends the call on both sides for a reason of ours.
    pub(super) fn end(
        self: Box<Self>,
        cause: EndCause,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        half.part_with_bye(status, cause.name(), core);
        let told = Some(reason(status, cause.name()));
        self.close(cause, told, half, core, now)
    }

    fn close(
        mut self: Box<Self>,
        cause: EndCause,
        told: Option<String>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        self.exchange.refuse_pending(core, now);
        if core.guard.is_offered(Name::of(half)) {
            // The peer may have heard more from whom it was offered to (RFC 3261 §12.2.2).
            jump(&mut self.dialog, JUMPS_MAX);
        }
        if self.moving.as_ref().is_some_and(|moving| !moving.asked) {
            self.over_here(487, half, core, now);
        }
        half.finish(cause, 200, core, now);
        // Only the first INVITE holds a BYE back: later ones change no dialog (RFC 3261 §15).
        let unacknowledged = self.exchange.first_unacknowledged();
        ending::end(self.dialog, unacknowledged, told, half, core, now)
    }
}
