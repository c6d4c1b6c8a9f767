//! The SIP side of an agent: which message does what to which call.

use std::net::SocketAddr;

use anyhow::Result;
use bytes::Bytes;
use pop_core::sip::{
    CSeq, ClientTx, Dialog, DialogId, DialogState, Event, FailReason, Flow, HeaderName, Method,
    NameAddr, Request, Response, ServerTx, Uri,
};
use proto::time::Instant;

use super::agent::Shell;
use super::call::{Asked, Call, Ringing, State};
use super::report::{Bye, End, MOVES_MAX, Move, Side, Stale};
use super::{Dial, Reinvite, Reply};

/// Calls at once; further INVITEs get 503.
const CALLS_MAX: usize = 2_000;

impl Shell {
    pub(super) fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Request { tx, flow, request } => self.request(tx, flow, &request, now),
            Event::Cancelled { tx } => self.cancelled(tx, now),
            // We send no reliable provisional responses.
            Event::Ack { .. } | Event::PrackMissing { .. } => {}
            Event::Response { tx, response } => self.response(tx, &response, now),
            Event::ClientFailed { tx, reason } => self.client_failed(tx, reason, now),
            Event::AckMissing { tx } => {
                if let Some(number) = self.by_server.get(&tx).copied() {
                    self.hang_up(number, now);
                    self.finish(number, End::TimedOut, now);
                }
            }
        }
    }

    pub(super) fn dial(&mut self, number: u64, dial: Dial, now: Instant) -> Result<()> {
        let local = self.config.address;
        let (rtp, mut ours) = self.open_media(number, Some(dial.srtp))?;
        let mut invite = Request::new(Method::Invite, Uri::sip(Some(&dial.to), dial.proxy));
        let from =
            NameAddr::new(Uri::sip(Some(&dial.from), local)).with_tag(self.endpoint.new_token());
        let to = NameAddr::new(Uri::sip(Some(&dial.to), dial.proxy));
        let call_id = format!("{}@{}", self.endpoint.new_token(), local.ip());
        invite.headers.push(HeaderName::From, &from);
        invite.headers.push(HeaderName::To, &to);
        invite.headers.push(HeaderName::CallId, call_id);
        invite.headers.push(HeaderName::CSeq, &CSeq { number: 1, method: Method::Invite });
        invite.headers.push(HeaderName::Contact, &self.contact(&dial.from));
        let offer = ours.offer(&dial.codecs);
        invite.set_body("application/sdp", Bytes::from(offer));
        let flow = Flow::udp(local, dial.proxy);
        let tx = self.endpoint.request(invite.clone(), flow, now)?;
        self.by_client.insert(tx, number);
        let call = Call {
            number,
            side: Side::Caller,
            from: dial.from,
            to: dial.to,
            started: now,
            ringing: None,
            set_up: None,
            peer: dial.proxy,
            talk: dial.talk,
            digits: dial.digits,
            rtp,
            ours,
            asked: None,
            hold: None,
            media: None,
            expect: self.expected(self.config.voice),
            answered: None,
            bye: None,
            moves: Vec::new(),
            stale: Vec::new(),
            state: State::Calling { tx, invite: Box::new(invite), cancelled: false },
        };
        self.calls.insert(number, call);
        Ok(())
    }

    fn contact(&self, user: &str) -> NameAddr {
        NameAddr::new(Uri::sip(Some(user), self.config.address))
    }

    fn request(&mut self, tx: ServerTx, flow: Flow, request: &Request, now: Instant) {
        let known = DialogId::of_request(request).and_then(|id| self.by_dialog.get(&id).copied());
        match (&request.method, known) {
            (Method::Invite, None) if !request.is_in_dialog() => {
                if let Err(status) = self.invited(tx, flow, request, now) {
                    self.endpoint.respond(tx, Response::to_request(request, status), now);
                }
            }
            (Method::Invite, Some(number)) => {
                if let Some(response) = self.reinvited(number, flow, request, now) {
                    self.stale(number, flow, request, response.status, now);
                    self.endpoint.respond(tx, response, now);
                }
            }
            (_, Some(number)) => {
                let response = self.in_dialog(number, request);
                let (status, taken) = (response.status, response.is_success());
                self.stale(number, flow, request, status, now);
                self.endpoint.respond(tx, response, now);
                // A BYE that is refused ends nothing.
                if request.method == Method::Bye && taken {
                    if let Some(call) = self.calls.get_mut(&number) {
                        call.bye.get_or_insert(Bye::Received(flow.remote));
                    }
                    self.finish(number, End::Completed, now);
                }
            }
            (Method::Options, None) => {
                self.endpoint.respond(tx, Response::to_request(request, 200), now);
            }
            // RFC 3261 §12.2.2: a dialog nobody knows; §8.2.1: a method nobody serves.
            (_, None) => {
                let status = if request.is_in_dialog() { 481 } else { 405 };
                self.endpoint.respond(tx, Response::to_request(request, status), now);
            }
        }
    }

    /// Takes note of a request that the dialog refuses; asked after it did.
    fn stale(&mut self, number: u64, flow: Flow, request: &Request, status: u16, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        if status == 500 && call.stale.len() < MOVES_MAX {
            let method = request.method.to_string();
            call.stale.push(Stale { at: now, from: flow.remote, method });
        }
    }

    fn in_dialog(&mut self, number: u64, request: &Request) -> Response {
        let Some(call) = self.calls.get_mut(&number) else {
            return Response::to_request(request, 481);
        };
        let State::Up { dialog, .. } = &mut call.state else {
            // Our BYE crossed theirs, or they were faster than our 200.
            let status = if request.method == Method::Bye { 200 } else { 491 };
            return Response::to_request(request, status);
        };
        if dialog.accept_request(request).is_err() {
            return dialog.respond(request, 500);
        }
        match request.method {
            Method::Bye | Method::Options => dialog.respond(request, 200),
            _ => dialog.respond(request, 405),
        }
    }

    /// A re-INVITE: what to answer, if anything. Who moves the call says so by Contact and SDP, and
    /// may come from anywhere: the dialog is what counts (RFC 3261 §12.2.2, §14.2).
    fn reinvited(
        &mut self,
        number: u64,
        flow: Flow,
        request: &Request,
        now: Instant,
    ) -> Option<Response> {
        let call = self.calls.get_mut(&number)?;
        let own = if call.side == Side::Caller { &call.from } else { &call.to };
        let reinvite = self.config.reinvites.get(own).copied();
        let refusal = match reinvite.unwrap_or(self.config.reinvite) {
            Reinvite::Follow => None,
            Reinvite::Ignore => Some(0),
            Reinvite::Refuse(status) => Some(status),
            Reinvite::RefuseOnce(status) => call.moves.is_empty().then_some(status),
        };
        let (answer, media) = match refusal {
            Some(0) => (None, None),
            Some(status) => (Some(call.refuse(request, status)), None),
            None => call.follow(request),
        };
        if call.moves.len() < MOVES_MAX {
            let status = answer.as_ref().map_or(0, |response| response.status);
            call.moves.push(Move { at: now, from: flow.remote, answer: status, media });
        }
        answer
    }

    /// A new call; an error is the status to refuse it with.
    fn invited(
        &mut self,
        tx: ServerTx,
        flow: Flow,
        request: &Request,
        now: Instant,
    ) -> Result<(), u16> {
        if self.calls.len() >= CALLS_MAX {
            return Err(503);
        }
        let to = request.uri.user_unescaped().ok_or(404u16)?;
        let from = request.headers.from().and_then(|f| f.uri.user_unescaped()).unwrap_or_default();
        let reply = self.config.replies.get(&to).unwrap_or(&self.config.default_reply).clone();
        let (ring, codecs) = match reply {
            Reply::Refuse(status) => return Err(status),
            Reply::Answer { ring, codecs } => (ring, codecs),
        };
        let number = self.next_incoming;
        self.next_incoming += 2;
        let (rtp, mut ours) = self.open_media(number, None).map_err(|_| 500u16)?;
        let (agreed, answer) = ours.answer(&request.body, &codecs).map_err(|_| 488u16)?;
        // What it is once, it stays.
        ours.secure = Some(agreed.key.is_some());
        let tag = self.endpoint.new_token();
        let dialog = Dialog::uas(request, &tag, self.contact(&to)).map_err(|_| 400u16)?;
        self.endpoint.respond(tx, dialog.respond(request, 180), now);
        self.by_dialog.insert(dialog.id(), number);
        self.by_server.insert(tx, number);
        let ringing =
            Ringing { tx, invite: request.clone(), dialog, agreed, answer, answer_at: now + ring };
        let call = Call {
            number,
            side: Side::Callee,
            from,
            to,
            started: now,
            ringing: None,
            set_up: None,
            peer: flow.remote,
            talk: None,
            digits: String::new(),
            rtp,
            ours,
            asked: None,
            hold: None,
            media: None,
            expect: self.expected(self.config.voice.other()),
            answered: None,
            bye: None,
            moves: Vec::new(),
            stale: Vec::new(),
            state: State::Ringing(Box::new(ringing)),
        };
        self.calls.insert(number, call);
        Ok(())
    }

    pub(super) fn answer(&mut self, number: u64, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let state = std::mem::replace(&mut call.state, State::Over);
        let State::Ringing(ringing) = state else {
            call.state = state;
            return;
        };
        let Ringing { tx, invite, mut dialog, agreed, answer, .. } = *ringing;
        let mut response = dialog.respond(&invite, 200);
        response.set_body("application/sdp", Bytes::from(answer));
        dialog.state = DialogState::Confirmed;
        call.state = State::Up { dialog: Box::new(dialog), until: None };
        let key = call.ours.key.clone();
        let media = self.media(agreed, &key, ("", self.config.voice.other()), now);
        if let Some(call) = self.calls.get_mut(&number) {
            call.answered = Some(now);
            call.media = media;
        }
        self.keep_diary(number);
        self.endpoint.respond(tx, response, now);
    }

    fn cancelled(&mut self, tx: ServerTx, now: Instant) {
        let Some(number) = self.by_server.get(&tx).copied() else { return };
        let Some(call) = self.calls.get(&number) else { return };
        if let State::Ringing(ringing) = &call.state {
            let response = ringing.dialog.respond(&ringing.invite, 487);
            self.endpoint.respond(tx, response, now);
            self.finish(number, End::Refused(487), now);
        }
    }

    fn response(&mut self, tx: ClientTx, response: &Response, now: Instant) {
        let Some(number) = self.by_client.get(&tx).copied() else { return };
        let Some(call) = self.calls.get_mut(&number) else { return };
        match &call.state {
            State::Calling { .. } if response.is_provisional() => {
                if response.status > 100 {
                    call.ringing.get_or_insert(now - call.started);
                }
            }
            State::Calling { .. } if response.is_success() => self.accepted(number, response, now),
            State::Calling { .. } => self.finish(number, End::Refused(response.status), now),
            State::Ending { bye } if *bye == tx && response.is_final() => {
                call.bye = Some(Bye::Sent(Some(response.status)));
                let end = if response.is_success() {
                    End::Completed
                } else {
                    End::Failed(format!("the BYE was answered with {}", response.status))
                };
                self.finish(number, end, now);
            }
            State::Up { dialog, .. } if call.is_asked(tx) && response.is_final() => {
                let next = dialog.next_hop().socket_addr().unwrap_or(call.peer);
                let flow = Flow::udp(self.config.address, next);
                if let Some(ack) = call.reanswered(response, now) {
                    self.endpoint.send_ack(tx, ack, flow, now);
                }
            }
            State::Ending { .. } | State::Over | State::Ringing(_) | State::Up { .. } => {}
        }
    }

    /// A re-INVITE that puts the far side on hold, or takes it back.
    pub(super) fn hold(&mut self, number: u64, holds: bool, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let (State::Up { dialog, .. }, Some(media), None) =
            (&mut call.state, &call.media, call.asked)
        else {
            return;
        };
        call.ours.holds = holds;
        let mut request = dialog.request(Method::Invite);
        request.set_body("application/sdp", Bytes::from(call.ours.offer_again(&media.agreed)));
        let next = dialog.next_hop().socket_addr().unwrap_or(call.peer);
        let cseq = dialog.local_cseq;
        if let Ok(tx) = self.endpoint.request(request, Flow::udp(self.config.address, next), now) {
            call.asked = Some(Asked { tx, cseq });
            self.by_client.insert(tx, number);
        }
    }

    /// 2xx to our INVITE.
    fn accepted(&mut self, number: u64, response: &Response, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let state = std::mem::replace(&mut call.state, State::Over);
        let State::Calling { tx, invite, cancelled } = state else { return };
        call.ringing.get_or_insert(now - call.started);
        call.set_up = Some(now - call.started);
        call.answered = Some(now);
        let dialog = match Dialog::uac(&invite, response) {
            Ok(dialog) => dialog,
            Err(why) => {
                let end = End::Failed(format!("a 2xx that makes no dialog: {why}"));
                return self.finish(number, end, now);
            }
        };
        let (talk, peer, digits) = (call.talk, call.peer, std::mem::take(&mut call.digits));
        self.by_dialog.insert(dialog.id(), number);
        let flow = self.flow(&dialog, peer);
        self.endpoint.send_ack(tx, dialog.ack(1), flow, now);
        call_up(self.calls.get_mut(&number), dialog, talk.map(|talk| now + talk));
        let Some(ours) = self.calls.get(&number).map(|call| call.ours.clone()) else { return };
        match ours.agreed(&response.body) {
            _ if cancelled => self.hang_up(number, now),
            Ok(agreed) => {
                let media = self.media(agreed, &ours.key, (&digits, self.config.voice), now);
                if let Some(call) = self.calls.get_mut(&number) {
                    call.media = media;
                }
                self.keep_diary(number);
            }
            Err(why) => {
                self.hang_up(number, now);
                self.finish(number, End::Failed(why), now);
            }
        }
    }

    fn client_failed(&mut self, tx: ClientTx, reason: FailReason, now: Instant) {
        let Some(number) = self.by_client.get(&tx).copied() else { return };
        if let Some(call) = self.calls.get_mut(&number).filter(|call| call.is_asked(tx)) {
            call.asked = None;
            call.ours.holds = call.is_holding();
        }
        let end = match (self.calls.get(&number).map(|c| &c.state), reason) {
            (Some(State::Calling { .. }), FailReason::Timeout) => End::TimedOut,
            (Some(State::Calling { .. }), FailReason::Transport) => {
                End::Failed("the INVITE could not be sent".into())
            }
            (Some(State::Ending { .. }), _) => End::Failed("the BYE was not answered".into()),
            _ => return,
        };
        self.finish(number, end, now);
    }

    pub(super) fn hang_up(&mut self, number: u64, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        call.freeze(now);
        match std::mem::replace(&mut call.state, State::Over) {
            State::Calling { tx, invite, .. } => {
                call.state = State::Calling { tx, invite, cancelled: true };
                self.endpoint.cancel(tx, now);
            }
            State::Up { mut dialog, .. } => {
                let peer = call.peer;
                let bye = dialog.request(Method::Bye);
                let flow = self.flow(&dialog, peer);
                match self.endpoint.request(bye, flow, now) {
                    Ok(tx) => {
                        self.by_client.insert(tx, number);
                        if let Some(call) = self.calls.get_mut(&number) {
                            call.bye = Some(Bye::Sent(None));
                            call.state = State::Ending { bye: tx };
                        }
                    }
                    Err(why) => self.finish(number, End::Failed(why.to_string()), now),
                }
            }
            State::Ringing(ringing) => {
                let response = ringing.dialog.respond(&ringing.invite, 480);
                self.endpoint.respond(ringing.tx, response, now);
                self.finish(number, End::Refused(480), now);
            }
            state @ (State::Ending { .. } | State::Over) => call.state = state,
        }
    }

    /// RFC 3261 §8.1.2; names are never in our Contacts or routes, so the peer is the fallback.
    fn flow(&self, dialog: &Dialog, peer: SocketAddr) -> Flow {
        Flow::udp(self.config.address, dialog.next_hop().socket_addr().unwrap_or(peer))
    }
}

fn call_up(call: Option<&mut Call>, dialog: Dialog, until: Option<Instant>) {
    if let Some(call) = call {
        call.state = State::Up { dialog: Box::new(dialog), until };
    }
}
