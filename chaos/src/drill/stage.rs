//! One run of a drill: mesh, calls, faults, and the facts.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, bail, ensure};
use proto::time::Instant;
use serde_json::Value;
use tokio::task::JoinHandle;

use super::account::{self, Observed};
use super::briefs::{self, Placed};
use super::cast::{self, Cast, is_standing};
use super::fault::{Fault, Target, Verb};
use super::file::{Drill, Flow, Kind};
use super::hands::Hands;
use super::restart;
use super::timeline::{self, Lookout, Notes};
use super::verdict::Run;
use super::words::short;
use crate::endpoint::{self, Live};
use crate::lab::process::Signal;
use crate::lab::provision::Client;
use crate::lab::{Mesh, Node, Topology, admin};
use crate::screen::Screen;

const TICK: Duration = Duration::from_millis(50);
/// A side that heard something this short ago hears; news of agents are 250 ms old.
const HEARS: Duration = Duration::from_millis(700);
/// How long all calls may take to be up, beyond the time to place them.
const UP_PATIENCE: Duration = Duration::from_secs(15);
/// How long it may take until calls are on hold, or taken back.
const HOLD_PATIENCE: Duration = Duration::from_secs(10);
/// When what was refused is asked for again.
const HOLD_AGAIN: Duration = Duration::from_secs(2);
/// Held calls are taken back when all calls were heard for so long.
const HELD_STILL: Duration = Duration::from_secs(2);
/// How long all BYEs may take.
const BYE_PATIENCE: Duration = Duration::from_secs(8);
/// How long records may take to be written.
const RECORD_PATIENCE: Duration = Duration::from_secs(5);

/// What surrounds a run.
#[derive(Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) topology: &'a Topology,
    pub(super) seed: u64,
    /// How the lines on the screen begin.
    pub(super) label: String,
}

/// A step of the plan, in order of time.
#[derive(Debug, Clone)]
struct Step {
    at: Duration,
    fault: Fault,
    undo: bool,
}

pub(super) struct Stage<'a> {
    drill: &'a Drill,
    around: &'a Surroundings<'a>,
    hands: Hands,
    // Dropped in this order: the endpoints go before the mesh they call through.
    cast: Arc<Cast>,
    mesh: Mesh,
    notes: Notes,
    lookout: Option<Lookout>,
    operator: Vec<JoinHandle<Result<String>>>,
    /// Region of the control node that led before the first fault.
    led: Option<String>,
    begun: Vec<Instant>,
    crashed: Vec<String>,
    wall: SystemTime,
    drawn: Instant,
}

/// Runs it once. Dropping the future ends and cleans everything.
pub(super) async fn run(
    drill: &Drill,
    around: &Surroundings<'_>,
    screen: &mut Screen,
) -> Result<Run> {
    let mut stage = Stage::open(drill, around).await?;
    let flows = stage.call(screen).await?;
    stage.put_on_hold(&flows).await?;
    let new = stage.begin_briefs();
    stage.lookout = Some(stage.look_out()?);
    let up = endpoint::now();
    for step in steps(&drill.faults) {
        while endpoint::now() - up < step.at {
            stage.tick(screen, &flows);
            tokio::time::sleep(TICK).await;
        }
        stage.perform(&step, screen).await?;
    }
    let end = stage.watch(screen, &flows).await?;
    let twice = stage.twice().await;
    let briefs = match new {
        None => Vec::new(),
        Some((stop, task)) => {
            stop.store(true, Ordering::Relaxed);
            task.await.context("the callers broke")??
        }
    };
    stage.farewell(&flows).await?;
    let mut run = stage.facts(&flows, &briefs, end).await?;
    run.twice = twice;
    stage.close().await?;
    Ok(run)
}

fn steps(faults: &[Fault]) -> Vec<Step> {
    let mut steps: Vec<Step> = Vec::new();
    for fault in faults {
        steps.push(Step { at: fault.at, fault: fault.clone(), undo: false });
        if let Some(lasts) = fault.lasts {
            steps.push(Step { at: fault.at + lasts, fault: fault.clone(), undo: true });
        }
    }
    steps.sort_by_key(|step| step.at);
    steps
}

type Briefs = (Arc<AtomicBool>, JoinHandle<Result<Vec<Placed>>>);

impl<'a> Stage<'a> {
    async fn open(drill: &'a Drill, around: &'a Surroundings<'a>) -> Result<Self> {
        let mesh = Mesh::start(around.topology).await?;
        cast::provision(&mesh).await?;
        let cast = Arc::new(Cast::start(&mesh, drill, around.seed)?);
        let now = endpoint::now();
        let hands = Hands::new(around.topology);
        Ok(Self {
            drill,
            around,
            hands,
            cast,
            mesh,
            notes: Notes::default(),
            lookout: None,
            operator: Vec::new(),
            led: None,
            begun: Vec::new(),
            crashed: Vec::new(),
            wall: SystemTime::now(),
            drawn: now,
        })
    }

