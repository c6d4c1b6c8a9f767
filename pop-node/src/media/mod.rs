//! The media thread: RTP and RTCP sockets around [`pop_core::media::Media`].
//!
//! One thread of its own, one epoll, no runtime. It never blocks on anything but epoll, takes no
//! lock of ours and logs nothing per packet. Orders and datagrams come over bounded queues with
//! one wake-up per burst; datagrams leave by `quinn::Connection::send_datagram` directly.
//! Deliberately not here: what a packet means (the core), QUIC (`link`).

mod cores;
mod load;
mod poll;
mod shared;
mod socket_drops;
mod sockets;
mod status;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use pop_core::media::{Lane, MediaCommand, MediaConfig, MediaEvent, PathCounts};
use pop_core::overlay::Route;
use proto::id::PopId;
use proto::overlay::{self, PathId};
use proto::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub use socket_drops::SocketDrops;
pub use status::{Status, ThreadFigures};

use crate::clock::Clock;
use crate::drops::{Drops, Reason};

/// Orders that may wait for the thread. A call needs about ten in its life.
const ORDERS_MAX: usize = 16_384;
/// Datagrams that may wait: 40 ms of 200 calls in one direction without packing.
const DATAGRAMS_MAX: usize = 4_096;

/// What the signaling loop tells the thread.
#[derive(Debug)]
pub enum Order {
    /// From the call machine.
    Command(MediaCommand),
    /// A path came up.
    LinkUp(PopId, PathId, quinn::Connection),
    /// A path went down.
    LinkDown(PopId, PathId),
    /// The POP is another process than before.
    Restarted(PopId),
    /// Media for a POP goes this way.
    Route(PopId, Route),
    /// So long media for a POP and back is under way.
    RoundTrip(PopId, Duration),
    /// Asks what was counted on the paths.
    Paths(oneshot::Sender<Vec<PathCounts>>),
    /// Asks for figures.
    Status(oneshot::Sender<Status>),
    /// Ends the threads.
    Stop,
}

/// The thread is behind by [`ORDERS_MAX`] orders, or gone; the order comes back.
#[derive(Debug)]
pub struct Busy(pub Box<Order>);

/// How other threads reach the media threads.
#[derive(Clone)]
pub struct Handle {
    inlets: Arc<[Inlet]>,
    drops: Drops,
}

/// The queues of one thread.
struct Inlet {
    orders: SyncSender<Order>,
    datagrams: SyncSender<(PopId, Bytes)>,
    wake: Arc<Wake>,
}

impl Inlet {
    fn order(&self, order: Order) -> Result<(), Busy> {
        match self.orders.try_send(order) {
            Ok(()) => {
                self.wake.wake();
                Ok(())
            }
            Err(TrySendError::Full(order) | TrySendError::Disconnected(order)) => {
                Err(Busy(Box::new(order)))
            }
        }
    }
}

/// One system call per burst: the flag is cleared by the thread before it reads the queues.
struct Wake {
    waker: poll::Waker,
    pending: AtomicBool,
}

impl Wake {
    fn wake(&self) {
        if self.pending.swap(true, Ordering::AcqRel) {
            return;
        }
        if let Err(error) = self.waker.wake() {
            tracing::error!(%error, "cannot wake the media thread");
        }
    }
}

impl Handle {
    /// Gives an order to the thread it is for, or to all. Never blocks; orders are carried out in
    /// the order they were given. One that comes back may have reached some: given again, it does
    /// no harm there.
    pub fn order(&self, order: Order) -> Result<(), Busy> {
        match order {
            Order::Command(command) => {
                let inlet = self.inlet(Lane::of(command.leg()));
                inlet.map_or(Ok(()), |inlet| inlet.order(Order::Command(command)))
            }
            Order::LinkUp(peer, path, connection) => {
                self.all(|| Order::LinkUp(peer.clone(), path, connection.clone()))
            }
            Order::LinkDown(peer, path) => self.all(|| Order::LinkDown(peer.clone(), path)),
            Order::Restarted(peer) => self.all(|| Order::Restarted(peer.clone())),
            Order::RoundTrip(peer, round_trip) => {
                self.all(|| Order::RoundTrip(peer.clone(), round_trip))
            }
            Order::Route(peer, route) => self.all(|| Order::Route(peer.clone(), route.clone())),
            Order::Stop => self.all(|| Order::Stop),
            // Asked of one by one.
            Order::Status(_) | Order::Paths(_) => Ok(()),
        }
    }

    fn all(&self, order: impl Fn() -> Order) -> Result<(), Busy> {
        // One that is behind keeps it from no other.
        let results: Vec<_> = self.inlets.iter().map(|inlet| inlet.order(order())).collect();
        results.into_iter().collect()
    }

    /// The thread of a lane.
    fn inlet(&self, lane: Lane) -> Option<&Inlet> {
        self.inlets.get(lane.thread(self.inlets.len()))
    }

