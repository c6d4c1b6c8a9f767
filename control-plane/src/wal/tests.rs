use bytes::Bytes;
use control_core::replica::LogEntry;

use super::*;

/// Small segments: tests cross them.
const OPTIONS: Options = Options { low_bytes: Some(0), alone: false, segment_bytes: Some(4096) };

const ANY: Check<'_> = &|_| Ok(());

fn owner() -> Owner {
    Owner { mesh: "demo".into(), node: NodeId(1) }
}

fn try_open(dir: &Path) -> Result<Opened, WalError> {
    Wal::open(dir, &owner(), "first", OPTIONS, ANY)
}

fn open(dir: &Path) -> Opened {
    try_open(dir).unwrap()
}

fn refusal(dir: &Path, owner: &Owner) -> String {
    Wal::open(dir, owner, "x", OPTIONS, ANY).err().unwrap().to_string()
}

fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry { index, term, bytes: Bytes::from(format!("entry {index}.{term}")) }
}

fn persist() -> Persist {
    Persist {
        number: 1,
        snapshot: None,
        entries: Vec::new(),
        changes: Vec::new(),
        hard_state: HardState { term: 1, vote: 0, commit: 1 },
        applied: 1,
        compact_to: None,
    }
}

fn put(key: &str, value: &str) -> TableChange {
    TableChange { key: key.into(), value: Some(Bytes::from(value.to_owned())) }
}

/// As a replica begins.
fn begin(dir: &Path) -> Wal {
    let mut wal = open(dir).wal;
    let compact_to = Some(Position { index: 1, term: 1 });
    wal.persist(&Persist { changes: vec![put("voters", "123")], compact_to, ..persist() }).unwrap();
    wal
}

/// Entries 2 to `last`, each with a change, all applied but not flushed.
fn fill(wal: &mut Wal, last: u64) {
    for index in 2..=last {
        let changes = vec![put(&format!("k{:03}", index - 1), "x")];
        let entries = vec![entry(index, 1)];
        wal.persist(&Persist { entries, changes, applied: index - 1, ..persist() }).unwrap();
    }
}

/// All files below `dir` with what they hold.
fn files_of(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                dirs.push(path);
            } else {
                files.insert(path.clone(), fs::read(path).unwrap());
            }
        }
    }
    files
}

fn restore_files(dir: &Path, files: &BTreeMap<PathBuf, Vec<u8>>) {
    fs::remove_dir_all(dir).unwrap();
    for (path, bytes) in files {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
}

#[test]
fn a_new_directory_is_empty_and_keeps_its_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.restored, Restored::default());
    assert_eq!((opened.incarnation.as_str(), opened.repair), ("first", None));
    drop(opened);
    let again = Wal::open(dir.path(), &owner(), "second", OPTIONS, ANY).unwrap();
    assert_eq!((again.incarnation.as_str(), again.restored), ("first", Restored::default()));
}

#[test]
fn what_was_persisted_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    let entries = vec![entry(2, 1), entry(3, 1), entry(4, 1)];
    wal.persist(&Persist { entries, ..persist() }).unwrap();
    // A new leader replaces 3 and 4.
    let hard_state = HardState { term: 2, vote: 3, commit: 3 };
    let second = Persist { entries: vec![entry(3, 2)], hard_state, ..persist() };
    wal.persist(&second).unwrap();
    let changes = vec![put("a", "1"), put("b", "2")];
    wal.persist(&Persist { changes, hard_state, applied: 2, ..persist() }).unwrap();
    let gone = TableChange { key: b"a".to_vec(), value: None };
    wal.persist(&Persist { changes: vec![gone], hard_state, applied: 3, ..persist() }).unwrap();
    wal.flush().unwrap();
    drop(wal);
    let restored = open(dir.path()).restored;
    assert_eq!(restored.entries, [entry(2, 1), entry(3, 2)]);
    let keys: Vec<_> = restored.tables.iter().map(|(key, _)| key.as_slice()).collect();
    assert_eq!(keys, [b"b".as_slice(), b"voters"]);
    assert_eq!((restored.hard_state, restored.applied), (hard_state, 3));
    assert_eq!(restored.base, Position { index: 1, term: 1 });
}

#[test]
fn what_the_tables_lack_the_log_has() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 200);
    // Gone as if the process was killed: nothing is flushed.
    drop(wal);
    let restored = open(dir.path()).restored;
    assert_eq!((restored.applied, restored.tables.len()), (1, 1));
    assert_eq!(restored.entries.len(), 199);
    assert_eq!(restored.hard_state, HardState { term: 1, vote: 0, commit: 1 });
}

