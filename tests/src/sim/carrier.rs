//! The callers and callees beside a POP: one SIP endpoint, a phone on each side of each call.
//!
//! Phones follow the plan. Each RTP packet carries the number of its call and its side, so that a
//! packet in a wrong ear is seen.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;

use bytes::Bytes;
use pop_core::sip::{
    CSeq, ClientTx, Config, Dialog, DialogId, Endpoint, Event, Flow, HeaderName, Method, NameAddr,
    Request, Response, ServerTx, Uri,
};
use proto::time::{Duration, Instant, earlier};

use super::net::{carrier_sip, pop_sip};
use super::operator::number;
use super::plan::{CallPlan, Callee, End};

const PACKET: Duration = Duration::from_millis(20);
const HOLD: Duration = Duration::from_secs(1);
const FIRST_PORT: u16 = 30_000;
const SAMPLES: u32 = 160;
const PCMU: u8 = 0;
const PCMA: u8 = 8;

/// Which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    Caller,
    Callee,
}

/// What a phone tells at the end.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// INVITE sent or received.
    pub began: Option<Instant>,
    /// 2xx received or sent.
    pub answered: Option<Instant>,
    /// Final status at the caller, or the one the callee sent.
    pub status: Option<u16>,
    /// It stopped talking: hung up, or was told.
    pub quiet: Option<Instant>,
    /// The call is over for this phone.
    pub ended: Option<Instant>,
    /// It ended because nobody answered a request.
    pub timed_out: bool,
    /// A CANCEL was sent.
    pub cancelled: bool,
    /// RTP packets.
    pub sent: u64,
    pub received: u64,
    /// Received, but of another call or side.
    pub foreign: u64,
    /// Offered hold, and was answered.
    pub held: bool,
}

#[derive(Debug)]
enum State {
    Idle,
    /// Our INVITE is out.
    Calling {
        tx: ClientTx,
        invite: Box<Request>,
    },
    /// Their INVITE is in.
    Ringing {
        tx: ServerTx,
        invite: Box<Request>,
        dialog: Box<Dialog>,
    },
    Up {
        dialog: Box<Dialog>,
    },
    /// Our BYE is out.
    Ending {
        bye: ClientTx,
    },
    Over,
}

/// A phone.
struct Phone {
    side: Side,
    plan: CallPlan,
    state: State,
    report: Report,
    port: u16,
    remote: Option<SocketAddr>,
    payload_type: u8,
    may_send: bool,
    sequence: u16,
    next_packet: Option<Instant>,
    /// The next thing to do by the plan.
    due: BTreeMap<Todo, Instant>,
    reinvite: Option<ClientTx>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Todo {
    Answer,
    Call,
    Cancel,
    HangUp,
    Hold,
    Resume,
}

/// A carrier.
pub struct Carrier {
    region: usize,
    endpoint: Endpoint,
    phones: BTreeMap<(usize, Side), Phone>,
    clients: BTreeMap<ClientTx, (usize, Side)>,
    servers: BTreeMap<ServerTx, (usize, Side)>,
    dialogs: BTreeMap<DialogId, (usize, Side)>,
    out: VecDeque<(SocketAddr, SocketAddr, Bytes)>,
}

impl Carrier {
    pub fn new(region: usize, seed: u64, calls: &[CallPlan]) -> Self {
        let seed = chaos::rng::Rng::split(seed, "carrier").next_u64() + region as u64;
        let mut phones = BTreeMap::new();
        for plan in calls {
            if plan.from == region {
                let mut phone = Phone::new(plan, Side::Caller);
                phone.due.insert(Todo::Call, plan.at);
                phones.insert((plan.number, Side::Caller), phone);
            }
            if plan.to == region {
                phones.insert((plan.number, Side::Callee), Phone::new(plan, Side::Callee));
            }
        }
        Self {
            region,
            endpoint: Endpoint::new(Config { seed, ..Config::default() }, Instant::ZERO),
            phones,
            clients: BTreeMap::new(),
            servers: BTreeMap::new(),
            dialogs: BTreeMap::new(),
            out: VecDeque::new(),
        }
    }

