//! The media plane of a POP: relay, playout, transcoding, quality.
//!
//! RTP (RFC 3550) of a leg goes to another leg, or as frames of an overlay datagram to another
//! POP; RTCP ends here. Same codec on both sides: packets are relayed at once, whatever their
//! length. Different codecs: [`transcode`] makes new ones. One machine holds all legs of one
//! media thread.
//!
//! Invariants: relaying takes no lock, writes no log and allocates nothing per packet (packets
//! made here are cut from 64 KiB blocks); each drop has a [`DropReason`]; an outgoing stream is
//! one SSRC without breaks.
//!
//! Deliberately not here: sockets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use bytes::{Bytes, BytesMut};
use proto::id::{LegId, PopId, StreamId};
use proto::time::{Duration, Instant, earlier};

mod demux;
mod latch;
mod leg;
mod link;
pub mod map;
mod measure;
mod meter;
mod monitor;
mod outgoing;
mod overlay;
mod playout;
pub mod quality;
mod redundancy;
mod relay;
mod report;
mod secure;
mod shared;
#[cfg(test)]
pub(crate) mod tests;
mod transcode;
mod types;

use demux::Demux;
use leg::{FarEnd, Leg, StreamEnd};
use link::Link;
use map::Map;
use monitor::Monitor;
use outgoing::Outgoing;

use crate::codec::complexity::Complexity;
pub use crate::overlay::LinkStats;
use crate::rtp::Reception;
pub use measure::{Point, Rated, Rating, SilenceCause, Summary, Timeline};
pub use meter::Level;
pub use overlay::PathCounts;
pub use types::*;

/// Longest a frame may wait for company.
const FLUSH_DELAY_MAX: Duration = Duration::from_millis(2);
/// Between reports of a leg: RTCP (RFC 3550 §6.2 says at least 5 s) and `LegQuality`.
const REPORT_INTERVAL: Duration = Duration::from_secs(5);
/// Packets we make are cut from blocks of this size.
const ARENA_BYTES: usize = 64 * 1_024;
/// Reports fall on multiples of this: those of many legs leave together, and wake the calls once.
const REPORT_GRID: Duration = Duration::from_millis(50);
/// Outputs not yet fetched; more are dropped.
const TRANSMITS_MAX: usize = 16_384;

/// Events not yet fetched; more are forgotten, but for the first and last words of legs.
const EVENTS_MAX: usize = 16_384;

/// What to tell the call, oldest first.
#[derive(Debug, Default)]
struct Events(VecDeque<MediaEvent>);

impl Events {
    fn push(&mut self, event: MediaEvent) {
        // A call waits for its ports, and for the last words of its legs.
        let is_due =
            matches!(event, MediaEvent::LegQuality { last: true, .. } | MediaEvent::Opened { .. });
        if is_due || self.0.len() < EVENTS_MAX {
            self.0.push_back(event);
        }
    }
}

/// Which way a transcoder of a leg works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Side {
    /// From the leg to its far side.
    Inward,
    /// From the overlay to the leg.
    Outward,
}

/// What a deadline is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Timer {
    Playout(Side),
    Report,
    /// On the shared port: is it still heard?
    Silence,
}

/// A POP, and a lane of what passes between it and us.
type LinkKey = (PopId, Lane);

/// All legs of a POP, or of one media thread.
#[derive(Debug)]
pub struct Media {
    config: MediaConfig,
    random: Random,
    legs: Map<LegId, Box<Leg>>,
    /// Which leg a stream from another POP belongs to.
    streams: Map<StreamId, LegId>,
    demux: Demux,
    /// Routes of each peer, and what comes from it.
    links: BTreeMap<PopId, Link>,
    /// What goes to it, lane by lane.
    lanes: BTreeMap<LinkKey, Link>,
    timers: BTreeSet<(Instant, LegId, Timer)>,
    connections: u64,
    transmits: VecDeque<MediaTransmit>,
    /// Of the burst that is leaving; used again.
    leaving: Vec<(link::By, Bytes)>,
    events: Events,
    /// Packets are cut from it; a block is used again when all cut from it are sent.
    arena: BytesMut,
    complexity: Complexity,
    counters: Counters,
}

