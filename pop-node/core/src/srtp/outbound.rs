//! Protects what a leg sends.

use super::cipher::{Cipher, Place};
use super::window::Window;
use super::{MasterKey, SrtpError};
use crate::rtp::Header;

/// RFC 3711 §9.2: as many packets one key may protect.
const RTP_INDEX_END: u64 = 1 << 48;
const RTCP_INDEX_END: u32 = 1 << 31;

/// Encrypted: the first bit beside an SRTCP index (RFC 3711 §3.4).
const ENCRYPTED: u32 = 1 << 31;

/// The sending side of a leg: one SSRC.
#[derive(Debug)]
pub struct Outbound {
    rtp: Cipher,
    rtcp: Cipher,
    /// The SSRC and what was sent of it.
    sent: Option<(u32, Window)>,
    rtcp_index: u32,
}

impl Outbound {
    /// With the session keys of a master key.
    pub fn new(master: &MasterKey) -> Self {
        let profile = master.profile();
        Self {
            rtp: Cipher::new(master, 0, profile.rtp_tag_bytes()),
            rtcp: Cipher::new(master, 3, profile.rtcp_tag_bytes()),
            sent: None,
            rtcp_index: 0,
        }
    }

    /// Protects the RTP packet of `length` bytes at the begin of `buffer`; gives its new length.
    pub fn protect(&mut self, buffer: &mut [u8], length: usize) -> Result<usize, SrtpError> {
        let packet = buffer.get(..length).ok_or(SrtpError::Malformed)?;
        let (header, body) = Header::read(packet).map_err(|_| SrtpError::Malformed)?;
        let place = self.place(header.ssrc, header.sequence)?;
        let tag_bytes = self.rtp.tag_bytes();
        let (packet, room) = buffer.split_at_mut_checked(length).ok_or(SrtpError::NoRoom)?;
        let room = room.get_mut(..tag_bytes).ok_or(SrtpError::NoRoom)?;
        // Used from here on, whatever happens to the packet.
        self.used(place);
        let parts = packet.split_at_mut_checked(body).ok_or(SrtpError::Malformed)?;
        let tag = self.rtp.seal(place, (parts.0, parts.1), (rollover(place.index), false))?;
        room.iter_mut().zip(tag).for_each(|(to, from)| *to = from);
        Ok(length + tag_bytes)
    }

    fn place(&self, ssrc: u32, sequence: u16) -> Result<Place, SrtpError> {
        let index = match &self.sent {
            None => u64::from(sequence),
            // One key, one SSRC: two of them might meet in the same key stream (RFC 3711 §9.1).
            Some((known, _)) if *known != ssrc => return Err(SrtpError::Reused),
            Some((_, window)) => {
                let index = window.guess(sequence).ok_or(SrtpError::Reused)?;
                window.allows(index).then_some(index).ok_or(SrtpError::Reused)?
            }
        };
        (index < RTP_INDEX_END).then_some(Place { ssrc, index }).ok_or(SrtpError::KeyUsedUp)
    }

    fn used(&mut self, place: Place) {
        match &mut self.sent {
            None => self.sent = Some((place.ssrc, Window::at(place.index))),
            Some((_, window)) => window.insert(place.index),
        }
    }

    /// Protects a compound RTCP packet of `length` bytes; gives its new length.
    pub fn protect_rtcp(&mut self, buffer: &mut [u8], length: usize) -> Result<usize, SrtpError> {
        if self.rtcp_index >= RTCP_INDEX_END {
            return Err(SrtpError::KeyUsedUp);
        }
        let tag_bytes = self.rtcp.tag_bytes();
        let (packet, room) = buffer.split_at_mut_checked(length).ok_or(SrtpError::NoRoom)?;
        let room = room.get_mut(..tag_bytes + 4).ok_or(SrtpError::NoRoom)?;
        let (header, body) = packet.split_at_mut_checked(8).ok_or(SrtpError::Malformed)?;
        let ssrc = header.last_chunk().map_or(0, |bytes| u32::from_be_bytes(*bytes));
        let word = (ENCRYPTED | self.rtcp_index).to_be_bytes();
        let place = Place { ssrc, index: self.rtcp_index.into() };
        self.rtcp_index += 1;
        let tag = self.rtcp.seal(place, (header, body), (word, true))?;
        let tag = tag.iter().take(tag_bytes).copied();
        // GCM has its tag before the index (RFC 7714 §9.3), HMAC behind it (RFC 3711 §3.4).
        match &self.rtcp {
            Cipher::Galois { .. } => fill(room, tag.chain(word)),
            Cipher::Counter { .. } => fill(room, word.into_iter().chain(tag)),
        }
        Ok(length + tag_bytes + 4)
    }
}

fn fill(to: &mut [u8], from: impl Iterator<Item = u8>) {
    to.iter_mut().zip(from).for_each(|(to, from)| *to = from);
}

/// The roll-over counter of an index.
pub(super) fn rollover(index: u64) -> [u8; 4] {
    let [_, _, a, b, c, d, _, _] = index.to_be_bytes();
    [a, b, c, d]
}
