//! Lies a peer can tell, one by one and by the hundred thousand: refused before raft sees them,
//! counted, without effect, and the cluster works on.

use raft::prelude::{ConfState, Entry, EntryType, MessageType, Snapshot, SnapshotMetadata};

use super::cluster_tests::{NODES, Rng, STORM, Sim, load};
use super::tests::put_trunk;
use super::*;

/// What a lie is told to, and by whom.
struct Scene {
    sim: Sim,
    leader: u64,
    victim: u64,
    other: u64,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut sim = Sim::new(seed, STORM);
        load(&mut sim, 300);
        sim.settle();
        let leader = sim.leader().expect("it is well");
        let mut others = NODES.into_iter().filter(|id| *id != leader);
        let (victim, other) = (others.next().unwrap(), others.next().unwrap());
        Self { sim, leader, victim, other }
    }

    fn status(&self, id: u64) -> Status {
        self.sim.replica(id).status()
    }

    /// What `from` could honestly say to `to` now.
    fn message(&self, kind: MessageType, from: u64, to: u64) -> Message {
        let status = self.status(to);
        let at = self.sim.replica(to).log_end();
        let mut m = Message { from, to, term: status.term, ..Message::default() };
        m.set_msg_type(kind);
        if matches!(kind, MessageType::MsgAppend | MessageType::MsgRequestVote) {
            (m.index, m.log_term) = (at.index, at.term);
        }
        if kind == MessageType::MsgSnapshot {
            let conf_state = ConfState { voters: NODES.to_vec(), ..ConfState::default() };
            let (index, term) = (at.index + 1, at.term);
            let metadata = SnapshotMetadata { conf_state: Some(conf_state), index, term };
            m.snapshot = Some(Snapshot { data: Vec::new(), metadata: Some(metadata) });
        }
        m
    }

    /// `as_node`: whose certificate it comes with.
    fn tell(&mut self, as_node: u64, to: u64, bytes: &[u8]) -> PeerMisbehaved {
        let before = (self.status(to), self.sim.replica(to).counters().peer_refused);
        let replica = self.sim.nodes.get_mut(&to).unwrap().replica.as_mut().unwrap();
        let is_snapshot = |m: &Message| m.msg_type == MessageType::MsgSnapshot as i32;
        let said = Message::decode(bytes).ok().filter(is_snapshot);
        let answer = match said {
            Some(m) => {
                let state = State::bootstrap(&NODES);
                replica.handle_snapshot(NodeId(as_node), bytes, announced(&m), state).map(drop)
            }
            None => replica.handle_peer(NodeId(as_node), bytes),
        };
        let Err(why) = answer else {
            panic!("taken from {as_node} by {to}: {:?}", Message::decode(bytes))
        };
        let counted = self.sim.replica(to).counters().peer_refused;
        assert_eq!((self.status(to), counted - 1), before, "it had an effect: {why}");
        why
    }

    /// A lie of the leader to a follower.
    fn lie(&mut self, kind: MessageType, change: impl FnOnce(&mut Message)) -> PeerMisbehaved {
        self.lie_of(self.leader, self.victim, kind, change)
    }

    fn lie_of(
        &mut self,
        from: u64,
        to: u64,
        kind: MessageType,
        change: impl FnOnce(&mut Message),
    ) -> PeerMisbehaved {
        let mut m = self.message(kind, from, to);
        change(&mut m);
        self.tell(from, to, &m.encode_to_vec())
    }

    /// All nodes stand, agree and take writes.
    fn works_on(&mut self) {
        for at in 0..5 {
            self.sim.request(put_trunk("", &format!("after-{at}")).kind.unwrap());
        }
        self.sim.settle();
        let hashes = NODES.map(|id| self.sim.replica(id).state().hash());
        assert!(hashes.iter().all(|hash| *hash == hashes[0]), "states differ");
        assert!(self.sim.replica(1).state().trunk("after-4").is_some());
    }
}

/// Where the tables stand that it speaks of.
fn announced(m: &Message) -> Position {
    let metadata = m.get_snapshot().get_metadata();
    Position { index: metadata.index, term: metadata.term }
}

fn entry(after: &Message, kind: i32, data: Vec<u8>) -> Entry {
    let (index, term) = (after.index + 1, after.term);
    Entry { entry_type: kind, term, index, data, ..Entry::default() }
}

#[test]
fn types_no_peer_sends() {
    use MessageType::*;
    let mut scene = Scene::new(1);
    for unknown in [-1, 19, 20, 1_000, i32::MAX, i32::MIN] {
        let why = scene.lie(MsgHeartbeat, |m| m.msg_type = unknown);
        assert_eq!(why, PeerMisbehaved::MessageType(unknown));
    }
    for local in [
        MsgHup,
        MsgBeat,
        MsgPropose,
        MsgUnreachable,
        MsgSnapStatus,
        MsgCheckQuorum,
        MsgTransferLeader,
        MsgReadIndex,
        MsgReadIndexResp,
    ] {
        for (from, to) in [(scene.leader, scene.victim), (scene.victim, scene.leader)] {
            let why = scene.lie_of(from, to, local, |_| {});
            assert_eq!(why, PeerMisbehaved::MessageType(local as i32), "{local:?}");
        }
    }
    scene.works_on();
}

