//! Accepts connections: TCP, then mutual TLS 1.3, then the caller's name.
//!
//! Handshakes are bounded in time and number and never hold up the next one. The caller is read
//! from its certificate once per connection; who may do what is `api`'s matter.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use proto::identity::Identity;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tonic::transport::server::Connected;

use crate::telemetry::{self, ConnectionRefused};
use crate::tls;

/// Open connections at most: each POP, peer and operator has one or two.
const CONNECTIONS_MAX: usize = 2_048;
/// Handshakes at once: those who never end one must not take the places of those who did.
const HANDSHAKES_MAX: usize = 512;
/// Handshakes at once of one address.
const HANDSHAKES_PER_IP: usize = 32;
/// A handshake takes two round trips; longer than this is no client of ours.
const HANDSHAKE: Duration = Duration::from_secs(5);

/// Who is at the other end, or why nobody of this mesh is.
pub type Caller = Result<Arc<Identity>, Arc<str>>;

/// A connection of a caller.
pub struct Connection {
    stream: TlsStream<TcpStream>,
    caller: Caller,
    _open: Open,
}

struct Open(#[expect(dead_code, reason = "held until the connection closes")] OwnedSemaphorePermit);

impl Drop for Open {
    fn drop(&mut self) {
        telemetry::connections(-1.0);
    }
}

/// Who is let in.
#[derive(Debug, Clone)]
pub enum Guests {
    /// Those with a certificate; who is of this mesh has a name afterwards.
    Mesh(Arc<str>),
    /// Everybody: TLS asks for no certificate.
    Strangers,
}

/// The TLS settings of the moment; open connections keep those they began with.
pub type Tls = watch::Receiver<Arc<ServerConfig>>;

/// Accepts until the receiver is gone.
pub async fn run(
    listener: TcpListener,
    tls: Tls,
    guests: Guests,
    connections: mpsc::Sender<io::Result<Connection>>,
) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let handshakes = Handshakes::default();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = connections.closed() => return,
        };
        let Ok((stream, address)) = accepted else {
            // Out of file descriptors, most likely: wait for some to close.
            tokio::time::sleep(Duration::from_millis(50)).await;
            continue;
        };
        let Some(begun) = handshakes.begin(address.ip().to_canonical()) else {
            telemetry::connection_refused(ConnectionRefused::Limit);
            continue;
        };
        let tls = TlsAcceptor::from(tls.borrow().clone());
        let (guests, connections, slots) = (guests.clone(), connections.clone(), slots.clone());
        tokio::spawn(async move {
            let connection = handshake(stream, &tls, &guests, slots).await;
            drop(begun);
            if let Some(connection) = connection {
                // Only fails when the server is gone.
                let _ = connections.send(Ok(connection)).await;
            }
        });
    }
}

/// Handshakes under way, by address.
#[derive(Default, Clone)]
struct Handshakes(Arc<Mutex<BTreeMap<IpAddr, usize>>>);

/// One of them, until dropped.
struct Begun(Handshakes, IpAddr);

impl Handshakes {
    fn begin(&self, address: IpAddr) -> Option<Begun> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let own = all.get(&address).copied().unwrap_or_default();
        if own >= HANDSHAKES_PER_IP || all.values().sum::<usize>() >= HANDSHAKES_MAX {
            return None;
        }
        all.insert(address, own + 1);
        Some(Begun(self.clone(), address))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        let mut all = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        match all.get_mut(&self.1) {
            Some(own) if *own > 1 => *own -= 1,
            _ => {
                all.remove(&self.1);
            }
        }
    }
}

async fn handshake(
    stream: TcpStream,
    tls: &TlsAcceptor,
    guests: &Guests,
    slots: Arc<Semaphore>,
) -> Option<Connection> {
    let address = stream.peer_addr().ok();
    let _ = stream.set_nodelay(true); // Only latency is lost.
    let stream = match tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            tracing::debug!(?address, %error, "TLS handshake failed");
            telemetry::connection_refused(ConnectionRefused::Tls);
            return None;
        }
        Err(_) => {
            telemetry::connection_refused(ConnectionRefused::HandshakeTimeout);
            return None;
        }
    };
    let Ok(slot) = slots.try_acquire_owned() else {
        telemetry::connection_refused(ConnectionRefused::Limit);
        return None;
    };
    telemetry::connections(1.0);
    let caller = match guests {
        Guests::Strangers => Err("was not asked for here".into()),
        Guests::Mesh(mesh) => {
            let caller = caller_of(&stream, mesh);
            if let Err(why) = &caller {
                tracing::warn!(?address, "a caller was refused: its certificate {why}");
            }
            caller
        }
    };
    Some(Connection { stream, caller, _open: Open(slot) })
}

fn caller_of(stream: &TlsStream<TcpStream>, mesh: &str) -> Caller {
    let (_, session) = stream.get_ref();
    let leaf = session.peer_certificates().and_then(|chain| chain.first());
    let identity = leaf.map_or(Err(tls::NoIdentity::Unreadable), tls::identity_of);
    let identity = identity.map_err(|error| Arc::<str>::from(error.to_string()))?;
    if identity.mesh != mesh {
        let why = format!("belongs to mesh \"{}\", this is \"{mesh}\"", identity.mesh);
        return Err(why.into());
    }
    Ok(Arc::new(identity))
}

impl Connected for Connection {
    type ConnectInfo = Caller;

    fn connect_info(&self) -> Caller {
        self.caller.clone()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_handshakes() {
        let handshakes = Handshakes::default();
        let ip = |n: u8| IpAddr::from([127, 0, 0, n]);
        let mut begun: Vec<Begun> = std::iter::from_fn(|| handshakes.begin(ip(1))).collect();
        assert_eq!(begun.len(), HANDSHAKES_PER_IP);
        (2..=255).for_each(|n| begun.extend(std::iter::from_fn(|| handshakes.begin(ip(n)))));
        assert_eq!(begun.len(), HANDSHAKES_MAX);
        begun.clear();
        assert!(handshakes.0.lock().unwrap().is_empty());
    }
}
