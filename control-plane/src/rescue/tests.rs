use control_core::replica::{
    LEVELS, PeerMisbehaved, Persist, Replica, ReplicaCommand, ReplicaConfig,
};
use proto::control::{ClusterMember, MemberChange, Trunk, member_change};
use proto::raft::command::Kind;
use proto::raft::{ChangeMembers, Command, FoundMembers};

use super::*;
use crate::wal::{Options, Wal};

const OPTIONS: Options = Options { low_bytes: Some(0), alone: false, segment_bytes: Some(65_536) };

fn owner(node: u64) -> Owner {
    Owner { mesh: "demo".into(), node: NodeId(node) }
}

/// A replica on its disk, alone or as one of three that hears nobody.
fn open(dir: &Path, node: u64, voters: &[u64]) -> (Replica, Wal) {
    fs::create_dir_all(dir).unwrap();
    let opened =
        Wal::open(dir, &owner(node), &format!("disk-{node}"), OPTIONS, &|_| Ok(())).unwrap();
    let config = ReplicaConfig {
        id: NodeId(node),
        group: control_core::group::GroupId::ROOT,
        voters: voters.iter().map(|id| NodeId(*id)).collect(),
        heartbeat_ticks: 1,
        election_ticks: (4, 8),
        priority: 0,
        members: Vec::new(),
        levels: LEVELS,
        incarnation: opened.incarnation,
    };
    (Replica::new(config, opened.restored).unwrap(), opened.wal)
}

/// Executes what waits; the number of outcomes.
fn drain(replica: &mut Replica, wal: &mut Wal) -> usize {
    let mut outcomes = 0;
    while let Some(command) = replica.poll_command() {
        match command {
            ReplicaCommand::Persist(persist) => {
                let Persist { number, .. } = persist;
                wal.persist(&persist).unwrap();
                replica.handle_persisted(number);
            }
            ReplicaCommand::Outcome { .. } => outcomes += 1,
            _ => {}
        }
    }
    outcomes
}

fn put_trunk(at: u64) -> Command {
    let trunk = Trunk { trunk_id: format!("t{at}"), host: "192.0.2.1".into(), ..Trunk::default() };
    Command {
        request_id: format!("r{at}"),
        principal: "operator/anna".into(),
        kind: Some(Kind::PutTrunk(trunk)),
    }
}

/// Leads alone and writes so many trunks.
fn write(dir: &Path, node: u64, from: u64, count: u64) -> u64 {
    let (mut replica, mut wal) = open(dir, node, &[node]);
    for tick in 0..40 {
        replica.handle_tick(1_000 + tick);
        drain(&mut replica, &mut wal);
    }
    for at in from..from + count {
        replica.propose(at + 1, put_trunk(at), 2_000 + at).unwrap();
        assert_eq!(drain(&mut replica, &mut wal), 1, "trunk {at}");
    }
    // Effects without new entries go to the tables after a few ticks.
    for tick in 0..10 {
        replica.handle_tick(9_000 + tick);
        drain(&mut replica, &mut wal);
    }
    wal.flush().unwrap();
    replica.state().trunks().count() as u64
}

#[test]
fn a_directory_is_verified_whole_or_said_to_be_damaged() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    assert_eq!(write(&dir, 1, 0, 20), 20);
    let report = verify(&dir).unwrap();
    assert_eq!(
        (report.mesh.as_str(), report.node, report.voters.as_slice()),
        ("demo", 1, &[1][..])
    );
    assert!(report.revision >= 20 && report.rows > 20 && report.entries > 20, "{report:?}");
    assert_eq!(verify(&dir).unwrap(), report, "looking changes nothing");
    let run = fs::read_dir(dir.join("state")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = fs::read(&run).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 4;
    fs::write(&run, bytes).unwrap();
    let said = format!("{:#}", verify(&dir).unwrap_err());
    assert!(said.contains("is damaged"), "{said}");
    assert!(verify(home.path()).is_err(), "no data directory");
}

