//! The callers and callees beside a POP: one SIP endpoint, a phone on each side of each call.
//!
//! Each RTP packet carries the number of its call and its side, so that a packet in a wrong ear is
//! seen.

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
use super::phone::{PCMA, PCMU, Phone, State, Todo, direction, mirrored, sdp};
pub use super::phone::{Report, Side};
use super::plan::{CallPlan, Callee, End};

/// How long a caller holds.
const HOLD: Duration = Duration::from_secs(1);

/// A call that is not answered, and not ended, is given up after this.
const GIVE_UP: Duration = Duration::from_secs(60);

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

    /// Which phones are not at rest, and what the endpoint does.
    pub fn waiting(&self) -> String {
        let rests = |phone: &&Phone| !matches!(phone.state, State::Idle | State::Over);
        let phones = self.phones.values().filter(rests);
        let said = phones.map(|p| format!("{} {:?}: {:?}", p.plan.number, p.side, p.report));
        format!(
            "{}; {} transactions",
            said.collect::<Vec<_>>().join(", "),
            self.endpoint.transactions()
        )
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
            Todo::GiveUp => self.give_up(key, now),
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
                Event::Ack { .. } | Event::PrackMissing { .. } => {}
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
        phone.due.insert(Todo::GiveUp, now + GIVE_UP);
        if let End::Cancel(after) = plan.end {
            phone.due.insert(Todo::Cancel, now + after);
        }
        let flow = Flow::udp(local, pop);
        let tx = self.endpoint.request(invite.clone(), flow, now).expect("a simulation is small");
        phone.state = State::Calling { tx, invite: Box::new(invite) };
        self.clients.insert(tx, key);
    }

    /// Its POP says nothing any more (as Timer C, RFC 3261 §16.6).
    fn give_up(&mut self, key: (usize, Side), now: Instant) {
        let Some(phone) = self.phones.get_mut(&key) else { return };
        match &phone.state {
            State::Calling { .. } => self.cancel(key, now),
            State::Ringing { tx, invite, dialog } => {
                let response = dialog.respond(invite, 480);
                self.endpoint.respond(*tx, response, now);
                self.over(key, |report| report.status = Some(480), now);
            }
            State::Idle | State::Up { .. } | State::Ending { .. } | State::Over => {}
        }
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
        phone.due.insert(Todo::GiveUp, now + GIVE_UP);
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
                if request.method == Method::Invite
                    && let Some(tx) = phone.reinvite.take()
                {
                    // RFC 3261 §14.2. Ours may never be answered: it does not stand in the way twice.
                    let response = dialog.respond(request, 491);
                    self.endpoint.cancel(tx, now);
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
        phone.report.hung_up = Some(now);
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
        if let Some(tx) = phone.reinvite.take() {
            // Its POP may be gone, and never answer.
            self.endpoint.cancel(tx, now);
        }
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
        if let Some(tx) = phone.reinvite.take() {
            // Its POP may be gone, and never answer.
            self.endpoint.cancel(tx, now);
        }
        phone.report.ended.get_or_insert(now);
        note(&mut phone.report);
    }

    fn flow(&self, dialog: &Dialog) -> Flow {
        let next = dialog.next_hop().socket_addr().unwrap_or(pop_sip(self.region));
        Flow::udp(carrier_sip(self.region), next)
    }
}