#[test]
fn segments_go_when_both_tables_and_followers_are_past_them() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 300);
    let segments = |dir: &Path| scan::numbers(&log_dir(dir)).unwrap().len();
    let many = segments(dir.path());
    assert!(many > 5, "{many}");
    wal.persist(&Persist {
        compact_to: Some(Position { index: 250, term: 1 }),
        applied: 299,
        ..persist()
    })
    .unwrap();
    assert_eq!(segments(dir.path()), many, "the tables are not that far");
    wal.flush().unwrap();
    wal.tick().unwrap();
    let few = segments(dir.path());
    assert!(few < many / 2, "{few} of {many}");
    // Used again, what they held before is not taken for new.
    for index in 301..=420 {
        wal.persist(&Persist { entries: vec![entry(index, 1)], applied: 299, ..persist() })
            .unwrap();
    }
    drop(wal);
    let opened = open(dir.path());
    let restored = opened.restored;
    assert!(restored.base.index <= 250 && restored.base.index > 100, "{:?}", restored.base);
    assert_eq!((restored.applied, restored.entries.last()), (299, Some(&entry(420, 1))));
    assert_eq!(restored.entries.len() as u64, 420 - restored.base.index);
    assert_eq!(opened.repair, None);
}

#[test]
fn a_snapshot_replaces_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 20);
    let position = Position { index: 90, term: 2 };
    let tables = vec![(b"z".to_vec(), Bytes::from_static(b"26"))];
    let snapshot = Some(InstallSnapshot { position });
    let came = dir.path().join("came");
    fs::create_dir_all(&came).unwrap();
    flusher::replace_all(&came, &Tables::default(), position, &tables).unwrap();
    let (chain, _) = runs::list(&came).unwrap();
    wal.stage(position, chain[0].path.clone());
    let hard_state = HardState { term: 2, vote: 0, commit: 90 };
    let entries = vec![entry(91, 2)];
    wal.persist(&Persist { snapshot, entries, hard_state, applied: 90, ..persist() }).unwrap();
    drop(wal);
    let restored = open(dir.path()).restored;
    assert_eq!((restored.base, restored.tables), (position, tables));
    assert_eq!((restored.entries, restored.applied), (vec![entry(91, 2)], 90));
}

#[test]
fn a_crash_between_snapshot_and_log_begins_the_log_behind_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 20);
    let position = Position { index: 90, term: 2 };
    let rows = vec![(b"z".to_vec(), Bytes::from_static(b"26"))];
    flusher::replace_all(&state_dir(dir.path()), &wal.tables, position, &rows).unwrap();
    drop(wal);
    let mut opened = open(dir.path());
    assert_eq!((opened.restored.base, opened.restored.applied), (position, 90));
    assert!(opened.restored.entries.is_empty() && opened.repair.is_none());
    assert_eq!(opened.restored.hard_state, HardState { term: 2, vote: 0, commit: 90 });
    let hard_state = HardState { term: 3, vote: 0, commit: 90 };
    let next = Persist { entries: vec![entry(91, 3)], hard_state, applied: 90, ..persist() };
    opened.wal.persist(&next).unwrap();
    drop(opened);
    assert_eq!(open(dir.path()).restored.entries, [entry(91, 3)]);
}

#[test]
fn only_promises_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let wal = begin(dir.path());
    let moved_on = Persist { applied: 5, changes: vec![put("a", "1")], ..persist() };
    assert!(!wal.must_sync(&moved_on));
    let hard_state = HardState { commit: 7, ..moved_on.hard_state };
    assert!(!wal.must_sync(&Persist { hard_state, ..moved_on.clone() }));
    let hard_state = HardState { vote: 2, ..moved_on.hard_state };
    assert!(wal.must_sync(&Persist { hard_state, ..moved_on.clone() }));
    assert!(wal.must_sync(&Persist { entries: vec![entry(1, 1)], ..moved_on }));
}

#[test]
fn a_directory_that_is_refused_stays_as_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 20);
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("is in use: stop the other"), "{said}");
    wal.flush().unwrap();
    drop(wal);
    let before = files_of(dir.path());
    let said = refusal(dir.path(), &Owner { node: NodeId(2), ..owner() });
    assert!(said.contains("belongs to node 1 of mesh \"demo\", but"), "{said}");
    let said = refusal(dir.path(), &Owner { mesh: "other".into(), ..owner() });
    assert!(said.contains("the configuration says node 1 of mesh \"other\""), "{said}");
    assert!(files_of(dir.path()) == before);

    // Written by a later version.
    let newer = [("format", "3".to_owned()), ("mesh", "demo".into()), ("node", "1".into())];
    let text = files::seal_lines("voxmesh control data", &newer);
    fs::write(dir.path().join("owner"), text).unwrap();
    let before = files_of(dir.path());
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("has format 3, this version reads 2"), "{said}");
    assert!(files_of(dir.path()) == before);

    // By the first one.
    let old = tempfile::tempdir().unwrap();
    fs::write(old.path().join("control.redb"), "x").unwrap();
    let said = refusal(old.path(), &owner());
    assert!(said.contains("control.redb has format 1"), "{said}");
    assert_eq!(files_of(old.path()).len(), 1);
}

