//! Calls of speakers, through one POP or through rtpengine.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use chaos::lab::{Node, SIP_PORT};
use proto::control::Trunk;

use super::speakers::{Cost, Speaker, talk};
use crate::bench::media::cpu;
use crate::bench::media::rtpengine::{Rtpengine, media, string};
use crate::bench::sip::{Carriers, Format};
use crate::scene::{FRA, SOON, Scene};

/// A call: caller, callee.
pub(super) type Pair = (Speaker, Speaker);

/// What a POP did.
pub(super) struct Outcome {
    pub(super) pairs: Vec<Pair>,
    pub(super) cost: Cost,
    /// Memory the calls added, KiB.
    pub(super) added_kib: f64,
}

/// Speakers and the process to watch, in a thread of their own.
async fn let_talk(
    pairs: Vec<Pair>,
    times: (Duration, Duration),
    pid: u32,
    keeps: bool,
) -> Result<(Vec<Pair>, Cost)> {
    let mut speakers: Vec<Speaker> = pairs.into_iter().flat_map(|(a, b)| [a, b]).collect();
    let thread = std::thread::spawn(move || {
        talk(&mut speakers, times, pid, keeps).map(|cost| (speakers, cost))
    });
    let joined = tokio::task::spawn_blocking(move || thread.join()).await?;
    let (speakers, cost) = joined.map_err(|_| anyhow!("the speakers' thread panicked"))??;
    let mut pairs = Vec::new();
    let mut speakers = speakers.into_iter();
    while let (Some(caller), Some(callee)) = (speakers.next(), speakers.next()) {
        pairs.push((caller, callee));
    }
    Ok((pairs, cost))
}

/// One POP in between; `speakers` makes the pairs for its carrier's address.
pub(super) async fn through_pop(
    speakers: impl FnOnce(std::net::IpAddr) -> Result<Vec<Pair>>,
    formats: (Format, Format),
    (complexity, trunk): (Option<u8>, fn(&mut Trunk)),
    times: (Duration, Duration),
    keeps: bool,
) -> Result<Outcome> {
    let scene = Scene::with(|topology| topology.opus_complexity = complexity, trunk).await?;
    let process = scene.mesh.process(&Node::pop("fra1")).context("fra1 does not run")?;
    let pid = process.pid();
    cpu::isolate(pid);
    let at = scene.carrier("fra1")?;
    let sip = scene.sip("fra1")?;
    let carriers = Carriers::new((at, 6_070).into(), (at, SIP_PORT).into(), sip).await?;
    let carriers = carriers.speaking(formats.0, formats.1);
    let before = cpu::of(pid)?.rss_kib;
    let mut pairs = speakers(at)?;
    let mut calls = Vec::new();
    for (number, (caller, callee)) in pairs.iter_mut().enumerate() {
        let call = carriers.call(number, FRA, caller.address()?, callee.address()?).await?;
        caller.target = Some(call.media);
        callee.target = call.far;
        calls.push(call);
    }
    let (pairs, cost) = let_talk(pairs, times, pid, keeps).await?;
    for call in &calls {
        carriers.hang_up(call).await?;
    }
    scene.idle(SOON).await?;
    Ok(Outcome { pairs, added_kib: cost.usage.rss_kib - before, cost })
}

/// Debian's rtpengine in between: PCMU callers, Opus callees.
pub(super) async fn through_rtpengine(
    dir: &Path,
    mut pairs: Vec<Pair>,
    times: (Duration, Duration),
) -> Result<Cost> {
    let mut engine = Rtpengine::start(dir).await?;
    for (number, (caller, callee)) in pairs.iter_mut().enumerate() {
        let (here, there) = set_up(&mut engine, number, caller, callee)?;
        caller.target = Some(here);
        callee.target = Some(there);
    }
    let pid = engine.pid();
    let (_, cost) = let_talk(pairs, times, pid, false).await?;
    Ok(cost)
}

/// Offer of PCMU, made one of Opus at 24 kb/s by the engine, and the answer.
fn set_up(
    engine: &mut Rtpengine,
    number: usize,
    caller: &Speaker,
    callee: &mut Speaker,
) -> Result<(SocketAddr, SocketAddr)> {
    let ids = [format!("voice-{number}"), format!("f{number}"), format!("t{number}")];
    let [call, from, to] = ids.each_ref().map(|id| string(id));
    let codec = format!(
        "d{}l{}e{}l{}ee",
        string("mask"),
        string("PCMU"),
        string("transcode"),
        string("opus/48000/2/24000")
    );
    let offered = engine.command_of(&[
        ("ICE", string("remove")),
        ("call-id", call.clone()),
        ("codec", codec),
        ("command", string("offer")),
        ("from-tag", from.clone()),
        ("sdp", string(&sdp(caller.address()?, 0, "PCMU/8000"))),
    ])?;
    let opus: u8 = offered
        .split("a=rtpmap:")
        .find_map(|map| map.split_once(" opus/").and_then(|(number, _)| number.parse().ok()))
        .context("rtpengine offers no Opus")?;
    callee.payload_type = opus;
    let answered = engine.command_of(&[
        ("ICE", string("remove")),
        ("call-id", call),
        ("command", string("answer")),
        ("from-tag", from),
        ("sdp", string(&sdp(callee.address()?, opus, "opus/48000/2"))),
        ("to-tag", to),
    ])?;
    Ok((media(&answered)?, media(&offered)?))
}

fn sdp(media: SocketAddr, payload_type: u8, map: &str) -> String {
    let (ip, port) = (media.ip(), media.port());
    format!(
        "v=0\r\no=- 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\n\
         m=audio {port} RTP/AVP {payload_type}\r\na=rtpmap:{payload_type} {map}\r\n\
         a=ptime:20\r\na=sendrecv\r\n"
    )
}
