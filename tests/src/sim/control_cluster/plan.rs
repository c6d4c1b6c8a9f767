//! What happens in a run, drawn from its seed.

use chaos::rng::Rng;

use super::pops::POPS;

/// Microseconds of virtual time.
pub type Micros = u64;

pub const MS: Micros = 1_000;
pub const SECOND: Micros = 1_000_000;

/// Something breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// kill -9, and a start after this time.
    Crash(usize, Micros),
    /// Of all at once.
    CrashAll(Micros),
    /// SIGSTOP, and SIGCONT after this time.
    Pause(usize, Micros),
    /// No messages between two nodes.
    Cut(usize, usize, Micros),
    /// No messages from the first to the second.
    CutOneWay(usize, usize, Micros),
    /// No messages from or to a node.
    Isolate(usize, Micros),
    /// Nobody hears a node that hears everybody.
    Mute(usize, Micros),
    /// Nothing becomes durable.
    Stall(usize, Micros),
    /// The disk fails: the process ends, and starts after this time.
    DiskError(usize, Micros),
    /// The wall clock jumps, by ms.
    ClockStep(usize, i64),
    /// The leader is told to hand over.
    Transfer,
    /// Nobody asks for long: all clocks jump, by ms. Quarantines end, requests are forgotten.
    TimePasses(u64),
}

/// Something happens to a POP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PopFault {
    /// Its beats do not reach a node.
    Cut {
        /// Which POP.
        pop: usize,
        /// Which node.
        node: usize,
        /// For this time.
        lasts: Micros,
    },
    /// It beats no more, or for this time not.
    Dies {
        /// Which POP.
        pop: usize,
        /// `None`: for good.
        lasts: Option<Micros>,
    },
}

/// Members change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MemberFault {
    /// A voter gets the log only, and its vote back after this time.
    Demote(usize, Micros),
    /// A new node comes, learns and votes.
    Join,
}

/// A bug put in on purpose: the checker must see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mutant {
    /// A linearizable read looks at the asked node's state at once.
    ReadsAskNobody,
    /// The replica is told that a write is durable before it is, so messages leave too early.
    AckBeforeDurable,
    /// Sync returns, and the last writes are not there after a crash.
    SkipSync,
    /// A retry counts as a new request.
    NoDedupe,
    /// The disk keeps the term of a vote, and not whom it went to.
    VoteForgotten,
    /// Term and vote are stored with the write after the one they belong to.
    HardStateLate,
    /// Watchers miss an event now and then.
    WatchDropsEvent,
    /// Snapshots come without the table of requests.
    SnapshotWithoutRequests,
    /// One replica picks another free number than the others.
    LocalPick,
    /// Half of the acknowledgements say that the answer of another request.
    CrossedAnswers,
    /// A leader lets a POP expire that it alone does not hear.
    OwnEarsOnly,
    /// A reservation holds its numbers longer than was told.
    HeldTooLong,
    /// Of several numbers at once one is missing, and half of the time nothing is told of the rest.
    PartOfMany,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::ReadsAskNobody,
        Self::AckBeforeDurable,
        Self::SkipSync,
        Self::NoDedupe,
        Self::VoteForgotten,
        Self::HardStateLate,
        Self::WatchDropsEvent,
        Self::SnapshotWithoutRequests,
        Self::LocalPick,
        Self::CrossedAnswers,
        Self::OwnEarsOnly,
        Self::HeldTooLong,
        Self::PartOfMany,
    ];
}

/// The network and the disks of a run.
#[derive(Debug, Clone, Copy)]
pub struct Conditions {
    /// Share of messages between nodes that get lost.
    pub loss: f64,
    /// Share that arrive twice.
    pub double: f64,
    /// One way at least.
    pub delay: Micros,
    /// More, at random: messages overtake each other.
    pub jitter: Micros,
    /// Share of requests and answers of clients that get lost.
    pub client_loss: f64,
    /// A write takes up to this.
    pub disk: Micros,
}

/// A whole run.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Everything follows from it.
    pub seed: u64,
    /// Voters.
    pub nodes: usize,
    /// Clients, each asking one thing at a time.
    pub clients: usize,
    /// Watchers.
    pub watchers: usize,
    /// Numbers of the inventory, in two pools.
    pub numbers: usize,
    /// Trunks.
    pub trunks: usize,
    /// Clients ask until then; then everything heals.
    pub load: Micros,
    /// A client thinks up to this between two operations.
    pub think: Micros,
    /// Network and disks.
    pub conditions: Conditions,
    /// What breaks, and when.
    pub faults: Vec<(Micros, Fault)>,
    /// POPs beat in it: in every third one, as they take events from the others' time.
    pub pops: bool,
    /// What happens to POPs, and when.
    pub pop_faults: Vec<(Micros, PopFault)>,
    /// Members change, and when; not where POPs beat, as a majority is counted there.
    pub members: Vec<(Micros, MemberFault)>,
    /// At the end all nodes crash at once, before the last reads.
    pub crash_at_end: bool,
    /// Nobody looks into the replicas, not even they at each other: clients and watchers alone.
    pub blind: bool,
    /// A planted bug.
    pub mutant: Option<Mutant>,
}