#[test]
fn a_torn_last_write_is_cut_unless_it_was_acknowledged() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 10);
    let before_last = fs::read(acked_path(dir.path())).unwrap();
    wal.persist(&Persist { entries: vec![entry(11, 1)], ..persist() }).unwrap();
    let (number, end) = (wal.log.segment_number(), wal.log.end());
    drop(wal);
    let segment = scan::segment_path(&log_dir(dir.path()), number);
    let mut bytes = fs::read(&segment).unwrap();
    bytes[end - 8..end].fill(0);
    fs::write(&segment, bytes).unwrap();
    let torn = files_of(dir.path());

    // The mark knows of it: this is damage.
    let opened = open(dir.path());
    assert_eq!(opened.repair, Some(Repair { index: 11, term: 1 }));
    assert_eq!(opened.restored.entries.last(), Some(&entry(10, 1)));
    drop(opened);

    // It does not: the write never ended, and goes on there.
    restore_files(dir.path(), &torn);
    fs::write(acked_path(dir.path()), before_last).unwrap();
    let mut opened = open(dir.path());
    assert_eq!((opened.repair, opened.restored.entries.last()), (None, Some(&entry(10, 1))));
    opened.wal.persist(&Persist { entries: vec![entry(11, 1)], ..persist() }).unwrap();
    drop(opened);
    assert_eq!(open(dir.path()).restored.entries.last(), Some(&entry(11, 1)));
}

/// Flips bits all over the files that match and tells what came of each.
fn flip(
    dir: &Path,
    matches: impl Fn(&Path) -> bool,
    mut check: impl FnMut(Result<Opened, WalError>, &str),
) {
    let clean = files_of(dir);
    let targets: Vec<_> = clean.iter().filter(|(path, _)| matches(path)).collect();
    assert!(!targets.is_empty());
    for (path, bytes) in targets {
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) + 1;
        // Every byte of small files, a sample of large ones; another bit each time.
        for at in (0..used).step_by((used / 40).max(1)) {
            let mut damaged = bytes.clone();
            damaged[at] ^= 1 << (at % 8);
            fs::write(path, damaged).unwrap();
            check(try_open(dir), &format!("{} byte {at}", path.display()));
            restore_files(dir, &clean);
        }
    }
}

#[test]
fn flipped_bits_in_the_log_lose_nothing_silently() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 60);
    drop(wal);
    let (mut repairs, mut whole) = (0, 0);
    flip(
        dir.path(),
        |path| path.extension().is_some_and(|e| e == "seg"),
        |opened, what| {
            let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            let entries = &opened.restored.entries;
            let expected: Vec<_> =
                (2..2 + entries.len() as u64).map(|index| entry(index, 1)).collect();
            assert_eq!(entries, &expected, "{what}");
            let lost = opened.repair;
            match lost {
                Some(repair) => {
                    assert_eq!(repair, Repair { index: 60, term: 1 }, "{what}");
                    repairs += 1;
                }
                None => {
                    assert_eq!(entries.len(), 59, "{what}: entries are missing without a word");
                    whole += 1;
                }
            }
            drop(opened);
            // It stays so until told otherwise.
            let again = open(dir.path());
            assert_eq!(again.repair, lost, "{what}");
            let aside = fs::read_dir(dir.path()).unwrap().filter(|entry| {
                entry.as_ref().unwrap().file_name().to_string_lossy().contains(".damaged-")
            });
            assert!(aside.count() > 0 || again.repair.is_none(), "{what}");
        },
    );
    assert!(repairs > 40, "{repairs} repairs, {whole} without loss");
}

#[test]
fn flipped_bits_below_the_tables_cost_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 120);
    wal.flush().unwrap();
    drop(wal);
    let first = scan::segment_path(&log_dir(dir.path()), 1);
    flip(
        dir.path(),
        |path| path == first,
        |opened, what| {
            let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(opened.repair, None, "{what}");
            assert_eq!(opened.restored.entries.last(), Some(&entry(120, 1)), "{what}");
            assert_eq!(
                (opened.restored.applied, opened.restored.tables.len()),
                (119, 120),
                "{what}"
            );
            drop(opened);
            let again = open(dir.path());
            assert_eq!(again.restored.entries.last(), Some(&entry(120, 1)), "{what}");
        },
    );
}

