//! What earlier versions wrote can be read: the log and the tables, as bytes in `testdata/format`, one
//! file for each feature level. Each must come to the state it came to when it was written:
//! replicas of two versions compare their hashes.
//!
//! `REWRITE=1 cargo test -p control-core --test format` writes the file of the newest level. A file
//! of a level that was released is never written again.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test: a panic is its verdict")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::PathBuf;

use control_core::group::GroupId;
use control_core::replica::{
    HardState, LEVELS, LogEntry, Persist, Position, Replica, ReplicaCommand, ReplicaConfig,
    Restored,
};
use prost::bytes::Bytes;
use proto::control as c;
use proto::control::member_change::Kind as Change;
use proto::id::NodeId;
use proto::raft::command::Kind;
use proto::raft::record_pops::Found;
use proto::raft::{self, Command};

/// Milliseconds since the Unix epoch, by the log.
const NOW: u64 = 1_790_000_000_000;

fn config(id: u64, voters: &[u64]) -> ReplicaConfig {
    ReplicaConfig {
        id: NodeId(id),
        group: GroupId::ROOT,
        voters: voters.iter().map(|id| NodeId(*id)).collect(),
        members: voters.iter().map(|id| member(*id)).collect(),
        levels: LEVELS,
        heartbeat_ticks: 2,
        election_ticks: (10, 11),
        priority: 0,
        incarnation: format!("disk-{id}"),
    }
}

fn member(node_id: u64) -> c::ClusterMember {
    let address = format!("10.0.0.{node_id}:7000");
    c::ClusterMember { node_id, address, region: "eu".into(), ..<_>::default() }
}

/// Commands of the first file.
const SCRIPT_MIN: usize = 17;

/// With all that came later than its table.
fn trunk() -> c::Trunk {
    c::Trunk {
        trunk_id: "telco".into(),
        pop_ids: vec!["fra1".into()],
        host: "192.0.2.9".into(),
        media_encryption: c::MediaEncryption::Required.into(),
        low_bandwidth: true,
        noise_suppression: true,
        ..<_>::default()
    }
}

/// One of most kinds.
fn script() -> Vec<Kind> {
    let way = c::RouteCandidate { trunk_id: "telco".into(), priority: 0, weight: 1 };
    let shelf = c::Shelf { pool: "berlin".into(), country: "DE".into(), ..<_>::default() };
    let pick = |count| c::NumberPick { shelf: Some(shelf.clone()), count, ..<_>::default() };
    let found = |expired| Found { pop_id: "fra1".into(), epoch: 1, expired };
    let learner = c::MemberChange { kind: Some(Change::AddLearner(member(2))) };
    vec![
        Kind::RegisterPop(c::Pop { pop_id: "fra1".into(), region: "eu".into(), ..<_>::default() }),
        Kind::PutTrunk(trunk()),
        Kind::PutRoute(c::Route {
            route_id: "world".into(),
            prefix: String::new(),
            candidates: vec![way.clone()],
        }),
        Kind::ImportNumbers(raft::ImportNumbers {
            pool: "bonn".into(),
            e164: vec!["+492281234".into(), "+492281235".into()],
        }),
        Kind::AllocateNumber(raft::AllocateNumber {
            tenant: "acme".into(),
            which: Some(raft::allocate_number::Which::AnyOfPool("bonn".into())),
            candidates: vec![way],
        }),
        Kind::ImportBlocks(raft::ImportBlocks {
            blocks: vec![c::Block {
                first: "+4930123000".into(),
                count: 1_000,
                shelf: Some(shelf.clone()),
                ..<_>::default()
            }],
        }),
        Kind::PutTenant(raft::PutTenant {
            tenant: Some(c::Tenant { tenant: "acme".into(), ..<_>::default() }),
            expect: None,
        }),
        Kind::AllocateNumbers(raft::AllocateNumbers {
            tenant: "acme".into(),
            pick: Some(pick(3)),
            ..<_>::default()
        }),
        Kind::ReserveNumbers(raft::ReserveNumbers {
            tenant: "acme".into(),
            pick: Some(pick(2)),
            duration_ms: 60_000,
        }),
        Kind::ReleaseNumber(raft::ReleaseNumber {
            e164: "+492281234".into(),
            tenant: "acme".into(),
            expect: None,
        }),
        Kind::PutRole(c::Role { role_id: "german".into(), ..<_>::default() }),
        Kind::RecordReads(raft::RecordReads {
            reads: vec![raft::record_reads::Read {
                principal: "operator/anna".into(),
                resource: "trunks/telco".into(),
                count: 2,
            }],
        }),
        Kind::DeleteRoute("nowhere".into()),
        Kind::RecordPops(raft::RecordPops { found: vec![found(true)], fenced: Vec::new() }),
        Kind::RecordPops(raft::RecordPops { found: vec![found(false)], fenced: Vec::new() }),
        Kind::ChangeMembers(raft::ChangeMembers { changes: vec![learner] }),
        Kind::PutTrunk(c::Trunk { trunk_id: "other".into(), ..<_>::default() }),
        Kind::RecordPops(raft::RecordPops {
            found: vec![found(true)],
            fenced: vec![raft::PopEpoch { pop_id: "fra1".into(), epoch: 1 }],
        }),
        Kind::SteerPop(raft::SteerPop { pop_id: "fra1".into(), cordoned: true, draining: true }),
    ]
}

