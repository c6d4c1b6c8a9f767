//! Frames to one POP, gathered into datagrams, and these into bursts.
//!
//! A frame that comes when nothing was sent for a while leaves at once: a call alone never waits.
//! Otherwise it waits for the next burst: to wake QUIC costs as much as a hundred datagrams, so all
//! that gathers within the delay leaves together. The delay is `flush_delay` when there is little to
//! send and a wake-up is shared by few, and half of it as soon as a burst is several datagrams.
//!
//! The [`Route`] says on which path they leave, whether copies go by another one, and whether each
//! goes again a little later. What comes first counts; copies are known by the lane sequence.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use proto::overlay::{Builder, Datagram, Frame, Header, PathId, PopTag, PushError, Relayed};
use proto::time::{Duration, Instant, earlier};

use super::DropReason;
use crate::overlay::{Hop, LaneWindow, LinkStats, PathStats, Route};

/// Datagrams of a burst; when more wait, they leave before the time. Two full sends of the kernel
/// with segmentation offload.
const BURST_MAX: usize = 20;
/// Datagrams of the last burst from which on the delay is halved.
const BUSY: usize = 3;
/// Datagrams that wait to be sent again: 20 ms of 1,000 calls, and some.
const AGAIN_MAX: usize = 256;
/// Paths and lanes of a peer that are measured; a pair has 32 paths at most.
const MEASURED_MAX: usize = 512;
/// Lanes of a peer: its media threads.
const LANES_MAX: usize = 256;

/// By which path of the route a datagram leaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum By {
    Primary,
    Copy,
}

/// What came with a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    /// Its frames are new.
    Fresh,
    /// They came by another path before.
    Copy,
    /// The same datagram on the same path.
    Twice,
}

/// The link to one POP.
#[derive(Debug)]
pub(super) struct Link {
    ends: Relayed,
    lane: u8,
    datagram_bytes: usize,
    builder: Builder,
    /// Full datagrams of the next burst, at most [`BURST_MAX`] and one.
    full: VecDeque<Builder>,
    /// Those of bursts before, to be used again.
    spare: Vec<Builder>,
    flush_delay: Duration,
    pub(super) route: Route,
    lane_sequence: u16,
    /// Of each path used so far.
    sequences: Vec<(PathId, u16)>,
    again: VecDeque<(Instant, Bytes)>,
    /// When the last burst left.
    flushed: Option<Instant>,
    busy: bool,
    due: Option<Instant>,
    sent: u64,
    received: BTreeMap<(PathId, u8), PathStats>,
    lanes: BTreeMap<u8, LaneWindow>,
    /// Of the path in use.
    pub(super) round_trip: Option<Duration>,
}

