//! Followers behind the log.

use proto::id::NodeId;
use proto::raft::ImportNumbers;
use proto::raft::command::Kind;

use super::load::{check, number};
use super::sim::{CALM, Sim, TICK_MS};
use crate::replica::{Restored, Status};

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

/// Three nodes whose logs are short in bytes, one of them empty, and tables that take long.
fn slow_tables(seed: u64, empty: u64, slow: u64) -> (Sim, u64) {
    let mut sim = Sim::new(seed, CALM);
    sim.log_bytes_max = 16 * 1024;
    sim.restart_all();
    sim.crash(empty);
    sim.stay_down(empty);
    sim.until(200, |sim| sim.leader().is_some());
    let leader = sim.leader().expect("one was elected");
    sim.nodes.get_mut(&empty).unwrap().disk = Restored::default();
    sim.slow_tables = slow;
    for _ in 0..60 {
        grow(&mut sim);
    }
    assert!(sim.replica(leader).status().first_index > 10, "the log is behind the empty node");
    sim.start(empty);
    sim.until(300, |sim| sim.replica(leader).sends_snapshot_to(NodeId(empty)));
    (sim, leader)
}

/// A step, and an entry of about 1 KiB.
fn grow(sim: &mut Sim) {
    let e164 = (0..60).map(|n| number(sim.now * 60 + n)).collect();
    sim.request(Kind::ImportNumbers(ImportNumbers { pool: "p".into(), e164 }));
    sim.step();
}

#[test]
fn a_log_full_of_bytes_waits_for_tables_on_their_way() {
    let (mut sim, leader) = slow_tables(11, 3, 20);
    let sent = sim.replica(leader).counters().snapshots_sent;
    // More than a log may have, less than twice.
    while sim.replica(leader).sends_snapshot_to(NodeId(3)) {
        grow(&mut sim);
    }
    sim.settle();
    assert_eq!(sim.replica(3).counters().snapshots_installed, 1);
    assert_eq!(sim.replica(leader).counters().snapshots_sent, sent, "one is enough");
}

#[test]
fn a_receiver_that_never_ends_does_not_fill_the_disk() {
    let (mut sim, leader) = slow_tables(12, 3, u64::MAX / 2);
    for _ in 0..400 {
        let replica = sim.nodes.get_mut(&leader).unwrap().replica.as_mut().unwrap();
        replica.handle_snapshot_progress(NodeId(3));
        grow(&mut sim);
        assert!(sim.replica(leader).sends_snapshot_to(NodeId(3)), "it goes on");
        let Status { first_index, last_index, .. } = sim.replica(leader).status();
        assert!(last_index - first_index < 60, "{first_index}..{last_index}");
    }
}

/// Whoever hears of it first campaigns at once, but not while its log is being replaced.
#[test]
fn a_leader_that_ends_while_its_tables_are_written() {
    let (mut sim, leader) = slow_tables(13, 1, 5);
    let writes = |sim: &Sim| {
        let writing = sim.nodes[&1].writing.as_ref();
        writing.is_some_and(|(_, persist)| persist.snapshot.is_some())
    };
    for _ in 0..100 {
        sim.now += 1;
        sim.deliver();
        if writes(&sim) {
            break;
        }
        sim.finish_writes();
    }
    assert!(writes(&sim), "the tables came");
    sim.crash(leader);
    sim.nodes.get_mut(&1).unwrap().replica.as_mut().unwrap().handle_peer_gone(NodeId(leader));
    sim.drain(1);
    assert!(sim.replica(1).leader().is_none(), "it waits for its disk");
    sim.settle();
    check(&mut sim);
}
