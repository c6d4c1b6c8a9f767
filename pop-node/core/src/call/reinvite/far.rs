//! The other half, or our own session timer, asks: we re-INVITE the near peer.

use super::*;

impl Session {
    /// The other half's peer wants other media: re-INVITE ours.
    pub(in crate::call) fn update(
        &mut self,
        media: Media,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
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
            comfort_noise: media.comfort_noise,
            direction: self.wish,
            ptime_ms: media::ptime_ms(&media),
            opus: media::opus(&media),
            redundant: false,
        });
        let mut request = self.dialog.request(Method::Invite);
        self.liveness.put(&mut request.headers);
        request.set_body(SDP, body);
        self.invite(Draft::new(request, Some(media)), half, core, now);
    }

    /// The session timer wants a refresh, and the peer takes no UPDATE: the same offer again.
    pub(in crate::call) fn refresh_by_invite(
        &mut self,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        if !matches!(self.exchange, Exchange::Idle) {
            return;
        }
        let Some(body) = half.leg.offer_again() else { return };
        let mut request = self.dialog.request(Method::Invite);
        self.liveness.put(&mut request.headers);
        request.set_body(SDP, body);
        core.counters.probes += 1;
        self.invite(Draft::new(request, None), half, core, now);
    }

    pub(in crate::call) fn invite(
        &mut self,
        draft: Draft,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) {
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        let Some(tx) = core.request(half.key, draft.request.clone(), flow, now) else {
            self.exchange = Exchange::Idle;
            return draft.fail(503, half, core);
        };
        // A little less than the other half waits, so that it hears our verdict.
        let deadline = now + core.config.timing.update_limit.mul_f32(0.9);
        let invite = Box::new(Invite { tx, draft });
        self.exchange = Exchange::Inviting { invite, deadline };
    }

    /// A response to our re-INVITE.
    pub(in crate::call) fn response(
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
            200..=299 => return self.reinvited(&invite, response, half, core, now),
            status if invite.draft.calls_over && !matches!(status, 401 | 407 | 422) => {
                return self.not_called_over(response, half, core, now);
            }
            // The dialog is gone at the peer (RFC 3261 §12.2.1.2).
            408 | 481 => return self.end(EndCause::DialogLost, response.status, half, core, now),
            401 | 407 | 422 if !invite.draft.challenged => {
                let again = match response.status {
                    422 => self.liveness.raise(&invite.draft.request, response),
                    _ => half.leg.authorized(&invite.draft.request, response, core),
                };
                match again {
                    Some(mut request) => {
                        self.dialog.renumber(&mut request);
                        let draft = Draft { request, challenged: true, ..invite.draft };
                        self.invite(draft, half, core, now);
                    }
                    None if invite.draft.calls_over => {
                        return self.not_called_over(response, half, core, now);
                    }
                    None => invite.draft.fail(488, half, core),
                }
            }
            401 | 407 | 422 if invite.draft.calls_over => {
                return self.not_called_over(response, half, core, now);
            }
            401 | 407 | 422 => invite.draft.fail(488, half, core),
            status => invite.draft.fail(status, half, core),
        }
        State::Talking(self)
    }

    fn reinvited(
        mut self: Box<Self>,
        invite: &Invite,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        self.dialog.update_from_response(response);
        let cseq = invite.draft.request.headers.cseq().map_or(self.dialog.local_cseq, |c| c.number);
        let flow = half.leg.dialog_flow(&self.dialog, core, now);
        core.endpoint.send_ack(invite.tx, self.dialog.ack(cseq), flow, now);
        self.liveness.agree(Terms::as_client(&response.headers), half, core, now);
        let refreshes = invite.draft.media.is_none() && !invite.draft.calls_over;
        if refreshes && response.body.is_empty() {
            // A refresh: not what RFC 3264 §4 asks for, but nothing is to change.
            return State::Talking(self);
        }
        let before = half.leg.remote.clone();
        let Some(agreed) = half.leg.accept_answer(&response.body, core) else {
            // The peer took the offer, so it sends what nobody agreed on: the session cannot be as
            // it was (RFC 3261 §14.1, §13.2.2.4).
            return self.end_here(EndCause::NoMedia, 488, half, core, now);
        };
        let Some(wanted) = &invite.draft.media else {
            let before = before.as_ref().map(|before| before.direction);
            let before = if invite.draft.calls_over {
                if let Some(far) = half.far {
                    half.connect(far, core);
                }
                self.arrived(half, core, now)
            } else {
                before
            };
            self.tell_of_change(before, half, core, now);
            return State::Talking(self);
        };
        // The egress never transcodes: its codec is what lies between the halves. At the ingress
        // that is one the other half offered, ours if it did.
        let offered = media::codecs(wanted);
        let between = match half.side {
            Side::Ingress if !offered.contains(&agreed.codec) => offered.first().copied(),
            Side::Ingress | Side::Egress => Some(agreed.codec),
        };
        if let Some(far) = FarMedia::of(wanted, between) {
            half.connect(far, core);
            let media = half.media(agreed, far.codec);
            half.tell(Kind::UpdateAnswer(MediaUpdateAnswer { media: Some(media) }), core);
        }
        State::Talking(self)
    }

    pub(in crate::call) fn reinvite_failed(
        mut self: Box<Self>,
        failed: ClientTx,
        reason: FailReason,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let ours =
            matches!(&self.exchange, Exchange::Inviting { invite, .. } if invite.tx == failed);
        if !ours {
            return State::Talking(self);
        }
        let Exchange::Inviting { invite, .. } =
            std::mem::replace(&mut self.exchange, Exchange::Idle)
        else {
            return State::Talking(self);
        };
        let mut draft = invite.draft;
        if draft.calls_over {
            return self.call_over_failed(reason, half, core, now);
        }
        if reason == FailReason::Transport
            && !draft.moved
            && half.leg.reconnect(&self.dialog, core, now)
        {
            self.dialog.renumber(&mut draft.request);
            self.invite(Draft { moved: true, ..draft }, half, core, now);
            return State::Talking(self);
        }
        let cause =
            if draft.media.is_some() { EndCause::DialogLost } else { EndCause::PeerVanished };
        self.end(cause, 408, half, core, now)
    }

    /// The deadline of the exchange came.
    pub(in crate::call) fn timeout(
        mut self: Box<Self>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        match std::mem::replace(&mut self.exchange, Exchange::Idle) {
            Exchange::AwaitingFar { then, .. } => {
                self.give_up(then, 500, core, now);
                State::Talking(self)
            }
            // Answered only provisionally for so long: nobody knows what the peer thinks.
            Exchange::Inviting { invite, .. } if invite.draft.calls_over => {
                core.abandon(invite.tx, now);
                self.call_over_failed(FailReason::Timeout, half, core, now)
            }
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