    /// What the phones have to tell.
    pub fn reports(&self) -> impl Iterator<Item = (&CallPlan, Side, &Report)> {
        self.phones.values().map(|phone| (&phone.plan, phone.side, &phone.report))
    }

    /// No phone does anything any more.
    pub fn is_idle(&self) -> bool {
        let quiet = |phone: &Phone| matches!(phone.state, State::Idle | State::Over);
        self.endpoint.is_idle() && self.phones.values().all(|p| quiet(p) && p.due.is_empty())
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let phones = self.phones.values().filter_map(Phone::poll_timeout).min();
        earlier(phones, self.endpoint.poll_timeout())
    }

    /// A datagram to send: from, to, bytes.
    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, SocketAddr, Bytes)> {
        self.out.pop_front()
    }

    pub fn handle_sip(&mut self, source: SocketAddr, bytes: &[u8], now: Instant) {
        self.endpoint.handle_message(Flow::udp(carrier_sip(self.region), source), bytes, now);
        self.drain(now);
    }

    /// A packet on a phone's RTP port; RTCP is not looked at.
    pub fn handle_rtp(&mut self, port: u16, bytes: &[u8]) {
        let found = self.phones.values_mut().find(|phone| phone.port == port);
        if let Some(phone) = found {
            phone.hear(bytes);
        }
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.endpoint.handle_timeout(now);
        let keys: Vec<(usize, Side)> = self.phones.keys().copied().collect();
        for key in keys {
            let Some(phone) = self.phones.get_mut(&key) else { continue };
            while let Some(packet) = phone.speak(now) {
                self.out.push_back((phone.address(), packet.0, packet.1));
            }
            let todo: Vec<Todo> =
                phone.due.iter().filter(|(_, at)| **at <= now).map(|(todo, _)| *todo).collect();
            for todo in todo {
                if let Some(phone) = self.phones.get_mut(&key) {
                    phone.due.remove(&todo);
                }
                self.act(key, todo, now);
            }
        }
        self.drain(now);
    }

    fn act(&mut self, key: (usize, Side), todo: Todo, now: Instant) {
        match todo {
            Todo::Call => self.dial(key, now),
            Todo::Answer => self.answer(key, now),
            Todo::Cancel => self.cancel(key, now),
            Todo::HangUp => self.hang_up(key, now),
            Todo::Hold => self.offer_again(key, "sendonly", now),
            Todo::Resume => self.offer_again(key, "sendrecv", now),
        }
    }

    fn drain(&mut self, now: Instant) {
        while let Some(event) = self.endpoint.poll_event() {
            match event {
                Event::Request { tx, flow: _, request } => self.request(tx, &request, now),
                Event::Cancelled { tx } => self.cancelled(tx, now),
                Event::Ack { .. } => {}
                Event::Response { tx, response } => self.response(tx, &response, now),
                Event::ClientFailed { tx, .. } => {
                    if let Some(key) = self.clients.get(&tx).copied() {
                        self.over(key, |report| report.timed_out = true, now);
                    }
                }
                Event::AckMissing { tx } => {
                    if let Some(key) = self.servers.get(&tx).copied() {
                        self.hang_up(key, now);
                    }
                }
            }
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.out.push_back((transmit.flow.local, transmit.flow.remote, transmit.bytes));
        }
    }

    // ------------------------------------------------------------ caller

