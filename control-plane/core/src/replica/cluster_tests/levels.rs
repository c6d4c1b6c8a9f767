//! Feature levels: what may be in the log while versions differ.

use proto::control::{ClusterMember, MemberChange, member_change};
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::{ChangeMembers, Command};

use super::load::load;
use super::sim::{CALM, NODES, Sim};
use crate::replica::tests::{config, put_trunk};
use crate::replica::{
    HaltReason, LEVELS, MembersError, ProposeError, Replica, ReplicaCommand, ReplicaConfig,
    RestoreError,
};

/// A command of level 2.
fn newer() -> Command {
    let member = ClusterMember { node_id: 9, ..ClusterMember::default() };
    let kind = Some(member_change::Kind::AddLearner(member));
    let kind = Kind::ChangeMembers(ChangeMembers { changes: vec![MemberChange { kind }] });
    Command { kind: Some(kind), ..put_trunk("newer", "t") }
}

fn propose(sim: &mut Sim, command: Command) -> Result<(), ProposeError> {
    let leader = sim.leader().unwrap();
    let replica = sim.nodes.get_mut(&leader).unwrap().replica.as_mut().unwrap();
    replica.propose(u64::MAX, command, 0)
}

fn old_cluster() -> Sim {
    let mut sim = Sim::new(21, CALM);
    sim.level = 1;
    sim.restart_all();
    load(&mut sim, 100);
    sim.settle();
    sim
}

#[test]
fn a_command_waits_until_all_members_know_it() {
    let mut sim = old_cluster();
    let why = MembersError::FeatureLevel { needed: 2, level: 1 };
    assert_eq!(propose(&mut sim, newer()), Err(why.into()));
    // Two are upgraded, one is not.
    sim.level = 2;
    for id in [1, 2] {
        sim.crash(id);
        sim.start(id);
    }
    sim.settle();
    let tell = |sim: &mut Sim, newest: [u32; 3]| {
        for id in NODES {
            let replica = sim.nodes.get_mut(&id).unwrap().replica.as_mut().unwrap();
            for (other, newest) in NODES.into_iter().zip(newest) {
                replica.handle_levels(NodeId(other), (1, newest));
            }
        }
        for _ in 0..200 {
            sim.step();
        }
    };
    tell(&mut sim, [2, 2, 1]);
    assert_eq!(sim.replica(1).feature_level(), 1);
    sim.crash(3);
    sim.start(3);
    sim.settle();
    tell(&mut sim, [2, 2, 2]);
    assert!(NODES.iter().all(|id| sim.replica(*id).feature_level() == 2), "it rises by itself");
    assert_eq!(propose(&mut sim, newer()), Ok(()));
}

#[test]
fn newer_data_is_refused_and_an_older_node_stops_at_the_entry() {
    let mut sim = Sim::new(22, CALM);
    load(&mut sim, 60);
    sim.settle();
    let old = |id| ReplicaConfig { levels: (1, 1), ..config(id, &NODES) };
    let disk = sim.nodes[&1].disk.clone();
    let refused = Replica::new(old(1), disk).err();
    assert_eq!(refused, Some(RestoreError::FeatureLevel { stored: LEVELS.1, newest: 1 }));

    let mut sim = old_cluster();
    let disk = sim.nodes[&1].disk.clone();
    sim.crash(1);
    // Somebody raises it past what node 1 knows.
    let mut node = Replica::new(ReplicaConfig { voters: vec![NodeId(1)], ..old(1) }, disk).unwrap();
    while node.poll_command().is_some() {}
    let raise = Command { kind: Some(Kind::SetFeatureLevel(2)), ..put_trunk("raise", "t") };
    node.took(7, &raise);
    let reason = HaltReason::FeatureLevel { index: 7, level: 2, newest: 1 };
    assert_eq!(node.poll_command(), Some(ReplicaCommand::Halt { reason }));
}