    /// Places the calls that stay, and waits until both sides of each hear the other.
    async fn call(&mut self, screen: &mut Screen) -> Result<Vec<Flow>> {
        let load = &self.drill.load;
        let flows: Vec<Flow> =
            load.flows.iter().cycle().take(load.calls as usize).cloned().collect();
        let every = Duration::from_secs(1) / load.per_second;
        let began = endpoint::now();
        for (call, flow) in (0..).zip(&flows) {
            while endpoint::now() - began < every * call {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            self.cast.dial(flow, call, &flow.from, None)?;
        }
        let deadline = endpoint::now() + UP_PATIENCE;
        loop {
            self.mesh.check()?;
            let hearing = hearing(&self.cast.live());
            self.draw(screen, hearing, "calls are placed");
            if hearing == flows.len() {
                break;
            }
            if endpoint::now() >= deadline {
                let reports = self.cast.reports()?;
                let ends: Vec<String> =
                    reports.iter().take(3).map(|r| format!("{:?}", r.end)).collect();
                bail!(
                    "{hearing} of {} calls are up and heard on both sides before the fault; some \
                     ended: {}",
                    flows.len(),
                    ends.join(", ")
                );
            }
            tokio::time::sleep(TICK).await;
        }
        Ok(flows)
    }

    /// Puts the calls that are to be held on hold, and waits until they are.
    async fn put_on_hold(&self, flows: &[Flow]) -> Result<()> {
        let deadline = endpoint::now() + HOLD_PATIENCE;
        self.hold(flows, true)?;
        while self.holding() < self.held(flows).count() {
            ensure!(endpoint::now() < deadline, "{} calls are on hold only", self.holding());
            tokio::time::sleep(TICK).await;
        }
        Ok(())
    }

    /// Calls that are held while the fault comes, with their numbers.
    fn held<'f>(&'f self, flows: &'f [Flow]) -> impl Iterator<Item = (u32, &'f Flow)> {
        let held = |(call, _): &(u32, &Flow)| self.cast.kind(*call) == Kind::Held;
        (0..).zip(flows).filter(held)
    }

    /// Calls of which a side has the other on hold.
    fn holding(&self) -> usize {
        let sides = |sides: &[Option<Live>; 2]| sides.iter().flatten().any(|side| side.holding);
        self.cast.live().values().filter(|both| sides(both)).count()
    }

    /// Asks for hold, or its end, where it is not as it should be. By turns it is the caller that
    /// holds and the callee.
    fn hold(&self, flows: &[Flow], holds: bool) -> Result<()> {
        let live = self.cast.live();
        for (turn, (call, flow)) in self.held(flows).enumerate() {
            let (_, to) = self.cast.numbers(flow, call)?;
            let [caller, callee] = live.get(&to).cloned().unwrap_or_default();
            let (pop, side) = if turn % 2 == 0 { (&flow.from, caller) } else { (&flow.to, callee) };
            if let Some(side) = side.filter(|side| side.holding != holds) {
                self.cast.hold(pop, side.number, holds)?;
            }
        }
        Ok(())
    }

    fn begin_briefs(&self) -> Option<Briefs> {
        let new = self.drill.load.new?;
        let stop = Arc::new(AtomicBool::new(false));
        let (cast, flows) = (Arc::clone(&self.cast), self.drill.load.flows.clone());
        let task = tokio::spawn(briefs::place(cast, flows, new, Arc::clone(&stop)));
        Some((stop, task))
    }

    fn look_out(&self) -> Result<Lookout> {
        let client = Client::new(self.mesh.api(), self.mesh.operator())?;
        let client = client.with_patience(Duration::from_millis(300));
        let nodes = self.mesh.nodes().map(|node| Ok((node.to_string(), self.mesh.admin(node)?)));
        Ok(Lookout::start(client, nodes.collect::<Result<_>>()?, &self.notes))
    }

    fn tick(&mut self, screen: &mut Screen, flows: &[Flow]) {
        if let Err(why) = self.mesh.check() {
            let why = format!("{why:#}");
            let head = why.lines().next().unwrap_or_default().to_owned();
            if !self.crashed.contains(&head) {
                self.notes.add("drill", head.clone());
                screen.line(&format!("  {head}"));
                self.crashed.push(head);
            }
        }
        let hearing = hearing(&self.cast.live());
        self.draw(screen, hearing, &format!("of {} calls hear both ways", flows.len()));
    }