    fn dial(&mut self, key: (usize, Side), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let (plan, local, pop) =
            (phone.plan.clone(), carrier_sip(self.region), pop_sip(self.region));
        let (from, to) = (number(plan.from, 9_000 + plan.number), number(plan.to, plan.number));
        let mut invite = Request::new(Method::Invite, Uri::sip(Some(&to), pop));
        let tag = self.endpoint.new_token();
        let from_address = NameAddr::new(Uri::sip(Some(&from), local)).with_tag(tag);
        invite.headers.push(HeaderName::From, &from_address);
        invite.headers.push(HeaderName::To, &NameAddr::new(Uri::sip(Some(&to), pop)));
        invite.headers.push(HeaderName::CallId, format!("call-{}", plan.number));
        invite.headers.push(HeaderName::CSeq, &CSeq { number: 1, method: Method::Invite });
        invite.headers.push(HeaderName::Contact, &NameAddr::new(Uri::sip(Some(&from), local)));
        let codecs: &[u8] = if plan.transcoded { &[PCMU] } else { &[PCMU, PCMA] };
        invite.set_body("application/sdp", sdp(phone.address(), codecs, "sendrecv"));
        phone.report.began = Some(now);
        if let End::Cancel(after) = plan.end {
            phone.due.insert(Todo::Cancel, now + after);
        }
        let flow = Flow::udp(local, pop);
        let tx = self.endpoint.request(invite.clone(), flow, now).expect("a simulation is small");
        phone.state = State::Calling { tx, invite: Box::new(invite) };
        self.clients.insert(tx, key);
    }

    fn cancel(&mut self, key: (usize, Side), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        match &phone.state {
            State::Calling { tx, .. } => {
                phone.report.cancelled = true;
                self.endpoint.cancel(*tx, now);
            }
            State::Up { .. } => self.hang_up(key, now),
            State::Idle | State::Ringing { .. } | State::Ending { .. } | State::Over => {}
        }
    }

    fn response(&mut self, tx: ClientTx, response: &Response, now: Instant) {
        let Some(key) = self.clients.get(&tx).copied() else { return };
        let Some(phone) = self.phones.get_mut(&key) else { return };
        if phone.reinvite == Some(tx) && response.is_final() {
            self.answered_again(key, response, now);
            return;
        }
        match &phone.state {
            State::Calling { invite, .. } if response.is_success() => {
                let dialog = Dialog::uac(invite, response).expect("a 2xx makes a dialog");
                self.up(key, tx, dialog, response, now);
            }
            State::Calling { .. } if response.is_final() => {
                self.over(key, |report| report.status = Some(response.status), now);
            }
            State::Ending { bye } if *bye == tx && response.is_final() => {
                self.over(key, |_| {}, now);
            }
            _ => {}
        }
    }

    /// 2xx to our INVITE.
    fn up(
        &mut self,
        key: (usize, Side),
        tx: ClientTx,
        dialog: Dialog,
        response: &Response,
        now: Instant,
    ) {
        let flow = self.flow(&dialog);
        self.endpoint.send_ack(tx, dialog.ack(1), flow, now);
        self.dialogs.insert(dialog.id(), key);
        let Some(phone) = self.phones.get_mut(&key) else { return };
        phone.report.status = Some(response.status);
        phone.report.answered = Some(now);
        phone.state = State::Up { dialog: Box::new(dialog) };
        phone.agree(&response.body);
        phone.talk(now);
        if phone.report.cancelled {
            // The CANCEL crossed the answer (RFC 3261 §15).
            self.hang_up(key, now);
        }
    }

    // ------------------------------------------------------------ callee

    fn request(&mut self, tx: ServerTx, request: &Request, now: Instant) {
        let known = DialogId::of_request(request).and_then(|id| self.dialogs.get(&id).copied());
        let response = match (known, &request.method) {
            (Some(key), _) => Some(self.in_dialog(key, request, now)),
            (None, Method::Invite) if !request.is_in_dialog() => self
                .invited(tx, request, now)
                .err()
                .map(|status| Response::to_request(request, status)),
            (None, Method::Options) => Some(Response::to_request(request, 200)),
            (None, _) => Some(Response::to_request(request, 481)),
        };
        if let Some(response) = response {
            self.endpoint.respond(tx, response, now);
        }
    }

