//! The life of a connection: dial or answer, prove the identity, serve until it breaks.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use pop_core::overlay::Hop;
use pop_core::pop::{CallStream, Initiator};
use proto::id::PopId;
use proto::identity::{Kind, pop_dns_name};
use proto::overlay::{Datagram, PathId};
use quinn::{Connection, Incoming, VarInt};
use rustls_pki_types::CertificateDer;
use tokio::sync::{Semaphore, watch};

use super::keeper::Input;
use super::registry::Instance;
use super::{Context, Event, stream};
use crate::backoff::Backoff;
use crate::drops::Reason;
use crate::tls::{IdentityError, identity_of};

/// First byte of both greetings: the version of what follows.
const VERSION: u8 = 2;
/// What the dialer says: version, its upstream, which of ours it dialed (several addresses may lead
/// to one socket), its process.
const HELLO_BYTES: usize = 3 + size_of::<Instance>();
/// What is answered: version, the process.
const WELCOME_BYTES: usize = 1 + size_of::<Instance>();
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

/// The other end goes on without this connection: it has a newer one of the path, or the view names
/// the path no more.
pub(super) fn is_of_one_path(code: VarInt) -> bool {
    [Close::Replaced, Close::Removed].iter().any(|close| code == close.code())
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
    #[error("speaks version {0}, we speak {VERSION}")]
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
    #[error("has upstream {0}: a POP has 16 at most")]
    Upstream(u8),
}

/// One way to a peer: our upstream, and which of its.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Upstreams {
    pub(super) ours: u8,
    pub(super) theirs: u8,
}

/// A connection that is a link.
struct Linked {
    peer: PopId,
    path: PathId,
    instance: Instance,
    connection: Connection,
}

