//! Tables on the wire: those of a leader that come in, and those of this node that go to a backup.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use control_core::replica::Replica;
use proto::control::backup_part::Part as BackupKind;
use proto::control::{BackupHead, BackupPart};
use proto::id::NodeId;
use proto::raft::snapshot_part::Part;
use proto::raft::{SnapshotHave, SnapshotHead, SnapshotPart};
use tokio::sync::mpsc;
use tokio_stream::Stream;
use tonic::{Code, Status, Streaming};

use super::read::Freshness;
use super::{Api, Failure};
use crate::driver::Driver;
use crate::snapshot::inbox::{Arrival, Refused, Ticket};
use crate::snapshot::{WINDOW, chunk};
use crate::wal::WalError;
use crate::wal::spool::Spool;

pub(super) type Haves = Pin<Box<dyn Stream<Item = Result<SnapshotHave, Status>> + Send>>;
pub(super) type BackupParts = Pin<Box<dyn Stream<Item = Result<BackupPart, Status>> + Send>>;
/// Answers that wait to be sent: as many as there are pieces under way.
pub(super) const HAVES: usize = 2 * WINDOW;
/// Backups at once, and more of them wait.
pub(super) const BACKUPS_MAX: usize = 2;
/// Pieces of a backup that wait to be sent.
pub(super) const PIECES: usize = 2;
/// The sender hears so often that the file is being read.
const STILL_HERE: Duration = Duration::from_secs(2);
/// Tables follow the log at a distance of seconds; a disk that needs longer is full or broken.
const TABLES_FOLLOW: Duration = Duration::from_secs(20);

impl From<Refused> for Failure {
    fn from(refused: Refused) -> Self {
        let message = refused.to_string();
        match refused {
            Refused::Head => Self::invalid(message),
            Refused::Disk(error) => error.into(),
            Refused::Superseded => Self::new(Code::Aborted, "SUPERSEDED", message),
        }
    }
}

impl From<WalError> for Failure {
    fn from(error: WalError) -> Self {
        let message = error.to_string();
        match error {
            WalError::Full { .. } | WalError::Low { .. } => {
                Self::new(Code::ResourceExhausted, "STORAGE_LOW", message)
            }
            _ => Self::internal(&message),
        }
    }
}

impl Api {
    /// Takes the pieces of a snapshot until it is whole, then hands it to the driver.
    pub(super) async fn take_tables(
        &self,
        from: NodeId,
        mut parts: Streaming<SnapshotPart>,
        haves: mpsc::Sender<Result<SnapshotHave, Status>>,
    ) {
        let mut stop = self.0.stop.clone();
        let taken = tokio::select! {
            taken = self.pieces(from, &mut parts, &haves) => taken,
            _ = stop.wait_for(|stop| *stop) => Err(Failure::unavailable("STOPPING", "this node is stopping")),
        };
        // Fails when the sender is gone: it comes again.
        let _ = match taken {
            Ok(()) => haves.send(Ok(SnapshotHave { taken: true, ..<_>::default() })).await,
            Err(failure) => haves.send(Err(failure.into())).await,
        };
    }

    async fn pieces(
        &self,
        from: NodeId,
        parts: &mut Streaming<SnapshotPart>,
        haves: &mpsc::Sender<Result<SnapshotHave, Status>>,
    ) -> Result<(), Failure> {
        let broken = || Failure::unavailable("BROKEN", "the connection broke");
        let Ok(Some(SnapshotPart { part: Some(Part::Head(head)) })) = parts.message().await else {
            return Err(Failure::invalid("a snapshot begins with its head"));
        };
        self.admit(from, &head.incarnation).await?;
        self.check_frame(from, head.from, head.to, &head.incarnation).await?;
        let SnapshotHead { index, bytes, .. } = head;
        let (ticket, have) = self.blocking(move |inbox| inbox.begin(&head)).await?;
        tracing::info!(%from, index, bytes, have = have.bytes, "the leader sends its tables");
        let mut complete = have.bytes == bytes;
        haves.send(Ok(have)).await.map_err(|_| broken())?;
        loop {
            if complete {
                if let Some(arrival) = self.finish(ticket, bytes, haves).await? {
                    tracing::info!(%from, index, "all of the leader's tables are here");
                    self.0.cluster.driver().snapshot(from, arrival).await?;
                    return Ok(());
                }
                tracing::warn!(%from, index, "the leader's tables came damaged: once more");
                let anew = SnapshotHave { damaged: true, ..<_>::default() };
                haves.send(Ok(anew)).await.map_err(|_| broken())?;
            }
            let part = parts.message().await.map_err(|_| broken())?.ok_or_else(broken)?;
            let Some(Part::Chunk(chunk)) = part.part else {
                return Err(Failure::invalid("a snapshot has one head, then chunks"));
            };
            let have = self.blocking(move |inbox| inbox.chunk(ticket, &chunk)).await?;
            complete = have.bytes == bytes;
            haves.send(Ok(have)).await.map_err(|_| broken())?;
        }
    }

