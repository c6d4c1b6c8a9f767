//! The connections that are up: for each POP one for each path, and the one its media prefers.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use proto::id::PopId;
use proto::overlay::PathId;
use quinn::Connection;
use tokio::sync::watch;

/// A process, while it runs: 16 random bytes.
pub(super) type Instance = [u8; 16];

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

/// What a new connection means.
pub(super) enum Up {
    /// One more path, or one anew: what it replaces.
    Path(Option<Connection>),
    /// The POP is another process than before: all of these are the old one's.
    Restarted(Vec<Connection>),
}

/// All of them. Its lock is held for a moment, never by a media thread.
#[derive(Debug, Default)]
pub(crate) struct Registry(Mutex<BTreeMap<PopId, watch::Sender<Connections>>>);

impl Registry {
    fn peers(&self) -> MutexGuard<'_, BTreeMap<PopId, watch::Sender<Connections>>> {
        // Nothing in here panics half way.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn up(
        &self,
        peer: &PopId,
        (path, connection): (PathId, &Connection),
        instance: Instance,
    ) -> Up {
        let mut peers = self.peers();
        let mut up = Up::Path(None);
        peers.entry(peer.clone()).or_default().send_modify(|held| {
            if !held.paths.is_empty() && held.instance != instance {
                up = Up::Restarted(std::mem::take(&mut held.paths).into_values().collect());
            }
            held.instance = instance;
            let old = held.paths.insert(path, connection.clone());
            if let (Up::Path(replaced), Some(old)) = (&mut up, old) {
                *replaced = Some(old);
            }
        });
        up
    }

    /// False if a newer connection has its place: the path is up.
    pub(super) fn down(&self, peer: &PopId, path: PathId, connection: &Connection) -> bool {
        let peers = self.peers();
        let Some(held) = peers.get(peer) else { return true };
        held.send_if_modified(|held| {
            let is_it = |held: &Connection| held.stable_id() == connection.stable_id();
            let mine = held.paths.get(&path).is_some_and(is_it);
            if mine {
                held.paths.remove(&path);
            }
            mine
        });
        !held.borrow().paths.contains_key(&path)
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