/// Dials one address of a peer from one upstream, for as long as the view names it.
pub(super) async fn dial(
    context: Arc<Context>,
    (peer, upstreams): (PopId, Upstreams),
    mut address: watch::Receiver<String>,
) {
    let seed = u64::from_ne_bytes(context.credentials.random());
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), seed);
    loop {
        let target = address.borrow_and_update().clone();
        match connect(&context, (&peer, upstreams), &target).await {
            Ok(linked) => {
                backoff.reset();
                let (path, connection) = (linked.path, linked.connection.clone());
                tokio::select! {
                    () = serve(&context, linked) => {
                        if is_replaced(&connection) {
                            tracing::error!(%peer, "another process speaks for this POP");
                            tokio::time::sleep(REPLACED_PAUSE).await;
                        }
                    }
                    () = gone(&mut address) => {
                        connection.close(Close::Removed.code(), b"removed");
                        down(&context, (&peer, path), &connection).await;
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

async fn connect(
    context: &Context,
    (peer, upstreams): (&PopId, Upstreams),
    address: &str,
) -> Result<Linked, LinkError> {
    let address = tokio::net::lookup_host(address).await?.next().ok_or(LinkError::NoAddress)?;
    let name = pop_dns_name(peer.as_str());
    let client = context.client.borrow().clone();
    let endpoint =
        context.endpoints.get(usize::from(upstreams.ours)).ok_or(LinkError::NoAddress)?;
    let connecting = endpoint.connect_with(client, address, &name)?;
    let connection = tokio::time::timeout(HANDSHAKE, connecting).await??;
    let welcome = async {
        let shown = identify(context, &connection)?;
        if shown != *peer {
            return Err(LinkError::Stranger(format!("pop/{shown}")));
        }
        let Upstreams { ours, theirs } = upstreams;
        let path = PathId::direct(ours, theirs).ok_or(LinkError::Upstream(ours.max(theirs)))?;
        let mut hello = connection.open_uni().await?;
        hello.write_all(&[&[VERSION, ours, theirs], context.instance.as_slice()].concat()).await?;
        // It was just opened: it cannot be finished already.
        let _ = hello.finish();
        let mut welcome = [0; WELCOME_BYTES];
        connection.accept_uni().await?.read_exact(&mut welcome).await?;
        let [version, instance @ ..] = welcome;
        if version != VERSION {
            return Err(LinkError::Version(version));
        }
        let (peer, connection) = (peer.clone(), connection.clone());
        Ok(Linked { peer, path, instance, connection })
    };
    match tokio::time::timeout(HANDSHAKE, welcome).await {
        Ok(Ok(linked)) => Ok(linked),
        Ok(Err(error)) => {
            context.drops.count(Reason::LinkRefused);
            connection.close(Close::Identity.code(), b"identity");
            Err(error)
        }
        Err(elapsed) => Err(elapsed.into()),
    }
}

/// Answers every POP that dials one of our upstreams.
pub(super) async fn answer(context: Arc<Context>, upstream: u8) {
    let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let Some(endpoint) = context.endpoints.get(usize::from(upstream)).cloned() else { return };
    while let Some(incoming) = endpoint.accept().await {
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
                Ok(linked) => serve(&context, linked).await,
                Err(error) => {
                    context.drops.count(Reason::LinkRefused);
                    tracing::info!(%remote, "caller {error}");
                }
            }
        });
    }
}

async fn accept(context: &Context, incoming: Incoming) -> Result<Linked, LinkError> {
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
    welcome.write_all(&[&[VERSION], context.instance.as_slice()].concat()).await?;
    // It was just opened: it cannot be finished already.
    let _ = welcome.finish();
    let mut hello = [0; HELLO_BYTES];
    connection.accept_uni().await?.read_exact(&mut hello).await?;
    let [version, theirs, ours, instance @ ..] = hello;
    if version != VERSION {
        return Err(LinkError::Version(version));
    }
    let path = PathId::direct(theirs, ours).ok_or(LinkError::Upstream(theirs.max(ours)))?;
    Ok(Linked { peer, path, instance, connection })
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
async fn serve(context: &Arc<Context>, linked: Linked) {
    let Linked { peer, path, instance, connection } = linked;
    let remote = connection.remote_address();
    tracing::info!(%peer, path = %Hop::direct(path), address = %remote, "path up");
    // Closed before anybody hears of the new one: what is open is of the newest process.
    context.registry.up(&peer, (path, &connection), instance).iter().for_each(super::replace);
    let up = Event::Up { peer: peer.clone(), path, connection: connection.clone(), instance };
    let known = Input::Changed(peer.clone());
    if context.events.send(up).await.is_err() || context.keeper.send(known).await.is_err() {
        return;
    }
    let streams = tokio::spawn(accept_streams(context.clone(), peer.clone(), connection.clone()));
    let broken = loop {
        match connection.read_datagram().await {
            Ok(datagram) => context.sort(&peer, datagram),
            Err(error) => break error,
        }
    };
    streams.abort();
    tracing::info!(%peer, path = %Hop::direct(path), %broken, "path down");
    down(context, (&peer, path), &connection).await;
}

impl Context {
    /// Probes for us go to the keeper of the paths, all else to the media thread.
    fn sort(&self, peer: &PopId, datagram: Bytes) {
        match Datagram::decode(&datagram).map(|datagram| datagram.header) {
            Ok(header)
                if header.probe && header.relayed.is_none_or(|ends| ends.to == self.own_tag) =>
            {
                if self.keeper.try_send(Input::Probe(peer.clone(), datagram)).is_err() {
                    self.drops.count(Reason::ProbeQueueFull);
                }
            }
            // What is malformed is counted there.
            Ok(_) | Err(_) => self.media.datagram(peer, datagram),
        }
    }
}

async fn down(context: &Context, (peer, path): (&PopId, PathId), connection: &Connection) {
    context.registry.down(peer, path, connection);
    // Nobody listens any more: the process is ending.
    let _ = context.keeper.send(Input::Changed(peer.clone())).await;
    let connection = connection.stable_id();
    let event = Event::Down { peer: peer.clone(), path, connection };
    let _ = context.events.send(event).await;
}

async fn accept_streams(context: Arc<Context>, peer: PopId, connection: Connection) {
    while let Ok(pair) = connection.accept_bi().await {
        let number = context.accepted.fetch_add(1, Ordering::Relaxed);
        let stream = CallStream { peer: peer.clone(), number, initiator: Initiator::Remote };
        tokio::spawn(stream::accept(context.clone(), stream, pair));
    }
}
