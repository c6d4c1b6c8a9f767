//! Calls through real POPs.

use anyhow::{Context, Result};
use chaos::lab::{Node, SIP_PORT};
use pop_core::srtp::{Crypto, SrtpKeys};

use super::cpu;
use super::generator::{Sockets, Target, ssrc};
use crate::bench::sip::{Call, Carriers, SDES};
use crate::scene::{FRA, IAD, Scene};

/// The generator's own: what it protects is worth nothing.
pub(super) const KEY: &str = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwd";

/// Ours and the base64 of the other side's.
pub(super) fn keys(theirs: &str) -> Result<SrtpKeys> {
    let key = |text: &str| {
        let line = format!("1 {SDES}{text}");
        Crypto::parse(&line).map(|crypto| crypto.key).context("no key in a=crypto")
    };
    Ok(SrtpKeys { send: key(KEY)?, receive: key(theirs)? })
}

/// Between calls that come and go: 250 a second.
const CHURN_EVERY: std::time::Duration = std::time::Duration::from_millis(4);

/// How calls pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// One POP, a port for each leg.
    OnePop,
    /// One POP, one port for all legs.
    SharedPort,
    /// One POP, a port for each leg, SRTP on the callers'.
    Encrypted,
    /// Two POPs.
    TwoPops,
    /// One POP with two media threads, each with a port for all of its legs.
    TwoThreads,
}

/// A mesh with calls up.
pub(super) struct Calls {
    scene: Scene,
    carriers: Carriers,
    calls: Vec<Call>,
    pub(super) sockets: Sockets,
    pub(super) targets: Vec<Target>,
    /// The POPs that carry them.
    pub(super) pids: Vec<u32>,
    /// Their memory before the first call, KiB.
    pub(super) rss_before: f64,
}

impl Calls {
    /// `count` calls that enter at `fra1` and leave there, or at `iad1`.
    pub(super) async fn start(count: usize, way: Way) -> Result<Self> {
        let two_pops = way == Way::TwoPops;
        let far = if two_pops { "iad1" } else { "fra1" };
        let number = if two_pops { IAD } else { FRA };
        let most = u32::try_from(count)? + 10;
        let scene = Scene::with(
            |topology| {
                topology.max_calls = most;
                topology.shared_media = matches!(way, Way::SharedPort | Way::TwoThreads);
                topology.media_threads = Some(if way == Way::TwoThreads { 2 } else { 1 });
            },
            |_| {},
        )
        .await?;
        let pids: Vec<u32> = scene
            .mesh
            .sites()
            .iter()
            .filter(|site| site.id == "fra1" || site.id == far)
            .filter_map(|site| scene.mesh.process(&Node::pop(&site.id)))
            .map(chaos::lab::process::Process::pid)
            .collect();
        pids.iter().for_each(|pid| cpu::isolate(*pid));
        let (here, there) = (scene.carrier("fra1")?, scene.carrier(far)?);
        let sip = scene.sip("fra1")?;
        let carriers = Carriers::new((here, 6_070).into(), (there, SIP_PORT).into(), sip).await?;
        let carriers = carriers.encrypted((way == Way::Encrypted).then_some(KEY));
        let mut running = Self {
            sockets: Sockets::bind(here, there)?,
            carriers,
            scene,
            calls: Vec::new(),
            targets: Vec::new(),
            rss_before: 0.0,
            pids,
        };
        running.rss_before = running.rss()?;
        for call in 0..count {
            running.set_up(call, number).await?;
        }
        Ok(running)
    }

    async fn set_up(&mut self, call: usize, number: &str) -> Result<()> {
        let (caller, callee) = self.sockets.addresses(call)?;
        let (here, there) = ((caller, ssrc(2 * call)?), (callee, ssrc(2 * call + 1)?));
        let up = self.carriers.call(call, number, here, there).await?;
        let callee = up.far.context("the INVITE had no SDP")?;
        let srtp = up.key.as_deref().map(keys).transpose()?;
        self.targets.push(Target { caller: up.media, callee, srtp });
        self.calls.push(up);
        Ok(())
    }

    /// Sets up and hangs up call after call, with these numbers.
    pub(super) async fn come_and_go(&mut self, calls: std::ops::Range<usize>) -> Result<()> {
        let (begun, first) = (std::time::Instant::now(), calls.start);
        for call in calls {
            // A transaction is remembered for 32 s (RFC 3261 §17.2.2): faster than this there would be
            // no room for more.
            let due = CHURN_EVERY * u32::try_from(call - first)?;
            tokio::time::sleep(due.saturating_sub(begun.elapsed())).await;
            self.set_up(call, FRA).await?;
            let up = self.calls.pop().context("no call")?;
            self.targets.clear();
            self.carriers.hang_up(&up).await?;
        }
        self.scene.idle(crate::scene::SOON).await
    }

    /// What part of the RTP at `fra1` its busiest media thread took, 0 to 1.
    pub(super) async fn busiest_thread(&self) -> Result<f64> {
        let status = self.scene.status("fra1").await?;
        let threads = status.get("media_threads").and_then(|threads| threads.as_array());
        let threads = threads.context("no media threads")?.iter();
        let packets: Vec<f64> =
            threads.filter_map(|thread| thread.get("rtp_received")?.as_f64()).collect();
        let most = packets.iter().copied().fold(0.0, f64::max);
        Ok(most / packets.iter().sum::<f64>().max(1.0))
    }

    /// Resident memory of the POPs now, KiB.
    pub(super) fn rss(&self) -> Result<f64> {
        self.pids.iter().map(|pid| Ok(cpu::of(*pid)?.rss_kib)).sum()
    }

    /// Hangs up everything.
    pub(super) async fn end(self) -> Result<()> {
        for call in &self.calls {
            self.carriers.hang_up(call).await?;
        }
        self.scene.idle(crate::scene::SOON).await
    }
}
