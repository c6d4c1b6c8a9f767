//! SRTP of a leg: its keys and both directions, and what is left of keys that were replaced.

use bytes::BytesMut;
use proto::time::{Duration, Instant};

use super::DropReason;
use super::relay::PACKET_BYTES_MAX;
use crate::srtp::{Inbound, MasterKey, Outbound, Profile, SrtpError, SrtpKeys, TRAILER_BYTES_MAX};

/// Packets of the peer's key before this one are opened so long: those that were on their way.
const OLD_KEY_LIVES: Duration = Duration::from_secs(2);

/// Keys of ours that an answer may bring back: one offer has no more (each fork takes one).
const RETIRED_MAX: usize = Profile::OFFERED.len();

/// A key of the peer that was replaced, and until when its packets are opened.
#[derive(Debug)]
struct Old {
    key: MasterKey,
    inbound: Inbound,
    until: Instant,
}

#[derive(Debug)]
pub(super) struct Secure {
    keys: SrtpKeys,
    inbound: Inbound,
    outbound: Outbound,
    old: Option<Box<Old>>,
    /// Keys we sent with, the last one first. One that returns goes on where it was: from the
    /// beginning, it would use its packet indices again.
    retired: Vec<(MasterKey, Outbound)>,
}

impl Secure {
    fn new(keys: &SrtpKeys) -> Self {
        let (inbound, outbound) = (Inbound::new(&keys.receive), Outbound::new(&keys.send));
        Self { keys: keys.clone(), inbound, outbound, old: None, retired: Vec::new() }
    }

    /// What was agreed on now. A direction whose key stayed goes on: its packet indices do too.
    fn rekey(&mut self, keys: &SrtpKeys, now: Instant) {
        if self.keys.receive != keys.receive {
            let old = self.old.take().filter(|old| old.key == keys.receive);
            let inbound = old.map_or_else(|| Inbound::new(&keys.receive), |old| old.inbound);
            let inbound = std::mem::replace(&mut self.inbound, inbound);
            let (key, until) = (self.keys.receive.clone(), now + OLD_KEY_LIVES);
            self.old = Some(Box::new(Old { key, inbound, until }));
        }
        if self.keys.send != keys.send {
            let known = self.retired.iter().position(|(key, _)| *key == keys.send);
            let next = match known {
                Some(at) => self.retired.remove(at).1,
                None => Outbound::new(&keys.send),
            };
            let before = std::mem::replace(&mut self.outbound, next);
            self.retired.truncate(RETIRED_MAX - 1);
            self.retired.insert(0, (self.keys.send.clone(), before));
        }
        self.keys = keys.clone();
    }

    /// Opens an RTP packet in place; gives its length.
    pub(super) fn open(&mut self, packet: &mut [u8], now: Instant) -> Result<usize, SrtpError> {
        let Some(old) = in_flight(&mut self.old, now) else { return self.inbound.open(packet) };
        // A tag that does not fit may cost the bytes it was checked with.
        let mut copy = [0; PACKET_BYTES_MAX];
        let copy = copy.get_mut(..packet.len()).ok_or(SrtpError::Malformed)?;
        copy.copy_from_slice(packet);
        self.inbound.open(packet).or_else(|error| {
            let length = old.inbound.open(copy).map_err(|_| error)?;
            packet.copy_from_slice(copy);
            Ok(length)
        })
    }

    /// Opens RTCP packets; gives them.
    pub(super) fn open_rtcp(&mut self, packet: &[u8], now: Instant) -> Result<Vec<u8>, SrtpError> {
        // RTCP is rare: it may be copied.
        let open = |inbound: &mut Inbound| {
            let mut opened = packet.to_vec();
            let length = inbound.open_rtcp(&mut opened)?;
            opened.truncate(length);
            Ok(opened)
        };
        open(&mut self.inbound).or_else(|error| {
            let old = in_flight(&mut self.old, now).ok_or(error)?;
            open(&mut old.inbound).map_err(|_| error)
        })
    }

    /// Protects the RTP packet of `length` bytes at the begin of `buffer`; gives its new length.
    pub(super) fn protect_in_place(
        &mut self,
        buffer: &mut [u8],
        length: usize,
    ) -> Result<usize, SrtpError> {
        self.outbound.protect(buffer, length)
    }

    /// Protects the RTP packet, or RTCP packets, that `bytes` holds.
    pub(super) fn protect(&mut self, bytes: &mut BytesMut, rtcp: bool) -> Result<(), DropReason> {
        let length = bytes.len();
        bytes.resize(length + TRAILER_BYTES_MAX, 0);
        let protected = if rtcp {
            self.outbound.protect_rtcp(bytes, length)
        } else {
            self.outbound.protect(bytes, length)
        };
        bytes.truncate(*protected.as_ref().unwrap_or(&0));
        protected.map(|_| ()).map_err(DropReason::from)
    }
}

/// The key before, while its packets may be on their way.
fn in_flight(old: &mut Option<Box<Old>>, now: Instant) -> Option<&mut Old> {
    if old.as_ref().is_some_and(|old| old.until < now) {
        *old = None;
    }
    old.as_deref_mut()
}

/// SRTP of a leg over its whole life.
#[derive(Debug, Default)]
pub(super) struct Security {
    /// While media is protected.
    current: Option<Box<Secure>>,
    /// While it is plain again: its keys may return.
    parked: Option<Box<Secure>>,
}

impl Security {
    /// What was agreed on now; `None`: media is plain.
    pub(super) fn agree(&mut self, keys: Option<&SrtpKeys>, now: Instant) {
        let Some(keys) = keys else {
            self.parked = self.current.take().or(self.parked.take());
            return;
        };
        match self.current.as_mut() {
            Some(current) => current.rekey(keys, now),
            None => {
                self.current = self.parked.take();
                match self.current.as_mut() {
                    Some(current) => current.rekey(keys, now),
                    None => self.current = Some(Box::new(Secure::new(keys))),
                }
            }
        }
    }

    pub(super) const fn is_on(&self) -> bool {
        self.current.is_some()
    }

    pub(super) fn get(&mut self) -> Option<&mut Secure> {
        self.current.as_deref_mut()
    }
}
