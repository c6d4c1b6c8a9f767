//! The half where the call came in, until it is answered: hunts through the candidates.
//!
//! A candidate must give a first sign of life within `first_response`; all together have until
//! `ring_limit` (as Timer C, RFC 3261 §16.6). Failures that another trunk might not have (3xx, 401,
//! 407, 408, 5xx, a broken stream) lead to the next candidate, any other is the caller's answer. A
//! POP whose link is down is passed over; if there is no other way, the link gets `link_wait` to
//! come, once.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::call::call_message::Kind;
use proto::call::{CallAnswer, CallCancel, CallProgress, CallReject, CallSetup, Media};
use proto::id::PopId;
use proto::time::Instant;

use super::info::Infos;
use super::leg::{FarMedia, SDP};
use super::liveness::Liveness;
use super::reinvite::{Exchange, answer_description, full_offer};
use super::reliable::{Held, Reliable};
use super::session::Session;
use super::timer::{self, Terms, Wish};
use super::{
    Begin, EndCause, Half, Input, Link, State, info, is_of, media, other_request, plain, status,
};
use crate::codec::Codec;
use crate::media::Lane;
use crate::pop::core::{Core, Mail};
use crate::pop::index::Handle;
use crate::pop::{LinkState, Refusal};
use crate::route::Candidate;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::RemoteMedia;
use crate::sip::{Dialog, HeaderName, Method, Request, Response, ServerTx};

/// An offer that a request carries.
#[derive(Debug)]
pub(crate) struct Offer {
    pub(crate) description: SessionDescription,
    pub(crate) remote: RemoteMedia,
}

impl Offer {
    /// The offer of a request, `encrypted` if it must be; `Ok(None)` if it has no body, `Err(status)` if that is of no use.
    pub(crate) fn of(
        request: &Request,
        allowed: &[Codec],
        encrypted: bool,
    ) -> Result<Option<Self>, u16> {
        if request.body.is_empty() {
            return Ok(None);
        }
        let kind = request.headers.content_type().unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim();
        if !kind.eq_ignore_ascii_case(SDP) {
            return Err(415);
        }
        let description = SessionDescription::parse(&request.body).map_err(|_| 400_u16)?;
        let remote = RemoteMedia::from_offer(&description, encrypted).map_err(|_| 488_u16)?;
        let usable = remote.codecs.iter().any(|n| allowed.contains(&n.codec));
        if usable { Ok(Some(Self { description, remote })) } else { Err(488) }
    }
}

#[derive(Debug)]
pub(crate) struct Hunt {
    pub(crate) tx: ServerTx,
    pub(crate) request: Request,
    pub(crate) dialog: Dialog,
    pub(crate) offer: Option<Offer>,
    pub(crate) setup: CallSetup,
    pub(crate) candidates: VecDeque<Candidate>,
    /// Candidates passed over because the link to their POP is down.
    pub(crate) linkless: Vec<Candidate>,
    /// The first of those links must be up until then.
    pub(crate) link_limit: Option<Instant>,
    /// Nothing is under way but that.
    pub(crate) waiting: bool,
    pub(crate) ring_limit: Instant,
    /// Until a first sign of life of the candidate.
    pub(crate) silence_limit: Option<Instant>,
    /// The answer sent in a 18x; the 2xx must say the same (RFC 3261 §13.2.1).
    pub(crate) early: Option<Bytes>,
    /// For a caller that wants its provisional responses acknowledged.
    pub(crate) reliable: Option<Reliable>,
    /// What the caller is told if no candidate is left.
    pub(crate) failure: u16,
}

/// Another trunk might not have this failure.
fn leads_on(status: u16) -> bool {
    matches!(status, 300..=399 | 401 | 407 | 408 | 500..=599)
}

/// What the caller is told of a candidate's failure: nothing that asks it to act towards a trunk it
/// does not know.
fn for_caller(status: u16) -> u16 {
    match status {
        300..=399 => 480,
        401 | 407 => 500,
        other => other,
    }
}

impl Hunt {
    pub(super) fn deadline(&self) -> Option<Instant> {
        let limit = if self.waiting { self.link_limit } else { self.silence_limit };
        proto::time::earlier(Some(self.ring_limit), limit)
    }

    pub(super) fn start(self: Box<Self>, half: &mut Half, core: &mut Core, now: Instant) -> State {
        core.counters.calls_in += 1;
        self.next(half, core, now)
    }

