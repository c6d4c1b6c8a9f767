//! Voters come and go while everything else goes on.

use std::collections::BTreeSet;

use proto::control::{ClusterMember, MemberChange, member_change};
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::{ChangeMembers, Command, outcome};

use super::load::{check, load};
use super::sim::{CALM, STORM, Sim};
use crate::replica::{MembersError, ProposeError, Role};

/// Many elections and rounds fit in.
const LONG: u64 = 3_000;

fn member(id: u64) -> ClusterMember {
    let address = format!("10.0.0.{id}:7000");
    ClusterMember { node_id: id, address, region: "eu".into(), ..ClusterMember::default() }
}

fn change(kinds: &[member_change::Kind]) -> Kind {
    let changes = kinds.iter().map(|k| MemberChange { kind: Some(k.clone()) }).collect();
    Kind::ChangeMembers(ChangeMembers { changes })
}

fn add(id: u64) -> Kind {
    change(&[member_change::Kind::AddLearner(member(id))])
}

fn started(faults: super::sim::Faults) -> Sim {
    let mut sim = Sim::new(11, faults);
    sim.members_change = true;
    load(&mut sim, 200);
    sim.settle();
    sim
}

/// Has it done, whichever node leads.
fn done(sim: &mut Sim, kind: Kind) {
    sim.request(kind);
    let at = sim.requests.len() - 1;
    sim.until(LONG, |sim| sim.requests[at].answer.is_some());
    let answer = sim.requests[at].answer.clone().unwrap();
    assert!(matches!(answer.kind, Some(outcome::Kind::Done(_))), "{answer:?}");
}

/// These vote, as all of them know, and the change is over.
fn voters(sim: &mut Sim, voters: &[u64]) {
    sim.until(LONG, |sim| {
        voters.iter().filter(|id| sim.nodes[id].replica.is_some()).all(|id| {
            let conf = sim.replica(*id).state().conf();
            conf.voters == voters && !conf.is_joint()
        })
    });
}

/// Refused by the leader before it is proposed.
fn refused(sim: &mut Sim, kind: Kind) -> MembersError {
    let leader = sim.leader().unwrap();
    let command =
        Command { request_id: "r".into(), principal: "operator/a".into(), kind: Some(kind) };
    let replica = sim.nodes.get_mut(&leader).unwrap().replica.as_mut().unwrap();
    match replica.propose(u64::MAX, command, 0) {
        Err(ProposeError::Members(why)) => why,
        other => panic!("{other:?}"),
    }
}

fn equal(sim: &Sim, ids: &[u64]) -> bool {
    let states: BTreeSet<_> = ids
        .iter()
        .map(|id| (sim.replica(*id).applied(), sim.replica(*id).state().hash()))
        .collect();
    states.len() == 1
}

#[test]
fn three_become_five_and_survive_two() {
    let mut sim = started(CALM);
    for id in [4, 5] {
        sim.join(id);
        done(&mut sim, add(id));
    }
    // One change, both or none: joint consensus.
    let promote = [member_change::Kind::Promote(4), member_change::Kind::Promote(5)];
    done(&mut sim, change(&promote));
    voters(&mut sim, &[1, 2, 3, 4, 5]);
    for id in [1, 2] {
        sim.crash(id);
        sim.stay_down(id);
    }
    sim.until(LONG, |sim| sim.leader().is_some_and(|leader| leader > 2));
    done(&mut sim, change(&[member_change::Kind::Remove(1)]));
    voters(&mut sim, &[2, 3, 4, 5]);
    sim.until(LONG, |sim| equal(sim, &[3, 4, 5]));
}

#[test]
fn a_dead_node_is_replaced_and_has_no_say_when_it_comes_back() {
    let mut sim = started(CALM);
    let leader = sim.leader().unwrap();
    let dead = sim.ids().into_iter().find(|id| *id != leader).unwrap();
    sim.crash(dead);
    sim.stay_down(dead);
    sim.join(4);
    done(&mut sim, add(4));
    let replace = [member_change::Kind::Promote(4), member_change::Kind::Remove(dead)];
    done(&mut sim, change(&replace));
    let left: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != dead).collect();
    voters(&mut sim, &left);
    let term = sim.replica(left[0]).status().term;
    sim.start(dead); // From its old disk: it does not know.
    for _ in 0..200 {
        sim.step();
    }
    assert_eq!(sim.replica(left[0]).status().term, term, "it could force no election");
    assert_ne!(sim.replica(dead).status().role, Role::Leader);
    sim.until(LONG, |sim| equal(sim, &left));
}

#[test]
fn a_leader_does_not_lead_its_own_removal() {
    let mut sim = started(CALM);
    let leader = sim.leader().unwrap();
    done(&mut sim, change(&[member_change::Kind::Remove(leader)]));
    let left: Vec<u64> = [1, 2, 3].into_iter().filter(|id| *id != leader).collect();
    voters(&mut sim, &left);
    assert!(left.contains(&sim.leader().unwrap()));
    assert!(
        sim.replica(left[0]).state().is_removed(leader)
            || sim.replica(left[0]).state().member(leader).is_none()
    );
}

#[test]
fn a_change_survives_crashes_and_partitions_at_every_moment() {
    for moment in 0..24 {
        let mut sim = started(CALM);
        sim.join(4);
        done(&mut sim, add(4));
        sim.request(change(&[member_change::Kind::Promote(4), member_change::Kind::Remove(1)]));
        let at = sim.requests.len() - 1;
        for _ in 0..moment {
            sim.step();
        }
        // A leader that leaves may just be handing over.
        sim.until(LONG, |sim| sim.leader().is_some());
        let leader = sim.leader().unwrap();
        if moment % 2 == 0 {
            sim.crash(leader);
        } else {
            sim.cut = Some((leader, sim.now + 150));
        }
        sim.until(LONG, |sim| sim.requests[at].answer.is_some());
        sim.heal();
        voters(&mut sim, &[2, 3, 4]);
        sim.until(LONG, |sim| equal(sim, &[2, 3, 4]));
    }
}

#[test]
fn members_change_in_a_storm_and_nothing_is_lost() {
    let mut sim = started(STORM);
    sim.join(4);
    done(&mut sim, add(4));
    load(&mut sim, 300);
    done(&mut sim, change(&[member_change::Kind::Promote(4)]));
    load(&mut sim, 300);
    sim.settle();
    check(&mut sim);
    voters(&mut sim, &[1, 2, 3, 4]);
    assert_eq!(sim.stale_reads, 0);
}

#[test]
fn changes_that_would_harm_are_refused_with_the_reason() {
    let mut sim = started(CALM);
    done(&mut sim, add(4)); // It was never started.
    let why = refused(&mut sim, change(&[member_change::Kind::Promote(4)]));
    assert_eq!(why, MembersError::NotHeard { node: NodeId(4) });
    let leader = sim.leader().unwrap();
    let others: Vec<u64> = sim.ids().into_iter().filter(|id| *id != leader).collect();
    sim.crash(others[0]);
    sim.stay_down(others[0]);
    for _ in 0..30 {
        sim.step();
    }
    let why = refused(&mut sim, change(&[member_change::Kind::Remove(others[1])]));
    assert_eq!(why, MembersError::NoQuorum { alive: 1, needed: 2 });
    // The dead one may go.
    done(&mut sim, change(&[member_change::Kind::Remove(others[0])]));
}
