//! Links: one QUIC connection to each other POP, mutual TLS 1.3, ALPN `voxmesh/1`.
//!
//! The POP with the lower id dials, the higher one answers and says welcome; only then the link
//! is up (a client without certificate sees its handshake succeed first). Who the peer is, its
//! certificate says; it must be the POP dialed, of our mesh. Call signaling: one bidirectional
//! stream per call ([`stream`]). Media: datagrams, handed to the media thread.
//! Deliberately absent: several paths per peer, relaying, what a message means (the core).

mod peer;
mod quic;
pub mod stream;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use pop_core::pop::{CallStream, StreamEvent};
use proto::id::PopId;
use tokio::sync::{mpsc, watch};

use crate::drops::Drops;
use crate::media;
use crate::tls::{Credentials, TlsError};

/// Another POP, as the view names it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// Its name.
    pub id: PopId,
    /// Where its overlay is: `host:port`.
    pub address: String,
}

/// What links tell the signaling loop.
#[derive(Debug)]
pub enum Event {
    /// A connection is up; an older one to the same peer is replaced.
    Up {
        /// The other POP.
        peer: PopId,
        /// For call streams and datagrams.
        connection: quinn::Connection,
    },
    /// A connection is gone.
    Down {
        /// The other POP.
        peer: PopId,
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
    credentials: Credentials,
    /// Of the moment: certificates change.
    client: watch::Sender<quinn::ClientConfig>,
    max_calls: u32,
    endpoint: quinn::Endpoint,
    events: mpsc::Sender<Event>,
    media: media::Handle,
    drops: Drops,
    /// Numbers the streams peers open.
    accepted: AtomicU64,
}

/// Our end of all links.
#[derive(Clone)]
pub struct Links {
    context: Arc<Context>,
}

impl Links {
    /// Answers other POPs at `socket`, and dials those of `peers` with a higher id.
    pub fn start(
        credentials: Credentials,
        socket: std::net::UdpSocket,
        settings: Settings,
        peers: watch::Receiver<Vec<Peer>>,
    ) -> Result<Self, StartError> {
        let Settings { own, max_calls, events, media, drops } = settings;
        let quic::Configs { server, client } = quic::configs(&credentials, max_calls)?;
        let endpoint = quic::endpoint(server, socket)?;
        let client = watch::Sender::new(client);
        let accepted = AtomicU64::new(0);
        let context = Arc::new(Context {
            own,
            credentials,
            client,
            max_calls,
            endpoint,
            events,
            media,
            drops,
            accepted,
        });
        tokio::spawn(peer::answer(context.clone()));
        tokio::spawn(dial_all(context.clone(), peers));
        Ok(Self { context })
    }

    /// A newer process has our name: closes all connections, dials and answers no more.
    pub fn fence(&self) {
        self.context.endpoint.close(peer::Close::Fenced.code(), b"fenced");
    }

    /// New links use these certificates; those that are up stay as they are.
    pub fn rotate(&self, credentials: &Credentials) -> Result<(), StartError> {
        let configs = quic::configs(credentials, self.context.max_calls)?;
        self.context.endpoint.set_server_config(Some(configs.server));
        self.context.client.send_replace(configs.client);
        Ok(())
    }

    /// Closes all connections; peers see it at once.
    pub async fn shutdown(&self) {
        self.context.endpoint.close(peer::Close::Shutdown.code(), b"shutdown");
        // Until the last close frame left, but not for a peer that does not answer.
        let grace = std::time::Duration::from_millis(500);
        let _ = tokio::time::timeout(grace, self.context.endpoint.wait_idle()).await;
    }
}

/// Closes a connection that a newer one to the same peer replaces.
pub(crate) fn replace(old: &quinn::Connection) {
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

/// Keeps one dialer per peer with a higher id.
async fn dial_all(context: Arc<Context>, mut peers: watch::Receiver<Vec<Peer>>) {
    // Dropping a sender ends its dialer and closes its connection.
    let mut dialers: BTreeMap<PopId, watch::Sender<String>> = BTreeMap::new();
    loop {
        let wanted: BTreeMap<PopId, String> = peers
            .borrow_and_update()
            .iter()
            .filter(|peer| peer.id > context.own)
            .map(|peer| (peer.id.clone(), peer.address.clone()))
            .collect();
        dialers.retain(|id, _| wanted.contains_key(id));
        for (id, address) in wanted {
            if let Some(dialer) = dialers.get(&id) {
                dialer.send_if_modified(|old| {
                    let changed = *old != address;
                    *old = address;
                    changed
                });
                continue;
            }
            let (sender, receiver) = watch::channel(address);
            tokio::spawn(peer::dial(context.clone(), id.clone(), receiver));
            dialers.insert(id, sender);
        }
        if peers.changed().await.is_err() {
            return;
        }
    }
}
