//! Bounds that callers can know before they ask.

pub use super::numbers::{PICK_MAX, RUN_MAX};
pub use super::reservations::RESERVATION_MAX_MS;
