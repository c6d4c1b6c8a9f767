//! Provisions the mesh through raft, one command after the other, and remembers what was
//! acknowledged. It asks whichever node answers, and repeats a request under its own id until an
//! outcome comes.

use std::collections::BTreeMap;
use std::collections::VecDeque;

use proto::control::{Pop, Route, RouteCandidate, Transport, Trunk};
use proto::raft::allocate_number::Which;
use proto::raft::command::Kind;
use proto::raft::{AllocateNumber, Command, ImportNumbers, Outcome, SteerPop, outcome};
use proto::time::{Duration, Instant};

use super::net::{REGIONS, carrier_sip, pop_sip};
use super::plan::{FIRST_CALL, Plan};

/// Names of the POPs, by region.
pub const POPS: [&str; REGIONS] = ["fra1", "iad1", "sin1"];
/// What the carrier of a region has: "+" and this, then digits.
pub const PREFIXES: [&str; REGIONS] = ["4930", "1202", "656"];
/// Digits that follow.
const DIGITS: [usize; REGIONS] = [8, 7, 7];
/// An attempt that got no answer is repeated after this.
const PATIENCE: Duration = Duration::from_millis(1_500);
const PAUSE: Duration = Duration::from_millis(100);
const POOL: &str = "berlin";

/// A number behind the carrier of `region`; different for each `n`.
pub fn number(region: usize, n: usize) -> String {
    let prefix = PREFIXES.get(region).copied().unwrap_or_default();
    let width = DIGITS.get(region).copied().unwrap_or(7);
    // Subscriber numbers do not begin with 0 or 1.
    format!("+{prefix}{:0width$}", 5 * 10_usize.pow(u32::try_from(width).unwrap_or(1) - 1) + n)
}

/// Id of the trunk to a region's carrier.
pub fn trunk_id(region: usize) -> String {
    format!("carrier-{}", POPS.get(region).copied().unwrap_or_default())
}

/// The operator.
pub struct Operator {
    /// Not before, and what.
    queue: VecDeque<(Instant, Command)>,
    /// Asked now: node, its life, proposal, since when.
    asked: Option<Asked>,
    next_node: usize,
    not_before: Instant,
    /// Acknowledged allocations: number, tenant.
    pub acknowledged: Vec<(String, String)>,
    /// Epochs the POPs got.
    pub epochs: BTreeMap<String, u64>,
    /// Commands refused, in words.
    pub refused: Vec<String>,
    registrations: u64,
    steered: u64,
}

/// An attempt under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    pub node: usize,
    pub life: u64,
    pub proposal: u64,
    since: Instant,
}

impl Operator {
    pub fn new(plan: &Plan) -> Self {
        let mut queue: VecDeque<(Instant, Command)> =
            provisioning().into_iter().map(|kind| (Instant::ZERO, kind)).collect();
        for (n, (_, command)) in queue.iter_mut().enumerate() {
            command.request_id = format!("provision-{n}");
        }
        let spread = plan.ends() - FIRST_CALL;
        for n in 0..plan.allocations {
            let at = FIRST_CALL + spread.mul_f64(n as f64 / plan.allocations.max(1) as f64);
            let which = Some(Which::AnyOfPool(POOL.into()));
            let kind =
                AllocateNumber { tenant: format!("tenant-{n}"), which, candidates: Vec::new() };
            let mut command = operator(Kind::AllocateNumber(kind));
            command.request_id = format!("allocate-{n}");
            queue.push_back((at, command));
        }
        Self {
            queue,
            asked: None,
            next_node: 0,
            not_before: Instant::ZERO,
            acknowledged: Vec::new(),
            epochs: BTreeMap::new(),
            refused: Vec::new(),
            registrations: 0,
            steered: 0,
        }
    }

    /// A POP registers anew: its process is another one, or was found lost.
    pub fn register(&mut self, region: usize, now: Instant) {
        let mut command = registration(region);
        self.registrations += 1;
        command.request_id = format!("register-{}", self.registrations);
        // Behind what is asked now.
        let at = usize::from(self.asked.is_some()).min(self.queue.len());
        self.queue.insert(at, (now, command));
    }

