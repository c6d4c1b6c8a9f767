//! The last events, for watchers that come back.

use std::collections::VecDeque;
use std::sync::Arc;

use prost::Message;
use proto::control::Event;
use proto::id::Revision;

/// Bytes of the events held at most, encoded.
const BYTES_MAX: usize = 16 << 20;

/// Of the newest events, bytes that are held ready to be shared. Decoded they take four times the
/// memory, and older ones only serve those who come back.
const READY_BYTES: usize = 1 << 20;

/// The events after this revision are no longer here: begin with a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("events after revision {asked} are gone; the oldest here follows {oldest}")]
pub struct Compacted {
    /// Asked for events after it.
    pub asked: Revision,
    /// Events after this one are here.
    pub oldest: Revision,
}

/// A bounded ring of events without a gap: when full, the oldest leaves.
#[derive(Debug, Clone)]
pub struct WatchLog {
    capacity: usize,
    /// Encoded size of the events held.
    bytes: usize,
    /// Revision before the first event held.
    oldest: Revision,
    /// Revision of the last event.
    newest: Revision,
    /// Revisions of the older events, and these encoded.
    packed: VecDeque<(u64, Box<[u8]>)>,
    /// Those that follow them, and their encoded sizes.
    ready: VecDeque<(Arc<Event>, usize)>,
    ready_bytes: usize,
}

impl WatchLog {
    /// Holds up to `capacity` events after `revision`, fewer if they are large.
    pub fn new(capacity: usize, revision: Revision) -> Self {
        let (packed, ready) = (VecDeque::new(), VecDeque::new());
        let (oldest, newest) = (revision, revision);
        Self { capacity, bytes: 0, oldest, newest, packed, ready, ready_bytes: 0 }
    }

    /// Takes the next event and hands it back for sharing. One that does not follow the last
    /// begins the log anew, so that a resume across the gap is refused.
    pub fn push(&mut self, event: Event) -> Arc<Event> {
        if event.prev_revision != self.newest.0 {
            self.reset(Revision(event.prev_revision));
        }
        self.newest = Revision(event.revision);
        let (bytes, event) = (event.encoded_len(), Arc::new(event));
        self.bytes += bytes;
        self.ready_bytes += bytes;
        self.ready.push_back((Arc::clone(&event), bytes));
        while self.ready.len() > 1 && self.ready_bytes > READY_BYTES {
            let Some((event, bytes)) = self.ready.pop_front() else { break };
            self.ready_bytes -= bytes;
            self.packed.push_back((event.revision, event.encode_to_vec().into()));
        }
        while self.packed.len() + self.ready.len() > self.capacity || self.bytes > BYTES_MAX {
            if !self.forget_oldest() {
                break;
            }
        }
        event
    }

    fn forget_oldest(&mut self) -> bool {
        let (revision, bytes) = if let Some((revision, event)) = self.packed.pop_front() {
            (revision, event.len())
        } else if let Some((event, bytes)) = self.ready.pop_front() {
            self.ready_bytes -= bytes;
            (event.revision, bytes)
        } else {
            return false;
        };
        self.bytes -= bytes;
        self.oldest = Revision(revision);
        true
    }

    /// Events held.
    pub fn len(&self) -> usize {
        self.packed.len() + self.ready.len()
    }

    /// None held.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets all events: the state is at `revision` now.
    pub fn reset(&mut self, revision: Revision) {
        self.packed.clear();
        self.ready.clear();
        (self.bytes, self.ready_bytes) = (0, 0);
        self.oldest = revision;
        self.newest = revision;
    }

    /// Revision of the last event.
    pub fn revision(&self) -> Revision {
        self.newest
    }