    fn invited(&mut self, tx: ServerTx, request: &Request, now: Instant) -> Result<(), u16> {
        let to = request.uri.user_unescaped().ok_or(404_u16)?;
        let mine = |p: &&Phone| p.side == Side::Callee && number(p.plan.to, p.plan.number) == to;
        let key =
            self.phones.values().find(mine).map(|p| (p.plan.number, p.side)).ok_or(404_u16)?;
        let tag = self.endpoint.new_token();
        let phone = self.phones.get_mut(&key).ok_or(404_u16)?;
        if !matches!(phone.state, State::Idle) {
            // Another candidate of the same call, while the first is not over.
            return Err(486);
        }
        phone.report.began.get_or_insert(now);
        if phone.plan.callee == Callee::Busy {
            phone.report.status = Some(486);
            return Err(486);
        }
        phone.pick(&request.body)?;
        let contact = NameAddr::new(Uri::sip(Some(&to), carrier_sip(self.region)));
        let dialog = Dialog::uas(request, &tag, contact).map_err(|_| 400_u16)?;
        if let Callee::Answers(after) = phone.plan.callee {
            phone.due.insert(Todo::Answer, now + after);
        }
        self.endpoint.respond(tx, dialog.respond(request, 180), now);
        self.dialogs.insert(dialog.id(), key);
        self.servers.insert(tx, key);
        let invite = Box::new(request.clone());
        phone.state = State::Ringing { tx, invite, dialog: Box::new(dialog) };
        Ok(())
    }

    fn answer(&mut self, key: (usize, Side), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let State::Ringing { tx, invite, mut dialog } =
            std::mem::replace(&mut phone.state, State::Over)
        else {
            return;
        };
        let mut response = dialog.respond(&invite, 200);
        response
            .set_body("application/sdp", sdp(phone.address(), &[phone.payload_type], "sendrecv"));
        dialog.confirm();
        phone.state = State::Up { dialog };
        phone.report.status = Some(200);
        phone.report.answered = Some(now);
        phone.talk(now);
        self.endpoint.respond(tx, response, now);
    }

    fn cancelled(&mut self, tx: ServerTx, now: Instant) {
        let Some(key) = self.servers.get(&tx).copied() else { return };
        let Some(phone) = self.phones.get_mut(&key) else { return };
        if let State::Ringing { invite, dialog, .. } = &phone.state {
            let response = dialog.respond(invite, 487);
            self.endpoint.respond(tx, response, now);
            self.over(key, |report| report.status = Some(487), now);
        }
    }

    // ------------------------------------------------------------ both

    fn in_dialog(&mut self, key: (usize, Side), request: &Request, now: Instant) -> Response {
        let Some(phone) = self.phones.get_mut(&key) else {
            return Response::to_request(request, 481);
        };
        let local = phone.address();
        match &mut phone.state {
            State::Up { dialog, .. } => {
                if dialog.accept_request(request).is_err() {
                    return dialog.respond(request, 500);
                }
                if request.method == Method::Bye {
                    let response = dialog.respond(request, 200);
                    self.over(key, |_| {}, now);
                    return response;
                }
                if request.method == Method::Invite {
                    let direction = mirrored(direction(&request.body));
                    let mut response = dialog.respond(request, 200);
                    response
                        .set_body("application/sdp", sdp(local, &[phone.payload_type], direction));
                    phone.agree(&request.body);
                    phone.may_send = direction.starts_with("send");
                    phone.talk_again(now);
                    return response;
                }
                dialog.respond(request, 405)
            }
            // Our BYE crossed theirs.
            State::Ending { .. } | State::Over => {
                let status = if request.method == Method::Bye { 200 } else { 481 };
                Response::to_request(request, status)
            }
            State::Ringing { dialog, .. } if request.method == Method::Bye => {
                dialog.respond(request, 200)
            }
            State::Idle | State::Calling { .. } | State::Ringing { .. } => {
                Response::to_request(request, 491)
            }
        }
    }