    /// Tries the next candidate, or tells the caller that there is none.
    fn next(mut self: Box<Self>, half: &mut Half, core: &mut Core, now: Instant) -> State {
        half.leg.disconnect(core);
        half.far = None;
        half.peer_leg = None;
        if let Some(reliable) = &mut self.reliable {
            reliable.forget_held();
        }
        if let Some(Candidate { pop, trunk }) = self.choose(half, core) {
            half.record.attempts += 1;
            half.record.trunk_out = Some(trunk.clone());
            half.receive = core.new_stream_id();
            let mut setup = self.setup.clone();
            setup.trunk_id = trunk.as_str().to_owned();
            setup.media = Some(self.media(half));
            if pop == core.config.id {
                half.record.peer = None;
                self.begin_here(setup, half, core);
            } else {
                half.record.peer = Some(pop.clone());
                let link = core.open_stream(half.key, pop);
                core.send(&link, Kind::Setup(setup));
                half.link = Some(link);
            }
            self.silence_limit = Some(now + core.config.timing.first_response);
            return State::Hunting(self);
        }
        let limit = *self.link_limit.get_or_insert(now + core.config.timing.link_wait);
        if self.linkless.is_empty() || limit <= now {
            let failure = self.failure;
            return self.refuse(EndCause::Rejected, failure, half, core, now);
        }
        self.waiting = true;
        for Candidate { pop, .. } in &self.linkless {
            core.index.add(Handle::Awaited(pop.clone(), half.key), half.key);
        }
        State::Hunting(self)
    }

    /// The next candidate that can be reached; others are kept for when there is none.
    fn choose(&mut self, half: &Half, core: &mut Core) -> Option<Candidate> {
        if std::mem::replace(&mut self.waiting, false) {
            for Candidate { pop, .. } in &self.linkless {
                core.index.remove(&Handle::Awaited(pop.clone(), half.key));
            }
        }
        // What this POP sees itself counts; what the control plane says of a POP only where no
        // link was ever up or down.
        let expired = |pop: &PopId| core.view.pop(pop).is_some_and(|known| known.expired);
        let lost = |pop: &PopId| core.view.pop(pop).is_some_and(|known| known.fenced);
        let is_down = |c: &Candidate| match core.links.get(&c.pop) {
            // Its link may not be found dead yet.
            _ if lost(&c.pop) && c.pop != core.config.id => true,
            Some(LinkState::Down) => true,
            Some(LinkState::Up) => false,
            None => c.pop != core.config.id && expired(&c.pop),
        };
        while let Some(candidate) = self.candidates.pop_front() {
            if !is_down(&candidate) {
                return Some(candidate);
            }
            self.failure = 503;
            self.linkless.push(candidate);
        }
        let at = self.linkless.iter().position(|candidate| !is_down(candidate))?;
        Some(self.linkless.remove(at))
    }

    fn begin_here(&self, setup: CallSetup, half: &mut Half, core: &mut Core) {
        let (key, leg) = (core.new_key(), core.new_leg(Lane::of(half.leg.id)));
        let begin = Begin {
            key,
            back: Link::Local(half.key),
            leg,
            peer_leg: Some(half.leg.id),
            call_id: half.call_id,
            setup,
        };
        core.mail.push_back(Mail::Begin(Box::new(begin)));
        half.peer_leg = Some(leg);
        half.link = Some(Link::Local(key));
    }

    /// What the caller offers; without an offer, all the trunk may use.
    fn media(&self, half: &Half) -> Media {
        let allowed = half.leg.treatment.order(half.leg.allowed.clone());
        match &self.offer {
            Some(offer) => half.leg.to_far(&offer.remote, half.receive),
            None => Media {
                codecs: allowed.into_iter().map(media::to_proto).collect(),
                telephone_event: true,
                ptime_ms: media::PTIME_MS,
                stream: half.receive.0,
                ..Media::default()
            },
        }
    }

