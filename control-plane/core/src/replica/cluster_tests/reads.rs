//! Linearizable reads when leaders come and go.

use proto::raft::ImportNumbers;
use proto::raft::command::Kind;

use super::load::{load, number};
use super::sim::{CALM, NODES, STORM, Sim, TICK_MS};
use crate::replica::{ReplicaCommand, Role};

/// A leader that was paused still believes: a lease without a clock would answer from the past.
#[test]
fn a_paused_leader_confirms_no_read() {
    let mut sim = Sim::new(9, CALM);
    load(&mut sim, 200);
    sim.settle();
    let leads = |sim: &Sim, id: u64| sim.replica(id).status().role == Role::Leader;
    let old = *NODES.iter().find(|id| leads(&sim, **id)).unwrap();
    let paused = sim.nodes.get_mut(&old).unwrap().replica.take();
    let acknowledged = sim.acknowledged;
    let start = sim.requests.len();
    for at in 0..3 {
        let e164 = vec![number(900_000 + at)];
        sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
    }
    while sim.requests.iter().skip(start).any(|r| r.answer.is_none()) {
        sim.now += 1;
        sim.deliver();
        sim.finish_writes();
        for id in NODES.into_iter().filter(|id| *id != old) {
            let now = sim.now;
            sim.nodes.get_mut(&id).unwrap().replica.as_mut().unwrap().handle_tick(now * TICK_MS);
            sim.drain(id);
        }
        sim.clients();
        assert!(sim.now < 5_000);
    }
    assert!(sim.acknowledged > acknowledged);
    let mut paused = paused.unwrap();
    assert_eq!(paused.status().role, Role::Leader);
    paused.read(1).unwrap();
    let mut fates = Vec::new();
    for _ in 0..200 {
        while let Some(command) = paused.poll_command() {
            match command {
                ReplicaCommand::ReadReady { .. } => panic!("a read from the past"),
                ReplicaCommand::ReadLost { read } => fates.push(read),
                _ => {}
            }
        }
        paused.handle_tick(sim.now * TICK_MS);
    }
    assert_eq!(fates.last(), Some(&1), "after those it had when it was paused");
    assert_ne!(paused.status().role, Role::Leader, "no quorum answers");
}

/// The check must be able to fail: a reader that asks nobody is found out.
#[test]
fn reads_that_ask_nobody_are_caught() {
    let mut stale = 0;
    for seed in 0..6 {
        let mut sim = Sim::new(seed, STORM);
        sim.reads_ask_nobody = true;
        sim.restart_all();
        load(&mut sim, 600);
        stale += sim.stale_reads;
    }
    assert!(stale > 0, "the planted bug went unnoticed");
}
