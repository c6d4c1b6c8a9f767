//! Two POPs with two upstreams each, calls with speech between them, and upstreams that fail.
#![allow(clippy::indexing_slicing, reason = "JSON: what is not there is null")]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos::endpoint::{Agent, Config, Dial, End, Report};
use chaos::lab::{Node, SIP_PORT, admin};
use chaos::wan::{Profile, Wan};
use pop_core::codec::Codec;
use serde_json::Value;

use crate::peers::eventually;
use crate::scene::{SIN, SOON, Scene};

/// One way of the paths that share no upstream.
pub const WAY: Duration = Duration::from_millis(20);
/// All paths between fra1 and sin1 but the first, and how much longer than it they are.
const OTHERS: [((&str, &str), u32); 3] =
    [(("fra1", "sin1/1"), 4), (("fra1/1", "sin1"), 4), (("fra1/1", "sin1/1"), 1)];
/// The ends of the paths that share no upstream, by name.
const DISJOINT: [(&str, (&str, &str)); 2] =
    [("0-0", ("fra1", "sin1")), ("1-1", ("fra1/1", "sin1/1"))];
/// Packets received and lost, by call.
pub type Counts = BTreeMap<u64, (u64, u64)>;

/// The POPs fra1 and sin1 and the carriers beside them.
pub struct Upstreams {
    /// With iad1, as a third one that could pass media on.
    pub scene: Scene,
    caller: Agent,
    callee: Agent,
}

impl Upstreams {
    /// All four paths are good, and media of both POPs begins on the first.
    pub async fn start() -> Result<Self> {
        Self::with(|_| {}).await
    }

    /// The same with a topology changed further.
    pub async fn with(more: impl FnOnce(&mut chaos::lab::Topology)) -> Result<Self> {
        let two = |topology: &mut chaos::lab::Topology| {
            more(topology);
            topology.upstreams = 2;
            topology.wan = Some(Profile::delayed(WAY));
        };
        let scene = Scene::with(two, |_| {}).await?;
        let agent = |pop: &str| Agent::start(Config::new((scene.carrier(pop)?, SIP_PORT).into()));
        let (caller, callee) = (agent("fra1")?, agent("sin1")?);
        let stage = Self { scene, caller, callee };
        for ((a, b), _) in OTHERS {
            stage.wan()?.set_both(a, b, Profile::cut());
        }
        for pop in ["fra1", "sin1"] {
            stage.until(pop, "media goes by the first pair", |p| p["primary"] == "0-0").await?;
        }
        stage.heal().await?;
        Ok(stage)
    }

    /// What lies between the POPs.
    pub fn wan(&self) -> Result<&Wan> {
        self.scene.mesh.wan().context("no WAN")
    }

    /// What a POP says of the paths to the other.
    pub async fn paths(&self, pop: &str) -> Result<Value> {
        let text = admin::get(self.scene.mesh.admin(&Node::pop(pop))?, "/paths").await?;
        let all: Value = serde_json::from_str(&text)?;
        let peer = if pop == "fra1" { "sin1" } else { "fra1" };
        let found = all["peers"].as_array().into_iter().flatten().find(|p| p["peer"] == peer);
        Ok(found.cloned().unwrap_or_default())
    }

    /// Waits until what a POP says of them is so.
    pub async fn until(&self, pop: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let patience = Duration::from_secs(30);
        let what = format!("{pop}: {what}");
        eventually(&what, patience, async || Ok(holds(&self.paths(pop).await?).then_some(()))).await
    }

    /// All paths carry again, and both POPs have seen it.
    pub async fn heal(&self) -> Result<()> {
        self.wan()?.set_both("fra1", "sin1", Profile::delayed(WAY));
        for ((a, b), longer) in OTHERS {
            self.wan()?.set_both(a, b, Profile::delayed(WAY * longer));
        }
        for pop in ["fra1", "sin1"] {
            self.until(pop, "all paths are good", |paths| {
                direct(paths).filter(|path| path["state"] == "good").count() == 4
            })
            .await?;
        }
        self.direct_again().await
    }

    /// Media that a third POP passes on goes by a path of two upstreams again.
    async fn direct_again(&self) -> Result<()> {
        let is_direct = |paths: &Value| Self::ends(&paths["primary"]).is_some();
        for pop in ["fra1", "sin1"] {
            if is_direct(&self.paths(pop).await?) {
                continue;
            }
            self.third(Profile::cut())?;
            self.until(pop, "media goes by one of two paths", is_direct).await?;
            self.third(Profile::delayed(WAY))?;
        }
        Ok(())
    }

