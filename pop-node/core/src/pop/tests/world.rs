//! Two POPs, their links, and everything they say, in virtual time.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::net::SocketAddr;

use bytes::Bytes;
use proto::call::call_message::Kind;
use proto::control::{Change, Event, Resource, change, resource};
use proto::id::{Epoch, PopId, Revision};
use proto::time::{Duration, Instant, earlier};

use super::numbers::{self, NAMES, POPS};
use super::phone::{Phone, describe, key};
use crate::call::Cdr;
use crate::media::{Far, MediaCommand, MediaEvent, QualityReport};
use crate::pop::{
    CallStream, Initiator, Limits, LinkState, Pop, PopCommand, PopConfig, Secret, StreamEvent,
    Timing,
};
use crate::sip::{Flow, TimerValues, Transport};
use crate::view::ViewUpdate;

/// One way between POPs.
const LATENCY: Duration = Duration::from_millis(10);

/// Of the POPs, with their seeds.
const ADDRESSES: [(&str, u64); 3] = [("127.0.1.1", 1), ("127.0.2.1", 2), ("127.0.3.1", 3)];

pub(super) struct World {
    pub(super) now: Instant,
    pub(super) pops: BTreeMap<PopId, Pop>,
    pub(super) phones: BTreeMap<String, Phone>,
    pub(super) cdrs: Vec<Cdr>,
    pub(super) trace: String,
    /// Media ports that another program has, at all POPs.
    pub(super) taken: BTreeSet<u16>,
    /// POPs that say nothing more over their links.
    pub(super) mute: BTreeSet<PopId>,
    /// POPs whose process is dead, or stopped.
    pub(super) dead: BTreeSet<PopId>,
    /// Capsules are in the trace, too.
    pub(super) tells_guarding: bool,
    revision: u64,
    view: BTreeMap<PopId, proto::control::Pop>,
    flights: BTreeMap<(Instant, u64), (PopId, CallStream, StreamEvent)>,
    sent: u64,
}

fn config(id: &str, address: &str, seed: u64) -> PopConfig {
    let sip: SocketAddr = format!("{address}:5060").parse().unwrap();
    PopConfig {
        id: PopId::new(id).unwrap(),
        region: "eu".to_owned(),
        mesh: "test".to_owned(),
        epoch: Epoch(1),
        sip: vec![(Transport::Udp, sip), (Transport::Tcp, sip)],
        media_address: sip.ip(),
        media_ports: 20_000..=20_039,
        media_shared: false,
        media_threads: 1,
        limits: Limits { max_calls: 3, ..Limits::default() },
        timing: Timing::default(),
        sip_timers: TimerValues::default(),
        seed,
        secret: Secret([u8::try_from(seed).unwrap(); 32]),
    }
}

impl World {
    pub(super) fn new() -> Self {
        let now = Instant::ZERO;
        let mut pops = BTreeMap::new();
        for ((id, _), (address, seed)) in POPS.into_iter().zip(ADDRESSES) {
            let mut pop = Pop::new(config(id, address, seed), now);
            let resources = numbers::resources();
            let (cluster_id, revision) = ("c".to_owned(), Revision(1));
            pop.handle_view(ViewUpdate::Snapshot { cluster_id, revision, resources }, now).unwrap();
            pop.set_epoch(Epoch(1), now);
            pop.handle_lease(Instant::from_nanos(u64::MAX), now);
            pops.insert(PopId::new(id).unwrap(), pop);
        }
        Self {
            now,
            pops,
            phones: numbers::phones(),
            cdrs: Vec::new(),
            trace: String::new(),
            taken: BTreeSet::new(),
            mute: BTreeSet::new(),
            dead: BTreeSet::new(),
            tells_guarding: false,
            revision: 1,
            view: numbers::pops(),
            flights: BTreeMap::new(),
            sent: 0,
        }
    }

    pub(super) fn note(&mut self, line: &str) {
        let ms = self.now.as_millis();
        writeln!(self.trace, "{:>7}.{:03}  {line}", ms / 1_000, ms % 1_000).unwrap();
    }

