//! What calls between two POPs with two upstreams each hear when an upstream fails.
#![allow(clippy::print_stderr, reason = "progress of a command")]
#![allow(clippy::indexing_slicing, reason = "JSON: what is not there is null")]

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use chaos::endpoint::{self, Side};
use chaos::lab::Node;
use chaos::speech::{self, Voice};
use chaos::wan::Profile;
use pop_core::codec::Codec;
use serde_json::Value;

use super::{Figure, Table, Target, percentile};
use crate::peers::quality;
use crate::upstreams::{Upstreams, WAY, grown};

const CALLS: usize = 60;
const OVERHEAD_CALLS: usize = 50;
/// Both sides of each are recorded.
const SCORED: usize = 8;
const RATE_HZ: u32 = 8_000;
const GROUPS: [&str; 10] =
    ["silent", "withdrawn", "loss", "sound", "clean", "overhead", "flap", "feed", "row", "poor"];

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
            "withdrawn" => super::withdrawn::withdrawn(&mut table, of(2, 10)).await,
            "loss" => loss(&mut table, Duration::from_secs(of(10, 30))).await,
            "sound" => sound(&mut table).await,
            "clean" => clean(&mut table, Duration::from_secs(of(10, 60))).await,
            "overhead" => overhead(&mut table, Duration::from_secs(of(5, 20))).await,
            "feed" => super::feed::full_table(&mut table).await,
            "row" => super::row::row(&mut table),
            "poor" => super::poor::poor(&mut table),
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
        // What was lost the round before is answered with copies, which would hide the gap.
        for pop in ["fra1", "sin1"] {
            let once = |paths: &Value| paths["copy"].is_null() && paths["again_ms"].is_null();
            stage.until(pop, "nothing is sent twice", once).await?;
        }
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
            let answered = |paths: &Value| !paths["copy"].is_null() || paths["primary"] != "0-0";
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

/// How recorded calls sound with 5 % lost on the upstream in use.
async fn sound(table: &mut Table) -> Result<()> {
    eprintln!("paths: recording calls with 5 % lost");
    let stage = Upstreams::start().await?;
    stage.call(SCORED).await?;
    let lossy = Profile { loss: 0.05, ..Profile::delayed(WAY) };
    stage.wan()?.set_both("fra1", "sin1", lossy);
    for pop in ["fra1", "sin1"] {
        let answered = |paths: &Value| !paths["copy"].is_null() || paths["primary"] != "0-0";
        stage.until(pop, "loss is answered", answered).await?;
    }
    let since = endpoint::now();
    tokio::time::sleep(Duration::from_secs(30)).await;
    let dir = tempfile::tempdir()?;
    let mut scores = Vec::new();
    for report in stage.hang_up(SCORED).await? {
        let voice = match report.side {
            Side::Callee => Voice::English,
            Side::Caller => Voice::Spanish,
        };
        let cycle = speech::samples(voice, RATE_HZ)?.len();
        let before = since - report.answered.context("never answered")?;
        // Speakers begin again and again: the first time that is all behind the start of the losses.
        let first = usize::try_from(before.as_millis() * u128::from(RATE_HZ) / 1_000)?;
        let begin = first.div_ceil(cycle) * cycle;
        let heard =
            report.heard.sound.get(begin..begin + cycle).context("too short a recording")?;
        let file = dir.path().join("heard.wav");
        quality::write_wav(&file, RATE_HZ, heard.to_vec())?;
        scores.push(quality::pesq(voice, &file)?);
    }
    scores.sort_by(f64::total_cmp);
    #[allow(clippy::cast_precision_loss, reason = "a few recordings")]
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    let count = scores.len();
    for (label, ours, target) in
        [("mean", mean, Target::AtLeast(4.2)), ("worst", percentile(&scores, 0.0), Target::Told)]
    {
        table.add(Figure {
            name: format!("PESQ, PCMU, 5 % lost on the upstream in use, {count} ears, {label}"),
            peer: None,
            ours,
            target,
            unit: "",
        });
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

/// Bytes between the POPs (IPv4, UDP, QUIC, all upstreams, probes too) beside those of the voice.
#[allow(clippy::cast_precision_loss, reason = "bytes of a few seconds")]
async fn overhead(table: &mut Table, span: Duration) -> Result<()> {
    /// IPv4, UDP, RTP.
    const PLAIN_BYTES: u64 = 20 + 8 + 12;
    for (codec, target) in [(Codec::Pcmu, Some(8.0)), (Codec::Opus, None)] {
        let stage = Upstreams::start().await?;
        stage.call_with(OVERHEAD_CALLS, codec).await?;
        // Past the time in which a new call has every path probed.
        tokio::time::sleep(Duration::from_secs(3)).await;
        let wire = || -> Result<u64> { Ok(stage.wan()?.total().bytes) };
        let ((packets, voice), bytes) = (stage.voice(), wire()?);
        tokio::time::sleep(span).await;
        let ((packets_after, voice_after), bytes) = (stage.voice(), wire()? - bytes);
        let (packets, voice) = (packets_after - packets, voice_after - voice);
        let beyond = |bytes: u64| (bytes as f64 / voice as f64 - 1.0) * 100.0;
        let plain = beyond(voice + packets * PLAIN_BYTES);
        table.add(Figure {
            name: format!(
                "bytes beyond the voice, {OVERHEAD_CALLS} calls, {codec:?} (peer: plain RTP)"
            ),
            peer: Some(plain),
            ours: beyond(bytes),
            target: target.unwrap_or(plain).into(),
            unit: "%",
        });
        stage.hang_up(OVERHEAD_CALLS).await?;
    }
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
