//! The leader's end: one file to one member, until it is there or another one is to go.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use enroll::dial::Tls;
use proto::id::NodeId;
use proto::raft::peer_client::PeerClient;
use proto::raft::snapshot_part::Part;
use proto::raft::{SnapshotHave, SnapshotHead, SnapshotPart};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt as _};
use tonic::Status;

use super::{WINDOW, chunk};
use crate::driver::Driver;
use crate::peer::{Sender, channel, jittered};
use crate::telemetry;
use crate::wal::spool::Spool;

/// Reconnect after this much, doubled up to the other, each time ± a half.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two tries.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A receiver that says nothing for so long is given up; the next try goes on where it is.
const SILENCE: Duration = Duration::from_secs(10);

/// Tables and what raft says with them.
#[derive(Debug, Clone)]
pub struct Shipment {
    /// The tables.
    pub spool: Arc<Spool>,
    /// Raft's message.
    pub message: Bytes,
}

/// What is to go to a member now; another value ends what was under way.
pub type Slot = watch::Sender<Option<Shipment>>;

/// Carries tables to one member.
pub struct Courier {
    /// To whom.
    pub to: NodeId,
    /// Its address.
    pub address: String,
    /// This node's certificate.
    pub tls: Tls,
    /// This node.
    pub sender: Sender,
    /// Hears of progress.
    pub driver: Driver,
}

impl Courier {
    /// For ever.
    pub async fn run(self, mut slot: watch::Receiver<Option<Shipment>>) {
        loop {
            let Some(shipment) = slot.borrow_and_update().clone() else {
                if slot.changed().await.is_err() {
                    return;
                }
                continue;
            };
            tokio::select! {
                changed = slot.changed() => if changed.is_err() { return },
                () = self.deliver(&shipment) => {
                    // It is there: until the next one.
                    drop(shipment);
                    if slot.changed().await.is_err() {
                        return;
                    }
                }
            }
        }
    }

    /// Tries until it is there.
    async fn deliver(&self, shipment: &Shipment) {
        let (at, bytes) = (shipment.spool.at, shipment.spool.bytes);
        tracing::info!(to = %self.to, index = at.index, bytes, "a member is behind the log: tables go to it");
        let (mut backoff, mut tries) = (BACKOFF_MIN, 0u64);
        loop {
            let mut moved = false;
            match self.once(shipment, &mut moved).await {
                Ok(()) => {
                    tracing::info!(to = %self.to, index = at.index, tries, "the tables are there");
                    return;
                }
                Err(status) => {
                    let why = status.message();
                    tracing::warn!(to = %self.to, index = at.index, why, "tables did not get through yet");
                }
            }
            tries += 1;
            telemetry::snapshot_retried();
            let longer = backoff.saturating_mul(2).min(BACKOFF_MAX);
            backoff = if moved { BACKOFF_MIN } else { longer };
            tokio::time::sleep(jittered(backoff)).await;
        }
    }

    /// One connection, of its own: what raft says to the member does not wait for it.
    async fn once(&self, shipment: &Shipment, moved: &mut bool) -> Result<(), Status> {
        let channel = channel(self.to, &self.address, &self.tls)
            .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
        let (parts, outgoing) = mpsc::channel(WINDOW);
        parts.try_send(self.head(shipment)).map_err(|_| Status::internal("no room for a head"))?;
        let mut client = PeerClient::new(channel);
        let have = client.snapshot(ReceiverStream::new(outgoing)).await?.into_inner();
        let mut beginning = None;
        transfer(&shipment.spool, &parts, have, |bytes| {
            let from = *beginning.get_or_insert(bytes);
            *moved = bytes > from;
            telemetry::snapshot_sent(bytes, shipment.spool.bytes);
            self.driver.snapshot_progress(self.to);
        })
        .await
    }

    fn head(&self, shipment: &Shipment) -> SnapshotPart {
        let Shipment { spool, message } = shipment;
        let head = SnapshotHead {
            from: self.sender.node.0,
            to: self.to.0,
            incarnation: self.sender.incarnation.clone(),
            index: spool.at.index,
            term: spool.at.term,
            bytes: spool.bytes,
            crc32c: spool.crc32c,
            message: message.to_vec(),
        };
        SnapshotPart { part: Some(Part::Head(head)) }
    }
}

/// Sends what the receiver does not have, piece by piece, until it has taken the whole file.
/// `progress`: what it has.
pub async fn transfer(
    spool: &Arc<Spool>,
    parts: &mpsc::Sender<SnapshotPart>,
    mut answers: impl Stream<Item = Result<SnapshotHave, Status>> + Unpin,
    mut progress: impl FnMut(u64),
) -> Result<(), Status> {
    let mut flow = Flow { under_way: VecDeque::new(), next: None, rewinds: false };
    loop {
        while let Some(offset) = flow.next_piece(spool.bytes) {
            let file = spool.clone();
            let data = tokio::task::spawn_blocking(move || file.chunk(offset)).await;
            let data = data.map_err(|error| Status::internal(error.to_string()))?;
            let data = data.map_err(|error| Status::data_loss(error.to_string()))?;
            let part = SnapshotPart { part: Some(Part::Chunk(chunk(offset, &data))) };
            parts.send(part).await.map_err(|_| Status::unavailable("the connection broke"))?;
            flow.sent(offset + data.len() as u64);
        }
        let answer = tokio::time::timeout(SILENCE, answers.next()).await;
        let answer = answer.map_err(|_| Status::deadline_exceeded("the member says nothing"))?;
        let have = answer.ok_or_else(|| Status::unavailable("the member ended it"))??;
        if have.taken {
            return Ok(());
        }
        progress(have.bytes);
        flow.answered(have.bytes);
    }
}

/// Which piece is next.
struct Flow {
    /// Ends of the pieces under way.
    under_way: VecDeque<u64>,
    /// `None`: the receiver has not said yet.
    next: Option<u64>,
    /// A piece was refused, those behind it will be: then it goes on from there.
    rewinds: bool,
}

impl Flow {
    fn next_piece(&self, end: u64) -> Option<u64> {
        let room = self.under_way.len() < WINDOW && !self.rewinds;
        self.next.filter(|next| room && *next < end)
    }

    fn sent(&mut self, end: u64) {
        self.under_way.push_back(end);
        self.next = Some(end);
    }

    fn answered(&mut self, have: u64) {
        self.rewinds |= self.under_way.pop_front() != Some(have);
        if self.rewinds && self.under_way.is_empty() {
            self.rewinds = false;
            self.next = Some(have);
        }
    }
}
