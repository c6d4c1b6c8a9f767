//! The BMP station: TCP connections of the POP's own routers around [`pop_core::bgp::Bgp`], and
//! connections to RPKI caches ([`rpki`]).
//!
//! A task for each connection reads, frames and decodes; one task owns the machine and passes
//! hints on to the paths. Bounded: connections (one for each router of the configuration), bytes
//! of a message, batches under way; a router that is too fast is read more slowly.
//! Deliberately absent: TLS (BMP has none; routers and POP share a network), any word to a router.

mod config;
mod decode;
mod nlri;
mod reader;
mod rpki;
mod rtr;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use pop_core::bgp::{Bgp, Event, Hangup, Message, Report, Session, Vrps};
use socket2::{SockRef, TcpKeepalive};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::AbortHandle;

use crate::clock::Clock;
use crate::link::{Links, Peer};

pub use config::{BgpFile, Settings, settings};
pub use decode::{Decoder, Malformed};
pub use rpki::Caches;
pub use rtr::next_pdu;

/// Between two lines of the log about refused connections.
const REFUSED_EVERY: Duration = Duration::from_secs(60);
/// Batches of messages that may wait.
const INPUTS_MAX: usize = 64;
/// Who died without a word is noticed after three of these: BMP and RTR have no keep-alives.
const KEEP_ALIVE: Duration = Duration::from_secs(5);

/// What readers tell.
enum Input {
    Heard { session: Session, messages: Vec<Message> },
    Ended(Session, Hangup),
    Vrps(Arc<Vrps>),
    Report(oneshot::Sender<Report>),
}

/// What was counted outside of the machine.
#[derive(Debug, Default)]
pub struct Counters {
    /// BMP messages.
    messages: AtomicU64,
    /// Connections that ended, in the order of [`Hangup::NAMES`].
    hangups: [AtomicU64; Hangup::NAMES.len()],
}

