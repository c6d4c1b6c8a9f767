//! The media plane beside rtpengine: the same generator drives both in turns, each figure is the
//! median of three turns. Compare at equal call counts; µs per packet falls with load.

mod bare;
pub(in crate::bench) mod cpu;
mod generator;
mod pop;
pub(in crate::bench) mod rtpengine;

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, bail};

use super::{Figure, Table, Target, percentile};
use bare::{Forwarder, Kind};
pub(super) use bare::{NAME as BARE, run as bare};
use generator::{Report, Run, Sockets};
use pop::{Calls, Way};
use rtpengine::Rtpengine;

const WARM: Duration = Duration::from_secs(2);
const WINDOW: Duration = Duration::from_secs(6);
/// Turns of each measurement; with `--quick` only one.
const TURNS: usize = 3;

/// Where peers run. Not 127.0.0.1: the kernel finds that one faster than the addresses of a lab's
/// POPs.
const PEER: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 1);
/// Who speaks to them.
const PHONES: Ipv4Addr = Ipv4Addr::new(127, 1, 0, 100);

/// Medians of one system's turns.
#[derive(Debug, Default)]
struct Turns {
    cpu_us: Vec<f64>,
    lost: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    kib_per_call: Vec<f64>,
    /// Share of the busiest media thread in all packets.
    busiest: Vec<f64>,
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
    let core = Some(cpu::CORE_GENERATOR);
    let mut run = Run { warm: WARM, window: WINDOW, first: 0, pids, core };
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
        run.first += 1_000;
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

async fn rtpengine_turn(calls: usize, srtp: bool, turns: &mut Turns) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let mut engine = Rtpengine::start(dir.path()).await?;
    let sockets = Sockets::bind(PHONES.into(), PHONES.into())?;
    let before = cpu::of(engine.pid())?.rss_kib;
    let targets = (0..calls).map(|n| engine.call(&sockets, n, srtp)).collect::<Result<Vec<_>>>()?;
    let (report, _) = drive(sockets, targets, vec![engine.pid()]).await?;
    turns.push(&report, calls, before);
    Ok(())
}

async fn bare_turn(kind: Kind, calls: usize, turns: &mut Turns) -> Result<()> {
    let sockets = Sockets::bind(PHONES.into(), PHONES.into())?;
    let (forwarder, targets) = Forwarder::start(kind, &sockets, calls)?;
    let before = cpu::of(forwarder.pid())?.rss_kib;
    let (report, _) = drive(sockets, targets, vec![forwarder.pid()]).await?;
    turns.push(&report, calls, before);
    Ok(())
}

