//! POPs that beat to every node, and what the leader finds of them. A POP that a majority hears
//! steadily must never expire, whatever happens to the leader; at the end the dead ones have, and
//! no other.

use std::collections::{BTreeMap, BTreeSet};
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
/// Ticks of a node between two looks.
const LOOK_TICKS: u64 = 4;
/// Looks between two questions that are not urgent.
const ASK_LOOKS: u64 = 5;

/// The POPs of a run.
pub struct Pops {
    rng: Rng,
    dead: BTreeSet<usize>,
    /// Beats of this POP do not reach this node; how often: cuts overlap.
    cut: BTreeMap<(usize, usize), u32>,
    /// Since when, and until when, a node heard a POP without a gap.
    heard: BTreeMap<(usize, usize), (Micros, Micros)>,
}

impl Pops {
    pub fn new(seed: u64) -> Self {
        let (dead, cut, heard) = (BTreeSet::new(), BTreeMap::new(), BTreeMap::new());
        Self { rng: Rng::split(seed, "pops"), dead, cut, heard }
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
            let Some(epoch) = self.epoch(pop) else {
                self.register(pop);
                continue;
            };
            if self.pops.dead.contains(&pop) {
                continue;
            }
            for node in 0..self.plan.nodes {
                let late = 300 + self.pops.rng.below(40 * MS);
                if !self.pops.cut.contains_key(&(pop, node)) {
                    self.push(self.now + late, Due::Beat { pop, node, epoch });
                }
            }
        }
    }

    /// As the POP was told.
    fn epoch(&self, pop: usize) -> Option<u64> {
        let known =
            |node: &super::node::Node| Some(node.replica.as_ref()?.state().pop(POPS[pop])?.epoch);
        self.nodes.iter().filter_map(known).max()
    }

    fn register(&mut self, pop: usize) {
        let pop_id = POPS[pop];
        let kind = Kind::RegisterPop(Pop { pop_id: pop_id.into(), ..Pop::default() });
        let (request_id, principal) = (format!("register-{pop_id}"), format!("pop/{pop_id}"));
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
        let heard = self.pops.heard.entry((pop, node)).or_insert((now, now));
        if now - heard.1 > 2 * BEAT {
            heard.0 = now;
        }
        heard.1 = now;
        self.trace.note(now, &[15, pop as u64, node as u64], || {
            format!("node {node} hears {}", POPS[pop])
        });
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
        let roster = replica.state().pops().map(|pop| (pop.pop_id, pop.epoch, pop.expired));
        liveness.handle_roster(roster.collect::<Vec<_>>(), now);
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
        let found = liveness.judge(&replica.voters(), now).found;
        replica.propose_pops(found.clone());
        found.iter().for_each(|found| self.found(node, found));
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
        let long = micros(TTL + FRESH) + BEAT;
        let hears = |(at, (since, last)): (&(usize, usize), &(Micros, Micros))| {
            at.0 == pop && self.now - last <= 2 * BEAT && last - since >= long
        };
        let hearing = self.pops.heard.iter().filter(|heard| hears(*heard)).count();
        if found.expired && hearing * 2 > self.plan.nodes {
            let what = format!(
                "node {node} let {} expire, which {hearing} of {} nodes hear",
                found.pop_id, self.plan.nodes
            );
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
                self.pops.dead.insert(pop);
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
            PopFault::Dies { pop, .. } => _ = self.pops.dead.remove(&pop),
        }
    }

    /// Each node knows who is dead.
    pub fn pops_are_level(&self) -> bool {
        let right = |node: &super::node::Node| {
            let Some(replica) = &node.replica else { return false };
            (0..POPS.len()).all(|pop| {
                let known = replica.state().pop(POPS[pop]);
                known.is_none_or(|known| known.expired == self.pops.dead.contains(&pop))
            })
        };
        self.nodes.iter().all(right)
    }
}
