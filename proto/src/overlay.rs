//! The media datagram between POPs, version 1.
//!
//! ```text
//! byte 0      version (4 bits) | flags (4 bits, 0)
//! bytes 1–4   path sequence, big endian, +1 per datagram of this path
//! bytes 5–8   send time in µs of the sender's clock, wrapping
//! then frames: stream (LEB128 u32) | sequence u16 | timestamp u32 | marker bit + kind | length
//!              (LEB128 u16) | payload
//! ```
//!
//! The path sequence and send time let the receiver measure loss, delay change and jitter on the
//! media itself. SSRC, payload type and cadence are stream state agreed on the call's stream and
//! are not sent again. It deliberately knows no peer, no key, no retransmission: QUIC does that.

use bytes::{BufMut, Bytes, BytesMut};

use crate::id::StreamId;

/// Layout written here, and the only one read.
pub const VERSION: u8 = 1;
/// Bytes before the first frame.
pub const HEADER_BYTES: usize = 9;
/// Most bytes a frame adds around its payload.
pub const FRAME_OVERHEAD_BYTES: usize = 5 + 2 + 4 + 1 + 3;
/// Longest payload of one frame.
pub const PAYLOAD_BYTES_MAX: usize = 1_500;

/// What a frame's payload is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum FrameKind {
    /// The stream's codec.
    Audio,
    /// Comfort noise (RFC 3389).
    ComfortNoise,
    /// DTMF and other events (RFC 4733).
    TelephoneEvent,
}

impl FrameKind {
    const fn code(self) -> u8 {
        match self {
            Self::Audio => 0,
            Self::TelephoneEvent => 1,
            Self::ComfortNoise => 2,
        }
    }

    const fn from_code(code: u8) -> Option<Self> {
        match code {
            0 => Some(Self::Audio),
            1 => Some(Self::TelephoneEvent),
            2 => Some(Self::ComfortNoise),
            _ => None,
        }
    }
}

/// One RTP packet without what the stream already knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Frame<'a> {
    /// The stream, as the receiver named it.
    pub stream: StreamId,
    /// RTP sequence number (RFC 3550 §5.1).
    pub sequence: u16,
    /// RTP timestamp in the stream's clock.
    pub timestamp: u32,
    /// RTP marker bit.
    pub marker: bool,
    /// What the payload is.
    pub kind: FrameKind,
    /// RTP payload, at most [`PAYLOAD_BYTES_MAX`].
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Bytes this frame takes in a datagram.
    pub const fn encoded_bytes(&self) -> usize {
        let len = self.payload.len();
        leb128_bytes(self.stream.0) + 7 + if len < 128 { 1 } else { 2 } + len
    }
}

const fn leb128_bytes(value: u32) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        0x20_0000..0x1000_0000 => 4,
        _ => 5,
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
    /// Ends inside a header or frame.
    #[error("truncated")]
    Truncated,
    /// A number with more bytes than its type.
    #[error("number too large")]
    Varint,
    /// Another layout.
    #[error("version {0}, this side speaks {VERSION}")]
    Version(u8),
}

/// Why a frame was not added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PushError {
    /// Finish this datagram first.
    #[error("datagram full")]
    Full,
    /// The payload fits no datagram.
    #[error("payload of {0} bytes")]
    TooLong(usize),
}

/// Collects frames until the datagram is full or sent.
#[derive(Debug)]
pub struct Builder {
    buffer: BytesMut,
    max_bytes: usize,
    frames: usize,
}

impl Builder {
    /// `max_bytes`: the path's datagram size; at least one full frame fits.
    pub fn new(max_bytes: usize) -> Self {
        let max_bytes = max_bytes.max(HEADER_BYTES + FRAME_OVERHEAD_BYTES + 1);
        let mut builder = Self { buffer: BytesMut::new(), max_bytes, frames: 0 };
        builder.begin();
        builder
    }

    fn begin(&mut self) {
        self.buffer.reserve(self.max_bytes);
        self.buffer.put_bytes(0, HEADER_BYTES);
        self.frames = 0;
    }

