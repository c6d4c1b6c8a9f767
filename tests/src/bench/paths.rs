//! What calls between two POPs with two upstreams each hear when an upstream fails.
#![allow(clippy::print_stderr, reason = "progress of a command")]
#![allow(clippy::indexing_slicing, reason = "JSON: what is not there is null")]

use std::time::Duration;

use anyhow::{Result, bail};
use chaos::endpoint::Side;
use chaos::lab::Node;
use chaos::wan::Profile;

use super::{Figure, Table, percentile};
use crate::upstreams::{Upstreams, WAY, grown};

const CALLS: usize = 60;
const GROUPS: [&str; 4] = ["silent", "loss", "clean", "flap"];

pub(super) async fn run(arguments: &[String]) -> Result<Table> {
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let groups: Vec<&str> =
        arguments.iter().map(String::as_str).filter(|a| *a != "--quick").collect();
    if let Some(unknown) = groups.iter().find(|group| !GROUPS.contains(group)) {
        bail!("no group '{unknown}'; there are: {}", GROUPS.join(", "));
    }
    let wanted = |group: &str| groups.is_empty() || groups.contains(&group);
    let mut table = Table::new("paths");
    let of = |quickly: u64, usually: u64| if quick { quickly } else { usually };
    for group in GROUPS.into_iter().filter(|group| wanted(group)) {
        let done = match group {
            "silent" => silent(&mut table, of(3, 10)).await,
            "loss" => loss(&mut table, Duration::from_secs(of(10, 30))).await,
            "clean" => clean(&mut table, Duration::from_secs(of(10, 60))).await,
            _ => flap(&mut table, if quick { 12 } else { 60 }).await,
        };
        // What cannot be measured does not hide the rest, and is no success.
        if let Err(why) = done {
            eprintln!("paths: {group} could not be measured to its end: {why:#}");
            table.add(Figure {
                name: format!("{group}: not measured to its end"),
                peer: None,
                ours: f64::NAN,
                target: 0.0.into(),
                unit: "",
            });
        }
    }
    Ok(table)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[allow(clippy::cast_precision_loss, reason = "counts of packets")]
fn percent(part: u64, of: u64) -> f64 {
    if of == 0 { f64::NAN } else { part as f64 * 100.0 / of as f64 }
}

/// The upstream in use falls silent, again and again, at any moment.
async fn silent(table: &mut Table, rounds: u64) -> Result<()> {
    let stage = Upstreams::start().await?;
    let mut gaps = Vec::new();
    for round in 0..rounds {
        eprintln!("paths: upstream falls silent, round {} of {rounds}", round + 1);
        stage.call(CALLS).await?;
        tokio::time::sleep(Duration::from_millis(500 + round * 37)).await;
        let (fra, sin) = (stage.paths("fra1").await?, stage.paths("sin1").await?);
        stage.cut(&fra["primary"])?;
        let was = fra["primary"].clone();
        stage.until("fra1", "media moved", move |paths| paths["primary"] != was).await?;
        tokio::time::sleep(Duration::from_secs(2)).await;
        let both = fra["primary"] == sin["primary"];
        // A call that does not end well ends the benchmark: none may be lost.
        for report in stage.hang_up(CALLS).await? {
            if both || report.side == Side::Callee {
                gaps.push(milliseconds(report.heard.longest_gap));
            }
        }
        stage.heal().await?;
    }
    gaps.sort_by(f64::total_cmp);
    for (share, label, target) in [(0.5, "p50", 120.0), (0.99, "p99", 400.0), (1.0, "worst", 400.0)]
    {
        table.add(Figure {
            name: format!("longest gap, upstream silent, RTT 40 ms, {} ears, {label}", gaps.len()),
            peer: None,
            ours: percentile(&gaps, share),
            target: target.into(),
            unit: "ms",
        });
    }
    Ok(())
}

/// Loss on the upstream in use, both directions.
async fn loss(table: &mut Table, span: Duration) -> Result<()> {
    let way = Profile::delayed(WAY);
    let cases = [
        ("5 % random", Profile { loss: 0.05, ..way }, 0.3),
        ("10 % random", Profile { loss: 0.10, ..way }, 1.1),
        ("3 % in bursts of 3", Profile { loss: 0.03, burst: 3.0, ..way }, 0.5),
    ];
    for (name, profile, target) in cases {
        eprintln!("paths: {name} lost for {} s", span.as_secs());
        let stage = Upstreams::start().await?;
        stage.call(CALLS).await?;
        stage.wan()?.set_both("fra1", "sin1", profile);
        for pop in ["fra1", "sin1"] {
            let answered =
                |paths: &serde_json::Value| !paths["copy"].is_null() || paths["primary"] != "0-0";
            stage.until(pop, "loss is answered", answered).await?;
        }
        let before = stage.counts();
        tokio::time::sleep(span).await;
        let (received, lost) = grown(&before, &stage.counts());
        table.add(Figure {
            name: format!("lost at the far leg, {name} on the upstream in use"),
            peer: None,
            ours: percent(lost, received + lost),
            target: target.into(),
            unit: "%",
        });
        stage.hang_up(CALLS).await?;
    }
    Ok(())
}

/// Nothing is wrong: nothing is sent twice.
async fn clean(table: &mut Table, span: Duration) -> Result<()> {
    let stage = Upstreams::start().await?;
    stage.call(CALLS).await?;
    let copies = async || -> Result<f64> {
        let mut sum = 0.0;
        for pop in ["fra1", "sin1"] {
            let name = "pop_overlay_received_copies_total";
            sum += stage.scene.metric(&Node::pop(pop), name).await?;
        }
        Ok(sum)
    };
    eprintln!("paths: clean for {} s", span.as_secs());
    let before = copies().await?;
    tokio::time::sleep(span).await;
    table.add(Figure {
        name: "datagrams sent twice on clean paths".into(),
        peer: None,
        ours: copies().await? - before,
        target: 0.0.into(),
        unit: "",
    });
    stage.hang_up(CALLS).await?;
    Ok(())
}

/// The first path is dead every other 2.5 s: 0.2 Hz.
async fn flap(table: &mut Table, times: u32) -> Result<()> {
    let stage = Upstreams::start().await?;
    stage.call(CALLS).await?;
    for time in 0..times {
        if time % 10 == 0 {
            eprintln!("paths: flapping, {time} of {times}");
        }
        stage.wan()?.set_both("fra1", "sin1", Profile::cut());
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        stage.wan()?.set_both("fra1", "sin1", Profile::delayed(WAY));
        tokio::time::sleep(Duration::from_millis(2_500)).await;
    }
    for pop in ["fra1", "sin1"] {
        let paths = stage.paths(pop).await?;
        let changes = paths["changes"].as_array().cloned().unwrap_or_default();
        let primaries = changes.iter().map(|change| &change["primary"]);
        let switches = primaries.clone().zip(primaries.skip(1)).filter(|(a, b)| a != b).count();
        table.add(Figure {
            name: format!("switches at {pop}, a path flapping {times} times in {} s", times * 5),
            peer: None,
            ours: f64::from(u32::try_from(switches).unwrap_or(u32::MAX)),
            target: 6.0.into(),
            unit: "",
        });
    }
    stage.hang_up(CALLS).await?;
    Ok(())
}
