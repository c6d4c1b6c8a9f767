//! A scripted SIP phone: does what it is told, and by itself only what every phone does (answers a
//! CANCEL, acknowledges a failure).

use std::net::SocketAddr;

use bytes::Bytes;

use crate::codec::Codec;
use crate::sdp::SessionDescription;
use crate::sdp::offer_answer::RemoteMedia;
use crate::sip::digest::{self, Credentials};
use crate::sip::{
    CSeq, Dialog, Flow, HeaderName, Headers, Message, Method, NameAddr, RAck, Request, Response,
    Text, Transport, Uri, Via, parse,
};
use crate::srtp::{Crypto, MasterKey};

const SDP: &str = "application/sdp";
const CHALLENGE: &str = "Digest realm=\"r\", nonce=\"n\", qop=\"auth\", algorithm=SHA-256";

pub(super) struct Phone {
    pub(super) name: String,
    pub(super) address: SocketAddr,
    /// The POP it talks to.
    pub(super) pop: SocketAddr,
    /// Its TCP connection, if it speaks TCP.
    pub(super) connection: Option<u64>,
    /// What the POP last sent on.
    pub(super) heard_on: Option<Flow>,
    sent: u32,
    /// Of the last description it sent.
    version: u32,
    dialog: Option<Dialog>,
    /// The last INVITE it sent, and its last response.
    invite: Option<Request>,
    response: Option<Response>,
    /// The last INVITE and other request it received.
    invited: Option<Request>,
    request: Option<Request>,
    /// Headers it adds to INVITE, UPDATE and what it answers to any request.
    pub(super) extra: Vec<(HeaderName, String)>,
}

impl Phone {
    pub(super) fn new(name: &str, address: SocketAddr, pop: SocketAddr) -> Self {
        Self {
            name: name.to_owned(),
            address,
            pop,
            connection: None,
            heard_on: None,
            sent: 0,
            version: 0,
            dialog: None,
            invite: None,
            response: None,
            invited: None,
            request: None,
            extra: Vec::new(),
        }
    }

    /// As the POP sees it.
    pub(super) fn flow(&self) -> Flow {
        match self.connection {
            Some(connection) => Flow { connection, ..Flow::tcp(self.pop, self.address) },
            None => Flow::udp(self.pop, self.address),
        }
    }

    fn tag(&self, suffix: &str) -> Text {
        Text::from(format!("{}{}{suffix}", self.name, self.sent))
    }

    fn contact(&self) -> NameAddr {
        NameAddr::new(Uri::sip(Some(&self.name), self.address))
    }

    /// `pcmu,opus,red,dtmf`, with a direction or `zero` for the old way to hold. `srtp1`: encrypted,
    /// with the first of its keys; `srtp9`: with one that answers no line of ours.
    pub(super) fn describe(&mut self, codecs: &str, direction: &str) -> Bytes {
        self.version += 1;
        let ip =
            if direction == "zero" { "0.0.0.0".to_owned() } else { self.address.ip().to_string() };
        let mut types = String::new();
        let mut maps = String::new();
        let mut profile = "AVP";
        for codec in codecs.split(',') {
            if let Some(key) = codec.strip_prefix("srtp") {
                let tag = if key == "9" { 9 } else { 1 };
                let secret = key.repeat(40);
                let line = format!("a=crypto:{tag} AES_CM_128_HMAC_SHA1_80 inline:{secret}\r\n");
                maps.push_str(&line);
                profile = "SAVP";
                continue;
            }
            let (number, map) = match codec {
                "pcmu" => (0, "PCMU/8000"),
                "pcma" => (8, "PCMA/8000"),
                "g722" => (9, "G722/8000"),
                "g729" => (18, "G729/8000"),
                "opus" => (96, "opus/48000/2"),
                "dtmf" => (101, "telephone-event/8000"),
                // Redundant audio of Opus.
                "red" => (63, "red/48000/2\r\na=fmtp:63 96/96"),
                other => panic!("no codec {other}"),
            };
            types.push_str(&format!(" {number}"));
            maps.push_str(&format!("a=rtpmap:{number} {map}\r\n"));
        }
        let direction = if matches!(direction, "" | "zero") { "sendrecv" } else { direction };
        let version = self.version;
        Bytes::from(format!(
            "v=0\r\no=- 1 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
             m=audio 4000 RTP/{profile}{types}\r\n{maps}a={direction}\r\n"
        ))
    }

