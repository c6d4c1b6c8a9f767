//! The stream to one member: raft messages, questions of readers, pings; and what its end means.
//!
//! Raft messages flow after the first pong, so that nobody leads before it knows the clocks of
//! those who elected it. A stream that breaks says little: only when the member's address refuses
//! another connection is its process known to have ended.

use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use control_core::replica::Position;
use proto::id::NodeId;
use proto::raft::peer_client::PeerClient;
use proto::raft::{Ping, Pong, RaftAck, RaftFrame};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::outbox::{Outbox, Parcel};
use super::{Sender, jittered};
use crate::driver::Driver;
use crate::liveness::Liveness;
use crate::pace::Pace;
use crate::telemetry;

/// Reconnect after this much, doubled up to the other, each time ± a half.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
/// The longest pause between two tries: a leader must be heard again within an election.
const BACKOFF_MAX: Duration = Duration::from_secs(1);
/// A refusal by the peer (wrong data directory, not a member) needs a person: try rarely.
const BACKOFF_REFUSED: Duration = Duration::from_secs(5);
/// Between pings.
const PING_EVERY: Duration = Duration::from_millis(500);
/// Pings without an answer that are remembered.
const PINGS_MAX: usize = 16;
/// How long to look whether an address refuses connections.
const PROBE: Duration = Duration::from_millis(500);
/// A process that ends closes its streams a moment before it stops to listen.
const PROBE_AGAIN: Duration = Duration::from_millis(10);
/// How often to look again.
const PROBES_MAX: usize = 10;

/// The stream to one member.
pub(super) struct Link {
    pub(super) to: NodeId,
    pub(super) address: String,
    pub(super) channel: Channel,
    pub(super) sender: Sender,
    pub(super) outbox: Arc<Outbox>,
    pub(super) driver: Driver,
    pub(super) pace: Pace,
    pub(super) liveness: Arc<Liveness>,
}

/// Pings under way.
struct Pings {
    next: u64,
    sent: BTreeMap<u64, Instant>,
}

impl Link {
    /// For ever.
    pub(super) async fn run(self) {
        let mut backoff = BACKOFF_MIN;
        loop {
            let (began, status) = self.stream().await;
            if status.code() == tonic::Code::FailedPrecondition {
                tracing::error!(to = %self.to, "member refuses this node: {}", status.message());
                backoff = BACKOFF_REFUSED;
            } else if began {
                tracing::info!(to = %self.to, reason = status.message(), "stream to a member ended");
                backoff = BACKOFF_MIN;
            } else {
                tracing::debug!(to = %self.to, %status, "no stream to a member");
                backoff = backoff.saturating_mul(2).clamp(BACKOFF_MIN, BACKOFF_MAX);
            }
            self.liveness.peer_lost(self.to);
            let told = if began && has_ended(&self.address).await {
                tracing::warn!(to = %self.to, "the member's process has ended");
                self.driver.peer_gone(self.to).await
            } else {
                self.driver.unreachable(self.to).await
            };
            if told.is_err() {
                return; // This node is stopping.
            }
            tokio::time::sleep(jittered(backoff)).await;
        }
    }

    /// Until the stream ends: whether it ever began, and why it ended.
    async fn stream(&self) -> (bool, Status) {
        let (frames, receiver) = mpsc::channel::<RaftFrame>(8);
        let mut client = PeerClient::new(self.channel.clone());
        let acks = match client.stream(ReceiverStream::new(receiver)).await {
            Ok(acks) => acks.into_inner(),
            Err(status) => return (false, status),
        };
        tracing::info!(to = %self.to, "stream to a member begins");
        let (pings, sent) = watch::channel(Pings { next: 0, sent: BTreeMap::new() });
        let (heard, first_pong) = watch::channel(false);
        let pump = async {
            tokio::join!(self.ping(frames.clone(), &pings), self.pump(frames.clone(), first_pong));
        };
        tokio::select! {
            () = pump => (true, Status::unavailable("the connection broke")),
            status = self.ended(acks, &pings, &heard) => {
                drop(sent);
                (true, status)
            }
        }
    }

