//! The loop of the media thread. A turn has five parts, each bounded, in this order:
//!
//! 1. orders (call set-up does not wait for media) · 2. packets of legs, one a socket ·
//! 3. datagrams of peers · 4. timers · 5. everything to send, then events for the calls.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

use bytes::Bytes;
use pop_core::media::{
    Media, MediaCommand, MediaConfig, MediaEvent, MediaTransmit, Received, Verdict,
};
use proto::id::{LegId, PopId};
use proto::overlay::PathId;
use proto::time::Instant;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::load::Load;
use super::poll::{Events, Poll};
use super::shared::{self, Batch, Shared};
use super::sockets::{PACKET_BYTES_MAX, Port, Sockets, leg_of};
use super::{Order, Status, ThreadFigures, Wake};
use crate::clock::Clock;
use crate::drops::{Drops, Reason};

/// Orders of one turn.
const ORDERS_PER_TURN: usize = 256;
/// Datagrams of one turn.
const DATAGRAMS_PER_TURN: usize = 512;
/// Batches of the shared port in one turn: others get theirs in between.
const BATCHES_PER_TURN: usize = 8;
/// When the queue of events to the calls was full, it is tried again after this.
const EVENTS_RETRY: Duration = Duration::from_millis(5);

pub(super) struct Inputs {
    pub(super) orders: Receiver<Order>,
    pub(super) datagrams: Receiver<(PopId, Bytes)>,
    pub(super) wake: Arc<Wake>,
}

pub(super) struct Output {
    pub(super) events: mpsc::Sender<MediaEvent>,
    pub(super) drops: Drops,
}

pub(super) struct Thread {
    poll: Poll,
    inputs: Inputs,
    output: Output,
    clock: Clock,
    /// Read twice a turn: after waiting and after the packets.
    now: Instant,
    media: Media,
    sockets: Sockets,
    /// Instead of sockets of legs.
    shared: Option<(Shared, Batch)>,
    dscp: u8,
    /// RTP and RTCP made here that waits for the others of its turn: only on the shared ports.
    made: Vec<(Bytes, SocketAddr)>,
    links: BTreeMap<(PopId, PathId), quinn::Connection>,
    reports: Vec<(Bytes, SocketAddr)>,
    /// Sockets with a packet, of this turn.
    ready: Vec<u64>,
    /// An event the calls had no room for.
    event: Option<MediaEvent>,
    /// Legs whose ports other programs have: at most one entry a leg, its call waits for it.
    taken: VecDeque<MediaEvent>,
    buffer: Box<[u8; PACKET_BYTES_MAX]>,
    load: Load,
    /// Queues may hold more than one turn took.
    more: bool,
    stopped: bool,
}

impl Thread {
    pub(super) fn new(
        poll: Poll,
        (shared, dscp): (Option<Shared>, u8),
        inputs: Inputs,
        output: Output,
        (clock, config): (Clock, MediaConfig),
    ) -> Self {
        Self {
            poll,
            shared: shared.map(|shared| (shared, Batch::new())),
            dscp,
            made: Vec::new(),
            reports: Vec::new(),
            inputs,
            output,
            clock,
            sockets: Sockets::new(config.seed),
            now: clock.now(),
            media: Media::new(config, clock.now()),
            links: BTreeMap::new(),
            ready: Vec::new(),
            event: None,
            taken: VecDeque::new(),
            buffer: Box::new([0; PACKET_BYTES_MAX]),
            load: Load::default(),
            more: false,
            stopped: false,
        }
    }

