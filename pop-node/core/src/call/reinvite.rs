//! Offer/answer exchanges within an answered call (RFC 3261 §14, RFC 3264 §8).
//!
//! A re-INVITE of the near peer becomes a `MediaUpdate` to the other half, which re-INVITEs its own
//! peer; the result comes back the same way. One exchange at a time: whatever meets a running one
//! gets 491 (glare, §14.1) or, while an INVITE of the same peer is unanswered, 500 with Retry-After
//! (§14.2). An offer that changes neither codecs nor direction is answered here.

use proto::call::call_message::Kind;
use proto::call::{Media, MediaUpdate, MediaUpdateAnswer, MediaUpdateReject};
use proto::time::Instant;

use super::leg::{FarMedia, SDP};
use super::session::Session;
use super::{EndCause, Half, Offer, Side, State, media, plain};
use crate::media::Direction;
use crate::pop::Refusal;
use crate::pop::core::Core;
use crate::pop::index::Handle;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::{Description, RemoteMedia, both, reversed};
use crate::sip::{ClientTx, HeaderName, Method, Request, Response, ServerTx};

/// The one exchange that may run.
#[derive(Debug)]
pub(crate) enum Exchange {
    Idle,
    /// We sent a 2xx; the ACK is due, with an answer if the 2xx `offered`.
    AwaitingAck {
        tx: ServerTx,
        first: bool,
        offered: bool,
    },
    /// The other half was told; its answer is due.
    AwaitingFar {
        then: Then,
        deadline: Instant,
    },
    /// We sent a re-INVITE for the other half's update.
    Inviting {
        invite: Box<Invite>,
        deadline: Instant,
    },
}

/// What to do with the other half's answer.
#[derive(Debug)]
pub(crate) enum Then {
    /// Answer the near peer's INVITE.
    Answer(Box<Pending>),
    /// Nothing but media: the near peer has its answer.
    Settle,
    /// The near peer cancelled its INVITE: take the update back.
    Undo,
}

/// An INVITE of the near peer.
#[derive(Debug, Clone)]
struct Asked {
    tx: ServerTx,
    request: Request,
}

#[derive(Debug)]
pub(crate) struct Pending {
    asked: Asked,
    offer: SessionDescription,
    remote: RemoteMedia,
}

/// An INVITE of ours, and the update it is for.
#[derive(Debug)]
struct Draft {
    request: Request,
    media: Media,
    challenged: bool,
}

#[derive(Debug)]
pub(crate) struct Invite {
    tx: ClientTx,
    draft: Draft,
}

impl Exchange {
    pub(super) fn deadline(&self) -> Option<Instant> {
        match self {
            Self::Idle | Self::AwaitingAck { .. } => None,
            Self::AwaitingFar { deadline, .. } | Self::Inviting { deadline, .. } => Some(*deadline),
        }
    }

    pub(super) fn unacknowledged(&self) -> Option<ServerTx> {
        match self {
            Self::AwaitingAck { tx, .. } => Some(*tx),
            Self::Idle | Self::AwaitingFar { .. } | Self::Inviting { .. } => None,
        }
    }

    pub(super) fn first_unacknowledged(&self) -> Option<ServerTx> {
        match self {
            Self::AwaitingAck { tx, first: true, .. } => Some(*tx),
            Self::AwaitingAck { .. }
            | Self::Idle
            | Self::AwaitingFar { .. }
            | Self::Inviting { .. } => None,
        }
    }

    /// A dialog that ends answers what is pending in it (RFC 3261 §15.1.2), and takes back what
    /// it asked.
    pub(super) fn refuse_pending(&mut self, core: &mut Core, now: Instant) {
        match self {
            Self::AwaitingFar { then: Then::Answer(pending), .. } => {
                core.respond(pending.asked.tx, plain(&pending.asked.request, 487), now);
            }
            // A peer that rang but never answers would keep the transaction forever.
            Self::Inviting { invite, .. } => core.abandon(invite.tx, now),
            Self::Idle | Self::AwaitingAck { .. } | Self::AwaitingFar { .. } => {}
        }
        if !matches!(self, Self::AwaitingAck { .. }) {
            *self = Self::Idle;
        }
    }
}

// ---------------------------------------------------------------- the near peer asks

