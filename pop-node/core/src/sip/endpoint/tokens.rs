//! Unguessable names from a secret seed: branches, tags, Call-IDs.

use sha2::{Digest, Sha256};

use crate::sip::text::Text;

/// A counter run through SHA-256 with a secret: unique, and not to be foretold by who sees some.
#[derive(Debug)]
pub(super) struct Tokens {
    seed: u64,
    drawn: u64,
}

impl Tokens {
    pub(super) const fn new(seed: u64) -> Self {
        Self { seed, drawn: 0 }
    }

    /// 16 hex digits.
    pub(super) fn draw(&mut self) -> String {
        self.drawn += 1;
        self.derive(&[b"draw", &self.drawn.to_be_bytes()])
    }

    /// 16 hex digits that depend on nothing but the seed and `parts`: the same answer to the same
    /// request, without remembering it.
    pub(super) fn derive(&self, parts: &[&[u8]]) -> String {
        let mut hash = Sha256::new();
        hash.update(self.seed.to_be_bytes());
        for part in parts {
            hash.update(part.len().to_be_bytes());
            hash.update(part);
        }
        hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn text(&mut self) -> Text {
        Text::from(self.draw())
    }
}
