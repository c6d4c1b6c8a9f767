//! The connections that are up: for each POP one for each path, and the one its media prefers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::id::PopId;
use proto::overlay::PathId;
use quinn::Connection;
use tokio::sync::watch;

/// A process, while it runs: 16 random bytes.
pub type Instance = [u8; 16];

/// The connections with one POP.
#[derive(Debug, Clone, Default)]
pub(crate) struct Connections {
    instance: Instance,
    paths: BTreeMap<PathId, Connection>,
    best: Option<PathId>,
}

impl Connections {
    /// The process at the other end.
    pub(super) const fn instance(&self) -> Instance {
        self.instance
    }

    /// The one of the path that media takes, else any.
    pub(super) fn preferred(&self) -> Option<(PathId, &Connection)> {
        let best = self.best.and_then(|best| self.paths.get_key_value(&best));
        best.or_else(|| self.paths.first_key_value()).map(|(path, held)| (*path, held))
    }
}

/// All of them. Its lock is held for a moment, never by a media thread.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<PopId, watch::Sender<Connections>>>);

impl Registry {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<PopId, watch::Sender<Connections>>> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A connection is up. Those it replaces: the one of the same path, and all with a process
    /// before this one.
    pub(super) fn up(
        &self,
        peer: &PopId,
        (path, connection): (PathId, &Connection),
        instance: Instance,
    ) -> Vec<Connection> {
        let mut peers = self.peers();
        let mut old = Vec::new();
        peers.entry(peer.clone()).or_default().send_modify(|held| {
            if held.instance != instance {
                old.extend(std::mem::take(&mut held.paths).into_values());
                held.instance = instance;
            }
            old.extend(held.paths.insert(path, connection.clone()));
        });
        old
    }

    /// A connection is gone; a newer one of the path may be up already.
    pub(super) fn down(&self, peer: &PopId, path: PathId, connection: &Connection) {
        let peers = self.peers();
        let Some(held) = peers.get(peer) else { return };
        held.send_if_modified(|held| {
            let is_it = |held: &Connection| held.stable_id() == connection.stable_id();
            let mine = held.paths.get(&path).is_some_and(is_it);
            if mine {
                held.paths.remove(&path);
            }
            mine
        });
    }

    /// The process at the other end and the `stable_id` of the connection of each path.
    pub(super) fn state(&self, peer: &PopId) -> (Instance, BTreeMap<PathId, usize>) {
        let peers = self.peers();
        let Some(held) = peers.get(peer) else { return Default::default() };
        let held = held.borrow();
        let ids = held.paths.iter().map(|(path, connection)| (*path, connection.stable_id()));
        (held.instance, ids.collect())
    }

    /// Media of this POP goes by `path` now: so do call streams.
    pub(super) fn prefer(&self, peer: &PopId, path: Option<PathId>) {
        if let Some(held) = self.peers().get(peer) {
            held.send_if_modified(|held| std::mem::replace(&mut held.best, path) != path);
        }
    }

    pub(super) fn get(&self, peer: &PopId, path: PathId) -> Option<Connection> {
        self.peers().get(peer)?.borrow().paths.get(&path).cloned()
    }

    /// What becomes of the connections with a POP.
    pub(super) fn watch(&self, peer: &PopId) -> watch::Receiver<Connections> {
        self.peers().entry(peer.clone()).or_default().subscribe()
    }
}
