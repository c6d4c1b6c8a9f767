//! Followers behind the log.

use proto::raft::ImportNumbers;
use proto::raft::command::Kind;

use super::load::{check, number};
use super::sim::{CALM, Sim, TICK_MS};
use crate::replica::Restored;

#[test]
fn an_empty_follower_gets_a_snapshot() {
    let mut sim = Sim::new(5, CALM);
    sim.nodes.get_mut(&3).unwrap().replica = None;
    for _ in 0..200 {
        sim.now += 1;
        sim.deliver();
        sim.finish_writes();
        for id in [1, 2] {
            let now = sim.now;
            sim.nodes.get_mut(&id).unwrap().replica.as_mut().unwrap().handle_tick(now * TICK_MS);
            sim.drain(id);
        }
        if sim.now > 60 {
            let e164 = vec![number(sim.now)];
            sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
        }
        sim.clients();
    }
    sim.nodes.get_mut(&3).unwrap().disk = Restored::default();
    sim.settle();
    check(&mut sim);
    assert!(sim.replica(3).counters().snapshots_installed >= 1);
    assert!(sim.replica(3).status().first_index > 2);
}
