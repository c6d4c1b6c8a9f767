//! One frame of the log: what one `Persist` promises, under one checksum.
//!
//! Layout, little endian: length of the body (u32), CRC-32C (u32) of all else, seeded by the
//! segment's number, sequence (u64), the sequence known durable when this frame was written (u64),
//! then the body, padded to 8 bytes: hard state, what precedes the entries (index, term), a new
//! base of the log if there is one, the entries. Sequences without a gap and positions that follow
//! each other chain the frames; the seed keeps out what a recycled segment held before.

use bytes::Bytes;
use control_core::replica::{HardState, LogEntry, Position};

/// Length, checksum, two sequences.
pub(super) const HEAD_BYTES: usize = 24;
/// No frame is longer: a body that says so is damage.
const BODY_BYTES_MAX: usize = 1 << 30;

/// What a frame says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) sequence: u64,
    /// Known durable when this was written.
    pub(super) durable: u64,
    pub(super) hard_state: HardState,
    /// Precedes the first entry; without entries the end of the log.
    pub(super) previous: Position,
    /// The log begins anew after this position.
    pub(super) reset: Option<Position>,
    pub(super) entries: Vec<LogEntry>,
}

/// Appends the frame to `out`, with these entries.
pub(super) fn encode(out: &mut Vec<u8>, seed: Seed, head: &Frame, entries: &[LogEntry]) {
    let start = out.len();
    out.extend_from_slice(&[0; 8]);
    number(out, head.sequence);
    number(out, head.durable);
    let HardState { term, vote, commit } = head.hard_state;
    [term, vote, commit].into_iter().for_each(|n| number(out, n));
    number(out, head.previous.index);
    number(out, head.previous.term);
    let reset = head.reset.unwrap_or_default();
    number(out, reset.index);
    number(out, reset.term);
    number(out, entries.len() as u64);
    for entry in entries {
        number(out, entry.term);
        number(out, entry.bytes.len() as u64);
        out.extend_from_slice(&entry.bytes);
    }
    let body = out.len() - start - HEAD_BYTES;
    let padded = (body + 7) & !7;
    out.resize(start + HEAD_BYTES + padded, 0);
    let rest = out.get(start + 8..).unwrap_or_default();
    let length = u32::try_from(padded).unwrap_or(u32::MAX);
    let crc = checksum(seed, length, rest);
    let lead = [length.to_le_bytes(), crc.to_le_bytes()].concat();
    if let Some(place) = out.get_mut(start..start + 8) {
        place.copy_from_slice(&lead);
    }
}

/// What the checksum of a frame begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Seed(pub(super) u32);

fn checksum(seed: Seed, length: u32, rest: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c_append(seed.0, &length.to_le_bytes()), rest)
}

/// What stands at a place of a segment.
pub(super) enum At {
    /// A frame and its length.
    Frame(Box<Frame>, usize),
    /// Nothing was ever written here.
    Nothing,
    /// Something that is no frame of this place.
    Unreadable,
}

/// Reads what stands at the beginning of `bytes`.
pub(super) fn decode(bytes: &[u8], seed: Seed) -> At {
    let Some(head) = bytes.get(..HEAD_BYTES) else {
        return if bytes.iter().all(|b| *b == 0) { At::Nothing } else { At::Unreadable };
    };
    if head.iter().all(|byte| *byte == 0) {
        return At::Nothing;
    }
    let Some(body) = body(bytes, seed) else { return At::Unreadable };
    // The checksum fits: what does not parse was never written by this format.
    parse(body).map_or(At::Unreadable, |frame| At::Frame(Box::new(frame), 8 + body.len()))
}

/// Sequences and body of a frame whose checksum fits.
fn body(bytes: &[u8], seed: Seed) -> Option<&[u8]> {
    let length = u32::from_le_bytes(*bytes.first_chunk::<4>()?);
    let stored = u32::from_le_bytes(*bytes.get(4..)?.first_chunk::<4>()?);
    let body = usize::try_from(length).ok().filter(|l| *l <= BODY_BYTES_MAX)?;
    let rest = bytes.get(8..HEAD_BYTES + body)?;
    (checksum(seed, length, rest) == stored).then_some(rest)
}

/// The sequence a place claims, before any checksum.
pub(super) fn claimed_sequence(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(8..)?.first_chunk::<8>()?))
}

fn parse(rest: &[u8]) -> Option<Frame> {
    let mut at = Reader(rest);
    let (sequence, durable) = (at.number()?, at.number()?);
    let hard_state = HardState { term: at.number()?, vote: at.number()?, commit: at.number()? };
    let previous = Position { index: at.number()?, term: at.number()? };
    let reset = Position { index: at.number()?, term: at.number()? };
    let count = at.number()?;
    let mut entries = Vec::new();
    for index in (previous.index..).skip(1).take(usize::try_from(count).ok()?) {
        let (term, length) = (at.number()?, at.number()?);
        let bytes = Bytes::copy_from_slice(at.bytes(usize::try_from(length).ok()?)?);
        entries.push(LogEntry { index, term, bytes });
    }
    let reset = (reset != Position::default()).then_some(reset);
    Some(Frame { sequence, durable, hard_state, previous, reset, entries })
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn number(&mut self) -> Option<u64> {
        let (bytes, rest) = self.0.split_first_chunk::<8>()?;
        self.0 = rest;
        Some(u64::from_le_bytes(*bytes))
    }
}

fn number(out: &mut Vec<u8>, number: u64) {
    out.extend_from_slice(&number.to_le_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_survives_and_no_flipped_bit_goes_unnoticed() {
        let entries: Vec<LogEntry> = (8..11)
            .map(|index| LogEntry { index, term: 3, bytes: Bytes::from(vec![index as u8; 5]) })
            .collect();
        let head = Frame {
            sequence: 9,
            durable: 8,
            hard_state: HardState { term: 3, vote: 1, commit: 7 },
            previous: Position { index: 7, term: 2 },
            reset: Some(Position { index: 7, term: 2 }),
            entries: entries.clone(),
        };
        let mut bytes = Vec::new();
        encode(&mut bytes, Seed(77), &head, &entries);
        assert!(bytes.len().is_multiple_of(8));
        match decode(&bytes, Seed(77)) {
            At::Frame(frame, length) => assert_eq!((*frame, length), (head, bytes.len())),
            _ => panic!("unreadable"),
        }
        assert!(matches!(decode(&bytes, Seed(78)), At::Unreadable), "another place");
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(matches!(decode(&damaged, Seed(77)), At::Unreadable), "bit {bit}");
        }
        for length in 1..bytes.len() {
            let torn = [&bytes[..length], &vec![0; bytes.len() - length]].concat();
            let same = torn == bytes;
            assert_eq!(matches!(decode(&torn, Seed(77)), At::Frame(..)), same, "torn at {length}");
        }
        assert!(matches!(decode(&[0; 64], Seed(77)), At::Nothing));
    }
}
