//! All of a POP but its calls: what a call reaches while it handles an input.

use std::collections::{BTreeMap, VecDeque};
use std::net::{IpAddr, SocketAddr};

use bytes::Bytes;
use proto::call::call_message::Kind;
use proto::call::{CallMessage, CallReject};
use proto::id::{CallId, LegId, PopId, StreamId, TrunkId};
use proto::time::{Duration, Instant};

use super::guard::{Arrivals, Guard};
use super::index::{Handle, Index};
use super::peers::Peers;
use super::ports::Ports;
use super::records::Records;
use super::{
    CallStream, Initiator, LinkState, PopCommand, PopConfig, PopCounters, Refusal, ResolveError,
};
use crate::call::{Begin, CallKey, Link, splitmix};
use crate::media::{Lane, MediaCommand};
use crate::sip::{self, ClientTx, Endpoint, Flow, Request, Response, ServerTx, Text, Transport};
use crate::srtp::KeySource;
use crate::view::View;

/// Between the two halves of a local call; delivered before the POP returns to its shell.
#[derive(Debug)]
pub(crate) enum Mail {
    Begin(Box<Begin>),
    Message(CallKey, Kind),
}

#[derive(Debug)]
pub(crate) struct Core {
    pub(crate) config: PopConfig,
    pub(crate) endpoint: Endpoint,
    pub(crate) view: View,
    pub(crate) ports: Ports,
    pub(crate) peers: Peers,
    pub(crate) links: BTreeMap<PopId, LinkState>,
    pub(crate) index: Index,
    pub(crate) records: Records,
    pub(crate) guard: Guard,
    /// Halves that were taken over, or could not be.
    pub(crate) arrivals: Arrivals,
    pub(crate) counters: PopCounters,
    pub(crate) commands: VecDeque<PopCommand>,
    pub(crate) mail: VecDeque<Mail>,
    pub(crate) trunk_calls: BTreeMap<TrunkId, u32>,
    /// Not finished yet; a local call once.
    pub(crate) live_calls: usize,
    pub(crate) closing: bool,
    /// A newer process has our name.
    pub(crate) fenced: bool,
    random: u64,
    keys: KeySource,
    /// Numbers everything of ours that needs one; never reused.
    next: u64,
    guard_streams: u64,
}

/// Streams for capsules are numbered from here, those of calls never come so far.
const GUARD_STREAMS: u64 = 1 << 62;
/// Halves of other POPs guarded here, for each call this one may have: two of its own calls, and as
/// many of those that have another POP.
const WARDS_PER_CALL: usize = 4;

fn ports(config: &PopConfig) -> Ports {
    if config.media_shared {
        Ports::shared(*config.media_ports.start(), config.media_threads)
    } else {
        Ports::new(&config.media_ports, config.timing.port_quarantine, config.media_threads)
    }
}

impl Core {
    pub(crate) fn new(config: PopConfig, now: Instant) -> Self {
        let endpoint = sip::Config {
            timers: config.sip_timers,
            seed: splitmix(config.seed ^ 0x51b),
            max_transactions: config.limits.max_transactions,
            user_agent: Text::from_static("Voxmesh"),
            supported: vec![Text::from_static("timer"), Text::from_static("100rel")],
        };
        Self {
            endpoint: Endpoint::new(endpoint, now),
            view: View::default(),
            ports: ports(&config),
            peers: Peers::default(),
            links: BTreeMap::new(),
            index: Index::default(),
            records: Records::new(config.timing.report_limit),
            guard: Guard::new(config.limits.max_calls.saturating_mul(WARDS_PER_CALL)),
            arrivals: Arrivals::new(),
            counters: PopCounters::default(),
            commands: VecDeque::new(),
            mail: VecDeque::new(),
            trunk_calls: BTreeMap::new(),
            live_calls: 0,
            closing: false,
            fenced: false,
            random: splitmix(config.seed),
            keys: KeySource::new(config.secret.0),
            next: 0,
            guard_streams: 0,
            config,
        }
    }

    pub(crate) fn random(&mut self) -> u64 {
        self.random = splitmix(self.random);
        self.random
    }

