//! The half where the call leaves, until it is answered: calls a trunk.
//!
//! Resolves the trunk's host if it is a name, then tries its addresses in turn (RFC 3263 §4.3). The
//! offer has the caller's codecs first, then the rest the trunk may use: the ingress can transcode.
//! Of forked early dialogs (RFC 3261 §12.1) the first 2xx wins; others are ended by
//! `Core::stray_answer`, as is a 2xx that crosses our CANCEL.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use proto::call::call_message::Kind;
use proto::call::{CallAnswer, CallProgress, CallReject, CallSetup, Media};
use proto::control;
use proto::e164::E164;
use proto::id::{StreamId, TrunkId};
use proto::time::Instant;

use super::info::Infos;
use super::leg::{Agreed, FarMedia, SDP};
use super::liveness::Liveness;
use super::reinvite::Exchange;
use super::reliable::Pracks;
use super::session::Session;
use super::timer::{Terms, Wish};
use super::{
    Begin, Begun, EndCause, Half, Input, Leg, Link, Opening, Record, Side, State, fork, media,
    plain,
};
use crate::codec::Codec;
use crate::pop::Refusal;
use crate::pop::core::Core;
use crate::pop::index::Handle;
use crate::sdp::offer_answer::Description;
use crate::sip::{
    CSeq, ClientTx, Dialog, FailReason, Flow, HeaderName, Method, NameAddr, Request, Response,
    Text, Transport, Uri,
};

/// More addresses of one trunk are not tried for one call.
const ADDRESSES_MAX: usize = 3;
/// INVITEs to one address: with credentials, and for longer session intervals.
const INVITES_MAX: u32 = 4;

/// A setup whose fields are checked.
#[derive(Debug)]
struct Wanted {
    trunk: TrunkId,
    from: Option<E164>,
    to: E164,
    display: String,
    max_forwards: u32,
    media: Media,
    codecs: Vec<Codec>,
}

impl Wanted {
    fn of(setup: CallSetup) -> Option<Self> {
        let media = setup.media?;
        let codecs = media::codecs(&media);
        let from = match setup.from.as_str() {
            "" => None,
            from => Some(E164::parse(from).ok()?),
        };
        (!codecs.is_empty()).then_some(Self {
            trunk: TrunkId::new(&setup.trunk_id).ok()?,
            from,
            to: E164::parse(&setup.to).ok()?,
            display: setup.from_display,
            max_forwards: setup.max_forwards.min(255),
            media,
            codecs,
        })
    }
}

/// Takes a setup, or rejects it and gives `None`.
pub(super) fn begin(begin: Begin, core: &mut Core, now: Instant) -> Option<(Half, State)> {
    let Begin { key, back, leg, peer_leg, call_id, setup } = begin;
    let (wanted, trunk) = match check(&back, setup, core) {
        Ok(checked) => checked,
        Err((status, refusal)) => {
            core.counters.refuse(refusal);
            core.reject(back, status, refusal.name());
            return None;
        }
    };
    core.counters.calls_out += 1;
    let transport = match trunk.transport() {
        control::Transport::Tcp => Transport::Tcp,
        control::Transport::Unspecified | control::Transport::Udp => Transport::Udp,
    };
    // The remote address is set before anything is sent.
    let nowhere = SocketAddr::new(IpAddr::from([0, 0, 0, 0]), 0);
    let flow = Flow { transport, local: nowhere, remote: nowhere, connection: 0 };
    let opening =
        Opening { id: leg, trunk: wanted.trunk.clone(), flow, call_id: core.endpoint.new_token() };
    let Some(leg) = Leg::open(key, opening, core, now) else {
        core.counters.refuse(Refusal::NoPort);
        core.reject(back, 503, Refusal::NoPort.name());
        return None;
    };
    // The other POP has the call: its timer for a dead candidate stops, ours run now.
    core.send(&back, Kind::Progress(CallProgress { status: 100, media: None }));
    let peer = match &back {
        Link::Remote(stream) => Some(stream.peer.clone()),
        Link::Local(_) => None,
    };
    let record = Record {
        from: wanted.from.clone(),
        to: wanted.to.clone(),
        trunk_in: None,
        trunk_out: Some(wanted.trunk.clone()),
        peer,
        started: now,
        ringing: None,
        answered: None,
        attempts: 1,
    };
    let begun = Begun { key, call_id, side: Side::Egress, link: Some(back), peer_leg };
    let mut half = Half::new(begun, leg, record, core);
    let state = call_out(wanted, &trunk, transport, &mut half, core, now);
    Some((half, state))
}

fn check(
    back: &Link,
    setup: CallSetup,
    core: &Core,
) -> Result<(Wanted, control::Trunk), (u16, Refusal)> {
    if core.closing {
        return Err((503, Refusal::ShuttingDown));
    }
    if let Link::Remote(stream) = back {
        // A POP that is not in the view is none of the mesh, or not yet.
        if core.view.pop(&stream.peer).is_none_or(|pop| setup.epoch < pop.epoch) {
            return Err((503, Refusal::StaleEpoch));
        }
        if core.is_overloaded() {
            return Err((503, Refusal::Overload));
        }
    }
    let wanted = Wanted::of(setup).ok_or((500, Refusal::BadPeerMessage))?;
    let is_here = |trunk: &&control::Trunk| {
        !trunk.host.is_empty() && trunk.pop_ids.iter().any(|pop| pop == core.config.id.as_str())
    };
    let trunk = core.view.trunk(&wanted.trunk).filter(is_here);
    // The other POP's view may be ahead of ours: it should try another way.
    let trunk = trunk.cloned().ok_or((503, Refusal::NoRoute))?;
    if core.is_full(&wanted.trunk) {
        return Err((503, Refusal::TrunkFull));
    }
    if media::preferred(&wanted.codecs, &media::trunk_codecs(&trunk)).is_empty() {
        return Err((488, Refusal::BadOffer));
    }
    Ok((wanted, trunk))
}

