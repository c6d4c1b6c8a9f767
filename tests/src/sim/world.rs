//! The clock, the queue of what is under way, and the loop.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use chaos::rng::Rng;
use control_core::replica::{ProposeError, Replica, ReplicaCommand};
use pop_core::call::{Cdr, CdrRole};
use pop_core::media::{MediaCommand, MediaTransmit, Verdict};
use pop_core::pop::{CallStream, LinkState, PopCommand, StreamEvent};
use pop_core::sip::Flow;
use pop_core::view::ViewUpdate;
use proto::id::Epoch;
use proto::time::{Duration, Instant, earlier};

use super::carrier::Carrier;
use super::control::{ControlNode, TICK, index_of};
use super::net::{
    IDLE_TIMEOUT, Net, PAIRS, Pair, RECONNECT, REGIONS, Way, carrier_sip, delay, pair, pop_sip,
};
use super::operator::{Operator, POPS};
use super::plan::{Fault, Mutation, Plan};
use super::pop::{PopNode, Socket, Wire, pop_id, region_of};
use super::trace::Trace;

/// Unix time at the beginning.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// A run that is not quiet so long after its plan's end never will be: more than Timer B or C's
/// cleaning up, less than a ring limit.
const PATIENCE: Duration = Duration::from_secs(150);
/// Steps without time passing; more is a machine that never gets what it waits for.
const STEPS_MAX: u64 = 10_000;
/// A watch that ended is begun anew after this.
const WATCH_AGAIN: Duration = Duration::from_millis(300);

/// Something that will happen.
enum Due {
    /// A UDP datagram arrives.
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// An overlay datagram arrives.
    Datagram {
        from: usize,
        to: usize,
        bytes: Bytes,
    },
    /// Something on a call stream of link generation `link` arrives.
    Stream {
        to: usize,
        link: (Pair, u64),
        wire: Wire,
        event: StreamEvent,
    },
    /// Links of this pair are looked at: idle for too long, or free again.
    LinkCheck {
        ends: Pair,
        change: u64,
    },
    Raft {
        from: usize,
        to: usize,
        life: u64,
        bytes: Bytes,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Tick {
        node: usize,
        life: u64,
    },
    View {
        pop: usize,
        connection: u64,
        update: ViewUpdate,
    },
    Watch {
        pop: usize,
    },
    WatchClosed {
        pop: usize,
        connection: u64,
    },
    Fault(Fault),
    Healed(Fault),
}

/// The connection of two POPs.
#[derive(Default)]
struct Link {
    up: bool,
    /// Counts connections.
    generation: u64,
    /// Counts cuts and heals.
    changes: u64,
    /// What waits for the way to be free.
    waiting: Vec<(usize, Wire, StreamEvent)>,
    /// Streams that live, and which of their ends hear no more.
    streams: BTreeMap<Wire, BTreeSet<usize>>,
}

/// The mesh and everything around it.
pub struct World {
    pub now: Instant,
    pub plan: Plan,
    pub trace: Trace,
    pub control: Vec<ControlNode>,
    pub pops: Vec<PopNode>,
    pub carriers: Vec<Carrier>,
    pub operator: Operator,
    /// By POP, as written.
    pub cdrs: Vec<Cdr>,
    /// Halted replicas and other things that must never happen.
    pub complaints: Vec<String>,
    net: Net,
    links: BTreeMap<Pair, Link>,
    queue: BTreeMap<(Instant, u64), Due>,
    queued: u64,
    skew_ms: Vec<u64>,
    sync: Rng,
    counted: u64,
    /// Steps without time passing.
    steps_now: u64,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::split(plan.seed, "world");
        let regions = || 0..REGIONS;
        let mut world = Self {
            now: Instant::ZERO,
            trace: Trace::new(),
            control: regions().map(ControlNode::new).collect(),
            pops: regions().map(|region| PopNode::new(region, plan.seed)).collect(),
            carriers: regions().map(|r| Carrier::new(r, plan.seed, &plan.calls)).collect(),
            operator: Operator::new(&plan),
            cdrs: Vec::new(),
            complaints: Vec::new(),
            net: Net::new(plan.seed, plan.conditions),
            links: PAIRS.into_iter().map(|ends| (ends, Link::default())).collect(),
            queue: BTreeMap::new(),
            queued: 0,
            // Clocks differ by up to a minute.
            skew_ms: regions().map(|_| rng.below(60_000)).collect(),
            sync: Rng::split(plan.seed, "disks"),
            counted: 0,
            steps_now: 0,
            plan,
        };
        for node in 0..REGIONS {
            let offset = Duration::from_millis(7 * node as u64);
            world.schedule(Instant::ZERO + TICK + offset, Due::Tick { node, life: 1 });
            world.schedule(Instant::from_millis(500), Due::Watch { pop: node });
        }
        for ends in PAIRS {
            world.schedule(Instant::ZERO + RECONNECT, Due::LinkCheck { ends, change: 0 });
        }
        for (at, fault) in world.plan.faults.clone() {
            world.schedule(at, Due::Fault(fault));
        }
        world
    }