    /// Hands over a datagram of a peer. Dropped and counted if its thread is behind.
    pub fn datagram(&self, peer: &PopId, bytes: Bytes) {
        let Some(inlet) = self.inlet(Lane(overlay::lane(&bytes))) else { return };
        match inlet.datagrams.try_send((peer.clone(), bytes)) {
            Ok(()) => inlet.wake.wake(),
            Err(_) => self.drops.count(Reason::DatagramQueueFull),
        }
    }

    /// Asks what was counted on the paths, by all threads together; `None` if one is gone or busy.
    pub fn path_counts(&self) -> Option<oneshot::Receiver<Vec<PathCounts>>> {
        let answers = self.ask(Order::Paths)?;
        let (answer, counts) = oneshot::channel();
        tokio::spawn(async move {
            let mut sum = Vec::new();
            for counts in answers {
                status::add_paths(&mut sum, counts.await.unwrap_or_default());
            }
            // Nobody waits any more: fine.
            let _ = answer.send(sum);
        });
        Some(counts)
    }

    fn ask<T>(
        &self,
        order: impl Fn(oneshot::Sender<T>) -> Order,
    ) -> Option<Vec<oneshot::Receiver<T>>> {
        let ask = |inlet: &Inlet| {
            let (answer, answered) = oneshot::channel();
            inlet.order(order(answer)).ok().map(|()| answered)
        };
        self.inlets.iter().map(ask).collect()
    }

    /// Asks for figures, of all threads together; `None` if one is gone or busy.
    pub async fn status(&self) -> Option<Status> {
        let mut sum = Status::default();
        for answer in self.ask(Order::Status)? {
            sum.add(answer.await.ok()?);
        }
        Some(sum)
    }
}

/// How the threads face carriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faces {
    /// One RTP port (RTCP the next) for all legs of the first thread, the next pair for those of the
    /// next, instead of a pair for each leg.
    pub shared: Option<SocketAddr>,
    /// Differentiated services code point of RTP and RTCP.
    pub dscp: u8,
    /// How many threads, at least one. A call lives on one of them.
    pub threads: u8,
    /// Each thread stays on a core of its own.
    pub pinned: bool,
}

impl Default for Faces {
    /// One thread and a port pair for each leg; expedited forwarding (RFC 3246), as RFC 4594 §4.1
    /// wants for voice.
    fn default() -> Self {
        Self { shared: None, dscp: 46, threads: 1, pinned: false }
    }
}

/// The running threads.
pub type Threads = Vec<JoinHandle<()>>;

/// Starts one thread. It ends at [`Order::Stop`].
pub fn start(
    config: MediaConfig,
    clock: Clock,
    drops: Drops,
    events: mpsc::Sender<MediaEvent>,
) -> io::Result<(Handle, Threads)> {
    start_facing(Faces::default(), config, clock, drops, events)
}

/// Starts the threads as `faces` says. An error names the shared port if it is taken.
pub fn start_facing(
    faces: Faces,
    config: MediaConfig,
    clock: Clock,
    drops: Drops,
    events: mpsc::Sender<MediaEvent>,
) -> io::Result<(Handle, Threads)> {
    let numbers = 0..faces.threads.max(1);
    let cores = if faces.pinned { cores::last(numbers.len()) } else { Vec::new() };
    let (mut inlets, mut threads) = (Vec::new(), Vec::new());
    for number in numbers {
        let output = thread::Output { events: events.clone(), drops: drops.clone() };
        let core = cores.get(usize::from(number)).copied();
        // SSRCs of two threads shall not be the same.
        let seed = config.seed.wrapping_add(u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let config = MediaConfig { seed, ..config.clone() };
        let (inlet, thread) = start_one((number, core), faces, (clock, config), output)?;
        inlets.push(inlet);
        threads.push(thread);
    }
    Ok((Handle { inlets: inlets.into(), drops }, threads))
}

fn start_one(
    (number, core): (u8, Option<usize>),
    faces: Faces,
    (clock, config): (Clock, MediaConfig),
    output: thread::Output,
) -> io::Result<(Inlet, JoinHandle<()>)> {
    let (poll, waker) = poll::Poll::new()?;
    let shared = faces.shared.map(|first| {
        let port = first.port().saturating_add(2 * u16::from(number));
        let at = SocketAddr::new(first.ip(), port);
        shared::Shared::open(at, faces.dscp, &poll).map_err(|error| {
            let to = "the shared media port and the next one";
            io::Error::new(error.kind(), format!("cannot open {to}, {at}: {error}"))
        })
    });
    let shared = shared.transpose()?;
    let wake = Arc::new(Wake { waker, pending: AtomicBool::new(false) });
    let (orders, orders_in) = sync_channel(ORDERS_MAX);
    let (datagrams, datagrams_in) = sync_channel(DATAGRAMS_MAX);
    let inputs = thread::Inputs { orders: orders_in, datagrams: datagrams_in, wake: wake.clone() };
    // Made where it runs: the kernel's message headers may not change threads.
    let run = move || {
        if let Some(core) = core {
            cores::stay_on(core);
        }
        thread::Thread::new(poll, (shared, faces.dscp), inputs, output, (clock, config)).run();
    };
    let join = std::thread::Builder::new().name(format!("media{number}")).spawn(run)?;
    Ok((Inlet { orders, datagrams, wake }, join))
}
