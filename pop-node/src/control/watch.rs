//! The watch: resume by revision, notice gaps, begin anew when needed, keep the disk copy fresh.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use pop_core::view::{View, ViewUpdate};
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind;
use proto::control::{Resource, SnapshotPart, WatchRequest, WatchResponse};
use proto::id::Revision;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinHandle;
use tonic::{Code, Status};

use super::{Copy, Event, REQUEST, Shared};
use crate::backoff::Backoff;
use crate::link::Peer;

/// Nodes send progress every second; one that is silent for so long is left.
const SILENCE: Duration = Duration::from_secs(5);
/// Between looks whether the node answers heartbeats.
const LOOK: Duration = Duration::from_millis(100);
/// The disk copy follows the view at this distance.
const SAVE_AFTER: Duration = Duration::from_secs(1);
/// A part of a snapshot is smaller.
const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Why a stream was left.
#[derive(Debug, thiserror::Error)]
enum Left {
    #[error("{}", super::said(.0))]
    Status(#[from] Status),
    #[error("ended the watch")]
    Ended,
    #[error("is silent")]
    Silent(#[from] tokio::time::error::Elapsed),
    #[error("answers no heartbeats, and others do")]
    CutOff,
    #[error("missed something: {0}")]
    Gap(#[from] pop_core::view::Gap),
    #[error("is at revision {theirs}, we hold {ours} without what came between")]
    Behind { ours: Revision, theirs: Revision },
    #[error("holds revision {theirs}, older than ours {ours}")]
    Older { ours: Revision, theirs: Revision },
    #[error("has no more to tell: the process is ending")]
    Closed,
}

/// The watch and its own copy of the view.
pub(super) struct Watch {
    shared: Arc<Shared>,
    own: String,
    /// Shared with the thread that writes the copy, while it does.
    view: Arc<View>,
    events: mpsc::Sender<Event>,
    peers: watch::Sender<Vec<Peer>>,
    copy: Copy,
    /// When the copy must be written; `None`: it is fresh.
    save_at: Option<tokio::time::Instant>,
    /// The copy being written: at most one, the next one is of the latest view.
    saving: Option<JoinHandle<io::Result<()>>>,
    /// Ask for a snapshot although we hold a view.
    anew: bool,
    /// A snapshot on its way.
    parts: Vec<Resource>,
}

impl Watch {
    pub(super) fn new(
        shared: Arc<Shared>,
        own: String,
        view: View,
        (events, peers): (mpsc::Sender<Event>, watch::Sender<Vec<Peer>>),
        copy: Copy,
    ) -> Self {
        let this = Self {
            shared,
            own,
            view: Arc::new(view),
            events,
            peers,
            copy,
            save_at: None,
            saving: None,
            anew: false,
            parts: Vec::new(),
        };
        this.publish_peers();
        this
    }

    /// Runs until `stop`, then writes the copy if it is not fresh.
    pub(super) async fn run(mut self, seed: u64, stop: Arc<Notify>) {
        tokio::select! {
            () = self.follow_all(seed) => {}
            () = stop.notified() => {}
        }
        let saved = written(&mut self.saving).await;
        self.saved(saved);
        if self.save_at.is_some() {
            self.save();
            let saved = written(&mut self.saving).await;
            self.saved(saved);
        }
    }

    async fn follow_all(&mut self, seed: u64) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5), seed);
        let shared = self.shared.clone();
        let mut index = 0;
        while let Some(node) = shared.nodes.get(index) {
            let left = match self.open(node).await {
                Ok(stream) => self.follow(stream, node, &mut backoff).await,
                Err(left) => left,
            };
            shared.live.store(false, Ordering::Relaxed);
            self.parts = Vec::new();
            match &left {
                Left::Closed => return,
                Left::Gap(_) | Left::Behind { .. } => self.anew = true,
                // REVISION_COMPACTED, or another cluster.
                Left::Status(status) if status.code() == Code::OutOfRange => self.anew = true,
                Left::Status(_)
                | Left::Ended
                | Left::Silent(_)
                | Left::CutOff
                | Left::Older { .. } => {}
            }
            tracing::info!(node = node.endpoint, "control node {left}");
            index = shared.after(index);
            self.pause(backoff.delay()).await;
        }
    }

