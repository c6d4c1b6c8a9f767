//! Datagrams between POPs, version 2: media, and the probes that measure paths.
//!
//! ```text
//! byte 0       version (4 bits) | flags (4 bits: 1 probe, 8 relayed)
//! byte 1       lane
//! bytes 2–3    path, as both ends number them
//! bytes 4–5    path sequence, +1 per datagram of this path and lane (probes have their own)
//! bytes 6–7    lane sequence, +1 per datagram of this lane; a copy has that of its original
//! bytes 8–11   send time in µs of the sender's clock, wrapping
//! bytes 12–19  only if relayed: tags of the sending and of the receiving POP
//! then         frames ([`frame`]) or a probe ([`probe`])
//! ```
//!
//! A lane is what one media thread of each POP sends and reads: lane k belongs to thread k mod n.
//! The path sequence and send time let the receiver measure loss, delay change and jitter of each
//! path on the media itself; by the lane sequence it knows a copy that came another way. It
//! deliberately knows no key and no retransmission: QUIC does that.

use bytes::{Bytes, BytesMut};

use crate::id::PopId;

pub mod frame;
pub mod probe;

pub use frame::{
    Builder, FRAME_OVERHEAD_BYTES, Frame, FrameKind, Frames, PAYLOAD_BYTES_MAX, PushError,
};
pub use probe::{Heard, Probe};

/// Layout written here, and the only one read.
pub const VERSION: u8 = 2;
/// Bytes of the header of a datagram that no POP relays.
pub const HEADER_BYTES: usize = 12;
/// Bytes of the longest header.
pub const HEADER_BYTES_MAX: usize = HEADER_BYTES + 8;

const PROBE: u8 = 1;
const RELAYED: u8 = 8;

/// Which path of a POP pair, the same at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct PathId(pub u16);

impl PathId {
    /// Upstreams a POP may have.
    pub const UPSTREAMS_MAX: u8 = 16;

    /// The direct path between an upstream of the POP with the lower id and one of the other's.
    /// `None` from [`Self::UPSTREAMS_MAX`] on.
    pub fn direct(lower: u8, higher: u8) -> Option<Self> {
        let valid = lower < Self::UPSTREAMS_MAX && higher < Self::UPSTREAMS_MAX;
        valid.then(|| Self(u16::from(lower) << 4 | u16::from(higher)))
    }

    /// The path through one other POP.
    pub fn via(relay: &PopId) -> Self {
        let tag = PopTag::of(relay).0;
        Self(0x8000 | u16::try_from((tag ^ tag >> 16) & 0x7fff).unwrap_or(0))
    }

    /// Through another POP?
    pub const fn is_relayed(self) -> bool {
        self.0 & 0x8000 != 0
    }

    /// Upstream of the POP with the lower id and of the other, of a direct path.
    pub fn upstreams(self) -> Option<(u8, u8)> {
        let [high, low] = self.0.to_be_bytes();
        (high == 0).then_some((low >> 4, low & 0xf))
    }
}

/// A POP's id in four bytes: FNV-1a. In a mesh of 200 two have the same in one of 200,000 meshes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PopTag(pub u32);

impl PopTag {
    /// Of an id.
    pub fn of(pop: &PopId) -> Self {
        let step = |hash: u32, byte: &u8| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193);
        Self(pop.as_str().as_bytes().iter().fold(0x811c_9dc5, step))
    }
}

/// Both ends of a datagram that another POP passes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relayed {
    /// Who sent it.
    pub from: PopTag,
    /// Who shall have it.
    pub to: PopTag,
}

/// What stands before the frames or the probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// A probe, not frames.
    pub probe: bool,
    /// Whose thread it is, at both ends.
    pub lane: u8,
    /// The path it was sent on.
    pub path: PathId,
    /// Counts the datagrams of this path and lane, wrapping; probes apart.
    pub path_sequence: u16,
    /// Counts the datagrams of this lane, wrapping; the same in a copy. 0 in probes.
    pub lane_sequence: u16,
    /// The sender's clock in µs, wrapping.
    pub send_time_us: u32,
    /// Passed on by a POP between.
    pub relayed: Option<Relayed>,
}

impl Header {
    /// Bytes it takes.
    pub const fn encoded_bytes(&self) -> usize {
        if self.relayed.is_some() { HEADER_BYTES_MAX } else { HEADER_BYTES }
    }