impl Plan {
    /// The plan of a seed.
    pub fn draw(seed: u64) -> Self {
        let mut rng = Rng::split(seed, "plan");
        let nodes = if rng.below(5) == 0 { 5 } else { 3 };
        let load = SECOND * (4 + rng.below(6));
        let mut plan = Self {
            seed,
            nodes,
            clients: 3 + below(&mut rng, 4),
            watchers: 2,
            numbers: 4 + below(&mut rng, 6),
            trunks: 2,
            load,
            think: MS * (10 + rng.below(150)),
            conditions: conditions(&mut rng),
            faults: Vec::new(),
            pops: seed.is_multiple_of(3),
            pop_faults: pop_faults(&mut Rng::split(seed, "pop faults"), nodes, load),
            members: Vec::new(),
            crash_at_end: rng.below(2) == 0,
            blind: false,
            mutant: None,
        };
        for _ in 0..2 + rng.below(9) {
            let fault = fault(&mut rng, nodes);
            plan.faults.push((SECOND / 2 + rng.below(load - SECOND / 2), fault));
        }
        plan.faults.sort_by_key(|(at, _)| *at);
        if !plan.pops {
            plan.members = members(&mut Rng::split(seed, "members"), nodes, load);
        }
        plan
    }

    /// Whether a node comes later.
    pub fn joins(&self) -> bool {
        self.members.iter().any(|(_, fault)| *fault == MemberFault::Join)
    }

    /// Judged by what clients and watchers see alone.
    pub const fn blind(mut self) -> Self {
        self.blind = true;
        self
    }

    /// With a planted bug.
    pub const fn with(mut self, mutant: Mutant) -> Self {
        self.mutant = Some(mutant);
        self
    }
}

fn conditions(rng: &mut Rng) -> Conditions {
    let calm = rng.below(4) == 0;
    let slow_net = if rng.below(3) == 0 { 40 * MS } else { 2 * MS };
    let slow_disk = if rng.below(3) == 0 { 60 * MS } else { 3 * MS };
    let share = |rng: &mut Rng, most: f64| if calm { 0.0 } else { rng.next_f64() * most };
    Conditions {
        loss: share(rng, 0.15),
        double: share(rng, 0.1),
        delay: 300 + rng.below(slow_net),
        jitter: 1 + rng.below(if calm { 200 } else { 30 * MS }),
        client_loss: share(rng, 0.2),
        disk: 1 + rng.below(slow_disk),
    }
}

fn fault(rng: &mut Rng, nodes: usize) -> Fault {
    let node = below(rng, nodes);
    let other = (node + 1 + below(rng, nodes - 1)) % nodes;
    let lasts = MS * (50 + rng.below(1_500));
    match rng.below(15) {
        0..=2 => Fault::Crash(node, lasts),
        3 => Fault::CrashAll(lasts / 2),
        4 | 5 => Fault::Pause(node, lasts),
        6 => Fault::Cut(node, other, lasts),
        7 => Fault::CutOneWay(node, other, lasts),
        8 => Fault::Isolate(node, lasts),
        9 => Fault::Mute(node, lasts),
        10 => Fault::Stall(node, lasts),
        11 => Fault::DiskError(node, lasts / 2),
        12 => Fault::ClockStep(node, step(rng)),
        13 => Fault::Transfer,
        // Half of the quarantine the product knows, or more.
        _ => Fault::TimePasses(24 * 3_600_000 * (20 + rng.below(40))),
    }
}

fn pop_faults(rng: &mut Rng, nodes: usize, load: Micros) -> Vec<(Micros, PopFault)> {
    let mut faults = Vec::new();
    for _ in 0..rng.below(5) {
        let pop = below(rng, POPS.len());
        let lasts = SECOND / 2 + rng.below(5 * SECOND);
        let fault = match rng.below(6) {
            0 => PopFault::Dies { pop, lasts: None },
            1 => PopFault::Dies { pop, lasts: Some(lasts) },
            _ => PopFault::Cut { pop, node: below(rng, nodes), lasts },
        };
        faults.push((SECOND / 2 + rng.below(load - SECOND / 2), fault));
    }
    faults
}

fn members(rng: &mut Rng, nodes: usize, load: Micros) -> Vec<(Micros, MemberFault)> {
    let mut changes = Vec::new();
    if rng.below(2) == 0 {
        changes.push((SECOND / 2 + rng.below(load / 2), MemberFault::Join));
    }
    if rng.below(2) == 0 {
        let fault = MemberFault::Demote(below(rng, nodes), SECOND / 4 + rng.below(2 * SECOND));
        changes.push((SECOND / 2 + rng.below(load / 2), fault));
    }
    changes
}

fn step(rng: &mut Rng) -> i64 {
    let size = i64::try_from(1 + rng.below(7_200_000)).unwrap_or(1);
    if rng.below(2) == 0 { size } else { -size }
}

pub fn below(rng: &mut Rng, bound: usize) -> usize {
    usize::try_from(rng.below(bound as u64)).unwrap_or(0)
}
