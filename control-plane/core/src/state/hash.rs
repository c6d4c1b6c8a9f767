//! A hash of all tables that is kept up to date with each change.
//!
//! The sum, lane by lane, of the SHA-256 of every (key, value): independent of order, one addition
//! per put, one subtraction per delete, so that comparing replicas costs nothing even with
//! millions of numbers. It finds divergence, not forgery: voters trust each other's certificates.

use sha2::{Digest, Sha256};

/// The running sum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct TableHash([u64; 4]);

impl TableHash {
    pub(crate) fn add(&mut self, key: &[u8], value: &[u8]) {
        self.add_lanes(lanes(key, value));
    }

    #[cfg(test)]
    pub(crate) fn remove(&mut self, key: &[u8], value: &[u8]) {
        self.remove_lanes(lanes(key, value));
    }

    pub(crate) fn add_lanes(&mut self, lanes: [u64; 4]) {
        for (sum, lane) in self.0.iter_mut().zip(lanes) {
            *sum = sum.wrapping_add(lane);
        }
    }

    pub(crate) fn remove_lanes(&mut self, lanes: [u64; 4]) {
        for (sum, lane) in self.0.iter_mut().zip(lanes) {
            *sum = sum.wrapping_sub(lane);
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; 32] {
        let mut out = [0; 32];
        for (chunk, lane) in out.chunks_exact_mut(8).zip(self.0) {
            chunk.copy_from_slice(&lane.to_le_bytes());
        }
        out
    }
}

/// SHA-256 of an entry, as four numbers.
pub(crate) fn lanes(key: &[u8], value: &[u8]) -> [u64; 4] {
    // The length keeps ("a", "bc") and ("ab", "c") apart.
    let digest = Sha256::new()
        .chain_update((key.len() as u64).to_le_bytes())
        .chain_update(key)
        .chain_update(value)
        .finalize();
    let mut lanes = [0; 4];
    for (lane, chunk) in lanes.iter_mut().zip(digest.chunks_exact(8)) {
        *lane = chunk.iter().rev().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
    }
    lanes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_does_not_matter_and_removal_undoes() {
        let mut a = TableHash::default();
        a.add(b"k1", b"v1");
        a.add(b"k2", b"v2");
        let mut b = TableHash::default();
        b.add(b"k2", b"v2");
        b.add(b"k3", b"");
        b.add(b"k1", b"v1");
        assert_ne!(a, b);
        b.remove(b"k3", b"");
        assert_eq!(a, b);
        assert_eq!(a.to_bytes(), b.to_bytes());
        let mut c = TableHash::default();
        c.add(b"k1v", b"1");
        let mut d = TableHash::default();
        d.add(b"k1", b"v1");
        assert_ne!(c, d);
    }
}