impl Session {
    /// A re-INVITE of the near peer.
    pub(super) fn invited(
        mut self: Box<Self>,
        tx: ServerTx,
        request: &Request,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let refusal = match &self.exchange {
            Exchange::Idle => None,
            Exchange::AwaitingFar { then: Then::Answer(_), .. } => {
                let wait = u32::try_from(core.random() % 11).unwrap_or(0);
                let mut response = plain(request, 500);
                response.headers.push(HeaderName::RetryAfter, wait);
                Some(response)
            }
            Exchange::AwaitingAck { .. }
            | Exchange::AwaitingFar { .. }
            | Exchange::Inviting { .. } => {
                core.counters.glare += 1;
                Some(plain(request, 491))
            }
        };
        let refusal = refusal.or_else(|| {
            let in_order = self.dialog.accept_request(request).is_ok();
            (!in_order).then(|| plain(request, 500))
        });
        if let Some(response) = refusal {
            core.respond(tx, response, now);
            return State::Talking(self);
        }
        core.index.add(Handle::Server(tx), half.key);
        let asked = Asked { tx, request: request.clone() };
        match Offer::of(request, &half.leg.allowed) {
            Err(status) => {
                core.counters.refuse(Refusal::BadOffer);
                refuse(&asked, status, core, now);
            }
            Ok(None) => {
                // We offer what the far party wants, and all our codecs (RFC 3261 §14.2). The
                // answer comes in the ACK.
                let body = half.leg.offer(full_offer(half, self.wish));
                self.accept(&asked, body, true, core, now);
            }
            Ok(Some(offer)) => self.offered(asked, offer, half, core, now),
        }
        State::Talking(self)
    }

    fn offered(
        &mut self,
        asked: Asked,
        Offer { description, remote }: Offer,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        let kinds =
            |remote: &RemoteMedia| remote.codecs.iter().map(|n| n.codec).collect::<Vec<_>>();
        let changes =
            half.leg.remote.as_ref().is_none_or(|old| {
                old.direction != remote.direction || kinds(old) != kinds(&remote)
            });
        if !changes && let Some(body) = half.leg.answer_again(&description, remote.clone(), core) {
            return self.accept(&asked, body, false, core, now);
        }
        let media = media::to_far(&remote, &half.leg.allowed, half.receive);
        let pending = Pending { asked, offer: description, remote };
        self.tell(media, Then::Answer(Box::new(pending)), half, core, now);
    }

    fn tell(&mut self, media: Media, then: Then, half: &Half, core: &mut Core, now: Instant) {
        half.tell(Kind::Update(MediaUpdate { media: Some(media) }), core);
        let deadline = now + core.config.timing.update_limit;
        self.exchange = Exchange::AwaitingFar { then, deadline };
    }

    fn accept(
        &mut self,
        asked: &Asked,
        body: bytes::Bytes,
        offered: bool,
        core: &mut Core,
        now: Instant,
    ) {
        let mut response = self.dialog.respond(&asked.request, 200);
        response.set_body(SDP, body);
        core.respond(asked.tx, response, now);
        self.exchange = Exchange::AwaitingAck { tx: asked.tx, first: false, offered };
    }

