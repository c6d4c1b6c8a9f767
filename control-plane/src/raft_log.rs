//! What raft-rs says, in this process's log: its library speaks slog.
//!
//! Its "info" tells each step of each election and message of a node that is behind: ours is
//! `debug`. Who leads is said once, by the driver.

use std::fmt::{self, Write as _};

use slog::{Drain, KV as _, Key, Level, Logger, Never, OwnedKVList, Record, Serializer};

/// A logger for the replica of this node.
pub fn logger() -> Logger {
    Logger::root(Tracing, slog::o!())
}

/// Hands records to `tracing`, under the target "raft".
struct Tracing;

impl Drain for Tracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, context: &OwnedKVList) -> Result<(), Never> {
        let level = level(record.level());
        if !enabled(level) {
            return Ok(());
        }
        let mut pairs = Pairs(String::new());
        // Pairs that cannot be written are left out.
        let _ = record.kv().serialize(record, &mut pairs);
        let _ = context.serialize(record, &mut pairs);
        let (message, pairs) = (record.msg(), pairs.0);
        match level {
            tracing::Level::ERROR => tracing::error!(target: "raft", "{message}{pairs}"),
            tracing::Level::WARN => tracing::warn!(target: "raft", "{message}{pairs}"),
            tracing::Level::DEBUG => tracing::debug!(target: "raft", "{message}{pairs}"),
            _ => tracing::trace!(target: "raft", "{message}{pairs}"),
        }
        Ok(())
    }
}

/// `enabled!` wants a constant.
fn enabled(level: tracing::Level) -> bool {
    match level {
        tracing::Level::ERROR => tracing::enabled!(target: "raft", tracing::Level::ERROR),
        tracing::Level::WARN => tracing::enabled!(target: "raft", tracing::Level::WARN),
        tracing::Level::DEBUG => tracing::enabled!(target: "raft", tracing::Level::DEBUG),
        _ => tracing::enabled!(target: "raft", tracing::Level::TRACE),
    }
}

const fn level(level: Level) -> tracing::Level {
    match level {
        Level::Critical | Level::Error => tracing::Level::ERROR,
        Level::Warning => tracing::Level::WARN,
        Level::Info => tracing::Level::DEBUG,
        Level::Debug | Level::Trace => tracing::Level::TRACE,
    }
}

/// " key=value" for each.
struct Pairs(String);

impl Serializer for Pairs {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        Ok(write!(self.0, " {key}={value}")?)
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex, PoisonError};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn raft_is_heard_with_its_values_and_one_level_quieter() {
        let written = Written::default();
        let writer = written.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::DEBUG)
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            let logger = logger().new(slog::o!("raft_id" => 7));
            slog::warn!(logger, "lost a vote"; "term" => 3);
            slog::info!(logger, "became follower");
            slog::debug!(logger, "not shown");
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains("WARN raft: lost a vote term=3 raft_id=7"), "{text}");
        assert!(text.contains("DEBUG raft: became follower"), "{text}");
        assert!(!text.contains("not shown"), "{text}");
    }
}
