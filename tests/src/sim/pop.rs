//! A POP: `Pop` and `Media`, driven as the shell drives them.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use pop_core::media::{Media, MediaCommand, MediaConfig};
use pop_core::pop::{CallStream, Initiator, Pop, PopConfig, StreamEvent};
use pop_core::sip::Transport;
use proto::id::{Epoch, LegId, PopId};
use proto::time::{Duration, Instant, earlier};

use super::net::pop_sip;
use super::operator::POPS;

/// Which of a leg's sockets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Socket {
    Rtp,
    Rtcp,
}

/// A POP.
pub struct PopNode {
    pub region: usize,
    pub id: PopId,
    pub pop: Pop,
    pub media: Media,
    /// Open sockets, by address.
    pub sockets: BTreeMap<SocketAddr, (LegId, Socket)>,
    /// Streams that peers opened: how we number them, by peer and the peer's number.
    accepted: BTreeMap<(usize, u64), u64>,
    next_accepted: u64,
    /// The watch: node, its life, and the connection's number.
    pub watching: Option<(usize, u64, u64)>,
    pub connections: u64,
    /// The node to watch next.
    pub next_node: usize,
    /// Its process runs.
    pub is_up: bool,
    /// Counts processes.
    pub life: u64,
    /// Of its registration; 0: it has none now.
    pub epoch: u64,
    /// The latest it had.
    pub known: u64,
    /// What came on streams while it stood still.
    pub missed: Vec<(usize, Wire, StreamEvent)>,
}

impl PopNode {
    pub fn new(region: usize, seed: u64) -> Self {
        let id = pop_id(region);
        let seed = chaos::rng::Rng::split(seed, id.as_str()).next_u64();
        let config = PopConfig {
            id: id.clone(),
            region: format!("region-{region}"),
            mesh: "sim".into(),
            epoch: Epoch(0),
            sip: vec![(Transport::Udp, pop_sip(region))],
            media_address: pop_sip(region).ip(),
            media_ports: 20_000..=20_999,
            media_shared: false,
            media_threads: 2,
            limits: pop_core::pop::Limits::default(),
            timing: pop_core::pop::Timing::default(),
            sip_timers: pop_core::sip::TimerValues::default(),
            seed,
            secret: pop_core::pop::Secret([seed.to_be_bytes()[7]; 32]),
        };
        let media = MediaConfig {
            own: proto::overlay::PopTag::of(&id),
            seed: seed ^ 1,
            flush_delay: Duration::from_millis(2),
            datagram_bytes: 1_200,
            cname: format!("{id}.pop.voxmesh"),
            opus_complexity: None,
        };
        Self {
            region,
            id,
            pop: Pop::new(config, Instant::ZERO),
            media: Media::new(media, Instant::ZERO),
            sockets: BTreeMap::new(),
            accepted: BTreeMap::new(),
            next_accepted: 0,
            watching: None,
            connections: 0,
            next_node: region,
            is_up: true,
            life: 0,
            epoch: 0,
            known: 0,
            missed: Vec::new(),
        }
    }

    /// When it wants to be woken.
    pub fn poll_timeout(&self) -> Option<Instant> {
        earlier(self.pop.poll_timeout(), self.media.poll_timeout())
    }

    /// Opens and closes sockets, and hands the command on.
    pub fn handle_media_command(&mut self, command: &MediaCommand, now: Instant) {
        if let MediaCommand::OpenLeg { leg, local } = command {
            let rtcp = SocketAddr::new(local.ip(), local.port() + 1);
            let taken = [(*local, Socket::Rtp), (rtcp, Socket::Rtcp)]
                .map(|(address, socket)| self.sockets.insert(address, (*leg, socket)).is_some());
            assert!(taken == [false, false], "{}: {local} is in use by another leg", self.id);
        }
        if let MediaCommand::CloseLeg { leg } = command {
            self.sockets.retain(|_, (owner, _)| owner != leg);
        }
        self.media.handle_command(command, now);
    }

    /// The local address of a leg's socket.
    pub fn address(&self, leg: LegId, socket: Socket) -> Option<SocketAddr> {
        let found = self.sockets.iter().find(|(_, owner)| **owner == (leg, socket));
        found.map(|(address, _)| *address)
    }

    /// The other process is new, and numbers its streams anew.
    pub fn forget_streams_of(&mut self, peer: usize) {
        self.accepted.retain(|(from, _), _| *from != peer);
    }

    /// How we name a stream; the ones that peers opened are numbered when they are first seen.
    pub fn named(&mut self, wire: Wire, peer: usize) -> CallStream {
        let peer_id = pop_id(peer);
        if wire.opener == self.region {
            return CallStream { peer: peer_id, number: wire.number, initiator: Initiator::Local };
        }
        let next = &mut self.next_accepted;
        let number = *self.accepted.entry((peer, wire.number)).or_insert_with(|| {
            *next += 1;
            *next
        });
        CallStream { peer: peer_id, number, initiator: Initiator::Remote }
    }

    /// What a stream is called between POPs, and its other end.
    pub fn wire(&self, stream: &CallStream) -> Option<(Wire, usize)> {
        let peer = region_of(&stream.peer)?;
        if stream.initiator == Initiator::Local {
            return Some((Wire { opener: self.region, number: stream.number }, peer));
        }
        let named =
            |((from, _), ours): &(&(usize, u64), &u64)| (*from, **ours) == (peer, stream.number);
        let ((_, number), _) = self.accepted.iter().find(named)?;
        Some((Wire { opener: peer, number: *number }, peer))
    }
}

/// A call stream as it is called between POPs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Wire {
    /// Who opened it.
    pub opener: usize,
    /// Its number there.
    pub number: u64,
}

/// A POP's name.
pub fn pop_id(region: usize) -> PopId {
    PopId::new(POPS.get(region).copied().unwrap_or("nowhere")).expect("POPS are names")
}

/// And back.
pub fn region_of(id: &PopId) -> Option<usize> {
    POPS.iter().position(|name| *name == id.as_str())
}
