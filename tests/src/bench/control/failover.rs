//! How long nobody can write after something happened to the leader.
//!
//! Each system has three sites of its own with a WAN between them; a writer beside each site begins
//! a new write every few milliseconds, whatever became of those before, and all of them keep trying.
//! Killed, stopped, cut off, frozen: the time from the fault to the first acknowledgement of a write
//! begun after it. Asked to stop: the longest pause between two acknowledgements.

use std::future::Future;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use chaos::lab::process::Signal;
use chaos::wan::{Net, Profile};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::super::{Figure, Table, Target, percentile};
use super::Options;
use super::bed::{NODES, Spot, freeze, until};
use super::etcd::Etcd;
use super::ours::Ours;
use super::system::{Session, System};

/// Each writer begins a write so often.
const EVERY: Duration = Duration::from_millis(20);
/// A write that took longer is given up.
const GIVE_UP: Duration = Duration::from_secs(10);
/// Nobody could write for so long: not measured any further.
const LONGEST: Duration = Duration::from_secs(20);
/// Before the fault: connections are made, the leader is at work.
const CALM: Duration = Duration::from_millis(700);
/// What an asked leader may take to be gone.
const EXIT: Duration = Duration::from_secs(4);

/// What happens to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Kill,
    Stop,
    Cut,
    Freeze,
    Exit,
}

/// A system on its own network.
struct Stage<S> {
    // The nodes end before their network goes.
    system: S,
    net: Net,
    profile: Profile,
    next: u64,
}

/// One acknowledged write.
#[derive(Debug, Clone, Copy)]
struct Ack {
    begun: Instant,
    at: Instant,
}

/// The nodes' places in a network.
pub(super) fn spots(net: &Net) -> Vec<Spot> {
    net.sites()
        .iter()
        .map(|site| Spot {
            namespace: Some(site.namespace.clone()),
            client: site.near,
            peer: site.far,
        })
        .collect()
}

impl<S: System> Stage<S> {
    async fn start<F: Future<Output = Result<S>>>(
        rtt: Duration,
        system: impl FnOnce(Vec<Spot>) -> F,
    ) -> Result<Self> {
        let profile = Profile::delayed(rtt / 2);
        let net = Net::start(NODES, profile, 1)?;
        let system = system(spots(&net)).await?;
        Ok(Self { system, net, profile, next: 0 })
    }

    /// Writers beside all sites until dropped; what they saw comes by the channel.
    fn writers(&mut self) -> Result<(JoinSet<()>, mpsc::UnboundedReceiver<Ack>)> {
        let (acks, seen) = mpsc::unbounded_channel();
        let mut writers = JoinSet::new();
        for node in 0..NODES {
            let session = self.system.session(node)?;
            let acks = acks.clone();
            // Room for more writes than a writer begins.
            self.next += 1_000_000;
            let first = self.next;
            writers.spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                let mut writes = JoinSet::new();
                for unique in first.. {
                    ticks.tick().await;
                    while writes.try_join_next().is_some() {}
                    let (session, acks) = (session.clone(), acks.clone());
                    writes.spawn(async move {
                        let begun = Instant::now();
                        let write = session.write(unique % 1_000, unique);
                        if let Ok(Ok(())) = tokio::time::timeout(GIVE_UP, write).await {
                            // The measurement may be over.
                            let _ = acks.send(Ack { begun, at: Instant::now() });
                        }
                    });
                }
            });
        }
        Ok((writers, seen))
    }

    async fn leader(&self) -> Result<usize> {
        until("agreement on a leader", Duration::from_secs(30), async || self.system.leader().await)
            .await
    }

    /// One fault and its cure: how long nobody could write.
    async fn outage(&mut self, fault: Fault) -> Result<Duration> {
        let leader = self.leader().await?;
        let (writers, mut seen) = self.writers()?;
        let calm = Instant::now() + CALM;
        while Instant::now() < calm {
            let ack = tokio::time::timeout(GIVE_UP, seen.recv()).await;
            ack.context("no write was acknowledged before the fault")?;
        }
        let at = Instant::now();
        self.strike(fault, leader)?;
        let outage = match fault {
            Fault::Exit => longest_pause(&mut seen, at).await,
            _ => first_after(&mut seen, at).await,
        };
        drop(writers);
        self.cure(fault, leader)?;
        self.leader().await?;
        // Followers that were behind are not any more.
        tokio::time::sleep(Duration::from_secs(1)).await;
        outage
    }

    fn strike(&mut self, fault: Fault, leader: usize) -> Result<()> {
        let process = self.system.bed_mut().process(leader)?;
        match fault {
            Fault::Kill => process.signal(Signal::KILL),
            Fault::Stop => process.signal(Signal::STOP),
            Fault::Exit => process.signal(Signal::TERM),
            Fault::Freeze => freeze(&self.system.bed().disk(leader), true),
            Fault::Cut => {
                self.net.set_site(leader, Profile::cut());
                self.net.set_near(leader, false)
            }
        }
    }

    fn cure(&mut self, fault: Fault, leader: usize) -> Result<()> {
        let process = self.system.bed_mut().process(leader)?;
        match fault {
            Fault::Kill | Fault::Exit => {
                process.wait(Duration::from_secs(5));
                process.restart()
            }
            Fault::Stop => process.signal(Signal::CONT),
            Fault::Freeze => freeze(&self.system.bed().disk(leader), false),
            Fault::Cut => {
                self.net.set_site(leader, self.profile);
                self.net.set_near(leader, true)
            }
        }
    }
}