impl Media {
    /// An empty machine.
    pub fn new(config: MediaConfig, _now: Instant) -> Self {
        let config = MediaConfig { flush_delay: config.flush_delay.min(FLUSH_DELAY_MAX), ..config };
        Self {
            random: Random(config.seed),
            complexity: Complexity::new(config.opus_complexity),
            legs: Map::new(config.seed),
            streams: Map::new(config.seed),
            demux: Demux::new(config.seed),
            config,
            links: BTreeMap::new(),
            lanes: BTreeMap::new(),
            timers: BTreeSet::new(),
            connections: 0,
            transmits: VecDeque::new(),
            leaving: Vec::new(),
            events: Events::default(),
            arena: BytesMut::new(),
            counters: Counters::default(),
        }
    }

    /// Executes a command of the call. One for an unknown leg changes nothing.
    pub fn handle_command(&mut self, command: &MediaCommand, now: Instant) {
        match command {
            MediaCommand::OpenLeg { leg, .. } => self.open(*leg, now),
            MediaCommand::SetLeg { leg, params } => {
                if let Some(known) = self.legs.get_mut(leg) {
                    known.set(params, now);
                    self.demux.expect(*leg, params);
                }
            }
            MediaCommand::Connect { leg, to } => self.connect(*leg, to, now),
            MediaCommand::ExpectLoss { leg, percent } => {
                if let Some(FarEnd::Stream(end)) =
                    self.legs.get_mut(leg).and_then(|leg| leg.far.as_mut())
                {
                    end.expected_loss = *percent;
                }
            }
            MediaCommand::Disconnect { leg } => self.disconnect(*leg),
            MediaCommand::CloseLeg { leg } => self.close(*leg, now),
        }
    }

    fn open(&mut self, id: LegId, now: Instant) {
        if self.legs.contains_key(&id) {
            return;
        }
        // The clock rate is SetLeg's to say.
        let outgoing = Outgoing::new(8_000, || self.random.next());
        let report = self.next_report(now);
        self.timers.insert((report, id, Timer::Report));
        self.legs.insert(id, Box::new(Leg::new(outgoing, report, now)));
        self.events.push(MediaEvent::Opened { leg: id });
    }

    fn connect(&mut self, id: LegId, to: &Far, now: Instant) {
        if !self.legs.contains_key(&id) {
            return;
        }
        match to {
            Far::Leg(other) => {
                if !self.is_joined(id, *other) {
                    self.disconnect(id);
                    self.disconnect(*other);
                    self.join(id, FarEnd::Leg(*other));
                    self.join(*other, FarEnd::Leg(id));
                }
            }
            Far::Stream(stream) => self.connect_stream(id, stream, now),
        }
    }

    fn is_joined(&self, id: LegId, other: LegId) -> bool {
        let far = |id| self.legs.get(&id).and_then(|leg| leg.far.as_ref());
        matches!(far(id), Some(FarEnd::Leg(a)) if *a == other)
            && matches!(far(other), Some(FarEnd::Leg(b)) if *b == id)
    }

    fn connect_stream(&mut self, id: LegId, stream: &Stream, now: Instant) {
        let format = Format {
            codec: stream.codec,
            payload_type: 0,
            ptime_ms: stream.ptime_ms,
            fmtp: stream.fmtp.clone(),
        };
        let clock_rate = stream.codec.clock_rate();
        // The same streams with another codec: what we send goes on.
        if let Some(FarEnd::Stream(end)) = self.legs.get_mut(&id).and_then(|l| l.far.as_mut())
            && (&end.stream.peer, end.stream.send) == (&stream.peer, stream.send)
            && end.stream.lane == stream.lane
            && end.stream.receive == stream.receive
        {
            end.outgoing.set_clock_rate(clock_rate);
            (end.stream, end.format) = (stream.clone(), format);
            return;
        }
        self.disconnect(id);
        // A stream id is unique; should it be reused, the later user has it.
        if let Some(other) = self.streams.insert(stream.receive, id) {
            self.disconnect(other);
            self.streams.insert(stream.receive, id);
        }
        let outgoing = Outgoing::new(clock_rate, || self.random.next());
        let end = StreamEnd {
            stream: stream.clone(),
            format,
            outgoing,
            link: (stream.peer.clone(), stream.lane),
            reception: Reception::default(),
            monitor: Monitor::begin(now),
            expected_loss: 0,
            told_loss: 0,
        };
        self.lane(&end.link);
        self.join(id, FarEnd::Stream(Box::new(end)));
    }

    fn join(&mut self, id: LegId, far: FarEnd) {
        self.connections += 1;
        if let Some(leg) = self.legs.get_mut(&id) {
            leg.far = Some(far);
            leg.connection = self.connections;
        }
    }

