//! POPs that die, or stop for a while, and what the mesh makes of it: the verdict of the control
//! plane, and the way back.
//!
//! Who finds a POP lost is judged elsewhere (`control_cluster`); here a verdict comes some time after
//! the fault, whether its POP still stands still or not.

use pop_core::pop::{LinkState, StreamEvent};
use proto::raft::{PopEpoch, RecordPops};
use proto::time::Duration;

use super::super::net::{IDLE_TIMEOUT, PAIRS, Pair, REGIONS};
use super::super::pop::{PopNode, Wire, pop_id};
use super::{Due, WATCH_AGAIN, World};

/// A POP that a majority of the control nodes hears is not found lost within this; it beats as often.
const LEASE: Duration = Duration::from_millis(1_500);
pub(super) const BEAT: Duration = Duration::from_millis(500);
/// A verdict that was not applied is proposed again, perhaps to a new leader.
const AGAIN: Duration = Duration::from_millis(400);

impl World {
    /// Nothing reaches it and nothing leaves it; its process is gone, or only stands still.
    pub(super) fn stop_pop(&mut self, region: usize, verdict_after: Duration) {
        let Some(node) = self.pops.get_mut(region) else { return };
        node.is_up = false;
        node.watching = None;
        node.connections += 1;
        for ends in pairs_of(region) {
            self.net.cut(ends);
            self.changed(ends, IDLE_TIMEOUT);
        }
        let epoch = self.operator.epochs.get(pop_id(region).as_str()).copied().unwrap_or(0);
        self.schedule(self.now + verdict_after, Due::Verdict { pop: region, epoch });
    }

    /// A new process.
    pub(super) fn restart_pop(&mut self, region: usize) {
        let Some(node) = self.pops.get_mut(region) else { return };
        let (connections, life) = (node.connections, node.life + 1);
        let next_node = node.next_node;
        // Records on disk are on disk; all else is gone.
        *node = PopNode::new(region, self.plan.seed.wrapping_add(life));
        (node.connections, node.life, node.next_node) = (connections, life, next_node);
        for other in (0..REGIONS).filter(|other| *other != region) {
            if let Some(node) = self.pops.get_mut(other) {
                node.forget_streams_of(region);
                node.media.handle_restart(&pop_id(region));
            }
        }
        self.back(region);
        self.operator.register(region, self.now);
    }

    /// The process goes on, and finds everything as it was, but for what happened meanwhile.
    pub(super) fn wake_pop(&mut self, region: usize) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(region) else { return };
        node.is_up = true;
        // The shell hears no POP and no peer before it was told whether it is lost.
        self.answer_beat(region);
        let Some(node) = self.pops.get_mut(region) else { return };
        let missed = std::mem::take(&mut node.missed);
        for (from, wire, event) in missed {
            self.on_pop(region, |node| {
                let stream = node.named(wire, from);
                node.pop.handle_call_stream(stream, event, now);
            });
        }
        for (a, b) in pairs_of(region) {
            let peer = pop_id(if a == region { b } else { a });
            if !self.links.get(&(a, b)).is_some_and(|link| link.up) {
                self.on_pop(region, |node| {
                    node.pop.handle_link(peer, LinkState::Down, now);
                });
            }
        }
        self.back(region);
    }

    fn back(&mut self, region: usize) {
        if let Some(node) = self.pops.get_mut(region) {
            node.is_up = true;
        }
        for ends in pairs_of(region) {
            self.heal_link(ends);
        }
        self.schedule(self.now + WATCH_AGAIN, Due::Watch { pop: region });
    }

    /// A stopped process hears of it when it goes on; a dead one never.
    pub(super) fn miss(&mut self, to: usize, from: usize, wire: Wire, event: StreamEvent) -> bool {
        let Some(node) = self.pops.get_mut(to).filter(|node| !node.is_up) else { return false };
        node.missed.push((from, wire, event));
        true
    }

    /// The leader finds an epoch lost. What is proposed may get lost, too.
    pub(super) fn verdict(&mut self, pop: usize, epoch: u64) {
        if self.is_lost(pop, epoch) {
            return;
        }
        let lost = PopEpoch { pop_id: pop_id(pop).as_str().to_owned(), epoch };
        for index in 0..REGIONS {
            let life = self.control.get(index).map_or(0, |node| node.life);
            let record = RecordPops { found: Vec::new(), fenced: vec![lost.clone()] };
            self.on_control(index, life, |node| {
                if let Some(replica) = &mut node.replica {
                    replica.propose_pops(record);
                }
            });
        }
        self.schedule(self.now + AGAIN, Due::Verdict { pop, epoch });
    }

    /// As far as any control node knows.
    fn is_lost(&self, pop: usize, epoch: u64) -> bool {
        let id = pop_id(pop);
        let known =
            self.control.iter().filter_map(|node| node.replica.as_ref()?.state().pop(id.as_str()));
        let mut known = known;
        known.any(|known| known.epoch > epoch || (known.epoch == epoch && known.fenced))
    }

    /// A heartbeat of a POP, and its answer.
    pub(super) fn beat(&mut self, region: usize) {
        let now = self.now;
        self.schedule(now + BEAT, Due::Beat { pop: region });
        self.answer_beat(region);
    }

    fn answer_beat(&mut self, region: usize) {
        let now = self.now;
        let Some(epoch) = self.operator.epochs.get(pop_id(region).as_str()).copied() else {
            return;
        };
        let Some(node) = self.pops.get(region).filter(|node| node.is_up) else { return };
        if node.epoch == 0 || node.epoch != epoch {
            return;
        }
        if self.is_lost(region, epoch) {
            // It is told so, leaves its calls, and registers anew.
            self.on_pop(region, |node| {
                node.epoch = 0;
                node.pop.retire(now);
            });
            self.operator.register(region, now);
        } else {
            self.on_pop(region, |node| node.pop.handle_lease(now + LEASE, now));
        }
    }
}

fn pairs_of(region: usize) -> impl Iterator<Item = Pair> {
    PAIRS.into_iter().filter(move |(a, b)| *a == region || *b == region)
}
