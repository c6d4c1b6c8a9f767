//! What a received message causes (RFC 3261 §8.2, §9.2, §17.1.3, §17.2.3, §18.2.1).

use bytes::Bytes;
use proto::time::Instant;

use super::keys::{AckKey, MergeKey, ServerKey};
use super::{Client, ClientEntry, Endpoint, Event, Server, ServerEntry, ServerTx, add_server};
use crate::sip::counters::Reason;
use crate::sip::flow::{Flow, Transport};
use crate::sip::header::HeaderName;
use crate::sip::message::{Message, Method, Request, Response};
use crate::sip::parse::{Malformed, ParseError, parse};
use crate::sip::text::Text;
use crate::sip::transaction::{Heard, InviteServer, NonInviteServer, ReplyPath};
use crate::sip::uri::Scheme;
use crate::sip::value::Via;

/// What a refused client is asked to wait when we are full, in seconds (§21.5.4).
const RETRY_AFTER_S: u32 = 5;
/// One transaction in so many is kept free for requests within dialogs.
const RESERVED: usize = 8;

impl Endpoint {
    /// Takes one received message: a datagram, or what [`crate::sip::framing::Stream`] cut out.
    pub fn handle_message(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        if bytes.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return self.out.counters.count(Reason::KeepAlive);
        }
        match parse(&Bytes::copy_from_slice(bytes), flow.transport) {
            Ok(Message::Request(request)) => self.handle_request(flow, request, now),
            Ok(Message::Response(response)) => self.handle_response(response, now),
            Err(error) => self.handle_malformed(flow, error, now),
        }
    }

    fn handle_malformed(&mut self, flow: Flow, error: ParseError, now: Instant) {
        self.out.counters.count(match error.malformed {
            Malformed::NotSip => Reason::NotSip,
            _ if error.is_response => Reason::MalformedResponse,
            Malformed::Version => Reason::BadVersion,
            Malformed::BodyTooLarge | Malformed::TooLarge => Reason::TooLarge,
            _ => Reason::MalformedRequest,
        });
        let Some(mut response) = error.answer.map(|answer| *answer) else { return };
        // Without a readable Via the answer goes back to where the request came from.
        let path = match response.headers.via() {
            Some(mut via) => {
                via.stamp(flow.remote);
                response.headers.replace_first(HeaderName::Via, &via);
                reply_path(&flow, &via)
            }
            None => ReplyPath { flow, fallback: None },
        };
        self.send_stateless(path, response, now);
    }

    fn handle_response(&mut self, response: Response, now: Instant) {
        if response.headers.get_all(&HeaderName::Via).count() != 1 {
            return self.out.counters.count(Reason::ViaCount);
        }
        let branch = response.headers.via().and_then(|via| via.branch());
        let key = branch.zip(response.method());
        let Some(tx) = key.and_then(|key| self.client_keys.get(&key).copied()) else {
            return self.out.counters.count(Reason::ResponseUnmatched);
        };
        let Some(entry) = self.clients.get_mut(&tx) else { return };
        let ctx = &mut self.out.context(now);
        let (heard, visible) = match entry {
            ClientEntry { machine: Client::Invite(invite), .. } => {
                (invite.handle_response(&response, ctx), true)
            }
            ClientEntry { machine: Client::Other(other), hidden, .. } => {
                let news = other.handle_response(&response, ctx);
                (if news { Heard::News } else { Heard::Repeat }, !*hidden)
            }
        };
        self.settle_client(tx);
        if visible && heard != Heard::Repeat {
            self.out.counters.responses_received += 1;
            self.events.push_back(Event::Response { tx, response });
        }
        if heard == Heard::NewsAndCancel {
            self.cancel(tx, now);
        }
    }

    fn handle_request(&mut self, flow: Flow, mut request: Request, now: Instant) {
        // The parser saw to it that there is one.
        let Some(mut via) = request.headers.via() else { return };
        let method = match &request.method {
            Method::Ack | Method::Cancel => Method::Invite,
            other => other.clone(),
        };
        let key = ServerKey::new(&request, &via, method);
        if via.stamp(flow.remote) {
            request.headers.replace_first(HeaderName::Via, &via);
        }
        let known = self.server_keys.get(&key).copied();
        let path = reply_path(&flow, &via);
        match (&request.method, known) {
            (Method::Ack, _) => self.handle_ack(known, flow, request, now),
            (Method::Cancel, Some(tx)) => self.handle_cancel(tx, path, &request, now),
            (Method::Cancel, None) => {
                self.refuse(path, &request, 481, Reason::CancelUnmatched, now);
            }
            (_, Some(tx)) => self.handle_repeat(tx, now),
            (_, None) => self.handle_new(flow, path, key, request, now),
        }
    }

    /// An ACK belongs to a failure by its branch (§17.2.3), or to a 2xx by its dialog and CSeq.
    fn handle_ack(&mut self, known: Option<ServerTx>, flow: Flow, ack: Request, now: Instant) {
        let by_dialog = || AckKey::of_ack(&ack).and_then(|key| self.acks.get(&key).copied());
        let Some(tx) = known.or_else(by_dialog) else {
            return self.out.counters.count(Reason::AckUnmatched);
        };
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let Server::Invite(invite) = &mut entry.machine else { return };
        // RFC 2543 clients reuse the INVITE's branch for the ACK to a 2xx too.
        if invite.is_first_ack() {
            invite.handle_success_ack();
            self.events.push_back(Event::Ack { tx, flow, request: ack });
        } else {
            invite.handle_ack(&mut self.out.context(now));
        }
        self.settle_server(tx);
    }

    /// §9.2: answered 200 whatever the state; a repeat is answered alike, so no transaction.
    fn handle_cancel(&mut self, tx: ServerTx, path: ReplyPath, cancel: &Request, now: Instant) {
        let Some(entry) = self.servers.get_mut(&tx) else { return };
        let Server::Invite(invite) = &mut entry.machine else {
            return self.refuse(path, cancel, 481, Reason::CancelUnmatched, now);
        };
        if invite.handle_cancel() {
            self.events.push_back(Event::Cancelled { tx });
        }
        let tag = entry.local_tag.get_or_insert_with(|| self.tokens.text()).clone();
        let response = Response::to_request(cancel, 200).with_to_tag(&tag);
        self.send_stateless(path, response, now);
    }

    fn handle_repeat(&mut self, tx: ServerTx, now: Instant) {
        let Some(entry) = self.servers.get(&tx) else { return };
        let ctx = &mut self.out.context(now);
        match &entry.machine {
            Server::Invite(invite) => invite.handle_repeat(ctx),
            Server::Other(other) => other.handle_repeat(ctx),
        }
    }

    fn handle_new(
        &mut self,
        flow: Flow,
        path: ReplyPath,
        key: ServerKey,
        request: Request,
        now: Instant,
    ) {
        let merge = MergeKey::new(&request);
        if let Some((status, reason)) = self.inspect(&request, merge.as_ref()) {
            return self.refuse(path, &request, status, reason, now);
        }
        self.numbered += 1;
        let tx = ServerTx(self.numbered);
        let ctx = &mut self.out.context(now);
        let machine = if request.method == Method::Invite {
            let mut trying = Response::to_request(&request, 100);
            add_server(&mut trying, &self.user_agent);
            Server::Invite(InviteServer::new(trying.serialize(), path, ctx))
        } else {
            Server::Other(NonInviteServer::new(path, ctx))
        };
        self.server_keys.insert(key.clone(), tx);
        if let Some(merge) = &merge {
            self.merges.insert(merge.clone(), tx);
        }
        let entry = ServerEntry { machine, key, merge, ack: None, local_tag: None, armed: None };
        self.servers.insert(tx, Box::new(entry));
        self.settle_server(tx);
        self.out.counters.requests_received += 1;
        self.events.push_back(Event::Request { tx, flow, request });
    }

    /// The checks of §8.2 that need no knowledge of calls, in the RFC's order.
    fn inspect(&self, request: &Request, merge: Option<&MergeKey>) -> Option<(u16, Reason)> {
        if matches!(request.uri.scheme, Scheme::Other(_)) {
            return Some((416, Reason::BadScheme));
        }
        if merge.is_some_and(|merge| self.merges.contains_key(merge)) {
            return Some((482, Reason::Merged));
        }
        // In a dialog we are the target, not a hop; OPTIONS is answered in our own name (§11).
        let is_hop = !request.is_in_dialog() && request.method != Method::Options;
        if is_hop && request.headers.max_forwards() == Some(0) {
            return Some((483, Reason::TooManyHops));
        }
        if !self.unsupported(request).is_empty() {
            return Some((420, Reason::ExtensionRequired));
        }
        // What belongs to a call, a BYE above all, has room when nothing new has.
        let most = self.max_transactions;
        let most = if request.is_in_dialog() { most } else { most - most / RESERVED };
        (self.transactions() >= most).then_some((503, Reason::Overload))
    }

    fn unsupported(&self, request: &Request) -> Vec<Text> {
        let mut required = request.headers.tokens(&HeaderName::Require);
        required.retain(|tag| !self.supported.iter().any(|ours| ours.eq_ignore_ascii_case(tag)));
        required
    }

    /// Answers without keeping state: the repeat gets the same (§8.2.7).
    fn refuse(
        &mut self,
        path: ReplyPath,
        request: &Request,
        status: u16,
        reason: Reason,
        now: Instant,
    ) {
        self.out.counters.count(reason);
        let mut response = Response::to_request(request, status);
        match status {
            420 => {
                let tags = self.unsupported(request);
                let tags: Vec<&str> = tags.iter().map(Text::as_str).collect();
                response.headers.push(HeaderName::Unsupported, tags.join(", "));
            }
            503 => response.headers.push(HeaderName::RetryAfter, RETRY_AFTER_S),
            _ => {}
        }
        self.send_stateless(path, response, now);
    }

    fn send_stateless(&mut self, path: ReplyPath, response: Response, now: Instant) {
        let headers = &response.headers;
        let call_id = headers.get(&HeaderName::CallId).map_or(&[][..], |value| value);
        let from = headers.get(&HeaderName::From).map_or(&[][..], |value| value);
        let tag = Text::from(self.tokens.derive(&[b"stateless", call_id, from]));
        let mut response = response.with_to_tag(&tag);
        add_server(&mut response, &self.user_agent);
        let bytes = response.serialize();
        self.out.context(now).send(path.flow, &bytes);
    }
}

/// Where responses to a request from `flow` with the stamped `via` go (§18.2.2).
fn reply_path(flow: &Flow, via: &Via) -> ReplyPath {
    match flow.transport {
        Transport::Udp => {
            let remote = via.response_address(flow.remote);
            ReplyPath { flow: Flow { remote, ..*flow }, fallback: None }
        }
        Transport::Tcp => {
            let mut remote = flow.remote;
            remote.set_port(via.port.unwrap_or(5060));
            let fallback = Flow { remote, connection: 0, ..*flow };
            ReplyPath { flow: *flow, fallback: Some(fallback) }
        }
    }
}
