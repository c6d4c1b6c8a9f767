//! SIP user agents that speak with a human voice and measure what they hear.
//!
//! An [`Agent`] is one carrier or one phone: an own address, any number of calls, UDP. It runs in
//! its own thread; the handle gives it orders and takes its [`Report`]s. The SIP transactions and
//! the codecs are pop-core's; SDP and RTP are read here, so that the instrument does not share
//! the parsers of what it measures.
//!
//! Deliberately not here: TCP, registration, digest, video, RTCP (sipp and baresip do those).

mod agent;
mod call;
pub mod diary;
mod listener;
#[cfg(test)]
mod moved_tests;
mod report;
mod secure;
mod session;
mod signaling;
mod talker;
pub mod tape;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use mio::Waker;
use pop_core::codec::Codec;

pub use report::{Bye, End, Heard, Hold, Live, MOVES_MAX, Move, Report, Side, Stale};

use crate::speech::Voice;
use agent::Order;
use report::Finished;

/// How an agent answers a number.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Rings this long, then answers with the first offered codec among these.
    Answer {
        /// Time from INVITE to answer.
        ring: Duration,
        /// Codecs it accepts.
        codecs: Vec<Codec>,
    },
    /// Refuses with this status.
    Refuse(u16),
}

impl Default for Reply {
    fn default() -> Self {
        Self::Answer { ring: Duration::ZERO, codecs: Codec::ALL.to_vec() }
    }
}

/// What an agent does with a re-INVITE in a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reinvite {
    /// Answers it, and goes on there: new Contact, new address of the media.
    Follow,
    /// Never answers.
    Ignore,
    /// Refuses it with this status: 488, 491, 481…
    Refuse(u16),
    /// Refuses the first one of each call (503: with Retry-After of a second), and follows the next.
    RefuseOnce(u16),
}

/// The clock of all agents of this process.
pub fn now() -> proto::time::Instant {
    static ORIGIN: OnceLock<std::time::Instant> = OnceLock::new();
    let elapsed = ORIGIN.get_or_init(std::time::Instant::now).elapsed();
    proto::time::Instant::from_nanos(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX))
}

/// One agent.
#[derive(Debug, Clone)]
pub struct Config {
    /// SIP address; media uses free ports of the same host.
    pub address: SocketAddr,
    /// For tags, SSRCs and the like.
    pub seed: u64,
    /// What it says when it calls; when called it says the other one.
    pub voice: Voice,
    /// Replies to particular called numbers (as in the Request-URI's user part).
    pub replies: BTreeMap<String, Reply>,
    /// Reply to all other numbers.
    pub default_reply: Reply,
    /// What it does with re-INVITEs.
    pub reinvite: Reinvite,
    /// What it does with them in calls in which it has this number.
    pub reinvites: BTreeMap<String, Reinvite>,
    /// Write down when each packet was heard, in place of the sound.
    pub diary: bool,
    /// Far sides say back what they hear: the voice to be heard is this side's own.
    pub echoed: bool,
}

impl Config {
    /// An agent that answers everything.
    pub fn new(address: SocketAddr) -> Self {
        Self {
            address,
            seed: 1,
            voice: Voice::English,
            replies: BTreeMap::new(),
            default_reply: Reply::default(),
            reinvite: Reinvite::Follow,
            reinvites: BTreeMap::new(),
            diary: false,
            echoed: false,
        }
    }
}

/// A call to place.
#[derive(Debug, Clone)]
pub struct Dial {
    /// Where the INVITE goes.
    pub proxy: SocketAddr,
    /// Calling number.
    pub from: String,
    /// Called number.
    pub to: String,
    /// Codecs offered, best first.
    pub codecs: Vec<Codec>,
    /// From answer to BYE; `None`: until [`Agent::hang_up`] or the far side's BYE.
    pub talk: Option<Duration>,
    /// Telephone events to send.
    pub digits: String,
    /// Media is encrypted, or there is no call (RFC 4568).
    pub srtp: bool,
}

