//! Links: QUIC connections to each other POP, mutual TLS 1.3, ALPN `voxmesh/1`: one from each of our
//! upstreams to each of the peer's, all kept warm. Each is a path.
//!
//! The POP with the lower id dials, both greet; only then the path is up (a client without
//! certificate sees its handshake succeed first). Who the peer is, its certificate says; it must be
//! the POP dialed, of our mesh. Call signaling: one bidirectional stream per call, that moves when
//! its path fails ([`stream`]). Media: datagrams, handed to the media thread. Probes: to the
//! [`keeper`], which chooses the paths.
//! Deliberately absent: what a message means, which path is best (the core).

mod keeper;
mod peer;
mod quic;
mod registry;
pub mod stream;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use pop_core::bgp::Hint;
use pop_core::overlay::{Moment, PathsConfig, PeerReport};

use pop_core::pop::{CallStream, StreamEvent};
use proto::id::PopId;
use proto::overlay::{PathId, PopTag};
use proto::time::Instant;
use tokio::sync::{mpsc, oneshot, watch};

use crate::clock::Clock;
use crate::drops::Drops;
use crate::media;
use crate::tls::{Credentials, TlsError};
pub use registry::Instance;

/// Another POP, as the view names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub id: PopId,
    /// Where its overlay is: `host:port` of each upstream, with commas between.
    pub address: String,
}

/// What links tell the signaling loop.
#[derive(Debug)]
pub enum Event {
    /// A connection is up; an older one of the same path is replaced, and so are all that were
    /// with another process.
    Up {
        /// The other POP.
        peer: PopId,
        /// Which path it is.
        path: PathId,
        /// For datagrams.
        connection: quinn::Connection,
        /// The process at the other end.
        instance: Instance,
    },
    /// A connection is gone.
    Down {
        /// The other POP.
        peer: PopId,
        /// Which path it was.
        path: PathId,
        /// `stable_id` of the connection: a newer one may already be up.
        connection: usize,
    },
    /// The peer opened a call stream; its events follow.
    Accepted {
        /// Numbered by us.
        stream: CallStream,
        /// For our messages.
        outbox: stream::Outbox,
    },
    /// Something happened to a call stream.
    Call {
        /// Which.
        stream: CallStream,
        /// What.
        event: StreamEvent,
    },
}

/// What all tasks of the links share.
pub(crate) struct Context {
    own: PopId,
    own_tag: PopTag,
    /// This process, to peers.
    instance: Instance,
    credentials: Credentials,
    /// Of the moment: certificates change.
    client: watch::Sender<quinn::ClientConfig>,
    max_calls: u32,
    /// One for each upstream.
    endpoints: Vec<quinn::Endpoint>,
    registry: Arc<registry::Registry>,
    keeper: mpsc::Sender<keeper::Input>,
    events: mpsc::Sender<Event>,
    media: media::Handle,
    drops: Drops,
    /// Call streams of peers that may go on with another QUIC stream.
    resumable: Mutex<stream::Resumable>,
    /// Numbers the streams peers open.
    accepted: AtomicU64,
}

/// Our end of all links.
#[derive(Clone)]
pub struct Links {
    context: Arc<Context>,
    known: keeper::Known,
}

impl Links {
    /// Answers other POPs at each of `sockets`, our upstreams in their order, and dials those of
    /// `peers` with a higher id from each.
    pub fn start(
        credentials: Credentials,
        sockets: Vec<std::net::UdpSocket>,
        settings: Settings,
        peers: watch::Receiver<Vec<Peer>>,
    ) -> Result<Self, StartError> {
        let Settings { own, max_calls, events, media, drops, clock } = settings;
        let quic::Configs { server, client } = quic::configs(&credentials, max_calls)?;
        let endpoints = sockets.into_iter().map(|socket| quic::endpoint(server.clone(), socket));
        let endpoints = endpoints.collect::<Result<Vec<_>, _>>()?;
        let (keeper, inputs) = mpsc::channel(keeper::INPUTS_MAX);
        let registry = Arc::new(registry::Registry::default());
        let config =
            PathsConfig { own: own.clone(), seed: u64::from_ne_bytes(credentials.random()) };
        let around = (media.clone(), clock, drops.clone());
        let (paths, known) = keeper::Keeper::new(config, registry.clone(), around, inputs);
        let context = Arc::new(Context {
            own_tag: PopTag::of(&own),
            own,
            instance: credentials.random(),
            credentials,
            client: watch::Sender::new(client),
            max_calls,
            endpoints,
            registry,
            keeper,
            events,
            media,
            drops,
            resumable: Mutex::default(),
            accepted: AtomicU64::new(0),
        });
        tokio::spawn(paths.run());
        for upstream in 0..context.upstreams() {
            tokio::spawn(peer::answer(context.clone(), upstream));
        }
        tokio::spawn(dial_all(context.clone(), peers));
        Ok(Self { context, known })
    }

    /// Opens a call stream; `Opened` or `Failed` follows as an event.
    pub fn open(&self, stream: CallStream) -> stream::Outbox {
        stream::open(self.context.clone(), stream)
    }

    /// What is known of all paths, as of now; `None` while the process ends.
    pub async fn paths(&self) -> Option<Vec<PeerReport>> {
        let (answer, report) = oneshot::channel();
        self.context.keeper.send(keeper::Input::Report(answer)).await.ok()?;
        report.await.ok()
    }