#[test]
fn false_senders_and_receivers() {
    let mut scene = Scene::new(2);
    let Scene { leader, victim, other, .. } = scene;
    use MessageType::{MsgHeartbeat, MsgHeartbeatResponse};
    for claimed in [other, 9, 0, u64::MAX, victim] {
        let why = scene.lie(MsgHeartbeat, |m| m.from = claimed);
        assert_eq!(why, PeerMisbehaved::Impersonates { claimed });
    }
    for stranger in [0, 9, u64::MAX, victim] {
        let why = scene.lie_of(stranger, victim, MsgHeartbeatResponse, |_| {});
        assert_eq!(why, PeerMisbehaved::NotAMember, "{stranger}");
    }
    for to in [0, leader, other, u64::MAX] {
        let why = scene.lie(MsgHeartbeat, |m| m.to = to);
        assert_eq!(why, PeerMisbehaved::Misdirected { to });
    }
    scene.works_on();
}

#[test]
fn false_leaders() {
    let mut scene = Scene::new(3);
    let Scene { leader, victim, other, .. } = scene;
    use MessageType::*;
    for kind in [MsgAppend, MsgHeartbeat, MsgSnapshot, MsgTimeoutNow] {
        for to in [victim, leader] {
            let why = scene.lie_of(other, to, kind, |_| {});
            assert!(matches!(why, PeerMisbehaved::TwoLeaders { .. }), "{kind:?}: {why}");
        }
    }
    scene.works_on();
}

#[test]
fn numbers_no_counter_reaches() {
    let mut scene = Scene::new(4);
    let Scene { leader, victim, .. } = scene;
    let last = scene.sim.replica(victim).log_end().index;
    use MessageType::*;
    for term in [0, u64::MAX, u64::MAX - 1, 1 << 62, 1 << 40] {
        for kind in [MsgAppend, MsgHeartbeat, MsgRequestVote, MsgRequestPreVote, MsgSnapshot] {
            let why = scene.lie(kind, |m| m.term = term);
            assert!(matches!(why, PeerMisbehaved::Term { .. }), "{kind:?} {term}: {why}");
        }
    }
    let changes: [fn(&mut Message); 7] = [
        |m| m.index = u64::MAX,
        |m| m.log_term = u64::MAX,
        |m| m.commit = u64::MAX,
        |m| m.commit_term = u64::MAX,
        |m| m.reject_hint = u64::MAX,
        |m| m.request_snapshot = 1,
        |m| m.context = vec![0; 100_000],
    ];
    for change in changes {
        assert_eq!(scene.lie(MsgAppend, change), PeerMisbehaved::Range);
    }
    for commit in [last + 1, last + 1_000, 1 << 61] {
        let why = scene.lie(MsgHeartbeat, |m| m.commit = commit);
        assert_eq!(why, PeerMisbehaved::CommitBeyondLog { commit, last_index: last });
    }
    let last_index = scene.sim.replica(leader).log_end().index;
    for index in [last_index + 1, 1 << 61] {
        let why = scene.lie_of(victim, leader, MsgAppendResponse, |m| m.index = index);
        assert_eq!(why, PeerMisbehaved::IndexBeyondLog { index, last_index });
    }
    scene.works_on();
}

#[test]
fn entries_that_do_not_belong_here() {
    let mut scene = Scene::new(5);
    let normal = EntryType::EntryNormal as i32;
    let push =
        |kind: i32, data: Vec<u8>| move |m: &mut Message| m.entries.push(entry(m, kind, data));
    use MessageType::*;
    for (kind, data) in [
        (3, vec![]),
        (-1, vec![]),
        (i32::MAX, vec![]),
        (EntryType::EntryConfChange as i32, vec![0xff; 4]),
        (EntryType::EntryConfChangeV2 as i32, vec![0xff; 4]),
        (normal, vec![0xff; 4]),
        // A record whose command this version does not know: field 1000.
        (normal, vec![0xc2, 0x3e, 0x00]),
        (normal, vec![0; COMMAND_BYTES_MAX + 10_000]),
    ] {
        let shown = (kind, data.len());
        let why = scene.lie(MsgAppend, push(kind, data));
        assert_eq!(why, PeerMisbehaved::Entries, "{shown:?}");
    }
    let changes: [fn(&mut Message); 5] = [
        |m| m.entries.push(Entry { index: m.index + 2, term: m.term, ..Entry::default() }),
        |m| m.entries.push(Entry { index: m.index, term: m.term, ..Entry::default() }),
        |m| m.entries.push(Entry { index: m.index + 1, term: m.term + 1, ..Entry::default() }),
        |m| (m.index, m.log_term) = (0, 0),
        |m| m.log_term = m.term + 1,
    ];
    for change in changes {
        assert_eq!(scene.lie(MsgAppend, change), PeerMisbehaved::Entries);
    }
    // Many, where none belong.
    for kind in [MsgHeartbeat, MsgRequestVote, MsgAppendResponse, MsgTimeoutNow] {
        let why = scene.lie(kind, |m| m.entries = vec![Entry::default(); 10_000]);
        assert_eq!(why, PeerMisbehaved::Range, "{kind:?}");
    }
    scene.works_on();
}

