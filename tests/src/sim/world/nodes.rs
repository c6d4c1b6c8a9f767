//! Control nodes, the operator who asks them and the POPs that watch them.

use bytes::Bytes;
use control_core::replica::{Position, ProposeError, Replica, ReplicaCommand};
use pop_core::view::ViewUpdate;
use proto::id::{Epoch, NodeId};
use proto::time::Duration;

use super::super::control::{ControlNode, Taken, index_of};
use super::super::net::{REGIONS, Way};
use super::super::operator::POPS;
use super::{Due, WATCH_AGAIN, World};

impl World {
    /// Gives a control node an input if it lives still, then does what it wants done.
    pub(super) fn on_control(
        &mut self,
        index: usize,
        life: u64,
        input: impl FnOnce(&mut ControlNode),
    ) {
        let Some(node) = self.control.get_mut(index) else { return };
        if node.life != life || node.replica.is_none() {
            return;
        }
        input(node);
        while let Some(command) = self.control.get_mut(index).and_then(ControlNode::poll) {
            self.replica_command(index, life, command);
        }
    }

    pub(super) fn replica_command(&mut self, index: usize, life: u64, command: ReplicaCommand) {
        let now = self.now;
        match command {
            ReplicaCommand::Send { to, message } => {
                let to = index_of(to);
                self.trace.note(now, format_args!("raft {index} > {to}"), &message);
                let there = self.control.get(to).map_or(0, |node| node.life);
                if self.net.raft_passes(index, to) {
                    let at = self.net.ordered(index, to, Way::Raft, now);
                    self.schedule(at, Due::Raft { from: index, to, life: there, bytes: message });
                }
            }
            ReplicaCommand::SnapshotWanted { .. } => {
                let Some(node) = self.control.get_mut(index) else { return };
                let taken = node.disk.take();
                if let Some(replica) = &mut node.replica {
                    replica.handle_snapshot_taken(taken.at, &taken.conf);
                }
                node.taken = Some(taken);
            }
            ReplicaCommand::SendSnapshot { to, at, message } => {
                self.send_snapshot(index, to, at, message);
            }
            // Nobody reads here.
            ReplicaCommand::Ask { .. } | ReplicaCommand::Members => {}
            ReplicaCommand::Persist(persist) => {
                let after = Duration::from_micros(200 + self.sync.below(4_000));
                if let Some(node) = self.control.get_mut(index) {
                    node.write(persist);
                }
                self.schedule(now + after, Due::Synced { node: index, life });
            }
            ReplicaCommand::Event(event) => {
                let Some(node) = self.control.get_mut(index) else { return };
                let event = node.watch.push(event);
                self.publish(index, &ViewUpdate::Event(event.as_ref().clone()));
            }
            ReplicaCommand::StateReplaced { revision } => {
                if let Some(node) = self.control.get_mut(index) {
                    node.watch.reset(revision);
                }
                self.cut_watchers(index);
            }
            ReplicaCommand::Outcome { proposal, outcome, .. } => {
                self.trace.note(now, format_args!("{index}: {outcome:?}"), &[]);
                if self.operator.waits_for(index, life, proposal) {
                    self.operator.handle_outcome(&outcome);
                    self.tell_epochs();
                }
            }
            ReplicaCommand::ProposalLost { proposal } => {
                if self.operator.waits_for(index, life, proposal) {
                    self.operator.refused_by(None, now);
                }
            }
            ReplicaCommand::Role { leader, term, role } => {
                let line = format_args!("{index}: {} in term {term}, {leader:?}", role.as_str());
                self.trace.note(now, line, &[]);
                let wall_ms = self.wall_ms(index);
                if let Some(node) = self.control.get_mut(index) {
                    node.found_cluster(wall_ms);
                }
            }
            ReplicaCommand::Halt { reason } => {
                self.complaints.push(format!("control node {index} halted: {reason}"));
                self.crash(index);
            }
            ReplicaCommand::ReadLost { .. } | ReplicaCommand::ReadReady { .. } => {}
        }
    }

    fn send_snapshot(&mut self, index: usize, to: NodeId, at: Position, message: Bytes) {
        let there = index_of(to);
        let life = self.control.get(there).map_or(0, |node| node.life);
        let taken = self.control.get(index).and_then(|node| node.taken.clone());
        let taken = taken.filter(|taken| taken.at == at && self.net.raft_passes(index, there));
        if let Some(Taken { rows, .. }) = taken {
            let when = self.net.ordered(index, there, Way::Raft, self.now);
            self.schedule(when, Due::Tables { from: index, to: there, life, message, at, rows });
        } else if let Some(replica) = self.control.get_mut(index).and_then(|n| n.replica.as_mut()) {
            replica.handle_snapshot_failed(to);
        }
    }

