//! Redundant audio (RFC 2198): a packet with copies of the audio before it.

/// Blocks of a packet at most, the newest included: more is nonsense.
pub const BLOCKS_MAX: usize = 8;

/// Why bytes are no redundant payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RedError {
    /// A header or block goes beyond the end.
    #[error("truncated")]
    Truncated,
    /// More blocks than any sender has a use for.
    #[error("too many blocks")]
    TooManyBlocks,
}

/// One block.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Block {
    /// The payload type of the block's own format.
    pub payload_type: u8,
    /// Units of the clock it is older than the packet's timestamp; 0: the newest.
    pub age: u16,
    /// Where it is in the payload.
    pub range: std::ops::Range<usize>,
}

/// The blocks of a payload, oldest first, the newest last (§3).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Blocks {
    blocks: [Block; BLOCKS_MAX],
    count: usize,
}

impl Blocks {
    /// Reads the headers of a payload.
    pub fn parse(payload: &[u8]) -> Result<Self, RedError> {
        let mut blocks = Self::default();
        let mut lengths = [0; BLOCKS_MAX];
        let mut rest = payload;
        loop {
            let (&first, after) = rest.split_first().ok_or(RedError::Truncated)?;
            let block = blocks.blocks.get_mut(blocks.count).ok_or(RedError::TooManyBlocks)?;
            block.payload_type = first & 0x7f;
            let length = lengths.get_mut(blocks.count).ok_or(RedError::TooManyBlocks)?;
            blocks.count += 1;
            if first & 0x80 == 0 {
                rest = after;
                break;
            }
            let (&[high, middle, low], after) =
                after.split_first_chunk::<3>().ok_or(RedError::Truncated)?;
            block.age = u16::from(high) << 6 | u16::from(middle) >> 2;
            *length = usize::from(middle & 3) << 8 | usize::from(low);
            rest = after;
        }
        let mut at = payload.len() - rest.len();
        for (n, block) in blocks.blocks.iter_mut().take(blocks.count).enumerate() {
            let is_newest = n + 1 == blocks.count;
            let length = lengths.get(n).copied().unwrap_or(0);
            let end = if is_newest { payload.len() } else { at + length };
            if end > payload.len() || at > end {
                return Err(RedError::Truncated);
            }
            block.range = at..end;
            at = end;
        }
        Ok(blocks)
    }

    /// The newest: what the packet would be without redundancy.
    pub fn newest(&self) -> Option<&Block> {
        self.blocks.get(self.count.checked_sub(1)?)
    }

    /// The copies, oldest first.
    pub fn copies(&self) -> &[Block] {
        self.blocks.get(..self.count.saturating_sub(1)).unwrap_or_default()
    }
}

/// Appends a redundant payload of copies (age, bytes; oldest first) and the newest block, all of one
/// format. Copies that do not fit their headers (§3: 14 bits of age, 10 of length) are left out.
pub fn write<'a>(
    out: &mut Vec<u8>,
    payload_type: u8,
    copies: impl Iterator<Item = (u32, &'a [u8])> + Clone,
    newest: &[u8],
) {
    let fit = copies.filter(|(age, bytes)| (1..1 << 14).contains(age) && bytes.len() < 1 << 10);
    let fit = fit.take(BLOCKS_MAX - 1);
    for (age, bytes) in fit.clone() {
        let length = u32::try_from(bytes.len()).unwrap_or(0);
        let word = u32::from(payload_type | 0x80) << 24 | age << 10 | length;
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.push(payload_type & 0x7f);
    for (_, bytes) in fit {
        out.extend_from_slice(bytes);
    }
    out.extend_from_slice(newest);
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_example_of_the_rfc() {
        // §3, figure 2: a copy in DVI4 (5), 84 bytes, and the newest in LPC (7).
        let mut payload = vec![0x85, 0x0a, 0x00, 84, 7];
        payload.extend([1; 84]);
        payload.extend([2; 14]);
        let blocks = Blocks::parse(&payload).unwrap();
        assert_eq!(blocks.copies(), [Block { payload_type: 5, age: 640, range: 5..89 }]);
        assert_eq!(blocks.newest(), Some(&Block { payload_type: 7, age: 0, range: 89..103 }));
    }

    #[test]
    fn what_ends_early_is_refused() {
        for payload in
            [&[][..], &[0x80], &[0x80, 0, 0], &[0x80, 0, 4, 1, 0], &[0x85, 0, 0, 9, 7, 1]]
        {
            assert_eq!(Blocks::parse(payload), Err(RedError::Truncated), "{payload:?}");
        }
        let many = [[0x80, 0, 4, 0]; 9].concat();
        assert_eq!(Blocks::parse(&many), Err(RedError::TooManyBlocks));
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(
            copies in prop::collection::vec((1..16_384_u32, prop::collection::vec(any::<u8>(), 0..90)), 0..7),
            newest in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            let mut out = Vec::new();
            write(&mut out, 111, copies.iter().map(|(age, bytes)| (*age, &bytes[..])), &newest);
            let blocks = Blocks::parse(&out).unwrap();
            prop_assert_eq!(blocks.copies().len(), copies.len());
            for (block, (age, bytes)) in blocks.copies().iter().zip(&copies) {
                prop_assert_eq!((block.payload_type, u32::from(block.age)), (111, *age));
                prop_assert_eq!(&out[block.range.clone()], &bytes[..]);
            }
            prop_assert_eq!(&out[blocks.newest().unwrap().range.clone()], &newest[..]);
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(blocks) = Blocks::parse(&bytes) {
                for block in blocks.copies().iter().chain(blocks.newest()) {
                    prop_assert!(bytes.get(block.range.clone()).is_some());
                }
            }
        }
    }
}
