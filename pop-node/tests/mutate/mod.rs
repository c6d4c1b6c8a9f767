//! Messages with bits flipped, bytes cut out, put in and repeated.

/// Xorshift.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).unwrap() % n.max(1)
    }

    /// So many times; what would be empty is `filler`.
    pub(crate) fn mutate(&mut self, bytes: &mut Vec<u8>, times: usize, filler: u8) {
        for _ in 0..times {
            let at = self.below(bytes.len());
            match self.below(5) {
                0 => bytes[at] ^= 1 << self.below(8),
                1 => bytes[at] = [0, 0xff, 0x7f, 0x80][self.below(4)],
                2 => drop(bytes.drain(at..(at + self.below(8)).min(bytes.len()))),
                3 => bytes.insert(at, u8::try_from(self.below(256)).unwrap()),
                _ => bytes.extend_from_within(at..),
            }
            if bytes.is_empty() {
                bytes.push(filler);
            }
        }
    }
}