    pub(super) fn operate(&mut self) {
        let now = self.now;
        let Some((index, command)) = self.operator.handle_timeout(now) else { return };
        if let Err(why) = control_core::command::validate(&command) {
            panic!("a command of the plan is not valid: {}", why.message);
        }
        let wall_ms = self.wall_ms(index);
        let Some(node) = self.control.get_mut(index) else { return };
        let founded = |replica: &&mut Replica| !replica.state().cluster_id().is_empty();
        let Some(replica) = node.replica.as_mut().filter(founded) else {
            self.operator.refused_by(None, now);
            return;
        };
        node.proposals += 1;
        let (life, proposal) = (node.life, node.proposals);
        match replica.propose(proposal, command, wall_ms) {
            Ok(()) => self.operator.taken(index, life, proposal, now),
            Err(ProposeError::NotLeader { leader }) => {
                self.operator.refused_by(leader.map(index_of), now);
            }
            Err(
                why
                @ (ProposeError::Members(_) | ProposeError::Overloaded | ProposeError::TooLarge),
            ) => {
                self.complaints.push(format!("a proposal was refused: {why}"));
            }
        }
        self.on_control(index, life, |_| {});
    }

    pub(super) fn tell_epochs(&mut self) {
        let now = self.now;
        for (region, name) in POPS.into_iter().enumerate() {
            if let (Some(epoch), Some(node)) =
                (self.operator.epochs.get(name).copied(), self.pops.get_mut(region))
            {
                if node.epoch == epoch || !node.is_up || epoch <= node.known {
                    continue;
                }
                (node.epoch, node.known) = (epoch, epoch);
                self.on_pop(region, |node| node.pop.set_epoch(Epoch(epoch), now));
            }
        }
    }

    // ------------------------------------------------------------ watches

    pub(super) fn publish(&mut self, index: usize, update: &ViewUpdate) {
        let watchers: Vec<(usize, u64)> = self
            .pops
            .iter()
            .filter_map(|p| p.watching.filter(|(n, _, _)| *n == index).map(|w| (p.region, w.2)))
            .collect();
        for (pop, connection) in watchers {
            let at = self.net.ordered(index, pop, Way::Watch, self.now);
            self.schedule(at, Due::View { pop, connection, update: update.clone() });
        }
    }

    pub(super) fn cut_watchers(&mut self, index: usize) {
        for pop in 0..REGIONS {
            let watching = self.pops.get(pop).and_then(|p| p.watching);
            if let Some((_, _, connection)) = watching.filter(|(node, _, _)| *node == index) {
                let at = self.net.ordered(index, pop, Way::Watch, self.now);
                self.schedule(at, Due::WatchClosed { pop, connection });
            }
        }
    }

    pub(super) fn watch(&mut self, pop: usize) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(pop).filter(|node| node.is_up) else { return };
        let index = node.next_node;
        let Some(control) = self.control.get(index) else { return };
        let view = node.pop.view();
        let first = control.begin_watch(view.cluster_id(), view.revision());
        let Some(first) = first else {
            node.next_node = (index + 1) % REGIONS;
            self.schedule(now + WATCH_AGAIN, Due::Watch { pop });
            return;
        };
        node.connections += 1;
        let connection = node.connections;
        node.watching = Some((index, control.life, connection));
        for update in first {
            let at = self.net.ordered(index, pop, Way::Watch, now);
            self.schedule(at, Due::View { pop, connection, update });
        }
    }

    pub(super) fn view(&mut self, pop: usize, connection: u64, update: ViewUpdate) {
        let now = self.now;
        let current = self.pops.get(pop).and_then(|p| p.watching);
        if current.is_none_or(|(_, _, number)| number != connection) {
            return;
        }
        let mut gap = None;
        self.on_pop(pop, |node| gap = node.pop.handle_view(update, now).err());
        let revision = self.pops.get(pop).map(|p| p.pop.view().revision());
        self.trace.note(now, format_args!("view of {pop}: {revision:?}"), &[]);
        if let Some(gap) = gap {
            self.complaints.push(format!("a watch had a gap: {gap}"));
        }
    }

    pub(super) fn watch_closed(&mut self, pop: usize, connection: u64) {
        let now = self.now;
        let Some(node) = self.pops.get_mut(pop) else { return };
        if node.watching.is_none_or(|(_, _, number)| number != connection) {
            return;
        }
        node.watching = None;
        node.next_node = (node.next_node + 1) % REGIONS;
        self.schedule(now + WATCH_AGAIN, Due::Watch { pop });
    }
}
