//! POPs that beat to every node, and what the leader finds of them. A POP that a majority hears
//! steadily must never expire, whatever happens to the leader; at the end the dead ones have, and
//! no other.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos::rng::Rng;
use control_core::liveness::{FRESH, TTL};
use proto::control::Pop;
use proto::raft::command::Kind;
use proto::raft::record_pops::Found;
use proto::raft::{Command, PopEpoch, PopHearing, PopSighting};
use proto::time::Instant;

use super::plan::{MS, Micros, Mutant, PopFault};
use super::world::{Due, Phase, World};
use crate::linear::Rule;
use crate::sim::control::node_id;

/// The POPs of every run.
pub const POPS: [&str; 2] = ["fra1", "sin1"];
/// Between two beats, as POPs do it.
const BEAT: Micros = 500 * MS;
/// A POP does not see one that is dead for so long.
const UNSEEN: Micros = 700 * MS;
/// A dead process's last word may be so late; then its connection breaks.
const LATE: Micros = 41 * MS;
/// A finding takes no longer to be written down, or never is.
const FINDING: Micros = 5_000 * MS;
/// Ticks of a node between two looks.
const LOOK_TICKS: u64 = 4;
/// Looks between two questions that are not urgent.
const ASK_LOOKS: u64 = 5;

/// The POPs of a run.
pub struct Pops {
    rng: Rng,
    /// Since when.
    dead: BTreeMap<usize, Micros>,
    /// Until when they were.
    back: BTreeMap<usize, Micros>,
    /// Beats of this POP do not reach this node; how often: cuts overlap.
    cut: BTreeMap<(usize, usize), u32>,
    /// Since when, and until when, a node heard a POP without a gap.
    heard: BTreeMap<(usize, usize), (Micros, Micros)>,
}

impl Pops {
    pub fn new(seed: u64) -> Self {
        let (dead, back, cut, heard) = <_>::default();
        Self { rng: Rng::split(seed, "pops"), dead, back, cut, heard }
    }

    fn mend(&mut self, pop: usize, node: usize) {
        if let Some(count) = self.cut.get_mut(&(pop, node)) {
            *count -= 1;
        }
        self.cut.retain(|_, count| *count > 0);
    }
}

pub fn instant(at: Micros) -> Instant {
    Instant::from_nanos(at * 1_000)
}

fn micros(duration: Duration) -> Micros {
    duration.as_micros() as Micros
}

impl World {
    /// All POPs beat, and register if nobody knows them.
    pub fn beats(&mut self) {
        self.push(self.now + BEAT, Due::Beats);
        for pop in 0..POPS.len() {
            let known = self.known(pop);
            if self.pops.dead.contains_key(&pop) && known.is_some() {
                continue;
            }
            let Some(Pop { epoch, fenced: false, .. }) = known else {
                self.register(pop, known.map_or(0, |pop| pop.epoch));
                continue;
            };
            for node in 0..self.plan.nodes {
                let late = 300 + self.pops.rng.below(40 * MS);
                if !self.pops.cut.contains_key(&(pop, node)) {
                    self.push(self.now + late, Due::Beat { pop, node, epoch });
                }
            }
        }
    }

    /// As the POP was told.
    fn known(&self, pop: usize) -> Option<Pop> {
        let known = |node: &super::node::Node| node.replica.as_ref()?.state().pop(POPS[pop]);
        self.nodes.iter().filter_map(known).max_by_key(|pop| (pop.epoch, pop.fenced))
    }

    /// For the first time, or because the epoch before is over.
    fn register(&mut self, pop: usize, before: u64) {
        let pop_id = POPS[pop];
        let kind = Kind::RegisterPop(Pop { pop_id: pop_id.into(), ..Pop::default() });
        let (request_id, principal) =
            (format!("register-{pop_id}-{before}"), format!("pop/{pop_id}"));
        let command = Command { request_id, principal, kind: Some(kind) };
        for node in 0..self.plan.nodes {
            let wall_ms = self.wall_ms(node);
            let place = &mut self.nodes[node];
            let name = place.name();
            if let Some(replica) = place.replica.as_mut().filter(|_| place.stopped.is_none()) {
                // Only a leader takes it; the POP tries again until it is known.
                let _ = replica.propose(name, command.clone(), wall_ms);
                self.drain(node);
            }
        }
    }

