//! Waiting between attempts: doubling, capped, jittered so that a mesh does not move in step.

use std::time::Duration;

/// The wait before the next attempt.
#[derive(Debug, Clone)]
pub struct Backoff {
    first: Duration,
    cap: Duration,
    next: Duration,
    random: u64,
}

impl Backoff {
    /// From `first` to `cap`; `seed` differs between processes and uses.
    pub fn new(first: Duration, cap: Duration, seed: u64) -> Self {
        Self { first, cap, next: first, random: seed | 1 }
    }

    /// How long to wait now: between half and all of a time that doubles.
    pub fn delay(&mut self) -> Duration {
        // xorshift64: spread is all that is wanted.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let whole = self.next;
        self.next = whole.saturating_mul(2).min(self.cap);
        let per_mille = 500 + u32::try_from(self.random % 501).unwrap_or_default();
        whole.saturating_mul(per_mille) / 1000
    }

    /// It worked: begin anew next time.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn doubles_to_the_cap_with_jitter_and_begins_anew() {
        let first = Duration::from_millis(100);
        let mut backoff = Backoff::new(first, Duration::from_secs(1), 7);
        for whole in [100, 200, 400, 800, 1000, 1000] {
            let delay = backoff.delay().as_millis();
            assert!((whole / 2..=whole).contains(&delay), "{delay} of {whole}");
        }
        backoff.reset();
        assert!(backoff.delay() <= first);
    }
}
