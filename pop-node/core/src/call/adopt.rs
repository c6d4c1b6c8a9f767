//! A half that goes on at this POP: made of its capsule, it calls its peer over by a re-INVITE with
//! our Contact and our media (RFC 3261 §14, §12.2.1.1).
//!
//! The peer may be in the middle of anything: 491 is tried again as RFC 3261 §14.1 says, 500 (our CSeq
//! is not above what its POP sent last) with a higher one, 503 when it says, 488 with all we could do.
//! What cannot be saved ends with a BYE and a record that says why.
//! Bounds: [`TRIES_MAX`] tries, [`LIMIT`] in all.

use std::collections::BTreeMap;

use proto::call::CallMoved;
use proto::call::call_message::Kind;
use proto::id::{Epoch, PopId};
use proto::time::{Duration, Instant};

use super::capsule::{Kept, Name};
use super::info::Infos;
use super::leg::SDP;
use super::liveness::Liveness;
use super::reinvite::{Draft, Exchange, full_offer};
use super::session::Session;
use super::{Begun, Call, CallKey, CdrRole, EndCause, Half, Leg, Link, Opening, Side, State};
use crate::media::Direction;
use crate::pop::core::Core;
use crate::sip::{Dialog, FailReason, Flow, HeaderName, Method, Response};

/// The POP before may have sent requests its capsule knows nothing of, and may send some yet: ours
/// must be above those (RFC 3261 §12.2.2), and those of a POP that takes over from us above ours.
const CSEQ_JUMP: u32 = 1_000;
/// More guardians than two have none.
pub(super) const JUMPS_MAX: u32 = 3;
/// No CSeq is above (RFC 3261 §8.1.1.5).
const CSEQ_MAX: u32 = i32::MAX.unsigned_abs();
const TRIES_MAX: u32 = 12;
/// The peer has to be called over within this.
const LIMIT: Duration = Duration::from_secs(60);
/// After an answer that names no time.
const RETRY: Duration = Duration::from_millis(500);
const RETRY_MAX: Duration = Duration::from_secs(15);

/// The peer still believes the leg to be elsewhere.
#[derive(Debug)]
pub(crate) struct Move {
    from: PopId,
    /// The media port is ours: the offer names it.
    opened: bool,
    /// The next try; `None`: one is under way.
    at: Option<Instant>,
    since: Instant,
    tries: u32,
    /// The offer was refused: the next one has all we could do.
    wide: bool,
    /// What the peer said it would do, at the POP before.
    direction: Direction,
    /// The POP before lives, and waits to hear how it went.
    pub(super) asked: bool,
    /// Who would have taken the half.
    guardians: Vec<(PopId, Epoch)>,
}

/// A guardian that takes a half over may come after one that did so and was lost before it could say
/// so: each jumps as often as it stands in the list.
fn rank(guardians: &[(PopId, Epoch)], core: &Core) -> u32 {
    let place = guardians.iter().position(|(id, _)| *id == core.config.id).unwrap_or_default();
    u32::try_from(place + 1).map_or(JUMPS_MAX, |rank| rank.min(JUMPS_MAX))
}

/// Above what so many other POPs may have sent in this dialog.
pub(super) fn jump(dialog: &mut Dialog, times: u32) {
    dialog.local_cseq = dialog.local_cseq.saturating_add(times * CSEQ_JUMP).min(CSEQ_MAX);
}

/// How a leg came over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrived {
    pub(crate) name: Name,
    pub(crate) from: PopId,
    pub(crate) asked: bool,
    /// Of the peer's answer; 200: it is here.
    pub(crate) status: u16,
    /// Since the half was taken over.
    pub(crate) took: Duration,
    /// Who would have taken it after this POP.
    pub(crate) guardians: Vec<(PopId, Epoch)>,
}

/// Who a half is taken from, and how.
#[derive(Debug)]
pub(crate) struct Taking {
    pub(crate) key: CallKey,
    pub(crate) leg: proto::id::LegId,
    pub(crate) from: PopId,
    /// When the peer is called over.
    pub(crate) at: Instant,
    /// Its POP asked for it.
    pub(crate) asked: bool,
}