#[test]
fn flipped_bits_in_the_tables_are_repaired_from_others() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 20);
    wal.flush().unwrap();
    drop(wal);
    flip(
        dir.path(),
        |path| path.extension().is_some_and(|e| e == "run"),
        |opened, what| {
            let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(opened.repair, Some(Repair { index: 20, term: 1 }), "{what}");
            assert_eq!((opened.restored.applied, opened.restored.tables.len()), (0, 0), "{what}");
            assert_eq!(opened.restored.hard_state.term, 1, "{what}");
            assert!(dir.path().join("state.damaged-1").exists(), "{what}");
        },
    );
}

#[test]
fn flipped_bits_in_who_and_votes_refuse_or_are_made_up_for() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    wal.remember_incarnation(NodeId(2), "abc").unwrap();
    fill(&mut wal, 5);
    let hard_state = HardState { term: 4, vote: 2, commit: 4 };
    wal.persist(&Persist { hard_state, ..persist() }).unwrap();
    drop(wal);
    let clean = files_of(dir.path());
    for name in ["owner", "peers"] {
        flip(
            dir.path(),
            |path| path.ends_with(name),
            |opened, what| {
                let said = opened.err().unwrap_or_else(|| panic!("{what}: taken")).to_string();
                assert!(said.contains("is damaged"), "{what}: {said}");
            },
        );
    }
    // One of the two slots is enough while the log is whole: it says the same.
    flip(
        dir.path(),
        |path| path.ends_with("vote"),
        |opened, what| {
            let opened = opened.unwrap_or_else(|error| panic!("{what}: {error}"));
            assert_eq!(opened.restored.hard_state, hard_state, "{what}");
        },
    );
    // Beside damage of the log nobody knows what this node voted.
    let segment = scan::segment_path(&log_dir(dir.path()), 1);
    let mut log = clean[&segment].clone();
    log[scan::SEGMENT_HEAD_BYTES + 30] ^= 1;
    fs::write(&segment, log).unwrap();
    let mut vote = clean[&vote_path(dir.path())].clone();
    vote[4096 + 9] ^= 1;
    fs::write(vote_path(dir.path()), vote).unwrap();
    let before = files_of(dir.path());
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("term and vote is damaged: this node must not vote"), "{said}");
    assert!(files_of(dir.path()) == before);
}

#[test]
fn a_node_alone_refuses_what_nobody_can_bring_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = begin(dir.path());
    fill(&mut wal, 20);
    drop(wal);
    let segment = scan::segment_path(&log_dir(dir.path()), 1);
    let mut log = fs::read(&segment).unwrap();
    log[100] ^= 1;
    fs::write(&segment, log).unwrap();
    let before = files_of(dir.path());
    let alone = Options { alone: true, ..OPTIONS };
    let said = Wal::open(dir.path(), &owner(), "x", alone, ANY).err().unwrap().to_string();
    assert!(said.contains("is damaged"), "{said}");
    assert!(files_of(dir.path()) == before);
}

#[test]
fn incarnations_of_others_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).wal;
    assert_eq!(wal.known_incarnation(NodeId(2)).unwrap(), None);
    wal.remember_incarnation(NodeId(2), "abc").unwrap();
    drop(wal);
    let wal = open(dir.path()).wal;
    assert_eq!(wal.known_incarnation(NodeId(2)).unwrap().as_deref(), Some("abc"));
}

#[test]
fn data_of_nobody_knows_whom_is_left_as_it_is() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path().join("data");
    let mut wal = begin(&dir);
    fill(&mut wal, 9);
    wal.flush().unwrap();
    drop(wal);
    fs::remove_file(dir.join("owner")).unwrap();
    let all = files_of(&dir);
    // The whole directory, and each part alone.
    for part in ["", "log/", "state/", "vote", "acked"] {
        let kept: BTreeMap<PathBuf, Vec<u8>> = all
            .iter()
            .filter(|(path, _)| {
                path.strip_prefix(&dir).unwrap().to_str().unwrap().starts_with(part)
            })
            .map(|(path, bytes)| (path.clone(), bytes.clone()))
            .collect();
        assert!(!kept.is_empty(), "{part} is a part");
        restore_files(&dir, &kept);
        let said = refusal(&dir, &owner());
        assert!(said.contains("the file owner that says whose data this is is missing"), "{said}");
        assert!(said.contains(part.trim_end_matches('/')) && said.contains("replace the node"));
        assert_eq!(files_of(&dir), kept, "untouched");
        let found = fs::read_dir(&dir).unwrap().count();
        let tops: std::collections::BTreeSet<_> = kept
            .keys()
            .map(|path| path.strip_prefix(&dir).unwrap().components().next().unwrap())
            .collect();
        assert_eq!(found, tops.len(), "no empty directory was made either");
    }
    // A first start that was interrupted is none of this.
    fs::remove_dir_all(&dir).unwrap();
    for place in ["log", "state"] {
        fs::create_dir_all(dir.join(place)).unwrap();
    }
    open(&dir);
}
