//! The root machine of a POP: passes events between SIP, calls, view and the other POPs.
//!
//! Contract of every machine (`handle_*`, then `poll_command` to the end, then `poll_timeout`); all
//! randomness comes from the seed, so equal inputs give equal commands. A call's inputs are handled
//! one at a time; mail between the halves of a local call is delivered before a `handle_*` returns.
//!
//! Invariants: strangers get silence (`handle_sip`); everything that belongs to a call is in one
//! index and goes with it; [`Pop::is_idle`] says that nothing is left.
//!
//! Stories: `pop/tests`.

mod admission;
mod commands;
mod config;
pub(crate) mod core;
mod counters;
pub(crate) mod guard;
pub(crate) mod index;
mod peers;
mod ports;
pub(crate) mod records;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use proto::control::{Change, Resource, ResourceKey, change, resource, resource_key};
use proto::id::{CallId, Epoch, PopId, Revision};
use proto::time::{Instant, earlier};

pub use commands::{
    CallGuard, CallStream, CallSummary, GuardFigures, Guardian, Initiator, LegTimeline, LinkState,
    Phase, PopCommand, ResolveError, StreamEvent,
};
pub use config::{Limits, PopConfig, Secret, Timing};
pub use counters::{PopCounters, Refusal};
pub use records::Which;

use self::core::{Core, Mail};
use self::index::Handle;
use crate::call::{Call, CallKey, Input, Name, other_request, plain};
use crate::media::{MediaEvent, SilenceCause};
use crate::sip::{self, Event, Flow, Method, Request, ServerTx};
use crate::view::{Gap, View, ViewUpdate};

/// A POP: SIP, routing, calls and their records, without IO.
#[derive(Debug)]
pub struct Pop {
    core: Core,
    /// Boxed: a map's nodes are half empty.
    calls: BTreeMap<CallKey, Box<Call>>,
    deadlines: BTreeSet<(Instant, CallKey)>,
}

impl Pop {
    /// A POP without a view: it knows no trunk and is silent to all until it has one.
    pub fn new(config: PopConfig, now: Instant) -> Self {
        Self { core: Core::new(config, now), calls: BTreeMap::new(), deadlines: BTreeSet::new() }
    }

    /// One received SIP message. A source of no trunk and no live call is not answered at all, not
    /// even to say that its message is malformed.
    pub fn handle_sip(&mut self, flow: Flow, bytes: &[u8], now: Instant) {
        if self.knows(flow.remote.ip(), now) {
            self.core.endpoint.handle_message(flow, bytes, now);
            self.settle(now);
        } else {
            self.core.counters.refuse(Refusal::UnknownSource);
        }
    }

    /// Whether the address is of a trunk or a live call; before there is a view, none is.
    pub fn knows(&self, ip: IpAddr, now: Instant) -> bool {
        self.core.view.acl().knows(ip) || self.core.peers.knows(ip, now)
    }

    /// A send on `flow`, or its connection, failed.
    pub fn handle_transport_error(&mut self, flow: Flow, now: Instant) {
        self.core.endpoint.handle_transport_error(flow, now);
        self.settle(now);
    }

    /// What the control plane sent. On a gap nothing changes: a snapshot is needed. Calls in
    /// progress keep what they were set up with.
    pub fn handle_view(&mut self, update: ViewUpdate, now: Instant) -> Result<Revision, Gap> {
        let pops = touches_pops(&update);
        let revision = self.core.view.apply(update)?;
        if pops {
            self.core.guard.view_changed(&self.core.view);
            self.settle(now);
        }
        Ok(revision)
    }

    /// Takes a whole view, as read from disk or built elsewhere; gives the old one back, which may
    /// be long to drop.
    pub fn restore_view(&mut self, view: View, now: Instant) -> View {
        let old = std::mem::replace(&mut self.core.view, view);
        self.core.guard.view_changed(&self.core.view);
        self.core.guard.renew();
        self.settle(now);
        old
    }

    /// A newer process registered as this POP: no more calls are taken, and those that others guard
    /// are theirs now. The rest goes on here until it ends.
    pub fn fence(&mut self, now: Instant) {
        self.leave_calls(false, now);
        self.settle(now);
    }

