//! Is a path there at all? Suspected quickly and cheaply, given up slowly, trusted again later.

use proto::time::{Duration, Instant};

/// A suspect that stays silent so long is down.
pub(super) const DOWN_AFTER: Duration = Duration::from_millis(800);
/// A suspect that is heard so long is good again.
const CLEARED_AFTER: Duration = Duration::from_secs(1);
/// One that was down must be heard so long.
const TRUSTED_AFTER: Duration = Duration::from_secs(3);

/// What is believed of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Health {
    /// It carries.
    Good,
    /// Nothing was measured yet.
    Unmeasured,
    /// Silent since: media goes on another path, too.
    Suspect(Instant),
    /// Given up at.
    Down(Instant),
}

impl Health {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Unmeasured => "unmeasured",
            Self::Suspect(_) => "suspect",
            Self::Down(_) => "down",
        }
    }
}

/// Follows one path.
#[derive(Debug, Clone)]
pub(super) struct HealthTracker {
    health: Health,
    /// Since when nothing speaks against the path.
    clear_since: Option<Instant>,
}

impl Default for HealthTracker {
    fn default() -> Self {
        Self { health: Health::Unmeasured, clear_since: None }
    }
}

impl HealthTracker {
    pub(super) const fn health(&self) -> Health {
        self.health
    }

    /// Is there nothing that speaks against the path at this moment? It may not be trusted yet.
    pub(super) const fn is_clear(&self) -> bool {
        self.clear_since.is_some()
    }

    /// The connection, or a session with our own router, is gone: no doubt.
    pub(super) fn lost(&mut self, now: Instant) {
        if !matches!(self.health, Health::Down(_)) {
            self.health = Health::Down(now);
        }
        self.clear_since = None;
    }

    /// `measured`: both directions were heard since it is up; `silent`: one is not heard now.
    pub(super) fn observe(&mut self, measured: bool, silent: bool, now: Instant) {
        let heard_between = self.clear_since.is_some();
        let clear = (!silent).then(|| self.clear_since.unwrap_or(now));
        self.clear_since = clear;
        let clear_for = clear.map_or(Duration::ZERO, |since| now - since);
        self.health = match self.health {
            Health::Unmeasured if measured && !silent => Health::Good,
            Health::Good if silent => Health::Suspect(now),
            // A silence of its own: it is down after that one is long enough.
            Health::Suspect(_) if silent && heard_between => Health::Suspect(now),
            Health::Suspect(since) if silent && now - since >= DOWN_AFTER => Health::Down(now),
            Health::Suspect(_) if clear_for >= CLEARED_AFTER => Health::Good,
            Health::Down(_) if measured && clear_for >= TRUSTED_AFTER => Health::Good,
            same => same,
        };
    }

    /// When time alone changes it.
    pub(super) fn deadline(&self) -> Option<Instant> {
        match (self.health, self.clear_since) {
            (Health::Suspect(since), None) => Some(since + DOWN_AFTER),
            (Health::Suspect(_), Some(clear)) => Some(clear + CLEARED_AFTER),
            (Health::Down(_), Some(clear)) => Some(clear + TRUSTED_AFTER),
            (Health::Good | Health::Unmeasured | Health::Down(_), _) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_millis(ms)
    }

    #[test]
    fn suspected_at_once_given_up_later_trusted_last() {
        let mut path = HealthTracker::default();
        path.observe(false, false, at(0));
        assert_eq!(path.health(), Health::Unmeasured);
        path.observe(true, false, at(10));
        assert_eq!(path.health(), Health::Good);
        path.observe(true, true, at(100));
        assert_eq!((path.health(), path.deadline()), (Health::Suspect(at(100)), Some(at(900))));
        path.observe(true, false, at(300));
        path.observe(true, false, at(1_299));
        assert_eq!(path.health(), Health::Suspect(at(100)));
        path.observe(true, false, at(1_300));
        assert_eq!(path.health(), Health::Good);
        // Two short silences are not a long one.
        path.observe(true, true, at(1_400));
        path.observe(true, false, at(1_460));
        path.observe(true, true, at(2_300));
        assert_eq!(path.health(), Health::Suspect(at(2_300)));
        path.observe(true, false, at(2_360));
        path.observe(true, false, at(3_360));
        assert_eq!(path.health(), Health::Good);
        path.observe(true, true, at(4_000));
        path.observe(true, true, at(4_800));
        assert_eq!(path.health(), Health::Down(at(4_800)));
        path.observe(true, false, at(5_000));
        path.observe(true, true, at(7_999));
        path.observe(true, false, at(8_000));
        path.observe(true, false, at(10_999));
        assert_eq!(path.health(), Health::Down(at(4_800)), "heard for 3 s, in one piece");
        path.observe(true, false, at(11_000));
        assert_eq!(path.health(), Health::Good);
        path.lost(at(11_100));
        assert_eq!(path.health(), Health::Down(at(11_100)));
    }
}