    pub fn beat(&mut self, pop: usize, node: usize, epoch: u64) {
        let now = self.now;
        let Some(liveness) = &mut self.nodes[node].liveness else { return };
        liveness.handle_beat(POPS[pop], epoch, instant(now));
        let unseen = self.pops.dead.iter().filter(|(_, since)| now - **since >= UNSEEN);
        let unseen: Vec<String> = unseen.map(|(pop, _)| POPS[*pop].to_owned()).collect();
        liveness.handle_word(POPS[pop], epoch, &unseen);
        let heard = self.pops.heard.entry((pop, node)).or_insert((now, now));
        if now - heard.1 > 2 * BEAT {
            heard.0 = now;
        }
        heard.1 = now;
        self.trace.note(now, &[15, pop as u64, node as u64], || {
            format!("node {node} hears {}", POPS[pop])
        });
    }

    /// The connection of a process that died, unless it was started again meanwhile.
    pub fn broken(&mut self, pop: usize, node: usize, epoch: u64) {
        let now = instant(self.now);
        if let Some(liveness) = &mut self.nodes[node].liveness {
            liveness.handle_broken(POPS[pop], epoch, now);
        }
    }

    /// A node looks at its POPs, with some of its ticks.
    pub fn look(&mut self, node: usize) {
        let now = instant(self.now);
        let place = &mut self.nodes[node];
        let (Some(replica), Some(liveness)) = (&place.replica, &mut place.liveness) else { return };
        liveness.handle_tick(now);
        place.ticks += 1;
        if !place.ticks.is_multiple_of(LOOK_TICKS) {
            return;
        }
        liveness.handle_roster(replica.state().pops().collect::<Vec<_>>(), now);
        if replica.leader() != Some(node_id(node)) {
            return;
        }
        let (asked, urgent) = liveness.question(now);
        if urgent || place.ticks.is_multiple_of(LOOK_TICKS * ASK_LOOKS) {
            self.ask_about_pops(node, &asked);
        }
        let place = &mut self.nodes[node];
        let (Some(replica), Some(liveness)) = (&mut place.replica, &mut place.liveness) else {
            return;
        };
        let record = liveness.judge(&replica.voters(), now).record;
        replica.propose_pops(record.clone());
        record.found.iter().for_each(|found| self.found(node, found));
        record.fenced.iter().for_each(|fenced| self.fenced(node, fenced));
        self.drain(node);
    }

    fn ask_about_pops(&mut self, from: usize, asked: &[PopEpoch]) {
        let life = self.nodes[from].life;
        for to in (0..self.plan.nodes).filter(|to| *to != from) {
            if self.plan.mutant == Some(Mutant::OwnEarsOnly) {
                let silent = |pop: &PopEpoch| PopSighting {
                    pop_id: pop.pop_id.clone(),
                    epoch: pop.epoch,
                    hearing: PopHearing::Silent.into(),
                };
                let said = asked.iter().map(silent).collect();
                self.pops_said(to, from, life, said);
                continue;
            }
            for at in self.links.between(from, to, self.now) {
                self.push(at, Due::PopsAsked { from, to, life, asked: asked.to_vec() });
            }
        }
    }

    pub fn pops_asked(&mut self, from: usize, to: usize, life: u64, asked: &[PopEpoch]) {
        let Some(liveness) = &self.nodes[to].liveness else { return };
        let said = liveness.answer(asked, instant(self.now));
        for at in self.links.between(to, from, self.now) {
            self.push(at, Due::PopsSaid { from: to, to: from, life, said: said.clone() });
        }
    }

    pub fn pops_said(&mut self, from: usize, to: usize, life: u64, said: Vec<PopSighting>) {
        let now = instant(self.now);
        let place = &mut self.nodes[to];
        if let Some(liveness) = place.liveness.as_mut().filter(|_| place.life == life) {
            liveness.handle_answer(node_id(from).0, &said, now);
        }
    }

