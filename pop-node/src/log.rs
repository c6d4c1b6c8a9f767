//! The log, to standard error.
//!
//! Lines leave through a bounded queue and a thread of their own: whoever reads them, or the disk
//! behind them, may be slow, and no call may wait for that. What finds no room is counted.

use std::io::{BufWriter, IsTerminal, Write, stderr};
use std::sync::OnceLock;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait; about 2 MB.
const LINES_MAX: usize = 8_192;

static LOST: OnceLock<ErrorCounter> = OnceLock::new();

/// Begins it; `POP_LOG` chooses, `info` without it. What waits is written when the guard is dropped.
pub fn start() -> WorkerGuard {
    // It warns of each odd message of a router; those are counted.
    let quiet = "bgpkit_parser=off".parse().expect("a directive");
    let filter = EnvFilter::try_from_env("POP_LOG").unwrap_or_else(|_| EnvFilter::new("info"));
    let queue = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(LINES_MAX);
    let (writer, guard) = queue.thread_name("log").finish(BufWriter::new(stderr()));
    LOST.get_or_init(|| writer.error_counter());
    tracing_subscriber::fmt()
        .with_env_filter(filter.add_directive(quiet))
        .with_writer(writer)
        .with_ansi(stderr().is_terminal())
        .init();
    guard
}

/// Lines that found no room.
pub fn lost() -> u64 {
    LOST.get().map_or(0, |lost| u64::try_from(lost.dropped_lines()).unwrap_or(u64::MAX))
}

/// Ends the process at once: the reason is written past the queue, which would be lost.
pub fn abort(why: &str) -> ! {
    // A closed standard error changes nothing about the outcome.
    let _ = writeln!(stderr(), "pop-node: {why}");
    std::process::abort()
}
