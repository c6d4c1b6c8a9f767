//! Which call something belongs to.

use std::collections::{BTreeMap, BTreeSet};

use proto::id::{LegId, PopId};

use super::CallStream;
use crate::call::CallKey;
use crate::sip::{ClientTx, ServerTx, Text};

/// Something of the outside that belongs to one call.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Handle {
    /// A call that waits for the link to this POP.
    Awaited(PopId, CallKey),
    Client(ClientTx),
    /// Call-ID and our tag.
    Dialog(Text, Text),
    Leg(LegId),
    Query(u64),
    Server(ServerTx),
    Stream(CallStream),
}

/// Handles to calls and back, so that a call that ends leaves nothing.
#[derive(Debug, Default)]
pub(crate) struct Index {
    owners: BTreeMap<Handle, CallKey>,
    handles: BTreeMap<CallKey, BTreeSet<Handle>>,
}

impl Index {
    pub(crate) fn add(&mut self, handle: Handle, key: CallKey) {
        self.handles.entry(key).or_default().insert(handle.clone());
        self.owners.insert(handle, key);
    }

    pub(crate) fn remove(&mut self, handle: &Handle) {
        let Some(key) = self.owners.remove(handle) else { return };
        if let Some(handles) = self.handles.get_mut(&key) {
            handles.remove(handle);
        }
    }

    pub(crate) fn find(&self, handle: &Handle) -> Option<CallKey> {
        self.owners.get(handle).copied()
    }

    /// The call is gone.
    pub(crate) fn forget(&mut self, key: CallKey) {
        for handle in self.handles.remove(&key).into_iter().flatten() {
            self.owners.remove(&handle);
        }
    }

    /// Calls with a stream to this POP.
    pub(crate) fn with_peer(&self, peer: &PopId) -> Vec<CallKey> {
        let streams = self.owners.iter().filter_map(|(handle, key)| match handle {
            Handle::Stream(stream) if stream.peer == *peer => Some(*key),
            _ => None,
        });
        streams.collect()
    }

    /// Calls that wait for the link to this POP.
    pub(crate) fn awaiting(&self, peer: &PopId) -> Vec<CallKey> {
        let waiting = self.owners.iter().filter_map(|(handle, key)| match handle {
            Handle::Awaited(pop, _) if pop == peer => Some(*key),
            _ => None,
        });
        waiting.collect()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.owners.is_empty()
    }
}
