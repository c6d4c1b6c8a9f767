//! How calls sound and what transcoding costs: recorded speech through real processes.
//!
//! Each score is the mean PESQ of eight recordings (English and Spanish, ten seconds, several
//! sentences each), each with its own pattern of losses.

mod calls;
mod speakers;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use chaos::endpoint::tape;
use chaos::speech::Voice;
use pop_core::codec::{Codec, EncoderConfig};
use proto::control::Trunk;

use super::sip::{Format, PCMU};
use super::{Figure, Table, Target};
use crate::peers::quality::{pesq, write_wav};
use calls::{Outcome, Pair, through_pop, through_rtpengine};
use speakers::Speaker;

const PCMA: Format = Format(8, "a=rtpmap:8 PCMA/8000\r\n");
const OPUS: Format = Format(
    111,
    "a=rtpmap:111 opus/48000/2\r\na=fmtp:111 maxaveragebitrate=24000;useinbandfec=1\r\n",
);
/// Calls of one score; each is scored at its callee.
const CALLS: u64 = 8;
/// Once through the recording, and a rest to cut it from.
const TALK: (Duration, Duration) = (Duration::ZERO, Duration::from_secs(13));
/// For the cost.
const LOAD: (Duration, Duration) = (Duration::from_secs(3), Duration::from_secs(8));
const TURNS: usize = 3;
/// Opus as the mesh encodes it for such a peer.
const OPUS_24K: EncoderConfig = EncoderConfig {
    bitrate: 24_000,
    complexity: 10,
    fec: false,
    expected_loss: 0,
    dtx: false,
    cbr: false,
    playback_rate: 48_000,
};

/// A trunk without attributes, and Opus as the POP likes.
const PLAIN: (Option<u8>, fn(&mut Trunk)) = (None, |_| {});

const fn voice_of(call: u64) -> Voice {
    if call.is_multiple_of(2) { Voice::English } else { Voice::Spanish }
}

/// Callers with these frames; callees that answer with the same voice in `callee`'s codec.
fn pairs(
    at: std::net::IpAddr,
    (caller, callee): (Codec, Codec),
    loss: f64,
    frames: &dyn Fn(u64) -> Result<Arc<[Bytes]>>,
) -> Result<Vec<Pair>> {
    let pair = |call: u64| {
        let back = tape::frames(voice_of(call), callee)?;
        Ok((
            Speaker::new(at, caller, frames(call)?, 1_000 + call)?.losing(loss),
            Speaker::new(at, callee, back, 2_000 + call)?,
        ))
    };
    (0..CALLS).map(pair).collect()
}

/// Mean PESQ of what the callees heard of their callers.
fn score(outcome: &Outcome) -> Result<f64> {
    let dir = tempfile::tempdir()?;
    let mut scores = Vec::new();
    for (call, (_, callee)) in (0..).zip(&outcome.pairs) {
        let recording = dir.path().join(format!("{call}.wav"));
        write_wav(&recording, 8_000, callee.sound()?)?;
        scores.push(pesq(voice_of(call), &recording)?);
    }
    ensure!(scores.len() >= 4, "only {} recordings", scores.len());
    say(&scores);
    #[allow(clippy::cast_precision_loss, reason = "a few recordings")]
    let mean = scores.iter().sum::<f64>() / scores.len() as f64;
    Ok(mean)
}

#[allow(clippy::print_stderr, reason = "progress of a long measurement")]
fn say(scores: &[f64]) {
    let scores: Vec<String> = scores.iter().map(|score| format!("{score:.2}")).collect();
    eprintln!("  PESQ {}", scores.join(" "));
}

fn add(
    table: &mut Table,
    name: &str,
    peer: Option<f64>,
    ours: f64,
    target: Target,
    unit: &'static str,
) {
    table.add(Figure { name: name.to_owned(), peer, ours, target, unit });
}