    fn send(&mut self, mut request: Request) -> Bytes {
        self.sent += 1;
        let branch = Text::from(format!("z9hG4bK{}{}", self.name, self.sent));
        let Flow { transport, .. } = self.flow();
        let flow = Flow { transport, local: self.address, remote: self.pop, connection: 0 };
        request.headers.push_front(HeaderName::Via, &Via::ours(&flow, branch));
        if matches!(request.method.as_str(), "INVITE" | "UPDATE") {
            self.add_extra(&mut request.headers);
        }
        if request.method == Method::Invite {
            self.invite = Some(request.clone());
        }
        request.serialize()
    }

    fn add_extra(&self, headers: &mut Headers) {
        self.extra.iter().for_each(|(name, value)| headers.push(name.clone(), value.as_str()));
    }

    /// A request outside of a dialog.
    pub(super) fn request(&mut self, method: Method, number: &str, max_forwards: u32) -> Request {
        let mut request = Request::new(method.clone(), Uri::sip(Some(number), self.pop));
        let from = NameAddr::new(Uri::sip(Some("+41446681800"), self.address));
        let headers = &mut request.headers;
        headers.push(HeaderName::MaxForwards, max_forwards);
        headers.push(HeaderName::From, &from.with_tag(self.tag("f")));
        headers.push(HeaderName::To, &NameAddr::new(Uri::sip(Some(number), self.pop)));
        headers.push(HeaderName::CallId, Text::from(format!("{}-{}", self.name, self.sent)));
        headers.push(HeaderName::CSeq, &CSeq { number: 1, method });
        request
    }

    pub(super) fn calls(&mut self, number: &str, codecs: &str, max_forwards: u32) -> Bytes {
        let mut request = self.request(Method::Invite, number, max_forwards);
        request.headers.push(HeaderName::Contact, &self.contact());
        if codecs != "none" {
            let body = self.describe(codecs, "");
            request.set_body(SDP, body);
        }
        self.dialog = None;
        self.send(request)
    }

    pub(super) fn asks(&mut self, method: Method, max_forwards: u32) -> Bytes {
        let request = self.request(method, "ping", max_forwards);
        self.send(request)
    }

    /// The last INVITE again, with credentials.
    pub(super) fn authenticates(&mut self, password: &str) -> Option<Bytes> {
        let mut request = self.invite.clone()?;
        request.headers.remove(&HeaderName::Via);
        let credentials =
            Credentials { username: self.name.clone(), password: password.to_owned() };
        let challenge = self.response.as_ref()?;
        let (name, value) = digest::answer(challenge, &request, &credentials, "abc")?;
        request.headers.push(name, value);
        request.headers.set(HeaderName::CSeq, &CSeq { number: 2, method: Method::Invite });
        Some(self.send(request))
    }

    pub(super) fn cancels(&mut self) -> Option<Bytes> {
        let invite = self.invite.as_ref()?;
        let mut request = Request::new(Method::Cancel, invite.uri.clone());
        for name in [HeaderName::Via, HeaderName::From, HeaderName::To, HeaderName::CallId] {
            request.headers.copy(&name, &invite.headers);
        }
        let number = invite.headers.cseq()?.number;
        request.headers.push(HeaderName::CSeq, &CSeq { number, method: Method::Cancel });
        Some(request.serialize())
    }