/// A running agent; its calls end when it is dropped (without a word: as a crash would).
#[derive(Debug)]
pub struct Agent {
    address: SocketAddr,
    orders: Sender<Order>,
    waker: Waker,
    board: Arc<Mutex<Board>>,
    next: AtomicU64,
    thread: Option<JoinHandle<()>>,
}

/// What the thread shows to the handle.
#[derive(Debug, Default)]
struct Board {
    live: Vec<Live>,
    finished: Vec<Finished>,
    /// Calls ordered and not finished.
    open: u64,
}

impl Agent {
    /// Binds the address and starts the thread.
    pub fn start(config: Config) -> Result<Self> {
        let address = config.address;
        let board = Arc::new(Mutex::new(Board::default()));
        let (orders, inbox) = channel();
        let (mut shell, waker) = agent::Shell::new(config, inbox, Arc::clone(&board))
            .with_context(|| format!("the endpoint at {address} cannot start"))?;
        let thread = std::thread::Builder::new()
            .name(format!("endpoint {address}"))
            .spawn(move || shell.run())
            .context("no thread for an endpoint")?;
        let (next, thread) = (AtomicU64::new(1), Some(thread));
        Ok(Self { address, orders, waker, board, next, thread })
    }

    /// Its SIP address.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// Places a call; the number is in its [`Report`].
    pub fn dial(&self, dial: Dial) -> u64 {
        // Even numbers are ours, odd ones are calls that came in.
        let number = self.next.fetch_add(1, Ordering::Relaxed) * 2;
        self.lock().open += 1;
        self.order(Order::Dial(number, Box::new(dial)));
        number
    }

    /// Says digits (`0-9*#A-D`) in a call, as telephone events.
    pub fn press(&self, number: u64, digits: &str) {
        self.order(Order::Press(number, digits.to_owned()));
    }

    /// Puts the far side of a call on hold (RFC 3264 §8.4), or takes it back. Done when
    /// [`Live::holding`] says so; what is refused is not tried again.
    pub fn hold(&self, number: u64, holds: bool) {
        self.order(Order::Hold(number, holds));
    }

    /// Ends a call.
    pub fn hang_up(&self, number: u64) {
        self.order(Order::HangUp(number));
    }

    /// Ends all calls.
    pub fn hang_up_all(&self) {
        self.order(Order::HangUpAll);
    }

    /// Ends all calls without a word: their reports say that they were given up.
    pub fn give_up(&self) {
        self.order(Order::GiveUp);
    }

    /// Calls that are up or being set up, as of at most 250 ms ago.
    pub fn live(&self) -> Vec<Live> {
        self.lock().live.clone()
    }

    /// Calls placed and not yet over.
    pub fn open(&self) -> u64 {
        self.lock().open
    }

    /// Calls of ours that are over and not yet reported: how many, and how many of them badly.
    pub fn over(&self) -> (usize, usize) {
        let board = self.lock();
        let mine = board.finished.iter().filter(|f| f.report.side == Side::Caller);
        mine.fold((0, 0), |(all, bad), f| {
            (all + 1, bad + usize::from(f.report.end != End::Completed))
        })
    }

    /// Throws the reports of calls that are over away.
    pub fn forget_reports(&self) {
        self.lock().finished.clear();
    }

    /// Takes the reports of calls that are over. Decodes and compares what was heard, so it takes
    /// a few milliseconds for each.
    pub fn reports(&self) -> Result<Vec<Report>> {
        let finished = std::mem::take(&mut self.lock().finished);
        finished.into_iter().map(Finished::report).collect()
    }

    fn order(&self, order: Order) {
        // A thread that is gone has said why; its calls never report.
        let _sent = self.orders.send(order);
        let _woken = self.waker.wake();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Board> {
        self.board.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.order(Order::Stop);
        if let Some(thread) = self.thread.take() {
            let _ended = thread.join();
        }
    }
}
