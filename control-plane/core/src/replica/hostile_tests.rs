//! What a voter gone mad could send, on top of honest traffic.

use super::cluster_tests::{NODES, Rng, STORM, Sim, load};
use super::tests::put_trunk;
use super::*;

/// Bytes of a peer that lies, stutters or is damaged: refused or harmless, never a panic. What the
/// nodes believe afterwards is nobody's; only that they stand matters.
#[test]
fn hostile_peers_cannot_panic_a_node() {
    for seed in 100..108 {
        let mut sim = Sim::new(seed, STORM);
        load(&mut sim, 500);
        sim.heal();
        let said = std::mem::take(&mut sim.said);
        let (mut refused, mut taken) = (0u64, 0u64);
        let mut honest: VecDeque<(u64, u64, Bytes)> = VecDeque::new();
        for _ in 0..6_000 {
            let (from, to, message) = match honest.pop_front() {
                Some(next) if sim.rng.percent(70) => next,
                _ => {
                    let at = sim.rng.below(said.len() as u64) as usize;
                    let (from, to, message) = &said[at];
                    (*from, *to, mutate(&mut sim.rng, message).into())
                }
            };
            let replica = sim.nodes.get_mut(&to).unwrap().replica.as_mut().unwrap();
            match replica.handle_peer(NodeId(from), &message) {
                Ok(()) => taken += 1,
                Err(_) => refused += 1,
            }
            for id in NODES {
                let node = sim.nodes.get_mut(&id).unwrap();
                let replica = node.replica.as_mut().unwrap();
                if sim.rng.percent(10) {
                    replica.handle_tick(sim.now);
                    let _ = replica.propose(sim.now, put_trunk("r", "t"), sim.now);
                    let _ = replica.read(sim.now);
                    let end = Position { index: sim.rng.next(), term: sim.rng.next() };
                    replica.handle_log_end(NodeId(from), sim.rng.below(50), end);
                }
                if sim.rng.percent(60)
                    && let Some((_, persist)) = node.writing.take()
                {
                    replica.handle_persisted(persist.number);
                }
                while let Some(command) = replica.poll_command() {
                    match command {
                        ReplicaCommand::Persist(persist) => node.writing = Some((0, persist)),
                        ReplicaCommand::Send { to, message } => {
                            honest.push_back((id, to.0, message));
                        }
                        _ => {}
                    }
                }
            }
            honest.truncate(100);
        }
        assert!(refused > 100 && taken > 1_000, "{refused} refused, {taken} taken");
    }
}

fn mutate(rng: &mut Rng, bytes: &[u8]) -> Vec<u8> {
    if rng.percent(20) {
        let mut raw = bytes.to_vec();
        for _ in 0..=rng.below(3) {
            let at = rng.below(raw.len() as u64) as usize;
            raw[at] = rng.next() as u8;
        }
        return raw;
    }
    let mut m = Message::decode(bytes).unwrap();
    for _ in 0..=rng.below(3) {
        let near = |rng: &mut Rng, value: u64| match rng.below(5) {
            0 => value.wrapping_add(1),
            1 => value.wrapping_sub(1),
            2 => value.wrapping_add(rng.below(100)),
            3 => u64::MAX - rng.below(2),
            _ => rng.below(50),
        };
        match rng.below(15) {
            0 | 1 => m.msg_type = i32::try_from(rng.below(22)).unwrap() - 1,
            2 | 3 => m.term = near(rng, m.term),
            4 => m.log_term = near(rng, m.log_term),
            5 => m.index = near(rng, m.index),
            6 => m.commit = near(rng, m.commit),
            7 => m.commit_term = near(rng, m.commit_term),
            8 => m.reject = !m.reject,
            9 => m.reject_hint = near(rng, m.reject_hint),
            10 => m.request_snapshot = near(rng, m.request_snapshot),
            11 => drop(m.entries.pop()),
            12 => {
                for entry in &mut m.entries {
                    entry.term = near(rng, entry.term);
                }
            }
            13 => m.entries.push(raft::prelude::Entry {
                index: m.index.wrapping_add(1),
                term: m.term,
                entry_type: i32::try_from(rng.below(4)).unwrap(),
                ..Default::default()
            }),
            _ => m.context = vec![7; rng.below(300) as usize],
        }
    }
    m.encode_to_vec()
}
