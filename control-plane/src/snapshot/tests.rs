//! A sender and a receiver with something between them that cuts, damages and mixes up.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use control_core::replica::Position;
use control_core::state::State;
use proto::raft::snapshot_part::Part;
use proto::raft::{SnapshotHave, SnapshotHead, SnapshotPart};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::courier::transfer;
use super::inbox::{Arrival, Inbox, Refused};
use crate::wal::spool::{CHUNK_BYTES, Spool};
use crate::wal::{Health, Tables, WalError};

const AT: Position = Position { index: 90, term: 3 };

/// Tables of some megabytes, as a leader has them.
fn spool(dir: &Path) -> Arc<Spool> {
    let mut state = State::bootstrap(&[1, 2, 3]);
    state.found_anew(&[1, 2, 3], "a-cluster", 7);
    let mut rows: Vec<(Vec<u8>, Bytes)> =
        state.entries().map(|(k, v)| (k.to_vec(), Bytes::copy_from_slice(v))).collect();
    let filler = |n: u32| {
        let trunk = proto::control::Trunk {
            trunk_id: format!("t{n:06}"),
            host: "x".repeat(50_000),
            ..<_>::default()
        };
        (format!("tt{n:06}").into_bytes(), Bytes::from(prost::Message::encode_to_vec(&trunk)))
    };
    rows.extend((0..100).map(filler));
    let tables = Tables::of_rows(&dir.join("state"), AT, &rows);
    Arc::new(Spool::make(&tables, &roomy(dir)).unwrap())
}

/// A disk without a mark.
fn roomy(dir: &Path) -> Arc<Health> {
    Arc::new(Health::new(dir, Some(0)))
}

fn inbox_in(dir: &Path) -> Inbox {
    Inbox::new(roomy(dir)).unwrap()
}

fn head(spool: &Spool) -> SnapshotHead {
    SnapshotHead {
        from: 1,
        to: 2,
        incarnation: "x".into(),
        index: spool.at.index,
        term: spool.at.term,
        bytes: spool.bytes,
        crc32c: spool.crc32c,
        message: b"raft's".to_vec(),
    }
}

/// What happens to the n-th piece on its way.
enum Fate {
    Arrives,
    Damaged,
    /// With the connection.
    Lost,
}

/// One connection; the file when it is there, and the bytes that went over.
async fn connect(
    spool: &Arc<Spool>,
    inbox: &Inbox,
    fate: impl Fn(usize) -> Fate,
) -> (Option<Arrival>, u64) {
    let (parts, mut sent) = mpsc::channel::<SnapshotPart>(1);
    let (haves, answers) = mpsc::channel::<Result<SnapshotHave, Status>>(16);
    let receiver = async {
        let (ticket, have) = inbox.begin(&head(spool)).unwrap();
        haves.send(Ok(have)).await.unwrap();
        let (mut count, mut bytes) = (0, 0);
        while let Some(part) = sent.recv().await {
            let Some(Part::Chunk(mut chunk)) = part.part else { panic!("a chunk") };
            bytes += chunk.data.len() as u64;
            match fate(count) {
                Fate::Arrives => {}
                Fate::Damaged => chunk.data[7] ^= 1,
                Fate::Lost => {
                    drop((haves, sent));
                    return (None, bytes);
                }
            }
            count += 1;
            let have = inbox.chunk(ticket, &chunk).unwrap();
            let complete = have.bytes == spool.bytes;
            haves.send(Ok(have)).await.unwrap();
            if complete && let Some(arrival) = inbox.finish(ticket).unwrap() {
                haves.send(Ok(SnapshotHave { taken: true, ..<_>::default() })).await.unwrap();
                return (Some(arrival), bytes);
            }
        }
        (None, bytes)
    };
    let sender = async {
        let parts = parts;
        transfer(spool, &parts, ReceiverStream::new(answers), |_| {}).await
    };
    let (received, outcome) = tokio::join!(receiver, sender);
    assert_eq!(outcome.is_ok(), received.0.is_some());
    received
}

#[tokio::test]
async fn what_arrived_before_a_break_is_not_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("leader"));
    assert!(spool.bytes > 4 * CHUNK_BYTES as u64, "{}", spool.bytes);
    let member = dir.path().join("member");
    let inbox = inbox_in(&member);
    let cut = |n| if n == 3 { Fate::Lost } else { Fate::Arrives };
    let (none, first) = connect(&spool, &inbox, cut).await;
    assert!(none.is_none());
    // Over a restart of the receiver too.
    drop(inbox);
    let inbox = inbox_in(&member);
    let (arrival, second) = connect(&spool, &inbox, |_| Fate::Arrives).await;
    let arrival = arrival.expect("the rest came");
    assert_eq!(first, 4 * CHUNK_BYTES as u64);
    assert_eq!(second, spool.bytes - 3 * CHUNK_BYTES as u64, "only what was missing");
    assert_eq!((arrival.at, arrival.message.as_ref()), (AT, b"raft's".as_slice()));
    assert_eq!(arrival.state.cluster_id(), "a-cluster");
    assert_eq!(arrival.state.trunks().count(), 100);
    assert_eq!(arrival.file.metadata().unwrap().len(), spool.bytes);
}

