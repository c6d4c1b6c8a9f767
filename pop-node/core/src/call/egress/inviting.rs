//! The INVITE to the trunk: address by address, challenge, session interval, forks.

use super::*;

#[derive(Debug)]
pub(crate) struct Inviting {
    wanted: Wanted,
    host: String,
    tx: ClientTx,
    request: Request,
    /// Not tried yet.
    addresses: VecDeque<SocketAddr>,
    challenged: bool,
    /// The session timer we ask for.
    timer: Wish,
    pracks: Pracks,
    /// Answers in 18x, by fork: a 2xx without one means the same (RFC 3261 §13.2.1).
    early: BTreeMap<Text, Bytes>,
    heard: bool,
    silence_limit: Instant,
    ring_limit: Instant,
}

impl Inviting {
    pub(in crate::call) fn deadline(&self) -> Instant {
        if self.heard { self.ring_limit } else { self.silence_limit.min(self.ring_limit) }
    }

    pub(super) fn start(
        wanted: Wanted,
        host: String,
        mut addresses: VecDeque<SocketAddr>,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        let Some((tx, request)) = attempt(&wanted, &host, &mut addresses, half, core, now) else {
            return reject(EndCause::Rejected, 503, half, core, now);
        };
        let timing = core.config.timing;
        State::Inviting(Box::new(Self {
            wanted,
            host,
            tx,
            request,
            addresses,
            challenged: false,
            timer: Wish::new(&timing),
            pracks: Pracks::default(),
            early: BTreeMap::new(),
            heard: false,
            silence_limit: now + timing.first_response,
            // The ingress gives up first, for all candidates together.
            ring_limit: now + timing.ring_limit + timing.first_response,
        }))
    }

    pub(in crate::call) fn handle(
        mut self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if let Some(cause) = gave_up(&input) {
            core.abandon(self.tx, now);
            return give_up(cause, half, core, now);
        }
        match input {
            Input::Response { tx, response } if tx == self.tx => match response.status {
                ..200 => {
                    self.provisional(&response, half, core, now);
                    State::Inviting(self)
                }
                200..=299 => self.answered(&response, half, core, now),
                _ => self.refused(&response, half, core, now),
            },
            Input::Failed { tx, reason } if tx == self.tx => {
                // RFC 3261 §8.1.3.1
                let status = if reason == FailReason::Timeout { 408 } else { 503 };
                self.next_address(status, half, core, now)
            }
            Input::Timeout if self.deadline() <= now => {
                core.abandon(self.tx, now);
                let next = if self.heard { VecDeque::new() } else { self.addresses };
                self.addresses = next;
                self.next_address(408, half, core, now)
            }
            Input::Shutdown => {
                core.abandon(self.tx, now);
                reject(EndCause::Shutdown, 503, half, core, now)
            }
            // The callee may not say BYE before the answer, but its answer may have been lost on
            // the way to us: both are over then (RFC 5407 §3.1).
            Input::Request { tx, request, .. } if request.method == Method::Bye => {
                core.respond(tx, plain(&request, 200), now);
                core.abandon(self.tx, now);
                reject(EndCause::CalleeHungUp, 480, half, core, now)
            }
            Input::Request { tx, request, .. } => {
                let response = match request.method {
                    // A new offer must wait for the answer (RFC 3311 §5.2).
                    Method::Invite | Method::Info | Method::Update => plain(&request, 491),
                    _ => crate::call::other_request(&request),
                };
                core.respond(tx, response, now);
                State::Inviting(self)
            }
            Input::Far(_) => {
                core.counters.refuse(Refusal::BadPeerMessage);
                State::Inviting(self)
            }
            Input::Ack { .. }
            | Input::AckMissing { .. }
            | Input::Cancelled { .. }
            | Input::Failed { .. }
            | Input::FarLost
            | Input::Kept
            | Input::LinkUp
            | Input::Moved
            | Input::Opened
            | Input::PortTaken
            | Input::PrackMissing { .. }
            | Input::Resolved(_)
            | Input::Response { .. }
            | Input::Silent
            | Input::Timeout => State::Inviting(self),
        }
    }