async fn pop_turn(calls: usize, way: Way, turns: &mut Turns) -> Result<()> {
    let mut up = Calls::start(calls, way).await?;
    let spare = Sockets::bind(PHONES.into(), PHONES.into())?;
    let sockets = std::mem::replace(&mut up.sockets, spare);
    let targets = up.targets.clone();
    let (report, sockets) = drive(sockets, targets, up.pids.clone()).await?;
    up.sockets = sockets;
    turns.busiest.push(up.busiest_thread().await?);
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

/// G.711 relayed by one POP, by rtpengine, and by a bare forwarder of the POP's kind.
async fn relay(table: &mut Table, turns: usize, calls: usize, way: Way) -> Result<()> {
    let (kind, name, share) = match way {
        Way::SharedPort | Way::TwoThreads => (Kind::OnePort, "one port", 0.5),
        Way::OnePop | Way::Encrypted | Way::TwoPops => (Kind::PortPerLeg, "port per leg", 0.6),
    };
    let (mut peer, mut bare, mut ours) = (Turns::default(), Turns::default(), Turns::default());
    for _ in 0..turns {
        rtpengine_turn(calls, false, &mut peer).await?;
        bare_turn(kind, calls, &mut bare).await?;
        pop_turn(calls, way, &mut ours).await?;
    }
    let cpu = median(&peer.cpu_us);
    let what = format!("relay, {name}, {calls} calls");
    add(
        table,
        format!("{what}: CPU a packet (peer: rtpengine)"),
        Some(cpu),
        median(&ours.cpu_us),
        share * cpu,
        "µs",
    );
    let cpu = median(&bare.cpu_us);
    add(
        table,
        format!("{what}: CPU a packet (peer: bare forwarder)"),
        Some(cpu),
        median(&ours.cpu_us),
        1.2 * cpu,
        "µs",
    );
    add(table, format!("{what}: lost"), Some(median(&peer.lost)), median(&ours.lost), 0.1, "%");
    // The bounds are those of 500 calls; with more the peer is what there is to compare with.
    let few = calls <= 500;
    for (name, theirs, ours, bound) in [
        ("p50", median(&peer.p50), median(&ours.p50), 130.0),
        ("p99", median(&peer.p99), median(&ours.p99), 300.0),
    ] {
        let bound = if few { bound } else { theirs };
        add(table, format!("{what}: latency {name}"), Some(theirs), ours, bound, "µs");
    }
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

/// SRTP on the caller's leg, RTP on the callee's.
async fn srtp(table: &mut Table, turns: usize, calls: usize) -> Result<()> {
    let (mut peer, mut ours) = (Turns::default(), Turns::default());
    for _ in 0..turns {
        rtpengine_turn(calls, true, &mut peer).await?;
        pop_turn(calls, Way::Encrypted, &mut ours).await?;
    }
    let what = format!("SRTP to RTP (AES-CM-128, SHA1-80), {calls} calls");
    for (name, unit, of, target) in [
        (
            "CPU a packet (peer: rtpengine)",
            "µs",
            (|t| median(&t.cpu_us)) as fn(&Turns) -> f64,
            None,
        ),
        ("lost", "%", |t| median(&t.lost), Some(0.1)),
        ("latency p99", "µs", |t| median(&t.p99), Some(1_377.0)),
        ("memory a call", "KiB", |t| median(&t.kib_per_call), Some(20.0)),
    ] {
        let theirs = of(&peer);
        let target = target.unwrap_or(0.6 * theirs);
        add(table, format!("{what}: {name}"), Some(theirs), of(&ours), target, unit);
    }
    Ok(())
}

/// One media thread, and two with the same calls. The generator needs a core, so that both threads
/// share the other one: what a second core would bring is what one packet still costs, and how
/// evenly the calls are spread.
async fn threads(table: &mut Table, turns: usize, calls: usize) -> Result<()> {
    let (mut one, mut two) = (Turns::default(), Turns::default());
    for _ in 0..turns {
        pop_turn(calls, Way::SharedPort, &mut one).await?;
        pop_turn(calls, Way::TwoThreads, &mut two).await?;
    }
    let what = format!("media threads 1 → 2, {calls} calls");
    let (before, after) = (median(&one.cpu_us), median(&two.cpu_us));
    let busiest = median(&two.busiest);
    let name = format!("{what}: CPU a packet (peer: one thread)");
    add(table, name, Some(before), after, before / 0.9, "µs");
    add(table, format!("{what}: packets of the busier one"), None, 100.0 * busiest, 55.0, "%");
    table.add(Figure {
        name: format!("{what}: packets two cores could take, of one's"),
        peer: None,
        ours: before / after / busiest,
        target: Target::AtLeast(1.8),
        unit: "×",
    });
    add(table, format!("{what}: lost"), None, median(&two.lost), 0.1, "%");
    Ok(())
}

/// The same between two POPs, over QUIC; both POPs' CPU together.
async fn overlay(table: &mut Table, turns: usize, calls: usize, target: f64) -> Result<()> {
    let mut ours = Turns::default();
    for _ in 0..turns {
        pop_turn(calls, Way::TwoPops, &mut ours).await?;
    }
    let what = format!("two POPs over QUIC, {calls} calls");
    add(table, format!("{what}: CPU of both a packet"), None, median(&ours.cpu_us), target, "µs");
    add(table, format!("{what}: lost"), None, median(&ours.lost), 0.1, "%");
    add(table, format!("{what}: latency p99"), None, median(&ours.p99), 3_000.0, "µs");
    Ok(())
}

/// Calls that come and go one after the other; the first ones fill caches, pools, and the 32 s for which
/// transactions are remembered.
const CHURN: usize = 100_000;
const CHURN_WARM: usize = 12_000;

/// Memory after very many calls, beside that after the first ones.
async fn churn(table: &mut Table) -> Result<()> {
    let mut up = Calls::start(0, Way::SharedPort).await?;
    up.come_and_go(0..CHURN_WARM).await?;
    let before = up.rss()?;
    up.come_and_go(CHURN_WARM..CHURN_WARM + CHURN).await?;
    let grown = up.rss()? - before;
    let name = format!("memory grown by {CHURN} calls that ended (peer: memory before them)");
    add(table, name, Some(before / 1_024.0), grown / 1_024.0, 2.0, "MiB");
    up.end().await
}

/// Groups of figures, in the order they run.
const GROUPS: [&str; 9] = [
    "relay-500",
    "relay-900",
    "shared-500",
    "shared-900",
    "srtp-800",
    "threads",
    "two-pops-100",
    "two-pops-1000",
    "churn",
];

/// All groups, or those named.
#[allow(clippy::print_stderr, reason = "what could not be measured is told at once")]
pub(super) async fn run(arguments: &[String]) -> Result<Table> {
    let (quick, groups): (Vec<&String>, Vec<_>) =
        arguments.iter().partition(|argument| *argument == "--quick");
    let turns = if quick.is_empty() { TURNS } else { 1 };
    if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(&group.as_str())) {
        bail!("no figures '{unknown}'; there are: {}", GROUPS.join(", "));
    }
    let mut table = Table::new("media");
    for group in GROUPS {
        if !groups.is_empty() && !groups.iter().any(|wanted| *wanted == group) {
            continue;
        }
        let done = match group {
            "relay-500" => relay(&mut table, turns, 500, Way::OnePop).await,
            "relay-900" => relay(&mut table, turns, 900, Way::OnePop).await,
            "shared-500" => relay(&mut table, turns, 500, Way::SharedPort).await,
            "shared-900" => relay(&mut table, turns, 900, Way::SharedPort).await,
            "threads" => threads(&mut table, turns, 800).await,
            "srtp-800" => srtp(&mut table, turns, 800).await,
            "two-pops-100" => overlay(&mut table, turns, 100, 12.0).await,
            "two-pops-1000" => overlay(&mut table, turns, 1_000, 8.5).await,
            _ => churn(&mut table).await,
        };
        // What cannot be measured does not hide the rest, and is no success.
        if let Err(why) = done {
            eprintln!("media: {group} could not be measured to its end: {why:#}");
            add(&mut table, format!("{group}: not measured to its end"), None, f64::NAN, 0.0, "");
        }
    }
    Ok(table)
}
