//! The number inventory: blocks of numbers, and a record for each that was ever touched.
//!
//! A block is a range of AVAILABLE numbers on a *shelf* (pool, country, area, type, carrier) and
//! costs one record, whatever its size. `generation` grows at each change of owner and fences
//! users of before. Watchers see numbers that take calls only: an inventory may hold millions.
//!
//! Numbers are keyed by their digits as an integer: no E.164 number begins with 0, so none has two
//! names. Deliberately not here: numbering plans (`crate::command`: they change with versions).

pub(super) mod allocate;
pub(super) mod caller_id;
pub(super) mod counts;
pub(super) mod hold;
pub(super) mod import;
pub(super) mod index;
pub(crate) mod key;
pub(super) mod load;
pub(super) mod owner;
pub(super) mod owners;
pub(super) mod pick;
pub(super) mod ranges;
pub(super) mod record;
pub(super) mod search;
pub(super) mod store;

/// Most numbers of an inventory, touched or not.
pub(crate) const INVENTORY_MAX: u64 = 1_000_000_000;

/// Most numbers with a record of their own.
pub(crate) const TOUCHED_MAX: u64 = 20_000_000;

/// Most blocks.
pub(crate) const BLOCKS_MAX: u64 = 2_000_000;

/// Most combinations of pool, country, area, type and carrier.
pub(crate) const SHELVES_MAX: usize = 65_536;

/// Most numbers one command allocates, reserves or ports.
pub const PICK_MAX: usize = 1_000;

/// Most numbers one command blocks, unblocks, decommissions or takes back.
pub const RUN_MAX: u64 = 10_000;