fn call_out(
    wanted: Wanted,
    trunk: &control::Trunk,
    transport: Transport,
    half: &mut Half,
    core: &mut Core,
    now: Instant,
) -> State {
    let port = u16::try_from(trunk.port).unwrap_or(0);
    let host = trunk.host.trim_matches(['[', ']']);
    if let Ok(address) = host.parse::<IpAddr>() {
        let address = SocketAddr::new(address, if port == 0 { 5060 } else { port });
        let addresses = VecDeque::from([address]);
        return Inviting::start(wanted, trunk.host.clone(), addresses, half, core, now);
    }
    core.resolve(half.key, host.to_owned(), port, transport);
    let deadline = now + core.config.timing.first_response;
    State::Resolving(Box::new(Resolving { wanted, host: host.to_owned(), deadline }))
}

/// Ends the half with a verdict for the other one.
fn reject(cause: EndCause, status: u16, half: &mut Half, core: &mut Core, now: Instant) -> State {
    let reason = crate::sip::reason_phrase(status).to_owned();
    half.part(Kind::Reject(CallReject { status: u32::from(status), reason }), core);
    half.finish(cause, status, core, now);
    State::Over
}

/// The other half gave up or is gone.
fn give_up(cause: EndCause, half: &mut Half, core: &mut Core, now: Instant) -> State {
    half.drop_link(core);
    half.finish(cause, 487, core, now);
    State::Over
}

/// Why the other half's message or silence ends a set-up; `None` if it does not.
fn gave_up(input: &Input) -> Option<EndCause> {
    match input {
        Input::Far(Kind::Cancel(_) | Kind::Bye(_)) => Some(EndCause::CallerCancelled),
        Input::FarLost => Some(EndCause::LinkLost),
        _ => None,
    }
}

// ---------------------------------------------------------------- resolving

#[derive(Debug)]
pub(crate) struct Resolving {
    wanted: Wanted,
    host: String,
    deadline: Instant,
}

impl Resolving {
    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    pub(super) fn handle(
        self: Box<Self>,
        half: &mut Half,
        input: Input,
        core: &mut Core,
        now: Instant,
    ) -> State {
        if let Some(cause) = gave_up(&input) {
            return give_up(cause, half, core, now);
        }
        match input {
            Input::Resolved(Ok(addresses)) => {
                let addresses = addresses.into_iter().take(ADDRESSES_MAX).collect();
                Inviting::start(self.wanted, self.host, addresses, half, core, now)
            }
            Input::Resolved(Err(_)) => reject(EndCause::Rejected, 503, half, core, now),
            Input::Shutdown => reject(EndCause::Shutdown, 503, half, core, now),
            Input::Timeout if self.deadline <= now => {
                reject(EndCause::Rejected, 408, half, core, now)
            }
            _ => State::Resolving(self),
        }
    }
}

// ---------------------------------------------------------------- inviting

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
    pub(super) fn deadline(&self) -> Instant {
        if self.heard { self.ring_limit } else { self.silence_limit.min(self.ring_limit) }
    }

    fn start(
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

    pub(super) fn handle(
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
                    _ => super::other_request(&request),
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
        let agreed = half.leg.accept_answer(&response.body, core);
        let media = agreed.map(|agreed| {
            self.early.insert(fork(response), response.body.clone());
            self.join(agreed, half, core)
        });
        half.tell(Kind::Progress(CallProgress { status, media }), core);
    }

    /// Joins our leg with the other half and says what it needs to know.
    fn join(&self, agreed: Agreed, half: &mut Half, core: &mut Core) -> Media {
        let far = FarMedia {
            codec: agreed.codec,
            telephone_event: self.wanted.media.telephone_event,
            send: StreamId(self.wanted.media.stream),
        };
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
            return super::ending::end(dialog, None, None, half, core, now);
        };
        half.record.answered = Some(now);
        let media = self.join(agreed, half, core);
        half.tell(Kind::Answer(CallAnswer { media: Some(media) }), core);
        let wish = media::direction(&self.wanted.media);
        let terms = Terms::as_client(&response.headers);
        let liveness = Liveness::new(terms, self.timer, &response.headers, half, core, now);
        let (exchange, infos) = (Exchange::Idle, Infos::default());
        State::Talking(Box::new(Session { dialog, wish, exchange, liveness, infos }))
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
        let body = half.leg.offer(Description {
            codecs: media::preferred(&wanted.codecs, &half.leg.allowed),
            telephone_event: wanted.media.telephone_event,
            direction: media::direction(&wanted.media),
            ptime_ms: media::ptime_ms(&wanted.media),
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
    headers.push(HeaderName::Allow, super::ALLOW);
    timer.put(headers);
    request
}

/// A display name as a quoted string (RFC 3261 §25.1), without what could break the line.
fn quoted(display: &str) -> Option<Bytes> {
    let clean: String = display.chars().filter(|c| !c.is_control()).take(64).collect();
    let escaped = clean.replace('\\', "\\\\").replace('"', "\\\"");
    (!clean.is_empty()).then(|| Bytes::from(format!("\"{escaped}\"")))
}
