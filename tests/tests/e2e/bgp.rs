//! Upstreams that BGP knows to fail before any packet does: media is elsewhere by then.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use chaos::lab::{BMP_PORT, Node, Routers, admin};
use chaos::wan::Profile;
use serde_json::Value;
use tests::peers::bgp::{Edge, Kind, address, router};
use tests::peers::{eventually, rpki};
use tests::upstreams::{Counts, Upstreams, grown};

use crate::run;

const CALLS: usize = 10;
/// What covers the addresses of all POPs of the lab.
const ALL: &str = "127.0.0.0/8";
/// Who announces it, by upstream.
const ORIGINS: [u32; 2] = [64_998, 64_999];
const PATIENCE: Duration = Duration::from_secs(30);

struct Stage {
    upstreams: Upstreams,
    edge: Edge,
    cache: rpki::Cache,
}

impl Stage {
    /// The router tells fra1 of both upstreams, each has a route, and calls are up.
    async fn start(kind: Kind) -> Result<Self> {
        let routers = |topology: &mut chaos::lab::Topology| {
            topology.bgp = Some(Routers {
                pop: "fra1".into(),
                routers: vec![router()],
                upstreams: vec![vec![address(1)], vec![address(2)]],
                rpki_caches: vec![rpki::address()],
            });
        };
        let upstreams = Upstreams::with(routers).await?;
        // Without a third POP to go through: media is on one upstream or on the other.
        for ours in ["fra1", "fra1/1", "sin1", "sin1/1"] {
            for theirs in ["iad1", "iad1/1"] {
                upstreams.wan()?.set_both(ours, theirs, Profile::cut());
            }
        }
        upstreams.until("fra1", "no way through iad1", |paths| !through(paths)).await?;
        let mesh = &upstreams.scene.mesh;
        let station = (mesh.site("fra1")?.sip.ip(), BMP_PORT).into();
        let edge = Edge::start(mesh.dir(), kind, 2, station)?;
        // Nothing is known of any origin yet.
        let cache = rpki::Cache::start(mesh.dir(), &[("192.0.2.0/24", 64_500)])?;
        let stage = Self { upstreams, edge, cache };
        stage
            .until("/bgp", "both upstreams' routers are up", |bgp| {
                let neighbors = bgp["routers"][0]["neighbors"].as_array();
                neighbors.into_iter().flatten().filter(|one| one["up"] == true).count() == 2
            })
            .await?;
        for upstream in [0, 1] {
            stage.announce(upstream, &[])?;
        }
        stage
            .until("/bgp", "both upstreams have routes, and all is told", |bgp| {
                let neighbors = bgp["routers"][0]["neighbors"].as_array();
                let told = |one: &&Value| one["routes"] == 1 && one["everything_told"] == true;
                neighbors.into_iter().flatten().filter(told).count() == 2
            })
            .await?;
        stage.upstreams.call(CALLS).await?;
        Ok(stage)
    }

    /// The upstream has a route to all POPs.
    fn announce(&self, upstream: u8, more: &[&str]) -> Result<()> {
        let origin = ORIGINS.get(usize::from(upstream)).context("two upstreams")?;
        self.edge.announce(upstream, ALL, &format!("64500 {origin}"), more)
    }

    async fn get(&self, page: &str) -> Result<String> {
        admin::get(self.upstreams.scene.mesh.admin(&Node::pop("fra1"))?, page).await
    }

