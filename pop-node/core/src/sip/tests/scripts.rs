//! Scripts in `testdata/sip`: a command, `----`, what came of it. `REWRITE=1` writes them anew.
//!
//! `receive METHOD|STATUS key=value…` builds a message: a request of the caller at 192.0.2.1, or a
//! response to the request that `of=c1` sent last. Lines that follow are added as headers.
//! `request`, `respond` (`rseq=1`: reliably), `prack`, `cancel`, `ack` are what the transaction user does. `wait 500ms` lets the
//! time pass, deadline by deadline. Transactions are called s1… and c1… in order of appearance.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use proto::time::{Duration, Instant};

use super::address;
use crate::sip::{
    ClientTx, Config, Endpoint, Event, Flow, HeaderName, Message, Reason, Request, Response,
    ServerTx, Text, Transport, parse,
};

struct World {
    endpoint: Endpoint,
    now: Instant,
    out: String,
    servers: Vec<(ServerTx, Request)>,
    clients: Vec<(ClientTx, Flow)>,
    /// The last request with each (branch, method) of ours, for responses to it.
    sent: BTreeMap<(String, String), Request>,
}

struct Command<'a> {
    name: &'a str,
    words: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
    headers: Vec<&'a str>,
}

impl<'a> Command<'a> {
    fn parse(text: &'a str) -> Self {
        let mut lines = text.lines().filter(|line| !line.starts_with('#'));
        let first = lines.next().expect("a command");
        let mut words = first.split_whitespace();
        let name = words.next().expect("a command");
        let (options, words) = words.partition::<Vec<_>, _>(|word| word.contains('='));
        let options = options.into_iter().filter_map(|word| word.split_once('=')).collect();
        Self { name, words, options, headers: lines.collect() }
    }

    fn option<'b>(&'b self, name: &str, default: &'b str) -> &'b str {
        self.options.get(name).copied().unwrap_or(default)
    }

    fn word(&self, at: usize) -> &'a str {
        self.words.get(at).copied().unwrap_or_else(|| panic!("{}: word {at} missing", self.name))
    }
}

impl World {
    fn new() -> Self {
        let config = Config {
            max_transactions: 4,
            supported: vec![Text::from("timer")],
            ..Config::default()
        };
        Self {
            endpoint: Endpoint::new(config, Instant::ZERO),
            now: Instant::ZERO,
            out: String::new(),
            servers: Vec::new(),
            clients: Vec::new(),
            sent: BTreeMap::new(),
        }
    }

    fn run(&mut self, command: &Command<'_>) -> String {
        match command.name {
            "receive" => self.receive(command),
            "raw" => {
                let bytes = Bytes::from(command.headers.join("\r\n") + "\r\n\r\n");
                self.endpoint.handle_message(flow(command), &bytes, self.now);
            }
            "request" => self.request(command),
            "respond" => self.respond(command),
            "prack" => self.prack(command),
            "cancel" => {
                let (tx, _) = self.client(command.word(0));
                self.endpoint.cancel(tx, self.now);
            }
            "ack" => self.ack(command),
            "wait" => return self.wait(command.word(0)),
            "connection-lost" => self.endpoint.handle_transport_error(flow(command), self.now),
            "counters" => return self.counters(),
            other => panic!("no such command: {other}"),
        }
        self.drain();
        std::mem::take(&mut self.out)
    }

    fn receive(&mut self, command: &Command<'_>) {
        let what = command.word(0);
        let bytes = match what.parse::<u16>() {
            Ok(status) => self.response_from_peer(command, status).serialize(),
            Err(_) => request_from_peer(command, what),
        };
        self.endpoint.handle_message(flow(command), &bytes, self.now);
    }

    fn response_from_peer(&self, command: &Command<'_>, status: u16) -> Response {
        let (branch, method) =
            self.last_sent(command.option("of", "c1"), command.option("method", ""));
        let request = &self.sent[&(branch, method)];
        let mut response = Response::to_request(request, status);
        if status > 100 {
            response = response.with_to_tag(&Text::from(command.option("tag", "bob")));
        }
        response
    }

    /// The key of what client `name` sent; its CANCEL has the same branch.
    fn last_sent(&self, name: &str, method: &str) -> (String, String) {
        let index: usize = name.trim_start_matches('c').parse().expect("c1, c2…");
        let mut keys = self.sent.iter().filter(|((_, sent), request)| {
            let n = request.headers.get_str(&HeaderName::Subject).and_then(|n| n.parse().ok());
            let branch_of = n == Some(index) && sent != "CANCEL";
            branch_of && sent != "ACK"
        });
        let ((branch, own), _) = keys.next().expect("sent before");
        (branch.clone(), if method.is_empty() { own.clone() } else { method.to_owned() })
    }

