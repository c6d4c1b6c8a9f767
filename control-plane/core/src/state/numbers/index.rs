//! What is derived from blocks and number records, for speed.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use proto::control::{NumberState, Shelf};

use super::owners::Owners;
use super::ranges::Ranges;
use super::record::{NumberRecord, ShelfKey, in_use, owned};
use crate::state::{Expiry, Index};

/// Numbers by state, at the place of the state's tag. The place of ABSENT counts untouched ones.
pub(crate) type Counts = [u64; STATES];

/// As many as `NumberState` has values.
pub(crate) const STATES: usize = 12;

/// Of the inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct NumberIndex {
    /// By value, and by id.
    pub shelves: BTreeMap<ShelfKey, u32>,
    pub shelf_keys: BTreeMap<u32, ShelfKey>,
    /// By id.
    pub tenants: BTreeMap<u32, String>,
    /// Shelf → numbers that are AVAILABLE, touched or not.
    pub free: BTreeMap<u32, Ranges>,
    /// Shelf → how many are in which state.
    pub counts: BTreeMap<u32, Counts>,
    /// Numbers with an owner or a last one.
    pub owners: Owners,
    /// Tenant → numbers in use, numbers reserved.
    pub usage: BTreeMap<u32, Usage>,
    /// Compliance record → numbers that refer to it.
    pub compliance_uses: BTreeMap<String, u64>,
    pub blocks: u64,
    /// Numbers in blocks.
    pub inventory: u64,
    /// Numbers with a record.
    pub touched: u64,
}

/// What a tenant's quotas are about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub numbers: u64,
    pub reserved: u64,
}

/// (tenant, state, type, country) and number, in 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct OwnerKey(pub u64, pub u64);

impl OwnerKey {
    pub(crate) fn head(tenant: u32, state: NumberState, shelf: &ShelfKey) -> u64 {
        let kind = u64::from(u8::try_from(shelf.kind).unwrap_or(u8::MAX));
        (u64::from(tenant) << 32)
            | (state_place(state) as u64) << 24
            | kind << 16
            | u64::from(country_code(&shelf.country))
    }

    pub(crate) fn tenant(tenant: u32) -> RangeInclusive<Self> {
        let head = u64::from(tenant) << 32;
        Self(head, 0)..=Self(head | u64::from(u32::MAX), u64::MAX)
    }

    pub(crate) fn tenant_state(tenant: u32, state: NumberState) -> RangeInclusive<Self> {
        let head = (u64::from(tenant) << 32) | (state_place(state) as u64) << 24;
        Self(head, 0)..=Self(head | 0xff_ffff, u64::MAX)
    }
}

/// Two letters in two bytes; everything else together.
fn country_code(country: &str) -> u16 {
    match country.as_bytes() {
        [a, b] => u16::from_be_bytes([*a, *b]),
        _ => 0,
    }
}

pub(crate) fn state_place(state: NumberState) -> usize {
    usize::try_from(i32::from(state)).unwrap_or_default()
}

impl NumberIndex {
    pub(crate) fn shelf(&self, id: u32) -> Option<&ShelfKey> {
        self.shelf_keys.get(&id)
    }

    pub(crate) fn add_shelf(&mut self, id: u32, shelf: &Shelf) {
        let key = ShelfKey::from(shelf);
        self.shelves.insert(key.clone(), id);
        self.shelf_keys.insert(id, key);
    }

    /// `numbers` more of a shelf are in the inventory, untouched.
    pub(crate) fn grow(&mut self, shelf: u32, numbers: u64) {
        self.inventory += numbers;
        self.count(shelf, 0, |n| n + numbers);
    }

    /// `numbers` untouched ones of a shelf are not in the inventory any more.
    pub(crate) fn shrink(&mut self, shelf: u32, numbers: u64) {
        self.inventory = self.inventory.saturating_sub(numbers);
        self.count(shelf, 0, |n| n.saturating_sub(numbers));
    }

    pub(crate) fn count(&mut self, shelf: u32, place: usize, change: impl FnOnce(u64) -> u64) {
        let counts = self.counts.entry(shelf).or_default();
        if let Some(count) = counts.get_mut(place) {
            *count = change(*count);
        }
        if counts.iter().all(|count| *count == 0) {
            self.counts.remove(&shelf);
        }
    }
}