    /// Runs until nothing is left to do, at most until the plan's end and some patience.
    pub fn run(&mut self) {
        let end = self.plan.ends() + PATIENCE;
        while self.now < end && !(self.now > self.plan.ends() && self.is_quiet()) {
            self.step();
        }
    }

    /// Nothing is under way but ticks and watches.
    pub fn is_quiet(&self) -> bool {
        let idle = |node: &PopNode| node.pop.is_idle() && node.media.legs() == 0;
        self.operator.is_done()
            && self.pops.iter().all(|node| idle(node) && node.poll_timeout().is_none())
            && self.carriers.iter().all(Carrier::is_idle)
            && self.views_agree()
    }

    /// Every replica and every POP has what the others have.
    pub fn views_agree(&self) -> bool {
        let newest = self.control.iter().map(|n| n.replica.as_ref().map(|r| r.state().revision()));
        let mut all: Vec<_> = newest.collect();
        all.extend(self.pops.iter().map(|node| Some(node.pop.view().revision())));
        all.windows(2).all(|w| w.first() == w.last())
    }

    /// To the next moment at which anything happens.
    fn step(&mut self) {
        let mut next = self.queue.keys().next().map(|(at, _)| *at);
        for at in self.pops.iter().map(PopNode::poll_timeout) {
            next = earlier(next, at);
        }
        for at in self.carriers.iter().map(Carrier::poll_timeout) {
            next = earlier(next, at);
        }
        next = earlier(next, self.operator.poll_timeout());
        let next = next.unwrap_or(self.now).max(self.now);
        self.steps_now = if next > self.now { 0 } else { self.steps_now + 1 };
        self.now = next;
        assert!(self.steps_now < STEPS_MAX, "time stands still: {}", self.impatient());
        let now = self.now;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
            let due = entry.remove();
            self.happen(due);
        }
        for region in 0..REGIONS {
            if self.pops.get(region).and_then(PopNode::poll_timeout).is_some_and(|at| at <= now) {
                self.on_pop(region, |node| {
                    node.pop.handle_timeout(now);
                    node.media.handle_timeout(now);
                });
            }
            if let Some(carrier) = self.carriers.get_mut(region)
                && carrier.poll_timeout().is_some_and(|at| at <= now)
            {
                carrier.handle_timeout(now);
                self.drain_carrier(region);
            }
        }
        self.operate();
    }

    /// Who wants to be woken in the past, again and again.
    fn impatient(&self) -> String {
        let mut who = Vec::new();
        for node in &self.pops {
            who.push(format!("{} calls {:?}", node.id, node.pop.poll_timeout()));
            who.push(format!("{} media {:?}", node.id, node.media.poll_timeout()));
        }
        who.extend(self.carriers.iter().map(|c| format!("carrier {:?}", c.poll_timeout())));
        who.push(format!("operator {:?}", self.operator.poll_timeout()));
        format!("now {}; {}", self.now, who.join(", "))
    }

    fn schedule(&mut self, at: Instant, due: Due) {
        self.queued += 1;
        self.queue.insert((at, self.queued), due);
    }

    fn happen(&mut self, due: Due) {
        let now = self.now;
        match due {
            Due::Udp { from, to, bytes } => self.udp(from, to, &bytes),
            Due::Datagram { from, to, bytes } => {
                self.trace.note(now, format_args!("datagram {from} > {to}"), &bytes);
                self.on_pop(to, |node| node.media.handle_datagram(&pop_id(from), &bytes, now));
            }
            Due::Stream { to, link, wire, event } => {
                if self.links.get(&link.0).is_some_and(|l| l.up && l.generation == link.1) {
                    self.stream_event(to, link.0, wire, event);
                }
            }
            Due::LinkCheck { ends, change } => self.check_link(ends, change),
            Due::Raft { from, to, life, bytes } => self.on_control(to, life, |node| {
                if let Some(replica) = &mut node.replica {
                    let from = super::control::node_id(from);
                    replica.handle_peer(from, &bytes).expect("peers of ours behave");
                }
            }),
            Due::Synced { node, life } => self.on_control(node, life, ControlNode::synced),
            Due::Tick { node, life } => {
                let wall_ms = self.wall_ms(node);
                self.on_control(node, life, |node| {
                    if let Some(replica) = &mut node.replica {
                        replica.handle_tick(wall_ms);
                    }
                });
                if self.control.get(node).is_some_and(|n| n.life == life && n.replica.is_some()) {
                    self.schedule(now + TICK, Due::Tick { node, life });
                }
            }
            Due::View { pop, connection, update } => self.view(pop, connection, update),
            Due::Watch { pop } => self.watch(pop),
            Due::WatchClosed { pop, connection } => self.watch_closed(pop, connection),
            Due::Fault(fault) => self.break_down(fault),
            Due::Healed(fault) => self.heal(fault),
        }
    }

    fn wall_ms(&self, node: usize) -> u64 {
        EPOCH_MS + self.now.as_millis() + self.skew_ms.get(node).copied().unwrap_or(0)
    }

    // ------------------------------------------------------------ datagrams

    /// Near the carrier, all UDP of a region is on one wire.
    fn send_udp(&mut self, from: SocketAddr, to: SocketAddr, bytes: Bytes) {
        if self.is_deaf_to(to, &bytes) {
            return;
        }
        if let Some(at) = self.net.near(self.now) {
            self.schedule(at, Due::Udp { from, to, bytes });
        }
    }

    fn udp(&mut self, from: SocketAddr, to: SocketAddr, bytes: &Bytes) {
        let now = self.now;
        self.trace.note(now, format_args!("udp {from} > {to}"), bytes);
        let Some(region) = (0..REGIONS).find(|r| pop_sip(*r).ip() == to.ip()) else {
            let Some(region) = (0..REGIONS).find(|r| carrier_sip(*r).ip() == to.ip()) else {
                return;
            };
            let Some(carrier) = self.carriers.get_mut(region) else { return };
            if to == carrier_sip(region) {
                carrier.handle_sip(from, bytes, now);
            } else {
                carrier.handle_rtp(to.port(), bytes);
            }
            self.drain_carrier(region);
            return;
        };
        if to == pop_sip(region) {
            self.on_pop(region, |node| node.pop.handle_sip(Flow::udp(to, from), bytes, now));
            return;
        }
        let mut packet = bytes.to_vec();
        let mut forward = None;
        self.on_pop(region, |node| match node.sockets.get(&to).copied() {
            Some((leg, Socket::Rtp)) => {
                if let Verdict::Forward { leg, dst } =
                    node.media.handle_rtp(leg, from, &mut packet, now)
                {
                    forward = node.address(leg, Socket::Rtp).map(|source| (source, dst));
                }
            }
            Some((leg, Socket::Rtcp)) => node.media.handle_rtcp(leg, from, &packet, now),
            None => {}
        });
        if let Some((source, destination)) = forward {
            self.send_udp(source, destination, packet.into());
        }
    }

    fn drain_carrier(&mut self, region: usize) {
        while let Some((from, to, bytes)) =
            self.carriers.get_mut(region).and_then(Carrier::poll_transmit)
        {
            self.send_udp(from, to, bytes);
        }
    }

    // ------------------------------------------------------------ POPs

    /// Gives a POP an input, then does what it wants done.
    fn on_pop(&mut self, region: usize, input: impl FnOnce(&mut PopNode)) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(region) else { return };
        input(node);
        loop {
            let Some(node) = self.pops.get_mut(region) else { return };
            if let Some(event) = node.media.poll_event() {
                node.pop.handle_media_event(event, now);
            } else if let Some(command) = node.pop.poll_command() {
                self.pop_command(region, command);
            } else if let Some(transmit) = node.media.poll_transmit() {
                self.media_transmit(region, transmit);
            } else {
                return;
            }
        }
    }

    fn pop_command(&mut self, region: usize, command: PopCommand) {
        let now = self.now;
        match command {
            PopCommand::SendSip { flow, bytes } => self.send_udp(flow.local, flow.remote, bytes),
            PopCommand::OpenStream { stream } => self.open_stream(region, stream),
            PopCommand::SendCall { stream, message } => {
                self.send_on_stream(region, &stream, StreamEvent::Message(message));
            }
            PopCommand::CloseStream { stream } => {
                self.send_on_stream(region, &stream, StreamEvent::Closed);
            }
            PopCommand::Media(command) => {
                self.trace.note(now, format_args!("{region}: {command:?}"), &[]);
                let leaks = self.plan.mutation == Some(Mutation::LeakLegs);
                if leaks && matches!(command, MediaCommand::CloseLeg { .. }) && self.seventh() {
                    return;
                }
                if let Some(node) = self.pops.get_mut(region) {
                    node.handle_media_command(&command, now);
                }
            }
            PopCommand::Resolve { .. } => {
                self.complaints.push("a name was to be resolved; trunks have addresses".into());
            }
            PopCommand::Cdr(cdr) => self.cdr(region, *cdr),
        }
    }

    fn cdr(&mut self, region: usize, cdr: Cdr) {
        let line = format_args!("{region}: {:?} {:?} {}", cdr.role, cdr.cause, cdr.status);
        self.trace.note(self.now, line, cdr.to.as_str().as_bytes());
        if cdr.role != CdrRole::Egress {
            let seventh = self.seventh();
            match self.plan.mutation {
                Some(Mutation::LoseCdrs) if seventh => return,
                Some(Mutation::DoubleCdrs) if seventh => self.cdrs.push(cdr.clone()),
                _ => {}
            }
        }
        self.cdrs.push(cdr);
    }

    fn media_transmit(&mut self, region: usize, transmit: MediaTransmit) {
        let Some(node) = self.pops.get(region) else { return };
        match transmit {
            MediaTransmit::Rtp { leg, dst, bytes } => {
                if let Some(source) = node.address(leg, Socket::Rtp) {
                    self.send_udp(source, dst, bytes);
                }
            }
            MediaTransmit::Rtcp { leg, dst, mux, bytes } => {
                let socket = if mux { Socket::Rtp } else { Socket::Rtcp };
                // A leg that just closed says BYE; its sockets are gone already.
                if let Some(source) = node.address(leg, socket) {
                    self.send_udp(source, dst, bytes);
                }
            }
            MediaTransmit::Datagram { peer, bytes } => {
                let Some(to) = region_of(&peer) else { return };
                let up = self.links.get(&pair(region, to)).is_some_and(|link| link.up);
                let lost = self.plan.mutation == Some(Mutation::LoseDatagrams) && self.seventh();
                if let Some(at) = self.net.far(region, to, self.now).filter(|_| up && !lost) {
                    self.schedule(at, Due::Datagram { from: region, to, bytes });
                }
            }
        }
    }

    // ------------------------------------------------------------ links and streams

    fn open_stream(&mut self, region: usize, stream: CallStream) {
        let Some((wire, peer)) = self.pops.get(region).and_then(|node| node.wire(&stream)) else {
            return;
        };
        let ends = pair(region, peer);
        let Some(link) = self.links.get_mut(&ends).filter(|link| link.up) else {
            self.trace.note(self.now, format_args!("{region}: no link to {peer}"), &[]);
            if let Some(node) = self.pops.get_mut(region) {
                node.pop.handle_call_stream(stream, StreamEvent::Failed, self.now);
            }
            return;
        };
        link.streams.insert(wire, BTreeSet::new());
        // A stream of an open connection is open at once.
        let link = (ends, link.generation);
        self.schedule(self.now, Due::Stream { to: region, link, wire, event: StreamEvent::Opened });
        self.send_on_stream(region, &stream, StreamEvent::Opened);
    }

    fn send_on_stream(&mut self, region: usize, stream: &CallStream, event: StreamEvent) {
        let Some((wire, to)) = self.pops.get(region).and_then(|node| node.wire(stream)) else {
            return;
        };
        let ends = pair(region, to);
        let cut = self.net.is_cut(region, to);
        let Some(link) = self.links.get_mut(&ends).filter(|link| link.up) else { return };
        let Some(deaf) = link.streams.get_mut(&wire) else { return };
        if event == StreamEvent::Closed {
            // Who finishes a stream is told nothing more about it.
            deaf.insert(region);
        }
        if cut {
            link.waiting.push((to, wire, event));
            return;
        }
        let link = (ends, link.generation);
        let at = self.net.ordered(region, to, Way::Calls, self.now);
        self.schedule(at, Due::Stream { to, link, wire, event });
    }

    fn stream_event(&mut self, to: usize, ends: Pair, wire: Wire, event: StreamEvent) {
        let now = self.now;
        let Some(link) = self.links.get_mut(&ends) else { return };
        let Some(deaf) = link.streams.get_mut(&wire) else { return };
        if deaf.contains(&to) {
            return;
        }
        if matches!(event, StreamEvent::Closed | StreamEvent::Failed) {
            deaf.insert(to);
            if deaf.len() == 2 {
                link.streams.remove(&wire);
            }
        }
        let from = if to == ends.0 { ends.1 } else { ends.0 };
        self.trace.note(now, format_args!("stream {from} > {to} {} {event:?}", wire.number), &[]);
        self.on_pop(to, |node| {
            let stream = node.named(wire, from);
            node.pop.handle_call_stream(stream, event, now);
        });
    }

    /// Some time after a cut or a heal: a connection that was silent too long is gone; a way that
    /// is free gets a new one.
    fn check_link(&mut self, ends: Pair, change: u64) {
        let (a, b) = ends;
        let cut = self.net.is_cut(a, b);
        let Some(link) = self.links.get_mut(&ends) else { return };
        if link.changes != change || link.up != cut {
            return;
        }
        link.up = !cut;
        link.generation += 1;
        link.waiting.clear();
        let state = if link.up { LinkState::Up } else { LinkState::Down };
        let streams: Vec<Wire> = link.streams.keys().copied().collect();
        self.trace.note(self.now, format_args!("link {a} - {b} {state:?}"), &[]);
        for wire in streams {
            self.stream_event(a, ends, wire, StreamEvent::Failed);
            self.stream_event(b, ends, wire, StreamEvent::Failed);
        }
        let now = self.now;
        self.on_pop(a, |node| node.pop.handle_link(pop_id(b), state, now));
        self.on_pop(b, |node| node.pop.handle_link(pop_id(a), state, now));
    }

    fn changed(&mut self, ends: Pair, check_after: Duration) {
        let Some(link) = self.links.get_mut(&ends) else { return };
        link.changes += 1;
        let change = link.changes;
        self.schedule(self.now + check_after, Due::LinkCheck { ends, change });
    }

    // ------------------------------------------------------------ faults

    fn break_down(&mut self, fault: Fault) {
        self.trace.note(self.now, format_args!("{fault:?}"), &[]);
        let lasts = match fault {
            Fault::Cut(ends, lasts) => {
                self.net.cut(ends);
                self.changed(ends, IDLE_TIMEOUT);
                lasts
            }
            Fault::CutRaft(ends, lasts) => {
                self.net.cut_raft(ends);
                lasts
            }
            Fault::Crash(node, lasts) => {
                self.crash(node);
                lasts
            }
            Fault::CrashAll(lasts) => {
                (0..REGIONS).for_each(|node| self.crash(node));
                lasts
            }
        };
        self.schedule(self.now + lasts, Due::Healed(fault));
    }

    fn heal(&mut self, fault: Fault) {
        self.trace.note(self.now, format_args!("healed {fault:?}"), &[]);
        match fault {
            Fault::Cut(ends, _) => self.heal_link(ends),
            Fault::CutRaft(ends, _) => self.net.heal_raft(ends),
            Fault::Crash(node, _) => self.start(node),
            Fault::CrashAll(_) => (0..REGIONS).for_each(|node| self.start(node)),
        }
    }

    fn heal_link(&mut self, ends: Pair) {
        self.net.heal(ends);
        let waiting = match self.links.get_mut(&ends) {
            Some(link) => std::mem::take(&mut link.waiting),
            None => return,
        };
        // A connection that lived through it sends again what waited.
        for (to, wire, event) in waiting {
            let from = if to == ends.0 { ends.1 } else { ends.0 };
            let generation = self.links.get(&ends).map_or(0, |link| link.generation);
            let at = self.net.ordered(from, to, Way::Calls, self.now);
            self.schedule(at, Due::Stream { to, link: (ends, generation), wire, event });
        }
        self.changed(ends, RECONNECT);
    }

    fn crash(&mut self, node: usize) {
        let Some(control) = self.control.get_mut(node) else { return };
        control.crash();
        if self.plan.mutation == Some(Mutation::ForgetfulDisk) {
            control.disk.forget();
        }
        let watchers: Vec<(usize, u64)> = self
            .pops
            .iter()
            .filter_map(|p| p.watching.filter(|(n, _, _)| *n == node).map(|w| (p.region, w.2)))
            .collect();
        for (pop, connection) in watchers {
            let at = self.now + delay(node, pop);
            self.schedule(at, Due::WatchClosed { pop, connection });
        }
    }

    fn start(&mut self, node: usize) {
        let Some(control) = self.control.get_mut(node) else { return };
        if control.replica.is_some() {
            return;
        }
        control.start();
        let life = control.life;
        self.schedule(self.now + TICK, Due::Tick { node, life });
    }

    // ------------------------------------------------------------ control nodes

    /// Gives a control node an input if it lives still, then does what it wants done.
    fn on_control(&mut self, index: usize, life: u64, input: impl FnOnce(&mut ControlNode)) {
        let Some(node) = self.control.get_mut(index) else { return };
        if node.life != life || node.replica.is_none() {
            return;
        }
        input(node);
        while let Some(command) = self.control.get_mut(index).and_then(ControlNode::poll) {
            self.replica_command(index, life, command);
        }
    }

    fn replica_command(&mut self, index: usize, life: u64, command: ReplicaCommand) {
        let now = self.now;
        match command {
            ReplicaCommand::Send { to, message } => {
                let to = index_of(to);
                self.trace.note(now, format_args!("raft {index} > {to}"), &message);
                let there = self.control.get(to).map_or(0, |node| node.life);
                if self.net.raft_passes(index, to) {
                    let at = self.net.ordered(index, to, Way::Raft, now);
                    self.schedule(at, Due::Raft { from: index, to, life: there, bytes: message });
                }
            }
            ReplicaCommand::Persist(persist) => {
                let after = Duration::from_micros(200 + self.sync.below(4_000));
                if let Some(node) = self.control.get_mut(index) {
                    node.write(persist);
                }
                self.schedule(now + after, Due::Synced { node: index, life });
            }
            ReplicaCommand::Event(event) => {
                let Some(node) = self.control.get_mut(index) else { return };
                let event = node.watch.push(event);
                self.publish(index, &ViewUpdate::Event(event.as_ref().clone()));
            }
            ReplicaCommand::StateReplaced { revision } => {
                if let Some(node) = self.control.get_mut(index) {
                    node.watch.reset(revision);
                }
                self.cut_watchers(index);
            }
            ReplicaCommand::Outcome { proposal, outcome, .. } => {
                self.trace.note(now, format_args!("{index}: {outcome:?}"), &[]);
                if self.operator.waits_for(index, life, proposal) {
                    self.operator.handle_outcome(&outcome);
                    self.tell_epochs();
                }
            }
            ReplicaCommand::ProposalLost { proposal } => {
                if self.operator.waits_for(index, life, proposal) {
                    self.operator.refused_by(None, now);
                }
            }
            ReplicaCommand::Role { leader, term, role } => {
                let line = format_args!("{index}: {} in term {term}, {leader:?}", role.as_str());
                self.trace.note(now, line, &[]);
                let wall_ms = self.wall_ms(index);
                if let Some(node) = self.control.get_mut(index) {
                    node.found_cluster(wall_ms);
                }
            }
            ReplicaCommand::Halt { reason } => {
                self.complaints.push(format!("control node {index} halted: {reason}"));
                self.crash(index);
            }
            ReplicaCommand::ReadLost { .. } | ReplicaCommand::ReadReady { .. } => {}
        }
    }

    fn operate(&mut self) {
        let now = self.now;
        let Some((index, command)) = self.operator.handle_timeout(now) else { return };
        if let Err(why) = control_core::command::validate(&command) {
            panic!("a command of the plan is not valid: {}", why.message);
        }
        let wall_ms = self.wall_ms(index);
        let Some(node) = self.control.get_mut(index) else { return };
        let founded = |replica: &&mut Replica| !replica.state().cluster_id().is_empty();
        let Some(replica) = node.replica.as_mut().filter(founded) else {
            self.operator.refused_by(None, now);
            return;
        };
        node.proposals += 1;
        let (life, proposal) = (node.life, node.proposals);
        match replica.propose(proposal, command, wall_ms) {
            Ok(()) => self.operator.taken(index, life, proposal, now),
            Err(ProposeError::NotLeader { leader }) => {
                self.operator.refused_by(leader.map(index_of), now);
            }
            Err(why @ (ProposeError::Overloaded | ProposeError::TooLarge)) => {
                self.complaints.push(format!("a proposal was refused: {why}"));
            }
        }
        self.on_control(index, life, |_| {});
    }

    fn tell_epochs(&mut self) {
        for (region, name) in POPS.into_iter().enumerate() {
            if let (Some(epoch), Some(node)) =
                (self.operator.epochs.get(name).copied(), self.pops.get_mut(region))
            {
                node.pop.set_epoch(Epoch(epoch));
            }
        }
    }

    // ------------------------------------------------------------ watches

    fn publish(&mut self, index: usize, update: &ViewUpdate) {
        let watchers: Vec<(usize, u64)> = self
            .pops
            .iter()
            .filter_map(|p| p.watching.filter(|(n, _, _)| *n == index).map(|w| (p.region, w.2)))
            .collect();
        for (pop, connection) in watchers {
            let at = self.net.ordered(index, pop, Way::Watch, self.now);
            self.schedule(at, Due::View { pop, connection, update: update.clone() });
        }
    }

    fn cut_watchers(&mut self, index: usize) {
        for pop in 0..REGIONS {
            let watching = self.pops.get(pop).and_then(|p| p.watching);
            if let Some((_, _, connection)) = watching.filter(|(node, _, _)| *node == index) {
                let at = self.net.ordered(index, pop, Way::Watch, self.now);
                self.schedule(at, Due::WatchClosed { pop, connection });
            }
        }
    }

    fn watch(&mut self, pop: usize) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(pop) else { return };
        let index = node.next_node;
        let Some(control) = self.control.get(index) else { return };
        let view = node.pop.view();
        let first = control.begin_watch(view.cluster_id(), view.revision());
        let Some(first) = first else {
            node.next_node = (index + 1) % REGIONS;
            self.schedule(now + WATCH_AGAIN, Due::Watch { pop });
            return;
        };
        node.connections += 1;
        let connection = node.connections;
        node.watching = Some((index, control.life, connection));
        for update in first {
            let at = self.net.ordered(index, pop, Way::Watch, now);
            self.schedule(at, Due::View { pop, connection, update });
        }
    }

    fn view(&mut self, pop: usize, connection: u64, update: ViewUpdate) {
        let now = self.now;
        let current = self.pops.get(pop).and_then(|p| p.watching);
        if current.is_none_or(|(_, _, number)| number != connection) {
            return;
        }
        let mut gap = None;
        self.on_pop(pop, |node| gap = node.pop.handle_view(update, now).err());
        let revision = self.pops.get(pop).map(|p| p.pop.view().revision());
        self.trace.note(now, format_args!("view of {pop}: {revision:?}"), &[]);
        if let Some(gap) = gap {
            self.complaints.push(format!("a watch had a gap: {gap}"));
        }
    }

    fn watch_closed(&mut self, pop: usize, connection: u64) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(pop) else { return };
        if node.watching.is_none_or(|(_, _, number)| number != connection) {
            return;
        }
        node.watching = None;
        node.next_node = (node.next_node + 1) % REGIONS;
        self.schedule(now + WATCH_AGAIN, Due::Watch { pop });
    }

    // ------------------------------------------------------------ mutations

    fn seventh(&mut self) -> bool {
        self.counted += 1;
        self.counted.is_multiple_of(7)
    }

    fn is_deaf_to(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.plan.mutation == Some(Mutation::DeafToBye)
            && bytes.starts_with(b"BYE ")
            && (0..REGIONS).any(|region| pop_sip(region) == to)
    }
}
