//! The media plane of a POP: relay, playout, transcoding, quality.

use std::net::SocketAddr;

use proto::id::{LegId, PopId};
use proto::time::Instant;

mod playout;
pub mod quality;
mod transcode;
mod types;

pub use crate::overlay::LinkStats;
pub use types::*;

/// All legs of a POP, or of one media thread.
#[derive(Debug)]
pub struct Media {
    config: MediaConfig,
    counters: Counters,
}

impl Media {
    /// An empty machine.
    pub fn new(config: MediaConfig, _now: Instant) -> Self {
        Self { config, counters: Counters::default() }
    }

    /// Executes a command of the call.
    pub fn handle_command(&mut self, _command: &MediaCommand, _now: Instant) {}

    /// A packet on a leg's RTP socket; on `Forward` it was rewritten in place.
    pub fn handle_rtp(
        &mut self,
        _leg: LegId,
        _source: SocketAddr,
        _packet: &mut [u8],
        _now: Instant,
    ) -> Verdict {
        self.counters.drop(DropReason::UnknownLeg);
        Verdict::Drop(DropReason::UnknownLeg)
    }

    /// A packet on a leg's RTCP socket.
    pub fn handle_rtcp(&mut self, _leg: LegId, _source: SocketAddr, _packet: &[u8], _now: Instant) {
    }

    /// A datagram from another POP, whose identity the link proved.
    pub fn handle_datagram(&mut self, _peer: &PopId, _datagram: &[u8], _now: Instant) {}

    /// Time has come.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// When to call `handle_timeout`.
    pub fn poll_timeout(&self) -> Option<Instant> {
        None
    }

    /// The next thing to send.
    pub fn poll_transmit(&mut self) -> Option<MediaTransmit> {
        None
    }

    /// The next thing to tell the call.
    pub fn poll_event(&mut self) -> Option<MediaEvent> {
        None
    }

    /// Totals.
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Every peer's link, by POP.
    pub fn links(&self) -> impl Iterator<Item = (&PopId, LinkStats)> {
        let _ = &self.config;
        std::iter::empty()
    }

    /// Open legs.
    pub fn legs(&self) -> usize {
        0
    }
}