    /// Writes it over the first bytes; nothing if there are too few.
    fn write(&self, datagram: &mut [u8]) {
        let Some((first, rest)) = datagram.split_first_chunk_mut::<HEADER_BYTES>() else { return };
        let flags = if self.probe { PROBE } else { 0 };
        let relayed = if self.relayed.is_some() { RELAYED } else { 0 };
        first[0] = VERSION << 4 | flags | relayed;
        first[1] = self.lane;
        first[2..4].copy_from_slice(&self.path.0.to_be_bytes());
        first[4..6].copy_from_slice(&self.path_sequence.to_be_bytes());
        first[6..8].copy_from_slice(&self.lane_sequence.to_be_bytes());
        first[8..12].copy_from_slice(&self.send_time_us.to_be_bytes());
        if let (Some(ends), Some(tags)) = (self.relayed, rest.first_chunk_mut::<8>()) {
            tags[..4].copy_from_slice(&ends.from.0.to_be_bytes());
            tags[4..].copy_from_slice(&ends.to.0.to_be_bytes());
        }
    }

    /// The same content behind this header: a copy for another path.
    pub fn readdress(&self, datagram: &Datagram<'_>) -> Bytes {
        self.with_content(datagram.content)
    }

    fn with_content(&self, content: &[u8]) -> Bytes {
        let mut bytes = BytesMut::zeroed(self.encoded_bytes() + content.len());
        self.write(&mut bytes);
        if let Some(rest) = bytes.get_mut(self.encoded_bytes()..) {
            rest.copy_from_slice(content);
        }
        bytes.freeze()
    }
}

/// Why bytes are not a datagram of ours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub enum DecodeError {
    /// A flag this version does not define.
    #[error("unknown flags {0:#x}")]
    Flags(u8),
    /// A frame kind this version does not define.
    #[error("unknown frame kind {0}")]
    Kind(u8),
    /// Payload longer than [`PAYLOAD_BYTES_MAX`].
    #[error("frame of {0} bytes")]
    Length(u32),
    /// More than the content says.
    #[error("{0} bytes too many")]
    Trailing(usize),
    /// Ends inside a header, frame or probe.
    #[error("truncated")]
    Truncated,
    /// A number with more bytes than its type.
    #[error("number too large")]
    Varint,
    /// Another layout.
    #[error("version {0}, this side speaks {VERSION}")]
    Version(u8),
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// What stands first.
    pub header: Header,
    content: &'a [u8],
}

/// The lane of a datagram, before anything of it is checked.
pub fn lane(datagram: &[u8]) -> u8 {
    datagram.get(1).copied().unwrap_or(0)
}

impl<'a> Datagram<'a> {
    /// Reads the header; frames are read when iterated, a probe when asked for.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, rest) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        let [first, lane, p0, p1, s0, s1, l0, l1, t0, t1, t2, t3] = *header;
        if first >> 4 != VERSION {
            return Err(DecodeError::Version(first >> 4));
        }
        if first & 0xf & !(PROBE | RELAYED) != 0 {
            return Err(DecodeError::Flags(first & 0xf));
        }
        let (relayed, content) = if first & RELAYED == 0 {
            (None, rest)
        } else {
            let (tags, content) = rest.split_first_chunk::<8>().ok_or(DecodeError::Truncated)?;
            let [f0, f1, f2, f3, o0, o1, o2, o3] = *tags;
            let from = PopTag(u32::from_be_bytes([f0, f1, f2, f3]));
            let to = PopTag(u32::from_be_bytes([o0, o1, o2, o3]));
            (Some(Relayed { from, to }), content)
        };
        let header = Header {
            probe: first & PROBE != 0,
            lane,
            path: PathId(u16::from_be_bytes([p0, p1])),
            path_sequence: u16::from_be_bytes([s0, s1]),
            lane_sequence: u16::from_be_bytes([l0, l1]),
            send_time_us: u32::from_be_bytes([t0, t1, t2, t3]),
            relayed,
        };
        Ok(Self { header, content })
    }

    /// The frames in order; ends after the first error. None in a probe.
    pub const fn frames(&self) -> Frames<'a> {
        Frames { rest: if self.header.probe { &[] } else { self.content } }
    }

    /// The probe, if it is one.
    pub fn probe(&self) -> Option<Result<Probe, DecodeError>> {
        self.header.probe.then(|| Probe::decode(self.content))
    }
}

#[cfg(test)]
mod tests;
