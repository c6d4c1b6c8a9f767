//! `Watch`: every change in order, without a gap that the client could not see.
//!
//! Each node answers from its own state. A node that is behind the client does not send it back
//! in time: it waits, then tells it to ask another node. A node without a cluster sends nothing,
//! because an empty snapshot would empty the client's view. A node without a leader for longer
//! than an election sends its clients on. A slow client is not waited for: its
//! place in the history is lost, it is told so and begins anew.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use control_core::replica::Replica;
use proto::control::watch_response::Kind as Item;
use proto::control::watch_server::Watch;
use proto::control::{Progress, Resource, SnapshotPart, WatchRequest, WatchResponse};
use proto::id::{NodeId, Revision};
use tokio::sync::{mpsc, watch as signal};
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};

use super::{Answer, Api, Failure, answer, authorise};
use crate::hub::Snapshot;
use crate::telemetry;

/// Progress marks when nothing happens.
const PROGRESS: Duration = Duration::from_secs(1);
/// How long a node may take to catch up with a client.
const CATCH_UP: Duration = Duration::from_secs(5);
/// Resources of one part: far below the 4 MiB that clients take.
const PART: usize = 500;
/// Messages that wait for a client; then it is the client's turn.
const WAITING: usize = 4;

/// Marks in a row without a leader until clients are sent away: longer than any election.
const LEADERLESS_MAX: u32 = 5;

type Changes = Pin<Box<dyn Stream<Item = Result<WatchResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Watch for Api {
    type WatchStream = Changes;

    async fn watch(&self, request: Request<WatchRequest>) -> Answer<Changes> {
        answer("Watch.Watch", async {
            let (_, request) = authorise(request)?;
            self.0.cluster.check_group(request.group)?;
            let cluster_id = self.0.cluster.driver().progress().borrow().cluster_id.clone();
            if cluster_id.is_empty() {
                let message = "this node has not met its cluster yet: ask another one";
                return Err(Failure::unavailable("NO_CLUSTER", message));
            }
            let (changes, receiver) = mpsc::channel(WAITING);
            let watcher = Watcher { api: self.clone(), cluster_id, changes };
            tokio::spawn(watcher.run(request));
            let stream: Changes = Box::pin(ReceiverStream::new(receiver));
            Ok(stream)
        })
        .await
    }
}

struct Watcher {
    api: Api,
    cluster_id: Arc<str>,
    changes: mpsc::Sender<Result<WatchResponse, Status>>,
}

/// Marks in a row without a leader. A node that is cut off knows of no change any more, and would
/// keep its clients from those that do.
#[derive(Default)]
struct Leaderless(u32);

impl Leaderless {
    fn mark(&mut self, leader: Option<NodeId>) -> Result<(), Failure> {
        self.0 = if leader.is_some() { 0 } else { self.0 + 1 };
        if self.0 > LEADERLESS_MAX {
            let message = "this node hears no leader: ask another one";
            return Err(Failure::unavailable("NO_QUORUM", message));
        }
        Ok(())
    }
}

/// Why a watch ends.
enum End {
    /// The client is gone, or this node stops.
    Gone,
    /// The client has to hear it.
    Failed(Failure),
}

impl From<Failure> for End {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Watcher {
    async fn run(self, request: WatchRequest) {
        telemetry::watchers(1.0);
        let mut stop = self.api.0.stop.clone();
        let end = tokio::select! {
            Err(end) = self.serve(request) => end,
            _ = stop.wait_for(|stop| *stop) => {
                let message = "this node is stopping: ask another one";
                Failure::unavailable("STOPPING", message).into()
            }
        };
        if let End::Failed(failure) = end {
            let reason = if failure.code == Code::OutOfRange { "compacted" } else { "unavailable" };
            telemetry::watcher_cut(reason);
            // A client that does not even take this is cut without a word.
            let _ = self.changes.try_send(Err(failure.into()));
        }
        telemetry::watchers(-1.0);
    }

    async fn serve(&self, request: WatchRequest) -> Result<std::convert::Infallible, End> {
        let mut at = match Revision(request.from_revision) {
            Revision(0) => self.snapshot().await?,
            from if request.cluster_id != *self.cluster_id => {
                return Err(compacted(from, "it belongs to another cluster", None).into());
            }
            from => self.caught_up(from).await?,
        };
        let mut revisions = self.api.0.hub.subscribe();
        let place = self.api.0.hub.enter();
        loop {
            place.store(at.0, Ordering::Relaxed);
            revisions.mark_unchanged();
            let events = self.api.0.hub.since(at);
            let events =
                events.map_err(|error| compacted(at, &error.to_string(), Some(error.oldest)))?;
            if events.is_empty() {
                self.idle(at, &mut revisions).await?;
            }
            for event in events {
                at = Revision(event.revision);
                self.send(Item::Event((*event).clone())).await?;
                place.store(at.0, Ordering::Relaxed);
            }
        }
    }