    pub(super) fn handle(
        mut self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match input {
            Input::Cancelled { tx } if tx == self.tx => {
                self.cancel_far(half, core);
                self.refuse(EndCause::CallerCancelled, 487, half, core, now)
            }
            Input::Request { tx, request, .. } => self.request(tx, &request, half, core, now),
            Input::Far(Kind::Progress(progress)) => {
                self.progress(&progress, half, core, now);
                State::Hunting(self)
            }
            Input::Far(Kind::Answer(answer)) => self.answered(&answer, half, core, now),
            Input::Far(Kind::Reject(reject)) => self.rejected(&reject, half, core, now),
            Input::Far(Kind::Bye(bye)) => {
                half.drop_link(core);
                if self.reliable.as_ref().is_some_and(Reliable::holds_answer) {
                    // Hung up before the caller heard that it was answered.
                    return self.refuse(half.far_ended(&bye), 480, half, core, now);
                }
                self.failed(status(bye.status, 503), half, core, now)
            }
            Input::FarLost => {
                half.drop_link(core);
                self.failed(503, half, core, now)
            }
            Input::Far(_) => {
                core.counters.refuse(Refusal::BadPeerMessage);
                self.cancel_far(half, core);
                self.failed(502, half, core, now)
            }
            Input::Shutdown => {
                self.cancel_far(half, core);
                self.refuse(EndCause::Shutdown, 503, half, core, now)
            }
            Input::Timeout => self.timeout(half, core, now),
            Input::LinkUp if self.waiting => self.next(half, core, now),
            Input::PortTaken if self.early.is_none() => {
                if half.leg.open_another(core, now) {
                    return State::Hunting(self);
                }
                core.counters.refuse(Refusal::NoPort);
                self.cancel_far(half, core);
                self.refuse(EndCause::Overload, 503, half, core, now)
            }
            Input::PrackMissing { tx } if tx == self.tx => {
                self.cancel_far(half, core);
                self.refuse(EndCause::PeerVanished, 504, half, core, now)
            }
            Input::Ack { .. }
            | Input::AckMissing { .. }
            | Input::Cancelled { .. }
            | Input::Failed { .. }
            | Input::Kept
            | Input::LinkUp
            | Input::Moved
            | Input::Opened
            | Input::PortTaken
            | Input::PrackMissing { .. }
            | Input::Resolved(_)
            | Input::Response { .. }
            | Input::Silent => State::Hunting(self),
        }
    }

    fn timeout(self: Box<Self>, half: &mut Half, core: &mut Core, now: Instant) -> State {
        if self.ring_limit <= now {
            self.cancel_far(half, core);
            return self.refuse(EndCause::RingTimeout, 408, half, core, now);
        }
        if self.waiting {
            return match self.link_limit {
                Some(limit) if limit > now => State::Hunting(self),
                _ => self.next(half, core, now),
            };
        }
        if self.silence_limit.is_some_and(|limit| limit <= now) {
            self.cancel_far(half, core);
            return self.failed(408, half, core, now);
        }
        State::Hunting(self)
    }

    fn cancel_far(&self, half: &mut Half, core: &mut Core) {
        half.part(Kind::Cancel(CallCancel {}), core);
    }

    /// A request of the caller before the answer. BYE in an early dialog ends the call as CANCEL
    /// does (RFC 3261 §15).
    fn request(
        mut self: Box<Self>,
        tx: ServerTx,
        request: &Request,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match request.method {
            _ if !is_of(&self.dialog, request) => {
                core.respond(tx, plain(request, 481), now);
                State::Hunting(self)
            }
            Method::Bye => {
                core.respond(tx, plain(request, 200), now);
                self.cancel_far(half, core);
                self.refuse(EndCause::CallerCancelled, 487, half, core, now)
            }
            Method::Invite => {
                // RFC 3261 §14.2: the first INVITE has no final response yet.
                let mut response = plain(request, 500);
                response.headers.push(HeaderName::RetryAfter, 2);
                core.respond(tx, response, now);
                State::Hunting(self)
            }
            // RFC 3262 §3: also before the answer the numbers must grow.
            _ if self.dialog.accept_request(request).is_err() => {
                core.respond(tx, plain(request, 500), now);
                State::Hunting(self)
            }
            Method::Prack => self.pracked(tx, request, half, core, now),
            _ => {
                core.respond(tx, self.early_request(request), now);
                State::Hunting(self)
            }
        }
    }

    /// UPDATE or INFO before the answer: a new offer or a key must wait for it (RFC 3311 §5.2).
    fn early_request(&self, request: &Request) -> Response {
        match request.method {
            Method::Update if request.body.is_empty() => self.dialog.respond(request, 200),
            Method::Update if self.early.is_some() => plain(request, 488),
            Method::Update => plain(request, 491),
            Method::Info => match info::take(request) {
                (_, Some(_)) => plain(request, 491),
                (response, None) => response,
            },
            _ => other_request(request),
        }
    }

    fn pracked(
        mut self: Box<Self>,
        tx: ServerTx,
        prack: &Request,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let invite = (self.tx, &self.request);
        let held = self.reliable.as_mut().and_then(|r| r.acknowledged(invite, prack, core));
        let Some(held) = held else {
            core.respond(tx, plain(prack, 481), now);
            return State::Hunting(self);
        };
        // A new offer must wait for the answer.
        let status = if prack.body.is_empty() { 200 } else { 488 };
        core.respond(tx, self.dialog.respond(prack, status), now);
        match held {
            Some(Held::Answer(answer)) => self.answered(&answer, half, core, now),
            Some(Held::Progress(progress)) => {
                self.progress(&progress, half, core, now);
                State::Hunting(self)
            }
            None => State::Hunting(self),
        }
    }

