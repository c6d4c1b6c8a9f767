//! Frames to one POP, gathered into datagrams, and these into bursts.
//!
//! A frame that comes when nothing was sent for a while leaves at once: a call alone never waits.
//! Otherwise it waits for the next burst: to wake QUIC costs as much as a hundred datagrams, so all
//! that gathers within the delay leaves together. The delay is `flush_delay` when there is little to
//! send and a wake-up is shared by few, and half of it as soon as a burst is several datagrams.

use std::collections::VecDeque;

use bytes::Bytes;
use proto::overlay::{Builder, Frame, Header, PathId, PushError};
use proto::time::{Duration, Instant};

use super::DropReason;
use crate::overlay::{LinkStats, PathStats};

/// Datagrams of a burst; when more wait, they leave before the time. Two full sends of the kernel
/// with segmentation offload.
const BURST_MAX: usize = 20;
/// Datagrams of the last burst from which on the delay is halved.
const BUSY: usize = 3;

/// The link to one POP.
#[derive(Debug)]
pub(super) struct Link {
    datagram_bytes: usize,
    builder: Builder,
    /// Full datagrams of the next burst, at most [`BURST_MAX`] and one.
    full: VecDeque<Builder>,
    /// Those of bursts before, to be used again.
    spare: Vec<Builder>,
    flush_delay: Duration,
    /// Of the lane, and so far of its one path.
    sequence: u16,
    /// When the last burst left.
    flushed: Option<Instant>,
    busy: bool,
    due: Option<Instant>,
    pub(super) path: PathStats,
}

impl Link {
    pub(super) fn new(datagram_bytes: usize, flush_delay: Duration, sequence: u16) -> Self {
        Self {
            datagram_bytes,
            builder: Builder::new(datagram_bytes),
            full: VecDeque::new(),
            spare: Vec::new(),
            flush_delay,
            sequence,
            flushed: None,
            busy: false,
            due: None,
            path: PathStats::default(),
        }
    }

    /// Adds a frame. True if the burst is due now: then call [`Self::burst`].
    pub(super) fn push(&mut self, frame: &Frame<'_>, now: Instant) -> Result<bool, DropReason> {
        match self.builder.push(frame) {
            Ok(()) => {}
            Err(PushError::Full) => {
                self.next_datagram();
                self.builder.push(frame).map_err(|_| DropReason::TooLarge)?;
            }
            Err(PushError::TooLong(_)) => return Err(DropReason::TooLarge),
        }
        let delay = if self.busy { self.flush_delay / 2 } else { self.flush_delay };
        let due = self.flushed.map_or(now, |flushed| (flushed + delay).max(now));
        let due = *self.due.get_or_insert(due);
        Ok(due <= now || self.full.len() >= BURST_MAX)
    }

    /// All datagrams that wait, to be sent now.
    pub(super) fn burst(&mut self, now: Instant) -> impl Iterator<Item = Bytes> {
        self.due = None;
        self.flushed = Some(now);
        self.busy = self.full.len() >= BUSY;
        if !self.builder.is_empty() {
            self.next_datagram();
        }
        #[allow(clippy::cast_possible_truncation, reason = "the send time wraps at 32 bits")]
        let time = now.as_micros() as u32;
        let Self { full, spare, sequence, path, .. } = self;
        full.drain(..).map(move |mut builder| {
            *sequence = sequence.wrapping_add(1);
            path.sent();
            let header = Header {
                probe: false,
                lane: 0,
                path: PathId::default(),
                path_sequence: *sequence,
                lane_sequence: *sequence,
                send_time_us: time,
                relayed: None,
            };
            let datagram = builder.finish(&header);
            spare.push(builder);
            datagram
        })
    }

    fn next_datagram(&mut self) {
        let next = self.spare.pop().unwrap_or_else(|| Builder::new(self.datagram_bytes));
        self.full.push_back(std::mem::replace(&mut self.builder, next));
    }

    /// When the waiting frames must leave.
    pub(super) const fn due(&self) -> Option<Instant> {
        self.due
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

    fn us(us: u64) -> Instant {
        Instant::from_nanos(us * 1_000)
    }

    /// Frames and datagrams of the burst, when it is due now.
    fn burst(link: &mut Link, now: Instant) -> (usize, usize) {
        let datagrams: Vec<Bytes> = link.burst(now).collect();
        let frames = datagrams.iter().map(|bytes| {
            let datagram = Datagram::decode(bytes).unwrap();
            assert_eq!(u128::from(datagram.header.send_time_us), u128::from(now.as_micros()));
            datagram.frames().count()
        });
        (frames.sum(), datagrams.len())
    }

    #[test]
    fn alone_at_once_together_within_the_delay() {
        let mut link = Link::new(1_000, Duration::from_millis(2), 9);
        let voice = [0; 160];
        for at in [0, 20_000] {
            assert_eq!(link.push(&frame(&voice), us(at)), Ok(true));
            assert_eq!(burst(&mut link, us(at)), (1, 1));
        }
        for n in 1..9 {
            assert_eq!(link.push(&frame(&voice), us(20_000 + n * 100)), Ok(false));
        }
        assert_eq!(link.due(), Some(us(22_000)), "a full datagram waits for the burst, too");
        assert_eq!(burst(&mut link, us(22_000)), (8, 2));
        assert_eq!((link.due(), link.stats().sent), (None, 4));
        assert_eq!(link.push(&frame(&[0; 1_400]), us(23_000)), Err(DropReason::TooLarge));
    }

    #[test]
    fn more_load_means_a_shorter_wait_and_a_burst_has_a_bound() {
        let mut link = Link::new(1_000, Duration::from_millis(2), 9);
        let voice = [0; 160];
        assert_eq!(link.push(&frame(&voice), us(0)), Ok(true));
        burst(&mut link, us(0));
        for _ in 0..16 {
            assert_eq!(link.push(&frame(&voice), us(100)), Ok(false));
        }
        assert_eq!(link.due(), Some(us(2_000)));
        assert_eq!(burst(&mut link, us(2_000)).0, 16);
        assert_eq!(link.push(&frame(&voice), us(2_100)), Ok(false));
        assert_eq!(link.due(), Some(us(3_000)), "busy: half of it");
        let pushed = (0..1_000).find(|_| link.push(&frame(&voice), us(2_100)) == Ok(true));
        let frames = pushed.unwrap() + 2;
        assert_eq!(burst(&mut link, us(2_100)), (frames, BURST_MAX + 1));
        link.push(&frame(&voice), us(9_000)).unwrap();
        burst(&mut link, us(9_000));
        link.push(&frame(&voice), us(9_100)).unwrap();
        assert_eq!(link.due(), Some(us(11_000)), "quiet again");
    }
}
