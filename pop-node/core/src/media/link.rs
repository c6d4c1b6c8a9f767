//! Frames to one POP, gathered into datagrams.
//!
//! A frame that comes when nothing was sent for `flush_delay` leaves at once: a call alone never
//! waits. Otherwise it waits until `flush_delay` after the previous datagram, or until the
//! datagram is full. So many calls share a datagram every `flush_delay`, and none waits longer.

use bytes::Bytes;
use proto::overlay::{Builder, Frame, PushError};
use proto::time::{Duration, Instant};

use super::DropReason;
use crate::overlay::{LinkStats, PathStats};

/// The link to one POP.
#[derive(Debug)]
pub(super) struct Link {
    builder: Builder,
    flush_delay: Duration,
    path_sequence: u32,
    flushed: Option<Instant>,
    due: Option<Instant>,
    pub(super) path: PathStats,
}

/// Datagrams to send now: at most two, when a frame did not fit and its own one is due too.
pub(super) type Flushed = [Option<Bytes>; 2];

impl Link {
    pub(super) fn new(datagram_bytes: usize, flush_delay: Duration, path_sequence: u32) -> Self {
        Self {
            builder: Builder::new(datagram_bytes),
            flush_delay,
            path_sequence,
            flushed: None,
            due: None,
            path: PathStats::default(),
        }
    }

    /// Adds a frame.
    pub(super) fn push(&mut self, frame: &Frame<'_>, now: Instant) -> Result<Flushed, DropReason> {
        let mut full = None;
        match self.builder.push(frame) {
            Ok(()) => {}
            Err(PushError::Full) => {
                full = Some(self.flush(now));
                self.builder.push(frame).map_err(|_| DropReason::TooLarge)?;
            }
            Err(PushError::TooLong(_)) => return Err(DropReason::TooLarge),
        }
        let due = self.flushed.map_or(now, |flushed| (flushed + self.flush_delay).max(now));
        let due = *self.due.get_or_insert(due);
        Ok([full, (due <= now).then(|| self.flush(now))])
    }

    /// When the waiting frames must leave.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
    }

    /// The datagram, if its time has come.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Option<Bytes> {
        self.due.filter(|&due| due <= now).map(|_| self.flush(now))
    }

    fn flush(&mut self, now: Instant) -> Bytes {
        self.due = None;
        self.flushed = Some(now);
        self.path_sequence = self.path_sequence.wrapping_add(1);
        self.path.sent();
        #[allow(clippy::cast_possible_truncation, reason = "the send time wraps at 32 bits")]
        self.builder.finish(self.path_sequence, now.as_micros() as u32)
    }

    pub(super) fn stats(&self) -> LinkStats {
        self.path.stats()
    }
}

#[cfg(test)]
mod tests {
    use proto::id::StreamId;
    use proto::overlay::{Datagram, FrameKind};

    use super::*;

    fn frame(payload: &[u8]) -> Frame<'_> {
        Frame {
            stream: StreamId(1),
            sequence: 1,
            timestamp: 1,
            marker: false,
            kind: FrameKind::Audio,
            payload,
        }
    }

    #[test]
    fn alone_at_once_together_within_the_delay() {
        let mut link = Link::new(1_000, Duration::from_millis(2), 9);
        let us = |us: u64| Instant::from_nanos(us * 1_000);
        let sent = |flushed: Result<Flushed, DropReason>| flushed.unwrap().iter().flatten().count();
        assert_eq!(sent(link.push(&frame(&[0; 160]), us(0))), 1);
        assert_eq!(sent(link.push(&frame(&[0; 160]), us(20_000))), 1);
        for n in 1..6 {
            assert_eq!(sent(link.push(&frame(&[0; 160]), us(20_000 + n * 100))), 0);
        }
        assert_eq!(link.due(), Some(us(22_000)));
        assert_eq!(sent(link.push(&frame(&[0; 160]), us(20_600))), 1, "full");
        assert_eq!(link.handle_timeout(us(21_000)), None);
        assert_eq!(link.due(), Some(us(22_600)));
        let bytes = link.handle_timeout(us(22_600)).unwrap();
        let datagram = Datagram::decode(&bytes).unwrap();
        assert_eq!((datagram.path_sequence, datagram.send_time_us), (13, 22_600));
        assert_eq!(datagram.frames().count(), 1);
        assert_eq!((link.due(), link.stats().sent), (None, 4));
        assert_eq!(link.push(&frame(&[0; 1_400]), us(23_000)), Err(DropReason::TooLarge));
    }
}