impl Index {
    /// A number of `shelf` has this record now.
    pub(crate) fn add_number(&mut self, number: u64, shelf: u32, record: &NumberRecord) {
        self.count_number(shelf, record);
        let owner = self.owner_key(number, shelf, record);
        owner.into_iter().for_each(|key| self.numbers.owners.insert(key));
        self.add_number_uses(record);
        self.expiries.extend(expiry(number, record));
    }

    pub(crate) fn count_number(&mut self, shelf: u32, record: &NumberRecord) {
        let index = &mut self.numbers;
        index.touched += 1;
        // Touched now, so not untouched any more.
        index.count(shelf, 0, |n| n.saturating_sub(1));
        index.count(shelf, state_place(record.state()), |n| n + 1);
    }

    pub(crate) fn owner_key(
        &self,
        number: u64,
        shelf: u32,
        record: &NumberRecord,
    ) -> Option<OwnerKey> {
        let shelf = self.numbers.shelf(shelf).filter(|_| record.tenant != 0)?;
        Some(OwnerKey(OwnerKey::head(record.tenant, record.state(), shelf), number))
    }

    /// What does not depend on the shelf and needs no set of its own.
    pub(crate) fn add_number_uses(&mut self, record: &NumberRecord) {
        let state = record.state();
        if owned(state) {
            let usage = self.numbers.usage.entry(record.tenant).or_default();
            if in_use(state) {
                usage.numbers += 1;
            } else {
                usage.reserved += 1;
            }
        }
        self.use_trunks(&record.candidates);
        for id in compliance_ids(record) {
            *self.numbers.compliance_uses.entry(id.clone()).or_default() += 1;
        }
    }

    /// A number of `shelf` does not have this record any more.
    pub(crate) fn remove_number(&mut self, number: u64, shelf: u32, record: &NumberRecord) {
        let state = record.state();
        if let Some(owner) = self.owner_key(number, shelf, record) {
            self.numbers.owners.remove(owner);
        }
        let index = &mut self.numbers;
        index.touched = index.touched.saturating_sub(1);
        index.count(shelf, 0, |n| n + 1);
        index.count(shelf, state_place(state), |n| n.saturating_sub(1));
        if owned(state)
            && let Some(usage) = index.usage.get_mut(&record.tenant)
        {
            let count = if in_use(state) { &mut usage.numbers } else { &mut usage.reserved };
            *count = count.saturating_sub(1);
            if *usage == Usage::default() {
                index.usage.remove(&record.tenant);
            }
        }
        for id in compliance_ids(record) {
            if let Some(uses) = index.compliance_uses.get_mut(id) {
                *uses = uses.saturating_sub(1);
                if *uses == 0 {
                    index.compliance_uses.remove(id);
                }
            }
        }
        self.unuse_trunks(&record.candidates);
        if let Some(due) = expiry(number, record) {
            self.expiries.remove(&due);
        }
    }

    pub(crate) fn set_free(&mut self, number: u64, shelf: u32) {
        self.numbers.free.entry(shelf).or_default().insert(number, number);
    }

    pub(crate) fn unset_free(&mut self, number: u64, shelf: u32) {
        if let Some(free) = self.numbers.free.get_mut(&shelf) {
            free.remove(number);
            if free.is_empty() {
                self.numbers.free.remove(&shelf);
            }
        }
    }
}

fn compliance_ids(record: &NumberRecord) -> impl Iterator<Item = &String> {
    let of = record.compliance.iter();
    let ids = of.flat_map(|c| [&c.bundle_id, &c.address_id, &c.emergency_address_id]);
    ids.filter(|id| !id.is_empty())
}

/// When its state ends by itself. Reservations and orders end as a whole, elsewhere.
pub(crate) fn expiry(number: u64, record: &NumberRecord) -> Option<(u64, Expiry)> {
    let ends = matches!(record.state(), NumberState::Quarantine | NumberState::Pending);
    ends.then_some((record.until_ms, Expiry::Number(number)))
}
