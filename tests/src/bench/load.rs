//! 50 calls/s for 60 s, 4 s each: 200 at once across two POPs, speaking both ways (sipp).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result};
use chaos::lab::{Node, SIP_PORT, admin};
use chaos::speech::{Voice, samples};
use pop_core::codec::ulaw_encode;
use serde_json::Value;

use super::{Figure, Table, percentile};
use crate::peers::sipp::{Scenario, Sipp};
use crate::scene::{IAD, SOON, Scene};

const RATE: u32 = 50;
const CALLS: u32 = RATE * 60;
const HOLD: Duration = Duration::from_secs(4);

/// Packets one leg received or sent, from its record.
fn count(cdr: &Value, leg: &str, what: &str) -> Result<i64> {
    cdr.pointer(&format!("/{leg}/{what}"))
        .and_then(Value::as_i64)
        .with_context(|| format!("a call record without {leg}.{what}"))
}

/// Share lost between the legs of each call in %, sorted: what went in at one POP less what came
/// out at the other, both ways.
fn losses(ingress: &[Value], egress: &[Value]) -> Result<Vec<f64>> {
    let id = |cdr: &Value| cdr.get("call_id").and_then(Value::as_str).map(str::to_owned);
    let far: BTreeMap<Option<String>, &Value> = egress.iter().map(|cdr| (id(cdr), cdr)).collect();
    let mut losses = Vec::new();
    for near in ingress {
        let far = far.get(&id(near)).context("a call without a record at the far POP")?;
        let entered =
            count(near, "quality_in", "received")? + count(far, "quality_out", "received")?;
        let left = count(near, "quality_in", "sent")? + count(far, "quality_out", "sent")?;
        #[allow(clippy::cast_precision_loss, reason = "packets of one call")]
        losses.push((entered - left) as f64 * 100.0 / (entered.max(1)) as f64);
    }
    losses.sort_by(f64::total_cmp);
    Ok(losses)
}

/// Says why packets were dropped, if any were.
#[allow(clippy::print_stderr, reason = "what a person who misses the target wants to know")]
async fn drops(scene: &Scene) -> Result<()> {
    for pop in ["fra1", "iad1"] {
        let text = admin::get(scene.mesh.admin(&Node::pop(pop))?, "/metrics").await?;
        let dropped = |line: &&str| line.contains("dropped") && !line.ends_with(" 0");
        for line in text.lines().filter(|line| !line.starts_with('#')).filter(dropped) {
            eprintln!("{pop}: {line}");
        }
    }
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "counts of calls")]
pub(super) async fn two_pops(table: &mut Table) -> Result<()> {
    let scene = Scene::start().await?;
    let dir = tempfile::tempdir()?;
    let speech: Vec<u8> = samples(Voice::English, 8_000)?.into_iter().map(ulaw_encode).collect();
    std::fs::write(dir.path().join("audio.ulaw"), speech)?;
    let mut callee = Sipp::callee("uas", (scene.carrier("iad1")?, SIP_PORT).into(), CALLS);
    callee.more = ["-rtp_echo", "-mp", "30000"].map(str::to_owned).into();
    let callee = callee.start(dir.path())?;
    let local = (scene.carrier("fra1")?, 6060).into();
    let mut caller = Sipp::caller("uac", local, scene.sip("fra1")?, IAD, CALLS);
    caller.scenario = Scenario::Ours("speaks");
    caller.hold = HOLD;
    caller.rate = RATE;
    let outcome = caller.start(dir.path())?.finish(Duration::from_secs(120)).await?;
    callee.finish(SOON).await?;
    scene.idle(SOON).await?;
    let ingress = scene.wait_for_cdrs("fra1", CALLS as usize).await?;
    let egress = scene.wait_for_cdrs("iad1", CALLS as usize).await?;
    let losses = losses(&ingress, &egress)?;
    drops(&scene).await?;
    let packets: i64 =
        ingress.iter().map(|cdr| count(cdr, "quality_in", "received")).sum::<Result<i64>>()?;
    let failed = f64::from(CALLS) - outcome.successful as f64;
    let silent = f64::from(CALLS) * HOLD.as_secs_f64() * 50.0 * 0.9 - packets as f64;
    let rows = [
        ("3,000 calls, 50/s, 200 at once: failed", failed, 0.0, "calls"),
        (
            "… callers' packets missing below 90 % of what they speak",
            silent.max(0.0),
            0.0,
            "packets",
        ),
        ("… packets lost in the mesh, worst call", percentile(&losses, 1.0), 0.1, "%"),
        ("… packets lost in the mesh, p99 of calls", percentile(&losses, 0.99), 0.1, "%"),
    ];
    for (name, ours, target, unit) in rows {
        table.add(Figure { name: name.into(), peer: None, ours, target: target.into(), unit });
    }
    Ok(())
}
