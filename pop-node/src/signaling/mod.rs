//! The loop that owns the calls: next event → apply → execute commands → reset the timer.
//!
//! One task, one [`Pop`]; nothing else mutates it and nothing inside a turn waits. Priorities are
//! numbered in [`Signaling::next`]. A turn executes at most [`COMMANDS_PER_TURN`] commands, so
//! a burst of them cannot keep events from being read.
//! Deliberately not here: what a message means (`pop_core::pop`), packets (`media`).

mod execute;
mod tcp;
mod udp;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pop_core::media::MediaEvent;
use pop_core::pop::{
    CallStream, CallSummary, GuardFigures, LegTimeline, LinkState, Pop, PopCounters, StreamEvent,
};
use pop_core::sip::{Counters as SipCounters, Flow};
use proto::id::{CallId, Epoch, PopId, Revision};
use proto::overlay::PathId;
use proto::time::Instant;
use tokio::sync::{mpsc, oneshot};

use crate::clock::Clock;
use crate::drops::{Drops, Reason};
use crate::link::stream::Outbox;
use crate::{cdr, control, link, media, resolve};

pub use tcp::Tcp;
pub use udp::Udp;

/// Commands executed before other events get their turn.
const COMMANDS_PER_TURN: usize = 4_096;
/// When the media thread was behind, its order is given again after this.
const MEDIA_RETRY: Duration = Duration::from_millis(2);
/// Calls get so long to end with BYE when the process is told to stop.
const SHUTDOWN: Duration = Duration::from_secs(5);

/// The loop runs twenty times a second at least; so late, the process stood still.
const SLEPT: Duration = Duration::from_secs(1);
/// A control node that hears this POP answers within this.
const HUSH: Duration = Duration::from_millis(1_500);

/// A SIP socket has something.
#[derive(Debug)]
pub enum SipEvent {
    /// One message.
    Message {
        /// Where it came from.
        flow: Flow,
        /// As received.
        bytes: Bytes,
    },
    /// A peer connected over TCP.
    Accepted {
        /// Our listening address.
        local: std::net::SocketAddr,
        /// The peer's.
        remote: std::net::SocketAddr,
        /// The connection.
        socket: tokio::net::TcpStream,
    },
    /// A TCP connection ended, or could not be opened.
    Closed {
        /// With its connection number.
        flow: Flow,
    },
}

/// A question of the admin page.
#[derive(Debug)]
pub enum StatusRequest {
    /// All figures.
    Figures(oneshot::Sender<Status>),
    /// What the legs of a call received; none if it is not here.
    Call(CallId, oneshot::Sender<Vec<LegTimeline>>),
}

/// What the calls look like now.
#[derive(Debug)]
pub struct Status {
    /// Of the view in use.
    pub revision: Revision,
    /// Its cluster; empty: no view yet.
    pub cluster_id: String,
    /// Trunks, routes and numbers in it.
    pub resources: (usize, usize, usize),
    /// All calls.
    pub calls: Vec<(CallSummary, Duration)>,
    /// Calls not yet over.
    pub active_calls: usize,
    /// The operator wants it to take no new calls; wants it empty.
    pub leaving: (bool, bool),
    /// Totals.
    pub counters: PopCounters,
    /// Totals of SIP.
    pub sip: SipCounters,
    /// Calls that outlive their POP.
    pub guard: GuardFigures,
    /// SIP over TCP.
    pub tcp_connections: usize,
    /// Peers with a link up, and its round trip by QUIC.
    pub links: Vec<(PopId, Duration)>,
}

/// Where events come from.
pub struct Inputs {
    /// SIGTERM or SIGINT.
    pub stop: oneshot::Receiver<()>,
    /// The control plane.
    pub control: mpsc::Receiver<control::Event>,
    /// Other POPs.
    pub link: mpsc::Receiver<link::Event>,
    /// The media thread.
    pub media: mpsc::Receiver<MediaEvent>,
    /// Name servers.
    pub resolved: mpsc::Receiver<resolve::Answer>,
    /// The admin page.
    pub status: mpsc::Receiver<StatusRequest>,
    /// Carriers.
    pub sip: mpsc::Receiver<SipEvent>,
}

/// Where commands go.
pub struct Outputs {
    /// SIP over UDP.
    pub udp: Udp,
    /// SIP over TCP.
    pub tcp: Tcp,
    /// The media thread.
    pub media: media::Handle,
    /// The links, to close them all.
    pub links: link::Links,
    /// Names.
    pub resolver: resolve::Resolver,
    /// Call records.
    pub cdr: cdr::Writer,
    /// What heartbeats say.
    pub control: Arc<control::Shared>,
    /// Counters.
    pub drops: Drops,
}

