//! The media thread: RTP and RTCP sockets around [`pop_core::media::Media`].
//!
//! One thread of its own, one epoll, no runtime. It never blocks on anything but epoll, takes no
//! lock of ours and logs nothing per packet. Orders and datagrams come over bounded queues with
//! one wake-up per burst; datagrams leave by `quinn::Connection::send_datagram` directly.
//! Deliberately not here: what a packet means (the core), QUIC (`link`).

mod load;
mod poll;
mod shared;
mod socket_drops;
mod sockets;
mod thread;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use bytes::Bytes;
use pop_core::media::{Counters, LinkStats, MediaCommand, MediaConfig, MediaEvent, PathCounts};
use pop_core::overlay::Route;
use proto::id::PopId;
use proto::overlay::PathId;
use tokio::sync::{mpsc, oneshot};

pub use socket_drops::SocketDrops;

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
    /// Media for a POP goes this way.
    Route(PopId, Route),
    /// Asks what was counted on the paths.
    Paths(oneshot::Sender<Vec<PathCounts>>),
    /// Asks for figures.
    Status(oneshot::Sender<Status>),
    /// Ends the thread.
    Stop,
}

/// Figures of the media plane.
#[derive(Debug)]
pub struct Status {
    /// Totals.
    pub counters: Counters,
    /// Measured on media, by peer.
    pub links: Vec<(PopId, LinkStats)>,
    /// Open legs.
    pub legs: usize,
    /// libopus complexity in use.
    pub opus_complexity: u8,
}

/// The thread is behind by [`ORDERS_MAX`] orders, or gone; the order comes back.
#[derive(Debug)]
pub struct Busy(pub Box<Order>);

/// How other threads reach the media thread.
#[derive(Clone)]
pub struct Handle {
    orders: SyncSender<Order>,
    datagrams: SyncSender<(PopId, Bytes)>,
    wake: Arc<Wake>,
    drops: Drops,
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
    /// Gives an order. Never blocks; orders are carried out in the order they were given.
    pub fn order(&self, order: Order) -> Result<(), Busy> {
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

    /// Hands over a datagram of a peer. Dropped and counted if the thread is behind.
    pub fn datagram(&self, peer: &PopId, bytes: Bytes) {
        match self.datagrams.try_send((peer.clone(), bytes)) {
            Ok(()) => self.wake.wake(),
            Err(_) => self.drops.count(Reason::DatagramQueueFull),
        }
    }

    /// Asks what was counted on the paths; `None` if the thread is gone or busy.
    pub fn path_counts(&self) -> Option<oneshot::Receiver<Vec<PathCounts>>> {
        let (answer, counts) = oneshot::channel();
        self.order(Order::Paths(answer)).ok()?;
        Some(counts)
    }

    /// Asks for figures; `None` if the thread is gone or busy.
    pub async fn status(&self) -> Option<Status> {
        let (answer, status) = oneshot::channel();
        self.order(Order::Status(answer)).ok()?;
        status.await.ok()
    }
}

/// How the thread faces carriers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Faces {
    /// One RTP port (RTCP the next) for all legs, instead of a pair for each.
    pub shared: Option<SocketAddr>,
    /// Differentiated services code point of RTP and RTCP.
    pub dscp: u8,
}

impl Default for Faces {
    /// A port pair for each leg; expedited forwarding (RFC 3246), as RFC 4594 §4.1 wants for voice.
    fn default() -> Self {
        Self { shared: None, dscp: 46 }
    }
}

/// Starts the thread. It ends at [`Order::Stop`].
pub fn start(
    config: MediaConfig,
    clock: Clock,
    drops: Drops,
    events: mpsc::Sender<MediaEvent>,
) -> io::Result<(Handle, JoinHandle<()>)> {
    start_facing(Faces::default(), config, clock, drops, events)
}

/// Starts the thread with sockets as `faces` says. An error names the shared port if it is taken.
pub fn start_facing(
    faces: Faces,
    config: MediaConfig,
    clock: Clock,
    drops: Drops,
    events: mpsc::Sender<MediaEvent>,
) -> io::Result<(Handle, JoinHandle<()>)> {
    let (poll, waker) = poll::Poll::new()?;
    let shared = faces.shared.map(|at| {
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
    let output = thread::Output { events, drops: drops.clone() };
    // Made where it runs: the kernel's message headers may not change threads.
    let run = move || {
        thread::Thread::new(poll, (shared, faces.dscp), inputs, output, (clock, config)).run();
    };
    let join = std::thread::Builder::new().name("media".into()).spawn(run)?;
    Ok((Handle { orders, datagrams, wake, drops }, join))
}
