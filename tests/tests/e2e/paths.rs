//! Two POPs with two upstreams each, calls with speech between them, and upstreams that fail.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use chaos::endpoint::{Agent, Config, Dial, End, Report};
use chaos::lab::{Node, SIP_PORT, admin};
use chaos::wan::Profile;
use pop_core::codec::Codec;
use serde_json::Value;
use tests::peers::eventually;
use tests::scene::{SIN, SOON, Scene};

use crate::run;

const CALLS: usize = 20;
const WAY: Duration = Duration::from_millis(20);
/// All paths between fra1 and sin1 but the first.
const OTHERS: [(&str, &str); 3] = [("fra1", "sin1/1"), ("fra1/1", "sin1"), ("fra1/1", "sin1/1")];

/// What a POP says of the paths to another.
async fn paths_of(scene: &Scene, pop: &str, peer: &str) -> Result<Value> {
    let text = admin::get(scene.mesh.admin(&Node::pop(pop))?, "/paths").await?;
    let all: Value = serde_json::from_str(&text)?;
    let found = all["peers"].as_array().into_iter().flatten().find(|p| p["peer"] == peer);
    Ok(found.cloned().unwrap_or_default())
}

struct Stage {
    scene: Scene,
    caller: Agent,
    callee: Agent,
}

impl Stage {
    /// Calls from fra1 to sin1 are up and heard.
    async fn set() -> Result<Self> {
        let scene = Scene::with(
            |topology| {
                topology.upstreams = 2;
                topology.wan = Some(Profile::delayed(WAY));
            },
            |_| {},
        )
        .await?;
        let wan = scene.mesh.wan().context("no WAN")?;
        // Both begin on the first pair; what crosses over is longer, so that the second path is the
        // other pair.
        for (a, b) in OTHERS {
            wan.set_both(a, b, Profile::cut());
        }
        for (pop, peer) in [("fra1", "sin1"), ("sin1", "fra1")] {
            let what = format!("media from {pop} to {peer} goes by the first pair");
            eventually(&what, SOON, async || {
                Ok((paths_of(&scene, pop, peer).await?["primary"] == "0-0").then_some(()))
            })
            .await?;
        }
        for ((a, b), way) in OTHERS.into_iter().zip([4, 4, 1]) {
            wan.set_both(a, b, Profile::delayed(WAY * way));
        }
        let agent = |pop: &str| Agent::start(Config::new((scene.carrier(pop)?, SIP_PORT).into()));
        let (caller, callee) = (agent("fra1")?, agent("sin1")?);
        let stage = Self { scene, caller, callee };
        stage
            .until_paths("fra1", "all four paths are good", |paths| {
                paths.len() == 4 && paths.iter().all(|path| path["state"] == "good")
            })
            .await?;
        for n in 0..CALLS {
            stage.caller.dial(Dial {
                proxy: stage.scene.sip("fra1")?,
                from: format!("+4930111{n:04}"),
                to: SIN.into(),
                codecs: vec![Codec::Pcmu],
                talk: None,
                digits: String::new(),
            });
        }
        eventually("all calls are heard", SOON, async || {
            let heard = |agent: &Agent| agent.live().iter().filter(|c| c.received > 50).count();
            Ok((heard(&stage.caller) + heard(&stage.callee) == 2 * CALLS).then_some(()))
        })
        .await?;
        Ok(stage)
    }

    async fn paths(&self, pop: &str) -> Result<Value> {
        let peer = if pop == "fra1" { "sin1" } else { "fra1" };
        paths_of(&self.scene, pop, peer).await
    }

    async fn until_paths(
        &self,
        pop: &str,
        what: &str,
        holds: impl Fn(&[Value]) -> bool,
    ) -> Result<()> {
        eventually(what, Duration::from_secs(30), async || {
            let report = self.paths(pop).await?;
            let direct = report["paths"].as_array().into_iter().flatten();
            let direct: Vec<Value> = direct.filter(|path| path["via"].is_null()).cloned().collect();
            Ok(holds(&direct).then_some(()))
        })
        .await
    }

    fn wan(&self) -> Result<&chaos::wan::Wan> {
        self.scene.mesh.wan().context("no WAN")
    }