impl Call {
    /// The half of a capsule, at this POP; `None` if there is no port, no trunk or no SIP address
    /// of ours for it.
    pub(crate) fn adopt(kept: Kept, taking: Taking, core: &mut Core, now: Instant) -> Option<Self> {
        let Taking { key, leg, from, at, asked } = taking;
        let local = core.local_sip(kept.transport, kept.remote.ip())?;
        let (transport, remote) = (kept.transport, kept.remote);
        let flow = Flow { transport, local, remote, connection: 0 };
        let (call_id, tag) = (kept.dialog.call_id.clone(), kept.dialog.local.tag());
        let opening = Opening { id: leg, trunk: kept.trunk.clone(), flow, call_id, tag };
        let mut leg = Leg::open(key, opening, core, now)?;
        let rank = rank(&kept.guardians, core);
        leg.resume(kept.carried, kept.described);
        leg.skip_versions(rank);
        let mut dialog = kept.dialog;
        dialog.contact = Leg::contact(&flow);
        jump(&mut dialog, rank);
        // A connection that the peer opened ended at the POP before (RFC 3261 §18.4).
        leg.reconnect(&dialog, core, now);
        let Name { call_id, side } = kept.name;
        let begun = Begun { key, call_id, side, link: None, peer_leg: None };
        let mut record = kept.record;
        record.moved_from = Some(from.clone());
        let mut half = Half::new(begun, leg, record, core);
        half.far = Some(kept.far);
        let timer = (kept.terms, kept.min_se_s, kept.updates);
        let liveness = Liveness::resume(timer, &half, core, now);
        let moving = Move {
            from,
            opened: false,
            at: Some(at),
            since: now,
            tries: 0,
            wide: false,
            direction: kept.direction,
            asked,
            guardians: kept.guardians,
        };
        let session = Session {
            dialog,
            wish: kept.wish,
            exchange: Exchange::Idle,
            liveness,
            infos: Infos::default(),
            moving: Some(Box::new(moving)),
            orphaned: None,
        };
        Some(Self { half, state: State::Talking(Box::new(session)) })
    }

    /// Its other half is out of reach.
    pub(crate) fn is_orphan(&self) -> bool {
        matches!(&self.state, State::Talking(session) if session.orphaned.is_some())
    }

    /// The POP that asked for it is lost.
    pub(crate) fn keep_asked(&mut self) {
        if let State::Talking(session) = &mut self.state
            && let Some(moving) = &mut session.moving
        {
            moving.asked = false;
        }
    }

    /// It was taken over from a POP that is lost, and others would have done it but for `own`: if that
    /// one is lost, too, they do.
    pub(crate) fn is_others(&self, own: &PopId) -> bool {
        let State::Talking(session) = &self.state else { return false };
        let moving = session.moving.as_ref().filter(|moving| !moving.asked);
        moving.is_some_and(|moving| moving.guardians.iter().any(|(id, _)| id != own))
    }

    /// Its peer is still to be called over.
    pub(crate) fn is_moving(&self) -> bool {
        matches!(&self.state, State::Talking(session) if session.moving.is_some())
    }

    /// Joins the halves of a call that are both here now. What was asked over the lost link is
    /// answered by no one: the peer that asked asks again.
    pub(crate) fn pair(
        &mut self,
        other: (CallKey, proto::id::LegId),
        core: &mut Core,
        now: Instant,
    ) {
        let State::Talking(session) = &mut self.state else { return };
        session.orphaned = None;
        session.exchange.forget_far(core, now);
        // Its POP may live: the half there is not its own any more.
        self.half.part(Kind::Moved(CallMoved {}), core);
        self.half.recount(core, |half| {
            half.link = Some(Link::Local(other.0));
            half.peer_leg = Some(other.1);
            // Of one that came here, too, its own POP before is told.
            half.record.other_from = half.record.peer.take();
        });
        if let Some(far) = self.half.far
            && self.half.leg.agreed.is_some()
        {
            self.half.connect(far, core);
        }
    }
}

impl Session {
    /// Is the peer still to be called over?
    pub(super) fn moving_at(&self) -> Option<Instant> {
        self.moving.as_ref().filter(|moving| moving.opened).and_then(|moving| moving.at)
    }

