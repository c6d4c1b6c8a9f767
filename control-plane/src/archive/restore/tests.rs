//! Archives with damage in and behind what is wanted.

use std::fs;

use control_core::group::GroupId;
use control_core::replica::{LEVELS, Replica, ReplicaCommand, ReplicaConfig, Restored};
use proto::control::Trunk;
use proto::id::NodeId;
use proto::raft::Command;
use proto::raft::command::Kind;

use super::super::{tables_name, write_segment};
use super::*;
use crate::wal::Tables;

/// Trunks of the archive, and entries of a part of its log.
const TRUNKS: u64 = 12;
const PART: usize = 4;

fn drain(replica: &mut Replica) {
    while let Some(command) = replica.poll_command() {
        if let ReplicaCommand::Persist(persist) = command {
            replica.handle_persisted(persist.number);
        }
    }
}

/// Leads alone.
fn leader() -> Replica {
    let config = ReplicaConfig {
        id: NodeId(1),
        group: GroupId::ROOT,
        voters: vec![NodeId(1)],
        heartbeat_ticks: 1,
        election_ticks: (4, 8),
        priority: 0,
        members: Vec::new(),
        levels: LEVELS,
        incarnation: "disk".into(),
    };
    let mut replica = Replica::new(config, Restored::default()).unwrap();
    for tick in 0..40 {
        replica.handle_tick(1_000 + tick);
        drain(&mut replica);
    }
    replica
}

fn put(replica: &mut Replica, n: u64) {
    let trunk = Trunk { trunk_id: format!("trunk-{n}."), ..Trunk::default() };
    let command = Command {
        request_id: format!("r{n}"),
        principal: "operator/anna".into(),
        kind: Some(Kind::PutTrunk(trunk)),
    };
    replica.propose(n, command, 2_000 + n).unwrap();
    drain(replica);
}

/// Tables without a trunk, and the log of trunks 1 to 12 in three parts: each a revision. Where
/// the tables stand, and their revision.
fn archive(dir: &Path) -> (u64, u64) {
    let mut replica = leader();
    let at = replica.log_end();
    let rows: Vec<_> = replica
        .state()
        .entries()
        .map(|(key, value)| (key.to_vec(), bytes::Bytes::copy_from_slice(value)))
        .collect();
    let to = dir.join(tables_name(at.index));
    let beside = rescue::begin(&to).unwrap();
    Tables::of_rows(&beside, at, &rows);
    let revision = rescue::seal(&beside, &to).unwrap().revision;
    (1..=TRUNKS).for_each(|n| put(&mut replica, n));
    let log = replica.applied_after(at.index, usize::MAX).unwrap();
    assert_eq!(log.len() as u64, TRUNKS);
    log.chunks(PART).for_each(|part| assert!(write_segment(dir, part).unwrap().is_some()));
    (at.index, revision)
}

/// Flips a bit in the entry of this trunk.
fn damage(dir: &Path, n: u64) {
    let name = format!("trunk-{n}.").into_bytes();
    for segment in Contents::of(dir).unwrap().segments {
        let mut bytes = fs::read(&segment.path).unwrap();
        if let Some(at) = bytes.windows(name.len()).position(|part| part == name) {
            bytes[at] ^= 1;
            return fs::write(&segment.path, bytes).unwrap();
        }
    }
    panic!("no trunk {n}");
}

fn trunks(dir: &Path, revision: Option<u64>) -> usize {
    find(dir, revision).unwrap().state.trunks().count()
}

#[test]
fn damage_behind_a_revision_is_not_in_its_way() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let (index, first) = archive(dir);
    assert_eq!((trunks(dir, None), trunks(dir, Some(first + 7))), (12, 7));
    // In the part that holds trunks 5 to 8.
    damage(dir, 8);
    for wanted in 1..=7 {
        let found = find(dir, Some(first + wanted)).unwrap();
        assert_eq!((found.state.revision().0, found.at.index), (first + wanted, index + wanted));
        assert_eq!(found.state.trunks().count() as u64, wanted);
    }
    // The next whole part.
    let contents = Contents::of(dir).unwrap();
    fs::write(&contents.segments[2].path, "nothing").unwrap();
    assert_eq!(trunks(dir, Some(first + 7)), 7);
    for wanted in [Some(first + 8), None] {
        let said = format!("{:#}", find(dir, wanted).err().unwrap());
        let way_out = format!("`--to-revision {}` restores what comes before", first + 7);
        assert!(said.contains("is damaged") && said.contains(&way_out), "{said}");
    }
}
