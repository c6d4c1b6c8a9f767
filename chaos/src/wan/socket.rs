//! The sockets of the WAN: a UDP front before each POP, one thread for all.
//!
//! A POP that dials another one reaches its front. The front opens one socket per dialling address
//! towards the real POP, as a NAT would, and puts both directions through their [`Link`].

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};
use proto::time::{Duration, Instant};

use super::{Counters, Link, Profile};
use crate::rng::Rng;

/// What stands before one upstream of a POP.
#[derive(Debug, Clone)]
pub struct Front {
    /// The POP: `fra1`; its further upstreams are `fra1/1`, `fra1/2`, …
    pub pop: String,
    /// Where other POPs dial.
    pub listen: SocketAddr,
    /// Where the POP really listens.
    pub target: SocketAddr,
}

/// Kernel buffer of each socket: 20,000 packets/s through one front must survive a late wake-up.
const SOCKET_BUFFER_BYTES: usize = 4 << 20;
/// Dialling addresses kept per WAN; more are refused (nothing but POPs should dial).
const SESSIONS_MAX: usize = 256;
/// Packets taken from one socket before the others get their turn.
const BATCH_PACKETS: usize = 256;
const WAKE: Token = Token(usize::MAX);
/// IPv4 and UDP, which a rate counts.
const HEADER_BYTES: u64 = 20 + 8;

/// The running WAN; ends when dropped.
#[derive(Debug)]
pub struct Wan {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    links: BTreeMap<(String, String), Link<Packet>>,
    default: Profile,
    seed: u64,
    stop: bool,
    refused: u64,
}

#[derive(Debug)]
struct Packet {
    bytes: Vec<u8>,
    out: Token,
    /// `None`: the socket is connected.
    to: Option<SocketAddr>,
}

