//! Whatever is in the log: no panic, two replicas agree, and one that loads its tables from disk in
//! between agrees with them; the inventory adds up.
//!
//! Inputs that begin with an even byte are log records as they are stored, each after its length.
//! The others are read as commands about a few numbers, so that many of them are carried out.
#![no_main]

mod commands;

use bytes::Bytes;
use control_core::state::State;
use libfuzzer_sys::fuzz_target;
use prost::Message;
use proto::raft::LogRecord;

/// Commands of one input at most.
const COMMANDS_MAX: usize = 400;
/// The second replica restarts, and the inventory is counted, after so many.
const RESTART_EVERY: usize = 16;

fuzz_target!(|bytes: &[u8]| {
    let Some((mode, bytes)) = bytes.split_first() else { return };
    let records = if mode % 2 == 0 { stored(bytes) } else { commands::read(bytes) };
    let mut first = State::bootstrap(&[1, 2, 3]);
    let mut second = first.clone();
    for (at, record) in records.iter().take(COMMANDS_MAX).enumerate() {
        let command = record.command.clone().unwrap_or_default();
        let applied = first.apply(record.log_time_ms, &command);
        assert_eq!(applied, second.apply(record.log_time_ms, &command), "{command:?}");
        assert_eq!(first.hash(), second.hash(), "{command:?}");
        if at % RESTART_EVERY == RESTART_EVERY - 1 {
            second = restarted(&first);
        }
    }
    restarted(&first);
});

fn restarted(state: &State) -> State {
    assert_eq!(state.check_invariants(), Ok(()));
    let tables = state.entries().map(|(key, value)| (key.to_vec(), Bytes::copy_from_slice(value)));
    let copy = State::from_tables(tables).expect("what was written is read");
    assert_eq!(copy.hash(), state.hash());
    copy
}

fn stored(mut bytes: &[u8]) -> Vec<LogRecord> {
    std::iter::from_fn(|| LogRecord::decode_length_delimited(&mut bytes).ok())
        .take(COMMANDS_MAX)
        .collect()
}