/// Heartbeats are told news after this.
const PUBLISH_DELAY: Duration = Duration::from_millis(50);

enum Event {
    Stop,
    Timer,
    Control(control::Event),
    Link(link::Event),
    Media(MediaEvent),
    Resolved(resolve::Answer),
    Status(StatusRequest),
    Sip(SipEvent),
}

/// The loop and what it owns.
pub struct Signaling {
    pop: Pop,
    clock: Clock,
    inputs: Inputs,
    outputs: Outputs,
    /// By path: never without one.
    links: BTreeMap<PopId, BTreeMap<PathId, (quinn::Connection, link::Instance)>>,
    /// The process last linked with, of each POP.
    processes: BTreeMap<PopId, link::Instance>,
    /// POPs the core was told to have no link to.
    missing: BTreeSet<PopId>,
    streams: BTreeMap<CallStream, Outbox>,
    /// Orders the media thread had no room for; no command is executed before them.
    held: VecDeque<media::Order>,
    /// Commands were left for the next turn.
    more: bool,
    /// Set while the process ends: the latest time for it.
    ending: Option<Instant>,
    /// When heartbeats are told what is news to them.
    publish: Option<Instant>,
    /// This process did not run for a while: until it knows whether its calls are its own still,
    /// it says nothing.
    hushed: Option<Instant>,
}

impl Signaling {
    /// Around a POP that has its view already, if there is one.
    pub fn new(pop: Pop, clock: Clock, inputs: Inputs, outputs: Outputs) -> Self {
        Self {
            pop,
            clock,
            inputs,
            outputs,
            links: BTreeMap::new(),
            processes: BTreeMap::new(),
            missing: BTreeSet::new(),
            streams: BTreeMap::new(),
            held: VecDeque::new(),
            more: false,
            ending: None,
            publish: None,
            hushed: None,
        }
    }

    /// Runs until told to stop and all calls have ended, or their time is over.
    pub async fn run(mut self) {
        self.tell_missing_links(self.clock.now());
        loop {
            let due = self.wake();
            let event = self.next().await;
            self.notice_sleep(due);
            self.apply(event);
            if self.hushed.is_none() {
                self.execute();
            }
            self.publish();
            if self.ended() {
                return;
            }
        }
    }

    /// The loop should have run at `due`. If it did not for long, because the process or its machine
    /// stood still, other POPs may have taken its calls over: their peers must not hear of it before
    /// it knows.
    fn notice_sleep(&mut self, due: Option<std::time::Instant>) {
        let late = due.map_or(Duration::ZERO, |due| due.elapsed());
        if late > SLEPT && self.ending.is_none() {
            tracing::warn!(?late, "this process did not run: silent until it is heard or given up");
            self.hushed = Some(self.clock.now() + HUSH);
        }
    }

    /// The next event, most urgent first. SIP is last: it is the one source strangers can flood.
    async fn next(&mut self) -> Event {
        let wake = self.wake();
        let (stopping, speaks) = (self.ending.is_some(), self.hushed.is_none());
        let inputs = &mut self.inputs;
        tokio::select! {
            biased;
            // 1. The end.
            _ = &mut inputs.stop, if !stopping => Event::Stop,
            // 2. Timers: late ones make everything later.
            () = sleep_until(wake) => Event::Timer,
            // 3. Routes and epochs before the calls that need them.
            Some(event) = inputs.control.recv() => Event::Control(event),
            // 4. Calls of other POPs: already admitted there.
            Some(event) = inputs.link.recv(), if speaks => Event::Link(event),
            // 5. What media tells, and names that calls wait for.
            Some(event) = inputs.media.recv(), if speaks => Event::Media(event),
            Some(answer) = inputs.resolved.recv(), if speaks => Event::Resolved(answer),
            // 6. People.
            Some(request) = inputs.status.recv() => Event::Status(request),
            // 7. Carriers, and whoever else sends to our SIP ports.
            Some(event) = inputs.sip.recv(), if speaks => Event::Sip(event),
        }
    }

