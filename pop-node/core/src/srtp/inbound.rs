//! Checks and opens what a leg receives.

use super::cipher::{Cipher, Place};
use super::outbound::rollover;
use super::window::Window;
use super::{MasterKey, SrtpError};
use crate::rtp::Header;

/// Streams of one peer: more would be more sources than a telephone call has.
const STREAMS_MAX: usize = 8;

/// Roll-over counters tried for a stream that is not known: it may have begun long ago elsewhere, and
/// session descriptions tell the key only. A day of 20 ms packets is 66.
const ROLLOVERS_MAX: u32 = 96;
/// So many of them with one packet.
const TRIES: u32 = 8;
/// A longer packet is opened as the first of its stream, or not at all.
const TRIED_BYTES_MAX: usize = 2_048;

/// The first bit beside an SRTCP index (RFC 3711 §3.4).
const ENCRYPTED: u32 = 1 << 31;

/// What was received of one SSRC.
#[derive(Debug, Clone, Copy)]
struct Stream {
    ssrc: u32,
    window: Window,
}

/// Streams by SSRC, the one heard last first.
#[derive(Debug, Default)]
struct Streams(Vec<Stream>);

impl Streams {
    fn window(&self, ssrc: u32) -> Option<&Window> {
        self.0.iter().find(|stream| stream.ssrc == ssrc).map(|stream| &stream.window)
    }

    /// Of an authentic packet.
    fn seen(&mut self, Place { ssrc, index }: Place) {
        let known = self.0.iter().position(|stream| stream.ssrc == ssrc);
        if let Some(before) = known.and_then(|at| self.0.get_mut(..=at)) {
            before.rotate_right(1);
            if let Some(stream) = before.first_mut() {
                stream.window.insert(index);
            }
            return;
        }
        self.0.truncate(STREAMS_MAX - 1);
        self.0.insert(0, Stream { ssrc, window: Window::at(index) });
    }
}

/// The receiving side of a leg.
#[derive(Debug)]
pub struct Inbound {
    rtp: Cipher,
    rtcp: Cipher,
    streams: Streams,
    rtcp_streams: Streams,
    /// The roll-over counter to try next.
    rollover: u32,
}

impl Inbound {
    /// With the session keys of the peer's master key.
    pub fn new(master: &MasterKey) -> Self {
        let profile = master.profile();
        Self {
            rtp: Cipher::new(master, 0, profile.rtp_tag_bytes()),
            rtcp: Cipher::new(master, 3, profile.rtcp_tag_bytes()),
            streams: Streams::default(),
            rtcp_streams: Streams::default(),
            rollover: 1,
        }
    }

    /// Opens an SRTP packet in place; gives its length without the tag.
    pub fn open(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let (header, body) = Header::read(packet).map_err(|_| SrtpError::Malformed)?;
        let (ssrc, sequence) = (header.ssrc, header.sequence);
        let known = match self.streams.window(ssrc) {
            None => None,
            Some(window) => {
                let index = window.guess(sequence).ok_or(SrtpError::Replayed)?;
                Some(window.allows(index).then_some(index).ok_or(SrtpError::Replayed)?)
            }
        };
        let length = packet.len().checked_sub(self.rtp.tag_bytes()).ok_or(SrtpError::Malformed)?;
        let (packet, tag) = packet.split_at_mut_checked(length).ok_or(SrtpError::Malformed)?;
        let (header, body) = packet.split_at_mut_checked(body).ok_or(SrtpError::Malformed)?;
        let index = match known {
            Some(index) => index,
            None => self.find((ssrc, sequence), (header, body, tag))?,
        };
        let place = Place { ssrc, index };
        self.rtp.open(place, (header, body, tag), (rollover(index), false))?;
        self.streams.seen(place);
        Ok(length)
    }

    /// The index of the first packet of a stream that is heard: of its first period, unless it began
    /// before we had this key (RFC 3711 §3.3.1 wants that told; RFC 4568 has no way to).
    fn find(
        &mut self,
        (ssrc, sequence): (u32, u16),
        (header, body, tag): (&[u8], &[u8], &[u8]),
    ) -> Result<u64, SrtpError> {
        // Opening destroys what it cannot open.
        let mut copy = [0; TRIED_BYTES_MAX];
        let Some(copy) = copy.get_mut(..body.len()) else { return Ok(sequence.into()) };
        let later = (0..TRIES).map(|step| 1 + (self.rollover - 1 + step) % ROLLOVERS_MAX);
        for period in std::iter::once(0).chain(later) {
            let index = u64::from(period) << 16 | u64::from(sequence);
            copy.copy_from_slice(body);
            let place = Place { ssrc, index };
            if self.rtp.open(place, (header, copy, tag), (rollover(index), false)).is_ok() {
                return Ok(index);
            }
        }
        self.rollover = 1 + (self.rollover - 1 + TRIES) % ROLLOVERS_MAX;
        Err(SrtpError::Tag)
    }

    /// Opens an SRTCP packet in place; gives its length without index and tag.
    pub fn open_rtcp(&mut self, packet: &mut [u8]) -> Result<usize, SrtpError> {
        let tag_bytes = self.rtcp.tag_bytes();
        let length = packet.len().checked_sub(tag_bytes + 4).ok_or(SrtpError::Malformed)?;
        let (packet, trailer) = packet.split_at_mut_checked(length).ok_or(SrtpError::Malformed)?;
        let (header, body) = packet.split_at_mut_checked(8).ok_or(SrtpError::Malformed)?;
        let ssrc = header.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let (word, tag) = match &self.rtcp {
            Cipher::Galois { .. } => trailer.split_last_chunk::<4>().map(|(tag, word)| (word, tag)),
            Cipher::Counter { .. } => trailer.split_first_chunk::<4>(),
        }
        .ok_or(SrtpError::Malformed)?;
        let index = u32::from_be_bytes(*word);
        // What is not encrypted was not agreed on.
        if index & ENCRYPTED == 0 {
            return Err(SrtpError::Tag);
        }
        let place = Place { ssrc, index: (index & !ENCRYPTED).into() };
        if self.rtcp_streams.window(ssrc).is_some_and(|window| !window.allows(place.index)) {
            return Err(SrtpError::Replayed);
        }
        self.rtcp.open(place, (header, body, tag), (*word, true))?;
        self.rtcp_streams.seen(place);
        Ok(length)
    }
}
