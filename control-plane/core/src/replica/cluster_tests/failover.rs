//! A new leader without waiting for timers.

use proto::control::ClusterMember;
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::{FoundMembers, ImportNumbers};

use super::load::{check, load, number};
use super::sim::{CALM, NODES, Sim};
use crate::replica::{ProposeError, Role, TransferError};

/// Before any election timer of these nodes ends.
const SOON: u64 = 15;

fn settled() -> (Sim, u64) {
    let mut sim = Sim::new(3, CALM);
    load(&mut sim, 120);
    sim.settle();
    let leader = sim.leader().unwrap();
    (sim, leader)
}

fn others(node: u64) -> impl Iterator<Item = u64> {
    NODES.into_iter().filter(move |id| *id != node)
}

fn tell_gone(sim: &mut Sim, to: u64, gone: u64) {
    let node = sim.nodes.get_mut(&to).unwrap();
    node.replica.as_mut().unwrap().handle_peer_gone(NodeId(gone));
    sim.drain(to);
}

#[test]
fn a_leader_that_is_known_to_be_gone_is_replaced_at_once() {
    for order in [[0, 1], [1, 0]] {
        let (mut sim, leader) = settled();
        sim.crash(leader);
        sim.stay_down(leader);
        sim.step(); // What it sent last arrives before the news.
        let others: Vec<u64> = others(leader).collect();
        for at in order {
            tell_gone(&mut sim, others[at], leader);
            sim.step(); // They do not learn it in the same moment.
        }
        sim.until(SOON, |sim| sim.leader().is_some_and(|l| l != leader));
    }
}

#[test]
fn one_that_only_believes_it_cannot_depose_a_leader() {
    let (mut sim, leader) = settled();
    let term = sim.replica(leader).status().term;
    for follower in others(leader) {
        tell_gone(&mut sim, follower, leader);
        sim.until(SOON, |sim| sim.replica(follower).leader() == Some(NodeId(leader)));
    }
    for _ in 0..60 {
        sim.step();
    }
    assert_eq!((sim.leader(), sim.replica(leader).status().term), (Some(leader), term));
}

#[test]
fn leadership_moves_and_every_proposal_is_answered() {
    let (mut sim, leader) = settled();
    for at in 0..20 {
        let e164 = vec![number(700_000 + at)];
        sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
    }
    sim.clients();
    let replica = sim.nodes.get_mut(&leader).unwrap().replica.as_mut().unwrap();
    let to = replica.transfer_leader(None).unwrap();
    let refused = replica.propose(1, super::super::tests::put_trunk("r", "t"), 0);
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }), "while it moves");
    sim.drain(leader);
    sim.until(SOON, |sim| sim.leader() == Some(to.0));
    sim.settle();
    check(&mut sim);
    assert_eq!(sim.replica(leader).status().role, Role::Follower);
}

#[test]
fn leadership_moves_only_to_a_voter_that_can_take_it() {
    let (mut sim, leader) = settled();
    let follower = others(leader).next().unwrap();
    let node = sim.nodes.get_mut(&follower).unwrap();
    let refused = node.replica.as_mut().unwrap().transfer_leader(None);
    assert_eq!(refused, Err(TransferError::NotLeader { leader: Some(NodeId(leader)) }));
    let node = sim.nodes.get_mut(&leader).unwrap();
    let refused = node.replica.as_mut().unwrap().transfer_leader(Some(NodeId(99)));
    assert_eq!(refused, Err(TransferError::NoCandidate));
}

/// More ticks than calm and pause take together.
const LONG: u64 = 2_500;

#[test]
fn leadership_goes_home_when_all_is_calm_and_stays_there() {
    let (mut sim, leader) = settled();
    let (home, third) = (others(leader).next().unwrap(), others(leader).last().unwrap());
    let member = |id| {
        let priority = if id == home { 10 } else { 0 };
        ClusterMember { node_id: id, priority, ..ClusterMember::default() }
    };
    let members = NODES.into_iter().map(member).collect();
    sim.request(Kind::FoundMembers(FoundMembers { members }));
    sim.clients();
    sim.settle();

    // Not during an outage, whoever it is that is missing.
    sim.crash(third);
    sim.stay_down(third);
    (0..LONG).for_each(|_| sim.step());
    assert_eq!(sim.leader(), Some(leader));
    sim.nodes.get_mut(&third).unwrap().stays_down = false;
    sim.start(third);
    sim.until(LONG, |sim| sim.leader() == Some(home));
    let term = sim.replica(home).status().term;
    assert_eq!(sim.replica(leader).counters().preferred, 1);
    (0..LONG).for_each(|_| sim.step());
    assert_eq!((sim.leader(), sim.replica(home).status().term), (Some(home), term));

    // Taken away by hand it comes home again, but not at once.
    let replica = sim.nodes.get_mut(&home).unwrap().replica.as_mut().unwrap();
    replica.transfer_leader(Some(NodeId(leader))).unwrap();
    sim.drain(home);
    sim.until(SOON, |sim| sim.leader() == Some(leader));
    (0..200).for_each(|_| sim.step());
    assert_eq!(sim.leader(), Some(leader));
    sim.until(LONG, |sim| sim.leader() == Some(home));
    sim.settle();
    check(&mut sim);
}