    fn provisional(&mut self, response: &Response, half: &mut Half, core: &mut Core, now: Instant) {
        self.heard = true;
        if matches!(response.status, 100 | 199)
            || !self.pracks.acknowledge(&self.request, response, half, core, now)
        {
            return;
        }
        half.record.ringing.get_or_insert(now);
        let status = if response.status == 180 { 180 } else { 183 };
        let body = Some(&response.body).filter(|body| !body.is_empty());
        let agreed = body.and_then(|body| half.leg.accept_answer(body, core));
        let media = agreed.map(|agreed| {
            self.early.insert(fork(response), response.body.clone());
            self.join(agreed, half, core)
        });
        half.tell(Kind::Progress(CallProgress { status, media }), core);
    }

    /// Joins our leg with the other half and says what it needs to know.
    fn join(&self, agreed: Agreed, half: &mut Half, core: &mut Core) -> Media {
        let far = FarMedia::with(&self.wanted.media, agreed.codec);
        half.connect(far, core);
        half.media(agreed, agreed.codec)
    }

    fn answered(
        self: Box<Self>,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        // From now on, further answers to this INVITE are strays.
        core.index.remove(&Handle::Client(self.tx));
        let Ok(mut dialog) = Dialog::uac(&self.request, response) else {
            core.stray_answer(self.tx, response, now);
            return reject(EndCause::Rejected, 502, half, core, now);
        };
        let flow = half.leg.dialog_flow(&dialog, core, now);
        core.endpoint.send_ack(self.tx, dialog.ack(dialog.local_cseq), flow, now);
        self.pracks.carry_on(&mut dialog);
        let early = self.early.get(&fork(response));
        let body = if response.body.is_empty() { early } else { Some(&response.body) };
        let agreed = body.and_then(|body| half.leg.accept_answer(body, core));
        let Some(agreed) = agreed else {
            let reason = crate::sip::reason_phrase(488).to_owned();
            half.part(Kind::Reject(CallReject { status: 488, reason }), core);
            half.finish(EndCause::NoMedia, 488, core, now);
            return crate::call::ending::end(dialog, None, None, half, core, now);
        };
        half.record.answered = Some(now);
        let media = self.join(agreed, half, core);
        half.tell(Kind::Answer(CallAnswer { media: Some(media) }), core);
        let wish = media::direction(&self.wanted.media);
        let terms = Terms::as_client(&response.headers);
        let liveness = Liveness::new(terms, self.timer, &response.headers, half, core, now);
        let (exchange, infos) = (Exchange::Idle, Infos::default());
        let (moving, orphaned) = (None, None);
        let session = Session { dialog, wish, exchange, liveness, infos, moving, orphaned };
        State::Talking(Box::new(session))
    }

    fn refused(
        mut self: Box<Self>,
        response: &Response,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        core.index.remove(&Handle::Client(self.tx));
        if matches!(response.status, 401 | 407) && !self.challenged {
            self.challenged = true;
            let again = half.leg.authorized(&self.request, response, core);
            let sent = again.and_then(|request| {
                core.request(half.key, request.clone(), half.leg.flow, now).map(|tx| (tx, request))
            });
            if let Some((tx, request)) = sent {
                (self.tx, self.request) = (tx, request);
                return State::Inviting(self);
            }
        }
        if response.status == 422
            && let Some(timer) = self.timer.raised(&response.headers)
            && let Some(again) = self.with_timer(timer)
            && let Some(tx) = core.request(half.key, again.clone(), half.leg.flow, now)
        {
            (self.timer, self.tx, self.request) = (timer, tx, again);
            return State::Inviting(self);
        }
        if response.status == 503 {
            // This server, not the trunk (RFC 3263 §4.3).
            return self.next_address(503, half, core, now);
        }
        let status = match response.status {
            // Asked of us, not of the caller: another trunk might not.
            420..=422 => 500,
            status => status,
        };
        reject(EndCause::Rejected, status, half, core, now)
    }