    /// The other half answered an update of ours.
    pub(super) fn updated(
        &mut self,
        answer: &Media,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        let then = match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingFar { then, .. } => then,
            other => {
                self.exchange = other;
                return;
            }
        };
        let Some(far) = FarMedia::of(answer, None) else {
            core.counters.refuse(Refusal::BadPeerMessage);
            return self.give_up(then, 500, core, now);
        };
        match then {
            Then::Settle => half.connect(far, core),
            Then::Undo => {
                half.connect(far, core);
                if let Some(remote) = &half.leg.remote {
                    let media = media::to_far(remote, &half.leg.allowed, half.receive);
                    self.tell(media, Then::Settle, half, core, now);
                }
            }
            Then::Answer(pending) => {
                let Pending { asked, offer, remote } = *pending;
                let what = answer_description(&remote, &half.leg.allowed, far, answer);
                let body = half.leg.answer(&offer, remote, what, core);
                half.connect(far, core);
                self.accept(&asked, body, false, core, now);
            }
        }
    }

    pub(super) fn update_rejected(&mut self, status: u16, core: &mut Core, now: Instant) {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingFar { then, .. } => self.give_up(then, status, core, now),
            other => self.exchange = other,
        }
    }

    fn give_up(&mut self, then: Then, status: u16, core: &mut Core, now: Instant) {
        if let Then::Answer(pending) = then {
            refuse(&pending.asked, status, core, now);
        }
    }

    /// The near peer cancelled its re-INVITE.
    pub(super) fn cancelled(&mut self, cancelled: ServerTx, core: &mut Core, now: Instant) {
        if let Exchange::AwaitingFar { then, .. } = &mut self.exchange
            && matches!(then, Then::Answer(pending) if pending.asked.tx == cancelled)
            && let Then::Answer(pending) = std::mem::replace(then, Then::Undo)
        {
            refuse(&pending.asked, 487, core, now);
        }
    }

    /// The near peer acknowledged our 2xx.
    pub(super) fn acknowledged(
        mut self: Box<Self>,
        acknowledged: ServerTx,
        ack: &Request,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let (first, offered) = match self.exchange {
            Exchange::AwaitingAck { tx, first, offered } if tx == acknowledged => (first, offered),
            _ => return State::Talking(self),
        };
        core.index.remove(&Handle::Server(acknowledged));
        self.exchange = Exchange::Idle;
        if !offered {
            return State::Talking(self);
        }
        let before = half.leg.remote.clone();
        match half.leg.accept_answer(&ack.body, core) {
            None if first => return self.end(EndCause::NoMedia, 488, half, core, now),
            // The session stays as it was before (RFC 3264 §8).
            None => {}
            Some(_) => {
                if let Some(far) = half.far {
                    half.connect(far, core);
                }
                self.tell_of_change(before.as_ref(), half, core, now);
            }
        }
        State::Talking(self)
    }

    /// After an answer in an ACK, the other half must know what it did not ask for.
    fn tell_of_change(
        &mut self,
        before: Option<&RemoteMedia>,
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) {
        let Some(remote) = &half.leg.remote else { return };
        let old = before.map_or(Direction::SendRecv, |before| before.direction);
        if old != remote.direction {
            let media = media::to_far(remote, &half.leg.allowed, half.receive);
            self.tell(media, Then::Settle, half, core, now);
        }
    }
}

// ---------------------------------------------------------------- the far half asks

impl Session {
    /// The other half's peer wants other media: re-INVITE ours.
    pub(super) fn update(&mut self, media: Media, half: &mut Half, core: &mut Core, now: Instant) {
        let codecs = media::codecs(&media);
        if codecs.is_empty() {
            core.counters.refuse(Refusal::BadPeerMessage);
            return reject_update(488, half, core);
        }
        if !matches!(self.exchange, Exchange::Idle) {
            core.counters.glare += 1;
            return reject_update(491, half, core);
        }
        self.wish = media::direction(&media);
        let body = half.leg.offer(Description {
            codecs: media::preferred(&codecs, &half.leg.allowed),
            telephone_event: media.telephone_event,
            direction: self.wish,
            ptime_ms: media::ptime_ms(&media),
        });
        let mut request = self.dialog.request(Method::Invite);
        request.set_body(SDP, body);
        self.invite(Draft { request, media, challenged: false }, half, core, now);
    }

    fn invite(&mut self, draft: Draft, half: &mut Half, core: &mut Core, now: Instant) {
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        let Some(tx) = core.request(half.key, draft.request.clone(), flow, now) else {
            self.exchange = Exchange::Idle;
            return reject_update(503, half, core);
        };
        // A little less than the other half waits, so that it hears our verdict.
        let deadline = now + core.config.timing.update_limit.mul_f32(0.9);
        let invite = Box::new(Invite { tx, draft });
        self.exchange = Exchange::Inviting { invite, deadline };
    }

    /// A response to our re-INVITE.
    pub(super) fn response(
        mut self: Box<Self>,
        tx: ClientTx,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let ours = matches!(&self.exchange, Exchange::Inviting { invite, .. } if invite.tx == tx);
        if !ours || !response.is_final() {
            return State::Talking(self);
        }
        core.index.remove(&Handle::Client(tx));
        let Exchange::Inviting { invite, .. } =
            std::mem::replace(&mut self.exchange, Exchange::Idle)
        else {
            return State::Talking(self);
        };
        match response.status {
            200..=299 => self.reinvited(&invite, response, half, core, now),
            // The dialog is gone at the peer (RFC 3261 §12.2.1.2).
            408 | 481 => return self.end(EndCause::DialogLost, response.status, half, core, now),
            401 | 407 if !invite.draft.challenged => {
                match half.leg.authorized(&invite.draft.request, response, core) {
                    Some(request) => {
                        self.dialog.local_cseq = self.dialog.local_cseq.saturating_add(1);
                        let draft = Draft { request, media: invite.draft.media, challenged: true };
                        self.invite(draft, half, core, now);
                    }
                    None => reject_update(488, half, core),
                }
            }
            401 | 407 => reject_update(488, half, core),
            status => reject_update(status, half, core),
        }
        State::Talking(self)
    }