/// A disk.
#[derive(Default)]
struct Shell {
    disk: Restored,
    begin: Vec<(Vec<u8>, Bytes)>,
}

impl Shell {
    fn drain(&mut self, replica: &mut Replica) {
        while let Some(command) = replica.poll_command() {
            match command {
                ReplicaCommand::Persist(persist) => {
                    self.write(&persist);
                    replica.handle_persisted(persist.number);
                }
                ReplicaCommand::Halt { reason } => panic!("{reason}"),
                _ => {}
            }
        }
    }

    fn write(&mut self, persist: &Persist) {
        let disk = &mut self.disk;
        let mut tables: BTreeMap<_, _> = std::mem::take(&mut disk.tables).into_iter().collect();
        if let Some(snapshot) = &persist.snapshot {
            disk.entries.clear();
            disk.base = snapshot.position;
            tables.clear();
        }
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
        (disk.hard_state, disk.applied) = (persist.hard_state, persist.applied);
        if let Some(base) = persist.compact_to {
            disk.base = base;
        }
        if self.begin.is_empty() {
            self.begin.clone_from(&self.disk.tables);
        }
    }
}

/// What a version wrote.
#[derive(Debug, Default, PartialEq)]
struct Golden {
    disk: Restored,
    /// Tables before the first entry.
    begin: Vec<(Vec<u8>, Bytes)>,
    hash: Vec<u8>,
}