    /// Frames waiting.
    pub const fn frames(&self) -> usize {
        self.frames
    }

    /// No frame waiting.
    pub const fn is_empty(&self) -> bool {
        self.frames == 0
    }

    /// Adds a frame; nothing changes on error.
    pub fn push(&mut self, frame: &Frame<'_>) -> Result<(), PushError> {
        let bytes = frame.encoded_bytes();
        let length = frame.payload.len();
        if length > PAYLOAD_BYTES_MAX || HEADER_BYTES + bytes > self.max_bytes {
            return Err(PushError::TooLong(length));
        }
        if self.buffer.len() + bytes > self.max_bytes {
            return Err(PushError::Full);
        }
        put_leb128(&mut self.buffer, frame.stream.0);
        self.buffer.put_u16(frame.sequence);
        self.buffer.put_u32(frame.timestamp);
        self.buffer.put_u8(u8::from(frame.marker) << 7 | frame.kind.code());
        put_leb128(&mut self.buffer, u32::try_from(length).unwrap_or(u32::MAX));
        self.buffer.put_slice(frame.payload);
        self.frames += 1;
        Ok(())
    }

    /// Takes the datagram and begins the next.
    pub fn finish(&mut self, path_sequence: u32, send_time_us: u32) -> Bytes {
        let mut datagram = self.buffer.split();
        if let Some(header) = datagram.first_chunk_mut::<HEADER_BYTES>() {
            header[0] = VERSION << 4;
            header[1..5].copy_from_slice(&path_sequence.to_be_bytes());
            header[5..9].copy_from_slice(&send_time_us.to_be_bytes());
        }
        self.begin();
        datagram.freeze()
    }
}

fn put_leb128(buffer: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        buffer.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    buffer.put_u8(value.to_le_bytes()[0]);
}

/// A received datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Datagram<'a> {
    /// Counts the datagrams of this path, wrapping.
    pub path_sequence: u32,
    /// The sender's clock in µs, wrapping.
    pub send_time_us: u32,
    frames: &'a [u8],
}

impl<'a> Datagram<'a> {
    /// Reads the header; frames are read when iterated.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, DecodeError> {
        let (header, frames) =
            bytes.split_first_chunk::<HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        let [first, s0, s1, s2, s3, t0, t1, t2, t3] = *header;
        if first >> 4 != VERSION {
            return Err(DecodeError::Version(first >> 4));
        }
        if first & 0xf != 0 {
            return Err(DecodeError::Flags(first & 0xf));
        }
        Ok(Self {
            path_sequence: u32::from_be_bytes([s0, s1, s2, s3]),
            send_time_us: u32::from_be_bytes([t0, t1, t2, t3]),
            frames,
        })
    }

    /// The frames in order; ends after the first error.
    pub const fn frames(&self) -> Frames<'a> {
        Frames { rest: self.frames }
    }
}

/// Iterator over the frames of a datagram.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, DecodeError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        let frame = self.read();
        if frame.is_err() {
            self.rest = &[];
        }
        Some(frame)
    }
}

