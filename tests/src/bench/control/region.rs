//! A region goes dark: the leader and a POP at once. When do the others know that the POP is gone?
//!
//! etcd: the POP holds a lease of five seconds, and a watcher of a node that lives sees its key
//! deleted. Ours: the POP beats to every node, and a watcher of a node that lives sees it expire.
//! Then the leader alone dies, again and again, under load: a POP that beats must never expire.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use chaos::lab::process::Signal;
use chaos::wan::{Net, Profile};
use tokio::task::JoinSet;

use super::super::{Figure, Table, Target};
use super::Options;
use super::bed::{NODES, POP, until};
use super::etcd::Etcd;
use super::failover::spots;
use super::ours::Ours;
use super::system::{Session, System};

const TTL_SECONDS: i64 = 5;
/// etcd's own client renews a lease three times in its life.
const RENEW: Duration = Duration::from_millis(1_666);
/// Long enough for leases, elections and what comes after.
const PATIENCE: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
const KILLS: usize = 100;

async fn etcd(rtt: Duration) -> Result<f64> {
    let net = Net::start(NODES, Profile::delayed(rtt / 2), 1)?;
    let mut etcd = Etcd::start(spots(&net)).await?;
    let leader = etcd.leader().await?;
    let survivor = (leader + 1) % NODES;
    let session = etcd.session(survivor)?;
    let pop = tokio::spawn(async move { session.live(POP, TTL_SECONDS, RENEW).await });
    let watcher = etcd.session((leader + 2) % NODES)?;
    let gone = tokio::spawn(async move { watcher.gone(POP).await });
    // A whole round of renewals.
    tokio::time::sleep(RENEW * 2).await;
    pop.abort();
    let at = Instant::now();
    etcd.bed_mut().process(leader)?.signal(Signal::KILL)?;
    tokio::time::timeout(PATIENCE, gone).await.context("etcd: the lease never expired")???;
    Ok(at.elapsed().as_secs_f64())
}

/// The POP: a stream of heartbeats to each node.
async fn pop(ours: &Ours, leader: usize) -> Result<JoinSet<()>> {
    let epoch = ours.register(leader).await?;
    let mut beats = JoinSet::new();
    for node in 0..NODES {
        beats.spawn(ours.beat(node, epoch)?);
    }
    let session = ours.session(leader)?;
    until("the POP's first heartbeat", PATIENCE, async || match session.pop_heard().await? {
        true => Ok(()),
        false => anyhow::bail!("the POP is not heard"),
    })
    .await?;
    Ok(beats)
}

async fn ours(rtt: Duration) -> Result<f64> {
    let net = Net::start(NODES, Profile::delayed(rtt / 2), 2)?;
    let mut ours = Ours::start(spots(&net)).await?;
    let leader = ours.leader().await?;
    let beats = pop(&ours, leader).await?;
    tokio::time::sleep(RENEW).await;
    let watcher = ours.session((leader + 1) % NODES)?;
    let gone = tokio::spawn(async move { watcher.pop_expires().await });
    tokio::time::sleep(RENEW).await;
    drop(beats);
    let at = Instant::now();
    ours.bed_mut().process(leader)?.signal(Signal::KILL)?;
    tokio::time::timeout(PATIENCE, gone).await.context("ours: the POP never expired")???;
    Ok(at.elapsed().as_secs_f64())
}

/// Times a POP that beats was said to be dead, over so many deaths of leaders under load.
#[allow(clippy::cast_precision_loss, reason = "a count")]
async fn false_expiries(kills: usize) -> Result<f64> {
    let net = Net::start(NODES, Profile::default(), 3)?;
    let mut ours = Ours::start(spots(&net)).await?;
    let leader = ours.leader().await?;
    let _beats = pop(&ours, leader).await?;
    let mut wrong = 0_usize;
    for kill in 0..kills {
        let leader = until("a leader", PATIENCE, async || ours.leader().await).await?;
        let mut load = JoinSet::new();
        for client in 0..16_u64 {
            let session = ours.session((leader + 1) % NODES)?;
            let first = (u64::try_from(kill)? * 16 + client) * 100_000;
            load.spawn(async move {
                for n in first.. {
                    // Writes fail while there is no leader.
                    let _ = session.write(n % 1_000, n).await;
                }
            });
        }
        let sessions = [ours.session((leader + 1) % NODES)?, ours.session((leader + 2) % NODES)?];
        ours.bed_mut().process(leader)?.signal(Signal::KILL)?;
        let end = Instant::now() + Duration::from_secs(2);
        while Instant::now() < end {
            for session in &sessions {
                wrong += usize::from(matches!(session.pop_alive().await, Ok(false)));
            }
            tokio::time::sleep(POLL).await;
        }
        drop(load);
        let process = ours.bed_mut().process(leader)?;
        process.wait(Duration::from_secs(1));
        process.restart()?;
        // The restarted node hears the POP again before it can be asked to judge.
        let back = ours.session(leader)?;
        until("the POP's heartbeat at the node that came back", PATIENCE, async || {
            match back.pop_heard().await? {
                true => Ok(()),
                false => anyhow::bail!("not heard"),
            }
        })
        .await?;
    }
    Ok(wrong as f64)
}

pub(super) async fn region(table: &mut Table, options: &Options) -> Result<()> {
    for (rtt, most) in [(0, 2.5), (100, 3.5)] {
        let delay = Duration::from_millis(rtt);
        table.add(Figure {
            name: format!("leader and POP die at once → POP known to be gone, RTT {rtt} ms"),
            peer: Some(etcd(delay).await?),
            ours: ours(delay).await?,
            target: Target::AtMost(most),
            unit: "s",
        });
    }
    let kills = if options.quick { 3 } else { KILLS };
    table.add(Figure {
        name: format!("… living POP said to be gone, {kills} leaders killed under load"),
        peer: None,
        ours: false_expiries(kills).await?,
        target: Target::AtMost(0.0),
        unit: "",
    });
    Ok(())
}
