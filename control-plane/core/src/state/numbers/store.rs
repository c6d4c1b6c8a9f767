//! Finding and writing numbers and blocks: tables, indices and events together.

use std::collections::BTreeSet;
use std::ops::Bound;

use proto::control::{Expect, Number, NumberState, Resource, Shelf, resource, resource_key};
use proto::raft::{Reason, Rejected};

use super::key::{self, shown};
use super::record::{Block, BlockRecord, NumberRecord, ShelfKey, ShelfRecord, takes_calls};
use super::{BLOCKS_MAX, INVENTORY_MAX, SHELVES_MAX, TOUCHED_MAX};
use crate::state::reservations::ReservationRecord;
use crate::state::tables::Meta;
use crate::state::{Expiry, State, Step, Store, rejected};

/// A number of the inventory.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Found {
    pub number: u64,
    pub shelf: u32,
    /// Of an untouched one: as if it had been written.
    pub record: NumberRecord,
    pub touched: bool,
}

impl Found {
    pub(crate) fn state(&self) -> NumberState {
        self.record.state()
    }

    /// "+49•••56 is ACTIVE (generation 3)"
    pub(crate) fn says(&self) -> String {
        let name = self.state().as_str_name();
        let name = name.strip_prefix("NUMBER_STATE_").unwrap_or(name);
        format!("{} is {name} (generation {})", shown(self.number), self.record.generation)
    }

    /// Refuses all states but these.
    pub(crate) fn must_be(&self, states: &[NumberState], so: &str) -> Result<(), Rejected> {
        if states.contains(&self.state()) {
            return Ok(());
        }
        let names = states.iter().map(|s| s.as_str_name().replace("NUMBER_STATE_", ""));
        let names = names.collect::<Vec<_>>().join(" or ");
        let message = format!("{}: only {names} can be {so}", self.says());
        Err(rejected(Reason::IllegalTransition, message))
    }

    /// Refuses what is not what the caller believes.
    pub(crate) fn must_match(&self, expect: Option<&Expect>) -> Result<(), Rejected> {
        let Some(expect) = expect else { return Ok(()) };
        let generation = expect.generation;
        let same = (generation == 0 || generation == self.record.generation)
            && (expect.etag.is_empty() || expect.etag == self.record.etag());
        if same {
            return Ok(());
        }
        let message = format!("{}, not as expected: read it again", self.says());
        Err(rejected(Reason::Conflict, message))
    }
}

/// A number as the request names it.
pub(crate) fn parse(e164: &str) -> Result<u64, Rejected> {
    key::parse(e164).ok_or_else(|| {
        rejected(Reason::Invalid, "a number needs \"+\" and 1 to 15 digits, the first not 0")
    })
}

/// Several, none twice.
pub(crate) fn parse_all(e164: &[String]) -> Result<Vec<u64>, Rejected> {
    let mut seen = BTreeSet::new();
    let mut numbers = Vec::with_capacity(e164.len());
    for (at, text) in e164.iter().enumerate() {
        let number = parse(text)?;
        if !seen.insert(number) {
            let message = format!("number {} ({}) is twice in this request", at + 1, shown(number));
            return Err(rejected(Reason::Invalid, message));
        }
        numbers.push(number);
    }
    Ok(numbers)
}

impl<S: Store> State<S> {
    /// The block a number is in.
    pub(crate) fn block_of(&self, number: u64) -> Option<Block> {
        let name = key::bytes(number);
        let mut before = self.tables.range::<BlockRecord>(Bound::Unbounded, Bound::Included(&name));
        let (name, record) = before.next_back()?;
        Block::read(&name, record).filter(|block| block.last >= number)
    }