/// G.711 in, G.711 out.
async fn g711(table: &mut Table) -> Result<()> {
    let of = |call| tape::frames(voice_of(call), Codec::Pcmu);
    for (name, callee, format, loss, least) in [
        ("PCMU relayed, clean: PESQ", Codec::Pcmu, PCMU, 0.0, 4.4),
        ("PCMU to PCMA, 5 % lost: PESQ", Codec::Pcma, PCMA, 0.05, 3.2),
    ] {
        let speakers = |at| pairs(at, (Codec::Pcmu, callee), loss, &of);
        let outcome = through_pop(speakers, (PCMU, format), PLAIN, TALK, true).await?;
        add(table, name, None, score(&outcome)?, Target::AtLeast(least), "");
    }
    Ok(())
}

/// PCMU to Opus; then what was made of it back to PCMU.
async fn there_and_back(table: &mut Table) -> Result<()> {
    let of = |call| tape::frames(voice_of(call), Codec::Pcmu);
    let speakers = |at| pairs(at, (Codec::Pcmu, Codec::Opus), 0.0, &of);
    let there = through_pop(speakers, (PCMU, OPUS), PLAIN, TALK, true).await?;
    add(table, "PCMU to Opus 24 kb/s, clean: PESQ", None, score(&there)?, Target::Told, "");
    let of = |call: u64| -> Result<Arc<[Bytes]>> {
        let pair = there.pairs.get(usize::try_from(call)?).context("a call")?;
        Ok(pair.1.payloads().into_iter().flatten().collect())
    };
    let speakers = |at| pairs(at, (Codec::Opus, Codec::Pcmu), 0.0, &of);
    let back = through_pop(speakers, (OPUS, PCMU), PLAIN, TALK, true).await?;
    let name = "PCMU to Opus 24 kb/s to PCMU, clean: PESQ";
    add(table, name, None, score(&back)?, Target::AtLeast(4.1), "");
    Ok(())
}

/// Opus with copies in, PCMU out.
async fn fec(table: &mut Table) -> Result<()> {
    let config = EncoderConfig { fec: true, expected_loss: 10, ..OPUS_24K };
    for (name, loss, target) in [
        ("Opus 24 kb/s with FEC to PCMU, clean: PESQ", 0.0, Target::Told),
        ("Opus 24 kb/s with FEC to PCMU, 5 % lost: PESQ", 0.05, Target::AtLeast(3.7)),
    ] {
        let of = |call| Ok(tape::encode_as(voice_of(call), Codec::Opus, 8_000, config)?.into());
        let speakers = |at| pairs(at, (Codec::Opus, Codec::Pcmu), loss, &of);
        let outcome = through_pop(speakers, (OPUS, PCMU), PLAIN, TALK, true).await?;
        add(table, name, None, score(&outcome)?, target, "");
    }
    Ok(())
}

/// PCMU callers and Opus callees, `count` calls.
fn crowd(at: std::net::IpAddr, count: u64) -> Result<Vec<Pair>> {
    let opus = |voice| {
        Ok::<Arc<[Bytes]>, anyhow::Error>(
            tape::encode_as(voice, Codec::Opus, 8_000, OPUS_24K)?.into(),
        )
    };
    let (english, spanish) = (opus(Voice::English)?, opus(Voice::Spanish)?);
    let pair = |call: u64| {
        let back = if call.is_multiple_of(2) { &spanish } else { &english };
        let frames = tape::frames(voice_of(call), Codec::Pcmu)?;
        Ok((
            Speaker::new(at, Codec::Pcmu, frames, call)?,
            Speaker::new(at, Codec::Opus, back.clone(), call)?,
        ))
    };
    (0..count).map(pair).collect()
}

/// Calls of both systems, compared: more than 48 are more than the peer manages.
const COMPARED: u64 = 25;
/// Calls of a busy POP.
const BUSY: u64 = 100;

