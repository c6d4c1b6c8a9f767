//! Writes, allocations and reads in a closed loop, both systems in turns.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};
use chaos::wan::{Net, Profile};
use tonic::Status;

use super::super::table::Target;
use super::super::{Figure, Table};
use super::Options;
use super::bed::{NODES, Spot};
use super::etcd::{self, Etcd, EtcdSession};
use super::failover::spots;
use super::load::{Load, Measured, run};
use super::ours::{OurSession, Ours};
use super::system::{Got, Session, System};

/// Keys that writes go to.
const KEYS: u64 = 10_000;
/// Numbers of a pool of ours, more than are taken while it is measured.
const OUR_POOL: u64 = 250_000;

/// Both, on loopback, with nothing between them; each waits while the other works.
pub(super) struct Pair {
    etcd: Etcd,
    ours: Ours,
    next: u64,
}

/// Of both, the same figure.
struct Both {
    etcd: Measured,
    ours: Measured,
}

impl Pair {
    pub(super) async fn start() -> Result<Self> {
        let etcd = Etcd::start(Spot::loopback(1)?).await?;
        let ours = Ours::start(Spot::loopback(2)?).await?;
        Ok(Self { etcd, ours, next: 0 })
    }

    /// In turns; of the rounds, the one with the median rate counts, all numbers count.
    async fn turns<FE, E, FO, O>(
        &mut self,
        options: &Options,
        load: Load,
        etcd: FE,
        ours: FO,
    ) -> Result<Both>
    where
        FE: Fn(<Etcd as System>::Session, u64) -> E + Copy + Send + 'static,
        E: Future<Output = Result<Got, Status>> + Send + 'static,
        FO: Fn(<Ours as System>::Session, u64) -> O + Copy + Send + 'static,
        O: Future<Output = Result<Got, Status>> + Send + 'static,
    {
        let (mut theirs, mut own) = (Vec::new(), Vec::new());
        let load = Load { time: options.round(), ..load };
        for _ in 0..options.rounds() {
            let node = self.etcd.leader().await?;
            let (measured, next) = run(&self.etcd, Load { node, ..load }, self.next, etcd).await?;
            theirs.push(measured);
            let node = self.ours.leader().await?;
            let (measured, next) = run(&self.ours, Load { node, ..load }, next, ours).await?;
            own.push(measured);
            self.next = next;
        }
        self.etcd.bed_mut().check()?;
        self.ours.bed_mut().check()?;
        Ok(Both { etcd: median(theirs)?, ours: median(own)? })
    }
}

fn median(mut rounds: Vec<Measured>) -> Result<Measured> {
    let numbers = rounds.iter().flat_map(|round| round.numbers.clone()).collect();
    rounds.sort_by(|a, b| a.rate.total_cmp(&b.rate));
    let middle = rounds.len() / 2;
    match rounds.into_iter().nth(middle) {
        Some(round) => Ok(Measured { numbers, ..round }),
        None => bail!("no round was measured"),
    }
}

fn done(_: ()) -> Got {
    Got { number: 0, attempts: 1 }
}

impl Both {
    fn add(
        &self,
        table: &mut Table,
        name: &str,
        unit: &'static str,
        figure: impl Fn(&Measured) -> f64,
        target: impl Fn(f64) -> Target,
    ) {
        let peer = figure(&self.etcd);
        table.add(Figure {
            name: name.into(),
            peer: Some(peer),
            ours: figure(&self.ours),
            target: target(peer),
            unit,
        });
    }
}

fn told(_: f64) -> Target {
    Target::Told
}

async fn plain(pair: &mut Pair, options: &Options, clients: usize) -> Result<Both> {
    let load = Load { clients, time: Duration::ZERO, node: 0 };
    pair.turns(
        options,
        load,
        |session, n| async move { session.write(n % KEYS, n).await.map(done) },
        |session, n| async move { session.write(n % KEYS, n).await.map(done) },
    )
    .await
}

pub(super) async fn writes(table: &mut Table, options: &Options) -> Result<()> {
    let mut pair = Pair::start().await?;
    let one = plain(&mut pair, options, 1).await?;
    let rate = |m: &Measured| m.rate;
    one.add(table, "plain write, 1 client", "/s", rate, told);
    one.add(table, "… p50", "ms", |m| m.ms(0.5), Target::AtMost);
    one.add(table, "… p99", "ms", |m| m.ms(0.99), Target::AtMost);
    for (clients, times) in [(64, 2.0), (256, 3.0)] {
        let both = plain(&mut pair, options, clients).await?;
        let name = format!("plain write, {clients} clients");
        both.add(table, &name, "/s", rate, |peer| Target::AtLeast(times * peer));
        both.add(table, "… p50", "ms", |m| m.ms(0.5), told);
        both.add(table, "… p99", "ms", |m| m.ms(0.99), told);
        both.add(
            table,
            "… CPU of the servers per write",
            "µs",
            |m| m.cpu_us,
            |peer| Target::AtMost(0.5 * peer),
        );
    }
    Ok(())
}