    /// A link came up or went down; a POP never heard of counts as up.
    pub fn handle_link(&mut self, peer: PopId, state: LinkState, now: Instant) {
        // First of all, or a call that hunts would choose the lost POP again.
        self.core.links.insert(peer.clone(), state);
        if state == LinkState::Down {
            for key in self.core.index.with_peer(&peer) {
                self.deliver(key, Input::FarLost, now);
            }
        } else {
            for key in self.core.index.awaiting(&peer) {
                self.deliver(key, Input::LinkUp, now);
            }
            self.guard_link(&peer);
        }
        self.settle(now);
    }

    /// The media plane has something to tell.
    pub fn handle_media_event(&mut self, event: MediaEvent, now: Instant) {
        match event {
            MediaEvent::LegQuality { leg, report, last: true } => {
                self.core.records.report(leg, *report);
            }
            MediaEvent::LegQuality { leg, report, last: false } => {
                let key = self.core.index.find(&Handle::Leg(leg));
                if let Some(call) = key.and_then(|key| self.calls.get_mut(&key)) {
                    call.half.leg.measured(*report);
                }
            }
            MediaEvent::Lossy { leg, percent } => {
                let key = self.core.index.find(&Handle::Leg(leg));
                if let Some(call) = key.and_then(|key| self.calls.get(&key)) {
                    call.tell_loss(percent, &mut self.core);
                }
            }
            // Whoever is muted is there.
            MediaEvent::Silent { cause: SilenceCause::Muted, .. } => return,
            MediaEvent::Silent { leg, .. } => {
                self.deliver_to(&Handle::Leg(leg), Input::Silent, now);
            }
            MediaEvent::Opened { leg } => {
                self.deliver_to(&Handle::Leg(leg), Input::Opened, now);
            }
            MediaEvent::PortTaken { leg } => {
                self.core.counters.ports_taken += 1;
                self.deliver_to(&Handle::Leg(leg), Input::PortTaken, now);
            }
            MediaEvent::FirstPacket { .. } | MediaEvent::Latched { .. } => return,
        }
        self.settle(now);
    }

    /// The answer to a [`PopCommand::Resolve`].
    pub fn handle_resolved(
        &mut self,
        query: u64,
        result: Result<Vec<SocketAddr>, ResolveError>,
        now: Instant,
    ) {
        let handle = Handle::Query(query);
        let Some(key) = self.core.index.find(&handle) else { return };
        self.core.index.remove(&handle);
        self.deliver(key, Input::Resolved(result), now);
        self.settle(now);
    }

    /// Our name.
    pub fn id(&self) -> &PopId {
        &self.core.config.id
    }

    /// The epoch of a new registration.
    pub fn set_epoch(&mut self, epoch: Epoch, now: Instant) {
        if self.core.guard.registered && self.core.config.epoch == epoch {
            return;
        }
        self.close_feeds();
        self.core.config.epoch = epoch;
        self.core.ports.begin_at(epoch);
        self.core.fenced = false;
        self.core.guard.registered = true;
        for (key, call) in &self.calls {
            let answered = call.phase() == Phase::Answered;
            self.core.guard.touch(Name::of(&call.half), *key, answered);
        }
        self.core.guard.renew();
        self.settle(now);
    }

