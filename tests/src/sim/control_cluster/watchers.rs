//! Watchers: connected to one node, cut off now and then, back with what they hold.

use pop_core::view::ViewUpdate;
use proto::control::Event;
use proto::id::Revision;

use super::plan::{MS, Micros, Mutant, below};
use super::world::{Due, Phase, World};
use crate::linear::{Feed, Seen};
use crate::sim::control::begin_watch;

/// Something on its way to a watcher.
#[derive(Debug, Clone)]
pub enum Item {
    Update(ViewUpdate),
    /// The connection broke.
    Broken,
}

/// A watcher.
#[derive(Debug, Default)]
pub struct Watcher {
    /// At this node.
    pub node: Option<usize>,
    /// Names its connection.
    pub connection: u64,
    pub cluster_id: String,
    pub revision: u64,
    pub feed: Feed,
    /// A connection is ordered: nothing arrives before this.
    last: Micros,
}

impl World {
    pub fn watch_again(&mut self, watcher: usize, connection: u64) {
        if self.watchers[watcher].connection != connection || self.watchers[watcher].node.is_some()
        {
            return;
        }
        let node = below(&mut self.rng, self.plan.nodes);
        self.watchers[watcher].connection += 1;
        let connection = self.watchers[watcher].connection;
        let place = &self.nodes[node];
        let first =
            place.replica.as_ref().filter(|_| place.stopped.is_none()).and_then(|replica| {
                let watcher = &self.watchers[watcher];
                let held = Revision(watcher.revision);
                begin_watch(replica.state(), &place.watch, &watcher.cluster_id, held)
            });
        let Some(first) = first else {
            let at = self.now + 50 * MS;
            return self.push(at, Due::WatchAgain { watcher, connection });
        };
        self.trace.note(self.now, &[11, watcher as u64, node as u64], || {
            format!("watcher {watcher} is at node {node}")
        });
        self.watchers[watcher].node = Some(node);
        for update in first {
            self.tell(watcher, Item::Update(update));
        }
        // Few connections last.
        if self.phase == Phase::Load {
            let at = self.now + 100 * MS + self.rng.below(3_000 * MS);
            self.push(at, Due::Watch { watcher, connection, item: Item::Broken });
        }
    }

    fn tell(&mut self, watcher: usize, item: Item) {
        let place = &mut self.watchers[watcher];
        let at = (self.now + 500 + self.rng.below(20 * MS)).max(place.last);
        place.last = at;
        let connection = place.connection;
        self.push(at, Due::Watch { watcher, connection, item });
    }

    /// A node has an event: into its history, and to its watchers.
    pub fn publish(&mut self, node: usize, event: Event) {
        let shared = self.nodes[node].watch.push(event);
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].node != Some(node) {
                continue;
            }
            let drop = self.plan.mutant == Some(Mutant::WatchDropsEvent);
            if drop && self.rng.below(16) == 0 {
                continue;
            }
            self.tell(watcher, Item::Update(ViewUpdate::Event(shared.as_ref().clone())));
        }
    }

    pub fn drop_watchers(&mut self, node: usize) {
        for watcher in 0..self.watchers.len() {
            if self.watchers[watcher].node == Some(node) {
                self.hang_up(watcher);
            }
        }
    }

    fn hang_up(&mut self, watcher: usize) {
        let place = &mut self.watchers[watcher];
        place.node = None;
        place.connection += 1;
        let connection = place.connection;
        let at = self.now + 20 * MS + self.rng.below(200 * MS);
        self.push(at, Due::WatchAgain { watcher, connection });
    }

    pub fn watched(&mut self, watcher: usize, connection: u64, item: Item) {
        if self.watchers[watcher].connection != connection {
            return;
        }
        let facts = [12, watcher as u64, self.watchers[watcher].revision];
        self.trace.note(self.now, &facts, || format!("watcher {watcher} gets {item:?}"));
        let place = &mut self.watchers[watcher];
        match item {
            Item::Broken => self.hang_up(watcher),
            Item::Update(ViewUpdate::Event(event)) => {
                place.revision = event.revision;
                place.feed.seen.push(Seen::Event(event));
            }
            Item::Update(ViewUpdate::Snapshot { cluster_id, revision, resources }) => {
                place.cluster_id = cluster_id;
                place.revision = revision.0;
                place.feed.seen.push(Seen::Snapshot { revision: revision.0, resources });
            }
        }
    }
}