    fn draw(&mut self, screen: &mut Screen, hearing: usize, words: &str) {
        let now = endpoint::now();
        if now - self.drawn < Duration::from_secs(1) {
            return;
        }
        self.drawn = now;
        let after = self.begun.first().map_or_else(String::new, |fault| {
            format!("   {:.0} s after the fault", (now - *fault).as_secs_f64())
        });
        let line = format!("  {}{hearing} {words}{after}", self.around.label);
        if screen.redraws() || after.is_empty() || (now - self.first()).as_secs().is_multiple_of(5)
        {
            screen.table(std::slice::from_ref(&line), &line);
        }
    }

    fn first(&self) -> Instant {
        self.begun.first().copied().unwrap_or_default()
    }

    async fn perform(&mut self, step: &Step, screen: &mut Screen) -> Result<()> {
        let Step { fault, undo, .. } = step;
        if self.led.is_none() {
            self.led = self.hands.leader_region(&self.mesh).await;
        }
        let nodes = self.hands.nodes(&self.mesh, &fault.target, self.led.as_deref()).await;
        let at = endpoint::now();
        if self.begun.is_empty() {
            self.wall = SystemTime::now();
        }
        if !undo {
            self.begun.push(at);
        }
        let names: Vec<String> = nodes.iter().map(ToString::to_string).collect();
        let mut words = if *undo {
            format!("{} {} is over", fault.verb, fault.target)
        } else {
            fault.to_string()
        };
        // What a target means depends on the moment.
        if matches!(fault.target, Target::Leader | Target::RegionOfLeader) {
            words = format!("{words}: {}", names.join(", "));
        }
        self.notes.add("drill", words.clone());
        screen.line(&format!("  {}{words}", self.around.label));
        match fault.verb {
            Verb::Drain => {
                let verb = if *undo { "uncordon" } else { "drain" };
                for node in &nodes {
                    let done = self.mesh.meshctl_later(&["pop", verb, &node.to_string()]);
                    self.operator.push(tokio::spawn(done));
                }
                Ok(())
            }
            Verb::Restart => restart::all(&mut self.mesh, &nodes, &self.notes, screen).await,
            verb => self.hands.strike(&mut self.mesh, (verb, &fault.target), &nodes, *undo),
        }
    }

    /// Waits until every call that is still there was heard both ways for long enough, or until
    /// nobody waits any more.
    async fn watch(&mut self, screen: &mut Screen, flows: &[Flow]) -> Result<Instant> {
        let two_way = self.drill.verdict.two_way;
        let last = endpoint::now();
        let held = self.held(flows).next().is_some();
        let patience = self.drill.abort.silent_for + two_way;
        let patience = if held { patience + HOLD_PATIENCE } else { patience };
        let mut taken_back: Option<Instant> = None;
        // A margin, so that what is heard a little late was still heard for so long.
        let enough = two_way + Duration::from_secs(2);
        let mut all_since: Option<Instant> = None;
        loop {
            self.tick(screen, flows);
            self.operators(false).await?;
            let live = self.cast.live();
            let now = endpoint::now();
            if hearing(&live) == standing(&live) {
                all_since.get_or_insert(now);
            } else {
                all_since = None;
            }
            // Held calls are taken back where they are now; who is still there when patience ends, too.
            let still = all_since.is_some_and(|since| now - since >= HELD_STILL);
            let due = still || now - last >= self.drill.abort.silent_for;
            if held && (due || taken_back.is_some()) && self.holding() > 0 {
                if taken_back.is_none_or(|at| now - at >= HOLD_AGAIN) {
                    self.notes.add("drill", "takes held calls back");
                    self.hold(flows, false)?;
                    taken_back = Some(now);
                }
                // Both sides must be heard for long enough after that.
                all_since = None;
            }
            let busy = !self.operator.is_empty();
            let heard = all_since.is_some_and(|since| now - since >= enough) && !busy;
            if heard || now - last >= patience + Duration::from_secs(2) {
                self.operators(true).await?;
                return Ok(now);
            }
            let longest = self.drill.abort.longer_than;
            ensure!(now - self.first() < longest, "the drill lasts longer than {}", short(longest));
            tokio::time::sleep(TICK).await;
        }
    }

    /// What the operator typed must have worked, or the drill shows nothing.
    async fn operators(&mut self, all: bool) -> Result<()> {
        let (done, open): (Vec<_>, Vec<_>) = std::mem::take(&mut self.operator)
            .into_iter()
            .partition(|task| all || task.is_finished());
        self.operator = open;
        for task in done {
            let wait = tokio::time::timeout(Duration::from_secs(5), task).await;
            let said =
                wait.context("the operator's command does not end")?.context("it broke")??;
            let said = said.trim().lines().next_back().unwrap_or_default().to_owned();
            self.notes.add("meshctl", if said.is_empty() { "done".into() } else { said });
        }
        Ok(())
    }