    /// The paths to a POP as they were at `at`; `None` in it: nothing is known from then.
    pub async fn past(&self, peer: &str, at: Instant) -> Option<Option<Moment>> {
        let (answer, moment) = oneshot::channel();
        let input = keeper::Input::Past(peer.to_owned(), at, answer);
        self.context.keeper.send(input).await.ok()?;
        moment.await.ok()
    }

    /// Addresses at the other ends of paths, as they become known.
    pub fn remotes(&self) -> watch::Receiver<BTreeSet<IpAddr>> {
        self.known.remotes.clone()
    }

    /// POPs that a path led to and none does now, as that changes.
    pub fn unseen(&self) -> watch::Receiver<BTreeSet<PopId>> {
        self.known.unseen.clone()
    }

    /// What speaks against sending to an address from one of our upstreams is this now.
    pub async fn hint(&self, hints: Vec<(u8, IpAddr, Hint)>) {
        // Only while the process ends nobody listens.
        drop(self.context.keeper.send(keeper::Input::Hints(hints)).await);
    }

    /// A newer process has our name: closes all connections, dials and answers no more.
    pub fn fence(&self) {
        for endpoint in &self.context.endpoints {
            endpoint.close(peer::Close::Fenced.code(), b"fenced");
        }
    }

    /// New links use these certificates; those that are up stay as they are.
    pub fn rotate(&self, credentials: &Credentials) -> Result<(), StartError> {
        let configs = quic::configs(credentials, self.context.max_calls)?;
        for endpoint in &self.context.endpoints {
            endpoint.set_server_config(Some(configs.server.clone()));
        }
        self.context.client.send_replace(configs.client);
        Ok(())
    }

    /// Closes all connections; peers see it at once.
    pub async fn shutdown(&self) {
        let endpoints = &self.context.endpoints;
        endpoints.iter().for_each(|e| e.close(peer::Close::Shutdown.code(), b"shutdown"));
        // Until the last close frame left, but not for a peer that does not answer.
        let grace = std::time::Duration::from_millis(500);
        let idle = async {
            for endpoint in endpoints {
                endpoint.wait_idle().await;
            }
        };
        let _ = tokio::time::timeout(grace, idle).await;
    }
}

impl Context {
    fn upstreams(&self) -> u8 {
        u8::try_from(self.endpoints.len()).unwrap_or(u8::MAX).min(PathId::UPSTREAMS_MAX)
    }

    fn resumable(&self) -> MutexGuard<'_, stream::Resumable> {
        // Nothing panics half way.
        self.resumable.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes a connection that a newer one replaces.
fn replace(old: &quinn::Connection) {
    old.close(peer::Close::Replaced.code(), b"replaced");
}

/// What links need besides sockets and certificates.
pub struct Settings {
    /// Our id.
    pub own: PopId,
    /// Sizes windows and stream counts.
    pub max_calls: u32,
    /// To the signaling loop.
    pub events: mpsc::Sender<Event>,
    /// To the media thread.
    pub media: media::Handle,
    /// Counters.
    pub drops: Drops,
    /// That of the media thread.
    pub clock: Clock,
}

/// Why links cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The socket is of no use to QUIC.
    #[error("[overlay] listen cannot be used for QUIC: {0}; choose another address")]
    Socket(#[from] std::io::Error),
    /// The certificates.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// TLS without a cipher suite for QUIC.
    #[error("QUIC has no cipher suite: {0}; build with aws-lc-rs")]
    Cipher(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// Keeps a dialer for each path to each peer with a higher id.
async fn dial_all(context: Arc<Context>, mut peers: watch::Receiver<Vec<Peer>>) {
    // Dropping a sender ends its dialer and closes its connection.
    let mut dialers: BTreeMap<(PopId, peer::Upstreams), watch::Sender<String>> = BTreeMap::new();
    loop {
        let known: Vec<PopId> = peers.borrow_and_update().iter().map(|p| p.id.clone()).collect();
        if context.keeper.send(keeper::Input::Known(known)).await.is_err() {
            return;
        }
        let wanted = wanted(&context, &peers.borrow());
        dialers.retain(|path, _| wanted.contains_key(path));
        for (path, address) in wanted {
            if let Some(dialer) = dialers.get(&path) {
                dialer.send_if_modified(|old| {
                    let changed = *old != address;
                    *old = address;
                    changed
                });
                continue;
            }
            let (sender, receiver) = watch::channel(address);
            tokio::spawn(peer::dial(context.clone(), path.clone(), receiver));
            dialers.insert(path, sender);
        }
        if peers.changed().await.is_err() {
            return;
        }
    }
}

/// From each of our upstreams to each address of each peer.
fn wanted(context: &Context, peers: &[Peer]) -> BTreeMap<(PopId, peer::Upstreams), String> {
    let higher = peers.iter().filter(|peer| peer.id > context.own);
    let addresses = higher.flat_map(|peer| {
        let addresses = peer.address.split(',').take(usize::from(PathId::UPSTREAMS_MAX));
        (0_u8..)
            .zip(addresses)
            .map(|(theirs, address)| (peer.id.clone(), theirs, address.to_owned()))
    });
    let paths = addresses.flat_map(|(id, theirs, address)| {
        (0..context.upstreams())
            .map(move |ours| ((id.clone(), peer::Upstreams { ours, theirs }), address.clone()))
    });
    paths.collect()
}
