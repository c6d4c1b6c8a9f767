//! The only way state changes, and what may be asked for.

use proto::raft::{Command, Rejected};

/// Checks a command at the edge, before it is proposed. `Rejected` says what is wrong with it.
pub fn validate(_command: &Command) -> Result<(), Rejected> {
    Ok(())
}