impl Counters {
    fn hung_up(&self, why: Hangup) {
        let counters = Hangup::NAMES.iter().zip(&self.hangups);
        for (_, counter) in counters.filter(|(name, _)| **name == why.name()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// BMP messages received.
    pub fn messages(&self) -> u64 {
        self.messages.load(Ordering::Relaxed)
    }

    /// Ended connections, by reason.
    pub fn hangups(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = Hangup::NAMES.iter().zip(&self.hangups);
        counters.map(|(name, counter)| (*name, counter.load(Ordering::Relaxed)))
    }
}

/// For the admin page.
#[derive(Clone)]
pub struct Handle {
    inputs: mpsc::Sender<Input>,
    /// What was counted.
    pub counters: Arc<Counters>,
    /// RPKI caches, if there are any.
    pub caches: Option<Caches>,
}

impl Handle {
    /// What is known, as of now; `None` while the process ends.
    pub async fn report(&self) -> Option<Report> {
        let (answer, report) = oneshot::channel();
        self.inputs.send(Input::Report(answer)).await.ok()?;
        report.await.ok()
    }
}

/// Listens for routers, and tells `links` what speaks against their paths.
pub fn start(
    listener: std::net::TcpListener,
    settings: &Settings,
    (links, peers): (Links, watch::Receiver<Vec<Peer>>),
    clock: Clock,
) -> io::Result<Handle> {
    let listener = TcpListener::from_std(listener)?;
    let (sender, inputs) = mpsc::channel(INPUTS_MAX);
    let interest = watch::Sender::new(Arc::default());
    let caches = (!settings.rpki_caches.is_empty())
        .then(|| rpki::start(&settings.rpki_caches, interest.subscribe(), sender.clone(), clock));
    let handle = Handle { inputs: sender.clone(), counters: Arc::default(), caches };
    let station = Station {
        bgp: Bgp::new(settings.station.clone(), clock.now()),
        clock,
        remotes: links.remotes(),
        links,
        peers,
        interest,
        readers: BTreeMap::new(),
        sender,
        counters: handle.counters.clone(),
        told_refused: None,
    };
    tokio::spawn(station.run(listener, inputs));
    Ok(handle)
}

struct Station {
    bgp: Bgp,
    clock: Clock,
    links: Links,
    /// Addresses at the other ends of paths.
    remotes: watch::Receiver<BTreeSet<IpAddr>>,
    peers: watch::Receiver<Vec<Peer>>,
    interest: watch::Sender<Arc<BTreeSet<IpAddr>>>,
    readers: BTreeMap<Session, AbortHandle>,
    sender: mpsc::Sender<Input>,
    counters: Arc<Counters>,
    /// When the log was last told of a refused connection.
    told_refused: Option<proto::time::Instant>,
}

impl Station {
    async fn run(mut self, listener: TcpListener, mut inputs: mpsc::Receiver<Input>) {
        self.look();
        loop {
            let wake = self.clock.deadline(self.bgp.poll_timeout());
            tokio::select! {
                input = inputs.recv() => match input {
                    Some(input) => self.take(input),
                    None => return,
                },
                accepted = listener.accept() => match accepted {
                    Ok((socket, from)) => self.connect(socket, from.ip().to_canonical()),
                    Err(error) => {
                        tracing::warn!(%error, "cannot accept on [bgp] bmp_listen");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Ok(()) = self.remotes.changed() => self.look(),
                Ok(()) = self.peers.changed() => self.look(),
                () = tokio::time::sleep_until(wake.into()) => {}
            }
            self.bgp.handle_timeout(self.clock.now());
            // Those of one event together: media must not go from one dying path to the next.
            let mut hints = Vec::new();
            while let Some(event) = self.bgp.poll_event() {
                match event {
                    Event::Close(session, why) => self.close(session, why),
                    Event::Distrusted { router, neighbor, why } => {
                        let why = why.sentence();
                        tracing::warn!(
                            %router, %neighbor, why,
                            "what BGP says is not believed: paths are chosen by measurement"
                        );
                    }
                    Event::Hint { upstream, address, hint } => {
                        hints.push((upstream, address, hint));
                    }
                }
            }
            if !hints.is_empty() {
                self.links.hint(hints).await;
            }
        }
    }

    /// Which addresses matter now.
    fn look(&mut self) {
        let mut addresses = self.remotes.borrow_and_update().clone();
        for peer in self.peers.borrow_and_update().iter() {
            // Names are known when they were dialed.
            let hosts = peer.address.split(',').filter_map(|host| host.parse().ok());
            addresses.extend(hosts.map(|host: std::net::SocketAddr| host.ip().to_canonical()));
        }
        self.bgp.set_interest(&addresses, self.clock.now());
        self.interest.send_replace(Arc::new(addresses));
    }

    fn connect(&mut self, socket: TcpStream, router: IpAddr) {
        match self.bgp.connect(router, self.clock.now()) {
            Ok(session) => {
                tracing::info!(%router, "a router connected");
                keep_alive(&socket);
                let reader = reader::Reader::new(
                    socket,
                    session,
                    self.interest.subscribe(),
                    (self.sender.clone(), self.counters.clone()),
                );
                self.readers.insert(session, tokio::spawn(reader.run()).abort_handle());
            }
            Err(why) => {
                self.counters.hung_up(why);
                let now = self.clock.now();
                // Whoever scans must not fill the log: the counter has all of them.
                if self.told_refused.is_none_or(|told| now - told >= REFUSED_EVERY) {
                    self.told_refused = Some(now);
                    tracing::warn!(%router, %why, "a connection for BMP was refused");
                }
            }
        }
    }

    fn take(&mut self, input: Input) {
        let now = self.clock.now();
        match input {
            Input::Heard { session, messages } => {
                if let Err(why) = self.bgp.handle_messages(session, messages, now) {
                    self.close(session, why);
                }
            }
            Input::Ended(session, why) => {
                self.bgp.disconnect(session, now);
                self.close(session, why);
            }
            Input::Vrps(vrps) => self.bgp.set_vrps(vrps, now),
            // Nobody waits any more: fine.
            Input::Report(answer) => drop(answer.send(self.bgp.report(now))),
        }
    }

    fn close(&mut self, session: Session, why: Hangup) {
        // What was under way when it was closed comes late.
        if let Some(reader) = self.readers.remove(&session) {
            reader.abort();
            self.counters.hung_up(why);
            tracing::info!(session = session.0, %why, "a router's session ended");
        }
    }
}

fn keep_alive(socket: &TcpStream) {
    let keep_alive = TcpKeepalive::new().with_time(KEEP_ALIVE).with_interval(KEEP_ALIVE);
    if let Err(error) = SockRef::from(socket).set_tcp_keepalive(&keep_alive.with_retries(2)) {
        tracing::warn!(%error, "no keep-alives for a connection of a router or an RPKI cache");
    }
}
