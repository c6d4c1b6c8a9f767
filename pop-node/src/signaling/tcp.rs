//! SIP over TCP (RFC 3261 §18.2.1): listeners, connections of peers, connections to peers.
//!
//! Bounded: connections in all, bytes of a message (by the framing), messages waiting to be sent
//! per connection, and how long a silent or unread connection lives.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use pop_core::sip::framing::{FramingError, Stream};
use pop_core::sip::{Flow, Transport};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::SipEvent;
use crate::drops::{Drops, Reason};

/// Messages that may wait for a peer to read.
const OUTBOX_MAX: usize = 128;
/// Of all connections one address may hold this part: a scanner cannot shut carriers out.
const SHARE_OF_ONE_SOURCE: usize = 4;
/// Bytes read at once.
const READ_BYTES: usize = 8 << 10;
/// To connect, and to write what the peer should read: Timer B is not much longer.
const PATIENCE: Duration = Duration::from_secs(10);
/// A peer that never sent a whole message is given so long.
const STRANGER_IDLE: Duration = Duration::from_secs(60);
/// Carriers keep connections for a long time, and may be silent for as long.
const IDLE: Duration = Duration::from_secs(3600);
/// After bytes that cannot be framed: time for the answer to leave.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// All TCP connections.
pub struct Tcp {
    connections: BTreeMap<u64, Connection>,
    /// The newest connection to a peer: (ours, theirs).
    by_remote: BTreeMap<(SocketAddr, SocketAddr), u64>,
    next: u64,
    max: usize,
    events: mpsc::Sender<SipEvent>,
    drops: Drops,
}

struct Connection {
    flow: Flow,
    outbox: mpsc::Sender<Bytes>,
}

impl Tcp {
    /// Starts to accept at all listeners; at most `max` connections at once.
    pub fn start(
        listeners: Vec<std::net::TcpListener>,
        max: usize,
        events: mpsc::Sender<SipEvent>,
        drops: Drops,
    ) -> io::Result<Self> {
        for listener in listeners {
            let listener = TcpListener::from_std(listener)?;
            let local = listener.local_addr()?;
            tokio::spawn(accept(listener, local, events.clone()));
        }
        let (connections, by_remote) = (BTreeMap::new(), BTreeMap::new());
        Ok(Self { connections, by_remote, next: 1, max, events, drops })
    }

    /// How many there are.
    pub(super) fn connections(&self) -> usize {
        self.connections.len()
    }

    /// Takes a connection a peer opened, if there is room.
    pub(super) fn accept(&mut self, local: SocketAddr, remote: SocketAddr, socket: TcpStream) {
        let from_there =
            self.connections.values().filter(|held| held.flow.remote.ip() == remote.ip()).count();
        if from_there >= self.max.div_ceil(SHARE_OF_ONE_SOURCE) {
            self.drops.count(Reason::TcpConnectionRefused);
            return;
        }
        let Some((talk, flow)) = self.enter(local, remote) else { return };
        let idle = STRANGER_IDLE;
        tokio::spawn(talk.run(flow, async move { Ok(socket) }, idle));
    }

    /// Sends on the connection named, or on one to the same peer, or opens one. False: the
    /// message cannot go.
    pub(super) fn send(&mut self, flow: Flow, bytes: Bytes) -> bool {
        let number = match flow.connection {
            0 => match self.by_remote.get(&(flow.local, flow.remote)).copied() {
                Some(number) => number,
                None => match self.open(flow) {
                    Some(number) => number,
                    None => return false,
                },
            },
            number => number,
        };
        let Some(connection) = self.connections.get(&number) else { return false };
        if connection.outbox.try_send(bytes).is_ok() {
            return true;
        }
        // It does not read: the connection is given up.
        self.drops.count(Reason::TcpOutboxFull);
        let flow = connection.flow;
        self.forget(flow);
        false
    }

    /// A connection ended.
    pub(super) fn forget(&mut self, flow: Flow) {
        self.connections.remove(&flow.connection);
        let key = (flow.local, flow.remote);
        if self.by_remote.get(&key) == Some(&flow.connection) {
            self.by_remote.remove(&key);
        }
    }