    async fn until(&self, page: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Result<()> {
        eventually(what, PATIENCE, async || {
            let value = serde_json::from_str(&self.get(page).await?)?;
            Ok(holds(&value).then_some(()))
        })
        .await
    }

    /// Our upstream that media leaves by, as fra1 says.
    async fn upstream_in_use(&self) -> Result<u8> {
        let paths = self.upstreams.paths("fra1").await?;
        let primary = paths["primary"].as_str().context("no path")?;
        primary.split('-').next().and_then(|n| n.parse().ok()).context("not a direct path")
    }

    /// Waits until media leaves by the other one; says how long that took.
    /// No packet is lost since `before`.
    async fn moved_from(&self, upstream: u8, before: &[Counts; 2]) -> Result<Duration> {
        let begun = Instant::now();
        eventually("media leaves by the other upstream", PATIENCE, async || {
            Ok((self.upstream_in_use().await? != upstream).then_some(()))
        })
        .await?;
        let took = begun.elapsed();
        self.heard().await?;
        let (received, lost) = grown(before, &self.upstreams.counts());
        ensure!(lost == 0, "{lost} of {} packets lost by a move", received + lost);
        Ok(took)
    }

    /// Waits until each ear heard a second more.
    async fn heard(&self) -> Result<()> {
        let before = self.upstreams.counts();
        eventually("a second of media", PATIENCE, async || {
            let (received, _) = grown(&before, &self.upstreams.counts());
            Ok((received > 100 * CALLS as u64).then_some(()))
        })
        .await
    }

    /// RPKI allows the origin by the other upstream only, until media has moved; then both.
    async fn stolen(&self) -> Result<Duration> {
        let used = self.upstream_in_use().await?;
        let counts = self.upstreams.counts();
        let other = ORIGINS.get(usize::from(1 - used)).context("two upstreams")?;
        self.cache.allow(&[(ALL, *other)])?;
        let took = self.moved_from(used, &counts).await?;
        let words = self.get("/paths/sin1").await?;
        ensure!(words.contains("which RPKI does not allow"), "{words}");
        ensure!(self.metric("pop_rpki_invalid_ways").await? != "0", "not counted");
        let up = format!("pop_rpki_cache_up{{cache=\"{}\"}}", rpki::address());
        ensure!(self.metric(&up).await? == "1", "no cache");
        self.cache.allow(&ORIGINS.map(|origin| (ALL, origin)))?;
        Ok(took)
    }

    async fn metric(&self, line: &str) -> Result<String> {
        let page = self.get("/metrics").await?;
        let found = page.lines().find_map(|l| l.strip_prefix(line));
        Ok(found.with_context(|| format!("no {line}"))?.trim().to_owned())
    }
}

/// Is a path through another POP of use?
fn through(paths: &Value) -> bool {
    let all = paths["paths"].as_array().into_iter().flatten();
    all.filter(|path| !path["via"].is_null()).any(|path| path["state"] == "good")
}

/// Withdrawal, graceful shutdown, the end of a BGP session: each empties the upstream while its data
/// path still carries every packet. Then the feed itself goes.
async fn story(kind: Kind) -> Result<()> {
    let mut stage = Stage::start(kind).await?;
    let before = stage.upstreams.counts();

    let first = stage.upstream_in_use().await?;
    let counts = stage.upstreams.counts();
    stage.edge.withdraw(first, ALL)?;
    let withdrawn = stage.moved_from(first, &counts).await?;
    let words = stage.get("/paths/sin1").await?;
    ensure!(words.contains("used only if there is no other (BGP withdrew its route"), "{words}");
    ensure!(words.contains("because the path before is being drained"), "{words}");
    let drained = format!("pop_path_drained{{peer=\"sin1\",path=\"{first}-0\"}}");
    ensure!(stage.metric(&drained).await? == "1", "not drained");
    ensure!(stage.metric("pop_bgp_withdrawals_total").await? != "0", "not counted");

    stage.announce(first, &[])?;
    let at_rest = |bgp: &Value| {
        bgp["ways"].as_array().into_iter().flatten().all(|way| way["drained"] == false)
    };
    stage.until("/bgp", "the route is back", at_rest).await?;

    let second = stage.upstream_in_use().await?;
    ensure!(second != first, "back in a hurry");
    let counts = stage.upstreams.counts();
    stage.announce(second, &["community", "65535:0"])?;
    let shut_down = stage.moved_from(second, &counts).await?;
    // By the shutdown itself, not for what a changed route costs.
    let last = stage.upstreams.paths("fra1").await?["changes"].as_array().cloned();
    let why = |change: &Value| change["why"].as_str().unwrap_or_default().to_owned();
    let whys: Vec<String> = last.iter().flatten().map(why).collect();
    ensure!(whys.iter().filter(|why| *why == "drained").count() >= 2, "{whys:?}");
    stage.announce(second, &[])?;
    stage.until("/bgp", "the shutdown is called off", at_rest).await?;

    let stolen = stage.stolen().await?;
    stage.until("/bgp", "the theft is over", at_rest).await?;

    let last = stage.upstream_in_use().await?;
    let counts = stage.upstreams.counts();
    stage.edge.kill_upstream(last);
    let died = stage.moved_from(last, &counts).await?;
    let (received, lost) = grown(&before, &stage.upstreams.counts());
    println!(
        "{kind:?}: media moved {withdrawn:?} after a withdrawal, {shut_down:?} after a graceful \
         shutdown, {stolen:?} after RPKI spoke against it, {died:?} after a peer's death; {lost} of {} packets lost",
        received + lost
    );
    ensure!(received > 1_000, "{received}: calls ended");
    ensure!(lost == 0, "{lost} of {} packets lost", received + lost);

    stage.edge.kill_router();
    eventually("the alarm", PATIENCE, async || {
        let up = stage.metric("pop_bgp_feed_up{router=\"127.0.0.1\"}").await?;
        Ok((up == "0").then_some(()))
    })
    .await?;
    let reports = stage.upstreams.hang_up(CALLS).await?;
    ensure!(reports.iter().all(|report| report.heard.duplicates == 0), "heard twice");
    Ok(())
}

#[test]
fn media_leaves_an_upstream_that_frr_says_is_going() {
    run(story(Kind::Frr));
}

#[test]
fn media_leaves_an_upstream_that_gobgp_says_is_going() {
    run(story(Kind::GoBgp));
}
