//! What happened, as one number, and in words when asked for.

use std::fmt::Display;

/// The trace of a run.
pub(super) struct Trace {
    digest: u64,
    lines: Option<Vec<String>>,
}

impl Trace {
    pub(super) fn new(verbose: bool) -> Self {
        Self { digest: 0, lines: verbose.then(Vec::new) }
    }

    /// Something happened: it goes into the digest, and `line` into the words.
    pub(super) fn note<L: Display>(&mut self, now: u64, facts: &[u64], line: impl FnOnce() -> L) {
        for fact in [now].iter().chain(facts) {
            // The finalizer of SplitMix64.
            let mixed = (self.digest ^ fact).wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            self.digest = mixed ^ (mixed >> 27);
        }
        if let Some(lines) = &mut self.lines {
            let (ms, us) = (now / 1_000, now % 1_000);
            lines.push(format!("{ms:>6}.{us:03} {}", line()));
        }
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn take(&mut self) -> Vec<String> {
        self.lines.take().unwrap_or_default()
    }
}

/// Bytes, as a fact.
pub(super) fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