    fn hang_up(&mut self, key: (usize, Side), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let State::Up { dialog, .. } = &mut phone.state else { return };
        let bye = dialog.request(Method::Bye);
        let flow = Flow::udp(
            carrier_sip(self.region),
            dialog.next_hop().socket_addr().unwrap_or(pop_sip(self.region)),
        );
        phone.quiet(now);
        let tx = self.endpoint.request(bye, flow, now).expect("a simulation is small");
        phone.state = State::Ending { bye: tx };
        self.clients.insert(tx, key);
    }

    /// A re-INVITE with another direction.
    fn offer_again(&mut self, key: (usize, Side), direction: &str, now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let local = phone.address();
        let State::Up { dialog, .. } = &mut phone.state else { return };
        let mut invite = dialog.request(Method::Invite);
        invite.set_body("application/sdp", sdp(local, &[phone.payload_type], direction));
        let flow = Flow::udp(
            carrier_sip(self.region),
            dialog.next_hop().socket_addr().unwrap_or(pop_sip(self.region)),
        );
        let tx = self.endpoint.request(invite, flow, now).expect("a simulation is small");
        phone.reinvite = Some(tx);
        self.clients.insert(tx, key);
        if direction == "sendonly" {
            phone.due.insert(Todo::Resume, now + HOLD);
        }
    }

    fn answered_again(&mut self, key: (usize, Side), response: &Response, now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        let Some(tx) = phone.reinvite.take() else { return };
        if !response.is_success() {
            return;
        }
        phone.report.held = true;
        let cseq = response.headers.cseq().map_or(0, |cseq| cseq.number);
        if let State::Up { dialog, .. } = &mut phone.state {
            dialog.update_from_response(response);
            let ack = dialog.ack(cseq);
            let dialog = dialog.clone();
            phone.agree(&response.body);
            let flow = self.flow(&dialog);
            self.endpoint.send_ack(tx, ack, flow, now);
        }
    }

    fn over(&mut self, key: (usize, Side), note: impl FnOnce(&mut Report), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        phone.quiet(now);
        phone.state = State::Over;
        phone.report.ended.get_or_insert(now);
        note(&mut phone.report);
    }

    fn flow(&self, dialog: &Dialog) -> Flow {
        let next = dialog.next_hop().socket_addr().unwrap_or(pop_sip(self.region));
        Flow::udp(carrier_sip(self.region), next)
    }
}

impl Phone {
    fn new(plan: &CallPlan, side: Side) -> Self {
        let offset = if side == Side::Callee { 2 } else { 0 };
        let port = FIRST_PORT + 4 * u16::try_from(plan.number).unwrap_or(0) + offset;
        Self {
            side,
            plan: plan.clone(),
            state: State::Idle,
            report: Report::default(),
            port,
            remote: None,
            payload_type: PCMU,
            may_send: true,
            sequence: 0,
            next_packet: None,
            due: BTreeMap::new(),
            reinvite: None,
        }
    }