    /// Events after `revision`, in order, without a gap. A revision from the future is refused
    /// too: it belongs to another history.
    pub fn since(&self, revision: Revision) -> Result<impl Iterator<Item = Arc<Event>>, Compacted> {
        if revision < self.oldest || revision > self.newest {
            return Err(Compacted { asked: revision, oldest: self.oldest });
        }
        let packed = self.packed.partition_point(|(at, _)| *at <= revision.0);
        let ready = self.ready.partition_point(|(event, _)| event.revision <= revision.0);
        // They were encoded here.
        let unpack = |(_, bytes): &(u64, Box<[u8]>)| Event::decode(&**bytes).ok().map(Arc::new);
        let older = self.packed.range(packed..).filter_map(unpack);
        Ok(older.chain(self.ready.range(ready..).map(|(event, _)| event.clone())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(prev_revision: u64, revision: u64) -> Event {
        Event { prev_revision, revision, changes: Vec::new() }
    }

    fn after(log: &WatchLog, revision: u64) -> Result<Vec<u64>, Compacted> {
        Ok(log.since(Revision(revision))?.map(|e| e.revision).collect())
    }

    #[test]
    fn resumes_without_a_gap_or_says_compacted() {
        let mut log = WatchLog::new(3, Revision(10));
        assert_eq!(after(&log, 10), Ok(vec![]));
        for revision in 11..=14 {
            log.push(event(revision - 1, revision));
        }
        assert_eq!(after(&log, 11), Ok(vec![12, 13, 14]));
        assert_eq!(after(&log, 14), Ok(vec![]));
        let compacted = |asked| Err(Compacted { asked: Revision(asked), oldest: Revision(11) });
        assert_eq!(after(&log, 10), compacted(10));
        assert_eq!(after(&log, 15), compacted(15));
    }

    #[test]
    fn large_events_push_out_more() {
        let mut log = WatchLog::new(1_000, Revision(0));
        for revision in 1..=3 {
            let key = proto::control::resource_key::Kind::E164("0".repeat(BYTES_MAX / 2 - 100));
            let key = proto::control::ResourceKey { kind: Some(key) };
            let kind = Some(proto::control::change::Kind::Delete(key));
            let changes = vec![proto::control::Change { kind }];
            log.push(Event { changes, ..event(revision - 1, revision) });
        }
        assert_eq!(after(&log, 1), Ok(vec![2, 3]));
        assert!(after(&log, 0).is_err());
        log.reset(Revision(3));
        assert_eq!(log.bytes, 0);
    }

    #[test]
    fn older_events_come_back_from_their_bytes() {
        let mut log = WatchLog::new(1_000, Revision(0));
        let mut pushed = Vec::new();
        for revision in 1..=40 {
            let key = proto::control::resource_key::Kind::E164("0".repeat(READY_BYTES / 16));
            let key = proto::control::ResourceKey { kind: Some(key) };
            let kind = Some(proto::control::change::Kind::Delete(key));
            let changes = vec![proto::control::Change { kind }];
            pushed.push(log.push(Event { changes, ..event(revision - 1, revision) }));
        }
        assert!(log.packed.len() > 20 && log.ready.len() > 10, "{} packed", log.packed.len());
        for from in [0, 10, log.packed.len() - 1, log.packed.len(), 39, 40] {
            let found: Vec<_> = log.since(Revision(from as u64)).unwrap().collect();
            assert_eq!(found, pushed[from..]);
        }
        let bytes: usize = pushed.iter().map(|event| event.encoded_len()).sum();
        assert_eq!(log.bytes, bytes);
    }

    #[test]
    fn a_gap_begins_anew() {
        let mut log = WatchLog::new(3, Revision(0));
        log.push(event(0, 1));
        log.push(event(5, 6));
        assert_eq!(after(&log, 1), Err(Compacted { asked: Revision(1), oldest: Revision(5) }));
        assert_eq!(after(&log, 5), Ok(vec![6]));
        log.reset(Revision(9));
        assert_eq!(log.revision(), Revision(9));
        assert!(after(&log, 6).is_err());
    }
}
