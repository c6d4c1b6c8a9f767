//! Connections to RPKI caches around [`pop_core::bgp::Rtr`].
//!
//! One task, one connection at a time. What caches say goes to the station when it changed.
//! Deliberately absent: TLS and SSH towards caches (RFC 8210 §9): they and POPs share a network.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::BytesMut;
use pop_core::bgp::{Leave, Rtr, RtrReport, Vrps};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, interval, sleep, timeout};

use super::{Input, keep_alive, rtr};
use crate::backoff::Backoff;
use crate::clock::Clock;

/// For a connection to come about, and for a query to leave.
const CONNECT: Duration = Duration::from_secs(5);
const TICK: Duration = Duration::from_secs(1);
/// Between two rounds of all caches.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// A connection that lasted so long was a good one: the next is not waited for.
const GOOD: Duration = Duration::from_secs(60);
const READ_BYTES: usize = 64 << 10;

/// For the admin page.
#[derive(Clone)]
pub struct Caches {
    /// In the order of the configuration.
    pub addresses: Arc<[SocketAddr]>,
    /// What they told.
    pub report: watch::Receiver<RtrReport>,
    left: Arc<[AtomicU64; Leave::NAMES.len()]>,
}

impl Caches {
    /// Connections that ended or did not come about, by reason.
    pub fn left(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let counters = Leave::NAMES.iter().zip(self.left.iter());
        counters.map(|(name, counter)| (*name, counter.load(Ordering::Relaxed)))
    }
}

/// Asks caches, and tells the station.
pub(super) fn start(
    addresses: &[SocketAddr],
    interest: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    inputs: mpsc::Sender<Input>,
    clock: Clock,
) -> Caches {
    let rtr = Rtr::new();
    let (told, report) = watch::channel(rtr.report());
    let caches = Caches { addresses: addresses.into(), report, left: Arc::default() };
    // Caches stop with the station, whose queue ends.
    let client = Client {
        published: rtr.vrps().clone(),
        rtr,
        clock,
        interest,
        inputs,
        told,
        caches: caches.clone(),
        lost: vec![false; addresses.len()],
    };
    tokio::spawn(client.run());
    caches
}

struct Client {
    rtr: Rtr,
    clock: Clock,
    interest: watch::Receiver<Arc<BTreeSet<IpAddr>>>,
    inputs: mpsc::Sender<Input>,
    told: watch::Sender<RtrReport>,
    caches: Caches,
    /// What the station knows.
    published: Arc<Vrps>,
    /// Caches of which the log says that they are lost.
    lost: Vec<bool>,
}

impl Client {
    async fn run(mut self) {
        let seed = u64::from(std::process::id());
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, seed);
        while !self.inputs.is_closed() {
            for (cache, address) in (0..).zip(self.caches.addresses.clone().iter()) {
                let began = self.clock.now();
                self.talk(cache, *address).await;
                if self.clock.now() - began >= GOOD {
                    backoff.reset();
                }
            }
            let again = self.clock.now() + backoff.delay();
            while self.clock.now() < again {
                sleep(TICK.min(again - self.clock.now())).await;
                self.expire().await;
            }
        }
    }

    /// As long as there is something to say.
    async fn talk(&mut self, cache: usize, address: SocketAddr) {
        loop {
            let before = self.rtr.report().told.map(|(_, at)| at);
            let why = self.session(cache, address).await;
            self.rtr.disconnect(why);
            self.publish().await;
            let told = self.rtr.report().told.map(|(_, at)| at) > before;
            self.log(cache, address, why, told);
            if why != Leave::Version {
                return;
            }
        }
    }

    fn log(&mut self, cache: usize, address: SocketAddr, why: Leave, told: bool) {
        let counters = Leave::NAMES.iter().zip(self.caches.left.iter());
        for (_, counter) in counters.filter(|(name, _)| **name == why.name()) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
        let Some(lost) = self.lost.get_mut(cache) else { return };
        if why == Leave::Version {
            tracing::info!(cache = %address, "an RPKI cache knows version 0 only");
        } else if told || !*lost {
            *lost = true;
            tracing::warn!(cache = %address, %why, "an RPKI cache is lost");
        }
    }

    async fn session(&mut self, cache: usize, address: SocketAddr) -> Leave {
        self.expire().await;
        let Ok(Ok(mut socket)) = timeout(CONNECT, TcpStream::connect(address)).await else {
            return Leave::Unreachable;
        };
        keep_alive(&socket);
        let interest = self.interest.borrow_and_update().clone();
        self.rtr.set_interest(&interest, self.clock.now());
        self.rtr.connect(cache, self.clock.now());
        let mut buffer = BytesMut::new();
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            if let Err(why) = self.ask(&mut socket).await {
                return why;
            }
            buffer.reserve(READ_BYTES);
            let heard = tokio::select! {
                read = socket.read_buf(&mut buffer) => match read {
                    Ok(0) | Err(_) => Err(Leave::Closed),
                    Ok(_) => self.hear(&mut buffer),
                },
                Ok(()) = self.interest.changed() => {
                    let interest = self.interest.borrow_and_update().clone();
                    self.rtr.set_interest(&interest, self.clock.now());
                    Ok(())
                },
                _ = tick.tick() => {
                    self.expire().await;
                    self.rtr.handle_timeout(self.clock.now())
                },
            };
            if let Err(why) = heard {
                return why;
            }
            self.publish().await;
            if self.inputs.is_closed() {
                return Leave::Closed;
            }
        }
    }

    async fn ask(&mut self, socket: &mut TcpStream) -> Result<(), Leave> {
        let Some(query) = self.rtr.poll_query() else { return Ok(()) };
        let bytes = rtr::encode(query, self.rtr.version());
        let sent = timeout(CONNECT, socket.write_all(&bytes)).await;
        sent.map_err(|_| Leave::Silent)?.map_err(|_| Leave::Closed)
    }

    fn hear(&mut self, buffer: &mut BytesMut) -> Result<(), Leave> {
        let now = self.clock.now();
        while let Some((version, pdu)) = rtr::next_pdu(buffer)? {
            self.rtr.handle(version, pdu, now)?;
        }
        Ok(())
    }

    async fn expire(&mut self) {
        if self.rtr.expire(self.clock.now()) {
            tracing::warn!("what RPKI caches told is too old: nothing is held against any origin");
            self.publish().await;
        }
    }

    /// Tells the station and the admin page what is new.
    async fn publish(&mut self) {
        let (vrps, report) = (self.rtr.vrps().clone(), self.rtr.report());
        if !Arc::ptr_eq(&vrps, &self.published) {
            let (before, records) = (self.published.len(), report.records);
            tracing::info!(before, records, "RPKI caches told who may originate routes");
            self.published = vrps.clone();
            self.lost.fill(false);
            // The station is ending, too.
            drop(self.inputs.send(Input::Vrps(vrps)).await);
        }
        self.told.send_if_modified(|told| {
            let differs = *told != report;
            *told = report;
            differs
        });
    }
}
