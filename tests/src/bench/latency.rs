//! One-way latency of relayed media: stamps in the payload, with and without the mesh in between.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos::lab::SIP_PORT;
use tokio::net::UdpSocket;

use super::sip::Carriers;
use super::{Figure, Table, percentile};
use crate::scene::{IAD, Scene};

const CALLS: usize = 20;
/// 20 ms each.
const PACKETS: u32 = 500;
const PTIME: Duration = Duration::from_millis(20);

/// RTP over PCMU with the time of sending, ns since `origin`, at the head of the payload.
fn packet(call: usize, number: u32, origin: Instant) -> Vec<u8> {
    let mut packet = vec![0x80, 0];
    packet.extend(number.to_be_bytes().get(2..).unwrap_or_default());
    packet.extend((number.wrapping_mul(160)).to_be_bytes());
    packet.extend(u32::try_from(call).unwrap_or(0).to_be_bytes());
    packet.extend(u64::try_from(origin.elapsed().as_nanos()).unwrap_or(0).to_be_bytes());
    packet.resize(172, 0xff);
    packet
}

async fn listen(socket: UdpSocket, origin: Instant) -> Vec<f64> {
    let mut latencies = Vec::new();
    let mut buffer = [0; 2048];
    let quiet = Duration::from_secs(2);
    while let Ok(Ok((length, _))) = tokio::time::timeout(quiet, socket.recv_from(&mut buffer)).await
    {
        let now = origin.elapsed();
        let stamp = buffer.get(12..20).filter(|_| length == 172);
        if let Some(stamp) = stamp.and_then(|bytes| bytes.try_into().ok()) {
            let sent = Duration::from_nanos(u64::from_be_bytes(stamp));
            latencies.push(now.saturating_sub(sent).as_secs_f64() * 1e3);
        }
    }
    latencies
}

/// Sends on every pair at once, the calls spread over the 20 ms; sorted latencies in ms.
async fn measure(pairs: Vec<(UdpSocket, UdpSocket, SocketAddr)>) -> Result<Vec<f64>> {
    let origin = Instant::now();
    let mut listeners = Vec::new();
    let mut speakers = Vec::new();
    for (call, (from, to, target)) in pairs.into_iter().enumerate() {
        listeners.push(tokio::spawn(listen(to, origin)));
        speakers.push(tokio::spawn(async move {
            tokio::time::sleep(PTIME * u32::try_from(call).unwrap_or(0) / CALLS as u32).await;
            let mut tick = tokio::time::interval(PTIME);
            for number in 0..PACKETS {
                tick.tick().await;
                from.send_to(&packet(call, number, origin), target).await?;
            }
            anyhow::Ok(())
        }));
    }
    for speaker in speakers {
        speaker.await??;
    }
    let mut all = Vec::new();
    for listener in listeners {
        all.extend(listener.await?);
    }
    all.sort_by(f64::total_cmp);
    ensure!(all.len() > CALLS * PACKETS as usize * 9 / 10, "only {} packets arrived", all.len());
    Ok(all)
}

async fn sockets(from: IpAddr, to: IpAddr) -> Result<(UdpSocket, UdpSocket)> {
    Ok((UdpSocket::bind((from, 0)).await?, UdpSocket::bind((to, 0)).await?))
}

pub(super) async fn two_pops(table: &mut Table) -> Result<()> {
    let scene = Scene::start().await?;
    let (here, there) = (scene.carrier("fra1")?, scene.carrier("iad1")?);
    let mut direct = Vec::new();
    for _ in 0..CALLS {
        let (from, to) = sockets(here, there).await?;
        let target = to.local_addr()?;
        direct.push((from, to, target));
    }
    let direct = measure(direct).await?;
    let mesh = through(&scene, 6070).await?;
    for (share, label, target) in [(0.5, "p50", 3.0), (0.99, "p99", 10.0)] {
        let (direct, mesh) = (percentile(&direct, share), percentile(&mesh, share));
        table.add(Figure {
            name: format!("one-way latency added, two POPs, 20 calls, {label} (peer: no relay)"),
            peer: Some(direct),
            ours: mesh - direct,
            target: target.into(),
            unit: "ms",
        });
    }
    Ok(())
}

/// From the carrier of fra1 to that of iad1, on 20 calls that speak for 10 s; ms, sorted.
/// `port` is the caller's: calls of the same one have the same names.
pub(super) async fn through(scene: &Scene, port: u16) -> Result<Vec<f64>> {
    let (here, there) = (scene.carrier("fra1")?, scene.carrier("iad1")?);
    let carriers =
        Carriers::new((here, port).into(), (there, SIP_PORT).into(), scene.sip("fra1")?).await?;
    let (mut calls, mut pairs) = (Vec::new(), Vec::new());
    for number in 0..CALLS {
        let (from, to) = sockets(here, there).await?;
        let call = carriers.call(number, IAD, from.local_addr()?, to.local_addr()?).await?;
        pairs.push((from, to, call.media));
        calls.push(call);
    }
    let mesh = measure(pairs).await?;
    for call in &calls {
        carriers.hang_up(call).await?;
    }
    Ok(mesh)
}