    fn wake(&self) -> Option<std::time::Instant> {
        let now = self.clock.now();
        if let Some(until) = self.hushed {
            return Some(
                self.clock
                    .deadline(proto::time::earlier(Some(until), self.publish).unwrap_or(until)),
            );
        }
        if self.more {
            return Some(std::time::Instant::now());
        }
        let retry = (!self.held.is_empty()).then(|| now + MEDIA_RETRY);
        let core = proto::time::earlier(self.pop.poll_timeout(), self.ending);
        proto::time::earlier(proto::time::earlier(core, self.publish), retry)
            .map(|at| self.clock.deadline(at))
    }

    fn apply(&mut self, event: Event) {
        let now = self.clock.now();
        match event {
            Event::Stop => {
                tracing::info!(calls = self.pop.active_calls(), "stopping: ending all calls");
                self.ending = Some(now + SHUTDOWN);
                self.pop.shutdown(now);
            }
            Event::Timer => {
                if self.hushed.is_some_and(|until| until <= now) {
                    // No control node says anything: calls are never to wait for that.
                    self.hushed = None;
                }
            }
            Event::Control(event) => self.control(event, now),
            Event::Link(event) => self.link(event, now),
            Event::Media(event) => self.pop.handle_media_event(event, now),
            Event::Resolved(answer) => {
                self.pop.handle_resolved(answer.number, answer.result, now);
            }
            // Nobody waits any more: fine.
            Event::Status(StatusRequest::Figures(answer)) => drop(answer.send(self.status(now))),
            Event::Status(StatusRequest::Call(call, answer)) => {
                drop(answer.send(self.pop.timelines(call)));
            }
            Event::Sip(event) => self.sip(event, now),
        }
        // Also after other events: under load the timer alone could come late.
        let speaks = self.hushed.is_none();
        if speaks && self.pop.poll_timeout().is_some_and(|at| at <= now) {
            self.pop.handle_timeout(now);
        }
    }

    fn control(&mut self, event: control::Event, now: Instant) {
        match event {
            control::Event::Registered(epoch) => self.pop.set_epoch(epoch, now),
            control::Event::Fenced => {
                self.pop.fence(now);
                self.outputs.links.fence();
            }
            control::Event::Lost => {
                self.hushed = None;
                let calls = self.pop.active_calls();
                self.pop.retire(now);
                tracing::warn!(calls, "calls left to the POPs that took them over");
            }
            control::Event::Lease(until) => {
                let until = self.clock.instant(until);
                // Said before the sleep: it says nothing of now.
                if until > now {
                    self.hushed = None;
                }
                self.pop.handle_lease(until, now);
            }
            control::Event::Snapshot(view) => {
                let old = self.pop.restore_view(*view, now);
                // A million numbers take their time to go.
                drop(tokio::task::spawn_blocking(move || drop(old)));
                self.tell_missing_links(now);
            }
            control::Event::View(update) => match self.pop.handle_view(update, now) {
                Ok(revision) => {
                    tracing::debug!(%revision, "view");
                    self.tell_missing_links(now);
                }
                // The watch has checked the same update against the same view.
                Err(gap) => tracing::error!(%gap, "the view did not take a checked update"),
            },
        }
    }

    /// A POP we never had a link to is not there yet: calls may wait a moment for it.
    fn tell_missing_links(&mut self, now: Instant) {
        let own = self.pop.id().clone();
        let is_news = |id: &&PopId| {
            **id != own && !self.links.contains_key(*id) && !self.missing.contains(*id)
        };
        let news: Vec<PopId> =
            self.pop.view().pops().map(|(id, _)| id).filter(is_news).cloned().collect();
        for peer in news {
            self.missing.insert(peer.clone());
            self.pop.handle_link(peer, LinkState::Down, now);
        }
    }

    fn link(&mut self, event: link::Event, now: Instant) {
        match event {
            link::Event::Up { peer, path, connection, instance } => {
                self.link_up((peer, path), connection, instance, now);
            }
            link::Event::Down { peer, path, connection } => {
                // A newer connection may be up already.
                let Some(paths) = self.links.get_mut(&peer) else { return };
                let is_it = |held: &(quinn::Connection, _)| held.0.stable_id() == connection;
                if !paths.get(&path).is_some_and(is_it) {
                    return;
                }
                paths.remove(&path);
                let alone = paths.is_empty();
                self.order(media::Order::LinkDown(peer.clone(), path));
                if alone {
                    self.links.remove(&peer);
                    self.pop.handle_link(peer, LinkState::Down, now);
                }
            }
            link::Event::Accepted { stream, outbox } => {
                self.streams.insert(stream, outbox);
            }
            link::Event::Call { stream, event } => {
                if matches!(event, StreamEvent::Closed | StreamEvent::Failed) {
                    self.streams.remove(&stream);
                }
                self.pop.handle_call_stream(stream, event, now);
            }
        }
    }