    /// Reading all of it can take a while: the sender hears that it goes on.
    async fn finish(
        &self,
        ticket: Ticket,
        bytes: u64,
        haves: &mpsc::Sender<Result<SnapshotHave, Status>>,
    ) -> Result<Option<Arrival>, Failure> {
        let reading = self.blocking(move |inbox| inbox.finish(ticket));
        tokio::pin!(reading);
        loop {
            tokio::select! {
                read = &mut reading => return read,
                () = tokio::time::sleep(STILL_HERE) => {
                    // A sender that is gone is noticed when it is told of the end.
                    let _ = haves.try_send(Ok(SnapshotHave { bytes, ..<_>::default() }));
                }
            }
        }
    }

    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&crate::snapshot::inbox::Inbox) -> Result<T, Refused> + Send + 'static,
    ) -> Result<T, Failure> {
        let inbox = self.0.inbox.clone();
        let done = tokio::task::spawn_blocking(move || work(&inbox)).await;
        done.map_err(|error| Failure::internal(&error.to_string()))?.map_err(Failure::from)
    }

    /// All tables, with everything that was acknowledged before this: a node that is cut off or
    /// far behind gives no backup, another one does.
    pub(super) async fn fresh_spool(&self) -> Result<(Arc<Spool>, BackupPart), Failure> {
        let (acknowledged, _) =
            self.0.cluster.read(Freshness::Linearizable, Replica::changed).await?;
        reached(self.0.cluster.driver(), acknowledged, TABLES_FOLLOW).await?;
        self.spool().await
    }

    /// All tables, as they are on the disk of this node now.
    pub(super) async fn spool(&self) -> Result<(Arc<Spool>, BackupPart), Failure> {
        let spool = self.0.cluster.driver().spool().await??;
        let node_id = self.0.cluster.driver().progress().borrow().node.0;
        let head = BackupHead {
            cluster_id: spool.headline.cluster_id.clone(),
            revision: spool.headline.revision.0,
            index: spool.at.index,
            term: spool.at.term,
            log_time_ms: spool.headline.log_time_ms,
            voters: spool.headline.conf.voters.clone(),
            bytes: spool.bytes,
            crc32c: spool.crc32c,
            node_id,
        };
        Ok((spool, BackupPart { part: Some(BackupKind::Head(head)) }))
    }
}

/// Waits until the tables on disk stand at this index.
async fn reached(driver: &Driver, index: u64, patience: Duration) -> Result<(), Failure> {
    match tokio::time::timeout(patience, driver.tables_reach(index)).await {
        Ok(reached) => Ok(reached?),
        Err(_) => {
            let node = driver.progress().borrow().node;
            let message = format!(
                "the tables on the disk of node {node} stand at log index {} and do not reach \
                 {index} within {} s: free space there or check its disk, or ask another node \
                 (--endpoint)",
                driver.tables_at(),
                patience.as_secs_f32()
            );
            Err(Failure::unavailable("TABLES_BEHIND", message))
        }
    }
}

/// Sends a backup until it is there or its reader is gone.
pub(super) async fn send_backup(
    spool: Arc<Spool>,
    head: BackupPart,
    parts: mpsc::Sender<Result<BackupPart, Status>>,
) {
    if parts.send(Ok(head)).await.is_err() {
        return;
    }
    let mut offset = 0;
    while offset < spool.bytes {
        let file = spool.clone();
        let read = tokio::task::spawn_blocking(move || file.chunk(offset)).await;
        let piece = match read {
            Ok(Ok(data)) => {
                let piece = chunk(offset, &data);
                offset += data.len() as u64;
                Ok(BackupPart { part: Some(BackupKind::Chunk(piece)) })
            }
            Ok(Err(error)) => Err(Status::data_loss(error.to_string())),
            Err(error) => Err(Status::internal(error.to_string())),
        };
        let failed = piece.is_err();
        if parts.send(piece).await.is_err() || failed {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::alone::Alone;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_backup_waits_for_the_tables_as_long_as_they_may_take() {
        let node = Alone::start(10_000).await;
        node.write(0..3).await;
        let acknowledged = node.driver.query(Replica::changed).await.unwrap();
        // They are asked for: by themselves they would come after two seconds.
        reached(&node.driver, acknowledged, Duration::from_millis(1_800)).await.unwrap();
        let spool = node.driver.spool().await.unwrap().unwrap();
        assert_eq!(spool.headline.revision, node.driver.progress().borrow().revision);
        let never = reached(&node.driver, u64::MAX, Duration::from_millis(50)).await.unwrap_err();
        assert_eq!((never.code, never.reason.as_str()), (Code::Unavailable, "TABLES_BEHIND"));
        let stands = format!("node 1 stand at log index {acknowledged} and do not reach");
        assert!(never.message.contains(&stands), "{}", never.message);
        assert!(never.message.contains("check its disk, or ask another node"));
        node.stop().await;
    }
}