    /// A phone sends; the POP is the one with that address.
    pub(super) fn phone_sends(&mut self, name: &str, bytes: &Bytes) {
        let phone = &self.phones[name];
        let (id, flow) = (pop_at(phone.pop), phone.flow());
        if self.dead.contains(&id) {
            return self.note(&format!("{name} -> {id}, dead: {}", describe(bytes)));
        }
        self.note(&format!("{name} -> {id}: {}", describe(bytes)));
        let now = self.now;
        self.pop(&id).handle_sip(flow, bytes, now);
        self.drain();
    }

    pub(super) fn pop(&mut self, id: &PopId) -> &mut Pop {
        self.pops.get_mut(id).unwrap()
    }

    /// The last send to a phone failed.
    pub(super) fn fail(&mut self, name: &str) -> Option<()> {
        let flow = self.phones.get(name)?.heard_on?;
        let (id, now) = (pop_at(flow.local), self.now);
        self.pop(&id).handle_transport_error(flow, now);
        self.drain();
        Some(())
    }

    /// Executes what all POPs want now.
    pub(super) fn drain(&mut self) {
        let ids: Vec<PopId> = self.pops.keys().cloned().collect();
        let mut quiet = false;
        while !quiet {
            quiet = true;
            for id in ids.iter().filter(|id| !self.dead.contains(id)).cloned().collect::<Vec<_>>() {
                let id = &id;
                while let Some(command) = self.pop(id).poll_command() {
                    quiet = false;
                    self.execute(id, command);
                }
            }
        }
    }

    fn execute(&mut self, id: &PopId, command: PopCommand) {
        match command {
            PopCommand::SendSip { flow, bytes } => self.phone_gets(id, flow, &bytes),
            PopCommand::OpenStream { .. } => {}
            PopCommand::SendCall { stream, message } => {
                let kind = message.kind.clone().unwrap();
                if self.tells_guarding || !matches!(kind, Kind::Guard(_)) {
                    self.note(&format!("{id} => {}: {}", stream.peer, describe_call(&kind)));
                }
                self.fly(id, stream, StreamEvent::Message(message));
            }
            PopCommand::CloseStream { stream } => self.fly(id, stream, StreamEvent::Closed),
            PopCommand::Media(command) => self.media(id, command),
            PopCommand::Resolve { query, host, .. } => {
                self.note(&format!("{id} resolves {host}"));
                let (result, now) = (numbers::resolve(&host), self.now);
                self.pop(id).handle_resolved(query, result, now);
            }
            PopCommand::Cdr(cdr) => {
                self.note(&describe_cdr(&cdr));
                self.cdrs.push(*cdr);
            }
        }
    }

    fn phone_gets(&mut self, id: &PopId, flow: Flow, bytes: &Bytes) {
        let found = self.phones.iter().find(|(_, phone)| phone.address == flow.remote);
        let Some(name) = found.map(|(name, _)| name.clone()) else {
            return self.note(&format!("{id} -> {}: {}", flow.remote, describe(bytes)));
        };
        let on = match flow.transport {
            Transport::Tcp => format!(" on TCP {}", flow.connection),
            Transport::Udp => String::new(),
        };
        self.note(&format!("{id} -> {name}: {}{on}", describe(bytes)));
        let phone = self.phones.get_mut(&name).unwrap();
        phone.pop = flow.local;
        phone.heard_on = Some(flow);
        for reply in phone.receive(bytes) {
            self.phone_sends(&name, &reply);
        }
    }

