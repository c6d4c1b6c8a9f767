use proto::control::Trunk;
use proto::raft::command::Kind;

use proto::raft::LogRecord;
use raft::prelude::MessageType;

use super::*;

pub(super) fn config(id: u64, voters: &[u64]) -> ReplicaConfig {
    let pin = 20 + u32::try_from(id).unwrap() * 3;
    ReplicaConfig {
        id: NodeId(id),
        group: GroupId::ROOT,
        voters: voters.iter().map(|id| NodeId(*id)).collect(),
        members: Vec::new(),
        levels: LEVELS,
        heartbeat_ticks: 2,
        election_ticks: (pin, pin + 1),
        priority: 0,
        incarnation: format!("disk-{id}"),
    }
}

pub(super) fn put_trunk(request_id: &str, trunk_id: &str) -> Command {
    Command {
        request_id: request_id.into(),
        principal: "operator/anna".into(),
        kind: Some(Kind::PutTrunk(Trunk { trunk_id: trunk_id.into(), ..Trunk::default() })),
    }
}

/// What a correct shell does with a [`Persist`], the tables of a snapshot being there already.
pub(super) fn write(disk: &mut Restored, persist: &Persist) {
    if let Some(snapshot) = &persist.snapshot {
        disk.entries.clear();
        disk.base = snapshot.position;
    }
    let mut tables: BTreeMap<Vec<u8>, Bytes> =
        std::mem::take(&mut disk.tables).into_iter().collect();
    if let Some(first) = persist.entries.first() {
        disk.entries.retain(|entry| entry.index < first.index);
        disk.entries.extend(persist.entries.iter().cloned());
    }
    for change in &persist.changes {
        match &change.value {
            Some(value) => tables.insert(change.key.clone(), value.clone()),
            None => tables.remove(&change.key),
        };
    }
    disk.tables = tables.into_iter().collect();
    disk.hard_state = persist.hard_state;
    disk.applied = persist.applied;
    if let Some(base) = persist.compact_to {
        assert!(base.index <= persist.applied, "compacted what is not applied");
        disk.base = base;
        disk.entries.retain(|entry| entry.index > base.index);
    }
}

/// Drains, writing at once.
pub(super) fn drain(replica: &mut Replica, disk: &mut Restored) -> Vec<ReplicaCommand> {
    let mut out = Vec::new();
    while let Some(command) = replica.poll_command() {
        if let ReplicaCommand::Persist(persist) = &command {
            write(disk, persist);
            replica.handle_persisted(persist.number);
        } else {
            out.push(command);
        }
    }
    out
}

pub(super) fn alone() -> (Replica, Restored) {
    let mut disk = Restored::default();
    let mut replica = Replica::new(config(1, &[1]), Restored::default()).unwrap();
    for _ in 0..40 {
        replica.handle_tick(1_000);
        drain(&mut replica, &mut disk);
    }
    assert_eq!(replica.status().role, Role::Leader);
    (replica, disk)
}

#[test]
fn a_single_voter_writes_reads_and_comes_back() {
    let (mut replica, mut disk) = alone();
    assert!(!replica.state().cluster_id().is_empty());
    for n in 0..3 {
        replica.propose(n, put_trunk(&format!("r{n}"), &format!("t{n}")), 2_000).unwrap();
    }
    let out = drain(&mut replica, &mut disk);
    let outcomes = out.iter().filter(|c| matches!(c, ReplicaCommand::Outcome { .. })).count();
    assert_eq!(outcomes, 3);
    assert!(replica.state().log_time_ms() >= 2_000);

    replica.read(9).unwrap();
    let index = replica.applied();
    assert_eq!(drain(&mut replica, &mut disk), [ReplicaCommand::ReadReady { read: 9 }]);

    // Without the last flush the effects come from the log again.
    let hash = replica.state().hash();
    assert!(disk.applied < index);
    let mut again = Replica::new(config(1, &[1]), disk.clone()).unwrap();
    drain(&mut again, &mut disk);
    for _ in 0..40 {
        again.handle_tick(3_000);
        drain(&mut again, &mut disk);
    }
    assert_eq!(again.state().hash(), hash);
    assert_eq!(again.state().trunks().count(), 3);
    assert_eq!(disk.applied, again.applied(), "flushed by time");
}

#[test]
fn proposals_of_one_turn_share_a_write() {
    let (mut replica, _) = alone();
    for n in 0..10 {
        replica.propose(n, put_trunk(&format!("r{n}"), "t"), 2_000).unwrap();
    }
    let persist = std::iter::from_fn(|| replica.poll_command()).find_map(|c| match c {
        ReplicaCommand::Persist(persist) => Some(persist),
        _ => None,
    });
    assert_eq!(persist.unwrap().entries.len(), 10);
    assert_eq!(replica.poll_command(), None, "the rest waits for the disk");
}

