//! Voters that learn for a while, and nodes that come: an operator who asks until it is done.

use control_core::replica::{PeerMisbehaved, Replica};
use control_core::state::Conf;
use proto::control::{ClusterMember, MemberChange, member_change};
use proto::raft::command::Kind;
use proto::raft::{ChangeMembers, Command};

use super::node::Node;
use super::plan::{MS, MemberFault, Micros};
use super::world::{Due, Phase, World};
use crate::sim::control::node_id;

/// Between two tries.
const AGAIN: Micros = 150 * MS;

/// One step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    Add,
    Promote,
    Demote,
}

/// A change under way.
#[derive(Debug, Clone, Copy)]
pub struct Change {
    /// Of which node; `None`: of the one that comes.
    node: Option<usize>,
    step: Step,
    /// How long a demoted one learns.
    lasts: Micros,
    tries: u64,
}

impl Change {
    /// Its first step.
    pub fn of(fault: MemberFault) -> Self {
        match fault {
            MemberFault::Join => Self { node: None, step: Step::Add, lasts: 0, tries: 0 },
            MemberFault::Demote(node, lasts) => {
                Self { node: Some(node), step: Step::Demote, lasts, tries: 0 }
            }
        }
    }

    fn is_done(self, conf: &Conf, id: u64) -> bool {
        !conf.is_joint()
            && match self.step {
                Step::Add => conf.contains(id),
                Step::Promote => conf.voters.contains(&id),
                Step::Demote => conf.learners.contains(&id),
            }
    }
}

/// Where a node is.
pub fn member(node: usize) -> ClusterMember {
    let node_id = node_id(node).0;
    let (address, region) = (format!("10.0.0.{node_id}:7000"), "eu".into());
    ClusterMember { node_id, address, region, ..ClusterMember::default() }
}

impl World {
    /// Asks whoever leads, or goes on when it is done.
    pub fn change_members(&mut self, change: Change) {
        // What is half done stays so: learners are healed as voters are.
        if self.phase != Phase::Load {
            return;
        }
        let node = change.node.unwrap_or(self.plan.nodes);
        self.start(node);
        let id = node_id(node).0;
        let leads = |place: &Node| place.stopped.is_none() && leads(place.replica.as_ref());
        let leader = self.nodes.iter().position(leads);
        let conf = leader.and_then(|at| Some(self.nodes[at].replica.as_ref()?.state().conf()));
        if conf.is_some_and(|conf| change.is_done(&conf, id)) {
            self.counts.members += 1;
            let step = match change.step {
                Step::Add | Step::Demote => Step::Promote,
                Step::Promote => return,
            };
            let next = Change { step, tries: 0, ..change };
            return self.push(self.now + change.lasts + AGAIN, Due::Member(next));
        }
        if let Some(leader) = leader {
            self.ask_for(leader, change, id);
        }
        let next = Change { tries: change.tries + 1, ..change };
        self.push(self.now + AGAIN, Due::Member(next));
    }

    fn ask_for(&mut self, leader: usize, change: Change, id: u64) {
        let kind = match change.step {
            Step::Add => member_change::Kind::AddLearner(member(id as usize - 1)),
            Step::Promote => member_change::Kind::Promote(id),
            Step::Demote => member_change::Kind::Demote(id),
        };
        let changes = vec![MemberChange { kind: Some(kind) }];
        let command = Command {
            request_id: format!("member-{id}-{:?}-{}", change.step, self.now),
            principal: "operator/anna".into(),
            kind: Some(Kind::ChangeMembers(ChangeMembers { changes })),
        };
        self.trace.note(self.now, &[15, leader as u64, id], || {
            format!("node {leader} is asked to {:?} node {id}", change.step)
        });
        let wall_ms = self.wall_ms(leader);
        let name = self.nodes[leader].name();
        if let Some(replica) = &mut self.nodes[leader].replica {
            // What it comes to is seen in who takes part.
            let _ = replica.propose(name, command, wall_ms);
        }
        self.drain(leader);
    }

    /// Whether it gets the log: one that comes may not have been let in yet.
    pub fn takes_part(&self, node: &Node) -> bool {
        let first = self.nodes.first().and_then(|node| node.replica.as_ref());
        let id = node_id(node.index).0;
        node.index < self.plan.nodes || first.is_some_and(|r| r.state().conf().contains(id))
    }

    /// A node that lags does not know one that came.
    pub fn may_be_stranger(&self, why: PeerMisbehaved) -> bool {
        self.plan.joins() && why == PeerMisbehaved::NotAMember
    }
}

fn leads(replica: Option<&Replica>) -> bool {
    replica.is_some_and(Replica::leads)
}