    /// Ends all calls and refuses new ones; done when [`is_idle`](Self::is_idle).
    pub fn shutdown(&mut self, now: Instant) {
        self.core.closing = true;
        let keys: Vec<CallKey> = self.calls.keys().copied().collect();
        for key in keys {
            self.deliver(key, Input::Shutdown, now);
        }
        self.settle(now);
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.core.endpoint.handle_timeout(now);
        self.core.records.handle_timeout(now);
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            self.deadlines.remove(&(at, key));
            self.deliver(key, Input::Timeout, now);
        }
        self.settle(now);
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let calls = self.deadlines.first().map(|(at, _)| *at);
        let parts = earlier(self.core.endpoint.poll_timeout(), self.core.records.poll_timeout());
        earlier(earlier(calls, self.core.guard.deadline()), parts)
    }

    /// The next effect to execute.
    pub fn poll_command(&mut self) -> Option<PopCommand> {
        self.core.commands.pop_front()
    }

    /// Totals of calls and refusals.
    pub fn counters(&self) -> &PopCounters {
        &self.core.counters
    }

    /// Totals of the SIP endpoint.
    pub fn sip_counters(&self) -> &sip::Counters {
        self.core.endpoint.counters()
    }

    /// SIP transactions alive.
    pub fn transactions(&self) -> usize {
        self.core.endpoint.transactions()
    }

    /// Media ports in use.
    pub fn ports_used(&self) -> usize {
        self.core.ports.used()
    }

    /// The view calls are routed by.
    pub fn view(&self) -> &View {
        &self.core.view
    }

    /// All calls, oldest first; a local call once.
    pub fn calls(&self) -> Vec<CallSummary> {
        let guard = &self.core.guard;
        self.halves().map(|call| summary(call, guard.guardians(Name::of(&call.half)))).collect()
    }

    /// What the legs of a call at this POP received over time: that of the caller first.
    pub fn timelines(&self, call: CallId) -> Vec<LegTimeline> {
        let halves = self.calls.values().filter(|half| half.half.call_id == call);
        let timeline = |call: &Call| LegTimeline {
            which: call.half.which(),
            timeline: call.half.leg.timeline.clone(),
            quality: call.half.leg.quality.clone(),
        };
        let mut legs: Vec<_> = halves.map(|call| timeline(call)).collect();
        legs.sort_by_key(|leg| leg.which);
        legs
    }

    /// Guarding in figures.
    pub fn guarding(&self) -> GuardFigures {
        let (held, held_bytes) = self.core.guard.wards();
        GuardFigures { held, held_bytes, unguarded: self.core.guard.unguarded() }
    }

    /// Calls not yet over for their users.
    pub fn active_calls(&self) -> usize {
        self.halves().filter(|call| call.phase() != Phase::Ending).count()
    }

    /// Nothing left: no call, transaction, media port, counted address, unwritten record or
    /// command.
    pub fn is_idle(&self) -> bool {
        let core = &self.core;
        self.calls.is_empty()
            && self.deadlines.is_empty()
            && core.endpoint.is_idle()
            && core.index.is_empty()
            && core.guard.is_idle()
            && core.ports.used() == 0
            && core.trunk_calls.is_empty()
            && core.peers.is_idle()
            && core.records.is_empty()
            && core.mail.is_empty()
            && core.commands.is_empty()
    }

    /// All calls are over and recorded. What may be left absorbs retransmissions (Timers D to K):
    /// a process that stops need not wait for that.
    pub fn is_drained(&self) -> bool {
        let core = &self.core;
        self.calls.is_empty()
            && core.records.is_empty()
            && core.mail.is_empty()
            && core.commands.is_empty()
    }

    fn halves(&self) -> impl Iterator<Item = &Call> {
        self.calls.values().map(|call| &**call).filter(|call| call.half.counts())
    }

    // ------------------------------------------------------------ passing events

    /// Until nothing is left to pass on.
    fn settle(&mut self, now: Instant) {
        self.take_over(now);
        loop {
            if let Some(event) = self.core.endpoint.poll_event() {
                self.event(event, now);
            } else if let Some(mail) = self.core.mail.pop_front() {
                self.mail(mail, now);
            } else if !self.core.arrivals.is_empty() {
                self.arrive(now);
            } else {
                break;
            }
        }
        self.drain(now);
        self.feed(now);
        self.core.collect();
    }

    fn event(&mut self, event: Event, now: Instant) {
        match event {
            Event::Request { tx, flow, request } => self.request(tx, flow, request, now),
            Event::Cancelled { tx } => {
                self.deliver_to(&Handle::Server(tx), Input::Cancelled { tx }, now);
            }
            Event::Ack { tx, request, .. } => {
                self.deliver_to(&Handle::Server(tx), Input::Ack { tx, request }, now);
            }
            Event::AckMissing { tx } => {
                self.deliver_to(&Handle::Server(tx), Input::AckMissing { tx }, now);
            }
            Event::PrackMissing { tx } => {
                self.deliver_to(&Handle::Server(tx), Input::PrackMissing { tx }, now);
            }
            Event::ClientFailed { tx, reason } => {
                self.deliver_to(&Handle::Client(tx), Input::Failed { tx, reason }, now);
                self.core.index.remove(&Handle::Client(tx));
            }
            Event::Response { tx, response } => match self.core.index.find(&Handle::Client(tx)) {
                Some(key) => {
                    let is_last = response.is_final() && response.method() != Some(Method::Invite);
                    self.deliver(key, Input::Response { tx, response }, now);
                    if is_last {
                        self.core.index.remove(&Handle::Client(tx));
                    }
                }
                None if response.is_success() && response.method() == Some(Method::Invite) => {
                    self.core.stray_answer(tx, &response, now);
                }
                None => {}
            },
        }
    }

    fn request(&mut self, tx: ServerTx, flow: Flow, request: Request, now: Instant) {
        let Some(tag) = request.headers.to_tag() else {
            return self.outside(tx, flow, request, now);
        };
        let call_id = request.headers.call_id().unwrap_or_default();
        match self.core.index.find(&Handle::Dialog(call_id, tag)) {
            Some(key) => self.deliver(key, Input::Request { tx, flow, request }, now),
            None => {
                self.core.counters.refuse(Refusal::NoDialog);
                self.core.respond(tx, plain(&request, 481), now);
            }
        }
    }

    /// A request outside of any dialog.
    fn outside(&mut self, tx: ServerTx, flow: Flow, request: Request, now: Instant) {
        match &request.method {
            Method::Invite => {
                if let Some((key, call)) = admission::admit(&mut self.core, tx, flow, request, now)
                {
                    self.keep(key, Box::new(call));
                }
            }
            Method::Bye | Method::Info | Method::Prack | Method::Update => {
                self.core.counters.refuse(Refusal::NoDialog);
                self.core.respond(tx, plain(&request, 481), now);
            }
            // Who asks before it calls takes its calls elsewhere (RFC 3261 §11.2).
            Method::Options if self.core.unwilling().is_some() => {
                self.core.respond(tx, admission::busy(&request), now);
            }
            method => {
                if *method != Method::Options {
                    self.core.counters.refuse(Refusal::MethodNotAllowed);
                }
                self.core.respond(tx, other_request(&request), now);
            }
        }
    }

    fn mail(&mut self, mail: Mail, now: Instant) {
        match mail {
            Mail::Begin(begin) => {
                let key = begin.key;
                if let Some(call) = Call::egress(*begin, &mut self.core, now) {
                    self.keep(key, Box::new(call));
                }
            }
            Mail::Message(key, kind) => self.deliver(key, Input::Far(kind), now),
        }
    }

    fn deliver_to(&mut self, handle: &Handle, input: Input, now: Instant) {
        if let Some(key) = self.core.index.find(handle) {
            self.deliver(key, input, now);
        }
    }

    fn deliver(&mut self, key: CallKey, input: Input, now: Instant) {
        let Some(mut call) = self.calls.remove(&key) else { return };
        if let Some(at) = call.deadline() {
            self.deadlines.remove(&(at, key));
        }
        call.handle(input, &mut self.core, now);
        self.keep(key, call);
    }

    fn keep(&mut self, key: CallKey, call: Box<Call>) {
        let answered = call.phase() == Phase::Answered;
        self.core.guard.touch(Name::of(&call.half), key, answered);
        if call.is_over() {
            self.core.index.forget(key);
            return;
        }
        if let Some(at) = call.deadline() {
            self.deadlines.insert((at, key));
        }
        self.calls.insert(key, call);
    }
}

/// Whether POPs may be others afterwards.
fn touches_pops(update: &ViewUpdate) -> bool {
    let is_pop = |change: &Change| {
        matches!(
            &change.kind,
            Some(change::Kind::Put(Resource { kind: Some(resource::Kind::Pop(_)) }))
                | Some(change::Kind::Delete(ResourceKey {
                    kind: Some(resource_key::Kind::PopId(_))
                }))
        )
    };
    match update {
        ViewUpdate::Snapshot { .. } => true,
        ViewUpdate::Event(event) => event.changes.iter().any(is_pop),
    }
}

fn summary(call: &Call, guardians: Vec<Guardian>) -> CallSummary {
    let record = &call.half.record;
    CallSummary {
        call_id: call.half.call_id,
        role: call.half.role(),
        phase: call.phase(),
        trunk_in: record.trunk_in.clone(),
        trunk_out: record.trunk_out.clone(),
        peer: record.peer.clone(),
        started: record.started,
        answered: record.answered,
        guard: CallGuard {
            guardians,
            moved_from: record.moved_from.clone(),
            arriving: call.is_moving(),
            orphan: call.is_orphan(),
        },
        mos: call.half.leg.quality.as_ref().and_then(|quality| quality.point?.mos),
    }
}