    async fn ping(&self, frames: mpsc::Sender<RaftFrame>, pings: &watch::Sender<Pings>) {
        let mut question = self.liveness.question();
        loop {
            let pops = question.borrow_and_update().to_vec();
            let mut number = 0;
            pings.send_modify(|pings| {
                pings.next += 1;
                number = pings.next;
                pings.sent.insert(number, Instant::now());
                while pings.sent.len() > PINGS_MAX {
                    pings.sent.pop_first();
                }
            });
            let frame = RaftFrame { ping: Some(Ping { number, pops }), ..self.frame() };
            if frames.send(frame).await.is_err() {
                return;
            }
            // A leader that does not hear a POP does not wait to ask.
            let _ = tokio::time::timeout(PING_EVERY, question.changed()).await;
        }
    }

    async fn pump(&self, frames: mpsc::Sender<RaftFrame>, mut first_pong: watch::Receiver<bool>) {
        if first_pong.wait_for(|heard| *heard).await.is_err() {
            return;
        }
        let _open = self.outbox.open();
        loop {
            let frame = match self.outbox.next().await {
                Parcel::Raft(message) => RaftFrame { message: message.into(), ..self.frame() },
                Parcel::Ask(round) => RaftFrame { ask: round, ..self.frame() },
            };
            if frames.send(frame).await.is_err() {
                return;
            }
            telemetry::frame_sent();
        }
    }

    fn frame(&self) -> RaftFrame {
        RaftFrame {
            from: self.sender.node.0,
            to: self.to.0,
            incarnation: self.sender.incarnation.clone(),
            group: self.sender.group.0.into(),
            ..RaftFrame::default()
        }
    }

    /// Takes answers until the stream ends, and says why it did.
    async fn ended(
        &self,
        mut acks: Streaming<RaftAck>,
        pings: &watch::Sender<Pings>,
        heard: &watch::Sender<bool>,
    ) -> Status {
        loop {
            let ack = match acks.message().await {
                Ok(Some(ack)) => ack,
                Ok(None) => return Status::unavailable("the member ended it"),
                Err(status) => return status,
            };
            if let Some(pong) = ack.pong {
                self.pong(&pong, pings).await;
                heard.send_replace(true);
            }
            if let Some(end) = ack.log_end {
                let position = Position { index: end.index, term: end.term };
                // Fails when this node is stopping.
                let _ = self.driver.log_end_of(self.to, end.round, position).await;
            }
        }
    }

    async fn pong(&self, pong: &Pong, pings: &watch::Sender<Pings>) {
        let mut took = None;
        pings.send_modify(|pings| {
            took = pings.sent.remove(&pong.number).map(|sent| sent.elapsed());
        });
        let Some(took) = took else { return };
        self.pace.measured(self.to, took);
        self.liveness.answered(self.to, &pong.pops);
        // Its clock was read half a round trip ago.
        let half = u64::try_from(took.as_millis() / 2).unwrap_or(u64::MAX);
        // These fail when this node is stopping.
        let _ = self.driver.levels_of(self.to, (pong.level_min, pong.level_max)).await;
        let _ = self.driver.clock_of(self.to, pong.wall_ms.saturating_add(half)).await;
    }
}

/// Whether nobody listens at the address any more. Never true when it only is slow.
async fn has_ended(address: &str) -> bool {
    for _ in 0..PROBES_MAX {
        match tokio::time::timeout(PROBE, TcpStream::connect(address)).await {
            Ok(Err(error)) => return error.kind() == ErrorKind::ConnectionRefused,
            Err(_) => return false,
            Ok(Ok(_)) => tokio::time::sleep(PROBE_AGAIN).await,
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn only_a_refused_connection_says_that_a_process_has_ended() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        assert!(!has_ended(&address).await, "it listens, though it never answers");
        drop(listener);
        assert!(has_ended(&address).await);
        assert!(!has_ended("no-such-name.invalid:1").await, "a name that does not resolve");
    }
}
