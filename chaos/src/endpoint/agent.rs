//! The thread of an agent: sockets, timers, and the SIP side of its calls.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use pop_core::sip::{
    self, CSeq, ClientTx, Dialog, DialogId, DialogState, Event, FailReason, Flow, HeaderName,
    Method, NameAddr, Request, Response, ServerTx, Uri,
};
use proto::time::{Instant, earlier};

use super::call::{Call, Media, Ringing, State};
use super::listener::{Listener, Packet};
use super::report::{End, Side};
use super::session::{self, Agreed};
use super::talker::Talker;
use super::{Board, Config, Dial, Reply, tape};
use crate::rng::Rng;

/// Calls at once; further INVITEs get 503.
const CALLS_MAX: usize = 2_000;
/// Datagrams taken from one socket before the others get their turn.
const BATCH_DATAGRAMS: usize = 64;
/// How often the handle sees news.
const SHOW_EVERY: Duration = Duration::from_millis(250);
/// RTP ports: below the kernel's ephemeral ones.
const FIRST_PORT: u16 = 10_000;
const PORT_PAIRS: u64 = 10_000;
const SIP: Token = Token(0);
const WAKE: Token = Token(usize::MAX);

/// What the handle wants.
#[derive(Debug)]
pub(super) enum Order {
    Dial(u64, Box<Dial>),
    HangUp(u64),
    HangUpAll,
    Stop,
}

pub(super) struct Shell {
    config: Config,
    poll: Poll,
    socket: UdpSocket,
    endpoint: sip::Endpoint,
    calls: BTreeMap<u64, Call>,
    by_client: BTreeMap<ClientTx, u64>,
    by_server: BTreeMap<ServerTx, u64>,
    by_dialog: BTreeMap<DialogId, u64>,
    inbox: Receiver<Order>,
    board: Arc<Mutex<Board>>,
    rng: Rng,
    origin: std::time::Instant,
    next_incoming: u64,
    shown: Instant,
    stop: bool,
}

impl Shell {
    pub(super) fn new(
        config: Config,
        inbox: Receiver<Order>,
        board: Arc<Mutex<Board>>,
    ) -> Result<(Self, Waker)> {
        tape::warm_up()?;
        let poll = Poll::new().context("no epoll instance")?;
        let waker = Waker::new(poll.registry(), WAKE).context("no waker")?;
        let mut socket = UdpSocket::bind(config.address)
            .with_context(|| format!("udp {} cannot be bound", config.address))?;
        poll.registry().register(&mut socket, SIP, Interest::READABLE)?;
        let mut rng = Rng::split(config.seed, &config.address.to_string());
        let endpoint = sip::Endpoint::new(
            sip::Config {
                seed: rng.next_u64(),
                user_agent: "Voxmesh lab".into(),
                ..sip::Config::default()
            },
            Instant::ZERO,
        );
        let shell = Self {
            config,
            poll,
            socket,
            endpoint,
            calls: BTreeMap::new(),
            by_client: BTreeMap::new(),
            by_server: BTreeMap::new(),
            by_dialog: BTreeMap::new(),
            inbox,
            board,
            rng,
            origin: std::time::Instant::now(),
            next_incoming: 1,
            shown: Instant::ZERO,
            stop: false,
        };
        Ok((shell, waker))
    }

