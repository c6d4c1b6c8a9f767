//! What breaks, how it heals, and the phases of a run.

use super::client::last_reads;
use super::plan::{Fault, MS, Micros};
use super::world::{Due, Phase, World};
use crate::linear::Rule;
use crate::sim::control::node_id;

impl World {
    pub fn begin(&mut self, at: usize) {
        if self.phase != Phase::Load {
            return;
        }
        let fault = self.fault(at);
        self.trace.note(self.now, &[7, at as u64], || format!("FAULT {fault:?}"));
        match fault {
            Fault::Crash(node, down) => self.crash(node, down),
            Fault::DiskError(node, down) => self.crash(node, down),
            Fault::CrashAll(down) => (0..self.plan.nodes).for_each(|node| self.crash(node, down)),
            Fault::Pause(node, lasts) => {
                let place = &mut self.nodes[node];
                if place.replica.is_some() && place.stopped.is_none() {
                    place.stopped = Some(Vec::new());
                    self.push(self.now + lasts, Due::End(at));
                }
            }
            Fault::Cut(_, _, lasts)
            | Fault::CutOneWay(_, _, lasts)
            | Fault::Isolate(_, lasts)
            | Fault::Mute(_, lasts) => {
                for (from, to) in self.ways(fault) {
                    self.links.cut(from, to);
                }
                self.push(self.now + lasts, Due::End(at));
            }
            Fault::Stall(node, lasts) => self.nodes[node].stalled_until = self.now + lasts,
            Fault::ClockStep(node, by) => self.nodes[node].clock_ms += by,
            Fault::Transfer => self.transfer(),
            Fault::TimePasses(by) => self.passes_ms = Some(by),
        }
    }

    /// Ways a fault cuts.
    fn ways(&self, fault: Fault) -> Vec<(usize, usize)> {
        let others = |node| (0..self.plan.nodes).filter(move |other| *other != node);
        match fault {
            Fault::Cut(a, b, _) => vec![(a, b), (b, a)],
            Fault::CutOneWay(from, to, _) => vec![(from, to)],
            Fault::Isolate(node, _) => {
                others(node).flat_map(|other| [(node, other), (other, node)]).collect()
            }
            Fault::Mute(node, _) => others(node).map(|other| (node, other)).collect(),
            _ => Vec::new(),
        }
    }

    pub fn end(&mut self, at: usize) {
        if self.phase != Phase::Load {
            return;
        }
        let fault = self.fault(at);
        self.trace.note(self.now, &[8, at as u64], || format!("over: {fault:?}"));
        if let Fault::Pause(node, _) = fault {
            return self.go_on_after_stop(node);
        }
        for (from, to) in self.ways(fault) {
            self.links.mend(from, to);
        }
    }

    fn go_on_after_stop(&mut self, node: usize) {
        for due in self.nodes[node].stopped.take().unwrap_or_default() {
            self.push(self.now, due);
        }
    }

    fn crash(&mut self, node: usize, down: Micros) {
        let mut rng = self.rng.clone();
        self.nodes[node].crash(&mut rng);
        self.rng = rng;
        self.drop_watchers(node);
        self.tell_gone(node);
        self.push(self.now + down, Due::Start(node));
    }

    /// Whoever believes to lead hands over.
    fn transfer(&mut self) {
        for node in 0..self.plan.nodes {
            if let Some(replica) = self.nodes[node].replica.as_mut()
                && replica.transfer_leader(None).is_ok()
            {
                self.drain(node);
            }
        }
    }

    /// The others see a connection refused, soon, unless they cannot see anything.
    fn tell_gone(&mut self, gone: usize) {
        let life = self.nodes[gone].life;
        for node in (0..self.plan.nodes).filter(|node| *node != gone) {
            if self.rng.below(2) == 0 {
                for at in self.links.between(gone, node, self.now) {
                    self.push(at, Due::Gone { node, gone, life });
                }
            }
        }
    }

    pub fn gone(&mut self, node: usize, gone: usize, life: u64) {
        // A new life takes connections: nobody is refused any more.
        if self.nodes[gone].life == life
            && let Some(replica) = &mut self.nodes[node].replica
        {
            replica.handle_peer_gone(node_id(gone));
            self.drain(node);
        }
    }

    /// Everything is well from now on.
    pub fn heal(&mut self) {
        self.trace.note(self.now, &[9], || "everything heals");
        self.phase = Phase::Healing;
        self.links.heal();
        for node in 0..self.plan.nodes {
            self.go_on_after_stop(node);
            self.nodes[node].stalled_until = 0;
            self.start(node);
        }
    }

    /// The next phase, if this one is over. Looked at with each tick.
    pub fn go_on(&mut self) {
        let open = self.clients.iter().any(|client| client.open.is_some());
        if !open && let Some(by) = self.passes_ms.take() {
            self.trace.note(self.now, &[13], || format!("{by} ms pass"));
            self.passed_ms += by;
            self.era = self.history.operations.len();
        }
        match self.phase {
            Phase::Healing if !open => {
                self.trace.note(self.now, &[10], || "everything is read");
                self.phase = Phase::Reading;
                self.to_read = last_reads(&self.plan);
                self.to_read.reverse();
                if self.plan.crash_at_end {
                    (0..self.plan.nodes).for_each(|node| self.crash(node, 20 * MS));
                }
                for client in 0..self.plan.clients {
                    self.rest(client, 100 * MS);
                }
            }
            Phase::Reading if !open && self.to_read.is_empty() && self.is_level() => {
                self.count_numbers();
                self.phase = Phase::Done;
            }
            Phase::Load | Phase::Healing | Phase::Reading | Phase::Done => {}
        }
    }

    /// All replicas applied the same, and all watchers saw it.
    fn is_level(&self) -> bool {
        let applied = |node: &super::node::Node| node.replica.as_ref().map(|r| r.applied());
        let revision = |node: &super::node::Node| {
            node.replica.as_ref().map(|replica| replica.state().revision().0)
        };
        let first = self.nodes.first().and_then(applied);
        let newest = self.nodes.first().and_then(revision);
        first.is_some()
            && self.pops_are_level()
            && self
                .nodes
                .iter()
                .filter(|node| self.takes_part(node))
                .all(|node| applied(node) == first)
            && self.watchers.iter().all(|watcher| Some(watcher.revision) == newest)
    }

    /// What went into the inventory is in it, once, and nothing else.
    fn count_numbers(&mut self) {
        let imported = crate::linear::rules::imported(&self.history);
        let mut wrong = Vec::new();
        for node in self.nodes.iter().filter(|node| self.takes_part(node)) {
            let Some(replica) = &node.replica else { continue };
            let counts = replica.state().number_counts();
            let total = counts.total();
            if !imported.contains(&total) {
                wrong.push(format!("node {}: {counts:?} of {imported:?} numbers", node.index));
            }
        }
        wrong.into_iter().for_each(|what| self.complain(Rule::Counts, what));
    }
}