    pub(super) fn run(&mut self) {
        let mut events = Events::new();
        while !self.stopped {
            let sleep = self.sleep();
            match self.poll.wait(sleep, &mut events, &mut self.ready) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => {
                    // Without epoll there is no media; the supervisor starts a new process.
                    crate::log::abort(&format!("epoll failed, no media without it: {error}"));
                }
            }
            self.turn();
        }
    }

    fn turn(&mut self) {
        self.now = self.clock.now();
        // Before the queues are read: what is queued after this wakes us again.
        let woken = self.inputs.wake.pending.swap(false, Ordering::AcqRel);
        let queued = std::mem::take(&mut self.more) || woken;
        if queued {
            self.take_orders();
        }
        self.read_sockets();
        if queued {
            self.take_datagrams();
        }
        self.now = self.clock.now();
        if self.media.poll_timeout().is_some_and(|at| at <= self.now) {
            self.media.handle_timeout(self.now);
        }
        if let Some(load) = self.load.measure(self.now) {
            self.media.handle_load(load);
        }
        self.transmit();
        self.tell();
    }

    fn sleep(&self) -> Option<Duration> {
        if self.more {
            return Some(Duration::ZERO);
        }
        let timer = self.media.poll_timeout().map(|at| at.since(self.now));
        let retry = self.event.as_ref().map(|_| EVENTS_RETRY);
        match (timer, retry) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (some, None) | (None, some) => some,
        }
    }

    // 1. Orders.

    fn take_orders(&mut self) {
        for _ in 0..ORDERS_PER_TURN {
            match self.inputs.orders.try_recv() {
                Ok(order) => self.obey(order),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stopped = true;
                    return;
                }
            }
        }
        self.more = true;
    }

    fn obey(&mut self, order: Order) {
        let now = self.now;
        match order {
            Order::Command(command) => self.command(&command, now),
            Order::LinkUp(peer, path, connection) => {
                self.links.insert((peer, path), connection);
            }
            Order::LinkDown(peer, path) => {
                self.links.remove(&(peer, path));
            }
            Order::Restarted(peer) => self.media.handle_restart(&peer),
            Order::RoundTrip(peer, round_trip) => {
                self.media.handle_round_trip(&peer, round_trip);
            }
            Order::Route(peer, route) => self.media.handle_route(&peer, &route),
            // Nobody waits any more: fine.
            Order::Paths(answer) => drop(answer.send(self.media.path_counts())),
            Order::Status(answer) => {
                // Nobody waits any more: fine.
                let _ = answer.send(self.status());
            }
            Order::Stop => self.stopped = true,
        }
    }

    fn status(&self) -> Status {
        let counters = self.media.counters().clone();
        let legs = self.media.legs();
        let mut status = Status::default();
        // Lanes of a link are added up.
        for (peer, stats) in self.media.links() {
            status.add(Status { links: vec![(peer.clone(), stats)], ..Status::default() });
        }
        let threads = vec![ThreadFigures { legs, rtp_received: counters.rtp_received }];
        let opus_complexity = Some(self.media.opus_complexity());
        Status { counters, legs, opus_complexity, threads, ..status }
    }

    fn command(&mut self, command: &MediaCommand, now: Instant) {
        if let MediaCommand::OpenLeg { leg, local } = command
            && self.shared.is_none()
            && let Err(error) = self.sockets.open(*leg, (*local, self.dscp), &self.poll)
        {
            self.output.drops.count(Reason::MediaBindFailed);
            tracing::warn!(%error, %local, "cannot open media ports: the call takes others");
            self.taken.push_back(MediaEvent::PortTaken { leg: *leg });
            return;
        }
        self.media.handle_command(command, now);
        if let MediaCommand::CloseLeg { leg } = command {
            // The RTCP BYE leaves before its socket closes.
            self.transmit();
            self.sockets.close(*leg);
        }
    }

    // 2. Packets of legs.

    fn read_sockets(&mut self) {
        let now = self.now;
        let mut ready = std::mem::take(&mut self.ready);
        for token in ready.drain(..) {
            self.read_socket(token, now);
        }
        self.ready = ready;
    }

    /// One packet; what more there is, epoll reports again.
    fn read_socket(&mut self, token: u64, now: Instant) {
        match shared::port_of(token) {
            Some(Port::Rtp) => return self.read_shared_rtp(now),
            Some(Port::Rtcp) => return self.read_shared_rtcp(now),
            None => {}
        }
        let (leg, port) = leg_of(token);
        // Closed meanwhile by an order of this turn: nothing to read.
        let Some(socket) = self.sockets.get(leg, port) else { return };
        // An error is "empty after all", or an ICMP error, which is taken off the socket by this.
        if let Ok((length, source)) = socket.recv_from(self.buffer.as_mut_slice()) {
            self.packet(leg, port, length, source, now);
        }
    }

    /// Batches: each is answered before the next is read, into the same buffers. While one is
    /// answered the next gathers, so it is asked for without epoll between them.
    fn read_shared_rtp(&mut self, now: Instant) {
        let Some((sockets, batch)) = &mut self.shared else { return };
        for _ in 0..BATCHES_PER_TURN {
            batch.receive(sockets.socket(Port::Rtp));
            if batch.received.is_empty() {
                return;
            }
            for &shared::Received { buffer, length, source } in &batch.received {
                let Some(bytes) = batch.buffers.get_mut(buffer) else { continue };
                let packet = Received::new(bytes, length);
                let verdict = self.media.handle_shared_rtp(source, packet, now);
                if let Verdict::Forward { dst, length, .. } = verdict {
                    batch.forward.push((buffer, length, dst));
                }
            }
            batch.flush(sockets.socket(Port::Rtp), &self.output.drops);
        }
    }

    fn read_shared_rtcp(&mut self, now: Instant) {
        let Some((sockets, batch)) = &mut self.shared else { return };
        batch.receive(sockets.socket(Port::Rtcp));
        for &shared::Received { buffer, length, source } in &batch.received {
            if let Some(packet) = batch.buffers.get(buffer).and_then(|b| b.get(..length)) {
                self.media.handle_shared_rtcp(source, packet, now);
            }
        }
    }

    fn packet(&mut self, leg: LegId, port: Port, length: usize, source: SocketAddr, now: Instant) {
        let packet = Received::new(self.buffer.as_mut_slice(), length);
        match port {
            Port::Rtp => match self.media.handle_rtp(leg, source, packet, now) {
                Verdict::Forward { leg, dst, length } => {
                    let Some(packet) = self.buffer.get(..length) else { return };
                    send(&self.sockets, &self.output.drops, (leg, Port::Rtp), dst, packet);
                }
                Verdict::Consumed | Verdict::Drop(_) => {}
            },
            Port::Rtcp => {
                let packet = self.buffer.get(..length).unwrap_or_default();
                self.media.handle_rtcp(leg, source, packet, now);
            }
        }
    }

    // 3. Datagrams of peers.

    fn take_datagrams(&mut self) {
        let now = self.now;
        for _ in 0..DATAGRAMS_PER_TURN {
            let Ok((peer, datagram)) = self.inputs.datagrams.try_recv() else { return };
            self.media.handle_datagram(&peer, &datagram, now);
        }
        self.more = true;
    }

    // 5. Everything to send, then events.

    fn transmit(&mut self) {
        while let Some(transmit) = self.media.poll_transmit() {
            let drops = &self.output.drops;
            match transmit {
                MediaTransmit::Rtp { dst, bytes, .. } if self.shared.is_some() => {
                    self.made.push((bytes, dst));
                }
                MediaTransmit::Rtp { leg, dst, bytes } => {
                    send(&self.sockets, drops, (leg, Port::Rtp), dst, &bytes);
                }
                MediaTransmit::Rtcp { dst, mux, bytes, .. } if self.shared.is_some() => {
                    if mux { &mut self.made } else { &mut self.reports }.push((bytes, dst));
                }
                MediaTransmit::Rtcp { leg, dst, mux, bytes } => {
                    let port = if mux { Port::Rtp } else { Port::Rtcp };
                    send(&self.sockets, drops, (leg, port), dst, &bytes);
                }
                MediaTransmit::Datagram { peer, path, bytes } => {
                    match self.links.get(&(peer, path)) {
                        Some(connection) => send_datagram(connection, bytes, drops),
                        None => drops.count(Reason::NoLink),
                    }
                }
            }
        }
        let Some((sockets, batch)) = &mut self.shared else { return };
        for (port, packets) in [(Port::Rtp, &mut self.made), (Port::Rtcp, &mut self.reports)] {
            if !packets.is_empty() {
                let all = packets.iter().map(|(bytes, dst)| (&**bytes, *dst));
                batch.send(sockets.socket(port), all, &self.output.drops);
                packets.clear();
            }
        }
    }

    fn tell(&mut self) {
        loop {
            let fresh = || self.taken.pop_front().or_else(|| self.media.poll_event());
            let Some(event) = self.event.take().or_else(fresh) else { return };
            match self.output.events.try_send(event) {
                Ok(()) => {}
                Err(TrySendError::Full(event)) => {
                    self.event = Some(event);
                    return;
                }
                // The signaling loop ended: so do we, by order.
                Err(TrySendError::Closed(_)) => return,
            }
        }
    }
}

fn send(
    sockets: &Sockets,
    drops: &Drops,
    (leg, port): (LegId, Port),
    dst: SocketAddr,
    bytes: &[u8],
) {
    let sent = sockets.get(leg, port).map(|socket| socket.send_to(bytes, dst));
    if !matches!(sent, Some(Ok(_))) {
        drops.count(Reason::MediaSendFailed);
    }
}

fn send_datagram(connection: &quinn::Connection, bytes: Bytes, drops: &Drops) {
    if connection.datagram_send_buffer_space() < bytes.len() {
        drops.count(Reason::DatagramSendFull);
    }
    match connection.send_datagram(bytes) {
        Ok(()) => {}
        Err(quinn::SendDatagramError::TooLarge) => drops.count(Reason::DatagramTooLarge),
        // LinkDown is on its way to us; a peer without datagrams speaks no voxmesh/1.
        Err(
            quinn::SendDatagramError::ConnectionLost(_)
            | quinn::SendDatagramError::Disabled
            | quinn::SendDatagramError::UnsupportedByPeer,
        ) => drops.count(Reason::NoLink),
    }
}
