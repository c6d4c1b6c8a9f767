//! What waits to be sent to one member: bounded in number and bytes, the oldest goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::id::NodeId;
use tokio::sync::{Notify, watch};

use crate::snapshot::courier::{Shipment, Slot};
use crate::telemetry::{self, PeerDrop};

/// As many messages as raft keeps in flight, and some.
const MESSAGES_MAX: usize = 2_048;
/// Their bytes, if there is more than one.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// What goes to a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Parcel {
    /// A raft message.
    Raft(Bytes),
    /// Where does its log end?
    Ask(u64),
}

impl Parcel {
    fn len(&self) -> usize {
        match self {
            Self::Raft(message) => message.len(),
            Self::Ask(_) => size_of::<u64>(),
        }
    }
}

/// The queue to one member.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Parcel>,
    bytes: usize,
    open: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Parcel> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

impl Outbox {
    /// Takes a parcel; drops it when there is no connection, the oldest when there is no room.
    pub fn push(&self, message: Parcel) {
        let mut queue = self.lock();
        if !queue.open {
            telemetry::frame_dropped(PeerDrop::Unconnected);
            return;
        }
        queue.bytes += message.len();
        queue.messages.push_back(message);
        while queue.messages.len() > 1
            && (queue.messages.len() > MESSAGES_MAX || queue.bytes > BYTES_MAX)
        {
            queue.pop();
            telemetry::frame_dropped(PeerDrop::QueueFull);
        }
        drop(queue);
        self.more.notify_one();
    }

    /// Takes messages until the returned guard goes.
    pub(super) fn open(&self) -> Open<'_> {
        self.lock().open = true;
        Open(self)
    }

    /// The oldest message, when there is one.
    pub(super) async fn next(&self) -> Parcel {
        loop {
            let message = self.lock().pop();
            match message {
                Some(message) => return message,
                None => self.more.notified().await,
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that drains the queue.
pub(super) struct Open<'a>(&'a Outbox);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        *self.0.lock() = Queue::default();
    }
}

/// The queues to all other members; they come and go.
#[derive(Clone, Default)]
pub struct Outboxes {
    queues: Arc<Mutex<BTreeMap<NodeId, Arc<Outbox>>>>,
    /// Tables that are to go to them.
    slots: Arc<Mutex<BTreeMap<NodeId, Slot>>>,
}

impl Outboxes {
    /// The one to this node, made when it is new.
    pub fn to(&self, node: NodeId) -> Arc<Outbox> {
        self.lock().entry(node).or_default().clone()
    }

    /// It is no member any more.
    pub fn remove(&self, node: NodeId) {
        self.lock().remove(&node);
        self.slots().remove(&node);
    }

    /// Queues a parcel.
    pub fn push(&self, to: NodeId, parcel: Parcel) {
        let outbox = self.lock().get(&to).cloned();
        if let Some(outbox) = outbox {
            outbox.push(parcel);
        }
    }

    /// Where a courier to this node waits for tables.
    pub fn slot(&self, node: NodeId) -> watch::Receiver<Option<Shipment>> {
        self.slots().entry(node).or_insert_with(|| watch::channel(None).0).subscribe()
    }

    /// Tables go to this node; whether it is a member.
    pub fn ship(&self, to: NodeId, shipment: Shipment) -> bool {
        let slots = self.slots();
        slots.get(&to).is_some_and(|slot| slot.send(Some(shipment)).is_ok())
    }

    /// No tables go to this node any more.
    pub fn recall(&self, to: NodeId) {
        if let Some(slot) = self.slots().get(&to) {
            slot.send_replace(None);
        }
    }

    fn slots(&self) -> MutexGuard<'_, BTreeMap<NodeId, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Arc<Outbox>>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn raft(bytes: impl Into<Vec<u8>>) -> Parcel {
        Parcel::Raft(Bytes::from(bytes.into()))
    }

    fn waiting(outbox: &Outbox) -> (usize, usize) {
        let queue = outbox.lock();
        (queue.messages.len(), queue.bytes)
    }

    #[test]
    fn nothing_waits_without_a_connection() {
        let outbox = Outbox::default();
        outbox.push(raft(*b"lost"));
        assert_eq!(waiting(&outbox), (0, 0));
        let open = outbox.open();
        outbox.push(raft(*b"kept"));
        assert_eq!(waiting(&outbox), (1, 4));
        drop(open);
        assert_eq!(waiting(&outbox), (0, 0));
    }

    #[test]
    fn the_oldest_is_dropped_when_full() {
        let outbox = Outbox::default();
        let _open = outbox.open();
        for n in 0..MESSAGES_MAX + 5 {
            outbox.push(raft(n.to_be_bytes()));
        }
        assert_eq!(waiting(&outbox).0, MESSAGES_MAX);
        let first = outbox.lock().pop();
        assert_eq!(first, Some(raft(5usize.to_be_bytes())));
        outbox.push(raft(vec![0; BYTES_MAX + 1]));
        assert_eq!(waiting(&outbox), (1, BYTES_MAX + 1), "one message is always taken");
    }
}