impl State {
    fn link(&mut self, from: &str, to: &str) -> &mut Link<Packet> {
        let (default, seed) = (self.default, self.seed);
        self.links.entry((from.to_owned(), to.to_owned())).or_insert_with(|| {
            let seed = Rng::split(seed, &format!("{from}>{to}")).next_u64();
            Link::new(default, seed)
        })
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wan {
    /// Binds all fronts and starts the thread. Every way begins with `profile`.
    pub fn start(fronts: &[Front], profile: Profile, seed: u64) -> Result<Self> {
        let poll = Poll::new().context("no epoll instance for the WAN")?;
        let waker = Waker::new(poll.registry(), WAKE).context("no waker for the WAN")?;
        let state =
            State { links: BTreeMap::new(), default: profile, seed, stop: false, refused: 0 };
        let shared = Arc::new(Shared { state: Mutex::new(state) });
        let mut shell = Shell::new(poll, fronts, Arc::clone(&shared))?;
        let thread = std::thread::Builder::new()
            .name("wan".into())
            .spawn(move || shell.run())
            .context("no thread for the WAN")?;
        Ok(Self { shared, waker, thread: Some(thread) })
    }

    /// Changes one direction between two POPs.
    pub fn set(&self, from: &str, to: &str, profile: Profile) {
        self.shared.lock().link(from, to).set_profile(profile);
    }

    /// Changes both directions between two POPs.
    pub fn set_both(&self, a: &str, b: &str, profile: Profile) {
        self.set(a, b, profile);
        self.set(b, a, profile);
    }

    /// How one direction between two POPs is.
    pub fn profile(&self, from: &str, to: &str) -> Profile {
        self.shared.lock().link(from, to).profile()
    }

    /// What one direction did so far.
    pub fn counters(&self, from: &str, to: &str) -> Counters {
        self.shared.lock().link(from, to).counters()
    }

    /// Sum over all directions.
    pub fn total(&self) -> Counters {
        let mut sum = Counters::default();
        for link in self.shared.lock().links.values() {
            let c = link.counters();
            sum.received += c.received;
            sum.bytes += c.bytes;
            sum.delivered += c.delivered;
            sum.lost += c.lost;
            sum.overflowed += c.overflowed;
        }
        sum
    }

    /// Packets from addresses that are no POP's, or beyond the session bound.
    pub fn refused(&self) -> u64 {
        self.shared.lock().refused
    }
}

impl Drop for Wan {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        let _woken = self.waker.wake();
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}

#[derive(Debug)]
enum Role {
    /// Faces the POPs that dial `pop`.
    Front,
    /// Faces `pop` on behalf of `client`, a socket of the POP `from`.
    Session { front: Token, client: SocketAddr, from: String },
}

#[derive(Debug)]
struct Port {
    socket: UdpSocket,
    pop: String,
    role: Role,
}

struct Shell {
    poll: Poll,
    ports: BTreeMap<Token, Port>,
    sessions: BTreeMap<(Token, SocketAddr), Token>,
    targets: BTreeMap<Token, SocketAddr>,
    /// Which upstream of which POP has an address.
    pops: BTreeMap<SocketAddr, String>,
    next_token: usize,
    shared: Arc<Shared>,
    origin: std::time::Instant,
    buffer: Vec<u8>,
}

impl Shell {
    fn new(poll: Poll, fronts: &[Front], shared: Arc<Shared>) -> Result<Self> {
        let mut shell = Self {
            poll,
            ports: BTreeMap::new(),
            sessions: BTreeMap::new(),
            targets: BTreeMap::new(),
            pops: fronts.iter().map(|f| (f.target, f.pop.clone())).collect(),
            next_token: 0,
            shared,
            origin: std::time::Instant::now(),
            buffer: vec![0; 65_536],
        };
        for front in fronts {
            let socket = bind(front.listen).with_context(|| {
                format!("the WAN front of {} cannot bind udp {}", front.pop, front.listen)
            })?;
            let token = shell.add(socket, front.pop.clone(), Role::Front)?;
            shell.targets.insert(token, front.target);
        }
        Ok(shell)
    }

    fn add(&mut self, mut socket: UdpSocket, pop: String, role: Role) -> Result<Token> {
        let token = Token(self.next_token);
        self.next_token += 1;
        self.poll
            .registry()
            .register(&mut socket, token, Interest::READABLE)
            .context("a WAN socket cannot be watched")?;
        self.ports.insert(token, Port { socket, pop, role });
        Ok(token)
    }

    fn now(&self) -> Instant {
        let nanos = u64::try_from(self.origin.elapsed().as_nanos()).unwrap_or(u64::MAX);
        Instant::from_nanos(nanos)
    }

    fn run(&mut self) {
        let mut events = Events::with_capacity(64);
        let mut ready: BTreeSet<Token> = BTreeSet::new();
        let shared = Arc::clone(&self.shared);
        loop {
            let timeout = if ready.is_empty() { self.timeout() } else { Some(Duration::ZERO) };
            match self.poll.poll(&mut events, timeout) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::Interrupted => continue,
                Err(e) => {
                    tracing::error!(error = %e, "the WAN stopped");
                    return;
                }
            }
            ready.extend(events.iter().map(|e| e.token()).filter(|t| *t != WAKE));
            if shared.lock().stop {
                return;
            }
            // Edge-triggered: a socket stays ready until a read would block.
            for token in std::mem::take(&mut ready) {
                if self.receive(token) {
                    ready.insert(token);
                }
            }
            self.deliver();
        }
    }

    fn timeout(&self) -> Option<Duration> {
        let state = self.shared.lock();
        let due = state.links.values().filter_map(Link::poll_timeout).min()?;
        drop(state);
        Some(due - self.now())
    }

    /// Takes a batch from one socket; true when there may be more.
    fn receive(&mut self, token: Token) -> bool {
        for _ in 0..BATCH_PACKETS {
            let Some(port) = self.ports.get(&token) else { return false };
            match port.socket.recv_from(&mut self.buffer) {
                Ok((len, source)) => {
                    let bytes = self.buffer.get(..len).unwrap_or_default().to_vec();
                    self.route(token, source, bytes);
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return false,
                // ICMP port unreachable of an earlier send: the POP is not there (yet).
                Err(_) => {}
            }
        }
        true
    }

    fn route(&mut self, token: Token, source: SocketAddr, bytes: Vec<u8>) {
        let now = self.now();
        let Some(port) = self.ports.get(&token) else { return };
        let (from, to, packet) = match &port.role {
            Role::Session { front, client, from } => {
                let packet = Packet { bytes, out: *front, to: Some(*client) };
                (port.pop.clone(), from.clone(), packet)
            }
            Role::Front => {
                let to = port.pop.clone();
                let Some(from) = self.pops.get(&source).cloned() else {
                    self.shared.lock().refused += 1;
                    return;
                };
                let Some(out) = self.session(token, source, &from, &to) else {
                    self.shared.lock().refused += 1;
                    return;
                };
                (from, to, Packet { bytes, out, to: None })
            }
        };
        let bytes = packet.bytes.len() as u64 + HEADER_BYTES;
        // A drop is counted by the link.
        let _dropped = self.shared.lock().link(&from, &to).handle_sized(packet, bytes, now);
    }

    fn session(&mut self, front: Token, client: SocketAddr, from: &str, to: &str) -> Option<Token> {
        if let Some(token) = self.sessions.get(&(front, client)) {
            return Some(*token);
        }
        if self.sessions.len() >= SESSIONS_MAX {
            return None;
        }
        let target = *self.targets.get(&front)?;
        let local = self.ports.get(&front)?.socket.local_addr().ok()?;
        let socket = bind(SocketAddr::new(local.ip(), 0)).ok()?;
        socket.connect(target).ok()?;
        let role = Role::Session { front, client, from: from.to_owned() };
        let token = self.add(socket, to.to_owned(), role).ok()?;
        self.sessions.insert((front, client), token);
        Some(token)
    }

    fn deliver(&mut self) {
        let now = self.now();
        let mut state = self.shared.lock();
        for link in state.links.values_mut() {
            while let Some(packet) = link.poll_deliver(now) {
                let Some(port) = self.ports.get(&packet.out) else { continue };
                // UDP: what the kernel refuses is lost, as on any way.
                let _sent = match packet.to {
                    Some(to) => port.socket.send_to(&packet.bytes, to),
                    None => port.socket.send(&packet.bytes),
                };
            }
        }
    }
}

fn bind(address: SocketAddr) -> Result<UdpSocket> {
    use socket2::{Domain, Protocol, Socket, Type};
    let socket = Socket::new(Domain::for_address(address), Type::DGRAM, Some(Protocol::UDP))?;
    socket.set_nonblocking(true)?;
    // Best effort: the kernel caps it at net.core.rmem_max.
    let _capped = socket.set_recv_buffer_size(SOCKET_BUFFER_BYTES);
    let _capped = socket.set_send_buffer_size(SOCKET_BUFFER_BYTES);
    socket.bind(&address.into())?;
    Ok(UdpSocket::from_std(socket.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::UdpSocket as StdSocket;

    fn socket(ip: &str) -> StdSocket {
        let socket = StdSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        socket
    }

    #[test]
    fn both_directions_are_delayed_and_counted() {
        let (a, b) = (socket("127.0.201.1"), socket("127.0.202.1"));
        let front_port = socket("127.0.202.9").local_addr().unwrap();
        let fronts = [
            Front {
                pop: "a".into(),
                listen: "127.0.201.9:0".parse().unwrap(),
                target: a.local_addr().unwrap(),
            },
            Front { pop: "b".into(), listen: front_port, target: b.local_addr().unwrap() },
        ];
        let wan = Wan::start(&fronts, Profile::delayed(Duration::from_millis(30)), 1).unwrap();
        let start = std::time::Instant::now();
        a.send_to(b"ping", front_port).unwrap();
        let mut buffer = [0; 16];
        let (n, from) = b.recv_from(&mut buffer).unwrap();
        assert_eq!(&buffer[..n], b"ping");
        assert!(start.elapsed() >= Duration::from_millis(30));
        b.send_to(b"pong", from).unwrap();
        let (n, from) = a.recv_from(&mut buffer).unwrap();
        assert_eq!((&buffer[..n], from), (&b"pong"[..], front_port));
        assert!(start.elapsed() >= Duration::from_millis(60));
        assert_eq!(wan.counters("a", "b").delivered, 1);
        assert_eq!(wan.counters("b", "a").delivered, 1);

        wan.set_both("a", "b", Profile::cut());
        a.send_to(b"gone", front_port).unwrap();
        b.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(b.recv_from(&mut buffer).is_err());
        assert_eq!(wan.total().lost, 1);
    }

    #[test]
    fn strangers_are_refused() {
        let (a, stranger) = (socket("127.0.203.1"), socket("127.0.204.1"));
        let listen = socket("127.0.203.9").local_addr().unwrap();
        let front = Front { pop: "a".into(), listen, target: a.local_addr().unwrap() };
        let wan = Wan::start(&[front], Profile::default(), 1).unwrap();
        stranger.send_to(b"hello", listen).unwrap();
        a.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        assert!(a.recv_from(&mut [0; 16]).is_err());
        assert_eq!(wan.refused(), 1);
    }

    #[test]
    fn loses_nothing_of_its_own() {
        let (a, b) = (socket("127.0.205.1"), socket("127.0.206.1"));
        let listen = socket("127.0.206.9").local_addr().unwrap();
        let fronts = [
            Front {
                pop: "a".into(),
                listen: "127.0.205.9:0".parse().unwrap(),
                target: a.local_addr().unwrap(),
            },
            Front { pop: "b".into(), listen, target: b.local_addr().unwrap() },
        ];
        let wan = Wan::start(&fronts, Profile::default(), 1).unwrap();
        let start = std::time::Instant::now();
        let mut buffer = [0; 2_048];
        // A window instead of a pace: what the kernel drops on a busy machine is not our doing.
        for _ in 0..400 {
            for _ in 0..50 {
                a.send_to(&[0; 1_200], listen).unwrap();
            }
            for _ in 0..50 {
                assert_eq!(b.recv_from(&mut buffer).unwrap().0, 1_200);
            }
        }
        let rate = 20_000.0 / start.elapsed().as_secs_f64();
        println!("{rate:.0} packets/s");
        assert_eq!(wan.counters("a", "b").delivered, 20_000);
    }
}