    fn link_up(
        &mut self,
        (peer, path): (PopId, PathId),
        connection: quinn::Connection,
        instance: link::Instance,
        now: Instant,
    ) {
        // Told late: it was replaced already, for instance by one with a newer process.
        if connection.close_reason().is_some() {
            return;
        }
        let paths = self.links.entry(peer.clone()).or_default();
        let before = paths.iter().filter(|(_, (_, process))| *process != instance);
        let before: Vec<PathId> = before.map(|(path, _)| *path).collect();
        let process = self.processes.insert(peer.clone(), instance);
        before.iter().for_each(|path| drop(paths.remove(path)));
        let first = paths.is_empty();
        paths.insert(path, (connection.clone(), instance));
        let replaced = !before.is_empty();
        for path in before {
            self.order(media::Order::LinkDown(peer.clone(), path));
        }
        if process.is_some_and(|process| process != instance) {
            self.order(media::Order::Restarted(peer.clone()));
        }
        if replaced {
            // Its calls are lost with the process that had them.
            self.pop.handle_link(peer.clone(), LinkState::Down, now);
        }
        self.order(media::Order::LinkUp(peer.clone(), path, connection));
        if first {
            self.pop.handle_link(peer, LinkState::Up, now);
        }
    }

    fn sip(&mut self, event: SipEvent, now: Instant) {
        match event {
            SipEvent::Message { flow, bytes } => self.pop.handle_sip(flow, &bytes, now),
            SipEvent::Accepted { local, remote, socket } => {
                // Strangers must not hold the connections carriers need.
                if self.pop.knows(remote.ip(), now) {
                    self.outputs.tcp.accept(local, remote, socket);
                } else {
                    self.outputs.drops.count(Reason::TcpUnknownSource);
                }
            }
            SipEvent::Closed { flow } => {
                self.outputs.tcp.forget(flow);
                self.pop.handle_transport_error(flow, now);
            }
        }
    }

    /// What heartbeats tell. Calls are counted one by one, so not after each event.
    fn publish(&mut self) {
        let now = self.clock.now();
        if now < *self.publish.get_or_insert(now + PUBLISH_DELAY) {
            return;
        }
        self.publish = None;
        let calls = u32::try_from(self.pop.active_calls()).unwrap_or(u32::MAX);
        self.outputs.control.calls.store(calls, Ordering::Relaxed);
        self.outputs.control.revision.store(self.pop.view().revision().0, Ordering::Relaxed);
    }

    fn ended(&self) -> bool {
        self.ending.is_some_and(|latest| {
            (self.pop.is_drained() && self.held.is_empty() && !self.more)
                || self.clock.now() >= latest
        })
    }

    fn status(&self, now: Instant) -> Status {
        let view = self.pop.view();
        let calls = self.pop.calls();
        let age = |call: CallSummary| {
            let age = now.since(call.started);
            (call, age)
        };
        Status {
            revision: view.revision(),
            cluster_id: view.cluster_id().to_owned(),
            resources: (view.trunks().count(), view.routes().count(), view.numbers()),
            calls: calls.into_iter().map(age).collect(),
            active_calls: self.pop.active_calls(),
            leaving: view.pop(self.pop.id()).map_or((false, false), |p| (p.cordoned, p.draining)),
            counters: self.pop.counters().clone(),
            sip: self.pop.sip_counters().clone(),
            guard: self.pop.guarding(),
            tcp_connections: self.outputs.tcp.connections(),
            links: self.links.iter().map(round_trip).collect(),
        }
    }
}

/// The shortest of a POP's paths.
fn round_trip(
    (peer, paths): (&PopId, &BTreeMap<PathId, (quinn::Connection, link::Instance)>),
) -> (PopId, Duration) {
    let shortest = paths.values().map(|(connection, _)| connection.rtt()).min();
    (peer.clone(), shortest.unwrap_or_default())
}

async fn sleep_until(at: Option<std::time::Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

/// The epoch a view gives a POP; 0 if it does not name it.
pub fn epoch_in(view: &pop_core::view::View, own: &PopId) -> Epoch {
    Epoch(view.pop(own).map_or(0, |pop| pop.epoch))
}