    fn media(&mut self, id: &PopId, command: MediaCommand) {
        let now = self.now;
        let line = match command {
            MediaCommand::OpenLeg { leg, local } => {
                let taken = self.taken.contains(&local.port());
                let word = if taken { "cannot open" } else { "open" };
                self.note(&format!("{id} media: {word} {leg} at {local}"));
                let event =
                    if taken { MediaEvent::PortTaken { leg } } else { MediaEvent::Opened { leg } };
                return self.pop(id).handle_media_event(event, now);
            }
            MediaCommand::SetLeg { leg, params } => {
                let remote = params.remote_rtp.map_or("nowhere".to_owned(), |r| r.to_string());
                let event = if params.telephone_event.is_some() { " with DTMF" } else { "" };
                let codec = params.codec.codec.name();
                let keys = params.srtp.as_ref().map_or(String::new(), |keys| {
                    format!(", SRTP sent {} received {}", key(&keys.send), key(&keys.receive))
                });
                let opus = params.codec.fmtp.map_or(String::new(), |fmtp| format!(" {fmtp}"));
                let ptime = Some(params.codec.ptime_ms).filter(|ms| *ms != 20);
                let ptime = ptime.map_or(String::new(), |ms| format!(" {ms}ms"));
                let copies = params.redundant.filter(|_| params.copies);
                let copies = copies.map_or("", |_| " with copies");
                let quiet = if params.suppress_noise { ", noise suppressed," } else { "" };
                let how = format!("{event}{opus}{ptime}{copies}{quiet}");
                format!("set {leg}: {codec}{how} {:?} {remote}{keys}", params.direction)
            }
            MediaCommand::Connect { leg, to: Far::Leg(other) } => format!("join {leg} and {other}"),
            MediaCommand::Connect { leg, to: Far::Stream(stream) } => {
                let opus = stream.fmtp.map_or(String::new(), |fmtp| format!(" {fmtp}"));
                let ptime = Some(stream.ptime_ms).filter(|ms| *ms != 20);
                let ptime = ptime.map_or(String::new(), |ms| format!(" {ms}ms"));
                let (peer, codec) = (stream.peer, stream.codec.name());
                format!("join {leg} and {peer} over {codec}{opus}{ptime}")
            }
            MediaCommand::ExpectLoss { leg, percent } => {
                format!("expect {percent} % lost for {leg}")
            }
            MediaCommand::Disconnect { leg } => format!("part {leg}"),
            MediaCommand::CloseLeg { leg } => {
                let report = QualityReport { received: leg.0, ..QualityReport::default() };
                let event = MediaEvent::LegQuality { leg, report: Box::new(report), last: true };
                self.pop(id).handle_media_event(event, now);
                format!("close {leg}")
            }
        };
        self.note(&format!("{id} media: {line}"));
    }

    fn fly(&mut self, from: &PopId, stream: CallStream, event: StreamEvent) {
        if self.mute.contains(from) {
            return;
        }
        let to = stream.peer.clone();
        let initiator = match stream.initiator {
            Initiator::Local => Initiator::Remote,
            Initiator::Remote => Initiator::Local,
        };
        let stream = CallStream { peer: from.clone(), number: stream.number, initiator };
        self.sent += 1;
        self.flights.insert((self.now + LATENCY, self.sent), (to, stream, event));
    }

    /// Lets time pass.
    pub(super) fn wait(&mut self, time: Duration) {
        let until = self.now + time;
        loop {
            let alive = self.pops.iter().filter(|(id, _)| !self.dead.contains(id));
            let timers = alive.filter_map(|(_, pop)| pop.poll_timeout()).min();
            let flight = self.flights.keys().next().map(|(at, _)| *at);
            let Some(at) = earlier(timers, flight).filter(|at| *at <= until) else { break };
            self.now = self.now.max(at);
            self.step();
        }
        self.now = until;
    }

    fn step(&mut self) {
        let now = self.now;
        while let Some(entry) = self.flights.first_entry()
            && entry.key().0 <= now
        {
            let (to, stream, event) = entry.remove();
            if self.dead.contains(&to) {
                continue;
            }
            self.pop(&to).handle_call_stream(stream, event, now);
            self.drain();
        }
        let ids: Vec<PopId> = self.pops.keys().cloned().collect();
        for id in ids.into_iter().filter(|id| !self.dead.contains(id)).collect::<Vec<_>>() {
            self.pop(&id).handle_timeout(now);
        }
        self.drain();
    }

    /// The control plane says so to all.
    pub(super) fn declare(&mut self, pop_id: &str, change: impl FnOnce(&mut proto::control::Pop)) {
        let pop = self.view.get_mut(&PopId::new(pop_id).unwrap()).unwrap();
        change(pop);
        let put = change::Kind::Put(Resource { kind: Some(resource::Kind::Pop(pop.clone())) });
        let changes = vec![Change { kind: Some(put) }];
        let prev_revision = self.revision;
        self.revision += 1;
        let event = Event { prev_revision, revision: self.revision, changes };
        let now = self.now;
        for pop in self.pops.values_mut() {
            pop.handle_view(ViewUpdate::Event(event.clone()), now).unwrap();
        }
        self.drain();
    }