    /// All ways between the two POPs and the third.
    fn third(&self, profile: Profile) -> Result<()> {
        for a in ["fra1", "fra1/1", "sin1", "sin1/1"] {
            for b in ["iad1", "iad1/1"] {
                self.wan()?.set_both(a, b, profile);
            }
        }
        Ok(())
    }

    /// The upstreams at both ends of a path that shares none with the other.
    pub fn ends(path: &Value) -> Option<(&'static str, &'static str)> {
        DISJOINT.iter().find(|(name, _)| path == name).map(|(_, ends)| *ends)
    }

    /// Cuts a path and the ones that share an upstream with it.
    pub fn cut(&self, path: &Value) -> Result<()> {
        let (a, b) = Self::ends(path).with_context(|| format!("media is on path {path}"))?;
        self.wan()?.set_both(a, b, Profile::cut());
        for (a, b) in [("fra1", "sin1/1"), ("fra1/1", "sin1")] {
            self.wan()?.set_both(a, b, Profile::cut());
        }
        Ok(())
    }

    /// So many calls from fra1 to sin1 are up and heard on both sides.
    pub async fn call(&self, calls: usize) -> Result<()> {
        self.call_with(calls, Codec::Pcmu).await
    }

    /// The same with this codec.
    pub async fn call_with(&self, calls: usize, codec: Codec) -> Result<()> {
        for n in 0..calls {
            self.caller.dial(Dial {
                proxy: self.scene.sip("fra1")?,
                from: format!("+4930111{n:04}"),
                to: SIN.into(),
                codecs: vec![codec],
                talk: None,
                digits: String::new(),
                srtp: false,
            });
        }
        eventually("all calls are heard", SOON, async || {
            let heard = |agent: &Agent| agent.live().iter().filter(|c| c.received > 50).count();
            Ok((heard(&self.caller) + heard(&self.callee) == 2 * calls).then_some(()))
        })
        .await
    }

    /// What both sides received so far.
    pub fn counts(&self) -> [Counts; 2] {
        [&self.caller, &self.callee].map(|agent| {
            agent.live().iter().map(|call| (call.number, (call.received, call.lost))).collect()
        })
    }

    /// Packets and bytes of their payloads that both sides received so far.
    pub fn voice(&self) -> (u64, u64) {
        let all = [&self.caller, &self.callee].into_iter().flat_map(Agent::live);
        all.fold((0, 0), |sum, call| (sum.0 + call.received, sum.1 + call.bytes))
    }

    /// Hangs up. The reports of both sides, which must be of calls that ended well.
    pub async fn hang_up(&self, calls: usize) -> Result<Vec<Report>> {
        for call in self.caller.live() {
            self.caller.hang_up(call.number);
        }
        let mut reports = Vec::new();
        // A report plays what was heard, a minute at most for each call: that takes its time.
        let patience = Duration::from_secs(60);
        let through = eventually("both sides are through", patience, async || {
            reports.extend(self.caller.reports()?);
            reports.extend(self.callee.reports()?);
            Ok((reports.len() == 2 * calls).then_some(()))
        })
        .await;
        through.with_context(|| {
            let bad = reports.iter().filter(|report| report.end != End::Completed).count();
            let left = [&self.caller, &self.callee].map(|agent| agent.live().len());
            format!("{} of {} reports, {bad} bad; calls left: {left:?}", reports.len(), 2 * calls)
        })?;
        for report in &reports {
            ensure!(report.end == End::Completed, "a call was {:?}", report.end);
        }
        self.scene.idle(SOON).await?;
        Ok(reports)
    }
}

/// The paths without a POP between.
pub fn direct(paths: &Value) -> impl Iterator<Item = &Value> {
    paths["paths"].as_array().into_iter().flatten().filter(|path| path["via"].is_null())
}

/// Packets received and lost between two looks, by calls that are in both.
pub fn grown(before: &[Counts; 2], after: &[Counts; 2]) -> (u64, u64) {
    let each = before.iter().zip(after).flat_map(|(before, after)| {
        after.iter().filter_map(|(call, (received, lost))| {
            let (received_before, lost_before) = before.get(call)?;
            Some((received - received_before, lost.saturating_sub(*lost_before)))
        })
    });
    each.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1))
}