    /// A leader found something: was it right?
    fn found(&mut self, node: usize, found: &Found) {
        self.trace.note(self.now, &[16, node as u64, u64::from(found.expired)], || {
            format!("node {node} found {found:?}")
        });
        let Some(pop) = POPS.iter().position(|pop| *pop == found.pop_id) else { return };
        self.counts.expired += u64::from(found.expired);
        if found.expired {
            self.check_unheard(node, pop, "expire");
        }
    }

    /// The epoch of a POP is over: was it dead?
    fn fenced(&mut self, node: usize, fenced: &PopEpoch) {
        self.trace.note(self.now, &[18, node as u64, fenced.epoch], || {
            format!("node {node} gave up {fenced:?}")
        });
        let Some(pop) = POPS.iter().position(|pop| *pop == fenced.pop_id) else { return };
        self.counts.fenced += 1;
        self.check_unheard(node, pop, "be given up");
        if !self.was_dead(pop) {
            let what = format!("node {node} gave {} up, which the other POP sees", POPS[pop]);
            self.complain(Rule::Liveness, what);
        }
    }

    /// It is, or was when this was found.
    fn was_dead(&self, pop: usize) -> bool {
        let back = self.pops.back.get(&pop).is_some_and(|at| self.now - at < FINDING);
        self.pops.dead.contains_key(&pop) || back
    }

    fn check_unheard(&mut self, node: usize, pop: usize, what: &str) {
        let long = micros(TTL + FRESH) + BEAT;
        let hears = |(at, (since, last)): (&(usize, usize), &(Micros, Micros))| {
            at.0 == pop && self.now - last <= 2 * BEAT && last - since >= long
        };
        let hearing = self.pops.heard.iter().filter(|heard| hears(*heard)).count();
        if hearing * 2 > self.plan.nodes && !self.was_dead(pop) {
            let (name, nodes) = (POPS[pop], self.plan.nodes);
            let what =
                format!("node {node} let {name} {what}, which {hearing} of {nodes} nodes hear");
            self.complain(Rule::Liveness, what);
        }
    }

    pub fn begin_pop(&mut self, at: usize) {
        if self.phase != Phase::Load {
            return;
        }
        let fault = self.plan.pop_faults[at].1;
        self.trace.note(self.now, &[17, at as u64], || format!("FAULT {fault:?}"));
        let lasts = match fault {
            PopFault::Cut { pop, node, lasts } => {
                *self.pops.cut.entry((pop, node)).or_default() += 1;
                Some(lasts)
            }
            PopFault::Dies { pop, lasts } => {
                self.pops.dead.insert(pop, self.now);
                let epoch = self.known(pop).map_or(0, |pop| pop.epoch);
                for node in 0..self.plan.nodes {
                    if !self.pops.cut.contains_key(&(pop, node)) {
                        self.push(self.now + LATE, Due::Broken { pop, node, epoch });
                    }
                }
                lasts
            }
        };
        if let Some(lasts) = lasts {
            self.push(self.now + lasts, Due::EndPop(at));
        }
    }

    pub fn end_pop(&mut self, at: usize) {
        match self.plan.pop_faults[at].1 {
            PopFault::Cut { pop, node, .. } => self.pops.mend(pop, node),
            PopFault::Dies { pop, .. } => {
                self.pops.dead.remove(&pop);
                self.pops.back.insert(pop, self.now);
            }
        }
    }

    /// Each node knows who is dead.
    pub fn pops_are_level(&self) -> bool {
        let right = |node: &super::node::Node| {
            let Some(replica) = &node.replica else { return false };
            let all_dead = self.pops.dead.len() == POPS.len();
            (0..POPS.len()).all(|pop| {
                let dead = self.pops.dead.contains_key(&pop);
                // Who died last has no witness.
                let right = |known: &Pop| {
                    known.expired == dead && (known.fenced == dead || (all_dead && dead))
                };
                replica.state().pop(POPS[pop]).as_ref().is_none_or(right)
            })
        };
        self.nodes.iter().all(right)
    }
}
