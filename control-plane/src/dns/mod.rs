//! DNS that steers new calls: authoritative answers for the mesh's SIP domain, from the state this
//! node has applied. A follower answers as a leader does, and so does a node without a quorum.
//!
//! NAPTR and SRV name the POPs that live, those of the client's region first. UDP and TCP, no
//! recursion, no transfers. One task for each socket answers one query after the other; nothing
//! is kept of them. Deliberately absent: what a packet means (`answer`), what the zone holds
//! (`zone`).

pub mod answer;
pub mod regions;
#[cfg(test)]
mod tests;
pub mod zone;

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{Semaphore, watch};

use crate::driver::Driver;
use crate::telemetry;
use answer::Way;
use zone::{Settings, Zone};

/// What is configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsConfig {
    /// Where queries come in, over UDP and TCP.
    pub listen: Vec<SocketAddr>,
    /// The zone.
    pub settings: Settings,
}

/// A query is a few hundred bytes; of a larger one the rest is cut off, and it is malformed.
const QUERY_MAX: usize = 4_096;
/// Connections at once.
const CONNECTIONS_MAX: usize = 128;
/// Queries of one connection.
const QUERIES_PER_CONNECTION: usize = 128;
/// A connection that is silent is closed.
const IDLE: Duration = Duration::from_secs(5);
/// After an error of a socket.
const ERROR: Duration = Duration::from_millis(1);
/// Between looks at a state that changes all the time.
const PAUSE: Duration = Duration::from_millis(50);

/// Sockets that are bound: UDP and TCP of each address.
#[derive(Debug)]
pub struct Bound(pub Vec<(std::net::UdpSocket, std::net::TcpListener)>);

type Current = watch::Receiver<Arc<Zone>>;

/// Serves the zone until the process ends.
pub fn start(config: &DnsConfig, bound: Bound, driver: &Driver) -> std::io::Result<()> {
    let (zones, zone) = watch::channel(Arc::new(Zone::new(config.settings.clone(), 0, &[])));
    tokio::spawn(follow(driver.clone(), zones));
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    for (udp, tcp) in bound.0 {
        tokio::spawn(datagrams(UdpSocket::from_std(udp)?, zone.clone()));
        tokio::spawn(connections(TcpListener::from_std(tcp)?, zone.clone(), slots.clone()));
    }
    Ok(())
}

/// Makes the zone anew when POPs change.
async fn follow(driver: Driver, zones: watch::Sender<Arc<Zone>>) {
    let mut progress = driver.progress();
    let mut known = None;
    loop {
        let look = |replica: &control_core::replica::Replica| {
            let state = replica.state();
            (state.revision().0, state.pops().collect::<Vec<_>>())
        };
        let Ok((revision, pops)) = driver.query(look).await else { return };
        if known.as_ref() != Some(&pops) {
            let settings = zones.borrow().settings().clone();
            let zone = Zone::new(settings, revision, &pops);
            telemetry::dns_targets(zone.targets());
            zones.send_replace(Arc::new(zone));
            known = Some(pops);
        }
        tokio::time::sleep(PAUSE).await;
        if progress.changed().await.is_err() {
            return;
        }
    }
}

fn answered(zone: &Current, query: &[u8], source: IpAddr, way: Way) -> Option<Vec<u8>> {
    let zone = zone.borrow().clone();
    let (outcome, reply) = answer::answer(&zone, query, source, way);
    telemetry::dns_query(outcome);
    reply
}

async fn datagrams(socket: UdpSocket, zone: Current) {
    let mut buffer = vec![0; QUERY_MAX];
    loop {
        let Ok((length, source)) = socket.recv_from(&mut buffer).await else {
            // An ICMP error of an answer before: there is nobody to tell.
            tokio::time::sleep(ERROR).await;
            continue;
        };
        let query = buffer.get(..length).unwrap_or_default();
        if let Some(reply) = answered(&zone, query, source.ip(), Way::Udp) {
            // A full buffer: the client asks again.
            let _ = socket.try_send_to(&reply, source);
        }
    }
}

async fn connections(listener: TcpListener, zone: Current, slots: Arc<Semaphore>) {
    loop {
        let Ok((stream, source)) = listener.accept().await else {
            // Out of file descriptors, most likely: wait for some to close.
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        let Ok(slot) = slots.clone().try_acquire_owned() else { continue };
        let zone = zone.clone();
        tokio::spawn(async move {
            // However it ends, it has ended.
            let _ = connection(stream, source.ip(), &zone).await;
            drop(slot);
        });
    }
}

/// Queries with their lengths before them (RFC 1035 §4.2.2).
async fn connection(mut stream: TcpStream, source: IpAddr, zone: &Current) -> std::io::Result<()> {
    let mut buffer = vec![0; QUERY_MAX];
    for _ in 0..QUERIES_PER_CONNECTION {
        let read = async {
            let length = usize::from(stream.read_u16().await?);
            let query = buffer.get_mut(..length).ok_or(std::io::ErrorKind::InvalidData)?;
            stream.read_exact(query).await?;
            Ok::<_, std::io::Error>(length)
        };
        let length = tokio::time::timeout(IDLE, read).await??;
        let query = buffer.get(..length).unwrap_or_default();
        let Some(reply) = answered(zone, query, source, Way::Tcp) else { return Ok(()) };
        let length = u16::try_from(reply.len()).unwrap_or(u16::MAX).to_be_bytes();
        let framed = [length.as_slice(), &reply].concat();
        tokio::time::timeout(IDLE, stream.write_all(&framed)).await??;
    }
    Ok(())
}
