//! What it costs that calls can be taken over: at a POP that only guards, and when a call is set up.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use chaos::lab::process::Process;
use chaos::lab::{Node, SIP_PORT};

use super::{Figure, Table, Target, percentile};
use crate::peers::eventually;
use crate::peers::sipp::Sipp;
use crate::scene::{FRA, IAD, SOON, Scene};

const CALLS: u32 = 1_000;
const RATE: u32 = 50;
/// Beyond the time to place them: to look at a POP that only keeps capsules.
const HELD: Duration = Duration::from_secs(20);
const ANSWERED: u32 = 400;

/// POP that has no half of any of the calls.
const GUARDIAN: &str = "sin1";

pub(super) async fn cost(table: &mut Table) -> Result<()> {
    let scene = Scene::start().await?;
    held(&scene, table).await?;
    set_up(scene, table).await
}

fn tell(table: &mut Table, name: &str, ours: f64, target: impl Into<Target>, unit: &'static str) {
    table.add(Figure { name: name.into(), peer: None, ours, target: target.into(), unit });
}

/// Calls between two POPs, and the third one's memory and time.
#[allow(clippy::cast_precision_loss, reason = "bytes and counts")]
async fn held(scene: &Scene, table: &mut Table) -> Result<()> {
    let guardian = Node::pop(GUARDIAN);
    let process = scene.mesh.process(&guardian).context("no guardian")?;
    let before = process.rss_bytes()?;
    let idle = busy(process).await?;
    let dir = tempfile::tempdir()?;
    let callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), CALLS);
    let callee = callee.start(dir.path())?;
    let local = (scene.carrier("fra1")?, 6060).into();
    let mut caller = Sipp::caller("uac", local, scene.sip("fra1")?, IAD, CALLS);
    caller.rate = RATE;
    caller.hold = Duration::from_secs(u64::from(CALLS / RATE)) + HELD * 2;
    let (began, cpu) = (Instant::now(), process.cpu_time()?);
    let caller = caller.start(dir.path())?;
    let halves = f64::from(2 * CALLS);
    // Of another POP: to be asked costs, too.
    let (calls, fra) = (f64::from(CALLS), Node::pop("fra1"));
    eventually("all calls are up", HELD * 2, async || {
        Ok((scene.metric(&fra, "pop_calls_active").await? >= calls).then_some(()))
    })
    .await?;
    let ramp = (process.cpu_time()? - cpu).as_secs_f64() * 1e6 / f64::from(CALLS);
    let placed = began.elapsed();
    eventually("the guardian has both halves of all calls", SOON, async || {
        Ok((scene.metric(&guardian, "pop_guarded_halves").await? >= halves).then_some(()))
    })
    .await?;
    let busy = busy(process).await?;
    let grown = process.rss_bytes()?.saturating_sub(before) as f64 / 1024.0 / f64::from(CALLS);
    let bytes = scene.metric(&guardian, "pop_guarded_bytes").await?;
    let still = scene.metric(&guardian, "pop_guarded_halves").await?;
    ensure!(still >= halves, "calls ended while they were looked at: {still} halves are left");
    let outcome = caller.finish(HELD * 4).await?;
    ensure!(outcome.failed == 0, "{} of {CALLS} calls failed", outcome.failed);
    callee.finish(SOON).await?;
    scene.idle(SOON).await?;
    tell(table, "resident memory of a guardian per call (both halves)", grown, 4.0, "KiB");
    let each = bytes / f64::from(CALLS) / 1024.0;
    tell(table, "… of that capsules as they are sent", each, Target::Told, "KiB");
    tell(table, "CPU of a guardian of 1,000 calls that last, beyond idle", busy - idle, 2.0, "%");
    tell(table, "… idle", idle, Target::Told, "%");
    let ramp_note = format!("… per call while {RATE} a second are set up ({placed:.0?})");
    tell(table, &ramp_note, ramp, Target::Told, "µs");
    Ok(())
}

/// Share of a core that a process takes for a while, in %.
async fn busy(process: &Process) -> Result<f64> {
    let (since, cpu) = (Instant::now(), process.cpu_time()?);
    tokio::time::sleep(HELD).await;
    Ok((process.cpu_time()? - cpu).as_secs_f64() * 100.0 / since.elapsed().as_secs_f64())
}

/// Local calls at a POP with two guardians, and at the same POP when it is the last one.
async fn set_up(mut scene: Scene, table: &mut Table) -> Result<()> {
    let with = times(&scene).await?;
    for pop in ["iad1", "sin1"] {
        let node = Node::pop(pop);
        scene.mesh.kill(&node)?;
    }
    eventually("the other POPs are found lost", SOON, async || {
        let list = scene.mesh.meshctl(&["pop", "list"]).await?;
        Ok((list.matches("given up").count() >= 2).then_some(()))
    })
    .await?;
    let without = times(&scene).await?;
    for (label, share) in [("p50", 0.5), ("p99", 0.99)] {
        let (with, without) = (percentile(&with, share), percentile(&without, share));
        table.add(Figure {
            name: format!("set-up with two guardians, {label} (peer: with none)"),
            peer: Some(without),
            ours: with,
            target: (without + 2.0).into(),
            unit: "ms",
        });
    }
    Ok(())
}

/// Sorted set-up times of local calls, ms.
async fn times(scene: &Scene) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let callee = Sipp::callee("uas", (scene.carrier("fra1")?, SIP_PORT).into(), ANSWERED);
    let callee = callee.start(dir.path())?;
    let local = (scene.carrier("fra1")?, 6060).into();
    let mut caller = Sipp::caller("uac", local, scene.sip("fra1")?, FRA, ANSWERED);
    caller.rate = RATE;
    let outcome = caller.start(dir.path())?.finish(Duration::from_secs(60)).await?;
    callee.finish(SOON).await?;
    ensure!(outcome.failed == 0, "{} of {ANSWERED} calls failed", outcome.failed);
    Ok(outcome.response_ms)
}
