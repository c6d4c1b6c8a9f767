//! The near peer asks: INVITE and UPDATE with an offer, and what the other half says to it.

use super::*;

impl Session {
    /// A re-INVITE of the near peer.
    pub(in crate::call) fn invited(
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
        let refusal = refusal.or_else(|| {
            let timing = &core.config.timing;
            timer::answer(&request.headers, timing).is_err().then(|| too_short(request, timing))
        });
        if let Some(response) = refusal {
            core.respond(tx, response, now);
            return State::Talking(self);
        }
        core.index.add(Handle::Server(tx), half.key);
        let asked = Asked { tx, request: request.clone() };
        match Offer::of(request, &half.leg.allowed, half.leg.insists_on_srtp()) {
            Err(status) => {
                core.counters.refuse(Refusal::BadOffer);
                refuse(&asked, status, core, now);
            }
            Ok(None) => {
                // We offer what the far party wants, and all our codecs (RFC 3261 §14.2). The
                // answer comes in the ACK.
                let body = half.leg.offer(full_offer(half, self.wish));
                self.accept(&asked, (body, true), half, core, now);
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
            return self.accept(&asked, (body, false), half, core, now);
        }
        if self.orphaned.is_some() {
            // Nobody could be asked now; the peer asks again (RFC 3261 §14.1).
            core.counters.glare += 1;
            return refuse(&asked, 491, core, now);
        }
        let media = half.leg.to_far(&remote, half.receive);
        let pending = Pending { asked, offer: description, remote };
        self.tell(media, Then::Answer(Box::new(pending)), half, core, now);
    }

    pub(super) fn tell(
        &mut self,
        media: Media,
        then: Then,
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) {
        half.tell(Kind::Update(MediaUpdate { media: Some(media) }), core);
        let limit = core.config.timing.update_limit;
        let limit = if then.is_for_update() { limit.min(UPDATE_LIMIT) } else { limit };
        self.exchange = Exchange::AwaitingFar { then, deadline: now + limit };
    }

    fn accept(
        &mut self,
        asked: &Asked,
        (body, offered): (bytes::Bytes, bool),
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) {
        let mut response = self.refreshed_by_peer(&asked.request, half, core, now);
        response.set_body(SDP, body);
        core.respond(asked.tx, response, now);
        self.exchange = match asked.request.method {
            Method::Update => Exchange::Idle,
            _ => Exchange::AwaitingAck { tx: asked.tx, first: false, offered },
        };
        if matches!(self.exchange, Exchange::Idle) {
            core.index.remove(&Handle::Server(asked.tx));
        }
    }

    /// 200 to an INVITE or UPDATE of the peer, with the session timer it agrees on anew
    /// (RFC 4028 §9). An UPDATE without a body is that and no more.
    pub(in crate::call) fn refreshed_by_peer(
        &mut self,
        request: &Request,
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) -> Response {
        let Ok(answer) = timer::answer(&request.headers, &core.config.timing) else {
            return too_short(request, &core.config.timing);
        };
        let mut response = self.dialog.respond(request, 200);
        response.headers.push(HeaderName::Allow, crate::call::ALLOW);
        timer::put_answer(answer, &mut response.headers);
        self.liveness.agree(answer.map(Terms::as_server), half, core, now);
        response
    }

    /// The other half answered an update of ours.
    pub(in crate::call) fn updated(
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
                    let media = half.leg.to_far(remote, half.receive);
                    self.tell(media, Then::Settle, half, core, now);
                }
            }
            Then::Answer(pending) => {
                let Pending { asked, offer, remote } = *pending;
                let what = answer_description(&remote, &half.leg, far, answer);
                let body = half.leg.answer(&offer, remote, what, core);
                half.connect(far, core);
                self.accept(&asked, (body, false), half, core, now);
            }
        }
    }

    pub(in crate::call) fn update_rejected(&mut self, status: u16, core: &mut Core, now: Instant) {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingFar { then, .. } => self.give_up(then, status, core, now),
            other => self.exchange = other,
        }
    }

    pub(super) fn give_up(&mut self, then: Then, status: u16, core: &mut Core, now: Instant) {
        if let Then::Answer(pending) = then {
            refuse(&pending.asked, status, core, now);
        }
    }

    /// The near peer cancelled its re-INVITE.
    pub(in crate::call) fn cancelled(
        &mut self,
        cancelled: ServerTx,
        core: &mut Core,
        now: Instant,
    ) {
        if let Exchange::AwaitingFar { then, .. } = &mut self.exchange
            && matches!(then, Then::Answer(pending) if pending.asked.tx == cancelled)
            && let Then::Answer(pending) = std::mem::replace(then, Then::Undo)
        {
            refuse(&pending.asked, 487, core, now);
        }
    }

    /// The near peer acknowledged our 2xx.
    pub(in crate::call) fn acknowledged(
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
                let before = before.map(|before| before.direction);
                self.tell_of_change(before, half, core, now);
            }
        }
        State::Talking(self)
    }

    /// After an answer in an ACK, the other half must know what it did not ask for.
    pub(super) fn tell_of_change(
        &mut self,
        before: Option<Direction>,
        half: &Half,
        core: &mut Core,
        now: Instant,
    ) {
        let Some(remote) = &half.leg.remote else { return };
        let old = before.unwrap_or(Direction::SendRecv);
        if old != remote.direction {
            let media = half.leg.to_far(remote, half.receive);
            self.tell(media, Then::Settle, half, core, now);
        }
    }
}