    /// Where the SRTP keys of a new leg come from.
    pub(crate) fn key_source(&mut self) -> KeySource {
        KeySource::new(self.keys.secret())
    }

    /// A part of `range` that differs from call to call: what would happen to all of them at once
    /// is spread.
    pub(crate) fn spread(&self, key: CallKey, now: Instant, range: Duration) -> Duration {
        let mixed = splitmix(self.config.seed ^ splitmix(key.0 ^ now.as_nanos()));
        let range = u64::try_from(range.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(mixed.checked_rem(range).unwrap_or(0))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    pub(crate) fn new_key(&mut self) -> CallKey {
        CallKey(self.number())
    }

    /// A leg of a call of this lane.
    pub(crate) fn new_leg(&mut self, lane: Lane) -> LegId {
        lane.leg(self.number())
    }

    /// Wraps after four thousand million streams; by then the first are long over.
    pub(crate) fn new_stream_id(&mut self) -> StreamId {
        StreamId(u32::try_from(self.number() & 0xffff_ffff).unwrap_or(0))
    }

    pub(crate) fn new_call_id(&mut self) -> CallId {
        let (a, b) = (self.random().to_be_bytes(), self.random().to_be_bytes());
        let mut id = [0; 16];
        id.iter_mut().zip(a.into_iter().chain(b)).for_each(|(to, from)| *to = from);
        CallId(id)
    }

    pub(crate) fn media(&mut self, command: MediaCommand) {
        self.commands.push_back(PopCommand::Media(command));
    }

    /// Our SIP address of a transport and the family of `remote`.
    pub(crate) fn local_sip(&self, transport: Transport, remote: IpAddr) -> Option<SocketAddr> {
        let mut of_transport = self.config.sip.iter().filter(|(t, _)| *t == transport);
        of_transport.find(|(_, a)| a.is_ipv4() == remote.is_ipv4()).map(|(_, address)| *address)
    }

    /// Sends a request of a call; `None` if there are too many transactions.
    pub(crate) fn request(
        &mut self,
        key: CallKey,
        request: Request,
        flow: Flow,
        now: Instant,
    ) -> Option<ClientTx> {
        let tx = self.endpoint.request(request, flow, now).ok()?;
        self.index.add(Handle::Client(tx), key);
        Some(tx)
    }

    pub(crate) fn respond(&mut self, tx: ServerTx, response: Response, now: Instant) {
        self.endpoint.respond(tx, response, now);
    }

    /// Gives an INVITE of ours up: should it be answered after all, see `stray_answer`.
    pub(crate) fn abandon(&mut self, tx: ClientTx, now: Instant) {
        self.endpoint.cancel(tx, now);
        self.index.remove(&Handle::Client(tx));
    }

    pub(crate) fn resolve(&mut self, key: CallKey, host: String, port: u16, transport: Transport) {
        let query = self.number();
        self.index.add(Handle::Query(query), key);
        self.commands.push_back(PopCommand::Resolve { query, host, port, transport });
    }

    /// A link to the other half of a call, at `peer`.
    pub(crate) fn open_stream(&mut self, key: CallKey, peer: PopId) -> Link {
        let stream = CallStream { peer, number: self.number(), initiator: Initiator::Local };
        self.index.add(Handle::Stream(stream.clone()), key);
        self.commands.push_back(PopCommand::OpenStream { stream: stream.clone() });
        Link::Remote(stream)
    }

    /// A stream for capsules.
    pub(crate) fn open_guard_stream(&mut self, peer: PopId) -> CallStream {
        self.guard_streams += 1;
        let number = GUARD_STREAMS + self.guard_streams;
        let stream = CallStream { peer, number, initiator: Initiator::Local };
        self.commands.push_back(PopCommand::OpenStream { stream: stream.clone() });
        stream
    }

    pub(crate) fn send(&mut self, link: &Link, kind: Kind) {
        match link {
            Link::Local(key) => self.mail.push_back(Mail::Message(*key, kind)),
            Link::Remote(stream) => {
                let (stream, message) = (stream.clone(), CallMessage { kind: Some(kind) });
                self.commands.push_back(PopCommand::SendCall { stream, message });
            }
        }
    }

    /// Nothing more is said over this link.
    pub(crate) fn close_link(&mut self, link: Link) {
        if let Link::Remote(stream) = link {
            self.index.remove(&Handle::Stream(stream.clone()));
            self.commands.push_back(PopCommand::CloseStream { stream });
        }
    }

    pub(crate) fn reject(&mut self, link: Link, status: u16, reason: &str) {
        let reason = reason.to_owned();
        self.send(&link, Kind::Reject(CallReject { status: u32::from(status), reason }));
        self.close_link(link);
    }

    /// Why no call is taken at all, if so.
    pub(crate) fn closed(&self) -> Option<Refusal> {
        if self.fenced {
            return Some(Refusal::Fenced);
        }
        self.closing.then_some(Refusal::ShuttingDown)
    }

    /// Why no call is taken from a trunk, if so. From other POPs they are when we are cordoned: they
    /// have nobody else.
    pub(crate) fn unwilling(&self) -> Option<Refusal> {
        let cordoned = self.view.is_cordoned(&self.config.id).then_some(Refusal::Cordoned);
        self.closed().or(cordoned)
    }

    /// No room for another call. Calls that came in or left here count, a local one once.
    pub(crate) fn is_overloaded(&self) -> bool {
        self.live_calls >= self.config.limits.max_calls
    }

    /// Calls a trunk has now, both directions.
    pub(crate) fn is_full(&self, trunk: &TrunkId) -> bool {
        let limit = self.view.trunk(trunk).map_or(0, |trunk| trunk.max_calls);
        limit != 0 && self.trunk_calls.get(trunk).is_some_and(|calls| *calls >= limit)
    }

    /// A 2xx to an INVITE that no call waits for: another fork of an answered one, or the winner
    /// against our CANCEL. It makes a dialog, so it is acknowledged and ended (RFC 3261 §13.2.2.4,
    /// §15). All that is needed stands in the response.
    pub(crate) fn stray_answer(&mut self, tx: ClientTx, response: &Response, now: Instant) {
        use crate::sip::HeaderName as H;
        let Some(contact) = response.headers.contact() else { return };
        let transport = contact.uri.transport().unwrap_or(Transport::Udp);
        let Some(local) =
            contact.uri.host_ip().and_then(|remote| self.local_sip(transport, remote))
        else {
            return;
        };
        let mut invite = Request::new(sip::Method::Invite, contact.uri);
        for name in [H::From, H::To, H::CallId, H::CSeq] {
            invite.headers.copy(&name, &response.headers);
        }
        invite.headers.push(H::Contact, &sip::NameAddr::new(sip::Uri::sip(None, local)));
        let Ok(mut dialog) = sip::Dialog::uac(&invite, response) else { return };
        let Some(remote) = dialog.next_hop().socket_addr() else { return };
        let flow = Flow { transport, local, remote, connection: 0 };
        self.counters.stray_answers += 1;
        let ack = dialog.ack(dialog.local_cseq);
        self.endpoint.send_ack(tx, ack, flow, now);
        if self.endpoint.is_in_dialog(tx) {
            // A re-INVITE: the dialog is whoever's took the half over, or ended by a BYE already.
            return;
        }
        let bye = dialog.request(sip::Method::Bye);
        // Without room for a transaction the peer's session timer has to do it.
        let _ = self.endpoint.request(bye, flow, now);
    }

    /// Moves what the parts produced to the commands.
    pub(crate) fn collect(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            let (flow, bytes): (Flow, Bytes) = (transmit.flow, transmit.bytes);
            self.commands.push_back(PopCommand::SendSip { flow, bytes });
        }
        for cdr in self.records.take_ready() {
            self.counters.cdrs += 1;
            self.commands.push_back(PopCommand::Cdr(Box::new(cdr)));
        }
    }
}

/// What a call is told about a name.
pub(crate) type Resolved = Result<Vec<SocketAddr>, ResolveError>;
