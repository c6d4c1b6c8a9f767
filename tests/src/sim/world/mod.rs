//! The clock, the queue of what is under way, and the loop.

mod links;
mod lost;
mod nodes;
mod sites;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use bytes::Bytes;
use chaos::rng::Rng;
use control_core::replica::Position;
use pop_core::call::Cdr;
use pop_core::pop::StreamEvent;
use pop_core::view::ViewUpdate;
use proto::time::{Duration, Instant, earlier};

use super::carrier::Carrier;
use super::control::{ControlNode, Rows, TICK};
use super::net::{Net, PAIRS, Pair, RECONNECT, REGIONS, pop_sip};
use super::operator::Operator;
use super::plan::{Fault, Mutation, Plan};
use super::pop::{PopNode, Wire, pop_id};
use super::trace::Trace;

/// Unix time at the beginning.
const EPOCH_MS: u64 = 1_790_000_000_000;
/// A run that is not quiet so long after its plan's end never will be: more than Timer B or C's
/// cleaning up, less than a ring limit.
const PATIENCE: Duration = Duration::from_secs(150);
/// Steps without time passing; more is a machine that never gets what it waits for.
const STEPS_MAX: u64 = 10_000;
/// A watch that ended is begun anew after this.
const WATCH_AGAIN: Duration = Duration::from_millis(300);

/// Something that will happen.
enum Due {
    /// A UDP datagram arrives.
    Udp {
        from: SocketAddr,
        to: SocketAddr,
        bytes: Bytes,
    },
    /// An overlay datagram arrives.
    Datagram {
        from: usize,
        to: usize,
        bytes: Bytes,
    },
    /// Something on a call stream of link generation `link` arrives.
    Stream {
        to: usize,
        link: (Pair, u64),
        wire: Wire,
        event: StreamEvent,
    },
    /// Links of this pair are looked at: idle for too long, or free again.
    LinkCheck {
        ends: Pair,
        change: u64,
    },
    Raft {
        from: usize,
        to: usize,
        life: u64,
        bytes: Bytes,
    },
    /// A snapshot and its tables.
    Tables {
        from: usize,
        to: usize,
        life: u64,
        message: Bytes,
        at: Position,
        rows: Rows,
    },
    Synced {
        node: usize,
        life: u64,
    },
    Tick {
        node: usize,
        life: u64,
    },
    View {
        pop: usize,
        connection: u64,
        update: ViewUpdate,
    },
    Watch {
        pop: usize,
    },
    WatchClosed {
        pop: usize,
        connection: u64,
    },
    /// The control plane finds an epoch of a POP lost.
    Verdict {
        pop: usize,
        epoch: u64,
    },
    /// A POP's heartbeat.
    Beat {
        pop: usize,
    },
    Fault(Fault),
    Healed(Fault),
}

/// The connection of two POPs.
#[derive(Default)]
struct Link {
    up: bool,
    /// Counts connections.
    generation: u64,
    /// Counts cuts and heals.
    changes: u64,
    /// What waits for the way to be free.
    waiting: Vec<(usize, Wire, StreamEvent)>,
    /// Streams that live, and which of their ends hear no more.
    streams: BTreeMap<Wire, BTreeSet<usize>>,
}

/// The mesh and everything around it.
pub struct World {
    pub now: Instant,
    pub plan: Plan,
    pub trace: Trace,
    pub control: Vec<ControlNode>,
    pub pops: Vec<PopNode>,
    pub carriers: Vec<Carrier>,
    pub operator: Operator,
    /// By POP, as written.
    pub cdrs: Vec<Cdr>,
    /// Halted replicas and other things that must never happen.
    pub complaints: Vec<String>,
    net: Net,
    links: BTreeMap<Pair, Link>,
    queue: BTreeMap<(Instant, u64), Due>,
    queued: u64,
    skew_ms: Vec<u64>,
    sync: Rng,
    counted: u64,
    /// Steps without time passing.
    steps_now: u64,
}

impl World {
    pub fn new(plan: Plan) -> Self {
        let mut rng = Rng::split(plan.seed, "world");
        let regions = || 0..REGIONS;
        let mut world = Self {
            now: Instant::ZERO,
            trace: Trace::new(),
            control: regions().map(ControlNode::new).collect(),
            pops: regions().map(|region| PopNode::new(region, plan.seed)).collect(),
            carriers: regions().map(|r| Carrier::new(r, plan.seed, &plan.calls)).collect(),
            operator: Operator::new(&plan),
            cdrs: Vec::new(),
            complaints: Vec::new(),
            net: Net::new(plan.seed, plan.conditions),
            links: PAIRS.into_iter().map(|ends| (ends, Link::default())).collect(),
            queue: BTreeMap::new(),
            queued: 0,
            // Clocks differ by up to a minute.
            skew_ms: regions().map(|_| rng.below(60_000)).collect(),
            sync: Rng::split(plan.seed, "disks"),
            counted: 0,
            steps_now: 0,
            plan,
        };
        for node in 0..REGIONS {
            let offset = Duration::from_millis(7 * node as u64);
            world.schedule(Instant::ZERO + TICK + offset, Due::Tick { node, life: 1 });
            world.schedule(Instant::from_millis(500), Due::Watch { pop: node });
            world.schedule(Instant::from_millis(250), Due::Beat { pop: node });
        }
        for ends in PAIRS {
            world.schedule(Instant::ZERO + RECONNECT, Due::LinkCheck { ends, change: 0 });
        }
        for (at, fault) in world.plan.faults.clone() {
            world.schedule(at, Due::Fault(fault));
        }
        world
    }

    /// Runs until nothing is left to do, at most until the plan's end and some patience.
    pub fn run(&mut self) {
        let end = self.plan.ends() + PATIENCE;
        while self.now < end && !(self.now > self.plan.ends() && self.is_quiet()) {
            self.step();
        }
    }

