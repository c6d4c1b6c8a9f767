//! An upstream is withdrawn in BGP, by GoBGP through FRR, while its data path still carries: media must
//! be elsewhere before a packet is lost.
#![allow(clippy::indexing_slicing, reason = "JSON: what is not there is null")]
#![allow(clippy::print_stderr, reason = "progress of a command")]

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use chaos::lab::{BMP_PORT, Node, Routers, Topology, admin};
use chaos::wan::Profile;
use serde_json::Value;

use super::{Figure, Table, percentile};
use crate::peers::bgp::{Edge, Kind, address, router};
use crate::peers::eventually;
use crate::upstreams::{Upstreams, grown};

const CALLS: usize = 60;
/// What covers the addresses of all POPs of the lab.
const ALL: &str = "127.0.0.0/8";
const PATIENCE: Duration = Duration::from_secs(30);
/// Media goes on so long after it moved: what was under way has arrived.
const AFTER: Duration = Duration::from_secs(1);

struct Stage {
    upstreams: Upstreams,
    edge: Edge,
}

impl Stage {
    async fn start() -> Result<Self> {
        let routers = |topology: &mut Topology| {
            topology.bgp = Some(Routers {
                pop: "fra1".into(),
                routers: vec![router()],
                upstreams: vec![vec![address(1)], vec![address(2)]],
                rpki_caches: Vec::new(),
            });
        };
        let upstreams = Upstreams::with(routers).await?;
        // Without a third POP to go through: media is on one upstream or on the other.
        for ours in ["fra1", "fra1/1", "sin1", "sin1/1"] {
            for theirs in ["iad1", "iad1/1"] {
                upstreams.wan()?.set_both(ours, theirs, Profile::cut());
            }
        }
        let mesh = &upstreams.scene.mesh;
        let station = (mesh.site("fra1")?.sip.ip(), BMP_PORT).into();
        let edge = Edge::start(mesh.dir(), Kind::Frr, 2, station)?;
        let stage = Self { upstreams, edge };
        stage.until("both routers are up", |bgp| neighbors(bgp, |one| one["up"] == true)).await?;
        for upstream in [0, 1] {
            stage.announce(upstream)?;
        }
        let told = |one: &Value| one["routes"] == 1 && one["everything_told"] == true;
        stage.until("both have routes", |bgp| neighbors(bgp, told)).await?;
        stage.upstreams.call(CALLS).await?;
        Ok(stage)
    }

    fn announce(&self, upstream: u8) -> Result<()> {
        self.edge.announce(upstream, ALL, &format!("64500 {}", 64_998 + u32::from(upstream)), &[])
    }

    async fn until(&self, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        let address = self.upstreams.scene.mesh.admin(&Node::pop("fra1"))?;
        eventually(what, PATIENCE, async || {
            let bgp = serde_json::from_str(&admin::get(address, "/bgp").await?)?;
            Ok(holds(&bgp).then_some(()))
        })
        .await
    }

    async fn upstream_in_use(&self) -> Result<Option<u8>> {
        let paths = self.upstreams.paths("fra1").await?;
        let primary = paths["primary"].as_str().and_then(|path| path.split('-').next());
        Ok(primary.and_then(|n| n.parse().ok()))
    }

    /// Milliseconds until media left, packets received and lost until a second later.
    async fn withdraw(&self) -> Result<(f64, (u64, u64))> {
        let used = self.upstream_in_use().await?.context("media is on no upstream of fra1")?;
        let before = self.upstreams.counts();
        let begun = Instant::now();
        self.edge.withdraw(used, ALL)?;
        eventually("media leaves by the other upstream", PATIENCE, async || {
            Ok((self.upstream_in_use().await? == Some(1 - used)).then_some(()))
        })
        .await?;
        let took = begun.elapsed().as_secs_f64() * 1_000.0;
        tokio::time::sleep(AFTER).await;
        let heard = grown(&before, &self.upstreams.counts());
        self.announce(used)?;
        let at_rest = |bgp: &Value| {
            bgp["ways"].as_array().into_iter().flatten().all(|way| way["drained"] == false)
        };
        self.until("the route is back", at_rest).await?;
        Ok((took, heard))
    }
}

fn neighbors(bgp: &Value, holds: impl Fn(&Value) -> bool) -> bool {
    let all = bgp["routers"][0]["neighbors"].as_array();
    all.into_iter().flatten().filter(|one| holds(one)).count() == 2
}

/// So many times, to and fro.
pub(super) async fn withdrawn(table: &mut Table, rounds: u64) -> Result<()> {
    let stage = Stage::start().await?;
    let (mut took, mut received, mut lost) = (Vec::new(), 0, 0);
    for round in 0..rounds {
        eprintln!("paths: an upstream is withdrawn, {} of {rounds}", round + 1);
        let (time, heard) = stage.withdraw().await?;
        took.push(time);
        received += heard.0;
        lost += heard.1;
    }
    stage.upstreams.hang_up(CALLS).await?;
    took.sort_by(f64::total_cmp);
    table.add(Figure {
        name: format!("packets lost of {received}, upstream withdrawn by FRR {rounds} times"),
        peer: None,
        ours: f64::from(u32::try_from(lost).unwrap_or(u32::MAX)),
        target: 0.0.into(),
        unit: "",
    });
    table.add(Figure {
        name: "… until media left it, from gobgp's command, median".into(),
        peer: None,
        ours: percentile(&took, 0.5),
        target: super::Target::Told,
        unit: "ms",
    });
    Ok(())
}