async fn first_after(seen: &mut mpsc::UnboundedReceiver<Ack>, at: Instant) -> Result<Duration> {
    loop {
        let ack = tokio::time::timeout_at((at + LONGEST).into(), seen.recv()).await;
        match ack {
            Ok(Some(ack)) if ack.begun < at => {}
            Ok(Some(ack)) => return Ok(ack.at - at),
            Ok(None) => bail!("the writers ended"),
            Err(_) => return Ok(LONGEST),
        }
    }
}

async fn longest_pause(seen: &mut mpsc::UnboundedReceiver<Ack>, at: Instant) -> Result<Duration> {
    let mut last = at;
    let mut longest = Duration::ZERO;
    while let Ok(ack) = tokio::time::timeout_at((at + EXIT).into(), seen.recv()).await {
        let ack = ack.context("the writers ended")?;
        longest = longest.max(ack.at.saturating_duration_since(last));
        last = last.max(ack.at);
    }
    Ok(longest.max((at + EXIT).saturating_duration_since(last)))
}

/// One row of the table.
struct Row {
    fault: Fault,
    name: &'static str,
    rtt: u64,
    times: usize,
    p50: f64,
    max: f64,
}

const ROWS: [Row; 7] = [
    Row { fault: Fault::Kill, name: "kill -9", rtt: 0, times: 7, p50: 0.7, max: 1.05 },
    Row { fault: Fault::Stop, name: "SIGSTOP", rtt: 0, times: 4, p50: 0.9, max: f64::INFINITY },
    Row { fault: Fault::Cut, name: "link down", rtt: 0, times: 4, p50: 0.9, max: f64::INFINITY },
    Row {
        fault: Fault::Freeze,
        name: "frozen disk",
        rtt: 0,
        times: 4,
        p50: 0.9,
        max: f64::INFINITY,
    },
    Row { fault: Fault::Exit, name: "planned exit", rtt: 0, times: 7, p50: 0.05, max: 0.3 },
    Row { fault: Fault::Kill, name: "kill -9", rtt: 100, times: 5, p50: 1.2, max: 1.8 },
    Row { fault: Fault::Kill, name: "kill -9", rtt: 250, times: 5, p50: 2.6, max: 3.9 },
];

async fn measure<S: System>(
    stage: &mut Stage<S>,
    options: &Options,
    rows: &[&Row],
) -> Result<Vec<Vec<f64>>> {
    let mut all = Vec::new();
    for row in rows {
        let times = if options.quick { 2 } else { row.times };
        let mut outages = Vec::new();
        for _ in 0..times {
            let outage = stage.outage(row.fault).await;
            let outage =
                outage.with_context(|| format!("{}, {}, RTT {} ms", S::NAME, row.name, row.rtt))?;
            outages.push(outage.as_secs_f64());
        }
        outages.sort_by(f64::total_cmp);
        all.push(outages);
    }
    Ok(all)
}

pub(super) async fn leader(table: &mut Table, options: &Options) -> Result<()> {
    for rtt in [0, 100, 250] {
        let rows: Vec<&Row> = ROWS.iter().filter(|row| row.rtt == rtt).collect();
        let delay = Duration::from_millis(rtt);
        let mut etcd = Stage::start(delay, Etcd::start_on_disks).await?;
        let theirs = measure(&mut etcd, options, &rows).await?;
        drop(etcd);
        let mut ours = Stage::start(delay, Ours::start_on_disks).await?;
        let own = measure(&mut ours, options, &rows).await?;
        for ((row, theirs), own) in rows.iter().zip(&theirs).zip(&own) {
            let what = match row.fault {
                Fault::Exit => "longest pause of writes",
                _ => "next acknowledged write",
            };
            table.add(Figure {
                name: format!("leader {} → {what}, RTT {rtt} ms, p50 of {}", row.name, own.len()),
                peer: Some(percentile(theirs, 0.5)),
                ours: percentile(own, 0.5),
                target: Target::AtMost(row.p50),
                unit: "s",
            });
            let target = if row.max.is_finite() { Target::AtMost(row.max) } else { Target::Told };
            table.add(Figure {
                name: "… longest".into(),
                peer: Some(percentile(theirs, 1.0)),
                ours: percentile(own, 1.0),
                target,
                unit: "s",
            });
        }
    }
    Ok(())
}
