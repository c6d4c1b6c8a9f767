//! The demo as it runs: mesh, endpoints, calls, the kill, and the facts for the verdict.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use proto::control::allocate_number_request::Which;
use tokio::task::JoinHandle;

use super::next;
use super::plan::{self, POOL, Planned, TENANT};
use super::table::{Picture, Row};
use super::verdict::{Ear, Facts, Kill};
use crate::endpoint::{Agent, Config, End, Live, Report, Side};
use crate::lab::provision::Client;
use crate::lab::{Mesh, Node, SIP_PORT, Topology};
use crate::quality;
use crate::screen::Screen;
use crate::speech::Voice;
use crate::wan::Profile;

/// How often calls are placed and looked at.
const TICK: Duration = Duration::from_millis(100);
/// How often the table is drawn; a pipe gets every third.
const DRAW_EVERY: Duration = Duration::from_secs(1);
/// All calls are placed within this share of one call's length, so that they overlap.
const PLACING_SHARE: u32 = 3;
/// How long after the last planned end calls may still take to end.
const GRACE: Duration = Duration::from_secs(40);
/// A gap that makes a call one that noticed.
const NOTICED: Duration = Duration::from_millis(500);

pub(super) struct Stage {
    // Dropped in this order: the endpoints go before the mesh they call through.
    agents: Vec<Agent>,
    mesh: Mesh,
    profile: Profile,
    pops: Vec<String>,
    planned: Vec<Planned>,
    killed: Option<Killed>,
    led_by: Option<u64>,
}

/// The control node that was killed.
struct Killed {
    node: Node,
    led: bool,
    /// Calls that were up, by position of their agent and number there.
    up: BTreeSet<(usize, u64)>,
    back: JoinHandle<Option<Duration>>,
}

impl Stage {
    /// Starts mesh and endpoints, and provisions them.
    pub(super) async fn open(topology: &Topology, screen: &mut Screen) -> Result<Self> {
        let profile = topology.wan.unwrap_or_default();
        screen.line(&format!(
            "Voxmesh demo: {} control nodes and {} POPs in three regions, as processes of this \
             machine;",
            topology.control.len(),
            topology.pops.len()
        ));
        screen.line(&format!(
            "between POPs a simulated WAN: {} ms one way, up to {} ms jitter, {:.2} % loss.",
            profile.delay.as_millis(),
            profile.jitter.as_millis(),
            profile.loss * 100.0
        ));
        let began = Instant::now();
        let mesh = Mesh::start(topology).await?;
        next::addresses(&mesh).iter().for_each(|line| screen.line(line));
        let agents = mesh
            .sites()
            .iter()
            .enumerate()
            .map(|(index, site)| {
                Agent::start(Config {
                    seed: topology.seed,
                    voice: Voice::English,
                    replies: plan::replies(index),
                    ..Config::new(SocketAddr::new(site.carrier, SIP_PORT))
                })
            })
            .collect::<Result<Vec<_>>>()?;
        provision(&mesh).await?;
        screen.line(&format!(
            "Provisioned through the public API: {} trunks, {} routes, {} numbers. Ready after \
             {:.1} s.",
            plan::trunks(mesh.sites()).len(),
            plan::routes(mesh.sites()).len(),
            plan::inventory(mesh.sites()).len(),
            began.elapsed().as_secs_f64()
        ));
        let pops = mesh.sites().iter().map(|s| s.id.clone()).collect();
        let led_by = leader(mesh.client(), mesh.api().len()).await;
        Ok(Self { agents, mesh, profile, pops, planned: Vec::new(), killed: None, led_by })
    }