    pub(super) fn run(&mut self) {
        let mut events = Events::with_capacity(256);
        let mut ready: BTreeSet<Token> = BTreeSet::new();
        let mut buffer = vec![0; 65_536];
        while !self.stop {
            let timeout = if ready.is_empty() { self.timeout() } else { Duration::ZERO };
            match self.poll.poll(&mut events, Some(timeout)) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => {
                    tracing::error!(error = %e, "an endpoint stopped");
                    return;
                }
                Ok(()) | Err(_) => {}
            }
            ready.extend(events.iter().map(|e| e.token()).filter(|t| *t != WAKE));
            // Edge-triggered: a socket stays ready until a read would block.
            for token in std::mem::take(&mut ready) {
                if self.receive(token, &mut buffer) {
                    ready.insert(token);
                }
            }
            while let Ok(order) = self.inbox.try_recv() {
                self.order(order);
            }
            let now = self.now();
            self.endpoint.handle_timeout(now);
            self.advance(now);
            self.drain(now);
            self.show(now);
        }
    }

    fn now(&self) -> Instant {
        Instant::from_nanos(u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX))
    }

    fn timeout(&self) -> Duration {
        let calls = self.calls.values().filter_map(Call::poll_timeout).min();
        let due = earlier(calls, self.endpoint.poll_timeout());
        let due = due.unwrap_or(self.shown + SHOW_EVERY).min(self.shown + SHOW_EVERY);
        due - self.now()
    }

    /// Takes a batch from one socket; true when there may be more.
    fn receive(&mut self, token: Token, buffer: &mut [u8]) -> bool {
        for _ in 0..BATCH_DATAGRAMS {
            let now = self.now();
            let number = u64::try_from(token.0).unwrap_or(u64::MAX);
            let got = if token == SIP {
                self.socket.recv_from(buffer)
            } else {
                let Some(call) = self.calls.get_mut(&number) else { return false };
                call.rtp.recv_from(buffer)
            };
            match got {
                Ok((len, source)) => {
                    let bytes = buffer.get(..len).unwrap_or_default();
                    if token == SIP {
                        let flow = Flow::udp(self.config.address, source);
                        self.endpoint.handle_message(flow, bytes, now);
                        self.drain(now);
                    } else {
                        self.hear(number, bytes, now);
                    }
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // ICMP port unreachable of an earlier send.
                Err(_) => {}
            }
        }
        true
    }

    fn hear(&mut self, number: u64, bytes: &[u8], now: Instant) {
        let media = self.calls.get_mut(&number).and_then(|call| call.media.as_mut());
        if let Some(media) = media
            && let Some(packet) = Packet::parse(bytes)
        {
            media.listener.handle_packet(&packet, now);
        }
    }

    fn order(&mut self, order: Order) {
        let now = self.now();
        match order {
            Order::Dial(number, dial) => {
                if let Err(why) = self.dial(number, *dial, now) {
                    tracing::error!(error = %why, "a call could not be placed");
                    self.lock().open -= 1;
                }
            }
            Order::HangUp(number) => self.hang_up(number, now),
            Order::HangUpAll => {
                let all: Vec<u64> = self.calls.keys().copied().collect();
                all.into_iter().for_each(|number| self.hang_up(number, now));
            }
            Order::Stop => self.stop = true,
        }
        self.drain(now);
    }

    /// What calls do by themselves: answer, speak, hang up.
    fn advance(&mut self, now: Instant) {
        let due: Vec<u64> = self
            .calls
            .iter()
            .filter(|(_, call)| call.poll_timeout().is_some_and(|at| at <= now))
            .map(|(number, _)| *number)
            .collect();
        for number in due {
            let Some(call) = self.calls.get_mut(&number) else { continue };
            match &call.state {
                State::Ringing(_) => self.answer(number, now),
                State::Up { until: Some(until), .. } if *until <= now => self.hang_up(number, now),
                State::Up { .. } => {
                    if let Some(media) = &mut call.media {
                        while let Some(packet) = media.talker.poll_packet(now) {
                            // A full socket buffer loses the packet, as a network would.
                            let _sent = call.rtp.send_to(&packet, media.agreed.remote);
                        }
                    }
                }
                State::Calling { .. } | State::Ending { .. } | State::Over => {}
            }
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            self.event(event, now);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            if self.socket.send_to(&transmit.bytes, transmit.flow.remote).is_err() {
                self.endpoint.handle_transport_error(transmit.flow, now);
            }
        }
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Request { tx, flow, request } => self.request(tx, flow, &request, now),
            Event::Cancelled { tx } => self.cancelled(tx, now),
            Event::Ack { .. } => {}
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

    fn dial(&mut self, number: u64, dial: Dial, now: Instant) -> Result<()> {
        let local = self.config.address;
        let rtp = self.media_socket(number)?;
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
        let offer = session::offer(rtp.local_addr()?, &dial.codecs);
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
            media: None,
            expect: self.config.voice.other(),
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
            (_, Some(number)) => {
                let response = self.in_dialog(number, request);
                self.endpoint.respond(tx, response, now);
                if request.method == Method::Bye {
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
            Method::Invite => {
                let Some(media) = call.media.as_mut() else { return dialog.respond(request, 488) };
                let Ok(local) = call.rtp.local_addr() else { return dialog.respond(request, 500) };
                match session::answer(&request.body, local, &[media.agreed.codec]) {
                    Ok((agreed, sdp)) => {
                        media.agreed.remote = agreed.remote;
                        let mut response = dialog.respond(request, 200);
                        response.set_body("application/sdp", Bytes::from(sdp));
                        response
                    }
                    Err(_) => dialog.respond(request, 488),
                }
            }
            _ => dialog.respond(request, 405),
        }
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
        let rtp = self.media_socket(number).map_err(|_| 500u16)?;
        let local = rtp.local_addr().map_err(|_| 500u16)?;
        let (agreed, answer) =
            session::answer(&request.body, local, &codecs).map_err(|_| 488u16)?;
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
            media: None,
            expect: self.config.voice,
            state: State::Ringing(Box::new(ringing)),
        };
        self.calls.insert(number, call);
        Ok(())
    }

    fn answer(&mut self, number: u64, now: Instant) {
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
        let media = self.media(agreed, "", self.config.voice.other(), now);
        if let Some(call) = self.calls.get_mut(&number) {
            call.media = media;
        }
        self.endpoint.respond(tx, response, now);
    }

    fn media(
        &mut self,
        agreed: Agreed,
        digits: &str,
        voice: crate::speech::Voice,
        now: Instant,
    ) -> Option<Media> {
        let tape = tape::frames(voice, agreed.codec)
            .inspect_err(|e| tracing::error!(error = %e, "no voice"))
            .ok()?;
        let mut talker = Talker::new(&agreed, tape, &mut self.rng, now);
        talker.dial(digits);
        let clock = agreed.codec.clock_rate();
        let listener = Listener::new(agreed.payload_type, agreed.event_type, clock, now);
        Some(Media { agreed, talker, listener, since: now, last: None })
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
                self.finish(number, End::Completed, now);
            }
            State::Ending { .. } | State::Over | State::Ringing(_) | State::Up { .. } => {}
        }
    }

    /// 2xx to our INVITE.
    fn accepted(&mut self, number: u64, response: &Response, now: Instant) {
        let Some(call) = self.calls.get_mut(&number) else { return };
        let state = std::mem::replace(&mut call.state, State::Over);
        let State::Calling { tx, invite, cancelled } = state else { return };
        call.ringing.get_or_insert(now - call.started);
        call.set_up = Some(now - call.started);
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
        match session::agreed(&response.body) {
            _ if cancelled => self.hang_up(number, now),
            Ok(agreed) => {
                let media = self.media(agreed, &digits, self.config.voice, now);
                if let Some(call) = self.calls.get_mut(&number) {
                    call.media = media;
                }
            }
            Err(why) => {
                self.hang_up(number, now);
                self.finish(number, End::Failed(why), now);
            }
        }
    }

    fn client_failed(&mut self, tx: ClientTx, reason: FailReason, now: Instant) {
        let Some(number) = self.by_client.get(&tx).copied() else { return };
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

    fn hang_up(&mut self, number: u64, now: Instant) {
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

    fn finish(&mut self, number: u64, end: End, now: Instant) {
        let Some(mut call) = self.calls.remove(&number) else { return };
        let _gone = self.poll.registry().deregister(&mut call.rtp);
        self.by_client.retain(|_, n| *n != number);
        self.by_server.retain(|_, n| *n != number);
        self.by_dialog.retain(|_, n| *n != number);
        let finished = call.finish(end, now);
        let mut board = self.lock();
        if call.side == Side::Caller {
            board.open = board.open.saturating_sub(1);
        }
        board.live.retain(|live| live.number != number);
        board.finished.push(finished);
    }

    fn show(&mut self, now: Instant) {
        if now - self.shown < SHOW_EVERY {
            return;
        }
        self.shown = now;
        self.lock().live = self.calls.values().filter_map(|call| call.live(now)).collect();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn media_socket(&mut self, number: u64) -> Result<UdpSocket> {
        let mut socket = even_port(self.config.address.ip(), &mut self.rng)?;
        let token = Token(usize::try_from(number)?);
        self.poll.registry().register(&mut socket, token, Interest::READABLE)?;
        Ok(socket)
    }
}

fn call_up(call: Option<&mut Call>, dialog: Dialog, until: Option<Instant>) {
    if let Some(call) = call {
        call.state = State::Up { dialog: Box::new(dialog), until };
    }
}

/// RTP on an even port (RFC 3550 §11), so that the far side's RTCP does not meet another call.
fn even_port(ip: IpAddr, rng: &mut Rng) -> Result<UdpSocket> {
    for _ in 0..200 {
        let pair = u16::try_from(rng.below(PORT_PAIRS)).unwrap_or(0);
        if let Ok(socket) = UdpSocket::bind(SocketAddr::new(ip, FIRST_PORT + 2 * pair)) {
            return Ok(socket);
        }
    }
    bail!("no free UDP port for media on {ip}")
}