    /// Our INVITE again, for another session interval (RFC 4028 §7.3).
    fn with_timer(&self, timer: Wish) -> Option<Request> {
        let CSeq { number, method } = self.request.headers.cseq()?;
        let mut again = self.request.clone();
        again.headers.set(HeaderName::CSeq, &CSeq { number: number.checked_add(1)?, method });
        timer.put(&mut again.headers);
        // A server that raises it again and again would have us forever.
        (number < INVITES_MAX).then_some(again)
    }

    fn next_address(
        mut self: Box<Self>,
        status: u16,
        half: &mut Half,
        core: &mut Core,
        now: Instant,
    ) -> State {
        core.index.remove(&Handle::Client(self.tx));
        let sent = attempt(&self.wanted, &self.host, &mut self.addresses, half, core, now);
        let Some((tx, request)) = sent else {
            return reject(EndCause::Rejected, status, half, core, now);
        };
        (self.tx, self.request) = (tx, request);
        self.challenged = false;
        self.timer = Wish::new(&core.config.timing);
        self.pracks = Pracks::default();
        self.heard = false;
        self.silence_limit = now + core.config.timing.first_response;
        State::Inviting(self)
    }
}

/// Sends the INVITE to the first address we have a socket for.
fn attempt(
    wanted: &Wanted,
    host: &str,
    addresses: &mut VecDeque<SocketAddr>,
    half: &mut Half,
    core: &mut Core,
    now: Instant,
) -> Option<(ClientTx, Request)> {
    while let Some(remote) = addresses.pop_front() {
        let transport = half.leg.flow.transport;
        let Some(local) = core.local_sip(transport, remote.ip()) else { continue };
        half.leg.flow = Flow { transport, local, remote, connection: 0 };
        half.leg.meet(remote.ip(), core, now);
        half.leg.restart_security();
        let body = half.leg.offer(Description {
            codecs: media::preferred(&wanted.codecs, &half.leg.allowed),
            telephone_event: wanted.media.telephone_event,
            comfort_noise: wanted.media.comfort_noise,
            direction: media::direction(&wanted.media),
            ptime_ms: media::ptime_ms(&wanted.media),
            opus: media::opus(&wanted.media),
            redundant: false,
        });
        let mut request = invite(wanted, host, Wish::new(&core.config.timing), half);
        request.set_body(SDP, body);
        let tx = core.request(half.key, request.clone(), half.leg.flow, now)?;
        return Some((tx, request));
    }
    None
}

fn invite(wanted: &Wanted, host: &str, timer: Wish, half: &Half) -> Request {
    let Leg { flow, call_id, tag, .. } = &half.leg;
    let user = Some(wanted.to.as_str());
    let to = match host.parse::<IpAddr>() {
        Ok(_) => Uri::sip(user, flow.remote),
        Err(_) => Uri::sip_host(user, host, None),
    };
    let mut from = match &wanted.from {
        Some(number) => NameAddr::new(Uri::sip(Some(number.as_str()), flow.local)),
        // RFC 3323 §4.1.1.3
        None => NameAddr::new(Uri::sip_host(Some("anonymous"), "anonymous.invalid", None)),
    };
    from.display = quoted(&wanted.display);
    let mut request = Request::new(Method::Invite, to.clone().with_transport(flow.transport));
    let headers = &mut request.headers;
    headers.push(HeaderName::MaxForwards, wanted.max_forwards);
    headers.push(HeaderName::From, &from.with_tag(tag.clone()));
    headers.push(HeaderName::To, &NameAddr::new(to));
    headers.push(HeaderName::CallId, call_id.clone());
    headers.push(HeaderName::CSeq, &CSeq { number: 1, method: Method::Invite });
    headers.push(HeaderName::Contact, &Leg::contact(flow));
    headers.push(HeaderName::Allow, crate::call::ALLOW);
    timer.put(headers);
    request
}

/// A display name as a quoted string (RFC 3261 §25.1), without what could break the line.
fn quoted(display: &str) -> Option<Bytes> {
    let clean: String = display.chars().filter(|c| !c.is_control()).take(64).collect();
    let escaped = clean.replace('\\', "\\\\").replace('"', "\\\"");
    (!clean.is_empty()).then(|| Bytes::from(format!("\"{escaped}\"")))
}
