//! Frames: RTP packets without what their stream already knows, gathered and read.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{DecodeError, HEADER_BYTES_MAX, Header};
use crate::id::StreamId;

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

    pub(super) const fn from_code(code: u8) -> Option<Self> {
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
    /// `max_bytes`: the path's datagram size, headers included; at least one frame fits.
    pub fn new(max_bytes: usize) -> Self {
        let max_bytes = max_bytes.max(HEADER_BYTES_MAX + FRAME_OVERHEAD_BYTES + 1);
        let mut builder = Self { buffer: BytesMut::new(), max_bytes, frames: 0 };
        builder.begin();
        builder
    }

    fn begin(&mut self) {
        self.buffer.reserve(self.max_bytes);
        // Whatever header it gets later.
        self.buffer.put_bytes(0, HEADER_BYTES_MAX);
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
        if length > PAYLOAD_BYTES_MAX || HEADER_BYTES_MAX + bytes > self.max_bytes {
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
    pub fn finish(&mut self, header: &Header) -> Bytes {
        let mut datagram = self.buffer.split();
        let unused = HEADER_BYTES_MAX - header.encoded_bytes();
        datagram.advance(unused);
        header.write(&mut datagram);
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

/// Iterator over the frames of a datagram.
#[derive(Debug, Clone)]
pub struct Frames<'a> {
    pub(super) rest: &'a [u8],
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
