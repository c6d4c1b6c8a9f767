//! What waits to be sent to one member: bounded in number and bytes, the oldest goes first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use proto::id::NodeId;
use tokio::sync::Notify;

use crate::telemetry::{self, PeerDrop};

/// As many messages as raft keeps in flight, and some.
const MESSAGES_MAX: usize = 2_048;
/// Their bytes, if there is more than one.
const BYTES_MAX: usize = 64 * 1024 * 1024;

/// The queue to one member.
#[derive(Default)]
pub struct Outbox {
    queue: Mutex<Queue>,
    more: Notify,
}

#[derive(Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    open: bool,
}

impl Queue {
    fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.bytes -= message.len();
        Some(message)
    }
}

impl Outbox {
    /// Takes a message; drops it when there is no connection, the oldest when there is no room.
    pub fn push(&self, message: Bytes) {
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
    pub(super) async fn next(&self) -> Bytes {
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

/// The queues to all other members.
#[derive(Clone, Default)]
pub struct Outboxes(Arc<BTreeMap<NodeId, Arc<Outbox>>>);

impl Outboxes {
    /// One for each.
    pub fn new(members: impl Iterator<Item = NodeId>) -> Self {
        Self(Arc::new(members.map(|id| (id, Arc::default())).collect()))
    }

    /// The one to this node.
    pub fn to(&self, node: NodeId) -> Option<Arc<Outbox>> {
        self.0.get(&node).cloned()
    }

    /// Queues a message.
    pub fn push(&self, to: NodeId, message: Bytes) {
        if let Some(outbox) = self.0.get(&to) {
            outbox.push(message);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waiting(outbox: &Outbox) -> (usize, usize) {
        let queue = outbox.lock();
        (queue.messages.len(), queue.bytes)
    }

    #[test]
    fn nothing_waits_without_a_connection() {
        let outbox = Outbox::default();
        outbox.push(Bytes::from_static(b"lost"));
        assert_eq!(waiting(&outbox), (0, 0));
        let open = outbox.open();
        outbox.push(Bytes::from_static(b"kept"));
        assert_eq!(waiting(&outbox), (1, 4));
        drop(open);
        assert_eq!(waiting(&outbox), (0, 0));
    }

    #[test]
    fn the_oldest_is_dropped_when_full() {
        let outbox = Outbox::default();
        let _open = outbox.open();
        for n in 0..MESSAGES_MAX + 5 {
            outbox.push(Bytes::from(n.to_be_bytes().to_vec()));
        }
        assert_eq!(waiting(&outbox).0, MESSAGES_MAX);
        let first = outbox.lock().pop();
        assert_eq!(first, Some(Bytes::from(5usize.to_be_bytes().to_vec())));
        outbox.push(Bytes::from(vec![0; BYTES_MAX + 1]));
        assert_eq!(waiting(&outbox), (1, BYTES_MAX + 1), "one message is always taken");
    }
}