impl Link {
    /// `sequence`: where the lane begins.
    pub(super) fn new(
        ends: Relayed,
        (datagram_bytes, flush_delay): (usize, Duration),
        (lane, sequence): (u8, u16),
    ) -> Self {
        Self {
            ends,
            lane,
            datagram_bytes,
            builder: Builder::new(datagram_bytes),
            full: VecDeque::new(),
            spare: Vec::new(),
            flush_delay,
            route: Route { direct: Some(PathId::default()), ..Route::default() },
            lane_sequence: sequence,
            sequences: Vec::new(),
            again: VecDeque::new(),
            flushed: None,
            busy: false,
            due: None,
            sent: 0,
            received: BTreeMap::new(),
            lanes: BTreeMap::new(),
            round_trip: None,
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

    /// All datagrams that wait, and those whose time to go again has come.
    pub(super) fn burst(&mut self, now: Instant, leave: &mut Vec<(By, Bytes)>) {
        self.repeat(now, leave);
        self.due = None;
        self.flushed = Some(now);
        self.busy = self.full.len() >= BUSY;
        if !self.builder.is_empty() {
            self.next_datagram();
        }
        while let Some(mut builder) = self.full.pop_front() {
            self.lane_sequence = self.lane_sequence.wrapping_add(1);
            let header = self.header(By::Primary, self.lane_sequence, now);
            let datagram = builder.finish(&header);
            self.spare.push(builder);
            self.copy(&datagram, now, leave);
            leave.push((By::Primary, datagram));
        }
    }

    fn copy(&mut self, datagram: &Bytes, now: Instant, leave: &mut Vec<(By, Bytes)>) {
        if self.route.copy.is_some()
            && let Ok(original) = Datagram::decode(datagram)
        {
            let header = self.header(By::Copy, original.header.lane_sequence, now);
            leave.push((By::Copy, header.readdress(&original)));
        }
        if let Some(after) = self.route.again
            && self.again.len() < AGAIN_MAX
        {
            self.again.push_back((now + after, datagram.clone()));
        }
    }

    fn repeat(&mut self, now: Instant, leave: &mut Vec<(By, Bytes)>) {
        while let Some((due, datagram)) = self.again.front()
            && *due <= now
        {
            let datagram = datagram.clone();
            self.again.pop_front();
            if let Ok(original) = Datagram::decode(&datagram) {
                let header = self.header(By::Primary, original.header.lane_sequence, now);
                leave.push((By::Primary, header.readdress(&original)));
            }
        }
    }

    fn header(&mut self, by: By, lane_sequence: u16, now: Instant) -> Header {
        self.sent += 1;
        let hop = match by {
            By::Primary => Some(&self.route.primary),
            By::Copy => self.route.copy.as_ref(),
        };
        let (path, via) = hop.map_or((PathId::default(), false), |h| (h.path, h.via.is_some()));
        #[allow(clippy::cast_possible_truncation, reason = "the send time wraps at 32 bits")]
        let send_time_us = now.as_micros() as u32;
        Header {
            probe: false,
            lane: self.lane,
            path,
            path_sequence: self.next_sequence(path),
            lane_sequence,
            send_time_us,
            relayed: via.then_some(self.ends),
        }
    }

    fn next_sequence(&mut self, path: PathId) -> u16 {
        if let Some((_, sequence)) = self.sequences.iter_mut().find(|(known, _)| *known == path) {
            *sequence = sequence.wrapping_add(1);
            return *sequence;
        }
        // As for the lane: not from zero, so that a process that starts anew is told apart.
        self.sequences.push((path, self.lane_sequence));
        self.lane_sequence
    }

    fn next_datagram(&mut self) {
        let next = self.spare.pop().unwrap_or_else(|| Builder::new(self.datagram_bytes));
        self.full.push_back(std::mem::replace(&mut self.builder, next));
    }

    /// When something must leave.
    pub(super) fn due(&self) -> Option<Instant> {
        earlier(self.due, self.again.front().map(|(due, _)| *due))
    }

    /// A datagram came.
    pub(super) fn receive(&mut self, header: &Header, now: Instant) -> News {
        let path = (header.path, header.lane);
        if self.received.len() < MEASURED_MAX || self.received.contains_key(&path) {
            let stats = self.received.entry(path).or_default();
            if !stats.received(header.path_sequence, header.send_time_us, now) {
                return News::Twice;
            }
        }
        if self.lanes.len() >= LANES_MAX && !self.lanes.contains_key(&header.lane) {
            return News::Twice;
        }
        let fresh = self.lanes.entry(header.lane).or_default().is_new(header.lane_sequence);
        if fresh { News::Fresh } else { News::Copy }
    }

    /// What comes now is of another process.
    pub(super) fn restart(&mut self) {
        self.lanes.clear();
        self.received.values_mut().for_each(PathStats::restart);
    }

    /// By which hop something leaves.
    pub(super) fn hop(&self, by: By) -> Option<&Hop> {
        match by {
            By::Primary => Some(&self.route.primary),
            By::Copy => self.route.copy.as_ref(),
        }
    }

    /// Of all paths together.
    pub(super) fn stats(&self) -> LinkStats {
        let all = self.received.values().map(PathStats::stats);
        LinkStats { sent: self.sent, ..all.fold(LinkStats::default(), LinkStats::with) }
    }

    /// Of each path, and how many datagrams were sent.
    pub(super) fn paths(&self) -> (u64, Vec<(PathId, LinkStats)>) {
        let mut paths: BTreeMap<PathId, LinkStats> = BTreeMap::new();
        for ((path, _), stats) in &self.received {
            let sum = paths.entry(*path).or_default();
            *sum = sum.with(stats.stats());
        }
        (self.sent, paths.into_iter().collect())
    }
}

/// Who sends and who gets.
pub(super) const fn ends(from: PopTag, to: PopTag) -> Relayed {
    Relayed { from, to }
}

#[cfg(test)]
mod tests {
    use proto::id::StreamId;
    use proto::overlay::FrameKind;

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

    fn new() -> Link {
        let ends = ends(PopTag(1), PopTag(2));
        Link::new(ends, (1_000, Duration::from_millis(2)), (0, 9))
    }

    fn leave(link: &mut Link, now: Instant) -> Vec<(By, Bytes)> {
        let mut left = Vec::new();
        link.burst(now, &mut left);
        left
    }

    /// Frames and datagrams of the burst, when it is due now.
    fn burst(link: &mut Link, now: Instant) -> (usize, usize) {
        let datagrams = leave(link, now);
        let frames = datagrams.iter().map(|(_, bytes)| {
            let datagram = Datagram::decode(bytes).unwrap();
            assert_eq!(u128::from(datagram.header.send_time_us), u128::from(now.as_micros()));
            datagram.frames().count()
        });
        (frames.sum(), datagrams.len())
    }

    #[test]
    fn alone_at_once_together_within_the_delay() {
        let mut link = new();
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
        let mut link = new();
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

    fn hop(lower: u8, higher: u8) -> Hop {
        Hop::direct(PathId::direct(lower, higher).unwrap())
    }

    #[test]
    fn copies_and_repeats_differ_in_their_headers_and_count_once() {
        let (mut link, mut far) = (new(), new());
        let again = Some(Duration::from_millis(20));
        let copy = Some(Hop::via("iad1".parse().unwrap()));
        link.route = Route { primary: hop(0, 1), copy, again, direct: None };
        link.push(&frame(&[7; 20]), us(0)).unwrap();
        let mut left = leave(&mut link, us(0));
        assert_eq!(link.due(), Some(us(20_000)));
        link.route.again = None;
        left.extend(leave(&mut link, us(20_000)));
        assert_eq!((left.len(), link.due(), link.stats().sent), (3, None, 3));
        let headers: Vec<Header> =
            left.iter().map(|(_, bytes)| Datagram::decode(bytes).unwrap().header).collect();
        let relayed: Vec<bool> = headers.iter().map(|header| header.relayed.is_some()).collect();
        assert_eq!(relayed, [true, false, false]);
        assert!(headers.iter().all(|header| header.lane_sequence == headers[0].lane_sequence));
        assert_ne!(headers[1].path_sequence, headers[2].path_sequence);
        let news: Vec<News> = headers.iter().map(|header| far.receive(header, us(1))).collect();
        assert_eq!(news, [News::Fresh, News::Copy, News::Copy]);
        assert_eq!(far.receive(&headers[2], us(1)), News::Twice);
        assert_eq!(far.paths().1.len(), 2);
    }

    #[test]
    fn a_restarted_peer_may_count_from_anywhere() {
        let (mut link, mut far) = (new(), new());
        link.route.primary = hop(0, 1);
        for round in 0..2 {
            // The second process happens to use the numbers of the first.
            let mut again = new();
            again.route.primary = hop(0, 1);
            again.push(&frame(&[7; 20]), us(0)).unwrap();
            for (_, bytes) in leave(&mut again, us(round)) {
                let header = Datagram::decode(&bytes).unwrap().header;
                assert_eq!(far.receive(&header, us(1)), News::Fresh, "{round}");
            }
            far.restart();
        }
        assert_eq!(far.stats().received, 2, "totals go on");
    }

    #[test]
    fn repeats_are_bounded() {
        let mut link = new();
        link.route.again = Some(Duration::from_millis(20));
        for n in 0..1_000_u64 {
            link.push(&frame(&[0; 900]), us(n)).unwrap();
            leave(&mut link, us(n));
        }
        assert_eq!(link.again.len(), AGAIN_MAX);
    }
}