    pub(super) fn link(&mut self, state: LinkState) {
        let ids: Vec<PopId> = self.pops.keys().cloned().collect();
        let now = self.now;
        self.flights.clear();
        for id in &ids {
            for peer in ids.iter().filter(|peer| *peer != id) {
                self.pop(id).handle_link(peer.clone(), state, now);
            }
        }
        self.drain();
    }
}

fn pop_at(address: SocketAddr) -> PopId {
    let ip = address.ip().to_string();
    let at = ADDRESSES.iter().position(|(known, _)| *known == ip).unwrap_or(0);
    PopId::new(POPS[at].0).unwrap()
}

pub(super) fn names(codecs: &[i32]) -> String {
    let codecs = codecs.iter().filter_map(|c| proto::call::Codec::try_from(*c).ok());
    let codecs = codecs.filter_map(|c| crate::codec::Codec::try_from(c).ok());
    codecs.map(|c| c.name()).collect::<Vec<_>>().join(",")
}

fn describe_call(kind: &Kind) -> String {
    let media = |media: &Option<proto::call::Media>| {
        media.as_ref().map_or(String::new(), |m| {
            let event = if m.telephone_event { ",DTMF" } else { "" };
            format!(" ({}{event} {:?})", names(&m.codecs), m.direction())
        })
    };
    match kind {
        Kind::Setup(s) => format!("setup by {}{}", s.trunk_id, media(&s.media)),
        Kind::Progress(p) => format!("progress {}{}", p.status, media(&p.media)),
        Kind::Answer(a) => format!("answer{}", media(&a.media)),
        Kind::Reject(r) => format!("reject {} {}", r.status, r.reason),
        Kind::Cancel(_) => "cancel".to_owned(),
        Kind::Bye(b) if b.status == 0 => "bye".to_owned(),
        Kind::Bye(b) => format!("bye {} {}", b.status, b.reason),
        Kind::Update(u) => format!("update{}", media(&u.media)),
        Kind::UpdateAnswer(u) => format!("update answer{}", media(&u.media)),
        Kind::Info(i) => format!("info {}", String::from_utf8_lossy(&i.body)),
        Kind::Loss(l) => format!("loss {} %", l.percent),
        Kind::UpdateReject(u) => format!("update reject {}", u.status),
        Kind::Guard(guard) => format!("guard {:?}", guard.kind.as_ref().unwrap()),
        Kind::Rejoin(_) => "rejoin".to_owned(),
        Kind::Moved(_) => "moved".to_owned(),
        Kind::Hello(_) | Kind::Ack(_) => unreachable!("the shell's own"),
    }
}

fn describe_cdr(cdr: &Cdr) -> String {
    let name = |codec: Option<crate::codec::Codec>| codec.map_or("-", |codec| codec.name());
    let trunk =
        |id: &Option<proto::id::TrunkId>| id.as_ref().map_or("-".to_owned(), |id| id.to_string());
    let quality =
        |q: &Option<QualityReport>| q.as_ref().map_or("-".to_owned(), |q| q.received.to_string());
    format!(
        "{} record: {:?} {} to {} {} {}, tried {}, {} to {}, legs {} and {}{}{}",
        cdr.pop,
        cdr.role,
        trunk(&cdr.trunk_in),
        trunk(&cdr.trunk_out),
        cdr.cause.name(),
        cdr.status,
        cdr.attempts,
        name(cdr.codec_in),
        name(cdr.codec_out),
        quality(&cdr.quality_in),
        quality(&cdr.quality_out),
        cdr.answered.map_or(String::new(), |at| format!(", talked {:?}", cdr.ended - at)),
        cdr.moved_from.as_ref().map_or(String::new(), |pop| format!(", before at {pop}")),
    )
}

pub(super) fn known(name: &str) -> bool {
    NAMES.iter().any(|(known, ..)| *known == name)
}