pub(super) async fn allocate(table: &mut Table, options: &Options) -> Result<()> {
    let mut pair = Pair::start().await?;
    for pool in 0..3 {
        pair.etcd.session(pair.etcd.leader().await?)?.fill(pool, etcd::POOL).await?;
        pair.ours.session(pair.ours.leader().await?)?.fill(pool, OUR_POOL).await?;
    }
    let load = Load { clients: 64, time: Duration::ZERO, node: 0 };
    let any64 = pair
        .turns(
            options,
            load,
            |session, n| async move { session.any(0, n).await },
            |session, n| async move { session.any(0, n).await },
        )
        .await?;
    let load = Load { clients: 256, ..load };
    let any256 = pair
        .turns(
            options,
            load,
            |session, n| async move { session.any(1, n).await },
            |session, n| async move { session.any(1, n).await },
        )
        .await?;
    for (both, clients) in [(any64, 64), (any256, 256)] {
        let name = format!("allocate any number, {clients} clients");
        rows(table, &both, &name);
        both.add(table, "… attempts each", "", |m| m.attempts, |_| Target::AtMost(1.0));
        both.add(table, "… p99", "ms", |m| m.ms(0.99), |_| Target::AtMost(30.0));
    }
    given(table, options, &mut pair).await
}

/// Each client asks for a number nobody else asks for.
async fn given(table: &mut Table, options: &Options, pair: &mut Pair) -> Result<()> {
    static ETCD_NEXT: AtomicU64 = AtomicU64::new(0);
    static OUR_NEXT: AtomicU64 = AtomicU64::new(0);
    async fn take<S: Session>(session: S, next: &AtomicU64, n: u64) -> Result<Got, Status> {
        let number = next.fetch_add(1, Ordering::Relaxed);
        match session.given(2, number, n).await? {
            true => Ok(Got { number, attempts: 1 }),
            false => Err(Status::already_exists("a free number was taken")),
        }
    }
    let load = Load { clients: 64, time: Duration::ZERO, node: 0 };
    let both = pair
        .turns(
            options,
            load,
            |session, n| take(session, &ETCD_NEXT, n),
            |session, n| take(session, &OUR_NEXT, n),
        )
        .await?;
    rows(table, &both, "allocate a given number, 64 clients");
    both.add(table, "… p99", "ms", |m| m.ms(0.99), told);
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a count")]
fn rows(table: &mut Table, both: &Both, name: &str) {
    both.add(table, name, "/s", |m| m.rate, |_| Target::AtLeast(10_000.0));
    let twice = |m: &Measured| {
        let different: BTreeSet<u64> = m.numbers.iter().copied().collect();
        (m.numbers.len() - different.len()) as f64
    };
    both.add(table, "… given out twice", "", twice, |_| Target::AtMost(0.0));
    both.add(table, "… CPU of the servers each", "µs", |m| m.cpu_us, told);
}

pub(super) async fn reads(table: &mut Table, options: &Options) -> Result<()> {
    let name = "linearizable read, 64 clients, RTT 0";
    let near = read_at(options, Duration::ZERO, 0).await?;
    near.add(table, &format!("{name}, at the leader"), "/s", |m| m.rate, told);
    near.add(table, "… p50", "ms", |m| m.ms(0.5), |_| Target::AtMost(2.0));
    near.add(table, "… CPU of the servers per read", "µs", |m| m.cpu_us, told);
    let rtt = Duration::from_millis(100);
    for (away, node) in [(0, "at the leader"), (1, "at a follower")] {
        let far = read_at(options, rtt, away).await?;
        let name = format!("linearizable read, 64 clients, RTT 100 ms, {node}, p50");
        far.add(table, &name, "ms", |m| m.ms(0.5), |_| Target::AtMost(110.0));
        far.add(table, "… p99", "ms", |m| m.ms(0.99), told);
    }
    Ok(())
}

/// Clients beside the node so many places after the leader.
async fn read_at(options: &Options, rtt: Duration, away: usize) -> Result<Both> {
    let load = Load { clients: 64, time: options.round(), node: 0 };
    let (net, places) = network(rtt)?;
    let etcd = Etcd::start(places).await?;
    let node = (etcd.leader().await? + away) % NODES;
    etcd.session(node)?.write(0, 0).await?;
    let read = |session: EtcdSession, n| async move { session.read(n % 1_000).await.map(done) };
    let (theirs, next) = run(&etcd, Load { node, ..load }, 0, read).await?;
    drop((etcd, net));
    let (net, places) = network(rtt)?;
    let ours = Ours::start(places).await?;
    let node = (ours.leader().await? + away) % NODES;
    let read = |session: OurSession, n| async move { session.read(n % 1_000).await.map(done) };
    let (own, _) = run(&ours, Load { node, ..load }, next, read).await?;
    drop((ours, net));
    Ok(Both { etcd: theirs, ours: own })
}

fn network(rtt: Duration) -> Result<(Net, Vec<Spot>)> {
    let net = Net::start(NODES, Profile::delayed(rtt / 2), 1)?;
    let places = spots(&net);
    Ok((net, places))
}