    fn request(&mut self, command: &Command<'_>) {
        let method = command.word(0);
        let number = self.clients.len() + 1;
        let text = format!(
            "{method} sip:bob@192.0.2.1 SIP/2.0\r\nVia: x/x/x x\r\nFrom: <sip:us@192.0.2.9>;tag=us\r\n\
             To: <sip:bob@192.0.2.1>\r\nCall-ID: out{number}\r\nCSeq: 1 {method}\r\n\
             Subject: {number}\r\nContent-Length: 0\r\n\r\n"
        );
        let Ok(Message::Request(mut request)) = parse(&Bytes::from(text), Transport::Udp) else {
            panic!("template")
        };
        request.headers.remove(&HeaderName::Via);
        let flow = flow(command);
        match self.endpoint.request(request, flow, self.now) {
            Ok(tx) => self.clients.push((tx, flow)),
            Err(error) => self.say(&format!("refused: {error}")),
        }
    }

    fn respond(&mut self, command: &Command<'_>) {
        let index: usize = command.word(0).trim_start_matches('s').parse().expect("s1, s2…");
        let (tx, request) = &self.servers[index - 1];
        let status = command.word(1).parse().expect("status");
        let mut response = Response::to_request(request, status);
        if let Some(tag) = command.options.get("tag") {
            response = response.with_to_tag(&Text::from(*tag));
        }
        match command.options.get("rseq") {
            Some(rseq) => {
                let rseq = rseq.parse().expect("a number");
                if !self.endpoint.respond_reliably(*tx, response, rseq, self.now) {
                    self.out.push_str("  not sent\n");
                }
            }
            None => self.endpoint.respond(*tx, response, self.now),
        }
    }

    fn prack(&mut self, command: &Command<'_>) {
        let index: usize = command.word(0).trim_start_matches('s').parse().expect("s1, s2…");
        let rseq = command.word(1).parse().expect("RSeq");
        if !self.endpoint.acknowledge(self.servers[index - 1].0, rseq) {
            self.out.push_str("  not waited for\n");
        }
    }

    fn client(&self, name: &str) -> (ClientTx, Flow) {
        let index: usize = name.trim_start_matches('c').parse().expect("c1, c2…");
        self.clients[index - 1]
    }

    fn ack(&mut self, command: &Command<'_>) {
        let (tx, flow) = self.client(command.word(0));
        let key = self.last_sent(command.word(0), "");
        let mut ack = self.sent[&key].clone();
        ack.method = crate::sip::Method::Ack;
        ack.headers.remove(&HeaderName::Via);
        ack.headers.set(HeaderName::CSeq, "1 ACK");
        let tag = Text::from(command.option("tag", "bob"));
        let to = ack.headers.to().expect("To").with_tag(tag);
        ack.headers.set(HeaderName::To, &to);
        self.endpoint.send_ack(tx, ack, flow, self.now);
    }

    fn wait(&mut self, time: &str) -> String {
        let ms: u64 = match time.strip_suffix("ms") {
            Some(ms) => ms.parse().expect("ms"),
            None => time.trim_end_matches('s').parse::<u64>().expect("s") * 1_000,
        };
        let end = self.now + Duration::from_millis(ms);
        while let Some(at) = self.endpoint.poll_timeout().filter(|at| *at <= end) {
            self.now = at;
            self.endpoint.handle_timeout(at);
            self.drain();
        }
        self.now = end;
        std::mem::take(&mut self.out)
    }

    fn counters(&self) -> String {
        let counters = self.endpoint.counters();
        let mut out = String::new();
        for (reason, count) in Reason::ALL.iter().map(|r| (r, counters.get(*r))) {
            if count > 0 {
                let _ = writeln!(out, "{} {count}", reason.as_str());
            }
        }
        let _ = writeln!(out, "transactions {}", self.endpoint.transactions());
        out
    }

    fn say(&mut self, line: &str) {
        let ms = self.now.as_millis();
        let _ = writeln!(self.out, "{:>3}.{:03} {line}", ms / 1000, ms % 1000);
    }