    /// The peer may believe the leg to be at a POP that did not keep it: it is called back.
    pub(super) fn call_back(&mut self, half: &mut Half, core: &Core, now: Instant) {
        // That one jumped, perhaps twice.
        half.leg.skip_versions(JUMPS_MAX);
        jump(&mut self.dialog, JUMPS_MAX);
        let direction = half.leg.remote.as_ref().map(|remote| remote.direction);
        self.moving = Some(Box::new(Move {
            from: core.config.id.clone(),
            opened: true,
            at: Some(now),
            since: now,
            tries: 0,
            wide: false,
            direction: direction.unwrap_or_default(),
            asked: false,
            guardians: Vec::new(),
        }));
    }

    /// The media port is ours, or another program's.
    pub(super) fn port_opened(
        mut self: Box<Self>,
        is_ours: bool,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let moving = self.moving.as_mut().filter(|moving| !moving.opened);
        match (is_ours, moving) {
            (true, Some(moving)) => {
                moving.opened = true;
                match moving.at {
                    Some(at) if at <= now => self.call_over(half, core, now),
                    _ => State::Talking(self),
                }
            }
            (false, Some(_)) if half.leg.open_another(core, now) => State::Talking(self),
            (false, Some(_)) => self.lost(EndCause::NoMedia, 503, half, core, now),
            (true, None) => State::Talking(self),
            // The peer was told the port already.
            (false, None) => self.end(EndCause::NoMedia, 503, half, core, now),
        }
    }

    /// The time has come to call the peer over.
    pub(super) fn call_over(
        mut self: Box<Self>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Some(moving) = &mut self.moving else { return State::Talking(self) };
        if moving.since + LIMIT <= now || moving.tries >= TRIES_MAX {
            return self.lost(EndCause::NotMoved, 408, half, core, now);
        }
        if !matches!(self.exchange, Exchange::Idle) {
            moving.at = Some(now + RETRY);
            return State::Talking(self);
        }
        moving.at = None;
        moving.tries += 1;
        let body = match moving.wide {
            true => Some(half.leg.offer(full_offer(half, self.wish))),
            false => half.leg.offer_again(),
        };
        let Some(body) = body else { return self.lost(EndCause::NoMedia, 488, half, core, now) };
        let mut request = self.dialog.request(Method::Invite);
        request.headers.push(HeaderName::Allow, super::ALLOW);
        self.liveness.put(&mut request.headers);
        request.set_body(SDP, body);
        self.invite(Draft::of_move(request), half, core, now);
        if matches!(self.exchange, Exchange::Idle) {
            // No room for a transaction now.
            self.call_over_later(now + RETRY);
        }
        State::Talking(self)
    }

    pub(super) fn call_over_later(&mut self, at: Instant) {
        if let Some(moving) = &mut self.moving {
            moving.at = Some(at);
        }
    }

    /// The peer did not take the re-INVITE that calls it over.
    pub(super) fn not_called_over(
        mut self: Box<Self>,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let status = response.status;
        let retry = response
            .headers
            .retry_after()
            .map(|after| Duration::from_secs(after.into()).min(RETRY_MAX));
        let at = match status {
            491 => now + glare(half, core, now),
            500 => {
                jump(&mut self.dialog, 1);
                now + retry.unwrap_or(RETRY)
            }
            480 | 486 | 502..=504 | 600 => now + retry.unwrap_or(RETRY * 2),
            415 | 488 | 606 if self.moving.as_ref().is_some_and(|moving| !moving.wide) => now,
            415 | 488 | 606 => return self.lost(EndCause::NoMedia, status, half, core, now),
            401 | 407 => return self.lost(EndCause::NotMoved, status, half, core, now),
            // The dialog is gone at the peer (RFC 3261 §12.2.1.2).
            408 | 481 => return self.lost(EndCause::DialogLost, status, half, core, now),
            _ => match retry {
                Some(after) => now + after,
                None => return self.lost(EndCause::NotMoved, status, half, core, now),
            },
        };
        if let Some(moving) = &mut self.moving {
            moving.at = Some(at);
            moving.wide |= matches!(status, 415 | 488 | 606);
        }
        State::Talking(self)
    }

    /// No answer to the re-INVITE that calls the peer over will come.
    pub(super) fn call_over_failed(
        mut self: Box<Self>,
        reason: FailReason,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if reason != FailReason::Transport {
            return self.lost(EndCause::PeerVanished, 408, half, core, now);
        }
        half.leg.reconnect(&self.dialog, core, now);
        self.call_over_later(now + RETRY);
        State::Talking(self)
    }

