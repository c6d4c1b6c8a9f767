//! The state is the same wherever its records are: in memory, or in a database that knows nothing
//! of numbers.
#![allow(clippy::indexing_slicing, clippy::unwrap_used, reason = "a test may panic")]

#[path = "../fuzz/fuzz_targets/commands.rs"]
mod commands;
mod database;

use bytes::Bytes;
use control_core::group::GroupId;
use control_core::state::State;
use control_core::state::store::Store;
use database::Database;
use proptest::prelude::*;

/// The database is restarted after so many commands.
const RESTART_EVERY: usize = 48;

fn tables<S: Store>(state: &State<S>) -> Vec<(Vec<u8>, Bytes)> {
    let own = |(key, value): (S::Bytes<'_>, S::Bytes<'_>)| {
        (key.as_ref().to_vec(), Bytes::copy_from_slice(value.as_ref()))
    };
    state.entries().map(own).collect()
}

fn restarted(state: &State<Database>) -> State<Database> {
    State::from_tables_in(Database::default(), tables(state)).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// The streams that fuzzing makes: numbers, tenants, reservations, port orders, rules, time.
    #[test]
    fn outcomes_and_hashes_do_not_depend_on_the_store(
        bytes in proptest::collection::vec(any::<u8>(), 200..1_200),
    ) {
        let mut memory = State::bootstrap(&[1, 2, 3]);
        let mut database = State::bootstrap_in(Database::default(), GroupId::ROOT, &[1, 2, 3]);
        for (at, record) in commands::read(&bytes).iter().enumerate() {
            let command = record.command.clone().unwrap();
            let hash = memory.hash();
            let rehearsed = memory.rehearse(record.log_time_ms, &command);
            prop_assert_eq!(memory.hash(), hash);
            let applied = memory.apply(record.log_time_ms, &command);
            prop_assert_eq!(&rehearsed, &applied.outcome);
            prop_assert_eq!(&database.apply(record.log_time_ms, &command), &applied);
            prop_assert_eq!(database.hash(), memory.hash());
            prop_assert_eq!(database.entry_count(), memory.entry_count());
            if at % RESTART_EVERY == RESTART_EVERY - 1 {
                database = restarted(&database);
            }
        }
        prop_assert_eq!(database.check_invariants(), Ok(()));
        prop_assert_eq!(tables(&database), tables(&memory));
        let resources: Vec<_> = memory.resources().collect();
        prop_assert_eq!(database.resources().collect::<Vec<_>>(), resources);
    }
}

/// Whoever reads the database sees whole commands only.
#[test]
fn a_command_is_a_transaction() {
    let stream: Vec<u8> =
        (0..1_200u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut state = State::bootstrap_in(Database::default(), GroupId::ROOT, &[1, 2, 3]);
    let mut several = 0;
    for record in commands::read(&stream) {
        let applied = state.apply(record.log_time_ms, &record.command.unwrap());
        several += usize::from(applied.changes.len() > 2);
        let committed = state.store().committed();
        let committed = committed.into_iter().map(|(key, value)| (key, Bytes::from(value)));
        let seen = State::from_tables(committed).unwrap();
        assert_eq!(seen.hash(), state.hash());
    }
    assert!(several > 20, "{several} commands changed several records");
}