    /// Until something happens, with marks meanwhile.
    async fn idle(&self, at: Revision, new: &mut signal::Receiver<Revision>) -> Result<(), End> {
        let mut leaderless = Leaderless::default();
        let progress = self.api.0.cluster.driver().progress();
        loop {
            tokio::select! {
                changed = new.changed() => return changed.map_err(|_| End::Gone),
                () = self.changes.closed() => return Err(End::Gone),
                () = tokio::time::sleep(PROGRESS) => {
                    leaderless.mark(progress.borrow().leader)?;
                    self.send(Item::Progress(Progress { revision: at.0 })).await?;
                }
            }
        }
    }

    /// Waits until this node knows what the client knows.
    async fn caught_up(&self, from: Revision) -> Result<Revision, End> {
        let mut revisions = self.api.0.hub.subscribe();
        let known = revisions.wait_for(|revision| *revision >= from);
        match tokio::time::timeout(CATCH_UP, known).await {
            Ok(Ok(_)) => Ok(from),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => {
                let message = "this node knows less than you: ask another one";
                Err(Failure::unavailable("BEHIND", message).into())
            }
        }
    }

    async fn snapshot(&self) -> Result<Revision, End> {
        let snapshot = self.take_snapshot().await?;
        for part in &snapshot.parts {
            self.send(Item::Snapshot(part.clone())).await?;
        }
        Ok(snapshot.revision)
    }

    async fn take_snapshot(&self) -> Result<Arc<Snapshot>, Failure> {
        let hub = self.api.0.hub.clone();
        if let Some(snapshot) = hub.recent_snapshot(Instant::now()) {
            return Ok(snapshot);
        }
        // Looked for again when it is our turn: of all that came at once, the first one takes it.
        let look = move |replica: &Replica| {
            hub.recent_snapshot(Instant::now()).unwrap_or_else(|| {
                let (state, revision) = (replica.state(), replica.state().revision());
                let parts = parts(revision, state.resources());
                let snapshot = Arc::new(Snapshot { revision, parts });
                hub.share_snapshot(&snapshot, Instant::now());
                snapshot
            })
        };
        Ok(self.api.0.cluster.driver().query(look).await?)
    }

    async fn send(&self, item: Item) -> Result<(), End> {
        let response = WatchResponse { kind: Some(item), cluster_id: self.cluster_id.to_string() };
        self.changes.send(Ok(response)).await.map_err(|_| End::Gone)
    }
}

/// With the revision after which events are still here, if that would help.
fn compacted(from: Revision, why: &str, oldest: Option<Revision>) -> Failure {
    let message = format!("cannot go on after revision {from} ({why}): begin anew");
    let failure = Failure::new(Code::OutOfRange, "REVISION_COMPACTED", message);
    match oldest {
        Some(oldest) => failure.with("compact_revision", oldest),
        None => failure,
    }
}

/// At least one part, the last one marked.
fn parts(revision: Revision, resources: impl Iterator<Item = Resource>) -> Vec<SnapshotPart> {
    let mut resources = resources.peekable();
    let mut parts = Vec::new();
    loop {
        let part: Vec<Resource> = resources.by_ref().take(PART).collect();
        let last = resources.peek().is_none();
        parts.push(SnapshotPart { revision: revision.0, resources: part, last });
        if last {
            return parts;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_has_a_last_part_even_when_empty() {
        let sizes = |count| {
            let parts = parts(Revision(7), std::iter::repeat_n(Resource::default(), count));
            assert!(parts.iter().rev().skip(1).all(|part| !part.last));
            assert!(parts.last().unwrap().last);
            parts.iter().map(|part| part.resources.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(0), [0]);
        assert_eq!(sizes(PART), [PART]);
        assert_eq!(sizes(2 * PART + 1), [PART, PART, 1]);
    }

    #[test]
    fn clients_are_sent_on_after_more_than_an_election_without_a_leader() {
        let mut leaderless = Leaderless::default();
        (0..LEADERLESS_MAX).for_each(|_| leaderless.mark(None).unwrap());
        leaderless.mark(Some(NodeId(1))).unwrap();
        (0..LEADERLESS_MAX).for_each(|_| leaderless.mark(None).unwrap());
        assert_eq!(leaderless.mark(None).unwrap_err().reason, "NO_QUORUM");
    }
}