    fn drain(&mut self) {
        while let Some(event) = self.endpoint.poll_event() {
            let line = self.event(event);
            self.say(&line);
        }
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let to = transmit.flow.remote;
            let over = match (transmit.flow.transport, transmit.flow.connection) {
                (Transport::Udp, _) => String::new(),
                (Transport::Tcp, 0) => " by a new connection".to_owned(),
                (Transport::Tcp, number) => format!(" by connection {number}"),
            };
            let line = match parse(&transmit.bytes, transmit.flow.transport) {
                Ok(Message::Response(response)) => shown_response(&response),
                Ok(Message::Request(request)) => self.shown_request(&request),
                // The answer to a request without Call-ID has none either.
                Err(_) => {
                    String::from_utf8_lossy(&transmit.bytes).lines().next().unwrap().to_owned()
                }
            };
            self.say(&format!("send {line} -> {to}{over}"));
        }
    }

    fn shown_request(&mut self, request: &Request) -> String {
        let branch = request.headers.via().and_then(|via| via.branch()).expect("branch");
        let method = request.method.to_string();
        self.sent.insert((branch.to_string(), method.clone()), request.clone());
        let to = request.headers.to_tag().map(|tag| format!(" to={tag}")).unwrap_or_default();
        format!("{method}{to}")
    }

    fn event(&mut self, event: Event) -> String {
        match event {
            Event::Request { tx, request, .. } => {
                self.servers.push((tx, request.clone()));
                format!("event s{} {} {}", self.servers.len(), request.method, request.uri)
            }
            Event::Cancelled { tx } => format!("event {} cancelled", self.server_name(tx)),
            Event::Ack { tx, .. } => format!("event {} acknowledged", self.server_name(tx)),
            Event::AckMissing { tx } => {
                format!("event {} never acknowledged", self.server_name(tx))
            }
            Event::PrackMissing { tx } => format!("event {} without PRACK", self.server_name(tx)),
            Event::Response { tx, response } => {
                let tag = response.headers.to_tag().map(|tag| format!(" from {tag}"));
                format!(
                    "event {} {}{}",
                    self.client_name(tx),
                    response.status,
                    tag.unwrap_or_default()
                )
            }
            Event::ClientFailed { tx, reason } => {
                format!("event {} failed: {reason:?}", self.client_name(tx))
            }
        }
    }

    fn server_name(&self, tx: ServerTx) -> String {
        let at = self.servers.iter().position(|(known, _)| *known == tx).expect("known");
        format!("s{}", at + 1)
    }

    fn client_name(&self, tx: ClientTx) -> String {
        let at = self.clients.iter().position(|(known, _)| *known == tx).expect("known");
        format!("c{}", at + 1)
    }
}

/// Status, and what else a reader wants to see.
fn shown_response(response: &Response) -> String {
    let mut line = format!("{} {}", response.status, String::from_utf8_lossy(&response.reason));
    let method = response.method().map(|method| method.to_string()).unwrap_or_default();
    if method != "INVITE" {
        let _ = write!(line, " ({method})");
    }
    for (name, label) in
        [(HeaderName::Unsupported, "unsupported"), (HeaderName::RetryAfter, "retry-after")]
    {
        if let Some(value) = response.headers.get_str(&name) {
            let _ = write!(line, " {label}={value}");
        }
    }
    if let Some(via) = response.headers.via() {
        for name in ["received", "rport"] {
            if let Some(value) = via.params.get(name) {
                let _ = write!(line, " {name}={value}");
            }
        }
    }
    line
}

fn flow(command: &Command<'_>) -> Flow {
    let (local, remote) =
        (address("192.0.2.9:5060"), address(command.option("source", "192.0.2.1:5060")));
    match command.options.get("tcp") {
        Some(connection) => {
            let connection = connection.parse().expect("number");
            Flow { transport: Transport::Tcp, local, remote, connection }
        }
        None => Flow::udp(local, remote),
    }
}

fn request_from_peer(command: &Command<'_>, method: &str) -> Bytes {
    let transport = if command.options.contains_key("tcp") { "TCP" } else { "UDP" };
    let via = command.option("via", "192.0.2.1:5060");
    let branch = match command.option("branch", "z9hG4bKa") {
        "none" => String::new(),
        branch => format!(";branch={branch}"),
    };
    let totag = command.options.get("totag").map(|tag| format!(";tag={tag}")).unwrap_or_default();
    let mut text = format!(
        "{method} {} SIP/2.0\nVia: SIP/2.0/{transport} {via}{branch}\nMax-Forwards: {}\n\
         From: <sip:alice@192.0.2.1>;tag=alice\nTo: <sip:bob@192.0.2.9>{totag}\nCall-ID: {}\n\
         CSeq: {} {method}\nContact: <sip:alice@192.0.2.1>\n",
        command.option("uri", "sip:bob@192.0.2.9"),
        command.option("hops", "70"),
        command.option("call", "call1"),
        command.option("cseq", "1"),
    );
    for header in &command.headers {
        text += header;
        text.push('\n');
    }
    text += "Content-Length: 0\n\n";
    Bytes::from(text.replace('\n', "\r\n"))
}

/// Runs one script; returns what it should look like.
fn replay(text: &str) -> String {
    let mut world = World::new();
    let mut out = String::new();
    for block in text.split("\n\n") {
        let block = block.trim_matches('\n');
        let command = block.split("\n----").next().unwrap_or_default();
        if command.lines().all(|line| line.starts_with('#')) {
            let _ = write!(out, "{command}\n\n");
            continue;
        }
        let result = world.run(&Command::parse(command));
        let _ = write!(out, "{command}\n----\n{result}\n");
    }
    out.trim_end().to_owned() + "\n"
}

#[test]
#[expect(clippy::disallowed_methods, reason = "REWRITE is for the person at the keyboard")]
fn scripts_read_as_written() {
    let rewrite = std::env::var("REWRITE").is_ok();
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/sip");
    let mut paths: Vec<_> = std::fs::read_dir(&directory)
        .expect("testdata/sip")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    paths.sort();
    assert!(paths.len() >= 5, "scripts are missing");
    for path in paths {
        let text = std::fs::read_to_string(&path).expect("readable");
        let due = replay(&text);
        if rewrite {
            std::fs::write(&path, &due).expect("writable");
        } else {
            assert_eq!(text, due, "{}", path.display());
        }
    }
}