    fn disconnect(&mut self, id: LegId) {
        let Some(leg) = self.legs.get_mut(&id) else { return };
        for (bridge, side) in [(&mut leg.inward, Side::Inward), (&mut leg.outward, Side::Outward)] {
            bridge.transcoder = None;
            if let Some(armed) = bridge.armed.take() {
                self.timers.remove(&(armed, id, Timer::Playout(side)));
            }
        }
        match leg.far.take() {
            None => {}
            Some(FarEnd::Leg(other)) => {
                let far = self.legs.get(&other).and_then(|leg| leg.far.as_ref());
                if matches!(far, Some(FarEnd::Leg(back)) if *back == id) {
                    self.disconnect(other);
                }
            }
            Some(FarEnd::Stream(end)) => {
                self.streams.remove(&end.stream.receive);
            }
        }
    }

    fn close(&mut self, id: LegId, now: Instant) {
        let report = self.end_point(id, now).unwrap_or_default();
        self.disconnect(id);
        self.send_rtcp(id, true, now);
        self.demux.forget(id, now);
        if let Some(leg) = self.legs.remove(&id) {
            self.timers.remove(&(leg.report, id, Timer::Report));
            if let Some(look) = leg.look {
                self.timers.remove(&(look, id, Timer::Silence));
            }
            self.events.push(MediaEvent::LegQuality { leg: id, report, last: true });
        }
    }

    /// Time has come.
    pub fn handle_timeout(&mut self, now: Instant) {
        let is_due = |link: &Link| link.due().is_some_and(|due| due <= now);
        let due = self.lanes.iter().filter(|(_, link)| is_due(link)).map(|(key, _)| key);
        for key in due.cloned().collect::<Vec<_>>() {
            self.send_burst(&key, now);
        }
        while let Some(&(due, leg, timer)) = self.timers.first()
            && due <= now
        {
            self.timers.pop_first();
            match timer {
                Timer::Playout(side) => self.run_bridge(leg, side, now),
                Timer::Report => self.report(leg, now),
                Timer::Silence => self.look_for_silence(leg, now),
            }
        }
    }

    fn next_report(&mut self, now: Instant) -> Instant {
        let (next, grid) = (now + self.random.around(REPORT_INTERVAL), REPORT_GRID.as_nanos());
        let grid = u64::try_from(grid).unwrap_or(1);
        Instant::from_nanos(next.as_nanos().next_multiple_of(grid))
    }

    fn report(&mut self, id: LegId, now: Instant) {
        let next = self.next_report(now);
        let Some(leg) = self.legs.get_mut(&id) else { return };
        leg.report = next;
        self.timers.insert((next, id, Timer::Report));
        if leg.params.is_some()
            && let Some(report) = self.end_point(id, now)
        {
            self.events.push(MediaEvent::LegQuality { leg: id, report, last: false });
            self.tell_loss(id, now);
            self.send_rtcp(id, false, now);
        }
    }

    /// How busy this media thread is: the share of one core it used lately, 0 to 1. Opus is encoded
    /// accordingly.
    pub fn handle_load(&mut self, load: f64) {
        self.complexity.handle_load(load);
    }

    /// The libopus complexity in use, 0 to 10.
    pub fn opus_complexity(&self) -> u8 {
        self.complexity.now()
    }

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        let flush = self.lanes.values().filter_map(Link::due).min();
        earlier(flush, self.timers.first().map(|&(due, ..)| due))
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<MediaTransmit> {
        self.transmits.pop_front()
    }

    fn transmit(&mut self, transmit: MediaTransmit) {
        if self.transmits.len() < TRANSMITS_MAX {
            self.transmits.push_back(transmit);
        } else {
            self.counters.drop(DropReason::TransmitFull);
        }
    }

    /// The next thing to tell the call.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        self.events.0.pop_front()
    }

    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Open legs.
    pub fn legs(&self) -> usize {
        self.legs.len()
    }

    /// The quality of a leg so far.
    pub fn quality(&self, leg: LegId) -> Option<QualityReport> {
        let report = self.legs.get(&leg).map(|leg| leg.quality());
        report.map(|report| QualityReport { heard: self.heard(leg), ..report })
    }
}

/// SplitMix64: enough for what RFC 3550 wants random; not for secrets.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ self.0 >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    /// Between 0.9 and 1.1 of `interval`, so that legs do not report in step.
    fn around(&mut self, interval: Duration) -> Duration {
        let percent = u32::try_from(90 + self.next() % 21).unwrap_or(100);
        interval * percent / 100
    }
}
