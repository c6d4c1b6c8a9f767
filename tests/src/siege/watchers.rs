//! Watchers: come back after each end with what they hold, as POPs do.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chaos::rng::Rng;
use proto::control::watch_client::WatchClient;
use proto::control::watch_response::Kind;
use proto::control::{Resource, WatchRequest, WatchResponse};
use tonic::{Code, Status};

use super::Shared;
use super::faults::index;
use crate::linear::{Feed, Seen};

/// A watch says something each second; one that is silent for so long is dead.
const SILENCE: Duration = Duration::from_secs(3);

#[derive(Default)]
struct Watcher {
    feed: Feed,
    revision: u64,
    cluster_id: String,
    parts: Vec<Resource>,
    /// What it holds cannot be continued: a snapshot is needed.
    anew: bool,
}

/// Why a connection ended.
enum End {
    Failed(Status),
    /// Ended, silent, or of a node that is behind.
    Other,
    /// It is at the last revision.
    Done,
}

/// Watches until it holds the last revision.
pub(super) async fn run(shared: Arc<Shared>, watcher: usize, seed: u64) -> Feed {
    let mut rng = Rng::split(seed, &format!("watcher {watcher}"));
    let mut this = Watcher::default();
    loop {
        let node = index(&mut rng, shared.nodes.len());
        // Few connections last.
        let lasts = Duration::from_millis(500 + rng.below(20_000));
        let end = tokio::time::timeout(lasts, this.follow(&shared, node)).await;
        match end {
            Ok(End::Done) => return this.feed,
            Ok(End::Failed(status)) if status.code() == Code::OutOfRange => this.anew = true,
            Ok(End::Failed(_) | End::Other) | Err(_) => {}
        }
        this.parts.clear();
        tokio::time::sleep(Duration::from_millis(20 + rng.below(200))).await;
    }
}

impl Watcher {
    async fn follow(&mut self, shared: &Shared, node: usize) -> End {
        let from_revision = if self.anew { 0 } else { self.revision };
        let request =
            WatchRequest { from_revision, cluster_id: self.cluster_id.clone(), ..<_>::default() };
        let mut client = WatchClient::new(shared.nodes[node].clone());
        let mut stream = match tokio::time::timeout(SILENCE, client.watch(request)).await {
            Ok(Ok(stream)) => stream.into_inner(),
            Ok(Err(status)) => return End::Failed(status),
            Err(_) => return End::Other,
        };
        loop {
            if self.revision >= shared.last_revision.load(Ordering::Relaxed) {
                return End::Done;
            }
            match tokio::time::timeout(SILENCE, stream.message()).await {
                Ok(Ok(Some(message))) => {
                    if !self.take(message) {
                        return End::Other;
                    }
                }
                Ok(Err(status)) => return End::Failed(status),
                Ok(Ok(None)) | Err(_) => return End::Other,
            }
        }
    }

    /// `false`: this node is behind.
    fn take(&mut self, message: WatchResponse) -> bool {
        match message.kind {
            Some(Kind::Snapshot(part)) => {
                self.parts.extend(part.resources);
                if !part.last {
                    return true;
                }
                let resources = std::mem::take(&mut self.parts);
                // A watcher does not go back, as POPs do not.
                if part.revision < self.revision {
                    return false;
                }
                (self.revision, self.cluster_id) = (part.revision, message.cluster_id);
                self.anew = false;
                self.feed.seen.push(Seen::Snapshot { revision: part.revision, resources });
            }
            Some(Kind::Event(event)) => {
                self.revision = event.revision;
                self.feed.seen.push(Seen::Event(event));
            }
            Some(Kind::Progress(_)) | None => {}
        }
        true
    }
}