    fn address(&self) -> SocketAddr {
        let region = if self.side == Side::Caller { self.plan.from } else { self.plan.to };
        SocketAddr::new(carrier_sip(region).ip(), self.port)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.due.values().min().copied(), self.next_packet)
    }

    /// Answered: speech begins, and the plan's end comes nearer.
    fn talk(&mut self, now: Instant) {
        self.due.remove(&Todo::Cancel);
        match (self.plan.end, self.side) {
            (End::Caller(after), Side::Caller) | (End::Callee(after), Side::Callee) => {
                self.due.insert(Todo::HangUp, now + after);
            }
            // Answered before it was cancelled: hangs up instead.
            (End::Cancel(after), Side::Caller) => {
                self.due.insert(Todo::HangUp, now + after);
            }
            (End::Cancel(_) | End::Caller(_) | End::Callee(_), _) => {}
        }
        if let (Some(after), Side::Caller) = (self.plan.hold_after, self.side) {
            self.due.insert(Todo::Hold, now + after);
        }
        self.talk_again(now);
    }

    fn talk_again(&mut self, now: Instant) {
        self.next_packet.get_or_insert(now + PACKET);
    }

    fn quiet(&mut self, now: Instant) {
        self.report.quiet.get_or_insert(now);
        self.next_packet = None;
        self.due.clear();
    }

    /// The next RTP packet, when it is time.
    fn speak(&mut self, now: Instant) -> Option<(SocketAddr, Bytes)> {
        let due = self.next_packet.filter(|due| *due <= now)?;
        self.next_packet = Some(due + PACKET);
        self.sequence = self.sequence.wrapping_add(1);
        let remote = self.remote.filter(|_| self.may_send)?;
        self.report.sent += 1;
        let mut packet = vec![0x80, self.payload_type];
        packet.extend(self.sequence.to_be_bytes());
        packet.extend((u32::from(self.sequence) * SAMPLES).to_be_bytes());
        packet.extend((u32::from(self.port)).to_be_bytes());
        packet.extend(mark(self.plan.number, self.side));
        packet.resize(12 + SAMPLES as usize, 0x55);
        Some((remote, packet.into()))
    }

    fn hear(&mut self, bytes: &[u8]) {
        let other = if self.side == Side::Caller { Side::Callee } else { Side::Caller };
        let expected = mark(self.plan.number, other);
        self.report.received += 1;
        let same_codec = !self.plan.transcoded;
        if same_codec && bytes.get(12..12 + expected.len()) != Some(&expected) {
            self.report.foreign += 1;
        }
    }

    /// Where the far side wants RTP, and which codec it chose.
    fn agree(&mut self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        let Some((port, codecs)) = audio(&text) else { return };
        let ip = text.lines().find_map(|line| line.strip_prefix("c=IN IP4 ")?.trim().parse().ok());
        self.remote = ip.map(|ip| SocketAddr::new(ip, port));
        self.payload_type = codecs.first().copied().unwrap_or(self.payload_type);
    }

    /// A callee chooses from an offer.
    fn pick(&mut self, body: &[u8]) -> Result<(), u16> {
        self.agree(body);
        let text = String::from_utf8_lossy(body);
        let (_, offered) = audio(&text).ok_or(488_u16)?;
        let wanted: &[u8] = if self.plan.transcoded { &[PCMA] } else { &[PCMU, PCMA] };
        let chosen = offered.into_iter().find(|codec| wanted.contains(codec));
        self.payload_type = chosen.ok_or(488_u16)?;
        Ok(())
    }
}

/// What a payload begins with. PCMU and PCMA relayed without change keep it.
fn mark(number: usize, side: Side) -> [u8; 4] {
    let [low, high, ..] = number.to_le_bytes();
    [0xa5, low, high, if side == Side::Caller { 1 } else { 2 }]
}

fn sdp(local: SocketAddr, codecs: &[u8], direction: &str) -> Bytes {
    let types: Vec<String> = codecs.iter().map(ToString::to_string).collect();
    let ip = local.ip();
    let text = format!(
        "v=0\r\no=phone {port} 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {}\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n\
         a=ptime:20\r\na={direction}\r\n",
        types.join(" "),
        port = local.port(),
    );
    text.into()
}

/// Port and payload types of the audio line.
fn audio(text: &str) -> Option<(u16, Vec<u8>)> {
    let line = text.lines().find_map(|line| line.strip_prefix("m=audio "))?;
    let mut words = line.split_whitespace();
    let port = words.next()?.parse().ok()?;
    Some((port, words.skip(1).filter_map(|t| t.parse().ok()).collect()))
}

fn direction(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let known = ["sendonly", "recvonly", "inactive"];
    let found = known.into_iter().find(|d| text.contains(&format!("a={d}")));
    found.unwrap_or("sendrecv").to_owned()
}

fn mirrored(direction: String) -> &'static str {
    match direction.as_str() {
        "sendonly" => "recvonly",
        "recvonly" => "sendonly",
        "inactive" => "inactive",
        _ => "sendrecv",
    }
}