    fn open(&mut self, flow: Flow) -> Option<u64> {
        let (talk, flow) = self.enter(flow.local, flow.remote)?;
        tokio::spawn(talk.run(flow, connect(flow.local, flow.remote), IDLE));
        Some(flow.connection)
    }

    fn enter(&mut self, local: SocketAddr, remote: SocketAddr) -> Option<(Talk, Flow)> {
        if self.connections.len() >= self.max {
            self.drops.count(Reason::TcpConnectionRefused);
            return None;
        }
        let flow = Flow { transport: Transport::Tcp, local, remote, connection: self.next };
        self.next += 1;
        let (outbox, messages) = mpsc::channel(OUTBOX_MAX);
        self.connections.insert(flow.connection, Connection { flow, outbox });
        self.by_remote.insert((local, remote), flow.connection);
        Some((Talk { events: self.events.clone(), drops: self.drops.clone(), messages }, flow))
    }
}

async fn accept(listener: TcpListener, local: SocketAddr, events: mpsc::Sender<SipEvent>) {
    loop {
        match listener.accept().await {
            Ok((socket, remote)) => {
                let event = SipEvent::Accepted { local, remote, socket };
                if events.send(event).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                // Out of files, most likely: the next try must not spin.
                tracing::warn!(%local, %error, "cannot accept SIP over TCP");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

/// From the address carriers know, at a port of the system's choice.
async fn connect(local: SocketAddr, remote: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(remote), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.bind(&SocketAddr::new(local.ip(), 0).into())?;
    TcpSocket::from_std_stream(socket.into()).connect(remote).await
}

/// One connection's task.
struct Talk {
    events: mpsc::Sender<SipEvent>,
    drops: Drops,
    messages: mpsc::Receiver<Bytes>,
}

/// Why a connection is left.
enum End {
    /// Closed by the peer, an error, or given up by us.
    Closed,
    /// Cannot be framed any further; an answer may still leave.
    Unframed,
}

impl Talk {
    async fn run(
        mut self,
        flow: Flow,
        socket: impl Future<Output = io::Result<TcpStream>>,
        idle: Duration,
    ) {
        if let Ok(Ok(socket)) = timeout(PATIENCE, socket).await {
            // Messages are written whole: waiting for more would only delay them.
            let _ = socket.set_nodelay(true);
            let (mut read, mut write) = socket.into_split();
            if let End::Unframed = self.talk(flow, &mut read, &mut write, idle).await {
                let _ = timeout(LAST_WORDS, self.write_rest(&mut write)).await;
            }
        }
        // Nobody listens any more: the process is ending.
        let _ = self.events.send(SipEvent::Closed { flow }).await;
    }

    async fn talk(
        &mut self,
        flow: Flow,
        read: &mut OwnedReadHalf,
        write: &mut OwnedWriteHalf,
        mut idle: Duration,
    ) -> End {
        let mut framing = Stream::new();
        let mut buffer = vec![0; READ_BYTES];
        loop {
            tokio::select! {
                message = self.messages.recv() => {
                    let Some(message) = message else { return End::Closed };
                    if !matches!(timeout(PATIENCE, write.write_all(&message)).await, Ok(Ok(()))) {
                        return End::Closed;
                    }
                }
                received = timeout(idle, read.read(&mut buffer)) => {
                    let length = match received {
                        Ok(Ok(length)) if length > 0 => length,
                        Ok(_) => return End::Closed,
                        Err(_) => {
                            self.drops.count(Reason::TcpIdle);
                            return End::Closed;
                        }
                    };
                    framing.push(buffer.get(..length).unwrap_or_default());
                    match self.take_messages(flow, &mut framing, write).await {
                        Ok(true) => idle = IDLE,
                        Ok(false) => {}
                        Err(end) => return end,
                    }
                }
            }
        }
    }

    /// Hands every whole message to the loop; true if there was one.
    async fn take_messages(
        &self,
        flow: Flow,
        framing: &mut Stream,
        write: &mut OwnedWriteHalf,
    ) -> Result<bool, End> {
        let mut some = false;
        while let Some(message) = framing.next() {
            let (bytes, unframed) = match message {
                Ok(bytes) => (bytes, false),
                Err(FramingError::ContentLength { head } | FramingError::TooLarge { head }) => {
                    (head, true)
                }
            };
            some = true;
            let event = SipEvent::Message { flow, bytes };
            self.events.send(event).await.map_err(|_| End::Closed)?;
            if unframed {
                return Err(End::Unframed);
            }
        }
        while framing.poll_pong() {
            // RFC 5626 §4.4.1.
            let pong = timeout(PATIENCE, write.write_all(b"\r\n")).await;
            pong.map_err(|_| End::Closed)?.map_err(|_| End::Closed)?;
        }
        Ok(some)
    }

    async fn write_rest(&mut self, write: &mut OwnedWriteHalf) -> io::Result<()> {
        while let Some(message) = self.messages.recv().await {
            write.write_all(&message).await?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(30);

    fn start(max: usize) -> (Tcp, SocketAddr, mpsc::Receiver<SipEvent>, Drops) {
        let listener = crate::sockets::tcp("127.0.45.1:0".parse().unwrap()).unwrap();
        let address = listener.local_addr().unwrap();
        let (sender, events) = mpsc::channel(16);
        let drops = Drops::default();
        let tcp = Tcp::start(vec![listener], max, sender, drops.clone()).unwrap();
        (tcp, address, events, drops)
    }

    async fn next(events: &mut mpsc::Receiver<SipEvent>) -> SipEvent {
        timeout(PATIENCE, events.recv()).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn one_source_gets_its_share_and_all_together_the_maximum() {
        let (mut tcp, address, mut events, drops) = start(8);
        let mut peers = Vec::new();
        for (source, admitted) in [
            (1, true),
            (1, true),
            (1, false),
            (2, true),
            (3, true),
            (3, true),
            (4, true),
            (4, true),
        ] {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::from(([127, 0, 46, source], 0))).unwrap();
            peers.push(socket.connect(address).await.unwrap());
            let before = tcp.connections();
            let SipEvent::Accepted { local, remote, socket } = next(&mut events).await else {
                panic!("not accepted");
            };
            tcp.accept(local, remote, socket);
            assert_eq!(tcp.connections() - before, usize::from(admitted), "{remote}");
        }
        assert_eq!(drops.get(Reason::TcpConnectionRefused), 1);
    }

    #[tokio::test]
    async fn a_connection_is_opened_on_demand_reused_and_reported_when_it_ends() {
        let (mut tcp, local, mut events, _drops) = start(4);
        let peer = TcpListener::bind("127.0.45.2:0").await.unwrap();
        let flow = Flow::tcp(local, peer.local_addr().unwrap());
        assert!(tcp.send(flow, Bytes::from_static(b"one ")));
        assert!(tcp.send(flow, Bytes::from_static(b"two")));
        let (mut socket, source) = timeout(PATIENCE, peer.accept()).await.unwrap().unwrap();
        assert_eq!(source.ip(), local.ip(), "not from the address carriers know");
        let mut read = [0; 7];
        socket.read_exact(&mut read).await.unwrap();
        assert_eq!((&read, tcp.connections()), (b"one two", 1));
        drop(socket);
        let SipEvent::Closed { flow: closed } = next(&mut events).await else { panic!() };
        assert!(flow.is_hit_by(&closed));
        tcp.forget(closed);
        assert_eq!(tcp.connections(), 0);
        // Its number is not used again.
        assert!(!tcp.send(closed, Bytes::from_static(b"three")));
    }

    #[tokio::test]
    async fn a_peer_that_cannot_be_reached_is_reported() {
        let (mut tcp, local, mut events, _drops) = start(4);
        let nobody: SocketAddr = "127.0.45.3:1".parse().unwrap();
        assert!(tcp.send(Flow::tcp(local, nobody), Bytes::from_static(b"x")));
        let SipEvent::Closed { flow } = next(&mut events).await else { panic!() };
        assert_eq!(flow.remote, nobody);
    }
}