    /// The peer is here; what it said it would do at the POP before.
    pub(super) fn arrived(
        &mut self,
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) -> Option<Direction> {
        let moving = self.moving.take()?;
        core.arrivals.push(moving.arrived(200, half, now));
        Some(moving.direction)
    }

    /// The call is over while the peer was called over: the POP that has the half yet need not keep it,
    /// and those that would have taken it, too, must not.
    pub(super) fn over_here(&mut self, status: u16, half: &Half, core: &mut Core, now: Instant) {
        if let Some(moving) = self.moving.take_if(|moving| moving.from != core.config.id) {
            core.arrivals.push(moving.arrived(status, half, now));
        }
    }

    /// The peer is not to be had. A POP that still has it keeps it; else the call is over.
    fn lost(
        mut self: Box<Self>,
        cause: EndCause,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Some(moving) = self.moving.take() else {
            return self.end(cause, status, half, core, now);
        };
        if moving.from == core.config.id && !matches!(status, 408 | 481) {
            // Only called back: what it refuses changes nothing (RFC 3261 §14.1).
            return State::Talking(self);
        }
        core.arrivals.push(moving.arrived(status, half, now));
        if !moving.asked {
            return self.end(cause, status, half, core, now);
        }
        self.leave(half, core, now)
    }

    /// Ends the call, or, if this POP was only asked to take the half, gives it back.
    pub(super) fn end_here(
        self: Box<Self>,
        cause: EndCause,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if self.moving.as_ref().is_some_and(|moving| moving.asked) {
            return self.lost(cause, status, half, core, now);
        }
        self.end(cause, status, half, core, now)
    }

    /// The half goes on elsewhere: nobody is told, and no record written.
    pub(super) fn leave(
        mut self: Box<Self>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        self.exchange.refuse_pending(core, now);
        half.leave(core, now);
        State::Over
    }
}

impl Move {
    fn arrived(&self, status: u16, half: &Half, now: Instant) -> Arrived {
        let (name, from) = (Name::of(half), self.from.clone());
        let guardians = self.guardians.clone();
        Arrived { name, from, asked: self.asked, status, took: now.since(self.since), guardians }
    }
}

/// How long after 491 (RFC 3261 §14.1): longer for whoever chose the Call-ID, which is the side that
/// called.
fn glare(half: &Half, core: &Core, now: Instant) -> Duration {
    let spread = |range| core.spread(half.key, now, Duration::from_millis(range));
    match half.side {
        Side::Egress => Duration::from_millis(2_100) + spread(1_900),
        Side::Ingress => spread(2_000),
    }
}

/// Ends a half that cannot go on, here or anywhere: BYE to its peer, and its record.
pub(crate) fn farewell(kept: Kept, from: PopId, cause: EndCause, core: &mut Core, now: Instant) {
    let (transport, remote) = (kept.transport, kept.remote);
    let mut dialog = kept.dialog;
    jump(&mut dialog, rank(&kept.guardians, core));
    if let Some(local) = core.local_sip(transport, remote.ip()) {
        let mut bye = dialog.request(Method::Bye);
        bye.headers.push(HeaderName::Reason, super::reason(503, cause.name()));
        let next = dialog.next_hop().socket_addr();
        let flow = Flow { transport, local, remote: next.unwrap_or(remote), connection: 0 };
        // Without room for a transaction the peer's session timer has to do it.
        let _ = core.endpoint.request(bye, flow, now);
    }
    let Kept { name, record, far, codec, peer, .. } = kept;
    let mut cdr = record.close(core.config.id.clone(), name.call_id, (cause, 200), now);
    (cdr.moved_from, cdr.peer) = (Some(from), peer);
    (cdr.role, cdr.codec_in, cdr.codec_out) = match (name.side, &cdr.peer) {
        // The record of a call of one POP is that of where it came in.
        (Side::Egress, None) => return,
        (Side::Egress, Some(_)) => (CdrRole::Egress, Some(far.codec), Some(codec)),
        (Side::Ingress, Some(_)) => (CdrRole::Ingress, Some(codec), Some(far.codec)),
        (Side::Ingress, None) => (CdrRole::Local, Some(codec), Some(far.codec)),
    };
    core.records.add(cdr, BTreeMap::new(), now);
}
