//! Set-up time, INVITE to answer, against sipp calling sipp directly in the same run.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use chaos::lab::SIP_PORT;
use chaos::wan::Profile;

use super::{Figure, Table, percentile};
use crate::peers::sipp::Sipp;
use crate::scene::{FRA, IAD, SOON, Scene};

const CALLS: u32 = 400;
const RATE: u32 = 20;
const ONE_WAY: Duration = Duration::from_millis(40);

/// Sorted set-up times of calls from the carrier of `fra1`; `through`: a POP, or nobody.
async fn times(
    scene: &Scene,
    through: Option<SocketAddr>,
    number: &str,
    to: &str,
) -> Result<Vec<f64>> {
    let dir = tempfile::tempdir()?;
    let callee: SocketAddr = (scene.carrier(to)?, SIP_PORT).into();
    let running = Sipp::callee("uas", callee, CALLS).start(dir.path())?;
    let local = (scene.carrier("fra1")?, 6060).into();
    let mut caller = Sipp::caller("uac", local, through.unwrap_or(callee), number, CALLS);
    caller.rate = RATE;
    let outcome = caller.start(dir.path())?.finish(Duration::from_secs(60)).await?;
    running.finish(SOON).await?;
    ensure!(outcome.failed == 0, "{} of {CALLS} calls failed", outcome.failed);
    ensure!(outcome.response_ms.len() == CALLS as usize, "sipp measured too few calls");
    Ok(outcome.response_ms)
}

fn add(table: &mut Table, name: &str, direct: &[f64], mesh: &[f64], target: f64) {
    for (share, label) in [(0.5, "p50"), (0.99, "p99")] {
        let (direct, mesh) = (percentile(direct, share), percentile(mesh, share));
        table.add(Figure {
            name: format!("set-up added, {name}, {label}"),
            peer: Some(direct),
            ours: mesh - direct,
            target: target.into(),
            unit: "ms",
        });
    }
}

pub(super) async fn one_region(table: &mut Table) -> Result<()> {
    let scene = Scene::start().await?;
    let direct = times(&scene, None, FRA, "fra1").await?;
    let mesh = times(&scene, Some(scene.sip("fra1")?), FRA, "fra1").await?;
    add(table, "one region (peer: sipp to sipp)", &direct, &mesh, 15.0);
    Ok(())
}

pub(super) async fn two_pops(table: &mut Table) -> Result<()> {
    let wan = Profile { delay: ONE_WAY, ..Profile::default() };
    let scene = Scene::with(|topology| topology.wan = Some(wan), |_| {}).await?;
    let direct = times(&scene, None, IAD, "iad1").await?;
    let mesh = times(&scene, Some(scene.sip("fra1")?), IAD, "iad1").await?;
    let round_trip = 2.0 * ONE_WAY.as_secs_f64() * 1e3;
    add(table, "two POPs, RTT 80 ms (1 RTT + 20 ms)", &direct, &mesh, round_trip + 20.0);
    Ok(())
}