/// This version, as it writes.
fn written() -> Golden {
    let mut shell = Shell::default();
    let mut leader = Replica::new(config(1, &[1]), Restored::default()).unwrap();
    for _ in 0..40 {
        leader.handle_tick(NOW);
        shell.drain(&mut leader);
    }
    let mut proposals = 0;
    let mut propose = |leader: &mut Replica, shell: &mut Shell, kind| {
        proposals += 1;
        match kind {
            Kind::RecordPops(record) => leader.propose_pops(record),
            kind => {
                let (request_id, principal) = (format!("r{proposals}"), "operator/anna".into());
                let command = Command { request_id, principal, kind: Some(kind) };
                leader.propose(proposals, command, NOW + proposals).unwrap();
            }
        }
        shell.drain(leader);
    };
    script().into_iter().for_each(|kind| propose(&mut leader, &mut shell, kind));
    let hash = leader.state().hash().to_vec();
    // Everything applied is written, sooner or later.
    while shell.disk.applied < leader.applied() {
        leader.handle_tick(NOW + 1_000);
        shell.drain(&mut leader);
    }
    let Shell { disk, begin } = shell;
    Golden { disk, begin, hash }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Vec<u8> {
    let pairs = (0..text.len()).step_by(2).map(|at| &text[at..at + 2]);
    pairs.map(|pair| u8::from_str_radix(pair, 16).unwrap()).collect()
}

impl Golden {
    fn to_text(&self) -> String {
        let mut text = String::new();
        let HardState { term, vote, commit } = self.disk.hard_state;
        let Position { index, term: base } = self.disk.base;
        let _ = writeln!(text, "place {term} {vote} {commit} {index} {base} {}", self.disk.applied);
        for LogEntry { index, term, bytes } in &self.disk.entries {
            let _ = writeln!(text, "entry {index} {term} {}", hex(bytes));
        }
        for (what, rows) in [("begin", &self.begin), ("table", &self.disk.tables)] {
            for (key, value) in rows {
                let _ = writeln!(text, "{what} {} {}", hex(key), hex(value));
            }
        }
        let _ = writeln!(text, "hash {}", hex(&self.hash));
        text
    }

    fn read(text: &str) -> Self {
        let mut golden = Self::default();
        for line in text.lines() {
            let words: Vec<&str> = line.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let bytes = |at: usize| Bytes::from(words.get(at).map_or_else(Vec::new, |w| unhex(w)));
            match words[0] {
                "place" => {
                    let (term, vote, commit) = (number(1), number(2), number(3));
                    golden.disk.hard_state = HardState { term, vote, commit };
                    golden.disk.base = Position { index: number(4), term: number(5) };
                    golden.disk.applied = number(6);
                }
                "entry" => {
                    let (index, term, bytes) = (number(1), number(2), bytes(3));
                    golden.disk.entries.push(LogEntry { index, term, bytes });
                }
                "begin" => golden.begin.push((unhex(words[1]), bytes(2))),
                "table" => golden.disk.tables.push((unhex(words[1]), bytes(2))),
                "hash" => golden.hash = unhex(words[1]),
                other => panic!("a line of {other}"),
            }
        }
        golden
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("testdata/format")
}

/// The hash a replica comes to that starts with this.
fn restored(disk: Restored) -> Vec<u8> {
    let mut replica = Replica::new(config(1, &[1]), disk).unwrap();
    Shell::default().drain(&mut replica);
    replica.state().hash().to_vec()
}

#[test]
fn what_earlier_versions_wrote_comes_to_the_same_state() {
    let mut newest = 0;
    for file in std::fs::read_dir(directory()).unwrap() {
        let path = file.unwrap().path();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        let level: u32 = name.strip_prefix("level-").unwrap().parse().unwrap();
        newest = newest.max(level);
        let golden = Golden::read(&std::fs::read_to_string(&path).unwrap());
        assert!(golden.disk.entries.len() >= SCRIPT_MIN);
        assert_eq!(restored(golden.disk.clone()), golden.hash, "{name}: tables and log");
        let replayed = Restored {
            tables: golden.begin.clone(),
            applied: golden.disk.base.index,
            ..golden.disk.clone()
        };
        assert_eq!(restored(replayed), golden.hash, "{name}: the log from its beginning");
    }
    assert_eq!(newest, LEVELS.1, "REWRITE=1 writes the file of a new level");
}

/// What this version writes is what the file of its level holds: a change of a format without a new
/// level would be noticed here.
#[test]
fn the_formats_of_this_level_have_not_changed() {
    let path = directory().join(format!("level-{}.txt", LEVELS.1));
    let now = written();
    assert_eq!(Golden::read(&now.to_text()), now);
    if std::env::var_os("REWRITE").is_some() {
        std::fs::write(&path, now.to_text()).unwrap();
    }
    let known = Golden::read(&std::fs::read_to_string(&path).unwrap());
    assert_eq!(known.disk.entries, now.disk.entries, "log entries");
    assert_eq!(known.disk.tables, now.disk.tables, "tables");
    assert_eq!(known, now);
}