#[test]
fn snapshots_of_others() {
    let mut scene = Scene::new(6);
    fn metadata(m: &mut Message) -> &mut SnapshotMetadata {
        m.snapshot.as_mut().unwrap().metadata.as_mut().unwrap()
    }
    fn voters(m: &mut Message) -> &mut ConfState {
        metadata(m).conf_state.as_mut().unwrap()
    }
    let changes: [fn(&mut Message); 10] = [
        // Tables come another way.
        |m| m.snapshot.as_mut().unwrap().data = vec![1],
        |m| m.snapshot = None,
        |m| m.snapshot = Some(Snapshot::default()),
        |m| voters(m).voters = vec![7, 8, 9],
        |m| voters(m).voters.push(9),
        |m| voters(m).voters = vec![1],
        |m| voters(m).voters = vec![1, 2, 2],
        |m| voters(m).voters_outgoing = vec![7],
        |m| metadata(m).index = u64::MAX,
        |m| metadata(m).term = 1 << 40,
    ];
    for (at, change) in changes.into_iter().enumerate() {
        let why = scene.lie(MessageType::MsgSnapshot, change);
        assert_eq!(why, PeerMisbehaved::Snapshot, "change {at}");
    }
    // Raft's message without any tables.
    let honest = scene.message(MessageType::MsgSnapshot, scene.leader, scene.victim);
    let replica = scene.sim.nodes.get_mut(&scene.victim).unwrap().replica.as_mut().unwrap();
    let alone = replica.handle_peer(NodeId(scene.leader), &honest.encode_to_vec());
    assert_eq!(alone, Err(PeerMisbehaved::Snapshot));
    scene.works_on();
}

/// Raft would ask for tables that are not there, and they are its only way on.
#[test]
fn tables_of_another_place_than_announced() {
    let mut scene = Scene::new(8);
    let honest = scene.message(MessageType::MsgSnapshot, scene.leader, scene.victim);
    let (at, bytes) = (announced(&honest), honest.encode_to_vec());
    let victim = scene.victim;
    let installed = |scene: &Scene| scene.sim.replica(victim).counters().snapshots_installed;
    let before = installed(&scene);
    let mut tell = |at: Position, state: State| {
        let replica = scene.sim.nodes.get_mut(&victim).unwrap().replica.as_mut().unwrap();
        replica.handle_snapshot(NodeId(scene.leader), &bytes, at, state)
    };
    let elsewhere = [
        Position { index: at.index + 1, ..at },
        Position { index: at.index - 1, ..at },
        Position { term: at.term + 1, ..at },
        Position { term: at.term - 1, ..at },
    ];
    for came in elsewhere {
        let told = tell(came, State::bootstrap(&NODES));
        assert_eq!(told, Err(PeerMisbehaved::OtherTables { announced: at, came }));
    }
    let mut newer = State::bootstrap(&NODES);
    let kind = Some(proto::raft::command::Kind::SetFeatureLevel(LEVELS.1 + 1));
    newer.apply(1, &Command { principal: "control/1".into(), kind, ..Command::default() });
    let (level, newest) = (LEVELS.1 + 1, LEVELS.1);
    assert_eq!(tell(at, newer), Err(PeerMisbehaved::FeatureLevel { level, newest }));
    scene.works_on();
    assert_eq!(installed(&scene), before);
}

/// Each is something honest with one thing in it that cannot be.
#[test]
fn a_hundred_thousand_lies() {
    let mut scene = Scene::new(7);
    let said = std::mem::take(&mut scene.sim.said);
    let mut rng = Rng::new(7);
    for _ in 0..100_000 {
        let at = rng.below(said.len() as u64) as usize;
        let (from, to, message) = &said[at];
        let bytes = spoil(&mut rng, message);
        scene.tell(*from, *to, &bytes);
    }
    scene.works_on();
}

fn spoil(rng: &mut Rng, honest: &[u8]) -> Vec<u8> {
    if rng.percent(25) {
        return (0..rng.below(200)).map(|_| rng.next() as u8).collect();
    }
    let mut m = Message::decode(honest).unwrap();
    let high = u64::MAX - rng.below(1 << 20);
    match rng.below(10) {
        0 => m.msg_type = 19 + rng.below(1 << 20) as i32,
        1 => m.set_msg_type(MessageType::MsgPropose),
        2 => m.term = if rng.percent(50) { 0 } else { high },
        3 => m.from = if rng.percent(50) { m.to } else { rng.next() },
        4 => m.to = if rng.percent(50) { m.from } else { rng.next() },
        5 => m.index = high,
        6 => m.commit = high,
        7 => m.request_snapshot = 1 + rng.below(1_000),
        8 => m.context = vec![7; 300 + rng.below(100) as usize],
        _ => m.set_msg_type(MessageType::MsgTransferLeader),
    }
    m.encode_to_vec()
}