    /// A response to the INVITE it received; `fork` names another early dialog.
    pub(super) fn answers(
        &mut self,
        status: u16,
        codecs: &str,
        direction: &str,
        fork: &str,
    ) -> Option<Bytes> {
        let request = self.invited.clone()?;
        let tag = Text::from(format!("{}-tag{fork}", self.name));
        let mut response = Response::to_request(&request, status).with_to_tag(&tag);
        self.add_extra(&mut response.headers);
        if status < 300 {
            response.headers.push(HeaderName::Contact, &self.contact());
        }
        if !matches!(codecs, "" | "none") {
            response.set_body(SDP, self.describe(codecs, direction));
        }
        if status == 401 {
            response.headers.push(HeaderName::WwwAuthenticate, CHALLENGE);
        }
        if (200..300).contains(&status) && self.dialog.is_none() {
            let mut dialog = Dialog::uas(&request, &tag, self.contact()).ok()?;
            dialog.confirm();
            self.dialog = Some(dialog);
        }
        Some(response.serialize())
    }

    pub(super) fn acks(&mut self, codecs: &str) -> Option<Bytes> {
        let (invite, response) = (self.invite.clone()?, self.response.clone()?);
        let dialog = match &mut self.dialog {
            Some(dialog) => {
                dialog.update_from_response(&response);
                dialog
            }
            none => none.insert(Dialog::uac(&invite, &response).ok()?),
        };
        let mut ack = dialog.ack(response.headers.cseq()?.number);
        if codecs != "none" {
            ack.set_body(SDP, self.describe(codecs, ""));
        }
        Some(self.send(ack))
    }

    /// A request in its dialog.
    pub(super) fn says(&mut self, method: Method, codecs: &str, direction: &str) -> Option<Bytes> {
        if self.dialog.is_none() {
            let (invite, response) = (self.invite.as_ref()?, self.response.as_ref()?);
            self.dialog = Some(Dialog::uac(invite, response).ok()?);
        }
        let mut request = self.dialog.as_mut()?.request(method);
        if codecs != "none" {
            let body = self.describe(codecs, direction);
            request.set_body(SDP, body);
        }
        Some(self.send(request))
    }

    /// 401 to the last request that was no INVITE.
    pub(super) fn challenges(&mut self) -> Option<Bytes> {
        let response = Response::to_request(&self.request.take()?, 401);
        Some(response.with_header(HeaderName::WwwAuthenticate, CHALLENGE).serialize())
    }

    /// 200 to the last request that was no INVITE.
    pub(super) fn oks(&mut self) -> Option<Bytes> {
        self.refuses(200)
    }

    /// A request that is no INVITE waits for its answer.
    pub(super) fn is_asked(&self) -> bool {
        self.request.is_some()
    }

    pub(super) fn refuses(&mut self, status: u16) -> Option<Bytes> {
        let mut response = Response::to_request(&self.request.take()?, status);
        self.add_extra(&mut response.headers);
        Some(response.serialize())
    }

    /// Acknowledges the last reliable provisional response (RFC 3262).
    pub(super) fn pracks(&mut self) -> Option<Bytes> {
        let (invite, response) = (self.invite.clone()?, self.response.clone()?);
        let (rseq, cseq) = (response.headers.rseq()?, response.headers.cseq()?);
        let dialog = self.dialog.take().or_else(|| Dialog::uac(&invite, &response).ok());
        let mut prack = self.dialog.insert(dialog?).request(Method::Prack);
        prack.headers.push(HeaderName::RAck, &RAck { rseq, cseq });
        Some(self.send(prack))
    }

    /// A key out of band.
    pub(super) fn presses(&mut self, key: &str, kind: &'static str) -> Option<Bytes> {
        let mut request = self.dialog.as_mut()?.request(Method::Info);
        request.set_body(kind, Bytes::from(format!("Signal={key}")));
        Some(self.send(request))
    }

    /// Takes a message and does what every phone does.
    pub(super) fn receive(&mut self, bytes: &Bytes) -> Vec<Bytes> {
        let Ok(message) = parse(bytes, Transport::Udp) else { return Vec::new() };
        match message {
            Message::Request(request) => match request.method {
                Method::Ack => Vec::new(),
                Method::Cancel => vec![Response::to_request(&request, 200).serialize()],
                Method::Invite => {
                    if !request.is_in_dialog() {
                        self.dialog = None;
                    } else if let Some(dialog) = &mut self.dialog {
                        // A retransmission changes nothing.
                        let _ = dialog.accept_request(&request);
                    }
                    self.invited = Some(request);
                    Vec::new()
                }
                _ => {
                    self.request = Some(request);
                    Vec::new()
                }
            },
            Message::Response(response) => self.response(response),
        }
    }

