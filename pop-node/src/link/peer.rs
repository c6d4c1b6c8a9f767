//! The life of a connection: dial or answer, prove the identity, serve until it breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pop_core::pop::{CallStream, Initiator};
use proto::id::PopId;
use proto::identity::{Kind, pop_dns_name};
use quinn::{Connection, Incoming, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};

use super::{Context, Event, stream};
use crate::backoff::Backoff;
use crate::drops::Reason;
use crate::tls::{IdentityError, identity_of};

/// The welcome: the version of what follows.
const WELCOME: [u8; 1] = [1];
/// Handshakes at once; more are refused before they cost anything.
const HANDSHAKES_MAX: usize = 64;
/// From this many on, a peer must first prove its address (RFC 9000 §8.1).
const HANDSHAKES_UNPROVEN_MAX: usize = 16;
/// A handshake, or the welcome after it, takes no longer.
const HANDSHAKE: Duration = Duration::from_secs(4);

/// The peer prefers another process with our name: time to hear from the control plane which of us
/// is the older one, and has to go.
const REPLACED_PAUSE: Duration = Duration::from_secs(4);

/// Application error codes of a close.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    Shutdown = 0,
    Identity = 1,
    Direction = 2,
    Removed = 3,
    Replaced = 4,
    Fenced = 5,
}

impl Close {
    pub(super) const fn code(self) -> VarInt {
        VarInt::from_u32(self as u32)
    }
}

