//! The media plane beside rtpengine: the same generator drives both in turns, each figure is the
//! median of three turns. Compare at equal call counts; µs per packet falls with load.

pub(in crate::bench) mod cpu;
mod generator;
mod pop;
pub(in crate::bench) mod rtpengine;

use std::time::Duration;

use anyhow::Result;

use super::{Figure, Table, percentile};
use generator::{Report, Run, Sockets};
use pop::Calls;
use rtpengine::Rtpengine;

const WARM: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(6);
/// Turns of each measurement.
const TURNS: usize = 3;

/// Medians of one system's turns.
#[derive(Debug, Default)]
struct Turns {
    cpu_us: Vec<f64>,
    lost: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    kib_per_call: Vec<f64>,
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    percentile(&values, 0.5)
}

impl Turns {
    #[allow(clippy::cast_precision_loss, reason = "counts of calls")]
    fn push(&mut self, report: &Report, calls: usize, rss_before: f64) {
        self.cpu_us.push(report.cpu_us_per_packet());
        self.lost.push(report.lost_percent());
        self.p50.push(percentile(&report.latency_us, 0.5));
        self.p99.push(percentile(&report.latency_us, 0.99));
        let rss: f64 = report.usage.iter().map(|usage| usage.rss_kib).sum();
        self.kib_per_call.push((rss - rss_before) / calls as f64);
    }
}

/// Runs the generator; again, at most twice, when the machine was too busy for it.
async fn drive(
    mut sockets: Sockets,
    targets: Vec<generator::Target>,
    pids: Vec<u32>,
) -> Result<(Report, Sockets)> {
    let run = Run { warm: WARM, window: WINDOW, pids, core: Some(cpu::CORE_GENERATOR) };
    let mut left = 2;
    loop {
        let (report, back) = attempt(sockets, targets.clone(), run.clone()).await?;
        sockets = back;
        say(&report, targets.len());
        match generator::judge(&report, targets.len()) {
            Ok(()) => return Ok((report, sockets)),
            Err(why) if left == 0 => return Err(why),
            Err(_) => left -= 1,
        }
    }
}

/// The generator has a thread and a core of its own, beside the runtime.
async fn attempt(
    sockets: Sockets,
    targets: Vec<generator::Target>,
    run: Run,
) -> Result<(Report, Sockets)> {
    let thread = std::thread::spawn(move || {
        generator::run(&sockets, &targets, &run).map(|report| (report, sockets))
    });
    let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
    joined.map_err(|_| anyhow::anyhow!("the generator's thread panicked"))?
}

#[allow(clippy::print_stderr, reason = "progress of a long measurement")]
fn say(report: &Report, calls: usize) {
    let at = |share| percentile(&report.latency_us, share);
    eprintln!(
        "  {calls} calls: {:.2} µs a packet, lost {:.3} %, latency p50 {:.0} p99 {:.0} p99.9 {:.0} µs, \
         {} twice, generator late p99 {:.0} µs, {:.2} cores idle",
        report.cpu_us_per_packet(),
        report.lost_percent(),
        at(0.5),
        at(0.99),
        at(0.999),
        report.duplicates,
        percentile(&report.late_us, 0.99),
        report.idle_cores,
    );
}

async fn rtpengine_turn(calls: usize, turns: &mut Turns) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut engine = Rtpengine::start(dir.path()).await?;
    let here = std::net::Ipv4Addr::LOCALHOST.into();
    let sockets = Sockets::bind(here, here)?;
    let before = cpu::of(engine.pid())?.rss_kib;
    let targets = (0..calls).map(|n| engine.call(&sockets, n)).collect::<Result<Vec<_>>>()?;
    let (report, _) = drive(sockets, targets, vec![engine.pid()]).await?;
    turns.push(&report, calls, before);
    Ok(())
}

async fn pop_turn(calls: usize, two_pops: bool, turns: &mut Turns) -> Result<()> {
    let mut up = Calls::start(calls, two_pops).await?;
    let here = std::net::Ipv4Addr::LOCALHOST.into();
    let sockets = std::mem::replace(&mut up.sockets, Sockets::bind(here, here)?);
    let targets = up.targets.clone();
    let (report, sockets) = drive(sockets, targets, up.pids.clone()).await?;
    up.sockets = sockets;
    turns.push(&report, calls, up.rss_before);
    up.end().await
}

fn add(
    table: &mut Table,
    name: String,
    peer: Option<f64>,
    ours: f64,
    target: f64,
    unit: &'static str,
) {
    table.add(Figure { name, peer, ours, target: target.into(), unit });
}

/// G.711 relayed by one POP, and by rtpengine.
async fn relay(table: &mut Table, calls: usize) -> Result<()> {
    let (mut peer, mut ours) = (Turns::default(), Turns::default());
    for _ in 0..TURNS {
        rtpengine_turn(calls, &mut peer).await?;
        pop_turn(calls, false, &mut ours).await?;
    }
    let cpu = median(&peer.cpu_us);
    let what = format!("relay, one POP, {calls} calls");
    add(
        table,
        format!("{what}: CPU a packet (peer: rtpengine)"),
        Some(cpu),
        median(&ours.cpu_us),
        0.6 * cpu,
        "µs",
    );
    add(table, format!("{what}: lost"), Some(median(&peer.lost)), median(&ours.lost), 0.1, "%");
    add(
        table,
        format!("{what}: latency p50"),
        Some(median(&peer.p50)),
        median(&ours.p50),
        130.0,
        "µs",
    );
    add(
        table,
        format!("{what}: latency p99"),
        Some(median(&peer.p99)),
        median(&ours.p99),
        300.0,
        "µs",
    );
    let memory = median(&peer.kib_per_call);
    add(
        table,
        format!("{what}: memory a call"),
        Some(memory),
        median(&ours.kib_per_call),
        20.0,
        "KiB",
    );
    Ok(())
}

/// The same between two POPs, over QUIC; both POPs' CPU together.
async fn overlay(table: &mut Table, calls: usize, target: f64) -> Result<()> {
    let mut ours = Turns::default();
    for _ in 0..TURNS {
        pop_turn(calls, true, &mut ours).await?;
    }
    let what = format!("two POPs over QUIC, {calls} calls");
    add(table, format!("{what}: CPU of both a packet"), None, median(&ours.cpu_us), target, "µs");
    add(table, format!("{what}: lost"), None, median(&ours.lost), 0.1, "%");
    add(table, format!("{what}: latency p99"), None, median(&ours.p99), 3_000.0, "µs");
    Ok(())
}

pub(super) async fn run() -> Result<Table> {
    let mut table = Table::new("media");
    relay(&mut table, 500).await?;
    relay(&mut table, 900).await?;
    overlay(&mut table, 100, 12.0).await?;
    overlay(&mut table, 1_000, 8.5).await?;
    Ok(table)
}