#[tokio::test]
async fn damaged_pieces_are_refused_and_fetched_again() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("leader"));
    let inbox = inbox_in(&dir.path().join("member"));
    for damaged in [0, 2, 4] {
        let fate = |n| if n == damaged { Fate::Damaged } else { Fate::Arrives };
        let (arrival, bytes) = connect(&spool, &inbox, fate).await;
        assert_eq!(arrival.expect("all of it").state.trunks().count(), 100);
        let again = bytes - spool.bytes;
        assert!(again > 0 && again <= (super::WINDOW * CHUNK_BYTES) as u64, "{again} sent again");
    }
}

#[tokio::test]
async fn a_file_that_went_bad_on_the_way_begins_anew() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("leader"));
    let member = dir.path().join("member");
    let inbox = inbox_in(&member);
    let cut = |n| if n == 2 { Fate::Lost } else { Fate::Arrives };
    connect(&spool, &inbox, cut).await;
    let part = std::fs::read_dir(member.join("incoming")).unwrap().next().unwrap().unwrap().path();
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[1_000] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    let inbox = inbox_in(&member);
    let (ticket, have) = inbox.begin(&head(&spool)).unwrap();
    for offset in (have.bytes..spool.bytes).step_by(CHUNK_BYTES) {
        let data = spool.chunk(offset).unwrap();
        inbox.chunk(ticket, &super::chunk(offset, &data)).unwrap();
    }
    assert!(inbox.finish(ticket).unwrap().is_none(), "its checksum does not fit");
    let (_, have) = inbox.begin(&head(&spool)).unwrap();
    assert_eq!(have.bytes, 0);
    let (arrival, _) = connect(&spool, &inbox, |_| Fate::Arrives).await;
    assert_eq!(arrival.unwrap().state.trunks().count(), 100);
}

#[test]
fn the_newest_sender_is_the_one() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("leader"));
    let inbox = inbox_in(&dir.path().join("member"));
    let (older, _) = inbox.begin(&head(&spool)).unwrap();
    let piece = super::chunk(0, &spool.chunk(0).unwrap());
    inbox.chunk(older, &piece).unwrap();
    let other = SnapshotHead { index: 91, ..head(&spool) };
    let (newer, have) = inbox.begin(&other).unwrap();
    assert_eq!(have.bytes, 0, "another file");
    assert!(matches!(inbox.chunk(older, &piece), Err(Refused::Superseded)));
    inbox.chunk(newer, &piece).unwrap();
    let nonsense = SnapshotHead { bytes: 0, ..head(&spool) };
    assert!(matches!(inbox.begin(&nonsense), Err(Refused::Head)));
}

/// Refused for lack of space, in words that help.
fn is_low(said: &WalError) -> bool {
    let text = said.to_string();
    matches!(said, WalError::Low { .. })
        && text.contains("the low-water mark is 1000000 bytes: free space, it is tried again")
}

#[test]
fn a_low_disk_takes_no_tables_until_it_has_healed() {
    let dir = tempfile::tempdir().unwrap();
    let spool = spool(&dir.path().join("leader"));
    let health = Arc::new(Health::new(&dir.path().join("member"), Some(1_000_000)));
    let inbox = Inbox::new(health.clone()).unwrap();
    let refused = |result: Result<(), Refused>| match result {
        Err(Refused::Disk(error)) => assert!(is_low(&error), "{error}"),
        other => panic!("{other:?}"),
    };
    health.pretend(1_000_000 + spool.bytes - 1);
    refused(inbox.begin(&head(&spool)).map(|_| ()));
    health.pretend(1_000_000 + spool.bytes);
    let (ticket, _) = inbox.begin(&head(&spool)).unwrap();
    let piece = |offset| super::chunk(offset, &spool.chunk(offset).unwrap());
    let have = inbox.chunk(ticket, &piece(0)).unwrap().bytes;
    // Others fill it meanwhile; what came stays, and it goes on from there.
    health.pretend(1_000_000);
    refused(inbox.chunk(ticket, &piece(have)).map(|_| ()));
    refused(inbox.begin(&head(&spool)).map(|_| ()));
    health.pretend(1_000_000 + spool.bytes - have);
    let (ticket, again) = inbox.begin(&head(&spool)).unwrap();
    assert_eq!(again.bytes, have);
    for offset in (have..spool.bytes).step_by(CHUNK_BYTES) {
        inbox.chunk(ticket, &piece(offset)).unwrap();
    }
    assert_eq!(inbox.finish(ticket).unwrap().unwrap().state.trunks().count(), 100);
}

#[test]
fn a_low_disk_gives_no_tables_until_it_has_healed() {
    let home = tempfile::tempdir().unwrap();
    let dir = home.path();
    let bytes = spool(dir).bytes;
    let run = std::fs::read_dir(dir.join("state")).unwrap().next().unwrap().unwrap().path();
    let rows = Vec::from_iter((0..9u8).map(|n| (vec![b't', n], Bytes::from(vec![n; 1_000]))));
    let tables = Tables::of_rows(&dir.join("other"), AT, &rows);
    assert!(run.exists() && bytes > 0);
    let health = Health::new(dir, Some(1_000_000));
    health.pretend(1_000_000 + tables.bytes() - 1);
    let refused = Spool::make(&tables, &health).unwrap_err();
    assert!(is_low(&refused), "{refused}");
    assert!(!std::fs::read_dir(dir.join("outgoing")).unwrap().any(|_| true), "nothing was begun");
    health.pretend(1_000_000 + tables.bytes());
    Spool::make(&tables, &health).unwrap();
}