    pub(super) const fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// Places the calls, kills a control node in their middle, waits for their end.
    pub(super) async fn perform(
        &mut self,
        calls: usize,
        talk: Duration,
        screen: &mut Screen,
    ) -> Result<Facts> {
        screen.line(&format!(
            "Placing {calls} calls of {} s, a human voice each way, every pair of regions and \
             of codecs (PCMU, PCMA, G722, Opus).",
            talk.as_secs()
        ));
        self.planned = plan::calls(self.mesh.sites(), calls, talk);
        let began = Instant::now();
        let placing = talk / PLACING_SHARE;
        let kill_at = placing + (talk - placing) / 2;
        let deadline = placing + talk + GRACE;
        let mut drawn = Duration::ZERO;
        let mut placed = 0;
        loop {
            let elapsed = began.elapsed();
            while placed < calls && elapsed >= placing * narrow(placed) / narrow(calls) {
                self.place(placed);
                placed += 1;
            }
            if elapsed >= kill_at && self.killed.is_none() {
                self.kill(screen).await?;
            }
            self.mesh.check()?;
            if elapsed - drawn >= DRAW_EVERY {
                drawn = elapsed;
                let picture = self.picture(elapsed);
                // A pipe gets every third, so that a log stays readable.
                if screen.redraws() || elapsed.as_secs().is_multiple_of(3) {
                    screen.table(&picture.lines(), &picture.summary());
                }
            }
            let open: u64 = self.agents.iter().map(Agent::open).sum();
            if (placed == calls && open == 0) || elapsed >= deadline {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        // The far sides of the last BYEs.
        tokio::time::sleep(self.profile.delay * 2 + Duration::from_millis(500)).await;
        self.facts(placed).await
    }

    /// Brings the killed control node back.
    pub(super) async fn heal(&mut self, screen: &mut Screen) -> Result<()> {
        let Some(killed) = &self.killed else { return Ok(()) };
        let node = killed.node.clone();
        self.mesh.restart(&node)?;
        self.mesh.ready(Duration::from_secs(20)).await?;
        screen.line(&format!("{node} is back, on its own disk."));
        screen.line("");
        Ok(())
    }

    /// Answers calls until somebody presses Enter; what was typed before.
    pub(super) async fn attend(
        &mut self,
        keys: &mut tokio::sync::mpsc::Receiver<String>,
    ) -> Result<String> {
        loop {
            tokio::select! {
                line = keys.recv() => return Ok(line.unwrap_or_default()),
                () = tokio::time::sleep(DRAW_EVERY) => self.mesh.check()?,
            }
            // Nobody asks for these reports; they must not pile up.
            for agent in &self.agents {
                agent.forget_reports();
            }
        }
    }

    /// Ends politely: calls first, then processes.
    pub(super) async fn close(self) -> Result<()> {
        self.agents.iter().for_each(Agent::hang_up_all);
        tokio::time::sleep(Duration::from_millis(200)).await;
        drop(self.agents);
        let mut mesh = self.mesh;
        tokio::task::spawn_blocking(move || mesh.stop_all(Duration::from_secs(3)))
            .await
            .context("stopping the mesh failed")
    }

    fn place(&self, index: usize) {
        let Some(planned) = self.planned.get(index) else { return };
        if let Some(agent) = self.agents.get(planned.from) {
            agent.dial(planned.dial.clone());
        }
    }

    async fn kill(&mut self, screen: &mut Screen) -> Result<()> {
        self.led_by = leader(self.mesh.client(), self.mesh.api().len()).await;
        let victim = self.led_by.unwrap_or(1);
        let node = Node::Control(victim);
        let up = self.callers_up();
        let client = Client::new(self.mesh.api(), self.mesh.operator())?;
        self.mesh.kill(&node)?;
        let led = self.led_by.is_some();
        screen.line(&format!(
            "kill -9 {node}{}, with {} calls up.",
            if led { ", the raft leader" } else { "" },
            up.len()
        ));
        let at = Instant::now();
        let back = tokio::spawn(async move {
            let any = Which::AnyOfPool(POOL.to_owned());
            client.allocate(TENANT, any, Vec::new()).await.ok().map(|_| at.elapsed())
        });
        self.killed = Some(Killed { node, led, up, back });
        Ok(())
    }

    fn callers_up(&self) -> BTreeSet<(usize, u64)> {
        let up = |(index, agent): (usize, &Agent)| {
            let live = agent.live().into_iter();
            live.filter(|l| l.side == Side::Caller && l.codec.is_some())
                .map(move |l| (index, l.number))
                .collect::<Vec<_>>()
        };
        self.agents.iter().enumerate().flat_map(up).collect()
    }

    async fn facts(&mut self, placed: usize) -> Result<Facts> {
        let mut reports = Vec::new();
        for (index, agent) in self.agents.iter().enumerate() {
            reports.extend(agent.reports()?.into_iter().map(|report| (index, report)));
        }
        let kill = match self.killed.as_mut() {
            None => None,
            Some(killed) => {
                let allocation_back = (&mut killed.back).await.context("allocation broke")?;
                let lost = reports.iter().filter(|(index, report)| {
                    killed.up.contains(&(*index, report.number))
                        && (report.end != End::Completed || report.heard.longest_gap > NOTICED)
                });
                Some(Kill {
                    node: killed.node.to_string(),
                    led: killed.led,
                    calls_up: killed.up.len(),
                    allocation_back,
                    calls_lost: lost.count(),
                })
            }
        };
        let ears = reports.into_iter().map(|(index, report)| self.ear(index, report)).collect();
        let wan = self.mesh.wan().map(crate::wan::Wan::total).unwrap_or_default();
        let left_in_pops = self.left_in_pops().await;
        Ok(Facts { placed, ears, kill, wan, profile: self.profile, left_in_pops })
    }

    /// Calls that POPs report in their heartbeats, once they had time to report the last.
    async fn left_in_pops(&self) -> Option<u32> {
        let mut left = None;
        for _ in 0..50 {
            let list = self.mesh.client().pops().await.ok()?;
            left = Some(list.pops.iter().map(|p| p.calls).sum());
            if left == Some(0) {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        left
    }

    fn ear(&self, index: usize, report: Report) -> Ear {
        let planned = self.planned.iter().map(|p| &p.dial);
        let planned = planned.into_iter().find(|d| d.to == report.to && d.from == report.from);
        let transcoded = planned.is_some_and(|d| plan::spoken(&d.to) != d.codecs.first().copied());
        let digits = planned.filter(|_| report.side == Side::Callee);
        let digits = digits.map(|d| d.digits.clone()).unwrap_or_default();
        let wan = self.wan_loss(&report.from, &report.to, index);
        let heard = &report.heard;
        let loss = super::verdict::share(heard.lost, heard.received + heard.lost);
        let loss = if transcoded { loss.max(wan) } else { loss };
        let mos = report
            .codec
            .map_or(1.0, |codec| quality::mos(codec, loss, heard.jitter, &self.profile));
        let Report { number, side, codec, ref heard, .. } = report;
        tracing::debug!(
            number, ?side, ?codec, transcoded, mos, received = heard.received, lost = heard.lost,
            jitter = ?heard.jitter, gap = ?heard.longest_gap, likeness = ?heard.likeness,
            "heard"
        );
        Ear { report, mos, transcoded, digits }
    }

    /// Loss of the WAN towards the POP of this ear.
    fn wan_loss(&self, from: &str, to: &str, ear: usize) -> f64 {
        let far = [from, to].into_iter().filter_map(plan::site_of).find(|s| *s != ear);
        let (Some(wan), Some(far), Some(here)) =
            (self.mesh.wan(), far.and_then(|s| self.pops.get(s)), self.pops.get(ear))
        else {
            return 0.0;
        };
        let counters = wan.counters(far, here);
        super::verdict::share(counters.lost, counters.received)
    }

    fn picture(&self, elapsed: Duration) -> Picture {
        let live: Vec<(usize, Live)> = self
            .agents
            .iter()
            .enumerate()
            .flat_map(|(index, agent)| agent.live().into_iter().map(move |l| (index, l)))
            .collect();
        let up = live.iter().filter(|(_, l)| l.side == Side::Caller && l.codec.is_some()).count();
        let over = self.agents.iter().map(Agent::over);
        let (over, failed) = over.fold((0, 0), |sum, (all, bad)| (sum.0 + all, sum.1 + bad));
        let control = match (&self.killed, self.led_by) {
            (Some(killed), _) => format!("{} killed", killed.node),
            (None, Some(leader)) => format!("raft leader: control-{leader}"),
            (None, None) => String::new(),
        };
        Picture {
            elapsed,
            planned: self.planned.len(),
            up,
            over,
            failed,
            control,
            rows: self.rows(&live),
        }
    }

    fn rows(&self, live: &[(usize, Live)]) -> Vec<Row> {
        let mut rows = Vec::new();
        for (from, from_pop) in self.pops.iter().enumerate() {
            for (to, to_pop) in self.pops.iter().enumerate().filter(|(to, _)| *to != from) {
                let mut row = Row { from: from_pop.clone(), to: to_pop.clone(), ..Row::default() };
                row.wan = self.mesh.wan().map(|w| w.counters(from_pop, to_pop)).unwrap_or_default();
                let ears = live.iter().filter(|(index, l)| {
                    *index == to && [&l.from, &l.to].iter().any(|n| plan::site_of(n) == Some(from))
                });
                for (_, ear) in ears.filter(|(_, l)| l.codec.is_some()) {
                    row.add(ear, &self.profile);
                }
                rows.push(row);
            }
        }
        rows
    }
}

impl Row {
    fn add(&mut self, ear: &Live, profile: &Profile) {
        self.ears += 1;
        self.received += ear.received;
        self.lost += ear.lost;
        self.jitter = self.jitter.max(ear.jitter);
        self.longest_gap = self.longest_gap.max(ear.longest_gap);
        let loss = super::verdict::share(ear.lost, ear.received + ear.lost);
        let mos = ear.codec.map(|codec| quality::mos(codec, loss, ear.jitter, profile));
        self.mos = match (self.mos, mos) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        };
    }
}

/// Trunks, routes and numbers, as an operator would enter them.
async fn provision(mesh: &Mesh) -> Result<()> {
    let client = mesh.client();
    let sites = mesh.sites();
    for trunk in plan::trunks(sites) {
        client.put_trunk(trunk).await?;
    }
    for route in plan::routes(sites) {
        client.put_route(route).await?;
    }
    client.import(POOL, &plan::inventory(sites)).await?;
    let mut revision = 0;
    for (index, site) in sites.iter().enumerate() {
        for number in plan::owned(index) {
            let candidates = vec![plan::candidate(site)];
            (_, revision) = client.allocate(TENANT, Which::E164(number), candidates).await?;
        }
    }
    mesh.in_view(revision, Duration::from_secs(10)).await
}

async fn leader(client: &Client, nodes: usize) -> Option<u64> {
    for node in 0..nodes {
        if let Ok(status) = client.status(node).await
            && status.leader_id != 0
        {
            return Some(status.leader_id);
        }
    }
    None
}

fn narrow(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