    fn response(&mut self, response: Response) -> Vec<Bytes> {
        let failed = response.status >= 300 && response.method() == Some(Method::Invite);
        let mut acks = Vec::new();
        if failed && let Some(invite) = &self.invite {
            // RFC 3261 §17.1.1.3
            let mut ack = Request::new(Method::Ack, invite.uri.clone());
            for name in [HeaderName::Via, HeaderName::From, HeaderName::CallId] {
                ack.headers.copy(&name, &invite.headers);
            }
            ack.headers.copy(&HeaderName::To, &response.headers);
            let number = invite.headers.cseq().unwrap().number;
            ack.headers.push(HeaderName::CSeq, &CSeq { number, method: Method::Ack });
            acks.push(ack.serialize());
        }
        if response.method() == Some(Method::Invite) && response.status > 100 {
            self.response = Some(response);
        }
        acks
    }
}

/// How a key is called: how it begins.
pub(super) fn key(key: &MasterKey) -> String {
    let line = Crypto { tag: 1, key: key.clone() }.to_string();
    line.rsplit(':').next().unwrap().chars().take(4).collect()
}

/// One line for a message.
pub(super) fn describe(bytes: &Bytes) -> String {
    let Ok(message) = parse(bytes, Transport::Udp) else { return "something malformed".to_owned() };
    let body = match SessionDescription::parse(message.body()) {
        Ok(description) => {
            let version = description.origin.version;
            match RemoteMedia::from_offer(&description, false) {
                Ok(media) => {
                    let codecs: Vec<_> = media.codecs.iter().map(|n| n.codec.name()).collect();
                    let event = if media.telephone_events.is_empty() { "" } else { ",DTMF" };
                    let red = media.redundant(Codec::Opus).map_or("", |_| ",RED");
                    let opus = media.format(Codec::Opus).and_then(|f| f.fmtp.as_deref());
                    let opus = opus.filter(|fmtp| *fmtp != "useinbandfec=1");
                    let opus = opus.map_or(String::new(), |fmtp| format!(" {fmtp}"));
                    let ptime = media.ptime_ms.filter(|ms| *ms != 20);
                    let ptime = ptime.map_or(String::new(), |ms| format!(" {ms}ms"));
                    let keys: Vec<_> = media.crypto.iter().map(|c| key(&c.key)).collect();
                    let keys = if keys.is_empty() {
                        String::new()
                    } else {
                        format!(" SRTP {}", keys.join(" or "))
                    };
                    format!(
                        " ({}{event}{red}{opus}{ptime}{keys} {:?} v{version})",
                        codecs.join(","),
                        media.direction
                    )
                }
                Err(error) => format!(" ({error})"),
            }
        }
        Err(_) => String::new(),
    };
    let reason =
        message.headers().get_str(&HeaderName::Reason).map_or(String::new(), |r| format!(" [{r}]"));
    let cseq = message.headers().cseq().unwrap();
    match &message {
        Message::Request(request) => {
            let user = request.uri.user().filter(|_| !request.is_in_dialog());
            let user = user.map_or(String::new(), |user| format!(" {user}"));
            let timer =
                if request.is_in_dialog() { extensions(&request.headers) } else { String::new() };
            format!("{} {}{user}{body}{reason}{timer}", request.method, cseq.number)
        }
        Message::Response(response) => {
            let retry = response.headers.retry_after().map_or("", |_| " retry later");
            let more = extensions(&response.headers);
            format!("{} to {} {}{body}{retry}{more}", response.status, cseq.method, cseq.number)
        }
    }
}

/// What RFC 3262 and RFC 4028 add.
fn extensions(headers: &Headers) -> String {
    let names = [HeaderName::SessionExpires, HeaderName::MinSe, HeaderName::RSeq, HeaderName::RAck];
    let of = |name: &HeaderName| headers.get_str(name).map(|value| format!(" {name:?}:{value}"));
    names.iter().filter_map(of).collect()
}