    async fn open(&mut self, node: &super::Node) -> Result<tonic::Streaming<WatchResponse>, Left> {
        let from_revision = if self.anew { 0 } else { self.view.revision().0 };
        let cluster_id = self.view.cluster_id().to_owned();
        let mut client =
            WatchClient::new(node.channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
        let request = client.watch(WatchRequest { from_revision, cluster_id, ..<_>::default() });
        Ok(tokio::time::timeout(REQUEST, request).await??.into_inner())
    }

    async fn follow(
        &mut self,
        mut stream: tonic::Streaming<WatchResponse>,
        node: &super::Node,
        backoff: &mut Backoff,
    ) -> Left {
        // The word that a POP is lost must not wait for the silence of a node that is lost with it.
        let mut looks = tokio::time::interval(LOOK);
        let mut silent_at = tokio::time::Instant::now() + SILENCE;
        loop {
            let save_at = self.save_at.unwrap_or_else(far);
            tokio::select! {
                message = tokio::time::timeout_at(silent_at, stream.message()) => {
                    silent_at = tokio::time::Instant::now() + SILENCE;
                    let message = match message {
                        Ok(Ok(Some(message))) => message,
                        Ok(Ok(None)) => return Left::Ended,
                        Ok(Err(status)) => return status.into(),
                        Err(elapsed) => return elapsed.into(),
                    };
                    if let Err(left) = self.take(message).await {
                        return left;
                    }
                    backoff.reset();
                }
                _ = looks.tick() => {
                    if self.shared.is_cut_off(node) {
                        return Left::CutOff;
                    }
                }
                () = tokio::time::sleep_until(save_at) => self.save(),
                saved = written(&mut self.saving), if self.saving.is_some() => self.saved(saved),
            }
        }
    }

    async fn take(&mut self, message: WatchResponse) -> Result<(), Left> {
        match message.kind {
            Some(Kind::Snapshot(part)) => self.snapshot(message.cluster_id, part).await,
            Some(Kind::Event(event)) => self.apply(ViewUpdate::Event(event)).await,
            Some(Kind::Progress(progress)) => {
                let (ours, theirs) = (self.view.revision(), Revision(progress.revision));
                if theirs > ours {
                    return Err(Left::Behind { ours, theirs });
                }
                self.shared.live.store(true, Ordering::Relaxed);
                Ok(())
            }
            // A newer control plane may say more than we know.
            None => Ok(()),
        }
    }

    async fn snapshot(&mut self, cluster_id: String, part: SnapshotPart) -> Result<(), Left> {
        self.parts.extend(part.resources);
        if !part.last {
            return Ok(());
        }
        let (ours, theirs) = (self.view.revision(), Revision(part.revision));
        if cluster_id == self.view.cluster_id() && theirs < ours {
            return Err(Left::Older { ours, theirs });
        }
        let resources = std::mem::take(&mut self.parts);
        self.anew = false;
        let mut view = View::default();
        view.apply(ViewUpdate::Snapshot { cluster_id, revision: theirs, resources })?;
        // Built here, twice: the calls must not wait for that.
        let theirs = Box::new(view.clone());
        self.view = Arc::new(view);
        self.applied(Event::Snapshot(theirs)).await
    }

    async fn apply(&mut self, update: ViewUpdate) -> Result<(), Left> {
        // Copied only while the one before is being written.
        Arc::make_mut(&mut self.view).apply(update.clone())?;
        self.applied(Event::View(update)).await
    }

    async fn applied(&mut self, event: Event) -> Result<(), Left> {
        self.shared.live.store(true, Ordering::Relaxed);
        self.save_at.get_or_insert_with(|| tokio::time::Instant::now() + SAVE_AFTER);
        self.publish_peers();
        self.events.send(event).await.map_err(|_| Left::Closed)
    }

    fn publish_peers(&self) {
        let others = self.view.pops().filter(|(id, _)| id.as_str() != self.own);
        let peers: Vec<Peer> = others
            .map(|(id, pop)| Peer { id: id.clone(), address: pop.overlay_address.clone() })
            .collect();
        self.peers.send_if_modified(|old| {
            let changed = *old != peers;
            *old = peers;
            changed
        });
    }

    /// Waits before the next node; the copy is written meanwhile if it is time.
    async fn pause(&mut self, delay: Duration) {
        let end = tokio::time::Instant::now() + delay;
        if self.save_at.is_some_and(|at| at < end) {
            self.save();
        }
        tokio::time::sleep_until(end).await;
    }

    /// Has the latest view written, or that put off while another one is.
    fn save(&mut self) {
        if self.saving.as_ref().is_some_and(|saving| !saving.is_finished()) {
            self.save_at = Some(tokio::time::Instant::now() + SAVE_AFTER);
            return;
        }
        self.save_at = None;
        let (copy, view) = (self.copy.clone(), self.view.clone());
        self.saving = Some(tokio::task::spawn_blocking(move || copy.save(&view)));
    }

    fn saved(&mut self, saved: io::Result<()>) {
        if let Err(error) = saved {
            tracing::error!(%error, "the view's copy was not written; it is tried again");
            self.save_at = Some(tokio::time::Instant::now() + SAVE_AFTER * 10);
        }
    }
}

/// When the copy is written; at once if none is being.
async fn written(saving: &mut Option<JoinHandle<io::Result<()>>>) -> io::Result<()> {
    let Some(task) = saving else { return Ok(()) };
    let saved = task.await;
    *saving = None;
    saved.unwrap_or_else(|ended| Err(io::Error::other(ended)))
}

fn far() -> tokio::time::Instant {
    tokio::time::Instant::now() + Duration::from_secs(86_400)
}
