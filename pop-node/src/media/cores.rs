//! Cores for threads that shall not be moved about.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

/// The last `count` cores this process may use, which interrupts and others use least; none if there
/// are not so many.
pub(super) fn last(count: usize) -> Vec<usize> {
    let Ok(allowed) = sched_getaffinity(None) else { return Vec::new() };
    let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|core| allowed.is_set(*core)).collect();
    match cores.len().checked_sub(count) {
        Some(others) => cores.split_off(others),
        None => Vec::new(),
    }
}

/// The calling thread runs there only, from now on.
pub(super) fn stay_on(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    if let Err(error) = sched_setaffinity(None, &set) {
        tracing::warn!(%error, core, "a media thread cannot be kept on its core");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_stays_where_it_was_put() {
        std::thread::spawn(|| {
            let cores = last(1);
            assert_eq!(cores.len(), 1);
            stay_on(cores[0]);
            assert_eq!((last(1), last(2)), (cores, Vec::new()));
        })
        .join()
        .unwrap();
    }
}