#[test]
fn an_empty_command_is_answered_without_the_log() {
    let (mut replica, mut disk) = alone();
    let last = replica.status().last_index;
    replica.propose(1, Command::default(), 2_000).unwrap();
    let out = drain(&mut replica, &mut disk);
    assert!(matches!(out.as_slice(), [ReplicaCommand::Outcome { proposal: 1, .. }]));
    assert_eq!(replica.status().last_index, last);
}

#[test]
fn followers_name_no_leader_they_do_not_know() {
    let mut replica = Replica::new(config(1, &[1, 2, 3]), Restored::default()).unwrap();
    let refused = replica.propose(1, put_trunk("r", "t"), 0);
    assert_eq!(refused, Err(ProposeError::NotLeader { leader: None }));
}

#[test]
fn the_log_is_compacted_behind_what_is_applied() {
    let (mut replica, mut disk) = alone();
    replica.set_limits(Limits { log_entries_max: 20, log_entries_kept: 5, ..Limits::default() });
    for n in 0..100 {
        replica.propose(n, put_trunk(&format!("r{n}"), "t"), 2_000).unwrap();
        drain(&mut replica, &mut disk);
    }
    assert!(disk.entries.len() <= 21, "{}", disk.entries.len());
    assert!(disk.base.index > 50);
    let hash = replica.state().hash();
    let mut again = Replica::new(config(1, &[1]), disk.clone()).unwrap();
    for _ in 0..40 {
        again.handle_tick(3_000);
        drain(&mut again, &mut disk);
    }
    assert_eq!(again.state().hash(), hash);
}

#[test]
fn stored_data_that_cannot_be_is_refused() {
    let (mut replica, mut disk) = alone();
    replica.propose(1, put_trunk("r", "t"), 2_000).unwrap();
    drain(&mut replica, &mut disk);
    let refuses = |change: fn(&mut Restored)| {
        let mut damaged = disk.clone();
        change(&mut damaged);
        Replica::new(config(1, &[1]), damaged).err()
    };
    assert_eq!(refuses(|_| {}), None);
    assert!(matches!(refuses(|d| drop(d.entries.remove(0))), Some(RestoreError::Corrupt(_))));
    assert!(matches!(refuses(|d| d.entries.clear()), Some(RestoreError::Corrupt(_))));
    assert!(matches!(refuses(|d| d.applied = 99), Some(RestoreError::Corrupt(_))));
    assert!(matches!(refuses(|d| d.hard_state.commit = 99), Some(RestoreError::Corrupt(_))));
    assert!(matches!(refuses(|d| d.base = Position::default()), Some(RestoreError::Corrupt(_))));
    assert_eq!(refuses(|d| d.tables.clear()), Some(RestoreError::Corrupt("nobody votes")));
    let flip = |d: &mut Restored| d.entries[0].bytes = Bytes::from_static(b"\xff\xff");
    assert!(matches!(refuses(flip), Some(RestoreError::Corrupt(_))));
}

#[test]
fn configurations_that_cannot_work_are_refused() {
    let refused = |change: fn(&mut ReplicaConfig)| {
        let mut c = config(1, &[1, 2, 3]);
        change(&mut c);
        matches!(Replica::new(c, Restored::default()), Err(RestoreError::Config(_)))
    };
    assert!(!refused(|_| {}));
    assert!(refused(|c| c.id = NodeId(4)));
    assert!(refused(|c| c.voters.push(NodeId(1))));
    assert!(refused(|c| c.voters.push(NodeId(0))));
    assert!(refused(|c| c.heartbeat_ticks = 0));
    assert!(refused(|c| c.election_ticks = (2, 3)));
    assert!(refused(|c| c.election_ticks = (20, 20)));
}

#[test]
fn a_command_of_a_newer_version_stops_the_node() {
    let (mut replica, mut disk) = alone();
    // As the log of a newer version would hold it: a record without a kind this version knows.
    let record = LogRecord { command: Some(Command::default()), ..LogRecord::default() };
    replica.raw.propose(Vec::new(), record.encode_to_vec()).unwrap();
    let index = replica.raw.raft.raft_log.last_index();
    let out = drain(&mut replica, &mut disk);
    let reason = HaltReason::UnknownCommand { index };
    assert_eq!(out.last(), Some(&ReplicaCommand::Halt { reason }));
    assert_eq!(replica.applied(), index - 1);
    replica.handle_tick(5_000);
    assert_eq!(replica.poll_command(), None);
}

