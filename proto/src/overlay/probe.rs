//! Probes: what each end of a path tells the other, some 1 to 40 times a second.
//!
//! ```text
//! u16 interval in ms: the next one of this path comes within it
//! u16 sequence and u32 µs: the last probe heard on this path, and how long ago (0xffff_ffff: none)
//! u8  reports, each 21 bytes: u16 path | u8 flags: 1 silent, 2 used | u32 received | u32 lost |
//!     u32 jitter µs | u32 delay above the shortest of late, µs | u16 bursts of losses
//! ```
//!
//! A report speaks of the direction towards its sender, of any path of the pair: that a path went
//! silent is told on the others.

use bytes::{BufMut, Bytes, BytesMut};

use super::{DecodeError, Header, PathId};

/// Paths of one pair that a probe speaks of.
pub const REPORTS_MAX: usize = 32;
const REPORT_BYTES: usize = 21;
const HEAD_BYTES: usize = 9;
const NOTHING_HEARD: u32 = u32::MAX;
const SILENT: u8 = 1;
const USED: u8 = 2;

/// How a path does in the direction towards who says it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Heard {
    /// Of which path.
    pub path: PathId,
    /// Nothing came for longer than the interval allows.
    pub silent: bool,
    /// Who says it sends its media there.
    pub used: bool,
    /// Datagrams received, media and probes, wrapping.
    pub received: u32,
    /// Datagrams lost, media and probes, wrapping.
    pub lost: u32,
    /// Interarrival jitter, µs.
    pub jitter_us: u32,
    /// One-way delay above the shortest of late, µs.
    pub queueing_us: u32,
    /// How often three or more were lost in a row, wrapping.
    pub burst: u16,
}

/// What a probe says.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Probe {
    /// The next probe of this path comes within this, in ms.
    pub interval_ms: u16,
    /// Sequence of the last probe heard on this path and how many µs ago.
    pub echo: Option<(u16, u32)>,
    /// At most [`REPORTS_MAX`].
    pub heard: Vec<Heard>,
}

impl Probe {
    /// With `header` before it; reports beyond [`REPORTS_MAX`] are left out.
    pub fn encode(&self, header: &Header) -> Bytes {
        let reports = self.heard.len().min(REPORTS_MAX);
        let mut content = BytesMut::with_capacity(HEAD_BYTES + reports * REPORT_BYTES);
        content.put_u16(self.interval_ms);
        let (sequence, ago) = self.echo.unwrap_or((0, NOTHING_HEARD));
        content.put_u16(sequence);
        content.put_u32(ago);
        content.put_u8(u8::try_from(reports).unwrap_or(u8::MAX));
        for heard in self.heard.iter().take(REPORTS_MAX) {
            content.put_u16(heard.path.0);
            let used = if heard.used { USED } else { 0 };
            content.put_u8(used | u8::from(heard.silent));
            content.put_u32(heard.received);
            content.put_u32(heard.lost);
            content.put_u32(heard.jitter_us);
            content.put_u32(heard.queueing_us);
            content.put_u16(heard.burst);
        }
        Header { probe: true, ..*header }.with_content(&content)
    }

    pub(super) fn decode(content: &[u8]) -> Result<Self, DecodeError> {
        let (head, mut rest) =
            content.split_first_chunk::<HEAD_BYTES>().ok_or(DecodeError::Truncated)?;
        let [i0, i1, s0, s1, a0, a1, a2, a3, reports] = *head;
        if usize::from(reports) > REPORTS_MAX {
            return Err(DecodeError::Length(u32::from(reports)));
        }
        let mut heard = Vec::with_capacity(usize::from(reports));
        for _ in 0..reports {
            let (report, after) =
                rest.split_first_chunk::<REPORT_BYTES>().ok_or(DecodeError::Truncated)?;
            heard.push(read(report)?);
            rest = after;
        }
        if !rest.is_empty() {
            return Err(DecodeError::Trailing(rest.len()));
        }
        let ago = u32::from_be_bytes([a0, a1, a2, a3]);
        let echo = (ago != NOTHING_HEARD).then(|| (u16::from_be_bytes([s0, s1]), ago));
        Ok(Self { interval_ms: u16::from_be_bytes([i0, i1]), echo, heard })
    }
}

fn read(report: &[u8; REPORT_BYTES]) -> Result<Heard, DecodeError> {
    let [p0, p1, flags, counts @ ..] = *report;
    if flags & !(SILENT | USED) != 0 {
        return Err(DecodeError::Flags(flags));
    }
    let [r0, r1, r2, r3, l0, l1, l2, l3, j0, j1, j2, j3, q0, q1, q2, q3, b0, b1] = counts;
    Ok(Heard {
        path: PathId(u16::from_be_bytes([p0, p1])),
        silent: flags & SILENT != 0,
        used: flags & USED != 0,
        received: u32::from_be_bytes([r0, r1, r2, r3]),
        lost: u32::from_be_bytes([l0, l1, l2, l3]),
        jitter_us: u32::from_be_bytes([j0, j1, j2, j3]),
        queueing_us: u32::from_be_bytes([q0, q1, q2, q3]),
        burst: u16::from_be_bytes([b0, b1]),
    })
}