    /// Hangs up; the reports of both sides, which must be of calls that ended well.
    async fn hang_up(self) -> Result<Vec<Report>> {
        for call in self.caller.live() {
            self.caller.hang_up(call.number);
        }
        let mut reports = Vec::new();
        eventually("both sides are through", SOON, async || {
            reports.extend(self.caller.reports()?);
            reports.extend(self.callee.reports()?);
            Ok((reports.len() == 2 * CALLS).then_some(()))
        })
        .await?;
        for report in &reports {
            ensure!(report.end == End::Completed, "a call was {:?}", report.end);
        }
        self.scene.idle(SOON).await?;
        Ok(reports)
    }
}

fn gaps(reports: &[Report]) -> Vec<Duration> {
    let mut gaps: Vec<Duration> = reports.iter().map(|report| report.heard.longest_gap).collect();
    gaps.sort();
    gaps
}

/// The upstream that carries the calls goes silent: nobody is told, no call ends.
#[test]
fn calls_go_on_when_their_upstream_falls_silent() {
    run(async {
        let stage = Stage::set().await?;
        let before = stage.paths("fra1").await?;
        assert_eq!(before["primary"], "0-0", "{before}");
        for (a, b) in [("fra1", "sin1"), ("fra1", "sin1/1"), ("fra1/1", "sin1")] {
            stage.wan()?.set_both(a, b, Profile::cut());
        }
        for pop in ["fra1", "sin1"] {
            eventually("media moved to the other upstream", SOON, async || {
                Ok((stage.paths(pop).await?["primary"] != "0-0").then_some(()))
            })
            .await?;
        }
        // Connections on the dead paths time out; call streams are elsewhere by then.
        stage
            .until_paths("fra1", "dead paths are gone", |paths| {
                paths.iter().filter(|path| path["state"] == "down").count() == 3
            })
            .await?;
        tokio::time::sleep(Duration::from_secs(6)).await;
        let reports = stage.hang_up().await?;
        let gaps = gaps(&reports);
        println!(
            "longest gap of {} ears: p50 {:?}, worst {:?}",
            gaps.len(),
            gaps[gaps.len() / 2],
            gaps[gaps.len() - 1]
        );
        // Far below what any timeout of a connection would cost; the benchmark measures.
        assert!(gaps[gaps.len() - 1] < Duration::from_secs(2), "{gaps:?}");
        Ok(())
    });
}

/// Loss on the upstream in use is repaired by copies on the other one; carriers hear each packet once.
#[test]
fn loss_on_one_upstream_is_not_heard() {
    run(async {
        let stage = Stage::set().await?;
        let lossy = Profile { loss: 0.05, ..Profile::delayed(WAY) };
        stage.wan()?.set_both("fra1", "sin1", lossy);
        for pop in ["fra1", "sin1"] {
            eventually("copies go the other way", SOON, async || {
                Ok((stage.paths(pop).await?["copy"] == "1-1").then_some(()))
            })
            .await?;
        }
        let counts = |agent: &Agent| -> BTreeMap<u64, (u64, u64)> {
            agent.live().iter().map(|c| (c.number, (c.received, c.lost))).collect()
        };
        let begin = [counts(&stage.caller), counts(&stage.callee)];
        tokio::time::sleep(Duration::from_secs(8)).await;
        let end = [counts(&stage.caller), counts(&stage.callee)];
        let sums = [&begin, &end].map(|s| {
            s.each_ref().map(|calls| (calls.len(), calls.values().map(|c| c.0).sum::<u64>()))
        });
        println!("calls and packets of both agents, before and after: {sums:?}");
        let grown = begin.iter().zip(&end).flat_map(|(begin, end)| {
            end.iter().filter_map(|(call, end)| {
                let begin = begin.get(call)?;
                Some((end.0 - begin.0, end.1.saturating_sub(begin.1)))
            })
        });
        let (received, lost) = grown.fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        println!("with 5 % loss on the upstream in use: {lost} of {} lost", received + lost);
        assert!(received > 2 * 20 * 300, "{received}");
        assert!(lost * 1_000 <= (received + lost) * 3, "{lost} of {received}");
        let reports = stage.hang_up().await?;
        assert!(reports.iter().all(|report| report.heard.duplicates == 0), "heard twice");
        Ok(())
    });
}