impl<'a> Frames<'a> {
    fn read(&mut self) -> Result<Frame<'a>, DecodeError> {
        let stream = StreamId(self.leb128()?);
        let [s0, s1, t0, t1, t2, t3, kind] = *self.take::<7>()?;
        let length = self.leb128()?;
        let bytes = usize::try_from(length).unwrap_or(usize::MAX);
        if bytes > PAYLOAD_BYTES_MAX {
            return Err(DecodeError::Length(length));
        }
        let (payload, rest) = self.rest.split_at_checked(bytes).ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(Frame {
            stream,
            sequence: u16::from_be_bytes([s0, s1]),
            timestamp: u32::from_be_bytes([t0, t1, t2, t3]),
            marker: kind & 0x80 != 0,
            kind: FrameKind::from_code(kind & 0x7f).ok_or(DecodeError::Kind(kind & 0x7f))?,
            payload,
        })
    }

    fn take<const N: usize>(&mut self) -> Result<&'a [u8; N], DecodeError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(taken)
    }

    fn leb128(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0u32;
        for shift in [0u32, 7, 14, 21, 28] {
            let [byte] = *self.take::<1>()?;
            let bits = u32::from(byte & 0x7f);
            if shift == 28 && bits > 0xf {
                return Err(DecodeError::Varint);
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Ok(value);
            }
        }
        Err(DecodeError::Varint)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(payload: &[u8]) -> Frame<'_> {
        Frame {
            stream: StreamId(300),
            sequence: 65_535,
            timestamp: 160,
            marker: true,
            kind: FrameKind::Audio,
            payload,
        }
    }

    #[test]
    fn a_full_datagram_says_so_and_starts_anew() {
        let mut builder = Builder::new(400);
        let payload = [7; 160];
        builder.push(&frame(&payload)).unwrap();
        builder.push(&frame(&payload)).unwrap();
        assert_eq!(builder.push(&frame(&payload)), Err(PushError::Full));
        let bytes = builder.finish(9, 1_000);
        assert!(bytes.len() <= 400);
        let datagram = Datagram::decode(&bytes).unwrap();
        assert_eq!((datagram.path_sequence, datagram.send_time_us), (9, 1_000));
        assert_eq!(datagram.frames().count(), 2);
        assert!(builder.is_empty());
        assert_eq!(builder.push(&frame(&[0; 400])), Err(PushError::TooLong(400)));
    }

    #[test]
    fn damage_is_named() {
        let mut builder = Builder::new(400);
        builder.push(&frame(&[1, 2, 3])).unwrap();
        let good = builder.finish(0, 0);
        assert_eq!(Datagram::decode(&good[..5]), Err(DecodeError::Truncated));
        assert_eq!(Datagram::decode(&[0x20; 9]), Err(DecodeError::Version(2)));
        assert_eq!(Datagram::decode(&[0x11; 9]), Err(DecodeError::Flags(1)));
        let cut = Datagram::decode(&good[..good.len() - 1]).unwrap();
        assert_eq!(cut.frames().collect::<Vec<_>>(), [Err(DecodeError::Truncated)]);
        let mut huge = good[..HEADER_BYTES].to_vec();
        huge.extend([0xff; 5]);
        let huge = Datagram::decode(&huge).unwrap();
        assert_eq!(huge.frames().collect::<Vec<_>>(), [Err(DecodeError::Varint)]);
    }

    prop_compose! {
        fn any_frame()(
            stream: u32, sequence: u16, timestamp: u32, marker: bool, kind in 0u8..3,
            payload in prop::collection::vec(any::<u8>(), 0..400),
        ) -> (u32, u16, u32, bool, u8, Vec<u8>) {
            (stream, sequence, timestamp, marker, kind, payload)
        }
    }

    proptest! {
        #[test]
        fn what_is_pushed_comes_out(frames in prop::collection::vec(any_frame(), 0..6), seq: u32) {
            let mut builder = Builder::new(4_000);
            let frames: Vec<Frame<'_>> = frames.iter().map(|(s, q, t, m, k, p)| Frame {
                stream: StreamId(*s), sequence: *q, timestamp: *t, marker: *m,
                kind: FrameKind::from_code(*k).unwrap(), payload: p,
            }).collect();
            let mut bytes = HEADER_BYTES;
            for frame in &frames {
                builder.push(frame).unwrap();
                bytes += frame.encoded_bytes();
            }
            let datagram = builder.finish(seq, 1);
            prop_assert_eq!(datagram.len(), bytes);
            let read: Result<Vec<_>, _> = Datagram::decode(&datagram).unwrap().frames().collect();
            prop_assert_eq!(read.unwrap(), frames);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..600)) {
            if let Ok(datagram) = Datagram::decode(&bytes) {
                let frames: Vec<_> = datagram.frames().collect();
                prop_assert!(frames.len() <= bytes.len());
            }
        }
    }
}