    /// Blocks that overlap a range, in order.
    pub(crate) fn blocks_in(&self, first: u64, last: u64) -> impl Iterator<Item = Block> + '_ {
        let (from, to) = (key::bytes(first), key::bytes(last));
        let within = self.tables.range::<BlockRecord>(Bound::Excluded(&from), Bound::Included(&to));
        let within = within.filter_map(|(name, record)| Block::read(&name, record));
        self.block_of(first).into_iter().chain(within)
    }

    /// Touched numbers in a range, in order.
    pub(crate) fn touched_in(
        &self,
        first: u64,
        last: u64,
    ) -> impl Iterator<Item = (u64, NumberRecord)> + '_ {
        let (from, to) = (key::bytes(first), key::bytes(last));
        let within =
            self.tables.range::<NumberRecord>(Bound::Included(&from), Bound::Included(&to));
        within.filter_map(|(name, record)| Some((key::from_bytes(&name)?, record)))
    }

    pub(crate) fn look_up(&self, number: u64) -> Option<Found> {
        let block = self.block_of(number)?;
        let record = self.tables.get::<NumberRecord>(key::bytes(number));
        Some(found(number, &block.record, record))
    }

    /// The number as it is now: what is due has ended first.
    pub(crate) fn current(
        &mut self,
        number: u64,
        now_ms: u64,
        step: &mut Step,
    ) -> Result<Found, Rejected> {
        if let Some(found) = self.look_up(number)
            && let Some((due_ms, expiry)) = self.due(&found)
            && due_ms <= now_ms
        {
            self.end(&expiry, now_ms, step);
        }
        self.look_up(number).ok_or_else(|| {
            let message =
                format!("{} is ABSENT: it is not in the inventory, import it first", shown(number));
            rejected(Reason::NotFound, message)
        })
    }

    /// When and with what the state of a number ends by itself.
    fn due(&self, found: &Found) -> Option<(u64, Expiry)> {
        let record = &found.record;
        match found.state() {
            NumberState::Reserved => {
                let seq = record.reservation;
                let reservation = self.tables.get::<ReservationRecord>(key::bytes(seq))?;
                Some((reservation.until_ms, Expiry::Reservation(seq)))
            }
            NumberState::PortingIn => {
                self.port_due(record.order).map(|due| (due, Expiry::Port(record.order)))
            }
            _ => super::index::expiry(found.number, record),
        }
    }

    /// The only place that writes a number with a record: table, indices and event together.
    /// Grows the generation when the owner changes, and the version always.
    pub(crate) fn write_number(
        &mut self,
        old: &Found,
        mut record: NumberRecord,
        step: &mut Step,
    ) -> NumberRecord {
        record.generation = old.record.generation;
        if record.owner() != old.record.owner() {
            record.generation = record.generation.saturating_add(1);
        }
        record.version = old.record.version.saturating_add(1);
        let (number, shelf) = (old.number, old.shelf);
        if old.touched {
            self.index.remove_number(number, shelf, &old.record);
        }
        self.index.add_number(number, shelf, &record);
        match (old.state(), record.state()) {
            (NumberState::Available, NumberState::Available) => {}
            (_, NumberState::Available) => self.index.set_free(number, shelf),
            (NumberState::Available, _) => self.index.unset_free(number, shelf),
            _ => {}
        }
        self.tables.put_at(key::bytes(number), &record);
        if takes_calls(record.state()) {
            let number = self.view(number, shelf, &record);
            step.put(Resource { kind: Some(resource::Kind::Number(number)) });
        } else if takes_calls(old.state()) {
            step.delete(resource_key::Kind::E164(key::text(number)));
        } else {
            step.unseen();
        }
        record
    }

    /// The same, and how it looks from outside.
    pub(crate) fn write_and_view(
        &mut self,
        old: &Found,
        record: NumberRecord,
        step: &mut Step,
    ) -> Number {
        let record = self.write_number(old, record, step);
        self.view(old.number, old.shelf, &record)
    }

    /// As clients see it.
    pub(crate) fn view(&self, number: u64, shelf: u32, record: &NumberRecord) -> Number {
        let shelf = self.index.numbers.shelf(shelf).map(ShelfKey::to_shelf).unwrap_or_default();
        let until_ms = match record.state() {
            NumberState::Reserved => {
                let reservation = key::bytes(record.reservation);
                let held = self.tables.get::<ReservationRecord>(reservation);
                held.map_or(record.until_ms, |held| held.until_ms)
            }
            NumberState::PortingIn => self.port_due(record.order).unwrap_or_default(),
            _ => record.until_ms,
        };
        let named = |prefix: &str, seq: u64| {
            if seq == 0 { String::new() } else { format!("{prefix}-{seq}") }
        };
        Number {
            e164: key::text(number),
            state: record.state,
            tenant: self.tenant_name(record.tenant),
            pool: shelf.pool,
            generation: record.generation,
            candidates: record.candidates.clone(),
            quarantine_until_ms: match record.state() {
                NumberState::Quarantine => record.until_ms,
                _ => 0,
            },
            country: shelf.country,
            area: shelf.area,
            r#type: shelf.r#type,
            carrier: shelf.carrier,
            tags: record.tags.clone(),
            until_ms,
            reason: record.reason.clone(),
            reservation_id: named("res", record.reservation),
            port_order_id: named("port", record.order),
            compliance: record.compliance.clone(),
            etag: record.etag(),
        }
    }

    /// The id of a shelf, a new one if need be.
    pub(crate) fn shelf_id(&mut self, shelf: &Shelf) -> Result<u32, Rejected> {
        if let Some(id) = self.index.numbers.shelves.get(&ShelfKey::from(shelf)) {
            return Ok(*id);
        }
        let count = self.index.numbers.shelves.len();
        if count >= SHELVES_MAX {
            let message = format!(
                "{SHELVES_MAX} combinations of pool, country, area, type and carrier exist"
            );
            return Err(rejected(Reason::Limit, message));
        }
        let id = u32::try_from(count).unwrap_or(u32::MAX).saturating_add(1);
        self.index.numbers.add_shelf(id, shelf);
        self.tables.put_at(id.to_be_bytes(), &ShelfRecord { shelf: Some(shelf.clone()) });
        Ok(id)
    }

    /// Whether there is room for so many more numbers, blocks and records.
    pub(crate) fn check_room(
        &self,
        numbers: u64,
        blocks: u64,
        touched: u64,
    ) -> Result<(), Rejected> {
        let index = &self.index.numbers;
        let full = |what: &str, most: u64| {
            Err(rejected(
                Reason::Limit,
                format!("the inventory would have more than {most} {what}"),
            ))
        };
        if index.inventory.saturating_add(numbers) > INVENTORY_MAX {
            return full("numbers", INVENTORY_MAX);
        }
        if index.blocks.saturating_add(blocks) > BLOCKS_MAX {
            return full("blocks", BLOCKS_MAX);
        }
        if index.touched.saturating_add(touched) > TOUCHED_MAX {
            return full("numbers in use", TOUCHED_MAX);
        }
        Ok(())
    }

    /// Enters a block where none is; all its numbers are AVAILABLE.
    pub(crate) fn put_block(&mut self, block: &Block) {
        self.index.numbers.blocks += 1;
        self.index.numbers.grow(block.record.shelf, block.record.count);
        let free = self.index.numbers.free.entry(block.record.shelf).or_default();
        free.insert(block.first, block.last);
        self.tables.put_at(key::bytes(block.first), &block.record);
    }

    /// Takes a range out of all blocks. None of it may be free or touched.
    pub(crate) fn carve(&mut self, first: u64, last: u64) {
        let blocks: Vec<Block> = self.blocks_in(first, last).collect();
        for block in blocks {
            let (from, to) = (first.max(block.first), last.min(block.last));
            self.tables.delete::<BlockRecord>(key::bytes(block.first));
            self.index.numbers.shrink(block.record.shelf, to - from + 1);
            self.index.numbers.blocks = self.index.numbers.blocks.saturating_sub(1);
            if block.first < from {
                let record = BlockRecord { count: from - block.first, ..block.record.clone() };
                self.tables.put_at(key::bytes(block.first), &record);
                self.index.numbers.blocks += 1;
            }
            if block.last > to {
                let record = BlockRecord { count: block.last - to, ..block.record };
                self.tables.put_at(key::bytes(to + 1), &record);
                self.index.numbers.blocks += 1;
            }
        }
    }

    /// Takes the record of a number away, and remembers its generation: the next one's is higher.
    pub(crate) fn forget_number(&mut self, found: &Found, step: &mut Step) {
        if found.state() == NumberState::Available {
            self.index.unset_free(found.number, found.shelf);
        }
        if found.touched {
            self.index.remove_number(found.number, found.shelf, &found.record);
            self.tables.delete::<NumberRecord>(key::bytes(found.number));
        }
        let gone = found.record.generation;
        if gone > self.tables.meta_u64(Meta::Generation) {
            self.tables.put_meta_u64(Meta::Generation, gone);
        }
        if takes_calls(found.state()) {
            step.delete(resource_key::Kind::E164(key::text(found.number)));
        } else {
            step.unseen();
        }
    }
}

pub(crate) fn found(number: u64, block: &BlockRecord, record: Option<NumberRecord>) -> Found {
    let touched = record.is_some();
    let record = record.unwrap_or_else(|| NumberRecord {
        state: NumberState::Available.into(),
        generation: block.generation,
        ..NumberRecord::default()
    });
    Found { number, shelf: block.shelf, record, touched }
}
