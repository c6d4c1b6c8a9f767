//! The replicated state.

use bytes::Bytes;
use proto::control::{Event, Number, NumberState, Pop, Resource, Route, Trunk};
use proto::id::Revision;
use proto::raft::{Command, Outcome};

/// One changed key of the tables; `None` deletes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TableChange {
    /// Key: table prefix and name.
    pub key: Vec<u8>,
    /// Encoded record.
    pub value: Option<Bytes>,
}

/// A table entry that does not decode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("table {table:?}, entry {entry}")]
pub struct TableError {
    /// First byte of the key.
    pub table: char,
    /// Which entry, in key order.
    pub entry: usize,
}

/// What applying one command did.
#[derive(Debug, Clone, PartialEq)]
pub struct Applied {
    /// For the proposer.
    pub outcome: Outcome,
    /// For storage.
    pub changes: Vec<TableChange>,
    /// For watchers, when a resource changed.
    pub event: Option<Event>,
}

/// Which numbers to list, in order of E.164.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberQuery<'a> {
    /// Only this pool.
    pub pool: Option<&'a str>,
    /// Only this state.
    pub state: Option<NumberState>,
    /// Only numbers after this one ("+" and digits).
    pub after: Option<&'a str>,
    /// At most so many.
    pub limit: usize,
}

/// The replicated state.
#[derive(Debug, Clone, Default)]
pub struct State {}

impl State {
    /// From stored tables.
    pub fn from_tables(
        _tables: impl IntoIterator<Item = (Vec<u8>, Bytes)>,
    ) -> Result<Self, TableError> {
        Ok(Self::default())
    }

    /// Applies one command of the log: total, deterministic, exactly once per request id.
    pub fn apply(&mut self, _log_time_ms: u64, _command: &Command) -> Applied {
        Applied { outcome: Outcome::default(), changes: Vec::new(), event: None }
    }

    /// Position in the history of resource changes.
    pub fn revision(&self) -> Revision {
        Revision(0)
    }

    /// Log time of the last applied command, Unix ms.
    pub fn log_time_ms(&self) -> u64 {
        0
    }

    /// Empty until the first command.
    pub fn cluster_id(&self) -> String {
        String::new()
    }

    /// A POP.
    pub fn pop(&self, _pop_id: &str) -> Option<Pop> {
        None
    }

    /// All POPs, by id.
    pub fn pops(&self) -> impl Iterator<Item = Pop> + '_ {
        std::iter::empty()
    }

    /// A trunk.
    pub fn trunk(&self, _trunk_id: &str) -> Option<Trunk> {
        None
    }

    /// All trunks, by id.
    pub fn trunks(&self) -> impl Iterator<Item = Trunk> + '_ {
        std::iter::empty()
    }

    /// All routes, by id.
    pub fn routes(&self) -> impl Iterator<Item = Route> + '_ {
        std::iter::empty()
    }

    /// A number ("+" and digits).
    pub fn number(&self, _e164: &str) -> Option<Number> {
        None
    }

    /// Numbers, by E.164.
    pub fn numbers(&self, _query: NumberQuery<'_>) -> Vec<Number> {
        Vec::new()
    }

    /// How many numbers are in each state: available, active, in quarantine.
    pub fn number_counts(&self) -> NumberCounts {
        NumberCounts::default()
    }

    /// Every resource that POPs watch: POPs, trunks, routes, active numbers.
    pub fn resources(&self) -> impl Iterator<Item = Resource> + '_ {
        std::iter::empty()
    }

    /// Hash of all tables.
    pub fn hash(&self) -> [u8; 32] {
        [0; 32]
    }
}

/// Numbers by state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct NumberCounts {
    /// Free to allocate.
    pub available: u64,
    /// Owned.
    pub active: u64,
    /// Resting.
    pub quarantine: u64,
}