    /// Wants a POP drained, or back.
    pub fn steer(&mut self, region: usize, draining: bool, now: Instant) {
        let pop_id = POPS.get(region).copied().unwrap_or_default().to_owned();
        let mut command =
            operator(Kind::SteerPop(SteerPop { pop_id, cordoned: draining, draining }));
        self.steered += 1;
        command.request_id = format!("steer-{}", self.steered);
        // Behind what is asked now and what was wanted before.
        let at = usize::from(self.asked.is_some()).min(self.queue.len());
        self.queue.insert(at, (now, command));
    }

    /// Everything is acknowledged.
    pub fn is_done(&self) -> bool {
        self.queue.is_empty()
    }

    /// When it wants to act.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let (at, _) = self.queue.front()?;
        Some(self.asked.map_or((*at).max(self.not_before), |asked| asked.since + PATIENCE))
    }

    /// What to propose now, and where.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<(usize, Command)> {
        if let Some(asked) = self.asked {
            if now < asked.since + PATIENCE {
                return None;
            }
            self.refused_by(None, now);
            return None;
        }
        let (at, command) = self.queue.front()?;
        (*at <= now && self.not_before <= now).then(|| (self.next_node, command.clone()))
    }

    /// The node took the proposal.
    pub fn taken(&mut self, node: usize, life: u64, proposal: u64, now: Instant) {
        self.asked = Some(Asked { node, life, proposal, since: now });
    }

    /// The node did not take it, lost it or is dead: try the leader it names, or the next.
    pub fn refused_by(&mut self, leader: Option<usize>, now: Instant) {
        self.asked = None;
        self.next_node = leader.unwrap_or((self.next_node + 1) % REGIONS);
        self.not_before = now + PAUSE;
    }

    /// Whether this is what we wait for.
    pub fn waits_for(&self, node: usize, life: u64, proposal: u64) -> bool {
        self.asked.is_some_and(|a| (a.node, a.life, a.proposal) == (node, life, proposal))
    }

    /// It was applied.
    pub fn handle_outcome(&mut self, outcome: &Outcome) {
        self.asked = None;
        let Some((_, command)) = self.queue.pop_front() else { return };
        match (&outcome.kind, command.kind) {
            (Some(outcome::Kind::Rejected(why)), kind) => {
                self.refused.push(format!("{kind:?}: {}", why.message));
            }
            (Some(outcome::Kind::Number(number)), _) => {
                self.acknowledged.push((number.e164.clone(), number.tenant.clone()));
            }
            (Some(outcome::Kind::Pop(pop)), _) => {
                self.epochs.insert(pop.pop_id.clone(), pop.epoch);
            }
            _ => {}
        }
    }
}

fn operator(kind: Kind) -> Command {
    Command { request_id: String::new(), principal: "operator/sim".into(), kind: Some(kind) }
}

fn registration(region: usize) -> Command {
    let pop_id = POPS.get(region).copied().unwrap_or_default();
    let pop = Pop {
        pop_id: pop_id.into(),
        region: format!("region-{region}"),
        overlay_address: "198.18.0.9:4433".into(),
        sip_addresses: vec![format!("udp:{}", pop_sip(region))],
        version: "sim".into(),
        ..Pop::default()
    };
    Command { principal: format!("pop/{pop_id}"), ..operator(Kind::RegisterPop(pop)) }
}

fn provisioning() -> Vec<Command> {
    let mut commands = Vec::new();
    commands.extend((0..REGIONS).map(registration));
    for (region, pop_id) in POPS.into_iter().enumerate() {
        commands.push(operator(Kind::PutTrunk(Trunk {
            trunk_id: trunk_id(region),
            pop_ids: vec![pop_id.into()],
            host: carrier_sip(region).ip().to_string(),
            port: u32::from(carrier_sip(region).port()),
            transport: Transport::Udp.into(),
            sources: vec![carrier_sip(region).ip().to_string()],
            ..Trunk::default()
        })));
    }
    for (region, prefix) in PREFIXES.into_iter().enumerate() {
        let candidate = RouteCandidate { trunk_id: trunk_id(region), priority: 1, weight: 1 };
        commands.push(operator(Kind::PutRoute(Route {
            route_id: format!("to-{prefix}"),
            prefix: prefix.into(),
            candidates: vec![candidate],
        })));
    }
    let e164 = (0..100).map(|n| format!("+49305550{n:04}")).collect();
    commands.push(operator(Kind::ImportNumbers(ImportNumbers { pool: POOL.into(), e164 })));
    commands
}