    /// Calls that more than one POP holds in the same part.
    async fn twice(&self) -> Vec<String> {
        let mut holders: BTreeMap<(String, bool), Vec<String>> = BTreeMap::new();
        for site in self.mesh.sites() {
            if !self.mesh.is_running(&Node::pop(&site.id)) {
                continue;
            }
            // A silent host answers nobody: what it holds, nobody hears.
            let Ok(text) = admin::get(site.admin, "/status").await else { continue };
            let Ok(status) = serde_json::from_str::<Value>(&text) else { continue };
            let calls = status.get("calls").and_then(Value::as_array).cloned().unwrap_or_default();
            for call in &calls {
                let field = |name: &str| call.get(name).and_then(Value::as_str).unwrap_or_default();
                let parts: &[bool] = match field("role") {
                    "ingress" => &[true],
                    "egress" => &[false],
                    _ => &[true, false],
                };
                for part in parts {
                    let holder = holders.entry((field("call_id").to_owned(), *part)).or_default();
                    holder.push(site.id.clone());
                }
            }
        }
        let twice = holders.into_iter().filter(|(_, pops)| pops.len() > 1);
        twice.map(|((call, _), pops)| format!("{call} at {}", pops.join(", "))).collect()
    }

    /// Every other call is ended by its caller, the rest by their callees.
    async fn farewell(&self, flows: &[Flow]) -> Result<()> {
        self.notes.add("drill", "hangs up");
        let live = self.cast.live();
        for (call, flow) in (0..).zip(flows) {
            let (_, to) = self.cast.numbers(flow, call)?;
            let Some(sides) = live.get(&to) else { continue };
            // A side that is alone still says BYE: what becomes of it is reported.
            let [first, second] = if call % 2 == 0 { [0, 1] } else { [1, 0] };
            let chosen = sides.get(first).and_then(Option::as_ref).map(|side| (first, side));
            let chosen = chosen.or(sides.get(second).and_then(Option::as_ref).map(|s| (second, s)));
            if let Some((side, live)) = chosen {
                let pop = if side == 0 { &flow.from } else { &flow.to };
                self.cast.hang_up(pop, live.number)?;
            }
        }
        let deadline = endpoint::now() + BYE_PATIENCE;
        while standing(&self.cast.live()) > 0 && endpoint::now() < deadline {
            tokio::time::sleep(TICK).await;
        }
        self.cast.give_up();
        // Agents show their news four times a second.
        tokio::time::sleep(Duration::from_millis(400)).await;
        Ok(())
    }

    async fn facts(&self, flows: &[Flow], briefs: &[Placed], end: Instant) -> Result<Run> {
        let reports = self.cast.reports()?.clone();
        let observed = Observed {
            drill: self.drill,
            cast: &self.cast,
            reports: &reports,
            faults: &self.begun,
            led: self.led.as_deref(),
            end,
        };
        let mut run = account::run(&observed, flows, briefs)?;
        let pops: Vec<String> = self.mesh.sites().iter().map(|s| s.id.clone()).collect();
        let data = self.mesh.dir().join("data");
        let deadline = endpoint::now() + RECORD_PATIENCE;
        loop {
            run.records = account::records(&observed, flows, briefs, &data, &pops)?;
            if run.records.is_empty() || endpoint::now() >= deadline {
                break;
            }
            tokio::time::sleep(TICK).await;
        }
        run.crashed.clone_from(&self.crashed);
        run.logs = timeline::logged(&self.mesh.dir().join("log"), self.wall);
        account::events(&mut run, &observed, self.notes.all());
        Ok(run)
    }

    /// Ends processes; a stopped one would not hear the polite word.
    async fn close(mut self) -> Result<()> {
        self.lookout = None;
        drop(self.cast);
        let mut mesh = self.mesh;
        let nodes: Vec<Node> = mesh.nodes().cloned().collect();
        for node in &nodes {
            mesh.signal(node, Signal::CONT)?;
        }
        tokio::task::spawn_blocking(move || mesh.stop_all(Duration::from_secs(2)))
            .await
            .context("stopping the mesh failed")
    }
}

/// Standing calls of which a side is there.
fn standing(live: &BTreeMap<String, [Option<Live>; 2]>) -> usize {
    live.keys().filter(|to| is_standing(to)).count()
}

/// Standing calls of which both sides hear.
fn hearing(live: &BTreeMap<String, [Option<Live>; 2]>) -> usize {
    let now = endpoint::now();
    let hears = |side: &Option<Live>| {
        let heard = |live: &Live| live.last_voice.is_some_and(|at| now - at < HEARS);
        side.as_ref().is_some_and(|live| live.holding || heard(live))
    };
    live.iter().filter(|(to, sides)| is_standing(to) && sides.iter().all(hears)).count()
}
