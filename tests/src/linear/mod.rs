//! Judges what clients of the control plane saw: is there one order of all operations that
//! explains every answer?
//!
//! - [`history`]: what was asked and answered, when. An operation without answer may have happened.
//! - [`search`]: linearizability (Herlihy, Wing 1990) of one register, by the search of Wing and
//!   Gong with Lowe's memory of configurations ("Testing for linearizability", 2017).
//! - [`number`], [`reservation`], [`trunk`]: what these are to a client, written from the API's text
//!   and not from the code under test.
//! - [`rules`]: what holds across registers, each in about linear time.
//! - [`feed`]: what watchers saw.
//! - [`judge`]: all of it over one history.
//!
//! Linearizability is local: a history is linearizable if the history of each register is. Only so
//! is the search affordable. What an import of several numbers, or a pool that is said to be
//! empty, claims about many registers at once is judged in each of them alone, and by revision.
//!
//! Deliberately not here: who ran the operations. The simulation and the real processes of
//! `control-chaos` hand in the same history.

pub mod feed;
pub mod history;
pub mod judge;
pub mod number;
pub mod reservation;
pub mod rules;
pub mod search;
#[cfg(test)]
mod tests;
pub mod trunk;

pub use feed::{Feed, Seen};
pub use history::{Answer, Held, History, Operation, Request, Reserved};
pub use judge::{Complaint, Rule, judge};
