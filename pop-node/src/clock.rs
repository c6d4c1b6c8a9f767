//! The one place that reads clocks: monotonic for the cores, wall for people and records.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proto::time::Instant;

/// The cores' origin lies so long before the process began: calls that it takes over from another
/// POP are older than it is. Longer calls count as that long.
const BEFORE: Duration = Duration::from_secs(7 * 86_400);

/// Turns the system's monotonic clock into the cores' `Instant`, counted from [`BEFORE`] it began.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: std::time::Instant,
}

impl Clock {
    /// Of a process that begins now.
    pub fn start() -> Self {
        Self { origin: std::time::Instant::now() }
    }

    /// Now, for a core.
    pub fn now(&self) -> Instant {
        Instant::ZERO + (BEFORE + self.origin.elapsed())
    }

    /// A moment of the system's clock, for a core.
    pub fn instant(&self, at: std::time::Instant) -> Instant {
        let lives = at.saturating_duration_since(self.origin);
        Instant::ZERO + (BEFORE + lives)
    }

    /// A core's deadline, for a timer of the system. Far deadlines come early, never late: the
    /// core is asked again.
    pub fn deadline(&self, at: Instant) -> std::time::Instant {
        let day = Duration::from_secs(86_400);
        let lives = at.since(Instant::ZERO).saturating_sub(BEFORE);
        self.origin + lives.min(self.origin.elapsed() + day)
    }

    /// Wall time of a moment that passed, right also after the wall clock was stepped.
    pub fn wall(&self, at: Instant) -> SystemTime {
        SystemTime::now().checked_sub(self.now().since(at)).unwrap_or(UNIX_EPOCH)
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-21T06:40:47.123Z`.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (seconds, millis) = (since.as_secs(), since.subsec_millis());
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z", date(time))
}

/// The UTC date: `2026-11-21`.
pub fn date(time: SystemTime) -> String {
    let days = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
    // Gregorian calendar in years that begin in March: the leap day is the last of its year.
    let day = days + 719_468;
    let (era, day_of_era) = (day / 146_097, day % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day_of_month = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day_of_month:02}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_gregorian() {
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        assert_eq!(rfc3339(at(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(date(at(951_782_400)), "2000-02-29");
        assert_eq!(date(at(951_868_800)), "2000-03-01");
        assert_eq!(rfc3339(at(1_795_243_247)), "2026-11-21T06:40:47.000Z");
        assert_eq!(date(at(4_107_542_400)), "2100-03-01");
    }

    #[test]
    fn far_deadlines_do_not_overflow() {
        let clock = Clock::start();
        let far = clock.deadline(Instant::from_nanos(u64::MAX));
        assert!(far > std::time::Instant::now());
        assert!(clock.wall(clock.now()) <= SystemTime::now());
    }
}
