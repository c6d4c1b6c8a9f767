//! Which packet indices of one stream were there (RFC 3711 §3.3.1, §3.3.2).

/// Indices remembered below the highest.
const SIZE: u64 = 128;

/// The 48-bit index of a stream: the highest, and which of the `SIZE` before it came.
#[derive(Debug, Clone, Copy)]
pub(super) struct Window {
    highest: u64,
    /// Bit n: the index `highest - n` came.
    seen: u128,
}

impl Window {
    /// Of a stream whose first index this is.
    pub(super) const fn at(index: u64) -> Self {
        Self { highest: index, seen: 1 }
    }

    /// The index a sequence number most likely means (RFC 3711 §3.3.1); `None` before the first.
    pub(super) fn guess(&self, sequence: u16) -> Option<u64> {
        let [.., a, b] = self.highest.to_be_bytes();
        let ahead = sequence.wrapping_sub(u16::from_be_bytes([a, b]));
        if ahead < 0x8000 {
            self.highest.checked_add(ahead.into())
        } else {
            self.highest.checked_sub(u64::from(ahead.wrapping_neg()))
        }
    }

    /// Is it new, and not too old to know?
    pub(super) const fn allows(&self, index: u64) -> bool {
        if index > self.highest {
            return true;
        }
        let age = self.highest - index;
        age < SIZE && self.seen >> age & 1 == 0
    }

    /// It was there.
    pub(super) const fn insert(&mut self, index: u64) {
        if index > self.highest {
            let ahead = index - self.highest;
            self.seen = if ahead < SIZE { self.seen << ahead | 1 } else { 1 };
            self.highest = index;
        } else if self.highest - index < SIZE {
            self.seen |= 1 << (self.highest - index);
        }
    }
}
