//! A full BGP table, told by a router as fast as the POP reads: what it costs, and whether media notices.
#![allow(clippy::print_stderr, reason = "progress of a command")]

use std::io::Write;
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos::lab::{BMP_PORT, Node, Routers};
use tokio::task::spawn_blocking;

use super::{Figure, Table, Target, latency, percentile};
use crate::peers::eventually;
use crate::scene::Scene;

/// As many as the internet has, one in each message, which is the worst case.
const ROUTES: u32 = 1_000_000;
/// Messages written at once, and in a second beside calls.
const BATCH: u32 = 500;
const RATE: u32 = 200_000;
const PATIENCE: Duration = Duration::from_secs(120);
/// The router's neighbor, and the ASes of the router and of the neighbor.
const NEIGHBOR: [u8; 4] = [198, 51, 100, 1];
const OWN: u16 = 65_001;
const NEIGHBOR_AS: u16 = 65_002;

/// A router's connection. Written to by a thread of its own: it must not keep those who measure waiting.
struct Feed {
    socket: TcpStream,
    sent: u64,
}

fn be16(value: usize) -> [u8; 2] {
    u16::try_from(value).unwrap_or(u16::MAX).to_be_bytes()
}

/// RFC 7854 §4.1.
fn bmp(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(6 + body.len()).unwrap_or(u32::MAX);
    [&[3][..], &length.to_be_bytes(), &[kind], body].concat()
}

/// RFC 4271 §4.1.
fn bgp(kind: u8, body: &[u8]) -> Vec<u8> {
    [&[0xff; 16][..], &be16(19 + body.len()), &[kind], body].concat()
}

/// RFC 7854 §4.2: Adj-RIB-In before policy, AS numbers of 4 bytes.
fn peer() -> Vec<u8> {
    let asn = u32::from(NEIGHBOR_AS).to_be_bytes();
    [&[0; 2 + 8 + 12][..], &NEIGHBOR, &asn, &NEIGHBOR, &[0; 8]].concat()
}

/// RFC 4271 §4.2, with AS numbers of 4 bytes (RFC 6793).
fn open(asn: u16) -> Vec<u8> {
    let capability = [&[2, 6, 65, 4, 0, 0][..], &asn.to_be_bytes()].concat();
    let head = [&[4][..], &asn.to_be_bytes(), &[0, 180], &NEIGHBOR, &be16(capability.len())[1..]];
    bgp(1, &[head.concat(), capability].concat())
}

fn peer_up() -> Vec<u8> {
    let addresses = [0; 16 + 2 + 2];
    bmp(3, &[peer(), addresses.to_vec(), open(OWN), open(NEIGHBOR_AS)].concat())
}

/// A route to a /24 by five ASes, with communities: its AS before the last is at [`MARK`] from the end,
/// the prefix at the end.
fn route(prefix: [u8; 3]) -> Vec<u8> {
    let as_path = [u32::from(NEIGHBOR_AS), 3_356, 1_299, 0, 64_999].map(u32::to_be_bytes).concat();
    let attributes = [
        &[0x40, 1, 1, 0][..],
        &[0x40, 3, 4],
        &NEIGHBOR,
        &[0xc0, 8, 12],
        &[0x0d, 0x1c, 0, 3, 0x0d, 0x1c, 0, 22, 0x05, 0x13, 0x75, 0x30],
        &[0x40, 2, 22, 2, 5],
        &as_path,
    ]
    .concat();
    let body = [&[0, 0][..], &be16(attributes.len()), &attributes, &[24], &prefix].concat();
    bmp(0, &[peer(), bgp(2, &body)].concat())
}
/// Length and prefix, the last AS, and the one before.
const MARK: usize = 4 + 4 + 4;

impl Feed {
    fn connect(station: SocketAddr) -> Result<Self> {
        let socket = TcpStream::connect(station).context("no BMP station")?;
        socket.set_write_timeout(Some(PATIENCE))?;
        let mut feed = Self { socket, sent: 0 };
        let name = [&[0, 2][..], &be16(5), b"edge1"].concat();
        let hello = [bmp(4, &name), peer_up()].concat();
        feed.socket.write_all(&hello)?;
        feed.sent += 2;
        Ok(feed)
    }

    /// A route to each of so many prefixes, by an AS that differs between `generation`s; `before` each
    /// batch is asked whether to go on.
    fn table(&mut self, generation: u16, mut before: impl FnMut() -> bool) -> Result<()> {
        let one = route([0; 3]);
        let mut batch = one.repeat(BATCH as usize);
        for first in (0..ROUTES).step_by(BATCH as usize) {
            if !before() {
                break;
            }
            for (n, message) in (first..).zip(batch.chunks_exact_mut(one.len())) {
                // From 1.0.0.0/24 on.
                let [_, prefix @ ..] = (n + (1 << 16)).to_be_bytes();
                let end = message.len();
                message.get_mut(end - 3..).context("a prefix")?.copy_from_slice(&prefix);
                let asn = message.get_mut(end - MARK..end - MARK + 4).context("an AS")?;
                asn.copy_from_slice(&(u32::from(generation) << 16 | n & 0xffff).to_be_bytes());
            }
            self.socket.write_all(&batch)?;
            self.sent += u64::from(BATCH);
        }
        Ok(())
    }
}

