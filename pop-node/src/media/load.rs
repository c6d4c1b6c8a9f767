//! How busy the calling thread is.

use std::time::Duration;

use proto::time::Instant;

/// Between two measurements.
const INTERVAL: Duration = Duration::from_secs(1);

/// The CPU time of the thread that asks, second by second.
#[derive(Debug, Default)]
pub(super) struct Load {
    before: Option<(Instant, Duration)>,
}

impl Load {
    /// The share of a core used since the last measurement, 0 to 1; `None` more often than once a
    /// second, and where the system does not tell.
    pub(super) fn measure(&mut self, now: Instant) -> Option<f64> {
        if self.before.is_some_and(|(at, _)| now - at < INTERVAL) {
            return None;
        }
        let cpu = cpu()?;
        let (at, before) = self.before.replace((now, cpu))?;
        Some(cpu.saturating_sub(before).as_secs_f64() / (now - at).as_secs_f64())
    }
}

/// Time on a core so far: the first number of the kernel's account, in ns.
fn cpu() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    text.split(' ').next()?.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_busy_thread_is_seen_and_an_idle_one() {
        let mut load = Load::default();
        assert_eq!(load.measure(Instant::ZERO), None);
        let before = cpu().unwrap();
        let mut turns = 0_u64;
        while cpu().unwrap().saturating_sub(before) < Duration::from_millis(20) {
            turns += 1;
        }
        assert!(turns > 0 && load.measure(Instant::from_millis(500)).is_none());
        let busy = load.measure(Instant::from_millis(1_000)).unwrap();
        assert!(busy >= 0.02, "{busy}");
        assert!(load.measure(Instant::from_millis(1_000_000)).unwrap() < 0.02);
    }
}
