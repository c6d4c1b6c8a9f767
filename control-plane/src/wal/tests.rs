use super::*;

fn owner() -> Owner {
    Owner { mesh: "demo".into(), node: NodeId(1) }
}

fn open(dir: &Path) -> Opened {
    Wal::open(dir, &owner(), "first").unwrap()
}

fn refusal(dir: &Path, owner: &Owner) -> String {
    Wal::open(dir, owner, "x").err().unwrap().to_string()
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
        hard_state: HardState { term: 1, vote: 1, commit: 0 },
        applied: 0,
        compact_to: None,
    }
}

fn put(key: &str, value: &str) -> TableChange {
    TableChange { key: key.into(), value: Some(Bytes::from(value.to_owned())) }
}

#[test]
fn a_new_directory_is_empty_and_keeps_its_incarnation() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    assert_eq!(opened.restored, Restored::default());
    assert_eq!(opened.incarnation, "first");
    drop(opened);
    assert_eq!(Wal::open(dir.path(), &owner(), "second").unwrap().incarnation, "first");
}

#[test]
fn what_was_persisted_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).wal;
    let entries = vec![entry(1, 1), entry(2, 1), entry(3, 1)];
    wal.persist(&Persist { entries, ..persist() }).unwrap();
    // A new leader replaces 2 and 3.
    let hard_state = HardState { term: 2, vote: 3, commit: 2 };
    let changes = vec![put("a", "1"), put("b", "2")];
    let second = Persist { entries: vec![entry(2, 2)], hard_state, ..persist() };
    wal.persist(&second).unwrap();
    let gone = TableChange { key: b"a".to_vec(), value: None };
    wal.persist(&Persist { changes, hard_state, applied: 1, ..persist() }).unwrap();
    let compact_to = Some(Position { index: 1, term: 1 });
    let last = Persist { changes: vec![gone], hard_state, applied: 2, compact_to, ..persist() };
    wal.persist(&last).unwrap();
    drop(wal);
    let restored = open(dir.path()).restored;
    assert_eq!(restored.entries, [entry(2, 2)]);
    assert_eq!(restored.tables, [(b"b".to_vec(), Bytes::from_static(b"2"))]);
    assert_eq!((restored.hard_state, restored.applied), (hard_state, 2));
    assert_eq!(restored.base, Position { index: 1, term: 1 });
}

#[test]
fn a_snapshot_replaces_everything() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).wal;
    let changes = vec![put("a", "1")];
    wal.persist(&Persist { entries: vec![entry(1, 1)], changes, ..persist() }).unwrap();
    let position = Position { index: 9, term: 2 };
    let tables = vec![(b"z".to_vec(), Bytes::from_static(b"26"))];
    let snapshot = Some(InstallSnapshot { position, tables: tables.clone() });
    wal.persist(&Persist { snapshot, entries: vec![entry(10, 2)], applied: 9, ..persist() })
        .unwrap();
    drop(wal);
    let restored = open(dir.path()).restored;
    assert_eq!((restored.base, restored.tables), (position, tables));
    assert_eq!(restored.entries, [entry(10, 2)]);
}

#[test]
fn only_promises_are_synced() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).wal;
    let moved_on = Persist { applied: 5, changes: vec![put("a", "1")], ..persist() };
    assert!(wal.must_sync(&moved_on), "first term");
    wal.persist(&moved_on).unwrap();
    let committed = HardState { commit: 7, ..moved_on.hard_state };
    assert!(!wal.must_sync(&Persist { hard_state: committed, ..moved_on.clone() }));
    let voted = HardState { vote: 2, ..moved_on.hard_state };
    assert!(wal.must_sync(&Persist { hard_state: voted, ..moved_on.clone() }));
    assert!(wal.must_sync(&Persist { entries: vec![entry(1, 1)], ..moved_on }));
}

#[test]
fn another_owner_and_another_process_are_named() {
    let dir = tempfile::tempdir().unwrap();
    let opened = open(dir.path());
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("control.redb is in use: stop the other"), "{said}");
    drop(opened);
    let said = refusal(dir.path(), &Owner { node: NodeId(2), ..owner() });
    assert!(said.contains("belongs to node 1 of mesh \"demo\", but"), "{said}");
}

#[test]
fn damage_is_named_and_not_cut_away() {
    let dir = tempfile::tempdir().unwrap();
    let mut wal = open(dir.path()).wal;
    wal.persist(&Persist { entries: vec![entry(1, 1), entry(2, 1)], ..persist() }).unwrap();
    let txn = wal.database.begin_write().unwrap();
    txn.open_table(LOG).unwrap().insert(1, b"nonsense".as_slice()).unwrap();
    txn.commit().unwrap();
    drop(wal);
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("log entry 1 is damaged: keep the file"), "{said}");
}

#[test]
fn a_file_that_is_no_database_is_named() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("control.redb"), vec![7; 4096]).unwrap();
    let said = refusal(dir.path(), &owner());
    assert!(said.contains("control.redb"), "{said}");
}

#[test]
fn incarnations_of_others_are_remembered() {
    let dir = tempfile::tempdir().unwrap();
    let wal = open(dir.path()).wal;
    assert_eq!(wal.known_incarnation(NodeId(2)).unwrap(), None);
    wal.remember_incarnation(NodeId(2), "abc").unwrap();
    assert_eq!(wal.known_incarnation(NodeId(2)).unwrap().as_deref(), Some("abc"));
}