    /// Nothing is under way but ticks and watches.
    pub fn is_quiet(&self) -> bool {
        let idle = |node: &PopNode| node.pop.is_idle() && node.media.legs() == 0;
        self.operator.is_done()
            && self.pops.iter().all(|node| node.is_up)
            && self.pops.iter().all(|node| idle(node) && node.poll_timeout().is_none())
            && self.carriers.iter().all(Carrier::is_idle)
            && self.views_agree()
    }

    /// Every replica and every POP has what the others have.
    pub fn views_agree(&self) -> bool {
        let newest = self.control.iter().map(|n| n.replica.as_ref().map(|r| r.state().revision()));
        let mut all: Vec<_> = newest.collect();
        all.extend(self.pops.iter().map(|node| Some(node.pop.view().revision())));
        all.windows(2).all(|w| w.first() == w.last())
    }

    /// To the next moment at which anything happens.
    fn step(&mut self) {
        let mut next = self.queue.keys().next().map(|(at, _)| *at);
        for at in self.pops.iter().filter(|node| node.is_up).map(PopNode::poll_timeout) {
            next = earlier(next, at);
        }
        for at in self.carriers.iter().map(Carrier::poll_timeout) {
            next = earlier(next, at);
        }
        next = earlier(next, self.operator.poll_timeout());
        let next = next.unwrap_or(self.now).max(self.now);
        self.steps_now = if next > self.now { 0 } else { self.steps_now + 1 };
        self.now = next;
        assert!(self.steps_now < STEPS_MAX, "time stands still: {}", self.impatient());
        let now = self.now;
        while let Some(entry) = self.queue.first_entry().filter(|entry| entry.key().0 <= now) {
            let due = entry.remove();
            self.happen(due);
        }
        for region in 0..REGIONS {
            let up = self.pops.get(region).filter(|node| node.is_up);
            if up.and_then(PopNode::poll_timeout).is_some_and(|at| at <= now) {
                self.on_pop(region, |node| {
                    node.pop.handle_timeout(now);
                    node.media.handle_timeout(now);
                });
            }
            if let Some(carrier) = self.carriers.get_mut(region)
                && carrier.poll_timeout().is_some_and(|at| at <= now)
            {
                carrier.handle_timeout(now);
                self.drain_carrier(region);
            }
        }
        self.operate();
    }

    /// Who wants to be woken in the past, again and again.
    fn impatient(&self) -> String {
        let mut who = Vec::new();
        for node in &self.pops {
            who.push(format!("{} calls {:?}", node.id, node.pop.poll_timeout()));
            who.push(format!("{} media {:?}", node.id, node.media.poll_timeout()));
        }
        who.extend(self.carriers.iter().map(|c| format!("carrier {:?}", c.poll_timeout())));
        who.push(format!("operator {:?}", self.operator.poll_timeout()));
        format!("now {}; {}", self.now, who.join(", "))
    }

    fn schedule(&mut self, at: Instant, due: Due) {
        self.queued += 1;
        self.queue.insert((at, self.queued), due);
    }

    fn happen(&mut self, due: Due) {
        let now = self.now;
        match due {
            Due::Udp { from, to, bytes } => self.udp(from, to, &bytes),
            Due::Datagram { from, to, bytes } => {
                self.trace.note(now, format_args!("datagram {from} > {to}"), &bytes);
                self.on_pop(to, |node| node.media.handle_datagram(&pop_id(from), &bytes, now));
            }
            Due::Stream { to, link, wire, event } => {
                if self.links.get(&link.0).is_some_and(|l| l.up && l.generation == link.1) {
                    self.stream_event(to, link.0, wire, event);
                }
            }
            Due::LinkCheck { ends, change } => self.check_link(ends, change),
            Due::Raft { from, to, life, bytes } => self.on_control(to, life, |node| {
                if let Some(replica) = &mut node.replica {
                    let from = super::control::node_id(from);
                    replica.handle_peer(from, &bytes).expect("peers of ours behave");
                }
            }),
            Due::Tables { from, to, life, message, at, rows } => {
                self.on_control(to, life, |node| node.tables(from, &message, at, rows));
            }
            Due::Synced { node, life } => self.on_control(node, life, ControlNode::synced),
            Due::Tick { node, life } => {
                let wall_ms = self.wall_ms(node);
                self.on_control(node, life, |node| {
                    if let Some(replica) = &mut node.replica {
                        replica.handle_tick(wall_ms);
                    }
                });
                if self.control.get(node).is_some_and(|n| n.life == life && n.replica.is_some()) {
                    self.schedule(now + TICK, Due::Tick { node, life });
                }
            }
            Due::View { pop, connection, update } => self.view(pop, connection, update),
            Due::Watch { pop } => self.watch(pop),
            Due::WatchClosed { pop, connection } => self.watch_closed(pop, connection),
            Due::Verdict { pop, epoch } => self.verdict(pop, epoch),
            Due::Beat { pop } => self.beat(pop),
            Due::Fault(fault) => self.break_down(fault),
            Due::Healed(fault) => self.heal(fault),
        }
    }

    fn wall_ms(&self, node: usize) -> u64 {
        EPOCH_MS + self.now.as_millis() + self.skew_ms.get(node).copied().unwrap_or(0)
    }

    fn seventh(&mut self) -> bool {
        self.counted += 1;
        self.counted.is_multiple_of(7)
    }

    fn is_deaf_to(&self, to: SocketAddr, bytes: &[u8]) -> bool {
        self.plan.mutation == Some(Mutation::DeafToBye)
            && bytes.starts_with(b"BYE ")
            && (0..REGIONS).any(|region| pop_sip(region) == to)
    }
}