/// Why a connection is no link.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("cannot be dialed: {0}")]
    Dial(#[from] quinn::ConnectError),
    #[error("broke: {0}")]
    Connection(#[from] quinn::ConnectionError),
    #[error("gave no welcome: {0}")]
    Welcome(#[from] quinn::ReadExactError),
    #[error("took no welcome: {0}")]
    Write(#[from] quinn::WriteError),
    #[error("speaks version {0}, we speak 1")]
    Version(u8),
    #[error("address does not resolve: {0}")]
    Address(#[from] std::io::Error),
    #[error("has no address")]
    NoAddress,
    #[error("did not answer within 4 s")]
    Timeout(#[from] tokio::time::error::Elapsed),
    #[error("shows a certificate that {0}")]
    Identity(#[from] IdentityError),
    #[error("is {0}, not a POP of this mesh that may be here")]
    Stranger(String),
    #[error("dialed us, but the lower id dials")]
    Direction,
}

/// Dials one peer for as long as the view names it.
pub(super) async fn dial(context: Arc<Context>, peer: PopId, mut address: watch::Receiver<String>) {
    let seed = u64::from_ne_bytes(context.credentials.random());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), seed);
    loop {
        let target = address.borrow_and_update().clone();
        match connect(&context, &peer, &target).await {
            Ok(connection) => {
                backoff.reset();
                tokio::select! {
                    () = serve(&context, &peer, connection.clone()) => {
                        if is_replaced(&connection) {
                            tracing::error!(%peer, "another process speaks for this POP");
                            tokio::time::sleep(REPLACED_PAUSE).await;
                        }
                    }
                    () = gone(&mut address) => {
                        connection.close(Close::Removed.code(), b"removed");
                        down(&context, &peer, &connection).await;
                        return;
                    }
                }
            }
            Err(LinkError::Dial(quinn::ConnectError::EndpointStopping)) => return,
            Err(error) => tracing::info!(%peer, address = target, "peer {error}"),
        }
        // A new address is tried at once.
        tokio::select! {
            () = tokio::time::sleep(backoff.delay()) => {}
            changed = address.changed() => {
                if changed.is_err() {
                    return;
                }
                backoff.reset();
            }
        }
    }
}

/// The peer has a newer connection of this POP: not ours, for we have one at a time.
fn is_replaced(connection: &Connection) -> bool {
    use quinn::ConnectionError::ApplicationClosed;
    matches!(
        connection.close_reason(),
        Some(ApplicationClosed(close)) if close.error_code == Close::Replaced.code()
    )
}

/// Returns when the view no longer names the peer.
async fn gone(address: &mut watch::Receiver<String>) {
    // A changed address matters only for the next dial: calls stay on this connection.
    while address.changed().await.is_ok() {}
}

async fn connect(context: &Context, peer: &PopId, address: &str) -> Result<Connection, LinkError> {
    let address = tokio::net::lookup_host(address).await?.next().ok_or(LinkError::NoAddress)?;
    let name = pop_dns_name(peer.as_str());
    let client = context.client.borrow().clone();
    let connecting = context.endpoint.connect_with(client, address, &name)?;
    let connection = tokio::time::timeout(HANDSHAKE, connecting).await??;
    let welcome = async {
        let shown = identify(context, &connection)?;
        if shown != *peer {
            return Err(LinkError::Stranger(format!("pop/{shown}")));
        }
        let mut welcome = [0; WELCOME.len()];
        connection.accept_uni().await?.read_exact(&mut welcome).await?;
        if welcome == WELCOME { Ok(()) } else { Err(LinkError::Version(welcome[0])) }
    };
    match tokio::time::timeout(HANDSHAKE, welcome).await {
        Ok(Ok(())) => Ok(connection),
        Ok(Err(error)) => {
            context.drops.count(Reason::LinkRefused);
            connection.close(Close::Identity.code(), b"identity");
            Err(error)
        }
        Err(elapsed) => Err(elapsed.into()),
    }
}

/// Answers every POP that dials.
pub(super) async fn answer(context: Arc<Context>) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    while let Some(incoming) = context.endpoint.accept().await {
        let Ok(permit) = handshakes.clone().try_acquire_owned() else {
            context.drops.count(Reason::LinkRefused);
            incoming.refuse();
            continue;
        };
        let busy = HANDSHAKES_MAX - handshakes.available_permits() > HANDSHAKES_UNPROVEN_MAX;
        if busy && !incoming.remote_address_validated() {
            // Fails only if it was validated.
            let _ = incoming.retry();
            continue;
        }
        let context = context.clone();
        tokio::spawn(async move {
            let remote = incoming.remote_address();
            let accepted = tokio::time::timeout(HANDSHAKE, accept(&context, incoming)).await;
            drop(permit);
            match accepted.map_err(LinkError::from).flatten() {
                Ok((peer, connection)) => serve(&context, &peer, connection).await,
                Err(error) => {
                    context.drops.count(Reason::LinkRefused);
                    tracing::info!(%remote, "caller {error}");
                }
            }
        });
    }
}

async fn accept(context: &Context, incoming: Incoming) -> Result<(PopId, Connection), LinkError> {
    let connection = incoming.await?;
    let peer = match identify(context, &connection) {
        Ok(peer) => peer,
        Err(error) => {
            connection.close(Close::Identity.code(), b"identity");
            return Err(error);
        }
    };
    if peer >= context.own {
        connection.close(Close::Direction.code(), b"the lower id dials");
        return Err(LinkError::Direction);
    }
    let mut welcome = connection.open_uni().await?;
    welcome.write_all(&WELCOME).await?;
    // It was just opened: it cannot be finished already.
    let _ = welcome.finish();
    Ok((peer, connection))
}

/// The POP of our mesh that the certificate names. TLS has verified the chain.
fn identify(context: &Context, connection: &Connection) -> Result<PopId, LinkError> {
    let shown = connection.peer_identity().ok_or(IdentityError::Missing)?;
    let chain =
        shown.downcast::<Vec<CertificateDer<'static>>>().map_err(|_| IdentityError::Certificate)?;
    let identity = identity_of(chain.first().ok_or(IdentityError::Missing)?)?;
    if identity.mesh != context.credentials.identity().mesh || identity.kind != Kind::Pop {
        return Err(LinkError::Stranger(identity.to_uri()));
    }
    PopId::new(&identity.name).map_err(|_| LinkError::Stranger(identity.to_uri()))
}

/// Up, then datagrams and call streams until the connection breaks, then down.
async fn serve(context: &Arc<Context>, peer: &PopId, connection: Connection) {
    tracing::info!(%peer, address = %connection.remote_address(), "link up");
    let up = Event::Up { peer: peer.clone(), connection: connection.clone() };
    if context.events.send(up).await.is_err() {
        return;
    }
    let streams = tokio::spawn(accept_streams(context.clone(), peer.clone(), connection.clone()));
    let broken = loop {
        match connection.read_datagram().await {
            Ok(datagram) => context.media.datagram(peer, datagram),
            Err(error) => break error,
        }
    };
    streams.abort();
    tracing::info!(%peer, %broken, "link down");
    down(context, peer, &connection).await;
}

async fn down(context: &Context, peer: &PopId, connection: &Connection) {
    let event = Event::Down { peer: peer.clone(), connection: connection.stable_id() };
    // Nobody listens any more: the process is ending.
    let _ = context.events.send(event).await;
}

async fn accept_streams(context: Arc<Context>, peer: PopId, connection: Connection) {
    while let Ok(pair) = connection.accept_bi().await {
        let number = context.accepted.fetch_add(1, Ordering::Relaxed);
        let stream = CallStream { peer: peer.clone(), number, initiator: Initiator::Remote };
        stream::accept(stream, pair, context.events.clone(), context.drops.clone());
    }
}