#[test]
fn a_state_that_differs_stops_the_node() {
    let (mut replica, mut disk) = alone();
    replica.set_limits(Limits { hash_every: 5, ..Limits::default() });
    for n in 0..4 {
        replica.propose(n, put_trunk(&format!("r{n}"), "t"), 2_000).unwrap();
        let out = drain(&mut replica, &mut disk);
        assert!(!out.iter().any(|c| matches!(c, ReplicaCommand::Halt { .. })));
    }
    let (index, _) = replica.hashes.back().copied().unwrap();
    let check = proto::raft::HashCheck { index, sha256: vec![0; 32] };
    replica.propose_later(Kind::HashCheck(check));
    let out = drain(&mut replica, &mut disk);
    let reason = HaltReason::StateDiffers { index };
    assert_eq!(out.last(), Some(&ReplicaCommand::Halt { reason }));
}

fn vote_request(from: u64, term: u64) -> Vec<u8> {
    let mut m = Message { to: 1, from, term, log_term: 1, index: 1, ..Message::default() };
    m.set_msg_type(MessageType::MsgRequestVote);
    m.encode_to_vec()
}

fn votes(out: &[ReplicaCommand]) -> Vec<(u64, bool)> {
    let sent = out.iter().filter_map(|command| match command {
        ReplicaCommand::Send { message, .. } => Message::decode(message.as_ref()).ok(),
        _ => None,
    });
    let votes = sent.filter(|m| m.msg_type == MessageType::MsgRequestVoteResponse as i32);
    votes.map(|m| (m.to, !m.reject)).collect()
}

#[test]
fn a_vote_leaves_after_it_is_durable_and_outlives_a_crash() {
    let mut disk = Restored::default();
    let mut replica = Replica::new(config(1, &[1, 2, 3]), Restored::default()).unwrap();
    drain(&mut replica, &mut disk);
    replica.handle_peer(NodeId(2), &vote_request(2, 5)).unwrap();
    let mut before = Vec::new();
    let persist = loop {
        match replica.poll_command().expect("a vote to write") {
            ReplicaCommand::Persist(persist) => break persist,
            other => before.push(other),
        }
    };
    assert_eq!(votes(&before), []);
    assert_eq!(replica.poll_command(), None);
    write(&mut disk, &persist);
    replica.handle_persisted(persist.number);
    assert_eq!(votes(&drain(&mut replica, &mut disk)), [(2, true)]);

    let mut again = Replica::new(config(1, &[1, 2, 3]), disk.clone()).unwrap();
    again.handle_peer(NodeId(3), &vote_request(3, 5)).unwrap();
    assert_eq!(votes(&drain(&mut again, &mut disk)), [(3, false)]);
}

#[test]
fn peers_are_judged_by_their_certificates() {
    let mut replica = Replica::new(config(1, &[1, 2, 3]), Restored::default()).unwrap();
    let bytes = vote_request(2, 5);
    let mut from = |id, bytes: &[u8]| replica.handle_peer(NodeId(id), bytes);
    assert_eq!(from(3, &bytes), Err(PeerMisbehaved::Impersonates { claimed: 2 }));
    let answer = Message::decode(vote_request(9, 5).as_slice()).unwrap();
    let answer = Message { msg_type: MessageType::MsgAppendResponse.into(), ..answer };
    assert_eq!(from(9, &answer.encode_to_vec()), Err(PeerMisbehaved::NotAMember));
    assert_eq!(from(1, &vote_request(1, 5)), Err(PeerMisbehaved::NotAMember), "oneself");
    let term = u64::MAX;
    assert_eq!(from(2, &vote_request(2, term)), Err(PeerMisbehaved::Term { term, own: 1 }));
    assert_eq!(from(2, b"\xff"), Err(PeerMisbehaved::Encoding));
    let local = Message { to: 1, from: 2, term: 5, ..Message::default() };
    assert_eq!(from(2, &local.encode_to_vec()), Err(PeerMisbehaved::MessageType(0)));
    let unknown = Message { msg_type: 99, ..local };
    assert_eq!(from(2, &unknown.encode_to_vec()), Err(PeerMisbehaved::MessageType(99)));
    assert_eq!(replica.counters().peer_refused, 7);
}

/// An older voter would forget what it does not know.
#[test]
fn what_a_trunk_asks_for_has_its_level() {
    let level = |trunk| members::level_of(&Kind::PutTrunk(trunk));
    let trunk = Trunk::default();
    assert_eq!(level(trunk.clone()), 1);
    assert_eq!(level(Trunk { media_encryption: 1, ..trunk.clone() }), 4);
    let low = Trunk { low_bandwidth: true, media_encryption: 1, ..trunk };
    assert_eq!(level(low), 5);
    assert_eq!(level(Trunk { noise_suppression: true, ..Trunk::default() }), 5);
}