    fn reinvited(
        &mut self,
        invite: &Invite,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        self.dialog.update_from_response(response);
        let cseq = invite.draft.request.headers.cseq().map_or(self.dialog.local_cseq, |c| c.number);
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        core.endpoint.send_ack(invite.tx, self.dialog.ack(cseq), flow, now);
        let Some(agreed) = half.leg.accept_answer(&response.body, core) else {
            return reject_update(488, half, core);
        };
        // The egress never transcodes: its codec is what lies between the halves. At the ingress
        // that is one the other half offered, ours if it did.
        let offered = media::codecs(&invite.draft.media);
        let between = match half.side {
            Side::Ingress if !offered.contains(&agreed.codec) => offered.first().copied(),
            Side::Ingress | Side::Egress => Some(agreed.codec),
        };
        if let Some(far) = FarMedia::of(&invite.draft.media, between) {
            half.connect(far, core);
            let media = half.media(agreed, far.codec);
            half.tell(Kind::UpdateAnswer(MediaUpdateAnswer { media: Some(media) }), core);
        }
    }

    pub(super) fn reinvite_failed(
        mut self: Box<Self>,
        failed: ClientTx,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let ours =
            matches!(&self.exchange, Exchange::Inviting { invite, .. } if invite.tx == failed);
        if !ours {
            return State::Talking(self);
        }
        self.exchange = Exchange::Idle;
        self.end(EndCause::DialogLost, status, half, core, now)
    }

    /// The deadline of the exchange came.
    pub(super) fn timeout(
        mut self: Box<Self>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if self.deadline().is_none_or(|deadline| deadline > now) {
            return State::Talking(self);
        }
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingFar { then, .. } => {
                self.give_up(then, 500, core, now);
                State::Talking(self)
            }
            // Answered only provisionally for so long: nobody knows what the peer thinks.
            Exchange::Inviting { invite, .. } => {
                core.abandon(invite.tx, now);
                self.end(EndCause::DialogLost, 408, half, core, now)
            }
            other @ (Exchange::Idle | Exchange::AwaitingAck { .. }) => {
                self.exchange = other;
                State::Talking(self)
            }
        }
    }
}

/// Answers an INVITE of the near peer with no.
fn refuse(asked: &Asked, status: u16, core: &mut Core, now: Instant) {
    core.respond(asked.tx, plain(&asked.request, status), now);
    core.index.remove(&Handle::Server(asked.tx));
}

fn reject_update(status: u16, half: &Half, core: &mut Core) {
    let reason = crate::sip::reason_phrase(status).to_owned();
    let reject = MediaUpdateReject { status: u32::from(status), reason };
    half.tell(Kind::UpdateReject(reject), core);
}

/// All we could do on a leg, what is in use first.
pub(super) fn full_offer(half: &Half, direction: Direction) -> Description {
    let used = half.leg.agreed.map(|agreed| agreed.codec);
    let first: Vec<_> = used.or(half.far.map(|far| far.codec)).into_iter().collect();
    Description {
        codecs: media::preferred(&first, &half.leg.allowed),
        telephone_event: half.far.is_none_or(|far| far.telephone_event),
        direction,
        ptime_ms: media::PTIME_MS,
    }
}

/// Our answer to an offer, in the name of the far party: its codec if that was offered, else the
/// offer's first and this POP transcodes.
pub(super) fn answer_description(
    remote: &RemoteMedia,
    allowed: &[crate::codec::Codec],
    far: FarMedia,
    answer: &Media,
) -> Description {
    let mut common = remote.codecs.iter().map(|n| n.codec).filter(|c| allowed.contains(c));
    let same = common.clone().find(|codec| *codec == far.codec);
    Description {
        codecs: same.or_else(|| common.next()).into_iter().collect(),
        telephone_event: far.telephone_event,
        direction: both(media::direction(answer), reversed(remote.direction)),
        ptime_ms: media::ptime_ms(answer),
    }
}