async fn scene() -> Result<Scene> {
    let router = |topology: &mut chaos::lab::Topology| {
        topology.bgp = Some(Routers {
            pop: "fra1".into(),
            routers: vec![[127, 0, 0, 1].into()],
            upstreams: vec![vec![NEIGHBOR.into()]],
            rpki_caches: Vec::new(),
        });
    };
    Scene::with(router, |_| {}).await
}

fn pop() -> Node {
    Node::pop("fra1")
}

/// Waits until the POP has read all that was sent.
async fn read(scene: &Scene, feed: &Feed) -> Result<()> {
    #[allow(clippy::cast_precision_loss, reason = "messages")]
    let sent = feed.sent as f64;
    eventually("the POP has read all routes", PATIENCE, async || {
        Ok((scene.metric(&pop(), "pop_bmp_messages_total").await? >= sent).then_some(()))
    })
    .await
}

fn tell(table: &mut Table, name: &str, ours: f64, target: Target, unit: &'static str) {
    table.add(Figure { name: name.into(), peer: None, ours, target, unit });
}

pub(super) async fn full_table(table: &mut Table) -> Result<()> {
    let scene = scene().await?;
    let station = (scene.sip("fra1")?.ip(), BMP_PORT).into();
    let process = scene.mesh.process(&pop()).context("no POP")?;
    eprintln!("paths: a full table of {ROUTES} routes");
    let mut feed = Feed::connect(station)?;
    read(&scene, &feed).await?;
    let (idle, before, began) = (process.rss_bytes()?, process.cpu_time()?, Instant::now());
    feed = spawn_blocking(move || feed.table(1, || true).map(|()| feed)).await??;
    read(&scene, &feed).await?;
    let (cpu, wall) = (process.cpu_time()? - before, began.elapsed());
    let rate = f64::from(ROUTES) / cpu.as_secs_f64() / 1e3;
    let at_least = Target::AtLeast(200.0);
    tell(table, "full table by BMP, messages per CPU second", rate, at_least, "k/s");
    tell(table, "… as long as it took", wall.as_secs_f64(), Target::Told, "s");
    beside_media(&scene, feed, idle, table).await
}

/// Tables at [`RATE`] while calls speak; `idle`: the POP's memory before the first one, bytes.
async fn beside_media(scene: &Scene, mut feed: Feed, idle: u64, table: &mut Table) -> Result<()> {
    let process = scene.mesh.process(&pop()).context("no POP")?;
    let quiet = latency::through(scene, 6070).await?;
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let again = spawn_blocking(move || {
        let (mut generation, mut due) = (1, Instant::now());
        let mut in_time = || {
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            due += Duration::from_secs(1) * BATCH / RATE;
            !stopped.load(Ordering::Relaxed)
        };
        while in_time() {
            generation += 1;
            feed.table(generation, &mut in_time)?;
        }
        anyhow::Ok(feed.sent)
    });
    let (mut peak, measuring) = (0, latency::through(scene, 6071));
    tokio::pin!(measuring);
    let busy = loop {
        tokio::select! {
            latencies = &mut measuring => break latencies,
            () = tokio::time::sleep(Duration::from_millis(100)) => {
                peak = peak.max(process.rss_bytes().unwrap_or(0));
            }
        }
    };
    // Before an error is passed on, or the feed would never end.
    stop.store(true, Ordering::Relaxed);
    let (messages, busy) = (again.await??, busy?);
    ensure!(messages > 2 * u64::from(ROUTES), "only {messages} messages beside the calls");
    #[allow(clippy::cast_precision_loss, reason = "megabytes")]
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    tell(table, "resident memory of the POP meanwhile", megabytes(peak), 120.0.into(), "MB");
    tell(table, "… before", megabytes(idle), Target::Told, "MB");
    for (share, label) in [(0.5, "p50"), (0.99, "p99")] {
        let (quiet, busy) = (percentile(&quiet, share), percentile(&busy, share));
        table.add(Figure {
            name: format!("one-way latency, 20 calls, 200,000 messages/s, {label} (peer: none)"),
            peer: Some(quiet),
            ours: busy,
            target: if share > 0.9 { (quiet * 1.1).into() } else { Target::Told },
            unit: "ms",
        });
    }
    Ok(())
}