#[test]
fn a_backup_of_a_running_node_comes_back_as_another_cluster() {
    let home = tempfile::tempdir().unwrap();
    let (dir, copy) = (home.path().join("data"), home.path().join("backup"));
    write(&dir, 1, 0, 15);
    // It runs, and has it locked.
    let running = open(&dir, 1, &[1]);
    let manifest = backup(&dir, &copy).unwrap();
    assert_eq!(manifest.revision, running.0.state().revision().0);
    assert!(backup(&dir, &copy).is_err(), "never over another one");
    drop(running);
    let mut names = Vec::new();
    for node in 1..=3 {
        let dir = home.path().join(format!("new-{node}"));
        restore(&copy, &dir, &owner(node), &[1, 2, 3], None).unwrap();
        let report = verify(&dir).unwrap();
        assert_eq!(report.voters, [1, 2, 3]);
        assert_eq!(report.revision, manifest.revision + REVISIONS_APART);
        assert_ne!(report.cluster_id, manifest.cluster_id);
        names.push((report.cluster_id, report.hash));
        let (replica, _wal) = open(&dir, node, &[1, 2, 3]);
        assert_eq!(replica.state().trunks().count(), 15);
    }
    names.dedup();
    assert_eq!(names.len(), 1, "all nodes begin the same");
    // Alone it goes on.
    let alone = home.path().join("alone");
    restore(&copy, &alone, &owner(7), &[7], None).unwrap();
    assert_eq!(write(&alone, 7, 100, 5), 20);
    // Damage is noticed.
    let manifest_file = copy.join(MANIFEST);
    let text = fs::read_to_string(&manifest_file).unwrap();
    fs::write(&manifest_file, text.replace(&manifest.hash, &hex(&[0; 32]))).unwrap();
    let said =
        restore(&copy, &home.path().join("x"), &owner(1), &[1], None).unwrap_err().to_string();
    assert!(said.contains("not those of its manifest"), "{said}");
    assert!(!home.path().join("x").exists());
}

#[test]
fn the_last_of_three_goes_on_with_all_it_has() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data-3");
    write(&dir, 3, 0, 10);
    // As a voter of three: it holds entries it does not know to be committed.
    let (inspected, examined) = read(&dir).unwrap();
    let mut state = examined.state;
    state.found_anew(&[1, 2, 3], "old", 0);
    let Restored { mut hard_state, .. } = inspected.restored;
    let tail: Vec<_> = inspected.restored.entries.iter().map(|entry| entry.index).collect();
    let base = Position { index: 1, term: 1 };
    let mut first_state = State::bootstrap(&[1, 2, 3]);
    let member = |node_id| ClusterMember { node_id, ..ClusterMember::default() };
    let kind = Kind::FoundMembers(FoundMembers { members: [1, 2, 3].map(member).to_vec() });
    let principal = "control/3".into();
    first_state.apply(1, &Command { principal, kind: Some(kind), ..Command::default() });
    hard_state.commit = 1;
    let restored = Restored {
        hard_state,
        base,
        tables: rows_of(&first_state),
        applied: 1,
        ..inspected.restored
    };
    fs::remove_dir_all(&dir).unwrap();
    offline::write_new(&made(&dir).unwrap(), &owner(3), "disk-3", &restored).unwrap();

    let file = home.path().join("plan.json");
    let plan = plan(std::slice::from_ref(&dir)).unwrap();
    assert_eq!(plan.uncertain.len(), tail.len());
    let ids: Vec<_> = plan.uncertain.iter().map(|u| u.request_id.as_str()).collect();
    assert!(ids.contains(&"r0") && ids.contains(&"r9"), "{ids:?}");
    save_plan(&plan, &file).unwrap();
    let kept = apply_plan(&file, &dir).unwrap();
    assert!(kept.join("owner").exists());
    assert!(apply_plan(&file, &dir).is_err(), "once");
    // Nothing that may have been acknowledged is lost, and it goes on.
    assert_eq!(write(&dir, 3, 50, 5), 15);
    assert_eq!(verify(&dir).unwrap().voters, [3]);
    // The others may run again one day: no stream of theirs is let in, as no member vouches for
    // them, not even while the configuration names them still; what they answer counts for nothing.
    let (mut replica, _) = open(&dir, 3, &[3]);
    let founders = [1, 2, 3].map(member);
    let believed = crate::driver::members(&replica, &founders);
    assert_eq!(believed.iter().map(|member| member.node_id).collect::<Vec<_>>(), [3]);
    for node in [1, 2] {
        assert!(!replica.state().members().any(|member| member.node_id == u64::from(node)));
        // Raft's message: type, to, from, term.
        for kind in [4, 6, 9, 18] {
            let message = [0x08, kind, 0x10, 3, 0x18, node, 0x20, 100];
            let told = replica.handle_peer(NodeId(node.into()), &message);
            assert_eq!(told, Err(PeerMisbehaved::NotAMember), "node {node}, type {kind}");
        }
    }
    let said = super::plan(&[dir]).unwrap_err().to_string();
    assert!(said.contains("a majority needs no recovery"), "{said}");
}