    fn progress(
        &mut self,
        progress: &CallProgress,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        self.silence_limit = None;
        let status = match progress.status {
            180 => 180,
            181..=199 => 183,
            // 100: the other POP has the call; the caller knows that of us.
            _ => return,
        };
        half.record.ringing.get_or_insert(now);
        if let Some(reliable) = self.reliable.as_mut().filter(|reliable| reliable.is_waiting()) {
            return reliable.hold(Held::Progress(progress.clone()));
        }
        if self.reliable.is_some() && self.offer.is_none() {
            // It would have to carry our offer (RFC 3262 §5): ringing is not worth that.
            return;
        }
        let far = progress.media.as_ref().and_then(|media| FarMedia::of(media, None));
        let mut response = self.dialog.respond(&self.request, status);
        if let (Some(far), Some(media)) = (far, &progress.media) {
            if let Some(body) = self.answer(far, media, half, core) {
                response.set_body(SDP, body);
            }
            half.connect(far, core);
        }
        response.headers.push(HeaderName::Allow, super::ALLOW);
        match &mut self.reliable {
            Some(reliable) => reliable.send(self.tx, response, core, now),
            None => core.respond(self.tx, response, now),
        }
    }

    /// Our answer to the caller's offer; the same each time. `None` if the caller made no offer.
    fn answer(
        &mut self,
        far: FarMedia,
        media: &Media,
        half: &mut Half,
        core: &mut Core,
    ) -> Option<Bytes> {
        if self.early.is_none() {
            let Offer { description, remote } = self.offer.as_ref()?;
            let what = answer_description(remote, &half.leg, far, media);
            self.early = Some(half.leg.answer(description, remote.clone(), what, core));
        }
        self.early.clone()
    }

    fn answered(
        mut self: Box<Self>,
        answer: &CallAnswer,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if let Some(reliable) = self.reliable.as_mut().filter(|reliable| reliable.is_waiting()) {
            self.silence_limit = None;
            reliable.hold(Held::Answer(answer.clone()));
            return State::Hunting(self);
        }
        let media = answer.media.clone().unwrap_or_default();
        let Some(far) = FarMedia::of(&media, None) else {
            core.counters.refuse(Refusal::BadPeerMessage);
            half.part_with_bye(502, "answer without media", core);
            return self.failed(502, half, core, now);
        };
        core.counters.calls_answered += 1;
        half.record.answered = Some(now);
        let answered = self.answer(far, &media, half, core);
        half.connect(far, core);
        let offered = answered.is_none();
        let body = match answered {
            Some(body) => body,
            None => half.leg.offer(full_offer(half, media::direction(&media))),
        };
        let timing = core.config.timing;
        // A wish too short was refused at admission.
        let agreed = timer::answer(&self.request.headers, &timing).unwrap_or_default();
        let mut response = self.dialog.respond(&self.request, 200);
        response.headers.push(HeaderName::Allow, super::ALLOW);
        timer::put_answer(agreed, &mut response.headers);
        response.set_body(SDP, body);
        core.respond(self.tx, response, now);
        self.dialog.confirm();
        let exchange = Exchange::AwaitingAck { tx: self.tx, first: true, offered };
        let (terms, peer) = (agreed.map(Terms::as_server), &self.request.headers);
        let liveness = Liveness::new(terms, Wish::new(&timing), peer, half, core, now);
        let infos = Infos::default();
        // An answer only mirrors what the caller wanted: the far party's own wish is not known.
        let wish = crate::media::Direction::SendRecv;
        let (dialog, moving, orphaned) = (self.dialog, None, None);
        let session = Session { dialog, wish, exchange, liveness, infos, moving, orphaned };
        State::Talking(Box::new(session))
    }

    fn rejected(
        self: Box<Self>,
        reject: &CallReject,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        half.drop_link(core);
        let status = status(reject.status, 500);
        if leads_on(status) {
            return self.failed(status, half, core, now);
        }
        self.refuse(EndCause::Rejected, status, half, core, now)
    }

    /// This candidate is lost; the link is closed already.
    fn failed(
        mut self: Box<Self>,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        core.counters.candidates_failed += 1;
        self.failure = for_caller(status);
        self.next(half, core, now)
    }

    /// The caller's final answer; the endpoint sees it acknowledged.
    fn refuse(
        self: Box<Self>,
        cause: EndCause,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let mut response: Response = self.dialog.respond(&self.request, status);
        if status == 503 && cause == EndCause::Shutdown {
            response.headers.push(HeaderName::RetryAfter, 10);
        }
        core.respond(self.tx, response, now);
        half.finish(cause, status, core, now);
        State::Over
    }
}
