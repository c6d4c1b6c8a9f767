//! What is stored of numbers, blocks and shelves: small, because there are millions.

use prost::Message;
use proto::control::{NumberCompliance, NumberState, RouteCandidate, Shelf, Tag};

use super::key;
use crate::state::tables::Row;

/// A number that was touched. Its name is the number.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct NumberRecord {
    #[prost(enumeration = "NumberState", tag = "1")]
    pub state: i32,
    #[prost(uint64, tag = "2")]
    pub generation: u64,
    /// Owner or last owner; 0 for none.
    #[prost(uint32, tag = "3")]
    pub tenant: u32,
    /// Grows with each change.
    #[prost(uint64, tag = "4")]
    pub version: u64,
    #[prost(uint64, tag = "5")]
    pub until_ms: u64,
    #[prost(message, repeated, tag = "6")]
    pub candidates: Vec<RouteCandidate>,
    #[prost(message, repeated, tag = "7")]
    pub tags: Vec<Tag>,
    #[prost(string, tag = "8")]
    pub reason: String,
    /// Of RESERVED.
    #[prost(uint64, tag = "9")]
    pub reservation: u64,
    /// Of PORTING_IN, PORTING_OUT, PORTED_OUT.
    #[prost(uint64, tag = "10")]
    pub order: u64,
    #[prost(message, optional, tag = "11")]
    pub compliance: Option<NumberCompliance>,
}

impl Row for NumberRecord {
    const BYTE: u8 = b'n';
}

impl NumberRecord {
    /// The tenant that owns it now; 0 for none.
    pub(crate) fn owner(&self) -> u32 {
        if owned(self.state()) { self.tenant } else { 0 }
    }

    /// What remains when it moves on to another state: who it was, not what it had.
    pub(crate) fn moved(&self, state: NumberState) -> Self {
        Self {
            state: state.into(),
            generation: self.generation,
            version: self.version,
            ..Self::default()
        }
    }

    pub(crate) fn etag(&self) -> String {
        format!("{}.{}", self.generation, self.version)
    }
}

/// Somebody's, and not only once.
pub(crate) fn owned(state: NumberState) -> bool {
    state == NumberState::Reserved || in_use(state)
}

/// Counts for the tenant's quota of numbers.
pub(crate) fn in_use(state: NumberState) -> bool {
    matches!(
        state,
        NumberState::Pending
            | NumberState::Active
            | NumberState::Suspended
            | NumberState::PortingIn
            | NumberState::PortingOut
    )
}

/// Takes calls: what watchers see.
pub(crate) fn takes_calls(state: NumberState) -> bool {
    matches!(state, NumberState::Active | NumberState::PortingOut)
}

/// A range of numbers. Its name is the first.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct BlockRecord {
    #[prost(uint64, tag = "1")]
    pub count: u64,
    #[prost(uint32, tag = "2")]
    pub shelf: u32,
    #[prost(message, repeated, tag = "3")]
    pub tags: Vec<Tag>,
    #[prost(uint64, tag = "4")]
    pub imported_ms: u64,
    /// Of its untouched numbers: above all that went before them.
    #[prost(uint64, tag = "5")]
    pub generation: u64,
}

impl Row for BlockRecord {
    const BYTE: u8 = b'b';
}

/// A block and where it is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Block {
    pub first: u64,
    pub last: u64,
    pub record: BlockRecord,
}

impl Block {
    pub(crate) fn read(name: &[u8], record: BlockRecord) -> Option<Self> {
        let first = key::from_bytes(name)?;
        let last = first.checked_add(record.count.checked_sub(1)?)?;
        Some(Self { first, last, record })
    }
}

/// Pool, country, area, type and carrier have numbers, so that a block holds one small one. Its
/// name is its id; shelves stay for ever.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ShelfRecord {
    #[prost(message, optional, tag = "1")]
    pub shelf: Option<Shelf>,
}

impl Row for ShelfRecord {
    const BYTE: u8 = b's';
}

/// A shelf in order of pool, country, type, area, carrier.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ShelfKey {
    pub pool: String,
    pub country: String,
    pub kind: i32,
    pub area: String,
    pub carrier: String,
}

impl From<&Shelf> for ShelfKey {
    fn from(shelf: &Shelf) -> Self {
        Self {
            pool: shelf.pool.clone(),
            country: shelf.country.clone(),
            kind: shelf.r#type,
            area: shelf.area.clone(),
            carrier: shelf.carrier.clone(),
        }
    }
}

impl ShelfKey {
    pub(crate) fn to_shelf(&self) -> Shelf {
        Shelf {
            pool: self.pool.clone(),
            country: self.country.clone(),
            area: self.area.clone(),
            r#type: self.kind,
            carrier: self.carrier.clone(),
        }
    }

    /// Whether it fits a filter, whose empty fields fit all.
    pub(crate) fn fits(&self, filter: &Shelf) -> bool {
        let fits = |has: &str, want: &str| want.is_empty() || has == want;
        fits(&self.pool, &filter.pool)
            && fits(&self.country, &filter.country)
            && (filter.r#type == 0 || self.kind == filter.r#type)
            && fits(&self.area, &filter.area)
            && fits(&self.carrier, &filter.carrier)
    }
}