/// CPU and memory of PCMU ↔ Opus.
async fn cost(table: &mut Table) -> Result<()> {
    let (mut few, mut cpu, mut kib, mut peer) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for _ in 0..TURNS {
        let dir = tempfile::tempdir()?;
        let speakers = crowd(std::net::Ipv4Addr::LOCALHOST.into(), COMPARED)?;
        let theirs = through_rtpengine(dir.path(), speakers, LOAD).await?;
        all_heard(theirs.packets, COMPARED)?;
        peer.push(theirs.us_per_packet()?);
        let ours = transcoded(COMPARED).await?;
        few.push(ours.cost.us_per_packet()?);
        let ours = transcoded(BUSY).await?;
        cpu.push(ours.cost.us_per_packet()?);
        kib.push(ours.added_kib / 100.0);
    }
    let (few, peer) = (median(&few), median(&peer));
    let (cpu, kib) = (median(&cpu), median(&kib));
    let name = "PCMU ↔ Opus 8 kHz 24 kb/s, complexity 10, 25 calls each: CPU a packet (peer: rtpengine, its rate)";
    add(table, name, Some(peer), few, Target::Told, "µs");
    add(table, "the same, 100 calls: CPU a packet", None, cpu, Target::AtMost(45.0), "µs");
    // A call is 100 packets a second, both directions together.
    add(
        table,
        "the same: calls a core, extrapolated",
        None,
        1e6 / (cpu * 100.0),
        Target::AtLeast(180.0),
        "",
    );
    add(table, "the same: memory a call", None, kib, Target::AtMost(220.0), "KiB");
    Ok(())
}

/// CPU of noise suppression: G.711 calls whose both sides are cleaned.
async fn suppression(table: &mut Table) -> Result<()> {
    let crowd = |at| {
        let pair = |call: u64| {
            let frames = || tape::frames(voice_of(call), Codec::Pcmu);
            Ok((
                Speaker::new(at, Codec::Pcmu, frames()?, call)?,
                Speaker::new(at, Codec::Pcmu, frames()?, call)?,
            ))
        };
        (0..COMPARED).map(pair).collect::<Result<Vec<Pair>>>()
    };
    let how: (_, fn(&mut Trunk)) = (None, |trunk| trunk.noise_suppression = true);
    let mut cpu = Vec::new();
    for _ in 0..TURNS {
        let outcome = through_pop(crowd, (PCMU, PCMU), how, LOAD, false).await?;
        all_heard(outcome.cost.packets, COMPARED)?;
        cpu.push(outcome.cost.us_per_packet()?);
    }
    let cpu = median(&cpu);
    let name = "PCMU, noise suppressed both ways, 25 calls: CPU a packet";
    add(table, name, None, cpu, Target::Told, "µs");
    // 100 packets a second.
    let name = "the same: CPU a call, share of a core";
    add(table, name, None, cpu * 100.0 / 1e4, Target::Told, "%");
    Ok(())
}

async fn transcoded(calls: u64) -> Result<Outcome> {
    let outcome =
        through_pop(|at| crowd(at, calls), (PCMU, OPUS), (Some(10), |_| {}), LOAD, false).await?;
    all_heard(outcome.cost.packets, calls)?;
    Ok(outcome)
}

/// A cost is worth something when nearly all packets of the window arrived.
fn all_heard(heard: u64, calls: u64) -> Result<()> {
    // Two legs, 50 packets a second each.
    let expected = LOAD.1.as_secs() * calls * 100;
    let busy = "the machine is too busy, or a side was not understood";
    ensure!(heard * 100 >= expected * 97, "{heard} of {expected} packets: {busy}");
    Ok(())
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    super::percentile(&values, 0.5)
}

pub(super) async fn run() -> Result<Table> {
    let mut table = Table::new("voice");
    g711(&mut table).await?;
    there_and_back(&mut table).await?;
    fec(&mut table).await?;
    cost(&mut table).await?;
    suppression(&mut table).await?;
    Ok(table)
}