/// Alone on its disk, with nodes 8 and 9 let in and 9 gone again; what did so is in the log and,
/// unless it is flushed, not in the tables.
fn with_members(dir: &Path, flushed: bool) {
    let change = |kind| {
        let changes = vec![MemberChange { kind: Some(kind) }];
        Some(Kind::ChangeMembers(ChangeMembers { changes }))
    };
    let member = |node_id| {
        let (address, incarnation) = (format!("10.0.0.{node_id}:7000"), format!("old-{node_id}"));
        ClusterMember { node_id, address, incarnation, ..ClusterMember::default() }
    };
    write(dir, 3, 0, 4);
    let (mut replica, mut wal) = open(dir, 3, &[3]);
    for tick in 0..40 {
        replica.handle_tick(20_000 + tick);
        drain(&mut replica, &mut wal);
    }
    let kinds = [
        member_change::Kind::AddLearner(member(8)),
        member_change::Kind::AddLearner(member(9)),
        member_change::Kind::Remove(9),
    ];
    for (at, kind) in (500..).zip(kinds) {
        let command = Command { kind: change(kind), ..put_trunk(at) };
        replica.propose(at, command, 21_000 + at).unwrap();
        assert_eq!(drain(&mut replica, &mut wal), 1);
    }
    assert_eq!(replica.state().conf().learners, [8]);
    if flushed {
        for tick in 0..10 {
            replica.handle_tick(22_000 + tick);
            drain(&mut replica, &mut wal);
        }
        wal.flush().unwrap();
    }
}

#[test]
fn nobody_is_a_member_of_what_begins_anew_but_its_voters() {
    let home = tempfile::tempdir().unwrap();
    let path = |name: &str| home.path().join(name);
    let anew = |dir: &Path| {
        let state = read(dir).unwrap().1.state;
        assert_eq!((state.conf().voters, state.conf().learners), (vec![3], vec![]));
        assert_eq!(state.members().count(), 0, "their addresses and directories are forgotten");
        assert!(!state.is_removed(9), "a free id");
        // Nothing in the log brings them back.
        assert_eq!(write(dir, 3, 600, 2), 6);
        assert_eq!(verify(dir).unwrap().voters, [3]);
        assert_eq!(read(dir).unwrap().1.state.conf().learners, [0; 0]);
    };
    with_members(&path("data"), true);
    backup(&path("data"), &path("saved")).unwrap();
    restore(&path("saved"), &path("restored"), &owner(3), &[3], None).unwrap();
    anew(&path("restored"));
    for flushed in [true, false] {
        let (dir, file) = (path(&format!("lost-{flushed}")), path(&format!("plan-{flushed}")));
        with_members(&dir, flushed);
        let (inspected, _) = read(&dir).unwrap();
        let plan = planned(&dir, inspected);
        save_plan(&plan, &file).unwrap();
        apply_plan(&file, &dir).unwrap();
        anew(&dir);
    }
}

/// A plan that goes on with this node, as if others had voted with it.
fn planned(dir: &Path, inspected: Inspected) -> Plan {
    let commit = inspected.restored.entries.last().unwrap().index;
    let hard_state = HardState { commit, ..inspected.restored.hard_state };
    let restored = Restored { hard_state, ..inspected.restored };
    fs::remove_dir_all(dir).unwrap();
    offline::write_new(&made(dir).unwrap(), &owner(3), "disk-3", &restored).unwrap();
    let (inspected, examined) = read(dir).unwrap();
    let chosen = report(&inspected, &examined);
    Plan {
        format: FORMAT,
        survivors: vec![chosen.clone()],
        uncertain: Vec::new(),
        cluster_id: "new".into(),
        chosen,
    }
}
